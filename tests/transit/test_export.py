"""Records on their way: batching and bounds of the exporter, strictness of the collector, paths."""

from __future__ import annotations

import errno
import io
import json
import os
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from geneve.errors import ConfigError, ParseError
from geneve.export import ExportOpener, ExportSealer, Opened
from transit.collector import RecordFile, main, parse_listen
from transit.export_keys import read_key, read_keys
from transit.exporter import FLUSH_INTERVAL, Exporter
from transit.records import MAX_RECORDS_SIZE, Observation, TelemetryRecord, parse_records
from transit.telemetry_paths import paths


def observation(sequence: int = 1, **fields: Any) -> Observation:
    values: dict[str, Any] = {
        "ingress_port": 0, "ingress_ns": 1000, "vni": 100, "flow": 7, "sequence": sequence,
        "sender": "nve1", "source": "192.168.1.1", "destination": "192.168.1.2",
    }  # fmt: skip
    return Observation(**{**values, **fields})


def record(device: str = "t1", egress_ns: int = 2000, **fields: Any) -> bytes:
    return observation(**fields).record(device, egress_ns)


KEYS = {"t1": bytes(32), "t2": bytes(range(32))}


def sealer(device: str = "t1", instance: int = 1) -> ExportSealer:
    return ExportSealer(device, KEYS[device], bytes([instance]) * 16)


def opener() -> ExportOpener:
    return ExportOpener(KEYS)


class Collector:
    def __init__(self, answers: list[bool | None] | None = None) -> None:
        self.datagrams: list[bytes] = []
        self.answers = answers or []

    def send(self, datagram: bytes) -> bool | None:
        answer = self.answers.pop(0) if self.answers else True
        if answer:
            self.datagrams.append(datagram)
        return answer

    def sequences(self) -> list[int]:
        receiver = opener()
        opened = [receiver.open(datagram) for datagram in self.datagrams]
        assert all(isinstance(item, Opened) for item in opened)
        return [record.sequence for item in opened for record in parse_records(item.payload)]


class TestExporter:
    def test_waits_for_company_but_not_long(self) -> None:
        exporter, collector = Exporter(sealer()), Collector()
        assert exporter.next_deadline() is None
        exporter.add(record(), 1.0)
        exporter.flush(1.0 + FLUSH_INTERVAL / 2, collector.send)
        assert collector.datagrams == []
        assert exporter.next_deadline() == 1.0 + FLUSH_INTERVAL
        exporter.flush(1.0 + FLUSH_INTERVAL, collector.send)
        assert collector.sequences() == [1]
        assert exporter.next_deadline() is None

    def test_full_datagrams_leave_at_once(self) -> None:
        exporter, collector = Exporter(sealer()), Collector()
        for number in range(20):
            exporter.add(record(sequence=number), 0.0)
        exporter.flush(0.0, collector.send)
        assert len(collector.datagrams) >= 2
        assert collector.sequences() == list(range(len(collector.sequences())))

    @given(st.lists(st.integers(0, 2**64 - 1), max_size=60), st.floats(0, 1))
    def test_everything_arrives_in_order_in_small_datagrams(self, sequences: list[int], gap: float) -> None:
        exporter, collector = Exporter(sealer()), Collector()
        for number, sequence in enumerate(sequences):
            exporter.add(record(sequence=sequence), number * gap)
            exporter.flush(number * gap, collector.send)
        exporter.flush(1e9, collector.send)
        assert collector.sequences() == sequences
        assert all(len(datagram) <= MAX_RECORDS_SIZE for datagram in collector.datagrams)
        assert exporter.counters()["records_sent"] == len(sequences)
        assert exporter.counters()["records_waiting"] == 0

    def test_busy_socket_keeps_the_records(self) -> None:
        exporter, collector = Exporter(sealer()), Collector([True, None])
        for number in range(20):
            exporter.add(record(sequence=number), 0.0)
        exporter.flush(1.0, collector.send)
        assert len(collector.datagrams) == 1
        exporter.flush(2.0, collector.send)
        assert collector.sequences() == list(range(20))

    def test_refused_datagrams_are_counted(self) -> None:
        exporter = Exporter(sealer())
        exporter.add(record(), 0.0)
        exporter.flush(1.0, Collector([False]).send)
        assert exporter.counters() == {
            "records_sent": 0, "records_overflowed": 0, "records_failed": 1, "records_waiting": 0,
        }  # fmt: skip

    def test_a_busy_socket_never_makes_a_number_seal_two_things(self) -> None:
        seen: list[bytes] = []

        def send(datagram: bytes) -> bool | None:
            seen.append(datagram)
            return None if len(seen) % 2 else True

        exporter = Exporter(sealer())
        for number in range(20):
            exporter.add(record(sequence=number), 0.0)
            exporter.flush(number * 1.0, send)
        numbers = [datagram[20:28] for datagram in seen]
        assert len(numbers) > 2
        assert len(set(numbers)) == len(numbers)

    def test_a_worn_out_seal_loses_records_and_does_no_harm(self) -> None:
        exporter, collector = Exporter(worn := sealer()), Collector()
        worn._sequence = 2**48
        exporter.add(record(), 0.0)
        exporter.flush(1.0, collector.send)
        assert (collector.datagrams, exporter.failed) == ([], 1)

    def test_queue_is_bounded(self) -> None:
        exporter = Exporter(sealer(), queue_records=3)
        for number in range(5):
            exporter.add(record(sequence=number), 0.0)
        assert exporter.overflowed == 2
        exporter = Exporter(sealer())
        exporter.add(b"x" * (MAX_RECORDS_SIZE - sealer().overhead - 1), 0.0)
        assert exporter.overflowed == 1
        exporter.add(b"x" * (MAX_RECORDS_SIZE - sealer().overhead - 2), 0.0)
        exporter.flush(1.0, (collector := Collector()).send)
        assert [len(datagram) for datagram in collector.datagrams] == [MAX_RECORDS_SIZE]


