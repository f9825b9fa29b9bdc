"""Scapy and tshark read our plain packets as we mean them (well-formed packets only; see their limits)."""

from __future__ import annotations

import subprocess

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scapy.all import IP, UDP, Ether, split_layers, wrpcap
from scapy.contrib.geneve import GENEVE, GeneveOptions

from geneve.header import BaseHeader
from geneve.option import Option
from geneve.packet import make_packet, parse_packet
from geneve.telemetry import build_telemetry
from tests.support import udp_frame

# Importing the layer makes Scapy dissect Geneve everywhere in this process; other tests mean plain UDP.
split_layers(UDP, GENEVE, dport=6081)

words = st.integers(0, 5).flatmap(lambda n: st.binary(min_size=4 * n, max_size=4 * n))
options = st.lists(st.builds(Option, st.integers(0, 0xFFFF), st.integers(0, 0x7F), words), max_size=4)


@given(st.integers(0, 0xFFFFFF), options)
@settings(suppress_health_check=[HealthCheck.too_slow], deadline=None)
def test_scapy_reads_what_we_build(vni, found):
    packet = make_packet(BaseHeader(vni=vni), found, udp_frame())
    seen = GENEVE(packet.build())
    assert (seen.vni, seen.proto, seen.version, seen.oam, seen.critical) == (vni, 0x6558, 0, 0, 0)
    assert [(o.classid, o.type, bytes(o.data)) for o in seen.options] == [
        (o.option_class, o.type, o.data) for o in found
    ]
    assert bytes(seen.payload) == udp_frame()


def test_we_read_what_scapy_builds():
    built = GENEVE(vni=77, critical=1, options=[GeneveOptions(classid=0x0102, type=0x81, data=b"12345678")])
    packet = parse_packet(bytes(built / Ether(udp_frame())))
    assert (packet.header.vni, packet.header.critical) == (77, True)
    assert packet.options == (Option(0x0102, 0x81, b"12345678"),)
    assert packet.payload == udp_frame()


@pytest.mark.parametrize("option", [b"", build_telemetry(0x01020304, 5)])
def test_tshark_dissects_without_complaint(tmp_path, option):
    found = [Option(0xFF60, 2, option[4:])] if option else []
    payload = make_packet(BaseHeader(vni=0xABCDEF), found, udp_frame()).build()
    path = tmp_path / "plain.pcap"
    wrpcap(str(path), Ether(src="02:00:00:00:00:0a", dst="02:00:00:00:00:0b")
           / IP(src="192.168.1.1", dst="192.168.1.2") / UDP(sport=50000, dport=6081) / payload)  # fmt: skip
    fields = ["geneve.vni", "geneve.proto_type", "geneve.option.class", "ip.src", "udp.dstport", "_ws.malformed"]
    argv = ["tshark", "-r", str(path), "-T", "fields", "-E", "separator=;"]
    for field in fields:
        argv += ["-e", field]
    done = subprocess.run(argv, capture_output=True, text=True, check=True, timeout=60)
    option_class = "0xff60" if option else ""
    assert done.stdout.strip("\n") == f"0xabcdef;0x6558;{option_class};192.168.1.1,10.0.0.1;6081,5000;"
