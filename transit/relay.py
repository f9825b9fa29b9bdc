"""Two AF_PACKET sockets that move Ethernet frames, bit for bit, between two interfaces (thin shell).

The interfaces should have no addresses, no ARP and no IPv6 (``ip link set IF arp off``, disable_ipv6),
or the kernel answers on them beside the relay.

Senders on the same machine may leave segmentation and checksums to a wire that never comes, and the kernel merges
what arrives (GRO). With the virtio header (PACKET_VNET_HDR) such frames come whole, with the word on what is left to
be done, and go on with it, so that what leaves a real wire is what the sender meant. Without it they cannot be sent:
then senders must have these offloads off. What cannot be sent is counted by errno.
"""

from __future__ import annotations

import errno
import select
import socket
import struct
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator

from geneve.offloads import OFF, ON, unavailable
from geneve.vnet import GSO_NONE, GSO_UDP, NEEDS_CHECKSUM, PLAIN_BYTES, VNET_HEADER_SIZE, parse_vnet

# <linux/if_ether.h>, <linux/if_packet.h>, <asm-generic/socket.h>: Python names only some of these.
ETH_P_ALL = 0x0003
SOL_PACKET = 263
PACKET_ADD_MEMBERSHIP = 1
PACKET_STATISTICS = 6
PACKET_AUXDATA = 8
PACKET_VNET_HDR = 15
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
TAG_SIZE = 4
BATCH = 64
"""Frames taken from one interface before the other one gets its turn."""
BATCH_BYTES = 256 * 1024
"""Bytes after which the other interface gets its turn: frames that stand for many are many packets' work."""
BUFFER_SIZE = 16 * 1024 * 1024
"""Socket buffer in bytes: a burst must not be lost while the other direction is served."""
COPY_LIMIT = 4096
"""Bytes below which it is cheaper to copy a frame behind its header than to hand the kernel two pieces."""
MAX_FRAME = 65_536 + 256
"""Largest frame in bytes, including segmentation offload's 64 KiB."""

_AUXDATA = struct.Struct("=IIIHHHH")
_STATUS_BYTE = 0 if sys.byteorder == "little" else 3
"""Where the status bits used here stand in the auxiliary data."""
_REMARKABLE = TP_STATUS_CSUM_NOT_READY | TP_STATUS_VLAN_VALID
_TIMESPEC = struct.Struct("@qq")
_MEMBERSHIP = struct.Struct("@iHH8s")
_STATISTICS = struct.Struct("=II")
_CONTROL_SPACE = socket.CMSG_SPACE(_AUXDATA.size) + socket.CMSG_SPACE(_TIMESPEC.size)
# The interface is down or gone, for now or for good: the relay waits for it.
_LINK_ERRORS = frozenset({errno.ENETDOWN, errno.ENXIO, errno.ENODEV, errno.ENOBUFS})
# The kernel cannot segment a datagram that it is given whole.
_CANNOT_SEGMENT = frozenset({errno.EINVAL, errno.EIO, errno.EOPNOTSUPP, errno.EMSGSIZE})

Arrival = tuple[bytes, int, bytes]
"""A frame, the kernel's receive time (ns since 1970, 0 if nobody wants it), and its virtio header."""


class VnetError(Exception):
    """The kernel refuses virtio headers; the text says why."""


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


def restore_places(vnet: bytes) -> bytes:
    """Return a virtio header whose places count the tag that :func:`restore_tag` puts back in front of them."""
    header = parse_vnet(vnet)
    if header.flags & NEEDS_CHECKSUM:
        header = header._replace(checksum_start=header.checksum_start + TAG_SIZE)
    if header.gso_type != GSO_NONE:
        header = header._replace(header_size=header.header_size + TAG_SIZE)
    return header.build()


