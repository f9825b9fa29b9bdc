"""What operators can ask for, as a table: method, path, models of what goes in and out, and who answers. Pure."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from pydantic import BaseModel, TypeAdapter, ValidationError

from controller.authority.policies import PolicyDocument
from controller.operators import resources as models
from controller.operators.http_message import HttpError
from controller.operators.operations import (
    Fault,
    Operation,
    OperationError,
    Rekey,
    RemoveMapping,
    Restore,
    Revoke,
    SetMapping,
    SetPolicy,
)
from geneve.control import state
from geneve.control.names import MacAddress, Name, Spi, Vni


class Backend(Protocol):
    """What stands behind the interface: the shell, or a test's stand-in."""

    def operate(self, operation: Operation) -> dict[str, Any]:
        """Carry out an operation; OperationError says why nothing is done."""

    def view(self, name: str) -> dict[str, Any] | None:
        """Return a resource, None when there is none of that name."""

    def events_after(self, number: int, limit: int) -> list[dict[str, Any]]:
        """Return up to ``limit`` events that follow ``number``, oldest first."""

    def refused(self, name: str, reason: str) -> None:
        """Note in the audit log that somebody was turned away."""

    def operated(self, name: str, text: str) -> None:
        """Note in the audit log what an operator did."""


@dataclass(frozen=True, slots=True)
class Call:
    """A request that fits its route; ``values`` are those in the path."""

    backend: Backend
    values: Mapping[str, Any]
    query: BaseModel
    body: Any
    headers: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Answer:
    """What a handler returns. With ``stream_after`` the answer is the events that follow that number."""

    document: dict[str, Any] | None
    headers: dict[str, str] = field(default_factory=dict)
    stream_after: int | None = None


@dataclass(frozen=True)
class Parameter:
    """A part of a path: its type and what it is."""

    type: TypeAdapter[Any]
    text: str
    number: bool = False

    def read(self, text: str) -> Any:
        """Return the value; ValueError is the end of a sentence about the key."""
        if self.number and not re.fullmatch(r"[0-9]{1,10}", text):
            raise ValueError("expected a number")
        try:
            return self.type.validate_python(int(text) if self.number else text)
        except ValidationError as error:
            message = error.errors(include_url=False)[0]["msg"].removeprefix("Value error, ")
            raise ValueError(message[:1].lower() + message[1:]) from None


PARAMETERS = {
    "name": Parameter(TypeAdapter(Name), "name of a node"),
    "spi": Parameter(TypeAdapter(Spi), "SPI of an association", number=True),
    "vni": Parameter(TypeAdapter(Vni), "number of a virtual network", number=True),
    "mac": Parameter(TypeAdapter(MacAddress), "MAC address of a tenant system"),
}
"""Every part of a path that varies."""

EVENT_STREAM = "text/event-stream"


@dataclass(frozen=True)
class Route:
    """One method of one path. ``errors`` are the statuses besides those that every request can get."""

    method: str
    path: str
    summary: str
    handler: Callable[[Call], Answer]
    answer: type[BaseModel] | None
    status: int = 200
    query: type[BaseModel] = models.NoQuery
    body: type[BaseModel] | None = None
    errors: tuple[int, ...] = ()

    @property
    def changes(self) -> bool:
        """Whether it does more than tell."""
        return self.method != "GET"

    @property
    def parameters(self) -> list[str]:
        """The parts of the path that vary, in their order."""
        return re.findall(r"{([a-z]+)}", self.path)

    def match(self, path: str) -> dict[str, str] | None:
        """Return the texts in the path's varying parts, None when the path is another one."""
        own, given = self.path.split("/"), path.split("/")
        if len(own) != len(given):
            return None
        texts = {}
        for expected, found in zip(own, given, strict=True):
            if expected.startswith("{") and found:
                texts[expected[1:-1]] = found
            elif expected != found:
                return None
        return texts


def _view(name: str) -> Callable[[Call], Answer]:
    return lambda call: Answer(_read(call, name))


def _read(call: Call, name: str) -> dict[str, Any]:
    document = call.backend.view(name)
    if document is None:
        raise OperationError(Fault.NOT_FOUND, "there is no such resource.")
    return document


def _item(call: Call, name: str, wanted: dict[str, Any], missing: str) -> Answer:
    for entry in _read(call, name)[name]:
        if all(entry[key] == value for key, value in wanted.items()):
            return Answer(entry)
    raise OperationError(Fault.NOT_FOUND, missing)


def _node(call: Call) -> Answer:
    name = call.values["name"]
    return _item(call, "nodes", {"name": name}, f"no node is named '{name}'.")


def _association(call: Call) -> Answer:
    spi = call.values["spi"]
    return _item(call, "associations", {"spi": spi}, f"no association has the SPI {spi}.")


def _mapping(call: Call) -> Answer:
    vni, mac = call.values["vni"], call.values["mac"]
    return _item(call, "mappings", {"vni": vni, "mac": mac}, f"{mac} is not mapped in VNI {vni}.")


def _policy(call: Call) -> Answer:
    document = _read(call, "policy")
    return Answer(document, {"ETag": f'"{document["version"]}"'})


