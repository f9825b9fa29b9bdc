"""JSON-RPC 2.0 in length-prefixed frames: 4 bytes, big-endian, then that many bytes of UTF-8 JSON.

Pure: bytes in, messages out. Whatever the bytes are, the decoder raises ParseError and nothing else,
holds at most one frame beyond the chunk it was fed, and never parses deeper than ``MAX_DEPTH``.
Batches (JSON-RPC 2.0, section 6) are refused: one object per frame.
"""

from __future__ import annotations

import itertools
import json
import math
import operator
import re
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NoReturn

from geneve.errors import ParseError

MAX_FRAME_SIZE = 1 << 20
"""Largest JSON text of one frame in bytes, in what a node sends."""

MAX_PUSH_SIZE = 1 << 25
"""Largest JSON text of one frame in bytes, in what the NVA sends: a snapshot of many tenants is large."""

MAX_DEPTH = 32
"""Deepest nesting of arrays and objects accepted."""

METHOD_NOT_FOUND = -32601
INVALID_PARAMS = -32602

_LENGTH = struct.Struct("!I")
_MAX_NUMBER_TEXT = 32
_MAX_METHOD = 64
_MAX_ERROR_TEXT = 1000
# A string, closed or running to the end of the text. It has one way to match, so that hostile text costs linear time.
_STRING = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*(?:"|\\?\Z)', re.DOTALL)
_COUNTED = bytes.maketrans(b"[{]}", b"\2\2\0\0")
_NO_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))
_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")

RequestId = int | str


@dataclass(frozen=True, slots=True)
class Request:
    """A call that wants an answer. The parameters can hold keys and are left out of ``repr``."""

    id: RequestId
    method: str
    params: Mapping[str, Any] = field(default_factory=dict, repr=False)


@dataclass(frozen=True, slots=True)
class Notification:
    """A call that wants no answer."""

    method: str
    params: Mapping[str, Any] = field(default_factory=dict, repr=False)


@dataclass(frozen=True, slots=True)
class Response:
    """The answer to a request that succeeded."""

    id: RequestId
    result: Mapping[str, Any] = field(default_factory=dict, repr=False)


@dataclass(frozen=True, slots=True)
class ErrorResponse:
    """The answer to a request that failed; ``id`` is None when the request's could not be read."""

    id: RequestId | None
    code: int
    message: str


Message = Request | Notification | Response | ErrorResponse


class Shared(dict[str, Any]):
    """A JSON object that is part of many messages and encoded once. It must not change any more."""

    __slots__ = ("_text",)

    def text(self) -> str:
        """Return the object as JSON."""
        try:
            return self._text
        except AttributeError:
            self._text: str = _dumps(self)
            return self._text


def _dumps(value: object) -> str:
    return json.dumps(value, separators=(",", ":"), allow_nan=False)


def _encode(value: object, depth: int) -> str:
    """Return a value as JSON; objects that are shared are looked for in ``depth`` levels of it."""
    if isinstance(value, Shared):
        return value.text()
    if depth == 0 or not isinstance(value, dict):
        return _dumps(value)
    return "{" + ",".join(f"{_dumps(key)}:{_encode(part, depth - 1)}" for key, part in value.items()) + "}"


def encode(message: Message, limit: int = MAX_FRAME_SIZE) -> bytes:
    """Return the frame of ``message``; ValueError when its text is longer than ``limit`` bytes.

    A :class:`Shared` object can be a parameter or a part of one.
    """
    document: dict[str, Any] = {"jsonrpc": "2.0"}
    if isinstance(message, (Request, Notification)):
        document["method"] = message.method
        document["params"] = dict(message.params)
    elif isinstance(message, Response):
        document["result"] = dict(message.result)
    else:
        document["error"] = {"code": message.code, "message": message.message[:_MAX_ERROR_TEXT]}
    if not isinstance(message, Notification):
        document["id"] = message.id
    text = (_encode(document, 3) if document.get("params") else _dumps(document)).encode("ascii")
    if len(text) > limit:
        raise ValueError(f"a message of {len(text)} bytes does not fit in a frame of {limit}")
    return _LENGTH.pack(len(text)) + text


def decode(text: bytes) -> Message:
    """Parse one frame's JSON text into a message; ParseError on anything that is not one."""
    document = _parse_json(text)
    if not isinstance(document, dict) or document.get("jsonrpc") != "2.0":
        raise ParseError("not a JSON-RPC 2.0 object")
    keys = set(document)
    if "method" in keys:
        return _decode_call(document, keys)
    if keys == {"jsonrpc", "id", "result"}:
        if not isinstance(document["result"], dict):
            raise ParseError("a JSON-RPC result must be an object here")
        return Response(_request_id(document["id"]), document["result"])
    if keys == {"jsonrpc", "id", "error"}:
        return _decode_error(document)
    raise ParseError("neither a JSON-RPC request nor a response")


