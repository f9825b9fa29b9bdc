"""The NVE's UDP sockets on the underlay (thin shell).

One socket receives on the Geneve port, and one more for each multicast group that was joined. Packets
leave through a pool of sockets, each bound to another port of the dynamic range, so that a flow keeps its
source port and ECMP can tell flows apart (RFC 8926, section 3.3) without the kernel building each header
anew.
"""

from __future__ import annotations

import errno
import ipaddress
import secrets
import socket
import struct
from collections.abc import Iterable

from geneve.drops import DropReason
from geneve.offloads import OFF, ON, NveOffloads, OffloadStates, unavailable
from nve.datagrams import Datagram, Received, packed_address
from nve.memberships import Memberships, UnderlayError, join_group, leave_by

DYNAMIC_PORTS = range(49152, 65536)
IP_PMTUDISC_PROBE = 3
"""Set DF and ignore the kernel's path MTU guess: the overlay's own MTU arithmetic rules (RFC 8926, 4.4.1)."""
IP_MTU_DISCOVER = 10
IPV6_MTU_DISCOVER = 23
SO_RCVBUFFORCE = 33
UDP_SEGMENT, UDP_GRO = 103, 104
RECEIVE_BUFFER = 4 * 1024 * 1024
_BIND_TRIES = 100
_CONTROL_SPACE = 2 * socket.CMSG_SPACE(4)


