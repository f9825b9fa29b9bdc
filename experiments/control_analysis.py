"""The control plane, from raw files to tables and verdicts. Pure: reads a run's files, needs no root.

What an event did to tenants is read from their own logs, never from what a daemon says of itself. One event is one
sample: where it had several flows of one kind, the worst of them counts, and their losses are summed up.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from experiments import control_logs as logs
from experiments import control_scale_analysis as scale
from experiments.control_logs import Effect, FlowLog
from experiments.control_scale_analysis import ScaleResult
from experiments.profiles import Profile
from experiments.samples import read_lines
from experiments.statistics import summarise, wilson
from experiments.tables import rounded, write_all

NAME = "control"
OURS = "ours"
MECHANISMS = (OURS, "esp", "dtls")
"""Our mechanism with all events, and the channels with those that the mechanism may make another thing of."""
EVENTS_FILE = "events.jsonl"
GROWTH_FILE = "samples.jsonl"
START_SECONDS = 6.0
"""Expected time to build and start this experiment's small network."""
EVENT_SECONDS = 1.7
"""Expected time of one event."""

LOSSLESS = {
    "nothing": "the control", "nva_killed": "the NVA was killed and started again",
    "rekey": "associations were replaced",
}  # fmt: skip
"""Events in which no message may be lost."""
_HEARD_LATE = 0.3
"""Seconds before the end of a revocation's window in which nothing may arrive any more."""
_BYSTANDER = "bystander"
_CUT_OFF = "of the node"
_BLUE_VNI = 200
_STARTED = {"blue1-blue3": "first packet, fixed places", "red1-red3": "first packet, learned places"}
STEPS = (
    "controller answers", "links discovered", "nodes ready", "converged", *_STARTED.values(),
    "NVA restarted: nodes in step", "link back: path in use", "NVE restored: its packets arrive",
    "NVE restored: packets reach it", "transit device restored: authenticates",
)  # fmt: skip
"""Every step of the convergence table, in its order."""


@dataclass(slots=True)
class ControlResult:
    """Rows of the tables, the single samples behind them for the plots, and what does not fit."""

    convergence: list[dict[str, Any]] = field(default_factory=list)
    outages: list[dict[str, Any]] = field(default_factory=list)
    isolation: list[dict[str, Any]] = field(default_factory=list)
    rekey: list[dict[str, Any]] = field(default_factory=list)
    growth: ScaleResult = field(default_factory=ScaleResult)
    points: dict[tuple[str, ...], list[float]] = field(default_factory=dict)
    """Samples by table, mechanism and row: ("outages", mechanism, event, flows), ("isolation", mechanism, node, what),
    ("convergence", mechanism, step)..."""
    failures: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)


@dataclass(slots=True)
class _Row:
    """Samples of one row; None is a missing one."""

    values: list[float | None] = field(default_factory=list)
    reasons: list[str] = field(default_factory=list)
    sent: int = 0
    losses: list[int] = field(default_factory=list)
    resolution: float = 0.0

    def add(self, value: float | None, reason: str | None = None) -> None:
        """Add a sample in the table's unit, or the reason why it is missing."""
        self.values.append(value)
        if value is None:
            self.reasons.append(reason or "unknown")

    def statistics(self) -> dict[str, Any]:
        """Return the columns that all tables of medians have."""
        summary = summarise(self.values).as_dict()
        present = [value for value in self.values if value is not None]
        return {
            **{key: rounded(value) if key in ("median", "ci_low", "ci_high") else value
               for key, value in summary.items()},
            "max": rounded(max(present)) if present else None,
            "reasons": "; ".join(dict.fromkeys(self.reasons)),
        }  # fmt: skip


