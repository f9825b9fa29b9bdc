"""One connection of a switch cannot replace another that is alive; a switch that comes back gets in."""

from __future__ import annotations

import contextlib
import socket
import struct
import subprocess
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from topologies.network import Testbed
from topologies.plan import MANAGEMENT_NVA, OPENFLOW_PORT

pytestmark = pytest.mark.live

_HELLO, _FEATURES_REQUEST, _FEATURES_REPLY, _MULTIPART_REQUEST, _MULTIPART_REPLY = 0, 5, 6, 18, 19
UNKNOWN_SWITCH = 0xBAD


def message(kind: int, xid: int, body: bytes = b"") -> bytes:
    return struct.pack("!BBHI", 4, kind, 8 + len(body), xid) + body


def pose_as_switch(dpid: int, patience: float) -> bool:
    """Connect as a switch that has no ports and answers no echo; whether the controller ended the connection."""
    with socket.create_connection((MANAGEMENT_NVA, OPENFLOW_PORT), timeout=patience) as connected:
        stream = connected.makefile("rb")
        connected.sendall(message(_HELLO, 1))
        with contextlib.suppress(TimeoutError):
            while len(head := stream.read(8)) == 8:
                _, kind, size, xid = struct.unpack("!BBHI", head)
                body = stream.read(size - 8)
                if kind == _FEATURES_REQUEST:
                    reply = struct.pack("!QIBBHII", dpid, 0, 254, 0, 0, 0, 0)
                    connected.sendall(message(_FEATURES_REPLY, xid, reply))
                elif kind == _MULTIPART_REQUEST:
                    connected.sendall(message(_MULTIPART_REPLY, xid, body[:2] + bytes(6)))
            return True
        return False


def ovs_vsctl(*arguments: str) -> None:
    subprocess.run(["ovs-vsctl", *arguments], check=True, timeout=20)


def connected(testbed: Testbed, name: str) -> bool:
    switches = testbed.rest("/v1/topology")["switches"]
    return any(switch["name"] == name and switch["connected"] for switch in switches)


def until(condition: Callable[[], bool], seconds: float = 20.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def links_news(testbed: Testbed) -> int:
    return sum("link " in event["text"] for event in testbed.rest("/v1/events")["events"])


def test_a_second_connection_of_a_live_switch_is_refused(small_testbed: Testbed) -> None:
    before = links_news(small_testbed)
    assert pose_as_switch(small_testbed.plan.datapath_ids["s1"], patience=10)
    assert small_testbed.rest("/v1/topology")["complete"]
    assert links_news(small_testbed) == before, "no link went down meanwhile"
    assert not pose_as_switch(UNKNOWN_SWITCH, patience=1), "the control: it is kept where it replaces none"


def test_a_silent_connection_gives_way_to_the_switch_itself(small_testbed: Testbed) -> None:
    """As when the switch's old connection is dead and nobody noticed."""
    target = f"tcp:{MANAGEMENT_NVA}:{OPENFLOW_PORT}"
    ovs_vsctl("del-controller", "s1")
    until(lambda: not connected(small_testbed, "s1"))
    with ThreadPoolExecutor(1) as pool:
        ended = pool.submit(pose_as_switch, small_testbed.plan.datapath_ids["s1"], 30)
        until(lambda: connected(small_testbed, "s1"))
        ovs_vsctl("set-controller", "s1", target, "--", "set", "controller", "s1", "max_backoff=1000")
        assert ended.result()
    until(lambda: small_testbed.rest("/v1/topology")["complete"])
