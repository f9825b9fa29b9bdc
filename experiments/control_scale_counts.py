"""What crosses the connections of simulated nodes: bytes and frames, inside TLS and outside."""

from __future__ import annotations

import contextlib
import socket
import ssl
import struct
from dataclasses import dataclass
from typing import Any

from experiments.control_scale_deployment import ADDRESS

_LENGTH = struct.Struct("!I")


@dataclass(slots=True)
class Counts:
    """What crossed the connections of all nodes of this process since its start; ``sent`` is towards the NVA."""

    received_tls: int = 0
    sent_tls: int = 0
    received_json: int = 0
    sent_json: int = 0
    received_messages: int = 0
    sent_messages: int = 0
    pushes: int = 0
    disconnections: int = 0
    whole_pushes: int = 0
    whole_push_seconds: float = 0.0
    light_push_seconds: float = 0.0

    def as_dict(self) -> dict[str, float]:
        """Return all fields."""
        return {name: getattr(self, name) for name in self.__slots__}


class FrameCount:
    """Counts the frames of a stream: 4 bytes of length before each."""

    def __init__(self) -> None:
        self._left, self._head = 0, b""

    def feed(self, data: bytes) -> int:
        """Take the next bytes of the stream and return how many frames start in them."""
        place, frames = 0, 0
        while place < len(data):
            if self._left:
                step = min(self._left, len(data) - place)
                self._left -= step
                place += step
                continue
            take = data[place : place + _LENGTH.size - len(self._head)]
            self._head += take
            place += len(take)
            if len(self._head) == _LENGTH.size:
                (self._left,) = _LENGTH.unpack(self._head)
                self._head = b""
                frames += 1
        return frames


def counting_tls(counts: Counts) -> type[ssl.SSLObject]:
    """Return a class for one node's TLS connections that counts what they carry."""
    received, sent = FrameCount(), FrameCount()

    class CountingTls(ssl.SSLObject):
        """Counts bytes and frames inside TLS."""

        def read(self, size: int = 1024, buffer: Any = None) -> Any:
            data = super().read(size, buffer)
            counts.received_json += len(data)
            counts.received_messages += received.feed(data)
            return data

        def write(self, data: Any) -> int:
            written = super().write(data)
            counts.sent_json += written
            counts.sent_messages += sent.feed(bytes(data[:written]))
            return written

        def do_handshake(self) -> None:
            nonlocal received, sent
            received, sent = FrameCount(), FrameCount()
            super().do_handshake()

    return CountingTls


class CountingSocket:
    """A non-blocking connection to the NVA that counts the bytes on it."""

    def __init__(self, source: str, port: int, counts: Counts) -> None:
        self._counts = counts
        self._socket = socket.socket()
        try:
            self._socket.setblocking(False)
            self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._socket.bind((source, 0))
            with contextlib.suppress(BlockingIOError):
                self._socket.connect((ADDRESS, port))
        except OSError:
            self._socket.close()
            raise

    def fileno(self) -> int:
        return self._socket.fileno()

    def recv(self, size: int, /) -> bytes:
        data = self._socket.recv(size)
        self._counts.received_tls += len(data)
        return data

    def send(self, data: bytes, /) -> int:
        sent = self._socket.send(data)
        self._counts.sent_tls += sent
        return sent

    def close(self) -> None:
        self._socket.close()
