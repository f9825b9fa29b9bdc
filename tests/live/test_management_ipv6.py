"""The management network is out of reach of an IPv6 underlay too.

A module of its own: one network at a time, and the module's network lasts as long as the module.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.live.conftest import make_testbed
from tests.live.test_management import answers
from topologies.network import Testbed
from topologies.plan import MANAGEMENT_NVA, NVA_PORT

pytestmark = pytest.mark.live


def accepts_from_underlay(testbed: Testbed, address: str, source: str) -> bool:
    """Whether the NVA's kernel would take a packet for ``address`` that comes from the underlay."""
    interface = next(end.interface for end in testbed.plan.ends("nva"))
    argv = ["ip", "route", "get", address, "from", source, "iif", interface]
    return testbed.node("nva").run(argv, timeout=10, check=False).returncode == 0


def test_the_same_holds_on_an_ipv6_underlay(tmp_path: Path) -> None:
    with make_testbed("small-ipv6", tmp_path) as testbed:
        # Nobody has an IPv4 address there, but an attacker may give itself one and need no answer.
        assert not accepts_from_underlay(testbed, MANAGEMENT_NVA, "10.9.9.9")
        assert not accepts_from_underlay(testbed, MANAGEMENT_NVA, "10.255.0.1")
        addresses = testbed.plan.underlay_addresses
        assert accepts_from_underlay(testbed, addresses["nva"], addresses["mallory"]), "the control"
        assert answers(testbed, "mallory", addresses["nva"], NVA_PORT)
        assert testbed.rest("/v1/topology")["complete"]
