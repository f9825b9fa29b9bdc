"""What a Geneve packet carries, as far as a flow needs it: what tells flows apart, and where the data starts."""

from __future__ import annotations

from dataclasses import dataclass

from geneve.errors import ParseError
from geneve.header import ETHERTYPE_TEB
from geneve.inner import (
    ETHERTYPE_ARP,
    ETHERTYPE_IPV4,
    ETHERTYPE_IPV6,
    ETHERTYPE_QINQ,
    ETHERTYPE_VLAN,
    InnerFrame,
    parse_inner,
)
from geneve.outer import address_text

_IPV4, _IPV6 = b"\x08\x00", b"\x86\xdd"
_PORTS = frozenset({6, 17, 33, 132, 136})
_BFD = frozenset({3784, 3785, 4784})
_LLDP = 0x88CC
_IP_OR_ARP = frozenset({ETHERTYPE_IPV4, ETHERTYPE_IPV6, ETHERTYPE_ARP, ETHERTYPE_VLAN, ETHERTYPE_QINQ})
_KNOWN = _IP_OR_ARP | {_LLDP, 0x8847}
_NO_MACS = bytes(12)


def flow_key(data: bytes, at: int, protocol_type: int) -> tuple[bytes, ...]:
    """Return what packets of one inner flow have in common, from the payload at ``at``. Reads few bytes; no errors."""
    if protocol_type == ETHERTYPE_TEB:
        head = data[at : at + 14]
        kind, at = head[12:14], at + 14
    else:
        head = b""
        kind = _IPV4 if protocol_type == ETHERTYPE_IPV4 else _IPV6 if protocol_type == ETHERTYPE_IPV6 else b""
    if kind == _IPV4 and len(data) >= at + 20:
        protocol = data[at + 9 : at + 10]
        if data[at] == 0x45 and protocol[0] in _PORTS and not data[at + 6] & 0x3F and not data[at + 7]:
            return head, protocol, data[at + 12 : at + 24]
        return head, protocol, data[at + 12 : at + 20]
    if kind == _IPV6 and len(data) >= at + 40:
        protocol = data[at + 6 : at + 7]
        return head, protocol, data[at + 8 : at + (44 if protocol[0] in _PORTS else 40)]
    return (head,)


@dataclass(slots=True)
class Inside:
    """A readable inner packet. ``text`` names the flow; ``data_at`` is where the transport's payload starts.

    ``control`` names ARP, neighbour discovery, BFD and LLDP, which are the network's own and no tenant's data.
    """

    text: str
    protocol: int | None
    source_port: int
    destination_port: int
    data_at: int
    data_end: int
    control: str = ""


def read_inside(data: bytes, at: int, end: int, protocol_type: int, strict: bool = False) -> Inside | None:
    """Read the inner packet between ``at`` and ``end``; None when it is none that is known, so perhaps ciphertext.

    What is behind the captured bytes does not matter, except that lengths must not contradict ``end``. ``strict``
    accepts only what ciphertext resembles less than once in a million packets: IP and ARP with sound headers.
    """
    known = _IP_OR_ARP if strict else _KNOWN
    if protocol_type == ETHERTYPE_TEB:
        kind = int.from_bytes(data[at + 12 : at + 14], "big")
        if kind not in known and (strict or kind >= 0x0600):
            return None  # at once, since that is what nearly all ciphertext looks like
        frame = data[at:end]
    elif protocol_type in (ETHERTYPE_IPV4, ETHERTYPE_IPV6):
        frame = _NO_MACS + protocol_type.to_bytes(2, "big") + data[at:end]
        at -= 14
    else:
        return None
    try:
        inner = parse_inner(frame)
    except ParseError:
        return None
    start = inner.network_offset
    if inner.ethertype not in known and (strict or inner.ethertype >= 0x0600):  # behind a VLAN tag
        return None
    if inner.ethertype in (ETHERTYPE_VLAN, ETHERTYPE_QINQ) or (inner.ethertype == ETHERTYPE_ARP and not inner.readable):
        return None
    if inner.ethertype < 0x0600 and inner.ethertype > end - at:  # IEEE 802.3: a length
        return None
    if inner.source_ip and not _consistent(frame, inner, end - at):
        return None
    if inner.ethertype in (ETHERTYPE_IPV4, ETHERTYPE_IPV6) and not inner.source_ip:
        return None
    last = end
    if inner.ethertype == ETHERTYPE_IPV4:
        last = min(end, at + start + (frame[start + 2] << 8 | frame[start + 3]))
    return Inside(
        _text(inner), inner.protocol, inner.source_port or 0, inner.destination_port or 0,
        at + inner.headers_end, last, _control(inner),
    )  # fmt: skip


def _consistent(frame: bytes, inner: InnerFrame, size: int) -> bool:
    """Whether the IP header's length fits the ``size`` of the frame on the wire; 0 is what offloads leave."""
    start = inner.network_offset
    if inner.ethertype == ETHERTYPE_IPV4:
        total = frame[start + 2] << 8 | frame[start + 3]
        return frame[start] & 15 >= 5 and (20 <= total <= size - start or total == 0)
    return (frame[start + 4] << 8 | frame[start + 5]) <= size - start - 40


def _control(inner: InnerFrame) -> str:
    if inner.ethertype == ETHERTYPE_ARP:
        return "ARP"
    if inner.ethertype == _LLDP:
        return "LLDP"
    if inner.protocol == 58 and inner.icmp_type is not None and 133 <= inner.icmp_type <= 137:
        return "neighbour discovery"
    return "BFD" if inner.protocol == 17 and inner.destination_port in _BFD else ""


def _text(inner: InnerFrame) -> str:
    if not inner.source_ip:
        return f"{inner.source.hex(':')} > {inner.destination.hex(':')} type 0x{inner.ethertype:04x}"
    source, destination = address_text(inner.source_ip), address_text(inner.destination_ip)
    if inner.source_port is not None:
        return f"{source} {inner.source_port} > {destination} {inner.destination_port} protocol {inner.protocol}"
    return f"{source} > {destination} protocol {inner.protocol}"
