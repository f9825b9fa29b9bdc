"""Captures of every form are read; damaged ones give what stands in front of the damage, and never a traceback."""

from __future__ import annotations

import gzip
import struct
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from experiments.audit.capture_audit import audit_capture
from experiments.capture_file import MAX_FRAME, CaptureError, CaptureFile, Record
from tests.experiments.audit import captures

FRAMES = captures.ovn(6)


def read(tmp_path: Path, data: bytes) -> tuple[list[Record], CaptureFile]:
    path = tmp_path / "a.cap"
    path.write_bytes(data)
    with CaptureFile(path) as capture:
        return list(capture), capture


def agree(records: list[Record], frames: list[captures.Timed], linktype: int = 1, resolution: float = 1e-6) -> None:
    assert [record[0] for record in records] == list(range(1, len(frames) + 1))
    assert [record[3] for record in records] == [frame for _, frame in frames]
    assert {record[2] for record in records} == {linktype}
    assert all(abs(record[1] - time) <= 2 * resolution for record, (time, _) in zip(records, frames, strict=True))


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("nano", [False, True])
@pytest.mark.parametrize("zipped", [False, True])
def test_classic_files(tmp_path: Path, order: str, nano: bool, zipped: bool) -> None:
    data = captures.pcap(FRAMES, order, nano)
    records, capture = read(tmp_path, gzip.compress(data) if zipped else data)
    agree(records, FRAMES)
    assert capture.damage == ""
    assert capture.format == ("pcap (gzip)" if zipped else "pcap")


@pytest.mark.parametrize("order", ["<", ">"])
def test_pcapng(tmp_path: Path, order: str) -> None:
    records, capture = read(tmp_path, captures.pcapng(FRAMES, order))
    agree(records, FRAMES)
    assert (capture.damage, capture.format) == ("", "pcapng")


def test_sections_interfaces_and_unknown_blocks(tmp_path: Path) -> None:
    """Two sections of different byte order, two interfaces of different link types and resolutions, strange blocks."""
    one, two, three, four, five, six = (frame for _, frame in FRAMES)
    data = (
        captures.section("<") + captures.interface("<", 1) + captures.block("<", 0x12345678, b"strange" * 1000)
        + captures.enhanced(one, 10.0) + captures.interface("<", 101, resolution=9)
        + captures.enhanced(two, 11.5, index=1, unit=1e-9) + captures.simple(three)
        + captures.section(">") + captures.interface(">", 276, resolution=0x80 | 10)
        + captures.enhanced(four, 12.25, ">", unit=2.0**-10) + captures.obsolete(five, 7.0, ">", index=3)
        + captures.block(">", 5, bytes(8)) + captures.enhanced(six, 13.0, ">", unit=2.0**-10)
    )  # fmt: skip
    records, capture = read(tmp_path, data)
    assert [(n, t, link) for n, t, link, _, _ in records] == [
        (1, 10.0, 1), (2, pytest.approx(11.5), 101), (3, pytest.approx(11.5), 1), (4, 12.25, 276), (6, 13.0, 276),
    ]  # fmt: skip
    assert [record[3] for record in records] == [one, two, three, four, six]
    assert capture.nameless == 1, "frame 5 belongs to an interface that nobody described"
    assert capture.damage == ""


def test_blocks_that_wireshark_numbers_are_counted(tmp_path: Path) -> None:
    """As tshark 4.0 does: journal entries, sysdig events and custom blocks are frames, name resolution is none."""
    extra = [captures.block("<", kind, bytes(24)) for kind in (9, 0x204, 0x0BAD, 0x40000BAD, 4, 5, 10)]
    data = captures.section() + captures.interface() + b"".join(extra) + captures.enhanced(FRAMES[0][1], 1.0)
    ((number, *_),) = read(tmp_path, data)[0]
    assert number == 5


def test_obsolete_packet_blocks(tmp_path: Path) -> None:
    data = captures.section() + captures.interface() + b"".join(captures.obsolete(f, t) for t, f in FRAMES)
    agree(read(tmp_path, data)[0], FRAMES)


def test_a_simple_packet_is_as_long_as_the_interface_takes(tmp_path: Path) -> None:
    frame = FRAMES[0][1]
    body = struct.pack("<I", len(frame)) + frame[:64]
    data = captures.section() + captures.interface(snaplen=64) + captures.block("<", 3, body)
    ((_, _, _, kept, wire),) = read(tmp_path, data)[0]
    assert (kept, wire) == (frame[:64], len(frame))


