"""Runs in a sandbox: two charons with kernel-libipsec make an IKEv2 tunnel; then our ESP takes the place of one.

The keys of the tunnel come from charon's log of the run, which only its owner can read; they protect nothing but this
run's pings. Prints one JSON document; tests/live/test_ipsec_interop.py judges it.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import secrets
import sys
import tempfile
from pathlib import Path
from typing import Any

from experiments.peers.contender import find_program
from experiments.peers.network import (
    GATEWAYS,
    LEFT,
    RIGHT,
    ROUTED,
    SIDES,
    UNDERLAY,
    Network,
    open_to_owner_only,
    own_run_folder,
)
from experiments.peers.strongswan import connection, daemon_configuration
from topologies.daemon import Daemon, stop_all, wait_for
from topologies.nodes import NodeCommandError

PROPOSALS = {"esp": "aes128gcm16", "esp-null": "null-sha256"}
ENVIRONMENT = {"STRONGSWAN_CONF": "/run/strongswan.conf", "SWANCTL_DIR": "/run/swanctl"}
KEY_LOG = "keys.log"
_LINE = re.compile(r"(\d+): ((?:[0-9A-F]{2} )+)")


def configuration() -> str:
    """Return strongswan.conf with a log of the keys of child SAs; x25519 is OpenSSL's, which spares a package."""
    log = (
        f"    keys {{\n      path = /run/{KEY_LOG}\n      append = yes\n      flush_line = yes\n"
        "      default = -1\n      chd = 4\n      ike = 1\n    }\n"
    )
    return daemon_configuration().replace("  filelog {\n", "  filelog {\n" + log).replace(" curve25519", "")


def read_keys(log: str) -> dict[str, str]:
    """Return the keys of the one child SA that charon logged, in hexadecimal, by charon's names."""
    keys: dict[str, str] = {}
    name = ""
    for line in log.splitlines():
        begin = re.search(r"((?:encryption|integrity) (?:initiator|responder)) key", line)
        dump = _LINE.search(line)
        if begin:
            name = begin[1]
            assert name not in keys, "one child SA is expected"
            keys[name] = ""
        elif dump and name:
            assert int(dump[1]) == len(keys[name]) // 2
            keys[name] += dump[2].replace(" ", "").lower()
        else:
            name = ""
    return keys


class Tunnel:
    """Both charons; the left one initiates."""

    def __init__(self, network: Network, folder: Path, proposal: str, cleanup: contextlib.ExitStack) -> None:
        self.network, self.folder = network, folder
        self.daemons: list[Daemon] = []
        cleanup.callback(lambda: stop_all(self.daemons))
        shared = secrets.token_hex(32)
        charon = find_program("charon")
        for side in SIDES:
            node, own = network.node(side), folder / side
            (own / "swanctl").mkdir(parents=True, mode=0o700)
            own.chmod(0o700)
            (own / "strongswan.conf").write_text(configuration())
            open_to_owner_only(own / KEY_LOG, "")
            text = connection(side, shared).replace("aes128gcm16\n      }", f"{proposal}\n      }}")
            open_to_owner_only(own / "swanctl" / "swanctl.conf", text)
            cleanup.enter_context(own_run_folder(node, own))
            environment = {**os.environ, **ENVIRONMENT}
            daemon = Daemon(f"charon-{side}", node.wrap([charon]), folder / f"charon-{side}.log", environment)
            self.daemons.append(daemon)
        for side in SIDES:
            wait_for("charon's control socket", (folder / side / "charon.vici").exists, self.daemons)
            self.control(side, "--load-all", "--noprompt")
        self.control(LEFT, "--initiate", "--child", "net", "--timeout", "15")

    def control(self, side: str, *words: str) -> str:
        argv = ["env", *(f"{name}={value}" for name, value in ENVIRONMENT.items()), find_program("swanctl"), *words]
        return self.network.node(side).run(argv, 30.0).stdout

    def told(self) -> dict[str, Any]:
        """Return what somebody in the place of the left charon has to know."""
        log = (self.folder / LEFT / KEY_LOG).read_text()
        keys = read_keys(log)
        spis = re.search(r"SPIs ([0-9a-f]{8})_i ([0-9a-f]{8})_o", log)
        assert spis is not None, "charon names the SPIs"

        def key(which: str) -> dict[str, str]:
            return {kind: keys.get(f"{kind} {which}", "") for kind in ("encryption", "integrity")}

        return {
            "inner": [ROUTED[LEFT], GATEWAYS[RIGHT]], "outer": [UNDERLAY[LEFT], UNDERLAY[RIGHT]],
            "spi_in": int(spis[1], 16), "spi_out": int(spis[2], 16),
            "key_out": key("initiator"), "key_in": key("responder"),
        }  # fmt: skip

    def end(self, side: str) -> None:
        """End a charon so that it tells the other nothing."""
        daemon = self.daemons[SIDES.index(side)]
        daemon.process.kill()
        daemon.process.wait()
        self.daemons.remove(daemon)


def run(network: Network, proposal: str) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(dir="/run") as name, contextlib.ExitStack() as cleanup:
        network.wire(1400, routed=True)
        tunnel = Tunnel(network, Path(name), proposal, cleanup)
        told = tunnel.told()
        before = network.node(LEFT).run(
            ["ping", "-c", "1", "-W", "5", "-I", GATEWAYS[LEFT], GATEWAYS[RIGHT]], 20.0, check=False
        )
        tunnel.end(LEFT)
        peer = network.node(LEFT).run([sys.executable, "-m", "tests.live.ipsec_peer"], 90.0, stdin=json.dumps(told))
        return {**json.loads(peer.stdout), "sizes": [len(v) // 2 for v in told["key_out"].values()],
                "before": before.returncode, "mode": (Path(name) / LEFT / KEY_LOG).stat().st_mode & 0o777}  # fmt: skip


def main() -> None:
    seen = {}
    with Network(devices=0) as network:
        for name, proposal in PROPOSALS.items():
            try:
                seen[name] = run(network, proposal)
            except NodeCommandError as error:
                raise SystemExit(f"{name}: {' '.join(error.argv)}: {error.stderr}") from None
    print(json.dumps(seen))


if __name__ == "__main__":
    main()
