"""strongSwan as a contender: IPsec in user space, where the kernel has no ESP or should not be used."""

from __future__ import annotations

import secrets

from experiments.peers.contender import Contender, Description, Kind, PeerError, Running, find_program
from experiments.peers.network import LEFT, PREFIXES, QUEUE, SIDES, UNDERLAY, open_to_owner_only, other, own_run_folder
from topologies.daemon import wait_for
from topologies.nodes import NodeCommandError

_PLUGINS = (
    "random nonce openssl sha2 hmac kdf pem pkcs1 x509 pubkey curve25519 gcm aes "
    "kernel-libipsec kernel-netlink socket-default vici"
)


class StrongSwan(Contender):
    """charon with kernel-libipsec between two ends, IKEv2 with a pre-shared key."""

    def __init__(self) -> None:
        # A packet would have room for 1438, but charon reads no more than 1400 bytes of one from its TUN.
        super().__init__(Description(
            "strongswan", "strongSwan libipsec", Kind.USER_SPACE, 3, 100, "AES-128-GCM, ESP in UDP", True, "charon",
            notes="IKEv2, ESP tunnel mode in user space; reads at most 1400 bytes from its TUN",
        ))  # fmt: skip

    def start(self, running: Running) -> None:
        """Start both daemons, have one initiate the tunnel, and set the MTU of its interface."""
        charon, swanctl = find_program("charon"), find_program("swanctl")
        shared = secrets.token_hex(32)
        environment = {"STRONGSWAN_CONF": "/run/strongswan.conf", "SWANCTL_DIR": "/run/swanctl"}
        for side in SIDES:
            node, folder = running.network.node(side), running.side_folder(side)
            (folder / "swanctl").mkdir(mode=0o700)
            (folder / "strongswan.conf").write_text(daemon_configuration())
            open_to_owner_only(folder / "swanctl" / "swanctl.conf", connection(side, shared))
            # charon keeps its process id in /run under a fixed name, so each has a /run of its own.
            running.cleanup.enter_context(own_run_folder(node, folder))
            running.cleanup.callback(node.run, ["ip", "rule", "delete", "pref", "220"], 20.0, check=False)
            running.launch(side, f"charon-{side}", [charon], environment=environment)
        commands = [["--load-all", "--noprompt"], ["--initiate", "--child", "net", "--timeout", "15"]]
        for side in SIDES:
            socket = running.side_folder(side) / "charon.vici"
            wait_for("charon's control socket", socket.exists, running.daemons)
            for words in commands[: 2 if side != LEFT else 1]:
                argv = ["env", *(f"{name}={value}" for name, value in environment.items()), swanctl, *words]
                try:
                    running.network.node(side).run(argv, 30.0)
                except NodeCommandError as error:
                    raise PeerError(f"swanctl {words[0]} failed: {' '.join(error.stderr.split())[-200:]}") from None
        for side in SIDES:
            running.wait_for_interface(side, "ipsec0")
            mtu = self.description.tenant_mtu
            running.network.node(side).ip([f"link set ipsec0 mtu {mtu} txqueuelen {QUEUE}"])


def daemon_configuration() -> str:
    """Return strongswan.conf: only what is needed, and the IPsec of user space before the kernel's."""
    return (
        f"charon {{\n  load_modular = no\n  load = {_PLUGINS}\n  install_routes = yes\n"
        "  plugins {\n    vici {\n      socket = unix:///run/charon.vici\n    }\n  }\n"
        "  filelog {\n    stderr {\n      default = 0\n    }\n  }\n}\n"
    )


def connection(side: str, shared: str) -> str:
    """Return swanctl.conf of one end; ``shared`` is the pre-shared key."""
    far = other(side)
    return (
        f"connections {{\n  bench {{\n    version = 2\n    local_addrs = {UNDERLAY[side]}\n"
        f"    remote_addrs = {UNDERLAY[far]}\n    proposals = aes128gcm16-prfsha256-x25519\n    encap = yes\n"
        f"    local {{\n      auth = psk\n      id = {side}\n    }}\n"
        f"    remote {{\n      auth = psk\n      id = {far}\n    }}\n"
        f"    children {{\n      net {{\n        local_ts = {PREFIXES[side]}\n        remote_ts = {PREFIXES[far]}\n"
        "        esp_proposals = aes128gcm16\n      }\n    }\n  }\n}\n"
        f'secrets {{\n  ike-bench {{\n    id-1 = {side}\n    id-2 = {far}\n    secret = "{shared}"\n  }}\n}}\n'
    )
