"""Which NVE serves which virtual network, and where: what the inventory says, looked up fast. Pure."""

from __future__ import annotations

from controller.inventory import Inventory
from geneve.control.state import MulticastGroup, Role


class Membership:
    """Membership does not depend on who is connected: an NVE may serve exactly the VNIs that the inventory gives it."""

    def __init__(self, inventory: Inventory) -> None:
        self._addresses = {name: node.address for name, node in inventory.nodes.items()}
        self._vnis: dict[str, tuple[int, ...]] = {}
        self._members: dict[int, tuple[str, ...]] = {}
        self._networks = {vni.vni: vni for vni in inventory.vnis}
        known = {vni.vni for vni in inventory.vnis}
        of_mappings: dict[str, set[int]] = {}
        for mapping in inventory.mappings:
            of_mappings.setdefault(mapping.nve, set()).add(mapping.vni)
        for name, node in sorted(inventory.nodes.items()):
            if node.role is not Role.NVE:
                continue
            chosen = of_mappings.get(name, set()) if node.vnis is None else set(node.vnis)
            self._vnis[name] = tuple(vni for vni in sorted(chosen) if vni in known)
        for name, vnis in self._vnis.items():
            for number in vnis:
                self._members[number] = (*self._members.get(number, ()), name)
        self._sets = {name: frozenset(vnis) for name, vnis in self._vnis.items()}

    def members(self, vni: int) -> tuple[str, ...]:
        """Return the names of the NVEs that serve ``vni``, sorted."""
        return self._members.get(vni, ())

    def vnis_of(self, node: str) -> tuple[int, ...]:
        """Return the VNIs that a node serves, ascending; none for a transit device."""
        return self._vnis.get(node, ())

    def serves(self, node: str, vni: int) -> bool:
        """Whether an NVE may serve ``vni``."""
        return vni in self._sets.get(node, ())

    def shared_vnis(self, first: str, second: str) -> tuple[int, ...]:
        """Return the VNIs that two NVEs both serve, ascending."""
        other = self._sets.get(second, frozenset())
        return tuple(vni for vni in self.vnis_of(first) if vni in other)

    def groups(self, vni: int) -> tuple[MulticastGroup, ...]:
        """Return the underlay groups of a VNI."""
        return self._networks[vni].multicast if vni in self._networks else ()

    def carries_options(self, vni: int) -> bool:
        """Whether packets of a VNI carry options that a transit device could read."""
        network = self._networks.get(vni)
        return network is not None and (network.telemetry or network.tags or bool(network.options))

    def address(self, node: str) -> str:
        """Return a node's underlay address."""
        return self._addresses[node]
