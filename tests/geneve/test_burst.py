"""Bursts: what is sealed or opened at once is what one packet after another gives."""

from __future__ import annotations

import itertools
import random
from typing import Any
from unittest import mock

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from geneve.drops import DropReason
from geneve.header import BaseHeader
from geneve.inner import parse_inner
from geneve.security.aad import AadPlan
from geneve.security.association import InboundAssociation, OutboundAssociation
from geneve.security.limiter import PLAUSIBLE_AHEAD, FailureLimiter
from geneve.security.open import Burst, Opened, PacketOpener
from geneve.security.option import EGRESS_TYPE, GROUP_TYPE, SecuritySpan, scan_options
from geneve.security.replay import ReplayWindow
from geneve.security.seal import Item, PacketSealer
from geneve.security.shape import make_shape
from geneve.telemetry import build_telemetry
from tests.geneve.make_vectors import ONE, OPTIONS, PROFILES, TAG, TWO, associations, make_sealer, profile
from tests.support import association, source, udp_frame

HERE = source("nve1")
MADE = {f"{feature}: {name}": (feature, made) for feature, (_, cases) in PROFILES.items() for name, made in cases}
UNICAST = [name for name, (feature, _) in MADE.items() if feature != "multicast"]
LONG = udp_frame(data=b"tenant" * 20)


def options(number: int) -> tuple[bytes, ...]:
    """The same kinds of options for each packet, with another value of telemetry."""
    return (build_telemetry(0x11223344, number), ONE, TWO, TAG)


class Site:
    """An ingress and an egress NVE under one profile, and another sender's packets in between."""

    def __init__(self, name: str) -> None:
        feature, self.profile = MADE[name]
        self.held = associations(self.profile, feature)
        self.sealer = make_sealer(self.profile, self.held)
        self.others = [
            item.model_copy(update={"spi": item.spi + 50, "secret": association(item.spi + 50).secret})
            for item in self.held
        ]
        self.other = make_sealer(self.profile, self.others)

    def opener(self) -> PacketOpener:
        both = [*self.held, *self.others]
        ends = [InboundAssociation(item, self.profile) for item in both if item.opens("nve2")]
        for end in ends:
            end.limiter = FailureLimiter(end.window, rate=1.0, burst=2.0)
        return PacketOpener(ends)


# --- sealing ---------------------------------------------------------------------------------


@pytest.mark.parametrize("name", UNICAST)
@given(st.lists(st.integers(0, 60), min_size=1, max_size=12), st.booleans(), st.booleans(), st.booleans())
@settings(max_examples=12, deadline=None)
def test_a_burst_is_sealed_as_its_frames_are_one_by_one(name, sizes, carried, views, version_6):
    frames = [udp_frame(data=bytes([n]) * size, version=6 if version_6 else 4) for n, size in enumerate(sizes)]
    each = [options(number) if carried else () for number in range(len(frames))]
    inner = parse_inner(frames[0])
    one_by_one, at_once = Site(name).sealer, Site(name).sealer
    expected = [one_by_one.seal([Item(frame, own)])[0] for frame, own in zip(frames, each, strict=True)]
    given_frames = [memoryview(frame) for frame in frames] if views else frames
    assert at_once.seal_burst(given_frames, inner, each) == expected
    used = [[end.last_sequence for end in made.associations] for made in (one_by_one, at_once)]
    assert used[0] == used[1]
    assert at_once.seal_burst([], inner, []) == []


def test_multicast_is_signed_and_so_not_sealed_in_bursts():
    with pytest.raises(ValueError, match="signed"):
        Site("multicast: ed25519").sealer.seal_burst([LONG], parse_inner(LONG), [()])


@pytest.mark.parametrize("short", [0, 1, 2])
def test_at_the_hard_limit_of_any_association_a_burst_is_shorter(short):  # invariant 4
    made = profile(transit=MADE["full: full"][1].transit)
    held = associations(made, "")
    ends = [OutboundAssociation(item, made, 5 if place == short else None) for place, item in enumerate(held)]
    sealer = PacketSealer(100, ends[0], ends[1:])
    inner, each = parse_inner(LONG), [OPTIONS] * 3
    assert [len(sealer.seal_burst([LONG] * 3, inner, each)) for _ in range(4)] == [3, 2, 0, 0]
    assert all(end.last_sequence == 5 for end in ends)


def test_a_burst_without_a_flow_id_left_is_empty():
    sealer = Site("granularity: flow").sealer
    sealer.egress._last_flow = 2**32 - 1
    assert sealer.seal_burst([LONG] * 3, parse_inner(LONG), [()] * 3) == []


