"""All DTLS sessions with one other NVE: when one is made, which is used, when it ends. Why: see nve.dtls.sessions."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from geneve.control.profile import Profile
from geneve.control.state import AssociationRole
from nve.dtls import records
from nve.dtls.budget import Budget
from nve.dtls.context import COOKIE_SECONDS, VERSION_NAME, DtlsContext
from nve.dtls.session import DtlsSession, Listener, connect

HANDSHAKE_SECONDS = 5.0
"""How long a handshake may take. OpenSSL sends a flight again 1 and 3 seconds after it did first."""
RETRY_SECONDS = 1.0
"""From one request for a handshake to the next, and from a handshake to one that the peer requests."""
QUICK_SECONDS = 0.05
"""From a handshake that failed to the next."""
QUICK_TRIES = 5
"""Handshakes that a client may begin so soon one after the other; then one each ``RETRY_SECONDS``."""
DOUBT_SECONDS = 0.25
"""How long a client's handshake has still after a sign, which may be forged, that the server has given it up."""
SERVED_PER_SECOND, SERVED_AT_ONCE = 2.0, 8
"""Handshakes that a server begins with one client: more than an honest client asks for, also amid forgeries."""
RENEWALS_PER_SECOND, RENEWALS_AT_ONCE = 5.0, 10
"""Handshakes that HelloRequests may cost this NVE where it has a session with whom they seem to be from. All links."""
REQUESTED_PER_SECOND, REQUESTED_AT_ONCE = 20.0, 40
"""The same where there is no session, apart, so that forged requests for the others keep nobody from a first one."""
WANTED_SECONDS = 30.0
"""How long a wish for a session lasts."""
DRAIN_SECONDS = 5.0
"""How long a replaced session still opens what is under way."""
SWITCH_SECONDS = 1.0
"""When a server sends under a new session though the client does not use it, nor the old one any more."""
MAX_DRAINING = 2
"""Replaced sessions that still open: each may have to be tried for a record, and anybody can ask for new ones."""


@dataclass(frozen=True, slots=True)
class Established:
    """A handshake is complete; ``seconds`` is what it took, ``rekey`` whether there was a session already."""

    peer: str
    client: bool
    seconds: float
    rekey: bool


@dataclass(frozen=True, slots=True)
class Failed:
    """A handshake came to nothing; ``reason`` is one sentence."""

    peer: str
    client: bool
    reason: str


@dataclass(frozen=True, slots=True)
class Ended:
    """The session in use ended without another in its place."""

    peer: str
    reason: str


SessionEvent = Established | Failed | Ended


