"""The OpenAPI 3.1 description of the interface for operators, made from the routes and their models. Pure."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from http import HTTPStatus
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from controller.operators import resources as models
from controller.operators.routing import EVENT_STREAM, PARAMETERS, Route

VERSION = "1.0.0"
"""Version of the interface."""

_REF = "#/components/schemas/{model}"
_ALWAYS = (400, 403, 503)
_WITH_BODY = (411, 413, 415, 422)


def describe(routes: Sequence[Route]) -> dict[str, Any]:
    """Return the description of ``routes``."""
    inputs = {route.body for route in routes if route.body is not None}
    outputs = {route.answer for route in routes if route.answer is not None} | {models.Problem}
    wanted: list[tuple[type[BaseModel], Any]] = [(model, "validation") for model in sorted(inputs, key=_name)]
    wanted += [(model, "serialization") for model in sorted(outputs, key=_name)]
    places, definitions = models_json_schema(wanted, ref_template=_REF)
    paths: dict[str, dict[str, Any]] = {}
    for route in routes:
        operation = _operation(route, {key: schema["$ref"] for key, schema in places.items()})
        paths.setdefault(route.path, {})[route.method.lower()] = operation
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Network Virtualization Authority",
            "version": VERSION,
            "description": "For operators. Errors are {\"error\": \"one sentence\"}. No answer holds key material.",
        },
        "security": [{"operator": []}],
        "paths": paths,
        "components": {
            "schemas": definitions["$defs"],
            "securitySchemes": {
                "operator": {
                    "type": "mutualTLS",
                    "description": "TLS 1.3; the common name of the client's certificate must be an operator's.",
                }
            },
        },
    }


def _name(model: type[BaseModel]) -> str:
    return model.__name__


def _operation(route: Route, places: dict[Any, str]) -> dict[str, Any]:
    operation: dict[str, Any] = {
        "summary": route.summary,
        "operationId": _identifier(route),
        "parameters": _parameters(route),
        "responses": _responses(route, places),
    }
    if route.body is not None:
        schema = {"$ref": places[route.body, "validation"]}
        operation["requestBody"] = {"required": True, "content": {"application/json": {"schema": schema}}}
    return operation


def _identifier(route: Route) -> str:
    words = route.path.removeprefix("/v1/").replace("{", "by-").replace("}", "").replace(".", "-").split("/")
    return "-".join([route.method.lower(), *words])


def _parameters(route: Route) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = [
        {
            "name": name,
            "in": "path",
            "required": True,
            "description": PARAMETERS[name].text,
            "schema": PARAMETERS[name].type.json_schema(),
        }
        for name in route.parameters
    ]
    schema = copy.deepcopy(route.query.model_json_schema())
    for name, entry in schema.get("properties", {}).items():
        found.append({"name": name, "in": "query", "required": False, "schema": entry})
    if 412 in route.errors:
        text = "the version (ETag) the new policy was made from; refused with 412 when another one is in force"
        found.append(_header("If-Match", text))
    if route.answer is None and route.errors == (503,):
        found.append(_header("Last-Event-ID", "number of the last event seen; takes precedence over 'after'"))
    return found


def _header(name: str, text: str) -> dict[str, Any]:
    return {"name": name, "in": "header", "required": False, "description": text, "schema": {"type": "string"}}


def _responses(route: Route, places: dict[Any, str]) -> dict[str, Any]:
    success: dict[str, Any] = {"description": HTTPStatus(route.status).phrase}
    if route.answer is not None:
        success["content"] = {"application/json": {"schema": {"$ref": places[route.answer, "serialization"]}}}
    elif route.path.endswith("/stream"):
        success["content"] = {EVENT_STREAM: {"schema": {"type": "string"}}}
    else:
        success["content"] = {"application/json": {"schema": {"type": "object"}}}
    responses = {str(route.status): success}
    statuses = {*_ALWAYS, *route.errors, *(_WITH_BODY if route.body is not None else ())}
    schema = {"$ref": places[models.Problem, "serialization"]}
    for status in sorted(statuses):
        content = {"application/json": {"schema": schema}}
        responses[str(status)] = {"description": HTTPStatus(status).phrase, "content": content}
    return responses
