"""Runs in namespaces of its own: two transit devices in a row, and datagrams that stand for many packets.

They are put on the first wire with a virtio header, as the kernel does for UDP_SEGMENT, and read from the last one:
with a virtio header, where nothing may have changed, and with segmentation off at the last device's interface, where
every packet must be the one that the sender meant. Prints one JSON document: faults, and the devices' statistics.
"""

from __future__ import annotations

import json
import signal
import socket
import struct
import subprocess
import tempfile
from pathlib import Path
from typing import Any

from geneve.outer import internet_checksum, locate
from geneve.telemetry import build_telemetry
from geneve.vnet import GSO_TCPV4, NEEDS_CHECKSUM, PLAIN, VnetHeader, parse_vnet
from tests.live.relay_inside import End, ask, ip, start, wait_for_stats
from tests.transit.builders import MAC_A, MAC_B, device_state, make_sealer, plain, sealed, super_frame
from transit.segments import cut

TAG = ((0x8100, 9),)


class WholeEnd(End):
    """The far end of a veth pair, that speaks virtio headers."""

    def __init__(self, interface: str) -> None:
        super().__init__(interface)
        self.socket.setsockopt(263, 15, 1)  # SOL_PACKET, PACKET_VNET_HDR

    def send(self, frame: bytes, header: VnetHeader) -> None:
        self.socket.send(header.build() + frame)

    def receive_whole(self) -> tuple[bytes, VnetHeader] | None:
        found = self._receive_raw()
        return None if found is None else (found[10:], parse_vnet(found))

    def _receive_raw(self) -> bytes | None:
        self.socket.settimeout(2.0)
        while True:
            try:
                data, control, _, address = self.socket.recvmsg(70_000, 128)
            except TimeoutError:
                return None
            if address[2] == socket.PACKET_OUTGOING:
                continue
            status, _, _, _, _, tci, tpid = struct.unpack("=IIIHHHH", control[0][2])
            if status & 0x10:
                data = data[:22] + struct.pack("!HH", tpid, tci) + data[22:]
                header = parse_vnet(data)
                moved = {"header_size": header.header_size + 4} if header.gso_type else {}
                moved |= {"checksum_start": header.checksum_start + 4} if header.flags & 1 else {}
                data = header._replace(**moved).build() + data[10:]
            return data


def build() -> tuple[WholeEnd, WholeEnd, End]:
    for scope in ("all", "default"):
        Path(f"/proc/sys/net/ipv6/conf/{scope}/disable_ipv6").write_text("1")
    ip("link", "set", "lo", "up")
    for pair in ("a", "m", "b"):
        ip("link", "add", f"{pair}0", "mtu", "1600", "type", "veth", "peer", "name", f"{pair}1", "mtu", "1600")
        for side in "01":
            ip("link", "set", f"{pair}{side}", "arp", "off", "up")
    return WholeEnd("a0"), WholeEnd("b0"), End("b0")


def datagrams() -> list[tuple[bytes, VnetHeader, int]]:
    """Frame, virtio header and gso size of super-datagrams: IPv4, IPv6, tagged, 64 KiB, a short last packet."""
    sealer = make_sealer(("t1", "t2"))
    made = []
    for count, source, tags, last in (
        (2, "192.168.1.1", (), 0), (5, "192.168.1.1", TAG, 0), (40, "192.168.1.1", (), 3), (3, "fd00:6081::1", (), 0),
        (4, "fd00:6081::1", TAG, 7),
    ):  # fmt: skip
        packets = [sealed(sealer, flow=1, sequence=number) for number in range(count)]
        if last:
            packets[-1] = packets[-1][:-last]
        made.append((*super_frame(packets, source, tags, identification=0xFFFE), len(packets[0])))
    big = [plain(options=build_telemetry(1, number)) + bytes(1361) for number in range(45)]
    assert sum(map(len, big)) > 60_000
    made.append((*super_frame(big), len(big[0])))
    return made


def partial() -> tuple[bytes, VnetHeader]:
    """One packet whose checksum is left to whoever segments."""
    frame, header = super_frame([sealed(make_sealer())])
    return frame, header._replace(gso_type=0, gso_size=0, header_size=0)


