"""The sealed packet once more, written from docs/wire-format.md alone; imports nothing of the project.

Makes the vectors under tests/vectors (``python tests/geneve/independent.py > tests/vectors/full.json``),
so that they do not come from the code they test.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import struct

from cryptography.hazmat.primitives.ciphers.aead import AESGCM

SALT = b"geneve-testbed security option 1"
FIELDS = {
    "version": 0xC000000000000000, "opt_len": 0x3F00000000000000, "oam": 0x0080000000000000,
    "critical": 0x0040000000000000, "reserved1": 0x003F000000000000, "protocol_type": 0x0000FFFF00000000,
    "vni": 0x00000000FFFFFF00, "reserved2": 0x00000000000000FF,
}  # fmt: skip


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


def traffic_key(gsa: dict, coverage: dict) -> tuple[bytes, bytes]:
    selectors = coverage["options"]
    encoded = struct.pack("!Q", mask_of(coverage["header"]))
    encoded += b"\xff\xff" if selectors is None else struct.pack("!H", len(selectors))
    encoded += b"".join(struct.pack("!HB", *selector) for selector in sorted(map(tuple, selectors or [])))
    encoded += part(coverage["authenticate_inner"].encode()) + part(coverage["encrypt_inner"].encode())
    info = b"".join(
        part(item)
        for item in (
            b"traffic key and salt", gsa["role"].encode(), struct.pack("!II", gsa["spi"], gsa["vni"]),
            gsa["sender"].encode(), gsa["audience"].encode(), b"aes-128-gcm", encoded,
        )
    )  # fmt: skip
    material = hkdf(bytes.fromhex(gsa["secret"]), info, 20)
    return material[:16], material[16:]


def seal(case: dict) -> bytes:
    """Return the packet that ``case`` describes."""
    clear = [bytes.fromhex(option) for option in case["clear_options"]]
    frame = bytes.fromhex(case["frame"])
    audiences = [*case["transit"], case["egress"]]
    size = sum(map(len, clear)) + 32 * len(audiences)
    header = struct.pack("!BBHI", size // 4, 0x40, 0x6558, case["vni"] << 8)
    slots: list[bytes] = list(clear) + [b""] * len(audiences)
    payload = frame
    for index, (gsa, coverage) in enumerate(audiences):
        position = len(clear) + index
        egress = gsa["role"] == "egress"
        own = struct.pack("!HBBIQ", 0xFF60, 0x81 if egress else 0x01, 7, gsa["spi"], gsa["sequence"])
        masked = (int.from_bytes(header, "big") & mask_of(coverage["header"])).to_bytes(8, "big")
        entries = []
        for place, option in enumerate(slots):
            if place == position:
                entries.append(struct.pack("!H", 0))
                continue
            wanted = coverage["options"] is None or [*struct.unpack("!HB", option[:3])] in coverage["options"] \
                if option else False  # fmt: skip
            if wanted:
                entries.append(part(option))
        hidden = coverage["encrypt_inner"] == "all"
        shown = frame if not hidden and coverage["authenticate_inner"] == "all" else b""
        aad = b"GENEVE-SEC-1" + (b"\x01" if egress else b"\x02") + own + masked
        aad += bytes([len(entries)]) + b"".join(entries) + struct.pack("!I", len(shown)) + shown
        key, salt = traffic_key(gsa, coverage)
        nonce = salt + struct.pack("!Q", gsa["sequence"])
        sealed = AESGCM(key).encrypt(nonce, frame if hidden else b"", aad)
        if hidden:
            payload = sealed[:-16]
        slots[position] = own + sealed[-16:]
    return header + b"".join(slots) + payload


WHOLE = {"header": sorted(FIELDS), "options": None, "authenticate_inner": "all", "encrypt_inner": "all"}
CLEAR = WHOLE | {"encrypt_inner": "none"}
TELEMETRY_ONLY = {
    "header": ["oam", "protocol_type", "version", "vni"], "options": [[0xFF60, 2]],
    "authenticate_inner": "none", "encrypt_inner": "none",
}  # fmt: skip
TELEMETRY = "ff600203" + "11223344" + "0000000000000005"
FRAME = "020000000002020000000001" + "88b5" + "00112233445566778899aabbccddeeff" * 4


def gsa(spi: int, role: str, audience: str, sequence: int) -> dict:
    secret = hashlib.sha256(f"vector {spi}".encode()).hexdigest()
    return {"spi": spi, "role": role, "sender": "nve1", "audience": audience, "vni": 0xABCDE,
            "secret": secret, "sequence": sequence}  # fmt: skip


def cases() -> list[dict]:
    found = []
    for name, egress, coverage, transit, options in (
        ("full", gsa(0x100, "egress", "nve2", 1), WHOLE, [], []),
        ("full, late sequence number", gsa(0xFFFFFFFF, "egress", "nve2", 2**48 - 1), WHOLE, [], []),
        ("authenticated, not encrypted", gsa(0x101, "egress", "nve2", 7), CLEAR, [], []),
        ("full with telemetry", gsa(0x102, "egress", "nve2", 7), WHOLE, [], [TELEMETRY]),
        ("full with telemetry for two transit devices", gsa(0x103, "egress", "nve2", 2), WHOLE,
         [[gsa(0x201, "transit", "t1", 9), TELEMETRY_ONLY], [gsa(0x202, "transit", "t2", 3), TELEMETRY_ONLY]],
         [TELEMETRY]),
        ("an unknown clear option beside it", gsa(0x104, "egress", "nve2", 2), WHOLE,
         [[gsa(0x203, "transit", "t1", 9), TELEMETRY_ONLY]], [TELEMETRY, "01020300"]),
    ):  # fmt: skip
        case = {"name": name, "vni": 0xABCDE, "frame": FRAME, "clear_options": options, "transit": transit,
                "egress": [egress, coverage]}  # fmt: skip
        found.append(case | {"packet": seal(case).hex()})
    return found


if __name__ == "__main__":
    print(json.dumps(cases(), indent=1))