class _Analysis:
    """Goes through the entries of a run once and collects the rows."""

    def __init__(self, run: Path) -> None:
        self.raw = run / "raw" / NAME
        self.result = ControlResult()
        self.mechanism = OURS
        """Of the entry that is looked at."""
        self.outages: dict[tuple[str, str, str], _Row] = defaultdict(_Row)
        self.isolation: dict[tuple[str, str, str], _Row] = defaultdict(_Row)
        self.steps: dict[tuple[str, str], _Row] = defaultdict(_Row)
        self.rekeys: list[tuple[dict[str, Any], Effect]] = []
        self._flows: dict[str, dict[tuple[str, int], FlowLog]] = {}
        self._records: dict[str, list[int]] = {}

    def flow(self, entry: dict[str, Any], flow: dict[str, Any]) -> FlowLog:
        """Return the log of a flow of an entry; one that left no line is empty."""
        label = label_of(_mechanism(entry), entry["repeat"])
        if label not in self._flows:
            self._flows[label] = logs.read_flows(self.raw / label)
        return self._flows[label].get((flow["label"], flow["trial"]), FlowLog())

    def _authenticated(self, entry: dict[str, Any]) -> list[int]:
        label = label_of(_mechanism(entry), entry["repeat"])
        if label not in self._records:
            records = read_lines(self.raw / label / "testbed" / "telemetry.jsonl")
            self._records[label] = logs.authenticated_times(records, "t1", _BLUE_VNI)
        return self._records[label]

    def take(self, entry: dict[str, Any]) -> None:
        """Take one entry."""
        self.mechanism = _mechanism(entry)
        if entry["missing"] is not None:
            self.result.failures.append(f"control: {_where(entry)}: {entry['missing']}")
            return
        {
            "start": self._start, "static_move": self._static_move, "revoke_nve": self._revoke_nve,
            "return_nve": self._return_nve, "revoke_transit": self._revoke_transit,
            "return_transit": self._return_transit, "rekey": self._rekey,
        }.get(entry["event"], self._disturbance)(entry)  # fmt: skip

    # Convergence -----------------------------------------------------------------------------------------

    def _step(self, name: str, begin_ns: int, end_ns: int | None, resolution: float) -> None:
        row = self.steps[self.mechanism, name]
        row.resolution = max(row.resolution, resolution)
        row.add(None if end_ns is None else (end_ns - begin_ns) / 1e9, "it did not happen in time")

    def _start(self, entry: dict[str, Any]) -> None:
        begin = entry["begin_ns"]
        for mark, time_ns in entry["marks_ns"].items():
            self._step(mark, begin, time_ns, 0.05)
        for flow in entry["flows"]:
            if flow["label"] in _STARTED:
                first = logs.first_receipt(self.flow(entry, flow), begin)
                self._step(_STARTED[flow["label"]], begin, first, entry["interval"])

    # Outages ---------------------------------------------------------------------------------------------

    def _effects(self, entry: dict[str, Any]) -> dict[str, list[Effect]]:
        """What became of the flows of an entry, by their role in it."""
        found: dict[str, list[Effect]] = defaultdict(list)
        for flow in entry["flows"]:
            seen = logs.effect(self.flow(entry, flow), entry["begin_ns"], entry["end_ns"], entry["interval"])
            found[flow.get("role", "all flows")].append(seen)
        return found

    def _disturbance(self, entry: dict[str, Any]) -> None:
        """An event after which flows have to go on."""
        for role, effects in self._effects(entry).items():
            self._outage(entry, role, effects)
        if entry["event"] == "nva_killed":
            self._step(STEPS[6], entry["launched_ns"], entry["in_step_ns"], entry["poll"])
        elif entry["event"] == "link_up":
            self._step(STEPS[7], entry["begin_ns"], entry["path_ns"], 0.05)
        elif entry["event"] == "link_down" and entry["path_before"] == entry["path_after"]:
            self.result.failures.append(f"control: {_where(entry)}: the flows' path was not changed by it")

    def _outage(self, entry: dict[str, Any], role: str, effects: list[Effect]) -> None:
        row = self.outages[self.mechanism, entry["event"], role]
        row.resolution = entry["interval"]
        row.sent += sum(effect.sent for effect in effects)
        lost = sum(effect.lost for effect in effects)
        row.losses.append(lost)
        outages = [effect.outage_s for effect in effects]
        if None in outages or not outages:
            row.add(None, "not back at the end of the window")
            self.result.failures.append(f"control: {_where(entry)}: a flow ({role}) never came back")
        else:
            row.add(1e3 * max(outage for outage in outages if outage is not None))
        if sum(effect.repeated for effect in effects):
            self.result.failures.append(f"control: {_where(entry)}: messages arrived twice ({role})")
        if lost and (entry["event"] in LOSSLESS or role == _BYSTANDER):
            what = LOSSLESS.get(entry["event"], "they had no part in it")
            sent = sum(effect.sent for effect in effects)
            text = f"control: {_where(entry)}: {lost} of {sent} messages were lost though none may be ({what})"
            self.result.failures.append(text)

    def _static_move(self, entry: dict[str, Any]) -> None:
        """Control: who is moved where its place is fixed must not get its traffic there."""
        if entry["refused"] is not None:
            return
        [flow] = entry["flows"]
        log = self.flow(entry, flow)
        late = logs.first_receipt(log, entry["end_ns"] - round(_HEARD_LATE * 1e9), entry["end_ns"])
        if late is not None or entry["mapped_to"] != ["nve3"]:
            self.result.failures.append(
                f"control: {_where(entry)}: traffic of a host with a fixed place followed it elsewhere"
            )
        if not entry["back"]:
            self.result.failures.append(f"control: {_where(entry)}: no traffic after the host was back in its place")

    # Revocation ------------------------------------------------------------------------------------------

    def _isolated(self, entry: dict[str, Any], what: str, last: int | None, sent_after: int) -> None:
        """Add the time from the request to ``last``, the time of the last sign, rounded up by one interval."""
        row = self.isolation[self.mechanism, entry["node"], what]
        row.resolution = entry["interval"]
        step = round(entry["interval"] * 1e9)
        if last is None:
            row.add(None, "nothing was heard of it before it was revoked")
            self.result.failures.append(f"control: {_where(entry)}: the flow had ended before ({what})")
            return
        if last > entry["end_ns"] - _HEARD_LATE * 1e9:
            row.add(None, "still heard at the end of the window")
            self.result.failures.append(
                f"control: {_where(entry)}: {entry['node']} is not isolated after "
                f"{(last - entry['begin_ns']) / 1e9:.2f} s ({what})"
            )
            return
        if not sent_after:
            row.add(None, "nothing more was sent that could have been heard")
            self.result.failures.append(f"control: {_where(entry)}: its tenants sent nothing more ({what})")
            return
        row.add(max(last + step - entry["begin_ns"], 0) / 1e6)

    def _answered(self, entry: dict[str, Any]) -> None:
        row = self.isolation[self.mechanism, entry["node"], "operator has the answer"]
        row.add((entry["answered_ns"] - entry["begin_ns"]) / 1e6)

    def _revoke_nve(self, entry: dict[str, Any]) -> None:
        self._answered(entry)
        for flow in entry["flows"]:
            log = self.flow(entry, flow)
            if flow["role"] == _BYSTANDER:
                seen = logs.effect(log, entry["begin_ns"], entry["end_ns"], entry["interval"])
                self._outage(entry, _BYSTANDER, [seen])
                continue
            self._cut_off(entry, log)
            what = "peers hear it" if flow["sender"] == "red3" else "it can open"
            last = logs.last_receipt(log, entry["begin_ns"], entry["end_ns"])
            after = logs.sent_between(log, last, entry["end_ns"]) if last is not None else 0
            self._isolated(entry, what, last, after)

    def _cut_off(self, entry: dict[str, Any], log: FlowLog) -> None:
        """Positive control: a flow that must lose, so that nothing lost elsewhere means something."""
        seen = logs.effect(log, entry["begin_ns"], entry["end_ns"], entry["interval"])
        row = self.outages[self.mechanism, entry["event"], _CUT_OFF]
        row.resolution = entry["interval"]
        row.sent += seen.sent
        row.losses.append(seen.lost)
        row.add(None, "cut off, as it must be")
        if not seen.lost:
            self.result.failures.append(
                f"control: {_where(entry)}: a revoked node's flow lost nothing: this method does not see losses"
            )

    def _return_nve(self, entry: dict[str, Any]) -> None:
        for flow in entry["flows"]:
            if flow["role"] == _BYSTANDER:
                continue
            step = STEPS[8] if flow["sender"] == "red3" else STEPS[9]
            first = logs.first_receipt(self.flow(entry, flow), entry["launched_ns"])
            self._step(step, entry["launched_ns"], first, entry["interval"])
            if first is None:
                self.result.failures.append(f"control: {_where(entry)}: {flow['label']} did not flow again")

    def _revoke_transit(self, entry: dict[str, Any]) -> None:
        self._answered(entry)
        times = self._authenticated(entry)
        before = [time for time in times if entry["begin_ns"] - 1e9 <= time <= entry["end_ns"]]
        last = before[-1] if before else None
        after = 0
        for flow in entry["flows"]:
            log = self.flow(entry, flow)
            after += logs.sent_between(log, last or entry["begin_ns"], entry["end_ns"])
        self._isolated(entry, "it can authenticate", last, after)
        self._outage(entry, "through the device", [
            logs.effect(self.flow(entry, flow), entry["begin_ns"], entry["end_ns"], entry["interval"])
            for flow in entry["flows"]
        ])  # fmt: skip

    def _return_transit(self, entry: dict[str, Any]) -> None:
        first = next((time for time in self._authenticated(entry) if time > entry["begin_ns"]), None)
        self._step(STEPS[10], entry["begin_ns"], first, entry["interval"])
        if first is None:
            self.result.failures.append(f"control: {_where(entry)}: {entry['node']} did not authenticate again")

    # Rekeying --------------------------------------------------------------------------------------------

    def _rekey(self, entry: dict[str, Any]) -> None:
        [flow] = entry["flows"]
        seen = logs.effect(self.flow(entry, flow), entry["begin_ns"], entry["end_ns"], entry["interval"])
        self.rekeys.append((entry, seen))
        if seen.lost or not seen.back:
            self.result.failures.append(
                f"control: {_where(entry)}: {seen.lost} of {seen.sent} messages were lost while associations were "
                f"replaced {entry['rate']} times a second"
            )
        if seen.repeated:
            self.result.failures.append(f"control: {_where(entry)}: messages arrived twice")

    def _rekey_rows(self) -> None:
        base = {
            entry["repeat"]: entry["tcp"]["value"]
            for entry, _ in self.rekeys
            if entry["rate"] == 0 and entry.get("tcp", {}).get("value") and _mechanism(entry) == OURS
        }
        for mechanism in MECHANISMS:
            mine = [(entry, seen) for entry, seen in self.rekeys if _mechanism(entry) == mechanism]
            for rate in sorted({entry["rate"] for entry, _ in mine}):
                of_rate = [(entry, seen) for entry, seen in mine if entry["rate"] == rate]
                self.result.rekey.append(self._rekey_row(mechanism, rate, of_rate, base))

    def _rekey_row(
        self, mechanism: str, rate: int, of_rate: list[tuple[dict[str, Any], Effect]], base: dict[int, float]
    ) -> dict[str, Any]:
        sent, lost = (sum(getattr(seen, name) for _, seen in of_rate) for name in ("sent", "lost"))
        done = [entry["line_rekeys"] * 1e9 / (entry["end_ns"] - entry["begin_ns"]) for entry, _ in of_rate]
        outage, goodput, ratio = _Row(), _Row(), _Row()
        for entry, seen in of_rate:
            outage.add(None if seen.outage_s is None else 1e3 * seen.outage_s, "not back")
            tcp = entry.get("tcp")
            if tcp is None:
                continue
            goodput.add(None if tcp["value"] is None else tcp["value"] / 1e6, tcp["missing"])
            reference = base.get(entry["repeat"])
            known = reference is not None and tcp["value"] is not None
            ratio.add(tcp["value"] / reference if known else None, "no goodput to compare")
        for name, row in (("outage", outage), ("goodput", goodput), ("ratio", ratio)):
            self.result.points["rekey", mechanism, name, str(rate)] = _present(row.values)
        self.result.points["rekey", mechanism, "done", str(rate)] = done
        achieved = summarise(done).median or 0.0
        if rate and achieved < 0.5 * rate:
            self.result.failures.append(
                f"control: at {rate} replacements a second asked for{_under(mechanism)}, only {achieved:.1f} were "
                "made: that nothing was lost shows nothing"
            )
        if not rate and any(entry["rekeys"] for entry, _ in of_rate):
            self.result.warnings.append(
                f"control: associations were replaced in runs without rekeying{_under(mechanism)}"
            )
        compared = ratio.statistics()
        cpu = {
            name: summarise(100 * entry["cpu_ns"][name] / (entry["end_ns"] - entry["begin_ns"]) for entry, _ in of_rate)
            for name in ("controller", "nve1", "nve3")
        }
        return {
            "mechanism": mechanism, "rate": rate, "done_per_s": rounded(achieved), "runs": len(of_rate),
            "rekeys": sum(entry["rekeys"] for entry, _ in of_rate), "sent": sent, "lost": lost,
            "lost_share": rounded(lost / sent) if sent else None,
            "lost_high": rounded(wilson(lost, sent)[1]) if sent else None,
            "gap_ms": outage.statistics()["median"], "gap_max_ms": outage.statistics()["max"],
            "goodput_mbit": goodput.statistics()["median"], "ratio": compared["median"],
            "ratio_low": compared["ci_low"], "ratio_high": compared["ci_high"], "ratio_count": compared["count"],
            **{f"cpu_{name}_percent": rounded(used.median, 3) for name, used in cpu.items()},
            "missing": goodput.statistics()["missing"], "reasons": goodput.statistics()["reasons"],
        }  # fmt: skip

    # The end ---------------------------------------------------------------------------------------------

    def finish(self) -> ControlResult:
        """Make the tables and judge what only all entries together show."""
        result = self.result
        for (mechanism, event, role), row in sorted(self.outages.items(), key=lambda item: _place(item[0])):
            losses = summarise([float(value) for value in row.losses])
            result.outages.append({
                "mechanism": mechanism, "event": event, "flows": role, "unit": "ms", **row.statistics(),
                "resolution_ms": 1e3 * row.resolution, "sent": row.sent, "lost": sum(row.losses),
                "lost_median": losses.median, "lost_max": max(row.losses),
            })  # fmt: skip
            result.points["outages", mechanism, event, role] = _present(row.values)
        for (mechanism, node, what), row in sorted(self.isolation.items(), key=lambda item: _place(item[0])):
            result.isolation.append({
                "mechanism": mechanism, "node": node, "what": what, "unit": "ms", **row.statistics(),
                "resolution_ms": 1e3 * row.resolution,
            })  # fmt: skip
            result.points["isolation", mechanism, node, what] = _present(row.values)
        for mechanism, step in [(name, step) for name in MECHANISMS for step in STEPS if (name, step) in self.steps]:
            row = self.steps[mechanism, step]
            result.convergence.append({
                "mechanism": mechanism, "step": step, "unit": "s", **row.statistics(),
                "resolution_ms": 1e3 * row.resolution,
            })  # fmt: skip
            result.points["convergence", mechanism, step] = _present(row.values)
        self._rekey_rows()
        self._judge()
        return result

    def _judge(self) -> None:
        result = self.result
        if not self.outages and not self.rekeys:
            result.failures.append("control: nothing was measured")
            return
        for mechanism in MECHANISMS:
            self._judge_whole(mechanism)

    def _judge_whole(self, mechanism: str) -> None:
        """Look whether a mechanism has a sample of each measure."""
        failures, under = self.result.failures, _under(mechanism)
        outages, isolation = (
            [row for row in table if row["mechanism"] == mechanism]
            for table in (self.result.outages, self.result.isolation)
        )
        for event in ("nothing", "nva_killed", "link_down", "link_up", *(("move",) if mechanism == OURS else ())):
            if not any(row["event"] == event and row["count"] for row in outages):
                failures.append(f"control: not one outage was measured of '{event}'{under}")
        if not any(row["what"] != "operator has the answer" and row["count"] for row in isolation):
            failures.append(f"control: not one isolation was measured{under}")
        if not any(_mechanism(entry) == mechanism for entry, _ in self.rekeys):
            failures.append(f"control: no flow was watched while associations were replaced{under}")
        if not any(row["flows"] == _CUT_OFF for row in outages):
            # Without a flow that must lose, that others lose nothing shows nothing.
            failures.append(f"control: no revoked node's flow shows that losses are seen{under}")


