"""What operators do to a running network: policies in versions, revocation, rekeying, static mappings."""

from __future__ import annotations

import time
from typing import Any

import pytest

from experiments.bench import Hosts
from geneve.control.rest_client import RestError
from tests.live.streams import Stream, current_spis, wait_for
from topologies.network import Testbed

pytestmark = pytest.mark.live


def policy(testbed: Testbed) -> dict[str, Any]:
    view = testbed.rest("/v1/policy")
    return {"version": view["version"], **view["document"]}


def propose(testbed: Testbed, document: dict[str, Any]) -> int:
    body = {key: value for key, value in document.items() if key != "version"}
    return int(testbed.operate("PUT", "/v1/policy", body)["version"])


def drops(testbed: Testbed) -> dict[str, dict[str, int]]:
    return {nve: dict(testbed.stats(nve)["drops"]) for nve in testbed.scenario.nves}


def test_another_policy_costs_no_packet_of_a_flow_that_it_does_not_change(testbed: Testbed, hosts: Hosts) -> None:
    stream = Stream(hosts, "blue1", "blue3", "10.0.0.3")
    stream.wait_for_more()
    before = current_spis(testbed, "nve1", "nve3", vni=200)
    document = policy(testbed)
    document["profiles"].append({"name": "authentic", "egress": {"encrypt_inner": "none"}})
    document["policy"] = [{"name": "web", "vni": 100, "protocol": "tcp", "destination": {"port": 80},
                           "action": "secure", "profile": "authentic"}]  # fmt: skip
    document["vnis"]["100"] = {"action": "secure", "profile": "authentic"}
    version = propose(testbed, document)
    wait_for(lambda: testbed.rest("/v1/policy")["version"] == version)
    stream.wait_for_more(100)
    assert current_spis(testbed, "nve1", "nve3", vni=200) == before, "its keys are not touched"
    sent, lost = stream.stop()
    assert not lost, f"{len(lost)} of {sent}"
    red = Stream(hosts, "red1", "red3", "10.0.0.3")
    red.wait_for_more()
    listed = testbed.rest("/v1/associations")["associations"]
    assert {item["profile"] for item in listed if item["vni"] == 100} == {"authentic"}
    red.stop()


def test_a_policy_that_is_not_sound_changes_nothing(testbed: Testbed) -> None:
    before = policy(testbed)
    unknown = {**before, "policy": [{"vni": 100, "action": "secure", "profile": "nonsense"}]}
    with pytest.raises(RestError, match="nonsense"):
        propose(testbed, unknown)
    assert policy(testbed) == before


def test_a_policy_that_one_node_cannot_apply_is_in_force_nowhere(testbed: Testbed, hosts: Hosts) -> None:
    stream = Stream(hosts, "blue1", "blue3", "10.0.0.3")
    stream.wait_for_more()
    before = policy(testbed)
    # Sound by itself; but its packets would be larger than what the tenants' MTU leaves in the underlay.
    greedy = {"name": "greedy", "group": {"authenticate_inner": "none", "encrypt_inner": "none"},
              "padding": {"mode": "mtu"}}  # fmt: skip
    document = {**before, "profiles": [*before["profiles"], greedy]}
    document["vnis"] = {**before["vnis"], "200": {"action": "secure", "profile": "greedy"}}
    version = propose(testbed, document)
    wait_for(lambda: testbed.rest("/v1/policy")["rejected"] is not None)
    rejected = testbed.rest("/v1/policy")["rejected"]
    assert rejected["version"] == version
    assert "greedy" in rejected["reason"]
    assert "MTU" in rejected["reason"]
    assert policy(testbed) == before
    sent, lost = stream.stop()
    assert not lost, f"{len(lost)} of {sent}"
    assert all(node["in_step"] for node in testbed.rest("/v1/nodes")["nodes"])


def test_all_keys_are_replaced_on_demand_without_loss(testbed: Testbed, hosts: Hosts) -> None:
    stream = Stream(hosts, "blue1", "blue2", "10.0.0.2")
    stream.wait_for_more()
    seen = [current_spis(testbed, "nve1", "nve2", vni=200)]
    for _ in range(5):
        assert testbed.operate("POST", "/v1/rekey", {})["replaced"] > 0
        wait_for(lambda: current_spis(testbed, "nve1", "nve2", vni=200) != seen[-1])
        seen.append(current_spis(testbed, "nve1", "nve2", vni=200))
        stream.wait_for_more()
    assert len(set.union(*seen)) == 6
    sent, lost = stream.stop()
    assert not lost, f"{len(lost)} of {sent}"


def test_a_revoked_nve_is_heard_by_nobody_and_cannot_come_back_until_it_is_restored(
    testbed: Testbed, hosts: Hosts
) -> None:
    stream = Stream(hosts, "blue1", "blue3", "10.0.0.3")
    stream.wait_for_more()
    testbed.operate("POST", "/v1/nodes/nve3/revoke", {})
    wait_for(lambda: all(node["in_step"] for node in testbed.rest("/v1/nodes")["nodes"] if not node["revoked"]))
    time.sleep(0.2)  # what was on its way has arrived
    seen = len(stream.indices())
    time.sleep(0.5)  # the length of the observation
    assert len(stream.indices()) == seen
    listed = testbed.rest("/v1/associations")["associations"]
    assert not [item for item in listed if "nve3" in (item["sender"], item["audience"])]
    wait_for(lambda: any("it is revoked" in event["text"] for event in testbed.rest("/v1/events")["events"]))
    assert not next(node for node in testbed.rest("/v1/nodes")["nodes"] if node["name"] == "nve3")["connected"]
    testbed.operate("POST", "/v1/nodes/nve3/restore", {})
    stream.wait_for_more()
    stream.stop()


def test_a_static_mapping_of_an_operator_wins_and_can_be_taken_back(testbed: Testbed) -> None:
    path = "/v1/mappings/100/02:00:00:00:00:02"
    learned = next(item for item in testbed.rest("/v1/mappings")["mappings"] if item["vni"] == 100
                   and item["mac"] == "02:00:00:00:00:02")  # fmt: skip
    assert not learned["static"]
    testbed.operate("PUT", path, {"ips": ["10.0.0.2"], "nve": "nve1"})
    fixed = testbed.rest(path)
    assert (fixed["nve"], fixed["static"]) == ("nve1", True)
    testbed.operate("DELETE", path)
    assert testbed.rest(path) == learned, "what its NVE still reports takes its place"
