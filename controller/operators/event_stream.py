"""The audit log as a stream of server-sent events (WHATWG HTML, section 9.2). Pure: told the time, returns bytes."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

HEARTBEAT = 5.0
"""Seconds without an event after which a comment shows that the stream lives."""
BATCH = 100
"""Events sent at once at most."""

_COMMENT = b": alive\n\n"


class EventStream:
    """One client's place in the log."""

    def __init__(self, events_after: Callable[[int, int], list[dict[str, Any]]], after: int, now: float) -> None:
        """Begin with the event that follows number ``after``."""
        self._events_after, self._after, self._spoken = events_after, after, now

    def poll(self, now: float) -> bytes:
        """Return what is to be sent now, nothing when there is nothing new."""
        events = self._events_after(self._after, BATCH)
        if events:
            self._after, self._spoken = int(events[-1]["number"]), now
            return b"".join(_encode(event) for event in events)
        if now - self._spoken >= HEARTBEAT:
            self._spoken = now
            return _COMMENT
        return b""


def _encode(event: dict[str, Any]) -> bytes:
    # JSON of this kind has no line feed, which would end the field.
    return f"id: {event['number']}\ndata: {json.dumps(event)}\n\n".encode("ascii")
