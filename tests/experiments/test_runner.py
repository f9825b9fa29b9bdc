"""The runner: a run that fails or is interrupted says so, ends with an error, and is never ``latest``."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from experiments import __main__ as runner
from experiments import registry
from experiments.context import Context, ExperimentError
from experiments.results import COMPLETE, FAILED, INTERRUPTED
from tests.experiments import synthetic
from topologies import sandbox

ROOT = Path(__file__).resolve().parent.parent.parent
DEADLINE = 60.0


def telemetry(context: Context) -> None:
    """An experiment that goes well."""
    context.progress.step("measure", 1)
    synthetic.telemetry(context.run.path)


def overhead(context: Context) -> None:
    synthetic.overhead(context.run.path, repeats=1)


def failing(error: Exception) -> Callable[[Context], None]:
    def run(context: Context) -> None:
        context.progress.step("break", 1)
        raise error

    return run


@pytest.fixture
def experiments(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The registry's table, with experiments that need no network; to be changed by the test."""
    table = dict(registry.EXPERIMENTS)
    for name, function in (("telemetry", telemetry), ("overhead", overhead)):
        table[name] = replace(table[name], run=function)
    monkeypatch.setattr(registry, "EXPERIMENTS", table)
    monkeypatch.setattr(runner, "EXPERIMENTS", table)
    monkeypatch.setattr(sandbox, "inside", lambda: True)
    handler = signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr(signal, "signal", lambda *_arguments: handler)  # pytest's own stay as they are
    return table


def start(results: Path, *arguments: str) -> int:
    return runner.main(["run", "--profile", "smoke", "--results", str(results), *arguments])


def only_run(results: Path) -> tuple[Path, dict[str, Any]]:
    [path] = [path for path in results.iterdir() if path.name != "latest"]
    return path, json.loads((path / "run.json").read_text())


def never_latest(results: Path) -> bool:
    return not (results / "latest").exists() and not (results / "latest").is_symlink()


