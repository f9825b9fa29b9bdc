"""Marked messages, and the programs that send and log them."""

from __future__ import annotations

import io
import json
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from experiments import traffic
from experiments.samples import read_lines
from experiments.traffic import MESSAGE_MARK, Message, Sender, build_message, parse_message, run_sender

LABELS = st.text("abcdefghijklmnopqrstuvwxyz_-", min_size=1, max_size=20)
NUMBERS = st.integers(0, 10**6)


@given(LABELS, NUMBERS, NUMBERS, st.integers(80, 1400))
def test_what_was_built_is_read_back(label: str, trial: int, index: int, size: int) -> None:
    payload = build_message(label, trial, index, size, "0123456789abcdef")
    assert len(payload) == size
    assert parse_message(payload) == Message(label, trial, index, "0123456789abcdef")


def test_every_message_is_unique() -> None:
    assert len({build_message("a", 0, 0, 100) for _ in range(50)}) == 50


def test_a_mark_that_does_not_fit_is_an_error() -> None:
    smallest = len(MESSAGE_MARK) + len("a:0:0:") + 16 + 1
    assert len(build_message("a", 0, 0, smallest)) == smallest
    with pytest.raises(ValueError, match="has no room for its mark"):
        build_message("a", 0, 0, smallest - 1)


@pytest.mark.parametrize(
    "payload",
    [
        b"", b"\x00" * 60, b"tenant-dat", b"other:a:0:0:0:", MESSAGE_MARK, MESSAGE_MARK + b"a:0:0",
        MESSAGE_MARK + b"a:x:0:ff:", MESSAGE_MARK + b"a:0::ff:", MESSAGE_MARK + b"\xff\xfe:0:0:ff:",
        b" " + build_message("a", 0, 0, 60),
    ],
)  # fmt: skip
def test_what_is_no_message(payload: bytes) -> None:
    assert parse_message(payload) is None


@given(st.binary(max_size=80))
def test_nothing_escapes_on_any_payload(rest: bytes) -> None:
    parse_message(rest)
    parse_message(MESSAGE_MARK + rest)


class _Socket:
    """Takes what is sent; refuses what is larger than ``largest`` bytes, as the kernel does."""

    def __init__(self, largest: int = 1400) -> None:
        self.sent: list[tuple[bytes, tuple[str, int]]] = []
        self._largest = largest

    def bind(self, _address: tuple[str, int]) -> None:
        pass

    def sendto(self, payload: bytes, destination: tuple[str, int]) -> None:
        if len(payload) > self._largest:
            raise OSError(90, "Message too long")
        self.sent.append((payload, destination))


class _Clock:
    def __init__(self) -> None:
        self.now = 50.0

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        assert seconds >= 0
        self.now += seconds

    def time_ns(self) -> int:
        return int(self.now * 1e9)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> _Clock:
    made = _Clock()
    monkeypatch.setattr(traffic, "time", made)
    return made


@pytest.fixture
def outlet(monkeypatch: pytest.MonkeyPatch) -> Iterator[_Socket]:
    made = _Socket()
    with monkeypatch.context() as context:
        context.setattr(socket, "socket", lambda *_arguments: made)
        yield made


@pytest.fixture
def sender(tmp_path: Path, outlet: _Socket, clock: _Clock) -> Sender:
    return Sender(tmp_path / "sent.jsonl", "10.0.0.1")


def burst(**fields: Any) -> dict[str, Any]:
    return {"do": "send", "label": "x", "trial": 3, "sizes": [100, 200], "interval": 0.01, "destination": "10.0.0.2",
            **fields}  # fmt: skip


def test_a_burst_is_sent_and_logged(tmp_path: Path, sender: Sender, outlet: _Socket, clock: _Clock) -> None:
    begin = clock.now
    assert sender.command(burst()) == {"ok": True, "sent": 2, "wanted": 2}
    assert clock.now - begin == pytest.approx(0.01)  # between two datagrams, not behind the last
    log = read_lines(tmp_path / "sent.jsonl")
    assert [bytes.fromhex(entry["payload"]) for entry in log] == [payload for payload, _ in outlet.sent]
    assert [len(payload) for payload, _ in outlet.sent] == [100, 200]
    assert {destination for _, destination in outlet.sent} == {("10.0.0.2", traffic.PORT)}