def _decode_call(document: dict[str, Any], keys: set[str]) -> Request | Notification:
    if not keys <= {"jsonrpc", "id", "method", "params"}:
        raise ParseError("a JSON-RPC request with unknown members")
    method, params = document["method"], document.get("params", {})
    if not isinstance(method, str) or not 0 < len(method) <= _MAX_METHOD:
        raise ParseError("a JSON-RPC method must be a short text")
    if not isinstance(params, dict):
        raise ParseError("JSON-RPC parameters must be given by name here")
    if "id" not in keys:
        return Notification(method, params)
    return Request(_request_id(document["id"]), method, params)


def _decode_error(document: dict[str, Any]) -> ErrorResponse:
    error = document["error"]
    if not isinstance(error, dict) or not {"code", "message"} <= set(error):
        raise ParseError("a JSON-RPC error needs a code and a message")
    code, message = error["code"], error["message"]
    if isinstance(code, bool) or not isinstance(code, int) or not isinstance(message, str):
        raise ParseError("a JSON-RPC error's code is a number, its message a text")
    request_id = None if document["id"] is None else _request_id(document["id"])
    return ErrorResponse(request_id, code, message[:_MAX_ERROR_TEXT])


def _request_id(value: object) -> RequestId:
    if isinstance(value, bool) or not isinstance(value, (int, str)):
        raise ParseError("a JSON-RPC id must be a whole number or a text")
    if isinstance(value, str) and len(value) > _MAX_METHOD:
        raise ParseError("a JSON-RPC id is too long")
    return value


def _parse_json(text: bytes) -> object:
    _check_depth(text)
    try:
        document: object = json.loads(
            text.decode("utf-8"),
            parse_int=_whole_number,
            parse_float=_real_number,
            parse_constant=_refuse_constant,
            object_pairs_hook=_unique_object,
        )
        if _SURROGATE.search(text):
            json.dumps(document, ensure_ascii=False).encode("utf-8")  # a lone surrogate is no character
    except ParseError:
        raise
    except (ValueError, RecursionError):
        raise ParseError("not valid JSON in UTF-8") from None
    return document


def _check_depth(text: bytes) -> None:
    if text.count(b"[") + text.count(b"{") <= MAX_DEPTH:
        return
    # Without escapes each quotation mark begins or ends a string: every other part is outside of all.
    outside = b"".join(text.split(b'"')[::2]) if b"\\" not in text else _STRING.sub(b"", text)
    # An opening bracket counts 2, a closing one 0; less 1 for each, that is the depth.
    sums = itertools.accumulate(outside.translate(_COUNTED, _NO_BRACKETS))
    if max(map(operator.sub, sums, itertools.count(1)), default=0) > MAX_DEPTH:
        raise ParseError(f"JSON nested deeper than {MAX_DEPTH}")


def _whole_number(text: str) -> int:
    if len(text) > _MAX_NUMBER_TEXT:
        raise ParseError("a number with too many digits")
    return int(text)


def _real_number(text: str) -> float:
    value = float(text) if len(text) <= _MAX_NUMBER_TEXT else math.inf
    if not math.isfinite(value):
        raise ParseError("a number out of range")
    return value


def _refuse_constant(text: str) -> NoReturn:
    raise ParseError(f"{text} is not JSON")


def _unique_object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        raise ParseError("an object names a member twice")
    return result


class FrameDecoder:
    """Cuts a stream of bytes into messages. After a ParseError the stream is lost: close the connection.

    ``limit`` is the largest JSON text of one frame in bytes.
    """

    def __init__(self, limit: int = MAX_FRAME_SIZE) -> None:
        self._limit = limit
        self._buffer = bytearray()

    def feed(self, data: bytes) -> None:
        """Add received bytes. Call :meth:`next_message` until it returns None before the next ``feed``."""
        if len(self._buffer) > self._limit + _LENGTH.size:
            raise ParseError("frames were not taken out of the buffer")
        self._buffer += data

    def next_message(self) -> Message | None:
        """Return the next whole message, or None until more bytes come; ParseError ends the stream."""
        if len(self._buffer) < _LENGTH.size:
            return None
        (size,) = _LENGTH.unpack_from(self._buffer)
        if not 0 < size <= self._limit:
            raise ParseError(f"a frame of {size} bytes; expected 1 to {self._limit}")
        end = _LENGTH.size + size
        if len(self._buffer) < end:
            return None
        text = bytes(memoryview(self._buffer)[_LENGTH.size : end])
        del self._buffer[:end]
        return decode(text)
