"""A client of the NVA's interface for operators: JSON and events over HTTPS, with certificates on both sides.

Used by the operators' command line and by the testbed; the interface is described in docs/northbound.md.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import ssl
import urllib.parse
from collections.abc import Iterator, Mapping
from typing import Any

from geneve.control.tls import TlsFiles, client_context
from geneve.errors import ConfigError

REQUEST_TIMEOUT = 10.0
"""Seconds in which the NVA must answer."""
STREAM_TIMEOUT = 20.0
"""Seconds without a byte after which a stream of events counts as dead; the NVA shows life more often."""

_MAX_LINE = 1 << 20


class RestError(OSError):
    """A request failed; the text is one sentence. ``status`` is the HTTP status, None when there was no answer."""

    def __init__(self, text: str, status: int | None = None) -> None:
        super().__init__(text)
        self.status = status


class RestClient:
    """Sends requests to one NVA, each over a connection of its own."""

    def __init__(self, url: str, files: TlsFiles, timeout: float = REQUEST_TIMEOUT) -> None:
        """``url`` is such as ``https://10.255.0.2:8080``; ConfigError when it or a file cannot be used."""
        self.url = url
        self._host, self._port = _place(url)
        self._context = client_context(files)
        self._timeout = timeout

    def request(
        self, method: str, path: str, body: Mapping[str, Any] | None = None, headers: Mapping[str, str] | None = None
    ) -> dict[str, Any]:
        """Return the NVA's answer to one request; RestError when it is not a success."""
        data = None if body is None else json.dumps(body).encode("utf-8")
        given = {"Accept": "application/json", **(headers or {})}
        if data is not None:
            given["Content-Type"] = "application/json"
        with self._connection(self._timeout) as connection, _failures(self.url):
            connection.request(method, path, body=data, headers=given)
            answer = connection.getresponse()
            return _document(answer.status, answer.read())

    def events(self, after: int | None = None) -> Iterator[dict[str, Any]]:
        """Yield events as they happen, those after number ``after`` first; RestError when the stream ends."""
        headers = {"Accept": "text/event-stream"}
        if after is not None:
            headers["Last-Event-ID"] = str(after)
        with self._connection(STREAM_TIMEOUT) as connection, _failures(self.url):
            connection.request("GET", "/v1/events/stream", headers=headers)
            answer = connection.getresponse()
            if answer.status != http.client.OK:
                _document(answer.status, answer.read())
            while line := answer.readline(_MAX_LINE):
                field, _, value = line.decode("utf-8").partition(":")
                if field == "data":
                    yield json.loads(value)
        raise RestError(f"{self.url}: the NVA ended the stream of events.")

    @contextlib.contextmanager
    def _connection(self, timeout: float) -> Iterator[http.client.HTTPSConnection]:
        connection = http.client.HTTPSConnection(self._host, self._port, timeout=timeout, context=self._context)
        try:
            yield connection
        finally:
            connection.close()


def _place(url: str) -> tuple[str, int]:
    try:
        parts = urllib.parse.urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:
        host, port, parts = None, None, urllib.parse.urlsplit("")
    if parts.scheme != "https" or not host or parts.path not in {"", "/"} or parts.query or parts.username:
        raise ConfigError(f"'{url}' is no address of an NVA; expected one such as https://10.255.0.2:8080.")
    return host, port or http.client.HTTPS_PORT


@contextlib.contextmanager
def _failures(url: str) -> Iterator[None]:
    """Turn what can go wrong on the way into RestError."""
    try:
        yield
    except RestError:
        raise
    except ssl.SSLCertVerificationError as error:
        raise RestError(f"{url}: the server's certificate is not the NVA's ({error.verify_message}).") from None
    except ssl.SSLError as error:
        reason = str(error.reason or "TLS failed").lower().replace("_", " ")
        raise RestError(f"{url}: no connection, perhaps since our certificate was refused ({reason}).") from None
    except TimeoutError:
        raise RestError(f"{url}: the NVA does not answer.") from None
    except http.client.HTTPException as error:
        raise RestError(f"{url}: the answer is not HTTP's ({type(error).__name__}).") from None
    except OSError as error:
        raise RestError(f"{url}: no connection to the NVA ({error.strerror or error}).") from None
    except ValueError:
        raise RestError(f"{url}: the answer is not JSON.") from None


def _document(status: int, body: bytes) -> dict[str, Any]:
    document = json.loads(body)
    if not isinstance(document, dict):
        raise ValueError("not an object")
    if not http.client.OK <= status < http.client.MULTIPLE_CHOICES:
        raise RestError(str(document.get("error", f"the NVA answered with status {status}.")), status)
    return document
