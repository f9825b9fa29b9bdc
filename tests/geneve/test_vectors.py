"""Vectors: the implementation still makes them, and a decoder written from the document alone opens them."""

from __future__ import annotations

import ast
import json
from pathlib import Path

import pytest

from geneve.control.profile import Profile
from geneve.control.state import Association
from tests.geneve import independent
from tests.geneve.make_vectors import FOLDER, PROFILES, document
from tests.geneve.open_vector import expect

CASES = [
    pytest.param(case, id=f"{path.stem}: {case['name']}")
    for path in sorted(FOLDER.glob("*.json"))
    for case in json.loads(path.read_text())["cases"]
]


def decode(case, packet: bytes):
    opener = case["opener"]
    try:
        return independent.open_packet(packet, opener["role"], opener["node"], case["associations"], case["profile"])
    except independent.Refused as reason:
        return {"refused": str(reason)}


@pytest.mark.parametrize("case", CASES)
def test_the_independent_decoder_opens_every_vector(case):
    assert decode(case, bytes.fromhex(case["packet"])) == case["expect"]


@pytest.mark.parametrize("case", CASES)
def test_both_decoders_refuse_the_same_bit_flips(case):
    packet = bytes.fromhex(case["packet"])
    profile = Profile.model_validate_json(json.dumps(case["profile"]))
    held = [Association.model_validate_json(json.dumps(item)) for item in case["associations"]]
    step = 7 if len(packet) < 300 else 29
    for position in range(0, len(packet) * 8, step):
        changed = bytearray(packet)
        changed[position // 8] ^= 0x80 >> position % 8
        ours = expect(bytes(changed), case["opener"]["role"], case["opener"]["node"], held, profile)
        theirs = decode(case, bytes(changed))
        # Reasons may differ where several hold: the order of cheap checks is not part of what both implement.
        assert ("refused" in ours) == ("refused" in theirs), f"bit {position}: {ours} / {theirs}"
        if "refused" not in ours:
            assert ours == theirs


@pytest.mark.parametrize("feature", PROFILES)
def test_the_implementation_still_makes_the_vectors(feature):
    assert document(feature) == (FOLDER / f"{feature}.json").read_text(), "run python -m tests.geneve.make_vectors"


def test_the_decoder_shares_nothing_with_the_implementation():
    tree = ast.parse(Path(independent.__file__).read_text())
    modules = [alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names]
    modules += [node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    allowed = {"__future__", "base64", "hashlib", "hmac", "struct", "typing", "cryptography"}
    assert {name.split(".")[0] for name in modules} <= allowed
