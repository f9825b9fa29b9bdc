"""Group policy on the emulated network: permitted pairs talk, others do not, false tags do not help."""

from __future__ import annotations

import struct
import time
from collections.abc import Iterator

import pytest

from tests.live.conftest import make_testbed
from tests.live.test_mechanism_live import pings
from topologies.network import Testbed

pytestmark = pytest.mark.live


@pytest.fixture(scope="module")
def firewall(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Testbed]:
    with make_testbed("group-policy", tmp_path_factory.mktemp("run")) as testbed:
        yield testbed


@pytest.mark.parametrize("tenant", ["show", "hide", "bare"])
def test_group_policy_lets_permitted_pairs_talk_and_no_others(firewall: Testbed, tenant: str) -> None:
    before = firewall.stats("t1")["drops"]["tag_denied"]
    assert " 0% packet loss" in pings(firewall, f"{tenant}1", "10.0.0.2"), "client and server"
    assert " 100% packet loss" in pings(firewall, f"{tenant}1", "10.0.0.3"), "client and other"
    assert firewall.stats("t1")["drops"]["tag_denied"] >= before + 3


def raw_geneve(testbed: Testbed, packet: bytes, source: str, destination: str) -> None:
    """Send a Geneve packet from eve's namespace as if it came from ``source``, into the link towards nve1."""
    from geneve.outer import build_datagram, build_frame

    target = next(end for end in testbed.plan.ends("nve1") if end.addresses)
    frame = build_frame(
        bytes.fromhex("02608101fefe"),
        bytes.fromhex(target.mac.replace(":", "")),
        build_datagram(source, destination, 50000, packet),
    )
    code = (
        "import socket,sys; s=socket.socket(socket.AF_PACKET, socket.SOCK_RAW); "
        "s.bind((sys.argv[1], 0)); s.send(bytes.fromhex(sys.argv[2]))"
    )
    interface = testbed.interface("eve", "t2")
    testbed.node("eve").run(["python3", "-c", code, interface, frame.hex()], timeout=10)


def plain_packet(vni: int, tag: bytes) -> bytes:
    inner = bytes.fromhex("020000000001020000000003") + b"\x08\x00" + b"\x45" + bytes(40)
    return struct.pack("!BBHI", len(tag) // 4, 0, 0x6558, vni << 8) + tag + inner


@pytest.mark.parametrize(
    ("vni", "tag", "outcome"),
    [
        (161, "ff600601" "0014000a", "tag_missing"),
        (161, "", "tag_missing"),
        (162, "ff600601" "0014000a", "tag_missing"),
        (163, "", "tag_missing"),
        (163, "ff600601" "001e000a", "tag_denied"),
    ],
    ids=["forged", "stripped", "forged where tags are hidden", "no tag, unprotected", "denied pair, unprotected"],
)
def test_forged_and_missing_tags_are_dropped_by_the_device(
    firewall: Testbed, vni: int, tag: str, outcome: str
) -> None:
    before = firewall.stats("t1")["drops"][outcome]
    raw_geneve(firewall, plain_packet(vni, bytes.fromhex(tag)), "192.168.1.2", "192.168.1.1")
    deadline = time.monotonic() + 3
    while firewall.stats("t1")["drops"][outcome] == before and time.monotonic() < deadline:
        time.sleep(0.05)
    assert firewall.stats("t1")["drops"][outcome] == before + 1


def test_without_protection_a_forged_tag_gets_through(firewall: Testbed) -> None:
    """The control: in the unprotected tenant the device believes whatever the packet says."""
    before = firewall.stats("t1")["counters"]["permitted"]
    raw_geneve(firewall, plain_packet(163, bytes.fromhex("ff6006010014000a")), "192.168.1.2", "192.168.1.1")
    deadline = time.monotonic() + 3
    while firewall.stats("t1")["counters"]["permitted"] == before and time.monotonic() < deadline:
        time.sleep(0.05)
    assert firewall.stats("t1")["counters"]["permitted"] > before
