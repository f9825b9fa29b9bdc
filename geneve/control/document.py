"""What the NVA has told a node, entry by entry: snapshots and deltas in, a whole :class:`NodeState` out. Pure.

The NVA's knowledge comes in *scopes*: ``vni/100`` is the same for every node that serves VNI 100, ``node`` is the
receiver's own (policy, paths, keys). A push carries, for each scope that changed, the entries to set and to remove,
and the sequence number it starts from; with none it is a snapshot that replaces everything. A document never
changes: :meth:`Document.apply` makes another, so a push that is refused leaves nothing behind.
"""

from __future__ import annotations

import json
from collections.abc import Mapping as MappingType
from dataclasses import dataclass, field, replace
from typing import Any

from pydantic import BaseModel, Field

from geneve.config import StrictModel, validate
from geneve.control.names import IpAddress, Name
from geneve.control.profile import Profile
from geneve.control.rules import Rule
from geneve.control.state import Association, Mapping, NodeState, NveAddress, Role, TransitVni, VniState
from geneve.errors import ConfigError

NODE_SCOPE = "node"
"""The scope that is a node's own."""

_MAX_EPOCH = 64


class NveEntry(StrictModel):
    """An NVE that serves the scope's VNI, and its underlay address."""

    address: IpAddress


class PathEntry(StrictModel):
    """The transit devices on this node's way to an NVE, in order."""

    transit: tuple[Name, ...]


class PolicyEntry(StrictModel):
    """A version of the policy, as far as it concerns this node: rules in order, and the profiles they name."""

    version: int = Field(ge=1)
    rules: tuple[Rule, ...] = ()
    profiles: tuple[Profile, ...] = ()


VNI, NVE, MAPPING = "vni", "nve", "mapping"
POLICY, CANDIDATE, PATH, OUT, IN, TRANSIT = "policy", "candidate", "path", "out", "in", "transit"

_MODELS: dict[str, type[BaseModel]] = {
    VNI: VniState,
    NVE: NveEntry,
    MAPPING: Mapping,
    POLICY: PolicyEntry,
    CANDIDATE: PolicyEntry,
    PATH: PathEntry,
    OUT: Association,
    IN: Association,
    TRANSIT: TransitVni,
}
"""The first part of an entry's key, and what the entry is."""

_SHARED = frozenset({VNI, NVE, MAPPING})


def vni_scope(vni: int) -> str:
    """Return the name of the scope that all nodes of a VNI share."""
    return f"vni/{vni}"


class ScopeChange(StrictModel):
    """What happens to one scope: ``replace`` empties it first; then ``remove``, then ``set``, never shown (keys)."""

    replace: bool = False
    set: dict[str, dict[str, Any]] = Field(default={}, repr=False)
    remove: tuple[str, ...] = ()


class Push(StrictModel):
    """The parameters of a push. ``base`` is the sequence number that it starts from; None: a snapshot."""

    epoch: str = Field(min_length=1, max_length=_MAX_EPOCH)
    sequence: int = Field(ge=1)
    base: int | None = Field(default=None, ge=0)
    scopes: dict[str, ScopeChange] = {}
    drop: tuple[str, ...] = ()


def parse_push(params: MappingType[str, Any]) -> Push:
    """Return a push's parameters; ConfigError when they are not sound. The entries are checked by ``apply``."""
    # The entries themselves are the bulk of it: their kind is checked here, their contents by ``apply``.
    scopes = params.get("scopes")
    entries: dict[str, dict[str, dict[str, Any]]] = {}
    if isinstance(scopes, dict):
        entries = {name: change["set"] for name, change in scopes.items() if _has_entries(change)}
        bare = {name: {**change, "set": {}} if name in entries else change for name, change in scopes.items()}
        params = {**params, "scopes": bare}
    push = validate(dict(params), "push", Push)
    if entries:
        filled = {
            name: change.model_copy(update={"set": entries[name]}) if name in entries else change
            for name, change in push.scopes.items()
        }
        push = push.model_copy(update={"scopes": filled})
    if push.base is not None and push.base >= push.sequence:
        raise ConfigError("push: base must be smaller than sequence.")
    return push


def _has_entries(change: object) -> bool:
    """Whether a scope's change has entries of the right kind; if not, the model says what is wrong."""
    entries = change.get("set") if isinstance(change, dict) else None
    return isinstance(entries, dict) and all(
        type(key) is str and type(value) is dict for key, value in entries.items()
    )


