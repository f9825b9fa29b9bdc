"""Bit-for-bit pass-through, as a property; frames that group policy refuses; records only for packets that went on."""

from __future__ import annotations

import json
from collections.abc import Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from geneve.control.rules import TagRule, Verdict
from geneve.control.state import TransitVni
from geneve.export import ExportOpener, ExportSealer, Opened
from geneve.tags import build_tag
from geneve.telemetry import build_telemetry
from geneve.vnet import PLAIN_BYTES
from tests.transit.builders import NOW_NS, device_state, make_sealer, plain, sealed, underlay_frame
from transit.config import Impair
from transit.device import TransitDevice
from transit.exporter import Exporter
from transit.forwarder import Forwarder
from transit.records import parse_records

UNPROVEN = plain(vni=200, options=build_telemetry(1, 2))
SENT_NS = NOW_NS + 5000
ONE_TO_TWO = TagRule(source=1, destination=2, verdict=Verdict.PERMIT)


class Wire:
    """Two ports that remember what was sent out of them; ``up`` says whether sending works."""

    def __init__(self, impair: Impair | None = None) -> None:
        self.out: tuple[list[bytes], list[bytes]] = ([], [])
        self.up = True
        self.device = TransitDevice("t1")
        control = TransitVni(vni=200, telemetry=True, authenticated=False)
        self.device.apply(device_state(vnis=(TransitVni(vni=100, telemetry=True), control)))
        self.exporter = Exporter(ExportSealer("t1", bytes(32), bytes(16)))
        self.opener = ExportOpener({"t1": bytes(32)})
        send = (lambda frame: self._send(0, frame), lambda frame: self._send(1, frame))
        self.forwarder = Forwarder(self.device, self.exporter, impair, send, lambda: SENT_NS)

    def _send(self, port: int, frame: bytes) -> bool:
        if self.up:
            self.out[port].append(frame)
        return self.up

    def receive(self, frames: Iterable[tuple[bytes, int]], ingress: int, now: float) -> None:
        """Have frames, each with its receive time in ns, come in as they are on a wire."""
        self.forwarder.take(((frame, received_ns, PLAIN_BYTES) for frame, received_ns in frames), ingress, now)

    def records(self) -> list[dict[str, object]]:
        datagrams: list[bytes] = []

        def collect(datagram: bytes) -> bool:
            datagrams.append(datagram)
            return True

        self.exporter.flush(1e9, collect)
        opened = [self.opener.open(datagram) for datagram in datagrams]
        return [record for item in opened if isinstance(item, Opened) for record in json.loads(item.payload)]


geneve_frames = st.one_of(
    st.binary(max_size=120).map(underlay_frame),
    st.builds(
        lambda position, damage: underlay_frame(
            (packet := sealed(make_sealer()))[:position] + damage + packet[position + len(damage) :]
        ),
        st.integers(0, 60),
        st.binary(max_size=4),
    ),
    st.binary(max_size=60).map(lambda rest: underlay_frame(UNPROVEN + rest)),
)
frames_of_any_kind = st.one_of(st.binary(max_size=1600), geneve_frames)
any_frames = st.lists(st.tuples(frames_of_any_kind, st.integers(0, 1)), max_size=8)


@given(any_frames)
def test_without_group_policy_every_frame_passes_bit_for_bit_and_in_order(frames: list[tuple[bytes, int]]) -> None:
    wire = Wire()
    for frame, ingress in frames:
        wire.receive([(frame, NOW_NS)], ingress, 0.0)
    for ingress in (0, 1):
        assert wire.out[1 - ingress] == [frame for frame, port in frames if port == ingress]


@given(any_frames)
def test_a_delay_changes_the_time_only(frames: list[tuple[bytes, int]]) -> None:
    wire = Wire(Impair(delay_ms=10.0, jitter_ms=5.0))
    for number, (frame, ingress) in enumerate(frames):
        wire.receive([(frame, NOW_NS)], ingress, number / 1000)
    while (deadline := wire.forwarder.next_deadline()) is not None:
        wire.forwarder.run_due(deadline)
    for ingress in (0, 1):
        assert wire.out[1 - ingress] == [frame for frame, port in frames if port == ingress]


def test_record_of_a_packet_that_went_on() -> None:
    wire = Wire()
    wire.receive([(underlay_frame(sealed(make_sealer(), 7, 8)), NOW_NS)], 0, 0.0)
    (record,) = wire.records()
    assert record == {
        "device": "t1",
        "ingress_ns": NOW_NS,
        "egress_ns": SENT_NS,
        "vni": 100,
        "flow": 7,
        "sequence": 8,
        "sender": "nve1",
        "authenticated": True,
        "source": "192.168.1.1",
        "destination": "192.168.1.2",
    }
    assert parse_records(json.dumps([record]).encode())[0].sender == "nve1"


def test_unauthenticated_record_names_no_sender() -> None:
    wire = Wire()
    frame = underlay_frame(UNPROVEN)
    wire.receive([(frame, NOW_NS)], 0, 0.0)
    (record,) = wire.records()
    assert (record["sender"], record["authenticated"]) == (None, False)


def test_no_record_of_a_packet_that_was_lost_or_not_sent() -> None:
    frame = underlay_frame(sealed(make_sealer()))
    lossy = Wire(Impair(loss=1.0))
    lossy.receive([(frame, NOW_NS)], 0, 0.0)
    assert lossy.out == ([], [])
    assert lossy.records() == []
    assert {name: count for name, count in lossy.forwarder.drops().items() if count} == {"impair_loss": 1}
    broken = Wire()
    broken.up = False
    broken.receive([(frame, NOW_NS)], 0, 0.0)
    assert broken.records() == []


def test_two_devices_in_a_row() -> None:
    first, second = Wire(), Wire()
    second.device = TransitDevice("t2")
    second.device.apply(device_state("t2"))
    second.forwarder.device = second.device
    first.receive([(underlay_frame(sealed(make_sealer(("t1", "t2")))), NOW_NS)], 0, 0.0)
    second.receive([(frame, NOW_NS + 1) for frame in first.out[1]], 0, 0.0)
    assert [record["device"] for record in first.records() + second.records()] == ["t1", "t2"]


@pytest.mark.parametrize("impair", [None, Impair(delay_ms=1.0)])
def test_what_group_policy_refuses_is_not_sent_and_counted(impair: Impair | None) -> None:
    wire = Wire(impair)
    permit = TransitVni(vni=200, telemetry=True, authenticated=False, group_policy=(ONE_TO_TWO,))
    wire.device.apply(device_state(vnis=(TransitVni(vni=100, telemetry=True), permit)))
    telemetry = build_telemetry(1, 2)
    arriving = [
        underlay_frame(plain(vni=200, options=options))
        for options in (build_tag(1, 2) + telemetry, build_tag(2, 1) + telemetry, telemetry, build_tag(1, 2))
    ]
    other = underlay_frame(sealed(make_sealer())[:-1])
    wire.receive([(frame, NOW_NS) for frame in [*arriving, other]], 0, 0.0)
    wire.forwarder.run_due(1.0)
    assert wire.out == ([], [arriving[0], arriving[3], other])
    counted = wire.forwarder.drops()
    assert {name: count for name, count in counted.items() if count} == {"tag_denied": 1, "tag_missing": 1}
    assert [record["vni"] for record in wire.records()].count(200) == 1
    assert counted["authentication_failed"] == 0, "counted as an outcome, and forwarded"
