"""Link discovery: probes, timeouts, and when a port counts as an edge port."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controller.fabric.discovery import (
    EDGE_DELAY,
    LINK_TIMEOUT,
    Discovery,
    Link,
    PortId,
    build_probe,
    parse_probe,
)
from geneve.errors import ParseError

KEY = b"k" * 32


@given(st.integers(0, 2**64 - 1), st.integers(0, 2**32 - 1))
def test_a_probe_tells_where_it_came_from(dpid: int, port: int) -> None:
    frame = build_probe(dpid, port, KEY)
    assert len(frame) >= 60
    assert parse_probe(frame, KEY) == (dpid, port)


@given(st.binary(max_size=120))
def test_any_frame_gives_parse_error_only(data: bytes) -> None:
    for frame in (data, bytes(12) + b"\x88\xcc" + data):
        with pytest.raises(ParseError):
            parse_probe(frame, KEY)


@given(st.data())
def test_no_changed_probe_is_believed(data: st.DataObject) -> None:
    frame = bytearray(build_probe(1, 2, KEY))
    bit = data.draw(st.integers(12 * 8, len(frame) * 8 - 1))
    frame[bit // 8] ^= 1 << bit % 8
    with contextlib.suppress(ParseError):
        assert parse_probe(bytes(frame), KEY) == (1, 2)  # padding and TTL may change, the place may not


def test_another_key_and_cut_probes_are_refused() -> None:
    frame = build_probe(1, 2, KEY)
    with pytest.raises(ParseError):
        parse_probe(frame, b"x" * 32)
    end = frame.rstrip(b"\0")
    for size in range(len(end)):
        with pytest.raises(ParseError):
            parse_probe(end[:size], KEY)


class Wires:
    """Switches whose ports are joined by wires; carries due probes over the wires that are intact."""

    def __init__(self, expected: list[tuple[int, int]], wires: dict[PortId, PortId]) -> None:
        self.wires = {**wires, **{b: a for a, b in wires.items()}}
        self.cut: set[PortId] = set()
        self.discovery = Discovery(expected, KEY)
        self.now = 100.0
        self.sent: list[tuple[float, PortId]] = []

    def up(self, dpid: int, *ports: int) -> None:
        self.discovery.switch_up(dpid, dict.fromkeys(ports, True), self.now)

    def run(self, seconds: float, step: float = 0.1) -> None:
        end = self.now + seconds
        while self.now < end - 1e-9:
            for place, frame in self.discovery.probes_due(self.now):
                self.sent.append((self.now, place))
                if place in self.wires and place not in self.cut:
                    self.discovery.probe_received(*self.wires[place], frame, self.now)
            self.now += step
            self.discovery.expire(self.now)
            self.discovery.topology(self.now)

    def links(self) -> tuple[Link, ...]:
        return self.discovery.topology(self.now).links

    def edges(self) -> frozenset[PortId]:
        return self.discovery.topology(self.now).edges


@pytest.fixture
def pair() -> Wires:
    wires = Wires([(1, 2)], {(1, 1): (2, 1)})
    wires.up(1, 1, 2)
    wires.up(2, 1, 2)
    return wires


def test_a_link_is_found_at_once_and_the_rest_are_edges(pair: Wires) -> None:
    pair.run(0.3)
    assert pair.links() == (Link(1, 1, 2, 1),)
    assert pair.edges() == {(1, 2), (2, 2)}
    assert pair.discovery.complete


@pytest.mark.parametrize("deaf", [(1, 1), (2, 1)])
def test_a_link_needs_both_directions(pair: Wires, deaf: PortId) -> None:
    pair.cut = {pair.wires[deaf]}
    pair.run(2)
    assert pair.links() == ()
    assert pair.wires[deaf] not in pair.edges()  # yet it is no edge port: a probe arrives on it
    assert not pair.discovery.complete


def test_a_link_times_out_when_probes_stop(pair: Wires) -> None:
    pair.run(2)
    pair.cut = {(1, 1), (2, 1)}
    pair.run(LINK_TIMEOUT - 1.5)
    assert pair.links()
    pair.run(2)
    assert pair.links() == ()
    assert pair.edges() == {(1, 2), (2, 2)}  # nothing is flooded into what was a link


def test_probes_are_repeated_fast_before_a_link_is_given_up(pair: Wires) -> None:
    pair.run(5)
    pair.cut = {(1, 1)}
    pair.sent.clear()
    pair.run(2.5)
    assert sum(place == (1, 1) for _, place in pair.sent) >= 6


def test_a_controller_that_stood_still_loses_no_link(pair: Wires) -> None:
    pair.run(2)
    pair.now += 60
    pair.discovery.expire(pair.now)
    assert pair.links()


def test_a_port_that_goes_down_takes_its_link_along_at_once(pair: Wires) -> None:
    pair.run(1)
    pair.discovery.port_status(1, 1, False, pair.now)
    assert pair.links() == ()
    pair.discovery.port_status(1, 1, True, pair.now)
    pair.run(0.3)
    assert pair.links()


def test_a_switch_that_leaves_takes_its_links_along(pair: Wires) -> None:
    pair.run(1)
    pair.discovery.switch_down(2)
    topology = pair.discovery.topology(pair.now)
    assert (topology.switches, topology.links) == (frozenset({1}), ())


def test_while_a_link_is_missing_only_a_host_makes_an_edge_port(pair: Wires) -> None:
    pair.cut = {(1, 1), (2, 1)}
    pair.run(10)
    assert pair.edges() == frozenset()
    pair.discovery.host_frame(1, 2)
    assert pair.edges() == {(1, 2)}


def test_a_host_frame_counts_only_after_probes_had_time(pair: Wires) -> None:
    pair.discovery.host_frame(1, 1)
    assert pair.edges() == frozenset()
    pair.run(0.3)
    assert (1, 1) not in pair.edges()
    pair.run(EDGE_DELAY)
    assert pair.links()


def test_an_edge_port_stays_one_when_a_link_is_lost(pair: Wires) -> None:
    pair.run(1)
    pair.discovery.port_status(1, 1, False, pair.now)
    assert pair.edges() == {(1, 2), (2, 2)}
    pair.discovery.port_status(1, 2, False, pair.now)
    pair.discovery.port_status(1, 2, True, pair.now)
    assert pair.edges() == {(2, 2)}


def test_unexpected_links_are_not_used() -> None:
    wires = Wires([], {(1, 1): (2, 1)})
    wires.up(1, 1)
    wires.up(2, 1)
    wires.run(1)
    assert wires.links() == ()
    assert wires.edges() == frozenset()


def test_a_second_link_of_the_same_pair_is_not_used() -> None:
    wires = Wires([(1, 2)], {(1, 1): (2, 1), (1, 2): (2, 2)})
    wires.up(1, 1, 2)
    wires.up(2, 1, 2)
    wires.run(1)
    assert wires.links() == (Link(1, 1, 2, 1),)
    assert wires.edges() == frozenset()


def test_forged_probes_change_nothing(pair: Wires) -> None:
    pair.run(0.3)
    with pytest.raises(ParseError):
        pair.discovery.probe_received(1, 2, build_probe(2, 2, b"guess" * 8), pair.now)
    assert pair.edges() == {(1, 2), (2, 2)}


def test_ports_that_hear_several_others_do_not_chatter() -> None:
    wires = Wires([(1, 2), (2, 3), (1, 3)], {})
    for dpid in (1, 2, 3):
        wires.up(dpid, 1)
    places = [(dpid, 1) for dpid in (1, 2, 3)]
    sent = 0
    for step in range(100):  # one wire that joins all three, as a hub does
        now = 100 + step * 0.01
        for place, frame in wires.discovery.probes_due(now):
            sent += 1
            for other in places:
                if other != place:
                    wires.discovery.probe_received(*other, frame, now)
    assert sent <= 3 * 11
