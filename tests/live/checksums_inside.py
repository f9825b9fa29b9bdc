"""Runs in namespaces of its own: two NVEs, a wire between them, tenants that send in bulk, every packet looked at.

The sender's end of the wire has no offloads, so what is captured at its far end is what a real one would carry. The
same for the last hop to the receiving tenant, whose kernel then checks every sum itself. Prints one JSON document for
each IP version of the underlay and each profile, and one of a network with all offloads, where the same judge must find
unfinished packets; tests/live/test_checksums.py judges them.
"""

from __future__ import annotations

import ctypes
import hashlib
import ipaddress
import json
import random
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from geneve.control.rules import Action
from geneve.control.state import NodeState
from geneve.outer import internet_checksum, locate
from geneve.overhead import tenant_mtu
from geneve.security.association import InboundAssociation
from geneve.security.open import Opened, PacketOpener
from tests.live.relay_inside import ask, ip, wait_for_stats
from tests.support import ADDRESSES, CLEAR, IPS, MACS, node_state

UNDERLAY_MTU = 1500
SIDES = {"nve1": "h1", "nve2": "h2"}
"""An NVE and its tenant, each in a network namespace of that name."""
PORT = 7000
TCP_BYTES = 2_000_000
UDP_SEGMENT = 103
SO_RCVBUFFORCE = 33
CLONE_NEWNET = 0x40000000
CLASSES = {6: "tcp", 17: "udp"}
OFF = ("tx", "off", "tso", "off", "gso", "off", "tx-udp-segmentation", "off")


def in_node(node: str, *argv: str) -> str:
    return subprocess.run(["ip", "netns", "exec", node, *argv], check=True, capture_output=True, text=True).stdout


def socket_in(node: str, *kind: int) -> socket.socket:
    """Return a socket of another network namespace, where it stays."""
    libc = ctypes.CDLL(None, use_errno=True)
    with open("/proc/thread-self/ns/net") as here, open(f"/run/netns/{node}") as there:
        for namespace in (there, here):
            if libc.setns(namespace.fileno(), CLONE_NEWNET):
                raise OSError(ctypes.get_errno(), "setns")
            if namespace is there:
                made = socket.socket(*kind)
    return made


class Capture:
    """All frames that come in at an interface."""

    def __init__(self, node: str, interface: str) -> None:
        index = int(in_node(node, "cat", f"/sys/class/net/{interface}/ifindex"))
        self._socket = socket_in(node, socket.AF_PACKET, socket.SOCK_RAW, 0)
        self._socket.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, 1 << 28)
        self._socket.setblocking(False)
        # Bound by hand: the interface's name means nothing in this namespace.
        address = struct.pack("=HHiHBB8s", socket.AF_PACKET, socket.htons(3), index, 0, 0, 0, bytes(8))
        if ctypes.CDLL(None).bind(self._socket.fileno(), address, len(address)):
            raise OSError("bind")

    def take(self) -> list[bytes]:
        frames: list[bytes] = []
        while True:
            try:
                frame, address = self._socket.recvfrom(70_000)
            except BlockingIOError:
                return frames
            if address[2] != socket.PACKET_OUTGOING:
                frames.append(frame)

    def close(self) -> None:
        self._socket.close()


def build(family: int, finished: bool) -> None:
    for name in (*SIDES, *SIDES.values()):
        ip("netns", "add", name)
        ip("-n", name, "link", "set", "lo", "up")
    ip("link", "add", "wire", "netns", "nve1", "type", "veth", "peer", "name", "wire", "netns", "nve2")
    for nve, host in SIDES.items():
        address = underlay(nve, family)
        in_node(nve, "ip", "address", "add", f"{address}/64" if family == 6 else f"{address}/24", "dev", "wire",
                *(["nodad"] if family == 6 else []))  # fmt: skip
        in_node(nve, "ip", "link", "set", "wire", "up")
        peer = ("type", "veth", "peer", "name", "port", "netns", nve)
        ip("link", "add", "e0", "netns", host, "address", MACS[nve], *peer)
        for own, prefix, flags in zip(IPS[nve], (24, 64), ([], ["nodad"]), strict=True):
            in_node(host, "ip", "address", "add", f"{own}/{prefix}", "dev", "e0", *flags)
    if finished:
        in_node("nve1", "ethtool", "-K", "wire", *OFF)
        in_node("nve2", "ethtool", "-K", "port", *OFF)


def underlay(nve: str, family: int) -> str:
    return ADDRESSES[nve].replace("192.168.1.", "fd00:6081::") if family == 6 else ADDRESSES[nve]


