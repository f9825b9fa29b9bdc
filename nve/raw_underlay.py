"""The NVE's raw IP sockets on the underlay, for ESP and AH that IP itself carries (thin shell).

One packet is one system call each way: the kernel puts together and takes apart UDP and TCP only. ESP packets are
handed over from the SPI on; AH packets whole, with the IP header that AH authenticates. Under IPv6 the kernel keeps
that header to itself, and extension headers too, which somebody on the path may have put in: it is asked to tell of
them.
"""

from __future__ import annotations

import errno
import ipaddress
import socket
import struct
from collections.abc import Iterable

from geneve.control.channel import IP_PROTOCOL_AH
from geneve.drops import DropReason
from geneve.offloads import OffloadStates, unavailable
from geneve.outer import IPV4_SIZE
from geneve.overhead import IP_HEADER_SIZE
from nve.datagrams import Datagram, Received, packed_address
from nve.memberships import MULTICAST_HOPS, Memberships, UnderlayError, join_group, leave_by
from nve.underlay import (
    IP_MTU_DISCOVER,
    IP_PMTUDISC_PROBE,
    IPV6_MTU_DISCOVER,
    RECEIVE_BUFFER,
    SO_RCVBUFFORCE,
    class_control,
)

Control = list[tuple[int, int, bytes]]
"""Control messages: level, type, data."""

_CONTROL_SPACE = socket.CMSG_SPACE(4) + socket.CMSG_SPACE(64)
_EXTENSIONS = (
    (socket.IPV6_RECVHOPOPTS, socket.IPV6_HOPOPTS),
    (socket.IPV6_RECVDSTOPTS, socket.IPV6_DSTOPTS),
    (socket.IPV6_RECVRTHDR, socket.IPV6_RTHDR),
)
"""What asks to be told of an extension header (RFC 3542, section 6), and what tells of it."""
_TOLD = frozenset(kind for _, kind in _EXTENSIONS)
_NOT_AH = 0
"""In the place of AH's number: hop-by-hop options, one of the headers that may stand in front of AH."""


def read_packet(packet: bytes, control: Control, flags: int, source: bytes, whole: bytes | None) -> Received:
    """Return what a raw socket received as the opener wants it. Pure; takes any bytes and raises nothing.

    IPv4 gives whole packets, IPv6 what is behind all headers. ``whole`` is the destination, 4 or 16 bytes, where AH is
    received, which is opened with its IP header, None for ESP. What is too short comes out as it is, to be refused as
    malformed. AH behind IPv6 extension headers gets a header that says so, and is refused as unsupported.
    """
    if len(source) == 4:
        if len(packet) < IPV4_SIZE:
            return Received(b"", source)
        return Received(packet if whole is not None else packet[(packet[0] & 0x0F) * 4 :], source, packet[1])
    traffic_class, extended = _read_control(control)
    if whole is None:
        return Received(packet, source, traffic_class)
    # All that AH authenticates of the header is known. Where control messages were cut, more was told than fits.
    protocol = _NOT_AH if extended or flags & socket.MSG_CTRUNC else IP_PROTOCOL_AH
    head = struct.pack("!IHBB", 6 << 28, len(packet) & 0xFFFF, protocol, MULTICAST_HOPS)
    return Received(head + source + whole + packet, source, traffic_class)


def _read_control(control: Control) -> tuple[int, bool]:
    """Return the traffic class, and whether there were extension headers."""
    traffic_class, extended = 0, False
    for level, kind, data in control:
        if level != socket.IPPROTO_IPV6:
            continue
        if kind == socket.IPV6_TCLASS and len(data) >= 4:
            traffic_class = struct.unpack("i", data[:4])[0] & 0xFF
        extended |= kind in _TOLD
    return traffic_class, extended