def good() -> dict[str, Any]:
    parsed: dict[str, Any] = json.loads(record())
    return parsed


HOSTILE: list[bytes] = [
    b"", b"{}", b"null", b"[", b"[[]]", b"[null]", b"\xff\xfe", b"[" * 700, b"\x00" * 1400,
    json.dumps([{**good(), "extra": 1}]).encode(),
    json.dumps([{**good(), "vni": 2**24}]).encode(),
    json.dumps([{**good(), "vni": "100"}]).encode(),
    json.dumps([{**good(), "vni": True}]).encode(),
    json.dumps([{**good(), "flow": -1}]).encode(),
    json.dumps([{**good(), "sequence": 2**64}]).encode(),
    json.dumps([{**good(), "sequence": 1.5}]).encode(),
    json.dumps([{**good(), "device": "t1\n{}"}]).encode(),
    json.dumps([{**good(), "device": "x" * 33}]).encode(),
    json.dumps([{**good(), "sender": None}]).encode(),
    json.dumps([{**good(), "authenticated": False}]).encode(),
    json.dumps([{**good(), "egress_ns": 1}]).encode(),
    json.dumps([{**good(), "source": "example.org"}]).encode(),
    json.dumps([{key: value for key, value in good().items() if key != "flow"}]).encode(),
    json.dumps([good()] * 10).encode(),
]  # fmt: skip


class Disk(io.BytesIO):
    """A file on a disk with ``space`` bytes; what does not fit is written in part, as a kernel does."""

    def __init__(self, space: int, truncates: bool = True) -> None:
        super().__init__()
        self.space = space
        self.truncates = truncates

    def write(self, data: Any, /) -> int:
        room = self.space - self.tell()
        if room <= 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        return super().write(bytes(data[:room]))

    def truncate(self, size: int | None = None, /) -> int:
        if not self.truncates:
            raise OSError(errno.EIO, "Input/output error")
        return super().truncate(size)


