"""Cover traffic: which sealer's next dummy packet is due (SEC-GEN-7)."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping

from geneve.overhead import ETHERNET_HEADER_SIZE
from geneve.security.dummies import DummySchedule
from nve.sealers import Key, Target


class CoverTraffic:
    """A schedule for each target whose profile asks for dummies. Groups get none: each peer has its own."""

    def __init__(self) -> None:
        self._random = random.SystemRandom()  # gaps that an observer could predict would tell dummies from data
        self._schedules: dict[Key, DummySchedule] = {}
        self._targets: dict[Key, Target] = {}
        self._by_target: dict[int, DummySchedule] = {}

    def apply(self, targets: Mapping[Key, Target], now: float) -> None:
        """Take over the targets of a new state; schedules of those that stay go on."""
        self._targets = {
            key: target
            for key, target in targets.items()
            if target.sealer.terms.dummies is not None and not key[2]
        }
        kept = self._schedules
        self._schedules = {}
        for key, target in self._targets.items():
            dummies = target.sealer.terms.dummies
            assert dummies is not None
            schedule = kept.get(key)
            if schedule is None or schedule.dummies != dummies:
                schedule = DummySchedule(dummies, now, self._random.random)
            self._schedules[key] = schedule
        self._by_target = {id(target): self._schedules[key] for key, target in self._targets.items()}

    def data_sent(self, target: Target, now: float) -> None:
        """Note that a data packet went to ``target``."""
        schedule = self._by_target.get(id(target))
        if schedule is not None:
            schedule.data_sent(now)

    def due(self, now: float) -> Iterator[tuple[Target, int]]:
        """Yield a target and the size of the frame to imitate, in bytes, for each dummy that is due."""
        for key, schedule in self._schedules.items():
            target = self._targets[key]
            for _ in range(schedule.due(now)):
                yield target, schedule.frame_size(target.network.mtu + ETHERNET_HEADER_SIZE)

    def next_due(self) -> float | None:
        """Return when the next dummy is due, or None."""
        return min((schedule.next_due() for schedule in self._schedules.values()), default=None)
