"""Plots of the control-plane experiment, from its tables and the samples behind them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from experiments import control_scale_plots
from experiments.control_analysis import MECHANISMS, OURS, STEPS, ControlResult
from experiments.plotting import Plot, error_bars, figure, save
from experiments.statistics import summarise

OUTAGES = Plot(
    "control-outages",
    "Outage of tenants' flows",
    "Longest time in which a receiving tenant got nothing, beyond what the sender itself left between two messages; of "
    "several flows the worst. Circles: single events; diamonds and whiskers: median and its order-statistics interval. "
    "Dotted line: the sending interval, which is the resolution; triangles: not longer, with their number. 'nothing "
    "done' is what the method takes for an outage when nothing happens. Right: messages lost of those sent in the "
    "windows of all events together. Rows ESP and DTLS: the event named above them under that channel, in networks of "
    "their own and fewer of them; of three samples the interval is their range, which covers the median with 75%.",
)
ISOLATION = Plot(
    "control-isolation",
    "Time to isolation of a revoked node",
    "From the operator's request to the answer, and to the last sign of the revoked node, rounded up by one sending "
    "interval: the last message of its tenant that a peer's tenant received; the last message to its tenant that it "
    "could still open; the last packet that a revoked transit device reported as authenticated. With DTLS no keys are "
    "withdrawn: peers end their sessions with a node that the NVA no longer names. Marks and rows as above.",
)
CONVERGENCE = Plot(
    "control-convergence",
    "Time to convergence",
    "First six: from the launch of the controller and all daemons. Below: from the launch of a killed NVA, from the "
    "return of a link, from the launch of a restored NVE, and from an operator's permission for a transit device to "
    "come back, which goes on trying by itself. Marks and rows as above. Most of it is the start of Python programs.",
)
REKEY = Plot(
    "control-rekey",
    "Rekeying under load",
    "All associations replaced so many times a second, make before break. Top: messages lost; whiskers: up to the "
    "upper end of the Wilson 95% interval, which says how much loss could have gone unseen. Middle: longest time in "
    "which the receiver got nothing, beyond the sending interval. Bottom: goodput of one TCP flow, relative to that of "
    "the same repeat without rekeying. Circles: repeats; diamonds and whiskers: median and its interval. Right: ESP, "
    "whose associations the NVA replaces, and DTLS, which makes new sessions by itself, one a second at most; their "
    "goodput was not measured.",
)
PLOTS = (OUTAGES, ISOLATION, CONVERGENCE, REKEY, *control_scale_plots.PLOTS)

_OUTAGE_ROWS = {
    ("nothing", "all flows"): "nothing done",
    ("nva_killed", "all flows"): "NVA killed, restarted",
    ("link_down", "all flows"): "link down",
    ("link_up", "all flows"): "link up again",
    ("move", "old place"): "move: from old place",
    ("move", "new place"): "move: from new place",
    ("move", "third place"): "move: from elsewhere",
    ("revoke_nve", "bystander"): "NVE revoked: others",
    ("revoke_transit", "through the device"): "device revoked: through it",
}
_CHANNELS = {"esp": "ESP", "dtls": "DTLS"}
_ISOLATION_ROWS = {
    ("nve3", "operator has the answer"): "NVE: answer",
    ("nve3", "peers hear it"): "NVE: peers hear it",
    ("nve3", "it can open"): "NVE: it can open",
    ("t1", "operator has the answer"): "device: answer",
    ("t1", "it can authenticate"): "device: authenticates",
}
_STEP_ROWS = {
    "first packet, fixed places": "first packet, fixed",
    "first packet, learned places": "first packet, learned",
    "NVA restarted: nodes in step": "NVA restarted: in step",
    "link back: path in use": "link back: path in use",
    "NVE restored: its packets arrive": "NVE restored: heard",
    "NVE restored: packets reach it": "NVE restored: reached",
    "transit device restored: authenticates": "device restored",
}
_CHANNEL_STEPS = frozenset(_STEP_ROWS) - {"transit device restored: authenticates"}
"""What is shown of channels: the steps before these are the start of programs, whichever the mechanism."""
_POINT = {
    "linestyle": "", "marker": "o", "markersize": 3.2, "markerfacecolor": "1", "markeredgecolor": "0.35",
    "markeredgewidth": 0.6, "clip_on": False,
}  # fmt: skip
_MEDIAN = {
    "linestyle": "", "marker": "D", "markersize": 3.6, "color": "0", "ecolor": "0", "elinewidth": 1.0, "capsize": 2.2,
    "capthick": 1.0, "zorder": 6,
}  # fmt: skip
_ASIDE = 0.17
"""How far, in rows, the single samples stand above and the median below the middle of their row."""


@dataclass(frozen=True, slots=True)
class _Line:
    """One row of a strip chart, its values and its row of the table."""

    label: str
    values: list[float]
    row: dict[str, Any]
    note: str = ""


def draw(result: ControlResult, folder: Path) -> list[Plot]:
    """Draw every plot there are data for, and return which were drawn."""
    drawn = []
    outages, isolation, steps = _outage_lines(result), _isolation_lines(result), _step_lines(result)
    for plot, lines, label, notes in (
        (OUTAGES, outages, "outage (ms, log.)", "lost / sent"),
        (ISOLATION, isolation, "time since request (ms, log.)", ""),
        (CONVERGENCE, steps, "time (s, log.)", ""),
    ):
        if lines:
            save(_strip(lines, label, notes), folder, plot.name)
            drawn.append(plot)
    if any(row["sent"] for row in result.rekey):
        save(_rekey(result), folder, REKEY.name)
        drawn.append(REKEY)
    return [*drawn, *control_scale_plots.draw(result.growth, folder)]


_Table = dict[tuple[str, ...], dict[str, Any]]


def _table(rows: Sequence[dict[str, Any]], *names: str) -> _Table:
    """Return the rows that have a figure by their mechanism and the columns named."""
    return {(row["mechanism"], *(row[name] for name in names)): row for row in rows if row["count"]}


def _of_mechanisms(table: _Table, key: tuple[str, ...]) -> list[tuple[tuple[str, ...], dict[str, Any]]]:
    """Return the rows of an event or step under each mechanism, ours first, each with its whole key."""
    keys = [(name, *key) for name in MECHANISMS]
    return [(whole, table[whole]) for whole in keys if whole in table]


def _points(result: ControlResult, *key: str) -> list[float]:
    return result.points[key]


def _outage_lines(result: ControlResult) -> list[_Line]:
    table = _table(result.outages, "event", "flows")
    return [
        _Line(_CHANNELS.get(whole[0], label), _points(result, "outages", *whole), row, f"{row['lost']}/{row['sent']}")
        for key, label in _OUTAGE_ROWS.items() for whole, row in _of_mechanisms(table, key)
    ]  # fmt: skip


def _isolation_lines(result: ControlResult) -> list[_Line]:
    table = _table(result.isolation, "node", "what")
    return [
        _Line(_CHANNELS.get(whole[0], label), _points(result, "isolation", *whole), row)
        for key, label in _ISOLATION_ROWS.items() for whole, row in _of_mechanisms(table, key)
    ]  # fmt: skip


def _step_lines(result: ControlResult) -> list[_Line]:
    table = _table(result.convergence, "step")
    return [
        _Line(_CHANNELS.get(whole[0], _STEP_ROWS.get(step, step)), _points(result, "convergence", *whole), row)
        for step in STEPS for whole, row in _of_mechanisms(table, (step,))
        if whole[0] == OURS or step in _CHANNEL_STEPS
    ]  # fmt: skip


def _strip(lines: Sequence[_Line], label: str, notes: str = "") -> Any:
    """One row for each kind of event: its samples, their median and its interval, on a logarithmic axis."""
    drawing, axes = figure(0.75 + 0.25 * len(lines))
    scale = 1.0 if lines[0].row["unit"] == "ms" else 1e3
    floor = min(line.row["resolution_ms"] / scale for line in lines if line.row["resolution_ms"])
    for place, line in enumerate(lines):
        # Times of the operator's own clock are not sampled by a flow: nothing hides below a sending interval.
        _strip_row(axes, place, line, floor if line.row["unit"] == "ms" and line.row["resolution_ms"] else 0.0)
        axes.annotate(
            line.note, (1, place), xycoords=("axes fraction", "data"), xytext=(6, 0), textcoords="offset points",
            va="center", fontsize=7, annotation_clip=False,
        )  # fmt: skip
    if lines[0].row["unit"] == "ms":
        axes.axvline(floor, color="0", linewidth=0.8, linestyle=":", zorder=1)
    everything = [
        max(value, floor) if scale == 1.0 and line.row["resolution_ms"] else value
        for line in lines for value in line.values
    ]  # fmt: skip
    low, high = min([*everything, *([floor] if scale == 1.0 else [])]), max(everything)
    axes.set_xscale("log")
    left = low / (1.35 if scale != 1.0 else 2.2)  # with room for how many samples lie below the resolution
    axes.set_xlim(left, high * 1.35)
    _plain_ticks(axes, left, high * 1.35)
    axes.set_yticks(range(len(lines)), [line.label for line in lines])
    _mark_channels(axes, lines)
    axes.set_ylim(len(lines) - 0.45, -0.6)
    axes.tick_params(axis="y", length=0)
    axes.grid(visible=False, axis="y")
    axes.set_xlabel(label)
    if notes:
        axes.annotate(
            notes, (1, 1), xycoords="axes fraction", xytext=(6, 2), textcoords="offset points", fontsize=7,
            va="bottom", annotation_clip=False,
        )  # fmt: skip
    return drawing


def _mark_channels(axes: Any, lines: Sequence[_Line]) -> None:
    """Draw a line above each event that has rows of channels, and below them, and write their names smaller."""
    channels = set(_CHANNELS.values())
    for place, (line, text) in enumerate(zip(lines, axes.get_yticklabels(), strict=True)):
        if line.label in channels:
            text.set(fontsize=6.5, color="0.3")
        elif place and any(near.label in channels for near in lines[place - 1 : place + 2]):
            axes.axhline(place - 0.5, color="0.75", linewidth=0.5, zorder=1)


def _strip_row(axes: Any, place: int, line: _Line, floor: float) -> None:
    seen = [value for value in line.values if value > floor]
    below = len(line.values) - len(seen)
    axes.plot(seen, [place - _ASIDE] * len(seen), zorder=4, **_POINT)
    if below:
        axes.plot([floor] * below, [place - _ASIDE] * below, zorder=4, **{**_POINT, "marker": "<"})
    if below > 1:
        axes.annotate(
            f"{below}", (floor, place - _ASIDE), xytext=(-5, 0), textcoords="offset points", ha="right", va="center",
            fontsize=6,
        )  # fmt: skip
    shown = {name: max(line.row[name], floor) for name in ("median", "ci_low", "ci_high")}
    single = len(line.values) == 1  # one sample knows no error
    axes.errorbar(
        shown["median"], place + _ASIDE, xerr=None if single else error_bars([shown]), **_MEDIAN
    )  # fmt: skip


def _plain_ticks(axes: Any, low: float, high: float) -> None:
    """Ticks at 1, 2 and 5 times powers of ten as plain numbers, fewer where there would be too many."""
    for factors in ((1, 2, 5), (1, 3), (1,)):
        ticks = [factor * 10.0**power for power in range(-4, 6) for factor in factors]
        inside = [tick for tick in ticks if low <= tick <= high]
        if len(inside) <= 7:
            break
    axes.set_xticks(inside, [f"{tick:g}" for tick in inside])
    axes.xaxis.minorticks_off()


def _rekey(result: ControlResult) -> Any:
    rows = [row for row in result.rekey if row["sent"]]
    drawing, (top, middle, bottom) = figure(4.3, rows=3, sharex=True)
    names, places = _groups(rows)
    for place, row in zip(places, rows, strict=True):
        share, high = 100 * row["lost"] / row["sent"], 100 * row["lost_high"]
        top.errorbar(place, share, yerr=[[share], [high - share]], **{**_MEDIAN, "clip_on": False})
        top.annotate(
            f"{row['lost']}/{row['sent']}", (place, high), xytext=(0, 3), textcoords="offset points", ha="center",
            fontsize=5,
        )  # fmt: skip
        _column(middle, place, _rekey_points(result, row, "outage"))
        _column(bottom, place, _rekey_points(result, row, "ratio"))
    top.set_ylim(0, 1.35 * max(100 * row["lost_high"] for row in rows))
    top.set_ylabel("lost (%)")
    middle.set_ylabel("longest gap (ms)")
    bottom.set_ylabel("TCP goodput,\nrelative to none")
    for axes, name in ((middle, "outage"), (bottom, "ratio")):
        values = [value for row in rows for value in _rekey_points(result, row, name)]
        axes.set_ylim(0, 1.12 * max([*values, 1e-3]))
    bottom.set_xticks(places, [f"{row['rate']}" for row in rows])
    bottom.set_xlim(-0.5, places[-1] + 0.5)
    bottom.set_xlabel("replacements of all keys per second")
    for axes in (top, middle, bottom):
        axes.grid(visible=False, axis="x")
        axes.tick_params(axis="x", length=0)
        for _, first, _ in names[1:]:
            axes.axvline(first - 0.65, color="0.6", linewidth=0.6)
    for name, first, last in names:
        if name != OURS:
            bottom.annotate(
                "not\nmeasured", ((first + last) / 2, 0.5), xycoords=("data", "axes fraction"), ha="center",
                va="center", fontsize=6, color="0.3",
            )  # fmt: skip
        top.annotate(
            _CHANNELS.get(name, name), ((first + last) / 2, 1), xycoords=("data", "axes fraction"), xytext=(0, 2),
            textcoords="offset points", ha="center", fontsize=7,
        )  # fmt: skip
    drawing.align_ylabels()
    return drawing


def _rekey_points(result: ControlResult, row: dict[str, Any], name: str) -> list[float]:
    return result.points["rekey", row["mechanism"], name, str(row["rate"])]


def _groups(rows: Sequence[dict[str, Any]]) -> tuple[list[tuple[str, float, float]], list[float]]:
    """Return each mechanism with its first and last place, and the places of all rows, a gap between mechanisms."""
    places: list[float] = []
    names: list[tuple[str, float, float]] = []
    for index, row in enumerate(rows):
        name, apart = row["mechanism"], index > 0 and row["mechanism"] != rows[index - 1]["mechanism"]
        places.append((places[-1] + (1.3 if apart else 1.0)) if places else 0.0)
        if names and not apart:
            names[-1] = (name, names[-1][1], places[-1])
        else:
            names.append((name, places[-1], places[-1]))
    return names, places


def _column(axes: Any, place: float, values: Sequence[float]) -> None:
    """Samples of one rate, and their median with its interval beside them."""
    if not values:
        return
    axes.plot([place - _ASIDE] * len(values), values, zorder=4, **_POINT)
    summary = summarise(values).as_dict()
    bars = None if len(values) == 1 else error_bars([summary])
    axes.errorbar(place + _ASIDE, summary["median"], yerr=bars, **_MEDIAN)
