"""OpenVPN as a contender: TAP, TLS between two throw-away certificates, data channel in user space."""

from __future__ import annotations

import datetime

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from experiments.peers.contender import Contender, Description, Kind, Running, find_program
from experiments.peers.network import LEFT, SIDES, UNDERLAY, open_to_owner_only, other
from experiments.peers.sockets import RECEIVE_BUFFER

PORT = 1194


class OpenVpn(Contender):
    """OpenVPN between two ends, its kernel offload off: this one is the user-space contender."""

    def __init__(self) -> None:
        # IPv4 20, UDP 8, opcode and peer 4, packet number 4, tag 16, inner Ethernet header 14.
        super().__init__(Description(
            "openvpn", "OpenVPN", Kind.USER_SPACE, 2, 66, "AES-128-GCM", True, "openvpn",
            notes="TAP, UDP, data channel offload off, fast-io, no compression",
        ))  # fmt: skip

    def start(self, running: Running) -> None:
        """Make certificates, start both ends, and bridge the tenants to the TAPs."""
        program = find_program("openvpn")
        pairs = {side: make_certificate(side) for side in SIDES}
        for side in SIDES:
            folder = running.side_folder(side)
            open_to_owner_only(folder / "key.pem", pairs[side][1])
            (folder / "own.pem").write_text(pairs[side][0])
            (folder / "peer.pem").write_text(pairs[other(side)][0])
            config = folder / "openvpn.conf"
            config.write_text(configuration(side, str(folder), self.description.tenant_mtu))
            running.launch(side, f"openvpn-{side}", [program, "--config", str(config)])
        self.attach(running, dict.fromkeys(SIDES, "tap0"))


def configuration(side: str, folder: str, tenant_mtu: int) -> str:
    """Return the configuration file of one end."""
    lines = [
        "dev tap0", "dev-type tap", "proto udp4", f"local {UNDERLAY[side]}", f"remote {UNDERLAY[other(side)]}",
        f"port {PORT}", "tls-server" if side == LEFT else "tls-client", "dh none",
        # Each end trusts the other's own certificate and nothing else.
        f"ca {folder}/peer.pem", f"cert {folder}/own.pem", f"key {folder}/key.pem",
        "data-ciphers AES-128-GCM", "disable-dco", f"tun-mtu {tenant_mtu}", "mssfix 0", "fast-io",
        f"rcvbuf {RECEIVE_BUFFER}", f"sndbuf {RECEIVE_BUFFER}", "txqueuelen 1000", "ping 10", "verb 1",
    ]  # fmt: skip
    return "\n".join(lines) + "\n"


def make_certificate(name: str) -> tuple[str, str]:
    """Return a self-signed certificate of one day and its private key, both PEM."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.datetime.now(datetime.timezone.utc)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return certificate.public_bytes(serialization.Encoding.PEM).decode(), private.decode()