def tcp_super_frame() -> tuple[bytes, VnetHeader]:
    """A TCP super-frame: none of a transit device's business."""
    payload = bytes(range(256)) * 20
    addresses = bytes([192, 168, 1, 1, 192, 168, 1, 2])
    tcp = struct.pack("!HHIIBBHHH", 80, 90, 1, 2, 0x50, 0x10, 1000, 0, 0)
    size = len(tcp) + len(payload)
    pseudo = 0xFFFF - internet_checksum(addresses + struct.pack("!HH", 6, size))
    tcp = tcp[:16] + struct.pack("!H", pseudo) + tcp[18:]
    head = struct.pack("!BBHHHBBH", 0x45, 0, 20 + size, 1, 0, 64, 6, 0) + addresses
    head = head[:10] + struct.pack("!H", internet_checksum(head)) + head[12:]
    return MAC_B + MAC_A + b"\x08\x00" + head + tcp + payload, VnetHeader(NEEDS_CHECKSUM, GSO_TCPV4, 54, 1000, 34, 16)


def check_udp(frame: bytes) -> bool:
    """Whether the UDP checksum of a single packet is right, by RFC 768's own arithmetic."""
    network, transport, end = locate(frame) or (0, 0, 0)
    addresses = frame[network + 12 : network + 20] if frame[network] >> 4 == 4 else frame[network + 8 : network + 40]
    summed = addresses + struct.pack("!IHH", end - transport, 0, 17) + frame[transport:end]
    return internet_checksum(summed) == 0


def cross_whole(left: WholeEnd, right: WholeEnd) -> list[str]:
    faults = []
    for number, (frame, header) in enumerate([*(d[:2] for d in datagrams()), partial(), tcp_super_frame()]):
        left.send(frame, header)
        received = right.receive_whole()
        # The header size is a hint of the kernel's, and the kernel does not keep it.
        if received is None or (received[0], received[1]._replace(header_size=header.header_size)) != (frame, header):
            faults.append(f"whole {number}: sent {header}, got {received and (received[1], len(received[0]))}")
    return faults


def cross_wire(left: WholeEnd, right: End, gso: bool) -> list[str]:
    """What a real wire would carry: packets of exactly the bytes that the sender meant."""
    faults = []
    for number, (frame, header, size) in enumerate(datagrams()):
        expected = cut(frame, locate(frame), size, partial=True)
        if gso:
            left.send(frame, header)
        else:
            for single in expected:
                left.send(single, PLAIN)
        received = [right.receive() for _ in expected]
        if received != expected:
            faults.append(f"wire {number}: {len(expected)} packets, got {[r and len(r) for r in received][:9]}")
        if not all(check_udp(packet) for packet in received if packet):
            faults.append(f"wire {number}: wrong checksums")
    return faults


def run(folder: Path, offloads: dict[str, bool], work: Any) -> tuple[list[str], list[dict[str, Any]]]:
    """Start both devices, do ``work``, and return its faults and the devices' statistics."""
    devices, sockets = [], []
    for name, interfaces in (("t1", ["a1", "m0"]), ("t2", ["m1", "b1"])):
        config, stats = folder / f"{name}.json", str(folder / f"{name}.stats")
        content = {
            "name": name, "interfaces": interfaces, "stats": stats, "offloads": offloads,
            "static_state": device_state(name, vnis=()).to_wire(),
        }  # fmt: skip
        config.touch(0o600)
        config.write_text(json.dumps(content))
        devices.append(start("transit", "--config", str(config)))
        sockets.append(stats)
    try:
        for path, device in zip(sockets, devices, strict=True):
            wait_for_stats(path, device)
        return work(), [ask(path) for path in sockets]
    finally:
        for device in devices:
            device.send_signal(signal.SIGTERM)
            device.wait(20)


def main() -> None:
    left, whole, wire = build()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        faults, first = run(folder, {}, lambda: cross_whole(left, whole))
        while wire.receive() is not None:
            pass
        subprocess.run(["ethtool", "-K", "b1", "gso", "off", "tx", "off", "tx-udp-segmentation", "off"], check=True,
                       capture_output=True)  # fmt: skip
        more, second = run(folder, {}, lambda: cross_wire(left, wire, gso=True))
        rest, third = run(folder, {"vnet_header": False}, lambda: cross_wire(left, wire, gso=False))
    print(json.dumps({"faults": [*faults, *more, *rest], "whole": first, "wire": second, "plain": third}))


if __name__ == "__main__":
    main()
