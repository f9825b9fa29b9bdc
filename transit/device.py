"""What a transit device makes of the frames that pass: telemetry, and group policy where it is to be enforced.

Two functions, and both act on authenticated options only, unless a VNI's policy says otherwise:

- *Telemetry* never decides about a frame's way. A device without group policy forwards every frame exactly as
  it came, whatever the decision says (RFC 8926, section 2.2.1; design invariant 7).
- *Group policy* makes the device a firewall for the VNIs that have one: a packet passes only with exactly one
  tag of security groups, authenticated for this device, that a rule permits. What does not pass is dropped;
  what passes is not changed either.

Which VNI a packet belongs to is what its associations prove, and otherwise what its header says. Where a
device enforces anything, it also drops what it cannot read and a receiver might: fragments, headers it does
not follow, packets too short for a VNI, Geneve of another version. A header that hides its VNI says 0: such a
packet has the policy of VNI 0 at devices that are not told the VNI, as a rule none, and its NVE decides.
A tag for the device binds the groups to the packet as far as its coverage goes; what it leaves out, such as
the inner frame, the egress NVE's tag ties to the same options. Under a key that a group of devices shares, any
member could have made the tag: give a device that enforces against the others a key of its own.

Before its first state a device has no policy and forwards everything. An association past its lifetime is as
good as none: its options are no longer addressed to the device.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

from geneve.control.state import NodeState, Role, TransitVni
from geneve.drops import DropReason
from geneve.errors import ConfigError, ParseError
from geneve.header import BASE_HEADER_SIZE
from geneve.option import OPTION_HEADER_SIZE, Option, parse_options
from geneve.outer import UDP_SIZE, Location, locate, outer_addresses, source_address
from geneve.security.association import InboundAssociation
from geneve.security.store import AssociationStore, usable
from geneve.security.transit import TransitVerifier, Verified
from geneve.telemetry import TELEMETRY_CLASS, TELEMETRY_TYPE, Telemetry, parse_telemetry
from transit import group_policy
from transit.evasion import find_evasion
from transit.options_read import OptionsRead
from transit.outcome import DROP, PASS, Decision, Outcome
from transit.records import Observation

__all__ = ["Decision", "Outcome", "TransitDevice"]

_NOT_GENEVE = PASS[Outcome.NOT_GENEVE]
_NOT_ADDRESSED = PASS[Outcome.NOT_ADDRESSED]
_REFUSED = {
    reason: Outcome(reason.value) for reason in DropReason if reason.value in {outcome.value for outcome in Outcome}
}


class TransitDevice:
    """The decisions of one transit device named ``name``. Starts without keys and without policy."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._outcomes = dict.fromkeys(Outcome, 0)
        self._passed = 0
        self.verified = 0
        """Packets whose options for this device verified, exported or not."""
        self.permitted = 0
        """Packets that group policy let pass."""
        self._read = OptionsRead()
        self._store: AssociationStore[InboundAssociation] = AssociationStore(InboundAssociation)
        self._verifier = TransitVerifier()
        self._next_expiry = math.inf
        self._policy: dict[int, TransitVni] = {}
        self._enforcing = False

    def apply(self, state: NodeState, now: float = 0.0) -> None:
        """Take over a state whole at ``now`` in seconds, or raise ConfigError and keep the one before.

        Associations that stay keep their replay windows, and the time since when they are held.
        """
        if state.node != self.name or state.role is not Role.TRANSIT:
            whom = f"{state.role.value} {state.node!r}"
            raise ConfigError(f"the state is for {whom}, not for transit device {self.name!r}.")
        policy = {entry.vni: entry for entry in state.transit_vnis}
        if len(policy) != len(state.transit_vnis):
            raise ConfigError("the state names a VNI twice in transit_vnis.")
        for association in state.inbound:
            if not association.opens(self.name):
                raise ConfigError(f"association {association.spi:#010x} is not addressed to {self.name!r}.")
        profiles = {profile.name: profile for profile in state.profiles}
        prepared = self._store.prepare(state.inbound, profiles, now)
        try:
            verifier = TransitVerifier(usable(prepared)[0])
        except ValueError as error:
            raise ConfigError(f"the state does not suit a transit device: {error}.") from None
        self._store.commit(prepared)
        self._next_expiry = self._store.next_expiry()
        self._verifier, self._policy = verifier, policy
        self._enforcing = any(entry.group_policy is not None for entry in policy.values())
        self.expire(now)

    def expire(self, now: float) -> None:
        """Stop to use associations that are past their lifetime at ``now``, the clock of :meth:`apply`."""
        if now < self._next_expiry:
            return
        if self._store.expire(now):
            self._verifier = TransitVerifier(self._store.ends())
        self._next_expiry = self._store.next_expiry()

    def next_expiry(self) -> float | None:
        """Return when :meth:`expire` is needed next, or None."""
        return None if self._next_expiry == math.inf else self._next_expiry

    def process(self, frame: bytes, ingress_port: int, now_ns: int) -> Decision:
        """Look at one Ethernet frame that came in on ``ingress_port`` at ``now_ns``.

        Never raises, whatever the bytes. The caller sends the frame on as it is if the decision's
        ``forward`` is set, which it always is without group policy.
        """
        location = locate(frame)
        if location is None:
            if not self._enforcing or (evasion := find_evasion(frame)) is None:
                self._passed += 1  # an integer: the dictionary below is dear for frames that are not looked into
                return _NOT_GENEVE
            decision = DROP[evasion]
        else:
            decision = self._process_geneve(frame, location, ingress_port, now_ns)
        self._outcomes[decision.outcome] += 1
        return decision

    def process_batch(self, frames: Iterable[tuple[bytes, int]], ingress_port: int) -> list[Decision]:
        """Look at many ``(frame, time)`` pairs from one port; one decision for each, in order."""
        return [self.process(frame, ingress_port, now_ns) for frame, now_ns in frames]

    def _process_geneve(self, frame: bytes, location: Location, port: int, now_ns: int) -> Decision:
        start, end = location[1] + UDP_SIZE, location[2]
        if end - start < BASE_HEADER_SIZE:
            # Without a VNI: no endpoint can use it, so an enforcing device loses nothing by dropping it.
            return _decide(Outcome.MALFORMED, self._enforcing)
        first = frame[start]
        if first >> 6:
            # What another version's fields mean is unknown here, the VNI included.
            return DROP[Outcome.UNSUPPORTED_VERSION] if self._enforcing else _NOT_GENEVE
        if first == 0 and not self._enforcing:
            return _NOT_ADDRESSED  # no options at all: the common case of plain Geneve
        packet = frame[start:end]
        verdict = self._verifier.verify(packet, source_address(frame, location))
        vni = verdict.vni if isinstance(verdict, Verified) else int.from_bytes(packet[4:7], "big")
        policy = self._policy.get(vni)
        enforced = policy is not None and policy.group_policy is not None
        if isinstance(verdict, DropReason):
            # Even where the policy acts without authentication: this packet is known to be false.
            return _decide(_REFUSED.get(verdict, Outcome.AUTHENTICATION_FAILED), enforced)
        if policy is None:
            return PASS[self._without_policy(packet, verdict)]
        try:
            outcome = self._apply_policy(packet, policy, verdict)
        except ParseError:
            return _decide(Outcome.MALFORMED, enforced)
        if isinstance(outcome, Outcome):
            return _decide(outcome, enforced and outcome in _GROUP_POLICY)
        source, destination = outer_addresses(frame, location)
        observation = Observation(
            ingress_port=port,
            ingress_ns=now_ns,
            vni=vni,
            flow=outcome.flow,
            sequence=outcome.sequence,
            sender=verdict.sender if verdict else None,
            source=source,
            destination=destination,
        )
        return Decision(Outcome.EXPORTED, observation)

    def _without_policy(self, packet: bytes, verdict: Verified | None) -> Outcome:
        """Return the outcome for a packet of a VNI for which the device has nothing to do."""
        if verdict is None:
            return Outcome.NOT_ADDRESSED if _are_sound(packet) else Outcome.MALFORMED
        self.verified += 1
        self._read.add(verdict.options)
        return Outcome.AUTHENTICATED

    def _apply_policy(self, packet: bytes, policy: TransitVni, verdict: Verified | None) -> Telemetry | Outcome:
        """Return a packet's telemetry, or the outcome when it is to be dropped or has none; ParseError.

        An outcome of group policy means that the packet is to be dropped.
        """
        if verdict is None:
            clear = _options(packet)
            believed = () if policy.authenticated else clear
            nothing = Outcome.NOT_ADDRESSED
        else:
            self.verified += 1
            believed, nothing = verdict.options, Outcome.AUTHENTICATED
            clear = ()
            if not policy.authenticated:
                clear = _options(packet)
                believed = (*clear, *(option for option in believed if option not in clear))
        self._read.add(believed)
        if policy.group_policy is not None:
            refused = group_policy.refuse(policy.group_policy, believed)
            if refused is not None:
                return refused
            self.permitted += 1
        if not policy.telemetry:
            return nothing
        telemetry = _select_telemetry(believed)
        if telemetry:
            return _read_telemetry(telemetry)
        # A telemetry option that the tag leaves out is worth no more than one without any tag.
        present = _select_telemetry(clear or _options(packet))
        return Outcome.TELEMETRY_UNAUTHENTICATED if present else nothing

    def counters(self) -> dict[str, int]:
        """Return the number of frames by outcome, how many packets verified, and how many group policy permitted."""
        counts = {outcome.value: count for outcome, count in self._outcomes.items()}
        counts[Outcome.NOT_GENEVE.value] += self._passed
        return {**counts, "verified": self.verified, "permitted": self.permitted}

    def options_read(self) -> dict[str, dict[str, Any]]:
        """Return which options the device could read: as :meth:`OptionsRead.document`, for the owner's eyes."""
        return self._read.document()


