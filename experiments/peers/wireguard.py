"""wireguard-go as a contender: WireGuard in user space."""

from __future__ import annotations

from experiments.peers.contender import Contender, Description, Kind, Running, find_program
from experiments.peers.kernel import configure_wireguard
from experiments.peers.network import SIDES


class WireGuardGo(Contender):
    """wireguard-go between two ends, which route."""

    def __init__(self) -> None:
        # IPv4 20, UDP 8, header 16, tag 16; padding to 16 adds nothing to a packet of 1440.
        super().__init__(Description(
            "wireguard-go", "wireguard-go", Kind.USER_SPACE, 3, 60, "ChaCha20-Poly1305", True, "wireguard-go"
        ))  # fmt: skip

    def start(self, running: Running) -> None:
        """Start both ends, give them keys, and route."""
        program = find_program("wireguard-go")
        find_program("wg")
        # Their control sockets lie in one folder under the interfaces' names, so these differ.
        interfaces = {side: f"wg-{side}" for side in SIDES}
        environment = {"LOG_LEVEL": "error", "WG_PROCESS_FOREGROUND": "1"}
        for side in SIDES:
            running.launch(
                side, f"wireguard-{side}", [program, "--foreground", interfaces[side]], environment=environment
            )
        for side in SIDES:
            running.wait_for_interface(side, interfaces[side])
        configure_wireguard(running, interfaces)
        self.attach(running, interfaces)
