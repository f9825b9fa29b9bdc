"""Membership in multicast groups of the underlay, for sockets of any kind (thin shell)."""

from __future__ import annotations

import ipaddress
import socket
import struct
from collections.abc import Callable, Iterable

MULTICAST_HOPS = 64
"""Hop limit of packets to groups; the kernel's own is 1."""


class UnderlayError(Exception):
    """The underlay's sockets cannot be opened; the text says which address and why."""


class Memberships:
    """A socket for each group that was joined; ``interface`` is where, without it there are none.

    ``join`` opens one that receives what comes to a group, or raises OSError.
    """

    def __init__(self, interface: str | None, join: Callable[[str], socket.socket]) -> None:
        self._interface, self._join = interface, join
        self._groups: dict[str, socket.socket] = {}

    @property
    def sockets(self) -> list[socket.socket]:
        """The sockets of all groups."""
        return list(self._groups.values())

    def set(self, groups: Iterable[str]) -> tuple[list[socket.socket], list[socket.socket]]:
        """Be a member of exactly ``groups``; return the new sockets, and those left, which are not closed yet.

        UnderlayError when a group cannot be joined; nothing has changed then.
        """
        wanted = set(groups)
        if wanted and self._interface is None:
            raise UnderlayError("multicast groups need the key 'underlay.interface'; add it to the configuration.")
        joined: dict[str, socket.socket] = {}
        try:
            for group in sorted(wanted - self._groups.keys()):
                joined[group] = self._join(group)
        except OSError as error:
            for opened in joined.values():
                opened.close()
            raise UnderlayError(f"cannot join multicast group {group} ({error.strerror}).") from None
        left = [self._groups.pop(group) for group in list(self._groups) if group not in wanted]
        self._groups |= joined
        return list(joined.values()), left


def leave_by(sender: socket.socket, interface: str, ipv6: bool) -> None:
    """Have what a socket sends to groups leave by an interface, and not come back."""
    index = socket.if_nametoindex(interface)
    if ipv6:
        sender.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_IF, index)
        sender.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_LOOP, 0)
        sender.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_HOPS, MULTICAST_HOPS)
    else:
        sender.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, struct.pack("=4s4si", bytes(4), bytes(4), index))
        sender.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_LOOP, 0)
        sender.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_TTL, MULTICAST_HOPS)


def join_group(receiver: socket.socket, group: str, interface: str) -> None:
    """Have a socket receive what comes to a group by an interface."""
    index, address = socket.if_nametoindex(interface), ipaddress.ip_address(group)
    if address.version == 6:
        receiver.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_JOIN_GROUP, address.packed + struct.pack("=I", index))
    else:
        membership = struct.pack("=4s4si", address.packed, bytes(4), index)
        receiver.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, membership)
