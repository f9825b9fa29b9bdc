"""The interface for operators: a request and the name in its sender's certificate in, a response out. Pure."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, NoReturn

from pydantic import BaseModel, ValidationError

from controller.authority.policies import PolicyDocument
from controller.operators import openapi
from controller.operators.event_stream import EventStream
from controller.operators.http_message import HttpError, Request
from controller.operators.operations import Fault, OperationError
from controller.operators.routing import EVENT_STREAM, PARAMETERS, ROUTES, Answer, Backend, Call, Route
from geneve.config import validate
from geneve.errors import ConfigError

_STATUS = {Fault.NOT_FOUND: 404, Fault.INVALID: 422, Fault.CONFLICT: 409}
_HEADERS = {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"}
_JSON = "application/json"

log = logging.getLogger("controller")


@dataclass(frozen=True)
class Response:
    """A status, header fields and a body; with ``stream`` the body is what that has to say, without end."""

    status: int
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    stream: EventStream | None = None


class Northbound:
    """Answers operators. Knows no secret, since no view has any."""

    def __init__(self, backend: Backend, operators: Iterable[str]) -> None:
        """``operators`` are the names in the certificates of those who may ask."""
        self._backend, self._operators = backend, frozenset(operators)
        own = Route("GET", "/v1/openapi.json", "This description", self._describe, None)
        self._routes = (*ROUTES, own)
        self._description = openapi.describe(self._routes)

    def admits(self, name: str) -> bool:
        """Whether ``name`` is an operator's."""
        return name in self._operators

    def refuse(self, name: str, reason: str) -> None:
        """Note in the audit log that a connection was turned away; ``name`` is a certificate's, or an address."""
        self._backend.refused(name, f"REST: {reason}")

    def answer(self, name: str, request: Request, now: float) -> Response:
        """Answer a request of the holder of certificate ``name``."""
        if not self.admits(name):
            return self._forbid(name)
        try:
            return self._respond(name, request, now)
        except HttpError as fault:
            return self.fault(name, fault)
        except Exception:  # one bad request must not end the listener, and the fault must show
            log.exception("REST: %s %r failed", request.method, request.path)  # the path can have line feeds
            return problem(500, "the request failed inside the NVA; its log says why.")

    def fault(self, name: str, fault: HttpError) -> Response:
        """Answer what was no acceptable request."""
        return problem(fault.status, str(fault)) if self.admits(name) else self._forbid(name)

    def _forbid(self, name: str) -> Response:
        self.refuse(name, "the certificate is no operator's")
        return problem(403, f"'{name}' is no operator of this NVA; use an operator's certificate.")

    def _describe(self, call: Call) -> Answer:
        del call
        return Answer(self._description)

    def _respond(self, name: str, request: Request, now: float) -> Response:
        found = self._find("GET" if request.method == "HEAD" else request.method, request.path)
        if isinstance(found, Response):
            return found
        route, values = found
        call = Call(self._backend, values, _query(route, request), _body(route, request), request.headers)
        try:
            answer = route.handler(call)
        except OperationError as error:
            return problem(_STATUS[error.fault], str(error))
        if route.changes:
            self._backend.operated(name, f"{request.method} {request.path}")
        return self._encode(route, answer, request.method, now)

    def _find(self, method: str, path: str) -> tuple[Route, dict[str, Any]] | Response:
        """Return the route and the values in the path, or why there is none."""
        allowed: list[str] = []
        for route in self._routes:
            texts = route.match(path)
            if texts is None:
                continue
            if route.method == method:
                return route, {key: _value(key, text) for key, text in texts.items()}
            allowed.append(route.method)
        if not allowed:
            return problem(404, "there is no such resource.")
        if "GET" in allowed:
            allowed.insert(allowed.index("GET") + 1, "HEAD")
        methods = ", ".join(allowed)
        return problem(405, f"this resource knows only {methods}.", {"Allow": methods})

    def _encode(self, route: Route, answer: Answer, method: str, now: float) -> Response:
        if answer.stream_after is None:
            return _json(route.status, answer.document, answer.headers)
        headers = {**_HEADERS, "Content-Type": EVENT_STREAM}
        if method == "HEAD":
            return Response(route.status, headers)
        return Response(
            route.status, headers, stream=EventStream(self._backend.events_after, answer.stream_after, now)
        )


def problem(status: int, text: str, headers: Mapping[str, str] | None = None) -> Response:
    """Return the response to a request that was refused."""
    return _json(status, {"error": text}, headers or {})


def _json(status: int, document: Any, headers: Mapping[str, str]) -> Response:
    body = json.dumps(document).encode("ascii")
    return Response(status, {**_HEADERS, "Content-Type": _JSON, **headers}, body)


def _value(key: str, text: str) -> Any:
    try:
        return PARAMETERS[key].read(text)
    except ValueError as error:
        raise HttpError(400, f"'{key}' in the path: {error}.") from None


def _query(route: Route, request: Request) -> BaseModel:
    try:
        return route.query.model_validate_strings(request.query)
    except ValidationError as error:
        fault = error.errors(include_url=False)[0]
        key = ".".join(str(part) for part in fault["loc"])
        raise HttpError(400, f"query: key '{key}': {fault['msg'][:1].lower()}{fault['msg'][1:]}.") from None


def _body(route: Route, request: Request) -> Any:
    """Return the body as the route's model, or as a plain object where the backend checks it; None without a body."""
    if route.body is None:
        if request.body:
            raise HttpError(400, f"{request.method} of this resource takes no body.")
        return None
    if "content-length" not in request.headers:
        raise HttpError(411, "the header field 'Content-Length' is missing.")
    # A page in a browser that holds an operator's certificate can send forms, but not this type, to other sites.
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != _JSON:
        raise HttpError(415, f"the body must be JSON, with 'Content-Type: {_JSON}'.")
    document = _parse(request.body)
    if route.body is PolicyDocument:
        return document
    try:
        return validate(document, "body", route.body)
    except ConfigError as error:
        raise HttpError(422, str(error)) from None


def _parse(body: bytes) -> dict[str, Any]:
    try:
        document = json.loads(body.decode("utf-8"), object_pairs_hook=_unique, parse_constant=_no_constant)
    except HttpError:
        raise
    except (ValueError, RecursionError) as error:
        where = f" (line {error.lineno}, column {error.colno})" if isinstance(error, json.JSONDecodeError) else ""
        raise HttpError(400, f"the body is not JSON{where}.") from None
    if not isinstance(document, dict):
        raise HttpError(422, "the body must be a JSON object.")
    return document


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    document = dict(pairs)
    if len(document) != len(pairs):
        raise HttpError(400, "the body gives a key twice.")
    return document


def _no_constant(text: str) -> NoReturn:
    raise HttpError(400, f"the body is not JSON ({text} is no number).")
