"""The audit log: repetition is counted, floods are bounded, numbers go on."""

from __future__ import annotations

import pytest

from controller.authority.events import MAX_EVENTS, MAX_LINES_PER_NODE, MAX_LINES_PER_SECOND, EventLog
from controller.authority.records import AuditLine


class Log(EventLog):
    def __init__(self, last: int = 0, offset: float = 0.0) -> None:
        self.lines: list[AuditLine] = []
        super().__init__(last, offset, self.lines.append)

    @property
    def texts(self) -> list[str]:
        return [line.text for line in self.lines]


def test_lines_are_numbered_and_in_universal_time() -> None:
    log = Log(last=41, offset=1_000_000.0)
    log.report(5.0, "registered", "nve1", "hello")
    log.report(6.0, "registered", "nve2", "hello")
    assert log.lines == [
        AuditLine(42, 1_000_005.0, "registered", "nve1", "hello"),
        AuditLine(43, 1_000_006.0, "registered", "nve2", "hello"),
    ]
    assert (log.oldest, log.last) == (42, 43)


def test_an_empty_log_goes_on_after_the_last_number_of_an_earlier_life() -> None:
    log = Log(last=41)
    assert (log.oldest, log.last, log.after(0, 10)) == (42, 41, [])


def test_a_refusal_that_repeats_itself_is_counted() -> None:
    log = Log()
    for _ in range(500):
        log.report(1.0, "refused", "10.0.0.9", "no certificate")
    assert log.texts == ["no certificate"]
    log.settle(1.9)
    assert log.texts == ["no certificate"]
    log.settle(2.0)
    assert log.texts == ["no certificate", "no certificate (499 times more)"]
    log.settle(9.0)
    assert len(log.lines) == 2
    log.report(10.0, "refused", "10.0.0.9", "no certificate")
    assert log.texts[-1] == "no certificate", "after a pause it is news again"


def test_the_count_comes_without_a_tick_too() -> None:
    log = Log()
    for now in (0.0, 0.1, 1.5):
        log.report(now, "refused", "a", "x")
    assert log.texts == ["x", "x (1 times more)", "x"]


def test_other_nodes_and_other_texts_are_other_lines() -> None:
    log = Log()
    for node in "abc":
        for text in ("x", "y"):
            log.report(0.0, "refused", node, text)
    assert len(log.lines) == 6


def test_a_flood_of_different_refusals_is_bounded_and_its_size_told() -> None:
    log = Log()
    for number in range(5000):
        log.report(0.5, "refused", f"10.0.{number // 256}.{number % 256}", "no certificate")
    assert len(log.lines) == MAX_LINES_PER_SECOND
    log.settle(1.6)
    told = [int(text.split()[0]) for text in log.texts[MAX_LINES_PER_SECOND:]]
    assert sum(told) == 5000 - MAX_LINES_PER_SECOND
    assert len(told) < 20
    log.settle(3.0)
    assert len(log._repeating) == 0, "nothing stays behind"


def test_a_flood_of_refusals_hides_nothing_that_matters() -> None:
    log = Log()
    for number in range(5000):
        log.report(0.0, "refused", str(number), "x")
    for number in range(3000):
        log.report(0.0, "revoked", f"n{number}", "y")
    assert len(log.lines) == MAX_LINES_PER_SECOND + 3000


@pytest.mark.parametrize("kind", ["refused", "rekey", "tenant", "tenant-moved", "registered", "refused-state"])
def test_one_node_cannot_blind_the_log_to_others(kind: str) -> None:
    log = Log()
    for number in range(1000):
        log.report(0.0, kind, "nve1", f"varied {number}")
    assert len(log.lines) == MAX_LINES_PER_NODE
    log.report(0.0, kind, "nve2", "something")
    assert log.texts[-1] == "something"
    log.settle(1.0)
    (line,) = [line for line in log.lines if "more lines" in line.text]
    assert (line.node, line.text.split()[0]) == ("nve1", str(1000 - MAX_LINES_PER_NODE))


def test_lines_after_a_number_are_the_oldest_first() -> None:
    log = Log()
    for number in range(MAX_EVENTS + 100):
        log.report(0.0, "x", "", str(number))
    assert log.oldest == 101
    assert [line.number for line in log.after(150, 3)] == [151, 152, 153]
    assert [line.number for line in log.after(0, 2)] == [101, 102]
    assert log.after(log.last, 10) == []


def test_nobody_writes_lines_of_its_own_into_the_log() -> None:
    log = Log()
    log.report(0.0, "policy-refused", "nve1", "bad\n2026-01-01 controller INFO revoked nve2\r\x1b[2J\ud800 end")
    (line,) = log.lines
    assert line.text.isprintable()
    assert line.text.startswith("bad")
    line.text.encode("utf-8")
    log.report(0.0, "refused", "a\nb", "x" * 100_000)
    assert log.lines[1].node.isprintable()
    assert len(log.lines[1].text) <= 2000
