"""Tables and plots of a run, from its samples: CSV files, and a summary in Markdown and LaTeX for a paper."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from experiments.peers import analysis, plots
from experiments.peers.analysis import Benchmark
from experiments.results import RunDirectory, write_atomically
from experiments.statistics import Summary
from experiments.tables import write_csv

SAMPLES = "samples.jsonl"
SUMMARY = "summary.md"
NONE = "-"
"""Stands in a table where there is no figure."""

Cell = Callable[[Benchmark, str], Summary]


def _of(measure: str) -> Cell:
    return lambda found, name: found.summary(name, measure)


PAPER_COLUMNS: tuple[tuple[str, str, float, Cell], ...] = (
    ("TCP, 1 flow", "Mb/s", 1e-6, _of("tcp_1")),
    ("TCP, 4 flows", "Mb/s", 1e-6, _of("tcp_4")),
    ("UDP 64 B", "kpkt/s", 1e-3, _of("udp_64")),
    ("UDP 512 B", "kpkt/s", 1e-3, _of("udp_512")),
    ("UDP 1400 B", "kpkt/s", 1e-3, _of("udp_1400")),
    ("UDP 64 B, UDP_SEGMENT", "kpkt/s", 1e-3, _of("udp_64_segmented")),
    ("RTT idle", "ms", 1, _of("rtt_idle")),
    ("RTT under load", "ms", 1, _of("rtt_load")),
)
COST_COLUMNS: tuple[tuple[str, str, float, Cell], ...] = (
    ("TCP, sending end", "µs/pkt", 1, _of("cpu_tcp_left")),
    ("TCP, receiving end", "µs/pkt", 1, _of("cpu_tcp_right")),
    ("TCP, machine", "µs/pkt", 1, _of("cpu_tcp_machine")),
    ("UDP, sending end", "µs/pkt", 1, _of("cpu_udp_left")),
    ("UDP, receiving end", "µs/pkt", 1, _of("cpu_udp_right")),
    ("UDP, transit", "µs/pkt", 1, _of("cpu_udp_transit")),
    ("UDP, machine", "µs/pkt", 1, _of("cpu_udp_machine")),
    ("Memory, an end", "MiB", 1 / (1 << 20), _of("memory_right")),
)


def publish(run: RunDirectory) -> None:
    """Make all tables and plots of a run and note the targets in its record."""
    found = Benchmark.load(run.path / "raw" / SAMPLES, run.record["contenders"])
    folder = run.folder("csv")
    verdicts = analysis.targets(found)
    write_csv(folder / "bench.csv", analysis.rows(found), analysis.COLUMNS)
    write_csv(folder / "bench-ratios.csv", analysis.ratios(found), analysis.RATIO_COLUMNS)
    write_csv(folder / "bench-targets.csv", verdicts, analysis.TARGET_COLUMNS)
    write_atomically(run.path / SUMMARY, summary(found, verdicts, run.record))
    write_atomically(run.path / "table.tex", latex(found, PAPER_COLUMNS))
    plots.draw(found, run.folder("plots"))
    run.update(targets={verdict["target"]: verdict["verdict"] for verdict in verdicts})


def number(value: float | None, digits: int = 3) -> str:
    """Return a number with three significant digits, in plain notation; "-" for None."""
    if value is None:
        return NONE
    text = f"{value:.{digits}g}"
    return f"{value:.0f}" if "e" in text else text


def interval(summary: Summary, scale: float = 1.0) -> str:
    """Return ``median [low, high]``, scaled; "-" where there is no sample."""
    if summary.median is None or summary.low is None or summary.high is None:
        return NONE
    return f"{number(summary.median * scale)} [{number(summary.low * scale)}, {number(summary.high * scale)}]"


def summary(found: Benchmark, verdicts: Sequence[dict[str, Any]], record: dict[str, Any]) -> str:
    """Return the page of a run, in Markdown."""
    environment, plan = record.get("environment", {}), record.get("plan", {})
    lines = [
        "# Benchmark against real tunnels", "",
        f"{plan.get('repeats')} repeats, order shuffled with seed {record.get('seed')}; kernel "
        f"{environment.get('kernel')}, {environment.get('cpus')} processors ({environment.get('cpu_model')}). Medians "
        f"with 95% confidence intervals in brackets{_coverage(plan.get('repeats'))}. All contenders: the same "
        "namespaces, an underlay of MTU 1500. docs/bench.md says how each is set up and how to read the figures.", "",
        "## Targets", "", "| target | measured | asked | against | verdict |", "|---|---|---|---|---|",
    ]  # fmt: skip
    for verdict in verdicts:
        shown = f"{number(verdict['value'])} [{number(verdict['ci_low'])}, {number(verdict['ci_high'])}]"
        asked = verdict["limit"] + (f", aim {verdict['aim']:g}" if verdict["aim"] else "")
        against = verdict["against"] or NONE
        lines.append(f"| {verdict['target']} | {shown} | {asked} | {against} | {verdict['verdict']} |")
    lines += ["", "## Throughput and latency", "", *_table(found, PAPER_COLUMNS), ""]
    lines += [_limits(found), "", "## Cost", "", *_table(found, COST_COLUMNS), "", _COST_NOTE, ""]
    lines += ["## Ratio of `nve-full` to each contender", "", *_ratio_table(found), ""]
    lines += [_RATIO_NOTE, "", "## Contenders", "", *_descriptions(found)]
    absent = [(item["title"], found.reason(item["name"])) for item in found.contenders if found.reason(item["name"])]
    if absent:
        lines += ["", "## Missing", "", *(f"- {title}: {reason}" for title, reason in absent)]
    return "\n".join(lines) + "\n"


_COST_NOTE = (
    "Packets are counted as payload bytes divided by the largest segment (TCP) or as datagrams received (UDP, 1400 B): "
    "interfaces count many segments as one packet. What the kernel does for itself is no process's time, so for "
    "contenders in the kernel only the whole machine is there: all processors, with the sender and receiver of the "
    "load, which are the same for everybody, and with whatever else ran."
)
_RATIO_NOTE = (
    "Taken within each repeat. Above 1 is better for TCP and UDP, below 1 for round-trip times. Contenders marked with "
    "* protect nothing."
)


def _coverage(repeats: int | None) -> str:
    if repeats is None or repeats >= 6:
        return ""
    return f" (with {repeats} repeats smallest to largest, {100 * max(0.0, 1 - 2 / 2**repeats):.0f}%)"


def _label(contender: dict[str, Any]) -> str:
    return str(contender["title"]) + ("" if contender["encrypts"] else "*")


def _table(found: Benchmark, columns: Sequence[tuple[str, str, float, Cell]]) -> list[str]:
    lines = ["| contender | tenant MTU | " + " | ".join(f"{title} ({unit})" for title, unit, _, _ in columns) + " |"]
    lines.append("|" + "---|" * (len(columns) + 2))
    for item in found.contenders:
        reason = found.absent(item["name"])
        cells = [interval(cell(found, item["name"]), scale) for _, _, scale, cell in columns]
        if reason is not None:
            cells = ["missing"] * len(columns)
        lines.append(f"| {_label(item)} | {item['tenant_mtu']} | " + " | ".join(cells) + " |")
    return lines


def _limits(found: Benchmark) -> str:
    limited = sorted({
        item["title"] for item in found.contenders for measure in found.measures(item["name"])
        if any(entry.get("sender_limited") for entry in found.samples[item["name"], measure])
    })  # fmt: skip
    text = "Contenders marked with * protect nothing. UDP: the highest rate with under 0.1% loss; where 1400 B do not "
    text += "fit the tenants' MTU, what fits (column `payload` of bench.csv)."
    if limited:
        text += " At some size the sender, not the path, set the rate, so at least as much is possible: "
        text += f"{', '.join(limited)}."
    return text


def _ratio_table(found: Benchmark) -> list[str]:
    measures = analysis.RATIO_MEASURES
    lines = ["| contender | " + " | ".join(measures) + " |", "|" + "---|" * (len(measures) + 1)]
    for item in found.contenders:
        if item["name"] == "nve-full" or found.absent(item["name"]) is not None:
            continue
        cells = [
            interval(analysis.ratio(found.values("nve-full", measure), found.values(item["name"], measure)))
            for measure in measures
        ]
        lines.append(f"| {_label(item)} | " + " | ".join(cells) + " |")
    return lines


def _descriptions(found: Benchmark) -> list[str]:
    lines = ["| contender | data path | layer | protection | tenant MTU | notes |", "|---|---|---|---|---|---|"]
    for item in found.contenders:
        lines.append(
            f"| {item['title']} (`{item['name']}`) | {item['kind']} | {item['layer']} | "
            f"{item['protection'] or 'none'} | {item['tenant_mtu']} | {item['notes']} |"
        )
    return lines


_TEX = str.maketrans({"_": r"\_", "%": r"\%", "&": r"\&", "µ": r"\textmu{}", "#": r"\#"})


def latex(found: Benchmark, columns: Sequence[tuple[str, str, float, Cell]]) -> str:
    """Return a table for a paper (needs booktabs); contenders that are missing say so."""
    heads = " & ".join(title for title, _, _, _ in columns).translate(_TEX | {ord("&"): "&"})
    units = " & ".join(unit for _, unit, _, _ in columns).translate(_TEX | {ord("&"): "&"})
    lines = [r"\begin{tabular}{l" + "r" * len(columns) + "}", r"\toprule", rf" & {heads} \\", rf" & {units} \\",
             r"\midrule"]  # fmt: skip
    kind = None
    for item in found.contenders:
        if kind is not None and item["kind"] != kind:
            lines.append(r"\midrule")
        kind = item["kind"]
        label = _label(item).translate(_TEX)
        if found.absent(item["name"]) is not None:
            lines.append(rf"{label} & \multicolumn{{{len(columns)}}}{{c}}{{missing}} \\")
            continue
        cells = [interval(cell(found, item["name"]), scale).translate(_TEX) for _, _, scale, cell in columns]
        lines.append(f"{label} & " + " & ".join(cells) + r" \\")
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}"]) + "\n"
