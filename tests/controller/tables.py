"""Association tables for tests, without nodes: whoever is to acknowledge does so when told."""

from __future__ import annotations

import base64
import hashlib
import itertools
from collections.abc import Iterable
from typing import Any

from controller.authority.associations import AssociationTable
from controller.authority.lines import DemandKey
from controller.authority.membership import Membership
from controller.authority.spis import KEY_SIZE, SpiSpace
from controller.inventory import Inventory
from geneve.control.demand import Demand
from geneve.control.state import Association, AssociationRole
from geneve.policy import Policy
from tests.controller.inventories import build, document

PATHS = {
    ("nve1", "nve2"): ("t1",), ("nve2", "nve1"): ("t1",), ("nve1", "nve3"): ("t1", "t2"),
    ("nve3", "nve1"): ("t2", "t1"), ("nve2", "nve3"): ("t2",), ("nve3", "nve2"): ("t2",),
}  # fmt: skip
NODES = ["nve1", "nve2", "nve3", "t1", "t2"]
SIGNING = {name: base64.b64encode(hashlib.sha256(name.encode()).digest()).decode() for name in NODES[:3]}
GROUP = {"name": "group-red", "address": "239.1.1.1", "senders": ["nve1", "nve2", "nve3"]}
OPTION = {"option_class": 258, "type": 17, "data": "00000000"}


class Tokens:
    """Different bytes each time, the same in each run."""

    def __init__(self) -> None:
        self._numbers = itertools.count()

    def __call__(self, size: int) -> bytes:
        return hashlib.shake_256(str(next(self._numbers)).encode()).digest(size)


class Records:
    """What a table says must survive."""

    def __init__(self) -> None:
        self.associations: dict[int, tuple[str, Association, float]] = {}
        self.demands: list[DemandKey] = []

    def association(self, stage: str, association: Association, created: float) -> None:
        self.associations[association.spi] = (stage, association, created)

    def association_gone(self, spi: int) -> None:
        self.associations.pop(spi, None)

    def demand(self, key: DemandKey) -> None:
        if key not in self.demands:
            self.demands.append(key)

    def demand_gone(self, key: DemandKey) -> None:
        self.demands.remove(key)


def inventory(
    profile: dict[str, Any] | None = None, policy: list[dict[str, Any]] | None = None, **vni: Any
) -> Inventory:
    data = document()
    if profile is not None:
        data["profiles"].append({"name": "mine", **profile})
        data["vnis"][0]["profile"] = "mine"
    data["vnis"][0] |= vni
    if policy is not None:
        data["policy"] = policy
    return build(data)


class Table(AssociationTable):
    """A table with shorthands."""

    def __init__(self, of: Inventory, tokens: Tokens | None = None, start: int = 0) -> None:
        self.records, self.inventory = Records(), of
        self.reserved = start
        policy = Policy(of.rules(), of.profiles)
        spis = SpiSpace(bytes(KEY_SIZE), start, lambda limit: setattr(self, "reserved", limit))
        super().__init__(Membership(of), policy, tokens or Tokens(), spis, self.records)

    def want(self, sender: str, demand: Demand, now: float = 0.0) -> bool:
        key = self.permits(sender, demand)
        if key is None:
            return False
        self.demand(key, now)
        return True

    def want_all(self, now: float = 0.0) -> None:
        """Have everybody want all that may be had."""
        of = self.inventory
        policy = Policy(of.rules(), of.profiles)
        for vni in of.vnis:
            for rule in policy.rules_for(vni.vni):
                if rule.profile is None:
                    continue
                more = {"vni": vni.vni, "profile": rule.profile, "rule": rule.name}
                for sender, other in itertools.permutations(of.members(vni.vni), 2):
                    self.want(sender, Demand(audience=other, **more), now)
                for group in vni.multicast:
                    for sender in group.senders:
                        self.want(sender, Demand(audience=group.name, multicast=True, **more), now)

    def acknowledge(self, *nodes: str, now: float = 0.0) -> None:
        """Have nodes apply what they may have; all that are connected, unless some are named."""
        for node in nodes or sorted(self._connected):
            self.acknowledged(node, by_spi(self.inbound(node)), by_spi(self.outbound(node)), now)

    def settle_down(self, now: float = 0.0) -> None:
        """Have everybody apply everything until nothing is under way."""
        for _ in range(4):
            self.acknowledge(now=now)

    def held(self) -> list[Association]:
        return [held.association for line in self.all() for _, held in line.all()]

    def of_role(self, role: AssociationRole = AssociationRole.EGRESS, vni: int | None = 100) -> list[Association]:
        return [item for item in self.held() if item.role is role and item.vni == vni]


def by_spi(items: Iterable[Association]) -> frozenset[int]:
    return frozenset(item.spi for item in items)


def table(
    of: Inventory,
    registered: Iterable[str] = NODES,
    signers: bool = True,
    paths: Any = PATHS,
    settled: bool = False,
    tokens: Tokens | None = None,
) -> Table:
    """A table in which everybody wants everything."""
    made = Table(of, tokens)
    made.set_paths(paths, 0.0)
    for name in registered:
        made.register(name, SIGNING.get(name) if signers else None, 0.0, fresh=True)
    made.want_all()
    if settled:
        made.settle_down()
    return made
