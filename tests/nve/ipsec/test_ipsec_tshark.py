"""A third opinion: tshark decrypts and verifies what is sealed here, and finds the Geneve packet in it."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest
from scapy.utils import wrpcap

from nve.ipsec.keys import derive_keys
from tests.nve.ipsec.ipsec_support import CHANNELS, Pair, frame
from tests.nve.ipsec.test_ipsec_scapy import as_ip

FIELDS = ("geneve.vni", "udp.dstport", "esp.icv_good", "udp.checksum.status")


def dissect(folder: Path, pair: Pair, name: str, version: int, packets: list[bytes]) -> list[list[str]]:
    """Return tshark's fields of each packet; it reads the keys from a file."""
    keys = derive_keys(pair.association, CHANNELS[name])
    if keys.encryption:
        algorithms = ("AES-GCM with 16 octet ICV [RFC4106]", f"0x{(keys.encryption + keys.salt).hex()}", "NULL", "")
    else:
        algorithms = ("NULL", "", "HMAC-SHA-256-128 [RFC4868]", f"0x{keys.integrity.hex()}")
    line = (f"IPv{version}", "*", "*", "0x00001000", *algorithms)
    (folder / "esp_sa").write_text(",".join(f'"{word}"' for word in line) + "\n")
    wrpcap(str(folder / "sealed.pcap"), [bytes(as_ip(pair, packet)) for packet in packets], linktype=101)
    command = ["tshark", "-r", str(folder / "sealed.pcap"), "-T", "fields", "-E", "separator=;"]
    for preference in ("enable_encryption_decode:TRUE", "enable_authentication_check:TRUE"):
        command += ["-o", f"esp.{preference}"]
    command += ["-o", "udp.check_checksum:TRUE"]
    for field in FIELDS:
        command += ["-e", field]
    environment = {**os.environ, "WIRESHARK_CONFIG_DIR": str(folder), "HOME": str(folder)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True, timeout=60)
    return [text.split(";") for text in done.stdout.splitlines()]


@pytest.mark.skipif(shutil.which("tshark") is None, reason="tshark is not installed")
@pytest.mark.parametrize(
    ("name", "version"), [("esp-short", 4), ("esp-short", 6), ("esp-null-short", 4), ("ah-short", 4), ("ah-short", 6)]
)
def test_tshark_finds_geneve_and_a_right_icv(name, version, tmp_path):
    pair = Pair(name, version)
    packets = pair.seal(*[frame(60 + n, n) for n in range(4)])
    if "ah" not in name:
        packets.append(packets[0][:-1] + bytes([packets[0][-1] ^ 1]))
    rows = dissect(tmp_path, pair, name, version, packets)
    assert len(rows) == len(packets)
    for vni, ports, _, checksums in rows[:4]:
        assert int(vni, 0) == 100
        assert ports.split(",")[0] == "6081"
        assert checksums.split(",")[0] == ("1" if version == 6 else "3"), "good, or none"
    if "ah" not in name:
        assert [good for _, _, good, _ in rows] == ["1"] * 4 + ["0"]
