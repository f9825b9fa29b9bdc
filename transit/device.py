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
from collections.abc import Sequence
from typing import Any

from geneve.control.state import NodeState, Role, TransitVni
from geneve.drops import DropReason
from geneve.errors import ConfigError, ParseError
from geneve.header import BASE_HEADER_SIZE
from geneve.option import OPTION_HEADER_SIZE
from geneve.outer import UDP_SIZE, Location, locate, outer_addresses, source_address
from geneve.security.association import InboundAssociation
from geneve.security.open import read_options
from geneve.security.option import OptionSpan
from geneve.security.store import AssociationStore, usable
from geneve.security.transit import Proof, TransitVerifier, Verdict
from geneve.telemetry import read_telemetry
from transit.evasion import find_evasion
from transit.options_read import OptionsRead
from transit.outcome import DROP, PASS, Decision, Outcome
from transit.reading import Handling, Reading, find_options, make_reading
from transit.records import Observation

__all__ = ["Decision", "Outcome", "TransitDevice"]

_NOT_GENEVE = (PASS[Outcome.NOT_GENEVE],)
_NOT_ADDRESSED = (PASS[Outcome.NOT_ADDRESSED],)
_REFUSED = {
    reason: Outcome(reason.value) for reason in DropReason if reason.value in {outcome.value for outcome in Outcome}
}


