"""Contenders whose data path is the kernel's: limits for whatever runs in user space, where the kernel has them."""

from __future__ import annotations

import secrets

from experiments.peers.contender import Contender, Description, Kind, PeerError, Running, find_program
from experiments.peers.network import (
    PREFIXES,
    SIDES,
    UNDERLAY,
    WIRE,
    open_to_owner_only,
    other,
)
from topologies.nodes import NodeCommandError

_VNI = 100
_ESP_SPI = {"left": 0x1001, "right": 0x1002}
"""SPI of the packets that each side sends."""
WIREGUARD_PORT = 51820


class BareWire(Contender):
    """No tunnel at all: the tenants' frames cross the underlay as they are."""

    def __init__(self) -> None:
        super().__init__(Description("veth", "Bare veth", Kind.KERNEL, 2, 0, None, False, notes="no tunnel: the limit"))

    def start(self, running: Running) -> None:
        """Bridge the tenants' ports with the underlay."""
        self.attach(running, dict.fromkeys(SIDES, WIRE))


class KernelTunnel(Contender):
    """A tunnel device of the kernel that encapsulates frames and protects nothing: VXLAN or Geneve."""

    def __init__(self, kind: str, title: str, options: str) -> None:
        super().__init__(Description(f"kernel-{kind}", title, Kind.KERNEL, 2, 50, None, False))
        self._kind, self._options = kind, options

    def start(self, running: Running) -> None:
        """Make the devices; PeerError where the kernel has no such kind."""
        for side in SIDES:
            command = f"link add tunnel0 type {self._kind} id {_VNI} remote {UNDERLAY[other(side)]} {self._options}"
            _try(running, side, [command], f"the kernel makes no {self._kind} device")
        self.attach(running, dict.fromkeys(SIDES, "tunnel0"))


class KernelWireGuard(Contender):
    """WireGuard in the kernel."""

    def __init__(self) -> None:
        super().__init__(Description(
            "kernel-wireguard", "Kernel WireGuard", Kind.KERNEL, 3, 60, "ChaCha20-Poly1305", True, "wg"
        ))  # fmt: skip

    def start(self, running: Running) -> None:
        """Make the devices and give them keys; PeerError where the kernel has no WireGuard."""
        for side in SIDES:
            _try(running, side, ["link add wg0 type wireguard"], "the kernel makes no wireguard device")
        configure_wireguard(running, dict.fromkeys(SIDES, "wg0"))
        self.attach(running, dict.fromkeys(SIDES, "wg0"))


def configure_wireguard(running: Running, interfaces: dict[str, str]) -> None:
    """Give both ends' WireGuard interfaces fresh keys and each other's address; keys pass through files only."""
    program = find_program("wg")
    keys = {}
    for side in SIDES:
        node = running.network.node(side)
        private = node.run([program, "genkey"], 10.0).stdout
        keys[side] = (private.strip(), node.run([program, "pubkey"], 10.0, stdin=private).stdout.strip())
    for side in SIDES:
        far = other(side)
        text = (
            f"[Interface]\nPrivateKey = {keys[side][0]}\nListenPort = {WIREGUARD_PORT}\n"
            f"[Peer]\nPublicKey = {keys[far][1]}\nEndpoint = {UNDERLAY[far]}:{WIREGUARD_PORT}\n"
            f"AllowedIPs = {PREFIXES[far]}\n"
        )
        config = open_to_owner_only(running.side_folder(side) / "wireguard.conf", text)
        running.network.node(side).run([program, "setconf", interfaces[side], str(config)], 10.0)


class KernelEsp(Contender):
    """ESP of the kernel in tunnel mode, keyed by hand."""

    def __init__(self) -> None:
        # Outer IPv4 20, SPI and number 8, IV 8, ICV 16, then padding to 4 with its two bytes.
        super().__init__(Description("kernel-esp", "Kernel ESP", Kind.KERNEL, 3, 54, "AES-128-GCM, ESP tunnel", True))

    def start(self, running: Running) -> None:
        """Install states and policies; PeerError where the kernel has no ESP."""
        keys = {side: "0x" + secrets.token_hex(20) for side in SIDES}  # 16 bytes of key and 4 of salt
        for side in SIDES:
            far = other(side)
            commands = [
                f"xfrm state add src {UNDERLAY[sender]} dst {UNDERLAY[other(sender)]} proto esp "
                f"spi {_ESP_SPI[sender]:#x} mode tunnel replay-window 128 aead rfc4106(gcm(aes)) {keys[sender]} 128"
                for sender in SIDES
            ]
            commands += [
                f"xfrm policy add src {PREFIXES[sender]} dst {PREFIXES[other(sender)]} dir {direction} "
                f"tmpl src {UNDERLAY[sender]} dst {UNDERLAY[other(sender)]} proto esp mode tunnel"
                for sender, directions in ((side, ("out",)), (far, ("in", "fwd"))) for direction in directions
            ]  # fmt: skip
            node = running.network.node(side)
            running.cleanup.callback(node.run, ["ip", "xfrm", "state", "flush"], 20.0, check=False)
            running.cleanup.callback(node.run, ["ip", "xfrm", "policy", "flush"], 20.0, check=False)
            _try(running, side, commands, "the kernel takes no ESP state with AES-GCM")
            node.ip([f"route replace {PREFIXES[far]} via {UNDERLAY[far]}"])


def _try(running: Running, side: str, commands: list[str], fault: str) -> None:
    try:
        running.network.node(side).ip(commands)
    except NodeCommandError as error:
        lines = [line for line in error.stderr.splitlines() if line.strip() and not line.startswith("Command failed")]
        reason = lines[0].removeprefix("Error: ").strip() if lines else "no reason given"
        raise PeerError(f"{fault} ({reason})") from None
