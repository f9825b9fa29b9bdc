"""Reading rtnetlink: what a bridge's forwarding database and its ports' states come in."""

from __future__ import annotations

import contextlib
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from geneve.errors import ParseError
from nve import fdb
from nve.fdb import DumpEnd, MacGone, MacSeen, PortGone, PortSeen, parse_messages

MAC = bytes.fromhex("020000000077")
BRIDGE, PORT = 3, 5


def attribute(kind: int, data: bytes) -> bytes:
    return struct.pack("=HH", 4 + len(data), kind) + data + bytes(-len(data) % 4)


def message(kind: int, body: bytes, flags: int = 0, sequence: int = 0) -> bytes:
    return struct.pack("=IHHII", 16 + len(body), kind, flags, sequence, 0) + body


def index(number: int) -> bytes:
    return struct.pack("=I", number)


def neighbour(
    kind: int = fdb.RTM_NEWNEIGH, family: int = fdb.AF_BRIDGE, state: int = 0x02, flags: int = 0, extra: bytes = b"",
    attributes: bytes | None = None,
) -> bytes:  # fmt: skip
    standard = attribute(2, MAC) + attribute(9, index(BRIDGE)) + attribute(5, struct.pack("=H", 1))
    head = struct.pack("=BxxxiHBB", family, PORT, state, flags, 0)
    return message(kind, head + (standard if attributes is None else attributes) + extra)


def link(kind: int = fdb.RTM_NEWLINK, flags: int = 0x41, master: int | None = BRIDGE, family: int = 0) -> bytes:
    body = struct.pack("=BxHiII", family, 1, PORT, flags, 0) + attribute(3, b"red1\0")
    return message(kind, body + (attribute(10, index(master)) if master is not None else b""))


def events(data: bytes) -> list[object]:
    return [item.event for item in parse_messages(data)]


@pytest.mark.parametrize(
    ("data", "event"),
    [
        (neighbour(), MacSeen(BRIDGE, PORT, MAC)),
        (neighbour(fdb.RTM_DELNEIGH), MacGone(BRIDGE, PORT, MAC)),
        (neighbour(state=0x40), MacSeen(BRIDGE, PORT, MAC)),
        (neighbour(state=0x80), None),
        (neighbour(flags=0x02), None),
        (neighbour(family=2), None),
        (neighbour(attributes=attribute(2, MAC)), None),
        (neighbour(attributes=attribute(2, MAC[:4]) + attribute(9, index(BRIDGE))), None),
        (link(), PortSeen(PORT, "red1", BRIDGE, True)),
        (link(flags=0x01), PortSeen(PORT, "red1", BRIDGE, False)),
        (link(flags=0x40), PortSeen(PORT, "red1", BRIDGE, False)),
        (link(master=None), PortSeen(PORT, "red1", 0, True)),
        (link(fdb.RTM_DELLINK), PortGone(PORT)),
        (link(fdb.RTM_DELLINK, family=fdb.AF_BRIDGE), PortGone(PORT)),
        (message(fdb.NLMSG_DONE, struct.pack("=i", 0)), DumpEnd(0)),
        (message(fdb.NLMSG_DONE, b""), DumpEnd(0)),
        (message(fdb.NLMSG_ERROR, struct.pack("=i", -1) + bytes(16)), DumpEnd(1)),
        (message(1, b""), None),
    ],
)
def test_each_kind_of_message(data, event):
    assert events(data) == [event]


def test_a_datagram_holds_several_messages_each_padded_to_four_bytes():
    name = struct.pack("=BxHiII", 0, 1, 9, 0x41, 0) + struct.pack("=HH", 9, 3) + b"blue\0"
    odd = message(fdb.RTM_NEWLINK, name)
    assert len(odd) % 4
    assert events(odd + bytes(-len(odd) % 4) + neighbour()) == [
        PortSeen(9, "blue", 0, True),
        MacSeen(BRIDGE, PORT, MAC),
    ]


def test_a_disturbed_dump_is_told_with_the_request_that_it_answers():
    (item,) = parse_messages(message(fdb.NLMSG_DONE, struct.pack("=i", 0), fdb.NLM_F_DUMP_INTR, sequence=7))
    assert (item.sequence, item.interrupted) == (7, True)


@pytest.mark.parametrize(
    "data",
    [
        bytes(15),
        struct.pack("=IHHII", 15, fdb.RTM_NEWNEIGH, 0, 0, 0),
        struct.pack("=IHHII", 17, fdb.RTM_NEWNEIGH, 0, 0, 0),
        struct.pack("=IHHII", 0, fdb.RTM_NEWNEIGH, 0, 0, 0),
        message(fdb.RTM_NEWNEIGH, bytes(11)),
        message(fdb.RTM_NEWLINK, bytes(15)),
        message(fdb.RTM_DELLINK, bytes(15)),
        neighbour(extra=bytes(3)),
        neighbour(extra=struct.pack("=HH", 3, 2)),
        neighbour(extra=struct.pack("=HH", 0, 2)),
        neighbour(extra=struct.pack("=HH", 9, 2) + bytes(4)),
        neighbour(attributes=attribute(2, MAC) + attribute(9, bytes(2))),
        neighbour() + bytes(2),
    ],
)
def test_lengths_that_do_not_fit_are_refused(data):
    with pytest.raises(ParseError):
        parse_messages(data)


@given(st.lists(st.sampled_from([neighbour(), neighbour(fdb.RTM_DELNEIGH), link()]), min_size=1), st.data())
def test_damaged_messages_raise_nothing_else(messages, data):
    damaged = bytearray(b"".join(messages))
    for _ in range(data.draw(st.integers(1, 4))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    for candidate in (bytes(damaged), bytes(damaged[: data.draw(st.integers(0, len(damaged)))])):
        with contextlib.suppress(ParseError):
            parse_messages(candidate)


def test_requests_say_what_they_ask_for():
    links, entries = (fdb.build_dump_request(kind, 9) for kind in (fdb.RTM_GETLINK, fdb.RTM_GETNEIGH))
    assert struct.unpack("=IHHII", links[:16]) == (32, 18, 0x301, 9, 0)
    assert struct.unpack("=IHHII", entries[:16]) == (28, 30, 0x301, 9, 0)
    assert entries[16] == fdb.AF_BRIDGE
