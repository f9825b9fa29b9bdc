"""Telemetry export: how a device's records reach the collector authenticated, confidential and once.

    version 1 B | name length 1 B | device name | instance 16 B | sequence 8 B | ciphertext | tag 16 B

One key for each device. A process of a device draws a random ``instance``; the AES-128-GCM key is derived from
the device's key and the instance (HKDF, RFC 5869, with SHA-256), so that sequence numbers, which are the nonces,
may begin at 1 in every process. Everything in front of the ciphertext is associated data.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from enum import Enum
from typing import NamedTuple

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from geneve.errors import ParseError
from geneve.security.replay import ReplayWindow

VERSION = 1
DEVICE_KEY_SIZE = 32
INSTANCE_SIZE = 16
MAX_NAME_SIZE = 32
SEQUENCE_LIMIT = 1 << 48
"""Datagrams of one instance, after which sealing refuses."""
MAX_INSTANCES = 1024
"""Instances of one device that an opener remembers; further ones are refused, since forgetting allows replays."""

_INFO = b"geneve-testbed telemetry export 1"
_AEAD_KEY_SIZE = 16
_TAG_SIZE = 16
_FIXED_SIZE = 2 + INSTANCE_SIZE + 8


class Refusal(str, Enum):
    """Why the records of a datagram were not accepted; the values stand in the collector's counters."""

    MALFORMED = "malformed"
    """Not a datagram of this format, or what was sealed in it is no sound array of records."""
    UNKNOWN_DEVICE = "unknown_device"
    """No key for the device named."""
    AUTHENTICATION_FAILED = "authentication_failed"
    """The tag does not verify under the key of the device named."""
    REPLAYED = "replayed"
    """The datagram was accepted before, or is too old to tell."""
    TOO_MANY_INSTANCES = "too_many_instances"
    """The device restarted more often than is remembered; restart the collector with new keys."""
    WRONG_DEVICE = "wrong_device"
    """A record names another device than the one that sealed it."""


class Opened(NamedTuple):
    """The device that sealed a datagram, and what it sealed."""

    device: str
    payload: bytes


class Envelope(NamedTuple):
    """A datagram taken apart, nothing of it verified."""

    name: bytes
    instance: bytes
    sequence: int
    associated_data: bytes
    ciphertext: bytes


def overhead(device: str) -> int:
    """Return the bytes that sealing adds to the records of ``device``."""
    return _FIXED_SIZE + len(device.encode()) + _TAG_SIZE


def _aead(device_key: bytes, name: bytes, instance: bytes) -> AESGCM:
    hkdf = HKDF(algorithm=SHA256(), length=_AEAD_KEY_SIZE, salt=instance, info=_INFO + name)
    return AESGCM(hkdf.derive(device_key))


def _nonce(sequence: int) -> bytes:
    return bytes(4) + struct.pack("!Q", sequence)


class ExportSealer:
    """Seals the datagrams of one process of a device; ``instance`` is random and never used twice."""

    def __init__(self, device: str, key: bytes, instance: bytes) -> None:
        name = device.encode()
        if len(key) != DEVICE_KEY_SIZE or len(instance) != INSTANCE_SIZE or not 1 <= len(name) <= MAX_NAME_SIZE:
            raise ValueError("a key of 32 bytes, an instance of 16 and a name of 1 to 32 bytes are needed")
        self.overhead = overhead(device)
        self._head = bytes((VERSION, len(name))) + name + instance
        self._aead = _aead(key, name, instance)
        self._sequence = 0

    def seal(self, payload: bytes) -> bytes:
        """Return the datagram; OverflowError at :data:`SEQUENCE_LIMIT`. Each call uses a number up."""
        if self._sequence >= SEQUENCE_LIMIT:
            raise OverflowError("this instance has sealed all it may; restart the process")
        self._sequence += 1
        head = self._head + struct.pack("!Q", self._sequence)
        return head + self._aead.encrypt(_nonce(self._sequence), payload, head)


def parse_envelope(datagram: bytes) -> Envelope:
    """Take a datagram apart; ParseError unless it has all parts."""
    if len(datagram) < 2 or datagram[0] != VERSION or not 1 <= datagram[1] <= MAX_NAME_SIZE:
        raise ParseError("no telemetry export datagram of version 1")
    name_end = 2 + datagram[1]
    head = name_end + INSTANCE_SIZE + 8
    if len(datagram) < head + _TAG_SIZE:
        raise ParseError("a telemetry export datagram shorter than its parts")
    (sequence,) = struct.unpack_from("!Q", datagram, head - 8)
    return Envelope(
        datagram[2:name_end], datagram[name_end : head - 8], sequence, datagram[:head], datagram[head:]
    )


class ExportOpener:
    """Opens datagrams of the devices in ``keys`` (name to 32 bytes), each datagram once.

    Remembers something only of what has verified: a sender without a key can fill no memory.
    """

    def __init__(self, keys: Mapping[str, bytes], max_instances: int = MAX_INSTANCES) -> None:
        if any(len(key) != DEVICE_KEY_SIZE for key in keys.values()):
            raise ValueError("a device's key has 32 bytes")
        self._keys = {device.encode(): (device, key) for device, key in keys.items()}
        self._max_instances = max_instances
        self._known: dict[bytes, dict[bytes, tuple[AESGCM, ReplayWindow]]] = {name: {} for name in self._keys}

    def open(self, datagram: bytes) -> Opened | Refusal:
        """Return what was sealed and by whom, or why it is refused; refused datagrams change nothing."""
        try:
            envelope = parse_envelope(datagram)
        except ParseError:
            return Refusal.MALFORMED
        if envelope.name not in self._keys:
            return Refusal.UNKNOWN_DEVICE
        device, key = self._keys[envelope.name]
        known = self._known[envelope.name]
        held = known.get(envelope.instance)
        aead, window = held or (_aead(key, envelope.name, envelope.instance), ReplayWindow())
        if window.check(envelope.sequence) is not None:
            return Refusal.REPLAYED
        try:
            payload = aead.decrypt(_nonce(envelope.sequence), envelope.ciphertext, envelope.associated_data)
        except InvalidTag:
            return Refusal.AUTHENTICATION_FAILED
        if held is None:
            if len(known) >= self._max_instances:
                return Refusal.TOO_MANY_INSTANCES
            known[envelope.instance] = (aead, window)
        window.commit(envelope.sequence)
        return Opened(device, payload)
