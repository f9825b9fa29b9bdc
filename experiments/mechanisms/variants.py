"""What is compared: a protection, and by which path its packets leave and enter the NVE. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from experiments.peers.ours import HEADERS_ONLY, encrypts
from geneve.control.profile import Coverage, InnerCoverage, Profile
from geneve.header import BASE_HEADER_SIZE
from geneve.offloads import ON
from geneve.overhead import (
    ETHERNET_HEADER_SIZE,
    IP_HEADER_SIZE,
    UDP_HEADER_SIZE,
    channel_size,
    encapsulation_size,
    max_options_size,
    tenant_mtu,
)
from topologies.profiles import BUILT_IN_PROFILES, NO_PROTECTION

BATCHED, SINGLE, KERNEL = "batched", "single", "kernel"
"""Paths: many packets of one size in a system call (UDP_SEGMENT, UDP_GRO), or one; or the kernel's own IPsec."""
AUTHENTICATED_ONLY = Profile(name="authenticated-only", egress=Coverage(encrypt_inner=InnerCoverage.NONE))
PROFILES: dict[str, Profile | None] = {
    NO_PROTECTION: None,
    **{profile.name: profile for profile in (*BUILT_IN_PROFILES, HEADERS_ONLY, AUTHENTICATED_ONLY)},
}
"""Protections by name, ``none`` included."""


@dataclass(frozen=True, slots=True)
class Variant:
    """One row of the tables: a protection (key of :data:`PROFILES`) and a path; MTU of the underlay in bytes."""

    mechanism: str
    path: str
    underlay_mtu: int = 1500

    @property
    def name(self) -> str:
        """Name in samples and files."""
        suffix = "" if self.underlay_mtu == 1500 else f"-{self.underlay_mtu}"
        return f"{self.mechanism}-{self.path}{suffix}"

    @property
    def profile(self) -> Profile | None:
        """The protection."""
        return PROFILES[self.mechanism]

    @property
    def options_size(self) -> int:
        """Bytes of Geneve options in each packet."""
        return max_options_size(self.profile, [])

    @property
    def tenant_mtu(self) -> int:
        """The largest IP packet of a tenant, in bytes."""
        return tenant_mtu(self.underlay_mtu, 4, self.options_size, self.profile)

    @property
    def encrypts(self) -> bool:
        """Whether any part of inner frames is hidden."""
        return encrypts(self.profile)

    def key(self) -> dict[str, Any]:
        """Return the keys that name the variant in samples."""
        return {"mechanism": self.mechanism, "path": self.path, "underlay_mtu": self.underlay_mtu}


def _path(name: str) -> str:
    """Return the best path that a protection can have here: IP protocols of their own are sent one by one."""
    profile = PROFILES[name]
    channel = None if profile is None else profile.channel
    return SINGLE if channel is not None and channel.ip_protocol is not None else BATCHED


COMPARED = tuple(
    Variant(name, path)
    for name, path in (
        ("none", BATCHED), ("full", BATCHED), ("headers-only", BATCHED), ("dtls", BATCHED), ("dtls-null", BATCHED),
        ("esp-udp", BATCHED), ("esp-null-udp", BATCHED),
        ("none", SINGLE), ("full", SINGLE), ("esp", SINGLE), ("esp-null", SINGLE), ("ah", SINGLE),
    )
)  # fmt: skip
"""Variants of the experiment *mechanisms*, in the order of tables."""
IN_KERNEL = tuple(Variant(name, KERNEL) for name in ("esp", "esp-null", "ah"))
"""Those that are measured besides where the kernel has them. The work is then no process's; goodput still compares."""

OVERLAYS = ("none", "authenticated-only", "headers-only", "full", "dtls", "esp-udp", "esp-null-udp", "esp")
"""Protections of the experiment *partial*, in the order of tables."""


def partial_variants(mtus: Sequence[int]) -> tuple[Variant, ...]:
    """Return the variants of the experiment *partial*, each protection on its best path, for each underlay's MTU."""
    return tuple(Variant(name, _path(name), mtu) for mtu in mtus for name in OVERLAYS)



SETUP = ("none", "full", "dtls", "dtls-null", "esp-udp", "esp", "ah")
"""Protections whose key set-up is timed. Ciphers make no difference to keys that the NVA makes."""


def outer_size(profile: Profile | None, frame: int, family: int = 4) -> int:
    """Return the bytes of the outer IP packet that carries an inner frame of ``frame`` bytes, FCS not counted."""
    options = max_options_size(profile, [])
    if profile is None or profile.channel is None:
        return encapsulation_size(family, options) + frame
    datagram = UDP_HEADER_SIZE + BASE_HEADER_SIZE + options + frame
    return IP_HEADER_SIZE[family] + channel_size(datagram, family, profile.channel)


TCP_HEADERS = IP_HEADER_SIZE[4] + 32
"""IPv4, and TCP with timestamps."""
_COVERED_MULTIPLE = 16
"""Encrypted headers end at a multiple of this (docs/wire-format.md)."""
_TLS_HEADER, _TLS_CONTENT, _TLS_EXTRA = 5, 1 << 14, 17
"""A record of bulk data: header in clear, content, and its type and tag, which are encrypted or stand for it."""
TLS_CIPHERTEXT_SHARE = (_TLS_CONTENT + _TLS_EXTRA) / (_TLS_HEADER + _TLS_CONTENT + _TLS_EXTRA)
"""Share of a bulk TLS 1.3 stream that is not the records' own headers (RFC 8446, section 5.2)."""


def hidden_payload(profile: Profile | None, payload: int) -> int:
    """Return how many of ``payload`` bytes of TCP in a full-size packet the overlay encrypts."""
    if profile is None or not encrypts(profile):
        return 0
    if profile.channel is None and profile.egress.encrypt_inner is InnerCoverage.HEADERS:
        headers = ETHERNET_HEADER_SIZE + TCP_HEADERS
        return min(payload, -(-headers // _COVERED_MULTIPLE) * _COVERED_MULTIPLE - headers)
    return payload


def segment_payload(mtu: int) -> int:
    """Return the TCP payload of a full-size segment of a tenant."""
    return mtu - TCP_HEADERS


def inner_frame(mtu: int) -> int:
    """Return the frame of a tenant's largest packet."""
    return mtu + ETHERNET_HEADER_SIZE


def observed_path(offloads: dict[str, str] | None, document: dict[str, Any] | None = None) -> str | None:
    """Return the path that an NVE took by its own account, of offloads and mechanism; None when it said nothing."""
    if offloads is None:
        return None
    if document is not None and document.get("implementation") == KERNEL:
        return KERNEL
    return BATCHED if offloads.get("udp_segment") == ON and offloads.get("udp_gro") == ON else SINGLE


def implementation(document: dict[str, Any] | None) -> str:
    """Return in words which implementation an NVE says that it uses, from ``mechanism`` of its statistics."""
    if not document:
        return "unknown"
    parts = [str(document.get("name", "unknown"))]
    parts += [str(document[key]) for key in ("implementation", "library", "cipher_suite") if document.get(key)]
    return ", ".join(parts)