def test_time_offsets_of_interfaces(tmp_path: Path) -> None:
    options = struct.pack("<HHqHH", 14, 8, 1_000_000, 0, 0)
    described = captures.block("<", 1, struct.pack("<HHI", 1, 0, 0) + options)
    ((_, time, *_),) = read(tmp_path, captures.section() + described + captures.enhanced(FRAMES[0][1], 5.0))[0]
    assert time == 1_000_005.0


@pytest.mark.parametrize("make", [captures.pcap, captures.pcapng], ids=["pcap", "pcapng"])
def test_a_cut_anywhere_leaves_the_whole_frames_before_it(tmp_path: Path, make: object) -> None:
    frames = [(time, frame[:80]) for time, frame in FRAMES[:3]]
    whole = make(frames)  # type: ignore[operator]
    counts = []
    for size in range(4, len(whole) + 1):
        records, capture = read(tmp_path, whole[:size])
        agree_with = frames[: len(records)]
        assert [record[3] for record in records] == [frame for _, frame in agree_with]
        counts.append(len(records))
        ends = {len(make(frames[:n])) for n in range(4)}  # type: ignore[operator]
        sections = {len(captures.section())} if make is captures.pcapng else set()
        assert bool(capture.damage) == (size not in ends | sections), size
    assert counts[-1] == 3
    assert sorted(counts) == counts


@pytest.mark.parametrize("size", range(0, 4000, 97))
def test_a_cut_gzip_file(tmp_path: Path, size: int) -> None:
    data = gzip.compress(captures.pcap(captures.ovn(20)))
    path = tmp_path / "a.gz"
    path.write_bytes(data[:size])
    try:
        result = audit_capture(path)
    except CaptureError:
        assert size < 200, "the start of the file could be read"
        return
    assert (result.finding("damaged-file") is not None) == (size < len(data))


def test_a_claim_of_more_than_a_frame_can_have_is_damage(tmp_path: Path) -> None:
    data = captures.pcap(FRAMES[:2]) + struct.pack("<IIII", 0, 0, MAX_FRAME + 1, 60) + bytes(100)
    records, capture = read(tmp_path, data)
    assert len(records) == 2
    assert "frame 3" in capture.damage


@pytest.mark.parametrize(
    ("data", "complaint"),
    [(b"", "is empty"), (b"PK\x03\x04rest", "neither pcap nor pcapng"), (b"\x0a", "neither pcap"),
     (b"\x1f\x8bnonsense", "gzip")],
)  # fmt: skip
def test_what_is_no_capture_is_refused_in_one_sentence(tmp_path: Path, data: bytes, complaint: str) -> None:
    with pytest.raises(CaptureError, match=complaint):
        read(tmp_path, data)


def test_a_missing_file_is_refused_in_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(CaptureError, match="cannot be read"):
        audit_capture(tmp_path / "gone.pcap")
    with pytest.raises(CaptureError, match="cannot be read"):
        audit_capture(tmp_path)


def survives(path: Path, data: bytes) -> None:
    path.write_bytes(data)
    try:
        result = audit_capture(path)
    except CaptureError:
        return
    assert len(result.judgements) == 10


_SLOW = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
_STARTS = [b"", captures.pcap([]), captures.pcap([], ">", True), captures.section() + captures.interface(),
           captures.section(">") + captures.interface(">", 276), b"\x1f\x8b"]  # fmt: skip


@_SLOW
@given(start=st.sampled_from(_STARTS), rest=st.binary(max_size=2000))
def test_any_bytes(tmp_path: Path, start: bytes, rest: bytes) -> None:
    survives(tmp_path / "f", start + rest)


@_SLOW
@given(data=st.data())
def test_flipped_bits(tmp_path: Path, data: st.DataObject) -> None:
    source = bytearray(data.draw(st.sampled_from([captures.pcap(FRAMES), captures.pcapng(FRAMES, ">")])))
    for _ in range(data.draw(st.integers(1, 12))):
        source[data.draw(st.integers(0, len(source) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    survives(tmp_path / "f", bytes(source))


@_SLOW
@given(linktype=st.sampled_from([0, 1, 12, 101, 108, 113, 228, 229, 276, 147]), frame=st.binary(max_size=300))
def test_any_frame_of_any_link_type(tmp_path: Path, linktype: int, frame: bytes) -> None:
    survives(tmp_path / "f", captures.pcap([(1.0, frame)] * 2, linktype=linktype))
