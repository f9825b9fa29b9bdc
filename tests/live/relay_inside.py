"""Runs in network and process namespaces of its own: a transit device between two veth pairs.

Sends frames of every kind and size through it, both ways, and compares what comes out with what went in.
Tags are read back here with code of its own, not the relay's. Exit code 0 and the device's statistics as
JSON when all is well; one line on stderr for each difference otherwise.
"""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from geneve.control.state import TransitVni
from tests.transit.builders import device_state, make_sealer, sealed, underlay_frame

MAC = bytes.fromhex("020000000002020000000001")
BURST = 32
TIMEOUT = 20.0


def frames() -> list[bytes]:
    """Frames that differ from each other; LLDP, IPv6, ARP, tags, stacked tags, every size from 14 to 1514."""
    pattern = bytes(range(256)) * 8
    made = [MAC + b"\x90\x01" + pattern[size % 200 :][: size - 14] for size in range(14, 1515)]
    for tpid, tci in ((0x8100, 0), (0x8100, 0x0FFF), (0x8100, 0xF064), (0x88A8, 0x6001), (0x9100, 7)):
        tag = struct.pack("!HH", tpid, tci)
        made.append(MAC + tag + b"\x08\x00" + bytes(50) + tag)
        made.append(MAC + tag + struct.pack("!HH", 0x8100, 33) + b"\x86\xdd" + b"\x60" + bytes(60) + tag)
    made.append(MAC + struct.pack("!HH", 0x8100, 100) + b"\x08\x00" + bytes(1500))  # the largest with a tag
    made.append(bytes.fromhex("0180c200000e02000000000188cc") + bytes(46))  # LLDP
    made.append(bytes.fromhex("0180c2000000020000000001") + b"\x00\x26\x42\x42\x03" + bytes(43))  # STP
    made.append(b"\xff" * 6 + MAC[6:] + b"\x08\x06" + bytes(46))
    made.append(bytes.fromhex("333300000001") + MAC[6:] + b"\x86\xdd\x60" + bytes(59))
    sealer = make_sealer()
    for number in range(4):
        made.append(underlay_frame(sealed(sealer, flow=number), tags=((0x8100, 9),) * (number % 2)))
    assert {len(frame) for frame in made} >= {*range(14, 1515), 1518}
    return made


class End:
    """The far end of a veth pair."""

    def __init__(self, interface: str) -> None:
        self.socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
        self.socket.setsockopt(263, 8, 1)  # SOL_PACKET, PACKET_AUXDATA
        self.socket.setsockopt(263, 1, struct.pack("@iHH8s", socket.if_nametoindex(interface), 1, 0, b""))
        self.socket.bind((interface, 3))

    def receive(self) -> bytes | None:
        """The next frame that came in, or None if none does for a while."""
        while select.select([self.socket], [], [], 2.0)[0]:
            frame, control, _, address = self.socket.recvmsg(70_000, 128)
            if address[2] == socket.PACKET_OUTGOING:
                continue
            status, _, _, _, _, tci, tpid = struct.unpack("=IIIHHHH", control[0][2])
            return frame[:12] + struct.pack("!HH", tpid, tci) + frame[12:] if status & 0x10 else frame
        return None


def ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True)


def build() -> tuple[End, End]:
    for scope in ("all", "default"):
        Path(f"/proc/sys/net/ipv6/conf/{scope}/disable_ipv6").write_text("1")
    ip("link", "set", "lo", "up")
    for pair in ("a", "b"):
        ip("link", "add", f"{pair}0", "type", "veth", "peer", "name", f"{pair}1")
        for side in "01":
            ip("link", "set", f"{pair}{side}", "arp", "off", "up")
    return End("a0"), End("b0")


def ask(path: str) -> dict[str, Any]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
        client.connect(path)
        document: dict[str, Any] = json.loads(client.makefile("rb").read())
        return document


def wait_for_stats(path: str, process: subprocess.Popen[bytes]) -> None:
    def ready() -> bool:
        if process.poll() is not None:
            sys.exit(f"{process.args!r} ended with {process.returncode}")
        try:
            return bool(ask(path)["ready"])
        except OSError:
            return False

    wait_until(ready, "a program that is ready")


def wait_until(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + TIMEOUT
    while not condition():
        if time.monotonic() > deadline:
            sys.exit(f"waited in vain for {what}")
        select.select([], [], [], 0.02)


def start(*arguments: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-m", *arguments])


def cross(source: End, destination: End, sent: list[bytes], way: str) -> int:
    """Send everything in bursts; return the number of differences."""
    faults = 0
    for start in range(0, len(sent), BURST):
        burst = sent[start : start + BURST]
        for frame in burst:
            source.socket.send(frame)
        for number, frame in enumerate(burst, start):
            received = destination.receive()
            if received != frame:
                faults += 1
                print(f"{way} frame {number}: sent {frame[:40].hex()} ({len(frame)} bytes), got "
                      f"{received[:40].hex() if received else None}", file=sys.stderr)  # fmt: skip
                if received is None:
                    return faults
    return faults


def main() -> None:
    left, right = build()
    with tempfile.TemporaryDirectory() as folder:
        stats, config = f"{folder}/stats", Path(folder, "t1.json")
        records, collector_stats = Path(folder, "telemetry.jsonl"), f"{folder}/collector"
        keys = Path(folder, "keys")
        keys.mkdir()
        (keys / "t1.key").touch(0o600)
        (keys / "t1.key").write_text("5a" * 32)
        content = {
            "name": "t1",
            "interfaces": ["a1", "b1"],
            "static_state": device_state(vnis=(TransitVni(vni=100, telemetry=True),)).to_wire(),
            "collector": {"address": "127.0.0.1", "port": 6082, "key": str(keys / "t1.key")},
            "stats": stats,
        }
        config.touch(0o600)
        config.write_text(json.dumps(content))
        device = start("transit", "--config", str(config))
        collector = start(
            "transit.collector", "--listen", "127.0.0.1:6082", "--output", str(records), "--keys", str(keys),
            "--stats", collector_stats,
        )
        try:
            wait_for_stats(collector_stats, collector)
            wait_for_stats(stats, device)
            sent = frames()
            faults = cross(left, right, sent, "left to right") + cross(right, left, sent, "right to left")
            # Down and up again: the relay goes on by itself.
            ip("link", "set", "a1", "down")
            ip("link", "set", "a1", "up")
            faults += cross(left, right, sent[-20:], "after the link came back")
            wait_until(lambda: ask(collector_stats)["counters"]["records"] == 4, "four records")
            document = ask(stats)
        finally:
            for process in (device, collector):
                process.send_signal(signal.SIGTERM)
            codes = [process.wait(TIMEOUT) for process in (device, collector)]
        document["exit_codes"] = codes
        document["left_behind"] = os.path.exists(stats) or os.path.exists(collector_stats)
        document["records"] = [json.loads(line) for line in records.read_text().splitlines()]
    print(json.dumps(document))
    sys.exit(1 if faults else 0)


if __name__ == "__main__":
    main()
