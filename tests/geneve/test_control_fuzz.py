"""Nothing that comes as a push or a message makes a node raise anything but the errors it names."""

from __future__ import annotations

import contextlib
import json
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from geneve.control import jsonrpc
from geneve.control.demand import Demand
from geneve.control.document import Document, NveEntry, PathEntry, PolicyEntry, parse_push, to_wire
from geneve.control.profile import Profile
from geneve.control.protocol import Identity, NodeProtocol, Progress, SessionError, StateReceived
from geneve.control.rules import Action, Rule
from geneve.control.state import Mapping, Role, TransitVni, VniState
from geneve.errors import ConfigError
from tests.support import MACS, association

SOUND: dict[str, dict[str, Any]] = {
    "vni": to_wire(VniState(vni=100, mtu=1400)),
    "nve/nve2": to_wire(NveEntry(address="192.168.1.2")),
    "mapping/x": to_wire(Mapping(vni=100, mac=MACS["nve2"], nve="nve2")),
    "policy": to_wire(
        PolicyEntry(
            version=1, rules=(Rule(vni=100, action=Action.SECURE, profile="full"),), profiles=(Profile(name="full"),)
        )
    ),
    "candidate": to_wire(PolicyEntry(version=2)),
    "path/nve2": to_wire(PathEntry(transit=("t1",))),
    "out/300": to_wire(association(300, "egress", "nve1", "nve2")),
    "in/301": to_wire(association(301, "egress", "nve2", "nve1")),
    "transit/100": to_wire(TransitVni(vni=100)),
}
LEAVES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-2, 1 << 40),
    st.floats(allow_nan=False, allow_infinity=False),
    st.text(max_size=9),
)
JUNK = st.recursive(
    LEAVES, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=9), inner, max_size=3),
    max_leaves=8,
)  # fmt: skip
KEYS = st.sampled_from([*SOUND, "magic", "", "out/", "out/x", "/", "mapping", "vni/1"])


@st.composite
def entries(draw: st.DrawFn) -> Any:
    """An entry that is sound, sound with one value exchanged, or junk."""
    value: Any = json.loads(json.dumps(SOUND[draw(st.sampled_from(list(SOUND)))]))
    kind = draw(st.integers(0, 2))
    if kind == 0:
        return value
    if kind == 1:
        value[draw(st.sampled_from([*value, "more"]))] = draw(JUNK)
        return value
    return draw(JUNK)


CHANGES = st.fixed_dictionaries(
    {"set": st.dictionaries(KEYS, entries(), max_size=4)},
    optional={"remove": st.lists(KEYS, max_size=3), "replace": st.booleans(), "more": JUNK},
)
SCOPES = st.dictionaries(st.sampled_from(["node", "vni/100", "vni/200", "vni/x", ""]), CHANGES, max_size=3)
PUSHES = st.one_of(
    st.fixed_dictionaries(
        {"epoch": st.sampled_from(["e1", "e2", ""]), "sequence": st.integers(-1, 9), "scopes": SCOPES},
        optional={"base": st.none() | st.integers(-1, 9), "drop": st.lists(st.sampled_from(["node", "vni/100"]))},
    ),
    st.dictionaries(st.sampled_from(["epoch", "sequence", "scopes", "base", "drop", "x"]), JUNK, max_size=5),
)


@settings(max_examples=300, deadline=None)
@given(st.lists(PUSHES, max_size=5))
def test_a_push_is_applied_or_is_one_sentence(pushes: list[dict[str, Any]]) -> None:
    document = Document()
    for params in pushes:
        before = dict(document.scopes)
        refusal = ""
        try:
            document = document.apply(parse_push(params))
        except ConfigError as error:
            refusal = str(error)
        assert "\n" not in refusal
        assert not refusal or dict(document.scopes) == before
        for role in Role:
            state = document.state("nve1", role)
            state.to_wire()
            document.candidate("nve1", role)


IDS = st.one_of(st.integers(-1, 12), st.text(max_size=3))
RESULTS = st.dictionaries(
    st.sampled_from(["epoch", "refused", "present", "x"]), st.one_of(JUNK, st.lists(st.integers(-1, 3))), max_size=3
)
MESSAGES: st.SearchStrategy[jsonrpc.Message] = st.one_of(
    st.builds(jsonrpc.Request, IDS, st.just("push"), PUSHES),
    st.builds(jsonrpc.Request, IDS, st.sampled_from(["push", "confirm", "register", "x" * 64]), PUSHES),
    st.builds(
        jsonrpc.Request,
        IDS,
        st.just("confirm"),
        st.dictionaries(st.sampled_from(["vni", "mac", "x"]), JUNK, max_size=3),
    ),
    st.builds(jsonrpc.Notification, st.sampled_from(["push", "x"]), PUSHES),
    st.builds(jsonrpc.Response, IDS, RESULTS),
    st.builds(jsonrpc.ErrorResponse, IDS | st.none(), st.integers(), st.text(max_size=20)),
)
STEPS = st.one_of(MESSAGES, st.sampled_from(["rekey", "keys", "tenants", "wait"]))


@settings(max_examples=300, deadline=None)
@given(st.lists(STEPS, max_size=12), st.booleans(), st.booleans())
def test_only_the_protocols_own_error_ends_a_connection(steps: list[Any], registered: bool, applies: bool) -> None:
    progress, now = Progress(), 0.0
    protocol = NodeProtocol(Identity("nve1", Role.NVE, "aa", "nva"), progress, now)
    if registered:
        protocol.handle(jsonrpc.Response(1, {"epoch": "e1"}), now)
    with contextlib.suppress(SessionError):
        for step in steps:
            if step == "rekey":
                protocol.ask_rekey(300, now)
            elif step == "keys":
                protocol.ask_keys([Demand(audience="nve2", vni=100, profile="full")] * 2, now)
            elif step == "tenants":
                protocol.tell_tenants(1, [], now)
            elif step == "wait":
                now += 3.0
                protocol.on_timer(now)
            else:
                before = progress.sequence
                for event in protocol.handle(step, now):
                    if isinstance(event, StateReceived):
                        (protocol.acknowledge if applies else lambda e: protocol.refuse(e, "no"))(event)
                assert progress.sequence >= before or progress.epoch == protocol.epoch
                assert registered or progress.epoch in (None, protocol.epoch)
    for answer in protocol.take_outgoing():
        jsonrpc.decode(jsonrpc.encode(answer)[4:])
