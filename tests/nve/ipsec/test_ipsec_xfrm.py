"""The lines for the kernel's own IPsec, and that iproute2 takes each of them."""

from __future__ import annotations

import os
import shutil
import subprocess

import pytest

from geneve.control.channel import Channel, ChannelProtocol, Cipher, Encapsulation
from geneve.control.profile import Dummies, DummyMode
from nve.ipsec.keys import derive_keys
from nve.ipsec.xfrm import KernelSa, add_lines, delete_lines, find_missing
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
    state, _, out, into = add_lines(kernel_sas("esp"))
    assert state == (
        "xfrm state add src 192.168.1.1 dst 192.168.1.2 proto esp spi 0x00001000 reqid 6081 mode transport "
        f"replay-window 1024 flag esn aead rfc4106(gcm(aes)) 0x{keys.encryption.hex()}{keys.salt.hex()} 128 "
        "limit packet-soft 134217728 limit packet-hard 268435456"
    )
    assert out == (
        "xfrm policy update src 192.168.1.1/32 dst 192.168.1.2/32 proto udp dport 6081 dir out "
        "tmpl src 192.168.1.1 dst 192.168.1.2 proto esp reqid 6081 mode transport level required"
    )
    assert into == (
        "xfrm policy update src 192.168.1.2/32 dst 192.168.1.1/32 proto udp dport 6081 dir in "
        "tmpl src 192.168.1.2 dst 192.168.1.1 proto esp reqid 6081 mode transport level required"
    )


def test_the_algorithms_of_the_others():
    null, _, *_ = add_lines(kernel_sas("esp-null"))
    integrity = derive_keys(secured("esp-null"), CHANNELS["esp-null"]).integrity.hex()
    assert f'enc ecb(cipher_null) "" auth-trunc hmac(sha256) 0x{integrity} 128' in null
    header, *_ = add_lines(kernel_sas("ah"))
    assert "proto ah" in header
    assert "enc" not in header
    assert "auth-trunc hmac(sha256)" in header


def test_short_numbers_need_no_window_at_the_sender_and_end_in_time():
    out, into, *_ = add_lines(kernel_sas("esp-short"))
    assert "replay-window 0 " in out
    assert "replay-window 1024 " in into
    assert "esn" not in out + into
    long = profile("esp-short", soft_limit=2**40, hard_limit=2**41)
    (state, _) = add_lines([KernelSa(secured("esp-short"), long, *ADDRESSES[4], outbound=True)])
    assert state.endswith(f"limit packet-soft {2**32 - 1} limit packet-hard {2**32 - 1}")


def test_a_pair_has_one_policy_while_its_keys_change():
    old, new = kernel_sas("esp")[:1], [KernelSa(secured(spi=0x3000), profile(), *ADDRESSES[4], outbound=True)]
    lines = add_lines(old + new)
    assert [line.split()[1:3] for line in lines] == [["state", "add"], ["state", "add"], ["policy", "update"]]


def test_what_is_deleted_is_what_was_added_and_policies_last():
    for name, version in KINDS:
        sas = kernel_sas(name, version)
        added, deleted = add_lines(sas), delete_lines(sas)
        assert [line.split()[1] for line in deleted] == ["state"] * 2 + ["policy"] * 2
        for one, other in zip(added, deleted, strict=True):
            assert one.replace("update", "add").startswith(other.replace("delete", "add"))


def test_no_key_is_shown_or_needed_to_delete():
    (sa, _) = kernel_sas("esp")
    keys = derive_keys(secured(), CHANNELS["esp"])
    for text in (repr(sa), *delete_lines([sa])):
        assert keys.encryption.hex() not in text
        assert secured().secret.get_secret_value() not in text


def test_what_the_kernel_cannot_do_is_refused():
    padded = profile(dummies=Dummies(mode=DummyMode.FILL, rate=1.0))
    with pytest.raises(ValueError, match="dummies"):
        KernelSa(secured(), padded, *ADDRESSES[4], outbound=True)
    udp = Channel(protocol=ChannelProtocol.ESP, cipher=Cipher.AES_128_GCM, encapsulation=Encapsulation.UDP)
    with pytest.raises(ValueError, match="in UDP"):
        KernelSa(secured(), profile().model_copy(update={"channel": udp}), *ADDRESSES[4], outbound=True)
    with pytest.raises(ValueError, match="family"):
        KernelSa(secured(), profile(), "192.168.1.1", "fd00::1", outbound=True)
    assert "only" in find_missing(udp)


needs_namespace = pytest.mark.skipif(
    os.geteuid() != 0 or shutil.which("ip") is None or shutil.which("unshare") is None,
    reason="needs root, unshare and ip",
)


def ip_batch(lines: list[str]) -> str:
    """What ``ip`` says of lines, each tried, in a namespace that goes with it."""
    command = ["unshare", "--net", "ip", "-force", "-batch", "-"]
    text = "\n".join(lines) + "\n"
    done = subprocess.run(command, input=text, capture_output=True, text=True, check=False, timeout=20)
    return done.stdout + done.stderr


@pytest.mark.live
@needs_namespace
@pytest.mark.parametrize(("name", "version"), KINDS)
def test_iproute2_takes_every_line(name, version):
    """Where the kernel lacks ESP or AH, that is all it says; where it has them, nothing."""
    sas = kernel_sas(name, version)
    for line in add_lines(sas):
        said = ip_batch([line])
        complaints = [text for text in said.splitlines() if text and not text.startswith("Command failed")]
        assert all(text.removeprefix("Error: ").rstrip(".") in MISSING for text in complaints), said
        if " policy " in line:
            assert not complaints
    states, policies = delete_lines(sas)[:2], delete_lines(sas)[2:]
    assert ip_batch(add_lines(sas)[2:] + policies + ["xfrm policy list"]) == ""
    for line in states:
        assert "No such process" in ip_batch([line]), "read, and there is none"


@pytest.mark.live
@needs_namespace
@pytest.mark.parametrize("name", CHANNELS)
def test_whether_the_kernel_has_it_is_found_out_and_nothing_stays(name):
    before = subprocess.run(["ip", "xfrm", "state", "count"], capture_output=True, text=True, check=True).stdout
    missing = find_missing(CHANNELS[name])
    assert missing == "" or missing in MISSING
    after = subprocess.run(["ip", "xfrm", "state", "count"], capture_output=True, text=True, check=True).stdout
    assert after == before
