"""SIGTERM and SIGINT as something an event loop can wait for (thin shell)."""

from __future__ import annotations

import signal
import socket


class StopSignal:
    """Readable after the first signal; ``noted`` once :meth:`note` has seen it."""

    def __init__(self) -> None:
        self.noted = False
        self._reader, writer = socket.socketpair()
        self._writer = writer
        for end in (self._reader, writer):
            end.setblocking(False)
        signal.set_wakeup_fd(writer.fileno(), warn_on_full_buffer=False)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: None)

    def fileno(self) -> int:
        """Return the descriptor to wait on."""
        return self._reader.fileno()

    def note(self) -> None:
        """Take note of the signal."""
        self.noted = bool(self._reader.recv(64))
