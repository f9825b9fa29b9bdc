"""The limiter of failed tags: what is plausible is always tried, what is not only so often, and then for nothing."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from geneve.control.profile import Coverage
from geneve.control.state import Association
from geneve.drops import DropReason
from geneve.security.association import InboundAssociation, OutboundAssociation
from geneve.security.limiter import ATTEMPTS_BURST, ATTEMPTS_PER_SECOND, PLAUSIBLE_AHEAD, FailureLimiter
from geneve.security.open import Opened, PacketOpener
from geneve.security.option import GROUP_TYPE, scan_options
from geneve.security.replay import ReplayWindow
from geneve.security.seal import Item, PacketSealer
from nve.datagrams import Received
from nve.dataplane import Dataplane
from tests.geneve.make_vectors import ONE, OPTIONS, associations, device, make_sealer, profile, select
from tests.support import FULL, association, node_state, source, udp_frame

HERE = source("nve1")
FRAME = udp_frame(data=b"tenant" * 20)
BURST = int(ATTEMPTS_BURST)
ATTEMPT = st.tuples(
    st.one_of(st.integers(-100, 100), st.integers(PLAUSIBLE_AHEAD - 2, PLAUSIBLE_AHEAD + 2), st.integers(1, 2**63)),
    st.floats(0, 2),  # seconds since the one before
    st.booleans(),  # a true packet
)


def window(highest: int = 1000) -> ReplayWindow:
    made = ReplayWindow()
    if highest:
        made.commit(highest)
    return made


def attempt(limiter: FailureLimiter, held: ReplayWindow, number: int, now: float, true: bool = False) -> bool:
    """As an opener does it; returns whether the tag was tried."""
    if not limiter.allows(number, now):
        return False
    if true and held.check(number) is None:
        held.commit(number)
    elif not true:
        limiter.failed(number, now)
    return True


@given(st.lists(ATTEMPT, max_size=300))
def test_a_plausible_number_is_never_refused(attempts):
    held, now = window(), 0.0
    limiter = FailureLimiter(held)
    for ahead, later, true in attempts:
        now += later
        tried = attempt(limiter, held, held.highest + ahead, now, true)
        assert tried or ahead > PLAUSIBLE_AHEAD


@given(st.lists(st.floats(0, 0.05), min_size=1, max_size=600), st.integers(1, 50), st.integers(1, 50))
def test_attempts_on_implausible_numbers_are_bounded(pauses, rate, burst):
    held, now, tried = window(), 0.0, 0
    limiter = FailureLimiter(held, rate, burst)
    for pause in pauses:
        now += pause
        tried += attempt(limiter, held, 2**40, now)
        assert tried <= burst + rate * now + 1


def test_what_verifies_costs_nothing_and_makes_what_follows_plausible():
    held = window()
    limiter = FailureLimiter(held, 1.0, 2.0)
    for number in range(2**30, 2**30 + 10 * 2**25, 2**25):
        assert attempt(limiter, held, number, 0.0, true=True), "ten true packets, each far ahead of the one before"
    assert attempt(limiter, held, 2**50, 0.0)
    assert attempt(limiter, held, 2**50, 0.0)
    assert not attempt(limiter, held, 2**50, 0.0), "two failures are all there is"
    assert not attempt(limiter, held, 2**50, 0.0, true=True), "the sender is lost in the flood"
    assert attempt(limiter, held, 2**50, 1.0, true=True), "until the bucket has something again"
    assert attempt(limiter, held, 2**50 + 1, 1.0), "and from then on it is plausible"


def test_nothing_is_refused_before_anything_has_verified():
    held = window(highest=0)
    limiter = FailureLimiter(held, 1.0, 1.0)
    assert all(attempt(limiter, held, 2**50 + n, 0.0) for n in range(100))


@pytest.mark.parametrize("now", [5.0, 4.0])
def test_a_clock_that_stands_still_or_goes_back_gives_nothing(now):
    held = window()
    limiter = FailureLimiter(held, 1.0, 2.0)
    assert attempt(limiter, held, 2**50, 5.0)
    assert attempt(limiter, held, 2**50, now)
    assert not attempt(limiter, held, 2**50, now)
    assert not attempt(limiter, held, 2**50, 5.5), "half a second after the first failure"


# --- at the egress NVE -----------------------------------------------------------------------


@pytest.fixture
def tried(monkeypatch: pytest.MonkeyPatch) -> Counter[bool]:
    """Count the tags that an end tries, by whether they verify."""
    counted: Counter[bool] = Counter()
    make = InboundAssociation.__init__

    class Counting:
        def __init__(self, aead) -> None:
            self._aead = aead

        def decrypt(self, *arguments: bytes) -> bytes:
            counted[False] += 1
            plain = self._aead.decrypt(*arguments)
            counted.update({False: -1, True: 1})
            return plain

    def counting(end: InboundAssociation, *arguments) -> None:
        make(end, *arguments)
        end.key = replace(end.key, aead=Counting(end.key.aead))

    monkeypatch.setattr(InboundAssociation, "__init__", counting)
    return counted


class Flood:
    """A true sender, and who forges its packets: all of one size, so that they may stand in one buffer."""

    def __init__(self, held: Association | None = None) -> None:
        held = held or next(item for item in node_state("nve2").inbound if item.sender == "nve1")
        self._end = OutboundAssociation(held, FULL, hard_limit=2**60)
        self._sealer = PacketSealer(100, self._end)
        self._random = random.Random(7)

    def true(self) -> bytes:
        self._seen = self._sealer.seal([Item(FRAME)])[0]
        return self._seen

    def forged(self, ahead: int | None = None) -> bytes:
        """A random tag, so many numbers ahead of the last true one; None for implausibly many."""
        ahead = self._random.randrange(2 * PLAUSIBLE_AHEAD, 2**60) if ahead is None else ahead
        number = (self._end.last_sequence + ahead).to_bytes(8, "big")
        return self._seen[:16] + number + self._random.randbytes(16) + self._seen[40:]

    def jump(self) -> None:
        """The true sender goes on implausibly far ahead."""
        self._end.last_sequence += 2 * PLAUSIBLE_AHEAD


def dataplane(merging: bool = False) -> Dataplane:
    node = Dataplane("nve2", bytes(32), merging=merging)
    node.apply(node_state("nve2"))
    return node


def put(node: Dataplane, packets: list[bytes], now: float, at_once: bool) -> int:
    """Return how many frames were delivered of packets that came one by one or in one buffer."""
    if at_once:
        received = [Received(b"".join(packets), HERE, 0, len(packets[0]))]
    else:
        received = [Received(packet, HERE) for packet in packets]
    return len(node.from_underlay(received, now))


@pytest.mark.parametrize("at_once", [False, True])
def test_a_flood_is_refused_without_aead_work_and_true_packets_pass(tried, at_once):
    node, flood, delivered = dataplane(), Flood(), 0
    delivered += put(node, [flood.true()], 1.0, at_once)
    for _ in range(50):
        delivered += put(node, [flood.true() if n in (3, 17) else flood.forged() for n in range(40)], 1.0, at_once)
    assert delivered == 101
    assert tried == {True: 101, False: BURST}
    assert node.drops == {
        DropReason.AUTHENTICATION_FAILED: BURST, DropReason.AUTHENTICATION_LIMITED: 50 * 38 - BURST,
    }  # fmt: skip


@pytest.mark.parametrize("at_once", [False, True])
def test_plausible_forgeries_are_all_tried_and_take_nothing_from_the_bucket(tried, at_once):
    node, flood = dataplane(), Flood()
    put(node, [flood.true()], 1.0, at_once)
    for _ in range(20):
        assert put(node, [flood.forged(ahead) for ahead in (1, 5000, PLAUSIBLE_AHEAD) * 10], 1.0, at_once) == 0
    assert node.drops == {DropReason.AUTHENTICATION_FAILED: 600}
    put(node, [flood.forged() for _ in range(BURST + 5)], 1.0, at_once)
    assert tried[False] == 600 + BURST


@pytest.mark.parametrize("at_once", [False, True])
def test_with_time_the_tags_of_implausible_packets_are_tried_again(tried, at_once):
    node, flood = dataplane(), Flood()
    put(node, [flood.true()], 1.0, at_once)
    for second in range(2, 5):
        put(node, [flood.forged(2 * PLAUSIBLE_AHEAD + n) for n in range(500)], second, at_once)
        assert tried[False] == BURST + (second - 2) * ATTEMPTS_PER_SECOND


def test_a_new_state_fills_no_bucket(tried):
    """Here the opener is made anew, since an association has come; the one that was flooded stays."""
    node, flood = dataplane(), Flood()
    put(node, [flood.true()], 1.0, False)
    put(node, [flood.forged() for _ in range(BURST)], 1.0, False)
    state = node_state("nve2")
    node.apply(state.model_copy(update={"inbound": (*state.inbound, association(1234))}), 1.0)
    assert put(node, [flood.forged()] * 5 + [flood.true()], 1.0, False) == 1
    assert tried[False] == BURST
    assert node.drops[DropReason.AUTHENTICATION_LIMITED] == 5


def test_each_association_has_a_bucket_of_its_own(tried):
    node, one = dataplane(), Flood()
    state, other = node_state("nve2"), association(1234)
    node.apply(state.model_copy(update={"inbound": (*state.inbound, other)}), 1.0)
    two = Flood(other)
    for flood in (one, two):
        put(node, [flood.true()], 1.0, False)
    put(node, [one.forged() for _ in range(BURST + 50)], 1.0, False)
    put(node, [two.forged() for _ in range(BURST + 50)], 1.0, False)
    assert tried[False] == 2 * BURST


def test_a_sender_that_jumps_far_ahead_loses_nothing_without_a_flood(tried):
    node, flood = dataplane(), Flood()
    put(node, [flood.true()], 1.0, False)
    for _ in range(3 * BURST):
        flood.jump()
        assert put(node, [flood.true() for _ in range(8)], 1.0, True) == 8
    assert not node.drops


def test_the_option_for_the_group_is_limited_by_the_groups_own_association(tried):
    """Where the egress NVE's tag leaves it out, a stranger can change it in a true packet as often as she likes."""
    made = profile(egress=Coverage(options=()), group=device(hidden_options=select(ONE)))
    held = associations(made, "group")
    opener = PacketOpener(InboundAssociation(item, made) for item in held if item.opens("nve2"))
    sealer = make_sealer(made, held)
    assert isinstance(opener.open(sealer.seal([Item(FRAME, OPTIONS)])[0], HERE, 1.0), Opened)
    packet = sealer.seal([Item(FRAME, OPTIONS)])[0]
    (group,) = [span for span in scan_options(packet, 8 + (packet[0] & 63) * 4) if span.type == GROUP_TYPE]
    forged = packet[: group.start + 8] + (2**40).to_bytes(8, "big") + packet[group.start + 16 :]
    results = Counter(opener.open(forged, HERE, 1.0) for _ in range(BURST + 7))
    assert results == {DropReason.AUTHENTICATION_FAILED: BURST, DropReason.AUTHENTICATION_LIMITED: 7}
    assert tried[False] == BURST
    assert isinstance(opener.open(packet, HERE, 1.0), Opened)
