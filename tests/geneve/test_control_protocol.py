"""A node's protocol, message by message: repetition, gaps, late answers, questions; only SessionError gets out."""

from __future__ import annotations

from typing import Any

import pytest

from geneve.control import jsonrpc
from geneve.control.demand import MAX_DEMANDS, MAX_TENANT_IPS, MAX_TENANTS, Demand, Tenant
from geneve.control.document import to_wire
from geneve.control.protocol import (
    GAP,
    MAX_OPEN_REQUESTS,
    PING_INTERVAL,
    REPEAT_INTERVAL,
    SILENCE_LIMIT,
    ConfirmAsked,
    DemandsRefused,
    Event,
    Identity,
    NodeProtocol,
    Progress,
    Registered,
    SessionError,
    StateReceived,
)
from geneve.control.state import Role
from tests.support import association

DEMAND = Demand(audience="nve2", vni=100, profile="full")


class Bench:
    """One connection of nve1, registered unless told otherwise."""

    def __init__(self, progress: Progress | None = None, registered: bool = True, key: str | None = None) -> None:
        self.now = 100.0
        self.progress = progress or Progress()
        self.protocol = NodeProtocol(Identity("nve1", Role.NVE, "aa", "nva", key), self.progress, self.now)
        (self.registration,) = self.said()
        self._requests = 1000
        if registered:
            assert self.hear(jsonrpc.Response(self.registration.id, {"epoch": "e1"})) == [Registered()]

    def said(self) -> list[Any]:
        return self.protocol.take_outgoing()

    def hear(self, message: jsonrpc.Message) -> list[Event]:
        return self.protocol.handle(message, self.now)

    def push(self, sequence: int, base: int | None = None, epoch: str = "e1", **node: Any) -> list[Event]:
        self._requests += 1
        params: dict[str, Any] = {"epoch": epoch, "sequence": sequence, "scopes": {"node": {"set": node}}}
        if base is not None:
            params["base"] = base
        return self.hear(jsonrpc.Request(self._requests, "push", params))

    def apply(self, sequence: int, base: int | None = None, **node: Any) -> None:
        (event,) = self.push(sequence, base, **node)
        assert isinstance(event, StateReceived)
        self.protocol.acknowledge(event)
        assert self.said() == [jsonrpc.Response(self._requests, {"sequence": sequence})]

    def wait(self, seconds: float) -> list[Any]:
        self.now += seconds
        self.protocol.on_timer(self.now)
        return self.said()


@pytest.fixture
def bench() -> Bench:
    return Bench()


def test_a_registration_says_who_this_is_and_how_far_it_has_got() -> None:
    bench = Bench(Progress("e0", 7), registered=False, key="KEY")
    assert bench.registration.method == "register"
    expected = {"instance": "aa", "protocol": 2, "signing_key": "KEY", "resume": {"epoch": "e0", "sequence": 7}}
    assert bench.registration.params == expected
    assert not bench.protocol.registered


def test_deltas_follow_one_another(bench: Bench) -> None:
    bench.apply(1)
    bench.apply(2, base=1)
    bench.apply(5, base=2)
    assert (bench.progress.epoch, bench.progress.sequence) == ("e1", 5)


@pytest.mark.parametrize(("sequence", "base"), [(4, 3), (4, 0), (9, 8)])
def test_a_gap_is_said_and_nothing_is_applied(bench: Bench, sequence: int, base: int) -> None:
    bench.apply(2)
    assert bench.push(sequence, base) == []
    (answer,) = bench.said()
    assert isinstance(answer, jsonrpc.ErrorResponse)
    assert answer.code == GAP
    assert bench.progress.sequence == 2
    bench.apply(sequence + 1)  # the snapshot that follows


def test_a_delta_for_who_has_nothing_is_a_gap(bench: Bench) -> None:
    assert bench.push(3, base=2) == []
    assert bench.push(3, base=0) == []
    assert [answer.code for answer in bench.said()] == [GAP, GAP]


def test_progress_of_another_epoch_counts_for_nothing() -> None:
    bench = Bench(Progress("e0", 50))
    assert bench.push(51, base=50) == []
    assert bench.said()[0].code == GAP
    bench.apply(1)
    assert (bench.progress.epoch, bench.progress.sequence) == ("e1", 1)


def test_a_repeated_push_is_applied_once_and_answered_each_time(bench: Bench) -> None:
    (event,) = bench.push(1)
    assert bench.push(1) == []
    assert bench.push(1) == []
    assert bench.said() == []
    assert isinstance(event, StateReceived)
    bench.protocol.acknowledge(event)
    assert [answer.result for answer in bench.said()] == [{"sequence": 1}] * 3
    assert bench.push(1) == []
    assert [answer.result for answer in bench.said()] == [{"sequence": 1}]


