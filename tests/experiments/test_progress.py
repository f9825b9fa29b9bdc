"""The progress display: which step, how much is done, how long the rest takes."""

from __future__ import annotations

import io

import pytest

from experiments.progress import Progress, duration_text


class _Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


class _Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def _progress(stream: io.StringIO) -> tuple[Progress, _Clock]:
    clock = _Clock()
    progress = Progress(stream, clock)
    progress.plan(120)
    progress.section("overhead")
    return progress, clock


def test_time_left_follows_the_plan_and_the_pace() -> None:
    progress, clock = _progress(io.StringIO())
    assert progress.remaining() == 120
    progress.step("first", 60)
    clock.now += 60
    progress.finish_step()
    assert progress.remaining() == pytest.approx(60)
    progress.step("second", 30)
    clock.now += 90  # three times as long as planned
    progress.finish_step()
    assert progress.remaining() == pytest.approx(30 * (150 + 60) / (90 + 60))


def test_steps_beyond_the_plan_leave_nothing_and_never_less() -> None:
    stream = io.StringIO()
    progress, clock = _progress(stream)
    progress.step("long", 500)
    clock.now += 700
    progress.step("longer", 10)
    assert progress.remaining() == 0
    assert stream.getvalue().endswith("[100%, 0 s left] overhead: longer\n")


def test_a_new_step_ends_the_one_before_and_a_step_ends_once() -> None:
    progress, clock = _progress(io.StringIO())
    progress.step("first", 60)
    clock.now += 60
    progress.step("second", 60)
    progress.finish_step()
    progress.finish_step()
    progress.close()
    assert progress.remaining() == 0


def test_without_a_terminal_a_line_now_and_then() -> None:
    stream = io.StringIO()
    progress, clock = _progress(stream)
    for number in range(4):
        progress.step(f"step {number}", 1)
        clock.now += 4
    assert stream.getvalue().splitlines() == [
        "[  0%, 2 min 00 s left] overhead: step 0", "[  2%, 2 min 20 s left] overhead: step 3",
    ]  # fmt: skip
    progress.section("attacks")
    progress.step("step 4", 1)
    assert stream.getvalue().splitlines()[-1].endswith("attacks: step 4")


def test_on_a_terminal_one_line_that_is_cleared() -> None:
    stream = _Terminal()
    progress, _ = _progress(stream)
    progress.step("x" * 300, 1)
    first = stream.getvalue()
    assert first.startswith("[  0%, 2 min 00 s left] overhead: xxx")
    assert len(first) == 118
    progress.step("short", 1)
    assert stream.getvalue()[len(first) :].startswith("\r" + " " * 118 + "\r[")
    progress.note("failed")
    progress.close()
    assert stream.getvalue().endswith("\rfailed\n")


def test_an_empty_plan_is_no_division() -> None:
    stream = io.StringIO()
    Progress(stream, _Clock()).step("alone", 1)
    assert stream.getvalue() == "[  0%, 0 s left] : alone\n"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(-1, "0 s"), (0.4, "0 s"), (59.4, "59 s"), (59.9, "60 s"), (60, "1 min 00 s"), (61, "1 min 10 s"),
     (119, "2 min 00 s"), (3601, "60 min 10 s")],
)  # fmt: skip
def test_durations(seconds: float, text: str) -> None:
    assert duration_text(seconds) == text
