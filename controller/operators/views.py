"""What operators see of the NVA, as JSON objects: never a secret. Pure."""

from __future__ import annotations

from typing import Any

from controller.authority.nva import Nva
from controller.authority.records import AuditLine
from controller.inventory import Inventory


def nodes(nva: Nva, now: float) -> dict[str, Any]:
    """Return the nodes, and whether everything has reached everyone."""
    listed = []
    for name, node in nva.nodes.items():
        entry = nva.book.inventory.nodes[name]
        listed.append(
            {
                "name": name,
                "role": entry.role.value,
                "address": entry.address,
                "connected": node.connection is not None,
                "revoked": node.revoked,
                "instance": node.instance or None,
                "registered_s": round(now - node.registered_at, 3) if node.connection is not None else None,
                "sequence": node.acknowledged,
                "in_step": nva.in_step(node),
                "refusal": node.refusal,
            }
        )
    expected = [node for node in nva.nodes.values() if not node.revoked]
    converged = nva.associations.settled() and all(nva.in_step(node) for node in expected)
    return {"epoch": nva.epoch, "converged": converged, "nodes": listed}


def tenants(inventory: Inventory) -> dict[str, Any]:
    """Return the tenants with their VNIs and the NVEs that serve these."""
    found: dict[str, list[dict[str, Any]]] = {}
    for vni in inventory.vnis:
        entry = {**vni.model_dump(mode="json"), "members": list(inventory.members(vni.vni))}
        found.setdefault(vni.tenant, []).append(entry)
    return {"tenants": [{"name": name, "vnis": vnis} for name, vnis in found.items()]}


def mappings(nva: Nva) -> dict[str, Any]:
    """Return the mappings in force."""
    return {
        "mappings": [
            {**mapping.model_dump(mode="json"), "static": nva.directory.is_static(mapping.vni, mapping.mac)}
            for mapping in nva.directory.all()
        ]
    }


def associations(nva: Nva, now: float) -> dict[str, Any]:
    """Return the associations in all their stages."""
    return {
        "associations": [
            {
                "spi": held.association.spi,
                "stage": stage,
                "role": held.association.role.value,
                "sender": held.association.sender,
                "audience": held.association.audience,
                "members": list(held.association.members),
                "vni": held.association.vni,
                "rule": held.association.rule,
                "profile": held.association.profile,
                "waiting": sorted(held.waiting),
                "age_s": round(now - held.created, 3),
            }
            for line in nva.associations.all()
            for stage, held in line.all()
        ]
    }


def event(line: AuditLine) -> dict[str, Any]:
    """Return one line of the audit log; ``time`` is UTC in seconds."""
    return {
        "number": line.number, "time": round(line.time, 3), "kind": line.kind, "node": line.node, "text": line.text,
    }  # fmt: skip