def test_a_run_that_goes_well_is_latest(
    tmp_path: Path, experiments: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    assert start(tmp_path, "--only", "telemetry", "--seed", "7") == 0
    path, record = only_run(tmp_path)
    assert (record["status"], record["seed"], record["experiments"]) == (COMPLETE, 7, ["telemetry"])
    assert {"ended", "environment", "doctor", "profile"} <= record.keys()
    assert "reason" not in record
    assert (tmp_path / "latest").resolve() == path
    assert json.loads((path / "summary.json").read_text())["status"] == COMPLETE
    assert str(path / "index.html") in capsys.readouterr().out


@pytest.mark.parametrize(
    "error", [ExperimentError("the way is cut"), OSError("no more files"), ValueError("bad"), RuntimeError("worse")]
)
def test_an_experiment_that_fails_fails_the_run(
    tmp_path: Path, experiments: dict[str, Any], capsys: pytest.CaptureFixture[str], error: Exception
) -> None:
    experiments["overhead"] = replace(experiments["overhead"], run=failing(error))
    assert start(tmp_path, "--only", "overhead") == 1
    path, record = only_run(tmp_path)
    assert (record["status"], record["reason"]) == (FAILED, f"overhead: {error}")
    assert never_latest(tmp_path)
    assert json.loads((path / "summary.json").read_text())["status"] == FAILED
    assert f"INCOMPLETE (failed): overhead: {error}" in (path / "index.html").read_text()
    said = capsys.readouterr().err
    assert f"experiments: run failed: overhead: {error}." in said
    assert "Traceback" not in said


def test_the_other_experiments_run_nevertheless(tmp_path: Path, experiments: dict[str, Any]) -> None:
    experiments["overhead"] = replace(experiments["overhead"], run=failing(ExperimentError("cut")))
    assert start(tmp_path, "--only", "overhead,telemetry") == 1
    path, record = only_run(tmp_path)
    assert record["reason"] == "overhead: cut"
    assert (path / "csv" / "telemetry-path.csv").read_text().count("\n") > 1
    assert never_latest(tmp_path)


def test_a_verdict_that_fails_fails_the_run(tmp_path: Path, experiments: dict[str, Any]) -> None:
    def broken(context: Context) -> None:
        synthetic.all_attacks(context.run.path, synthetic.ALL_SUCCEED, {"replay": 1.0})

    experiments["attacks"] = replace(experiments["attacks"], run=broken)
    assert start(tmp_path, "--only", "attacks") == 1
    _, record = only_run(tmp_path)
    assert record["status"] == FAILED
    assert record["reason"].startswith("replay in mode full: BROKEN")
    assert never_latest(tmp_path)


@pytest.mark.parametrize("name", ["overhead", "attacks", "telemetry", "control"])
def test_an_experiment_that_measured_nothing_fails_the_run(
    tmp_path: Path, experiments: dict[str, Any], name: str
) -> None:
    experiments[name] = replace(experiments[name], run=lambda _context: None)
    assert start(tmp_path, "--only", name) == 1
    assert only_run(tmp_path)[1]["status"] == FAILED


def test_a_failed_run_leaves_latest_where_it_is(tmp_path: Path, experiments: dict[str, Any]) -> None:
    assert start(tmp_path, "--only", "telemetry") == 0
    before = (tmp_path / "latest").resolve()
    experiments["telemetry"] = replace(experiments["telemetry"], run=failing(ExperimentError("cut")))
    assert start(tmp_path, "--only", "telemetry") == 1
    assert (tmp_path / "latest").resolve() == before


def test_a_fault_of_the_runner_itself_is_recorded_and_not_hidden(tmp_path: Path, experiments: dict[str, Any]) -> None:
    experiments["telemetry"] = replace(experiments["telemetry"], run=failing(KeyError("no such thing")))
    with pytest.raises(KeyError):
        start(tmp_path, "--only", "telemetry")
    _, record = only_run(tmp_path)
    assert (record["status"], record["reason"]) == (FAILED, "KeyError: 'no such thing'")
    assert never_latest(tmp_path)


def test_damaged_samples_fail_the_run(tmp_path: Path, experiments: dict[str, Any]) -> None:
    def damaged(context: Context) -> None:
        telemetry(context)
        path = context.raw("records.jsonl")
        path.write_text("not json\n" + path.read_text())

    experiments["telemetry"] = replace(experiments["telemetry"], run=damaged)
    with pytest.raises(ValueError, match=r"records\.jsonl: line 1"):
        start(tmp_path, "--only", "telemetry")
    assert only_run(tmp_path)[1]["status"] == FAILED
    assert never_latest(tmp_path)


def test_an_interrupted_run_keeps_what_it_has(tmp_path: Path, experiments: dict[str, Any]) -> None:
    def interrupted(context: Context) -> None:
        telemetry(context)
        raise KeyboardInterrupt

    experiments["telemetry"] = replace(experiments["telemetry"], run=interrupted)
    assert start(tmp_path, "--only", "telemetry") == 130
    path, record = only_run(tmp_path)
    assert record["status"] == INTERRUPTED
    assert (path / "plots" / "telemetry-path.png").exists()
    assert "INCOMPLETE (interrupted)" in (path / "index.html").read_text()
    assert never_latest(tmp_path)


PROGRAM = """
import sys, time
from dataclasses import replace
from experiments import __main__ as runner, registry
from topologies import sandbox
from pathlib import Path

def wait(context):
    try:
        print("measuring", flush=True)
        time.sleep(100)
    finally:
        Path(sys.argv[2]).write_text("cleaned up")

registry.EXPERIMENTS["telemetry"] = replace(registry.EXPERIMENTS["telemetry"], run=wait)
sandbox.inside = lambda: True
sys.exit(runner.main(["run", "--profile", "smoke", "--only", "telemetry", "--results", sys.argv[1]]))
"""


def started(results: Path, mark: Path) -> subprocess.Popen[str]:
    """Start the runner as a program of its own and wait until its experiment measures."""
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, str(results), str(mark)], cwd=ROOT, text=True, stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )  # fmt: skip
    assert process.stdout is not None
    assert process.stdout.readline() == "measuring\n"
    return process


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signals_interrupt_a_run_in_an_orderly_way(tmp_path: Path, number: signal.Signals) -> None:
    mark = tmp_path / "mark"
    process = started(tmp_path / "results", mark)
    process.send_signal(number)
    _, said = process.communicate(timeout=DEADLINE)
    assert process.returncode == 130
    _, record = only_run(tmp_path / "results")
    assert (record["status"], record["reason"]) == (INTERRUPTED, "interrupted before the end")
    assert mark.read_text() == "cleaned up"
    assert "experiments: run interrupted: interrupted before the end." in said
    assert "Traceback" not in said
    assert never_latest(tmp_path / "results")


def test_a_killed_run_stays_marked_as_running(tmp_path: Path) -> None:
    process = started(tmp_path / "results", tmp_path / "mark")
    process.kill()
    process.communicate(timeout=DEADLINE)
    assert only_run(tmp_path / "results")[1]["status"] == "running"
    assert never_latest(tmp_path / "results")
