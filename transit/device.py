"""What a transit device makes of the frames that pass: telemetry where it is due, and nothing else.

The device never decides about a frame's way: its caller sends every frame on exactly as it came,
whatever the decision says (RFC 8926, section 2.2.1; design invariant 7). Only packets with a security
option under an SPI that the device holds are authenticated, and only for a VNI whose policy asks for
telemetry is anything exported.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from enum import Enum
from typing import NamedTuple

from geneve.control.state import NodeState, Role, TransitVni
from geneve.drops import DropReason
from geneve.errors import ConfigError, ParseError
from geneve.header import BASE_HEADER_SIZE
from geneve.option import Option, parse_options
from geneve.outer import UDP_SIZE, Location, locate, outer_addresses, source_address
from geneve.security.association import InboundAssociation
from geneve.security.store import AssociationStore
from geneve.security.transit import TransitVerifier, Verified
from geneve.telemetry import TELEMETRY_CLASS, TELEMETRY_TYPE, Telemetry, parse_telemetry
from transit.records import Observation


class Outcome(str, Enum):
    """What the device found in one frame. Every frame has exactly one outcome, and is forwarded."""

    NOT_GENEVE = "not_geneve"
    """No sound Geneve datagram of version 0."""
    NOT_ADDRESSED = "not_addressed"
    """Geneve without anything for this device."""
    MALFORMED = "malformed"
    """The Geneve header or its options do not parse."""
    AUTHENTICATED = "authenticated"
    """The option for this device verified, and there is nothing to export."""
    EXPORTED = "exported"
    """Telemetry exported, after authentication where the policy demands it."""
    TELEMETRY_UNAUTHENTICATED = "telemetry_unauthenticated"
    """Telemetry in a VNI that demands authentication, and no tag for this device covers it."""
    TELEMETRY_MALFORMED = "telemetry_malformed"
    """A telemetry option of the wrong size, or more than one."""
    AUTHENTICATION_FAILED = DropReason.AUTHENTICATION_FAILED.value
    """The tag of the option for this device does not verify."""
    REPLAYED = DropReason.REPLAYED.value
    """Verified once before."""
    BEHIND_WINDOW = DropReason.BEHIND_WINDOW.value
    """Too old to tell whether it was seen before."""
    SOURCE_MISMATCH = DropReason.SOURCE_MISMATCH.value
    """The outer source address is not that of the association's sender."""
    POLICY_MISMATCH = DropReason.POLICY_MISMATCH.value
    """Verified under an association of another VNI."""


class Decision(NamedTuple):
    """The outcome for one frame, and what to report about it once it has been sent on."""

    outcome: Outcome
    observation: Observation | None = None


# One object for each outcome without an observation: nothing is allocated for frames that merely pass.
_PLAIN = {outcome: Decision(outcome) for outcome in Outcome}
_NOT_GENEVE = _PLAIN[Outcome.NOT_GENEVE]
_NOT_ADDRESSED = _PLAIN[Outcome.NOT_ADDRESSED]
_MALFORMED = _PLAIN[Outcome.MALFORMED]
_REFUSED = {
    reason: _PLAIN[Outcome(reason.value)]
    for reason in DropReason
    if reason.value in {outcome.value for outcome in Outcome}
}


