"""Replacing DTLS sessions under load: nobody can be asked for it, but the policy says how old they may become."""

from __future__ import annotations

from typing import Any

from experiments.context import ExperimentError
from experiments.programs import wait_for
from topologies.network import Testbed
from topologies.plan import Kind

_PATIENCE = 10.0


class Sessions:
    """Has DTLS sessions replaced ``rate`` times a second, by a policy in which ``rekey_seconds`` is that short.

    The policy before is in force again at the end. What was really done is read from the NVEs' own counters of complete
    handshakes; it takes both ends of a session for one, so each is counted at one end.
    """

    def __init__(self, testbed: Testbed, rate: int, sender: str = "nve1", audience: str = "nve3") -> None:
        self._testbed = testbed
        self._rate = rate
        self._line = (sender, audience)
        self._before: dict[tuple[str, str], int] = {}
        self._after: dict[tuple[str, str], int] = {}
        self._old: dict[str, float | None] = {}
        self.requests = 0

    def _handshakes(self) -> dict[tuple[str, str], int]:
        """Return complete handshakes of each NVE with each other."""
        counted = {}
        for nve in self._testbed.plan.nodes(Kind.NVE):
            for peer, link in self._testbed.stats(nve)["mechanism"]["sessions"].items():
                counted[nve, peer] = int(link["handshakes"])
        return counted

    def _propose(self, lifetimes: dict[str, float | None]) -> None:
        """Put a policy into force in which the profiles named have another ``rekey_seconds``."""
        document = self._testbed.rest("/v1/policy")["document"]
        for profile in document["profiles"]:
            if profile["name"] in lifetimes:
                profile["rekey_seconds"] = lifetimes[profile["name"]]
        version = int(self._testbed.operate("PUT", "/v1/policy", document)["version"])
        self.requests += 1

        def in_force() -> bool:
            return bool(self._testbed.rest("/v1/policy")["version"] == version)

        if not wait_for(in_force, _PATIENCE, pause=0.05):
            raise ExperimentError("the policy with another rekey_seconds did not come into force")

    def done(self) -> dict[str, Any]:
        """Return what was asked for and what was really replaced."""
        grown = {ends: count - self._before.get(ends, 0) for ends, count in self._after.items()}
        return {
            "requests": self.requests, "failed_requests": 0, "line_rekeys": grown.get(self._line, 0),
            "rekeys": sum(count for (nve, peer), count in grown.items() if nve < peer),
        }  # fmt: skip

    def __enter__(self) -> Sessions:
        if self._rate:
            profiles = self._testbed.rest("/v1/policy")["document"]["profiles"]
            self._old = {item["name"]: item["rekey_seconds"] for item in profiles if item.get("channel") is not None}
            self._propose(dict.fromkeys(self._old, 1 / self._rate))
        self._before = self._handshakes()
        return self

    def __exit__(self, *_: Any) -> None:
        self._after = self._handshakes()
        if self._old:
            self._propose(self._old)
