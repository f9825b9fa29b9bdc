"""A sandbox for a whole run: network, mount, process and IPC namespaces of its own.

``python -m topologies.sandbox -- PROGRAM ARGUMENTS...`` runs a program inside; a program of ours calls
:func:`enter` to run itself again inside. Nothing in there can reach the host's interfaces or processes,
several sandboxes run side by side, and nothing outlives the runner, kill -9 included:

    caller (make, a shell)
      supervisor    host's namespaces; told to die by the kernel when the caller dies
        init        process 1 of the sandbox; told to die by the kernel when the supervisor dies
          program   dies with process 1, as everything in a process namespace does

With the last process the kernel removes the namespaces, every interface, and the private /run, where
keys, sockets and Open vSwitch's files live. The terminal stays usable: all three processes are in the
caller's process group, so Ctrl-C reaches the program directly.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import os
import select
import signal
import socket
import struct
import sys
import time
from collections.abc import Sequence
from typing import NoReturn

from geneve.errors import ConfigError

_CLONE_NEWNS = 0x00020000
_CLONE_NEWIPC = 0x08000000
_CLONE_NEWPID = 0x20000000
_CLONE_NEWNET = 0x40000000
_MS_NOSUID, _MS_NODEV, _MS_NOEXEC, _MS_REC, _MS_PRIVATE = 0x2, 0x4, 0x8, 0x4000, 0x40000
_PR_SET_PDEATHSIG = 1

_MARK = "TESTBED_SANDBOX"
"""Environment variable that holds the sandbox's network namespace, for :func:`inside`."""

_GRACE_SECONDS = 20.0
"""Time a program has for its own clean-up after SIGTERM before the sandbox is closed over it."""

_FORWARDED = (signal.SIGTERM, signal.SIGHUP, signal.SIGINT, signal.SIGQUIT)
_WATCHED = {*_FORWARDED, signal.SIGCHLD}
_SI_USER = 0
"""``si_code`` of a signal that a process sent with kill(); the terminal's signals have another."""

_libc = ctypes.CDLL(None, use_errno=True)


def _call(what: str, result: int) -> None:
    if result != 0:
        raise OSError(ctypes.get_errno(), f"{what}: {os.strerror(ctypes.get_errno())}")


def _mount(source: str, target: str, kind: str, flags: int, data: str = "") -> None:
    arguments = (source.encode(), target.encode(), kind.encode(), ctypes.c_ulong(flags), data.encode())
    _call(f"mount {target}", _libc.mount(*arguments))


def _network_namespace(process: str = "self") -> str:
    return os.readlink(f"/proc/{process}/ns/net")


def inside() -> bool:
    """Tell whether this process runs in a sandbox, in the sandbox's own network namespace.

    False in a node of the emulated network; :func:`within` is right there too.
    """
    return os.environ.get(_MARK) == _network_namespace()


def within() -> bool:
    """Tell whether this process belongs to a sandbox, whatever node's network namespace it is in.

    Process 1 of a sandbox stays in the network namespace that the mark names; outside, an inherited
    mark names a namespace in which process 1 is not, or process 1 may not be looked at.
    """
    mark = os.environ.get(_MARK)
    try:
        return mark is not None and mark == _network_namespace("1")
    except OSError:
        return False


def enter(argv: Sequence[str]) -> NoReturn:
    """Run ``argv`` (program and arguments) in a new sandbox, then exit with its exit code.

    128 + N is the code when signal N ended it. ConfigError when this is not possible, without root
    for one.
    """
    if os.geteuid() != 0:
        raise ConfigError("root is needed for the emulated network; run this again as root or with sudo.")
    sys.stdout.flush()
    sys.stderr.flush()
    _die_with_parent()
    signal.pthread_sigmask(signal.SIG_BLOCK, _WATCHED)
    try:
        _call("unshare", _libc.unshare(_CLONE_NEWNS | _CLONE_NEWIPC | _CLONE_NEWPID | _CLONE_NEWNET))
    except OSError as error:
        raise ConfigError(
            f"the kernel refused namespaces of our own ({error.strerror}); a container needs --privileged."
        ) from None
    alive, held = os.pipe()  # `held` stays with the supervisor: when it dies, `alive` reads end of file
    init = os.fork()
    if init == 0:
        os.close(held)
        os._exit(_init(list(argv), alive))
    os.close(alive)
    os._exit(_wait_for(init, grace=2 * _GRACE_SECONDS))