def state_of(nve: str, family: int, secured: bool) -> NodeState:
    """The state of an NVE under ``none``, or under a profile that authenticates everything and encrypts nothing."""
    action = Action.SECURE if secured else Action.BYPASS
    made = node_state(nve, action, CLEAR, nves=tuple(SIDES)).to_wire()
    text = json.dumps(made)
    for name in SIDES:
        text = text.replace(ADDRESSES[name], underlay(name, family))
    state = NodeState.model_validate_json(text)
    mtu = tenant_mtu(UNDERLAY_MTU, family, 32 if secured else 0)
    return state.model_copy(update={"vnis": (state.vnis[0].model_copy(update={"mtu": mtu}),)})


@contextmanager
def running(family: int, secured: bool, folder: Path) -> Iterator[dict[str, str]]:
    """Both NVEs; gives the paths of their statistics."""
    started: list[subprocess.Popen[bytes]] = []
    paths = {}
    try:
        for nve in SIDES:
            config, paths[nve] = folder / f"{nve}.json", str(folder / f"{nve}.stats")
            state = state_of(nve, family, secured)
            config.touch(0o600)
            config.write_text(json.dumps({
                "name": nve, "underlay": {"address": underlay(nve, family), "mtu": UNDERLAY_MTU},
                "vnis": [{"vni": 100, "ports": ["port"]}], "static_state": state.to_wire(), "stats": paths[nve],
                "sequence_file": str(folder / f"{nve}.numbers"),
            }))  # fmt: skip
            argv = ["ip", "netns", "exec", nve, sys.executable, "-m", "nve", "--config", str(config)]
            started.append(subprocess.Popen(argv))
            wait_for_stats(paths[nve], started[-1])
            mtu = str(state.vnis[0].mtu)
            in_node(SIDES[nve], "ip", "link", "set", "e0", "mtu", mtu, "up")
        yield paths
    finally:
        for process in started:
            process.send_signal(signal.SIGTERM)
            process.wait(20)


# --- what the tenants send -------------------------------------------------------------------


def send_tcp(version: int, data: bytes) -> bool:
    """One connection from h1 to h2; whether what arrives is what was sent."""
    kind = socket.AF_INET6 if version == 6 else socket.AF_INET
    address = IPS["nve2"][version == 6]
    got = hashlib.sha256()

    def receive() -> None:
        connection, _ = server.accept()
        with connection:
            connection.settimeout(20)
            while chunk := connection.recv(1 << 16):
                got.update(chunk)

    with socket_in("h2", kind, socket.SOCK_STREAM) as server, socket_in("h1", kind, socket.SOCK_STREAM) as client:
        server.settimeout(20)
        client.settimeout(20)
        server.bind((address, PORT))
        server.listen(1)
        thread = threading.Thread(target=receive)
        thread.start()
        client.connect((address, PORT))
        client.sendall(data)
        client.shutdown(socket.SHUT_WR)
        thread.join()
    return got.digest() == hashlib.sha256(data).digest()


def send_udp(version: int, chance: random.Random) -> bool:
    """Datagrams that h1's kernel is given in one piece, and single ones; whether all arrive, as they were sent."""
    kind = socket.AF_INET6 if version == 6 else socket.AF_INET
    address = IPS["nve2"][version == 6]
    with socket_in("h2", kind, socket.SOCK_DGRAM) as receiver, socket_in("h1", kind, socket.SOCK_DGRAM) as sender:
        receiver.bind((address, PORT))
        receiver.settimeout(20)
        sender.connect((address, PORT))
        lots = ((1200, 40, 7), (1, 60, 0), (333, 30, 100), (1201, 5, 0), *((size, 1, 0) for size in range(40)))
        for size, count, last in lots:
            datagrams = [chance.randbytes(size) for _ in range(count)]
            datagrams += [chance.randbytes(last)] if last else []
            control = [(socket.IPPROTO_UDP, UDP_SEGMENT, struct.pack("=H", size))] if count > 1 else []
            sender.sendmsg([b"".join(datagrams)], control)
            # Each lot is waited for, so none is lost for want of room in a queue.
            if [receiver.recv(2000) for _ in datagrams] != datagrams:
                return False
    return True


# --- what is looked at -----------------------------------------------------------------------


def sums_hold(packet: bytes) -> tuple[str, bool] | None:
    """Return the kind of an IP packet, and whether its checksums are there and right; None without a kind."""
    if packet[0] >> 4 == 4:
        start, end, protocol, addresses = (packet[0] & 15) * 4, struct.unpack_from("!H", packet, 2)[0], packet[9], 12
        header_holds = internet_checksum(packet[:start]) == 0
    else:
        start, end, protocol, addresses = 40, 40 + struct.unpack_from("!H", packet, 4)[0], packet[6], 8
        header_holds = True
    if protocol not in CLASSES:
        return None
    size = end - start
    pseudo = packet[addresses : 40 if addresses == 8 else 20] + struct.pack("!IHH", size, 0, protocol)
    there = packet[start + 6 : start + 8] if protocol == 17 else b"tcp"
    holds = header_holds and any(there) and internet_checksum(pseudo + packet[start:end]) == 0
    return f"{CLASSES[protocol]}{packet[0] >> 4}", holds


