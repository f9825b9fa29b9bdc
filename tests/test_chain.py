"""NVE - transit - transit - NVE in memory, over a link that loses, repeats, delays and reorders; the clock is ours."""

from __future__ import annotations

import json
import random
from dataclasses import dataclass, field
from typing import ClassVar

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from geneve.control.rules import Action
from geneve.control.state import TransitVni
from geneve.drops import DropReason
from geneve.export import ExportOpener, ExportSealer, Opened
from geneve.outer import build_datagram, build_frame, parse_outer
from geneve.vnet import PLAIN_BYTES
from nve.datagrams import Received
from nve.dataplane import Dataplane
from tests.support import ADDRESSES, node_state, source, udp_frame
from tests.transit.builders import MAC_A, MAC_B, device_state
from transit.config import Impair
from transit.device import TransitDevice
from transit.exporter import Exporter
from transit.forwarder import Forwarder

PATH = ("t1", "t2")


@dataclass
class Chain:
    """What nve1's tenants send goes through t1 and t2 to nve2. ``now`` is the only clock."""

    EXPORT_KEY: ClassVar[bytes] = bytes(32)

    action: Action = Action.SECURE
    impair: Impair | None = None
    now: float = 0.0
    arrived: list[bytes] = field(default_factory=list)
    delivered: list[tuple[int, bytes]] = field(default_factory=list)
    records: list[dict] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.ingress, self.egress = Dataplane("nve1", bytes(32)), Dataplane("nve2", bytes(32))
        for node in (self.ingress, self.egress):
            node.apply(node_state(node.name, action=self.action, telemetry=True, transit=PATH))
        self.t2 = self._device("t2", self._arrive)
        self.t1 = self._device("t1", self._hand_to_t2, self.impair)

    def _device(self, name: str, send, impair: Impair | None = None) -> Forwarder:
        device = TransitDevice(name)
        state = device_state(name)
        if self.action is Action.BYPASS:
            open_to_all = (TransitVni(vni=100, telemetry=True, authenticated=False),)
            state = state.model_copy(update={"inbound": (), "transit_vnis": open_to_all})
        device.apply(state)
        exporter = Exporter(ExportSealer(name, self.EXPORT_KEY, bytes(16)))
        return Forwarder(device, exporter, impair, (lambda _: False, send), lambda: int(self.now * 1e9))

    def _hand_to_t2(self, frame: bytes) -> bool:
        self.t2.take([(frame, int(self.now * 1e9), PLAIN_BYTES)], 0, self.now)
        return True

    def _arrive(self, frame: bytes) -> bool:
        self.arrived.append(frame)
        outer = parse_outer(frame)
        payload = outer.payload(frame)
        self.delivered += self.egress.from_underlay([Received(payload, source("nve1"), outer.traffic_class)], self.now)
        return True

    def frames(self, *tenant_frames: bytes) -> list[bytes]:
        """Return the underlay frames that nve1 sends for ``tenant_frames``."""
        return [
            build_frame(MAC_A, MAC_B, build_datagram(ADDRESSES["nve1"], d.destination, 50000, d.payload))
            for d in self.ingress.from_tenants(100, tenant_frames).datagrams
        ]

    def inject(self, *frames: bytes) -> None:
        self.t1.take([(frame, int(self.now * 1e9), PLAIN_BYTES) for frame in frames], 0, self.now)

    def wait(self, seconds: float) -> None:
        end = self.now + seconds
        while (deadline := self.t1.next_deadline()) is not None and deadline <= end:
            self.now = max(self.now, deadline)
            self.t1.run_due(self.now)
        self.now = end

    def exported(self, forwarder: Forwarder) -> list[dict]:
        found: list[dict] = []
        opener = ExportOpener(dict.fromkeys(PATH, self.EXPORT_KEY))

        def take(datagram: bytes) -> bool:
            opened = opener.open(datagram)
            assert isinstance(opened, Opened), opened
            found.extend(json.loads(opened.payload))
            return True

        forwarder.exporter.flush(self.now + 10, take)
        return found


def data(count: int) -> list[bytes]:
    return [udp_frame(data=b"packet %04d" % number) for number in range(count)]


