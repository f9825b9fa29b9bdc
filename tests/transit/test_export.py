"""Records on their way: batching and bounds of the exporter, strictness of the collector, paths."""

from __future__ import annotations

import errno
import io
import json
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from geneve.errors import ConfigError, ParseError
from transit.collector import RecordFile, parse_listen
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
        return [item.sequence for datagram in self.datagrams for item in parse_records(datagram)]


class TestExporter:
    def test_waits_for_company_but_not_long(self) -> None:
        exporter, collector = Exporter(), Collector()
        assert exporter.next_deadline() is None
        exporter.add(record(), 1.0)
        exporter.flush(1.0 + FLUSH_INTERVAL / 2, collector.send)
        assert collector.datagrams == []
        assert exporter.next_deadline() == 1.0 + FLUSH_INTERVAL
        exporter.flush(1.0 + FLUSH_INTERVAL, collector.send)
        assert collector.sequences() == [1]
        assert exporter.next_deadline() is None

    def test_full_datagrams_leave_at_once(self) -> None:
        exporter, collector = Exporter(), Collector()
        for number in range(20):
            exporter.add(record(sequence=number), 0.0)
        exporter.flush(0.0, collector.send)
        assert len(collector.datagrams) >= 2
        assert collector.sequences() == list(range(len(collector.sequences())))

    @given(st.lists(st.integers(0, 2**64 - 1), max_size=60), st.floats(0, 1))
    def test_everything_arrives_in_order_in_small_datagrams(self, sequences: list[int], gap: float) -> None:
        exporter, collector = Exporter(), Collector()
        for number, sequence in enumerate(sequences):
            exporter.add(record(sequence=sequence), number * gap)
            exporter.flush(number * gap, collector.send)
        exporter.flush(1e9, collector.send)
        assert collector.sequences() == sequences
        assert all(len(datagram) <= MAX_RECORDS_SIZE for datagram in collector.datagrams)
        assert exporter.counters()["records_sent"] == len(sequences)
        assert exporter.counters()["records_waiting"] == 0

    def test_busy_socket_keeps_the_records(self) -> None:
        exporter, collector = Exporter(), Collector([True, None])
        for number in range(20):
            exporter.add(record(sequence=number), 0.0)
        exporter.flush(1.0, collector.send)
        assert len(collector.datagrams) == 1
        exporter.flush(2.0, collector.send)
        assert collector.sequences() == list(range(20))

    def test_refused_datagrams_are_counted(self) -> None:
        exporter = Exporter()
        exporter.add(record(), 0.0)
        exporter.flush(1.0, Collector([False]).send)
        assert exporter.counters() == {
            "records_sent": 0, "records_overflowed": 0, "records_failed": 1, "records_waiting": 0,
        }  # fmt: skip

    def test_queue_is_bounded(self) -> None:
        exporter = Exporter(queue_records=3)
        for number in range(5):
            exporter.add(record(sequence=number), 0.0)
        assert exporter.overflowed == 2
        exporter.add(b"x" * MAX_RECORDS_SIZE, 0.0)
        assert exporter.overflowed == 3


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
        RecordFile(file).take([b"[" + record() + b"," + record("t2") + b"]", b"[]"])
        lines = file.getvalue().splitlines()
        assert [json.loads(line)["device"] for line in lines] == ["t1", "t2"]
        assert json.loads(lines[0]) == good()
        assert TelemetryRecord.model_validate_json(lines[0]).flow == 7

    @pytest.mark.parametrize("datagram", HOSTILE)
    def test_hostile_datagrams_are_counted_and_leave_no_trace(self, datagram: bytes) -> None:
        file = io.BytesIO()
        records = RecordFile(file)
        records.take([datagram, b"[" + record() + b"]"])
        assert records.counters == {"datagrams": 2, "records": 1, "malformed": 1, "discarded": 0, "write_failed": 0}
        assert len(file.getvalue().splitlines()) == 1

    @given(st.binary(max_size=200))
    def test_only_parse_errors_on_any_bytes(self, datagram: bytes) -> None:
        with suppress(ParseError):
            parse_records(datagram)

    def test_one_bad_record_spoils_its_datagram_only(self) -> None:
        file = io.BytesIO()
        RecordFile(file).take([b"[" + record() + b",{}]", b"[" + record() + b"]"])
        assert len(file.getvalue().splitlines()) == 1

    def test_file_is_bounded(self) -> None:
        file = io.BytesIO()
        line = len(record()) + 1
        records = RecordFile(file, max_bytes=2 * line)
        records.take([b"[" + record() + b"]"] * 5)
        assert len(file.getvalue()) == 2 * line
        assert (records.counters["records"], records.counters["discarded"]) == (2, 3)

    def test_full_disk_loses_records_and_nothing_else(self) -> None:
        datagram = b"[" + record() + b"]"
        line = len(record()) + 1
        file = Disk(space=2 * line + 10)
        records = RecordFile(file)
        for _ in range(4):
            records.take([datagram])
        assert (records.counters["records"], records.counters["write_failed"]) == (2, 2)
        assert file.getvalue() == (record() + b"\n") * 2, "no half line stays"
        file.space = 10 * line
        records.take([datagram])
        assert file.getvalue() == (record() + b"\n") * 3

    def test_half_a_line_that_cannot_be_cut_off_yet_is_cut_off_before_the_next(self) -> None:
        line = len(record()) + 1
        file = Disk(space=line + 10, truncates=False)
        records = RecordFile(file)
        for _ in range(3):
            records.take([b"[" + record() + b"]"])
        file.space = 10 * line
        records.take([b"[" + record() + b"]"])
        assert (records.counters["records"], records.counters["write_failed"]) == (1, 3)
        file.truncates = True
        records.take([b"[" + record() + b"]"])
        assert file.getvalue() == (record() + b"\n") * 2

    @pytest.mark.parametrize("found", [b"", b"{}\n", b"{}\n" + b"x" * 1400, b"half a line"])
    def test_half_a_line_of_a_killed_process_is_cut_off(self, found: bytes) -> None:
        file = io.BytesIO(found)
        RecordFile(file).take([b"[" + record() + b"]"])
        assert file.getvalue() == (b"{}\n" if b"\n" in found else b"") + record() + b"\n"

    def test_a_file_of_something_else_is_left_alone(self) -> None:
        file = io.BytesIO(b"x" * 70_000)
        with pytest.raises(ConfigError, match="choose another"):
            RecordFile(file)
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
