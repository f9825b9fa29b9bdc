"""Flows under way while a live test does something to the network, and scenarios with other limits of keys."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from experiments.bench import Hosts
from experiments.traffic import parse_message
from topologies import sandbox
from topologies.network import Testbed
from topologies.scenario_file import parse_scenario, scenario_path

INTERVAL = 0.004
"""Seconds between two packets of a stream."""


class Stream:
    """A flow of marked messages from one host to another, and what arrived of it."""

    def __init__(self, hosts: Hosts, sender: str, receiver: str, address: str) -> None:
        self.log = hosts.receiver(receiver)
        self._sender = hosts.sender(sender)
        self._before = len(self.indices())
        self._sender.ask(
            {"do": "stream", "label": "stream", "destination": address, "interval": INTERVAL, "size": 200}
        )

    def indices(self) -> list[int]:
        if not self.log.exists():
            return []
        lines = (json.loads(line) for line in self.log.read_text().splitlines())
        messages = (parse_message(bytes.fromhex(line["payload"])) for line in lines)
        return [message.index for message in messages if message is not None]

    def wait_for_more(self, count: int = 20) -> None:
        seen = len(self.indices())
        wait_for(lambda: len(self.indices()) >= seen + count)

    def stop(self) -> tuple[int, set[int]]:
        """End the stream; returns how many were sent, and which of them are missing once all have had time."""
        sent = self._sender.ask({"do": "stop"})["streamed"]
        wait_for(lambda: sent - 1 in self.indices(), 2, check=False)
        found = self.indices()
        assert len(found) == len(set(found)), "nothing arrives twice"
        return sent, set(range(sent)) - set(found)


def wait_for(condition: Callable[[], bool], seconds: float = 15.0, check: bool = True) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            assert not check, "waited in vain"
            return
        time.sleep(0.05)


def current_spis(testbed: Testbed, sender: str, audience: str, vni: int = 100) -> set[int]:
    wanted = (sender, audience, vni, "current")
    listed = testbed.rest("/v1/associations")["associations"]
    return {
        item["spi"] for item in listed if (item["sender"], item["audience"], item["vni"], item["stage"]) == wanted
    }


def converged(testbed: Testbed) -> bool:
    return bool(testbed.rest("/v1/nodes")["converged"])


def with_profile(limits: str) -> str:
    """The control-plane scenario with other limits in its profile."""
    text = scenario_path("control-plane").read_text()
    return text.replace("    rekey_seconds: 60\n    lifetime_seconds: 180\n", f"    {limits}\n")


def start(text: str, folder: Path) -> Testbed:
    if not sandbox.inside():
        pytest.skip("builds a network and so runs inside the sandbox only; run 'make test'")
    return Testbed(parse_scenario(text, "test.yaml"), folder)
