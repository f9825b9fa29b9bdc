"""What NVEs put on a wire and hand to tenants has right checksums, whatever was left to whom on the way."""

from __future__ import annotations

import pytest

from tests.live.inside import run_inside

DATAGRAMS = 177
"""Of each IP version, whole lots and single ones."""


@pytest.mark.live
def test_checksums_outside_and_inside_are_right_and_every_packet_fits() -> None:
    document = run_inside("checksums_inside")
    for run in document["runs"]:
        wire, tenant = run["wire"], run["tenant"]
        assert all(run["arrived"].values()), run["arrived"]
        assert not wire["faults"], wire["faults"][:9]
        assert not tenant["faults"], tenant["faults"][:9]
        assert (wire["largest"], tenant["largest"]) == (1500, run["mtu"]), "full, and no larger than fits"
        assert wire["numbers"] in (None, wire["packets"]), "each packet has a number of its own"
        for frames in (wire["inner"], tenant["frames"]):
            assert frames["udp4"] == frames["udp6"] == DATAGRAMS
            assert min(frames["tcp4"], frames["tcp6"]) > 1000
        assert not any(run["kernel"].values()), run["kernel"]
        assert not any(any(drops.values()) for drops in run["drops"].values())
        for states in run["offloads"].values():
            assert {states[name] for name in ("tso", "merge", "udp_segment", "udp_gro")} == {"on"}
        # The kernel left segments whole to the sender's NVE, and the receiver's put them together again.
        assert run["from_kernel"] < wire["packets"] / 2
        assert run["to_kernel"] < wire["packets"]
    unfinished = document["unfinished"]
    assert all(unfinished["arrived"].values())
    assert unfinished["wire"]["faults"], "the judge sees what is not finished"
    assert unfinished["wire"]["largest"] > 1500
    assert not any(unfinished["kernel"].values())
