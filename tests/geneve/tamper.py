"""The tamper matrix: every bit of a packet flipped, outer header to last byte, and who refuses it.

``python -m tests.geneve.tamper`` writes docs/tamper-matrix.md. The attacker repairs the outer checksums after each
flip, so that no checksum gets the credit for what a tag has to do.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from geneve.control.profile import Coverage, InnerCoverage, KeyGranularity, Padding, PaddingMode, Profile
from geneve.control.state import AssociationRole
from geneve.drops import DropReason
from geneve.header import FIELD_MASKS, HeaderField
from geneve.outer import build_datagram, build_frame
from geneve.security.aad import covers_option
from geneve.security.association import InboundAssociation
from geneve.security.open import PacketOpener
from geneve.security.option import SecuritySpan, is_mechanism_option, scan_options
from geneve.security.seal import Item
from geneve.security.shape import make_shape
from geneve.security.transit import TransitVerifier, Verified
from tests.geneve.make_vectors import BINDING, ONE, OPTIONS, associations, device, make_sealer, select
from tests.support import ADDRESSES, TRANSIT_COVERAGE, checksum, source, udp_frame

DOCUMENT = Path(__file__).parents[2] / "docs" / "tamper-matrix.md"
OUTER = 14 + 20 + 8
_NONE, _HEADERS, _ALL = InnerCoverage
MACS = b"\x02\x60\x81\x01\x02\x00", b"\x02\x60\x81\x01\x01\x00"
ACCEPTED = "accepted"
NAMES = {
    (0x0102, 0x11): "option 0x0102:0x11", (0x0102, 0x12): "option 0x0102:0x12", (0xFF60, 0x02): "telemetry",
    (0xFF60, 0x06): "security groups", (0xFF60, 0x85): "signature", (0xFF60, 0x04): "group's security option",
}  # fmt: skip
OUTER_FIELDS = (
    ("Ethernet destination", 6), ("Ethernet source", 6), ("Ethernet type", 2), ("IP version, IHL", 1),
    ("IP DSCP, ECN", 1), ("IP total length", 2), ("IP identification", 2), ("IP flags, fragment offset", 2),
    ("IP TTL", 1), ("IP protocol", 1), ("IP checksum", 2), ("IP source", 4), ("IP destination", 4),
    ("UDP source port", 2),
    ("UDP destination port", 2), ("UDP length", 2), ("UDP checksum", 2),
)  # fmt: skip
HOST_FIELDS = {"IP checksum", "UDP checksum"}

PROFILES: dict[str, tuple[Profile, str]] = {
    "full": (Profile(name="vector"), ""),
    "full, two transit devices": (Profile(name="vector", transit=TRANSIT_COVERAGE), ""),
    "authentication only": (Profile(name="vector", egress=Coverage(encrypt_inner=_NONE)), ""),
    "headers encrypted": (
        Profile(name="vector", egress=Coverage(authenticate_inner=_HEADERS, encrypt_inner=_HEADERS)), "",
    ),
    "headers authenticated": (
        Profile(name="vector", egress=Coverage(authenticate_inner=_HEADERS, encrypt_inner=_NONE)), "",
    ),
    "subset of header and options": (
        Profile(name="vector", egress=Coverage(header=BINDING, options=select(ONE))), "",
    ),
    "subset, authentication only": (
        Profile(name="vector", egress=Coverage(header=BINDING, options=(), encrypt_inner=_NONE)), "",
    ),
    "hidden option and header": (
        Profile(name="vector", hidden_header=BINDING, egress=Coverage(hidden_options=select(ONE)),
                devices={"t1": device(reveal_header=frozenset({HeaderField.VNI}), options=None)}), "",
    ),
    "group": (Profile(name="vector", group=device(hidden_options=select(ONE))), ""),
    "padded, key per flow": (
        Profile(name="vector", key_granularity=KeyGranularity.FLOW,
                padding=Padding(mode=PaddingMode.MULTIPLE, multiple=64)), "",
    ),
    "multicast": (Profile(name="vector"), "multicast"),
}  # fmt: skip


@dataclass(frozen=True)
class Field:
    """A run of bits of the frame. ``covered`` says by the document's rules whether a flip must be refused."""

    name: str
    first: int
    last: int
    nve: bool
    t1: bool


def host(frame: bytes) -> str | None:
    """Do what a Linux host does with a frame before Geneve sees it: None when it comes to the NVE's socket."""
    group = frame[0] & 1
    if frame[:6] != MACS[0] and not (group and frame[:6] == bytes.fromhex("01005e3c5101")):
        return "host: not its MAC address"
    if frame[12:14] != b"\x08\x00":
        return "host: not IPv4"
    ip = frame[14:]
    size, total = (ip[0] & 15) * 4, int.from_bytes(ip[2:4], "big")
    if ip[0] >> 4 != 4 or size < 20 or not size <= total <= len(ip) or checksum(ip[:size]):
        return "host: bad IP header"
    if int.from_bytes(ip[6:8], "big") & 0x3FFF:
        return "host: waits for fragments"
    if ip[9] != 17 or ip[16:20] not in (source("nve2"), bytes([239, 60, 81, 1])):
        return "host: other protocol or address"
    udp = ip[size:total]
    if len(udp) < 8 or not 8 <= int.from_bytes(udp[4:6], "big") <= len(udp):
        return "host: bad UDP length"
    udp = udp[: int.from_bytes(udp[4:6], "big")]
    if udp[6:8] != bytes(2) and _udp_checksum(ip, udp):
        return "host: bad checksum"
    return None if udp[2:4] == (6081).to_bytes(2, "big") else "host: other port"


