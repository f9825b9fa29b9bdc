"""The REST view: right status codes, JSON, read-only."""

from __future__ import annotations

import json
from typing import Any

from controller.northbound import Northbound


def call(method: str, path: str) -> tuple[str, dict[str, str], bytes]:
    answers: list[tuple[str, list[tuple[str, str]]]] = []

    def start(status: str, headers: list[tuple[str, str]], exc_info: Any = None) -> Any:
        answers.append((status, headers))

    application = Northbound(lambda name: {"name": name} if name == "nodes" else None)
    body = b"".join(application({"REQUEST_METHOD": method, "PATH_INFO": path}, start))
    return answers[0][0], dict(answers[0][1]), body


def test_a_resource_is_json() -> None:
    status, headers, body = call("GET", "/v1/nodes")
    assert status.startswith("200")
    assert headers["Content-Type"] == "application/json"
    assert int(headers["Content-Length"]) == len(body)
    assert json.loads(body) == {"name": "nodes"}


def test_head_has_no_body() -> None:
    status, headers, body = call("HEAD", "/v1/nodes")
    assert (status[:3], body) == ("200", b"")
    assert int(headers["Content-Length"]) > 0


def test_what_does_not_exist_is_404_for_every_method() -> None:
    for path in ("/", "", "/v1/", "/v1/nodes/", "/v1/secrets", "/nodes", "/v2/nodes", "/v1//nodes"):
        for method in ("GET", "POST"):
            assert call(method, path)[0].startswith("404")


def test_what_would_change_something_is_405_and_says_what_is_allowed() -> None:
    for method in ("POST", "PUT", "PATCH", "DELETE", "OPTIONS", ""):
        status, headers, _ = call(method, "/v1/nodes")
        assert status.startswith("405")
        assert headers["Allow"] == "GET, HEAD"
