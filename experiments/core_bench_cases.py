"""The operations that ``make bench-core`` times, and the bare AEAD call that each is compared with."""

from __future__ import annotations

import base64
import hashlib
import struct
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from cryptography.hazmat.primitives.ciphers.aead import AESGCM, ChaCha20Poly1305

from geneve.control.names import IpPrefix
from geneve.control.profile import (
    Aead,
    Coverage,
    InnerCoverage,
    KeyGranularity,
    OptionSelector,
    Padding,
    PaddingMode,
    Profile,
    SourceProof,
)
from geneve.control.rules import Action, Direction, Endpoint, Rule
from geneve.control.state import Association, AssociationRole, Mapping, NodeState, NveAddress, Role, VniState
from geneve.header import HeaderField
from geneve.inner import InnerFrame, parse_inner
from geneve.option import Option
from geneve.policy import Policy
from geneve.security.association import InboundAssociation, OutboundAssociation
from geneve.security.open import PacketOpener
from geneve.security.seal import Item, PacketSealer
from geneve.security.signature import SourceSigner
from geneve.security.transit import TransitVerifier
from geneve.telemetry import TELEMETRY_CLASS, TELEMETRY_TYPE, build_telemetry
from nve.datagrams import Received
from nve.dataplane import Dataplane

SIZES = (64, 512, 1400, 8900)
BURST = 40
"""Packets of a burst: what the kernel segments or merges of 64 KiB."""
_SOURCE = bytes([192, 168, 1, 1])
_VNI = 100
_NONE, _HEADERS, _ALL = InnerCoverage
_SIGNER = SourceSigner.from_seed(bytes(32))
_SECRET_OPTION = Option(0x0102, 0x11, bytes(12)).build()
_HIDDEN = (OptionSelector(option_class=0x0102, type=0x11),)
_TELEMETRY = build_telemetry(1, 2)
_FOR_DEVICES = Coverage(
    header=frozenset({HeaderField.VNI, HeaderField.PROTOCOL_TYPE}),
    options=(OptionSelector(option_class=TELEMETRY_CLASS, type=TELEMETRY_TYPE),),
    authenticate_inner=_NONE,
    encrypt_inner=_NONE,
)


@dataclass(frozen=True, slots=True)
class Case:
    """One operation: ``prepare(calls)`` returns what to call that often; ``bare`` is the AEAD call alone."""

    operation: str
    profile: str
    frame: int
    prepare: Callable[[int], Callable[[], object]]
    bare: Callable[[], object] | None
    packets: int = 1
    """Packets of one call: what is reported is the cost of each."""


PROFILES: dict[str, tuple[Profile, tuple[bytes, ...]]] = {
    "full": (Profile(name="p"), ()),
    "full, aes-256-gcm": (Profile(name="p", aead=Aead.AES_256_GCM), ()),
    "full, chacha20-poly1305": (Profile(name="p", aead=Aead.CHACHA20_POLY1305), ()),
    "authentication only": (Profile(name="p", egress=Coverage(encrypt_inner=_NONE)), ()),
    "headers encrypted": (
        Profile(name="p", egress=Coverage(authenticate_inner=_HEADERS, encrypt_inner=_HEADERS)), (),
    ),
    "hidden option and header": (
        Profile(name="p", hidden_header=frozenset({HeaderField.VNI}), egress=Coverage(hidden_options=_HIDDEN)),
        (_SECRET_OPTION,),
    ),
    "group": (
        Profile(name="p", group=_FOR_DEVICES.model_copy(update={"options": (), "hidden_options": _HIDDEN})),
        (_SECRET_OPTION,),
    ),
    "padded to the mtu": (Profile(name="p", padding=Padding(mode=PaddingMode.MTU)), ()),
    "keys per flow": (Profile(name="p", key_granularity=KeyGranularity.FLOW), ()),
    "one transit device": (Profile(name="p", transit=_FOR_DEVICES), (_TELEMETRY,)),
}  # fmt: skip


def frame_of(size: int) -> bytes:
    """Return an inner frame of ``size`` bytes: UDP over IPv4."""
    udp = struct.pack("!HHHH", 4000, 5000, size - 34, 0) + bytes(size - 42)
    ip = struct.pack("!BBHHHBBH", 0x45, 0, size - 14, 0, 0, 64, 17, 0) + bytes([10, 0, 0, 1, 10, 0, 0, 2])
    return bytes.fromhex("020000000002020000000001") + b"\x08\x00" + ip + udp