# --- opening ---------------------------------------------------------------------------------

KINDS = (
    *["next"] * 20, "tag", "payload", "replay", "skip", "late", "other", "other options", "unknown SPI",
    "dummy", "plain", "header", "garbage", *["far"] * 3, "far group", "jump",
)  # fmt: skip


class Wire:
    """Makes packets of one size, good and bad, as they may stand in one buffer."""

    def __init__(self, site: Site, seed: int) -> None:
        self.site, self.random = site, random.Random(seed)
        self.sent: list[bytes] = [self._seal(LONG)]
        self.size = len(self.sent[0])

    def _seal(self, frame: bytes, made: PacketSealer | None = None, own: tuple[bytes, ...] | None = None) -> bytes:
        own = options(self.random.randrange(100)) if own is None else own
        return (made or self.site.sealer).seal([Item(frame, own)])[0]

    def _fitting(self, made: PacketSealer, own: tuple[bytes, ...]) -> bytes:
        """Seal a frame that makes a packet of the size of all, if that can be."""
        packet = self._seal(LONG, made, own)
        wanted = len(LONG) + self.size - len(packet)
        return packet if wanted == len(LONG) else self._seal(LONG.ljust(wanted, b"z")[:wanted], made, own)

    def packet(self, kind: str) -> bytes:
        """Return the next packet of a kind."""
        if kind == "replay":
            return self.random.choice(self.sent)
        if kind in ("other", "other options", "plain"):
            if kind == "plain":
                return (BaseHeader(vni=100).build() + LONG).ljust(self.size, b"z")[: self.size]
            own = options(7) if kind == "other" else options(7)[:2]
            packet = self._fitting(self.site.other if kind == "other" else self.site.sealer, own)
        elif kind == "jump":
            for end in self.site.sealer.associations:
                end.hard_limit = 2**40
                end.last_sequence += self.random.choice([PLAUSIBLE_AHEAD - 1, PLAUSIBLE_AHEAD, 2**25])
            packet = self._seal(LONG)
        elif kind == "dummy" and self.site.profile.padded:
            packet = self.site.sealer.seal_dummy(len(LONG), options(3))
        else:
            packet = self._seal(LONG)
        changed = bytearray(packet.ljust(self.size, b"z")[: self.size])
        options_end = 8 + (changed[0] & 63) * 4
        if kind == "tag":
            changed[options_end - 1] ^= 1
        elif kind == "payload":
            changed[self.random.randrange(options_end, len(changed))] ^= 1
        elif kind == "unknown SPI":
            changed[options_end - 27] ^= 0x40
        elif kind in ("far", "far group"):
            _forge_number(changed, EGRESS_TYPE if kind == "far" else GROUP_TYPE, self.random.randrange(2**60, 2**63))
        elif kind == "header":
            changed[self.random.randrange(8)] ^= 1 << self.random.randrange(8)
        elif kind == "garbage":
            changed[:] = self.random.randbytes(self.size)
        self.sent.append(bytes(changed))
        return bytes(changed)

    def buffer(self, kinds: list[str], cut: int) -> bytes:
        """Return packets one behind the other, the last of them ``cut`` bytes shorter."""
        packets: list[bytes] = []
        for kind in kinds:
            packet = self.packet(kind)
            if kind == "late" and packets:
                packets.insert(self.random.randrange(len(packets)), packet)
            elif kind != "skip":
                packets.append(packet)
        joined = b"".join(packets)
        return joined[: len(joined) - cut]


def _forge_number(packet: bytearray, option_type: int, number: int) -> None:
    for span in scan_options(bytes(packet), 8 + (packet[0] & 63) * 4):
        if isinstance(span, SecuritySpan) and span.type == option_type:
            packet[span.start + 8 : span.start + 16] = number.to_bytes(8, "big")


def looks(result: Opened | DropReason, frames: list[bytes]) -> Any:
    """What is to be seen of one result."""
    if isinstance(result, DropReason):
        return result
    spi = result.association.spi if result.association else None
    fields = (result.header, result.frame, result.kinds, result.packet, result.spans, result.revealed, result.dummy)
    return (spi, *fields, result.options(), frames)


