"""The lines for the kernel's own IPsec, that iproute2 takes each of them, and what the kernel does with policies."""

from __future__ import annotations

import itertools
import os
import shutil
import subprocess
import sys

import pytest

from geneve.control.channel import Channel, ChannelProtocol, Cipher, Encapsulation
from geneve.control.profile import Dummies, DummyMode
from nve.ipsec import xfrm
from nve.ipsec.keys import derive_keys
from nve.ipsec.xfrm import (
    NO_ANSWER,
    KernelSa,
    add_policy,
    add_state,
    block_lines,
    delete_policy,
    delete_state,
    find_bypass,
    find_missing,
    leftover_lines,
    read_refusal,
    run_line,
    unblock_lines,
)
from tests.nve.ipsec.ipsec_support import ADDRESSES, CHANNELS, KINDS, profile, secured

MISSING = (
    "Requested AEAD algorithm not found", "Requested type not found", "Requested AUTH_TRUNC algorithm not found",
    "Requested CRYPT algorithm not found", "Requested AUTH algorithm not found",
)  # fmt: skip
"""What a kernel says that has no ESP or AH, or not the algorithm."""


def kernel_sas(name: str, version: int = 4) -> list[KernelSa]:
    """One association each way."""
    here, there = ADDRESSES[version]
    back = secured(name, version, spi=0x2000)
    return [
        KernelSa(secured(name, version), profile(name), here, there, outbound=True),
        KernelSa(back, profile(name), there, here, outbound=False),
    ]


def test_the_lines_for_esp_with_gcm():
    keys = derive_keys(secured(), CHANNELS["esp"])
    out, into = kernel_sas("esp")
    assert add_state(out) == (
        "xfrm state add src 192.168.1.1 dst 192.168.1.2 proto esp spi 0x00001000 reqid 6081 mode transport "
        f"replay-window 1024 flag esn aead rfc4106(gcm(aes)) 0x{keys.encryption.hex()}{keys.salt.hex()} 128 "
        "sel src 192.168.1.1/32 dst 192.168.1.2/32 proto udp dport 6081 "
        "limit packet-soft 134217728 limit packet-hard 268435456"
    )
    assert add_policy(out) == (
        "xfrm policy update src 192.168.1.1/32 dst 192.168.1.2/32 proto udp dport 6081 dir out priority 1 "
        "tmpl src 192.168.1.1 dst 192.168.1.2 proto esp reqid 6081 mode transport level required"
    )
    assert add_policy(into) == (
        "xfrm policy update src 192.168.1.2/32 dst 192.168.1.1/32 proto udp dport 6081 dir in priority 1 "
        "tmpl src 192.168.1.2 dst 192.168.1.1 proto esp reqid 6081 mode transport level required"
    )
    assert "sel src 192.168.1.2/32 dst 192.168.1.1/32 " in add_state(into), "no other peer's packets under this key"


def test_the_lines_that_block():
    assert block_lines("192.168.1.1", 6081) == [
        "xfrm policy update src 0.0.0.0/0 dst 0.0.0.0/0 proto udp dport 6081 dir out priority 2 action block",
        "xfrm policy update src 0.0.0.0/0 dst 0.0.0.0/0 proto udp dport 6081 dir in priority 2 action block",
    ]
    assert unblock_lines("fd00::1", 7000) == [
        "xfrm policy delete src ::/0 dst ::/0 proto udp dport 7000 dir out",
        "xfrm policy delete src ::/0 dst ::/0 proto udp dport 7000 dir in",
    ]


def test_another_port_is_in_everything():
    sa = KernelSa(secured(), profile(), *ADDRESSES[4], outbound=True, port=7000)
    for line in (add_state(sa), add_policy(sa), delete_policy(sa.policy)):
        assert "dport 7000" in line
        assert "6081" not in line


def test_the_algorithms_of_the_others():
    null = add_state(kernel_sas("esp-null")[0])
    integrity = derive_keys(secured("esp-null"), CHANNELS["esp-null"]).integrity.hex()
    assert f'enc ecb(cipher_null) "" auth-trunc hmac(sha256) 0x{integrity} 128' in null
    header = add_state(kernel_sas("ah")[0])
    assert "proto ah" in header
    assert "enc" not in header
    assert "auth-trunc hmac(sha256)" in header


def test_ah_is_a_multiple_of_4_bytes_under_ipv4_as_ours_is():
    """The kernel's is one of 8 otherwise, and our header of 28 bytes is none."""
    flags = {}
    for name, version in itertools.product(("ah", "ah-short"), (4, 6)):
        lines = map(add_state, kernel_sas(name, version))
        flags[name, version] = [line.partition(" flag ")[2].partition(" auth")[0] for line in lines]
    assert flags == {
        ("ah", 4): ["esn align4"] * 2, ("ah", 6): ["esn"] * 2,
        ("ah-short", 4): ["align4"] * 2, ("ah-short", 6): [""] * 2,
    }  # fmt: skip
    assert "align4" not in add_state(kernel_sas("esp-null")[0])


