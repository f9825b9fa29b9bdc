"""``make bench-core``: what sealing, opening, verifying and refusing cost, with the bare AEAD call beside them.

Every operation and its bare AEAD call are timed in the same rounds, in shuffled order, so that a drift of the machine
falls on both alike; ratios are of one round. Fresh packets for every opening: a repeated one would be refused.
"""

from __future__ import annotations

import argparse
import gc
import random
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from experiments.core_bench_cases import Case, make_cases
from experiments.environment import describe
from experiments.plotting import figure, save
from experiments.results import RunDirectory
from experiments.samples import SampleWriter, read_lines
from experiments.statistics import summarise
from experiments.tables import rounded, write_csv

NAME = "bench-core"
COLUMNS = (
    "operation", "profile", "frame", "us", "ci_low", "ci_high", "bare_us", "ratio", "ratio_low", "ratio_high", "rounds",
)  # fmt: skip
LIMIT = 3.0
"""Target: sealing or opening 1400 B under ``full`` costs at most so many bare AEAD calls."""
_ROOT = Path(__file__).resolve().parent.parent


@dataclass(frozen=True, slots=True)
class Budget:
    """Rounds of all cases, and calls of each in a round."""

    rounds: int
    calls: int


WARM_UP = 10
QUICK, NORMAL = Budget(7, 60), Budget(15, 200)


def timed(operation: Callable[[], object], calls: int) -> float:
    """Return microseconds per call."""
    clock = time.perf_counter_ns
    begin = clock()
    for _ in range(calls):
        operation()
    return (clock() - begin) / calls / 1000


