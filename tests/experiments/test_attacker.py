"""The attackers' logic without a network: what leaves in place of each frame, and what is logged."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from experiments.attack_frames import moved_to_vni
from experiments.attacker import OnPath, forge, main
from experiments.capture import CaptureReader
from experiments.traffic import parse_message
from experiments.view import view
from geneve.packet import Packet
from geneve.telemetry import Telemetry, parse_telemetry
from tests.experiments.channel_packets import KINDS, OPAQUE, geneve, protected
from tests.experiments.test_attack_frames import open_message, packet_in, plain_frame
from tests.transit.builders import DESTINATION, SOURCE, make_sealer, sealed, underlay_frame
from topologies import sandbox

SIZE = len(open_message())
TARGET = {"source": SOURCE, "destination": DESTINATION, "vni": 100, "size": SIZE}
FRAME = plain_frame(open_message())
OTHERS = [plain_frame(open_message(250)), moved_to_vni(FRAME, packet_in(FRAME), 200), open_message(), b"", b"\xff" * 80]


class _Wire:
    def __init__(self, refuse: bool = False) -> None:
        self.sent: list[tuple[int, bytes]] = []
        self._refuse = refuse

    def __call__(self, port: int, frame: bytes) -> bool:
        if not self._refuse:
            self.sent.append((port, frame))
        return not self._refuse


def order(attack: str, **fields: Any) -> dict[str, Any]:
    return {"do": "begin", "attack": attack, "limit": 100, "target": TARGET, **fields}


def begun(attack: str, wire: _Wire | None = None, capture: Path | None = None, **fields: Any) -> OnPath:
    attacker = OnPath(wire or _Wire(), capture)
    attacker.command(order(attack, **fields))
    return attacker


EXTRA = {"vni": 200, "flow": 5, "first_sequence": 1000}
ATTACKS = ("observe", "sniff", "modify", "replay", "cross_vni", "forge_telemetry", "add_telemetry")


def test_without_an_order_every_frame_passes_as_it_is() -> None:
    attacker = OnPath(_Wire())
    assert [attacker.transform(frame, 0) for frame in (FRAME, *OTHERS)] == [[frame] for frame in (FRAME, *OTHERS)]
    assert attacker.command({"do": "status"}) == {"seen": 0, "events": [], "security": None}


@pytest.mark.parametrize("attack", ATTACKS)
def test_what_is_no_target_passes_as_it_is(attack: str) -> None:
    attacker = begun(attack, **EXTRA)
    assert [attacker.transform(frame, 0) for frame in OTHERS] == [[frame] for frame in OTHERS]
    assert attacker.command({"do": "end"}) == {"seen": 0, "events": [], "security": None}


@pytest.mark.parametrize("attack", ATTACKS)
def test_no_more_targets_than_asked_for_are_attacked(attack: str) -> None:
    attacker = begun(attack, limit=2, **EXTRA)
    left = [attacker.transform(FRAME, 0) for _ in range(5)]
    assert all(len(frames) == 1 for frames in left)
    assert left[2:] == [[FRAME]] * 3
    assert attacker.command({"do": "status"})["seen"] == 2


@pytest.mark.parametrize("attack", ATTACKS)
def test_after_the_end_every_frame_passes_and_the_next_attack_begins_anew(attack: str) -> None:
    attacker = begun(attack, **EXTRA)
    attacker.transform(FRAME, 0)
    assert attacker.command({"do": "end"})["seen"] == 1
    assert attacker.transform(FRAME, 0) == [FRAME]
    assert attacker.command(order("observe")) == {"seen": 0, "events": [], "security": None}


@pytest.mark.parametrize("attack", ["observe", "sniff", "replay"])
def test_passive_attacks_change_nothing(attack: str) -> None:
    assert begun(attack).transform(FRAME, 0) == [FRAME]


def test_observing_reads_the_last_spi_and_sequence() -> None:
    sealer = make_sealer(())
    packets = [sealed(sealer, sequence=n) for n in (1, 2)]
    size = len(packet_in(underlay_frame(packets[0])).payload)
    attacker = begun("observe", target={**TARGET, "size": size})
    for packet in packets:
        attacker.transform(underlay_frame(packet), 0)
    assert attacker.command({"do": "end"}) == {"seen": 2, "events": [], "security": (1000, 2)}


def test_modify_sends_one_changed_frame_in_place_of_each() -> None:
    attacker = begun("modify")
    [changed] = attacker.transform(FRAME, 0)
    assert changed != FRAME
    assert packet_in(changed).payload != packet_in(FRAME).payload
    assert attacker.command({"do": "end"})["events"] == [{"altered_bytes": len(FRAME)}]


def test_cross_vni_sends_the_copy_in_place_of_the_original() -> None:
    attacker = begun("cross_vni", vni=200)
    [moved] = attacker.transform(FRAME, 1)
    assert packet_in(moved).header.vni == 200
    assert packet_in(moved).payload == packet_in(FRAME).payload
    assert attacker.command({"do": "end"})["events"] == [{"vni": 200}]


@pytest.mark.parametrize("attack", ["forge_telemetry", "add_telemetry"])
def test_every_false_record_has_a_sequence_number_of_its_own(attack: str) -> None:
    attacker = begun(attack, flow=5, first_sequence=1000)
    frames = [frame for _ in range(3) for frame in attacker.transform(FRAME, 0)]
    carried = [parse_telemetry(option) for frame in frames for option in packet_in(frame).options]
    events = attacker.command({"do": "end"})["events"]
    assert [(entry.flow, entry.sequence) for entry in carried] == [(5, 1001), (5, 1002), (5, 1003)]
    assert [(event["flow"], event["sequence"]) for event in events] == [(5, 1001), (5, 1002), (5, 1003)]


def test_only_added_telemetry_takes_the_protection_off() -> None:
    def options(attack: str) -> int:
        frame = underlay_frame(sealed(make_sealer()))
        attacker = begun(attack, target={**TARGET, "size": len(packet_in(frame).payload)}, **EXTRA)
        [changed] = attacker.transform(frame, 0)
        return len(packet_in(changed).options)

    assert (options("forge_telemetry"), options("add_telemetry")) == (3, 1)


class TestReplay:
    def test_recorded_frames_leave_again_on_the_same_side_once(self) -> None:
        wire = _Wire()
        attacker = begun("replay", wire)
        attacker.transform(FRAME, 0)
        attacker.transform(FRAME, 1)
        assert wire.sent == []
        assert attacker.command({"do": "release"})["events"] == [{"replayed_bytes": len(FRAME)}] * 2
        assert wire.sent == [(1, FRAME), (0, FRAME)]
        attacker.command({"do": "release"})
        assert len(wire.sent) == 2

    def test_what_the_kernel_refused_was_not_replayed(self) -> None:
        attacker = begun("replay", _Wire(refuse=True))
        attacker.transform(FRAME, 0)
        assert attacker.command({"do": "release"})["events"] == []

    def test_frames_of_an_attack_before_are_not_sent(self) -> None:
        wire = _Wire()
        attacker = begun("replay", wire)
        attacker.transform(FRAME, 0)
        attacker.command(order("replay"))
        attacker.command({"do": "release"})
        assert wire.sent == []


class TestSniff:
    def test_targets_are_in_the_capture_and_nothing_else(self, tmp_path: Path) -> None:
        path = tmp_path / "eve.pcap"
        attacker = begun("sniff", capture=path)
        for frame in (FRAME, *OTHERS, FRAME):
            attacker.transform(frame, 0)
        with CaptureReader(path) as reader:
            assert [frame.data for frame in reader] == [FRAME, FRAME]
        assert attacker.command({"do": "end"})["events"] == [{"captured_bytes": len(FRAME)}] * 2

    def test_what_was_not_captured_is_not_logged(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("experiments.attacker.MAX_CAPTURED", 1)
        attacker = begun("sniff", capture=tmp_path / "eve.pcap")
        for _ in range(3):
            attacker.transform(FRAME, 0)
        assert len(attacker.command({"do": "end"})["events"]) == 1
        assert begun("sniff").command({"do": "end"})["events"] == []


@pytest.mark.parametrize("wrong", [{"do": "dance"}, {"attack": "sniff"}])
def test_wrong_commands_are_errors(wrong: dict[str, Any]) -> None:
    with pytest.raises((ValueError, KeyError)):
        OnPath(_Wire()).command(wrong)


def test_an_unknown_attack_is_an_error() -> None:
    with pytest.raises(ValueError, match="unknown attack 'bribe'"):
        begun("bribe").transform(FRAME, 0)


class TestInject:
    ADDRESSES = {
        "outer_destination_mac": "02:aa:00:00:00:02", "outer_source": SOURCE, "outer_destination": DESTINATION,
        "inner_source_mac": "02:00:00:00:00:01", "inner_destination_mac": "02:00:00:00:00:02",
        "inner_source": "10.0.0.1", "inner_destination": "10.0.0.2",
    }  # fmt: skip

    def frames(self, variant: str, carrier: str = "geneve", **more: Any) -> tuple[list[bytes], list[dict[str, Any]]]:
        frames, events = forge({
            "count": 3, "label": "inject", "trial": 4, "size": 300, "variant": variant, "spis": [9], "sequence": 50,
            "vni": 100, "addresses": self.ADDRESSES, "carrier": carrier, "encrypts": True, **more,
        }, "02:ee:00:00:00:01")  # fmt: skip
        assert all(frame[6:12].hex() == "02ee00000001" for frame in frames)
        return frames, events

    def packets(self, variant: str) -> tuple[list[Packet], list[dict[str, Any]]]:
        frames, events = self.frames(variant)
        return [packet_in(frame) for frame in frames], events

    def test_every_message_is_logged_as_it_is_sent(self) -> None:
        packets, events = self.packets("plain")
        payloads = [bytes.fromhex(event["payload"]) for event in events]
        assert all(packet.payload.endswith(text) for packet, text in zip(packets, payloads, strict=True))
        found = [parse_message(payload) for payload in payloads]
        assert [(m.label, m.trial, m.index) for m in found if m] == [("inject", 4, n) for n in range(3)]
        assert all(packet.options == () for packet in packets)

    @pytest.mark.parametrize("variant", ["unknown_spi", "observed_spi"])
    def test_made_up_protection_counts_on(self, variant: str) -> None:
        packets, events = self.packets(variant)
        heads = [packet.options[0].data[:12] for packet in packets]
        assert heads == [(9).to_bytes(4, "big") + (50 + n).to_bytes(8, "big") for n in range(3)]
        assert {event["variant"] for event in events} == {variant}

    @pytest.mark.parametrize("carrier", ["esp", "esp-udp", "ah", "dtls"])
    def test_made_up_packets_of_channels_count_on_and_take_spis_in_turn(self, carrier: str) -> None:
        frames, events = self.frames("unknown_spi", carrier, spis=[9, 0x77])
        seen = [view(frame) for frame in frames]
        assert [(read.carrier.value, read.spi, read.sequence) for read in seen if read] == [
            (carrier, 9, 50), (carrier, 0x77, 51), (carrier, 9, 52),
        ]  # fmt: skip
        assert all(bytes.fromhex(event["payload"]) in frame for frame, event in zip(frames, events, strict=True))

    def test_plain_geneve_is_what_it_is_in_every_mode(self) -> None:
        frames, _ = self.frames("plain", "esp")
        assert all(packet_in(frame).options == () for frame in frames)

    @pytest.mark.parametrize("variant", ["alert", "hello_request", "client_hello"])
    def test_records_of_sessions_bring_no_message(self, variant: str) -> None:
        frames, events = self.frames(variant, "dtls")
        assert events == [{"variant": variant}] * 3
        assert [(read.carrier.value, read.data) for frame in frames if (read := view(frame))] == [("dtls", False)] * 3


CHANNEL_KINDS = [kind for kind in KINDS if kind != "none"]
MESSAGE = open_message()
CHANNEL_TARGET = {"source": SOURCE, "destination": DESTINATION, "vni": 100, "size": SIZE}


def channel_frame(kind: str, checksum: bool = True) -> bytes:
    """A tenant's message with a telemetry option in front, under a channel."""
    packet = geneve(MESSAGE, options=(Telemetry(7, 8).option(),))
    return protected(kind, packet, 5, SOURCE, DESTINATION, checksum=checksum)


