"""Programs that an experiment runs inside nodes: started, asked over pipes, always ended.

Every program speaks one JSON object a line on standard output; its standard error goes to a file that
stays with the results.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

_ROOT = Path(__file__).resolve().parent.parent


class ProgramError(RuntimeError):
    """A program in a node did not do what it was asked; the text has node, program and its last words."""


class Node(Protocol):
    """What this module needs of a testbed node."""

    @property
    def name(self) -> str:
        """The node's name."""

    def popen(self, argv: Sequence[str], **kwargs: Any) -> subprocess.Popen[Any]:
        """Start a program in the node's network namespace."""


class Program:
    """One running program of a node."""

    def __init__(self, node: Node, argv: Sequence[str], errors: Path) -> None:
        self.node = node
        self.argv = list(argv)
        errors.parent.mkdir(parents=True, exist_ok=True)
        self._errors = errors
        self._buffer = b""
        with errors.open("ab") as sink:
            self.process = node.popen(
                self.argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=sink, cwd=_ROOT
            )

    def ask(self, order: dict[str, Any], timeout: float = 10.0) -> dict[str, Any]:
        """Send one command and return its answer; ProgramError when none comes within ``timeout`` seconds."""
        assert self.process.stdin is not None
        try:
            self.process.stdin.write(json.dumps(order).encode() + b"\n")
            self.process.stdin.flush()
        except OSError:
            raise ProgramError(self._fault("is gone")) from None
        return self.answer(timeout)

    def answer(self, timeout: float = 10.0) -> dict[str, Any]:
        """Return the next line that the program says, as an object."""
        assert self.process.stdout is not None
        descriptor = self.process.stdout.fileno()
        deadline = time.monotonic() + timeout
        while b"\n" not in self._buffer:
            readable, _, _ = select.select([descriptor], [], [], max(0.0, deadline - time.monotonic()))
            if not readable:
                raise ProgramError(self._fault(f"did not answer within {timeout:.0f} s"))
            chunk = os.read(descriptor, 1 << 16)
            if not chunk:
                raise ProgramError(self._fault("ended"))
            self._buffer += chunk
        line, self._buffer = self._buffer.split(b"\n", 1)
        answer = json.loads(line)
        if not isinstance(answer, dict):
            raise ProgramError(self._fault("did not answer with an object"))
        return answer

    def _fault(self, what: str) -> str:
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(0.2)
        words = tail(self._errors)
        code = self.process.poll()
        state = "" if code is None else f" (exit code {code})"
        return f"{self.node.name}: {' '.join(self.argv[:6])} {what}{state}{': ' + words if words else ''}"

    def stop(self) -> int | None:
        """End the program and return its exit code, None when it had to be killed."""
        return stop_process(self.process)


def stop_process(
    process: subprocess.Popen[bytes], sign: int = signal.SIGTERM, patience: float = 5.0
) -> int | None:
    """End a process that was started here; its exit code, or None when it had to be killed."""
    if process.stdin is not None:
        with contextlib.suppress(OSError):
            process.stdin.close()
    if process.poll() is None:
        process.send_signal(sign)
    try:
        code: int | None = process.wait(patience)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
        code = None
    if process.stdout is not None:
        process.stdout.close()
    if process.stderr is not None:
        process.stderr.close()
    return code


def python_module(module: str, *arguments: str) -> list[str]:
    """Return the argv that runs one of our modules with this very Python."""
    return [sys.executable, "-m", module, *arguments]


def tail(path: Path, size: int = 400) -> str:
    """Return the last ``size`` characters of a text file on one line; nothing when there is no file."""
    if not path.exists():
        return ""
    return " ".join(path.read_text(errors="replace")[-size:].split())


def wait_for(condition: Callable[[], bool], timeout: float, pause: float = 0.01) -> bool:
    """Ask ``condition`` every ``pause`` seconds until it holds or ``timeout`` is over; whether it held."""
    deadline = time.monotonic() + timeout
    while not condition():
        if time.monotonic() >= deadline:
            return False
        time.sleep(pause)
    return True