class Port:
    """One interface: receives what others send there, all destinations, and sends frames as they are.

    ``vnet``: frames come and go with virtio headers; VnetError when the kernel refuses. ``timestamps``: whether frames
    get their receive time.
    """

    def __init__(
        self, interface: str, buffer_size: int = BUFFER_SIZE, *, vnet: bool = False, timestamps: bool = False
    ) -> None:
        self.interface = interface
        self.vnet = vnet
        self.counters: Counter[str] = Counter()
        self.send_errors: Counter[str] = Counter()
        self.cannot_segment: Counter[str] = Counter()
        """By errno: datagrams that the kernel refused to segment."""
        self._received = self._sent = 0
        self._timestamps = timestamps
        self._view = memoryview(bytearray(MAX_FRAME))
        self._header = bytearray(VNET_HEADER_SIZE)
        self._buffers: list[bytearray | memoryview] = [self._header, self._view] if vnet else [self._view]
        try:
            # Protocol 0 until bound: else frames of every interface would be queued in between.
            self._socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
        except OSError as error:
            raise RelayError(f"cannot open a packet socket ({error.strerror}); root is needed.") from None
        try:
            if vnet:
                self._enable_vnet()
            self._configure(buffer_size)
        except OSError as error:
            self._socket.close()
            raise RelayError(f"interface {interface!r} cannot be used ({error.strerror or error}).") from None
        except VnetError:
            self._socket.close()
            raise

    def _enable_vnet(self) -> None:
        try:
            self._socket.setsockopt(SOL_PACKET, PACKET_VNET_HDR, 1)
        except OSError as error:
            raise VnetError(f"PACKET_VNET_HDR: {error.strerror}") from None

    def _configure(self, buffer_size: int) -> None:
        sock = self._socket
        sock.setblocking(False)
        for force, plain in ((SO_RCVBUFFORCE, socket.SO_RCVBUF), (SO_SNDBUFFORCE, socket.SO_SNDBUF)):
            try:
                sock.setsockopt(socket.SOL_SOCKET, force, buffer_size)
            except PermissionError:
                sock.setsockopt(socket.SOL_SOCKET, plain, buffer_size)
        # Where the kernel puts the outermost VLAN tag.
        sock.setsockopt(SOL_PACKET, PACKET_AUXDATA, 1)
        if self._timestamps:
            sock.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS, 1)
        sock.setsockopt(SOL_PACKET, PACKET_IGNORE_OUTGOING, 1)
        promiscuous = _MEMBERSHIP.pack(socket.if_nametoindex(self.interface), PACKET_MR_PROMISC, 0, b"")
        sock.setsockopt(SOL_PACKET, PACKET_ADD_MEMBERSHIP, promiscuous)
        sock.bind((self.interface, ETH_P_ALL))

    def fileno(self) -> int:
        """Return the socket's descriptor, for epoll and the like."""
        return self._socket.fileno()

    def receive(self, limit: int = BATCH, limit_bytes: int = BATCH_BYTES) -> Iterator[Arrival]:
        """Give up to ``limit`` waiting frames and about ``limit_bytes``, each as soon as it is read.

        So a lone frame can leave before the kernel is asked for the next one.
        """
        receive, header, view, buffers = self._socket.recvmsg_into, self._header, self._view, self._buffers
        extra = VNET_HEADER_SIZE if self.vnet else 0
        total = 0
        try:
            for _ in range(limit):
                size, control, flags, _ = receive(buffers, _CONTROL_SPACE)
                if flags & socket.MSG_TRUNC:
                    self.counters["relay_truncated"] += 1
                    continue
                self._received += 1
                total += size
                frame = bytes(view[: size - extra])
                vnet = bytes(header) if extra and header != PLAIN_BYTES else PLAIN_BYTES
                if len(control) == 1 and not control[0][2][_STATUS_BYTE] & _REMARKABLE:
                    yield frame, 0, vnet
                else:
                    yield self._complete(frame, vnet, control)
                if total >= limit_bytes:
                    return
        except BlockingIOError:
            return
        except OSError as error:
            if error.errno == errno.EINVAL and self.vnet:
                # A frame of a segmentation type that the virtio header has no word for; the kernel dropped it.
                self.counters["relay_unreadable"] += 1
                return
            if error.errno not in _LINK_ERRORS:
                raise
            self.counters["interface_down"] += 1

    def _complete(self, frame: bytes, vnet: bytes, control: list[tuple[int, int, bytes]]) -> Arrival:
        timestamp = 0
        for level, kind, data in control:
            if level == SOL_PACKET and kind == PACKET_AUXDATA:
                status = data[_STATUS_BYTE]
                if status & TP_STATUS_CSUM_NOT_READY and not self.vnet:
                    self.counters["checksum_missing"] += 1
                if status & TP_STATUS_VLAN_VALID:
                    frame = restore_tag(frame, data)
                    if vnet is not PLAIN_BYTES:
                        vnet = restore_places(vnet)
            elif level == socket.SOL_SOCKET and kind == SO_TIMESTAMPNS:
                seconds, nanoseconds = _TIMESPEC.unpack(data)
                timestamp = seconds * 1_000_000_000 + nanoseconds
        if self._timestamps and not timestamp:
            timestamp = time.time_ns()
        return frame, timestamp, vnet

    def send(self, frame: bytes) -> bool:
        """Send a frame that is as on a wire; False when the kernel refused it, which is counted by errno."""
        return bool(self.send_whole(frame, PLAIN_BYTES))

    def send_whole(self, frame: bytes, vnet: bytes) -> bool | None:
        """Send a frame with its virtio header, as :meth:`send`.

        None when the kernel cannot segment a datagram that stands for many: it can still be sent packet by packet.
        """
        try:
            if self.vnet:
                if len(frame) < COPY_LIMIT:
                    self._socket.send(vnet + frame)
                else:
                    self._socket.sendmsg((vnet, frame))
            else:
                self._socket.send(frame)
        except OSError as error:
            name = errno.errorcode.get(error.errno or 0, "unknown")
            if vnet is not PLAIN_BYTES and vnet[1] == GSO_UDP and error.errno in _CANNOT_SEGMENT:
                self.cannot_segment[name] += 1
                return None
            self.send_errors[name] += 1
            return False
        self._sent += 1
        return True

    def stats(self) -> dict[str, int]:
        """Return the counters, the kernel's own drops at this socket included."""
        try:
            raw = self._socket.getsockopt(SOL_PACKET, PACKET_STATISTICS, _STATISTICS.size)
        except OSError:
            raw = bytes(_STATISTICS.size)
        _, drops = _STATISTICS.unpack(raw)
        self.counters["kernel_drops"] += drops  # reading resets the kernel's count
        names = ("kernel_drops", "relay_truncated", "relay_unreadable", "checksum_missing", "interface_down")
        return {
            "received": self._received,
            "sent": self._sent,
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

    This is all an on-path attacker needs. What ``transform`` returns is sent in that order; it sees frames as they are
    on a wire. ``vnet`` (not with a transform) asks for virtio headers at both ports or, where the kernel refuses, at
    neither. ``timestamps`` is as for a port.
    """

    def __init__(
        self, interfaces: tuple[str, str], transform: Transform | None = None, *, vnet: bool = False,
        timestamps: bool = False,
    ) -> None:  # fmt: skip
        if vnet and transform is not None:
            raise ValueError("a transform takes frames as they are on a wire, without virtio headers")
        self._transform = transform
        self._state = ON if vnet else OFF
        try:
            self.ports = _open_ports(interfaces, vnet, timestamps)
        except VnetError as error:
            self._state = unavailable(str(error))
            self.ports = _open_ports(interfaces, False, timestamps)

    def vnet_state(self) -> str:
        """Return what became of virtio headers: on, off, or unavailable and why."""
        for port in self.ports:
            if self._state == ON and port.cannot_segment:
                reasons = ", ".join(sorted(port.cannot_segment))
                return unavailable(f"datagrams towards {port.interface} are cut here, the kernel refuses ({reasons})")
        return self._state

    def turn(self, ingress: int) -> int:
        """Move some waiting frames, up to :data:`BATCH`, from port ``ingress`` to the other; return how many."""
        egress, moved = self.ports[1 - ingress], 0
        for frame, _, vnet in self.ports[ingress].receive():
            moved += 1
            if self._transform is None:
                egress.send_whole(frame, vnet)
            else:
                for changed in self._transform(frame, ingress):
                    egress.send(changed)
        return moved

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


def _open_ports(interfaces: tuple[str, str], vnet: bool, timestamps: bool) -> tuple[Port, Port]:
    first = Port(interfaces[0], vnet=vnet, timestamps=timestamps)
    try:
        return first, Port(interfaces[1], vnet=vnet, timestamps=timestamps)
    except (RelayError, VnetError):
        first.close()
        raise
