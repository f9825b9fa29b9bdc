"""What is remembered of a capture: flows, virtual networks, options, keys, and who talks to whom. Bounded."""

from __future__ import annotations

from dataclasses import dataclass, field

from experiments.audit.counters import Count, Gaps, Numbers, Recent, Table
from experiments.audit.inside import Inside
from experiments.audit.payload import SECURED, Content, looks_random
from geneve.security.option import EGRESS_TYPE, GROUP_TYPE, SECURITY_CLASS, SIGNATURE_TYPE, TRANSIT_TYPE

Kind = tuple[int, int]
"""Class and type of an option."""

SAMPLE = 1024
"""Bytes of payload kept of each flow, to judge what they are."""
MAX_FLOWS, MAX_VNIS, MAX_OPTIONS, MAX_KEYS, MAX_TALKS, MAX_SIZES, MAX_NAMES = 8192, 512, 512, 4096, 4096, 512, 16
OTHER_SIZES = -1
OPAQUE = frozenset({"ESP", "ESP in UDP", "DTLS", "WireGuard", "MACsec"})
"""Channels that hide what they carry, unless it is found in clear in them."""

_FOR_NVE = frozenset({EGRESS_TYPE, GROUP_TYPE})


@dataclass(frozen=True, slots=True)
class Shape:
    """The options of a packet without their data, and whose security options are among them."""

    kinds: tuple[Kind, ...]
    for_nve: bool = False
    for_transit: bool = False
    signed: bool = False

    @classmethod
    def of(cls, kinds: tuple[Kind, ...]) -> Shape:
        """Return the shape of options in this order."""
        ours = {kind for option_class, kind in kinds if option_class == SECURITY_CLASS}
        return cls(kinds, bool(ours & _FOR_NVE), bool(ours & {TRANSIT_TYPE, GROUP_TYPE}), SIGNATURE_TYPE in ours)


class Network(Count):
    """What was seen of one VNI. ``sizes``: bytes of the Geneve packet -> how many; :data:`OTHER_SIZES` is the rest."""

    __slots__ = ("contents", "control", "flows", "regular", "sizes", "states", "talks")

    def __init__(self) -> None:
        super().__init__()
        self.sizes: dict[int, int] = {}
        self.flows = 0
        self.regular = 0
        self.states: dict[str, Count] = {}
        self.contents: dict[str, Count] = {}
        self.control: dict[str, Count] = {}
        self.talks: set[tuple[str, str]] = set()


class Flow(Count):
    """Packets with the same outer addresses and ports, Geneve header, options, and inner flow."""

    __slots__ = (
        "content", "cover", "cut", "destination", "gaps", "header", "inside", "network", "protocol_type", "sample",
        "samples", "shape", "sizes", "source", "vni",
    )  # fmt: skip

    def __init__(
        self, source: str, destination: str, header: bytes, shape: Shape, cover: str, network: Network, time: float
    ) -> None:
        super().__init__()
        self.source, self.destination, self.cover = source, destination, cover
        self.header, self.shape, self.network, self.sizes = header, shape, network, network.sizes
        self.vni = int.from_bytes(header[4:7], "big")
        self.protocol_type = int.from_bytes(header[2:4], "big")
        self.inside: Inside | None = None
        self.content: Content | None = None
        self.gaps = Gaps(time)
        self.sample = bytearray()
        self.samples = 8
        """How many more packets are looked into."""
        self.cut = False

    @property
    def oam(self) -> bool:
        """The O bit."""
        return bool(self.header[1] & 0x80)

    @property
    def critical(self) -> bool:
        """The C bit."""
        return bool(self.header[1] & 0x40)

    @property
    def state(self) -> str:
        """How the inner packet is protected as far as it shows: plain, authenticated, encrypted, or unreadable.

        ``headers encrypted``: a security option, inner headers that make no sense, and a payload with a pattern.
        """
        if self.shape.for_nve:
            if self.inside is not None:
                return "authenticated"
            return "headers encrypted" if looks_random(self.sample) is False else "encrypted"
        if self.cover:
            return "authenticated"
        return "plain" if self.inside is not None else "unreadable"

    @property
    def what(self) -> Content:
        """What the tenant's payload is, in a flow that can be read."""
        if self.content is not None:
            return self.content
        if not self.sample:
            return Content.EMPTY
        random = looks_random(self.sample)
        if random is None:
            printable = sum(32 <= value < 127 or value in (9, 10, 13) for value in self.sample)
            return Content.CLEAR if len(self.sample) >= 16 and printable > 0.9 * len(self.sample) else Content.UNKNOWN
        return Content.RANDOM if random else Content.CLEAR

    @property
    def tenant_secured(self) -> bool:
        """Whether the tenant protects the payload itself."""
        return self.what in SECURED


