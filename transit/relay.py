"""Two AF_PACKET sockets that move Ethernet frames, bit for bit, between two interfaces (thin shell).

The interfaces should have no addresses, no ARP and no IPv6 (``ip link set IF arp off``, disable_ipv6),
or the kernel answers on them beside the relay; and no segmentation or checksum offload at the senders,
or frames arrive that were never meant for a wire. What then still cannot be sent is counted by errno.
"""

from __future__ import annotations

import errno
import select
import socket
import struct
import time
from collections import Counter
from collections.abc import Callable

# <linux/if_ether.h>, <linux/if_packet.h>, <asm-generic/socket.h>: Python names only some of these.
ETH_P_ALL = 0x0003
SOL_PACKET = 263
PACKET_ADD_MEMBERSHIP = 1
PACKET_STATISTICS = 6
PACKET_AUXDATA = 8
PACKET_IGNORE_OUTGOING = 23
PACKET_MR_PROMISC = 1
PACKET_OUTGOING = 4
TP_STATUS_CSUM_NOT_READY = 1 << 3
TP_STATUS_VLAN_VALID = 1 << 4
TP_STATUS_VLAN_TPID_VALID = 1 << 6
SO_SNDBUFFORCE = 32
SO_RCVBUFFORCE = 33
SO_TIMESTAMPNS = 35

ETHERTYPE_8021Q = 0x8100
BATCH = 64
"""Frames taken from one interface before the other one gets its turn."""
BUFFER_SIZE = 16 * 1024 * 1024
"""Socket buffer in bytes: a burst must not be lost while the other direction is served."""
MAX_FRAME = 65_536 + 256
"""Largest frame in bytes, including segmentation offload's 64 KiB."""

_AUXDATA = struct.Struct("=IIIHHHH")
_STATUS = struct.Struct("=I")
_TIMESPEC = struct.Struct("@qq")
_MEMBERSHIP = struct.Struct("@iHH8s")
_STATISTICS = struct.Struct("=II")
_CONTROL_SPACE = socket.CMSG_SPACE(_AUXDATA.size) + socket.CMSG_SPACE(_TIMESPEC.size)
# The interface is down or gone, for now or for good: the relay waits for it.
_LINK_ERRORS = frozenset({errno.ENETDOWN, errno.ENXIO, errno.ENODEV, errno.ENOBUFS})


class RelayError(Exception):
    """An interface cannot be opened; the text says which one and why."""


def restore_tag(frame: bytes, auxdata: bytes) -> bytes:
    """Put the outermost 802.1Q tag back that the kernel moved from ``frame`` into its ``auxdata``."""
    status, _, _, _, _, tci, tpid = _AUXDATA.unpack_from(auxdata)
    if not status & TP_STATUS_VLAN_VALID:
        return frame
    if not status & TP_STATUS_VLAN_TPID_VALID:
        tpid = ETHERTYPE_8021Q
    return frame[:12] + struct.pack("!HH", tpid, tci) + frame[12:]