class TestCollector:
    def test_writes_one_line_for_each_record(self) -> None:
        file = io.BytesIO()
        device, other = sealer(), sealer("t2")
        RecordFile(file, opener()).take([
            device.seal(b"[" + record() + b"]"), other.seal(b"[" + record("t2") + b"]"), device.seal(b"[]"),
        ])  # fmt: skip
        lines = file.getvalue().splitlines()
        assert [json.loads(line)["device"] for line in lines] == ["t1", "t2"]
        assert json.loads(lines[0]) == good()
        assert TelemetryRecord.model_validate_json(lines[0]).flow == 7

    @pytest.mark.parametrize("payload", HOSTILE)
    def test_hostile_datagrams_are_counted_and_leave_no_trace(self, payload: bytes) -> None:
        file = io.BytesIO()
        records, device = RecordFile(file, opener()), sealer()
        records.take([device.seal(payload), device.seal(b"[" + record() + b"]")])
        assert records.counters == {"datagrams": 2, "records": 1}
        assert {name: count for name, count in records.drops.items() if count} == {"malformed": 1}
        assert len(file.getvalue().splitlines()) == 1

    @pytest.mark.parametrize(
        ("datagram", "reason"),
        [
            (b"[" + record() + b"]", "malformed"),
            (b"", "malformed"),
            (sealer().seal(b"[" + record() + b"]" + b" " * 1400), "malformed"),
            (ExportSealer("t3", bytes(32), bytes(16)).seal(b"[" + record("t3") + b"]"), "unknown_device"),
            (ExportSealer("t1", bytes(31) + b"x", bytes(16)).seal(b"[" + record() + b"]"), "authentication_failed"),
            (sealer("t2").seal(b"[" + record("t1") + b"]"), "wrong_device"),
            (sealer("t2").seal(b"[" + record("t2") + b"," + record("t1") + b"]"), "wrong_device"),
        ],
    )
    def test_only_a_device_reports_for_itself(self, datagram: bytes, reason: str) -> None:
        file = io.BytesIO()
        records = RecordFile(file, opener())
        records.take([datagram])
        assert file.getvalue() == b""
        assert {name: count for name, count in records.drops.items() if count} == {reason: 1}

    def test_a_replayed_datagram_adds_nothing(self) -> None:
        file = io.BytesIO()
        records, datagram = RecordFile(file, opener()), sealer().seal(b"[" + record() + b"]")
        records.take([datagram, datagram])
        records.take([datagram])
        assert file.getvalue() == record() + b"\n"
        assert records.drops["replayed"] == 2

    @given(st.binary(max_size=200))
    def test_only_parse_errors_on_any_bytes(self, datagram: bytes) -> None:
        with suppress(ParseError):
            parse_records(datagram)

    def test_one_bad_record_spoils_its_datagram_only(self) -> None:
        file = io.BytesIO()
        device = sealer()
        RecordFile(file, opener()).take([device.seal(b"[" + record() + b",{}]"), device.seal(b"[" + record() + b"]")])
        assert len(file.getvalue().splitlines()) == 1

    def test_file_is_bounded(self) -> None:
        file = io.BytesIO()
        line = len(record()) + 1
        records, device = RecordFile(file, opener(), max_bytes=2 * line), sealer()
        records.take([device.seal(b"[" + record() + b"]") for _ in range(5)])
        assert len(file.getvalue()) == 2 * line
        assert (records.counters["records"], records.drops["discarded"]) == (2, 3)

    def test_full_disk_loses_records_and_nothing_else(self) -> None:
        device = sealer()
        line = len(record()) + 1
        file = Disk(space=2 * line + 10)
        records = RecordFile(file, opener())
        for _ in range(4):
            records.take([device.seal(b"[" + record() + b"]")])
        assert (records.counters["records"], records.drops["write_failed"]) == (2, 2)
        assert file.getvalue() == (record() + b"\n") * 2, "no half line stays"
        file.space = 10 * line
        records.take([device.seal(b"[" + record() + b"]")])
        assert file.getvalue() == (record() + b"\n") * 3

    def test_half_a_line_that_cannot_be_cut_off_yet_is_cut_off_before_the_next(self) -> None:
        line = len(record()) + 1
        file = Disk(space=line + 10, truncates=False)
        records, device = RecordFile(file, opener()), sealer()
        for _ in range(3):
            records.take([device.seal(b"[" + record() + b"]")])
        file.space = 10 * line
        records.take([device.seal(b"[" + record() + b"]")])
        assert (records.counters["records"], records.drops["write_failed"]) == (1, 3)
        file.truncates = True
        records.take([device.seal(b"[" + record() + b"]")])
        assert file.getvalue() == (record() + b"\n") * 2

    @pytest.mark.parametrize("found", [b"", b"{}\n", b"{}\n" + b"x" * 1400, b"half a line"])
    def test_half_a_line_of_a_killed_process_is_cut_off(self, found: bytes) -> None:
        file = io.BytesIO(found)
        RecordFile(file, opener()).take([sealer().seal(b"[" + record() + b"]")])
        assert file.getvalue() == (b"{}\n" if b"\n" in found else b"") + record() + b"\n"

    def test_a_file_of_something_else_is_left_alone(self) -> None:
        file = io.BytesIO(b"x" * 70_000)
        with pytest.raises(ConfigError, match="choose another"):
            RecordFile(file, opener())
        assert file.getvalue() == b"x" * 70_000

    @pytest.mark.parametrize(
        ("text", "expected"),
        [("192.168.0.100:6082", ("192.168.0.100", 6082)), ("[fd00::1]:1", ("fd00::1", 1))],
    )
    def test_listen_addresses(self, text: str, expected: tuple[str, int]) -> None:
        assert parse_listen(text) == expected

    @pytest.mark.parametrize("text", ["", "host:1", "1.2.3.4", "1.2.3.4:0", "1.2.3.4:65536", ":1", "::1:x"])
    def test_bad_listen_addresses(self, text: str) -> None:
        with pytest.raises(ConfigError, match="expected ADDRESS:PORT"):
            parse_listen(text)


