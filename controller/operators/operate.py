"""Carries out what an operator asks (operations.py) on the NVA. Pure."""

from __future__ import annotations

from typing import Any

from controller.authority.nva import Effect, Nva
from controller.operators.operations import (
    Fault,
    Operation,
    OperationError,
    Rekey,
    RemoveMapping,
    Restore,
    Revoke,
    SetMapping,
    SetPolicy,
)
from geneve.errors import ConfigError


def operate(nva: Nva, operation: Operation, now: float) -> tuple[dict[str, Any], list[Effect]]:
    """Return the answer for the operator, and what is to be done; OperationError says why nothing is."""
    effects: list[Effect] = []
    if isinstance(operation, Rekey):
        answer = _rekey(nva, operation, now)
    elif isinstance(operation, Revoke):
        effects += nva.revoke(_node(nva, operation.node), now)
        answer = {"node": operation.node, "revoked": True}
    elif isinstance(operation, Restore):
        nva.restore_node(_node(nva, operation.node), now)
        answer = {"node": operation.node, "revoked": False}
    elif isinstance(operation, SetPolicy):
        answer = _set_policy(nva, operation, now)
    elif isinstance(operation, SetMapping):
        answer = _set_mapping(nva, operation, now)
    else:
        answer = _remove_mapping(nva, operation, now)
    return answer, effects + nva.flush(now)


def _node(nva: Nva, name: str) -> str:
    if name not in nva.nodes:
        raise OperationError(Fault.NOT_FOUND, f"no node is named '{name}'; list them with 'nodes'.")
    return name


def _rekey(nva: Nva, operation: Rekey, now: float) -> dict[str, Any]:
    if operation.spi is not None and nva.associations.line_of(operation.spi) is None:
        raise OperationError(Fault.NOT_FOUND, f"no association has the SPI {operation.spi}; list them.")
    if operation.node is not None:
        _node(nva, operation.node)
    return {"replaced": nva.rekey(operation.spi, operation.node, now)}


def _set_policy(nva: Nva, operation: SetPolicy, now: float) -> dict[str, Any]:
    book = nva.book
    if book.candidate is not None:
        raise OperationError(Fault.CONFLICT, f"version {book.candidate.version} is being checked; wait for its end.")
    if operation.expected_version not in (None, book.version):
        text = f"version {book.version} is in force, not {operation.expected_version}; read it and try again."
        raise OperationError(Fault.CONFLICT, text)
    try:
        return {"version": nva.propose_policy(operation.document, now)}
    except ConfigError as error:
        raise OperationError(Fault.INVALID, str(error)) from None


def _set_mapping(nva: Nva, operation: SetMapping, now: float) -> dict[str, Any]:
    mapping = operation.mapping
    if not nva.membership.serves(mapping.nve, mapping.vni):
        text = f"key 'nve': '{mapping.nve}' does not serve VNI {mapping.vni}; name one that does."
        raise OperationError(Fault.INVALID, text)
    network = next(item for item in nva.book.inventory.vnis if item.vni == mapping.vni)
    if mapping.tag and not network.tags:
        text = f"key 'tag': packets of VNI {mapping.vni} carry no security groups; leave it out."
        raise OperationError(Fault.INVALID, text)
    try:
        nva.set_mapping(mapping, now)
    except ValueError as error:
        raise OperationError(Fault.CONFLICT, f"key 'ips': {error}; remove it there first.") from None
    return {"mapping": mapping.model_dump(mode="json")}


def _remove_mapping(nva: Nva, operation: RemoveMapping, now: float) -> dict[str, Any]:
    if nva.directory.get(operation.vni, operation.mac) is None:
        raise OperationError(Fault.NOT_FOUND, f"{operation.mac} is not mapped in VNI {operation.vni}.")
    nva.remove_mapping(operation.vni, operation.mac, now)
    return {"removed": True}
