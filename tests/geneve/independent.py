"""A second decoder, written from docs/wire-format.md alone; imports nothing of the project.

Opens packets as an egress NVE, a receiver of a multicast group, a transit device or a member of a group. It keeps
no replay windows and knows no policy: both are outside the packet's format.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import struct
from typing import Any

from cryptography.exceptions import InvalidSignature, InvalidTag
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM, ChaCha20Poly1305

SALT = b"geneve-testbed security option 1"
FIELDS = {
    "version": 0xC000000000000000, "opt_len": 0x3F00000000000000, "oam": 0x0080000000000000,
    "critical": 0x0040000000000000, "reserved1": 0x003F000000000000, "protocol_type": 0x0000FFFF00000000,
    "vni": 0x00000000FFFFFF00, "reserved2": 0x00000000000000FF,
}  # fmt: skip
CLASS = 0xFF60
TRANSIT, EGRESS, PADDING, GROUP, SIGNATURE = 0x01, 0x81, 0x03, 0x04, 0x85
ROLE = {"egress": (1, EGRESS), "transit": (2, TRANSIT), "group": (3, GROUP), "multicast": (4, EGRESS)}
AEADS = {"aes-128-gcm": (16, AESGCM), "aes-256-gcm": (32, AESGCM), "chacha20-poly1305": (32, ChaCha20Poly1305)}


class Refused(Exception):  # noqa: N818 - a packet that is refused is no error
    """The packet is dropped under the name given."""


def hkdf(secret: bytes, info: bytes, length: int) -> bytes:
    key = hmac.new(SALT, secret, hashlib.sha256).digest()
    block, output, counter = b"", b"", 1
    while len(output) < length:
        block = hmac.new(key, block + info + bytes([counter]), hashlib.sha256).digest()
        output += block
        counter += 1
    return output[:length]


def part(data: bytes) -> bytes:
    return struct.pack("!H", len(data)) + data


def mask_of(fields: list[str]) -> int:
    return sum(FIELDS[name] for name in fields)


def selectors(entries: list[dict[str, int]]) -> bytes:
    pairs = sorted({(entry["option_class"], entry["type"]) for entry in entries})
    return struct.pack("!H", len(pairs)) + b"".join(struct.pack("!HB", *pair) for pair in pairs)


def options_of(block: bytes) -> list[tuple[int, int, bytes]]:
    """Return (class, type, whole option) of each; Refused unless they fill the block."""
    found, at = [], 0
    while at < len(block):
        if at + 4 > len(block):
            raise Refused("malformed")
        size = 4 + (block[at + 3] & 0x1F) * 4
        if at + size > len(block):
            raise Refused("malformed")
        option_class, option_type = struct.unpack_from("!HB", block, at)
        found.append((option_class, option_type, block[at : at + size]))
        at += size
    return found


class Gsa:
    """One GSA with its profile, both as JSON objects of a vector file."""

    def __init__(self, association: dict[str, Any], profile: dict[str, Any]) -> None:
        self.a, self.p = association, profile
        self.role = association["role"]
        if self.role == "transit":
            self.coverage = profile["devices"].get(association["audience"], profile["transit"])
        else:
            self.coverage = profile["group"] if self.role == "group" else profile["egress"]
        c = self.coverage
        to_nve = self.role in ("egress", "multicast")
        self.revealed = mask_of(profile["hidden_header"] if to_nve else c["reveal_header"])
        self.flow = profile["key_granularity"] == "flow"
        self.length = "headers" in (c["authenticate_inner"], c["encrypt_inner"])
        self.padded = to_nve and (profile["padding"]["mode"] != "none" or profile["dummies"] is not None)
        self.head = 16 + 4 * self.flow + 4 * self.length

    def key(self, flow: bytes) -> tuple[Any, bytes]:
        a, p, c = self.a, self.p, self.coverage
        vni = 0xFFFFFFFF if a["vni"] is None else a["vni"]
        encoded = struct.pack("!QQ", mask_of(c["header"]), self.revealed)
        encoded += b"\xff\xff" if c["options"] is None else selectors(c["options"])
        encoded += selectors(c["hidden_options"])
        encoded += part(c["authenticate_inner"].encode()) + part(c["encrypt_inner"].encode())
        parts = [
            b"traffic key and salt", self.role.encode(), struct.pack("!I", a["spi"]), struct.pack("!I", vni),
            a["sender"].encode(), a["audience"].encode(), (a["rule"] or "").encode(), p["aead"].encode(),
            p["key_granularity"].encode(), struct.pack("!Q", mask_of(p["hidden_header"])),
            b"padded" if self.padded else b"",
            p["source_proof"].encode() if self.role == "multicast" else b"", encoded,
        ]  # fmt: skip
        if self.flow:
            parts.append(flow)
        size, make = AEADS[p["aead"]]
        material = hkdf(base64.b64decode(a["secret"]), b"".join(part(item) for item in parts), size + 4)
        return make(material[:size]), material[size:]

    def covers(self, entry: tuple[int, int, bytes], in_front: bool) -> bool:
        option_class, option_type, _ = entry
        if option_class == CLASS and option_type == SIGNATURE:
            return False
        if option_class == CLASS and option_type in (TRANSIT, EGRESS, GROUP) and not in_front:
            return False
        chosen = self.coverage["options"]
        return chosen is None or any((o["option_class"], o["type"]) == (option_class, option_type) for o in chosen)

    def open(self, packet: bytes, entries: list[tuple[int, int, bytes]], index: int, payload: bytes) -> dict[str, Any]:
        """Verify the option at ``index``; return what it yields. Refused when it does not verify."""
        own = entries[index][2]
        if len(own) < self.head + 16:
            raise Refused("authentication_failed")
        sequence, at, flow, length = own[8:16], 16, b"", 0
        if self.flow:
            flow, at = own[at : at + 4], at + 4
        if self.length:
            length, zero = struct.unpack_from("!HH", own, at)
            if zero or length > len(payload):
                raise Refused("authentication_failed")
        sealed, tag = own[self.head : -16], own[-16:]
        authenticate, encrypt = self.coverage["authenticate_inner"], self.coverage["encrypt_inner"]
        cut = {"none": 0, "headers": length, "all": len(payload)}[encrypt]
        encrypted, rest = payload[:cut], payload[cut:]
        if authenticate == "all":
            clear = rest
        else:
            clear = payload[:length] if (authenticate, encrypt) == ("headers", "none") else b""
        stream, place, covered = b"", 0, []
        for number, entry in enumerate(entries):
            if number == index:
                place = len(stream) // 4
                stream += own[: self.head]
            elif self.covers(entry, number < index):
                stream += entry[2]
                if entry[0] != CLASS or entry[1] not in (TRANSIT, EGRESS, GROUP):
                    covered.append(entry)
        header = int.from_bytes(packet[:8], "big") & mask_of(self.coverage["header"])
        aad = b"GENEVE-SEC-1" + struct.pack("!BBHQ", ROLE[self.role][0], place, len(stream), header) + stream + clear
        aead, salt = self.key(flow)
        try:
            plain = aead.decrypt(salt + sequence, sealed + encrypted + tag, aad)
        except InvalidTag:
            raise Refused("authentication_failed") from None
        digest = hashlib.sha256(
            b"GENEVE-SEC-1 source" + struct.pack("!I", len(aad)) + aad + sealed + encrypted + tag
        ).digest()
        opened = plain[: len(sealed)]
        true = int.from_bytes(packet[:8], "big")
        if self.revealed:
            true = true & ~self.revealed | int.from_bytes(opened[:8], "big") & self.revealed
            opened = opened[8:]
        hidden = [entry for entry in options_of(opened) if entry[:2] != (CLASS, PADDING)]
        return {
            "header": true, "covered": covered, "hidden": hidden, "payload": plain[len(sealed) :] + rest,
            "sequence": int.from_bytes(sequence, "big"), "digest": digest,
        }  # fmt: skip


def proves(public: bytes, proof: str, digest: bytes, data: bytes) -> bool:
    """Check a signature option's data."""
    message = b"GENEVE-SEC-1 ed25519" + digest
    if proof == "merkle":
        salt, (index, depth, zero) = data[64:72], struct.unpack_from("!BBH", data, 72)
        if zero or depth > 3 or index >= 1 << depth or len(data) != 76 + 16 * depth:
            return False
        node = hashlib.sha256(b"\x00" + salt + digest).digest()[:16]
        for height in range(depth):
            other = data[76 + 16 * height : 92 + 16 * height]
            pair = other + node if index >> height & 1 else node + other
            node = hashlib.sha256(b"\x01" + salt + pair).digest()[:16]
        message = b"GENEVE-SEC-1 merkle" + salt + bytes([depth]) + node
    elif len(data) != 64:
        return False
    try:
        Ed25519PublicKey.from_public_bytes(public).verify(data[:64], message)
    except InvalidSignature:
        return False
    return True


