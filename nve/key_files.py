"""Files with keys: the seed of a signing key to read, and the key log of a demonstration to write (thin shell)."""

from __future__ import annotations

import logging
import os
import secrets
import stat
from pathlib import Path

from geneve.errors import ConfigError
from geneve.security.signature import SEED_SIZE, SourceSigner

log = logging.getLogger("nve")


def load_signer(path: str | None) -> SourceSigner:
    """Return the signer whose seed ``path`` has (64 hex digits), a new one without a path.

    ConfigError when the file cannot be read, has something else in it, or is open to other users.
    """
    if path is None:
        return SourceSigner.from_seed(secrets.token_bytes(SEED_SIZE))
    try:
        mode = os.stat(path).st_mode
        text = Path(path).read_text(encoding="ascii")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read ({error}).") from None
    if mode & (stat.S_IRWXG | stat.S_IRWXO):
        raise ConfigError(f"{path}: holds a secret and is open to other users; run 'chmod 600 {path}'.")
    try:
        seed = bytes.fromhex(text.strip())
    except ValueError:
        seed = b""
    if len(seed) != SEED_SIZE:
        raise ConfigError(f"{path}: expected {2 * SEED_SIZE} hexadecimal digits, the seed of an Ed25519 key.")
    return SourceSigner.from_seed(seed)


class KeyLog:
    """Appends key log lines to a file that only its owner can read; says loudly that it does."""

    def __init__(self, path: Path) -> None:
        """Raise ConfigError when the file cannot be opened or others can read it."""
        self._path = path
        try:
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        except OSError as error:
            raise ConfigError(f"{path}: cannot be written ({error.strerror}).") from None
        if os.fstat(descriptor).st_mode & (stat.S_IRWXG | stat.S_IRWXO):
            os.close(descriptor)
            raise ConfigError(f"{path}: a key log must not be open to other users; run 'chmod 600 {path}'.")
        self._file = os.fdopen(descriptor, "a", encoding="ascii", buffering=1)
        log.warning("ALL KEYS ARE WRITTEN TO %s: whoever reads it reads the tenants' traffic. For demos only.", path)

    def write(self, line: str) -> None:
        """Append one line."""
        self._file.write(line + "\n")
