"""Our ESP talks to strongSwan's: it takes the place of one end of a tunnel that two charons made."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
LIBIPSEC = Path("/usr/lib/ipsec/plugins/libstrongswan-kernel-libipsec.so")
SBIN = os.environ.get("PATH", "") + ":/usr/sbin:/sbin:/usr/lib/ipsec"
MISSING = shutil.which("swanctl", path=SBIN) is None or not LIBIPSEC.exists()
KEY_SIZES = {"esp": [20, 0], "esp-null": [0, 32]}
"""Bytes of encryption key (with its salt) and integrity key that charon's log has of each direction."""


@pytest.fixture(scope="module")
def seen() -> dict[str, Any]:
    inside = [sys.executable, "-m", "tests.live.ipsec_interop_inside"]
    command = [sys.executable, "-m", "topologies.sandbox", "--", *inside]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=180, check=False)
    assert done.returncode == 0, done.stderr
    document: dict[str, Any] = json.loads(done.stdout)
    return document


@pytest.mark.live
@pytest.mark.skipif(MISSING, reason="strongSwan with kernel-libipsec is missing; './setup.sh --interop' installs it")
@pytest.mark.parametrize("name", KEY_SIZES)
def test_charon_answers_what_is_sealed_here_and_its_answers_open(seen: dict[str, Any], name: str) -> None:
    run = seen[name]
    assert run["before"] == 0, "the tunnel of the two charons worked"
    assert run["mode"] == 0o600, "the log with its keys is its owner's"
    assert run["sizes"] == KEY_SIZES[name]
    answers = run["answers"]
    assert all((a["source"], a["destination"]) == ("10.2.0.1", "10.1.0.2") for a in answers)
    # Every length modulo 4, and a large one; then, of what followed, neither a wrong ICV nor a replay had an answer.
    assert [(a["sequence"], a["size"]) for a in answers[:6]] == [(n, n) for n in (0, 1, 2, 3, 56, 1200)]
    assert [bytes.fromhex(a["data"]) for a in answers[6:]] == [b"righ", b"last", b"last"]
    assert [a["sequence"] for a in answers[6:]] == [9004, 9005, 9006]
    assert run["numbers"] == list(range(run["numbers"][0], run["numbers"][0] + 9)), "one answer each, none twice"
