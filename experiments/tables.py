"""Tables of an analysis: written as CSV, read back, and rounded for people."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from experiments.results import write_atomically

Row = Mapping[str, Any]


def write_csv(path: Path, rows: Sequence[Row], columns: Sequence[str]) -> None:
    """Write ``rows`` with ``columns``; None becomes an empty cell, a list or object JSON."""
    output = io.StringIO()
    writer = csv.DictWriter(output, fieldnames=list(columns), extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    for row in rows:
        writer.writerow({column: _cell(row.get(column)) for column in columns})
    write_atomically(path, output.getvalue())


def write_all(folder: Path, experiment: str, tables: Mapping[str, Sequence[str]], result: object) -> None:
    """Write each of ``tables`` (name and columns), whose rows are the attribute of ``result`` with that name."""
    for name, columns in tables.items():
        write_csv(folder / f"{experiment}-{name}.csv", getattr(result, name), columns)


def _cell(value: Any) -> Any:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, (dict, list, tuple)):
        return json.dumps(value)
    return value


def read_csv(path: Path) -> tuple[list[str], list[dict[str, str]]]:
    """Return columns and rows of a CSV file; nothing when there is none."""
    if not path.exists():
        return [], []
    with path.open(encoding="utf-8", newline="") as file:
        reader = csv.DictReader(file)
        rows = list(reader)
        return list(reader.fieldnames or []), rows


def rounded(value: float | None, digits: int = 4) -> float | None:
    """Return ``value`` with ``digits`` significant digits; None stays None."""
    return None if value is None else float(f"{value:.{digits}g}")
