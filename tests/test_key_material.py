"""What the live tests look for in logs and views is found where it is."""

from __future__ import annotations

import base64
import hashlib
from pathlib import Path

import pytest

from tests.credentials import make_ca, node_files
from tests.key_material import leaks, leaks_of_folder, private_lines, suspicious

SECRETS = [hashlib.sha256(bytes([number])).digest() for number in range(50)]


@pytest.mark.parametrize("secret", SECRETS)
def test_a_secret_is_found_however_it_is_written(secret: bytes) -> None:
    encodings = (base64.b64encode(secret).decode(), base64.urlsafe_b64encode(secret).decode().rstrip("="))
    for text in (*encodings, secret.hex(), secret.hex().upper()):
        assert suspicious(f'nve1: state {{"secret": "{text}"}} applied')


def test_ordinary_text_is_not_suspicious() -> None:
    text = "2026-01-01 12:00:00,000 /tmp/pytest-of-root/pytest-12/test_logs_are_kept_and_hold_no_key0/run/logs spi=1234"
    assert suspicious(text) == []


def test_a_private_key_is_found_in_a_folder(tmp_path: Path) -> None:
    keys, kept = tmp_path / "keys", tmp_path / "kept"
    keys.mkdir()
    (kept / "logs").mkdir(parents=True)
    files = node_files(keys, make_ca(), "nve1")
    (kept / "logs" / "nve1.log").write_text("all is well\n")
    key = Path(files.key)
    lines = [line for line in key.read_text().splitlines() if not line.startswith("-----")]
    assert lines
    known = private_lines(keys) or lines
    assert leaks_of_folder(kept, known) == {}
    (kept / "logs" / "nve1.log").write_text(f"the key is {lines[0]}\n")
    assert list(leaks_of_folder(kept, known)) == ["logs/nve1.log"]
    assert leaks(lines[0], known)
