"""The kernel's own ESP and AH (XFRM) instead of ours: what to tell ``ip -batch``, and whether the kernel has them.

Not run on a kernel with ESP or AH by us: the kernels at hand have neither. Tested are the lines themselves, that
iproute2 6.1 accepts each of them, that the kernel then refuses for what it lacks, and what policies do alone: they
block. Geneve leaves and enters the NVE's UDP sockets in clear, and policies have the kernel protect it below.
Lines hold keys: they go to ``ip`` through its standard input, never on a command line.
"""

from __future__ import annotations

import os
import re
import secrets
import shutil
import subprocess
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path

from geneve.control.channel import Channel, ChannelProtocol, Cipher, Encapsulation
from geneve.control.kernel_ipsec import kernel_lacks
from geneve.control.profile import Profile
from geneve.control.state import Association
from geneve.header import GENEVE_PORT
from nve.ipsec.keys import HMAC_KEY_SIZE, SaKeys, derive_keys
from nve.ipsec.sa import MAX_SHORT, channel_of

PAIR_PRIORITY, BLOCK_PRIORITY = 1, 2
"""Of policies; the kernel takes the least that matches. No others' policies come before ours but those with 0."""

NO_ANSWER = "ip did not answer in time"
"""What :func:`run_line` returns when nobody knows whether the line was done."""
EXISTS = "File exists"
"""What it returns for a state that is there already."""
ABSENT = ("No such process", "No such file or directory")
"""What it returns when what is to be deleted is not there: of a state, and of a policy."""

_ICV_BITS = 128
_TIMEOUT = 5.0
_KEY = re.compile(r"0x[0-9a-f]{16,}")


@dataclass(frozen=True, slots=True)
class KernelSa:
    """A security association for the kernel, from and to underlay addresses as text. Shows no key.

    ``port`` is the UDP port that NVEs receive on, and the reqid, which ties policies to states.
    """

    association: Association
    profile: Profile
    source: str
    destination: str
    outbound: bool
    port: int = GENEVE_PORT

    def __post_init__(self) -> None:
        """Raise ValueError for what the kernel's ESP and AH cannot do."""
        lacks = kernel_lacks(self.profile)
        if lacks:
            raise ValueError(lacks)
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

    @property
    def selector(self) -> str:
        """Return which packets are the association's: all of Geneve from one address to the other."""
        bits = ip_address(self.source).max_prefixlen
        return f"src {self.source}/{bits} dst {self.destination}/{bits} proto udp dport {self.port}"

    @property
    def policy(self) -> str:
        """Return what names the policy; all associations from one address to the other have the same."""
        return f"{self.selector} dir {'out' if self.outbound else 'in'}"

    @property
    def far(self) -> str:
        """The other NVE's address."""
        return self.destination if self.outbound else self.source


def block_lines(address: str, port: int) -> list[str]:
    """Return the lines after which no Geneve leaves or enters in clear, but for what a policy of a pair lets through.

    They are for all addresses of the family of ``address``, groups too: only one NVE has a network namespace.
    """
    return [f"xfrm policy update {block} priority {BLOCK_PRIORITY} action block" for block in _blocks(address, port)]


def unblock_lines(address: str, port: int) -> list[str]:
    """Return the lines that undo :func:`block_lines`."""
    return [f"xfrm policy delete {block}" for block in _blocks(address, port)]


def _blocks(address: str, port: int) -> list[str]:
    everywhere = "::/0" if ip_address(address).version == 6 else "0.0.0.0/0"
    return [f"src {everywhere} dst {everywhere} proto udp dport {port} dir {way}" for way in ("out", "in")]


def leftover_lines(address: str, port: int) -> list[str]:
    """Return the lines that remove what a process before left of states and of policies of pairs, not what blocks.

    A state of before is under a key that nobody manages any more.
    """
    bits, ways = ip_address(address).max_prefixlen, (("src", "out"), ("dst", "in"))
    states = [f"xfrm state deleteall {end} {address} reqid {port}" for end, _ in ways]
    return states + [
        f"xfrm policy deleteall {end} {address}/{bits} proto udp dport {port} dir {way} action allow "
        f"priority {PAIR_PRIORITY}"
        for end, way in ways
    ]


def add_state(sa: KernelSa) -> str:
    """Return the line that installs a state.

    The state has the policy's selector: the kernel finds a state by its SPI, and compares nothing else with the outer
    source address. A peer could send in another's name under its own key.
    """
    channel, profile = sa.channel, sa.profile
    words = [f"xfrm state add {sa.identity} reqid {sa.port} mode transport", _replay(channel, profile, sa.outbound)]
    words.append(_flags(channel, ip_address(sa.source).version))
    words += [_algorithms(channel, derive_keys(sa.association, channel)), f"sel {sa.selector}"]
    if sa.outbound:
        most = profile.hard_limit if channel.extended_sequence_numbers else min(profile.hard_limit, MAX_SHORT)
        words.append(f"limit packet-soft {min(profile.soft_limit, most)} limit packet-hard {most}")
    return " ".join(word for word in words if word)