_GROUP_POLICY = frozenset({Outcome.TAG_MISSING, Outcome.TAG_MALFORMED, Outcome.TAG_DENIED})


def _decide(outcome: Outcome, drop: bool) -> Decision:
    return DROP[outcome] if drop else PASS[outcome]


def _are_sound(packet: bytes) -> bool:
    """Return whether the options parse, making no objects: most packets that pass hold nothing for the device."""
    offset, end = BASE_HEADER_SIZE, BASE_HEADER_SIZE + ((packet[0] & 0x3F) << 2)
    if end > len(packet):
        return False
    while offset < end:
        # Opt Len counts in units of an option header, so there is always room for a whole one.
        offset += OPTION_HEADER_SIZE + ((packet[offset + 3] & 0x1F) << 2)
    return offset == end


def _options(packet: bytes) -> tuple[Option, ...]:
    end = BASE_HEADER_SIZE + ((packet[0] & 0x3F) << 2)
    if end > len(packet):
        raise ParseError("options cut short")
    return parse_options(packet[BASE_HEADER_SIZE:end])


def _select_telemetry(options: Sequence[Option]) -> list[Option]:
    return [item for item in options if item.type == TELEMETRY_TYPE and item.option_class == TELEMETRY_CLASS]


def _read_telemetry(options: Sequence[Option]) -> Telemetry | Outcome:
    # With two telemetry options it would be anyone's guess which one counts.
    if len(options) != 1:
        return Outcome.TELEMETRY_MALFORMED
    try:
        return parse_telemetry(options[0])
    except ParseError:
        return Outcome.TELEMETRY_MALFORMED
