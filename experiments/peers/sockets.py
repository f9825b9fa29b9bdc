"""Receive buffers of programs that are not ours (thin shell).

How much a socket may hold decides how long a burst a program survives, and each program asks for another size. The
comparison is to be about their data paths, so all get the same.
"""

from __future__ import annotations

import ctypes
import os
import socket
import stat

RECEIVE_BUFFER = 4 * 1024 * 1024
"""Bytes, the size that the NVE asks for itself."""

_SO_RCVBUFFORCE = 33
_PIDFD_GETFD = 438
_libc = ctypes.CDLL(None, use_errno=True)


def widen_receive_buffers(pid: int) -> int:
    """Set the receive buffer of each datagram or packet socket of a process; return how many there were."""
    found = 0
    handle = os.pidfd_open(pid)
    try:
        for name in os.listdir(f"/proc/{pid}/fd"):
            try:
                if not stat.S_ISSOCK(os.stat(f"/proc/{pid}/fd/{name}").st_mode):
                    continue
            except FileNotFoundError:  # closed meanwhile
                continue
            copy = _libc.syscall(_PIDFD_GETFD, handle, int(name), 0)
            if copy >= 0:
                found += _widen(copy)
    finally:
        os.close(handle)
    return found


def _widen(descriptor: int) -> bool:
    with socket.socket(fileno=descriptor) as copy:
        wanted = (
            copy.family in (socket.AF_INET, socket.AF_INET6) and copy.type == socket.SOCK_DGRAM
        ) or copy.family == socket.AF_PACKET
        if wanted:
            copy.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, RECEIVE_BUFFER)
    return wanted
