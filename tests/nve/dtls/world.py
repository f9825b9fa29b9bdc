"""NVEs with DTLS sessions in memory: a clock, and a link that loses, reorders and duplicates as it is told."""

from __future__ import annotations

import functools
import random
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path

from controller.pki import TestbedCa
from geneve.control.channel import Channel, ChannelProtocol, Cipher, Encapsulation
from geneve.control.profile import KeyGranularity, Profile
from geneve.control.tls import TlsFiles
from geneve.drops import DropReason
from geneve.inner import parse_inner
from geneve.security.open import Burst
from nve.datagrams import packed_address
from nve.dtls.link import SessionEvent
from nve.dtls.sealer import DtlsSealer
from nve.dtls.sessions import DtlsSessions
from tests.credentials import make_ca, node_files, nva_files
from tests.support import ADDRESSES, udp_frame

MTU = 1500


def profile(cipher: Cipher = Cipher.AES_128_GCM, **terms: object) -> Profile:
    channel = Channel(protocol=ChannelProtocol.DTLS, cipher=cipher, encapsulation=Encapsulation.UDP)
    given = {"name": "dtls", "key_granularity": KeyGranularity.PAIR, **terms}
    return Profile(channel=channel, **given)  # type: ignore[arg-type]


@functools.lru_cache
def credentials(name: str, authority: str = "ours") -> TlsFiles:
    """Files of a node under one of the CAs; the folder stays until the tests end."""
    ca, folder = _authority(authority)
    place = Path(folder.name) / name
    place.mkdir(exist_ok=True)
    return node_files(place, ca, name)


@functools.lru_cache
def nva_credentials(name: str) -> TlsFiles:
    """Files of a server, under the right CA and a node's name."""
    ca, folder = _authority("ours")
    place = Path(folder.name) / f"{name}-nva"
    place.mkdir(exist_ok=True)
    return nva_files(place, ca, name)


@functools.lru_cache
def _authority(name: str) -> tuple[TestbedCa, tempfile.TemporaryDirectory[str]]:
    return make_ca(), tempfile.TemporaryDirectory()


class Node:
    def __init__(self, world: World, name: str, files: TlsFiles | None = None) -> None:
        self.world, self.name, self.address = world, name, ADDRESSES[name]
        self.files = files or credentials(name)
        self.received: list[bytes] = []
        self.drops: list[DropReason] = []
        self.events: list[SessionEvent] = []
        self.bursts: list[Burst] = []
        self.start()

    def start(self) -> None:
        """Start, or start anew without any memory."""
        self.sessions = DtlsSessions(self.name, self.address, self.files, self.world.mtu, self.world.terms.channel)
        self.apply(self.world.terms)

    def apply(self, terms: Profile | None) -> None:
        peers = {name: ADDRESSES[name] for name in self.world.names if name != self.name}
        self.sessions.apply(peers, terms, self.world.now)

    def seal(self, peer: str, count: int = 1, size: int = 100, vni: int = 100) -> list[bytes]:
        """Records with ``count`` frames; none without a session, which is then wished for."""
        sealer: DtlsSealer | None = self.sessions.sealer(vni, peer)
        if sealer is None:
            self.sessions.want(peer, self.world.now)
            return []
        frames = [udp_frame(self.name, peer, self.world.next_data(size)) for _ in range(count)]
        return sealer.seal_burst(frames, parse_inner(frames[0]), [()] * count)

    def take(self, datagram: bytes, source: str, size: int | None = None) -> list[Burst | DropReason]:
        results = self.sessions.open_burst(datagram, size or len(datagram), packed_address(source), self.world.now)
        for result in results:
            if isinstance(result, Burst):
                self.bursts.append(result)
                self.received += result.frames
            else:
                self.drops.append(result)
        return results


Spoil = Callable[[list[tuple[str, str, bytes]]], Iterable[tuple[str, str, bytes]]]


class World:
    """``spoil`` is given what is under way, as (from, to, datagram), and returns what arrives, in order."""

    def __init__(self, names: tuple[str, ...] = ("nve1", "nve2"), terms: Profile | None = None, mtu: int = MTU) -> None:
        self.now, self.names, self.terms, self.mtu = 1000.0, names, terms or profile(), mtu
        self.spoil: Spoil = lambda under_way: under_way
        self.under_way: list[tuple[str, str, bytes]] = []
        self.log: list[tuple[str, str, bytes]] = []
        self._number = 0
        self.nodes = {name: Node(self, name) for name in names}

    def next_data(self, size: int) -> bytes:
        self._number += 1
        return self._number.to_bytes(4, "big").ljust(size, b"x")

    def collect(self) -> None:
        for node in self.nodes.values():
            deadline = node.sessions.next_deadline()
            if deadline is not None and deadline <= self.now:
                for sent in node.sessions.run_due(self.now):
                    to = next(name for name, address in ADDRESSES.items() if address == sent.destination)
                    self.under_way.append((node.name, to, sent.payload))
            node.events += node.sessions.take_events()

    def deliver(self) -> None:
        under_way, self.under_way = self.under_way, []
        self.log += under_way
        for sender, to, datagram in self.spoil(under_way):
            if to in self.nodes:
                self.nodes[to].take(datagram, ADDRESSES[sender])

    def settle(self, rounds: int = 30) -> None:
        """Let everything happen that happens without time passing."""
        for _ in range(rounds):
            self.collect()
            if not self.under_way:
                return
            self.deliver()
        raise AssertionError("it never comes to rest")

    def run(self, seconds: float, until: Callable[[], bool] | None = None) -> bool:
        """Let time pass, from one deadline to the next; tell whether ``until`` came true."""
        end = self.now + seconds
        while True:
            self.settle()
            if until is not None and until():
                return True
            deadlines = [node.sessions.next_deadline() for node in self.nodes.values()]
            following = min([deadline for deadline in deadlines if deadline is not None], default=end)
            if following >= end:
                self.now = end
                self.settle()
                return until is not None and until()
            self.now = max(self.now, following)

    def send(self, sender: str, to: str, count: int = 1, size: int = 100) -> int:
        records = self.nodes[sender].seal(to, count, size)
        self.under_way += [(sender, to, record) for record in records]
        return len(records)

    def join(self, one: str = "nve1", other: str = "nve2") -> None:
        """Make a session between two NVEs."""
        self.nodes[one].sessions.want(other, self.now)
        self.settle()
        assert self.both(one, other)

    def both(self, one: str = "nve1", other: str = "nve2") -> bool:
        return self.nodes[one].sessions.established(other) and self.nodes[other].sessions.established(one)


def nothing_arrives(_: list[tuple[str, str, bytes]]) -> list[tuple[str, str, bytes]]:
    """A link that is down."""
    return []


def lossy(seed: int, loss: float, duplicated: float = 0.2) -> Spoil:
    """A link that loses, duplicates and reorders."""
    chance = random.Random(seed)

    def spoil(under_way: list[tuple[str, str, bytes]]) -> list[tuple[str, str, bytes]]:
        arriving = [item for item in under_way if chance.random() >= loss]
        arriving += [item for item in arriving if chance.random() < duplicated]
        chance.shuffle(arriving)
        return arriving

    return spoil
