"""Mappings: who has an address, by the stated rule, whatever NVEs report and in which order."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from controller.authority.directory import Ask, Changed, Conflict, Directory, Outcome
from geneve.control.demand import Tenant
from geneve.control.state import Mapping

RED, BLUE = "02:00:00:00:00:01", "02:00:00:00:00:02"


def tenant(mac: str = RED, *ips: str, vni: int = 100) -> Tenant:
    return Tenant(vni=vni, mac=mac, ips=ips)


def place(directory: Directory, mac: str = RED, vni: int = 100) -> str | None:
    mapping = directory.get(vni, mac)
    return None if mapping is None else mapping.nve


class Reports:
    """NVEs that report what they see, each report with a number of its own."""

    def __init__(self, directory: Directory, *nves: str) -> None:
        self.directory = directory
        self._numbers = itertools.count(1)
        for nve in nves:
            directory.connected(nve, fresh=True)

    def __call__(self, nve: str, *tenants: Tenant) -> list[Outcome]:
        return self.directory.report(nve, next(self._numbers), tenants)


@pytest.fixture
def directory() -> Directory:
    return Directory()


@pytest.fixture
def report(directory: Directory) -> Reports:
    return Reports(directory, "nve1", "nve2", "nve3")


def kinds(outcomes: list[Outcome]) -> list[str]:
    return [type(outcome).__name__ for outcome in outcomes]


def test_a_tenant_appears_changes_its_addresses_and_leaves(directory: Directory, report: Reports) -> None:
    (change,) = report("nve1", tenant(RED, "10.0.0.1"))
    assert change == Changed(100, RED, Mapping(vni=100, mac=RED, ips=("10.0.0.1",), nve="nve1"))
    assert report("nve1", tenant(RED, "10.0.0.1")) == []
    (change,) = report("nve1", tenant(RED, "10.0.0.1", "fd00::1"))
    assert isinstance(change, Changed)
    assert change.mapping is not None
    assert change.mapping.ips == ("10.0.0.1", "fd00::1")
    assert report("nve1") == [Changed(100, RED, None, "nve1")]
    assert directory.all() == []


def test_who_is_gone_waits_for_no_address(directory: Directory, report: Reports) -> None:
    report("nve1", tenant(RED, "10.0.0.1"))
    for number in range(100):
        report("nve2", tenant(f"02:00:00:00:02:{number:02x}", "10.0.0.1"))
    assert directory._wanting_ip == {(100, "10.0.0.1"): {"02:00:00:00:02:63"}}
    report("nve2", tenant("02:00:00:00:02:63", "10.0.0.2"))
    assert directory._wanting_ip == directory._wanted_ips == {}
    report("nve1")
    assert kinds(report("nve2", tenant("02:00:00:00:02:63", "10.0.0.1"))) == ["Changed"]


def test_the_same_address_in_two_vnis_is_two_tenants(directory: Directory, report: Reports) -> None:
    report("nve1", tenant(RED, "10.0.0.1"))
    assert kinds(report("nve2", tenant(RED, "10.0.0.1", vni=200))) == ["Changed"]
    assert (place(directory), place(directory, vni=200)) == ("nve1", "nve2")


def test_a_late_or_repeated_report_changes_nothing(directory: Directory) -> None:
    directory.connected("nve1", fresh=True)
    directory.report("nve1", 5, [tenant(RED)])
    for number in (5, 4, 1, 0):
        assert directory.report("nve1", number, [tenant(BLUE)]) == []
    assert [mapping.mac for mapping in directory.all()] == [RED]


def test_a_new_process_counts_from_the_start(directory: Directory) -> None:
    directory.connected("nve1", fresh=True)
    directory.report("nve1", 500, [tenant(RED)])
    directory.connected("nve1", fresh=True)
    directory.report("nve1", 1, [tenant(BLUE)])
    assert [mapping.mac for mapping in directory.all()] == [BLUE]


# Moves and conflicts --------------------------------------------------------------------------------------


def test_who_is_alive_keeps_an_address_and_the_newcomer_is_reported_once(
    directory: Directory, report: Reports
) -> None:
    report("nve1", tenant())
    assert report("nve2", tenant()) == [Ask("nve1", 100, RED)]
    assert place(directory) == "nve1"
    (conflict,) = directory.confirmed("nve1", 100, RED, present=True)
    assert isinstance(conflict, Conflict)
    assert conflict.nve == "nve2"
    assert place(directory) == "nve1"
    assert directory.confirmed("nve1", 100, RED, present=True) == []
    assert report("nve2", tenant(), tenant(BLUE)) == [Changed(100, BLUE, Mapping(vni=100, mac=BLUE, nve="nve2"))]


def test_a_tenant_that_is_not_there_any_more_has_moved(directory: Directory, report: Reports) -> None:
    report("nve1", tenant(RED, "10.0.0.1"))
    report("nve2", tenant(RED, "10.0.0.1"))
    (change,) = directory.confirmed("nve1", 100, RED, present=False)
    expected = Mapping(vni=100, mac=RED, ips=("10.0.0.1",), nve="nve2")
    assert change == Changed(100, RED, expected, "nve1")


def test_a_tenant_behind_an_nve_that_is_not_connected_has_moved(directory: Directory, report: Reports) -> None:
    report("nve1", tenant())
    directory.disconnected("nve1")
    assert place(directory) == "nve1", "nobody else claims it"
    report("nve2", tenant())
    assert place(directory) == "nve2"


def test_a_claim_that_waits_for_an_answer_gets_it_when_the_asked_one_is_gone(
    directory: Directory, report: Reports
) -> None:
    report("nve1", tenant())
    report("nve2", tenant())
    assert kinds(directory.disconnected("nve1")) == ["Changed"]
    assert place(directory) == "nve2"


def test_a_refused_claim_gets_the_address_when_the_first_lets_go(directory: Directory, report: Reports) -> None:
    report("nve1", tenant())
    report("nve2", tenant())
    directory.confirmed("nve1", 100, RED, present=True)
    (change,) = report("nve1")
    assert isinstance(change, Changed)
    assert place(directory) == "nve2"


def test_a_refused_claim_does_not_get_the_address_of_one_that_has_lost_the_nva(
    directory: Directory, report: Reports
) -> None:
    """It was alive when asked, and who was refused can make connections fail."""
    report("nve1", tenant())
    report("nve2", tenant())
    directory.confirmed("nve1", 100, RED, present=True)
    assert directory.disconnected("nve1") == []
    assert place(directory) == "nve1"
    report("nve2")
    report("nve2", tenant())
    assert place(directory) == "nve2", "a claim made anew, which nobody answers"


def test_who_comes_back_to_find_its_tenant_elsewhere_claims_it_again_with_its_last_report(
    directory: Directory,
) -> None:
    for nve in ("nve1", "nve2"):
        directory.connected(nve, fresh=True)
    directory.report("nve1", 7, [tenant()])
    directory.disconnected("nve1")
    directory.report("nve2", 1, [tenant()])
    directory.connected("nve1", fresh=False)
    assert directory.report("nve1", 7, [tenant()]) == [Ask("nve2", 100, RED)]
    assert directory.report("nve1", 7, [tenant()]) == [], "once"
    directory.confirmed("nve2", 100, RED, present=False)
    assert place(directory) == "nve1"


def test_an_answer_about_what_has_moved_meanwhile_changes_nothing(directory: Directory, report: Reports) -> None:
    report("nve1", tenant())
    report("nve2", tenant())
    report("nve1")
    assert place(directory) == "nve2"
    assert directory.confirmed("nve1", 100, RED, present=True) == []
    assert directory.confirmed("nve1", 100, RED, present=False) == []
    assert directory.confirmed("nve9", 100, BLUE, present=False) == []
    assert place(directory) == "nve2"


def test_what_a_revoked_nve_claims_is_gone(directory: Directory, report: Reports) -> None:
    report("nve1", tenant(), tenant(BLUE, "10.0.0.2"))
    report("nve2", tenant())
    outcomes = directory.forget("nve1")
    assert place(directory) == "nve2"
    assert directory.get(100, BLUE) is None
    assert Changed(100, BLUE, None, "nve1") in outcomes
    assert kinds(report("nve3", tenant("02:00:00:00:00:03", "10.0.0.2"))) == ["Changed"], "its IP address is free"


def test_a_refused_claim_of_a_revoked_nve_is_not_remembered_against_it(directory: Directory, report: Reports) -> None:
    report("nve1", tenant())
    report("nve2", tenant())
    directory.confirmed("nve1", 100, RED, present=True)
    directory.forget("nve2")
    directory.connected("nve2", fresh=True)
    assert report("nve2", tenant()) == [Ask("nve1", 100, RED)]


# Static mappings ------------------------------------------------------------------------------------------


def test_static_wins_over_what_was_and_will_be_learned(directory: Directory, report: Reports) -> None:
    report("nve1", tenant())
    static = Mapping(vni=100, mac=RED, nve="nve2", ips=("10.0.0.9",))
    assert directory.set_static(static) == [Changed(100, RED, static, "nve1")]
    assert directory.set_static(static) == [], "asked twice, done once"
    assert kinds(report("nve3", tenant())) == ["Conflict"]
    assert report("nve3", tenant(), tenant(BLUE)) != []
    assert directory.get(100, RED) == static
    assert directory.is_static(100, RED)


def test_a_static_mapping_that_is_removed_makes_room_for_a_claim(directory: Directory, report: Reports) -> None:
    static = Mapping(vni=100, mac=RED, nve="nve2", ips=("10.0.0.9",))
    directory.set_static(static)
    report("nve1", tenant(RED, "10.0.0.1"))
    directory.remove(100, RED)
    assert place(directory) == "nve1"
    directory.remove(100, BLUE)
    directory.set_static(Mapping(vni=100, mac=BLUE, nve="nve2"))
    assert directory.remove(100, BLUE) == [Changed(100, BLUE, None, "nve2")]
    assert directory.remove(100, BLUE) == []


def test_a_static_mapping_s_nve_may_report_it_too(directory: Directory, report: Reports) -> None:
    directory.set_static(Mapping(vni=100, mac=RED, nve="nve2"))
    assert report("nve2", tenant()) == []


# IP addresses ---------------------------------------------------------------------------------------------


def test_an_ip_address_belongs_to_whom_it_was_first_and_goes_on_when_it_is_free(
    directory: Directory, report: Reports
) -> None:
    report("nve1", tenant(RED, "10.0.0.1"))
    outcomes = report("nve2", tenant(BLUE, "10.0.0.1", "10.0.0.2"))
    assert kinds(outcomes) == ["Conflict", "Changed"]
    assert directory.get(100, BLUE) == Mapping(vni=100, mac=BLUE, ips=("10.0.0.2",), nve="nve2")
    report("nve1")
    blue = directory.get(100, BLUE)
    assert blue is not None
    assert set(blue.ips) == {"10.0.0.1", "10.0.0.2"}


def test_a_static_mapping_takes_an_ip_address_from_a_learned_one(directory: Directory, report: Reports) -> None:
    report("nve1", tenant(RED, "10.0.0.1"))
    directory.set_static(Mapping(vni=100, mac=BLUE, ips=("10.0.0.1",), nve="nve2"))
    assert directory.get(100, RED) == Mapping(vni=100, mac=RED, nve="nve1")
    directory.remove(100, BLUE)
    red = directory.get(100, RED)
    assert red is not None
    assert red.ips == ("10.0.0.1",)


def test_a_static_mapping_takes_an_ip_address_from_one_that_two_claim(directory: Directory, report: Reports) -> None:
    report("nve1", tenant(RED, "10.0.0.1"))
    report("nve2", tenant(RED, "10.0.0.1"))  # nve1 is being asked
    directory.set_static(Mapping(vni=100, mac=BLUE, ips=("10.0.0.1",), nve="nve3"))
    red = directory.get(100, RED)
    assert red is not None
    assert red.ips == (), "it cannot be at two tenants meanwhile"


def test_two_static_mappings_cannot_share_an_ip_address(directory: Directory) -> None:
    directory.set_static(Mapping(vni=100, mac=RED, ips=("10.0.0.1",), nve="nve1"))
    with pytest.raises(ValueError, match=r"10\.0\.0\.1"):
        directory.set_static(Mapping(vni=100, mac=BLUE, ips=("10.0.0.2", "10.0.0.1"), nve="nve2"))
    assert directory.get(100, BLUE) is None
    directory.set_static(Mapping(vni=100, mac=RED, ips=("10.0.0.3",), nve="nve1"))
    directory.set_static(Mapping(vni=100, mac=BLUE, ips=("10.0.0.1",), nve="nve2"))


def test_an_address_named_twice_in_a_report_counts_once(directory: Directory, report: Reports) -> None:
    report("nve1", tenant(RED, "10.0.0.1", "10.0.0.1"))
    red = directory.get(100, RED)
    assert red is not None
    assert red.ips == ("10.0.0.1",)
    assert kinds(report("nve1")) == ["Changed"]
    directory.set_static(Mapping(vni=100, mac=BLUE, ips=("10.0.0.1", "10.0.0.1"), nve="nve1"))
    directory.remove(100, BLUE)


# Another life ---------------------------------------------------------------------------------------------


def test_after_a_restart_mappings_hold_until_their_nve_reports(directory: Directory, report: Reports) -> None:
    report("nve1", tenant(RED, "10.0.0.1"), tenant(BLUE))
    again = Directory()
    again.set_static(Mapping(vni=100, mac=BLUE, nve="nve3", ips=("10.0.0.1",)))
    again.restore(directory.all())
    red = again.get(100, RED)
    assert red is not None
    assert (red.nve, red.ips) == ("nve1", ()), "the static mapping was given the address meanwhile"
    assert place(again, BLUE) == "nve3"
    again.connected("nve1", fresh=False)
    assert again.report("nve1", 1, [tenant(RED, "10.0.0.1")]) == [] or place(again) == "nve1"
    again.report("nve1", 2, [])
    assert again.get(100, RED) is None


# Whatever happens -----------------------------------------------------------------------------------------

NVES = ("nve1", "nve2", "nve3")
MACS = (RED, BLUE, "02:00:00:00:00:03")
IPS = ("10.0.0.1", "10.0.0.2", "10.0.0.3")
TENANTS = st.lists(
    st.tuples(st.sampled_from(MACS), st.lists(st.sampled_from(IPS), max_size=3)), max_size=3, unique_by=lambda t: t[0]
)
STEPS = st.one_of(
    st.tuples(st.just("report"), st.sampled_from(NVES), TENANTS),
    st.tuples(st.just("repeat"), st.sampled_from(NVES)),
    st.tuples(st.sampled_from(["fresh", "back", "lost", "forget"]), st.sampled_from(NVES)),
    st.tuples(st.just("answer"), st.booleans()),
    st.tuples(st.just("static"), st.sampled_from(NVES), st.sampled_from(MACS), st.lists(st.sampled_from(IPS))),
    st.tuples(st.just("remove"), st.sampled_from(MACS)),
    st.tuples(st.just("restart")),
)


class Model:
    """A directory, what each NVE has said last, and what its users have been told."""

    def __init__(self) -> None:
        self.directory = Directory()
        self.told: dict[str, Mapping] = {}
        self.last: dict[str, tuple[int, list[Tenant]]] = {}
        self.connected: set[str] = set()
        self.asked: list[Ask] = []
        self.static: dict[str, Mapping] = {}

    def take(self, outcomes: list[Outcome]) -> None:
        for outcome in outcomes:
            if isinstance(outcome, Ask):
                self.asked.append(outcome)
            elif isinstance(outcome, Changed):
                if outcome.mapping is None:
                    self.told.pop(outcome.mac, None)
                else:
                    self.told[outcome.mac] = outcome.mapping

    def step(self, kind: str, *values: object) -> None:
        directory = self.directory
        if kind == "restart":
            self.directory = Directory()
            for mapping in self.static.values():
                self.directory.set_static(mapping)
            self.directory.restore([m for m in directory.all() if not directory.is_static(m.vni, m.mac)])
            self.told = {mapping.mac: mapping for mapping in self.directory.all()}
            self.connected, self.asked, self.last = set(), [], {}
        elif kind == "answer" and self.asked:
            ask = self.asked.pop(0)
            if ask.nve in self.connected:
                self.take(directory.confirmed(ask.nve, ask.vni, ask.mac, bool(values[0])))
        elif kind == "static":
            nve, mac, ips = values
            mapping = Mapping(vni=100, mac=str(mac), ips=tuple(ips), nve=str(nve))  # type: ignore[arg-type]
            try:
                self.take(directory.set_static(mapping))
            except ValueError:
                return
            self.static[mapping.mac] = mapping
        elif kind == "remove":
            self.static.pop(str(values[0]), None)
            self.take(directory.remove(100, str(values[0])))
        elif kind != "answer":
            self._of_nve(kind, *values)

    def _of_nve(self, kind: str, nve: str, tenants: object = ()) -> None:  # type: ignore[override]
        if kind in {"fresh", "back"}:
            self.connected.add(nve)
            self.directory.connected(nve, fresh=kind == "fresh")
            if kind == "fresh":
                self.last.pop(nve, None)
        elif kind == "lost":
            self.connected.discard(nve)
            self.take(self.directory.disconnected(nve))
        elif kind == "forget":
            self.connected.discard(nve)
            self.last.pop(nve, None)
            self.take(self.directory.forget(nve))
        elif nve in self.connected and kind == "report":
            number = self.last.get(nve, (0, []))[0] + 1
            listed = [Tenant(vni=100, mac=mac, ips=tuple(ips)) for mac, ips in tenants]  # type: ignore[attr-defined]
            self.last[nve] = (number, listed)
            self.take(self.directory.report(nve, number, listed))
        elif nve in self.connected and nve in self.last:
            self.take(self.directory.report(nve, *self.last[nve]))

    def check(self) -> None:
        mappings = self.directory.all()
        owners = [(mapping.vni, ip) for mapping in mappings for ip in dict.fromkeys(mapping.ips)]
        assert len(owners) == len(set(owners)), "each IP address is one tenant's"
        assert self.told == {mapping.mac: mapping for mapping in mappings}, "every change was told"
        for mapping in mappings:
            if self.directory.is_static(mapping.vni, mapping.mac):
                assert self.static[mapping.mac] == mapping
            else:
                assert len(set(mapping.ips)) == len(mapping.ips)
                claims = self.directory._reports[mapping.nve].claims
                assert set(mapping.ips) <= set(claims[mapping.vni, mapping.mac]), "it is what its NVE claims"
        for nve in self.connected & self.last.keys():
            for item in self.last[nve][1]:
                assert self.directory.get(item.vni, item.mac) is not None, "who is reported is mapped"


@settings(max_examples=300, deadline=None)
@given(st.lists(STEPS, max_size=30))
def test_whatever_is_reported_each_address_is_one_tenant_s_and_repeating_changes_nothing(
    steps: list[tuple[str, ...]],
) -> None:
    model = Model()
    for step in steps:
        model.step(*step)
        model.check()
        before = model.directory.all()
        for nve in sorted(model.connected & model.last.keys()):
            if step[0] != "back":
                assert model.directory.report(nve, *model.last[nve]) == []
        assert model.directory.all() == before
