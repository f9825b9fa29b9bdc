"""Makes tests/vectors/*.json with the implementation: ``python -m tests.geneve.make_vectors``; always the same."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

from geneve.control.profile import (
    Aead,
    Coverage,
    Dummies,
    DummyMode,
    InnerCoverage,
    KeyGranularity,
    OptionSelector,
    Padding,
    PaddingMode,
    Profile,
    SourceProof,
)
from geneve.control.state import Association
from geneve.header import HeaderField
from geneve.option import Option
from geneve.security.association import OutboundAssociation
from geneve.security.seal import Item, PacketSealer
from geneve.security.signature import SourceSigner
from geneve.tags import build_tag
from geneve.telemetry import build_telemetry
from tests.support import TRANSIT_COVERAGE, association, udp_frame

FOLDER = Path(__file__).parents[1] / "vectors"
SIGNER = SourceSigner.from_seed(bytes(range(32)))
TELEMETRY, TAG = build_telemetry(0x11223344, 5), build_tag(10, 20)
ONE, TWO = Option(0x0102, 0x11, b"SECRET-ONE!!").build(), Option(0x0102, 0x12, b"PUBLIC-TWO!!").build()
OPTIONS = (TELEMETRY, ONE, TWO, TAG)
_NONE, _HEADERS, _ALL = InnerCoverage
BINDING = frozenset({HeaderField.VNI, HeaderField.PROTOCOL_TYPE})


def select(*options: bytes) -> tuple[OptionSelector, ...]:
    return tuple(OptionSelector(option_class=int.from_bytes(o[:2], "big"), type=o[2]) for o in options)


def device(**changes: Any) -> Coverage:
    given = {"header": BINDING, "options": (), "authenticate_inner": _NONE, "encrypt_inner": _NONE, **changes}
    return Coverage(**given)


def profile(**changes: Any) -> Profile:
    return Profile(name="vector", **changes)


PROFILES: dict[str, tuple[str, list[tuple[str, Profile]]]] = {
    "full": ("everything authenticated, the inner frame encrypted", [("full", profile(transit=TRANSIT_COVERAGE))]),
    "aead": (
        "the three algorithms",
        [(aead.value, profile(aead=aead, transit=TRANSIT_COVERAGE)) for aead in Aead],
    ),
    "inner": (
        "what is authenticated and encrypted of the inner frame",
        [
            (f"{a.value}-{e.value}", profile(egress=Coverage(authenticate_inner=a, encrypt_inner=e)))
            for a, e in ((_NONE, _NONE), (_HEADERS, _NONE), (_HEADERS, _HEADERS), (_ALL, _NONE), (_ALL, _HEADERS))
        ],
    ),
    "hidden-options": (
        "options hidden for the egress NVE, for one device each, and for both",
        [
            ("egress", profile(egress=Coverage(hidden_options=select(ONE)), transit=TRANSIT_COVERAGE)),
            ("all-but-one", profile(egress=Coverage(hidden_options=select(TELEMETRY, ONE, TAG)))),
            ("devices", profile(devices={"t1": device(hidden_options=select(ONE)),
                                         "t2": device(hidden_options=select(TWO))})),
            ("both", profile(egress=Coverage(hidden_options=select(TAG)),
                             transit=device(hidden_options=select(TAG)))),
        ],
    ),
    "group": (
        "one confidential option for all transit devices and the NVE, and an inner frame that they share",
        [
            ("option", profile(group=device(hidden_options=select(ONE)))),
            ("with-devices", profile(group=device(hidden_options=select(ONE)), transit=device(options=None))),
            ("inner", profile(egress=Coverage(encrypt_inner=_NONE), group=Coverage())),
        ],
    ),
    "hidden-header": (
        "hidden header fields, alone and together",
        [
            *((field.value, profile(hidden_header=frozenset({field}))) for field in HeaderField
              if field is not HeaderField.OPT_LEN),
            ("opt_len", profile(hidden_header=frozenset({HeaderField.OPT_LEN}), options_size=120)),
            ("all", profile(hidden_header=frozenset(HeaderField), options_size=120)),
            ("vni-revealed-to-t1", profile(hidden_header=BINDING, devices={
                "t1": device(reveal_header=frozenset({HeaderField.VNI}), options=None)})),
        ],
    ),
    "subsets": (
        "subsets of header fields and options authenticated",
        [
            ("options", profile(egress=Coverage(options=select(ONE)))),
            ("no-options", profile(egress=Coverage(options=()))),
            ("header", profile(egress=Coverage(header=BINDING))),
            ("nothing-but-the-option", profile(egress=Coverage(header=frozenset(), options=(),
                                                               authenticate_inner=_NONE, encrypt_inner=_NONE))),
        ],
    ),
    "padding": (
        "padding to a multiple, to buckets, to the largest size; and a dummy",
        [
            ("multiple", profile(padding=Padding(mode=PaddingMode.MULTIPLE, multiple=64))),
            ("buckets", profile(padding=Padding(mode=PaddingMode.BUCKETS, buckets=(128, 512)))),
            ("mtu", profile(padding=Padding(mode=PaddingMode.MTU))),
            ("dummy", profile(dummies=Dummies(mode=DummyMode.CONSTANT, rate=1.0))),
        ],
    ),
    "granularity": (
        "keys per pair, VNI, rule and flow",
        [(item.value, profile(key_granularity=item, transit=TRANSIT_COVERAGE)) for item in KeyGranularity],
    ),
    "multicast": (
        "proof of the sender to a group, alone and in batches of 1 to 8",
        [("ed25519", profile()), *((f"merkle-{n}", profile(source_proof=SourceProof.MERKLE)) for n in range(1, 9))],
    ),
}  # fmt: skip


def associations(made: Profile, feature: str) -> list[Association]:
    scope = {"vni": None} if made.key_granularity is KeyGranularity.PAIR else {}
    scope |= {"rule": "web"} if made.key_granularity is KeyGranularity.RULE else {}
    if feature == "multicast":
        signer = base64.b64encode(SIGNER.public_key()).decode()
        base = association(4000, "multicast", audience="group-a", profile="vector")
        return [base.model_copy(update={"members": ("nve2", "nve3"), "signer": signer})]
    found = [association(1000, profile="vector")]
    found += [
        association(2000 + n, "transit", audience=f"t{n}", profile="vector")
        for n in (1, 2)
        if made.device_coverage(f"t{n}") is not None
    ]
    if made.group is not None:
        base = association(3000, "group", audience="nve2", profile="vector")
        found.append(base.model_copy(update={"members": ("t1", "t2")}))
    return [item.model_copy(update=scope) for item in found]


def make_sealer(made: Profile, held: list[Association]) -> PacketSealer:
    ends = {item.spi: OutboundAssociation(item, made) for item in held}
    first = next(ends[item.spi] for item in held if item.role.value in ("egress", "multicast"))
    return PacketSealer(
        100,
        first,
        [ends[item.spi] for item in held if item.role.value == "transit"],
        next((ends[item.spi] for item in held if item.role.value == "group"), None),
        SIGNER if held[0].role.value == "multicast" else None,
        largest=700,
        random_below=lambda n: n // 2,
    )


def seal(name: str, made: Profile, held: list[Association], feature: str) -> list[tuple[str, bytes]]:
    """Return packets by name: with options and without, over IPv4 and IPv6."""
    sealer = make_sealer(made, held)
    if name == "dummy":
        return [("dummy", sealer.seal_dummy(200, (TELEMETRY,)))]
    frames = [udp_frame(data=b"vector %d " % n * 8, version=6 if n % 2 else 4) for n in range(8)]
    if feature == "multicast":
        count = int(name.rpartition("-")[2]) if "-" in name else 1
        with mock.patch("geneve.security.seal.secrets.token_bytes", lambda size: b"saltsalt"[:size]):
            packets = sealer.seal([Item(frame, (TELEMETRY,)) for frame in frames[:count]])
        return [(f"packet-{n}", packet) for n, packet in enumerate(packets)]
    plain, carried = sealer.seal([Item(frames[0]), Item(frames[1], OPTIONS)])
    return [("no-options", plain), ("options", carried)]


def _sorted(value: Any) -> Any:
    """Put sets of names, which have no order of their own, in order."""
    if isinstance(value, dict):
        return {key: _sorted(item) for key, item in value.items()}
    if isinstance(value, list) and all(isinstance(item, str) for item in value):
        return sorted(value)
    return value


def cases(feature: str) -> Iterator[dict[str, Any]]:
    from tests.geneve.open_vector import expect  # what the implementation itself makes of each packet

    for name, made in PROFILES[feature][1]:
        held = associations(made, feature)
        documents = [item.model_dump(mode="json", context={"reveal_secrets": True}) for item in held]
        openers = [("multicast", "nve2")] if feature == "multicast" else [("egress", "nve2")]
        openers += [("transit", item) for item in ("t1", "t2") if any(held_one.opens(item) for held_one in held)]
        for packet_name, packet in seal(name, made, held, feature):
            for role, node in openers:
                yield {
                    "name": f"{name} {packet_name} {node}",
                    # How long a key is used is no part of it.
                    "profile": _sorted(made.model_dump(mode="json", exclude={"rekey_seconds", "lifetime_seconds"})),
                    "associations": documents,
                    "opener": {"role": role, "node": node},
                    "packet": packet.hex(),
                    "expect": expect(packet, role, node, held, made),
                }


def document(feature: str) -> str:
    found = json.dumps({"description": PROFILES[feature][0], "cases": list(cases(feature))}, indent=1, sort_keys=True)
    return found + "\n"


if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    for feature in PROFILES:
        (FOLDER / f"{feature}.json").write_text(document(feature), encoding="ascii")