def _present(values: Iterable[float | None]) -> list[float]:
    return [value for value in values if value is not None]


def label_of(mechanism: str, repeat: int) -> str:
    """Return the name of a repeat's network and of its folder; ``repeat`` counts from 0."""
    return f"r{repeat + 1}" if mechanism == OURS else f"{mechanism}-r{repeat + 1}"


def _mechanism(entry: dict[str, Any]) -> str:
    return str(entry.get("mechanism", OURS))


def _under(mechanism: str) -> str:
    return "" if mechanism == OURS else f" under {mechanism}"


def _where(entry: dict[str, Any]) -> str:
    return f"{entry['event']}{_under(_mechanism(entry))}, repeat {entry['repeat'] + 1}"


_ORDER = ("nothing", "nva_killed", "link_down", "link_up", "move", "revoke_nve", "revoke_transit")


def _place(key: tuple[str, str, str]) -> tuple[int, int, str, str]:
    mechanism, event, role = key
    return MECHANISMS.index(mechanism), _ORDER.index(event) if event in _ORDER else len(_ORDER), event, role


def channel_seconds(profile: Profile) -> float:
    """Return how long all repeats under channels are expected to take."""
    events = 5 * EVENT_SECONDS + profile.rekey_seconds + profile.channel_rekey_seconds + 2.0
    return (len(MECHANISMS) - 1) * profile.channel_repeats * (START_SECONDS + events)