def collapsed(results: list[Opened | DropReason]) -> list[Any]:
    """Put one-by-one results together as bursts promise it."""
    found: list[tuple[Opened | DropReason, list[bytes]]] = []
    for result in results:
        if isinstance(result, DropReason):
            found.append((result, []))
            continue
        last = found[-1][0] if found else None
        alike = isinstance(last, Opened) and (last.association, last.header, last.kinds) == (
            result.association, result.header, result.kinds,
        ) and not (last.dummy or last.revealed or result.dummy or result.revealed)  # fmt: skip
        frames = found.pop()[1] if alike else []
        found.append((result, [*frames, result.frame]))
    return [looks(result, frames) for result, frames in found]


def state(opener: PacketOpener) -> Any:
    """All that opening changes."""
    ends = [
        (spi, end.window.highest, end.window._blocks, list(end._flow_keys), end.limiter._tokens, end.limiter._noted)
        for spi, end in sorted(opener.associations.items())
    ]
    return ends, sorted(opener._layouts._layouts)


@pytest.mark.parametrize("name", MADE)
@given(
    st.lists(st.lists(st.sampled_from(KINDS), min_size=1, max_size=14), min_size=1, max_size=3),
    st.lists(st.sampled_from([0, 0, 0, 1, 30, 1000]), min_size=3, max_size=3),
    st.integers(0, 2**32),
    st.lists(st.sampled_from([HERE, HERE, HERE, source("nve3")]), min_size=3, max_size=3),
    st.sampled_from([2, 3, 4]),
)
@settings(max_examples=25, deadline=None)
def test_a_burst_is_opened_as_its_packets_are_one_by_one(name, bursts, cuts, seed, sources, few):
    with mock.patch("geneve.security.open.MIN_ALIKE", few):
        compare(Site(name), bursts, cuts, seed, sources)


def compare(site: Site, bursts: list[list[str]], cuts: list[int], seed: int, sources: list[bytes]) -> None:
    wire, one_by_one, at_once = Wire(site, seed), site.opener(), site.opener()
    for now, (kinds, cut, here) in enumerate(zip(bursts, cuts, sources, strict=False)):
        buffer = wire.buffer(kinds, cut)
        size = wire.size if len(buffer) > wire.size else len(buffer)
        if not size:
            continue
        packets = [buffer[at : at + size] for at in range(0, len(buffer), size)]
        expected = collapsed([one_by_one.open(packet, here, now) for packet in packets])
        results = at_once.open_burst(buffer, size, here, now)
        found = [looks(item.opened, item.frames) if isinstance(item, Burst) else item for item in results]
        assert found == expected
        assert state(at_once) == state(one_by_one)


@pytest.mark.parametrize("name", UNICAST)
def test_good_packets_of_one_flow_are_one_burst(name):
    site = Site(name)
    opener, inner = site.opener(), parse_inner(LONG)
    for carried in (False, True):
        packets = site.sealer.seal_burst([LONG] * 40, inner, [options(n) if carried else () for n in range(40)])
        results = opener.open_burst(b"".join(packets), len(packets[0]), HERE)
        assert all(isinstance(item, Burst) for item in results)
        assert [frame for item in results for frame in item.frames] == [LONG] * 40
        assert len(results) == 1 or results[0].opened.revealed
    assert opener.associations[1000].window.highest == 80


def test_one_forged_packet_in_a_burst_costs_only_itself():  # invariant 5
    site = Site("full: full")
    opener = site.opener()
    packets = site.sealer.seal_burst([LONG] * 5, parse_inner(LONG), [()] * 5)
    opener.open(packets.pop(0), HERE)
    packets[1] = packets[1][:-1] + bytes([packets[1][-1] ^ 1])
    first, refused, rest = opener.open_burst(b"".join(packets), len(packets[0]), HERE)
    assert isinstance(first, Burst)
    assert isinstance(rest, Burst)
    assert (len(first.frames), refused, len(rest.frames)) == (1, DropReason.AUTHENTICATION_FAILED, 2)
    window = opener.associations[1000].window
    assert [window.check(number) for number in range(1, 7)] == [DropReason.REPLAYED] * 2 + [None] + [
        DropReason.REPLAYED
    ] * 2 + [None]


def test_bursts_of_two_senders_whose_packets_look_alike():
    site = Site("full: full")
    opener, inner = site.opener(), parse_inner(LONG)
    for _ in range(3):
        for sealer, spi in ((site.sealer, 1000), (site.other, 1050)):
            packets = sealer.seal_burst([LONG] * 8, inner, [OPTIONS] * 8)
            (burst,) = opener.open_burst(b"".join(packets), len(packets[0]), HERE)
            assert isinstance(burst, Burst)
            assert (burst.opened.association.spi, burst.frames) == (spi, [LONG] * 8)


