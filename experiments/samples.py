"""Raw samples on disk: one JSON object a line, written as they come, so that a crash loses nothing.

A sample that could not be taken is written too, with ``value`` null and the reason in ``missing``.
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from types import TracebackType
from typing import Any


class SampleWriter:
    """Appends JSON lines to a file; each line is handed to the kernel before the call returns."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = path.open("a", encoding="utf-8", buffering=1)

    def write(self, sample: dict[str, Any]) -> None:
        """Append one object, with the UTC time in seconds as ``time`` unless it has one."""
        self._file.write(json.dumps({"time": round(time.time(), 6), **sample}) + "\n")
        self._file.flush()

    def close(self) -> None:
        """Close the file; what was written stays."""
        self._file.close()

    def __enter__(self) -> SampleWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def sample(
    measure: str, key: dict[str, Any], value: Any, unit: str, missing: str | None = None, **details: Any
) -> dict[str, Any]:
    """Return one sample; ValueError unless there is either a value or the reason why it is missing."""
    if (value is None) == (missing is None):
        raise ValueError(f"a sample of {measure} needs a value, or the reason why it is missing, not both")
    return {"measure": measure, **key, "value": value, "unit": unit, "missing": missing, **details}


def read_lines(path: Path) -> list[dict[str, Any]]:
    """Return the objects of a JSON-lines file; a missing file is no samples.

    The last line may be cut short, because the writer was killed: it is left out. Any other bad line
    is an error (ValueError naming file and line): then the data are not what was measured.
    """
    if not path.exists():
        return []
    objects = []
    text = path.read_text(encoding="utf-8", errors="replace")
    lines = text.split("\n")
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            entry = json.loads(line)
        except ValueError:
            if number == len(lines):
                break
            raise ValueError(f"{path}: line {number} is not JSON; expected one object a line.") from None
        if not isinstance(entry, dict):
            raise ValueError(f"{path}: line {number} is not an object; expected one object a line.")
        objects.append(entry)
    return objects
