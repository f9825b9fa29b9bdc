"""Says which step runs and how long the rest will take.

The plan gives every step a weight in seconds as expected; the estimate scales what remains by how
long the finished steps took against their weights.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import TextIO

_QUIET_SECONDS = 10.0
"""Without a terminal, at most one line in this time, except at the start of a new experiment."""


class Progress:
    """Progress over a plan of weighted steps; draws one line on a terminal, plain lines elsewhere."""

    def __init__(self, stream: TextIO | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        self._stream = stream if stream is not None else sys.stderr
        self._clock = clock
        self._terminal = self._stream.isatty()
        self._planned = 0.0
        self._finished = 0.0
        self._elapsed = 0.0
        self._current = 0.0
        self._started_step: float | None = None
        self._section = ""
        self._last_line = -_QUIET_SECONDS
        self._width = 0

    def plan(self, seconds: float) -> None:
        """Add ``seconds`` of expected work to the plan."""
        self._planned += seconds

    def section(self, name: str) -> None:
        """Name the experiment whose steps follow."""
        self._section = name
        self._last_line = -_QUIET_SECONDS

    def step(self, name: str, weight: float) -> None:
        """Begin a step of ``weight`` planned seconds; the step before it is finished."""
        self.finish_step()
        self._started_step = self._clock()
        self._current = weight
        self._show(f"{self._section}: {name}")

    def finish_step(self) -> None:
        """End the step that runs, if any."""
        if self._started_step is None:
            return
        self._elapsed += self._clock() - self._started_step
        self._finished += self._current
        self._started_step = None
        self._current = 0.0

    def remaining(self) -> float:
        """Return the seconds that the rest of the plan is expected to take."""
        # The plan counts as one finished minute, so that the first odd step does not rule the estimate.
        pace = (self._elapsed + 60) / (self._finished + 60)
        return max(0.0, self._planned - self._finished) * pace

    def note(self, text: str) -> None:
        """Print a line that stays."""
        self._clear()
        print(text, file=self._stream, flush=True)

    def close(self) -> None:
        """End the last step and leave the cursor on a fresh line."""
        self.finish_step()
        self._clear()

    def _show(self, text: str) -> None:
        done = 100 * self._finished / self._planned if self._planned else 0.0
        line = f"[{min(done, 100):3.0f}%, {duration_text(self.remaining())} left] {text}"
        if self._terminal:
            line = line[:118]
            self._clear()
            self._stream.write(line)
            self._stream.flush()
            self._width = len(line)
        elif self._clock() - self._last_line >= _QUIET_SECONDS:
            self._last_line = self._clock()
            print(line, file=self._stream, flush=True)

    def _clear(self) -> None:
        if self._width:
            self._stream.write("\r" + " " * self._width + "\r")
            self._width = 0


def duration_text(seconds: float) -> str:
    """Return a time span as ``3 min 20 s``, seconds rounded up to tens above a minute."""
    if seconds < 60:
        return f"{max(0, round(seconds))} s"
    whole = int(-(-seconds // 10) * 10)
    return f"{whole // 60} min {whole % 60:02d} s"