class TransitDevice:
    """The decisions of one transit device named ``name``. Starts without keys and without policy."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._outcomes = dict.fromkeys(Outcome, 0)
        self._passed = 0
        self.verified = 0
        """Packets whose option for this device verified, exported or not."""
        self._store: AssociationStore[InboundAssociation] = AssociationStore(InboundAssociation)
        self._verifier = TransitVerifier()
        self._policy: dict[int, TransitVni] = {}

    def apply(self, state: NodeState) -> None:
        """Take over a state whole, or raise ConfigError and keep the one before.

        Associations that stay keep their replay windows.
        """
        if state.node != self.name or state.role is not Role.TRANSIT:
            whom = f"{state.role.value} {state.node!r}"
            raise ConfigError(f"the state is for {whom}, not for transit device {self.name!r}.")
        policy = {entry.vni: entry for entry in state.transit_vnis}
        if len(policy) != len(state.transit_vnis):
            raise ConfigError("the state names a VNI twice in transit_vnis.")
        for association in state.inbound:
            if association.audience != self.name:
                raise ConfigError(f"association {association.spi:#010x} is not addressed to {self.name!r}.")
        profiles = {profile.name: profile for profile in state.profiles}
        prepared = self._store.prepare(state.inbound, profiles)
        try:
            verifier = TransitVerifier(end for _, _, end in prepared.values())
        except ValueError as error:
            raise ConfigError(f"the state does not suit a transit device: {error}.") from None
        self._store.commit(prepared)
        self._verifier, self._policy = verifier, policy

    def process(self, frame: bytes, ingress_port: int, now_ns: int) -> Decision:
        """Look at one Ethernet frame that came in on ``ingress_port`` at ``now_ns``.

        Never raises, whatever the bytes; the caller forwards the frame in any case.
        """
        location = locate(frame)
        if location is None:
            self._passed += 1  # an integer: the dictionary below is dear for frames that are not looked into
            return _NOT_GENEVE
        decision = self._process_geneve(frame, location, ingress_port, now_ns)
        self._outcomes[decision.outcome] += 1
        return decision

    def process_batch(self, frames: Iterable[tuple[bytes, int]], ingress_port: int) -> list[Decision]:
        """Look at many ``(frame, time)`` pairs from one port; one decision for each, in order."""
        return [self.process(frame, ingress_port, now_ns) for frame, now_ns in frames]

    def _process_geneve(self, frame: bytes, location: Location, port: int, now_ns: int) -> Decision:
        start, end = location[1] + UDP_SIZE, location[2]
        if end - start < BASE_HEADER_SIZE:
            return _MALFORMED
        first = frame[start]
        if first >> 6:
            return _NOT_GENEVE  # what another version's fields mean is unknown here
        if first == 0:
            return _NOT_ADDRESSED  # no options at all: the common case of plain Geneve
        packet = frame[start:end]
        verdict = self._verifier.verify(packet, source_address(frame, location))
        if isinstance(verdict, DropReason):
            # Even where the policy exports without authentication: this packet is known to be false.
            return _REFUSED.get(verdict, _PLAIN[Outcome.AUTHENTICATION_FAILED])
        policy = self._policy.get(int.from_bytes(packet[4:7], "big"))
        if verdict is None:
            telemetry = _unaddressed_telemetry(packet, policy)
        else:
            self.verified += 1
            telemetry = _verified_telemetry(packet, policy, verdict)
        if isinstance(telemetry, Outcome):
            return _PLAIN[telemetry]
        source, destination = outer_addresses(frame, location)
        observation = Observation(
            ingress_port=port,
            ingress_ns=now_ns,
            vni=int.from_bytes(packet[4:7], "big"),
            flow=telemetry.flow,
            sequence=telemetry.sequence,
            sender=verdict.association.sender if verdict else None,
            source=source,
            destination=destination,
        )
        return Decision(Outcome.EXPORTED, observation)

    def counters(self) -> dict[str, int]:
        """Return the number of frames by outcome, and how many packets verified in all."""
        counts = {outcome.value: count for outcome, count in self._outcomes.items()}
        counts[Outcome.NOT_GENEVE.value] += self._passed
        return {**counts, "verified": self.verified}


def _verified_telemetry(packet: bytes, policy: TransitVni | None, verdict: Verified) -> Telemetry | Outcome:
    """Return the telemetry of a packet that verified, or the outcome when there is none to export."""
    if policy is None or not policy.telemetry:
        return Outcome.AUTHENTICATED
    covered = _select_telemetry(verdict.options)
    if covered:
        return _read_telemetry(covered)
    # A telemetry option that the tag leaves out is worth no more than one without any tag.
    present = _select_telemetry(_options(packet))
    return Outcome.TELEMETRY_UNAUTHENTICATED if present else Outcome.AUTHENTICATED


def _unaddressed_telemetry(packet: bytes, policy: TransitVni | None) -> Telemetry | Outcome:
    """Return the telemetry of a packet without an option for this device, or the outcome."""
    try:
        options = _options(packet)
    except ParseError:
        return Outcome.MALFORMED
    if policy is None or not policy.telemetry:
        return Outcome.NOT_ADDRESSED
    present = _select_telemetry(options)
    if not present:
        return Outcome.NOT_ADDRESSED
    return Outcome.TELEMETRY_UNAUTHENTICATED if policy.authenticated else _read_telemetry(present)


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
