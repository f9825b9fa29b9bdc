"""Keys on demand, moving tenants, and the death of NVA and NVE, with traffic under way all the time."""

from __future__ import annotations

import json

import pytest

from experiments.bench import Hosts
from experiments.traffic import parse_message
from tests.live.streams import Stream, converged, current_spis, wait_for
from topologies.network import Testbed

pytestmark = pytest.mark.live


def test_keys_are_made_for_those_who_talk_and_the_first_packet_arrives(testbed: Testbed, hosts: Hosts) -> None:
    before = {(item["sender"], item["audience"]) for item in testbed.rest("/v1/associations")["associations"]
              if item["vni"] == 200}  # fmt: skip
    assert ("nve1", "nve2") not in before, "blue has not talked yet"
    log = hosts.receiver("blue2")
    order = {"do": "send", "label": "first", "trial": 0, "sizes": [100], "interval": 0.01, "destination": "10.0.0.2"}
    hosts.sender("blue1").ask(order)
    wait_for(lambda: log.exists() and "first" in str([parse_message(bytes.fromhex(json.loads(line)["payload"]))
                                                       for line in log.read_text().splitlines()]))  # fmt: skip
    assert len(current_spis(testbed, "nve1", "nve2")) >= 1
    pairs = {(item["sender"], item["audience"]) for item in testbed.rest("/v1/associations")["associations"]
             if item["vni"] == 200}  # fmt: skip
    assert ("nve3", "nve1") not in pairs, "a pair that does not talk has no keys"


def test_the_data_plane_goes_on_while_the_nva_is_dead_and_keys_come_back_from_the_store(
    testbed: Testbed, hosts: Hosts
) -> None:
    stream = Stream(hosts, "red1", "red3", "10.0.0.3")
    stream.wait_for_more()
    before = current_spis(testbed, "nve1", "nve3")
    assert before
    mappings = testbed.rest("/v1/mappings")
    testbed.kill_daemon("controller")
    stream.wait_for_more(250)
    testbed.restart_daemon("controller")
    wait_for(lambda: converged(testbed))
    assert current_spis(testbed, "nve1", "nve3") == before, "no key was lost, none was made anew"
    assert testbed.rest("/v1/mappings") == mappings
    kinds = [entry["text"] for entry in testbed.rest("/v1/events")["events"] if entry["kind"] == "registered"]
    assert any("the same process" in text for text in kinds)
    sent, lost = stream.stop()
    assert not lost, f"{len(lost)} of {sent}"


def test_a_killed_nve_comes_back_as_another_process_and_its_peers_drop_what_it_had(
    testbed: Testbed, hosts: Hosts
) -> None:
    stream = Stream(hosts, "red1", "red3", "10.0.0.3")
    stream.wait_for_more()
    before = current_spis(testbed, "nve1", "nve3")
    testbed.kill_daemon("nve3")
    testbed.restart_daemon("nve3")
    stream.wait_for_more()
    after = current_spis(testbed, "nve1", "nve3")
    assert after
    assert not before & after
    stream.stop()


def test_a_tenant_moves_while_it_is_talked_to(testbed: Testbed, hosts: Hosts) -> None:
    stream = Stream(hosts, "red1", "red3", "10.0.0.3")
    stream.wait_for_more()
    for nve in ("nve2", "nve3"):
        testbed.move_host("red3", nve)
        stream.wait_for_more(100)
        (place,) = [item["nve"] for item in testbed.rest("/v1/mappings")["mappings"]
                    if item["vni"] == 100 and "10.0.0.3" in item["ips"]]  # fmt: skip
        assert place == nve
    sent, lost = stream.stop()
    assert len(lost) < 250, f"a second at most for two moves: {len(lost)} of {sent}"


def test_a_tenant_that_has_moved_survives_the_restart_of_both_nves(testbed: Testbed, hosts: Hosts) -> None:
    home = testbed.nve_of("red3")
    testbed.move_host("red3", "nve2")
    stream = Stream(hosts, "red1", "red3", "10.0.0.3")
    stream.wait_for_more()
    for nve in ("nve3", "nve2"):
        testbed.kill_daemon(nve)
        testbed.restart_daemon(nve)
        testbed.announce("red3")
        stream.wait_for_more()
    stream.stop()
    testbed.move_host("red3", home)
