"""The NVE's epoll: who is served, and what becomes of numbers that are used again."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from typing import Any, cast

import pytest

from geneve.control.agent import ControlAgent
from geneve.control.protocol import Disconnected, Event, StateReceived
from geneve.control.session import ControlLink
from nve.poller import MAX_EVENTS, Poller


@pytest.fixture
def poller() -> Iterator[Poller]:
    made = Poller()
    yield made
    made.close()


def test_a_handler_is_told_what_its_descriptor_is_ready_for(poller: Poller) -> None:
    near, far = socket.socketpair()
    told: list[tuple[bool, bool]] = []
    with near, far:
        poller.watch(near, lambda readable, writable: told.append((readable, writable)))
        assert not poller.turn(0.0)
        far.send(b"x")
        assert poller.turn(1.0)
        assert poller.turn(0.0), "it was not read, so it is ready still"
        poller.unwatch(near)
        assert not poller.turn(0.0)
        poller.watch(near.fileno(), lambda readable, writable: told.append((readable, writable)), for_writing=True)
        near.recv(1)
        assert poller.turn(1.0)
    assert told == [(True, False), (True, False), (False, True)]


def test_a_broken_connection_is_readable_so_that_somebody_finds_out(poller: Poller) -> None:
    near, far = socket.socketpair()
    told: list[bool] = []
    with near:
        poller.watch(near, lambda readable, _: told.append(readable))
        far.close()
        assert poller.turn(1.0)
    assert told == [True]


def test_what_one_handler_ends_is_not_served_in_the_same_turn(poller: Poller) -> None:
    pairs = [socket.socketpair() for _ in range(2)]
    told: list[int] = []

    def handler(index: int) -> None:
        told.append(index)
        poller.unwatch(pairs[1 - index][0])
        pairs[1 - index][0].close()

    for index, (near, far) in enumerate(pairs):
        poller.watch(near, lambda *_, index=index: handler(index))
        far.send(b"x")
    assert poller.turn(1.0)
    assert len(told) == 1
    poller.unwatch(pairs[1 - told[0]][0])  # closed and forgotten already: no error
    for pair in pairs:
        for end in pair:
            end.close()


def test_more_descriptors_than_one_turn_serves_are_served_by_the_next(poller: Poller) -> None:
    pairs = [socket.socketpair() for _ in range(MAX_EVENTS + 5)]
    served: set[int] = set()

    def handler(index: int) -> None:
        served.add(index)
        pairs[index][0].recv(1)

    for index, (near, far) in enumerate(pairs):
        poller.watch(near, lambda *_, index=index: handler(index))
        far.send(b"x")
    while poller.turn(0.0):
        pass
    assert len(served) == len(pairs)
    for pair in pairs:
        for end in pair:
            end.close()


class LinkThatEnds:
    """A connection that brings a state and ends, both in one read; by then its descriptor is closed."""

    generation = 1
    registered = False
    wants_write = False
    next_deadline = float("inf")

    def __init__(self) -> None:
        self.near, self.far = socket.socketpair()

    def fileno(self) -> int | None:
        return None if self.near.fileno() < 0 else self.near.fileno()

    def on_readable(self, _: float) -> list[Event]:
        self.near.close()
        received = cast(Any, object.__new__(StateReceived))
        for name, value in (("state", None), ("candidate", None)):
            object.__setattr__(received, name, value)
        object.__setattr__(received, "push", type("Push", (), {"sequence": 1}))
        return [received, Disconnected("the NVA is gone")]

    def acknowledge(self, _: object) -> None: ...


def test_a_socket_that_gets_the_number_of_a_connection_that_ended_is_watched(poller: Poller) -> None:
    link, opened, heard = LinkThatEnds(), [], []

    def apply(_: object) -> None:
        receiver = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        if receiver.fileno() != number:  # another one was free
            os.dup2(receiver.fileno(), number)
            receiver.close()
            receiver = socket.socket(fileno=number)
        receiver.bind(("127.0.0.1", 0))
        opened.append(receiver)
        poller.watch(receiver, lambda *_: heard.append(receiver.recv(10)))

    def watch(descriptor: int, for_writing: bool) -> None:
        poller.watch(descriptor, lambda *_: agent.handle(True, False, 0.0), for_writing)

    number = link.near.fileno()
    agent = ControlAgent(cast(ControlLink, link), cast(Any, apply), watch, poller.unwatch)
    agent.run_timers(0.0)
    agent._flush(0.0)
    link.far.send(b"x")
    assert poller.turn(1.0)
    (receiver,) = opened
    with receiver, link.far, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        sender.sendto(b"to the group", receiver.getsockname())
        assert poller.turn(1.0)
    assert heard == [b"to the gro"]
