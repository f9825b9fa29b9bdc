"""Rate and delay of underlay links with the kernel's traffic control, where the kernel has it."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Sequence

from geneve.errors import ConfigError
from topologies.plan import Shaping

_BURST_BYTES = 65536
_QUEUE_MS = 50

Run = Callable[[Sequence[str]], "subprocess.CompletedProcess[str]"]


def shaping_argv(entry: Shaping) -> list[str]:
    """Return the ``tc`` command for one interface: netem when there is a delay, else a token bucket."""
    argv = ["tc", "qdisc", "add", "dev", entry.interface, "root"]
    if entry.delay_ms is not None:
        argv += ["netem", "delay", f"{entry.delay_ms:g}ms"]
        return argv if entry.rate_mbit is None else [*argv, "rate", f"{entry.rate_mbit:g}mbit"]
    rate = ["tbf", "rate", f"{entry.rate_mbit:g}mbit"]
    return [*argv, *rate, "burst", str(_BURST_BYTES), "latency", f"{_QUEUE_MS}ms"]


def apply_shaping(entries: Sequence[Shaping], run: Run) -> None:
    """Apply all; ConfigError says what the scenario can ask for instead where the kernel cannot."""
    for entry in entries:
        done = run(shaping_argv(entry))
        if done.returncode != 0:
            kind = "netem" if entry.delay_ms is not None else "tbf"
            raise ConfigError(
                f"key 'underlay.links' asks for a rate or delay at {entry.interface}, and this kernel has no "
                f"working {kind} ({done.stderr.strip()}); use 'impair' of a transit device on the link instead."
            )
