"""fastd as a contender: TAP, a light user-space tunnel of mesh networks."""

from __future__ import annotations

import re
import subprocess

from experiments.peers.contender import Contender, Description, Kind, PeerError, Running, find_program
from experiments.peers.network import LEFT, SIDES, UNDERLAY, open_to_owner_only, other

PORT = 10000


class Fastd(Contender):
    """fastd between two ends with one of its methods."""

    def __init__(self, name: str, title: str, method: str, overhead: int, encrypts: bool) -> None:
        protection = method if encrypts else None
        super().__init__(Description(name, title, Kind.USER_SPACE, 2, overhead, protection, encrypts, "fastd"))
        self._method = method

    def start(self, running: Running) -> None:
        """Make keys, start both ends, and bridge the tenants to the TAPs."""
        program = find_program("fastd")
        keys = {side: _make_keys(program) for side in SIDES}
        for side in SIDES:
            text = configuration(side, self._method, self.description.tenant_mtu, keys[side][0], keys[other(side)][1])
            config = open_to_owner_only(running.side_folder(side) / "fastd.conf", text)
            running.launch(side, f"fastd-{side}", [program, "--config", str(config)])
            running.wait_for_interface(side, "tap0")
        self.attach(running, dict.fromkeys(SIDES, "tap0"))


def configuration(side: str, method: str, tenant_mtu: int, secret: str, peer: str) -> str:
    """Return the configuration file of one end; ``secret`` and the ``peer``'s key in hexadecimal."""
    # One end waits for the other: two handshakes that cross each other fail and are tried again after 20 s only.
    remote = "" if side == LEFT else f"  remote {UNDERLAY[other(side)]}:{PORT};\n"
    return (
        f'interface "tap0";\nmode tap;\nmtu {tenant_mtu};\nmethod "{method}";\nbind {UNDERLAY[side]}:{PORT};\n'
        f'secret "{secret}";\nlog level warn;\n'
        f'peer "other" {{\n  key "{peer}";\n{remote}}}\n'
    )


def _make_keys(program: str) -> tuple[str, str]:
    done = subprocess.run([program, "--generate-key"], capture_output=True, text=True, check=False, timeout=30)
    found = dict(re.findall(r"^(Secret|Public): ([0-9a-f]{64})$", done.stdout, re.MULTILINE))
    if set(found) != {"Secret", "Public"}:
        raise PeerError("fastd made no keys")
    return found["Secret"], found["Public"]
