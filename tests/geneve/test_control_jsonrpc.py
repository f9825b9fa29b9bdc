"""The control channel's frames: what is built is read back, and hostile bytes give ParseError only."""

from __future__ import annotations

import contextlib
import json
import struct
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from geneve.control import jsonrpc
from geneve.control.jsonrpc import (
    ErrorResponse,
    FrameDecoder,
    Message,
    Notification,
    Request,
    Response,
    decode,
    encode,
)
from geneve.errors import ParseError

ids = st.integers(-(2**63), 2**63) | st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(allow_nan=False, allow_infinity=False) | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=8,
)
members = st.dictionaries(texts, values, max_size=4)
methods = st.text("abcdefgh", min_size=1, max_size=20)
messages: st.SearchStrategy[Message] = st.one_of(
    st.builds(Request, ids, methods, members),
    st.builds(Notification, methods, members),
    st.builds(Response, ids, members),
    st.builds(ErrorResponse, st.none() | ids, st.integers(-40000, 40000), texts),
)


def take_all(decoder: FrameDecoder) -> list[Message]:
    return list(iter(decoder.next_message, None))


@given(st.lists(messages, max_size=5), st.data())
def test_messages_survive_any_cut_of_the_stream(sent: list[Message], data: st.DataObject) -> None:
    stream = b"".join(encode(message) for message in sent)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=6)))
    decoder, received = FrameDecoder(), []
    for start, end in zip([0, *cuts], [*cuts, len(stream)], strict=True):
        decoder.feed(stream[start:end])
        received += take_all(decoder)
    assert received == sent


@given(st.binary(max_size=200))
def test_any_bytes_give_a_message_or_parse_error(data: bytes) -> None:
    decoder = FrameDecoder()
    try:
        decoder.feed(data)
        take_all(decoder)
    except ParseError:
        pass


@given(
    st.one_of(
        st.binary(max_size=300),
        values.map(lambda value: json.dumps(value).encode()),
        st.builds(
            lambda parts: json.dumps(parts).encode(),
            st.dictionaries(
                st.sampled_from(["jsonrpc", "id", "method", "params", "result", "error", "x"]),
                st.sampled_from(["2.0", 1, None, True, {}, [], {"code": 1, "message": "m"}, {"code": True}, "é"]),
            ),
        ),
    )
)
def test_any_document_gives_a_message_or_parse_error(text: bytes) -> None:
    with contextlib.suppress(ParseError):
        decode(text)


BAD = {
    "no JSON": b"{",
    "not UTF-8": b'{"jsonrpc":"2.0","method":"\xff"}',
    "a batch": b'[{"jsonrpc":"2.0","method":"a"}]',
    "another version": b'{"jsonrpc":"1.0","method":"a","id":1}',
    "unknown member": b'{"jsonrpc":"2.0","method":"a","id":1,"x":1}',
    "member twice": b'{"jsonrpc":"2.0","method":"a","method":"b","id":1}',
    "params by position": b'{"jsonrpc":"2.0","method":"a","id":1,"params":[1]}',
    "null id": b'{"jsonrpc":"2.0","method":"a","id":null}',
    "boolean id": b'{"jsonrpc":"2.0","method":"a","id":true}',
    "long method": b'{"jsonrpc":"2.0","method":"' + b"a" * 65 + b'","id":1}',
    "result and error": b'{"jsonrpc":"2.0","id":1,"result":{},"error":{"code":1,"message":"m"}}',
    "error without code": b'{"jsonrpc":"2.0","id":1,"error":{"message":"m"}}',
    "NaN": b'{"jsonrpc":"2.0","method":"a","params":{"x":NaN}}',
    "infinity in digits": b'{"jsonrpc":"2.0","method":"a","params":{"x":1e999}}',
    "huge number": b'{"jsonrpc":"2.0","method":"a","params":{"x":' + b"9" * 5000 + b"}}",
    "lone surrogate": b'{"jsonrpc":"2.0","method":"a","params":{"x":"\\ud800"}}',
    "deep": b'{"jsonrpc":"2.0","method":"a","params":{"x":' + b"[" * 40 + b"]" * 40 + b"}}",
    "very deep": b"[" * 500_000,
}


@pytest.mark.parametrize("text", BAD.values(), ids=BAD.keys())
def test_bad_documents_are_refused(text: bytes) -> None:
    with pytest.raises(ParseError):
        decode(text)


def test_brackets_in_texts_are_not_nesting() -> None:
    message = Request(1, "a", {"x": '["' * 100})
    assert decode(encode(message)[4:]) == message


@pytest.mark.parametrize("size", [0, jsonrpc.MAX_FRAME_SIZE + 1, 0xFFFFFFFF])
def test_a_bad_length_is_refused_before_its_bytes_come(size: int) -> None:
    decoder = FrameDecoder()
    decoder.feed(struct.pack("!I", size))
    with pytest.raises(ParseError):
        decoder.next_message()


def test_a_caller_that_does_not_drain_is_stopped() -> None:
    decoder = FrameDecoder()
    for _ in range(11):
        decoder.feed(bytes(100_000))
    with pytest.raises(ParseError):
        decoder.feed(b"")


def test_what_does_not_fit_is_not_sent() -> None:
    with pytest.raises(ValueError, match="does not fit"):
        encode(Request(1, "a", {"x": "y" * jsonrpc.MAX_FRAME_SIZE}))


def test_hostile_strings_cost_linear_time() -> None:
    hostile = b"[" * 40 + b'"' + b'\\"' * 400_000
    started = time.process_time()
    with pytest.raises(ParseError):
        decode(hostile)
    assert time.process_time() - started < 5  # a quadratic scan takes hours


def test_parameters_are_not_in_repr() -> None:
    hidden = {"secret": "hidden-value"}
    for message in (Request(1, "state", hidden), Notification("state", hidden), Response(1, hidden)):
        assert "hidden-value" not in repr(message)
