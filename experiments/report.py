"""The page of a run: tables and plots of everything it measured, in one HTML file without foreign parts.

Links are relative, so the page works from a disk and the directory can be moved or packed.
"""

from __future__ import annotations

import html
import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from experiments.plotting import Plot
from experiments.results import COMPLETE, RunDirectory, write_atomically
from experiments.tables import read_csv


@dataclass(frozen=True, slots=True)
class Table:
    """A CSV file of the run to show, its heading, and how to read it."""

    file: str
    heading: str
    caption: str


@dataclass(slots=True)
class Section:
    """One experiment's part of the page and of summary.json."""

    name: str
    title: str
    introduction: str
    summary: dict[str, Any]
    tables: Sequence[Table] = ()
    plots: Sequence[Plot] = ()
    failures: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    markup: str = ""
    """HTML of the section's own, in front of its tables; whoever makes it escapes what it shows."""


_CAPTURE = re.compile(r"captures/[\w./-]+\.pcap")
_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #1c1c1c; background: #fff; max-width: 70rem;
       margin: 2rem auto; padding: 0 1.2rem; }
h1 { font-size: 1.6rem; margin-bottom: .2rem; } h2 { margin-top: 2.5rem; border-bottom: 1px solid #ccc; }
h3 { margin: 1.6rem 0 .4rem; } p.caption, figcaption { color: #444; max-width: 48rem; margin: .3rem 0 .8rem; }
figure { display: inline-block; vertical-align: top; width: 30rem; max-width: 100%;
         margin: .8rem 1.5rem .8rem 0; }
figure img { width: 100%; border: 1px solid #ddd; }
table { border-collapse: collapse; font-size: 13px; font-variant-numeric: tabular-nums; }
th, td { border: 1px solid #ddd; padding: .2rem .55rem; text-align: left; vertical-align: top; }
th { background: #f3f3f3; } td.number { text-align: right; }
td.differs { outline: 2px solid #1c1c1c; outline-offset: -2px; } td small { color: #555; }
div.cell { margin: .5rem 0 .9rem 1rem; } div.cell:target { background: #fdf3d7; }
div.wide { overflow-x: auto; max-height: 32rem; overflow-y: auto; }
.bad { background: #fbe3e0; border-left: 4px solid #a11; padding: .5rem 1rem; margin: 1rem 0; }
.warn { background: #fdf3d7; border-left: 4px solid #a70; padding: .5rem 1rem; margin: 1rem 0; }
.good { background: #e6f2e6; border-left: 4px solid #272; padding: .5rem 1rem; margin: 1rem 0; }
code, pre { font-size: 12.5px; } pre { background: #f6f6f6; padding: .6rem; overflow-x: auto; }
nav a { margin-right: 1.2rem; }
"""


def write_report(run: RunDirectory, sections: Sequence[Section]) -> Path:
    """Write ``index.html`` of the run and return its path."""
    path = run.path / "index.html"
    write_atomically(path, page(run, sections))
    return path


def page(run: RunDirectory, sections: Sequence[Section]) -> str:
    """Return the whole page."""
    title = f"Geneve security testbed: run {run.path.name}"
    parts = [
        "<!DOCTYPE html>", '<html lang="en"><head><meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<title>{html.escape(title)}</title><style>{_STYLE}</style></head><body>",
        f"<h1>{html.escape(title)}</h1>", _status(run), _facts(run.record),
        "<nav>" + "".join(f'<a href="#{s.name}">{html.escape(s.title)}</a>' for s in sections)
        + '<a href="#how">How it was run</a></nav>',
        _messages("Failures", "bad", [text for section in sections for text in section.failures]),
        _messages("Warnings", "warn", _warnings(run, sections)),
    ]  # fmt: skip
    parts.extend(_section(run.path, section) for section in sections)
    parts.append(_record(run))
    parts.append("</body></html>\n")
    return "\n".join(part for part in parts if part)


def _warnings(run: RunDirectory, sections: Iterable[Section]) -> list[str]:
    texts = [*run.record.get("warnings", [])]
    texts.extend(text for section in sections for text in section.warnings)
    return list(dict.fromkeys(texts))


def _status(run: RunDirectory) -> str:
    if run.status == COMPLETE:
        return '<p class="good">This run is complete.</p>'
    reason = run.record.get("reason", "it was killed or still runs")
    text = f"This run is INCOMPLETE ({run.status}): {reason}. Use none of its figures."
    return f'<p class="bad">{html.escape(text)}</p>'


def _facts(record: dict[str, Any]) -> str:
    environment = record.get("environment", {})
    git = environment.get("git", {})
    state = {True: ", with uncommitted changes", False: "", None: ", state unknown"}[git.get("dirty")]
    facts = [
        ("started", record.get("started")), ("profile", record.get("profile", {}).get("name")),
        ("seed", record.get("seed")), ("commit", f"{git.get('commit') or 'unknown'}{state}"),
        ("kernel", environment.get("kernel")), ("Python", environment.get("python")),
        ("processors", f"{environment.get('cpus')} x {environment.get('cpu_model') or 'unknown'}"),
    ]  # fmt: skip
    return "<p>" + "; ".join(f"{name}: {html.escape(str(value))}" for name, value in facts) + "</p>"


def _messages(heading: str, kind: str, texts: Sequence[str]) -> str:
    if not texts:
        return ""
    items = "".join(f"<li>{html.escape(text)}</li>" for text in texts)
    return f'<div class="{kind}"><strong>{heading}</strong><ul>{items}</ul></div>'


def _section(root: Path, section: Section) -> str:
    parts = [
        f'<h2 id="{section.name}">{html.escape(section.title)}</h2>',
        f"<p>{html.escape(section.introduction)}</p>",
    ]
    parts.extend(_figure(plot) for plot in section.plots)
    parts.append(section.markup)
    parts.extend(_table(root, table) for table in section.tables)
    return "\n".join(parts)


def _figure(plot: Plot) -> str:
    image = f"plots/{plot.name}"
    return (
        f'<figure><h3>{html.escape(plot.heading)}</h3><a href="{image}.pdf"><img src="{image}.png" '
        f'alt="{html.escape(plot.heading)}"></a><figcaption>{html.escape(plot.caption)} '
        f'(<a href="{image}.pdf">PDF</a>, <a href="{image}.png">PNG</a>)</figcaption></figure>'
    )


def _table(root: Path, table: Table) -> str:
    columns, rows = read_csv(root / "csv" / table.file)
    if not columns:
        return ""
    head = "".join(f"<th>{html.escape(column.replace('_', ' '))}</th>" for column in columns)
    body = "".join("<tr>" + "".join(_cell(row[column]) for column in columns) + "</tr>" for row in rows)
    return (
        f'<h3>{html.escape(table.heading)}</h3><p class="caption">{html.escape(table.caption)} '
        f'(<a href="csv/{table.file}">CSV</a>)</p>'
        f'<div class="wide"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'
    )


def _cell(text: str) -> str:
    try:
        number = float(text)
    except ValueError:
        return f"<td>{_linked(_readable(text))}</td>"
    shown = text if number.is_integer() and "." not in text else f"{number:.5g}"
    return f'<td class="number">{shown}</td>'


def _linked(text: str) -> str:
    """Return ``text`` for the page, with the captures that it names as links."""
    parts = text.split(", ")
    if not all(part.startswith("captures/") for part in parts):
        return with_links(text)
    return ", ".join(f'<a href="{html.escape(part)}">{html.escape(Path(part).name)}</a>' for part in parts)


def with_links(text: str) -> str:
    """Return ``text`` as HTML, with the captures that it names by their paths as links."""
    return _CAPTURE.sub(lambda match: f'<a href="{match[0]}">{match[0][len("captures/"):]}</a>', html.escape(text))


def _readable(text: str) -> str:
    if text.startswith("{"):
        try:
            return ", ".join(f"{name}: {value}" for name, value in json.loads(text).items()) or "none"
        except ValueError:
            return text
    return text


def _record(run: RunDirectory) -> str:
    shown = {key: value for key, value in run.record.items() if key not in ("scenarios", "order")}
    scenarios = "".join(
        f"<h3>Scenario {html.escape(name)}</h3><pre>{html.escape(text)}</pre>"
        for name, text in run.record.get("scenarios", {}).items()
    )
    links = ('<p><a href="run.json">run.json</a> has all of this and the order of the measurements, '
             '<a href="summary.json">summary.json</a> the figures; <a href="raw/">raw samples</a>, '
             '<a href="captures/">captures</a>, <a href="csv/">tables</a>.</p>')  # fmt: skip
    return (
        f'<h2 id="how">How it was run</h2>{links}<details><summary>Record of the run</summary><pre>'
        f"{html.escape(json.dumps(shown, indent=2, default=str))}</pre></details>"
        f"<details><summary>Scenario files</summary>{scenarios}</details>"
    )