class TransitDevice:
    """The decisions of one transit device named ``name``. Starts without keys and without policy.

    ``observing=False`` is for a device that exports nothing: its decisions come without observations.
    """

    def __init__(self, name: str, observing: bool = True) -> None:
        self.name = name
        self._observing = observing
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
        return self.process_segments(frame, 0, ingress_port, now_ns)[0]

    def process_segments(self, frame: bytes, size: int, ingress_port: int, now_ns: int) -> Sequence[Decision]:
        """Look at a frame that stands for many: UDP payloads of ``size`` bytes each, the last perhaps shorter.

        One decision for each packet, in order, the same as from :meth:`process` for each. One decision about the
        whole frame where ``size`` is 0, or where the frame is no Geneve datagram.
        """
        location = locate(frame)
        if location is None:
            if not self._enforcing or (evasion := find_evasion(frame)) is None:
                self._passed += 1  # an integer: the dictionary below is dear for frames that are not looked into
                return _NOT_GENEVE
            self._outcomes[evasion] += 1
            return (DROP[evasion],)
        start, end = location[1] + UDP_SIZE, location[2]
        if not self._enforcing and frame[start : start + 1] == b"\0" and size == 0 and end - start >= BASE_HEADER_SIZE:
            self._outcomes[Outcome.NOT_ADDRESSED] += 1
            return _NOT_ADDRESSED  # no options at all: the common case of plain Geneve
        return self._process_packets(frame, location, size or max(end - start, 1), ingress_port, now_ns)

    def _process_packets(
        self, frame: bytes, location: Location, size: int, port: int, now_ns: int
    ) -> Sequence[Decision]:
        at, end = location[1] + UDP_SIZE, location[2]
        # A datagram without payload is one packet, too.
        verdicts = self._verifier.verify_burst(frame, at, size, end, source_address(frame, location)) or [None]
        seen = None
        if self._observing:
            source, destination = outer_addresses(frame, location)
            seen = Observation(port, now_ns, 0, 0, 0, None, source, destination)
        decisions: list[Decision] = []
        index, count = 0, len(verdicts)
        while index < count:
            verdict = verdicts[index]
            if isinstance(verdict, Proof) and not verdict.revealed:
                # Packets that prove the same follow each other as a rule: what follows is worked out for all of them.
                following = index + 1
                if index == 0 and verdicts.count(verdict) == count:
                    following = count
                while following < count and verdicts[following] is verdict:
                    following += 1
                handling: Handling = verdict.note or self._prepare(verdict, frame[at : min(at + size, end)])
                self._handle(handling, frame, at, size, following - index, seen, decisions)
                at += size * (following - index)
                index = following
            else:
                decision = self._decide_alone(frame[at : min(at + size, end)], verdict, seen)
                self._outcomes[decision.outcome] += 1
                decisions.append(decision)
                at += size
                index += 1
        return decisions

    def _prepare(self, proof: Proof, packet: bytes) -> Handling:
        """Work out what is to be done with all packets that prove what ``packet`` does, nothing hidden in them."""
        policy = self._policy.get(proof.vni)
        spans = _believed(packet, policy, proof)
        reading = make_reading(policy, read_options(packet, spans), Outcome.AUTHENTICATED, packet)
        handling = proof.note = Handling(reading, spans, proof, self._read)
        return handling

    def _handle(
        self, handling: Handling, frame: bytes, at: int, size: int, count: int, seen: Observation | None,
        decisions: list[Decision],
    ) -> None:  # fmt: skip
        """Decide about ``count`` packets of ``size`` bytes from ``at`` on that have verified alike."""
        self.verified += count
        handling.note_read(frame, at + size * (count - 1), count)
        reading = handling.reading
        if not reading.enforced and (reading.telemetry is None or seen is None):
            self._outcomes[reading.outcome] += count
            decisions += [PASS[reading.outcome]] * count
            return
        for start in range(at, at + size * count, size):
            decision = self._follow(
                reading, handling.proof, handling.tags(frame, start), handling.telemetry(frame, start), seen
            )
            self._outcomes[decision.outcome] += 1
            decisions.append(decision)

    def _follow(
        self, reading: Reading, proof: Proof | None, tags: tuple[bytes, ...], telemetry: bytes,
        seen: Observation | None, vni: int = 0,
    ) -> Decision:  # fmt: skip
        """Decide about one packet from the values of its options; ``vni`` counts where there is no proof."""
        refused = reading.refuse(tags)
        if refused is not None:
            return DROP[refused]
        self.permitted += reading.enforced
        if reading.telemetry is None or seen is None:
            return PASS[reading.outcome]
        flow, sequence = read_telemetry(telemetry)
        return Decision(
            Outcome.EXPORTED,
            Observation(
                seen.ingress_port,
                seen.ingress_ns,
                proof.vni if proof else vni,
                flow,
                sequence,
                proof.sender if proof else None,
                seen.source,
                seen.destination,
            ),
        )

    def _decide_alone(self, packet: bytes, verdict: Verdict, seen: Observation | None) -> Decision:
        """Decide about a packet without proof, or with one that holds for it alone."""
        if len(packet) < BASE_HEADER_SIZE:
            # Without a VNI: no endpoint can use it, so an enforcing device loses nothing by dropping it.
            return _decide(Outcome.MALFORMED, self._enforcing)
        if packet[0] >> 6:
            # What another version's fields mean is unknown here, the VNI included.
            return DROP[Outcome.UNSUPPORTED_VERSION] if self._enforcing else PASS[Outcome.NOT_GENEVE]
        proof = verdict if isinstance(verdict, Proof) else None
        vni = proof.vni if proof else int.from_bytes(packet[4:7], "big")
        policy = self._policy.get(vni)
        enforced = policy is not None and policy.group_policy is not None
        if isinstance(verdict, DropReason):
            # Even where the policy acts without authentication: this packet is known to be false.
            return _decide(_REFUSED.get(verdict, Outcome.AUTHENTICATION_FAILED), enforced)
        if proof is None and policy is None:
            return PASS[Outcome.NOT_ADDRESSED if _are_sound(packet) else Outcome.MALFORMED]
        nothing = Outcome.AUTHENTICATED if proof else Outcome.NOT_ADDRESSED
        self.verified += proof is not None
        try:
            options = read_options(packet, _believed(packet, policy, proof))
            if proof:
                options += tuple(option for option in proof.revealed if option not in options)
            self._read.add(options)
            reading = make_reading(policy, options, nothing, packet)
        except ParseError:
            return _decide(Outcome.MALFORMED, enforced)
        tags = tuple(options[index].data for index in reading.tags)
        telemetry = b"" if reading.telemetry is None else options[reading.telemetry].data
        return self._follow(reading, proof, tags, telemetry, seen, vni)

    def counters(self) -> dict[str, int]:
        """Return the number of frames by outcome, how many packets verified, and how many group policy permitted."""
        counts = {outcome.value: count for outcome, count in self._outcomes.items()}
        counts[Outcome.NOT_GENEVE.value] += self._passed
        return {**counts, "verified": self.verified, "permitted": self.permitted}

    def options_read(self) -> dict[str, dict[str, Any]]:
        """Return which options the device could read: as :meth:`OptionsRead.document`, for the owner's eyes."""
        return self._read.document()


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


def _believed(packet: bytes, policy: TransitVni | None, proof: Proof | None) -> Sequence[OptionSpan]:
    """Return where the options stand that the device may act upon; ParseError when none can be told apart."""
    if policy is not None and not policy.authenticated:
        return find_options(packet)
    return () if proof is None else proof.spans
