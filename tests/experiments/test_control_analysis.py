"""The control plane's tables and verdicts, on made-up runs: each verdict with a case in which it fails."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from experiments import control_analysis, control_plots
from experiments.control_analysis import ControlResult, analyse
from experiments.samples import read_lines
from tests.experiments import synthetic_control
from tests.experiments.synthetic import write_lines
from tests.experiments.synthetic_control import MS, control, drop_received


def row(rows: list[dict[str, Any]], **wanted: Any) -> dict[str, Any]:
    """The one row with these values; under our mechanism unless another is named."""
    wanted = {**({"mechanism": "ours"} if "mechanism" in rows[0] else {}), **wanted}
    [found] = [entry for entry in rows if all(entry[key] == value for key, value in wanted.items())]
    return found


def analysed(run: Path, **changes: Any) -> ControlResult:
    control(run, **changes)
    return analyse(run)


def test_a_sound_run_has_all_figures_and_no_failure(tmp_path: Path) -> None:
    result = analysed(tmp_path)
    assert result.failures == []
    assert result.warnings == []
    down = row(result.outages, event="link_down")
    assert (down["median"], down["ci_low"], down["ci_high"], down["max"]) == (120, 100, 140, 140)
    assert (down["count"], down["missing"], down["resolution_ms"]) == (6, 0, 4)
    assert row(result.outages, event="nothing")["median"] == 0
    assert row(result.outages, event="move", flows="old place")["median"] == 40
    assert row(result.isolation, node="nve3", what="peers hear it")["median"] == pytest.approx(20.5)
    assert row(result.isolation, node="nve3", what="it can open")["median"] == pytest.approx(12.5)
    assert row(result.isolation, node="t1", what="it can authenticate")["median"] == pytest.approx(12)
    assert row(result.isolation, node="nve3", what="operator has the answer")["median"] == 6
    steps = {entry["step"]: entry["median"] for entry in result.convergence if entry["mechanism"] == "ours"}
    assert steps["converged"] == 0.65
    assert steps["first packet, fixed places"] == pytest.approx(0.5005)
    assert steps["NVA restarted: nodes in step"] == 0.8
    assert steps["NVE restored: its packets arrive"] == pytest.approx(0.7905)
    assert steps["transit device restored: authenticates"] == 0.5
    rekey = row(result.rekey, rate=10)
    assert (rekey["lost"], rekey["runs"], rekey["ratio"]) == (0, 6, 0.95)
    assert rekey["done_per_s"] == pytest.approx(14 / 1.35, rel=1e-3)
    assert 0 < rekey["lost_high"] < 0.001


def set_where(event: str, repeat: int = 0, **values: Any) -> Any:
    def change(entry: dict[str, Any]) -> None:
        if (entry["mechanism"], entry["event"], entry["repeat"]) == ("ours", event, repeat):
            entry.update(values)

    return change


def during(result: Path, event: str, repeat: int = 0, mechanism: str = "ours") -> tuple[int, int]:
    """The times between which an event was watched."""
    entries = read_lines(result / "raw" / "control" / "events.jsonl")
    wanted = (mechanism, event, repeat)
    [first, *_] = [entry for entry in entries if (entry["mechanism"], entry["event"], entry["repeat"]) == wanted]
    return first["begin_ns"], first["end_ns"]


@pytest.mark.parametrize("event", ["nothing", "nva_killed", "rekey"])
def test_one_message_lost_where_none_may_be_is_a_failure_with_figures(tmp_path: Path, event: str) -> None:
    control(tmp_path)
    begin, _ = during(tmp_path, event)
    lost = begin + 400 * MS
    drop_received(tmp_path, 0, "red3", lambda entry: lost <= entry["time_ns"] < lost + 2 * MS)
    [failure] = analyse(tmp_path).failures
    assert f"{event}, repeat 1: 1 of " in failure


def test_a_bystander_of_a_revocation_that_loses_is_a_failure(tmp_path: Path) -> None:
    control(tmp_path)
    begin, _ = during(tmp_path, "revoke_nve")
    drop_received(tmp_path, 0, "red1", lambda entry: entry["label"] == "red2-red1"
                  and begin + 90 * MS < entry["time_ns"] < begin + 100 * MS)  # fmt: skip
    [failure] = analyse(tmp_path).failures
    assert "they had no part in it" in failure


def test_a_flow_that_never_comes_back_is_missing_and_a_failure(tmp_path: Path) -> None:
    control(tmp_path)
    begin, end = during(tmp_path, "move")
    drop_received(tmp_path, 0, "red3", lambda entry: begin < entry["time_ns"] < end + 500 * MS)
    result = analyse(tmp_path)
    found = row(result.outages, event="move", flows="old place")
    assert (found["count"], found["missing"]) == (5, 1)
    assert found["reasons"] == "not back at the end of the window"
    assert "control: move, repeat 1: a flow (old place) never came back" in result.failures


def test_a_revoked_node_that_is_still_heard_is_a_failure(tmp_path: Path) -> None:
    def never_isolated(repeat: synthetic_control.Repeat) -> None:
        flows = [{**repeat.flow("red3", "red1", None, 2000), "role": "of the node"}]
        repeat.event("revoke_nve", flows, 2000, node="nve3", answered_ns=repeat.now + MS)

    repeat = synthetic_control.Repeat(0)
    never_isolated(repeat)
    repeat.write(tmp_path / "raw" / "control" / "r1")
    synthetic_control.write_lines(tmp_path / "raw" / "control" / "events.jsonl", repeat.events)
    result = analyse(tmp_path)
    assert any("nve3 is not isolated after 1.8" in failure for failure in result.failures), result.failures
    assert row(result.isolation, node="nve3", what="peers hear it")["missing"] == 1


def test_silence_shows_no_isolation_when_nothing_was_sent(tmp_path: Path) -> None:
    control(tmp_path)
    begin, _ = during(tmp_path, "revoke_nve")
    path = tmp_path / "raw" / "control" / "r1" / "sent-red3.jsonl"
    kept = [entry for entry in read_lines(path) if not begin + 18 * MS < entry["time_ns"] < begin + 3000 * MS]
    write_lines(path, kept)
    assert any("its tenants sent nothing more (peers hear it)" in text for text in analyse(tmp_path).failures)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (set_where("static_move", missing="the sender was gone"), "the sender was gone"),
        (set_where("static_move", mapped_to=["nve2"]), "followed it elsewhere"),
        (set_where("static_move", back=False), "no traffic after the host was back"),
        (set_where("link_down", path_after=["t1"]), "the flows' path was not changed"),
    ],
)
def test_controls_that_fail_are_failures(tmp_path: Path, change: Any, words: str) -> None:
    [failure] = analysed(tmp_path, change=change).failures
    assert words in failure


def test_rekeying_that_did_not_happen_shows_nothing(tmp_path: Path) -> None:
    def few(entry: dict[str, Any]) -> None:
        if entry.get("rate") == 10:
            entry["line_rekeys"] = 2

    [failure] = analysed(tmp_path, change=few).failures
    assert "at 10 replacements a second asked for, only 1.5 were made" in failure


def test_goodput_that_could_not_be_had_is_missing_and_not_zero(tmp_path: Path) -> None:
    def no_goodput(entry: dict[str, Any]) -> None:
        if entry.get("rate") == 10 and entry["repeat"] < 2:
            entry["tcp"] = {"value": None, "missing": "iperf3: the server is busy"}

    found = row(analysed(tmp_path, change=no_goodput).rekey, rate=10)
    assert (found["ratio_count"], found["missing"], found["reasons"]) == (4, 2, "iperf3: the server is busy")
    assert found["ratio"] == 0.95


def test_nothing_measured_is_a_failure(tmp_path: Path) -> None:
    assert analyse(tmp_path).failures == [
        "control: nothing was measured", "control: growth with the number of nodes was not measured",
    ]  # fmt: skip


def test_growth_is_in_the_tables_and_a_phase_that_failed_is_a_failure(tmp_path: Path) -> None:
    result = analysed(tmp_path)
    found = row(result.growth.growth, phase="synchronisation", figure="bytes")
    assert found["exponent"] == pytest.approx(2.0)
    path = tmp_path / "raw" / "control" / "growth" / control_analysis.GROWTH_FILE
    entries = read_lines(path)
    entries[0].update(value=None, missing="3 nodes were not there after 120 s")
    write_lines(path, entries)
    [failure] = analyse(tmp_path).failures
    assert failure == "control: growth: static, 10 nodes, synchronisation: 3 nodes were not there after 120 s"


def test_losses_must_be_seen_where_they_are_sure(tmp_path: Path) -> None:
    result = analysed(tmp_path)
    cut = row(result.outages, event="revoke_nve", flows="of the node")
    assert cut["lost"] > 0.9 * cut["sent"] > 0
    assert (cut["median"], cut["count"], cut["reasons"]) == (None, 0, "cut off, as it must be")
    entries = [entry for entry in read_lines(tmp_path / "raw" / "control" / "events.jsonl")
               if entry["event"] != "revoke_nve"]  # fmt: skip
    write_lines(tmp_path / "raw" / "control" / "events.jsonl", entries)
    assert "control: no revoked node's flow shows that losses are seen" in analyse(tmp_path).failures


@pytest.mark.parametrize("mechanism", ["esp", "dtls"])
class TestChannels:
    def test_their_figures_stand_beside_ours(self, tmp_path: Path, mechanism: str) -> None:
        result = analysed(tmp_path, repeats=3)
        down = row(result.outages, mechanism=mechanism, event="link_down")
        assert (down["median"], down["count"], row(result.outages, event="link_down")["count"]) == (104, 2, 3)
        assert row(result.isolation, mechanism=mechanism, what="peers hear it")["median"] == pytest.approx(20.5)
        assert row(result.convergence, mechanism=mechanism, step="converged")["median"] == 0.65
        rekeyed = row(result.rekey, mechanism=mechanism, rate=1)
        assert (rekeyed["runs"], rekeyed["lost"], rekeyed["goodput_mbit"]) == (2, 0, None)
        assert not [found for found in result.outages if found["mechanism"] == mechanism and found["event"] == "move"]

    def test_a_message_lost_where_none_may_be_is_a_failure_and_names_the_channel(
        self, tmp_path: Path, mechanism: str
    ) -> None:
        control(tmp_path, repeats=2)
        lost = during(tmp_path, "rekey", 1, mechanism)[0] + 400 * MS
        drop_received(tmp_path, 1, "red3", lambda entry: lost <= entry["time_ns"] < lost + 2 * MS, mechanism)
        [failure] = analyse(tmp_path).failures
        assert f"rekey under {mechanism}, repeat 2: 1 of " in failure

    def test_a_revoked_node_that_is_still_heard_is_a_failure(self, tmp_path: Path, mechanism: str) -> None:
        control(tmp_path, repeats=2)
        begin, end = during(tmp_path, "revoke_nve", 0, mechanism)
        log = tmp_path / "raw" / "control" / f"{mechanism}-r1" / "received-red1.jsonl"
        [late] = [entry for entry in read_lines(log.with_name("sent-red3.jsonl"))
                  if end - 100 * MS <= entry["time_ns"] < end - 96 * MS and begin]  # fmt: skip
        write_lines(log, [*read_lines(log), {**late, "event": "received"}])
        [failure] = analyse(tmp_path).failures
        assert failure.startswith(f"control: revoke_nve under {mechanism}, repeat 1: nve3 is not isolated after 1.7")

    def test_one_that_was_not_measured_is_a_failure(self, tmp_path: Path, mechanism: str) -> None:
        control(tmp_path, repeats=2)
        path = tmp_path / "raw" / "control" / "events.jsonl"
        write_lines(path, [entry for entry in read_lines(path) if entry["mechanism"] != mechanism])
        failures = analyse(tmp_path).failures
        assert len(failures) == 7
        assert all(failure.endswith(f" under {mechanism}") for failure in failures)

    def test_keys_that_were_not_replaced_show_nothing(self, tmp_path: Path, mechanism: str) -> None:
        def none(entry: dict[str, Any]) -> None:
            if entry["event"] == "rekey" and entry["mechanism"] == mechanism:
                entry["line_rekeys"] = 0

        [failure] = analysed(tmp_path, repeats=1, change=none).failures
        assert f"at 1 replacements a second asked for under {mechanism}, only 0.0 were made" in failure


def test_a_run_of_before_there_were_channels_is_ours(tmp_path: Path) -> None:
    control(tmp_path)
    path = tmp_path / "raw" / "control" / "events.jsonl"
    mine = [entry for entry in read_lines(path) if entry["mechanism"] == "ours"]
    write_lines(path, [{key: value for key, value in entry.items() if key != "mechanism"} for entry in mine])
    result = analyse(tmp_path)
    assert row(result.outages, event="link_down")["count"] == 6
    assert all("under" in failure for failure in result.failures)


@pytest.mark.parametrize("repeats", [1, 6])
def test_tables_and_plots_are_made(tmp_path: Path, repeats: int) -> None:
    result = analysed(tmp_path, repeats=repeats)
    control_analysis.write_tables(result, tmp_path)
    for name in control_analysis.TABLES:
        assert (tmp_path / f"control-{name}.csv").read_text().count("\n") > 1
    drawn = control_plots.draw(result, tmp_path)
    assert drawn == list(control_plots.PLOTS)
    assert all((tmp_path / f"{plot.name}.png").stat().st_size > 1000 for plot in drawn)


def test_nothing_is_drawn_of_nothing(tmp_path: Path) -> None:
    assert control_plots.draw(ControlResult(), tmp_path) == []
