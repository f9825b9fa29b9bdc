"""A restarted controller takes over switches that an earlier one has programmed, without a gap in forwarding."""

from __future__ import annotations

from controller.fabric.flows import COOKIES, FlowRule
from controller.fabric.underlay import Clear, Command, Sweep, SwitchUp, Underlay, Update
from controller.inventory import Inventory
from tests.controller.inventories import build, document
from tests.controller.test_underlay import HOST_PORT, Network


def inventory() -> Inventory:
    """The ports of nodes are known, as the testbed's are: their places need not be learned again."""
    changed = document()
    for name in ("nve1", "nve2", "nve3"):
        changed["nodes"][name]["switch_port"] = HOST_PORT
    return build(changed)


ALL_UP = {1: True, 2: True, HOST_PORT: True}


class Marked(Network):
    """The network with each rule's cookie; its switches keep what an earlier controller has left."""

    def __init__(self, life: int, adopt_for: float | None, earlier: Marked | None = None) -> None:
        super().__init__()
        self.underlay = Underlay(inventory(), b"k" * 32, life, None if adopt_for is None else self.now + adopt_for)
        self.cookies: dict[tuple[int, object], int] = {} if earlier is None else earlier.cookies
        self.rules = {dpid: {} for dpid in (1, 2, 3, 4)} if earlier is None else earlier.rules
        self.log: list[Command] = []

    def apply(self, command: Command) -> None:
        self.log.append(command)
        super().apply(command)
        if isinstance(command, Update):
            self.cookies.update({(command.dpid, rule.key): command.cookie for rule in command.add})
        elif isinstance(command, Sweep):
            others = set(COOKIES) - {command.cookie}
            rules = self.rules[command.dpid]
            for key in [key for key in rules if self.cookies[command.dpid, key] in others]:
                del rules[key]


def unicast(network: Network) -> set[tuple[int, FlowRule]]:
    return {(dpid, rule) for dpid, rules in network.rules.items() for rule in rules.values() if rule.match.eth_dst
            and rule.match.eth_dst_mask is None}  # fmt: skip


def test_the_rules_of_before_stay_until_all_is_found_and_then_the_new_ones_come_first() -> None:
    first = Marked(1, None)
    first.start()
    before = unicast(first)
    assert before
    second = Marked(2, 15.0, first)
    for dpid in (1, 2, 3):
        second.handle(SwitchUp(dpid, ALL_UP))
    second.run(5)
    assert not [command for command in second.log if isinstance(command, (Clear, Sweep))]
    assert unicast(second) == before, "nothing is forwarded in another way while a switch is missing"
    second.handle(SwitchUp(4, ALL_UP))
    second.run(1)
    assert not [command for command in second.log if isinstance(command, Clear)]
    kinds = [type(command) for command in second.log if isinstance(command, (Update, Sweep)) and command.dpid == 1]
    assert kinds.index(Sweep) > kinds.index(Update)
    assert {command.dpid for command in second.log if isinstance(command, Sweep)} == {1, 2, 3, 4}
    assert unicast(second) == before
    assert {second.cookies[dpid, key] for dpid, rules in second.rules.items() for key in rules} == {COOKIES[2]}


def test_a_rule_that_nobody_wants_any_more_goes_with_the_sweep() -> None:
    first = Marked(1, None)
    first.start()
    stale = FlowRule(1, 299, next(iter(unicast(first)))[1].match, outputs=(7,))
    first.apply(Update(1, (stale,), (), cookie=COOKIES[1]))
    second = Marked(2, 15.0, first)
    second.start()
    assert stale.key not in second.rules[1]


def test_a_switch_that_never_comes_back_does_not_hold_up_the_others_for_ever() -> None:
    first = Marked(1, None)
    first.start()
    second = Marked(2, 15.0, first)
    for dpid in (1, 2, 3):
        second.handle(SwitchUp(dpid, ALL_UP))
    second.run(16)
    assert {command.dpid for command in second.log if isinstance(command, Sweep)} == {1, 2, 3}
    second.handle(SwitchUp(4, ALL_UP))
    assert Clear(4) in second.log, "later it is like any other switch that connects"


def test_in_its_first_life_a_controller_clears_what_it_finds() -> None:
    network = Marked(1, None)
    network.start()
    assert {command.dpid for command in network.log if isinstance(command, Clear)} == {1, 2, 3, 4}
