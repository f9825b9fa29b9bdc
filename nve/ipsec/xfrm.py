"""The kernel's own ESP and AH (XFRM) instead of ours: what to tell ``ip -batch``, and whether the kernel has them.

Not run on a kernel with ESP or AH by us: the kernels at hand have neither. Tested are the lines themselves, and that
iproute2 6.1 accepts each of them and the kernel then refuses for what it lacks. Geneve then leaves and enters the NVE's
UDP sockets in clear, and policies have the kernel protect it below. Lines hold keys: they go to ``ip`` through its
standard input, never on a command line.
"""

from __future__ import annotations

import secrets
import shutil
import subprocess
from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import ip_address

from geneve.control.channel import Channel, ChannelProtocol, Cipher, Encapsulation
from geneve.control.profile import Profile
from geneve.control.state import Association
from geneve.header import GENEVE_PORT
from nve.ipsec.keys import HMAC_KEY_SIZE, SaKeys, derive_keys
from nve.ipsec.sa import MAX_SHORT, channel_of

REQID = GENEVE_PORT
"""Ties policies to states: any of ours between the same two addresses."""
_ICV_BITS = 128
_TIMEOUT = 10.0


@dataclass(frozen=True, slots=True)
class KernelSa:
    """A security association for the kernel, from and to underlay addresses as text. Shows no key."""

    association: Association
    profile: Profile
    source: str
    destination: str
    outbound: bool

    def __post_init__(self) -> None:
        """Raise ValueError for what the kernel's ESP and AH cannot do."""
        channel = channel_of(self.profile)
        if channel.encapsulation is not Encapsulation.IP:
            raise ValueError("ESP in UDP is left to the NVE's own implementation")
        if self.profile.padded:
            raise ValueError("the kernel makes no dummies and pads to one length only: use the NVE's own ESP")
        if ip_address(self.source).version != ip_address(self.destination).version:
            raise ValueError(f"{self.source} and {self.destination} are not of one address family")

    @property
    def channel(self) -> Channel:
        """What was chosen of IPsec."""
        return channel_of(self.profile)

    @property
    def identity(self) -> str:
        """Return what names the state to the kernel."""
        protocol = self.channel.protocol.value
        return f"src {self.source} dst {self.destination} proto {protocol} spi {self.association.spi:#010x}"


def add_lines(sas: Iterable[KernelSa]) -> list[str]:
    """Return the lines that install states and policies; each pair of addresses has one policy in a direction.

    States come first: a policy without a state would have the kernel ask for one that nobody makes, and drop.
    """
    held = list(sas)
    return [_state(sa) for sa in held] + list(
        # update, since a pair that is rekeyed has its policy already
        dict.fromkeys(f"xfrm policy update {_policy(sa)} {_template(sa)}" for sa in held)
    )


def delete_lines(sas: Iterable[KernelSa], kept: Iterable[KernelSa] = ()) -> list[str]:
    """Return the lines that remove what :func:`add_lines` installed, but for policies that ``kept`` ones need.

    Policies go last: until then the kernel drops, instead of letting anything pass in clear (design invariant 6).
    """
    held, needed = list(sas), {_policy(sa) for sa in kept}
    policies = dict.fromkeys(f"xfrm policy delete {_policy(sa)}" for sa in held if _policy(sa) not in needed)
    return [f"xfrm state delete {sa.identity}" for sa in held] + list(policies)


def _state(sa: KernelSa) -> str:
    channel, profile = sa.channel, sa.profile
    words = [f"xfrm state add {sa.identity} reqid {REQID} mode transport", _replay(channel, profile, sa.outbound)]
    words.append(_algorithms(channel, derive_keys(sa.association, channel)))
    if sa.outbound:
        most = profile.hard_limit if channel.extended_sequence_numbers else min(profile.hard_limit, MAX_SHORT)
        words.append(f"limit packet-soft {min(profile.soft_limit, most)} limit packet-hard {most}")
    return " ".join(words)


def _replay(channel: Channel, profile: Profile, outbound: bool) -> str:
    """Return window and flags. Extended numbers need a window at the sender too: the kernel keeps both in one place."""
    if channel.extended_sequence_numbers:
        return f"replay-window {profile.replay_window} flag esn"
    return f"replay-window {0 if outbound else profile.replay_window}"


def _algorithms(channel: Channel, keys: SaKeys) -> str:
    if channel.cipher is Cipher.AES_128_GCM:
        return f"aead rfc4106(gcm(aes)) 0x{(keys.encryption + keys.salt).hex()} {_ICV_BITS}"
    # auth alone would cut to 96 bits, as the kernel did before RFC 4868.
    integrity = f"auth-trunc hmac(sha256) 0x{keys.integrity.hex()} {_ICV_BITS}"
    return integrity if channel.protocol is ChannelProtocol.AH else f'enc ecb(cipher_null) "" {integrity}'


def _policy(sa: KernelSa) -> str:
    bits = ip_address(sa.source).max_prefixlen
    direction = "out" if sa.outbound else "in"
    return f"src {sa.source}/{bits} dst {sa.destination}/{bits} proto udp dport {GENEVE_PORT} dir {direction}"


def _template(sa: KernelSa) -> str:
    protocol = sa.channel.protocol.value
    return f"tmpl src {sa.source} dst {sa.destination} proto {protocol} reqid {REQID} mode transport level required"


def run_lines(lines: Iterable[str]) -> str:
    """Have ``ip`` do what ``lines`` say, in this network namespace; return why not, empty when all was done.

    It stops at the first line that fails.
    """
    if shutil.which("ip") is None:
        return "iproute2 is not installed"
    done = subprocess.run(
        ["ip", "-batch", "-"], input="\n".join(lines) + "\n", capture_output=True, text=True, check=False,
        timeout=_TIMEOUT,
    )  # fmt: skip
    if done.returncode == 0:
        return ""
    # "Command failed -:1" repeats no line of the input, and the kernel's words hold no key.
    said = [line for line in done.stderr.splitlines() if line and not line.startswith("Command failed")]
    return said[0].removeprefix("Error: ").rstrip(".") if said else f"ip ended with exit code {done.returncode}"


def find_missing(channel: Channel) -> str:
    """Return why the kernel cannot do ``channel``, empty when it can: a state is added for a moment, and removed.

    The state is between two addresses of the loopback, has a random key, and no policy leads to it.
    """
    if channel.encapsulation is not Encapsulation.IP or channel.protocol is ChannelProtocol.DTLS:
        return "the kernel is only asked for ESP and AH in IP"
    random = secrets.token_bytes(HMAC_KEY_SIZE)
    keys = SaKeys(random[:16], random[16:20], random)
    identity = f"src 127.0.0.1 dst 127.0.0.2 proto {channel.protocol.value} spi {256 + secrets.randbelow(2**31):#x}"
    window = "replay-window 64" + (" flag esn" if channel.extended_sequence_numbers else "")
    return run_lines(
        [
            f"xfrm state add {identity} mode transport {window} {_algorithms(channel, keys)}",
            f"xfrm state delete {identity}",
        ]
    )
