"""ARP and neighbour discovery answered at the NVE, so that requests need not cross the overlay.

The NVE answers for tenants that the mappings place behind another NVE (RFC 8014, section 4.1;
RFC 826; RFC 4861). What it does not know, and what tenants announce about themselves, is left to be
flooded.
"""

from __future__ import annotations

import struct

from geneve.inner import ETHERTYPE_ARP, ETHERTYPE_IPV6, InnerFrame
from geneve.outer import internet_checksum
from nve.tables import VirtualNetwork

_ARP_REQUEST = b"\x00\x01\x08\x00\x06\x04\x00\x01"
_ARP_REPLY = b"\x00\x01\x08\x00\x06\x04\x00\x02"
_ICMPV6 = 58
_NEIGHBOUR_SOLICITATION = 135
_NEIGHBOUR_ADVERTISEMENT = 136
_SOLICITED_OVERRIDE = 0x60000000
_HOP_LIMIT = 255
"""Neighbour discovery is only valid with this hop limit (RFC 4861, section 7.1.1)."""


def answer(frame: bytes, inner: InnerFrame, network: VirtualNetwork, own_nve: str) -> bytes | None:
    """Return the frame that answers an address request from a local tenant, or None to let it be flooded."""
    if inner.ethertype == ETHERTYPE_ARP:
        return _answer_arp(frame, inner, network, own_nve)
    if inner.ethertype == ETHERTYPE_IPV6:
        return _answer_solicitation(frame, inner, network, own_nve)
    return None


def _remote(network: VirtualNetwork, address: bytes, own_nve: str) -> bytes | None:
    known = network.neighbours.get(address)
    # A local tenant answers for itself, through the bridge.
    return known[0] if known is not None and known[1] != own_nve else None


def _answer_arp(frame: bytes, inner: InnerFrame, network: VirtualNetwork, own_nve: str) -> bytes | None:
    start = inner.network_offset
    if frame[start : start + 8] != _ARP_REQUEST or len(frame) < start + 28:
        return None
    sender_mac, sender_ip = frame[start + 8 : start + 14], frame[start + 14 : start + 18]
    target_ip = frame[start + 24 : start + 28]
    mac = _remote(network, target_ip, own_nve)
    if mac is None or sender_ip == target_ip:
        return None
    return inner.source + mac + frame[12:start] + _ARP_REPLY + mac + target_ip + sender_mac + sender_ip


def _answer_solicitation(frame: bytes, inner: InnerFrame, network: VirtualNetwork, own_nve: str) -> bytes | None:
    start = inner.network_offset
    if (
        len(frame) < start + 64
        or frame[start + 6] != _ICMPV6
        or frame[start + 7] != _HOP_LIMIT
        or frame[start + 40] != _NEIGHBOUR_SOLICITATION
    ):
        return None
    source, target = frame[start + 8 : start + 24], frame[start + 48 : start + 64]
    mac = _remote(network, target, own_nve)
    if mac is None or source == bytes(16):  # duplicate address detection is the tenants' own affair
        return None
    body = struct.pack("!BBHI", _NEIGHBOUR_ADVERTISEMENT, 0, 0, _SOLICITED_OVERRIDE) + target + b"\x02\x01" + mac
    checksum = internet_checksum(target + source + struct.pack("!II", len(body), _ICMPV6) + body)
    body = body[:2] + struct.pack("!H", checksum) + body[4:]
    ip = struct.pack("!IHBB", 0x60000000, len(body), _ICMPV6, _HOP_LIMIT) + target + source
    return inner.source + mac + frame[12:start] + ip + body