def test_a_refused_push_leaves_what_was_and_can_come_again(bench: Bench) -> None:
    wire = to_wire(association(300, "egress", "nve1", "nve2"))
    bench.apply(1, **{"out/300": wire})
    (event,) = bench.push(2, base=1, **{"out/301": {**wire, "spi": 301}})
    assert isinstance(event, StateReceived)
    bench.protocol.refuse(event, "no room")
    assert [answer.message for answer in bench.said()] == ["no room"]
    state = bench.progress.document.state("nve1", Role.NVE)
    assert [item.spi for item in state.outbound] == [300]
    bench.apply(3, base=1, **{"out/302": {**wire, "spi": 302}})
    assert [item.spi for item in bench.progress.document.state("nve1", Role.NVE).outbound] == [300, 302]


def test_an_unsound_entry_is_answered_and_leaves_what_was(bench: Bench) -> None:
    bench.apply(1)
    before = bench.progress.document
    assert bench.push(2, base=1, **{"out/300": {"spi": 300}}) == []
    assert bench.push(2, base=1, **{"magic/1": {}}) == []
    assert [answer.code for answer in bench.said()] == [jsonrpc.INVALID_PARAMS] * 2
    assert bench.progress.document is before
    assert bench.progress.sequence == 1
    bench.apply(2, base=1)


def test_a_newer_push_takes_the_place_of_one_that_is_not_applied_yet(bench: Bench) -> None:
    (first,) = bench.push(1)
    (second,) = bench.push(2)
    assert isinstance(first, StateReceived)
    assert isinstance(second, StateReceived)
    bench.protocol.acknowledge(first)
    assert bench.said() == [], "nobody waits for that answer any more"
    bench.protocol.acknowledge(second)
    assert [answer.result for answer in bench.said()] == [{"sequence": 2}]


def test_no_key_shows_in_events_or_progress(bench: Bench) -> None:
    wire = to_wire(association(300, "egress", "nve1", "nve2"))
    (event,) = bench.push(1, **{"out/300": wire})
    for shown in (repr(event), str(event), repr(bench.progress), repr(bench.protocol)):
        assert wire["secret"][:12] not in shown


# Requests -------------------------------------------------------------------------------------------------


def test_requests_are_repeated_as_they_were_until_they_are_answered(bench: Bench) -> None:
    bench.protocol.ask_rekey(300, bench.now)
    bench.protocol.ask_keys([DEMAND], bench.now)
    first = bench.said()
    assert [(request.method, dict(request.params)) for request in first] == [
        ("rekey", {"spi": 300}),
        ("need", {"demands": [DEMAND.model_dump(mode="json")]}),
    ]
    assert bench.wait(REPEAT_INTERVAL - 0.1) == []
    assert bench.wait(0.1) == first
    bench.hear(jsonrpc.Response(first[0].id))
    assert bench.wait(REPEAT_INTERVAL) == first[1:]
    bench.hear(jsonrpc.ErrorResponse(first[1].id, -32002, "no"))
    assert [request.method for request in bench.wait(REPEAT_INTERVAL)] == ["ping"]


def test_the_registration_is_repeated_too() -> None:
    bench = Bench(registered=False)
    assert bench.wait(REPEAT_INTERVAL) == [bench.registration]
    with pytest.raises(SessionError, match="did not answer"):
        bench.wait(SILENCE_LIMIT)


def test_only_silence_ends_a_connection(bench: Bench) -> None:
    for _ in range(20):
        for request in bench.wait(PING_INTERVAL):
            bench.hear(jsonrpc.Response(request.id))
    bench.wait(SILENCE_LIMIT - 0.1)
    with pytest.raises(SessionError, match="did not answer"):
        bench.wait(0.1)


def test_demands_go_in_parts_and_refusals_come_back_to_the_right_one(bench: Bench) -> None:
    demands = [Demand(audience=f"nve{number}", vni=100, profile="full") for number in range(MAX_DEMANDS + 5)]
    bench.protocol.ask_keys(demands, bench.now)
    first, second = bench.said()
    assert [len(request.params["demands"]) for request in (first, second)] == [MAX_DEMANDS, 5]
    assert bench.hear(jsonrpc.Response(second.id, {"refused": [4]})) == [DemandsRefused((demands[-1],))]
    assert bench.hear(jsonrpc.Response(second.id, {"refused": [4]})) == [], "answered already"
    assert bench.hear(jsonrpc.Response(first.id, {})) == []


def test_the_largest_request_fits_in_a_frame(bench: Bench) -> None:
    ips = tuple(f"fd00:1111:2222:3333:4444:5555:6666:{0x1000 + number:x}" for number in range(MAX_TENANT_IPS))
    tenants = [
        Tenant(vni=(1 << 24) - 1, mac=f"02:00:00:00:{number >> 8:02x}:{number & 255:02x}", ips=ips)
        for number in range(MAX_TENANTS)
    ]
    bench.protocol.tell_tenants(10**9, tenants, bench.now)
    name = "n" * 32
    bench.protocol.ask_keys([Demand(audience=name, vni=100, profile=name, rule=name)] * MAX_DEMANDS, bench.now)
    for request in bench.said():
        jsonrpc.encode(request)