def test_a_burst_without_protection_says_so():
    opener = Site("full: full").opener()
    packets = [BaseHeader(vni=100).build() + bytes([number]) * 60 for number in range(9)]
    for _ in range(2):
        (burst,) = opener.open_burst(b"".join(packets)[:-5], len(packets[0]), HERE)
        assert isinstance(burst, Burst)
        assert burst.opened.association is None
        assert burst.frames == [*[bytes([number]) * 60 for number in range(8)], bytes([8]) * 55]


def test_a_single_datagram_is_a_burst_of_one_even_if_it_is_empty():
    opener = Site("full: full").opener()
    assert opener.open_burst(b"", 0, HERE) == [opener.open(b"", HERE)] == [DropReason.MALFORMED]
    assert opener.open_burst(b"abc", 3, HERE) == [DropReason.MALFORMED]


def test_a_burst_from_another_address_is_refused_whole():
    site = Site("full: full")
    opener, inner = site.opener(), parse_inner(LONG)
    packets = site.sealer.seal_burst([LONG] * 16, inner, [OPTIONS] * 16)
    first, second, size = b"".join(packets[:8]), b"".join(packets[8:]), len(packets[0])
    (burst,) = opener.open_burst(first, size, HERE)
    assert isinstance(burst, Burst)
    assert opener.open_burst(second, size, source("nve3")) == [DropReason.SOURCE_MISMATCH] * 8
    (burst,) = opener.open_burst(second, size, HERE)
    assert isinstance(burst, Burst), "nothing was committed"


def test_a_burst_of_strangers_leaves_nothing_behind():  # invariant 5
    site = Site("full: full")
    packets = site.sealer.seal_burst([LONG] * 8, parse_inner(LONG), [()] * 8)
    for change in (12, 30, 60):
        forged = [packet[:change] + bytes([packet[change] ^ 1]) + packet[change + 1 :] for packet in packets]
        opener = site.opener()
        before = state(opener)
        assert all(isinstance(item, DropReason) for item in opener.open_burst(b"".join(forged), len(forged[0]), HERE))
        assert state(opener) == before


# --- the parts that both rest on -------------------------------------------------------------


@pytest.mark.parametrize("name", MADE)
@given(st.data())
@settings(max_examples=10, deadline=None)
def test_the_parts_of_associated_data_are_what_is_built(name, data):
    """Wherever packets may differ, constants and varying parts together are AadPlan.build's bytes."""
    site = Site(name)
    packet = site.sealer.seal([Item(LONG, OPTIONS)])[0]
    end = 8 + (packet[0] & 63) * 4
    spans = scan_options(packet, end)
    borders = sorted(data.draw(st.sets(st.integers(8, end), max_size=8)))
    varying = list(itertools.pairwise(borders))[:: data.draw(st.sampled_from([1, 2]))]
    changed = bytearray(packet)
    for start, stop in varying:
        changed[start:stop] = data.draw(st.binary(min_size=stop - start, max_size=stop - start))
    roles = {item.spi: item for item in site.held}
    for own in spans:
        if isinstance(own, SecuritySpan):
            item = roles[own.spi]
            plan = AadPlan(item.role, make_shape(site.profile, item.role, item.audience), spans, own)
            parts = plan.parts(packet, varying)
            whole = b"".join(part if isinstance(part, bytes) else bytes(changed[slice(*part)]) for part in parts)
            assert whole + b"clear" == plan.build(changed, b"clear")


@given(
    st.sampled_from([64, 128, 1024]),
    st.lists(st.lists(st.sampled_from([-70, -1, 0, 1, 1, 1, 1, 2, 63, 64, 65, 200, 5000]), min_size=1, max_size=80)),
)
def test_a_window_moves_for_many_numbers_as_for_each(size, bursts):
    one_by_one, at_once, at = ReplayWindow(size), ReplayWindow(size), 0
    for steps in bursts:
        numbers = []
        for step in steps:
            at = max(at + step, 0)
            numbers.append(at)
        ahead, highest = True, one_by_one.highest
        for number in numbers:
            ahead, highest = ahead and number > highest, max(highest, number)
        assert at_once.all_ahead(numbers) == ahead
        for number in numbers:
            if one_by_one.check(number) is None:
                one_by_one.commit(number)
            if not ahead and at_once.check(number) is None:
                at_once.commit(number)
        if ahead:
            at_once.commit_all(numbers)
        assert (at_once.highest, at_once._blocks) == (one_by_one.highest, one_by_one._blocks)
