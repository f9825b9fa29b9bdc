"""The operators' interface as a function: who may ask, what is answered, and with which status."""

from __future__ import annotations

import json
from typing import Any

import pytest

from controller.operators.event_stream import HEARTBEAT
from controller.operators.http_message import Request
from controller.operators.northbound import Northbound, Response
from controller.operators.operations import Fault, Rekey, RemoveMapping, Restore, Revoke, SetMapping, SetPolicy
from controller.operators.routing import ROUTES
from geneve.control.state import Mapping
from tests.controller.operator_backend import ASSOCIATION, MAPPING, NODE, POLICY, FakeBackend

JSON = {"content-type": "application/json"}
EXAMPLES = {"name": "nve1", "spi": "4711", "vni": "100", "mac": "02:00:00:00:00:01"}


@pytest.fixture
def backend() -> FakeBackend:
    return FakeBackend()


class Client:
    def __init__(self, backend: FakeBackend) -> None:
        self.northbound = Northbound(backend, ["alice"])

    def send(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        name: str = "alice",
        headers: dict[str, str] | None = None,
        **query: str,
    ) -> Response:
        data = b"" if body is None else body if isinstance(body, bytes) else json.dumps(body).encode()
        given = {"content-length": str(len(data)), **(JSON if body is not None else {}), **(headers or {})}
        return self.northbound.answer(name, Request(method, path, query, given, data), 0.0)

    def get(self, path: str, **query: str) -> Any:
        response = self.send("GET", path, **query)
        assert response.status == 200
        return json.loads(response.body)


@pytest.fixture
def client(backend: FakeBackend) -> Client:
    return Client(backend)


def error(response: Response) -> str:
    document = json.loads(response.body)
    assert document.keys() == {"error"}
    assert document["error"].endswith(".")
    return str(document["error"])


def test_only_operators_are_answered_and_others_are_audited(client: Client, backend: FakeBackend) -> None:
    for method, path in (("GET", "/v1/nodes"), ("POST", "/v1/rekey"), ("GET", "/nothing"), ("GET", "/v1/openapi.json")):
        response = client.send(method, path, {}, name="nve1")
        assert response.status == 403
        assert "'nve1' is no operator" in error(response)
    assert [entry[:2] for entry in backend.audit] == [("refused", "nve1")] * 4
    assert backend.operations == []


def test_resources_are_json_and_kept_by_nobody(client: Client) -> None:
    for name in ("nodes", "tenants", "mappings", "policy", "associations", "topology", "flows", "events"):
        response = client.send("GET", f"/v1/{name}")
        assert (response.status, response.headers["Content-Type"]) == (200, "application/json")
        assert response.headers["Cache-Control"] == "no-store"
        assert client.send("HEAD", f"/v1/{name}").status == 200


def test_single_items(client: Client) -> None:
    assert client.get("/v1/nodes/nve1") == NODE
    assert client.get("/v1/associations/4711") == ASSOCIATION
    assert client.get("/v1/mappings/100/02:00:00:00:00:01") == MAPPING
    for path in ("/v1/nodes/nve9", "/v1/associations/4712", "/v1/mappings/101/02:00:00:00:00:01"):
        assert client.send("GET", path).status == 404
    for path in ("/v1/nodes/0x", "/v1/associations/0x12", "/v1/associations/7", "/v1/mappings/100/02-00"):
        response = client.send("GET", path)
        assert response.status == 400, path
        assert "in the path" in error(response)


def test_what_does_not_exist_is_404_for_every_method(client: Client) -> None:
    for path in ("/", "/v1/", "/v1", "/v1/nodes/", "/v1/secrets", "/nodes", "/v2/nodes", "/v1//nodes", "/v1/rekey/1"):
        for method in ("GET", "POST", "BREW"):
            assert client.send(method, path).status == 404, path


def test_other_methods_are_405_and_say_what_is_allowed(client: Client) -> None:
    for method in ("POST", "PUT", "PATCH", "DELETE", "OPTIONS"):
        response = client.send(method, "/v1/nodes")
        assert (response.status, response.headers["Allow"]) == (405, "GET, HEAD")
    assert client.send("POST", "/v1/policy").headers["Allow"] == "GET, HEAD, PUT"
    assert client.send("HEAD", "/v1/rekey").headers["Allow"] == "POST"


