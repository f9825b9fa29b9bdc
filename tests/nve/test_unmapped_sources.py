"""In a VNI whose mappings are learned, a tenant's first frames wait until the NVA has confirmed where it is."""

from __future__ import annotations

from geneve.control.rules import Action, Rule
from geneve.control.state import Mapping, NodeState
from geneve.drops import DropReason
from nve.dataplane import Dataplane
from nve.presence import Presence
from nve.waiting import MAX_FRAMES_PER_KEY, WAIT_SECONDS
from tests.nve.test_keys_on_demand import numbered, opened
from tests.nve.test_presence import BRIDGE, TAP, seen, up
from tests.support import MACS, node_state, udp_frame


def learned(state: NodeState, mappings: tuple[Mapping, ...] | None = None) -> NodeState:
    vnis = tuple(vni.model_copy(update={"learned": True}) for vni in state.vnis)
    chosen = state.mappings if mappings is None else mappings
    return state.model_copy(update={"vnis": vnis, "mappings": chosen})


def without(name: str, **changed: object) -> tuple[Mapping, ...]:
    """The mappings, that of the tenant behind ``name`` changed, or gone."""
    found = node_state("nve1").mappings
    own = next(mapping for mapping in found if mapping.nve == name)
    others = tuple(mapping for mapping in found if mapping is not own)
    return (*others, own.model_copy(update=changed)) if changed else others


def nve(state: NodeState) -> Dataplane:
    made = Dataplane("nve1", bytes(32), on_demand=True)
    made.apply(state, 0.0)
    return made


def test_frames_of_a_new_tenant_wait_for_its_mapping_and_arrive_in_order() -> None:
    one = nve(learned(node_state("nve1"), without("nve1")))
    frames = numbered(3)
    assert one.from_tenants(100, frames, 1.0).datagrams == []
    assert one.drops == {}
    assert one.take_demands(1.0) == [], "there are no keys to ask for"
    assert one.apply(learned(node_state("nve1"), without("nve1", ips=())), 1.1) == [], "its addresses are not known yet"
    released = one.apply(learned(node_state("nve1")), 1.2)
    assert opened(released, state=learned(node_state("nve2"))) == frames


def test_what_a_tenant_claims_that_is_not_its_own_is_never_sent() -> None:
    elsewhere = learned(node_state("nve1"), without("nve1", nve="nve3"))
    one = nve(elsewhere)
    one.from_tenants(100, [udp_frame()], 1.0)
    assert one.apply(elsewhere, 1.5) == []
    assert one.run_due(1.0 + WAIT_SECONDS) == []
    assert one.drops == {DropReason.UNAUTHORISED_SOURCE: 1}
    assert one.apply(learned(node_state("nve1")), 5.0) == [], "what was dropped does not come back"


def test_forged_sources_take_no_more_than_their_room_and_nobody_elses() -> None:
    one = nve(learned(node_state("nve1")))
    forged = [udp_frame()[:6] + bytes([2, 9, 9, 9, 9, n % 256]) + udp_frame()[12:]
              for n in range(MAX_FRAMES_PER_KEY + 10)]  # fmt: skip
    one.from_tenants(100, forged, 1.0)
    assert one.drops == {DropReason.UNAUTHORISED_SOURCE: 10}
    assert len(one.from_tenants(100, [udp_frame()], 1.0).datagrams) == 1


def test_plain_networks_and_static_ones_are_not_held_up() -> None:
    plain = (Rule(vni=100, action=Action.BYPASS),)
    one = nve(learned(node_state("nve1", action=Action.BYPASS, policy=plain), without("nve1")))
    assert len(one.from_tenants(100, [udp_frame()], 1.0).datagrams) == 1
    static = nve(node_state("nve1").model_copy(update={"mappings": without("nve1")}))
    assert len(static.from_tenants(100, [udp_frame()], 1.0).datagrams) == 1, "there the egress NVE decides"


def test_a_frame_of_a_known_flow_answers_whether_its_tenant_is_still_here() -> None:
    presence = Presence()
    one = Dataplane("nve1", bytes(32), on_demand=True, presence=presence)
    one.apply(learned(node_state("nve1")), 0.0)
    presence.add_bridge(100, BRIDGE, TAP)
    presence.handle([up(), seen(MACS["nve1"])], 0.5)
    for number in range(3):
        assert len(one.from_tenants(100, [udp_frame()], 1.0 + number).datagrams) == 1
    presence.confirm(100, MACS["nve1"], 5.0)
    assert presence.take_confirmations(5.0) == []
    assert len(one.from_tenants(100, [udp_frame()], 5.1).datagrams) == 1
    assert presence.take_confirmations(5.2) == [(100, MACS["nve1"], True)]
