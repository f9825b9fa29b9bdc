"""What this kernel can do, found out by trying it in a throw-away network namespace.

``python -m topologies.capabilities`` prints the answers as JSON; it must run inside a sandbox, since
it makes interfaces.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import socket
import struct
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from topologies import sandbox
from topologies.daemon import TestbedError
from topologies.ovs import KERNEL, PrivateOvs

_TUNSETIFF = 0x400454CA
_TUNSETOFFLOAD = 0x400454D0
_IFF_TAP, _IFF_NO_PI, _IFF_VNET_HDR = 0x0002, 0x1000, 0x4000
_TUN_F_CSUM_TSO = 0x1 | 0x2 | 0x4
_SOL_PACKET, _PACKET_VNET_HDR = 263, 15
_SOL_UDP, _UDP_SEGMENT, _UDP_GRO = 17, 103, 104

Answer = tuple[bool, str]


def _command(*argv: str) -> Answer:
    try:
        done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=10)
    except (OSError, subprocess.TimeoutExpired) as error:
        return False, str(error)
    lines = done.stderr.strip().splitlines()
    return done.returncode == 0, lines[-1] if lines else ""


def _attempt(action: Callable[[], None]) -> Answer:
    try:
        action()
    except OSError as error:
        return False, error.strerror or str(error)
    return True, ""


def _tap() -> None:
    device = os.open("/dev/net/tun", os.O_RDWR)
    try:
        flags = _IFF_TAP | _IFF_NO_PI | _IFF_VNET_HDR
        fcntl.ioctl(device, _TUNSETIFF, struct.pack("16sH22x", b"probe-tap", flags))
        fcntl.ioctl(device, _TUNSETOFFLOAD, _TUN_F_CSUM_TSO)
    finally:
        os.close(device)


def _packet_vnet_header() -> None:
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0) as probe:
        probe.setsockopt(_SOL_PACKET, _PACKET_VNET_HDR, 1)


def _udp_offload(option: int, value: int) -> Callable[[], None]:
    def attempt() -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            probe.setsockopt(_SOL_UDP, option, value)

    return attempt


def _ovs_kernel_datapath() -> Answer:
    with tempfile.TemporaryDirectory(dir="/run") as folder:
        ovs = PrivateOvs(Path(folder) / "ovs", Path(folder) / "logs")
        try:
            ovs.start()
            return ovs.datapath == KERNEL, "" if ovs.datapath == KERNEL else "the module is not there"
        except TestbedError as error:
            return False, str(error).splitlines()[0]
        finally:
            ovs.stop()


def _xfrm_esp() -> Answer:
    return _command(
        "ip", "xfrm", "state", "add", "src", "192.0.2.1", "dst", "192.0.2.2", "proto", "esp", "spi", "0x100",
        "mode", "transport", "aead", "rfc4106(gcm(aes))", "0x" + "00" * 20, "128",
    )  # fmt: skip


def probe() -> dict[str, Answer]:
    """Return for each kernel feature whether it works, and what the kernel said if not."""
    answers = {
        "veth": _command("ip", "link", "add", "probe0", "type", "veth", "peer", "name", "probe1"),
        "bridge": _command("ip", "link", "add", "probe-br", "type", "bridge"),
        "tap": _attempt(_tap),
        "packet-vnet-hdr": _attempt(_packet_vnet_header),
        "udp-segment": _attempt(_udp_offload(_UDP_SEGMENT, 1200)),
        "udp-gro": _attempt(_udp_offload(_UDP_GRO, 1)),
        "netem": _command("tc", "qdisc", "add", "dev", "probe0", "root", "netem", "delay", "1ms"),
    }
    with contextlib.suppress(OSError):
        _command("tc", "qdisc", "delete", "dev", "probe0", "root")
    tbf = ("root", "tbf", "rate", "10mbit", "burst", "65536", "latency", "50ms")
    answers |= {
        "tbf": _command("tc", "qdisc", "add", "dev", "probe0", *tbf),
        "geneve-device": _command(
            "ip", "link", "add", "probe-gnv", "type", "geneve", "id", "1", "remote", "192.0.2.1"
        ),
        "xfrm-esp": _xfrm_esp(),
        "ovs-datapath": _ovs_kernel_datapath(),
    }
    return answers


if __name__ == "__main__":
    if not sandbox.inside():
        print("capabilities: makes interfaces and so runs inside a sandbox only.", file=sys.stderr)
        raise SystemExit(2)
    print(json.dumps(probe()))