def test_operations_reach_the_backend_and_the_audit_log(client: Client, backend: FakeBackend) -> None:
    mac = "02:00:00:00:00:0A"
    assert client.send("POST", "/v1/rekey", {}).status == 202
    client.send("POST", "/v1/rekey", {"node": "nve1"})
    client.send("POST", "/v1/rekey", {"spi": 4711})
    client.send("POST", "/v1/nodes/nve1/revoke", {})
    client.send("POST", "/v1/nodes/nve1/restore", {})
    assert client.send("PUT", f"/v1/mappings/100/{mac}", {"nve": "nve1", "ips": ["10.0.0.9"], "tag": 7}).status == 200
    client.send("DELETE", f"/v1/mappings/100/{mac}")
    assert client.send("PUT", "/v1/policy", POLICY).status == 202
    client.send("PUT", "/v1/policy", POLICY, headers={"if-match": '"3"'})
    client.send("PUT", "/v1/policy", POLICY, headers={"if-match": "*"})
    assert backend.operations == [
        Rekey(), Rekey(node="nve1"), Rekey(spi=4711), Revoke("nve1"), Restore("nve1"),
        SetMapping(Mapping(vni=100, mac=mac.lower(), ips=("10.0.0.9",), nve="nve1", tag=7)),
        RemoveMapping(100, mac.lower()),
        SetPolicy(POLICY), SetPolicy(POLICY, 3), SetPolicy(POLICY),
    ]  # fmt: skip
    assert len(backend.audit) == len(backend.operations)
    assert backend.audit[3] == ("operator", "alice", "POST /v1/nodes/nve1/revoke")


@pytest.mark.parametrize(("fault", "status"), [(Fault.NOT_FOUND, 404), (Fault.INVALID, 422), (Fault.CONFLICT, 409)])
def test_refused_operations(client: Client, backend: FakeBackend, fault: Fault, status: int) -> None:
    backend.refuse(fault)
    response = client.send("POST", "/v1/rekey", {})
    assert (response.status, error(response)) == (status, "it cannot be done.")
    assert backend.audit == []


def test_a_policy_made_from_an_older_version_is_412_and_another_conflict_409(
    client: Client, backend: FakeBackend
) -> None:
    assert client.send("GET", "/v1/policy").headers["ETag"] == '"3"'
    backend.refuse(Fault.CONFLICT)
    assert client.send("PUT", "/v1/policy", POLICY, headers={"if-match": '"2"'}).status == 412
    assert client.send("PUT", "/v1/policy", POLICY, headers={"if-match": '"3"'}).status == 409
    assert client.send("PUT", "/v1/policy", POLICY).status == 409
    for text in ("3", 'W/"3"', '"x"', ""):
        assert client.send("PUT", "/v1/policy", POLICY, headers={"if-match": text}).status == 400


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"", 400),
        (b"{", 400),
        (b"\xff", 400),
        (b'{"node": "nve1", "node": "nve2"}', 400),
        (b'{"spi": NaN}', 400),
        (b'{"spi": ' + b"9" * 5000 + b"}", 400),
        (b"[" * 100_000, 400),
        (b'{"a":' * 100_000, 400),
        (b"[]", 422),
        (b"null", 422),
        (b'{"spi": "4711"}', 422),
        (b'{"spi": true}', 422),
        (b'{"spi": 1}', 422),
        (b'{"node": "../x"}', 422),
        (b'{"node": "\\ud800"}', 422),
        (b'{"node": "nve1", "spi": 4711}', 422),
        (b'{"key": "x"}', 422),
    ],
)
def test_bodies_that_are_refused(client: Client, backend: FakeBackend, body: bytes, status: int) -> None:
    response = client.send("POST", "/v1/rekey", body)
    assert response.status == status
    error(response)
    assert backend.operations == []