def _die_with_parent() -> None:
    parent = os.getppid()
    _call("prctl", _libc.prctl(_PR_SET_PDEATHSIG, ctypes.c_ulong(signal.SIGKILL), 0, 0, 0))
    if os.getppid() != parent:  # it died before the kernel knew that we want to be told
        os.kill(os.getpid(), signal.SIGKILL)


def _init(argv: list[str], alive: int) -> int:
    """Be process 1: prepare the namespaces, start the program, reap, pass signals on."""
    try:
        _call("prctl", _libc.prctl(_PR_SET_PDEATHSIG, ctypes.c_ulong(signal.SIGKILL), 0, 0, 0))
        if select.select([alive], [], [], 0)[0]:
            return 128 + signal.SIGKILL
        _prepare()
        program = os.fork()
        if program == 0:
            _execute(argv)
        return _wait_for(program, grace=_GRACE_SECONDS)
    except OSError as error:
        print(f"sandbox: could not be set up ({error}).", file=sys.stderr, flush=True)
        return 1


def _prepare() -> None:
    _mount("none", "/", "none", _MS_REC | _MS_PRIVATE)  # nothing mounted here shows on the host
    _mount("proc", "/proc", "proc", _MS_NOSUID | _MS_NODEV | _MS_NOEXEC)
    with contextlib.suppress(OSError):  # /sys/class/net of our own namespace; some containers forbid it
        _mount("sysfs", "/sys", "sysfs", _MS_NOSUID | _MS_NODEV | _MS_NOEXEC)
    _mount("tmpfs", "/run", "tmpfs", _MS_NOSUID | _MS_NODEV, "mode=0755")
    os.environ[_MARK] = _network_namespace()
    # The switches' ports live in this namespace: no IPv6 of their own, or stray router solicitations
    # and multicast reports would appear on the emulated links.
    for scope in ("all", "default"):
        with contextlib.suppress(OSError), open(f"/proc/sys/net/ipv6/conf/{scope}/disable_ipv6", "w") as file:
            file.write("1")
    _loopback_up()


def _loopback_up() -> None:
    siocgifflags, siocsifflags, iff_up = 0x8913, 0x8914, 0x1
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        request = struct.pack("16sH14x", b"lo", 0)
        flags = struct.unpack_from("H", fcntl.ioctl(control, siocgifflags, request), 16)[0]
        fcntl.ioctl(control, siocsifflags, struct.pack("16sH14x", b"lo", flags | iff_up))


def _execute(argv: list[str]) -> NoReturn:
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _WATCHED)
    try:
        os.execvp(argv[0], argv)
    except OSError as error:
        print(f"sandbox: {argv[0]}: cannot be started ({error.strerror}).", file=sys.stderr, flush=True)
        os._exit(127)


def _wait_for(child: int, grace: float) -> int:
    """Wait for ``child``, reap everybody else, pass signals on; returns the exit code for the caller."""
    deadline: float | None = None
    while True:
        status = _reap(child)
        if status is not None:
            code = os.waitstatus_to_exitcode(status)
            return 128 - code if code < 0 else code
        if deadline is None:
            received: signal.struct_siginfo | None = signal.sigwaitinfo(_WATCHED)
        else:
            received = signal.sigtimedwait(_WATCHED, max(0.0, deadline - time.monotonic()))
        if received is None:
            os.kill(child, signal.SIGKILL)
        elif received.si_signo != signal.SIGCHLD and received.si_code <= _SI_USER:
            # What the terminal sends goes to the whole process group, the program included.
            os.kill(child, received.si_signo)
            if received.si_signo == signal.SIGTERM and deadline is None:
                deadline = time.monotonic() + grace


def _reap(child: int) -> int | None:
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return None
        if pid == 0:
            return None
        if pid == child:
            return status


def exit_on_sigterm() -> None:
    """Let SIGTERM end this program through its ``finally`` clauses, with exit code 143."""

    def stop(_number: int, _frame: object) -> None:
        raise SystemExit(128 + signal.SIGTERM)

    signal.signal(signal.SIGTERM, stop)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command after ``--`` in a sandbox."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if arguments[:1] == ["--"]:
        arguments = arguments[1:]
    if not arguments:
        print("usage: python -m topologies.sandbox -- PROGRAM [ARGUMENT...]", file=sys.stderr)
        return 2
    try:
        enter(arguments)
    except ConfigError as error:
        print(f"sandbox: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    raise SystemExit(main())
