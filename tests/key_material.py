"""Finds what looks like key material in text that must hold none, without knowing the keys.

The run's association secrets are nowhere outside the programs' memory, so they are known by their shape:
32 bytes, in base64 (43 characters and '=') or in hexadecimal. Private keys in files are compared themselves.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

_BASE64_WORD = re.compile(r"[A-Za-z0-9+/_-]{43,}")
_HEX_WORD = re.compile(r"(?<![0-9A-Fa-f])(?:[0-9a-f]{64,}|[0-9A-F]{64,})")
_CLASSES = tuple(re.compile(text) for text in ("[A-Z]", "[a-z]", "[0-9]"))


def suspicious(text: str) -> list[str]:
    """Return the words of ``text`` that may be a key of 32 bytes or more.

    A random base64 word of that length lacks capitals, small letters or digits in less than one case of a
    thousand; paths and sentences joined by underscores lack capitals.
    """
    words = [word for word in _BASE64_WORD.findall(text) if all(kind.search(word) for kind in _CLASSES)]
    return words + _HEX_WORD.findall(text)


def private_lines(folder: Path) -> list[str]:
    """Return the lines of the private keys of a folder, but for remainders that could be in any text."""
    lines = [line for path in sorted(folder.glob("*.key")) for line in path.read_text().splitlines()]
    return [line for line in lines if len(line) >= 20 and not line.startswith("-----")]


def leaks(text: str, secrets: Iterable[str]) -> list[str]:
    """Return what ``text`` has of ``secrets``, of marks of private keys, and of suspicious words."""
    return [secret for secret in (*secrets, "PRIVATE KEY") if secret in text] + suspicious(text)


def leaks_of_folder(folder: Path, secrets: Iterable[str]) -> dict[str, list[str]]:
    """Return each file below ``folder`` that leaks, and what."""
    known = list(secrets)
    found = {
        str(path.relative_to(folder)): leaks(path.read_bytes().decode("latin-1"), known)
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
    return {name: words for name, words in found.items() if words}