class Port:
    """One interface: receives what others send there, all destinations, and sends frames as they are."""

    def __init__(self, interface: str, buffer_size: int = BUFFER_SIZE) -> None:
        self.interface = interface
        self.counters: Counter[str] = Counter()
        self.send_errors: Counter[str] = Counter()
        self._buffer = bytearray(MAX_FRAME)
        self._view = memoryview(self._buffer)
        try:
            # Protocol 0 until bound: else frames of every interface would be queued in between.
            self._socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
        except OSError as error:
            raise RelayError(f"cannot open a packet socket ({error.strerror}); root is needed.") from None
        try:
            self._configure(buffer_size)
        except OSError as error:
            self._socket.close()
            raise RelayError(f"interface {interface!r} cannot be used ({error.strerror or error}).") from None

    def _configure(self, buffer_size: int) -> None:
        sock = self._socket
        sock.setblocking(False)
        for force, plain in ((SO_RCVBUFFORCE, socket.SO_RCVBUF), (SO_SNDBUFFORCE, socket.SO_SNDBUF)):
            try:
                sock.setsockopt(socket.SOL_SOCKET, force, buffer_size)
            except PermissionError:
                sock.setsockopt(socket.SOL_SOCKET, plain, buffer_size)
        sock.setsockopt(SOL_PACKET, PACKET_AUXDATA, 1)
        sock.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS, 1)
        sock.setsockopt(SOL_PACKET, PACKET_IGNORE_OUTGOING, 1)
        promiscuous = _MEMBERSHIP.pack(socket.if_nametoindex(self.interface), PACKET_MR_PROMISC, 0, b"")
        sock.setsockopt(SOL_PACKET, PACKET_ADD_MEMBERSHIP, promiscuous)
        sock.bind((self.interface, ETH_P_ALL))

    def fileno(self) -> int:
        """Return the socket's descriptor, for epoll and the like."""
        return self._socket.fileno()

    def receive(self, limit: int = BATCH) -> list[tuple[bytes, int]]:
        """Return up to ``limit`` waiting frames, each with the kernel's receive time (ns since 1970)."""
        frames: list[tuple[bytes, int]] = []
        receive, view = self._socket.recvmsg_into, self._view
        buffers = [view]
        try:
            for _ in range(limit):
                size, control, flags, address = receive(buffers, _CONTROL_SPACE)
                if address[2] == PACKET_OUTGOING:
                    continue
                if flags & socket.MSG_TRUNC:
                    self.counters["relay_truncated"] += 1
                    continue
                frames.append(self._complete(bytes(view[:size]), control))
        except BlockingIOError:
            pass
        except OSError as error:
            if error.errno not in _LINK_ERRORS:
                raise
            self.counters["interface_down"] += 1
        self.counters["received"] += len(frames)
        return frames

    def _complete(self, frame: bytes, control: list[tuple[int, int, bytes]]) -> tuple[bytes, int]:
        timestamp = 0
        for level, kind, data in control:
            if level == SOL_PACKET and kind == PACKET_AUXDATA:
                (status,) = _STATUS.unpack_from(data)
                if status & TP_STATUS_CSUM_NOT_READY:
                    self.counters["checksum_missing"] += 1
                if status & TP_STATUS_VLAN_VALID:
                    frame = restore_tag(frame, data)
            elif level == socket.SOL_SOCKET and kind == SO_TIMESTAMPNS:
                seconds, nanoseconds = _TIMESPEC.unpack(data)
                timestamp = seconds * 1_000_000_000 + nanoseconds
        return frame, timestamp or time.time_ns()

    def send(self, frame: bytes) -> bool:
        """Send one frame; False when the kernel refused it, which is counted by errno."""
        try:
            self._socket.send(frame)
        except OSError as error:
            self.send_errors[errno.errorcode.get(error.errno or 0, "unknown")] += 1
            return False
        self.counters["sent"] += 1
        return True

    def stats(self) -> dict[str, int]:
        """Return the counters, the kernel's own drops at this socket included."""
        try:
            raw = self._socket.getsockopt(SOL_PACKET, PACKET_STATISTICS, _STATISTICS.size)
        except OSError:
            raw = bytes(_STATISTICS.size)
        _, drops = _STATISTICS.unpack(raw)
        self.counters["kernel_drops"] += drops  # reading resets the kernel's count
        names = ("received", "sent", "kernel_drops", "relay_truncated", "checksum_missing", "interface_down")
        return {
            **{name: self.counters[name] for name in names},
            "relay_send_failed": sum(self.send_errors.values()),
            **{f"relay_send_failed_{name}": count for name, count in self.send_errors.items()},
        }

    def close(self) -> None:
        """Close the socket, which also ends promiscuous mode."""
        self._socket.close()


Transform = Callable[[bytes, int], list[bytes]]
"""Given a frame and the index (0 or 1) of the interface it came in on: what leaves on the other one."""


class Relay:
    """Two ports joined, with a ``transform`` in between; without one, every frame passes as it is.

    This is all an on-path attacker needs. What ``transform`` returns is sent in that order.
    """

    def __init__(self, interfaces: tuple[str, str], transform: Transform | None = None) -> None:
        first = Port(interfaces[0])
        try:
            self.ports = (first, Port(interfaces[1]))
        except RelayError:
            first.close()
            raise
        self._transform = transform

    def turn(self, ingress: int) -> int:
        """Move up to :data:`BATCH` waiting frames from port ``ingress`` to the other; return how many."""
        frames = self.ports[ingress].receive()
        egress = self.ports[1 - ingress]
        for frame, _ in frames:
            if self._transform is None:
                egress.send(frame)
            else:
                for changed in self._transform(frame, ingress):
                    egress.send(changed)
        return len(frames)

    def run(self, should_stop: Callable[[], bool], interval: float = 0.1) -> None:
        """Relay until ``should_stop()``, which is asked at least every ``interval`` seconds."""
        poller = select.epoll()
        try:
            for port in self.ports:
                poller.register(port, select.EPOLLIN)
            numbers = {port.fileno(): index for index, port in enumerate(self.ports)}
            while not should_stop():
                for descriptor, _ in poller.poll(interval):
                    self.turn(numbers[descriptor])
        finally:
            poller.close()

    def close(self) -> None:
        """Close both ports."""
        for port in self.ports:
            port.close()