def _udp_checksum(ip: bytes, udp: bytes) -> int:
    data = ip[12:20] + struct.pack("!HH", 17, len(udp)) + udp
    return checksum(data + b"\x00" * (len(data) % 2))


def repaired(frame: bytes) -> bytes:
    """Make the outer checksums right again, as an attacker would."""
    ip = bytearray(frame[14:])
    size = (ip[0] & 15) * 4
    if ip[0] >> 4 != 4 or not 20 <= size <= len(ip) - 8:
        return frame
    ip[10:12] = bytes(2)
    ip[10:12] = struct.pack("!H", checksum(bytes(ip[:size])))
    udp = bytes(ip[size:])
    length = int.from_bytes(udp[4:6], "big")
    if 8 <= length <= len(udp):
        udp = udp[:6] + bytes(2) + udp[8:]
        fixed = _udp_checksum(bytes(ip), udp[:length]) or 0xFFFF
        udp = udp[:6] + struct.pack("!H", fixed) + udp[8:]
    return frame[:14] + bytes(ip[:size]) + udp


class Site:
    """One packet of one profile, and those who may open it, fresh for each flip."""

    def __init__(self, name: str) -> None:
        self.profile, feature = PROFILES[name]
        self.held = associations(self.profile, feature)
        sealer = make_sealer(self.profile, self.held)
        options = OPTIONS if name != "full" else ()
        self.item = Item(udp_frame(data=b"the tenant's data " * 3), options)
        (packet,) = sealer.seal([self.item])
        destination = "239.60.81.1" if feature else ADDRESSES["nve2"]
        mac = bytes.fromhex("01005e3c5101") if feature else MACS[0]
        frame = build_frame(MACS[1], mac, build_datagram(ADDRESSES["nve1"], destination, 50000, packet))
        self.packet, self.frame = packet, repaired(frame)

    def nve(self, frame: bytes) -> str:
        """Return who refuses a frame on its way into the egress NVE, or ACCEPTED."""
        refused = host(frame)
        if refused is not None:
            return refused
        ends = [InboundAssociation(item, self.profile) for item in self.held if item.opens("nve2")]
        payload = _geneve(frame)
        result = PacketOpener(ends).open(payload, frame[26:30])
        if isinstance(result, DropReason):
            return result.value
        if result.association is None:
            return DropReason.UNPROTECTED.value
        if result.association.vni not in (None, result.header.vni):
            return DropReason.POLICY_MISMATCH.value
        return ACCEPTED

    def t1(self, frame: bytes) -> str:
        """Return what transit device t1 makes of a frame."""
        if host(frame) is not None and not host(frame).startswith("host: not its MAC"):  # type: ignore[union-attr]
            return "not read"
        ends = [InboundAssociation(item, self.profile) for item in self.held if item.opens("t1")]
        result = TransitVerifier(ends).verify(_geneve(frame), frame[26:30])
        if isinstance(result, Verified):
            return ACCEPTED
        return "not addressed" if result is None else result.value

    @property
    def has_t1(self) -> bool:
        """Whether t1 can open anything."""
        return any(item.opens("t1") for item in self.held)

    def fields(self) -> Iterator[Field]:
        """Yield every field of the frame, with what the document says of it."""
        at = 0
        for name, size in OUTER_FIELDS:
            covered = name == "IP source"
            yield Field(name, at, at + size * 8 - 1, covered or name in HOST_FIELDS, covered or name in HOST_FIELDS)
            at += size * 8
        spans = scan_options(self.packet, 8 + (self.packet[0] & 63) * 4)
        security = [span for span in spans if isinstance(span, SecuritySpan)]
        shapes = {}
        for item in self.held:
            shapes[item.spi] = make_shape(self.profile, item.role, item.audience)
        roles = {item.spi: item for item in self.held}
        mine = {"nve": [s for s in security if roles[s.spi].opens("nve2")],
                "t1": [s for s in security if roles[s.spi].opens("t1")]}  # fmt: skip

        def covers(who: str, test: Callable[[SecuritySpan], bool]) -> bool:
            return any(test(own) for own in mine[who])

        for field in HeaderField:
            mask = FIELD_MASKS[field]
            bits = [63 - bit for bit in range(64) if mask >> bit & 1]
            in_header = {who: covers(who, lambda own, f=field: f in shapes[own.spi].coverage.header)  # type: ignore[misc]
                         for who in mine}  # fmt: skip
            # The NVE and the device read the version before anything else; the O bit stops the NVE.
            nve = in_header["nve"] or field in (HeaderField.VERSION, HeaderField.OAM, HeaderField.PROTOCOL_TYPE)
            yield Field(f"Geneve {field.value}", OUTER * 8 + min(bits), OUTER * 8 + max(bits), nve,
                        in_header["t1"] or field is HeaderField.VERSION)  # fmt: skip
        for span in spans:
            first, last = (OUTER + span.start) * 8, (OUTER + span.end) * 8 - 1
            if isinstance(span, SecuritySpan):
                item = roles[span.spi]
                role = item.role
                owner = item.audience if role is AssociationRole.TRANSIT else "NVE"
                name = f"{'group' if role is AssociationRole.GROUP else owner}'s security option"
            else:
                name = NAMES[span.option_class, span.type]
            result = {
                who: any(
                    own.start == span.start or covers_option(shapes[own.spi].coverage, span, own) for own in mine[who]
                )
                for who in mine
            }
            signature = is_mechanism_option(span.option_class, span.type) and span.type == 0x85
            yield Field(name, first, last, result["nve"] or signature, result["t1"])
        yield from self._payload_fields(mine["nve"], shapes, spans[-1].end)

    def _payload_fields(self, own: list[SecuritySpan], shapes: dict[int, object], start: int) -> Iterator[Field]:
        first, last = (OUTER + start) * 8, len(self.frame) * 8 - 1
        levels = [shapes[span.spi].coverage.authenticate_inner for span in own]  # type: ignore[attr-defined]
        if _ALL in levels or _HEADERS not in levels:
            yield Field("inner frame", first, last, _ALL in levels, False)
            return
        encrypts = self.profile.egress.encrypt_inner is _HEADERS
        end = first + (48 if encrypts else 42) * 8
        yield Field("inner headers", first, end - 1, True, False)
        yield Field("inner payload", end, last, False, False)


