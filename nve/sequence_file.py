"""Sequence numbers of keys that outlive the process.

A stand-alone NVE reads its keys from a file, so after a restart it has the same keys: its sequence
numbers must not start again (design invariant 4). Each start reserves a range of numbers on disk
before the first packet leaves; a restart goes on behind the range, used up or not.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from pathlib import Path

from geneve.errors import ConfigError
from geneve.security.association import OutboundEnd

STARTS = 16
"""Process starts among which an association's packets are divided; sealing refuses beyond a start's share."""


def reserve(path: Path, associations: Iterable[OutboundEnd]) -> None:
    """Reserve a range for each association and make it go on there.

    ConfigError when the file cannot be read, understood or written, or a key's numbers are used up:
    sending without a reservation on disk could repeat a nonce.
    """
    used = _read(path)
    ends = list(associations)
    start = {end.spi: used.get(str(end.spi), 0) for end in ends}
    share = {end.spi: max(1, end.hard_limit // STARTS) for end in ends}
    for end in ends:
        if start[end.spi] + share[end.spi] > end.hard_limit:
            raise ConfigError(
                f"{path}: association {end.spi:#010x} has no sequence numbers left; give it a new SPI and secret."
            )
        used[str(end.spi)] = start[end.spi] + share[end.spi]
    _write(path, used)
    for end in ends:
        end.resume(start[end.spi], used[str(end.spi)])


def _read(path: Path) -> dict[str, int]:
    try:
        text = path.read_text(encoding="ascii")
    except FileNotFoundError:
        return {}
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read ({error}).") from None
    try:
        used = json.loads(text)
    except ValueError:
        used = None
    if not isinstance(used, dict) or not all(type(number) is int and number >= 0 for number in used.values()):
        raise ConfigError(f"{path}: is not a sequence file; restore it, or give all associations new SPIs and secrets.")
    return used


def _write(path: Path, used: dict[str, int]) -> None:
    temporary = path.with_name(path.name + ".new")
    try:
        with open(temporary, "w", encoding="ascii") as file:
            json.dump(used, file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        directory = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be written ({error}).") from None
