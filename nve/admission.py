"""What an opened packet must fulfil before its frame reaches a tenant (design invariants 6, 8 and 9)."""

from __future__ import annotations

from geneve.control.profile import KeyGranularity
from geneve.control.rules import Action
from geneve.control.state import AssociationRole
from geneve.drops import DropReason
from geneve.inner import InnerFrame
from geneve.policy import Decision
from geneve.security.association import Authenticated
from geneve.security.open import Opened
from nve.tables import VirtualNetwork


def refuse_frame(decision: Decision, opened: Opened, network: VirtualNetwork, inner: InnerFrame) -> DropReason | None:
    """Return why the frame must not be delivered, or None: policy again, then group, then source address."""
    refused = check_policy(decision, opened)
    association = opened.association
    if refused is not None or association is None:
        return refused
    if not _may_send_to_many(association, network, inner):
        return DropReason.UNAUTHORISED_GROUP
    return None if network.authorises(association.sender, inner) else DropReason.UNAUTHORISED_SOURCE


def check_policy(decision: Decision, opened: Opened) -> DropReason | None:
    """Compare what protected a packet with what the policy demands for it (design invariant 6)."""
    association = opened.association
    if decision.action is Action.DISCARD:
        return DropReason.POLICY_DISCARD
    if decision.action is Action.BYPASS:
        return None if association is None else DropReason.POLICY_MISMATCH
    if association is None:
        return DropReason.UNPROTECTED
    profile = decision.profile
    if profile is None or association.profile != profile.name or association.vni not in (None, opened.header.vni):
        return DropReason.POLICY_MISMATCH
    if profile.key_granularity is KeyGranularity.RULE and association.rule != decision.rule:
        return DropReason.POLICY_MISMATCH
    return None


def _may_send_to_many(association: Authenticated, network: VirtualNetwork, inner: InnerFrame) -> bool:
    """Check the sender's authorisation for the group that a frame goes to (SEC-GEN-17).

    What belongs to an underlay group comes under that group's association from one of its senders; what
    comes under a group's association belongs to that group.
    """
    to_many = bool(inner.destination[0] & 1)
    known = inner.destination in network.location
    group = network.group_for(inner) if to_many or not known else None
    if association.role is not AssociationRole.MULTICAST:
        return group is None
    return group is not None and group.name == association.audience and association.sender in group.senders
