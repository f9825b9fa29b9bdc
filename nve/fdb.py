"""What the kernel tells of bridges, their ports and the MAC addresses behind them (rtnetlink(7); pure).

As FRR's zebra does, the NVE takes from the kernel bridge's forwarding database (FDB) which tenants are behind which
of its own ports. Messages are ``struct nlmsghdr`` with a ``struct ndmsg`` (RTM_NEWNEIGH, RTM_DELNEIGH of family
AF_BRIDGE) or ``struct ifinfomsg`` (RTM_NEWLINK, RTM_DELLINK), and attributes behind it; numbers are in the host's
byte order. Entries of virtual networks by VLAN are taken together: the NVE's bridges do not filter by VLAN.
"""

from __future__ import annotations

import os
import struct
from dataclasses import dataclass

from geneve.errors import ParseError

AF_BRIDGE = 7
NLMSG_ERROR, NLMSG_DONE = 2, 3
RTM_NEWLINK, RTM_DELLINK, RTM_GETLINK = 16, 17, 18
RTM_NEWNEIGH, RTM_DELNEIGH, RTM_GETNEIGH = 28, 29, 30
NLM_F_REQUEST, NLM_F_DUMP, NLM_F_DUMP_INTR = 0x1, 0x300, 0x10

_HEADER = struct.Struct("=IHHII")
_ATTRIBUTE = struct.Struct("=HH")
_LINK = struct.Struct("=BxHiII")
_NEIGHBOUR = struct.Struct("=BxxxiHBB")
_ERRNO = struct.Struct("=i")
_ATTRIBUTE_TYPE = 0x3FFF
"""Without the bits for nested attributes and network byte order."""
_IFLA_IFNAME, _IFLA_MASTER = 3, 10
_NDA_LLADDR, _NDA_MASTER = 2, 9
_NTF_SELF = 0x02
_NUD_PERMANENT = 0x80
_IFF_UP, _IFF_RUNNING = 0x1, 0x40


@dataclass(frozen=True, slots=True)
class PortSeen:
    """An interface: index, name, index of the bridge whose port it is (0: none), and whether it can carry frames."""

    index: int
    name: str
    bridge: int
    up: bool


@dataclass(frozen=True, slots=True)
class PortGone:
    """An interface is no port any more, or no interface at all."""

    index: int


@dataclass(frozen=True, slots=True)
class MacSeen:
    """A bridge has learned, or been told, that a MAC address is behind a port; all but the MAC are indices."""

    bridge: int
    port: int
    mac: bytes


@dataclass(frozen=True, slots=True)
class MacGone:
    """A bridge has forgotten a MAC address behind a port: by age, or because the port is down or gone."""

    bridge: int
    port: int
    mac: bytes


@dataclass(frozen=True, slots=True)
class DumpEnd:
    """The answer to a request for everything is complete; ``error`` is 0 or an errno."""

    error: int


Event = PortSeen | PortGone | MacSeen | MacGone | DumpEnd


@dataclass(frozen=True, slots=True)
class Message:
    """What one netlink message says, which request it answers (0: none), and whether its dump was disturbed."""

    event: Event | None
    sequence: int
    interrupted: bool


def parse_messages(data: bytes) -> list[Message]:
    """Read one datagram of a netlink socket; ParseError when a length in it does not fit.

    Messages that say nothing about ports or bridges' MAC addresses have no event.
    """
    messages: list[Message] = []
    offset = 0
    while offset < len(data):
        if len(data) - offset < _HEADER.size:
            raise ParseError("netlink message cut short")
        length, kind, flags, sequence, _ = _HEADER.unpack_from(data, offset)
        if not _HEADER.size <= length <= len(data) - offset:
            raise ParseError(f"netlink message of {length} bytes with {len(data) - offset} left")
        event = _read_event(kind, data[offset + _HEADER.size : offset + length])
        messages.append(Message(event, sequence, bool(flags & NLM_F_DUMP_INTR)))
        offset += _aligned(length)
    return messages


def build_dump_request(kind: int, sequence: int) -> bytes:
    """Return the request for all links (RTM_GETLINK) or all entries of bridges (RTM_GETNEIGH)."""
    body = _LINK.pack(0, 0, 0, 0, 0) if kind == RTM_GETLINK else _NEIGHBOUR.pack(AF_BRIDGE, 0, 0, 0, 0)
    return _HEADER.pack(_HEADER.size + len(body), kind, NLM_F_REQUEST | NLM_F_DUMP, sequence, 0) + body


def _aligned(length: int) -> int:
    return (length + 3) & ~3


def _read_event(kind: int, body: bytes) -> Event | None:
    if kind in (RTM_NEWLINK, RTM_DELLINK):
        return _read_link(kind, body)
    if kind in (RTM_NEWNEIGH, RTM_DELNEIGH):
        return _read_neighbour(kind, body)
    if kind in (NLMSG_ERROR, NLMSG_DONE):
        # Both begin with a negative errno; older kernels end a dump without one.
        if len(body) < _ERRNO.size:
            return DumpEnd(0)
        return DumpEnd(-int(_ERRNO.unpack_from(body)[0]))
    return None


def _read_link(kind: int, body: bytes) -> Event | None:
    if len(body) < _LINK.size:
        raise ParseError("ifinfomsg cut short")
    _, _, index, flags, _ = _LINK.unpack_from(body)
    if kind == RTM_DELLINK:
        return PortGone(index)  # of family AF_BRIDGE: the interface is there, and no port any more
    attributes = _read_attributes(body, _aligned(_LINK.size))
    name = attributes.get(_IFLA_IFNAME, b"").partition(b"\0")[0]
    bridge = _index(attributes[_IFLA_MASTER]) if _IFLA_MASTER in attributes else 0
    up = flags & (_IFF_UP | _IFF_RUNNING) == _IFF_UP | _IFF_RUNNING
    return PortSeen(index, os.fsdecode(name), bridge, up)


def _read_neighbour(kind: int, body: bytes) -> Event | None:
    if len(body) < _NEIGHBOUR.size:
        raise ParseError("ndmsg cut short")
    family, index, state, flags, _ = _NEIGHBOUR.unpack_from(body)
    if family != AF_BRIDGE:
        return None
    attributes = _read_attributes(body, _aligned(_NEIGHBOUR.size))
    mac, bridge = attributes.get(_NDA_LLADDR, b""), attributes.get(_NDA_MASTER)
    # Permanent entries are the ports' own addresses; entries of a device itself are no bridge's.
    if len(mac) != 6 or bridge is None or state & _NUD_PERMANENT or flags & _NTF_SELF:
        return None
    made = MacSeen if kind == RTM_NEWNEIGH else MacGone
    return made(_index(bridge), index, mac)


def _read_attributes(body: bytes, offset: int) -> dict[int, bytes]:
    attributes: dict[int, bytes] = {}
    while offset < len(body):
        if len(body) - offset < _ATTRIBUTE.size:
            raise ParseError("netlink attribute cut short")
        length, kind = _ATTRIBUTE.unpack_from(body, offset)
        if not _ATTRIBUTE.size <= length <= len(body) - offset:
            raise ParseError(f"netlink attribute of {length} bytes with {len(body) - offset} left")
        attributes[kind & _ATTRIBUTE_TYPE] = body[offset + _ATTRIBUTE.size : offset + length]
        offset += _aligned(length)
    return attributes


def _index(value: bytes) -> int:
    if len(value) != 4:
        raise ParseError(f"interface index of {len(value)} bytes, 4 expected")
    return int(struct.unpack("=I", value)[0])
