"""DTLS sessions of one NVE with all others, and the opener of what comes through them. Pure but for OpenSSL's timer.

Who is the client. Either NVE of a pair may be the first to have a packet. So that the two never shake hands with each
other twice at once, the one with the lower address is always the client. The other asks for a handshake with a
HelloRequest, unprotected, for DTLS has no other word for it (RFC 5246, section 7.4.1.1). Anybody can forge that: it
costs a handshake a second and peer at most, beside a session that goes on until the new one is complete, and all peers
together have a budget (nve.dtls.link).

Restarts. A server that gets records without a session for them asks for a handshake, a client begins one; a server that
has a session still takes a ClientHello from the same address, behind a cookie, as RFC 6347 has it (section 4.2.8). The
old session stays until the handshake is complete, which only the holder of the peer's certificate can do.

Rekeying is a new session, not renegotiation: after the profile's ``rekey_seconds`` or ``soft_limit``, sent or received.
Nothing is lost by it, since both sessions open for some seconds. The client sends under the new one as soon as that is
complete: the server is complete before. The server waits until the client has used it, or has been silent for a second,
since the handshake's last flight, its own, may have been lost; while the client uses the old one it stays.
``lifetime_seconds`` and ``hard_limit`` end a session with or without another one: fail closed.

Which session a record is of. A peer is known by its outer address; ports carry entropy only. DTLS 1.2 records have no
name of a session in them: data are opened by the newest session, and while there is an older one still by whichever
opens them, since records of another fail without any change. Unprotected handshake messages are of the one handshake
under way. An established session never sees an unprotected record.

Forged hellos. A cookie is good for an address, whichever hello brought it: what the server sends back to a client for
hellos that somebody else sent in its name is what it gets for its own. The client takes the first cookie and no other.
A hello with a good cookie begins one handshake, and takes the place of one under way, so a client can start anew at
once; an NVE begins only so many of them.

What remains. Until Finished a DTLS 1.2 handshake proves nothing. Its records have numbers that only those know who see
it (nve.dtls.session): they can break it, with the server's address at any time, with the client's between its cookie
and its Finished. The client begins another at once, a few times, then each second. An established session is not
touched by any of it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from geneve.control.channel import Channel
from geneve.control.profile import Profile
from geneve.control.tls import TlsFiles
from geneve.drops import DropReason
from geneve.errors import ParseError
from geneve.overhead import IP_HEADER_SIZE, UDP_HEADER_SIZE
from geneve.security.open import Burst, PacketOpener
from nve.datagrams import Datagram, packed_address
from nve.dtls import records
from nve.dtls.context import DtlsContext
from nve.dtls.link import Link, SessionEvent, Surroundings
from nve.dtls.sealer import DtlsSealer
from nve.dtls.session import DtlsSession, Listener

_Results = list[Burst | DropReason]


class DtlsSessions:
    """All sessions of the NVE ``node`` at ``address``; an :class:`nve.protection.Opener`.

    ``underlay_mtu`` is that of IP packets, in bytes; all sessions are of one ``channel``. Methods raise nothing for
    what comes from the underlay.
    """

    def __init__(self, node: str, address: str, files: TlsFiles, underlay_mtu: int, channel: Channel) -> None:
        """ConfigError names the file with a certificate or key that cannot be used."""
        self.version = 0
        """Grows when packets can be sealed to a peer that could not before, or can no more, or under other terms."""
        self._node, self._channel = node, channel
        self._address = packed_address(address)
        mtu = underlay_mtu - IP_HEADER_SIZE[4 if len(self._address) == 4 else 6] - UDP_HEADER_SIZE
        self._links: dict[str, Link] = {}
        self._by_address: dict[bytes, Link] = {}
        self._destinations: dict[str, str] = {}
        self._events: list[SessionEvent] = []
        self._leaving: list[Datagram] = []
        self._deadline: float | None = math.inf
        """When something is due; None when that must be found out anew."""
        context = DtlsContext(files, channel.cipher, mtu)
        self._around = Surroundings(node, context, Listener(context), self._events_append, self._changed)
        self._opener = PacketOpener()

    def apply(self, peers: Mapping[str, str], profile: Profile | None, now: float) -> None:
        """Take over the NVEs (name -> outer address) to have sessions with, and the profile.

        Without a profile, and under one of another channel, there are sessions with nobody. A session goes on with a
        peer whose address stays the same. Nothing is raised.
        """
        if profile is None or profile.channel != self._channel:
            peers, profile = {}, None
        addresses = {name: packed_address(text) for name, text in peers.items() if name != self._node}
        gone = [name for name, link in self._links.items() if addresses.get(name) != link.address]
        self._forget(gone, "the NVE is no longer a peer at this address")
        self._destinations = dict(peers)
        if profile is not None:
            self._take_links(addresses, profile)
        self._by_address = {link.address: link for link in self._links.values()}
        self._deadline = None
        self._tick(now)

    def want(self, peer: str, now: float) -> None:
        """Wish for a session with a peer; the wish lasts half a minute, or until there is one."""
        link = self._links.get(peer)
        if link is not None:
            link.want(now)

    def established(self, peer: str) -> bool:
        """Tell whether packets can be sealed to a peer."""
        link = self._links.get(peer)
        return link is not None and link.current is not None

    def sealer(self, vni: int, peer: str) -> DtlsSealer | None:
        """Return what seals packets of a VNI to a peer, None while there is no session; see :attr:`version`."""
        link = self._links.get(peer)
        return None if link is None or link.current is None else DtlsSealer(vni, peer, self._links)

    def open_burst(self, buffer: bytes, size: int, source: bytes, now: float) -> _Results:
        """Open datagrams of ``size`` bytes that stand one behind the other, the last perhaps shorter.

        Those of handshakes, and alerts, come to nothing; what is to be sent in answer comes from :meth:`run_due`.
        """
        if self._deadline is None or now >= self._deadline:
            self._tick(now)
        link = self._by_address.get(source)
        if link is None:
            return [DropReason.NO_SESSION] * (-(-len(buffer) // size) if size else 1)
        results: _Results = []
        end = len(buffer) - len(buffer) % size if size else 0
        session, at = link.only, 0
        if session is not None and end:
            whole = records.is_data(buffer) if end == size == len(buffer) else records.all_data(buffer, size, end)
            if whole and self._open_all(link, session, buffer, size, end, now, results):
                at = end
        for start in range(at, len(buffer), size) if size else (0,):
            self._open_datagram(link, buffer[start : start + size], now, results)
        return results

    def run_due(self, now: float) -> list[Datagram]:
        """Do what is due, and return the datagrams that are to be sent now."""
        self._tick(now)
        leaving, self._leaving = self._leaving, []
        for name, link in self._links.items():
            leaving += [Datagram(self._destinations[name], payload, 0, 0) for payload in link.take_outgoing()]
        self._deadline = None
        return leaving

    def next_deadline(self) -> float | None:
        """Return when :meth:`run_due` has something to do; minus infinity: at once; None: not by itself."""
        if self._deadline is None:
            self._deadline = min((link.deadline() for link in self._links.values()), default=math.inf)
        if self._leaving:
            return -math.inf
        return None if self._deadline == math.inf else self._deadline

    def take_events(self) -> list[SessionEvent]:
        """Return what has happened since the last time, oldest first."""
        events, self._events = self._events, []
        return events

    def document(self) -> dict[str, Any]:
        """Return what is to be known of each peer, for the stats socket."""
        return {name: link.document() for name, link in self._links.items()}

    def _events_append(self, event: SessionEvent) -> None:
        self._events.append(event)

    def _changed(self, sealable: bool) -> None:
        self._deadline = None
        self.version += sealable

    def _forget(self, names: list[str], reason: str) -> None:
        for name in names:
            link = self._links.pop(name)
            link.close(reason)
            self._leaving += [Datagram(self._destinations[name], data, 0, 0) for data in link.take_outgoing()]

    def _take_links(self, addresses: Mapping[str, bytes], profile: Profile) -> None:
        for name, address in addresses.items():
            link = self._links.get(name)
            if link is None:
                client = self._address < address
                self._links[name] = Link(self._around, name, address, client, profile)
            elif link.terms != profile:
                if link.terms.name != profile.name:
                    link.authenticated = replace(link.authenticated, profile=profile.name)
                link.terms = profile
                self.version += 1

    def _tick(self, now: float) -> None:
        deadline = self.next_deadline()
        if deadline is not None and now >= deadline:
            for link in self._links.values():
                link.tick(now)
            self._deadline = None
            self.next_deadline()

    def _open_all(
        self, link: Link, session: DtlsSession, buffer: bytes, size: int, end: int, now: float, results: _Results
    ) -> bool:
        """Open many records of the one session that there is."""
        plain = size - session.suite.overhead
        if plain <= 0:
            return False
        packets, opened = session.open(buffer, size, end)
        if opened:
            self._read(link, packets, plain, now, results)
        if opened * size < end:
            results += [DropReason.RECORD_REFUSED] * (end // size - opened)
            if session.failure is not None:
                link.lost()
        return True

    def _open_datagram(self, link: Link, datagram: bytes, now: float, results: _Results) -> None:
        """Take one datagram of whatever records."""
        try:
            found = records.split(datagram)
        except ParseError:
            results.append(DropReason.MALFORMED)
            return
        for record in found:
            if record[0] != records.APPLICATION_DATA:
                link.receive(record, now)
                continue
            packet = link.open_one(record, now) if records.is_data(record) else None
            if packet is not None:
                self._read(link, packet, len(packet), now, results)
            elif link.current is None:
                link.missed(now)
                results.append(DropReason.NO_SESSION)
            else:
                results.append(DropReason.RECORD_REFUSED)

    def _read(self, link: Link, packets: bytes, size: int, now: float, results: _Results) -> None:
        """Read the Geneve packets that were in records; an empty record has none."""
        if not size:
            results.append(DropReason.MALFORMED)
            return
        for result in self._opener.open_burst(packets, size, link.address, now):
            if isinstance(result, Burst):
                result.opened.association = link.authenticated
            results.append(result)
