"""All DTLS sessions with one other NVE: when one is made, which is used, when it ends. Why: see nve.dtls.sessions."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from geneve.control.profile import Profile
from geneve.control.state import AssociationRole
from nve.dtls import records
from nve.dtls.context import VERSION_NAME, DtlsContext
from nve.dtls.session import DtlsSession, Listener, connect

HANDSHAKE_SECONDS = 5.0
"""How long a handshake may take. OpenSSL sends a flight again 1 and 3 seconds after it did first."""
RETRY_SECONDS = 1.0
"""From one try to the next, whether that is a handshake or a request for one."""
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
        self._around = around
        self._draining: list[tuple[DtlsSession, float]] = []
        self._pending: DtlsSession | None = None
        self._switch_at = math.inf
        self._asked = False
        self._wanted_until = self._next_try = -math.inf
        self._requests = 0
        self._outgoing: list[bytes] = []
        self._past_sent = self._past_received = 0

    def want(self, now: float) -> None:
        """Wish for a session; the wish lasts some time."""
        self._wanted_until = now + WANTED_SECONDS
        if self.current is None:
            self._around.changed(False)

    def missed(self, now: float) -> None:
        """Note that a record came which no session is there for: the peer has one, of before this NVE was started."""
        if self.current is None and self._pending is None and now >= self._next_try:
            self._asked = True
            self._around.changed(False)

    def receive(self, record: bytes, now: float) -> None:
        """Take a record that has no data: of a handshake, or an alert."""
        epoch, kind = records.epoch(record), record[0]
        if epoch == 0 and kind in (records.CHANGE_CIPHER_SPEC, records.ALERT, records.HANDSHAKE):
            message = records.message_type(record)
            if message == records.HELLO_REQUEST:
                self._requested(record, now)
            elif message == records.CLIENT_HELLO:
                self._hello(record, now)
            elif self._pending is not None:
                self._feed(self._pending, record, now)
        elif epoch == 1 and kind in (records.ALERT, records.HANDSHAKE):
            # Protected, under keys that only trying finds; under wrong ones OpenSSL drops it.
            for session in [*([self._pending] if self._pending else []), *self.opening()]:
                self._feed(session, record, now)

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
        """Return a record for each packet, fewer at the hard limit, none without a session."""
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
            if self._pending is pending and now >= pending.started + HANDSHAKE_SECONDS:
                self._pending = None
                self._failed(f"the handshake was not complete after {HANDSHAKE_SECONDS:g} s", now)
        if self._pending is None and now >= self._next_try and self._due(now):
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
            times.append(pending.started + HANDSHAKE_SECONDS)
            times.append(math.inf if pending.timer_at is None else pending.timer_at)
        elif self._due(self._next_try):
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
        self._pending = None
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
            "records_sent": self._past_sent + sum(session.sent for session in live),
            "records_received": self._past_received + sum(session.received for session in live),
        }

    def _requested(self, record: bytes, now: float) -> None:
        # Nothing proves a request, so it costs a handshake at most, one at a time; while one is under way it means
        # nothing (RFC 5246, section 7.4.1.1).
        if self.client and self._pending is None and now >= self._next_try and records.is_hello_request(record):
            self._asked = True
            if self.current is None:
                self._wanted_until = now + WANTED_SECONDS  # the peer's wish, should this handshake come to nothing
            self._around.changed(False)

    def _hello(self, record: bytes, now: float) -> None:
        if self.client:
            return
        pending = self._pending
        if pending is not None and pending.hello_random == records.hello_random(record):
            self._feed(pending, record, now)
            return
        if pending is not None and now < pending.started + RETRY_SECONDS:
            return  # a client that has started anew says hello again; somebody else's hello breaks no handshake
        answers, session = self._around.listener.offer(record, self.name, self.address, now)
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
                self._pending = None
                self._failed(session.failure, now)
            elif session.established_at is not None:
                self._pending = None
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
        self._wanted_until = -math.inf
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

    def _failed(self, reason: str, now: float) -> None:
        self._next_try = max(self._next_try, now + RETRY_SECONDS)
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
            self._end(current, f"{self.terms.hard_limit} packets were sent in it")

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
        return max(current.sent, current.received) >= self.terms.soft_limit or now >= self._rekey_at(current)

    def _try(self, now: float) -> None:
        self._asked = False
        self._next_try = now + RETRY_SECONDS
        self._around.changed(False)
        if not self.client:
            self._outgoing.append(records.hello_request(self._requests))
            self._requests += 1
            return
        session = self._pending = connect(self._around.context, self.name, now)
        self._after(session, now)
