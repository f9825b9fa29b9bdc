"""Replacing DTLS sessions by a policy: what is proposed, what is counted, and that all is as before at the end."""

from __future__ import annotations

import copy
from types import SimpleNamespace
from typing import Any

import pytest

from experiments.context import ExperimentError
from experiments.control_sessions import Sessions

NVES = ("nve1", "nve2", "nve3")


class FakeTestbed:
    """A network whose NVEs make a session with each peer for each look at them under a short ``rekey_seconds``."""

    def __init__(self, deaf: bool = False) -> None:
        self.plan = SimpleNamespace(nodes=lambda _kind: NVES)
        self.version = 1
        self.handshakes = 0
        self.rekey_seconds: list[float] = []
        self._deaf = deaf
        self._document: dict[str, Any] = {
            "vnis": {"100": {"action": "secure", "profile": "dtls"}}, "policy": [],
            "profiles": [{"name": "dtls", "channel": {"protocol": "dtls"}, "rekey_seconds": 3600.0},
                         {"name": "full", "channel": None, "rekey_seconds": 3600.0}],
        }  # fmt: skip

    def rest(self, _path: str) -> dict[str, Any]:
        return {"version": self.version, "document": copy.deepcopy(self._document)}

    def operate(self, method: str, path: str, body: dict[str, Any]) -> dict[str, Any]:
        assert (method, path) == ("PUT", "/v1/policy")
        self._document = body
        self.rekey_seconds.append(body["profiles"][0]["rekey_seconds"])
        assert body["profiles"][1]["rekey_seconds"] == 3600.0, "other profiles stay"
        if not self._deaf:
            self.version += 1
            return {"version": self.version}
        return {"version": self.version + 1}

    def stats(self, nve: str) -> dict[str, Any]:
        count = self.handshakes
        return {"mechanism": {"sessions": {peer: {"handshakes": count} for peer in NVES if peer != nve}}}


def test_sessions_are_counted_once_and_the_policy_is_put_back() -> None:
    testbed = FakeTestbed()
    testbed.handshakes = 1
    with (operator := Sessions(testbed, 2)):  # type: ignore[arg-type]
        assert testbed.rekey_seconds == [0.5]
        testbed.handshakes = 4
    assert testbed.rekey_seconds == [0.5, 3600.0]
    assert operator.done() == {"requests": 2, "failed_requests": 0, "line_rekeys": 3, "rekeys": 9}


def test_without_a_rate_nothing_is_asked_for() -> None:
    testbed = FakeTestbed()
    with (operator := Sessions(testbed, 0)):  # type: ignore[arg-type]
        pass
    assert (testbed.rekey_seconds, operator.done()["line_rekeys"]) == ([], 0)


def test_a_policy_that_does_not_come_into_force_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("experiments.control_sessions._PATIENCE", 0.01)
    with pytest.raises(ExperimentError, match="did not come into force"), Sessions(FakeTestbed(deaf=True), 1):  # type: ignore[arg-type]
        pytest.fail("it began")