def repeat_seconds(profile: Profile) -> float:
    """Return how long the events of one repeat of our mechanism are expected to take."""
    rekeys = len(profile.rekey_rates) * (profile.rekey_seconds + 0.5)
    return 7 * EVENT_SECONDS + rekeys + len(profile.rekey_tcp_rates) * (profile.rekey_tcp_seconds + 0.4)


def growth_seconds(sizes: Iterable[int]) -> float:
    """Return how long measuring the growth with simulated nodes is expected to take."""
    return sum(8 + 0.09 * size for size in sizes)


def analyse(run: Path) -> ControlResult:
    """Analyse the raw files of ``run``; ValueError on damaged files."""
    analysis = _Analysis(run)
    for entry in read_lines(analysis.raw / EVENTS_FILE):
        analysis.take(entry)
    result = analysis.finish()
    result.growth = scale.analyse(analysis.raw / "growth" / GROWTH_FILE)
    result.failures += [f"control: growth: {text}" for text in result.growth.missing]
    if not result.growth.phases:
        result.failures.append("control: growth with the number of nodes was not measured")
    for text, met in scale.targets(result.growth.phases):
        if not met:
            result.warnings.append(f"control: growth: target not met: {text}")
    return result


_STATISTICS = ("median", "ci_low", "ci_high", "ci_coverage", "count", "missing", "max", "reasons")
TABLES: dict[str, tuple[str, ...]] = {
    "convergence": ("mechanism", "step", "unit", *_STATISTICS, "resolution_ms"),
    "outages": (
        "mechanism", "event", "flows", "unit", *_STATISTICS, "resolution_ms", "sent", "lost", "lost_median", "lost_max",
    ),
    "isolation": ("mechanism", "node", "what", "unit", *_STATISTICS, "resolution_ms"),
    "rekey": (
        "mechanism", "rate", "done_per_s", "runs", "rekeys", "sent", "lost", "lost_share", "lost_high", "gap_ms",
        "gap_max_ms", "goodput_mbit", "ratio", "ratio_low", "ratio_high", "ratio_count", "cpu_controller_percent",
        "cpu_nve1_percent", "cpu_nve3_percent", "missing", "reasons",
    ),
}  # fmt: skip


def write_tables(result: ControlResult, folder: Path) -> None:
    """Write one CSV file per table to ``folder``."""
    write_all(folder, NAME, TABLES, result)
    scale.write_tables(result.growth, folder)


def summary(result: ControlResult) -> dict[str, Any]:
    """Return the experiment's part of summary.json."""
    tables = {name: getattr(result, name) for name in TABLES}
    return {
        "interval": "order statistics of the events, exact; see ci_coverage for its true confidence",
        **tables, "scale": result.growth.phases, "growth": result.growth.growth,
        "failures": result.failures, "warnings": result.warnings,
    }  # fmt: skip