class Key(Count):
    """Packets under one SPI (or one DTLS or WireGuard session's ends): for whom, in which VNIs, with which numbers.

    ``inner_at`` is where a Geneve packet stands in what looks encrypted but is not; None when it is.
    """

    __slots__ = ("gaps", "inner_at", "numbers", "pairs", "sample", "tried", "vnis")

    def __init__(self, time: float) -> None:
        super().__init__()
        self.pairs: set[tuple[str, str]] = set()
        self.vnis: set[int] = set()
        self.numbers = Numbers()
        self.gaps = Gaps(time)
        self.sample = bytearray()
        self.inner_at: int | None = None
        self.tried = 0


class OptionSeen(Count):
    """One kind of option: ``values`` are hashes of different contents, up to a bound; ``example`` is the first."""

    __slots__ = ("example", "more", "sizes", "values")

    def __init__(self) -> None:
        super().__init__()
        self.values: set[int] = set()
        self.sizes: set[int] = set()
        self.example = b""
        self.more = False


def named(counts: dict[str, Count], name: str) -> Count:
    """Return the counter of ``name``, made if it is not there; there are few names."""
    count = counts.get(name)
    if count is None:
        count = counts[name] = Count()
    return count


def count_size(sizes: dict[int, int], size: int) -> None:
    """Count a size, or the rest when there are many sizes already."""
    if size in sizes:
        sizes[size] += 1
    elif len(sizes) < MAX_SIZES:
        sizes[size] = 1
    else:
        sizes[OTHER_SIZES] = sizes.get(OTHER_SIZES, 0) + 1


@dataclass
class Seen:
    """All that was seen. Flows are folded into networks, options and talks when they make room, and at the end."""

    frames: Count = field(default_factory=Count)
    geneve: Count = field(default_factory=Count)
    plain_states: dict[str, Count] = field(default_factory=dict)
    """State of the inner packet -> packets."""
    facts: dict[str, Count] = field(default_factory=dict)
    """Whatever else was counted, by name."""
    malformed: dict[str, Count] = field(default_factory=dict)
    networks: Table[int, Network] = field(default_factory=lambda: Table(MAX_VNIS))
    other_networks: Network = field(default_factory=Network)
    options: Table[Kind, OptionSeen] = field(default_factory=lambda: Table(MAX_OPTIONS))
    keys: Table[tuple[object, ...], Key] = field(init=False)
    """(mechanism, ends, SPI) -> packets; :attr:`other_keys` are those that made room."""
    other_keys: Count = field(default_factory=Count)
    talks: Table[tuple[str, str, str], Count] = field(init=False)
    """(source, destination, with what) -> packets; :attr:`other_talks` are those that made room."""
    other_talks: Count = field(default_factory=Count)
    channel_sizes: dict[str, dict[int, int]] = field(default_factory=dict)
    """Mechanism -> sizes of what passes in channels that cannot be read."""
    regular: list[tuple[int, str, float, list[int]]] = field(default_factory=list)
    """Flows with a beat: packets, text, seconds between, first frames."""
    top: list[tuple[int, int, str, int, str, float]] = field(default_factory=list)
    """Flows with the most bytes: bytes, packets, text, VNI, what the payload is, its entropy in bits for each byte."""
    recent: Recent = field(default_factory=Recent)
    start: float | None = None
    stop: float = 0.0
    folded: int = 0
    """Flows that were left out to make room."""

    def __post_init__(self) -> None:
        self.keys = Table(MAX_KEYS, lambda key: key.packets, self.other_keys.merge)
        self.talks = Table(MAX_TALKS, lambda count: count.packets, self.other_talks.merge)

    def fact(self, name: str, number: int, size: int = 0) -> None:
        """Count a fact."""
        named(self.facts, name).add(number, size)
