"""The life of associations: offered, current, retiring, gone; who holds what at each step; groups that change."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from controller.authority.associations import GRACE, MIN_AGE, RESTORED_WAIT
from geneve.control.state import Association, AssociationRole
from geneve.policy import Policy
from tests.controller.tables import (
    GROUP,
    NODES,
    PATHS,
    SIGNING,
    Records,
    Table,
    Tokens,
    by_spi,
    inventory,
    table,
)

BLIND = {"options": [], "authenticate_inner": "none", "encrypt_inner": "none"}


def sent(made: Table, sender: str = "nve1", audience: str = "nve2", vni: int = 200) -> Association:
    (item,) = [i for i in made.outbound(sender) if (i.audience, i.vni) == (audience, vni)]
    return item


def opened(made: Table, node: str = "nve2", sender: str = "nve1", vni: int = 200) -> list[Association]:
    return [item for item in made.inbound(node) if (item.sender, item.vni) == (sender, vni)]


def group_key(made: Table, sender: str = "nve1") -> Association:
    (item,) = [i for i in made.outbound(sender) if i.role is AssociationRole.MULTICAST]
    return item


def test_a_replaced_association_goes_on_until_the_new_one_is_known():
    made = table(inventory(), settled=True)
    old = sent(made)
    assert made.renew_spi(old.spi, MIN_AGE / 2) == set(), "not so soon"
    assert made.renew_spi(old.spi, 5.0) == {"nve2"}
    assert made.renew_spi(old.spi, 5.1) == set(), "one exchange at a time"
    assert sent(made) == old
    fresh = next(item for item in opened(made) if item != old)
    assert made.renew_spi(fresh.spi, 7.0) == set(), "what is offered is not replaced"
    made.acknowledge("nve2", now=7.0)
    assert sent(made) == fresh
    made.tick(7.0 + 10 * GRACE)
    assert old in opened(made), "the sender has not said that it has switched"
    made.acknowledge("nve1", now=50.0)
    made.tick(50.0 + GRACE - 0.01)
    assert old in opened(made), "what is on its way can still be opened"
    made.tick(50.0 + GRACE)
    assert opened(made) == [fresh]
    assert made.line_of(old.spi) is None


def test_the_sender_never_holds_an_association_that_is_offered_or_retiring():
    made = table(inventory(), settled=True)
    for now in range(5, 50, 5):
        made.renew_all(float(now))
        for step in range(3):
            for line in made.all():
                held = by_spi(made.outbound(line.key.sender))
                for stage, item in line.all():
                    assert (item.association.spi in held) <= (stage == "current")
            made.acknowledge(*NODES[step:], now=float(now))
        made.settle_down(float(now))


@pytest.mark.parametrize("interval", [0.1, 0.3, 1.5])
def test_a_busy_sender_need_not_wait_for_the_grace_period(interval: float) -> None:
    made = table(inventory(), settled=True)
    used = []
    now = 5.0
    for _ in range(40):
        now += interval
        current = sent(made)
        used.append(current.spi)
        made.tick(now)
        assert made.renew_spi(current.spi, now)
        assert current.spi in by_spi(opened(made))
        made.acknowledge("nve2", now=now)
        made.acknowledge("nve1", now=now)
    assert len(set(used)) == 40
    assert len(opened(made)) <= GRACE / interval + 3, "no more than what the grace period holds"
    made.tick(now + GRACE)
    assert len(opened(made)) == 1


def test_a_lost_acknowledgement_holds_up_the_exchange_and_nothing_else():
    made = table(inventory(), settled=True)
    old = sent(made)
    made.renew_spi(old.spi, 5.0)
    for now in range(6, 100):
        made.tick(float(now))
    assert sent(made) == old
    assert old in opened(made)
    made.acknowledge("nve2", now=100.0)
    assert sent(made) != old


def test_an_audience_that_comes_back_goes_on_where_the_exchange_was():
    made = table(inventory(), settled=True)
    old = sent(made)
    made.renew_spi(old.spi, 5.0)
    made.disconnected("nve2", 5.5)
    assert sent(made) == old, "nobody but the audience can say that it can open it"
    made.register("nve2", SIGNING["nve2"], 20.0, fresh=False)
    made.acknowledge("nve2", now=20.0)
    assert sent(made) != old


def test_a_shared_association_is_replaced_when_all_that_open_it_are_ready():
    made = table(inventory({"group": BLIND}), settled=True)
    (old,) = [i for i in made.outbound("nve1") if i.role is AssociationRole.GROUP and i.audience == "nve3"]
    assert made.renew_spi(old.spi, 5.0) == {"nve3", "t1", "t2"}
    for node in ("nve3", "t1"):
        made.acknowledge(node, now=5.0)
        assert old in made.outbound("nve1")
    made.acknowledge("t2", now=5.0)
    assert old not in made.outbound("nve1")
    assert all(old in made.inbound(node) for node in ("nve3", "t1", "t2"))


def test_a_device_that_is_gone_is_waited_for_a_while_only():
    made = table(inventory({"group": BLIND}), settled=True)
    (old,) = [i for i in made.outbound("nve1") if i.role is AssociationRole.GROUP and i.audience == "nve3"]
    made.renew_spi(old.spi, 5.0)
    made.acknowledge("nve3", "t1", now=5.0)
    made.disconnected("t2", 5.5)
    made.tick(5.5 + RESTORED_WAIT - 0.1)
    assert old in made.outbound("nve1"), "it may come back, and can open the old one meanwhile"
    made.tick(5.5 + RESTORED_WAIT)
    assert old not in made.outbound("nve1")


# By time --------------------------------------------------------------------------------------------------


def test_every_association_is_replaced_in_time_and_by_time_only():
    made = table(inventory({"rekey_seconds": 10.0}), settled=True)
    before = by_spi(made.of_role())
    slow = by_spi(made.of_role(vni=200))
    made.tick(9.9)
    assert by_spi(made.of_role()) == before
    now = 10.0
    while now < 14:
        made.tick(now)
        made.settle_down(now)
        now += 0.5
    assert not before & by_spi(made.of_role())
    assert len(made.of_role()) == 6
    assert by_spi(made.of_role(vni=200)) == slow, "another profile, replaced after an hour"


def test_associations_without_a_time_stay():
    made = table(inventory({"rekey_seconds": None}), settled=True)
    before = by_spi(made.of_role())
    made.tick(1e9)
    assert by_spi(made.of_role()) == before


def test_what_cannot_be_replaced_in_time_is_tried_until_it_can():
    made = table(inventory({"rekey_seconds": 10.0}))
    made.acknowledge("nve2", "t1", "t2")  # whose senders have not taken it yet
    line = next(item for item in made.all() if item.key.sender == "nve1" and item.key.audience == "nve2")
    assert line.current is not None
    old = line.current.association
    for now in range(10, 20):
        made.tick(float(now))
    assert line.offered is None
    made.acknowledge("nve1", now=20.0)
    made.tick(21.5)
    assert line.offered is not None
    assert line.current.association == old


# Groups ---------------------------------------------------------------------------------------------------


def multicast(registered: list[str]) -> Table:
    made = Table(inventory(multicast=[GROUP]))
    made.set_paths(PATHS, 0.0)
    for name in registered:
        made.register(name, SIGNING.get(name), 0.0, fresh=True)
    made.want_all()
    made.settle_down()
    return made


def test_who_joins_a_group_gets_the_new_key_and_never_the_old_one():
    made = multicast(["nve1", "nve2", "t1", "t2"])
    old = group_key(made)
    assert old.members == ("nve2",)
    made.register("nve3", SIGNING["nve3"], 5.0, fresh=True)
    assert group_key(made) == old, "make before break"
    ever = by_spi(made.inbound("nve3"))
    assert old.spi not in ever
    made.acknowledge("nve2", now=5.0)
    assert group_key(made) == old, "the newcomer is not ready yet"
    made.acknowledge("nve3", now=5.0)
    fresh = group_key(made)
    assert fresh.members == ("nve2", "nve3")
    assert old in made.inbound("nve2"), "what is on its way can still be opened by who could"
    assert old not in made.inbound("nve3")
    assert fresh.secret != old.secret


@pytest.mark.parametrize("how", ["revoked", "a new process"])
def test_who_leaves_a_group_ends_its_key_at_once_for_everybody(how: str) -> None:
    made = multicast(list(NODES))
    old = {name: group_key(made, name) for name in NODES[:3]}
    if how == "revoked":
        made.revoke("nve3", 5.0)
    else:
        made.register("nve3", SIGNING["nve3"], 5.0, fresh=True)
    gone = {item.spi for item in old.values()}
    for name in NODES:
        assert not gone & (by_spi(made.inbound(name)) | by_spi(made.outbound(name))), name
    made.settle_down(5.0)
    fresh = group_key(made)
    if how == "revoked":
        assert fresh.members == ("nve2",)
        assert made.inbound("nve3") == made.outbound("nve3") == []
    assert not gone & by_spi(made.held())


def test_a_signer_that_changes_ends_the_old_key():
    made = multicast(list(NODES))
    old = group_key(made)
    made.register("nve1", SIGNING["nve2"], 5.0, fresh=True)
    assert old.spi not in by_spi(made.held())
    made.want_all(5.0)
    made.settle_down(5.0)
    assert group_key(made).signer == SIGNING["nve2"]


def test_a_member_that_is_only_disconnected_stays_a_member():
    made = multicast(list(NODES))
    old = group_key(made)
    made.disconnected("nve3", 5.0)
    made.tick(60.0)
    assert group_key(made) == old
    made.renew_spi(old.spi, 61.0)
    made.acknowledge("nve2", now=61.0)
    assert group_key(made) != old, "who is not there is not waited for"
    assert group_key(made) in made.inbound("nve3"), "it gets it when it is back"


# Devices and paths ----------------------------------------------------------------------------------------


def test_a_device_that_leaves_the_path_ends_a_replacement_too():
    made = table(inventory({"group": BLIND}), settled=True)
    (old,) = [i for i in made.outbound("nve1") if i.role is AssociationRole.GROUP and i.audience == "nve3"]
    made.renew_spi(old.spi, 5.0)
    made.set_paths({**PATHS, ("nve1", "nve3"): ("t2",)}, 5.5)
    assert all(item.role is not AssociationRole.GROUP or item.audience != "nve3" for item in made.inbound("t1"))
    assert old not in made.inbound("t2"), "who shares a key with one that left stops using it"
    assert old not in made.outbound("nve1")


def test_a_device_that_joins_the_path_gets_a_new_key_while_the_old_one_goes_on():
    made = table(inventory({"group": BLIND}), paths={**PATHS, ("nve1", "nve3"): ("t2",)}, settled=True)
    (old,) = [i for i in made.outbound("nve1") if i.role is AssociationRole.GROUP and i.audience == "nve3"]
    made.set_paths(PATHS, 5.0)
    assert old in made.outbound("nve1")
    assert old not in made.inbound("t1")
    made.settle_down(5.0)
    (fresh,) = [i for i in made.outbound("nve1") if i.role is AssociationRole.GROUP and i.audience == "nve3"]
    assert set(fresh.members) == {"t1", "t2"}
    assert fresh in made.inbound("t1")


def test_a_device_that_registers_late_gets_its_part():
    made = table(inventory(), registered=NODES[:3], settled=True)
    assert made.of_role(AssociationRole.TRANSIT) == []
    before = {name: by_spi(made.outbound(name)) for name in NODES[:3]}
    made.register("t1", None, 5.0, fresh=True)
    assert all(before[name] == by_spi(made.outbound(name)) for name in before), "nothing stops meanwhile"
    made.settle_down(5.0)
    assert {item.sender for item in made.inbound("t1")} == set(NODES[:3])
    assert all(before[name] < by_spi(made.outbound(name)) for name in before)


def test_a_device_s_new_process_gets_new_keys_and_the_senders_drop_the_old():
    made = table(inventory(), settled=True)
    old, others = by_spi(made.inbound("t1")), by_spi(made.of_role())
    made.register("t1", None, 5.0, fresh=True)
    held = by_spi(item for name in NODES for item in (*made.inbound(name), *made.outbound(name)))
    assert not old & held
    assert others <= held, "what the device has no part in goes on"
    made.settle_down(5.0)
    assert {item.sender for item in made.inbound("t1")} == set(NODES[:3])


def test_a_device_off_the_path_forgets_demands_that_end_meanwhile():
    made = table(inventory(), settled=True)
    made.set_paths({}, 1.0)
    made.revoke("nve1", 2.0)  # its demands end while t1 has no part in them
    made.register("t1", None, 3.0, fresh=True)
    assert made.inbound("t1") == []


def test_a_profile_whose_contents_change_takes_its_associations_and_no_others():
    of = inventory({})
    made = table(of, settled=True)
    mine, others = by_spi(made.of_role()), by_spi(made.of_role(vni=200))
    profiles = [p if p.name != "mine" else p.model_copy(update={"replay_window": 2048}) for p in of.profiles]
    made.set_policy(Policy(of.rules(), profiles), frozenset({"mine"}), 5.0)
    assert not mine & by_spi(made.held())
    assert by_spi(made.of_role(vni=200)) == others
    made.settle_down(5.0)
    assert len(made.outbound("nve1")) > 0
    assert len(made.of_role()) == 6


# Restart --------------------------------------------------------------------------------------------------


def reborn(made: Table, tokens: Tokens, now: float) -> Table:
    """The table that another life makes of what the records have."""
    again = Table(made.inventory, tokens, start=made.reserved)
    kept: Records = made.records
    again.records.associations = dict(kept.associations)
    registered = {name: made._signers.get(name) for name in made._registered}
    again.restore(list(kept.demands), list(kept.associations.values()), registered, made._paths, now)
    return again


def stages(made: Table) -> dict[int, tuple[str, Association, float]]:
    held = [(stage, item) for line in made.all() for stage, item in line.all()]
    return {item.association.spi: (stage, item.association, item.created) for stage, item in held}


def test_a_restart_keeps_every_association_in_its_stage():
    tokens = Tokens()
    made = table(inventory({"group": BLIND}, multicast=[GROUP]), settled=True, tokens=tokens)
    made.renew_all(5.0, "nve1")
    made.acknowledge("nve2", now=5.0)
    before = stages(made)
    assert {stage for stage, *_ in before.values()} == {"offered", "current", "retiring"}
    assert made.records.associations == before
    again = reborn(made, tokens, 100.0)
    assert stages(again) == before
    assert again.demands() == made.demands()
    for name in NODES:
        assert by_spi(made.outbound(name)) <= by_spi(again.outbound(name))
        again.register(name, SIGNING.get(name), 101.0, fresh=False)
    again.settle_down(101.0)
    assert all(line.offered is None and line.given for line in again.all()), "what was under way is completed"
    again.tick(101.0 + GRACE)
    assert all(not line.retiring for line in again.all())


def test_after_a_restart_devices_that_stay_away_are_waited_for_a_while_only():
    tokens = Tokens()
    made = table(inventory({"group": BLIND}), settled=True, tokens=tokens)
    made.renew_all(5.0, "t2")
    again = reborn(made, tokens, 100.0)
    for name in NODES[:4]:
        again.register(name, SIGNING.get(name), 101.0, fresh=False)
    again.settle_down(101.0)
    waiting = [line for line in again.all() if line.offered is not None]
    assert waiting
    again.tick(100.0 + RESTORED_WAIT)
    assert not [line for line in again.all() if line.offered is not None]


def test_a_new_process_after_a_restart_ends_what_was_its_own():
    tokens = Tokens()
    made = table(inventory(), settled=True, tokens=tokens)
    used = by_spi(made.held())
    again = reborn(made, tokens, 100.0)
    old = by_spi(item for item in again.held() if "nve2" in {item.sender, item.audience})
    again.register("nve2", SIGNING["nve2"], 101.0, fresh=True)
    assert not old & by_spi(again.held())
    again.settle_down(101.0)
    assert {item.audience for item in again.outbound("nve1")} == {"nve2", "nve3", "t1", "t2"}
    assert by_spi(again.outbound("nve2")) == set(), "what it wants itself it asks for"
    assert by_spi(again.held()) - used, "with new numbers"


def test_a_demand_that_is_not_permitted_any_more_is_forgotten_by_the_next_life():
    made = table(inventory(), settled=True)
    again = Table(inventory(policy=[]), Tokens(), start=made.reserved)
    again._policy = Policy([], [])
    again.records.associations = dict(made.records.associations)
    again.records.demands = list(made.records.demands)
    registered = dict.fromkeys(made._registered)
    again.restore(list(made.records.demands), list(made.records.associations.values()), registered, PATHS, 9.0)
    assert again.all() == again.demands() == again.records.demands == []
    assert again.records.associations == {}


def test_when_all_are_gone_nothing_is_left():
    made = table(inventory({"group": BLIND}, multicast=[GROUP]), settled=True)
    made.renew_all(5.0)
    made.set_paths({}, 6.0)
    for name in NODES:
        made.revoke(name, 7.0)
    assert made.held() == made.all() == made.demands() == made.records.demands == []
    assert made.records.associations == made._by_spi == made._wanted_by == made._noted_at == {}
    assert not any(made._demands_at.values())
    assert not any(made._lines_at.values())


STEPS = st.sampled_from(["fresh", "back", "lost", "revoke", "renew", "ack", "tick", "paths", "want", "restart"])


@given(st.lists(st.tuples(STEPS, st.integers(0, 9)), max_size=40))
@settings(max_examples=120, deadline=None)
def test_whatever_happens_no_number_or_secret_comes_twice_and_none_goes_astray(steps: list[tuple[str, int]]) -> None:
    tokens = Tokens()
    made = table(inventory({"group": BLIND, "rekey_seconds": 6.0}, multicast=[GROUP]), tokens=tokens)
    now = 1.0
    ever: dict[int, tuple[str, Association]] = {}
    acknowledged: dict[str, set[int]] = {name: set() for name in NODES}
    gone: set[int] = set()
    for step, number in steps:
        now += 1.3
        node = NODES[number % len(NODES)]
        made = _step(made, step, number, node, now, tokens, acknowledged)
        _check(made, ever, acknowledged, gone)
    assert len({item.secret.get_secret_value() for _, item in ever.values()}) == len(ever)


def _step(
    made: Table, step: str, number: int, node: str, now: float, tokens: Tokens, acknowledged: dict[str, set[int]]
) -> Table:
    if step == "fresh":
        made.register(node, SIGNING.get(node), now, fresh=True)
    elif step == "back" and node in made._registered:
        made.register(node, SIGNING.get(node), now, fresh=False)
    elif step == "lost":
        made.disconnected(node, now)
    elif step == "revoke":
        made.revoke(node, now)
    elif step == "renew" and made.held():
        made.renew_spi(made.held()[number % len(made.held())].spi, now)
    elif step == "ack" and node in made._connected:
        acknowledged[node] |= by_spi(made.inbound(node))
        made.acknowledge(node, now=now)
    elif step == "tick":
        made.tick(now)
    elif step == "paths":
        made.set_paths({pair: via[: number % 3] for pair, via in PATHS.items()}, now)
    elif step == "want":
        made.want_all(now)
    elif step == "restart":
        return reborn(made, tokens, now)
    return made


def _check(
    made: Table, ever: dict[int, tuple[str, Any]], acknowledged: dict[str, set[int]], gone: set[int]
) -> None:
    alive = set()
    for name in NODES:
        for item in made.inbound(name):
            alive.add(item.spi)
            assert item.opens(name)
            assert item.sender != name
            assert ever.setdefault(item.spi, (name, item))[1].secret == item.secret
        outbound = made.outbound(name)
        assert all(item.sender == name for item in outbound)
        kinds = [(i.role, i.audience, i.vni, i.profile, i.rule) for i in outbound]
        assert len(set(kinds)) == len(kinds), "one of each kind"
        for item in outbound:
            alive.add(item.spi)
            if item.role is AssociationRole.EGRESS:
                assert item.spi in acknowledged[item.audience], "what the audience lacks is not sent with"
    assert not alive & gone, "what has ended does not come back"
    gone |= ever.keys() - alive
    assert by_spi(item for _, item, _ in made.records.associations.values()) == by_spi(made.held()), "all is recorded"
