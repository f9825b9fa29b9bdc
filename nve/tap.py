"""TAP interfaces and the bridges that join them with local tenants' ports (thin shell)."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import struct
import subprocess
from collections.abc import Iterable

from geneve.offloads import OFF, ON, NveOffloads, OffloadStates, unavailable
from geneve.vnet import GSO_NONE, NEEDS_CHECKSUM, PLAIN_BYTES, VNET_HEADER_SIZE, parse_vnet
from nve.segmentation import Frame, OffloadedFrame

TUNSETIFF = 0x400454CA
TUNSETOFFLOAD = 0x400454D0
IFF_TAP = 0x0002
IFF_NO_PI = 0x1000
IFF_VNET_HDR = 0x4000
TUN_F_CSUM, TUN_F_TSO4, TUN_F_TSO6, TUN_F_TSO_ECN, TUN_F_USO4, TUN_F_USO6 = 0x01, 0x02, 0x04, 0x08, 0x20, 0x40
_TSO = TUN_F_CSUM | TUN_F_TSO4 | TUN_F_TSO6 | TUN_F_TSO_ECN
_USO = TUN_F_CSUM | TUN_F_USO4 | TUN_F_USO6

_MAX_FRAME = 65_535 + 64
"""Bytes of the largest frame: what segmentation offload leaves whole, with Ethernet header and VLAN tags."""

READ_BYTES = 192 * 1024
"""Bytes after which others get their turn. A tenant's 64 KiB leave some packets over when they are put into datagrams
of 64 KiB with all their headers; several of them in a row leave fewer."""


class LinkError(Exception):
    """An interface could not be made or changed; the text names it and what the kernel said."""


def ip(*arguments: str) -> str:
    """Run ``ip`` and return what it prints; LinkError with its message when it fails."""
    done = subprocess.run(["ip", *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        raise LinkError(f"'ip {' '.join(arguments)}' failed: {done.stderr.strip()}.")
    return done.stdout


class Tap:
    """A TAP interface of this process; the kernel removes it when it is closed.

    With any of the ``offloads`` that concern it, frames carry a virtio header; ``states`` says what became of them.
    """

    def __init__(self, name: str, offloads: NveOffloads) -> None:
        self.name = name
        self._buffer = bytearray(_MAX_FRAME)
        self._view = memoryview(self._buffer)
        self._head = bytearray(VNET_HEADER_SIZE)
        self._vnet = offloads.tso or offloads.uso or offloads.merge
        try:
            self.fd = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
        except OSError as error:
            raise LinkError(
                f"cannot open /dev/net/tun ({error.strerror}); the tun module and root are needed."
            ) from None
        try:
            flags = IFF_TAP | IFF_NO_PI | (IFF_VNET_HDR if self._vnet else 0)
            fcntl.ioctl(self.fd, TUNSETIFF, struct.pack("16sH22x", name.encode(), flags))
        except OSError as error:
            os.close(self.fd)
            raise LinkError(f"cannot make the TAP interface {name} ({error.strerror}).") from None
        self.states = self._negotiate(offloads)

    def _negotiate(self, offloads: NveOffloads) -> OffloadStates:
        """Ask the kernel to leave segmentation to us, as far as it can."""
        states: OffloadStates = {"merge": ON if offloads.merge else OFF}
        accepted = 0
        for name, wanted, bits in (("tso", offloads.tso, _TSO), ("uso", offloads.uso, _USO)):
            states[name] = OFF
            if not wanted:
                continue
            try:
                fcntl.ioctl(self.fd, TUNSETOFFLOAD, accepted | bits)
                accepted |= bits
                states[name] = ON
            except OSError as error:
                states[name] = unavailable(f"TUNSETOFFLOAD: {error.strerror}")
        if self._vnet:
            # The last word counts: a refused one may have changed nothing, or something.
            fcntl.ioctl(self.fd, TUNSETOFFLOAD, accepted)
        return states

    def set_mtu(self, mtu: int) -> None:
        """Set the MTU in bytes."""
        ip("link", "set", self.name, "mtu", str(mtu))

    def read(self, limit: int) -> list[Frame]:
        """Return up to ``limit`` frames that wait, some :data:`READ_BYTES`; LinkError when the interface is gone."""
        frames: list[Frame] = []
        size, view = 0, self._view
        head = self._head
        buffers = [head, self._buffer] if self._vnet else [self._buffer]
        skipped = VNET_HEADER_SIZE if self._vnet else 0
        try:
            while len(frames) < limit and size < READ_BYTES:
                count = os.readv(self.fd, buffers) - skipped
                frame = bytes(view[:count])
                size += count
                if head[1] == GSO_NONE and not head[0] & NEEDS_CHECKSUM:
                    frames.append(frame)
                else:
                    frames.append(OffloadedFrame(parse_vnet(bytes(head)), frame))
        except BlockingIOError:
            pass
        except OSError as error:
            if error.errno == errno.EBADFD:
                raise LinkError(f"the interface {self.name} is gone.") from None
            if error.errno != errno.EIO:  # the interface is down
                raise
        return frames

    def write(self, frame: Frame) -> bool:
        """Hand a frame to the kernel; False when it does not take it (interface down, queue full)."""
        try:
            if isinstance(frame, OffloadedFrame):
                os.writev(self.fd, [frame.header.build(), frame.frame])
            elif self._vnet:
                os.writev(self.fd, [PLAIN_BYTES, frame])
            else:
                os.write(self.fd, frame)
        except OSError:
            return False
        return True

    def close(self) -> None:
        """Remove the interface."""
        os.close(self.fd)


_OWN_BRIDGE = "geneve-nve"
"""Alias of the bridges that NVEs make, by which a later NVE knows one that was left behind."""


def _remove_leftover(bridge: str) -> None:
    """Remove a bridge that a killed NVE left; the caller holds the VNI's TAP, so no live one uses it."""
    try:
        (shown,) = json.loads(ip("-json", "link", "show", "dev", bridge))
    except LinkError:
        return  # there is none
    if shown.get("ifalias") != _OWN_BRIDGE:
        raise LinkError(f"an interface named {bridge} is there already and no NVE made it; rename or remove it.")
    ip("link", "del", bridge)


