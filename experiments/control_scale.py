"""``make bench-control``: what the NVA costs as nodes become more, with simulated nodes on real TLS connections.

For each number of nodes the real program runs on an inventory of its own, and simulated nodes (a process of their
own, control_scale_nodes.py) register, are told everything, report tenants, ask for keys and replace them, and lose the
NVA to ``kill -9``. Three modes: ``static`` has all tenants in the inventory, ``learned`` has the nodes report them,
``eager`` makes the keys of all pairs at once, as a comparison. Raw samples are kept; tables and plots are made from
them (``--plots DIRECTORY`` makes them again, without running anything).
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from experiments import control_scale_analysis as analysis
from experiments import control_scale_plots as plots
from experiments.control_scale_deployment import (
    Deployment,
    NvaError,
    NvaProcess,
    Usage,
    operator_client,
    prepare,
)
from experiments.environment import describe
from experiments.results import COMPLETE, FAILED, RunDirectory
from experiments.samples import SampleWriter, sample
from geneve.control.rest_client import RestError

NAME = "bench-control"
SAMPLES = "control-scale.jsonl"
_ROOT = Path(__file__).resolve().parent.parent

Write = Callable[[dict[str, Any]], None]


@dataclass(frozen=True, slots=True)
class Plan:
    """Sizes and repeats of one run; ``limit`` is in seconds and for each phase."""

    sizes: tuple[int, ...]
    eager_sizes: tuple[int, ...]
    repeats: int = 1
    """Whole runs of each size."""
    changes: int = 20
    needs: int = 100
    keys_per_node: tuple[int, ...] = (4, 16)
    idle_seconds: float = 5.0
    limit: float = 120.0
    tenants_per_node: int = 10
    group_size: int = 10


QUICK = Plan(sizes=(10, 30, 100), eager_sizes=(10, 30))
FULL = Plan(sizes=(10, 100, 1000), eager_sizes=(10, 30, 100))


def _nothing() -> None:
    """Leave the nodes to themselves."""


class PhaseError(RuntimeError):
    """A phase did not end within its limit; the text says what was missing."""


@dataclass(slots=True)
class Answer:
    """What all processes of simulated nodes say to one command, together. Times are of the monotonic clock."""

    begin: float
    end: float
    reached: list[float]
    counts: dict[str, float]
    cpu_seconds: float
    left: int
    reasons: dict[str, int]
    more: list[dict[str, Any]]

    def together(self, name: str) -> list[Any]:
        """Return the lists of this name from all answers, one after the other."""
        return [value for answer in self.more for value in answer.get(name, ())]

    def total(self, name: str) -> int:
        """Return the sum of the numbers of this name."""
        return sum(int(answer.get(name, 0)) for answer in self.more)


class Simulator:
    """The processes of the simulated nodes of one deployment."""

    def __init__(self, deployment: Deployment, folder: Path, port: int, workers: int) -> None:
        share = -(-deployment.nodes // workers)
        self._processes: list[subprocess.Popen[str]] = []
        for first in range(0, deployment.nodes, share):
            argv = [sys.executable, "-m", "experiments.control_scale_nodes", "--folder", str(folder)]
            argv += ["--port", str(port), "--deployment", json.dumps(deployment.as_dict())]
            argv += ["--first", str(first), "--end", str(min(deployment.nodes, first + share))]
            self._processes.append(
                subprocess.Popen(argv, cwd=_ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
            )
        for process in self._processes:
            self._answer(process)

    @staticmethod
    def _answer(process: subprocess.Popen[str]) -> dict[str, Any]:
        assert process.stdout is not None
        line = process.stdout.readline()
        if not line:
            raise PhaseError("a process of simulated nodes has ended; what it wrote to standard error says why")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def ask(self, command: dict[str, Any], *, one: bool = False, operate: Callable[[], object] = _nothing) -> Answer:
        """Have the processes (the first alone with ``one``) carry out a command and return their answers together.

        ``operate`` is called meanwhile: what an operator does that the nodes wait for.
        """
        chosen = self._processes[:1] if one else self._processes
        for process in chosen:
            assert process.stdin is not None
            process.stdin.write(json.dumps(command) + "\n")
            process.stdin.flush()
        operate()
        answers = [self._answer(process) for process in chosen]
        reasons: dict[str, int] = {}
        for answer in answers:
            for reason, times in answer["reasons"].items():
                reasons[reason] = reasons.get(reason, 0) + times
        return Answer(
            begin=min(answer["begin"] for answer in answers),
            end=max(answer["end"] for answer in answers),
            reached=[moment for answer in answers for moment in answer["reached"]],
            counts={name: sum(answer["counts"][name] for answer in answers) for name in answers[0]["counts"]},
            cpu_seconds=sum(answer["cpu_seconds"] for answer in answers),
            left=sum(answer["left"] for answer in answers),
            reasons=reasons,
            more=answers,
        )

    def stop(self) -> None:
        """End the processes."""
        for process in self._processes:
            with contextlib.suppress(OSError):
                assert process.stdin is not None
                process.stdin.close()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


class Bench:
    """One deployment that runs, and what is measured on it."""

    def __init__(
        self, deployment: Deployment, plan: Plan, folder: Path, workers: int, repeat: int, write: Write
    ) -> None:
        self.deployment, self.plan = deployment, plan
        self._write_sample = write
        self.mode = "eager" if not deployment.on_demand else "learned" if deployment.learned else "static"
        self._key = {"mode": self.mode, "nodes": deployment.nodes, "repeat": repeat}
        ports = prepare(deployment, folder)
        port = ports["nva"]
        self._operator = operator_client(folder, ports)
        self.nva = NvaProcess(folder, port)
        self.simulator = Simulator(deployment, folder, port, workers)
        self._counts: dict[str, float] = {}
        self._simulator_cpu = 0.0

    def close(self) -> None:
        """End all processes."""
        self.simulator.stop()
        self.nva.kill()

    def start(self) -> float:
        """Start the NVA and note how long it takes until it listens."""
        seconds = self.nva.start()
        usage = self.nva.usage()
        self.write("start", seconds, {"nva_cpu_s": usage.cpu_seconds, "nva_peak_rss_bytes": usage.peak_rss_bytes})
        return seconds

    def write(self, phase: str, value: float | None, details: dict[str, Any], missing: str | None = None) -> None:
        """Keep a sample; ``value`` is in seconds."""
        self._write_sample(sample("phase", {**self._key, "phase": phase}, value, "s", missing, **details))

    def phase(
        self, phase: str, command: dict[str, Any], *,
        since: float | None = None, one: bool = False, whole: bool = False,
        seconds: Callable[[Answer], float] | None = None, details: Callable[[Answer], dict[str, Any]] | None = None,
        operate: Callable[[], object] = _nothing, **known: Any,
    ) -> Answer:  # fmt: skip
        """Carry out one command and keep what it took; PhaseError when it did not end well.

        The time runs from ``since`` (default: the command's begin) until the last node has what it waits for; with
        ``whole`` the other figures are those since the NVA listens.
        """
        before = Usage(0.0, 0, 0, 0) if whole else self.nva.usage()
        if whole:
            self._counts, self._simulator_cpu = {}, 0.0
        answer = self.simulator.ask({"limit": self.plan.limit, **command}, one=one, operate=operate)
        found = self._found(answer, before.cpu_seconds)
        if answer.left:
            text = f"{answer.left} nodes were not there after {self.plan.limit:g} s"
            self.write(phase, None, {**found, **known}, text)
            raise PhaseError(f"{self.mode}, {self.deployment.nodes} nodes, {phase}: {text}")
        begin = answer.begin if since is None else since
        value = max(answer.reached, default=answer.end) - begin if seconds is None else seconds(answer)
        self.write(phase, value, {**found, **known, **({} if details is None else details(answer))})
        return answer

    def _found(self, answer: Answer, cpu_before: float) -> dict[str, Any]:
        usage = self.nva.usage()
        counts = {name: value - self._counts.get(name, 0) for name, value in answer.counts.items()}
        simulator_cpu = answer.cpu_seconds - self._simulator_cpu
        self._counts, self._simulator_cpu = answer.counts, answer.cpu_seconds
        return {
            "nva_cpu_s": round(usage.cpu_seconds - cpu_before, 3), "nva_rss_bytes": usage.rss_bytes,
            "nva_peak_rss_bytes": usage.peak_rss_bytes, "database_bytes": usage.database_bytes,
            "simulator_cpu_s": round(simulator_cpu, 3), "counts": counts, "disconnections": answer.reasons,
        }  # fmt: skip

    # The parts ------------------------------------------------------------------------------------------

    def registration(self) -> Answer:
        """Have all nodes connect and register at once."""
        return self.phase("registration", {"do": "connect"})

    def changes(self) -> None:
        """Change one mapping after the other, each until all nodes have applied it.

        Where mappings are learned, an NVE reports the change; where they are static, an operator makes it.
        """
        for change in range(1, self.plan.changes + 1):
            index = change * 7 % self.deployment.nodes
            asked, report = _Moment(), self.deployment.learned
            asked.note()
            self.phase(
                "change", {"do": "change", "index": index, "change": change, "report": report},
                operate=_nothing if report else partial(self._set_mapping, asked, index, change),
                seconds=partial(_until_last, asked), details=partial(_latencies, asked), change=change,
            )  # fmt: skip

    def _set_mapping(self, asked: _Moment, index: int, change: int) -> None:
        tenant = self.deployment.tenants(index, change)[0]
        asked.note()
        body = {"nve": self.deployment.name(index), "ips": list(tenant.ips)}
        self._operator.request("PUT", f"/v1/mappings/{tenant.vni}/{tenant.mac}", body)

    def keys(self, seed: int) -> None:
        """Ask for keys one by one, then by all nodes at once, and replace all of them."""
        count = min(self.plan.needs, 2 * self.deployment.nodes)  # leave pairs to talk for what follows
        self.phase(
            "need", {"do": "need_each", "count": count, "seed": seed}, one=True,
            details=lambda answer: {"latencies": [round(value, 6) for value in sorted(answer.together("seconds"))]},
        )  # fmt: skip
        for per_node in self.plan.keys_per_node:
            self.phase(
                "need-all", {"do": "need_all", "per_node": per_node, "seed": seed + per_node}, per_node=per_node,
                details=lambda answer: {"pairs": answer.total("pairs")},
            )  # fmt: skip
            self.rekey(per_node)

    def rekey(self, per_node: int | None = None) -> None:
        """Have an operator replace all keys; the time is until every sender has switched, the bytes until the old
        keys are gone.
        """
        self.simulator.ask({"do": "mark"})
        asked = _Moment()

        def operate() -> None:
            asked.note()
            self._operator.request("POST", "/v1/rekey", {})

        self.phase(
            "rekey", {"do": "rekey"}, per_node=per_node, operate=operate,
            seconds=lambda answer: max(float(item["switched"]) for item in answer.more) - asked.time,
            details=lambda answer: {"pairs": answer.total("pairs"), "until_old_ended_s": answer.end - asked.time},
        )  # fmt: skip

    def restart(self) -> None:
        """Kill the NVA and start it again; the time is from its death until all nodes have everything."""
        self.simulator.ask({"do": "crash"})
        died = time.monotonic()
        self.nva.kill()
        listening = self.start()
        self.phase("restart", {"do": "returned"}, since=died, until_listening_s=listening)


@dataclass(slots=True)
class _Moment:
    """When something was asked for, by the monotonic clock."""

    time: float = 0.0

    def note(self) -> None:
        """It is now."""
        self.time = time.monotonic()


def _until_last(asked: _Moment, answer: Answer) -> float:
    return max(answer.reached) - asked.time


def _latencies(asked: _Moment, answer: Answer) -> dict[str, Any]:
    return {"latencies": [round(moment - asked.time, 5) for moment in sorted(answer.reached)]}


def measure(bench: Bench, seed: int) -> None:
    """Measure all that belongs to the deployment's mode."""
    deployment, plan = bench.deployment, bench.plan
    bench.start()
    begin = bench.registration().begin
    if not deployment.on_demand:
        bench.phase(
            "keys", {"do": "keys"}, since=begin, whole=True, details=lambda answer: {"pairs": answer.total("pairs")}
        )  # fmt: skip
        bench.rekey()
        return
    if not deployment.learned:
        bench.phase("synchronisation", {"do": "complete"}, since=begin, whole=True)
        bench.changes()
        return
    bench.phase("tenants", {"do": "tenants"})
    bench.phase("idle", {"do": "idle", "seconds": plan.idle_seconds}, seconds=lambda answer: answer.end - answer.begin)
    bench.changes()
    bench.keys(seed)
    bench.restart()


def deployments(plan: Plan) -> Iterator[Deployment]:
    """Yield what is measured, in order."""
    for nodes in sorted({*plan.sizes, *plan.eager_sizes}):
        learned = Deployment(nodes, plan.tenants_per_node, plan.group_size)
        if nodes in plan.sizes:
            yield replace(learned, learned=False)
            yield learned
        if nodes in plan.eager_sizes:
            yield replace(learned, learned=False, on_demand=False)


def run(
    plan: Plan, write: Write, *, seed: int, workers: int | None = None, log_folder: Path | None = None,
    tell: Callable[[str], None] = lambda _: None,
) -> list[str]:  # fmt: skip
    """Measure everything in ``plan``; returns what failed, in sentences. Logs of the NVA go to ``log_folder``.

    No rights are needed: everything is on the loopback interface, at ports that are free.
    """
    count = workers if workers is not None else max(1, min(4, (os.cpu_count() or 1) - 1))
    faults = []
    for repeat in range(plan.repeats):
        for deployment in deployments(plan):
            with tempfile.TemporaryDirectory(prefix="control-scale-") as name:
                folder = Path(name) / "deployment"
                bench = Bench(deployment, plan, folder, count, repeat, write)
                label = f"{bench.mode}, {deployment.nodes} nodes"
                tell(label)
                try:
                    measure(bench, seed + repeat)
                except (PhaseError, NvaError, RestError) as error:
                    faults.append(str(error))
                finally:
                    bench.close()
                    if log_folder is not None and bench.nva.log.exists():
                        target = log_folder / f"nva-{bench.mode}-{deployment.nodes}-{repeat}.log"
                        target.write_bytes(bench.nva.log.read_bytes())
    return faults


def publish(path: Path) -> list[dict[str, Any]]:
    """Make tables and plots of a run from its samples; returns the rows of the table of phases."""
    result = analysis.analyse(path / "raw" / SAMPLES)
    for folder in ("csv", "plots"):
        (path / folder).mkdir(exist_ok=True)
    analysis.write_tables(result, path / "csv")
    plots.draw(result, path / "plots")
    return result.phases


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point."""
    parser = argparse.ArgumentParser(prog="experiments.control_scale", description=__doc__)
    parser.add_argument("--quick", action="store_true", help=f"only {', '.join(map(str, QUICK.sizes))} nodes")
    parser.add_argument("--sizes", type=int, nargs="+", help="numbers of nodes instead of the usual ones")
    parser.add_argument("--repeats", type=int, default=1, help="whole runs of each size (default: 1)")
    parser.add_argument("--workers", type=int, default=None, help="processes of simulated nodes")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--results", type=Path, default=_ROOT / "results")
    parser.add_argument("--plots", type=Path, metavar="DIRECTORY", help="only make tables and plots of this run again")
    options = parser.parse_args(arguments)
    if options.plots is not None:
        publish(options.plots)
        return 0
    chosen = QUICK if options.quick else FULL
    fields = {**asdict(chosen), "repeats": options.repeats}
    if options.sizes:
        fields |= {"sizes": tuple(options.sizes), "eager_sizes": tuple(n for n in options.sizes if n <= 100)}
    plan = Plan(**fields)
    record = {"environment": describe(), "seed": options.seed, "plan": asdict(plan)}
    directory = RunDirectory.create(options.results, NAME, record)
    raw = directory.folder("raw")
    with SampleWriter(raw / SAMPLES) as writer:
        faults = run(
            plan, writer.write, seed=options.seed, workers=options.workers, log_folder=raw,
            tell=lambda text: print(text, flush=True),
        )  # fmt: skip
    rows = publish(directory.path)
    verdicts = list(analysis.targets(rows))
    directory.update(targets=dict(verdicts), load_average=os.getloadavg())
    directory.conclude(FAILED if faults else COMPLETE, "; ".join(faults) or None)
    print(analysis.show(rows))
    for text, met in verdicts:
        print(f"{'met    ' if met else 'NOT MET'}  {text}")
    for fault in faults:
        print(f"FAILED   {fault}")
    print(f"Results: {directory.path}")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
