"""One HTTP/1.1 request from bytes, strict and bounded, and the head of its response to bytes (RFC 9112). Pure.

Only what a client of the operators' interface needs: a body has a Content-Length, and a connection carries one request.
What two parsers could read in two ways (bare line feeds, folded lines, a length given twice) is refused.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from urllib.parse import parse_qsl, unquote_to_bytes

MAX_LINE = 4096
"""Bytes of the request line at most."""
MAX_HEAD = 16384
"""Bytes of request line and header fields together at most."""
MAX_FIELDS = 64
"""Header fields at most."""
MAX_BODY = 1 << 20
"""Bytes of a body at most."""

CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"

_TOKEN = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,64}")
_TARGET = re.compile(rb"/[\x21-\x7e]*")
_VERSION = re.compile(rb"HTTP/1\.[01]")
_VALUE = re.compile(rb"[\x20-\x7e\x80-\xff\t]*")
_LENGTH = re.compile(r"[0-9]{1,15}")


class HttpError(Exception):
    """A request is not acceptable: an HTTP status and one sentence."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status


@dataclass(frozen=True, slots=True)
class Request:
    """A complete request. Names of header fields are in lower case; ``query`` has each key once."""

    method: str
    path: str
    query: dict[str, str] = field(default_factory=dict)
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""


@dataclass(frozen=True, slots=True)
class _Head:
    method: str
    path: str
    query: dict[str, str]
    headers: dict[str, str]
    length: int


class RequestReader:
    """Takes a connection's bytes until they are one request."""

    def __init__(self, max_body: int = MAX_BODY) -> None:
        """``max_body``: bytes of the body at most."""
        self._max_body = max_body
        self._data = bytearray()
        self._head: _Head | None = None
        self._asked = False

    def feed(self, data: bytes) -> Request | None:
        """Take bytes; returns the request once it is complete. HttpError ends the connection."""
        self._data += data
        if self._head is None:
            self._head = self._take_head()
        head = self._head
        if head is None or len(self._data) < head.length:
            return None
        return Request(head.method, head.path, head.query, head.headers, bytes(self._data[: head.length]))

    def take_interim(self) -> bytes:
        """Return what a client waits for before it sends the body (RFC 9110, section 10.1.1), once."""
        if self._head is None or self._asked or self._head.headers.get("expect", "").lower() != "100-continue":
            return b""
        self._asked = True
        return CONTINUE

    def _take_head(self) -> _Head | None:
        end = self._data.find(b"\r\n\r\n")
        first = self._data.find(b"\r\n")
        if (first if first >= 0 else len(self._data)) > MAX_LINE:
            raise HttpError(414, f"the request line is longer than {MAX_LINE} bytes.")
        if (end if end >= 0 else len(self._data)) > MAX_HEAD:
            raise HttpError(431, f"the header fields are longer than {MAX_HEAD} bytes.")
        if end < 0:
            return None
        lines = bytes(self._data[:end]).split(b"\r\n")
        del self._data[: end + 4]
        return _parse_head(lines, self._max_body)


def _parse_head(lines: list[bytes], max_body: int) -> _Head:
    parts = lines[0].split(b" ")
    if len(parts) != 3 or not _TOKEN.fullmatch(parts[0]) or not _TARGET.fullmatch(parts[1]):
        raise HttpError(400, "the request line is not HTTP's; expected METHOD /PATH HTTP/1.1.")
    if not _VERSION.fullmatch(parts[2]):
        raise HttpError(505, "only HTTP/1.1 is spoken here.")
    headers = _fields(lines[1:])
    if parts[2] == b"HTTP/1.1" and "host" not in headers:
        raise HttpError(400, "the header field 'Host' is missing.")
    path, _, query = parts[1].partition(b"?")
    return _Head(parts[0].decode("ascii"), _path(path), _query(query), headers, _length(headers, max_body))


def _fields(lines: list[bytes]) -> dict[str, str]:
    if len(lines) > MAX_FIELDS:
        raise HttpError(431, f"there are more than {MAX_FIELDS} header fields.")
    headers: dict[str, str] = {}
    for line in lines:
        name, colon, value = line.partition(b":")
        if not colon or not _TOKEN.fullmatch(name) or not _VALUE.fullmatch(value):
            raise HttpError(400, "a header field is malformed; expected NAME: VALUE.")
        key = name.decode("ascii").lower()
        if key in headers:
            # Fields that are lists may come in parts (RFC 9110, section 5.3); what matters here is no list.
            if key in {"content-length", "transfer-encoding", "host", "content-type", "if-match", "last-event-id"}:
                raise HttpError(400, f"the header field '{key}' is given twice.")
            continue
        headers[key] = value.strip(b" \t").decode("latin-1")
    return headers


def _length(headers: dict[str, str], max_body: int) -> int:
    if "transfer-encoding" in headers:
        if "content-length" in headers:
            raise HttpError(400, "Transfer-Encoding and Content-Length contradict each other.")
        raise HttpError(411, "a body needs the header field 'Content-Length' and no Transfer-Encoding.")
    text = headers.get("content-length", "0")
    if not _LENGTH.fullmatch(text):
        raise HttpError(400, "the header field 'Content-Length' is no number.")
    if int(text) > max_body:
        raise HttpError(413, f"the body is longer than {max_body} bytes.")
    return int(text)


def _path(raw: bytes) -> str:
    if b"%2f" in raw.lower():
        raise HttpError(400, "the path hides a '/'; no name here has one.")
    try:
        return unquote_to_bytes(raw).decode("utf-8")
    except UnicodeDecodeError:
        raise HttpError(400, "the path is not UTF-8.") from None


def _query(raw: bytes) -> dict[str, str]:
    try:
        pairs = parse_qsl(
            raw.decode("ascii"), keep_blank_values=True, strict_parsing=bool(raw), errors="strict", max_num_fields=16
        )
    except ValueError:
        raise HttpError(400, "the query is malformed; expected KEY=VALUE, joined by '&'.") from None
    query = dict(pairs)
    if len(query) != len(pairs):
        raise HttpError(400, "the query gives a key twice.")
    return query


def response_head(status: int, headers: Mapping[str, str], length: int | None) -> bytes:
    """Return status line and header fields; without ``length`` the body lasts until the connection ends."""
    fields = {**headers, "Connection": "close"}
    if length is not None:
        fields["Content-Length"] = str(length)
    lines = [f"HTTP/1.1 {status} {HTTPStatus(status).phrase}", *(f"{key}: {value}" for key, value in fields.items())]
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")