def _association(profile: Profile, role: AssociationRole, spi: int, audience: str) -> Association:
    members = ("t1",) if role is AssociationRole.GROUP else ("nve2",) if role is AssociationRole.MULTICAST else ()
    signer = base64.b64encode(_SIGNER.public_key()).decode() if role is AssociationRole.MULTICAST else None
    secret = base64.b64encode(hashlib.sha256(str(spi).encode()).digest()).decode()
    return Association.model_validate(
        {"spi": spi, "role": role, "sender": "nve1", "audience": audience, "members": members, "vni": _VNI,
         "sender_address": "192.168.1.1", "profile": profile.name, "secret": secret, "signer": signer}
    )  # fmt: skip


class Ends:
    """A sealer under a profile, and openers for what it seals, new for each round."""

    def __init__(self, profile: Profile, size: int, multicast: bool = False, devices: int = 1) -> None:
        role = AssociationRole.MULTICAST if multicast else AssociationRole.EGRESS
        self.held = [_association(profile, role, 1000, "group-a" if multicast else "nve2")]
        if profile.transit is not None:
            self.held += [_association(profile, AssociationRole.TRANSIT, 2000 + n, f"t{n + 1}") for n in range(devices)]
        if profile.group is not None:
            self.held.append(_association(profile, AssociationRole.GROUP, 3000, "nve2"))
        ends = [OutboundAssociation(item, profile) for item in self.held]
        transit = [end for end in ends if end.role is AssociationRole.TRANSIT]
        group = next((end for end in ends if end.role is AssociationRole.GROUP), None)
        self.sealer = PacketSealer(
            _VNI, ends[0], transit, group, _SIGNER if multicast else None, largest=max(size, 1400) + 2,
        )  # fmt: skip
        self.profile = profile

    def opener(self) -> PacketOpener:
        """Return a new opener for the NVE."""
        return PacketOpener(InboundAssociation(item, self.profile) for item in self.held if item.opens("nve2"))

    def verifier(self) -> TransitVerifier:
        """Return a new verifier for the transit device."""
        return TransitVerifier(InboundAssociation(item, self.profile) for item in self.held if item.opens("t1"))


def _bare(profile: Profile, size: int, opening: bool) -> Callable[[], object]:
    """Return the AEAD call on as many bytes with as much associated data."""
    coverage = profile.egress
    encrypted = {_ALL: size, _HEADERS: min(48, size), _NONE: 0}[coverage.encrypt_inner]
    if profile.padding.mode is PaddingMode.MTU:
        encrypted = max(size, 1400) + 2
    clear = size - encrypted if coverage.authenticate_inner is _ALL else 0
    key = bytes(16 if profile.aead is Aead.AES_128_GCM else 32)
    aead = ChaCha20Poly1305(key) if profile.aead is Aead.CHACHA20_POLY1305 else AESGCM(key)
    nonce, plain, aad = bytes(12), bytes(encrypted), bytes(40 + clear)
    sealed = aead.encrypt(nonce, plain, aad)
    return (lambda: aead.decrypt(nonce, sealed, aad)) if opening else (lambda: aead.encrypt(nonce, plain, aad))


def make_cases() -> list[Case]:
    """Return every case."""
    return [*_seal_and_open(), *_bursts(), *_transit(), *_refusals(), *_nve(), *_multicast(), *_policy()]


def _seal_and_open() -> Iterator[Case]:
    for name, (profile, options) in PROFILES.items():
        for size in SIZES if name == "full" else (1400,):
            ends, frame = Ends(profile, size), frame_of(size)
            item = [Item(frame, options, parse_inner(frame))]

            def seal(_: int, ends: Ends = ends, item: list[Item] = item) -> Callable[[], object]:
                return lambda: ends.sealer.seal(item)

            def opened(calls: int, ends: Ends = ends, item: list[Item] = item) -> Callable[[], object]:
                return _each(ends.opener().open, [ends.sealer.seal(item)[0] for _ in range(calls)])

            yield Case("seal", name, size, seal, _bare(profile, size, opening=False))
            yield Case("open", name, size, opened, _bare(profile, size, opening=True))


