"""Reads the keys of the telemetry export: a file for each device, which only its owner may read (thin shell)."""

from __future__ import annotations

import os
import re
import stat
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from geneve.control.names import Name
from geneve.errors import ConfigError
from geneve.export import DEVICE_KEY_SIZE

SUFFIX = ".key"

_HEX = re.compile(rf"[0-9a-fA-F]{{{2 * DEVICE_KEY_SIZE}}}\s*")
_NAME: TypeAdapter[str] = TypeAdapter(Name)


def read_key(path: Path) -> bytes:
    """Read a key of 32 bytes in hexadecimal; ConfigError, also when it lies open to others."""
    try:
        # Not blocking: a pipe of that name must not hold the program up.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        with os.fdopen(descriptor, "rb") as file:
            mode = os.fstat(descriptor).st_mode
            if not stat.S_ISREG(mode):
                raise ConfigError(f"{path}: is no file; expected one with a key of {DEVICE_KEY_SIZE} bytes in hex.")
            text = file.read(4 * DEVICE_KEY_SIZE).decode("ascii", "replace")
    except OSError as error:
        raise ConfigError(f"{path}: the key cannot be read ({error.strerror}).") from None
    if mode & (stat.S_IRWXG | stat.S_IRWXO):
        raise ConfigError(f"{path}: holds a secret and is open to other users; run 'chmod 600 {path}'.")
    if not _HEX.fullmatch(text):
        raise ConfigError(f"{path}: expected a key of {DEVICE_KEY_SIZE} bytes as {2 * DEVICE_KEY_SIZE} hex digits.")
    return bytes.fromhex(text)


def read_keys(folder: Path) -> dict[str, bytes]:
    """Read ``NAME.key`` of every device in ``folder``; ConfigError when one is not sound."""
    try:
        paths = sorted(path for path in folder.iterdir() if path.suffix == SUFFIX)
    except OSError as error:
        raise ConfigError(f"--keys {folder}: cannot be read ({error.strerror}).") from None
    keys = {}
    for path in paths:
        try:
            keys[_NAME.validate_python(path.stem)] = read_key(path)
        except ValidationError:
            raise ConfigError(f"{path}: '{path.stem}' is no device's name; remove or rename the file.") from None
    return keys