_Scope = dict[str, BaseModel]


@dataclass(frozen=True)
class Document:
    """All entries a node has been told, by scope. Its representation shows none: some are keys."""

    scopes: MappingType[str, _Scope] = field(default_factory=dict, repr=False)

    def apply(self, push: Push) -> Document:
        """Return the document after ``push``; ConfigError names the entry that is not sound."""
        scopes: dict[str, _Scope] = {} if push.base is None else dict(self.scopes)
        for name in push.drop:
            scopes.pop(name, None)
        for name, change in push.scopes.items():
            entries: _Scope = {} if change.replace else dict(scopes.get(name, {}))
            for key in change.remove:
                entries.pop(key, None)
            for key, value in change.set.items():
                entries[key] = self.entry(name, key, value)
            scopes[name] = entries
        return replace(self, scopes=scopes)

    def entry(self, scope: str, key: str, value: dict[str, Any]) -> BaseModel:
        """Return an entry of a push, checked; ConfigError names it when it is not sound."""
        kind = key.partition("/")[0]
        model = _MODELS.get(kind)
        if model is None or (kind in _SHARED) != (scope != NODE_SCOPE):
            raise ConfigError(f"push: scope '{scope}' has no entry '{key}'; expected one of this protocol version.")
        return validate(value, f"push: {scope} {key}", model)

    def state(self, node: str, role: Role) -> NodeState:
        """Return the whole state for the node named."""
        return self._state(node, role, POLICY)

    def candidate(self, node: str, role: Role) -> NodeState | None:
        """Return the state as it would be under the policy that the NVA wants checked; None: there is none.

        It holds no keys: which of them go with another policy is the NVA's business.
        """
        if CANDIDATE not in self.scopes.get(NODE_SCOPE, {}):
            return None
        return self._state(node, role, CANDIDATE).model_copy(update={"outbound": (), "inbound": ()})

    def _state(self, node: str, role: Role, policy_key: str) -> NodeState:
        own = self.scopes.get(NODE_SCOPE, {})
        policy = own.get(policy_key)
        assert policy is None or isinstance(policy, PolicyEntry)
        shared = [scope for name, scope in sorted(self.scopes.items()) if name != NODE_SCOPE]
        # The parts were checked when they came, and the whole has no rule of its own that they could break.
        return NodeState.model_construct(
            node=node,
            role=role,
            vnis=tuple(entry for scope in shared if isinstance(entry := scope.get(VNI), VniState)),
            nves=_others(node, shared, own),
            mappings=tuple(entry for scope in shared for entry in scope.values() if isinstance(entry, Mapping)),
            profiles=() if policy is None else policy.profiles,
            policy=() if policy is None else policy.rules,
            outbound=tuple(_under(own, OUT)),
            inbound=tuple(_under(own, IN)),
            transit_vnis=tuple(entry for entry in own.values() if isinstance(entry, TransitVni)),
        )


def _under(scope: _Scope, kind: str) -> list[Association]:
    prefix = kind + "/"
    return [entry for key, entry in scope.items() if key.startswith(prefix) and isinstance(entry, Association)]


def _others(node: str, shared: list[_Scope], own: _Scope) -> tuple[NveAddress, ...]:
    """Return the other NVEs of this node's VNIs, each with the VNIs that both serve."""
    found: dict[str, tuple[str, list[int]]] = {}
    for scope in shared:
        vni = scope.get(VNI)
        if not isinstance(vni, VniState):
            continue
        for key, entry in scope.items():
            if isinstance(entry, NveEntry) and (name := key.partition("/")[2]) != node:
                found.setdefault(name, (entry.address, []))[1].append(vni.vni)
    others = []
    for name, (address, vnis) in sorted(found.items()):
        path = own.get(f"{PATH}/{name}")
        transit = path.transit if isinstance(path, PathEntry) else ()
        others.append(NveAddress.model_construct(name=name, address=address, vnis=tuple(vnis), transit=transit))
    return tuple(others)


def to_wire(entry: BaseModel) -> dict[str, Any]:
    """Return an entry as the JSON object of a push, secrets included: never for a log or a result."""
    document: dict[str, Any] = json.loads(entry.model_dump_json(context={"reveal_secrets": True}))
    return document