class TestKeys:
    def folder(self, tmp_path: Path, **files: str) -> Path:
        for name, text in files.items():
            path = tmp_path / f"{name}.key"
            path.write_text(text)
            path.chmod(0o600)
        return tmp_path

    def test_one_file_for_each_device(self, tmp_path: Path) -> None:
        folder = self.folder(tmp_path, t1="00" * 32, t2=bytes(range(32)).hex() + "\n")
        (folder / "notes.txt").write_text("x")
        assert read_keys(folder) == KEYS

    @pytest.mark.parametrize("text", ["", "00" * 31, "00" * 33, "xx" * 32, "00" * 32 + " 00", "0" * 64 + "\u00e9"])
    def test_bad_keys_give_one_sentence_without_the_key(self, tmp_path: Path, text: str) -> None:
        with pytest.raises(ConfigError, match=r"t1\.key: expected a key of 32 bytes as 64 hex digits\.$"):
            read_keys(self.folder(tmp_path, t1=text))

    @pytest.mark.parametrize("mode", [0o644, 0o640, 0o604, 0o620, 0o601])
    def test_keys_must_not_lie_open(self, tmp_path: Path, mode: int) -> None:
        folder = self.folder(tmp_path, t1="00" * 32)
        (folder / "t1.key").chmod(mode)
        with pytest.raises(ConfigError, match="chmod 600"):
            read_keys(folder)

    def test_what_is_no_file_or_no_name(self, tmp_path: Path) -> None:
        os.mkfifo(tmp_path / "t1.key", 0o600)
        with pytest.raises(ConfigError, match="is no file"):
            read_key(tmp_path / "t1.key")
        (tmp_path / "t1.key").unlink()
        with pytest.raises(ConfigError, match="cannot be read"):
            read_key(tmp_path / "t1.key")
        with pytest.raises(ConfigError, match="no device's name"):
            read_keys(self.folder(tmp_path, **{"1 t": "00" * 32}))

    def test_the_program_refuses_to_run_without_keys(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        argv = ["--listen", "127.0.0.1:6082", "--output", str(tmp_path / "out"), "--keys"]
        assert read_keys(tmp_path) == {}, "a network may have no transit device"
        assert main([*argv, str(tmp_path / "none")]) == 2
        assert "cannot be read" in capsys.readouterr().err
        assert not (tmp_path / "out").exists()


def hop(device: str, ingress_ns: int, egress_ns: int, sequence: int = 1, **fields: Any) -> TelemetryRecord:
    return TelemetryRecord.model_validate_json(
        record(device, egress_ns, ingress_ns=ingress_ns, sequence=sequence, **fields)
    )


class TestPaths:
    def test_devices_in_order_with_times(self) -> None:
        found = paths([hop("t2", 500, 560), hop("t1", 100, 130), hop("t1", 1100, 1150, 2), hop("t2", 1500, 1580, 2)])
        path = found[100, 7]
        assert path.devices == ("t1", "t2")
        assert (path.packets, path.other_packets) == (2, 0)
        assert (path.hops[0].link_ns, path.hops[0].inside_ns) == (None, 40)
        assert (path.hops[1].link_ns, path.hops[1].inside_ns) == (360, 70)

    def test_flows_and_vnis_are_kept_apart(self) -> None:
        found = paths([hop("t1", 1, 2), hop("t2", 5, 6, flow=8), hop("t3", 7, 8, vni=200)])
        assert {key: path.devices for key, path in found.items()} == {
            (100, 7): ("t1",), (100, 8): ("t2",), (200, 7): ("t3",),
        }  # fmt: skip

    def test_same_numbers_of_two_senders_are_not_one_packet(self) -> None:
        path = paths([hop("t1", 1, 2), hop("t2", 5, 6, sender="nve2")])[100, 7]
        assert len(path.hops) == 1

    def test_rerouted_packets_are_counted(self) -> None:
        records = [hop("t1", 10 * n, 10 * n + 1, n) for n in range(5)] + [hop("t3", 99, 100, 9)]
        path = paths(records)[100, 7]
        assert (path.devices, path.packets, path.other_packets) == (("t1",), 5, 1)

    def test_repeated_reports_count_once(self) -> None:
        path = paths([hop("t1", 1, 2), hop("t1", 1000, 2000)])[100, 7]
        assert path.hops[0].inside_ns == 1

    def test_nothing_seen(self) -> None:
        assert paths([]) == {}


def test_egress_is_never_before_ingress() -> None:
    assert parse_records(b"[" + record(egress_ns=1) + b"]")[0].egress_ns == 1000
