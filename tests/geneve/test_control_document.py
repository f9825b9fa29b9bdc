"""What a node makes of pushes: a whole state, and nothing at all of one that is not sound."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from geneve.control.document import (
    NODE_SCOPE,
    Document,
    NveEntry,
    PathEntry,
    PolicyEntry,
    Push,
    ScopeChange,
    parse_push,
    to_wire,
    vni_scope,
)
from geneve.control.profile import Profile
from geneve.control.rules import Action, Rule
from geneve.control.state import Mapping, Role, VniState
from geneve.errors import ConfigError
from tests.support import MACS, association

RED = vni_scope(100)


def snapshot(**scopes: dict[str, Any]) -> Push:
    changes = {name.replace("vni_", "vni/"): {"set": entries} for name, entries in scopes.items()}
    return parse_push({"epoch": "e", "sequence": 1, "scopes": changes})


def delta(**scopes: dict[str, Any]) -> Push:
    changes = {name.replace("vni_", "vni/"): change for name, change in scopes.items()}
    return parse_push({"epoch": "e", "sequence": 2, "base": 1, "scopes": changes})


def vni(number: int = 100) -> dict[str, Any]:
    return to_wire(VniState(vni=number, mtu=1400))


def nve(address: str = "192.168.1.2") -> dict[str, Any]:
    return to_wire(NveEntry(address=address))


def key(spi: int = 300, sender: str = "nve1", audience: str = "nve2") -> dict[str, Any]:
    return to_wire(association(spi, "egress", sender, audience))


def whole() -> Document:
    """Two VNIs, two other NVEs, a mapping, a path, a policy, two keys."""
    mapping = to_wire(Mapping(vni=100, mac=MACS["nve2"], nve="nve2"))
    rules = (Rule(vni=100, action=Action.SECURE, profile="full"),)
    policy = to_wire(PolicyEntry(version=3, rules=rules, profiles=(Profile(name="full"),)))
    return Document().apply(
        snapshot(
            vni_100={
                "vni": vni(), "nve/nve1": nve("192.168.1.1"), "nve/nve2": nve(), f"mapping/{MACS['nve2']}": mapping
            },
            vni_200={"vni": vni(200), "nve/nve2": nve(), "nve/nve3": nve("192.168.1.3")},
            node={
                "policy": policy, "path/nve2": to_wire(PathEntry(transit=("t1", "t2"))),
                "out/300": key(), "in/301": key(301, "nve2", "nve1"),
            },
        )
    )  # fmt: skip


def test_a_snapshot_makes_a_whole_state() -> None:
    state = whole().state("nve1", Role.NVE)
    assert (state.node, state.role) == ("nve1", Role.NVE)
    assert [item.vni for item in state.vnis] == [100, 200]
    others = {item.name: (item.address, item.vnis, item.transit) for item in state.nves}
    assert others == {
        "nve2": ("192.168.1.2", (100, 200), ("t1", "t2")),
        "nve3": ("192.168.1.3", (200,), ()),
    }, "the node itself is none of the others"
    assert [(item.mac, item.nve) for item in state.mappings] == [(MACS["nve2"], "nve2")]
    assert [item.spi for item in state.outbound] == [300]
    assert [item.spi for item in state.inbound] == [301]
    assert [rule.profile for rule in state.policy] == ["full"]
    assert [profile.name for profile in state.profiles] == ["full"]


def test_a_delta_changes_what_it_names_and_leaves_the_rest() -> None:
    before = whole()
    after = before.apply(
        delta(
            vni_200={"remove": ["nve/nve3"], "set": {}},
            node={"set": {"out/302": key(302)}, "remove": ["out/300", "path/nve2", "out/999"]},
        )
    )
    state = after.state("nve1", Role.NVE)
    assert [item.spi for item in state.outbound] == [302]
    assert [(item.name, item.transit) for item in state.nves] == [("nve2", ())]
    assert [item.spi for item in before.state("nve1", Role.NVE).outbound] == [300], "a document never changes"


def test_a_replaced_scope_starts_empty_and_a_dropped_one_is_gone() -> None:
    after = whole().apply(delta(vni_200={"replace": True, "set": {"vni": vni(200)}}))
    assert [item.name for item in after.state("nve1", Role.NVE).nves] == ["nve2"]
    push = parse_push({"epoch": "e", "sequence": 2, "base": 1, "drop": ["vni/100", "vni/7"]})
    state = whole().apply(push).state("nve1", Role.NVE)
    assert [item.vni for item in state.vnis] == [200]
    assert state.mappings == ()


def test_a_snapshot_forgets_what_was_before() -> None:
    state = whole().apply(snapshot(vni_300={"vni": vni(300)})).state("nve1", Role.NVE)
    assert [item.vni for item in state.vnis] == [300]
    assert (state.outbound, state.inbound, state.policy, state.nves) == ((), (), (), ())


def test_entries_without_their_vni_make_no_neighbours() -> None:
    assert Document().apply(snapshot(vni_100={"nve/nve2": nve()})).state("nve1", Role.NVE).nves == ()


def test_a_candidate_is_the_state_under_another_policy_and_holds_no_keys() -> None:
    document = whole()
    assert document.candidate("nve1", Role.NVE) is None
    policy = to_wire(PolicyEntry(version=4, rules=(Rule(vni=100, action=Action.BYPASS),)))
    document = document.apply(delta(node={"set": {"candidate": policy}}))
    candidate = document.candidate("nve1", Role.NVE)
    assert candidate is not None
    assert [rule.action for rule in candidate.policy] == [Action.BYPASS]
    assert (candidate.outbound, candidate.inbound) == ((), ())
    assert candidate.nves == document.state("nve1", Role.NVE).nves
    assert [rule.profile for rule in document.state("nve1", Role.NVE).policy] == ["full"], "nothing is acted by yet"


UNSOUND: list[dict[str, Any]] = [
    {"node": {"unknown/1": {}}},
    {"node": {"": {}}},
    {"node": {"vni": vni()}},
    {"node": {"nve/nve2": nve()}},
    {"node": {"mapping/x": to_wire(Mapping(vni=100, mac=MACS["nve2"], nve="nve2"))}},
    {"vni_100": {"policy": to_wire(PolicyEntry(version=1))}},
    {"vni_100": {"out/300": key()}},
    {"other": {"in/300": key()}},
    {"node": {"out/300": {**key(), "secret": "short"}}},
    {"node": {"out/300": {**key(), "more": 1}}},
    {"node": {"out/300": {**key(), "spi": 255}}},
    {"vni_100": {"vni": {**vni(), "vni": 1 << 24}}},
    {"vni_100": {"nve/nve2": {"address": "nowhere"}}},
    {"node": {"policy": {"version": 0}}},
]


@pytest.mark.parametrize("scopes", UNSOUND, ids=lambda scopes: str(next(iter(next(iter(scopes.values())))))[:30])
def test_one_unsound_entry_refuses_the_push_and_leaves_the_document(scopes: dict[str, Any]) -> None:
    document = whole()
    before = document.state("nve1", Role.NVE)
    good = {"vni_200": {"nve/nve9": nve("192.168.1.9")}}
    with pytest.raises(ConfigError, match="push: ") as caught:
        document.apply(delta(**{name: {"set": entries} for name, entries in {**good, **scopes}.items()}))
    assert "\n" not in str(caught.value)
    assert document.state("nve1", Role.NVE) == before


def test_what_refuses_a_key_does_not_show_it() -> None:
    with pytest.raises(ConfigError) as caught:
        whole().apply(delta(node={"set": {"out/300": {**key(), "sender": "bad name!"}}}))
    assert key()["secret"] not in str(caught.value)


BAD_PUSHES: list[dict[str, Any]] = [
    {},
    {"epoch": "e"},
    {"epoch": "", "sequence": 1},
    {"epoch": "e" * 65, "sequence": 1},
    {"epoch": 7, "sequence": 1},
    {"epoch": "e", "sequence": 0},
    {"epoch": "e", "sequence": True},
    {"epoch": "e", "sequence": "2"},
    {"epoch": "e", "sequence": 1.5},
    {"epoch": "e", "sequence": 2, "base": -1},
    {"epoch": "e", "sequence": 2, "base": 2},
    {"epoch": "e", "sequence": 2, "base": 3},
    {"epoch": "e", "sequence": 1, "scopes": []},
    {"epoch": "e", "sequence": 1, "scopes": {"node": []}},
    {"epoch": "e", "sequence": 1, "scopes": {"node": {"set": {"policy": 1}}}},
    {"epoch": "e", "sequence": 1, "scopes": {"node": {"remove": [1]}}},
    {"epoch": "e", "sequence": 1, "scopes": {"node": {"more": 1}}},
    {"epoch": "e", "sequence": 1, "drop": "node"},
    {"epoch": "e", "sequence": 1, "state": {}},
]


@pytest.mark.parametrize("params", BAD_PUSHES, ids=str)
def test_parameters_that_are_no_push_are_refused(params: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="push: "):
        parse_push(params)


def test_no_representation_shows_a_key() -> None:
    push = snapshot(node={"out/300": key()})
    document = Document().apply(push)
    secret = key()["secret"]
    state = document.state("nve1", Role.NVE)
    for shown in (repr(push), str(push), repr(push.scopes), repr(document), str(document), repr(state), str(state)):
        assert secret not in shown
        assert secret[:12] not in shown
    assert secret not in state.model_dump_json()


# Deltas and snapshots say the same ------------------------------------------------------------------------

NAMES = ("nve2", "nve3", "nve4")
CHANGES = st.fixed_dictionaries(
    {
        "replace": st.booleans(),
        "set": st.dictionaries(
            st.sampled_from([f"nve/{name}" for name in NAMES]),
            st.sampled_from([nve("192.0.2.1"), nve("192.0.2.2")]),
        ),
        "remove": st.lists(st.sampled_from([f"nve/{name}" for name in NAMES])),
    }
)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.dictionaries(st.sampled_from([RED, vni_scope(200)]), CHANGES), max_size=8))
def test_deltas_lead_where_one_snapshot_leads_and_twice_is_once(history: list[dict[str, Any]]) -> None:
    document, expected = Document(), dict[str, dict[str, Any]]()
    for number, changes in enumerate(history, 1):
        parts = {name: ScopeChange(**{**part, "remove": tuple(part["remove"])}) for name, part in changes.items()}
        push = Push(epoch="e", sequence=number, base=number - 1, scopes=parts)
        document = document.apply(push)
        assert document.apply(push).scopes == document.scopes
        for name, change in changes.items():
            held = {} if change["replace"] else expected.get(name, {})
            held = {key: value for key, value in held.items() if key not in change["remove"]}
            expected[name] = {**held, **change["set"]}
    scopes = {name: {"set": entries} for name, entries in expected.items()}
    again = Document().apply(parse_push({"epoch": "e", "sequence": 1, "scopes": scopes}))
    assert again.scopes == document.scopes
    assert NODE_SCOPE not in document.scopes
