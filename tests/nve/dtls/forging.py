"""What somebody sends who can put any address on a datagram: with what a blind forger knows, or one who sees all."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass

from nve.dtls import records
from tests.nve.dtls.world import World

CLIENT, SERVER = "nve1", "nve2"


def record(kind: int, body: bytes, epoch: int = 0, number: int = 0) -> bytes:
    head = bytes((kind,)) + b"\xfe\xfd" + epoch.to_bytes(2, "big") + number.to_bytes(6, "big")
    return head + len(body).to_bytes(2, "big") + body


def message(kind: int, sequence: int, body: bytes, total: int | None = None) -> bytes:
    """A handshake message in a record of its own; with ``total`` the first fragment of one of that many bytes."""
    length = (len(body) if total is None else total).to_bytes(3, "big")
    head = bytes((kind,)) + length + sequence.to_bytes(2, "big") + bytes(3) + len(body).to_bytes(3, "big")
    return record(records.HANDSHAKE, head + body)


def large_hello(size: int) -> bytes:
    """What looks like a hello, in a record of ``size`` bytes."""
    return message(records.CLIENT_HELLO, 0, b"\xfe\xfd" + b"R" * 32 + bytes(size - 13 - 12 - 34))


def _first_hello() -> bytes:
    world = World()
    world.nodes[CLIENT].sessions.want(SERVER, world.now)
    world.collect()
    return world.under_way[0][2]


def own_hello(chance: random.Random) -> bytes:
    """A true client's first hello, but for random bytes and number."""
    hello = _first_hello()
    return records.renumbered(hello[:27] + chance.randbytes(32) + hello[59:], chance.randrange(2**48))


@dataclass(frozen=True)
class Attack:
    """``make`` gives the next datagram, which seems to come from ``sender``."""

    sender: str
    make: Callable[[random.Random], bytes]

    @property
    def victim(self) -> str:
        return SERVER if self.sender == CLIENT else CLIENT


_HELLO = own_hello(random.Random(0))
_FATAL, _CLOSE, _WRONG_COOKIE = b"\x02\x28", b"\x01\x00", b"\xfe\xff\x20" + b"c" * 32
ATTACKS = {
    "hellos": Attack(CLIENT, lambda chance: _HELLO[:27] + chance.randbytes(32) + _HELLO[59:]),
    "hellos with any number": Attack(CLIENT, lambda chance: records.renumbered(_HELLO, chance.randrange(2**48))),
    "malformed hellos": Attack(CLIENT, lambda _: large_hello(113)),
    "large hellos": Attack(CLIENT, lambda _: large_hello(18_445)),
    "hello requests": Attack(SERVER, lambda chance: records.hello_request(chance.randrange(2**48))),
    "cookies": Attack(SERVER, lambda _: message(records.HELLO_VERIFY_REQUEST, 0, _WRONG_COOKIE)),
    "server hellos": Attack(SERVER, lambda _: message(records.SERVER_HELLO, 1, bytes(3))),
    "certificates to the server": Attack(CLIENT, lambda _: message(records.CERTIFICATE, 2, bytes(3))),
    "parts of a certificate": Attack(CLIENT, lambda _: message(records.CERTIFICATE, 2, b"\0", 9000)),
    "keys": Attack(CLIENT, lambda _: message(records.CLIENT_KEY_EXCHANGE, 3, bytes(3))),
    "signatures": Attack(CLIENT, lambda _: message(records.CERTIFICATE_VERIFY, 4, b"\4\3\0\4abcd")),
    "alerts to the server": Attack(CLIENT, lambda _: record(records.ALERT, _FATAL)),
    "alerts to the client": Attack(SERVER, lambda _: record(records.ALERT, _FATAL)),
    "closing": Attack(SERVER, lambda _: record(records.ALERT, _CLOSE)),
    "changes of cipher to the server": Attack(CLIENT, lambda _: record(records.CHANGE_CIPHER_SPEC, b"\1")),
    "changes of cipher to the client": Attack(SERVER, lambda _: record(records.CHANGE_CIPHER_SPEC, b"\1")),
    "protected handshakes": Attack(CLIENT, lambda c: record(records.HANDSHAKE, bytes(40), 1, c.randrange(2**48))),
    "protected alerts": Attack(SERVER, lambda c: record(records.ALERT, bytes(26), 1, c.randrange(2**48))),
    "data": Attack(CLIENT, lambda c: record(records.APPLICATION_DATA, bytes(60), 1, c.randrange(2**48))),
}


def flood(world: World, attack: Attack, delay: float, seconds: float, until: Callable[[], bool]) -> float | None:
    """Forge 300 datagrams a second while a datagram takes ``delay`` seconds; return when ``until`` came true.

    Forged datagrams arrive in front of the true ones. The seconds are those since the start; None: it did not.
    """
    chance, start, forged = random.Random(5), world.now, 0
    while world.now < start + seconds:
        world.collect()
        while forged < (world.now - start) * 300 + 1:
            forged += 1
            world.under_way.insert(0, (attack.sender, attack.victim, attack.make(chance)))
        world.deliver()
        if until():
            return world.now - start
        world.now += delay
    return None


def seen(datagram: bytes, world: World, ahead: int = 5) -> bytes:
    """Give a forged record a number that fits the handshake under way, as one who sees that can."""
    hellos = [one for _, _, one in world.log if records.message_type(one) == records.CLIENT_HELLO]
    return records.renumbered(datagram, records.number(hellos[-1]) + ahead)