def open_packet(
    packet: bytes, role: str, node: str, associations: list[dict[str, Any]], profile: dict[str, Any]
) -> dict[str, Any]:
    """Open a packet as ``node`` in ``role`` (egress, multicast or transit); Refused says why not."""
    if len(packet) < 8 or len(packet) < 8 + (packet[0] & 0x3F) * 4:
        raise Refused("malformed")
    if packet[0] >> 6:
        raise Refused("unsupported_version")
    end = 8 + (packet[0] & 0x3F) * 4
    entries, payload = options_of(packet[8:end]), packet[end:]
    if any(e[0] == CLASS and e[1] in (TRANSIT, EGRESS, GROUP) and len(e[2]) < 32 for e in entries):
        raise Refused("malformed")
    held = {(entry["spi"], ROLE[entry["role"]][1]): Gsa(entry, profile) for entry in associations}
    if role == "transit":
        return _open_transit(packet, entries, payload, node, held)
    own = [number for number, entry in enumerate(entries) if entry[:2] == (CLASS, EGRESS)]
    if packet[1] & 0x80:
        raise Refused("oam")
    protocol = packet[2:4]
    if protocol != b"\x65\x58" and (not own or protocol != b"\x88\xb5"):
        raise Refused("unsupported_protocol")
    if any(e[1] & 0x80 and e[:2] not in ((CLASS, EGRESS), (CLASS, SIGNATURE)) for e in entries):
        raise Refused("unknown_critical_option")
    if len(own) != 1:
        raise Refused("malformed" if own else "unprotected")
    gsa = held.get((struct.unpack_from("!I", entries[own[0]][2], 4)[0], EGRESS))
    if gsa is None:
        raise Refused("unknown_spi")
    result = gsa.open(packet, entries, own[0], payload)
    if gsa.role == "multicast":
        signatures = [e[2][4:] for e in entries if e[:2] == (CLASS, SIGNATURE) and not e[2][3] >> 5]
        signer = base64.b64decode(gsa.a["signer"])
        if len(signatures) != 1 or not proves(signer, profile["source_proof"], result["digest"], signatures[0]):
            raise Refused("source_unproven")
    elif any(entry[:2] == (CLASS, SIGNATURE) for entry in entries):
        raise Refused("malformed")
    hidden, frame = list(result["hidden"]), result["payload"]
    if profile["group"] is not None and gsa.role == "egress":
        shared = [number for number, entry in enumerate(entries) if entry[:2] == (CLASS, GROUP)]
        if len(shared) != 1:
            raise Refused("policy_mismatch")
        member = held.get((struct.unpack_from("!I", entries[shared[0]][2], 4)[0], GROUP))
        if member is None:
            raise Refused("unknown_spi")
        inside = member.open(packet, entries, shared[0], payload)
        hidden = inside["hidden"] + hidden
        if gsa.coverage["encrypt_inner"] == "none":
            frame = inside["payload"]
    dummy = False
    if gsa.padded:
        (size,) = struct.unpack_from("!H", frame)
        if size + 2 > len(frame):
            raise Refused("malformed_inner")
        frame, dummy = frame[2 : 2 + size], size == 0
    return _document(result, hidden, frame, dummy)


