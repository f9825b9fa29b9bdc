"""Running a part of a test as a program in namespaces of its own, which vanish with it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
_NAMESPACES = ["unshare", "--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"]


def run_inside(module: str) -> dict[str, Any]:
    """Run a module of ``tests.live`` and return the JSON document that it prints; it has to end well."""
    command = [*_NAMESPACES, sys.executable, "-m", f"tests.live.{module}"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    document: dict[str, Any] = json.loads(done.stdout)
    return document
