"""The virtio network header in front of frames at TAP and packet sockets: offloads that the kernel leaves to us.

Ten bytes in the machine's byte order (Virtio 1.2, section 5.1.6; <linux/virtio_net.h>). A frame with a segmentation
type stands for many: its payload is to be cut into ``gso_size`` bytes each. With :data:`NEEDS_CHECKSUM` the transport
checksum holds only the pseudo-header's sum.
"""

from __future__ import annotations

import functools
import struct
from typing import NamedTuple

VNET_HEADER_SIZE = 10
NEEDS_CHECKSUM = 1
"""Flag: sum from ``checksum_start`` to the end, and put the result at ``checksum_start + checksum_offset``."""

GSO_NONE, GSO_TCPV4, GSO_UDP_FRAGMENTS, GSO_TCPV6, GSO_UDP = 0, 1, 3, 4, 5
"""Segmentation types; GSO_UDP cuts a payload into datagrams (UDP_SEGMENT), GSO_UDP_FRAGMENTS into IP fragments."""
GSO_ECN = 0x80
"""Bit beside a TCP type: the first segment alone carries CWR (RFC 3168)."""

_HEADER = struct.Struct("=BBHHHH")


class VnetHeader(NamedTuple):
    """The header's fields. Sizes and places in bytes, places from the start of the frame.

    ``header_size`` are the headers that every segment repeats; it is a hint of the kernel's and may be zero.
    """

    flags: int = 0
    gso_type: int = GSO_NONE
    header_size: int = 0
    gso_size: int = 0
    checksum_start: int = 0
    checksum_offset: int = 0

    def build(self) -> bytes:
        """Return the ten bytes; struct.error when a field does not fit."""
        return _HEADER.pack(*self)


PLAIN = VnetHeader()
"""A frame as it is on a wire."""
PLAIN_BYTES = bytes(VNET_HEADER_SIZE)


@functools.lru_cache(maxsize=1024)  # the kernel writes few kinds, and many of each
def parse_vnet(data: bytes) -> VnetHeader:
    """Read the header in front of a frame; struct.error when ``data`` has less than ten bytes."""
    return VnetHeader._make(_HEADER.unpack_from(data))
