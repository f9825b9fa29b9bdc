"""Builds what each node is told: its own part of the inventory and of the associations, no more."""

from __future__ import annotations

from collections.abc import Iterable

from controller.associations import AssociationTable, Paths, member_vnis
from controller.inventory import Inventory
from geneve.control.profile import Profile
from geneve.control.state import Association, NodeState, NveAddress, Role, TransitVni, VniState


def build_state(inventory: Inventory, table: AssociationTable, paths: Paths, node: str) -> NodeState:
    """Return the state of a node of the inventory."""
    if inventory.nodes[node].role is Role.NVE:
        return _nve_state(inventory, table, paths, node)
    return _transit_state(inventory, table, paths, node)


def _nve_state(inventory: Inventory, table: AssociationTable, paths: Paths, node: str) -> NodeState:
    mine = set(member_vnis(inventory, node))
    vnis = [vni for vni in inventory.vnis if vni.vni in mine]
    outbound, inbound = table.outbound(node), table.inbound(node)
    rules = tuple(rule for rule in inventory.rules() if rule.vni is None or rule.vni in mine)
    names = {rule.profile for rule in rules} | {end.profile for end in (*outbound, *inbound)}
    return NodeState(
        node=node,
        role=Role.NVE,
        vnis=tuple(
            VniState(
                vni=vni.vni,
                telemetry=vni.telemetry,
                tags=vni.tags,
                options=vni.options,
                multicast=vni.multicast,
                mtu=vni.mtu,
            )
            for vni in vnis
        ),
        nves=_other_nves(inventory, table, paths, node),
        mappings=tuple(mapping for mapping in inventory.mappings if mapping.vni in mine),
        profiles=_profiles(inventory, names),
        policy=rules,
        outbound=tuple(outbound),
        inbound=tuple(inbound),
    )


def _other_nves(inventory: Inventory, table: AssociationTable, paths: Paths, node: str) -> tuple[NveAddress, ...]:
    mine = set(member_vnis(inventory, node))
    others = []
    for name, entry in sorted(inventory.nodes.items()):
        if entry.role is not Role.NVE or name == node:
            continue
        shared = tuple(vni for vni in member_vnis(inventory, name) if vni in mine)
        if not shared:
            continue
        # A device whose association is on its way is named once the sender can use it, not before.
        devices = (device for device in paths.get((node, name), ()) if table.usable(node, device, shared))
        others.append(NveAddress(name=name, address=entry.address, vnis=shared, transit=tuple(devices)))
    return tuple(others)


def _transit_state(inventory: Inventory, table: AssociationTable, paths: Paths, node: str) -> NodeState:
    inbound: list[Association] = table.inbound(node)
    crossing = _vnis_through(inventory, paths, node)
    return NodeState(
        node=node,
        role=Role.TRANSIT,
        profiles=_profiles(inventory, {association.profile for association in inbound}),
        inbound=tuple(inbound),
        transit_vnis=tuple(
            TransitVni(
                vni=vni.vni,
                telemetry=vni.telemetry,
                # One rule that secures is enough: else a stranger's packet without protection would count as bypassed.
                authenticated=inventory.secures(vni.vni),
                group_policy=vni.group_policy if not vni.enforcers or node in vni.enforcers else None,
            )
            for vni in inventory.vnis
            if vni.vni in crossing
        ),
    )


def _vnis_through(inventory: Inventory, paths: Paths, device: str) -> set[int]:
    """Return the VNIs of which two NVEs have ``device`` on their path."""
    crossing: set[int] = set()
    for (sender, other), devices in paths.items():
        if device in devices:
            crossing |= set(member_vnis(inventory, sender)) & set(member_vnis(inventory, other))
    return crossing


def _profiles(inventory: Inventory, names: Iterable[str | None]) -> tuple[Profile, ...]:
    wanted = set(names)
    return tuple(profile for profile in inventory.profiles if profile.name in wanted)