@pytest.mark.parametrize("kind", CHANNEL_KINDS)
def test_false_telemetry_inside_a_channel_keeps_the_packet_s_length(kind: str) -> None:
    frame = channel_frame(kind)
    attacker = begun("forge_telemetry", target=CHANNEL_TARGET, flow=5, first_sequence=1000)
    [changed] = attacker.transform(frame, 0)
    assert attacker.command({"do": "end"})["events"] == [{"flow": 5, "sequence": 1001}]
    assert (changed != frame, len(changed)) == (True, len(frame))
    read = view(changed)
    assert read is not None
    assert read.opaque == (kind in OPAQUE)
    if read.packet is not None:
        [option] = read.packet.options
        assert parse_telemetry(option) == Telemetry(5, 1001)
        assert read.packet.payload == MESSAGE


@pytest.mark.parametrize("kind", CHANNEL_KINDS)
def test_added_telemetry_takes_the_channel_s_place_as_plain_geneve(kind: str) -> None:
    attacker = begun("add_telemetry", target=CHANNEL_TARGET, flow=5, first_sequence=1000)
    [changed] = attacker.transform(channel_frame(kind), 0)
    packet = packet_in(changed)
    read = view(changed)
    assert read is not None
    assert (read.channel, read.source, read.destination, packet.header.vni) == (False, SOURCE, DESTINATION, 100)
    assert [parse_telemetry(option) for option in packet.options] == [Telemetry(5, 1001)]
    assert len(packet.payload) == SIZE
    assert (packet.payload == MESSAGE) == (kind not in OPAQUE)


def test_a_readable_packet_without_telemetry_is_changed_all_the_same() -> None:
    frame = protected("ah", geneve(MESSAGE), 5, SOURCE, DESTINATION)
    attacker = begun("forge_telemetry", target=CHANNEL_TARGET, flow=5, first_sequence=1000)
    [changed] = attacker.transform(frame, 0)
    assert (changed != frame, len(changed)) == (True, len(frame))


def test_it_refuses_to_run_outside_a_sandbox(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sandbox, "within", lambda: False)
    monkeypatch.setattr("experiments.attacker.run_off_path", lambda _interface: pytest.fail("it ran"))
    assert main(["off-path", "lo"]) == 2
    assert "refused: attacks run in the testbed's sandbox only" in capsys.readouterr().err


def test_the_number_of_interfaces_must_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sandbox, "within", lambda: True)
    for arguments in (["on-path", "a"], ["off-path", "a", "b"], ["on-path", "a", "b", "c"]):
        with pytest.raises(SystemExit) as caught:
            main(arguments)
        assert caught.value.code == 2