class RawSockets:
    """Sends and receives IP protocol ``protocol`` (ESP or AH) at ``address``; ``interface`` is where groups are joined.

    The methods are those of :class:`nve.underlay.UnderlaySockets`.
    """

    def __init__(self, address: str, protocol: int, interface: str | None = None) -> None:
        reason = "IP carries the packets, not UDP"
        self.states: OffloadStates = {"udp_segment": unavailable(reason), "udp_gro": unavailable(reason)}
        self._address, self._protocol, self._interface = address, protocol, interface
        self._ipv6 = ipaddress.ip_address(address).version == 6
        self._whole = protocol == IP_PROTOCOL_AH
        self._memberships = Memberships(interface, self._join)
        self._destinations: dict[int, bytes] = {}
        self._buffer = bytearray(65535)
        self._view = memoryview(self._buffer)
        try:
            self.receiver = self._open(address)
            self._destinations[self.receiver.fileno()] = packed_address(address)
            if interface is not None:
                leave_by(self.receiver, interface, self._ipv6)
            if self._whole and not self._ipv6:
                self.receiver.setsockopt(socket.IPPROTO_IP, socket.IP_HDRINCL, 1)
        except OSError as error:
            self.close()
            raise UnderlayError(f"cannot use underlay address {address}, IP protocol {protocol} ({error.strerror}).") \
                from None

    def _open(self, address: str) -> socket.socket:
        opened = socket.socket(socket.AF_INET6 if self._ipv6 else socket.AF_INET, socket.SOCK_RAW, self._protocol)
        try:
            opened.setblocking(False)
            level, option = (
                (socket.IPPROTO_IPV6, IPV6_MTU_DISCOVER) if self._ipv6 else (socket.IPPROTO_IP, IP_MTU_DISCOVER)
            )
            opened.setsockopt(level, option, IP_PMTUDISC_PROBE)
            opened.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, RECEIVE_BUFFER)
            if self._ipv6:
                opened.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVTCLASS, 1)
                for asked, _ in _EXTENSIONS if self._whole else ():
                    opened.setsockopt(socket.IPPROTO_IPV6, asked, 1)
            opened.bind((address, 0))
        except OSError:
            opened.close()
            raise
        return opened

    def set_groups(self, groups: Iterable[str]) -> tuple[list[socket.socket], list[socket.socket]]:
        """Be a member of exactly ``groups``: see :meth:`nve.memberships.Memberships.set`."""
        return self._memberships.set(groups)

    def _join(self, group: str) -> socket.socket:
        assert self._interface is not None
        joined = self._open(group)
        try:
            join_group(joined, group, self._interface)
        except OSError:
            joined.close()
            raise
        self._destinations[joined.fileno()] = packed_address(group)
        return joined

    def receive(self, limit: int, receiver: socket.socket) -> list[Received]:
        """Return up to ``limit`` packets that wait at ``receiver``, the node's own or a group's."""
        packets: list[Received] = []
        whole = self._destinations[receiver.fileno()] if self._whole else None
        try:
            while len(packets) < limit:
                size, control, flags, peer = receiver.recvmsg_into([self._buffer], _CONTROL_SPACE)
                source = packed_address(peer[0].partition("%")[0])
                packets.append(read_packet(bytes(self._view[:size]), control, flags, source, whole))
        except BlockingIOError:
            pass
        except OSError as error:
            if error.errno != errno.ECONNREFUSED:
                raise
        return packets

    def send(self, datagram: Datagram) -> list[DropReason]:
        """Send a packet, or many one by one; return why the kernel did not take some, one reason for each."""
        reasons = [self._send_one(datagram, payload) for payload in datagram.payloads()]
        return [reason for reason in reasons if reason is not None]

    def _send_one(self, datagram: Datagram, payload: bytes) -> DropReason | None:
        destination = (datagram.destination, 0)
        traffic_class = datagram.traffic_class
        if self._whole and self._ipv6:
            payload = payload[IP_HEADER_SIZE[6] :]  # the kernel writes the same header again
        elif self._whole and traffic_class:
            payload = payload[:1] + bytes((traffic_class,)) + payload[2:]  # mutable, so not authenticated
            traffic_class = 0
        try:
            if traffic_class:
                self.receiver.sendmsg([payload], class_control(traffic_class, self._ipv6), 0, destination)
            else:
                self.receiver.sendto(payload, destination)
        except OSError as error:
            return DropReason.FRAME_TOO_BIG if error.errno == errno.EMSGSIZE else DropReason.SEND_FAILED
        return None

    def close(self) -> None:
        """Close all sockets."""
        receivers = [self.receiver] if hasattr(self, "receiver") else []
        for opened in [*receivers, *self._memberships.sockets]:
            opened.close()