def test_a_body_must_say_that_it_is_json_and_how_long_it_is(client: Client, backend: FakeBackend) -> None:
    for kind in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data", ""):
        assert client.send("POST", "/v1/nodes/nve1/revoke", {}, headers={"content-type": kind}).status == 415
    json_with_charset = {"content-type": "Application/JSON; charset=utf-8"}
    assert client.send("POST", "/v1/nodes/nve1/revoke", {}, headers=json_with_charset).status == 200
    lengthless = Request("POST", "/v1/rekey", {}, dict(JSON), b"")
    assert client.northbound.answer("alice", lengthless, 0.0).status == 411
    assert client.send("GET", "/v1/nodes", {}).status == 400
    assert client.send("DELETE", "/v1/mappings/100/02:00:00:00:00:01", {}).status == 400


def test_a_fault_of_ours_is_500_without_its_text(client: Client, backend: FakeBackend) -> None:
    backend.broken = True
    response = client.send("GET", "/v1/nodes")
    assert response.status == 500
    assert "secret" not in error(response)


def test_events_by_number_and_the_newest_without(client: Client, backend: FakeBackend) -> None:
    backend.happen(5)
    numbers = lambda **query: [event["number"] for event in client.get("/v1/events", **query)["events"]]  # noqa: E731
    assert numbers() == [1, 2, 3, 4, 5]
    assert numbers(limit="2") == [4, 5]
    assert numbers(after="1", limit="2") == [2, 3]
    assert numbers(after="5") == []
    for query in ({"after": "-1"}, {"after": "x"}, {"limit": "0"}, {"limit": "1001"}, {"before": "1"}, {"after": ""}):
        response = client.send("GET", "/v1/events", **query)
        assert response.status == 400, query
        assert "query: key" in error(response)
    assert client.send("GET", "/v1/nodes", after="1").status == 400


def test_a_stream_begins_where_the_client_wants(client: Client, backend: FakeBackend) -> None:
    backend.happen(3)

    def first(headers: dict[str, str] | None = None, **query: str) -> bytes:
        response = client.send("GET", "/v1/events/stream", headers=headers, **query)
        assert response.stream is not None
        assert response.headers["Content-Type"] == "text/event-stream"
        return response.stream.poll(0.0)

    assert first() == b""
    assert first(after="2").startswith(b"id: 3\ndata: {")
    assert first({"last-event-id": "1"}, after="3").startswith(b"id: 2\n")
    assert first({"last-event-id": "3"}) == b""
    assert first({"last-event-id": "4"}).startswith(b"id: 1\n"), "the NVA has begun to count anew"
    assert client.send("GET", "/v1/events/stream", headers={"last-event-id": "x"}).status == 400
    assert client.send("HEAD", "/v1/events/stream").stream is None


def test_a_stream_tells_each_event_once_and_shows_life(client: Client, backend: FakeBackend) -> None:
    stream = client.send("GET", "/v1/events/stream").stream
    assert stream is not None
    assert stream.poll(1.0) == b""
    backend.happen(250)
    told = b"".join(stream.poll(2.0) for _ in range(4))
    lines = [line for line in told.decode().splitlines() if line.startswith("data: ")]
    assert [json.loads(line[6:])["number"] for line in lines] == list(range(1, 251))
    assert stream.poll(2.0 + HEARTBEAT - 0.1) == b""
    assert stream.poll(2.0 + HEARTBEAT) == b": alive\n\n"
    assert stream.poll(2.0 + HEARTBEAT) == b""


def concrete(path: str) -> str:
    for name, value in EXAMPLES.items():
        path = path.replace(f"{{{name}}}", value)
    return path


def test_every_route_that_is_described_answers_and_no_other_exists(client: Client) -> None:
    description = client.get("/v1/openapi.json")
    described = {
        (method.upper(), path) for path, operations in description["paths"].items() for method in operations
    }
    assert described == {(route.method, route.path) for route in ROUTES} | {("GET", "/v1/openapi.json")}
    bodies = {"/v1/policy": POLICY, "/v1/mappings/{vni}/{mac}": {"nve": "nve1"}}
    for method, path in described:
        body = bodies.get(path, {}) if method in {"POST", "PUT"} else None
        response = client.send(method, concrete(path), body)
        success = description["paths"][path][method.lower()]["responses"]
        assert str(response.status) in success
        assert response.status < 300, (method, path)
