"""The underlay's state machine, from OpenFlow-like events to rules and NVE paths, without OpenFlow."""

from __future__ import annotations

import pytest

from controller.fabric.discovery import PortId, build_probe
from controller.fabric.flows import FlowRule
from controller.fabric.underlay import (
    AskStats,
    Clear,
    Command,
    Emit,
    Notice,
    PacketIn,
    PathsChanged,
    PortStatus,
    SwitchDown,
    SwitchUp,
    Tick,
    Underlay,
    UnderlayEvent,
    Update,
)
from controller.inventory import Inventory
from tests.controller.inventories import build, document

WIRES = {(1, 1): (2, 1), (2, 2): (3, 1), (1, 2): (4, 1), (4, 2): (3, 2)}
HOST_PORT = 3
HOST = bytes.fromhex("020000000001")


def frame(source: bytes, target: bytes = b"\xff" * 6) -> bytes:
    return target + source + b"\x08\x00" + bytes(46)


class Network:
    """The ring of the test inventory; carries probes over wires that are intact and keeps the rules."""

    def __init__(self, inventory: Inventory | None = None) -> None:
        self.underlay = Underlay(inventory or build(), b"k" * 32)
        self.wires: dict[PortId, PortId] = {**WIRES, **{b: a for a, b in WIRES.items()}}
        self.rules: dict[int, dict[object, FlowRule]] = {}
        self.paths: list[PathsChanged] = []
        self.notices: list[str] = []
        self.now = 50.0

    def handle(self, event: UnderlayEvent) -> list[Command]:
        commands = self.underlay.handle(event, self.now)
        for command in commands:
            self.apply(command)
            if isinstance(command, Emit) and (command.dpid, command.port) in self.wires:
                self.handle(PacketIn(*self.wires[command.dpid, command.port], command.frame))
        return commands

    def apply(self, command: Command) -> None:
        if isinstance(command, Clear):
            self.rules[command.dpid] = {}
        elif isinstance(command, Update):
            rules = self.rules[command.dpid]
            for rule in command.add:
                rules[rule.key] = rule
            for rule in command.delete:
                del rules[rule.key]  # a rule that is not there was never installed
        elif isinstance(command, PathsChanged):
            self.paths.append(command)
        elif isinstance(command, Notice):
            self.notices.append(command.text)

    def start(self) -> None:
        for dpid in (1, 2, 3, 4):
            self.handle(SwitchUp(dpid, {1: True, 2: True, HOST_PORT: True}))
        self.run(0.5)

    def run(self, seconds: float) -> None:
        for _ in range(round(seconds / 0.1)):
            self.now += 0.1
            self.tick()

    def tick(self) -> list[Command]:
        return self.handle(Tick())

    def output(self, dpid: int, target: bytes) -> tuple[int, ...]:
        text = target.hex(":")
        (rule,) = [rule for rule in self.rules[dpid].values() if rule.match.eth_dst == text]
        return rule.outputs


@pytest.fixture
def network() -> Network:
    network = Network()
    network.start()
    return network


def test_converges_within_half_a_second(network: Network) -> None:
    view = network.underlay.view()
    assert view["complete"]
    assert [link["up"] for link in view["links"]] == [True] * 4


def test_paths_name_transit_devices_in_order_of_travel_and_no_attackers(network: Network) -> None:
    paths = network.paths[-1].paths
    assert paths["nve1", "nve2"] == ("t1",)
    assert paths["nve1", "nve3"] == ("t1", "t2")
    assert paths["nve3", "nve1"] == ("t2", "t1")
    assert len(paths) == 6


def test_port_status_reroutes_without_waiting(network: Network) -> None:
    network.handle(PacketIn(3, HOST_PORT, frame(HOST)))
    assert network.output(1, HOST) == (1,)
    count = len(network.paths)
    network.handle(PortStatus(1, 1, False))  # no time passes
    assert network.output(1, HOST) == (2,)
    assert network.output(2, HOST) == (2,)
    assert network.paths[count].paths["nve1", "nve3"] == ()
    assert "link s1-s2 down" in network.notices
    network.handle(PortStatus(1, 1, True))
    network.run(0.3)
    assert network.output(1, HOST) == (1,)


def test_a_switch_that_leaves_is_routed_around_and_gets_all_rules_when_it_returns(network: Network) -> None:
    network.handle(PacketIn(3, HOST_PORT, frame(HOST)))
    before = dict(network.rules[2])
    network.handle(SwitchDown(2))
    assert network.output(1, HOST) == (2,)
    commands = network.handle(SwitchUp(2, {1: True, 2: True, HOST_PORT: True}))
    assert Clear(2) in commands
    network.run(1)
    assert network.output(1, HOST) == (1,)
    assert network.rules[2] == before


