"""The audit log's newest lines, numbered; what repeats itself is counted instead of written again. Pure."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass

from controller.authority.records import AuditLine

MAX_EVENTS = 1000
"""Lines kept in memory; the store has more."""
REPEAT_WINDOW = 1.0
"""Seconds in which a line that comes again is only counted: an attacker must not fill the log."""
MAX_REPEATING = 1024
"""Different lines that are watched for repetition at once."""
MAX_LINES_PER_NODE = 50
"""New lines a second about one node or address, of the kinds that others cause; beyond, they are counted."""
MAX_LINES_PER_SECOND = 500
"""The same about all together: strangers can have many addresses."""

_MOST_SUPPRESSED = 10

MAX_TEXT = 1500
"""Characters of a line at most."""

_LIMITED = frozenset(
    {
        *("refused", "registered", "disconnected", "refused-state", "rekey"),
        *("tenant", "tenant-left", "tenant-moved", "conflict"),
    }
)
"""Kinds of lines that nodes, strangers and tenants can cause as often as they like."""


@dataclass(slots=True)
class _Repeating:
    since: float
    times: int = 0


class EventLog:
    """Numbers and keeps events. ``written`` is told of each line; ``utc_offset`` turns the clock into UTC."""

    def __init__(self, last_number: int, utc_offset: float, written: Callable[[AuditLine], None]) -> None:
        self._number, self._offset, self._written = last_number, utc_offset, written
        self._lines: deque[AuditLine] = deque(maxlen=MAX_EVENTS)
        self._repeating: dict[tuple[str, str, str], _Repeating] = {}
        self._second, self._this_second = 0.0, 0
        self._of_node: Counter[str] = Counter()
        self._suppressed: Counter[str] = Counter()

    def report(self, now: float, kind: str, node: str, text: str) -> None:
        """Add a line, or count it when it repeats one of the last second. Texts can have parts that nodes chose."""
        node, text = _one_line(node), _one_line(text)
        if kind in _LIMITED and not self._admits(now, kind, node, text):
            return
        self._write(now, kind, node, text)

    def _admits(self, now: float, kind: str, node: str, text: str) -> bool:
        self.settle(now)
        entry = self._repeating.get((kind, node, text))
        if entry is not None:
            entry.times += 1
            return False
        full = self._this_second >= MAX_LINES_PER_SECOND or len(self._repeating) >= MAX_REPEATING
        if full or self._of_node[node] >= MAX_LINES_PER_NODE:
            known = node in self._suppressed or len(self._suppressed) < MAX_REPEATING
            self._suppressed[node if known else ""] += 1
            return False
        self._this_second += 1
        self._of_node[node] += 1
        self._repeating[kind, node, text] = _Repeating(now)
        return True

    def settle(self, now: float) -> None:
        """Write how often lines were repeated, once their second is over."""
        if now - self._second >= 1.0:
            suppressed, self._suppressed = self._suppressed, Counter()
            self._second, self._this_second, self._of_node = now, 0, Counter()
            for node, count in suppressed.most_common(_MOST_SUPPRESSED):
                self._write(now, "refused", node, f"{count} more lines in one second, not listed")
            if rest := sum(suppressed.values()) - sum(count for _, count in suppressed.most_common(_MOST_SUPPRESSED)):
                self._write(now, "refused", "", f"{rest} more lines about others in one second, not listed")
        over = [key for key, entry in self._repeating.items() if now - entry.since >= REPEAT_WINDOW]
        for key in over:
            times = self._repeating.pop(key).times
            if times:
                self._write(now, key[0], key[1], f"{key[2]} ({times} times more)")

    def _write(self, now: float, kind: str, node: str, text: str) -> None:
        self._number += 1
        line = AuditLine(self._number, now + self._offset, kind, node, text)
        self._lines.append(line)
        self._written(line)

    def after(self, number: int, limit: int) -> list[AuditLine]:
        """Return up to ``limit`` lines that follow ``number``, oldest first, as far as they are in memory."""
        return [line for line in self._lines if line.number > number][:limit]

    @property
    def oldest(self) -> int:
        """The number of the oldest line in memory; one more than the last where there is none."""
        return self._lines[0].number if self._lines else self._number + 1

    @property
    def last(self) -> int:
        """The number of the newest line."""
        return self._number


def _one_line(text: str) -> str:
    """Return a text that cannot pass for several lines, nor do anything to a terminal or a database."""
    text = text[:MAX_TEXT]
    return text if text.isprintable() else "".join(char if char.isprintable() else "?" for char in text)