def test_short_numbers_need_no_window_at_the_sender_and_end_in_time():
    out, into = map(add_state, kernel_sas("esp-short"))
    assert "replay-window 0 " in out
    assert "replay-window 1024 " in into
    assert "esn" not in out + into
    long = profile("esp-short", soft_limit=2**40, hard_limit=2**41)
    state = add_state(KernelSa(secured("esp-short"), long, *ADDRESSES[4], outbound=True))
    assert state.endswith(f"limit packet-soft {2**32 - 1} limit packet-hard {2**32 - 1}")


def test_what_is_deleted_is_what_was_added():
    for name, version in KINDS:
        for sa in kernel_sas(name, version):
            assert add_state(sa).startswith(delete_state(sa).replace("delete", "add"))
            assert add_policy(sa).startswith(delete_policy(sa.policy).replace("delete", "update"))


def test_no_key_is_shown_or_needed_to_delete():
    (sa, _) = kernel_sas("esp")
    keys = derive_keys(secured(), CHANNELS["esp"])
    for text in (repr(sa), delete_state(sa), delete_policy(sa.policy)):
        assert keys.encryption.hex() not in text
        assert secured().secret.get_secret_value() not in text


def test_what_the_kernel_cannot_do_is_refused():
    padded = profile(dummies=Dummies(mode=DummyMode.FILL, rate=1.0))
    with pytest.raises(ValueError, match="dummies"):
        KernelSa(secured(), padded, *ADDRESSES[4], outbound=True)
    with pytest.raises(ValueError, match="replay window of 4160"):
        KernelSa(secured(), profile(replay_window=4160), *ADDRESSES[4], outbound=True)
    udp = Channel(protocol=ChannelProtocol.ESP, cipher=Cipher.AES_128_GCM, encapsulation=Encapsulation.UDP)
    with pytest.raises(ValueError, match="in UDP"):
        KernelSa(secured(), profile().model_copy(update={"channel": udp}), *ADDRESSES[4], outbound=True)
    with pytest.raises(ValueError, match="family"):
        KernelSa(secured(), profile(), "192.168.1.1", "fd00::1", outbound=True)
    assert "only" in find_missing(udp)


def test_refusals_are_the_kernels_first_words_and_no_key():
    assert read_refusal("RTNETLINK answers: File exists\nCommand failed -:1\n", 2) == xfrm.EXISTS
    assert read_refusal("Error: Requested type not found.\n", 2) == "Requested type not found"
    assert read_refusal(f'Error: argument "0x{"ab" * 20}" is wrong: no\n', 255) == 'argument "0x..." is wrong: no'
    assert read_refusal("Command failed -:1\n", 2) == "ip ended with exit code 2"


def test_no_answer_and_no_program_are_reasons(tmp_path, monkeypatch):
    slow = tmp_path / "ip"
    slow.write_text("#!/bin/sh\nexec /bin/sleep 60\n")
    slow.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(xfrm, "_TIMEOUT", 0.1)
    assert run_line("xfrm state count") == NO_ANSWER
    assert find_missing(CHANNELS["esp"]) == NO_ANSWER
    slow.write_text("no program")
    assert "cannot be run" in run_line("xfrm state count")
    monkeypatch.setenv("PATH", str(tmp_path / "nowhere"))
    assert run_line("xfrm state count") == "iproute2 is not installed"


def test_what_passes_over_policies_is_found(tmp_path):
    names = ("disable_xfrm", "disable_policy", "disable_ipv6")
    for version, place, name in itertools.product((4, 6), ("all", "default", "lo", "eth0", "vti0"), names):
        path = tmp_path / f"ipv{version}" / "conf" / place / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("1\n" if place in ("lo", "default") or name == "disable_ipv6" else "0\n")
    assert find_bypass(None, tmp_path) == ""
    (tmp_path / "ipv4" / "conf" / "vti0" / "disable_policy").write_text("1\n")
    assert find_bypass(None, tmp_path) == "net.ipv4.conf.vti0.disable_policy"
    assert find_bypass("eth0", tmp_path) == ""
    (tmp_path / "ipv6" / "conf" / "all" / "disable_policy").write_text("1\n")
    assert find_bypass("eth0", tmp_path) == "net.ipv6.conf.all.disable_policy"


needs_namespace = pytest.mark.skipif(
    os.geteuid() != 0 or shutil.which("ip") is None or shutil.which("unshare") is None,
    reason="needs root, unshare and ip",
)


def ip_batch(lines: list[str]) -> str:
    """What ``ip`` says of lines, one process for each, in a namespace that goes with the last."""
    command = ["unshare", "--net", "sh", "-c", "while read -r line; do echo \"$line\" | ip -batch - 2>&1; done"]
    text = "\n".join(lines) + "\n"
    return subprocess.run(command, input=text, capture_output=True, text=True, check=False, timeout=20).stdout


