"""Frames that wait for keys, and the keys to ask the NVA for (pure; times in seconds of one clock).

Keys for pairs that never talk are not made. Where policy says SECURE and there is nothing to seal with, the frame
waits here while the NVA is asked, for a short time and within bounds: a tenant can make frames wait, and must not
make the NVE run out of memory, nor have one destination take the room of all others. A frame leaves in one of
three ways only: decided anew and sealed once there are keys, dropped and counted, or taken along by a restart.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

from geneve.control.demand import MAX_DEMANDS, Demand
from geneve.drops import DropReason
from nve.sealers import Key

MAX_FRAMES_PER_KEY = 64
"""Frames that wait for the same keys at most."""
MAX_FRAMES_PER_VNI = 256
"""Frames of one virtual network that wait at most: its tenants must not take the room of all others'."""
MAX_FRAMES = 1024
"""Frames that wait in all at most."""
MAX_BYTES = 2 * 1024 * 1024
"""Bytes of frames that wait in all at most."""
WAIT_SECONDS = 2.0
"""How long a frame waits at most."""
DEMAND_RETRY = 1.0
"""Seconds between two demands for the same keys while frames wait for them."""
REFUSED_PAUSE = 5.0
"""Seconds for which nothing is asked again that the NVA refused; also between demands no frame waits for."""


@dataclass(frozen=True, slots=True)
class Waiting:
    """A frame of ``vni`` since when it waits, its place in the order of arrival, and for a flooded copy whose it is."""

    number: int
    vni: int
    frame: bytes
    only: str | None
    since: float


def demand_of(key: Key) -> Demand:
    """Return the demand for the keys of a sealer."""
    vni, audience, multicast, profile, rule = key
    return Demand(audience=audience, multicast=multicast, vni=vni, profile=profile, rule=rule)


def unmapped(vni: int) -> Key:
    """Return the key under which frames wait whose sender's place the NVA has not confirmed; there are none to ask for.
    """
    return vni, "", False, "", None


def key_of(demand: Demand) -> Key:
    """Return the key of the sealer that ``demand`` is for."""
    return demand.vni, demand.audience, demand.multicast, demand.profile, demand.rule


class WaitingFrames:
    """Queues by sealer, and when to ask for each sealer's keys.

    A demand *stands* while keys are wanted though no frame waits for them (see :meth:`stand`).
    """

    def __init__(self) -> None:
        self._queues: dict[Key, deque[Waiting]] = {}
        self._frames = 0
        self._of_vni: Counter[int] = Counter()
        self._bytes = 0
        self._number = 0
        self._asks: dict[Key, float] = {}
        self._standing: dict[Key, None] = {}
        self._refused: dict[Key, float] = {}

    def __len__(self) -> int:
        return self._frames

    def add(
        self, key: Key, vni: int, frame: bytes, now: float, only: str | None = None, again: Waiting | None = None
    ) -> DropReason | None:
        """Have a frame wait for the keys of ``key``, or return why it cannot.

        ``only`` names the peer whose copy of a flooded frame this is. ``again`` is what the frame was when it
        waited before, for other keys: it keeps its place and its time.
        """
        if key in self._refused:
            if now < self._refused[key]:
                return DropReason.NO_ASSOCIATION
            del self._refused[key]
        waits_for_keys = bool(key[1])
        if waits_for_keys:
            self._asks.setdefault(key, now)
        queue = self._queues.get(key)
        full = queue is not None and len(queue) >= MAX_FRAMES_PER_KEY
        full = full or self._of_vni[vni] >= MAX_FRAMES_PER_VNI
        if full or self._frames >= MAX_FRAMES or self._bytes + len(frame) > MAX_BYTES:
            return DropReason.KEY_WAIT_OVERFLOW if waits_for_keys else DropReason.UNAUTHORISED_SOURCE
        if again is None:
            self._number += 1
            again = Waiting(self._number, vni, frame, only, now)
        elif only is not None:
            again = replace(again, only=only)
        if queue is None:
            queue = self._queues[key] = deque()
        queue.append(again)
        self._frames += 1
        self._of_vni[vni] += 1
        self._bytes += len(frame)
        return None

    def take(self, chosen: Callable[[Key], bool]) -> list[Waiting]:
        """Remove and return the frames that wait for chosen keys, in the order in which they came."""
        taken = [item for key in [key for key in self._queues if chosen(key)] for item in self._remove(key)]
        taken.sort(key=lambda item: item.number)
        return taken

    def _remove(self, key: Key) -> deque[Waiting]:
        queue = self._queues.pop(key, deque())
        self._frames -= len(queue)
        self._of_vni.subtract(item.vni for item in queue)
        self._bytes -= sum(len(item.frame) for item in queue)
        return queue

    def met(self, keys: Iterable[Key]) -> None:
        """Ask no more for ``keys``: they are there."""
        for key in keys:
            self._asks.pop(key, None)
            self._refused.pop(key, None)

    def stand(self, keys: Iterable[Key], now: float) -> None:
        """Ask for exactly these keys too though no frame waits for them, as long as they are missing."""
        self._standing = dict.fromkeys(keys)
        for key in self._standing:
            self._asks.setdefault(key, now)

    def take_demands(self, now: float) -> list[Demand]:
        """Return what the NVA is to be asked now, at most MAX_DEMANDS; the rest is due at the next call."""
        demands: list[Demand] = []
        for key in [key for key, due in self._asks.items() if due <= now]:
            waited_for = key in self._queues
            if not waited_for and key not in self._standing:
                del self._asks[key]  # it was kept so that the next frame does not ask again at once
                continue
            if len(demands) == MAX_DEMANDS:
                break
            demands.append(demand_of(key))
            self._asks[key] = now + (DEMAND_RETRY if waited_for else REFUSED_PAUSE)
        return demands

    def refuse(self, demand: Demand, now: float) -> int:
        """Note that the NVA gives no such keys; return how many frames are dropped for that."""
        key = key_of(demand)
        self._refused[key] = now + REFUSED_PAUSE
        self._asks.pop(key, None)
        if key in self._standing:
            self._asks[key] = now + REFUSED_PAUSE
        return len(self._remove(key))

    def expire(self, now: float) -> Counter[DropReason]:
        """Drop what has waited for too long; return how many frames that are, by the reason."""
        expired: Counter[DropReason] = Counter()
        for key, queue in list(self._queues.items()):
            while queue and queue[0].since + WAIT_SECONDS <= now:
                item = queue.popleft()
                self._bytes -= len(item.frame)
                self._of_vni[item.vni] -= 1
                expired[DropReason.KEY_WAIT_TIMEOUT if key[1] else DropReason.UNAUTHORISED_SOURCE] += 1
            if not queue:
                del self._queues[key]
        self._frames -= expired.total()
        if self._refused:
            self._refused = {key: until for key, until in self._refused.items() if now < until}
        return expired

    def next_deadline(self) -> float | None:
        """Return when :meth:`expire` or :meth:`take_demands` is needed next, or None."""
        first = min((queue[0].since + WAIT_SECONDS for queue in self._queues.values()), default=None)
        ask = min(self._asks.values(), default=None)
        return min((time for time in (first, ask) if time is not None), default=None)
