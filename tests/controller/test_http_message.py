"""Requests from bytes: complete ones in any portions, and everything odd refused with the right status."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controller.operators.http_message import (
    MAX_BODY,
    MAX_HEAD,
    MAX_LINE,
    HttpError,
    Request,
    RequestReader,
    response_head,
)

HEAD = b"PUT /v1/policy?a=1&b=%20x HTTP/1.1\r\nHost: nva\r\nContent-Length: 5\r\nIf-Match: \"3\"\r\n\r\n"


def parse(data: bytes) -> Request | None:
    return RequestReader().feed(data)


def request(line: bytes = b"GET / HTTP/1.1", *fields: bytes, body: bytes = b"") -> bytes:
    return b"\r\n".join([line, b"Host: nva", *fields, b"", body])


def status(data: bytes) -> int:
    with pytest.raises(HttpError) as caught:
        parse(data)
    assert str(caught.value).endswith(".")
    return caught.value.status


@given(st.lists(st.integers(1, 20)))
def test_a_request_in_any_portions(sizes: list[int]) -> None:
    reader, data = RequestReader(), HEAD + b"hello"
    found = None
    for size in [*sizes, len(data)]:
        portion, data = data[:size], data[size:]
        if portion:
            assert found is None
            found = reader.feed(portion)
    headers = {"host": "nva", "content-length": "5", "if-match": '"3"'}
    assert found == Request("PUT", "/v1/policy", {"a": "1", "b": " x"}, headers, b"hello")


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"GET /\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\n\r\n", 400),
        (request(b"GET  / HTTP/1.1"), 400),
        (request(b"GET http://nva/ HTTP/1.1"), 400),
        (request(b"GET /\x00 HTTP/1.1"), 400),
        (request(b"G\x80T / HTTP/1.1"), 400),
        (request(b"GET /%ff HTTP/1.1"), 400),
        (request(b"GET /v1%2Fnodes HTTP/1.1"), 400),
        (request(b"GET /?a=1&a=2 HTTP/1.1"), 400),
        (request(b"GET /?a HTTP/1.1"), 400),
        (request(b"GET / HTTP/2.0"), 505),
        (request(b"GET / HTTP/1.1", b"no colon"), 400),
        (request(b"GET / HTTP/1.1", b"Folded: a", b" b"), 400),
        (request(b"GET / HTTP/1.1", b"Space : a"), 400),
        (request(b"GET / HTTP/1.1", b"Bare: a\nb: c"), 400),
        (request(b"GET / HTTP/1.1", b"Host: twice"), 400),
        (request(b"POST / HTTP/1.1", b"Content-Length: 1", b"Content-Length: 2"), 400),
        (request(b"POST / HTTP/1.1", b"Content-Length: +1"), 400),
        (request(b"POST / HTTP/1.1", b"Content-Length: -1"), 400),
        (request(b"POST / HTTP/1.1", b"Content-Length: 1, 1"), 400),
        (request(b"POST / HTTP/1.1", b"Transfer-Encoding: chunked"), 411),
        (request(b"POST / HTTP/1.1", b"Transfer-Encoding: chunked", b"Content-Length: 1"), 400),
        (request(b"POST / HTTP/1.1", b"Content-Length: %d" % (MAX_BODY + 1)), 413),
        (request(b"GET / HTTP/1.1", *(b"f%d: x" % number for number in range(80))), 431),
        (b"A" * (MAX_LINE + 1), 414),
        (b"GET / HTTP/1.1\r\n" + b"a: b\r\n" * (MAX_HEAD // 6), 431),
    ],
)
def test_what_is_refused(data: bytes, expected: int) -> None:
    assert status(data) == expected


@given(st.binary(max_size=200))
def test_any_bytes_are_a_request_or_a_fault_or_too_few(data: bytes) -> None:
    with contextlib.suppress(HttpError):
        assert RequestReader().feed(data) is None or data.count(b"\r\n") >= 2


def test_a_client_that_asks_first_is_told_to_go_on_once() -> None:
    reader = RequestReader()
    assert reader.take_interim() == b""
    assert reader.feed(request(b"PUT / HTTP/1.1", b"Content-Length: 1", b"Expect: 100-continue")) is None
    assert reader.take_interim() == b"HTTP/1.1 100 Continue\r\n\r\n"
    assert reader.take_interim() == b""
    found = reader.feed(b"x")
    assert found is not None
    assert found.body == b"x"


def test_the_head_of_a_response() -> None:
    head = response_head(405, {"Allow": "GET"}, 3)
    assert head == b"HTTP/1.1 405 Method Not Allowed\r\nAllow: GET\r\nConnection: close\r\nContent-Length: 3\r\n\r\n"
    assert b"Content-Length" not in response_head(200, {}, None)