def measure(cases: Sequence[Case], budget: Budget, seed: int, write: Callable[[dict[str, Any]], None]) -> None:
    """Time every case ``rounds`` times in shuffled order, each time with its bare AEAD call right beside it."""
    order = random.Random(seed)
    for number in range(budget.rounds):
        shuffled = list(cases)
        order.shuffle(shuffled)
        for case in shuffled:
            calls = budget.calls if case.packets == 1 else max(20, budget.calls // case.packets)
            operation = case.prepare(calls + WARM_UP)
            for _ in range(WARM_UP):
                operation()
            gc.collect()
            gc.disable()
            try:
                first = timed(case.bare, budget.calls) if case.bare is not None else None
                spent = timed(operation, calls) / case.packets
                second = timed(case.bare, budget.calls) if case.bare is not None else None
            finally:
                gc.enable()
            bare = None if first is None or second is None else (first + second) / 2
            write({"round": number, "operation": case.operation, "profile": case.profile, "frame": case.frame,
                   "us": spent, "bare_us": bare})  # fmt: skip


def analyse(samples: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return a row for each case: medians with 95% intervals, and the ratio to the bare call."""
    groups: dict[tuple[str, str, int], list[dict[str, Any]]] = {}
    for sample in samples:
        groups.setdefault((sample["operation"], sample["profile"], sample["frame"]), []).append(sample)
    rows = []
    for (operation, profile, frame), group in sorted(groups.items()):
        spent = summarise([sample["us"] for sample in group])
        bare = [sample["bare_us"] for sample in group if sample["bare_us"] is not None]
        ratio = summarise([s["us"] / s["bare_us"] for s in group if s["bare_us"]]) if bare else None
        rows.append({
            "operation": operation, "profile": profile, "frame": frame, "us": rounded(spent.median),
            "ci_low": rounded(spent.low), "ci_high": rounded(spent.high),
            "bare_us": rounded(summarise(bare).median) if bare else None,
            "ratio": rounded(ratio.median, 3) if ratio else None, "ratio_low": rounded(ratio.low, 3) if ratio else None,
            "ratio_high": rounded(ratio.high, 3) if ratio else None, "rounds": len(group),
        })  # fmt: skip
    return rows


def targets(rows: Sequence[dict[str, Any]]) -> Iterator[tuple[str, bool]]:
    """Yield each target of the project in words, and whether it is met."""
    found = {(row["operation"], row["profile"], row["frame"]): row for row in rows}
    for operation in ("seal", "open"):
        row = found[operation, "full", 1400]
        text = f"{operation} of 1400 B under full: {row['ratio']} bare AEAD calls (at most {LIMIT:g})"
        yield text, row["ratio"] <= LIMIT
    for name, accepting, refusing in (
        ("opening alone", "open", "refuse: bad tag"),
        ("the whole NVE", "NVE: accept", "NVE: refuse bad tag"),
    ):
        accepted, refused = found[accepting, "full", 1400], found[refusing, "full", 1400]
        text = f"{name}: refusing a bad tag costs {refused['ratio']} bare calls, accepting {accepted['ratio']}"
        yield f"{text} (no dearer)", refused["ratio"] <= accepted["ratio"]


def draw(rows: Sequence[dict[str, Any]], folder: Path) -> None:
    """Draw what the operations cost at 1400 B, the bare AEAD call beside each."""
    shown = [row for row in rows if row["frame"] == 1400 and row["bare_us"] is not None]
    drawing, axes = figure(0.17 * len(shown) + 0.8)
    places = list(range(len(shown)))
    # Points and not bars: on a logarithmic axis the length of a bar means nothing.
    axes.hlines(places, [row["bare_us"] for row in shown], [row["us"] for row in shown], color="0.7", linewidth=0.8)
    axes.plot([row["bare_us"] for row in shown], places, "|", color="black", markersize=6, label="bare AEAD call")
    axes.errorbar([row["us"] for row in shown], places, fmt="o", color="0.25", markersize=3, elinewidth=0.7,
                  capsize=1.5, label="operation",
                  xerr=[[row["us"] - row["ci_low"] for row in shown],
                        [row["ci_high"] - row["us"] for row in shown]])  # fmt: skip
    axes.set_yticks(places, [f"{row['operation']}, {row['profile']}" for row in shown], fontsize=6)
    axes.set_xscale("log")
    axes.set_ylim(len(shown) - 0.4, -0.6)
    axes.set_xlabel("µs per packet (log)")
    axes.grid(visible=False, axis="y")
    axes.legend(loc="upper center", bbox_to_anchor=(0.2, -0.06), ncols=2)
    save(drawing, folder, "core")


def show(rows: Sequence[dict[str, Any]]) -> str:
    """Return the table as text."""
    lines = [f"{'operation':26} {'profile':26} {'frame':>6} {'us':>8} {'bare':>7} {'ratio':>6}"]
    for row in rows:
        bare = "" if row["bare_us"] is None else f"{row['bare_us']:.2f}"
        ratio = "" if row["ratio"] is None else f"{row['ratio']:.2f}"
        name = f"{row['operation']:26} {row['profile']:26} {row['frame']:>6}"
        lines.append(f"{name} {row['us']:>8.2f} {bare:>7} {ratio:>6}")
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point."""
    parser = argparse.ArgumentParser(prog="experiments.core_bench", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer rounds: for a first look")
    parser.add_argument("--seed", type=int, default=None)
    parser.add_argument("--results", type=Path, default=_ROOT / "results")
    options = parser.parse_args(arguments)
    seed = options.seed if options.seed is not None else random.SystemRandom().randrange(2**32)
    budget = QUICK if options.quick else NORMAL
    run = RunDirectory.create(options.results, NAME, {"environment": describe(), "seed": seed, "rounds": budget.rounds,
                                                      "calls": budget.calls})  # fmt: skip
    path = run.folder("raw") / "samples.jsonl"
    with SampleWriter(path) as writer:
        measure(make_cases(), budget, seed, writer.write)
    rows = analyse(read_lines(path))
    write_csv(run.folder("csv") / "core.csv", rows, COLUMNS)
    draw(rows, run.folder("plots"))
    verdicts = list(targets(rows))
    run.update(targets=dict(verdicts), status="complete")
    print(show(rows))
    for text, met in verdicts:
        print(f"{'met    ' if met else 'NOT MET'}  {text}")
    print(f"Results: {run.path}")
    return 0


if __name__ == "__main__":

    sys.exit(main())
