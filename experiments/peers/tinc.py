"""tinc as a contender: TAP, switch mode."""

from __future__ import annotations

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from experiments.peers.contender import Contender, Description, Kind, Running, find_program
from experiments.peers.network import LEFT, SIDES, UNDERLAY, open_to_owner_only, other
from experiments.peers.sockets import RECEIVE_BUFFER

_CIPHER, _DIGEST = "aes-128-cbc", "sha256"


class Tinc(Contender):
    """tinc 1.0 between two ends as a switch. Its packets know no AEAD: CBC and a truncated HMAC, its own default."""

    def __init__(self) -> None:
        # IPv4 20, UDP 8, HMAC 4, number 4, inner Ethernet header 14, and CBC's padding to 16, at least one byte.
        super().__init__(Description(
            "tinc", "tinc", Kind.USER_SPACE, 2, 63, f"{_CIPHER.upper()}, HMAC-{_DIGEST.upper()} of 4 bytes", True,
            "tincd", notes="mode switch, no compression",
        ))  # fmt: skip

    def start(self, running: Running) -> None:
        """Make keys, start both ends, and bridge the tenants to the TAPs."""
        program = find_program("tincd")
        pairs = {side: _make_keys() for side in SIDES}
        for side in SIDES:
            folder = running.side_folder(side)
            (folder / "hosts").mkdir()
            (folder / "tinc.conf").write_text(configuration(side))
            open_to_owner_only(folder / "rsa_key.priv", pairs[side][0])
            for name in SIDES:
                text = f"Address = {UNDERLAY[name]}\nCipher = {_CIPHER}\nDigest = {_DIGEST}\n{pairs[name][1]}"
                (folder / "hosts" / name).write_text(text)
            argv = [program, "--no-detach", f"--config={folder}", f"--pidfile={folder}/pid"]
            running.launch(side, f"tinc-{side}", argv)
        self.attach(running, dict.fromkeys(SIDES, "tap0"))


def configuration(side: str) -> str:
    """Return tinc.conf of one end."""
    lines = [
        f"Name = {side}", "AddressFamily = ipv4", f"BindToAddress = {UNDERLAY[side]}", "Mode = switch",
        "DeviceType = tap", "Interface = tap0", f"UDPRcvBuf = {RECEIVE_BUFFER}", f"UDPSndBuf = {RECEIVE_BUFFER}",
    ]  # fmt: skip
    if side == LEFT:
        lines.append(f"ConnectTo = {other(side)}")
    return "\n".join(lines) + "\n"


def _make_keys() -> tuple[str, str]:
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.TraditionalOpenSSL, serialization.NoEncryption()
    )
    public = key.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.PKCS1)
    return private.decode(), public.decode()
