"""The microbenchmark: its cases run, its analysis is right, and what docs/performance.md says of bytes is so."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from scapy.layers.inet import IP, UDP
from scapy.layers.ipsec import ESP, SecurityAssociation
from scapy.packet import Raw

from experiments.core_bench import analyse, show, targets
from experiments.core_bench_cases import PROFILES, Ends, frame_of, make_cases
from geneve.drops import DropReason
from geneve.security.open import Opened
from geneve.security.seal import Item
from geneve.security.transit import Verified

DOCUMENT = (Path(__file__).parents[2] / "docs" / "performance.md").read_text()
CASES = make_cases()


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.operation}: {case.profile}, {case.frame}")
def test_each_case_does_what_it_is_called(case):
    operation = case.prepare(5)
    for _ in range(5):
        result = operation()
        if case.operation == "open":
            assert isinstance(result, Opened)
            assert len(result.frame) == case.frame
        elif case.operation == "open burst":
            assert [len(burst.frames) for burst in result] == [case.packets]
        elif case.operation == "seal burst":
            assert len(result) == case.packets
        elif case.operation.startswith("NVE: "):
            assert bool(result) == (case.operation == "NVE: accept")
        elif case.operation == "transit: verify":
            assert isinstance(result, Verified)
        elif case.operation == "transit: not addressed":
            assert result is None
        elif case.operation.startswith("refuse: "):
            names = {"bad tag": "authentication_failed", "unknown SPI": "unknown_spi"}
            reason = case.operation.removeprefix("refuse: ")
            assert result is DropReason(names.get(reason, reason))
    assert case.bare is None or case.bare() is not None


def sample(us: float, bare: float | None = 1.0, operation: str = "seal") -> dict:
    return {"operation": operation, "profile": "full", "frame": 1400, "us": us, "bare_us": bare}


def test_ratios_are_of_one_round_and_targets_can_be_missed():
    rows = analyse([sample(2.0, 1.0), sample(4.0, 2.0), sample(9.0, 3.0)])
    assert rows[0]["ratio"] == 2.0
    assert rows[0]["us"] == 4.0
    names = ("seal", "open", "refuse: bad tag", "NVE: accept", "NVE: refuse bad tag")
    assert all(met for _, met in targets(analyse([sample(2.0, operation=name) for name in names])))
    bad = [sample(us, operation=name) for name, us in zip(names, (4.0, 2.0, 3.0, 5.0, 5.1), strict=True)]
    assert [met for _, met in targets(analyse(bad))] == [False, True, False, False]
    assert "seal" in show(rows)


def stated(name: str) -> list[int]:
    """Return the numbers in the row of the document's byte table that starts with ``name``."""
    (row,) = [line for line in DOCUMENT.splitlines() if line.startswith(f"| {name} |")]
    return [int(number) for number in re.findall(r"\d+", row.split("|")[2])]


@pytest.mark.parametrize("name", PROFILES)
def test_the_bytes_of_each_profile_are_those_stated(name):
    profile, options = PROFILES[name]
    (packet,) = Ends(profile, 1400).sealer.seal([Item(frame_of(1400), options)])
    clear = sum(len(option) for option in options)
    assert [len(packet) - 8 - 1400 - clear] == stated(name)


def test_the_bytes_of_esp_are_those_that_scapy_adds():
    association = SecurityAssociation(ESP, spi=1, crypt_algo="AES-GCM", crypt_key=bytes(20))
    added = set()
    for size in range(1400, 1408):
        packet = IP(src="10.0.0.1", dst="10.0.0.2") / UDP(sport=1, dport=6081) / Raw(bytes(size))
        added.add(len(association.encrypt(packet)) - len(packet))
    assert [min(added), max(added)] == stated("ESP, AES-GCM, transport mode")
