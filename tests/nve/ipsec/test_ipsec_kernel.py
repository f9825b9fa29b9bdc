"""The kernel's IPsec as a mechanism: what the kernel is told when, and that nothing passes without an association."""

from __future__ import annotations

from collections.abc import Iterable

import pytest

from geneve.control.rules import Action, Rule
from geneve.control.state import AssociationRole, Mapping, NodeState, NveAddress, Role, VniState
from geneve.drops import DropReason
from geneve.errors import ConfigError
from nve.datagrams import Received
from nve.dataplane import Dataplane
from nve.ipsec.kernel import KernelIpsec
from tests.nve.ipsec.ipsec_support import ADDRESSES, CHANNELS, profile, secured
from tests.support import IPS, MACS, udp_frame

HERE, THERE = ADDRESSES[4]


class Kernel:
    """Takes lines, or refuses them with a reason."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.refusal = ""

    def __call__(self, lines: Iterable[str]) -> str:
        self.lines = list(lines)
        return self.refusal

    @property
    def done(self) -> list[str]:
        """What each line does, without its arguments."""
        return [" ".join(line.split()[1:3]) for line in self.lines]


def state(node: str, spi: int) -> NodeState:
    terms, association = profile("esp"), secured("esp", spi=spi)
    held = {"outbound": (association,)} if association.sender == node else {"inbound": (association,)}
    return NodeState(
        node=node, role=Role.NVE, vnis=(VniState(vni=7, mtu=1300),), profiles=(terms,),
        nves=(NveAddress(name="nve1", address=HERE, vnis=(7,)), NveAddress(name="nve2", address=THERE, vnis=(7,))),
        mappings=tuple(Mapping(vni=7, mac=MACS[name], ips=IPS[name], nve=name) for name in ("nve1", "nve2")),
        policy=(Rule(vni=7, action=Action.SECURE, profile=terms.name),), **held,
    )  # fmt: skip


def nve(name: str, kernel: Kernel) -> Dataplane:
    return Dataplane(name, bytes(32), mechanism=KernelIpsec(CHANNELS["esp"], ADDRESSES[4][name == "nve2"], kernel))


def test_the_kernel_is_told_first_and_new_keys_come_before_old_ones_go():
    kernel = Kernel()
    one = nve("nve1", kernel)
    one.apply(state("nve1", 0x1000))
    assert kernel.done == ["state add", "policy update"]
    one.apply(state("nve1", 0x2000))
    assert kernel.done == ["state add", "policy update", "state delete"], "the pair keeps its policy"
    assert "spi 0x00002000" in kernel.lines[0]
    assert "spi 0x00001000" in kernel.lines[2]
    one.apply(state("nve1", 0x2000).model_copy(update={"outbound": ()}))
    assert kernel.done == ["state delete", "policy delete"]


def test_what_the_kernel_refuses_leaves_the_state_before_in_force():
    kernel = Kernel()
    one = nve("nve1", kernel)
    kernel.refusal = "Requested AEAD algorithm not found"
    with pytest.raises(ConfigError, match="Requested AEAD algorithm not found"):
        one.apply(state("nve1", 0x1000))
    assert not one.networks


def test_frames_leave_in_clear_for_the_kernel_and_come_back_as_their_senders():
    one, two = nve("nve1", Kernel()), nve("nve2", Kernel())
    one.apply(state("nve1", 0x1000))
    two.apply(state("nve2", 0x1000))
    frame = udp_frame()
    (datagram,) = one.from_tenants(7, [frame]).datagrams
    assert frame in datagram.payload
    delivered = two.from_underlay([Received(datagram.payload, bytes(map(int, HERE.split("."))))])
    assert delivered == [(7, frame)]


def test_without_an_association_with_its_source_a_packet_is_refused():
    one, two = nve("nve1", Kernel()), nve("nve2", Kernel())
    one.apply(state("nve1", 0x1000))
    two.apply(state("nve2", 0x1000))
    (datagram,) = one.from_tenants(7, [udp_frame()]).datagrams
    assert not two.from_underlay([Received(datagram.payload, bytes(4))] * 3)
    assert two.drops == {DropReason.UNPROTECTED: 3}


def test_groups_are_refused():
    one = nve("nve1", Kernel())
    association = secured("esp").model_copy(update={"role": AssociationRole.MULTICAST, "vni": 7})
    with pytest.raises(ConfigError, match="only associations between two NVEs"):
        one.apply(state("nve1", 0x1000).model_copy(update={"outbound": (association,)}))
