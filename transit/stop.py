"""SIGTERM and SIGINT as a descriptor that becomes readable, so that an event loop ends in order."""

from __future__ import annotations

import contextlib
import os
import signal
from types import FrameType


class StopSignal:
    """Takes over both signals of this process until it ends."""

    def __init__(self) -> None:
        self._reader, self._writer = os.pipe()
        os.set_blocking(self._writer, False)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._handle)

    def _handle(self, _number: int, _frame: FrameType | None) -> None:
        with contextlib.suppress(BlockingIOError):  # a full pipe says stop loudly enough
            os.write(self._writer, b"x")

    def fileno(self) -> int:
        """Return the descriptor that is readable from the first signal on."""
        return self._reader
