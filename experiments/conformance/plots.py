"""The grid of requirements and mechanisms: verdicts by colour and by symbol, the draft's letters in the corners."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.patches import Patch, Rectangle

from experiments.conformance.analysis import ConformanceResult
from experiments.conformance.draft import BY_NAME, GEN, OP, Requirement, judgement
from experiments.conformance.verdicts import Agreement, Verdict, agreement
from experiments.plotting import COLUMN_INCHES, Plot, figure, save

# Lightness falls from met to not met, so that the colours keep their order in grey.
_LOOKS = {
    Verdict.MET: ("#c9e8cf", "●"),
    Verdict.IN_PART: ("#dfb95a", "◐"),
    Verdict.NOT_MET: ("#bf675e", "○"),
    Verdict.NOT_APPLICABLE: ("#ffffff", "-"),
    Verdict.VOID: ("#ffffff", "?"),
}
_NAMES = {"none": "none", "dtls": "DTLS", "esp": "ESP", "ah": "AH", "ours": "ours"}
_SECTIONS = {
    "5.1.1": "sniffing", "5.1.2": "sniffing", "5.2.1": "injection", "5.2.2": "injection", "5.4.1": "replay",
    "5.4.2": "replay", "5.5.1": "management", "5.5.2": "management",
}  # fmt: skip
_ROW, _GAP = 0.19, 1.15
"""Height of a row in inches, and of the step from a section's last row to the next heading, in rows."""
_NUMBERS, _TITLES = -7.1, -5.75
"""Where requirements' numbers and titles begin, in widths of a cell left of the first."""

_CAPTION = (
    "● met, ◐ met in part, ○ not met, - not applicable. Small letters: what the draft's appendix says (it judges ESP "
    "and AH together, as IPsec); a thick frame: the verdict differs from it, and the table of findings says why. "
    "* SHOULD or SHOULD NOT, all others MUST."
)


def draw(result: ConformanceResult, folder: Path) -> list[Plot]:
    """Draw the grid; nothing when there is no cell."""
    requirements = [BY_NAME[name] for name in dict.fromkeys(requirement for requirement, _ in result.decisions)]
    if not requirements:
        return []
    save(_grid(result, [requirements]), folder, "conformance")
    plots = [Plot("conformance", "Requirements and mechanisms", _CAPTION)]
    halves = [[entry for entry in requirements if entry.series == series] for series in (GEN, OP)]
    if all(halves):
        save(_grid(result, halves), folder, "conformance-wide")
        plots.append(Plot("conformance-wide", "The same, side by side", "For slides."))
    return plots


def _grid(result: ConformanceResult, panels: Sequence[Sequence[Requirement]]) -> Any:
    """Draw requirements one below the other, in panels side by side."""
    mechanisms = list(dict.fromkeys(mechanism for _, mechanism in result.decisions))
    height = max(max(_places(panel)[0].values()) for panel in panels) + 1
    drawing, axes = figure(_ROW * (height + 3.5), columns=len(panels), squeeze=False)
    drawing.set_figwidth(COLUMN_INCHES * len(panels))
    for place, panel in enumerate(panels):
        _panel(axes[0][place], result, panel, mechanisms, height)
    _legend(drawing, result, columns=2 * len(panels))
    return drawing


def _panel(
    axes: Any, result: ConformanceResult, requirements: Sequence[Requirement], mechanisms: Sequence[str], height: float
) -> None:
    places, headings = _places(requirements)
    for requirement in requirements:
        row = places[requirement.name]
        mark = "" if requirement.level == "MUST" else "*"
        series = "OP" if requirement.series == OP else "GEN"
        axes.text(_NUMBERS, row, f"{series}-{requirement.number}{mark}", va="center", fontsize=5.5)
        axes.text(_TITLES, row, requirement.title, va="center", fontsize=5)
        for column, mechanism in enumerate(mechanisms):
            _draw_cell(axes, result, requirement.name, mechanism, column, row)
    for row, heading in headings:
        axes.text(_NUMBERS, row, heading, va="center", fontsize=5.5, style="italic")
    axes.set_xlim(_NUMBERS - 0.05, len(mechanisms) - 0.45)
    axes.set_ylim(height - 0.4, -0.6)
    axes.set_xticks(range(len(mechanisms)), [_NAMES.get(name, name) for name in mechanisms])
    axes.xaxis.tick_top()
    axes.tick_params(length=0, pad=0, labelsize=6.5)
    axes.set_yticks([])
    axes.grid(visible=False)
    for spine in axes.spines.values():
        spine.set_visible(False)


def _places(requirements: Sequence[Requirement]) -> tuple[dict[str, float], list[tuple[float, str]]]:
    """Return each requirement's row, and the headings of the sections in the rows between."""
    places: dict[str, float] = {}
    headings: list[tuple[float, str]] = []
    row, last = -_GAP, ""
    for requirement in requirements:
        if requirement.section != last:
            row += _GAP
            kind = "deployment" if requirement.series == OP else "mechanism"
            headings.append((row, f"{kind}: {_SECTIONS[requirement.section]} (section {requirement.section})"))
            last = requirement.section
        row += 1
        places[requirement.name] = row
    return places, headings


def _draw_cell(
    axes: Any, result: ConformanceResult, requirement: str, mechanism: str, column: int, row: float
) -> None:
    verdict = result.decisions[requirement, mechanism].verdict
    colour, symbol = _LOOKS[verdict]
    said = judgement(requirement, mechanism)
    differs = agreement(None if said is None else said.letter, verdict) is Agreement.DIFFERS
    axes.add_patch(
        Rectangle((column - 0.44, row - 0.44), 0.88, 0.88, facecolor=colour, edgecolor="0" if differs else "0.6",
                  linewidth=1.3 if differs else 0.3, zorder=3 if differs else 2)
    )  # fmt: skip
    axes.text(column - 0.08, row, symbol, ha="center", va="center", fontsize=7, zorder=4)
    if said is not None:
        axes.text(column + 0.42, row - 0.37, said.letter, ha="right", va="top", fontsize=4, zorder=4)


def _legend(drawing: Any, result: ConformanceResult, columns: int) -> None:
    present = [verdict for verdict in _LOOKS if any(d.verdict is verdict for d in result.decisions.values())]
    handles = []
    for verdict in present:
        colour, symbol = _LOOKS[verdict]
        handles.append(Patch(facecolor=colour, edgecolor="0.6", linewidth=0.3, label=f"{symbol} {verdict.value}"))
    handles.append(Patch(facecolor="1", edgecolor="0", linewidth=1.3, label="differs from the draft"))
    drawing.legend(handles=handles, loc="outside lower center", ncols=columns, fontsize=6)
