"""Tables, plots and page of a run are made from disk alone."""

from __future__ import annotations

import hashlib
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from experiments.__main__ import main
from experiments.registry import evaluate, write_outcome
from experiments.results import COMPLETE, FAILED, RunDirectory
from tests.experiments import synthetic

EVERYTHING = ["overhead", "attacks", "telemetry"]


@pytest.fixture
def run(tmp_path: Path) -> RunDirectory:
    made = synthetic.new_run(tmp_path, EVERYTHING)
    synthetic.overhead(made.path)
    synthetic.all_attacks(made.path, synthetic.ALL_SUCCEED, {})
    synthetic.telemetry(made.path)
    made.update(scenarios={"default": "tenants: <red>"}, environment={"kernel": "6.1"})
    return made


class _Page(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.links: list[str] = []
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.links.extend(value for name, value in attrs if name in ("src", "href") and value)
        if tag not in ("meta", "img", "link", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_the_page_stands_alone_and_every_link_leads_somewhere(run: RunDirectory) -> None:
    run.conclude(COMPLETE)
    write_outcome(run, evaluate(run, EVERYTHING))
    text = (run.path / "index.html").read_text()
    page = _Page()
    page.feed(text)
    assert page.open == []
    assert sum(link.endswith(".png") for link in page.links) == 12
    for link in page.links:
        assert not re.match(r"[a-z]+:|/", link), link
        assert link.startswith("#") or (run.path / link).exists(), link
    assert "This run is complete" in text
    assert "tenants: &lt;red&gt;" in text


def test_plots_are_drawn_again_from_disk_and_the_same(run: RunDirectory) -> None:
    write_outcome(run, evaluate(run, EVERYTHING))
    plots = sorted((run.path / "plots").iterdir())
    assert len(plots) == 12
    before = [hashlib.sha256(path.read_bytes()).digest() for path in plots]
    for path in plots:
        path.unlink()
    assert main(["plots", str(run.path)]) == 0
    assert [hashlib.sha256(path.read_bytes()).digest() for path in plots] == before


def test_pdf_fonts_are_embedded_as_truetype(run: RunDirectory) -> None:
    evaluate(run, EVERYTHING)
    for path in (run.path / "plots").glob("*.pdf"):
        content = path.read_bytes()
        assert b"/FontFile2" in content, path
        assert b"/Type3" not in content, path


def test_an_incomplete_run_says_so_on_its_page(run: RunDirectory) -> None:
    run.conclude(FAILED, "inject: BROKEN")
    write_outcome(run, evaluate(run, EVERYTHING))
    text = (run.path / "index.html").read_text()
    assert "INCOMPLETE (failed): inject: BROKEN" in text
    assert json.loads((run.path / "summary.json").read_text())["status"] == FAILED


def test_a_run_that_left_nothing_still_gets_a_page(tmp_path: Path) -> None:
    run = synthetic.new_run(tmp_path, EVERYTHING)
    write_outcome(run, evaluate(run, EVERYTHING))
    text = (run.path / "index.html").read_text()
    assert "INCOMPLETE (running)" in text
    assert "<img" not in text


def test_summary_has_all_experiments_and_failures(run: RunDirectory) -> None:
    synthetic.attacks(run.path, "full", {"replay": 1.0})
    write_outcome(run, evaluate(run, EVERYTHING))
    summary = json.loads((run.path / "summary.json").read_text())["experiments"]
    assert list(summary) == EVERYTHING
    assert summary["attacks"]["verdicts"]["replay"]["full"] == "BROKEN"
    assert summary["telemetry"]["path"] == ["t1", "t2"]
    assert "replay in mode full: BROKEN" in (run.path / "index.html").read_text()


def test_plots_of_a_wrong_directory_is_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plots", str(tmp_path)]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "no readable run.json" in error


def test_damaged_raw_samples_are_named(run: RunDirectory, capsys: pytest.CaptureFixture[str]) -> None:
    path = run.path / "raw" / "overhead" / "samples.jsonl"
    path.write_text("not json\n" + path.read_text())
    assert main(["plots", str(run.path)]) == 2
    assert "samples.jsonl: line 1 is not JSON" in capsys.readouterr().err


def test_unknown_experiment_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["run", "--only", "overhead,speed"])
    assert caught.value.code == 2
    assert "no experiment named speed" in capsys.readouterr().err
