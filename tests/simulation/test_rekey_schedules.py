"""Each message of each exchange lost, repeated, late or overtaken; the NVA and the nodes killed at each step."""

from __future__ import annotations

import pytest

from tests.simulation import scene
from tests.simulation.schedules import EXCHANGES, FAULTS, MOST, POINTS, Exchange, Runner, message_faults

NAMED = pytest.mark.parametrize("exchange", EXCHANGES, ids=lambda exchange: exchange.name)


@NAMED
def test_without_faults_no_frame_is_lost(exchange: Exchange) -> None:
    runner = Runner(exchange)
    outcome = runner.run()
    assert not exchange.lossless or not outcome.lost
    runner.check_recovery()


@pytest.mark.parametrize("fault", FAULTS)
@NAMED
def test_each_message_in_turn(exchange: Exchange, fault: str) -> None:
    for place, runner, outcome in message_faults(exchange, fault):
        message = outcome.messages[place]
        where = f"{fault}: message {place}, {message.kind} {'from' if message.to_nva else 'to'} {message.node}"
        assert not exchange.lossless or not outcome.lost, where
        runner.check_recovery()


@pytest.mark.parametrize("point", POINTS)
@NAMED
def test_the_nva_is_killed_at_each_step(exchange: Exchange, point: int) -> None:
    first, last = Runner(exchange).run().steps
    for step in range(1, min(last - first, MOST) + 1):
        runner = Runner(exchange)
        outcome = runner.run(crash=(step, point))
        assert not exchange.lossless or not outcome.lost, f"step {step}"
        runner.check_recovery()


@pytest.mark.parametrize("victim", ["nve1", "nve2", "nve3", "t1", "t2"])
@NAMED
def test_a_node_is_killed_at_each_message(exchange: Exchange, victim: str) -> None:
    messages = Runner(exchange).run().messages
    for place in range(min(len(messages), MOST)):
        runner = Runner(exchange)
        runner.run(kill=(place, victim))
        runner.check_recovery()


def test_the_flows_of_the_schedules_are_secured() -> None:
    assert all(sender.vni in scene.SECURED for exchange in EXCHANGES for sender, _ in exchange.flows)