def _bursts() -> Iterator[Case]:
    """What a packet costs among others of its flow. Telemetry differs from packet to packet, as it does on the wire."""
    full, headers, device = (PROFILES[name][0] for name in ("full", "headers encrypted", "one transit device"))
    for name, profile, devices, size in (
        *(("full", full, 0, size) for size in SIZES), ("headers encrypted", headers, 0, 1400),
        ("authentication only", PROFILES["authentication only"][0], 0, 1400),
        ("keys per flow", PROFILES["keys per flow"][0], 0, 1400),
        ("one transit device", device, 1, 1400), ("two transit devices", device, 2, 1400),
    ):  # fmt: skip
        ends, frame = Ends(profile, size, devices=devices), frame_of(size)
        frames, inner = [frame] * BURST, parse_inner(frame)
        options = [(build_telemetry(1, number),) if devices else () for number in range(BURST)]

        def seal(_: int, ends: Ends = ends, frames: list[bytes] = frames, inner: InnerFrame = inner,
                 options: Sequence[tuple[bytes, ...]] = options) -> Callable[[], object]:  # fmt: skip
            return lambda: ends.sealer.seal_burst(frames, inner, options)

        def opened(calls: int, ends: Ends = ends, frames: list[bytes] = frames, inner: InnerFrame = inner,
                   options: Sequence[tuple[bytes, ...]] = options) -> Callable[[], object]:  # fmt: skip
            bursts = [ends.sealer.seal_burst(frames, inner, options) for _ in range(calls)]
            opener = ends.opener()
            following = iter([(b"".join(burst), len(burst[0])) for burst in bursts]).__next__
            return lambda: opener.open_burst(*following(), _SOURCE)

        yield Case("seal burst", name, size, seal, _bare(profile, size, opening=False), BURST)
        yield Case("open burst", name, size, opened, _bare(profile, size, opening=True), BURST)


def _each(operation: Callable[[bytes, bytes], object], packets: list[bytes]) -> Callable[[], object]:
    following = iter(packets).__next__
    return lambda: operation(following(), _SOURCE)


def _transit() -> Iterator[Case]:
    profile, options = PROFILES["one transit device"]
    ends, frame = Ends(profile, 1400), frame_of(1400)
    item = [Item(frame, options)]

    def verify(calls: int) -> Callable[[], object]:
        return _each(ends.verifier().verify, [ends.sealer.seal(item)[0] for _ in range(calls)])

    def skip(calls: int) -> Callable[[], object]:
        return _each(TransitVerifier().verify, [ends.sealer.seal(item)[0]] * calls)

    aead = AESGCM(bytes(16))
    tag, aad = aead.encrypt(bytes(12), b"", bytes(56)), bytes(56)
    yield Case("transit: verify", "one transit device", 1400, verify, lambda: aead.decrypt(bytes(12), tag, aad))
    yield Case("transit: not addressed", "one transit device", 1400, skip, None)


def _refusals() -> Iterator[Case]:
    profile, _ = PROFILES["full"]
    ends, item = Ends(profile, 1400), [Item(frame_of(1400))]

    def refusal(change: Callable[[bytearray], None]) -> Callable[[int], Callable[[], object]]:
        def prepare(calls: int) -> Callable[[], object]:
            opener = ends.opener()
            opener.open(ends.sealer.seal(item)[0], _SOURCE)
            changed = bytearray(ends.sealer.seal(item)[0])
            change(changed)
            return _each(opener.open, [bytes(changed)] * calls)

        return prepare

    def bad_tag(packet: bytearray) -> None:
        packet[-1] ^= 1

    def unknown_spi(packet: bytearray) -> None:
        packet[12] ^= 1

    def malformed(packet: bytearray) -> None:
        packet[11] = 31

    def replayed(calls: int) -> Callable[[], object]:
        opener, packet = ends.opener(), ends.sealer.seal(item)[0]
        opener.open(packet, _SOURCE)
        return _each(opener.open, [packet] * calls)

    yield Case("refuse: bad tag", "full", 1400, refusal(bad_tag), _bare(profile, 1400, opening=True))
    yield Case("refuse: unknown SPI", "full", 1400, refusal(unknown_spi), None)
    yield Case("refuse: malformed", "full", 1400, refusal(malformed), None)
    yield Case("refuse: replayed", "full", 1400, replayed, None)


