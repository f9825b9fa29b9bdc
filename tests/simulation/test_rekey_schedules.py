"""Each message of each exchange lost, repeated, late or overtaken; the NVA and the nodes killed at each step."""

from __future__ import annotations

import pytest

from tests.simulation import scene
from tests.simulation.control import LATENCY
from tests.simulation.schedules import EXCHANGES, FAULTS, POINTS, VICTIMS, Exchange, Runner, choose

NAMED = pytest.mark.parametrize("exchange", EXCHANGES, ids=lambda exchange: exchange.name)


@NAMED
def test_without_faults_no_frame_is_lost(exchange: Exchange) -> None:
    runner = Runner(exchange)
    outcome = runner.run()
    assert not exchange.lossless or not outcome.lost
    runner.check_recovery()


@NAMED
def test_each_message_in_turn(exchange: Exchange) -> None:
    plain = Runner(exchange).run()
    for place, fault in choose(exchange, plain.places, FAULTS):
        runner = Runner(exchange)
        outcome = runner.run(lambda number, _, at=place, what=fault: FAULTS[what]() if number == at else [LATENCY])
        message = outcome.messages[place]
        where = f"{fault}: message {place}, {message.kind} {'from' if message.to_nva else 'to'} {message.node}"
        assert not exchange.lossless or not outcome.lost, where
        runner.check_recovery()


@NAMED
def test_the_nva_is_killed_at_each_step(exchange: Exchange) -> None:
    for step, point in choose(exchange, Runner(exchange).run().steps, POINTS):
        runner = Runner(exchange)
        outcome = runner.run(crash=(step, point))
        assert not exchange.lossless or not outcome.lost, f"step {step}, point {point}: {outcome.lost[:9]}"
        runner.check_recovery()


@NAMED
def test_a_node_is_killed_at_each_message(exchange: Exchange) -> None:
    for place, victim in choose(exchange, Runner(exchange).run().places, VICTIMS):
        runner = Runner(exchange)
        runner.run(kill=(place, victim))
        runner.check_recovery()


def test_the_flows_of_the_schedules_are_secured() -> None:
    assert all(sender.vni in scene.SECURED for exchange in EXCHANGES for sender, _ in exchange.flows)
