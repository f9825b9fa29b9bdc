"""What tenants' logs say of a flow: outage, losses, the last message, whatever the sender did meanwhile."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from experiments.control_logs import (
    FlowLog,
    authenticated_times,
    effect,
    first_receipt,
    last_receipt,
    read_flows,
    sent_between,
)
from tests.experiments.synthetic import write_lines

MS = 1_000_000
BASE = 10**18
STEP = 4 * MS


def log(count: int = 500, lost: range | None = None, late: int = 0) -> FlowLog:
    """A flow of one message each 4 ms, of which those in ``lost`` never arrive; each takes ``late`` ns."""
    sent = {index: BASE + index * STEP for index in range(count)}
    received = [(time + late, index) for index, time in sent.items() if lost is None or index not in lost]
    return FlowLog(sent, received)


def at(milliseconds: int) -> int:
    return BASE + milliseconds * MS


def test_a_flow_that_nothing_happens_to_has_no_outage() -> None:
    seen = effect(log(), at(400), at(1500), 0.004)
    assert (seen.outage_s, seen.lost, seen.repeated, seen.back) == (0.0, 0, 0, True)
    assert seen.sent == 281  # 275 of the window and those just before it, which can be under way


@given(st.integers(1, 200))
def test_the_outage_is_the_gap_without_the_sending_interval(count: int) -> None:
    seen = effect(log(lost=range(110, 110 + count)), at(400), at(1900), 0.004)
    assert seen.lost == count
    assert seen.outage_s == pytest.approx(count * 0.004)


def test_what_came_before_the_window_does_not_count() -> None:
    seen = effect(log(lost=range(10, 60)), at(400), at(1500), 0.004)
    assert (seen.lost, seen.outage_s) == (0, 0.0)


def test_a_pause_of_the_sender_is_no_outage_but_a_delay_on_the_way_is() -> None:
    flow = log()
    paused = FlowLog({i: t + (300 * MS if i >= 150 else 0) for i, t in flow.sent.items()}, [])
    paused.received = [(time, index) for index, time in paused.sent.items()]
    assert effect(paused, at(400), at(1500), 0.004).outage_s == 0.0
    held = FlowLog(flow.sent, sorted((max(t, at(700)) if i >= 150 else t, i) for i, t in flow.sent.items()))
    assert effect(held, at(400), at(1500), 0.004).outage_s == pytest.approx(0.1)


def test_a_flow_that_does_not_come_back_has_no_figure() -> None:
    seen = effect(log(lost=range(110, 500)), at(400), at(1500), 0.004)
    assert seen.outage_s is None
    assert not seen.back
    assert seen.lost > 200
    assert effect(FlowLog(), at(400), at(1500), 0.004).outage_s is None


def test_a_flow_that_comes_late_in_the_window_is_back() -> None:
    seen = effect(log(lost=range(100, 365)), at(400), at(1500), 0.004)
    assert seen.outage_s == pytest.approx(265 * 0.004)


def test_messages_that_arrive_twice_are_counted() -> None:
    flow = log()
    flow.received = sorted([*flow.received, (at(600), 120), (at(601), 121)])
    assert effect(flow, at(400), at(1500), 0.004).repeated == 2


def test_first_and_last_receipt() -> None:
    flow = log(lost=range(110, 300))
    assert last_receipt(flow, at(400), at(1000)) == at(436)
    assert last_receipt(flow, at(600), at(1000)) is None
    assert first_receipt(flow, at(600)) == at(1200)
    assert first_receipt(flow, at(600), at(1000)) is None
    assert sent_between(flow, at(400), at(440)) == 11


def test_logs_are_read_by_flow_and_refused_messages_were_not_sent(tmp_path: Path) -> None:
    mark = {"label": "a-b", "trial": 3}
    lines = [{"time_ns": 1, "event": "sent", **mark, "index": 0}, {"time_ns": 2, "event": "sent", **mark, "index": 1},
             {"time_ns": 2, "event": "failed", **mark, "index": 1}]  # fmt: skip
    write_lines(tmp_path / "sent-a.jsonl", lines)
    foreign = {"time_ns": 4, "event": "received", "label": None}
    write_lines(tmp_path / "received-b.jsonl", [{"time_ns": 5, "event": "received", **mark, "index": 0}, foreign])
    assert read_flows(tmp_path) == {("a-b", 3): FlowLog({0: 1}, [(5, 0)])}


def test_only_authenticated_records_of_the_device_and_network_count() -> None:
    good = {"device": "t1", "vni": 200, "authenticated": True, "ingress_ns": 7}
    bad = [{**good, "device": "t2"}, {**good, "vni": 100}, {**good, "authenticated": False}, {}]
    assert authenticated_times([*bad, good], "t1", 200) == [7]