def test_a_host_is_learned_once_and_cannot_be_moved(network: Network) -> None:
    network.handle(PacketIn(3, HOST_PORT, frame(HOST)))
    network.handle(PacketIn(4, HOST_PORT, frame(HOST)))
    assert network.output(2, HOST) == (2,)
    assert network.output(4, HOST) == (2,)
    network.handle(PortStatus(3, HOST_PORT, False))
    assert network.underlay.view()["hosts"] == [], "nor does a port that goes down move it"


def test_an_address_of_the_inventory_cannot_be_taken_while_its_port_is_down(network: Network) -> None:
    nve1 = bytes.fromhex("026081010100")
    network.handle(PacketIn(4, HOST_PORT, frame(nve1)))
    assert network.underlay.view()["hosts"] == []
    network.handle(PacketIn(1, HOST_PORT, frame(nve1)))
    assert network.output(4, nve1) == (1,)
    network.handle(PortStatus(1, HOST_PORT, False))
    network.handle(PacketIn(4, HOST_PORT, frame(nve1)))
    assert network.underlay.view()["hosts"] == []
    network.handle(PortStatus(1, HOST_PORT, True))
    network.run(1.5)
    network.handle(PacketIn(4, HOST_PORT, frame(nve1)))
    network.handle(PacketIn(1, HOST_PORT, frame(nve1)))
    assert network.output(4, nve1) == (1,)


def test_the_way_to_a_node_whose_port_is_known_is_there_before_any_frame() -> None:
    data = document()
    data["nodes"]["nve3"]["switch_port"] = HOST_PORT
    network = Network(build(data))
    network.start()
    nve3 = bytes.fromhex("026081010300")
    assert network.output(1, nve3) == (1,)
    assert network.output(3, nve3) == (HOST_PORT,)
    network.handle(PortStatus(1, 1, False))
    assert network.output(1, nve3) == (2,)
    network.handle(PortStatus(3, HOST_PORT, False))
    assert network.underlay.view()["hosts"] == []
    network.handle(PortStatus(3, HOST_PORT, True))
    assert network.output(3, nve3) == (HOST_PORT,)


def test_frames_on_links_teach_nothing(network: Network) -> None:
    for dpid, port in ((1, 1), (2, 1), (3, 2)):
        network.handle(PacketIn(dpid, port, frame(HOST)))
    assert network.underlay.view()["hosts"] == []


def test_what_was_learned_on_a_port_is_forgotten_when_it_turns_out_to_be_a_link() -> None:
    network = Network()
    intact = dict(network.wires)
    network.wires.clear()  # probes do not get through yet
    for dpid in (1, 2, 3, 4):
        network.handle(SwitchUp(dpid, {1: True, 2: True, HOST_PORT: True}))
    network.handle(PacketIn(1, 1, frame(HOST)))
    network.run(1.2)
    network.handle(PacketIn(1, 1, frame(HOST)))
    assert len(network.underlay.view()["hosts"]) == 1
    network.wires = intact
    network.run(1)
    assert network.underlay.view()["hosts"] == []
    network.handle(PacketIn(3, HOST_PORT, frame(HOST)))
    assert network.output(1, HOST) == (1,)


def test_group_and_zero_sources_and_runts_are_not_learned(network: Network) -> None:
    for data in (frame(b"\x01" + HOST[1:]), frame(bytes(6)), b"", frame(HOST)[:13], frame(b"\xff" * 6)):
        network.handle(PacketIn(3, HOST_PORT, data))
    assert network.underlay.view()["hosts"] == []


def test_forged_probes_move_nothing(network: Network) -> None:
    before = network.underlay.view()
    network.handle(PacketIn(4, HOST_PORT, build_probe(2, HOST_PORT, b"wrong" * 8)))
    assert network.underlay.view() == before


def test_a_host_that_returns_its_own_probes_harms_only_itself(network: Network) -> None:
    network.wires[4, HOST_PORT] = (4, HOST_PORT)
    network.run(3)
    view = network.underlay.view()
    assert view["complete"]
    assert [link["up"] for link in view["links"]] == [True] * 4


def test_a_switch_that_is_not_in_the_inventory_is_left_alone(network: Network) -> None:
    commands = network.handle(SwitchUp(99, {1: True}))
    assert [type(command) for command in commands if not isinstance(command, Emit)] == [Notice]
    network.handle(PacketIn(99, 1, frame(HOST)))
    network.handle(PortStatus(99, 1, False))
    network.handle(SwitchDown(99))
    assert network.underlay.view()["complete"]


def test_nothing_changes_nothing(network: Network) -> None:
    for _ in range(30):
        network.now += 0.1
        commands = network.handle(Tick())
        assert all(isinstance(command, (Emit, AskStats)) for command in commands)