@pytest.mark.parametrize("refused", [[1], [-1], [True], ["0"], [None], [0.0], "all", {"0": 1}, 5, None])
def test_nonsense_about_refused_demands_is_ignored(bench: Bench, refused: Any) -> None:
    bench.protocol.ask_keys([DEMAND], bench.now)
    (request,) = bench.said()
    assert bench.hear(jsonrpc.Response(request.id, {"refused": refused})) == []


def test_only_the_newest_report_of_tenants_is_repeated(bench: Bench) -> None:
    tenants = [Tenant(vni=100, mac="02:00:00:00:00:01", ips=("10.0.0.1",))]
    bench.protocol.tell_tenants(1, tenants, bench.now)
    bench.protocol.tell_tenants(2, [], bench.now)
    first, second = bench.said()
    assert first.params["present"] == [{"vni": 100, "mac": "02:00:00:00:00:01", "ips": ["10.0.0.1"]}]
    assert bench.wait(REPEAT_INTERVAL) == [second]
    assert bench.hear(jsonrpc.Response(first.id)) == [], "late"
    assert bench.wait(REPEAT_INTERVAL) == [second]
    bench.hear(jsonrpc.Response(second.id))
    assert second not in bench.wait(REPEAT_INTERVAL)


def test_an_nva_that_answers_nothing_costs_bounded_memory(bench: Bench) -> None:
    for number in range(2 * MAX_OPEN_REQUESTS):
        bench.protocol.ask_rekey(number, bench.now)
    assert len(bench.said()) == MAX_OPEN_REQUESTS
    assert len(bench.wait(REPEAT_INTERVAL)) == MAX_OPEN_REQUESTS


def test_a_report_of_tenants_is_sent_however_much_is_open(bench: Bench) -> None:
    for number in range(2 * MAX_OPEN_REQUESTS):
        bench.protocol.ask_rekey(number, bench.now)
    bench.said()
    bench.protocol.tell_tenants(1, [], bench.now)
    (report,) = bench.said()
    assert isinstance(report, jsonrpc.Request)
    assert report.method == "tenants"


# Questions of the NVA -------------------------------------------------------------------------------------


def test_a_question_is_passed_on_once_and_every_repetition_is_answered(bench: Bench) -> None:
    params = {"vni": 100, "mac": "02:00:00:00:00:01"}
    assert bench.hear(jsonrpc.Request(5, "confirm", params)) == [ConfirmAsked(100, "02:00:00:00:00:01")]
    assert bench.hear(jsonrpc.Request(5, "confirm", params)) == []
    assert bench.hear(jsonrpc.Request(6, "confirm", params)) == []
    bench.protocol.confirm(100, "02:00:00:00:00:01", True)
    answers = sorted(bench.said(), key=lambda answer: int(answer.id))
    assert answers == [jsonrpc.Response(5, {"present": True}), jsonrpc.Response(6, {"present": True})]
    assert [answer.result for answer in answers] == [{"present": True}] * 2
    bench.protocol.confirm(100, "02:00:00:00:00:01", False)
    assert bench.said() == [], "nobody asked"
    assert bench.hear(jsonrpc.Request(7, "confirm", params)) != []


@pytest.mark.parametrize("params", [{}, {"vni": "100", "mac": "x"}, {"vni": 100}, {"vni": 100, "mac": 5}])
def test_a_question_that_is_none_is_refused(bench: Bench, params: dict[str, Any]) -> None:
    assert bench.hear(jsonrpc.Request(5, "confirm", params)) == []
    assert [answer.code for answer in bench.said()] == [jsonrpc.INVALID_PARAMS]


def test_nothing_is_done_before_registration() -> None:
    bench = Bench(registered=False)
    assert bench.push(1) == []
    assert bench.hear(jsonrpc.Request(5, "confirm", {"vni": 100, "mac": "02:00:00:00:00:01"})) == []
    assert all(isinstance(answer, jsonrpc.ErrorResponse) for answer in bench.said())
    assert bench.progress.sequence == 0


def test_errors_about_nothing_end_the_connection_and_about_a_request_do_not(bench: Bench) -> None:
    bench.protocol.ask_rekey(300, bench.now)
    (request,) = bench.said()
    assert bench.hear(jsonrpc.ErrorResponse(request.id, -32002, "not yours")) == []
    assert bench.hear(jsonrpc.ErrorResponse("stranger", -1, "x")) == []
    with pytest.raises(SessionError, match="refused: broken"):
        bench.hear(jsonrpc.ErrorResponse(None, -1, "broken"))