class UnderlaySockets:
    """Receives on ``address``:``port``; sends from ``source_ports`` ports of the same address.

    ``interface`` is where groups are joined; without it there are none. ``states`` says what became of the offloads.
    """

    def __init__(
        self,
        address: str,
        port: int,
        source_ports: int,
        interface: str | None = None,
        offloads: NveOffloads | None = None,
    ) -> None:
        offloads = offloads or NveOffloads()
        self.states: OffloadStates = {
            "udp_segment": ON if offloads.udp_segment else OFF,
            "udp_gro": ON if offloads.udp_gro else OFF,
        }
        self._interface = interface
        self._memberships = Memberships(interface, self._join)
        self._ipv6 = ipaddress.ip_address(address).version == 6
        self._port = port
        # A datagram may be larger than the MTU: a foreign endpoint may fragment what it sends.
        self._buffer = bytearray(65535)
        self._view = memoryview(self._buffer)
        self._senders: list[socket.socket] = []
        family = socket.AF_INET6 if self._ipv6 else socket.AF_INET
        try:
            self.receiver = self._open(family, address, port)
            self.receiver.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, RECEIVE_BUFFER)
            self._prepare_receiver(self.receiver)
            for _ in range(source_ports):
                self._senders.append(self._open_sender(family, address))
        except OSError as error:
            self.close()
            raise UnderlayError(f"cannot use underlay address {address}, port {port} ({error.strerror}).") from None

    def _open(self, family: int, address: str, port: int) -> socket.socket:
        opened = socket.socket(family, socket.SOCK_DGRAM)
        try:
            opened.setblocking(False)
            level, option = (
                (socket.IPPROTO_IPV6, IPV6_MTU_DISCOVER) if self._ipv6 else (socket.IPPROTO_IP, IP_MTU_DISCOVER)
            )
            opened.setsockopt(level, option, IP_PMTUDISC_PROBE)
            opened.bind((address, port))
        except OSError:
            opened.close()
            raise
        return opened

    def _open_sender(self, family: int, address: str) -> socket.socket:
        for _ in range(_BIND_TRIES):
            try:
                sender = self._open(family, address, secrets.choice(DYNAMIC_PORTS))
            except OSError as error:
                if error.errno != errno.EADDRINUSE:
                    raise
                continue
            # Nothing is ever read from it: what strangers send there must not pile up.
            sender.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)
            if self._interface is not None:
                leave_by(sender, self._interface, self._ipv6)
            return sender
        raise OSError(errno.EADDRINUSE, "no free source port")

    def set_groups(self, groups: Iterable[str]) -> tuple[list[socket.socket], list[socket.socket]]:
        """Be a member of exactly ``groups``: see :meth:`nve.memberships.Memberships.set`."""
        return self._memberships.set(groups)

    def _join(self, group: str) -> socket.socket:
        assert self._interface is not None
        joined = self._open(socket.AF_INET6 if self._ipv6 else socket.AF_INET, group, self._port)
        try:
            joined.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, RECEIVE_BUFFER)
            self._prepare_receiver(joined)
            join_group(joined, group, self._interface)
        except OSError:
            joined.close()
            raise
        return joined

    def _prepare_receiver(self, receiver: socket.socket) -> None:
        if self.states["udp_gro"] == ON:
            try:
                receiver.setsockopt(socket.IPPROTO_UDP, UDP_GRO, 1)
            except OSError as error:
                self.states["udp_gro"] = unavailable(f"UDP_GRO: {error.strerror}")
        if self._ipv6:
            receiver.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVTCLASS, 1)
        else:
            receiver.setsockopt(socket.IPPROTO_IP, socket.IP_RECVTOS, 1)

    def receive(self, limit: int, receiver: socket.socket) -> list[Received]:
        """Return up to ``limit`` datagrams that wait at ``receiver``, the node's own or a group's.

        Those that the kernel put together count as one; at most some 64 KiB beyond the first.
        """
        total = 0
        packets: list[Received] = []
        buffers, view = [self._buffer], self._view
        try:
            while len(packets) < limit and total < len(self._buffer):
                size, control, _, peer = receiver.recvmsg_into(buffers, _CONTROL_SPACE)
                total += size
                traffic_class, segment = read_control(control)
                source = packed_address(peer[0].partition("%")[0])
                packets.append(Received(bytes(view[:size]), source, traffic_class, segment if segment < size else 0))
        except BlockingIOError:
            pass
        except OSError as error:
            if error.errno != errno.ECONNREFUSED:  # an earlier send met a closed port
                raise
        return packets

    def send(self, datagram: Datagram) -> list[DropReason]:
        """Send a datagram, or many in one piece; return why the kernel did not take some, one reason for each."""
        if datagram.segment:
            if self.states["udp_segment"] == ON:
                sent = self._send_pieces(datagram)
                if sent:
                    return []
            reasons = [self._send_one(datagram, payload) for payload in datagram.payloads()]
        else:
            reasons = [self._send_one(datagram, datagram.payload)]
        return [reason for reason in reasons if reason is not None]

    def _send_pieces(self, datagram: Datagram) -> bool:
        """Send many datagrams by one call; False when each has to be tried alone, to see what becomes of it."""
        control: list[tuple[int, int, bytes]] = [
            (socket.IPPROTO_UDP, UDP_SEGMENT, struct.pack("=H", datagram.segment))
        ]
        if datagram.traffic_class:
            control += class_control(datagram.traffic_class, self._ipv6)
        sender = self._senders[datagram.entropy % len(self._senders)]
        try:
            sender.sendmsg([datagram.payload], control, 0, (datagram.destination, self._port))
        except OSError as error:
            if error.errno in (errno.EIO, errno.ENOPROTOOPT, errno.EOPNOTSUPP):
                self.states["udp_segment"] = unavailable(f"UDP_SEGMENT: {error.strerror}")
            return False
        return True

    def _send_one(self, datagram: Datagram, payload: bytes) -> DropReason | None:
        sender = self._senders[datagram.entropy % len(self._senders)]
        destination = (datagram.destination, self._port)
        try:
            if datagram.traffic_class:
                sender.sendmsg([payload], class_control(datagram.traffic_class, self._ipv6), 0, destination)
            else:
                sender.sendto(payload, destination)
        except OSError as error:
            return DropReason.FRAME_TOO_BIG if error.errno == errno.EMSGSIZE else DropReason.SEND_FAILED
        return None

    def close(self) -> None:
        """Close all sockets."""
        receivers = [self.receiver] if hasattr(self, "receiver") else []
        for opened in [*self._senders, *receivers, *self._memberships.sockets]:
            opened.close()


def class_control(traffic_class: int, ipv6: bool) -> list[tuple[int, int, bytes]]:
    """Return the control message that gives a packet its traffic class."""
    if ipv6:
        return [(socket.IPPROTO_IPV6, socket.IPV6_TCLASS, struct.pack("i", traffic_class))]
    return [(socket.IPPROTO_IP, socket.IP_TOS, struct.pack("i", traffic_class))]


def read_control(control: list[tuple[int, int, bytes]]) -> tuple[int, int]:
    """Return the traffic class, and the size of the datagrams that were put together, or zero."""
    traffic_class = segment = 0
    for level, _, data in control:
        if level == socket.IPPROTO_UDP:
            segment = int(struct.unpack("i", data[:4])[0])
        else:
            # One byte for IPv4's TOS, a C int for IPv6's traffic class.
            traffic_class = data[0] if len(data) == 1 else int(struct.unpack("i", data[:4])[0])
    return traffic_class, segment
