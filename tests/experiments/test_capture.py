"""Captures are read to the last whole packet, and Geneve is found in them."""

from __future__ import annotations

from pathlib import Path

import pytest
from scapy.layers.l2 import Ether
from scapy.utils import wrpcap

from experiments.capture import CaptureReader, geneve_frames
from experiments.capture_file import CaptureError
from tests.experiments.synthetic import DESTINATION, SOURCE, geneve_frame, pcap


def _frames(path: Path) -> tuple[list[bytes], bool]:
    with CaptureReader(path) as reader:
        return [frame.data for frame in reader], reader.truncated


def test_every_cut_gives_the_whole_packets_before_it(tmp_path: Path) -> None:
    frames = [geneve_frame(bytes(60)), geneve_frame(bytes(80))]
    whole = pcap(frames)
    path = tmp_path / "cut.pcap"
    first_end = 24 + 16 + len(frames[0])
    for size in range(24, len(whole) + 1):
        path.write_bytes(whole[:size])
        expected = frames[: (size >= first_end) + (size == len(whole))]
        assert _frames(path) == (expected, size not in (24, first_end, len(whole)))


def test_an_empty_file_is_a_cut_capture(tmp_path: Path) -> None:
    path = tmp_path / "empty.pcap"
    path.write_bytes(b"")
    assert _frames(path) == ([], True)


def test_scapys_own_files_are_read(tmp_path: Path) -> None:
    frame = geneve_frame(bytes(100), option_bytes=16)
    path = tmp_path / "scapy.pcap"
    wrpcap(str(path), [Ether(frame)])
    [found] = geneve_frames(path)
    assert (found.source, found.destination, found.wire_length) == (SOURCE, DESTINATION, len(frame))
    assert found.packet.header.opt_len == 16


def test_big_endian_and_nanoseconds(tmp_path: Path) -> None:
    path = tmp_path / "other.pcap"
    header = bytes.fromhex("a1b23c4d 0002 0004 00000000 00000000 0000ffff 00000001")
    record = (5).to_bytes(4, "big") + (500_000_000).to_bytes(4, "big") + bytes([0, 0, 0, 2] * 2) + b"ab"
    path.write_bytes(header + record)
    with CaptureReader(path) as reader:
        [frame] = list(reader)
    assert frame.data == b"ab"
    assert frame.timestamp == pytest.approx(5.5)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"\x0a\x0b\x0c\x0d" + bytes(40), "neither pcap nor pcapng"),
        (pcap([])[:20] + b"\x71\0\0\0", "link type 113"),
        (pcap([]) + bytes(8) + b"\xff\xff\xff\x7f" * 2, "damaged"),
    ],
)
def test_what_is_no_capture_is_refused_by_name(tmp_path: Path, content: bytes, words: str) -> None:
    path = tmp_path / "bad.pcap"
    path.write_bytes(content)
    with pytest.raises(CaptureError, match=words) as caught:
        _frames(path)
    assert "bad.pcap" in str(caught.value)


def test_filters_and_foreign_frames(tmp_path: Path) -> None:
    path = tmp_path / "mixed.pcap"
    damaged = bytearray(geneve_frame(bytes(60)))
    damaged[42] = 0x3F  # Opt Len says 252 bytes, there are 60
    path.write_bytes(pcap([b"\0" * 60, geneve_frame(b"a" * 60, vni=1), geneve_frame(b"b" * 60, vni=2), bytes(damaged)]))
    assert [found.packet.payload[:1] for found in geneve_frames(path)] == [b"a", b"b"]
    assert len(geneve_frames(path, vni=2)) == 1
    assert geneve_frames(path, source="10.9.9.9") == []
