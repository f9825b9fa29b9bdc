"""Packets that eve brings into another tunnel: nothing but their outer destination changes."""

from __future__ import annotations

import pytest
from scapy.layers.inet import IP, UDP
from scapy.layers.l2 import Ether

from experiments.attacker import OnPath
from experiments.channel_frames import redirected
from experiments.view import view
from tests.experiments.channel_packets import KINDS, geneve, protected
from tests.support import udp_frame

MAC = "02:00:00:00:00:09"
ENDS = [("192.168.1.1", "192.168.1.2", "192.168.1.3"), ("fd00::1", "fd00::2", "fd00::3")]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("ends", ENDS, ids=["IPv4", "IPv6"])
def test_a_packet_brought_to_another_node_is_the_same_behind_its_outer_headers(kind, ends):
    source, first, second = ends
    frame = protected(kind, geneve(udp_frame()), 7, source, first, checksum=":" in source)
    before = view(frame)
    moved = redirected(frame, before, second, MAC)
    read = view(moved)
    assert moved[:6] == bytes.fromhex(MAC.replace(":", ""))
    assert (read.source, read.destination) == (source, second)
    assert moved[read.start :] == frame[before.start :]
    layers = Ether(moved)
    for layer in (IP, UDP):
        if layer in layers and layers[layer].chksum:
            told = layers[layer].chksum
            layers[layer].chksum = None
            assert Ether(bytes(layers))[layer].chksum == told


@pytest.mark.parametrize("kind", KINDS)
def test_eve_brings_a_copy_and_lets_the_packet_pass(kind):
    frame = protected(kind, geneve(udp_frame()), 7)
    eve = OnPath(lambda _port, _frame: True)
    size = len(udp_frame())
    target = {"source": "192.168.1.1", "destination": "192.168.1.2", "vni": 100, "size": size}
    eve.command({"do": "begin", "attack": "redirect", "limit": 1, "target": target, "destination": "192.168.1.3",
                 "mac": MAC})  # fmt: skip
    passed, brought = eve.transform(frame, 0)
    assert passed == frame
    assert view(brought).destination == "192.168.1.3"
    assert eve.transform(frame, 0) == [frame]
    assert eve.command({"do": "end"})["seen"] == 1