class TenantBridge:
    """The bridge of one VNI: local tenants' ports and the TAP. Removed again by :meth:`close`.

    Its name is ``br`` and the VNI. Whoever adds an interface to it (``ip link set X master br100``) attaches a
    tenant; the daemon hears of that and calls :meth:`join`.
    """

    def __init__(self, vni: int, ports: Iterable[str], offloads: NveOffloads) -> None:
        self.name = f"br{vni}"
        self.ports = list(ports)
        self._mtu: int | None = None
        self.tap = Tap(f"tap{vni}", offloads)
        try:
            _remove_leftover(self.name)
            # No spanning tree and no snooping: the overlay is one segment, and floods are its own affair.
            ip("link", "add", self.name, "type", "bridge", "stp_state", "0", "mcast_snooping", "0")
        except LinkError:
            self.tap.close()
            raise
        try:
            ip("link", "set", self.name, "alias", _OWN_BRIDGE)
            for interface in (self.tap.name, *self.ports):
                _no_ipv6(interface)
                ip("link", "set", interface, "master", self.name)
            _no_ipv6(self.name)
            for interface in (self.tap.name, *self.ports, self.name):
                ip("link", "set", interface, "up")
        except LinkError:
            self.close()
            raise

    def join(self, interface: str) -> None:
        """Prepare a port that somebody has added: the VNI's MTU, up; LinkError names what cannot be set."""
        if interface in self.ports:
            return
        _no_ipv6(interface)
        if self._mtu is not None:
            ip("link", "set", interface, "mtu", str(self._mtu))
        ip("link", "set", interface, "up")
        self.ports.append(interface)

    def leave(self, interface: str) -> None:
        """Forget a port that has left."""
        with contextlib.suppress(ValueError):
            self.ports.remove(interface)

    def set_mtu(self, mtu: int) -> None:
        """Set the MTU, in bytes, of the TAP, the ports and the bridge; LinkError names one that cannot be set."""
        self._mtu = mtu
        self.tap.set_mtu(mtu)
        failures = []
        for interface in (*self.ports, self.name):
            try:
                ip("link", "set", interface, "mtu", str(mtu))
            except LinkError as error:
                failures.append(str(error))
        if failures:
            raise LinkError(" ".join(failures))

    def close(self) -> None:
        """Remove the bridge and the TAP; the tenants' ports stay."""
        with contextlib.suppress(LinkError):
            ip("link", "del", self.name)
        self.tap.close()


def _no_ipv6(interface: str) -> None:
    # These interfaces only pass frames on: the kernel's own neighbour discovery has no business there.
    try:
        with open(f"/proc/sys/net/ipv6/conf/{interface}/disable_ipv6", "w", encoding="ascii") as switch:
            switch.write("1")
    except OSError:
        pass
