"""DTLS as the NVE's data path uses it: sessions that NVEs make themselves, the NVA only tells who the peers are."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, NoReturn

from geneve.control.channel import Channel
from geneve.control.profile import Profile
from geneve.control.state import Association
from geneve.errors import ConfigError
from geneve.security.association import InboundEnd, OutboundEnd
from nve.datagrams import Datagram
from nve.dtls.budget import Budget
from nve.dtls.link import SessionEvent
from nve.dtls.sealer import DtlsSealer, check_room
from nve.dtls.sessions import DtlsSessions
from nve.protection import Chosen, Use

NOTED_PER_SECOND, NOTED_AT_ONCE = 2.0, 50
"""Of how many events somebody is told: others can cause handshakes that fail, and a log has an end."""


class Dtls:
    """One session for each pair of NVEs, for all virtual networks.

    ``note`` is told of what becomes of sessions, though not of all of it when that is much.
    """

    keyed = False

    def __init__(self, channel: Channel, sessions: DtlsSessions, note: Callable[[SessionEvent], None]) -> None:
        self._channel, self._sessions, self._note = channel, sessions, note
        self._noting = Budget(NOTED_PER_SECOND, NOTED_AT_ONCE)
        self._unnoted = 0

    @property
    def channel(self) -> Channel:
        """The channel that every profile must have."""
        return self._channel

    @property
    def version(self) -> int:
        """Grows when packets can be sealed to a peer that could not before, or can no more."""
        return self._sessions.version

    def outbound(self, association: Association, profile: Profile) -> NoReturn:  # noqa: ARG002
        """Raise ValueError: sessions have keys of their own."""
        raise ValueError(f"profile {profile.name!r} is DTLS's, which takes no keys from the NVA")

    inbound = outbound

    def opener(self, ends: Iterable[InboundEnd], expired: Iterable[InboundEnd]) -> DtlsSessions:  # noqa: ARG002
        """Return who opens what comes through any session."""
        return self._sessions

    def sealer(self, use: Use, chosen: Chosen) -> DtlsSealer | None:  # noqa: ARG002
        """Return who seals for ``use``, None without a session, and for groups: DTLS has no multicast.

        ValueError when its packets do not fit into records, whether there is a session yet or not.
        """
        if use.multicast:
            return None
        check_room(use.options, use.largest_frame)
        return self._sessions.sealer(use.vni, use.name)

    def check(self, profiles: Iterable[Profile]) -> None:
        """Raise ConfigError when there is more than one profile: peers have one session, under one set of terms."""
        names = [profile.name for profile in profiles]
        if len(names) > 1:
            raise ConfigError(
                f"profiles {', '.join(map(repr, names))} are all for DTLS, and NVEs have one session with each other; "
                "keep one of them."
            )

    def apply(self, peers: Mapping[str, str], profiles: Iterable[Profile], now: float) -> None:
        """Have sessions with these peers only, under the one profile there is; without a profile, with nobody.

        It raises nothing: :meth:`check` does so, before anything has changed.
        """
        self._sessions.apply(peers, next(iter(profiles), None), now)

    def hold(self, outbound: Iterable[OutboundEnd], inbound: Iterable[InboundEnd], peers: Mapping[str, str]) -> None:
        """Do nothing: nobody else has to hold anything."""

    def close(self) -> None:
        """Do nothing: nothing is left behind."""

    def want(self, peer: str, now: float) -> None:
        """Shake hands with a peer, which frames wait for."""
        self._sessions.want(peer, now)

    def run_due(self, now: float) -> list[Datagram]:
        """Return the handshakes' datagrams that are to be sent now."""
        leaving = self._sessions.run_due(now)
        for event in self._sessions.take_events():
            if self._noting.take(now):
                self._note(event)
            else:
                self._unnoted += 1
        return leaving

    def next_deadline(self) -> float | None:
        """Return when :meth:`run_due` is needed next, or None."""
        return self._sessions.next_deadline()

    def document(self) -> dict[str, Any]:
        """Return the protocol and what became of its sessions."""
        return {"name": "dtls", "implementation": "OpenSSL", "channel": self._channel.model_dump(mode="json"),
                "events_not_noted": self._unnoted, "sessions": self._sessions.document()}  # fmt: skip
