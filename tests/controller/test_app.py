"""Which of several connections of one switch is used, and when one is given up; without OpenFlow."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest

from controller.fabric import app, openflow
from controller.fabric.app import Switches, SwitchWriter
from controller.fabric.flows import FlowRule, GroupEntry, Match
from controller.fabric.underlay import AskStats, Clear, Update

PATIENCE = 20.0


class Datapath:
    """A connection that notes whether it was closed and what was sent, and may answer echo requests."""

    def __init__(self, dpid: int) -> None:
        self.id = dpid
        self.closed = threading.Event()
        self.on_echo: Callable[[], None] = lambda: None

    def close(self) -> None:
        self.closed.set()

    def send_msg(self, message: object) -> None:
        assert message == "echo"
        self.on_echo()


class Framework:
    def __init__(self) -> None:
        self.threads: list[threading.Thread] = []

    def spawn(self, function: Callable[..., object], *arguments: object) -> None:
        thread = threading.Thread(target=function, args=arguments, daemon=True)
        self.threads.append(thread)
        thread.start()


@pytest.fixture
def framework(monkeypatch: pytest.MonkeyPatch) -> Framework:
    monkeypatch.setattr(openflow, "echo_request", lambda _: "echo")
    return Framework()


def connect(framework: Any, switches: Switches, datapath: Datapath) -> SwitchWriter | None:
    if not switches.admits(datapath):
        return None
    writer = SwitchWriter(framework, datapath)
    switches.add(writer)
    return writer


def test_a_second_connection_is_refused_while_the_first_is_alive(framework: Framework) -> None:
    switches, first = Switches(), Datapath(1)
    writer = connect(framework, switches, first)
    assert writer is not None
    asked = threading.Event()

    def answer() -> None:
        writer.answered()
        asked.set()

    first.on_echo = answer
    assert connect(framework, switches, Datapath(1)) is None
    assert asked.wait(PATIENCE), "the first was asked for a sign of life"
    framework.threads[-1].join(PATIENCE)
    assert not first.closed.is_set()
    assert switches.find(first) is writer
    assert connect(framework, switches, Datapath(2)) is not None, "another switch is another matter"


def test_a_first_connection_that_does_not_answer_is_given_up(
    framework: Framework, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(app, "PROBE_TIMEOUT", 0.05)
    switches, first = Switches(), Datapath(1)
    writer = connect(framework, switches, first)
    assert connect(framework, switches, Datapath(1)) is None
    assert first.closed.wait(PATIENCE)
    switches.remove(writer)  # what the framework's event of the closed connection leads to
    again = Datapath(1)
    found = connect(framework, switches, again)
    assert found is not None
    assert switches.find(again) is found
    assert switches.find(first) is None


def test_each_doubt_is_answered_anew(framework: Framework, monkeypatch: pytest.MonkeyPatch) -> None:
    """An answer to an earlier probe is no sign of life later on."""
    switches, first = Switches(), Datapath(1)
    writer = connect(framework, switches, first)
    assert writer is not None
    first.on_echo = writer.answered
    assert connect(framework, switches, Datapath(1)) is None
    framework.threads[-1].join(PATIENCE)
    monkeypatch.setattr(app, "PROBE_TIMEOUT", 0.05)
    first.on_echo = lambda: None
    assert connect(framework, switches, Datapath(1)) is None
    assert first.closed.wait(PATIENCE)


def test_a_group_is_there_as_long_as_a_rule_uses_it(monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[object] = []
    done = threading.Event()

    class Recorder(Datapath):
        def send_msg(self, message: object) -> None:
            sent.append(message)
            if message == ("group_clear",):
                done.set()

    for name in ("group_add", "flow_add", "flow_delete", "group_delete", "flow_clear", "group_clear"):
        monkeypatch.setattr(openflow, name, lambda _, *what, name=name: (name, *what))
    old, new = GroupEntry("239.1.1.1", (1,)), GroupEntry("239.1.1.1", (1, 2))
    gone, added = FlowRule(1, 250, Match(in_port=1), group=old), FlowRule(1, 250, Match(), group=new)
    framework: Any = Framework()
    writer = SwitchWriter(framework, Recorder(1))
    writer.put(Update(1, (added,), (gone,), (new,), (old,), cookie=5))
    monkeypatch.setattr(openflow, "stats_requests", lambda _: ["flow stats", "port stats"])
    switches = Switches()
    switches.add(writer)
    switches.dispatch(AskStats(1))
    switches.dispatch(AskStats(2))  # of a switch that is gone
    writer.put(Clear(1))
    assert done.wait(PATIENCE)
    writer.put(None)
    assert sent == [
        ("group_add", new),
        ("flow_add", added, 5),
        ("flow_delete", gone),
        ("group_delete", old),
        "flow stats",
        "port stats",
        ("flow_clear",),
        ("group_clear",),
    ]
