"""The transit device's relay on real interfaces, in namespaces that vanish with the test."""

from __future__ import annotations

import pytest

from tests.live.inside import run_inside


@pytest.mark.live
def test_frames_cross_the_transit_device_bit_for_bit() -> None:
    document = run_inside("relay_inside")
    assert document["exit_codes"] == [0, 0]
    assert not document["left_behind"]
    assert not any(document["drops"].values())
    assert document["interfaces"]["a1"]["interface_down"] >= 1, "the outage was seen and survived"
    # Four sealed packets each way and after the link's return; the same packets again are replays.
    assert document["counters"]["exported"] == 4
    assert document["counters"]["replayed"] == 8
    assert [record["flow"] for record in document["records"]] == [0, 1, 2, 3]
    for record in document["records"]:
        assert (record["device"], record["sender"]) == ("t1", "nve1")
        assert 0 < record["egress_ns"] - record["ingress_ns"] < 10**9


@pytest.mark.live
def test_datagrams_that_stand_for_many_cross_two_devices_whole_and_leave_as_the_packets_that_were_meant() -> None:
    document = run_inside("relay_whole_inside")
    assert not document["faults"]
    for run, state, received in (("whole", "on", 8), ("wire", "on", 6), ("plain", "off", 99)):
        for device in document[run]:
            assert device["offloads"] == {"vnet_header": state}
            assert not any(device["drops"].values())
            assert sum(port["received"] for port in device["interfaces"].values()) == received
            counters = device["counters"]
            # 47 packets from the sender's address; IPv6 is another one's, and 45 have nothing for the device.
            assert counters["verified"] == counters["authenticated"] == 47
            assert (counters["source_mismatch"], counters["datagrams_cut"]) == (7, 0)
