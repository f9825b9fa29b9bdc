"""The netlink socket that tells of bridges, ports and MAC addresses (thin shell; fdb.py reads the messages)."""

from __future__ import annotations

import contextlib
import errno
import socket

from geneve.errors import ParseError
from nve import fdb
from nve.tap import LinkError

_RTMGRP_LINK, _RTMGRP_NEIGH = 0x1, 0x4
_SO_RCVBUFFORCE = 33
_RECEIVE_BUFFER = 1024 * 1024
_SIZE = 65536
_DUMP_TRIES = 5
_DUMP_SECONDS = 2.0


class BridgeWatch:
    """Subscribed to the kernel's events; LinkError when that is not possible."""

    def __init__(self) -> None:
        self._sequence = 0
        try:
            self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_NONBLOCK, 0)
        except OSError as error:
            raise LinkError(f"cannot watch the bridges through netlink ({error.strerror}).") from None
        try:
            with contextlib.suppress(OSError):  # more room, where it may be had
                self._socket.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _RECEIVE_BUFFER)
            self._socket.bind((0, _RTMGRP_LINK | _RTMGRP_NEIGH))
        except OSError as error:
            self._socket.close()
            raise LinkError(f"cannot watch the bridges through netlink ({error.strerror}).") from None

    def fileno(self) -> int:
        """Return the descriptor to wait on."""
        return self._socket.fileno()

    def read(self, limit: int) -> list[fdb.Event] | None:
        """Return the events of up to ``limit`` datagrams; None when some were lost and :meth:`dump` is needed."""
        events: list[fdb.Event] = []
        lost = False
        for _ in range(limit):
            try:
                events += [message.event for message in _receive(self._socket) if message.event is not None]
            except BlockingIOError:
                break
            except ParseError:
                lost = True
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    raise
                lost = True
        return None if lost else events

    def dump(self) -> list[fdb.Event]:
        """Return all ports and all MAC addresses behind bridges' ports, as events; LinkError when that fails.

        What has changed since is among the events that :meth:`read` returns next.
        """
        return [*self._ask(fdb.RTM_GETLINK), *self._ask(fdb.RTM_GETNEIGH)]

    def _ask(self, kind: int) -> list[fdb.Event]:
        reason = "it changed all the time"
        for _ in range(_DUMP_TRIES):
            self._sequence += 1
            # A socket of its own: answers do not mix with events, and a slow kernel does not stop the loop for good.
            with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0) as asking:
                asking.settimeout(_DUMP_SECONDS)
                try:
                    asking.sendto(fdb.build_dump_request(kind, self._sequence), (0, 0))
                    events = _collect(asking, self._sequence)
                except (OSError, ParseError) as error:
                    reason = str(error)
                    continue
            if events is not None:
                return events
        raise LinkError(f"the kernel does not tell the state of the bridges: {reason}.")

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()


def _receive(source: socket.socket) -> list[fdb.Message]:
    data, (sender, _) = source.recvfrom(_SIZE)
    return fdb.parse_messages(data) if sender == 0 else []  # only the kernel is believed


def _collect(source: socket.socket, sequence: int) -> list[fdb.Event] | None:
    """Return the events of one dump; None when it was disturbed and has to be asked for again."""
    events: list[fdb.Event] = []
    interrupted = False
    while True:
        for message in _receive(source):
            if message.sequence != sequence:
                continue
            interrupted = interrupted or message.interrupted
            if isinstance(message.event, fdb.DumpEnd):
                if message.event.error:
                    raise OSError(message.event.error, "the request was refused")
                return None if interrupted else events
            if message.event is not None:
                events.append(message.event)
