"""A UNIX stream socket that writes one JSON document to whoever connects (thin shell)."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import stat
from typing import Any

from geneve.errors import ConfigError


class StatsSocket:
    """Listens on ``path``, for its owner only; a socket file left by a dead process is replaced."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        previous = os.umask(0o177)
        try:
            with contextlib.suppress(FileNotFoundError):
                if stat.S_ISSOCK(os.stat(path).st_mode):
                    os.unlink(path)
            self._socket.bind(path)
            self._socket.listen(16)
        except (OSError, ValueError) as error:
            self._socket.close()
            reason = error.strerror if isinstance(error, OSError) and error.strerror else error
            raise ConfigError(f"key 'stats': cannot listen on {path!r} ({reason}); choose another path.") from None
        finally:
            os.umask(previous)

    def fileno(self) -> int:
        """Return the listening descriptor."""
        return self._socket.fileno()

    def answer(self, document: dict[str, Any]) -> None:
        """Write ``document`` to a waiting client, as far as it takes it at once."""
        with contextlib.suppress(OSError):
            client, _ = self._socket.accept()
            with client:
                client.setblocking(False)
                client.sendall(json.dumps(document).encode() + b"\n")

    def close(self) -> None:
        """Stop listening and remove the socket file."""
        self._socket.close()
        with contextlib.suppress(OSError):
            os.unlink(self._path)
