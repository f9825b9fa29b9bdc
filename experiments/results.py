"""The directory of one run: what it holds, whether it is whole, and which run is ``latest``.

``run.json`` says ``running`` from the first moment, so a run that is killed stays marked as incomplete;
only a run that ended well becomes ``latest``.
"""

from __future__ import annotations

import contextlib
import json
import os
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

RUNNING, COMPLETE, FAILED, INTERRUPTED = "running", "complete", "failed", "interrupted"
LATEST = "latest"


class ResultsError(ValueError):
    """A results directory cannot be made or read; one sentence that names it."""


class RunDirectory:
    """A run's directory and its run.json."""

    def __init__(self, path: Path, record: dict[str, Any]) -> None:
        self.path = path
        self.record = record

    @classmethod
    def create(
        cls, results: Path, name: str, record: dict[str, Any], now: datetime | None = None
    ) -> RunDirectory:
        """Make ``results/<UTC time>-<name>``, never an existing one; ResultsError if that cannot be."""
        moment = now if now is not None else datetime.now(timezone.utc)
        stamp = moment.strftime("%Y%m%dT%H%M%SZ")
        try:
            results.mkdir(parents=True, exist_ok=True)
            for attempt in range(1, 100):
                path = results / (f"{stamp}-{name}" + ("" if attempt == 1 else f"-{attempt}"))
                with contextlib.suppress(FileExistsError):
                    path.mkdir()
                    break
            else:
                raise ResultsError(f"{results}: a hundred runs named {stamp}-{name} exist; wait a second.")
        except OSError as error:
            raise ResultsError(f"{results}: cannot make a results directory ({error.strerror}).") from None
        run = cls(path, {"status": RUNNING, "started": moment.isoformat(timespec="seconds"), **record})
        run.save()
        return run

    @classmethod
    def open(cls, path: Path) -> RunDirectory:
        """Open an existing run; ResultsError when ``path`` is none."""
        record = path / "run.json"
        try:
            data = json.loads(record.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            raise ResultsError(f"{path}: no readable run.json in it; expected a run's directory.") from None
        if not isinstance(data, dict):
            raise ResultsError(f"{record}: not an object; expected the record of a run.")
        return cls(path.resolve(), data)

    @property
    def status(self) -> str:
        """How the run stands; ``running`` on disk without a runner means that it was killed."""
        return str(self.record.get("status", FAILED))

    def folder(self, kind: str, experiment: str | None = None) -> Path:
        """Return and make ``raw``, ``captures``, ``csv`` or ``plots``, or an experiment's folder in it."""
        path = self.path / kind if experiment is None else self.path / kind / experiment
        path.mkdir(parents=True, exist_ok=True)
        return path

    def warn(self, text: str) -> None:
        """Add a warning to the record, once."""
        warnings = self.record.setdefault("warnings", [])
        if text not in warnings:
            warnings.append(text)
            self.save()

    def update(self, **fields: Any) -> None:
        """Set fields of the record and save it."""
        self.record.update(fields)
        self.save()

    def save(self) -> None:
        """Write run.json in one step, so that it is never half written."""
        write_atomically(self.path / "run.json", json.dumps(self.record, indent=2, default=str) + "\n")

    def conclude(self, status: str, reason: str | None = None) -> None:
        """Set the final status and the time of the end."""
        ended = datetime.now(timezone.utc).isoformat(timespec="seconds")
        self.update(status=status, ended=ended, **({"reason": reason} if reason else {}))

    def publish(self) -> None:
        """Make a complete run ``latest``; any other is left where it is."""
        if self.status == COMPLETE:
            point_latest(self.path)


def write_atomically(path: Path, text: str) -> None:
    """Replace a text file as a whole: a reader sees the old one or the new one."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(path)


def point_latest(run: Path) -> None:
    """Let ``latest`` beside ``run`` point to it, in one step; ResultsError when a real file is there."""
    link = run.parent / LATEST
    if link.exists() and not link.is_symlink():
        raise ResultsError(f"{link}: not a symbolic link; move it away, it would hide which run is the last.")
    temporary = run.parent / f".{LATEST}.{os.getpid()}"
    with contextlib.suppress(FileNotFoundError):
        temporary.unlink()
    temporary.symlink_to(run.name)
    temporary.replace(link)