def look_at_wire(frames: list[bytes], family: int, secured: bool) -> dict[str, Any]:
    """Judge packets between the NVEs. RFC 8926, section 3.3: the outer UDP checksum should be there over IPv4, and must
    over IPv6; none is left out here."""
    held = state_of("nve2", family, secured).inbound
    opener = PacketOpener(InboundAssociation(item, CLEAR) for item in held)
    source = ipaddress.ip_address(underlay("nve1", family)).packed
    faults, inner, numbers, largest = [], Counter[str](), set(), 0
    geneve = []
    for frame in frames:
        found = locate(frame)
        if found is None or frame[found[1] + 2 : found[1] + 4] != struct.pack("!H", 6081):
            continue
        geneve.append(frame)
        network, transport, end = found
        largest = max(largest, len(frame) - network)
        if sums_hold(frame[network:]) != (f"udp{family}", True):
            faults.append(f"outer sums of packet {len(geneve)}")
        payload = frame[transport + 8 : end]
        opened = opener.open(payload, source)
        if not isinstance(opened, Opened) or (opened.association is not None) != secured:
            faults.append(f"packet {len(geneve)}: {opened}")
            continue
        numbers.add(payload[16:24])
        faults += look_at_frame(opened.frame, inner, len(geneve))
    return {
        "packets": len(geneve), "faults": faults, "inner": inner, "largest": largest,
        "numbers": len(numbers) if secured else None,
    }  # fmt: skip


def look_at_frame(frame: bytes, kinds: Counter[str], number: int) -> list[str]:
    """Count a tenant's frame by what it is; return what is wrong with it."""
    if frame[12:14] not in (b"\x08\x00", b"\x86\xdd"):
        return []
    seen = sums_hold(frame[14:])
    if seen is None:
        return []
    kinds[seen[0]] += 1
    return [] if seen[1] else [f"sums of {seen[0]} in frame {number}"]


def look_at_tenant(frames: list[bytes]) -> dict[str, Any]:
    kinds = Counter[str]()
    faults = [fault for number, frame in enumerate(frames) for fault in look_at_frame(frame, kinds, number)]
    return {"frames": kinds, "faults": faults, "largest": max(len(frame) for frame in frames) - 14}


def kernel_errors() -> dict[str, int]:
    """What the receiving tenant's kernel found wrong."""
    told = json.loads(in_node("h2", "nstat", "-aszj"))["kernel"]
    names = ("TcpInCsumErrors", "UdpInCsumErrors", "Udp6InCsumErrors", "TcpInErrs", "IpInHdrErrors")
    return {name: told[name] for name in names}


def tap_frames(nve: str, direction: str) -> int:
    """How often the kernel and the NVE handed each other a frame, however many it stands for."""
    return int(in_node(nve, "cat", f"/sys/class/net/tap100/statistics/{direction}_packets"))


def examine(family: int, secured: bool, finished: bool = True) -> dict[str, Any]:
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        build(family, finished)
        stack.callback(lambda: [ip("netns", "del", name) for name in (*SIDES, *SIDES.values())])
        paths = stack.enter_context(running(family, secured, folder))
        wire, tenant = Capture("nve2", "wire"), Capture("h2", "e0")
        for capture in (wire, tenant):
            stack.callback(capture.close)
        chance = random.Random(7)
        arrived = {}
        for version in (4, 6):
            arrived[f"tcp{version}"] = send_tcp(version, chance.randbytes(TCP_BYTES))
            arrived[f"udp{version}"] = send_udp(version, chance)
        stats = {nve: ask(path) for nve, path in paths.items()}
        return {
            "arrived": arrived, "mtu": tenant_mtu(UNDERLAY_MTU, family, 32 if secured else 0),
            "wire": look_at_wire(wire.take(), family, secured), "tenant": look_at_tenant(tenant.take()),
            "kernel": kernel_errors(), "offloads": {nve: stats[nve]["offloads"] for nve in SIDES},
            "drops": {nve: stats[nve]["drops"] for nve in SIDES},
            "from_kernel": tap_frames("nve1", "tx"), "to_kernel": tap_frames("nve2", "rx"),
        }  # fmt: skip


def main() -> None:
    Path("/run/netns").mkdir(exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "none", "/run/netns"], check=True)
    runs = [examine(family, secured) for family in (4, 6) for secured in (False, True)]
    print(json.dumps({"runs": runs, "unfinished": examine(4, secured=False, finished=False)}))


if __name__ == "__main__":
    main()
