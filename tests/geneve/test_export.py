"""Telemetry export: only a device's own key makes a datagram of it, and every datagram counts once."""

from __future__ import annotations

import struct

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from hypothesis import given
from hypothesis import strategies as st

from geneve.errors import ParseError
from geneve.export import SEQUENCE_LIMIT, ExportOpener, ExportSealer, Opened, Refusal, overhead, parse_envelope

KEYS = {"t1": bytes(range(32)), "t2": bytes(range(32, 64))}
INSTANCE = bytes(range(100, 116))


def sealer(device: str = "t1", key: bytes | None = None, instance: bytes = INSTANCE) -> ExportSealer:
    return ExportSealer(device, KEYS[device] if key is None else key, instance)


def memory(opener: ExportOpener) -> int:
    return sum(len(known) for known in opener._known.values())


def test_the_bytes_are_those_of_the_document() -> None:
    datagram = sealer().seal(b"[]")
    head = b"\x01" + b"\x02t1" + INSTANCE + struct.pack("!Q", 1)
    info = b"geneve-testbed telemetry export 1t1"
    key = HKDF(algorithm=SHA256(), length=16, salt=INSTANCE, info=info).derive(KEYS["t1"])
    assert datagram == head + AESGCM(key).encrypt(bytes(11) + b"\x01", b"[]", head)
    assert len(datagram) == overhead("t1") + 2 == sealer().overhead + 2


def test_opens_each_datagram_once_and_in_any_order() -> None:
    opener, device = ExportOpener(KEYS), sealer()
    datagrams = [device.seal(b"%d" % number) for number in range(3)]
    for number in (2, 0, 1):
        assert opener.open(datagrams[number]) == Opened("t1", b"%d" % number)
    assert [opener.open(datagram) for datagram in datagrams] == [Refusal.REPLAYED] * 3


def test_what_is_too_old_to_tell_is_refused() -> None:
    opener, device = ExportOpener(KEYS), sealer()
    first, *others = [device.seal(b"") for _ in range(1100)]
    opener.open(others[-1])
    assert opener.open(first) is Refusal.REPLAYED


@given(st.integers(0, 200), st.integers(1, 255))
def test_no_changed_byte_passes_or_is_remembered(place: int, change: int) -> None:
    opener, datagram = ExportOpener(KEYS), bytearray(sealer().seal(b"[1,2,3]" * 4))
    datagram[place % len(datagram)] ^= change
    assert isinstance(opener.open(bytes(datagram)), Refusal)
    assert memory(opener) == 0


@given(st.binary(max_size=120), st.booleans())
def test_any_bytes_are_refused(data: bytes, versioned: bool) -> None:
    data = b"\x01\x02t1" + data if versioned else data
    opener = ExportOpener(KEYS)
    assert isinstance(opener.open(data), Refusal)
    assert memory(opener) == 0
    try:
        parse_envelope(data)
    except ParseError:
        assert opener.open(data) is Refusal.MALFORMED


def test_every_cut_is_refused() -> None:
    datagram = sealer().seal(b"[]")
    assert all(isinstance(ExportOpener(KEYS).open(datagram[:size]), Refusal) for size in range(len(datagram)))
    assert ExportOpener(KEYS).open(datagram[: overhead("t1") - 1]) is Refusal.MALFORMED


def test_a_device_cannot_speak_for_another() -> None:
    opener = ExportOpener(KEYS)
    assert opener.open(sealer("t2", KEYS["t1"]).seal(b"[]")) is Refusal.AUTHENTICATION_FAILED
    assert opener.open(ExportSealer("t3", KEYS["t1"], INSTANCE).seal(b"[]")) is Refusal.UNKNOWN_DEVICE
    shared = ExportOpener({"t1": bytes(32), "t2": bytes(32)})
    as_t2 = bytearray(ExportSealer("t1", bytes(32), INSTANCE).seal(b"[]"))
    as_t2[3:4] = b"2"
    assert shared.open(bytes(as_t2)) is Refusal.AUTHENTICATION_FAILED, "the name is bound even if keys are not unique"


def test_a_forged_number_does_not_move_the_window() -> None:
    opener, device = ExportOpener(KEYS), sealer()
    opener.open(device.seal(b"a"))
    forged = bytearray(device.seal(b"b"))
    forged[4 + 16 : 4 + 24] = struct.pack("!Q", 2**63)
    assert opener.open(bytes(forged)) is Refusal.AUTHENTICATION_FAILED
    assert opener.open(device.seal(b"c")) == Opened("t1", b"c")


def test_a_restarted_device_begins_again_and_its_old_datagrams_stay_replays() -> None:
    opener, before, after = ExportOpener(KEYS), sealer(), sealer(instance=bytes(16))
    old = before.seal(b"old")
    assert opener.open(old) == Opened("t1", b"old")
    assert opener.open(after.seal(b"new")) == Opened("t1", b"new")
    assert opener.open(old) is Refusal.REPLAYED


def test_instances_are_bounded_for_each_device_and_none_is_forgotten() -> None:
    opener = ExportOpener(KEYS, max_instances=2)
    datagrams = [sealer(instance=bytes([number]) * 16).seal(b"") for number in range(3)]
    assert [opener.open(datagram) for datagram in datagrams] == [
        Opened("t1", b""), Opened("t1", b""), Refusal.TOO_MANY_INSTANCES,
    ]  # fmt: skip
    assert [opener.open(datagram) for datagram in datagrams[:2]] == [Refusal.REPLAYED] * 2
    assert opener.open(sealer("t2").seal(b"")) == Opened("t2", b"")


def test_numbers_run_out_and_do_not_repeat() -> None:
    device = sealer()
    device._sequence = SEQUENCE_LIMIT - 1
    device.seal(b"")
    with pytest.raises(OverflowError):
        device.seal(b"")


@pytest.mark.parametrize(
    ("device", "key", "instance"),
    [
        ("t1", bytes(31), INSTANCE), ("t1", bytes(32), bytes(8)), ("", bytes(32), INSTANCE),
        ("x" * 33, bytes(32), INSTANCE),
    ],
)  # fmt: skip
def test_sizes_are_checked(device: str, key: bytes, instance: bytes) -> None:
    with pytest.raises(ValueError, match="32 bytes"):
        ExportSealer(device, key, instance)
