"""A UNIX stream socket that writes one JSON document to whoever connects (thin shell)."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import stat
from pathlib import Path
from typing import Any

from geneve.errors import ConfigError


class StatsSocket:
    """Listens on ``path``, readable by the owner only; a socket left there by a dead process is replaced."""

    def __init__(self, path: str) -> None:
        self.path = Path(path)
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            if self.path.exists() and stat.S_ISSOCK(self.path.stat().st_mode):
                self.path.unlink()
            previous = os.umask(0o177)
            try:
                self._socket.bind(path)
            finally:
                os.umask(previous)
            self._socket.listen(16)
        except OSError as error:
            self._socket.close()
            reason = error.strerror or str(error)
            raise ConfigError(f"stats socket {path}: cannot be made ({reason}); choose another.") from None
        self._socket.setblocking(False)

    def fileno(self) -> int:
        """Return the listening descriptor."""
        return self._socket.fileno()

    def answer(self, document: dict[str, Any]) -> None:
        """Write ``document`` to every waiting client. Who does not read is not waited for."""
        text = json.dumps(document).encode() + b"\n"
        while True:
            try:
                client, _ = self._socket.accept()
            except OSError:
                return
            with client, contextlib.suppress(OSError):
                client.setblocking(False)
                client.sendall(text)

    def close(self) -> None:
        """Stop listening and remove the socket's file."""
        self._socket.close()
        with contextlib.suppress(OSError):
            self.path.unlink()
