"""The experiment dataplane-scale: what a packet costs as associations, rules, flows and audiences become more.

No network: the data plane alone, in processes of their own. All points are timed in shuffled order, once in a round, so
that a drift of the machine falls on all alike.
"""

from __future__ import annotations

import json
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from experiments.context import Context, ExperimentError
from experiments.dataplane.points import FLOWS, MEMORY_SIZES, NEW, SIDES, SIZES, Point, all_points
from experiments.dataplane.scale_analysis import SAMPLES
from experiments.profiles import Profile
from experiments.programs import python_module, tail
from experiments.samples import SampleWriter, sample
from geneve.security.association import MAX_FLOWS as FLOW_KEYS_KEPT
from nve.flows import MAX_FLOWS

_MODULE = "experiments.dataplane.worker"
_ROOT = Path(__file__).resolve().parent.parent.parent
_NEW_FLOWS_SHARE = 8
"""Packets of new flows are fewer by this factor: each costs a walk through all rules."""
_BUILD_SECONDS, _POINT_SECONDS = 16.0, 0.03
_WEIGHING_SECONDS = 8.0
_WEIGHERS = 2


class Worker:
    """The process that times points."""

    def __init__(self, seed: int, errors: Path) -> None:
        self._errors = errors
        with errors.open("ab") as sink:
            self._process = subprocess.Popen(
                python_module(_MODULE, "time", "--seed", str(seed)), cwd=_ROOT, text=True,
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=sink,
            )  # fmt: skip

    def time(self, point: Point, packets: int) -> float:
        """Return microseconds per packet; ExperimentError when the process has ended."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            self._process.stdin.write(json.dumps({"point": point.as_dict(), "packets": packets}) + "\n")
            self._process.stdin.flush()
        except OSError:
            raise ExperimentError(f"the timing process is gone: {tail(self._errors)}") from None
        line = self._process.stdout.readline()
        if not line:
            raise ExperimentError(f"the timing process ended at {point}: {tail(self._errors)}")
        return float(json.loads(line)["us"])

    def stop(self) -> None:
        """End the process."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            self._process.wait(5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


def seconds(profile: Profile) -> float:
    """Return how long the experiment is expected to take."""
    timed = _POINT_SECONDS * profile.scale_rounds * len(all_points(dict(profile.scale_largest)))
    small = bool(profile.scale_largest)
    return timed + (1.0 if small else _BUILD_SECONDS) + profile.scale_memory_repeats * (
        1.0 if small else _WEIGHING_SECONDS
    )  # fmt: skip


def run(context: Context) -> None:
    """Run the experiment; every sample is on disk when this returns."""
    with context.writer(SAMPLES) as samples:
        bounds = {"flow cache, most": MAX_FLOWS, "flow cache, least": MAX_FLOWS // 2,
                  "flow keys per association": FLOW_KEYS_KEPT}  # fmt: skip
        samples.write(sample("bounds", {}, bounds, "flows"))
        _time_all(context, samples)
        _weigh_all(context, samples)


def _time_all(context: Context, samples: SampleWriter) -> None:
    profile = context.profile
    points = all_points(dict(profile.scale_largest))
    worker = Worker(context.seed, context.raw("worker.stderr"))
    place = 0
    try:
        for number in range(profile.scale_rounds):
            context.progress.step(f"round {number + 1} of {profile.scale_rounds}", _POINT_SECONDS * len(points))
            order = list(points)
            context.random(f"round {number}").shuffle(order)
            for point in order:
                packets = profile.scale_packets // (_NEW_FLOWS_SHARE if point.series == NEW else 1)
                spent = worker.time(point, packets)
                key = {**point.as_dict(), "round": number, "order": place}
                samples.write(sample("cost", key, round(spent, 4), "us/packet", packets=packets))
                place += 1
    finally:
        worker.stop()


def _weigh_all(context: Context, samples: SampleWriter) -> None:
    largest = dict(context.profile.scale_largest)
    orders = [
        {"axis": axis, "side": side, "size": size, "repeat": repeat}
        for repeat in range(context.profile.scale_memory_repeats)
        for axis, sizes in MEMORY_SIZES.items()
        for size in sizes
        if size <= largest.get(axis, size)
        for side in SIDES
    ]
    context.random("memory").shuffle(orders)
    context.progress.step("memory", _WEIGHING_SECONDS * context.profile.scale_memory_repeats)
    with ThreadPoolExecutor(_WEIGHERS) as pool:
        for order, found in zip(orders, pool.map(_weigh, orders), strict=True):
            value = found.get("bytes")
            rest = {key: entry for key, entry in found.items() if key not in ("bytes", "missing")}
            samples.write(sample("memory", order, value, "bytes", missing=found.get("missing"), **rest))


def _weigh(order: dict[str, Any]) -> dict[str, Any]:
    argv = python_module(_MODULE, "weigh", order["axis"], order["side"], str(order["size"]))
    done = subprocess.run(argv, cwd=_ROOT, capture_output=True, text=True, check=False, timeout=120)
    if done.returncode != 0:
        return {"missing": f"the process ended with {done.returncode}: {done.stderr.strip()[-200:]}"}
    found: dict[str, Any] = json.loads(done.stdout)
    return found


assert max(SIZES[FLOWS]) > MAX_FLOWS, "what lies beyond the flow cache is to be seen"