def _geneve(frame: bytes) -> bytes:
    size = (frame[14] & 15) * 4
    udp = frame[14 + size :]
    return udp[8 : int.from_bytes(udp[4:6], "big")]


def flipped(frame: bytes, bit: int, field: str) -> bytes:
    changed = bytearray(frame)
    changed[bit // 8] ^= 0x80 >> bit % 8
    return bytes(changed) if field in HOST_FIELDS else repaired(bytes(changed))


def judge(site: Site, field: Field, who: str) -> dict[str, int]:
    """Return how many flips of a field's bits end how."""
    look = site.nve if who == "nve" else site.t1
    ends: dict[str, int] = {}
    for bit in range(field.first, field.last + 1):
        end = look(flipped(site.frame, bit, field.name))
        ends[end] = ends.get(end, 0) + 1
    return ends


def cell(ends: dict[str, int], covered: bool) -> str:
    if set(ends) == {ACCEPTED}:
        return "**not covered**"
    shown = sorted(end for end in ends if end != ACCEPTED)
    hosts = [end for end in shown if end.startswith("host")]
    rest = [f"`{end}`" if " " not in end else end for end in shown if not end.startswith("host")]
    text = ", ".join((["host"] if hosts else []) + rest)
    return text if ACCEPTED not in ends else f"**in part not covered**; else {text}"


def table(who: str, names: list[str]) -> str:
    sites = {name: Site(name) for name in names}
    columns: dict[str, dict[str, str]] = {}
    order: list[str] = []
    for name, site in sites.items():
        for field in site.fields():
            ends = judge(site, field, who)
            columns.setdefault(field.name, {})[name] = cell(ends, field.nve)
            if field.name not in order:
                order.append(field.name)
    lines = ["| field | " + " | ".join(names) + " |", "|---" * (len(names) + 1) + "|"]
    lines += [f"| {field} | " + " | ".join(columns[field].get(name, "") for name in names) + " |" for field in order]
    return "\n".join(lines)


def document() -> str:
    nve = list(PROFILES)
    t1 = [name for name in PROFILES if Site(name).has_t1]
    return f"""# Tamper matrix

Generated by `python -m tests.geneve.tamper`; the tests compare it with what happens. Every single bit of a packet,
outer header to last byte, is flipped in turn, and the attacker makes the outer checksums right again. A cell tells who
refuses the flips of a field: *host*, a Linux host's own checks before Geneve sees anything (its addresses, ports and
lengths; a checksum only where the flip is in the checksum itself), or the drop reason of the egress NVE. **Not
covered** fields are those that [wire-format.md](wire-format.md) says no tag covers under the profile; several reasons
mean that it depends on the bit. Inner frame: IPv4, UDP. Packets but the first carry four options: telemetry, two
others, security groups.

## At the egress NVE

{table("nve", nve)}

## At transit device t1

What t1 makes of the same flips, where it has an option to verify. *Not read*: no longer a packet for an NVE that t1
could read. *Not addressed*: nothing in it is for t1 any more. Either way t1 acts upon nothing.

{table("t1", t1)}
"""


if __name__ == "__main__":
    DOCUMENT.write_text(document(), encoding="utf-8")
