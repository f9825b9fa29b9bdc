"""The description of the interface: sound by itself, and its models fit what a real controller says."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest
from pydantic import BaseModel

from controller.authority.nva import Opened, Received
from controller.core import Core
from controller.inventory import Inventory
from controller.operators import resources as models
from controller.operators.northbound import Northbound
from controller.operators.operations import Revoke, SetPolicy
from controller.operators.routing import ROUTES
from geneve.config import validate
from geneve.control import jsonrpc
from tests.controller.inventories import build
from tests.controller.operator_backend import FakeBackend

METHODS = {"get", "put", "post", "delete"}


@pytest.fixture(scope="module")
def description() -> dict[str, Any]:
    return Northbound(FakeBackend(), [])._description


def walk(value: Any) -> Iterator[dict[str, Any]]:
    if isinstance(value, dict):
        yield value
        for item in value.values():
            yield from walk(item)
    elif isinstance(value, list):
        for item in value:
            yield from walk(item)


def test_it_has_the_form_of_openapi_3_1(description: dict[str, Any]) -> None:
    assert description["openapi"] == "3.1.0"
    assert description["info"].keys() >= {"title", "version"}
    assert json.loads(json.dumps(description)) == description
    identifiers = []
    for path, operations in description["paths"].items():
        assert path.startswith("/v1/")
        assert operations.keys() <= METHODS
        for operation in operations.values():
            identifiers.append(operation["operationId"])
            assert operation["summary"]
            places = {(item["name"], item["in"]) for item in operation["parameters"]}
            assert len(places) == len(operation["parameters"])
            assert {name for name, place in places if place == "path"} == set(re.findall(r"{(\w+)}", path))
            assert all(item["required"] for item in operation["parameters"] if item["in"] == "path")
            assert all(re.fullmatch("[1-5][0-9][0-9]", status) for status in operation["responses"])
            assert all(answer["description"] for answer in operation["responses"].values())
    assert len(set(identifiers)) == len(identifiers)


def test_every_reference_leads_somewhere_and_every_model_is_used(description: dict[str, Any]) -> None:
    wanted = {part["$ref"] for part in walk(description) if isinstance(part.get("$ref"), str)}
    schemas = description["components"]["schemas"]
    assert wanted == {f"#/components/schemas/{name}" for name in schemas}
    assert all(re.fullmatch(r"[A-Za-z0-9._-]+", name) for name in schemas)


def test_it_demands_a_certificate(description: dict[str, Any]) -> None:
    ((name, scopes),) = description["security"][0].items()
    assert scopes == []
    assert description["components"]["securitySchemes"][name]["type"] == "mutualTLS"


def test_it_describes_no_key_material(description: dict[str, Any]) -> None:
    properties = {name for part in walk(description["components"]) for name in part.get("properties", {})}
    assert not properties & {"secret", "key", "keys", "signing_key", "private_key"}


def run_controller(inventory: Inventory) -> Core:
    """A controller to which something has happened, so that its views are not empty."""
    core = Core(inventory)
    for number, name in enumerate(("nve1", "nve2", "t1"), start=1):
        core.nva.handle(Opened(number, name), 0.0)
        core.nva.handle(Received(number, jsonrpc.Request(1, "register", {"instance": "abcd", "protocol": 2})), 0.0)
    core.operate(Revoke("nve3"), 1.0)
    document = core.nva.book.document.model_dump(mode="json")
    core.operate(SetPolicy(document), 1.0)
    return core


VIEWS = [route for route in ROUTES if route.method == "GET" and route.answer is not None and "{" not in route.path]


@pytest.mark.parametrize("route", VIEWS, ids=lambda route: str(route.path))
def test_a_controller_s_views_fit_their_models(route: Any) -> None:
    core = run_controller(build())
    name = route.path.removeprefix("/v1/")
    view = core.view(name, 2.0)
    assert view is not None
    model: type[BaseModel] = route.answer
    parsed = validate(view, name, model)
    assert parsed.model_dump(mode="json", by_alias=True).keys() == view.keys()


def test_answers_to_operations_fit_their_models() -> None:
    core = run_controller(build())
    northbound = Northbound(_CoreBackend(core), ["alice"])
    from tests.controller.test_northbound import Client

    client = Client.__new__(Client)
    client.northbound = northbound
    mapping = {"nve": "nve1", "ips": ["10.0.0.99"]}
    for method, path, body, status, model in (
        ("POST", "/v1/rekey", {}, 202, models.Replaced),
        ("POST", "/v1/nodes/nve2/revoke", {}, 200, models.Revoked),
        ("POST", "/v1/nodes/nve2/restore", {}, 200, models.Revoked),
        ("PUT", "/v1/mappings/100/02:00:00:00:00:99", mapping, 200, models.MappingAnswer),
        ("GET", "/v1/mappings/100/02:00:00:00:00:99", None, 200, models.MappingEntry),
        ("DELETE", "/v1/mappings/100/02:00:00:00:00:99", None, 200, models.Removed),
        ("GET", "/v1/nodes/nve1", None, 200, models.Node),
    ):
        response = client.send(method, path, body)
        assert response.status == status, response.body
        validate(json.loads(response.body), path, model)


class _CoreBackend(FakeBackend):
    """Operations and views of a real core."""

    def __init__(self, core: Core) -> None:
        super().__init__()
        self._core = core

    def operate(self, operation: Any) -> dict[str, Any]:
        return self._core.operate(operation, 2.0)[0]

    def view(self, name: str) -> dict[str, Any] | None:
        return self._core.view(name, 2.0)
