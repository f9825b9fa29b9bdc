"""The read-only REST view as a WSGI application (PEP 3333): GET /v1/<resource>, answered in JSON."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIEnvironment

PREFIX = "/v1/"
_METHODS = ("GET", "HEAD")

View = Callable[[str], dict[str, Any] | None]
"""Returns a resource by its name, or None."""


class Northbound:
    """Answers from ``view``; knows no secrets, since no view holds any."""

    def __init__(self, view: View) -> None:
        self._view = view

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        """Answer one request: 200, 404 for what does not exist, 405 for what would change something."""
        method, path = environ.get("REQUEST_METHOD", ""), environ.get("PATH_INFO", "")
        document = self._view(path.removeprefix(PREFIX)) if path.startswith(PREFIX) else None
        headers = []
        if document is None:
            status, document = "404 Not Found", {"error": "there is no such resource"}
        elif method not in _METHODS:
            status, document = "405 Method Not Allowed", {"error": "this view is read-only"}
            headers = [("Allow", ", ".join(_METHODS))]
        else:
            status = "200 OK"
        body = json.dumps(document).encode("utf-8")
        headers += [
            ("Content-Type", "application/json"),
            ("Content-Length", str(len(body))),
            ("Cache-Control", "no-store"),
        ]
        start_response(status, headers)
        return [] if method == "HEAD" else [body]