def test_what_the_kernel_refuses_counts_as_failed(tmp_path: Path, sender: Sender, outlet: _Socket) -> None:
    assert sender.command(burst(sizes=[100, 5000])) == {"ok": True, "sent": 1, "wanted": 2}
    log = read_lines(tmp_path / "sent.jsonl")
    assert [entry["event"] for entry in log] == ["sent", "sent", "failed"]
    assert "Message too long" in log[-1]["error"]


def test_small_frames_carry_no_mark(sender: Sender, outlet: _Socket) -> None:
    sender.command(burst(unmarked=True, sizes=[22]))
    assert outlet.sent[0][0] == bytes(22)


def test_a_stream_goes_on_during_a_burst_until_it_is_stopped(sender: Sender, outlet: _Socket, clock: _Clock) -> None:
    assert sender.until_next() is None
    stream = {"do": "stream", "label": "legitimate", "interval": 0.02, "size": 80, "destination": "10.0.0.2"}
    sender.command(stream)
    assert sender.until_next() == 0
    sender.command(burst(sizes=[100] * 5, interval=0.05))
    labels = [message.label for payload, _ in outlet.sent if (message := parse_message(payload))]
    assert labels.count("x") == 5
    assert 9 <= labels.count("legitimate") <= 11  # 0.2 s of it
    stopped = sender.command({"do": "stop"})
    assert stopped == {"ok": True, "streamed": labels.count("legitimate")}
    clock.now += 1
    sender.tick()
    assert len(outlet.sent) == len(labels)
    messages = [message for payload, _ in outlet.sent if (message := parse_message(payload))]
    numbers = [message.index for message in messages if message.label == "legitimate"]
    assert numbers == list(range(len(numbers)))


def test_a_log_of_marks_has_no_payload_and_a_stream_says_where_it_begins(
    tmp_path: Path, outlet: _Socket, clock: _Clock
) -> None:
    sender = Sender(tmp_path / "marks.jsonl", "10.0.0.1", marks_only=True)
    stream = {"do": "stream", "label": "a-b", "trial": 7, "interval": 0.02, "size": 80, "destination": "10.0.0.2"}
    assert sender.command(stream) == {"ok": True, "first": 0}
    sender.tick()
    sender.command({"do": "stop"})
    assert sender.command({**stream, "trial": 8}) == {"ok": True, "first": 1}
    sender.tick()
    sender.command(burst(unmarked=True, sizes=[22]))
    entries = read_lines(tmp_path / "marks.jsonl")
    seen = [{key: entry.get(key) for key in ("label", "trial", "index")} for entry in entries]
    assert seen[:2] == [{"label": "a-b", "trial": 7, "index": 0}, {"label": "a-b", "trial": 8, "index": 1}]
    assert {"label": None, "trial": None, "index": None} in seen
    assert "payload" not in (tmp_path / "marks.jsonl").read_text()


def test_an_unknown_command_is_an_error(sender: Sender) -> None:
    with pytest.raises(ValueError, match="unknown command 'sing'"):
        sender.command({"do": "sing"})


def test_commands_come_in_any_pieces(sender: Sender, outlet: _Socket) -> None:
    reading, writing = os.pipe()
    text = json.dumps(burst(sizes=[100])) + "\n" + json.dumps({"do": "stop"}) + "\n" + '{"do": "st'
    os.write(writing, text.encode())
    os.close(writing)
    answers = io.StringIO()
    with os.fdopen(reading) as commands:
        run_sender(sender, commands, answers)
    assert [json.loads(line) for line in answers.getvalue().splitlines()] == [
        {"ready": True}, {"ok": True, "sent": 1, "wanted": 1}, {"ok": True, "streamed": 0},
    ]  # fmt: skip