def add_policy(sa: KernelSa) -> str:
    """Return the line that installs the policy of a pair of addresses in one direction, or does nothing new."""
    protocol = sa.channel.protocol.value
    return (
        f"xfrm policy update {sa.policy} priority {PAIR_PRIORITY} "
        f"tmpl src {sa.source} dst {sa.destination} proto {protocol} reqid {sa.port} mode transport level required"
    )


def delete_state(sa: KernelSa) -> str:
    """Return the line that removes a state."""
    return f"xfrm state delete {sa.identity}"


def delete_policy(policy: str) -> str:
    """Return the line that removes the policy of a pair, named as :attr:`KernelSa.policy`."""
    return f"xfrm policy delete {policy}"


def _replay(channel: Channel, profile: Profile, outbound: bool) -> str:
    """Return the window. Extended numbers need one at the sender too: the kernel keeps both in one place."""
    needed = channel.extended_sequence_numbers or not outbound
    return f"replay-window {profile.replay_window if needed else 0}"


def _flags(channel: Channel, version: int) -> str:
    """Return the flags. Without align4 the kernel has AH a multiple of 8 bytes under IPv4 too (RFC 4302: of 4)."""
    flags = ["esn"] if channel.extended_sequence_numbers else []
    if channel.protocol is ChannelProtocol.AH and version == 4:
        flags.append("align4")
    return f"flag {' '.join(flags)}" if flags else ""


def _algorithms(channel: Channel, keys: SaKeys) -> str:
    if channel.cipher is Cipher.AES_128_GCM:
        return f"aead rfc4106(gcm(aes)) 0x{(keys.encryption + keys.salt).hex()} {_ICV_BITS}"
    # auth alone would cut to 96 bits, as the kernel did before RFC 4868.
    integrity = f"auth-trunc hmac(sha256) 0x{keys.integrity.hex()} {_ICV_BITS}"
    return integrity if channel.protocol is ChannelProtocol.AH else f'enc ecb(cipher_null) "" {integrity}'


def run_line(line: str) -> str:
    """Have ``ip`` do what a line says, in this network namespace; return why not, empty when it was done.

    One at a time: ``ip xfrm`` ends its process where the kernel refuses, without saying at which line of many, and
    ``-force`` changes nothing about it.
    """
    if shutil.which("ip") is None:
        return "iproute2 is not installed"
    try:
        done = subprocess.run(
            ["ip", "-batch", "-"], input=line + "\n", capture_output=True, text=True, check=False, timeout=_TIMEOUT,
            env={**os.environ, "LC_ALL": "C"},
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return NO_ANSWER
    except OSError as error:
        return f"ip cannot be run: {error.strerror}"
    return "" if done.returncode == 0 else read_refusal(done.stderr, done.returncode)


def read_refusal(text: str, code: int) -> str:
    """Return the first words of what ``ip`` says of a line that it did not do, and no key, should it repeat one."""
    said = [line for line in text.splitlines() if line and not line.startswith("Command failed")]
    if not said:
        return f"ip ended with exit code {code}"
    words = said[0].removeprefix("Error: ").removeprefix("RTNETLINK answers: ").rstrip(".")
    return _KEY.sub("0x...", words)


def find_bypass(interface: str | None, settings: Path = Path("/proc/sys/net")) -> str:
    """Return which setting has the kernel pass over its policies, empty when none does.

    Without an ``interface`` all count but the loopback, on which the kernel has it so.
    """
    for path in sorted(settings.glob("ipv[46]/conf/*/disable_*")):
        place, name = path.parent.name, path.name
        if name not in ("disable_xfrm", "disable_policy") or place in ("lo", "default"):
            continue
        if interface is not None and place not in ("all", interface):
            continue
        try:
            bypassed = path.read_text(encoding="ascii").strip() != "0"
        except OSError:
            continue  # an interface that has gone since
        if bypassed:
            return ".".join(["net", *path.relative_to(settings).parts])
    return ""


def find_missing(channel: Channel) -> str:
    """Return why the kernel cannot do ``channel``, empty when it can: a state is added for a moment, and removed.

    The state is between two addresses of the loopback, has a random key, and no policy leads to it.
    """
    if channel.encapsulation is not Encapsulation.IP or channel.protocol is ChannelProtocol.DTLS:
        return "the kernel is only asked for ESP and AH in IP"
    random = secrets.token_bytes(HMAC_KEY_SIZE)
    keys = SaKeys(random[:16], random[16:20], random)
    identity = f"src 127.0.0.1 dst 127.0.0.2 proto {channel.protocol.value} spi {256 + secrets.randbelow(2**31):#x}"
    options = f"mode transport replay-window 64 {_flags(channel, 4)}".rstrip()
    return run_line(f"xfrm state add {identity} {options} {_algorithms(channel, keys)}") or run_line(
        f"xfrm state delete {identity}"
    )
