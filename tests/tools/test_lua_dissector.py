"""The Wireshark dissector: every field of the security options, and what a key log decrypts."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest
from scapy.utils import wrpcap

from geneve.outer import build_datagram, build_frame
from geneve.security.association import OutboundAssociation
from geneve.security.keylog import key_log_line
from tests.geneve.make_vectors import PROFILES, associations, seal

SCRIPT = Path(__file__).parents[2] / "tools" / "geneve_security.lua"
CASES = [
    pytest.param(feature, name, id=f"{feature}: {name}")
    for feature, name in (
        ("full", "full"), ("aead", "aes-256-gcm"), ("aead", "chacha20-poly1305"), ("inner", "headers-headers"),
        ("inner", "all-headers"), ("inner", "all-none"), ("hidden-options", "egress"), ("hidden-header", "all"),
        ("padding", "multiple"), ("granularity", "flow"), ("multicast", "ed25519"), ("multicast", "merkle-3"),
    )
]  # fmt: skip


def dissect(packets: list[bytes], keylog: str, folder: Path) -> list[dict]:
    """Return tshark's JSON of the packets, dissected with the script."""
    capture, keys = folder / "packets.pcap", folder / "keys"
    keys.write_text(keylog)
    frames = [build_frame(bytes(6), bytes(6), build_datagram("192.168.1.1", "192.168.1.2", 50000, p)) for p in packets]
    wrpcap(str(capture), frames, linktype=1)
    tshark = shutil.which("tshark")
    assert tshark is not None, "tshark is missing; run 'make setup'"
    run = subprocess.run(
        [tshark, "-X", f"lua_script:{SCRIPT}", "-r", str(capture), "-T", "json", "--no-duplicate-keys"],
        capture_output=True, text=True, check=True, timeout=60, env={**os.environ, "GENEVE_KEYLOG": str(keys)},
    )  # fmt: skip
    assert "Lua" not in run.stderr or "superuser" in run.stderr, run.stderr
    return [packet["_source"]["layers"] for packet in json.loads(run.stdout)]


@pytest.mark.parametrize(("feature", "name"), CASES)
def test_fields_are_shown_and_the_inner_frame_is_decrypted(feature, name, tmp_path):
    made = dict(PROFILES[feature][1])[name]
    held = associations(made, feature)
    packets = [packet for _, packet in seal(name, made, held, feature)]
    lines = []
    for item in held:
        end = OutboundAssociation(item, made)
        flows = [number.to_bytes(4, "big") for number in (1, 2)] if made.key_granularity.value == "flow" else [b""]
        lines += [key_log_line(item, made, end, flow) for flow in flows]
    for number, layers in enumerate(dissect(packets, "\n".join(lines) + "\n", tmp_path)):
        text = json.dumps(layers)
        assert "geneve_security.spi" in text, layers
        assert "geneve_security.sequence" in text
        assert "geneve_security.tag" in text
        inner = ["10.0.0.1", "10.0.0.2"] if number % 2 == 0 else ["fd00:10::1", "fd00:10::2"]
        assert all(address in text for address in inner), "the inner frame is dissected"
        assert "geneve_security.signature" in text or feature != "multicast"
        assert "geneve_security.path" in text or name != "merkle-3"
        assert "geneve_security.true_vni" in text or feature != "hidden-header"
        assert "geneve_security.padding" in text or feature != "padding"
        assert "geneve_security.flow" in text or name != "flow"
        if feature == "hidden-options" and number == 1:
            assert b"SECRET-ONE!!".hex(":") in text


def test_without_keys_the_fields_are_shown_and_nothing_is_guessed(tmp_path):
    made = PROFILES["full"][1][0][1]
    held = associations(made, "full")
    (layers, _) = dissect([packet for _, packet in seal("full", made, held, "full")], "", tmp_path)
    text = json.dumps(layers)
    assert "geneve_security.spi" in text
    assert "10.0.0.1" not in text
    assert "No key in the key log" in text


def test_damaged_packets_and_key_logs_do_no_harm(tmp_path):
    made = PROFILES["full"][1][0][1]
    (_, packet), _ = seal("full", made, associations(made, "full"), "full")
    cut = [packet[:size] for size in (0, 3, 8, 12, 20, 39, 41)]
    flipped = [bytes([packet[0] ^ 1]) + packet[1:], packet[:11] + b"\x1f" + packet[12:]]
    dissect([*cut, *flipped, packet], "GSA spi=0x000003e8\nGSA\nnonsense\nGSA spi=x key=zz salt=1\n", tmp_path)