@pytest.mark.parametrize("action", [Action.BYPASS, Action.SECURE], ids=["none", "full"])
def test_everything_arrives_in_order_bit_for_bit_and_the_path_is_told(action):
    chain = Chain(action)
    sent = chain.frames(*data(20))
    chain.inject(*sent)
    assert chain.arrived == sent
    assert chain.delivered == [(100, frame) for frame in data(20)]
    for forwarder, name in ((chain.t1, "t1"), (chain.t2, "t2")):
        told = chain.exported(forwarder)
        assert [record["sequence"] for record in told] == list(range(1, 21))
        assert {record["device"] for record in told} == {name}
        assert {record["sender"] for record in told} == {"nve1" if action is Action.SECURE else None}
    assert not chain.egress.drops


def test_an_impaired_link_delays_and_loses_but_never_repeats_or_alters():
    chain = Chain(impair=Impair(delay_ms=20, jitter_ms=5, loss=0.2, reorder=0.2, seed=7))
    chain.inject(*chain.frames(*data(300)))
    assert chain.delivered == []
    chain.wait(0.014)
    assert chain.delivered == [], "nothing arrives before the least delay"
    chain.wait(1)
    assert 180 < len(chain.delivered) < 300
    assert len(set(chain.delivered)) == len(chain.delivered)
    assert chain.delivered != sorted(chain.delivered), "reordering took place"
    assert chain.egress.drops == {}
    assert len(chain.delivered) + chain.t1.drops()["impair_loss"] == 300
    assert len(chain.exported(chain.t2)) == len(chain.delivered), "only what passed is reported"


@given(st.lists(st.integers(0, 29), max_size=120), st.integers(0, 2**32))
@settings(max_examples=60, deadline=None)
def test_whatever_order_and_however_often_packets_come_each_is_delivered_at_most_once(order, seed):
    chain = Chain()
    sent = chain.frames(*data(30))
    random.Random(seed).shuffle(order)
    chain.inject(*[sent[index] for index in order])
    assert sorted(chain.delivered) == sorted({(100, data(30)[index]) for index in order})
    assert chain.egress.drops[DropReason.REPLAYED] == len(order) - len(set(order))
    told = chain.exported(chain.t2)
    assert sorted(record["sequence"] for record in told) == sorted(index + 1 for index in set(order))


def test_telemetry_forged_on_the_way_is_forwarded_but_neither_reported_nor_delivered():
    chain = Chain()
    (frame,) = chain.frames(*data(1))
    forged = bytearray(frame)
    outer = parse_outer(frame)
    forged[outer.payload_offset + 8 + 4] ^= 0xFF  # the flow label in the telemetry option
    chain.inject(bytes(forged))
    assert chain.arrived == [bytes(forged)], "a transit device never drops"
    assert chain.exported(chain.t1) == chain.exported(chain.t2) == []
    assert chain.delivered == []
    assert chain.egress.drops == {DropReason.AUTHENTICATION_FAILED: 1}
    chain.inject(frame)
    assert len(chain.delivered) == 1, "the true packet still arrives"


def test_the_same_forgery_succeeds_without_protection():
    chain = Chain(Action.BYPASS)
    (frame,) = chain.frames(*data(1))
    forged = bytearray(frame)
    forged[parse_outer(frame).payload_offset + 8 + 4] ^= 0xFF
    chain.inject(bytes(forged))
    assert len(chain.exported(chain.t1)) == 1
    assert len(chain.delivered) == 1


def test_stripping_the_telemetry_options_is_noticed_at_the_egress():
    chain = Chain()
    (frame,) = chain.frames(*data(1))
    outer = parse_outer(frame)
    packet = outer.payload(frame)
    stripped = bytes([8]) + packet[1:8] + packet[8 + 16 + 64 :]  # the egress NVE's option is left
    chain.inject(build_frame(MAC_A, MAC_B, build_datagram(ADDRESSES["nve1"], ADDRESSES["nve2"], 50000, stripped)))
    assert chain.delivered == []
    assert chain.egress.drops == {DropReason.AUTHENTICATION_FAILED: 1}
