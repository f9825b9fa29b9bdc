"""Runs in a sandbox: the benchmark with contenders that need no package, each for a moment.

Prints one JSON document; tests/live/test_peers_live.py judges it.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

from experiments.peers.measuring import Budget
from experiments.peers.registry import CONTENDERS
from experiments.peers.runner import Plan, Runner

BUDGET = Budget(tcp_seconds=1, pings=5, ping_interval=0.01, short_seconds=0.05, long_seconds=0.05, resolution=1.5)


def main() -> None:
    samples: list[dict[str, Any]] = []
    chosen = [CONTENDERS[name] for name in sys.argv[1:]]
    with tempfile.TemporaryDirectory(dir="/run") as folder:
        runner = Runner(
            Plan("live", 1, BUDGET), chosen, 1, Path(folder), samples.append, lambda text: print(text, file=sys.stderr)
        )
        runner.run()
        left = sorted(path.name for path in Path("/run").iterdir() if path.name.startswith("bench-"))
    print(json.dumps({"samples": samples, "missing": runner.missing, "facts": runner.facts, "left": left}))


if __name__ == "__main__":
    main()