def _open_transit(
    packet: bytes, entries: list[tuple[int, int, bytes]], payload: bytes, node: str, held: dict[Any, Gsa]
) -> dict[str, Any]:
    found = None
    for number, entry in enumerate(entries):
        if entry[0] != CLASS or entry[1] not in (TRANSIT, GROUP):
            continue
        gsa = held.get((struct.unpack_from("!I", entry[2], 4)[0], entry[1]))
        if gsa is None or node not in (gsa.a["audience"], *gsa.a["members"]):
            continue
        opened = gsa.open(packet, entries, number, payload)
        if found is None:
            found = opened
        else:
            found["covered"] += [item for item in opened["covered"] if item not in found["covered"]]
            found["hidden"] += opened["hidden"]
            found["header"] = opened["header"] if gsa.revealed else found["header"]
    if found is None:
        raise Refused("not_addressed")
    return _document(found, found["hidden"], None, False)


def _document(result: dict[str, Any], hidden: list[Any], frame: bytes | None, dummy: bool) -> dict[str, Any]:
    return {
        "frame": None if frame is None else frame.hex(),
        "dummy": dummy,
        "header": result["header"].to_bytes(8, "big").hex(),
        "options": [[entry[0], entry[1], entry[2][4:].hex()] for entry in result["covered"] + hidden],
    }