def _set_policy(call: Call) -> Answer:
    expected = _expected_version(call.headers.get("if-match"))
    try:
        return Answer(call.backend.operate(SetPolicy(call.body, expected)))
    except OperationError as error:
        if error.fault is Fault.CONFLICT and expected not in (None, _read(call, "policy")["version"]):
            raise HttpError(412, str(error)) from None  # RFC 9110, section 13.1.1
        raise


def _expected_version(text: str | None) -> int | None:
    if text in (None, "*"):
        return None
    if not re.fullmatch(r'"[0-9]{1,10}"', text):
        raise HttpError(400, "the header field 'If-Match' must be a version in quotation marks, or *.")
    return int(text.strip('"'))


def _events(call: Call) -> Answer:
    query = call.query
    assert isinstance(query, models.EventsQuery)
    if query.after is None:
        return Answer({"events": _read(call, "events")["events"][-query.limit :]})
    return Answer({"events": call.backend.events_after(query.after, query.limit)})


def _stream(call: Call) -> Answer:
    query = call.query
    assert isinstance(query, models.StreamQuery)
    seen = call.headers.get("last-event-id")
    if seen is not None and not re.fullmatch(r"[0-9]{1,15}", seen):
        raise HttpError(400, "the header field 'Last-Event-ID' must be the number of an event.")
    after = query.after if seen is None else int(seen)
    events = _read(call, "events")["events"]
    newest = events[-1]["number"] if events else 0
    if after is None:
        return Answer(None, stream_after=newest)
    # A number from the future is one of a life that an NVA without a store has forgotten: all of this life is new.
    return Answer(None, stream_after=after if after <= newest else 0)


def _rekey(call: Call) -> Answer:
    return Answer(call.backend.operate(Rekey(spi=call.body.spi, node=call.body.node)))


def _revoke(call: Call) -> Answer:
    return Answer(call.backend.operate(Revoke(call.values["name"])))


def _restore(call: Call) -> Answer:
    return Answer(call.backend.operate(Restore(call.values["name"])))


def _set_mapping(call: Call) -> Answer:
    body = call.body
    mapping = state.Mapping(
        vni=call.values["vni"], mac=call.values["mac"], ips=body.ips, nve=body.nve, tag=body.tag
    )
    return Answer(call.backend.operate(SetMapping(mapping)))


def _remove_mapping(call: Call) -> Answer:
    return Answer(call.backend.operate(RemoveMapping(call.values["vni"], call.values["mac"])))


_NODE, _MAPPING = "/v1/nodes/{name}", "/v1/mappings/{vni}/{mac}"

ROUTES = (
    Route("GET", "/v1/nodes", "All nodes, and whether everything has reached everyone", _view("nodes"), models.Nodes),
    Route("GET", _NODE, "One node", _node, models.Node, errors=(404,)),
    Route(
        "POST", f"{_NODE}/revoke", "Cut a node off until it is restored", _revoke, models.Revoked,
        body=models.EmptyBody, errors=(404, 409),
    ),
    Route(
        "POST", f"{_NODE}/restore", "Let a revoked node register again", _restore, models.Revoked,
        body=models.EmptyBody, errors=(404, 409),
    ),
    Route("GET", "/v1/tenants", "Tenants, their virtual networks and members", _view("tenants"), models.Tenants),
    Route("GET", "/v1/mappings", "Mappings in force", _view("mappings"), models.Mappings),
    Route("GET", _MAPPING, "One mapping", _mapping, models.MappingEntry, errors=(404,)),
    Route(
        "PUT", _MAPPING, "Set a static mapping", _set_mapping, models.MappingAnswer,
        body=models.MappingBody, errors=(404, 409),
    ),
    Route(
        "DELETE", _MAPPING, "Remove a static mapping, or a learned one until it is reported again", _remove_mapping,
        models.Removed, errors=(404, 409),
    ),
    Route("GET", "/v1/policy", "The policy in force; its version is the ETag", _policy, models.PolicyView),
    Route(
        "PUT", "/v1/policy", "Propose a policy, which every connected node checks before it is in force", _set_policy,
        models.PolicyAccepted, status=202, body=PolicyDocument, errors=(409, 412),
    ),
    Route(
        "GET", "/v1/associations", "Associations without key material", _view("associations"), models.Associations
    ),
    Route("GET", "/v1/associations/{spi}", "One association", _association, models.AssociationEntry, errors=(404,)),
    Route(
        "POST", "/v1/rekey", "Replace associations by fresh ones, make before break", _rekey, models.Replaced,
        status=202, body=models.RekeyBody, errors=(404, 409),
    ),
    Route("GET", "/v1/topology", "Switches, links and paths of the underlay", _view("topology"), models.Topology),
    Route("GET", "/v1/flows", "What rules and ports of the switches counted", _view("flows"), models.Flows),
    Route("GET", "/v1/events", "The audit log", _events, models.Events, query=models.EventsQuery),
    Route(
        "GET", "/v1/events/stream", "The audit log as it is written, as server-sent events", _stream, None,
        query=models.StreamQuery, errors=(503,),
    ),
)  # fmt: skip
"""Every route but the description's own, which northbound.py adds."""
