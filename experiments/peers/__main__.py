"""``make bench``: our NVE against real tunnels, side by side in one run.

All contenders run between the same namespaces, one after the other in an order that is shuffled for every repeat
(seed recorded). Raw samples are kept; tables and plots are made from them (``--plots DIRECTORY`` makes them again,
without root and without running anything).
"""

from __future__ import annotations

import argparse
import os
import secrets
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from experiments.environment import describe
from experiments.peers import publish, runner, versions
from experiments.peers.registry import CONTENDERS
from experiments.results import COMPLETE, FAILED, INTERRUPTED, RunDirectory
from experiments.samples import SampleWriter

NAME = "bench"
_ROOT = Path(__file__).resolve().parent.parent.parent


def _names(text: str) -> list[str]:
    names = [name.strip() for name in text.split(",") if name.strip()]
    unknown = sorted(set(names) - set(CONTENDERS))
    if unknown or not names:
        raise argparse.ArgumentTypeError(
            f"no contender named {', '.join(unknown) or 'nothing'}; there are: {', '.join(CONTENDERS)}"
        )
    return [name for name in CONTENDERS if name in names]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="experiments.peers", description=__doc__)
    parser.add_argument("--profile", choices=sorted(runner.PLANS), default="quick")
    parser.add_argument("--only", type=_names, metavar="A,B", help="only these contenders")
    parser.add_argument("--repeats", type=int, default=None, help="instead of the profile's")
    parser.add_argument("--seed", type=int, default=None)
    parser.add_argument("--results", type=Path, default=_ROOT / "results")
    parser.add_argument("--plots", type=Path, metavar="DIRECTORY", help="only make tables and plots of this run again")
    return parser


def _measure(names: Sequence[str], run: RunDirectory, plan: runner.Plan, seed: int) -> None:
    started = time.monotonic()
    with SampleWriter(run.folder("raw") / publish.SAMPLES) as writer:
        bench = runner.Runner(
            plan, [CONTENDERS[name] for name in names], seed, run.folder("raw"), writer.write,
            lambda text: print(f"{time.monotonic() - started:6.0f} s  {text}", flush=True),
        )  # fmt: skip
        try:
            bench.run()
        finally:
            run.update(facts=bench.facts, missing=bench.missing, load_average=os.getloadavg(),
                       seconds=round(time.monotonic() - started))  # fmt: skip


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    options = _parser().parse_args(given)
    if options.plots is not None:
        publish.publish(RunDirectory.open(options.plots))
        return 0
    from topologies import sandbox  # needs Linux and root; making plots again does not

    if not sandbox.inside():
        sandbox.enter([sys.executable, "-m", "experiments.peers", *given])
    sandbox.exit_on_sigterm()
    plan = runner.PLANS[options.profile]
    if options.repeats is not None:
        plan = replace(plan, repeats=options.repeats)
    seed = options.seed if options.seed is not None else secrets.randbelow(2**31)
    names = options.only or [name for name in CONTENDERS if name not in plan.leave_out]
    record: dict[str, Any] = {
        "environment": describe(), "peers": versions.describe(), "seed": seed, "plan": plan.as_dict(),
        "contenders": [CONTENDERS[name].description.as_dict() for name in names],
    }  # fmt: skip
    run = RunDirectory.create(options.results.resolve(), f"{NAME}-{plan.name}", record)
    status, reason = FAILED, "the runner ended early"
    try:
        _measure(names, run, plan, seed)
        status, reason = COMPLETE, ""
    except (KeyboardInterrupt, SystemExit):
        status, reason = INTERRUPTED, "interrupted before the end"
        raise
    except Exception as error:
        reason = f"{type(error).__name__}: {error}"
        raise
    finally:
        run.conclude(status, reason or None)
    publish.publish(run)
    print((run.path / publish.SUMMARY).read_text(encoding="utf-8"))
    print(f"Results: {run.path}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
