"""The NVE's UDP sockets on the underlay (thin shell).

One socket receives on the Geneve port. Packets leave through a pool of sockets, each bound to another
port of the dynamic range, so that a flow keeps its source port and ECMP can tell flows apart
(RFC 8926, section 3.3) without the kernel building each header anew.
"""

from __future__ import annotations

import errno
import ipaddress
import secrets
import socket
import struct

from geneve.drops import DropReason
from nve.dataplane import Datagram, Received, packed_address

DYNAMIC_PORTS = range(49152, 65536)
IP_PMTUDISC_PROBE = 3
"""Set DF and ignore the kernel's path MTU guess: the overlay's own MTU arithmetic rules (RFC 8926, 4.4.1)."""
IP_MTU_DISCOVER = 10
IPV6_MTU_DISCOVER = 23
SO_RCVBUFFORCE = 33
RECEIVE_BUFFER = 4 * 1024 * 1024
_BIND_TRIES = 100
_CONTROL_SPACE = socket.CMSG_SPACE(4)


class UnderlayError(Exception):
    """The underlay's sockets cannot be opened; the text says which address and why."""


class UnderlaySockets:
    """Receives on ``address``:``port``; sends from ``source_ports`` ports of the same address."""

    def __init__(self, address: str, port: int, source_ports: int) -> None:
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
            if self._ipv6:
                self.receiver.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVTCLASS, 1)
            else:
                self.receiver.setsockopt(socket.IPPROTO_IP, socket.IP_RECVTOS, 1)
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
            return sender
        raise OSError(errno.EADDRINUSE, "no free source port")

    def receive(self, limit: int) -> list[Received]:
        """Return up to ``limit`` datagrams that are waiting."""
        packets: list[Received] = []
        buffers, view = [self._buffer], self._view
        try:
            while len(packets) < limit:
                size, control, _, peer = self.receiver.recvmsg_into(buffers, _CONTROL_SPACE)
                payload = bytes(view[:size])
                packets.append(Received(payload, packed_address(peer[0].partition("%")[0]), _traffic_class(control)))
        except BlockingIOError:
            pass
        except OSError as error:
            if error.errno != errno.ECONNREFUSED:  # an earlier send met a closed port
                raise
        return packets

    def send(self, datagram: Datagram) -> DropReason | None:
        """Send one datagram; return why the kernel did not take it, or None."""
        sender = self._senders[datagram.entropy % len(self._senders)]
        destination = (datagram.destination, self._port)
        try:
            if datagram.traffic_class:
                sender.sendmsg([datagram.payload], self._class_control(datagram.traffic_class), 0, destination)
            else:
                sender.sendto(datagram.payload, destination)
        except OSError as error:
            return DropReason.FRAME_TOO_BIG if error.errno == errno.EMSGSIZE else DropReason.SEND_FAILED
        return None

    def _class_control(self, traffic_class: int) -> list[tuple[int, int, bytes]]:
        if self._ipv6:
            return [(socket.IPPROTO_IPV6, socket.IPV6_TCLASS, struct.pack("i", traffic_class))]
        return [(socket.IPPROTO_IP, socket.IP_TOS, struct.pack("i", traffic_class))]

    def close(self) -> None:
        """Close all sockets."""
        for opened in [*self._senders, *([self.receiver] if hasattr(self, "receiver") else [])]:
            opened.close()


def _traffic_class(control: list[tuple[int, int, bytes]]) -> int:
    for _, _, data in control:
        # One byte for IPv4's TOS, a C int for IPv6's traffic class.
        return data[0] if len(data) == 1 else int(struct.unpack("i", data[:4])[0])
    return 0