@dataclass(frozen=True, slots=True, eq=False)
class DtlsPeer:
    """Whose packets come through a channel: :class:`geneve.security.association.Authenticated`. One for all sessions.

    Compared as the object that it is: it is part of the key of each inner flow.
    """

    sender: str
    audience: str
    profile: str
    role: AssociationRole = AssociationRole.EGRESS
    vni: int | None = None
    rule: str | None = None


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What a link shares with others: how connections are made, and whom to tell.

    ``changed`` is called when a deadline may have moved, with True when packets can be sealed now and could not
    before, or the other way round.
    """

    node: str
    context: DtlsContext
    listener: Listener
    tell: Callable[[SessionEvent], None]
    changed: Callable[[bool], None]
    renewals: Budget = field(default_factory=lambda: Budget(RENEWALS_PER_SECOND, RENEWALS_AT_ONCE))
    requested: Budget = field(default_factory=lambda: Budget(REQUESTED_PER_SECOND, REQUESTED_AT_ONCE))


class Link:
    """The sessions with the NVE ``name`` at ``address`` (4 or 16 bytes), of which this NVE is the ``client`` or not."""

    def __init__(self, around: Surroundings, name: str, address: bytes, client: bool, terms: Profile) -> None:
        self.name, self.address, self.client, self.terms = name, address, client, terms
        self.authenticated = DtlsPeer(name, around.node, terms.name)
        self.current: DtlsSession | None = None
        """The newest session that is established."""
        self.sending: DtlsSession | None = None
        """The one that packets are sealed with: the current one, or for a while the one before."""
        self.only: DtlsSession | None = None
        """The one that all records are of; None when there are several to try, or none."""
        self.handshakes = 0
        self.last_seconds = 0.0
        self.too_large = 0
        """Packets that no record has room for."""
        self._around = around
        self._draining: list[tuple[DtlsSession, float]] = []
        self._pending: DtlsSession | None = None
        self._switch_at = math.inf
        self._asked = False
        self._wanted_until = self._next_try = self._last_try = -math.inf
        self._own_wish_until = -math.inf
        """The end of a wish of this NVE, while ``_wanted_until`` may be that of a wish that somebody claims to have."""
        self._doubted_at, self._doubt = math.inf, ""
        self._tries = Budget(1.0 / RETRY_SECONDS, QUICK_TRIES)
        self._served = Budget(SERVED_PER_SECOND, SERVED_AT_ONCE)
        # As many as handshakes can begin while one cookie is good: none of their hellos begins another.
        self._used: deque[bytes] = deque(maxlen=int(2 * COOKIE_SECONDS * SERVED_PER_SECOND) + SERVED_AT_ONCE)
        self._requests = 0
        self._outgoing: list[bytes] = []
        self._past_sent = self._past_received = 0

    def want(self, now: float) -> None:
        """Wish for a session; the wish lasts some time."""
        if self.client and now >= self._own_wish_until:
            # It does not wait for a budget, as a try on somebody's request may do.
            self._next_try = min(self._next_try, self._last_try + RETRY_SECONDS)
        self._wanted_until = self._own_wish_until = now + WANTED_SECONDS
        if self.current is None:
            self._around.changed(False)

    def missed(self, now: float) -> None:
        """Note that a record came which no session is there for: the peer has one, of before this NVE was started."""
        # A server asks though a handshake is under way: that may be nobody's, and a client who has one ignores it.
        if self.current is None and not self._busy() and now >= self._next_try:
            self._asked = True
            self._around.changed(False)

    def receive(self, record: bytes, now: float) -> None:
        """Take a record that has no data: of a handshake, or an alert."""
        epoch, kind = records.epoch(record), record[0]
        if epoch == 0 and kind in (records.CHANGE_CIPHER_SPEC, records.ALERT, records.HANDSHAKE):
            self._unprotected(record, now)
        elif epoch == 1 and kind in (records.ALERT, records.HANDSHAKE):
            # Protected, under keys that only trying finds; under wrong ones OpenSSL drops it.
            for session in [*([self._pending] if self._pending else []), *self.opening()]:
                self._feed(session, record, now)

    def _unprotected(self, record: bytes, now: float) -> None:
        """Take what anybody can have sent."""
        message, pending = records.message_type(record), self._pending
        if message == records.HELLO_REQUEST:
            self._requested(record, now)
        elif message == records.CLIENT_HELLO:
            self._hello(record, now)
        elif pending is None or not pending.owns(record):
            return
        elif record[0] == records.ALERT:
            description = records.fatal_alert(record)
            if description is not None:
                self._doubtful(f"an alert came that nothing protects, number {description}", now)
        elif pending.contradicts(record):
            self._doubtful("two different cookies came", now)
        else:
            self._feed(pending, record, now)

    def _doubtful(self, reason: str, now: float) -> None:
        """Note a sign that the server has given up a client's handshake: no proof, so it may still be completed."""
        if self.client and now < self._doubted_at:
            self._doubted_at, self._doubt = now, reason
            self._around.changed(False)

    def opening(self) -> Iterator[DtlsSession]:
        """Yield the sessions under which records are opened, the likeliest first."""
        if self.current is not None:
            yield self.current
        for session, _ in reversed(self._draining):
            yield session

    def open_one(self, record: bytes, now: float) -> bytes | None:
        """Return what the record of data has in it, whichever session it is of; None when no session opens it."""
        for session in list(self.opening()):
            plaintext, opened = session.open(record, len(record), len(record))
            if session.failure is not None:
                self._lost(session)
            if opened:
                if self.sending is not self.current:
                    self._heard(session, now)
                return plaintext
        return None

    def seal(self, packets: Sequence[bytes]) -> list[bytes]:
        """Return a record for each packet of 2**14 bytes at most, fewer at the hard limit, none without a session."""
        if max(map(len, packets), default=0) > records.MAX_PLAINTEXT:
            fitting = [packet for packet in packets if len(packet) <= records.MAX_PLAINTEXT]
            self.too_large += len(packets) - len(fitting)
            packets = fitting
        sealed = self._seal(packets)
        if len(sealed) < len(packets) and self.sending is not self.current:
            self._switch()
            sealed += self._seal(packets[len(sealed) :])
        return sealed

    def tick(self, now: float) -> None:
        """Do what is due."""
        self._age(now)
        pending = self._pending
        if pending is not None:
            if pending.timer_at is not None and now >= pending.timer_at:
                pending.run_timer(now)
                self._after(pending, now)
            if self._pending is pending and now >= self._give_up_at(pending):
                late = now >= pending.started + HANDSHAKE_SECONDS
                reason = f"the handshake was not complete after {HANDSHAKE_SECONDS:g} s"
                self._failed(reason if late and not self._doubt else f"the handshake was given up: {self._doubt}", now)
        if not self._busy() and now >= self._next_try and self._due(now):
            self._try(now)

    def deadline(self) -> float:
        """Return when :meth:`tick` has something to do next; infinity when never."""
        if self._outgoing:
            return -math.inf
        times = [min(until, self._expires_at(session)) for session, until in self._draining]
        times.append(self._switch_at)
        current, pending = self.current, self._pending
        if current is not None:
            times.append(-math.inf if self._exhausted(current) else self._expires_at(current))
        if pending is not None:
            times.append(self._give_up_at(pending))
            times.append(math.inf if pending.timer_at is None else pending.timer_at)
        if self._busy():
            return min(times)
        if self._due(self._next_try):
            times.append(self._next_try)
        elif current is not None:
            times.append(max(self._rekey_at(current), self._next_try))
        return min(times)

    def take_outgoing(self) -> list[bytes]:
        """Return the datagrams that are to be sent to the peer."""
        outgoing, self._outgoing = self._outgoing, []
        return outgoing

    def close(self, reason: str) -> None:
        """End all sessions, and tell the peer."""
        self._forget_pending()
        if self.current is not None:
            self._end(self.current, reason)
        for session, _ in self._draining:
            self._retire(session)
        self._draining = []

    def document(self) -> dict[str, Any]:
        """Return what is to be known of it, for the stats socket."""
        live = [self.current] if self.current is not None else []
        live += [session for session, _ in self._draining]
        return {
            "role": "client" if self.client else "server",
            "established": self.current is not None,
            "handshaking": self._pending is not None,
            "version": VERSION_NAME,
            "suite": self._around.context.suite.name,
            "handshakes": self.handshakes,
            "handshake_seconds": self.last_seconds,
            "packets_too_large": self.too_large,
            "records_sent": self._past_sent + sum(session.sent for session in live),
            "records_received": self._past_received + sum(session.received for session in live),
        }

    def _requested(self, record: bytes, now: float) -> None:
        # Nothing proves a request, so it costs a handshake at most, one at a time; while one is under way it means
        # nothing (RFC 5246, section 7.4.1.1). Besides, all links have a budget together.
        if not self.client or self._pending is not None or self._asked or not records.is_hello_request(record):
            return
        if now >= max(self._next_try, self._last_try + RETRY_SECONDS):
            self._asked = True
            if self.current is None:
                self._wanted_until = now + WANTED_SECONDS  # the peer's wish, should this handshake come to nothing
            self._around.changed(False)

    def _hello(self, record: bytes, now: float) -> None:
        random, listener = records.hello_random(record), self._around.listener
        if self.client or random is None:
            return
        if listener.proven(record, self.address, now):
            # It comes in place of the handshake under way: the client has started anew. Who has seen the cookie can
            # say so too, so a hello counts once, and not any number of them do.
            if random in self._used or not self._served.take(now):
                return
            self._used.append(random)
        answers, session = listener.offer(record, self.name, self.address, now)
        self._outgoing += answers
        self._around.changed(False)
        if session is not None:
            self._pending = session
            self._after(session, now)

    def _feed(self, session: DtlsSession, record: bytes, now: float) -> None:
        session.receive(record, now)
        self._after(session, now)

    def _after(self, session: DtlsSession, now: float) -> None:
        """Look at what has become of a session that was given something."""
        self._outgoing += session.take_outgoing()
        self._around.changed(False)
        if session is self._pending:
            if session.failure is not None:
                self._failed(session.failure, now)
            elif session.established_at is not None:
                self._forget_pending()
                self._take_over(session, now)
        elif session.failure is not None:
            self._lost(session)

    def _take_over(self, session: DtlsSession, now: float) -> None:
        """Make before break: the new session is there before the old one goes."""
        previous = self.current
        self.current = session
        self.handshakes += 1
        self.last_seconds = session.seconds
        if previous is not None:
            self._draining.append((previous, now + DRAIN_SECONDS))
        while len(self._draining) > MAX_DRAINING:
            self._drop(self._draining[0][0])
        if self.client or previous is None or self.sending is None:
            self._switch()
        else:
            # The client may lack the end of the handshake still, and then could not open what is sent.
            self._switch_at = now + SWITCH_SECONDS
        self._wanted_until = self._own_wish_until = -math.inf
        self._asked = False
        self._choose(previous is None)
        self._around.tell(Established(self.name, self.client, session.seconds, previous is not None))

    def _heard(self, session: DtlsSession, now: float) -> None:
        """Learn from what the client uses whether it has the new session: a server that still sends in the old one."""
        if session is self.current:
            self._switch()
        elif session is self.sending:
            self._switch_at = now + SWITCH_SECONDS
            self._draining = [(one, now + DRAIN_SECONDS if one is session else at) for one, at in self._draining]
            self._around.changed(False)

    def _switch(self) -> None:
        self.sending, self._switch_at = self.current, math.inf
        self._around.changed(False)

    def _choose(self, changed: bool) -> None:
        self.only = None if self._draining else self.current
        self._around.changed(changed)

    def _forget_pending(self) -> None:
        self._pending = None
        self._doubted_at, self._doubt = math.inf, ""

    def _busy(self) -> bool:
        """Tell whether the client's handshake under way is to be waited for."""
        return self.client and self._pending is not None

    def _give_up_at(self, pending: DtlsSession) -> float:
        """Return when a handshake has taken too long; a doubtful one only when another can begin at once."""
        end = pending.started + HANDSHAKE_SECONDS
        if self._doubted_at == math.inf:
            return end
        soon = self._doubted_at + DOUBT_SECONDS
        return min(end, max(soon, self._tries.ready_at(soon)))

    def _failed(self, reason: str, now: float) -> None:
        self._forget_pending()
        if self.client:
            self._next_try = max(now + QUICK_SECONDS, self._tries.ready_at(now))
        self._around.changed(False)
        self._around.tell(Failed(self.name, self.client, reason))

    def lost(self) -> None:
        """Look whether sessions that were used directly are still of use."""
        for session in list(self.opening()):
            if session.failure is not None:
                self._lost(session)

    def _lost(self, session: DtlsSession) -> None:
        self._outgoing += session.take_outgoing()
        if session is self.current:
            self._end(session, session.failure or "it ended")
        else:
            self._drop(session)

    def _end(self, session: DtlsSession, reason: str) -> None:
        """Fail closed: nothing is sealed or opened under it from now on."""
        session.close()
        self._outgoing += session.take_outgoing()
        self._retire(session)
        self.current = self.sending = None
        self._switch_at = math.inf
        self._choose(True)
        self._around.tell(Ended(self.name, reason))

    def _drop(self, session: DtlsSession) -> None:
        kept = [item for item in self._draining if item[0] is not session]
        if len(kept) == len(self._draining):
            return  # it went meanwhile
        self._draining = kept
        self._retire(session)
        if self.sending is session:
            self._switch()
        self._choose(False)

    def _retire(self, session: DtlsSession) -> None:
        self._past_sent += session.sent
        self._past_received += session.received

    def _age(self, now: float) -> None:
        for session, until in self._draining[:]:
            if now >= until or now >= self._expires_at(session):
                self._drop(session)
        if now >= self._switch_at:
            self._switch()
        current = self.current
        if current is not None and now >= self._expires_at(current):
            self._end(current, f"it is {self.terms.lifetime_seconds:g} s old")
        elif current is not None and self._exhausted(current):
            self._end(current, current.failure or f"{self.terms.hard_limit} packets were sent in it")

    def _seal(self, packets: Sequence[bytes]) -> list[bytes]:
        session, terms = self.sending, self.terms
        if session is None:
            return []
        room = terms.hard_limit - session.sent
        sealed = session.seal(packets if len(packets) <= room else packets[: max(0, room)])
        if session.sent >= terms.soft_limit or session.failure is not None:
            self._around.changed(False)
        return sealed

    def _exhausted(self, session: DtlsSession) -> bool:
        return session.sent >= self.terms.hard_limit or session.failure is not None

    def _expires_at(self, session: DtlsSession) -> float:
        lifetime = self.terms.lifetime_seconds
        return math.inf if lifetime is None or session.established_at is None else session.established_at + lifetime

    def _rekey_at(self, session: DtlsSession) -> float:
        """Return when a session is to be replaced for its age; the server leaves the client time to do it unasked."""
        rekey = self.terms.rekey_seconds
        if rekey is None or session.established_at is None:
            return math.inf
        return session.established_at + rekey + (0.0 if self.client else RETRY_SECONDS)

    def _due(self, now: float) -> bool:
        """Tell whether a new session is to be made."""
        current = self.current
        if self._asked:
            return True
        if current is None:
            return now < self._wanted_until  # strictly: both may be minus infinity
        return self._worn(current, now)

    def _worn(self, session: DtlsSession, now: float) -> bool:
        """Tell whether it is time to replace a session."""
        return max(session.sent, session.received) >= self.terms.soft_limit or now >= self._rekey_at(session)

    def _affordable(self, now: float) -> bool:
        """Take from the budget for a handshake that is begun on the strength of what anybody can have sent only."""
        current = self.current
        if current is None:
            return now < self._own_wish_until or self._around.requested.take(now)
        return self._worn(current, now) or self._around.renewals.take(now)

    def _try(self, now: float) -> None:
        self._asked = False
        self._next_try = now + RETRY_SECONDS
        self._around.changed(False)
        if not self.client:
            self._outgoing.append(records.hello_request(self._requests))
            self._requests += 1
            return
        if not self._affordable(now):
            return
        self._last_try = now
        self._tries.take(now)
        session = self._pending = connect(self._around.context, self.name, now)
        self._after(session, now)
