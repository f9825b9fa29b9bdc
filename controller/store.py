"""The NVA's memory on disk: SQLite, one transaction for each decision, secrets sealed (thin shell).

Secrets (keys of associations, the SPI permutation's key) are sealed with AES-256-GCM under a key that is in a file
of its own, mode 0600, bound to the record they belong to. Who has the database alone learns no key; who changes a
sealed secret or moves it to another record is found out when it is read.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import secrets
import sqlite3
import stat
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from controller.authority.records import SECRET_FIELD, SPI_RECORD, AuditLine, Change, Drop, Keep, Saved
from geneve.errors import ConfigError

KEY_SIZE = 32
"""Bytes of the sealing key."""
MAX_AUDIT_LINES = 100_000
"""Audit lines kept; the oldest go."""

_VERSION = 1
_NONCE_SIZE = 12
_PRUNE_EVERY = 1000
_SCHEMA = """
CREATE TABLE IF NOT EXISTS record (kind TEXT NOT NULL, name TEXT NOT NULL, content TEXT NOT NULL,
                                   PRIMARY KEY (kind, name)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS audit (number INTEGER PRIMARY KEY, time REAL NOT NULL, kind TEXT NOT NULL,
                                  node TEXT NOT NULL, text TEXT NOT NULL);
"""


class StoreError(RuntimeError):
    """The database cannot be read or written; the text names the file and says what to do."""


class Store:
    """The records of one NVA. ConfigError when the files cannot be used."""

    def __init__(self, database: Path | None, key: bytes) -> None:
        """Open ``database``, made if it is missing (mode 0600); None keeps everything in memory only."""
        self._path = str(database) if database is not None else ":memory:"
        self._aead = AESGCM(key)
        self._lines = 0
        try:
            if database is not None:
                os.close(os.open(database, os.O_RDWR | os.O_CREAT, 0o600))
                _refuse_open_file(database)
            # One lock around all calls is the shell's; SQLite's own check would refuse its threads.
            self._connection = sqlite3.connect(self._path, isolation_level=None, check_same_thread=False)
            self._prepare()
        except (OSError, sqlite3.Error) as error:
            raise ConfigError(
                f"{self._path}: no usable database ({error}); give a file of this NVA or a new name."
            ) from None

    def _prepare(self) -> None:
        (version,) = self._connection.execute("PRAGMA user_version").fetchone()
        if version not in (0, _VERSION):
            raise ConfigError(f"{self._path}: written by version {version} of this program; expected {_VERSION}.")
        # What was committed survives a killed process; only a machine that fails can lose the newest.
        self._connection.execute("PRAGMA journal_mode = WAL")
        self._connection.execute("PRAGMA synchronous = NORMAL")
        self._connection.executescript(_SCHEMA)
        self._connection.execute(f"PRAGMA user_version = {_VERSION}")

    def load(self) -> Saved:
        """Return all records, secrets opened; ConfigError when one cannot be read."""
        saved: dict[str, dict[str, Mapping[str, Any]]] = {}
        try:
            for kind, name, text in self._connection.execute("SELECT kind, name, content FROM record"):
                content = json.loads(text)
                if not isinstance(content, dict) or not isinstance(content.get(SECRET_FIELD, ""), str):
                    raise ValueError(f"the record '{kind} {name}' is damaged")
                if SECRET_FIELD in content:
                    content[SECRET_FIELD] = self._open(kind, name, content[SECRET_FIELD])
                saved.setdefault(kind, {})[name] = content
        except (sqlite3.Error, ValueError, InvalidTag) as error:
            reason = "a secret does not open under this key" if isinstance(error, InvalidTag) else str(error)
            raise ConfigError(f"{self._path}: {reason}; give the key file it was written with.") from None
        return saved

    def last_audit_number(self) -> int:
        """Return the number of the newest line of the audit log, 0 when there is none."""
        (number,) = self._connection.execute("SELECT max(number) FROM audit").fetchone()
        return int(number or 0)

    def audit_after(self, number: int, limit: int) -> list[AuditLine]:
        """Return up to ``limit`` lines of the audit log that follow ``number``, oldest first."""
        query = "SELECT number, time, kind, node, text FROM audit WHERE number > ? ORDER BY number LIMIT ?"
        return [AuditLine(*row) for row in self._connection.execute(query, (number, limit))]

    def commit(self, changes: Iterable[Change]) -> None:
        """Write all changes or none; StoreError when that fails."""
        changes = list(changes)
        # SPIs that were reserved must stay so even if the machine fails: their nodes live on elsewhere.
        lasting = any(isinstance(change, Keep) and (change.kind, change.name) == SPI_RECORD for change in changes)
        try:
            self._connection.execute(f"PRAGMA synchronous = {'FULL' if lasting else 'NORMAL'}")
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                for change in changes:
                    self._write(change)
                self._connection.execute("COMMIT")
            except BaseException:
                with contextlib.suppress(sqlite3.Error):
                    self._connection.execute("ROLLBACK")
                raise
        except sqlite3.Error as error:
            raise StoreError(f"{self._path}: cannot be written ({error}); make room or mend it and restart.") from None

    def _write(self, change: Change) -> None:
        execute = self._connection.execute
        if isinstance(change, Keep):
            content = dict(change.content)
            if SECRET_FIELD in content:
                content[SECRET_FIELD] = self._seal(change.kind, change.name, content[SECRET_FIELD])
            execute("INSERT OR REPLACE INTO record VALUES (?, ?, ?)", (change.kind, change.name, json.dumps(content)))
        elif isinstance(change, Drop):
            execute("DELETE FROM record WHERE kind = ? AND name = ?", (change.kind, change.name))
        else:
            line = (change.number, change.time, change.kind, change.node, change.text)
            execute("INSERT OR REPLACE INTO audit VALUES (?, ?, ?, ?, ?)", line)
            self._lines += 1
            if self._lines % _PRUNE_EVERY == 0:
                execute("DELETE FROM audit WHERE number <= ?", (change.number - MAX_AUDIT_LINES,))

    def _seal(self, kind: str, name: str, secret: str) -> str:
        nonce = secrets.token_bytes(_NONCE_SIZE)
        sealed = self._aead.encrypt(nonce, secret.encode(), _binding(kind, name))
        return base64.b64encode(nonce + sealed).decode("ascii")

    def _open(self, kind: str, name: str, sealed: str) -> str:
        data = base64.b64decode(sealed, validate=True)
        return self._aead.decrypt(data[:_NONCE_SIZE], data[_NONCE_SIZE:], _binding(kind, name)).decode()

    def close(self) -> None:
        """Close the database."""
        self._connection.close()


def _binding(kind: str, name: str) -> bytes:
    return json.dumps(["geneve testbed store", kind, name]).encode()


def load_key(path: Path) -> bytes:
    """Return the sealing key (64 hexadecimal digits) that ``path`` has, made if it is missing, mode 0600.

    ConfigError when the file cannot be used or is open to others.
    """
    try:
        if not path.exists():
            _make_key(path)
        _refuse_open_file(path)
        text = path.read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be used ({error}); expected a key file of this NVA.") from None
    try:
        key = bytes.fromhex(text)
    except ValueError:
        key = b""
    if len(key) != KEY_SIZE:
        raise ConfigError(f"{path}: expected {2 * KEY_SIZE} hexadecimal digits, the key that seals the store.")
    return key


def _make_key(path: Path) -> None:
    """Write a new key so that the file is whole from the first moment; one that somebody else has just made stays."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "w", encoding="ascii") as file:
            file.write(secrets.token_hex(KEY_SIZE) + "\n")
            file.flush()
            os.fsync(file.fileno())
        with contextlib.suppress(FileExistsError):
            os.link(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _refuse_open_file(path: Path) -> None:
    if os.stat(path).st_mode & (stat.S_IRWXG | stat.S_IRWXO):
        raise ConfigError(f"{path}: holds secrets and is open to other users; run 'chmod 600 {path}'.")
