"""The results directory: incomplete runs are marked and never become ``latest``."""

from __future__ import annotations

import json
from datetime import datetime, timezone
from pathlib import Path

import pytest

from experiments.results import COMPLETE, FAILED, RUNNING, ResultsError, RunDirectory
from experiments.samples import SampleWriter, read_lines, sample

NOON = datetime(2026, 1, 2, 12, 0, 0, tzinfo=timezone.utc)


def test_a_run_is_marked_incomplete_from_its_first_moment(tmp_path: Path) -> None:
    run = RunDirectory.create(tmp_path, "quick", {"seed": 5}, NOON)
    assert run.path.name == "20260102T120000Z-quick"
    assert json.loads((run.path / "run.json").read_text())["status"] == RUNNING
    run.publish()
    assert not (tmp_path / "latest").is_symlink()


def test_only_a_complete_run_becomes_latest(tmp_path: Path) -> None:
    good = RunDirectory.create(tmp_path, "good", {}, NOON)
    good.conclude(COMPLETE)
    good.publish()
    assert (tmp_path / "latest").resolve() == good.path.resolve()
    bad = RunDirectory.create(tmp_path, "bad", {}, NOON)
    bad.conclude(FAILED, "no control")
    bad.publish()
    assert (tmp_path / "latest").resolve() == good.path.resolve()
    assert RunDirectory.open(bad.path).record["reason"] == "no control"
    assert (tmp_path / "latest").readlink() == Path(good.path.name)


def test_two_runs_of_one_second_do_not_share_a_directory(tmp_path: Path) -> None:
    first = RunDirectory.create(tmp_path, "quick", {}, NOON)
    second = RunDirectory.create(tmp_path, "quick", {}, NOON)
    assert first.path != second.path
    assert second.path.name == "20260102T120000Z-quick-2"


def test_a_real_file_named_latest_is_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / "latest").mkdir()
    run = RunDirectory.create(tmp_path, "quick", {}, NOON)
    run.conclude(COMPLETE)
    with pytest.raises(ResultsError, match="not a symbolic link"):
        run.publish()


def test_what_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ResultsError, match=r"no readable run\.json"):
        RunDirectory.open(tmp_path)
    (tmp_path / "run.json").write_text('{"status": "comp')
    with pytest.raises(ResultsError, match=r"no readable run\.json"):
        RunDirectory.open(tmp_path)


def test_results_below_a_file_are_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ResultsError, match="cannot make a results directory"):
        RunDirectory.create(tmp_path / "file", "quick", {}, NOON)


def test_warnings_are_kept_once(tmp_path: Path) -> None:
    run = RunDirectory.create(tmp_path, "quick", {}, NOON)
    run.warn("no netem")
    run.warn("no netem")
    assert RunDirectory.open(run.path).record["warnings"] == ["no netem"]


def test_samples_survive_a_crash_in_the_middle_of_a_line(tmp_path: Path) -> None:
    path = tmp_path / "raw.jsonl"
    writer = SampleWriter(path)
    writer.write(sample("tcp", {"mode": "none"}, 1.5, "bit/s"))
    # Not closed: what was written is on its way to the disk already.
    assert [entry["value"] for entry in read_lines(path)] == [1.5]
    with path.open("a") as file:
        file.write('{"measure": "tc')
    assert len(read_lines(path)) == 1
    with path.open("a") as file:
        file.write("\n{}\n")
    with pytest.raises(ValueError, match=r"raw\.jsonl: line 2"):
        read_lines(path)


def test_a_sample_has_a_value_or_a_reason() -> None:
    for value, missing in ((None, None), (1, "why")):
        with pytest.raises(ValueError, match="not both"):
            sample("tcp", {}, value, "bit/s", missing)