def _nve() -> Iterator[Case]:
    """What a packet costs the NVE in all, from datagram to frame: opening, policy again, source address, ECN."""
    profile, _ = PROFILES["full"]
    ends, item = Ends(profile, 1400), [Item(frame_of(1400))]
    state = NodeState(
        node="nve2",
        role=Role.NVE,
        vnis=(VniState(vni=_VNI, mtu=1400),),
        nves=(NveAddress(name="nve1", address="192.168.1.1", vnis=(_VNI,)),),
        mappings=(Mapping(vni=_VNI, mac="02:00:00:00:00:01", ips=("10.0.0.1",), nve="nve1"),),
        profiles=(profile,),
        policy=(Rule(vni=_VNI, action=Action.SECURE, profile=profile.name),),
        inbound=tuple(ends.held),
    )

    def receive(packets: list[bytes]) -> Callable[[], object]:
        plane = Dataplane("nve2", bytes(32))
        plane.apply(state)
        plane.from_underlay([Received(ends.sealer.seal(item)[0], _SOURCE)])
        following = iter([Received(packet, _SOURCE) for packet in packets]).__next__
        return lambda: plane.from_underlay((following(),))

    def accepted(calls: int) -> Callable[[], object]:
        return receive([ends.sealer.seal(item)[0] for _ in range(calls)])

    def refused(calls: int) -> Callable[[], object]:
        packet = ends.sealer.seal(item)[0]
        return receive([packet[:-1] + bytes([packet[-1] ^ 1])] * calls)

    yield Case("NVE: accept", "full", 1400, accepted, _bare(profile, 1400, opening=True))
    yield Case("NVE: refuse bad tag", "full", 1400, refused, _bare(profile, 1400, opening=True))


def _multicast() -> Iterator[Case]:
    for name, proof, batch in (
        ("ed25519", SourceProof.ED25519, 1), *((f"merkle, batch of {n}", SourceProof.MERKLE, n) for n in (1, 2, 4, 8)),
    ):  # fmt: skip
        profile = Profile(name="p", source_proof=proof)
        ends, frame = Ends(profile, 1400, multicast=True), frame_of(1400)

        def seal(_: int, ends: Ends = ends, frame: bytes = frame, batch: int = batch) -> Callable[[], object]:
            items = [Item(frame)] * batch
            left: list[bytes] = []

            def one() -> object:
                # The cost of a batch falls on its packets alike, since calls are counted by packet.
                if not left:
                    left.extend(ends.sealer.seal(items))
                return left.pop()

            return one

        def opened(calls: int, ends: Ends = ends, frame: bytes = frame, batch: int = batch) -> Callable[[], object]:
            packets: list[bytes] = []
            while len(packets) < calls:
                packets += ends.sealer.seal([Item(frame)] * batch)
            return _each(ends.opener().open, packets)

        yield Case("seal", f"multicast, {name}", 1400, seal, _bare(profile, 1400, opening=False))
        yield Case("open", f"multicast, {name}", 1400, opened, _bare(profile, 1400, opening=True))


def _policy() -> Iterator[Case]:
    for count in (1, 100, 1000):
        prefixes: list[IpPrefix] = [f"172.16.{n // 250}.{n % 250}/32" for n in range(count - 1)]
        rules = [Rule(source=Endpoint(ip=prefix), protocol=17, action=Action.BYPASS) for prefix in prefixes]
        policy = Policy([*rules, Rule(action=Action.BYPASS)], ())
        inner = parse_inner(frame_of(1400))

        def cached(_: int, policy: Policy = policy, inner: InnerFrame = inner) -> Callable[[], object]:
            return lambda: policy.decide(Direction.OUT, _VNI, inner, frozenset())

        def cold(calls: int, policy: Policy = policy) -> Callable[[], object]:
            frames = []
            for number in range(calls):
                changed = bytearray(frame_of(100))
                changed[26:30] = number.to_bytes(4, "big")
                frames.append(parse_inner(bytes(changed)))
            fresh = Policy(policy.rules_for(_VNI), ())
            following = iter(frames).__next__
            return lambda: fresh.decide(Direction.OUT, _VNI, following(), frozenset())

        label = f"{count} rule{'s' if count > 1 else ''}"
        yield Case("policy: cached", label, 1400, cached, None)
        yield Case("policy: new flow", label, 1400, cold, None)
