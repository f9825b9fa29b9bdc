"""Programs that run in the background for the length of a testbed, each with its own log file."""

from __future__ import annotations

import contextlib
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")

_STOP_SECONDS = 5.0
_TAIL_LINES = 15


class TestbedError(RuntimeError):
    """The network could not be built or a program in it failed; the text says what and shows its log."""

    __test__ = False  # the name starts with Test, but it is no test class


class Daemon:
    """One background program. It is ended by its own process id and by nothing else."""

    def __init__(
        self,
        name: str,
        argv: Sequence[str],
        log: Path,
        environment: Mapping[str, str] | None = None,
        cwd: Path | None = None,
    ) -> None:
        self.name = name
        self.log = log
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("ab") as output:
            # A session of its own: Ctrl-C is for the runner, which then stops the programs in order.
            self.process = subprocess.Popen(
                list(argv),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                env=None if environment is None else dict(environment),
                cwd=cwd,
            )

    @property
    def pid(self) -> int:
        """The program's process id."""
        return self.process.pid

    def check(self) -> None:
        """Raise TestbedError when the program has ended."""
        code = self.process.poll()
        if code is not None:
            raise TestbedError(f"{self.name} ended with exit code {code}; its log says:\n{self.tail()}")

    def tail(self) -> str:
        """Return the last lines of the log, indented."""
        with contextlib.suppress(OSError):
            lines = self.log.read_text(errors="replace").splitlines()[-_TAIL_LINES:]
            return "\n".join(f"    {line}" for line in lines) or "    (nothing)"
        return "    (no log)"


def stop_all(daemons: Sequence[Daemon]) -> None:
    """Ask the programs to end, all at once, and end those that do not within five seconds."""
    for daemon in daemons:
        if daemon.process.poll() is None:
            daemon.process.terminate()
    deadline = time.monotonic() + _STOP_SECONDS
    for daemon in daemons:
        try:
            daemon.process.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            daemon.process.kill()
            daemon.process.wait()


def wait_for(
    what: str, condition: Callable[[], T | None], daemons: Sequence[Daemon] = (), seconds: float = 20.0
) -> T:
    """Return the first true value of ``condition``; TestbedError when a daemon ends or time runs out."""
    deadline = time.monotonic() + seconds
    pause = 0.005
    while True:
        value = condition()
        if value:
            return value
        for daemon in daemons:
            daemon.check()
        if time.monotonic() >= deadline:
            logs = "".join(f"\n  {daemon.name} logged last:\n{daemon.tail()}" for daemon in daemons)
            raise TestbedError(f"waited {seconds:g} s in vain for {what}.{logs}")
        # Between two looks at a condition that has no event to wait for.
        time.sleep(pause)
        pause = min(0.05, pause * 1.5)