@pytest.mark.live
@needs_namespace
@pytest.mark.parametrize(("name", "version"), KINDS)
def test_iproute2_takes_every_line(name, version):
    """Where the kernel lacks ESP or AH, that is all it says; where it has them, nothing."""
    sas, here = kernel_sas(name, version), ADDRESSES[version][0]
    for sa in sas:
        said = ip_batch([add_state(sa)])
        complaints = [text for text in said.splitlines() if text and not text.startswith("Command failed")]
        assert all(text.removeprefix("Error: ").rstrip(".") in MISSING for text in complaints), said
        assert "No such process" in ip_batch([delete_state(sa)]), "read, and there is none"
        assert "No such file or directory" in ip_batch([delete_policy(sa.policy)])
    policies, listing = [add_policy(sa) for sa in sas], ["xfrm policy list"]
    blocks, unblocks = block_lines(here, 6081), unblock_lines(here, 6081)
    deletes = [delete_policy(sa.policy) for sa in sas]
    assert ip_batch([*blocks, *blocks, *policies, *policies, *deletes, *unblocks, *listing]) == ""
    left = ip_batch([*blocks, *policies, *leftover_lines(here, 6081), *listing])
    assert left.count("action block") == left.count("dport 6081") == 2, "what blocks stays"


BLOCKING = """
import socket, subprocess
from nve.ipsec.xfrm import add_policy, block_lines, delete_policy, run_line, unblock_lines
from tests.nve.ipsec.test_ipsec_xfrm import kernel_sas

FAMILY, HERE, THERE, VERSION = {family}, {here!r}, {there!r}, {version}

def ip(*words): subprocess.run(["ip", *words], check=True)

def do(lines): assert [run_line(line) for line in lines] == [""] * len(lines)

def packets():
    '''Which of a datagram each way is seen: on the wire, and in the socket.'''
    sender, far = socket.socket(FAMILY, socket.SOCK_DGRAM), socket.socket(FAMILY, socket.SOCK_DGRAM)
    sender.bind((HERE, 0))
    try: sender.sendto(b"MARK-OUT", (THERE, 6081))
    except OSError: pass
    subprocess.run(["ip", "netns", "exec", "far", {python!r}, "-c", FAR], check=True)
    seen = []
    for socket_, mark in ((wire, b"MARK-OUT"), (receiver, b"MARK-IN")):
        found = False
        try:
            while True: found |= mark in socket_.recv(2000)
        except TimeoutError: pass
        seen.append(found)
    return seen

FAR = f"import socket; socket.socket({family}, socket.SOCK_DGRAM).sendto(b'MARK-IN', ('{here}', 6081))"
ip("netns", "add", "far")
ip("link", "add", "veth-here", "type", "veth", "peer", "name", "veth-far", "netns", "far")
for where, name, address in (((), "veth-here", HERE), (("-n", "far"), "veth-far", THERE)):
    ip(*where, "addr", "add", address + {bits!r}, "dev", name, *{nodad!r})
    ip(*where, "link", "set", name, "up")
wire = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
wire.bind(("veth-here", 0))
receiver = socket.socket(FAMILY, socket.SOCK_DGRAM)
receiver.bind((HERE, 6081))
for one in (wire, receiver): one.settimeout(0.5)
for _ in range(20):  # until the link is up and neighbours are known
    if packets() == [True, True]: break
else: raise SystemExit("the link does not work")
do(block_lines(HERE, 6081))
print("block", *packets())
sas = kernel_sas("esp", VERSION)
do([add_policy(sa) for sa in sas])
print("pairs", *packets())
do([delete_policy(sa.policy) for sa in sas])
print("block", *packets())
do(unblock_lines(HERE, 6081))
print("clear", *packets())
"""


@pytest.mark.live
@needs_namespace
@pytest.mark.parametrize("version", [4, 6])
def test_the_kernel_drops_what_is_in_clear(version):
    """This much of it runs on any kernel with XFRM: policies that block, and those of pairs without a state."""
    here, there = ADDRESSES[version]
    family, bits, nodad = (2, "/24", ()) if version == 4 else (10, "/64", ("nodad",))
    program = BLOCKING.format(
        family=family, here=here, there=there, version=version, python=sys.executable, bits=bits, nodad=nodad
    )
    command = ["unshare", "--net", "--mount", "sh", "-c", 'mount -t tmpfs none /run && exec "$0" -c "$1"']
    done = subprocess.run(
        [*command, sys.executable, program], capture_output=True, text=True, check=False, timeout=60
    )
    assert done.stdout.split("\n") == [
        "block False False", "pairs False False", "block False False", "clear True True", "",
    ], done.stderr  # fmt: skip


@pytest.mark.live
@needs_namespace
@pytest.mark.parametrize("name", CHANNELS)
def test_whether_the_kernel_has_it_is_found_out_and_nothing_stays(name):
    before = subprocess.run(["ip", "xfrm", "state", "count"], capture_output=True, text=True, check=True).stdout
    missing = find_missing(CHANNELS[name])
    assert missing == "" or missing in MISSING
    after = subprocess.run(["ip", "xfrm", "state", "count"], capture_output=True, text=True, check=True).stdout
    assert after == before
