"""The configuration file and the program's answers to bad ones."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import pytest

from tests.transit.builders import device_state
from transit.__main__ import main
from transit.config import load_config
from transit.relay import TP_STATUS_VLAN_TPID_VALID, TP_STATUS_VLAN_VALID, restore_tag

GOOD: dict[str, Any] = {"name": "t1", "interfaces": ["a", "b"]}


def write(tmp_path: Path, content: dict[str, Any], mode: int = 0o600) -> Path:
    path = tmp_path / "t1.yaml"
    path.write_text(json.dumps(content))
    path.chmod(mode)
    return path


def test_least_and_most(tmp_path: Path) -> None:
    assert load_config(write(tmp_path, GOOD)).impair is None
    everything = {
        **GOOD,
        "impair": {"delay_ms": 5, "jitter_ms": 1, "loss": 0.1, "reorder": 0, "rate_mbit": None, "seed": 1},
        "collector": {"address": "192.168.0.100", "port": 6082, "key": "/run/t1.key"},
        "static_state": device_state().to_wire(),
        "stats": "/run/t1.sock",
    }
    config = load_config(write(tmp_path, everything))
    assert config.static_state is not None
    assert config.static_state.inbound[0].audience == "t1"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"colour": 1}, "key 'colour' is unknown"),
        ({"interfaces": ["a"]}, "interfaces"),
        ({"interfaces": ["a", "a"]}, "one interface twice"),
        ({"interfaces": ["a", "x" * 16]}, "1 to 15 characters"),
        ({"impair": {"loss": 1.1}}, "impair.loss"),
        ({"impair": {"loss": "0.1"}}, "impair.loss"),
        ({"impair": {"delay_ms": 1, "jitter_ms": 2}}, "larger than 'delay_ms'"),
        ({"impair": {"rate_mbit": 0}}, "impair.rate_mbit"),
        ({"impair": {"delay_ms": float("nan")}}, "impair.delay_ms"),
        ({"static_state": device_state("t2").to_wire()}, "not for a transit device named 't1'"),
        ({"collector": {"address": "x", "port": 1, "key": "k"}}, "collector.address"),
        ({"collector": {"address": "192.0.2.1", "port": 1}}, "key 'collector.key' is missing"),
    ],
)
def test_bad_files_give_one_sentence_and_code_2(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], change: dict[str, Any], words: str
) -> None:
    path = write(tmp_path, {**GOOD, **change})
    assert main(["--config", str(path)]) == 2
    text = capsys.readouterr().err
    assert words in text
    assert str(path) in text
    assert text.count("\n") == 1


def test_missing_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--config", str(tmp_path / "none.yaml")]) == 2
    assert "cannot be read" in capsys.readouterr().err


def test_secrets_must_not_lie_open(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write(tmp_path, {**GOOD, "static_state": device_state().to_wire()}, 0o644)
    assert main(["--config", str(path)]) == 2
    assert "chmod 600" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("status", "tpid", "expected"),
    [
        (0, 0, b""),
        (TP_STATUS_VLAN_VALID, 0, b"\x81\x00\xe0\x05"),
        (TP_STATUS_VLAN_VALID | TP_STATUS_VLAN_TPID_VALID, 0x88A8, b"\x88\xa8\xe0\x05"),
    ],
)
def test_stripped_tag_is_put_back(status: int, tpid: int, expected: bytes) -> None:
    auxdata = struct.pack("=IIIHHHH", status, 60, 60, 0, 14, 0xE005, tpid)
    frame = bytes(range(60))
    assert restore_tag(frame, auxdata) == frame[:12] + expected + frame[12:]
