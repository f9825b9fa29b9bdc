"""Rules become OpenFlow 1.3 messages that each installed framework can write, and the right ones."""

from __future__ import annotations

import importlib
from types import SimpleNamespace
from typing import Any

import pytest

from controller import openflow
from controller.flows import FlowRule, GroupEntry, Match

MATCHES = [
    Match(),
    Match(in_port=3),
    Match(eth_type=0x88CC),
    Match(in_port=3, eth_src="02:00:00:00:00:01"),
    Match(eth_dst="02:00:00:00:00:01"),
    Match(eth_type=0x0800, eth_dst="01:00:5e:3c:51:01", ip_dst="239.60.81.1"),
    Match(eth_type=0x86DD, eth_dst="33:33:00:00:00:01", ip_dst="ff05::1"),
    Match(in_port=2, eth_dst="01:00:00:00:00:00", eth_dst_mask="01:00:00:00:00:00"),
]


@pytest.fixture(params=["ryu", "os_ken"])
def datapath(request: pytest.FixtureRequest) -> Any:
    name = f"{request.param}.ofproto.ofproto_v1_3"
    pytest.importorskip(name, exc_type=ImportError)
    ofproto, parser = importlib.import_module(name), importlib.import_module(f"{name}_parser")
    return SimpleNamespace(ofproto=ofproto, ofproto_parser=parser, id=1)


def written(message: Any) -> bytes:
    message.set_xid(1)
    message.serialize()
    return bytes(message.buf)


@pytest.mark.parametrize("match", MATCHES)
def test_each_rule_says_what_it_says(datapath: Any, match: Match) -> None:
    rule = FlowRule(1, 300, match, outputs=(4, 7), controller=True, goto=2)
    message = openflow.flow_add(datapath, rule)
    assert len(written(message)) % 8 == 0
    ofproto = datapath.ofproto
    assert (message.command, message.table_id, message.priority) == (ofproto.OFPFC_ADD, 1, 300)
    actions, goto = message.instructions
    assert [action.port for action in actions.actions] == [4, 7, ofproto.OFPP_CONTROLLER]
    assert goto.table_id == 2
    expected: dict[str, Any] = {}
    for key in ("in_port", "eth_type", "eth_src", "eth_dst"):
        if getattr(match, key) is not None:
            expected[key] = getattr(match, key)
    if match.eth_dst_mask is not None:
        expected["eth_dst"] = (match.eth_dst, match.eth_dst_mask)
    if match.ip_dst is not None:
        expected["ipv6_dst" if ":" in match.ip_dst else "ipv4_dst"] = match.ip_dst
    assert dict(message.match.items()) == expected


@pytest.mark.parametrize("ports", [(3, 7), ()])
def test_a_group_is_of_type_all_with_a_bucket_for_each_port(datapath: Any, ports: tuple[int, ...]) -> None:
    entry, ofproto = GroupEntry("239.60.81.1", ports), datapath.ofproto
    message = openflow.group_add(datapath, entry)
    assert len(written(message)) == 16 + 32 * len(ports)
    assert (message.command, message.type, message.group_id) == (ofproto.OFPGC_ADD, ofproto.OFPGT_ALL, entry.group_id)
    assert [[action.port for action in bucket.actions] for bucket in message.buckets] == [[port] for port in ports]
    flow = openflow.flow_add(datapath, FlowRule(1, 250, MATCHES[5], group=entry))
    assert written(flow)
    (instruction,) = flow.instructions
    assert [action.group_id for action in instruction.actions] == [entry.group_id]


def test_deleting_a_group_names_it_and_clearing_names_all(datapath: Any) -> None:
    entry, ofproto = GroupEntry("239.60.81.1", (3,)), datapath.ofproto
    for message, number in (
        (openflow.group_delete(datapath, entry), entry.group_id),
        (openflow.group_clear(datapath), ofproto.OFPG_ALL),
    ):
        assert len(written(message)) == 16
        assert (message.command, message.group_id) == (ofproto.OFPGC_DELETE, number)


def test_a_drop_has_no_instructions(datapath: Any) -> None:
    assert openflow.flow_add(datapath, FlowRule(0, 1, Match())).instructions == []


def test_only_exactly_the_rule_is_deleted(datapath: Any) -> None:
    message = openflow.flow_delete(datapath, FlowRule(1, 300, MATCHES[4], outputs=(4,)))
    assert written(message)
    assert (message.command, message.table_id, message.priority) == (datapath.ofproto.OFPFC_DELETE_STRICT, 1, 300)
    assert dict(message.match.items()) == {"eth_dst": "02:00:00:00:00:01"}


def test_clearing_names_all_tables_and_every_rule(datapath: Any) -> None:
    message = openflow.flow_clear(datapath)
    assert written(message)
    assert (message.command, message.table_id) == (datapath.ofproto.OFPFC_DELETE, datapath.ofproto.OFPTT_ALL)
    assert dict(message.match.items()) == {}


def test_a_frame_goes_out_of_one_port(datapath: Any) -> None:
    message = openflow.packet_out(datapath, 5, b"frame")
    assert written(message).endswith(b"frame")
    assert [action.port for action in message.actions] == [5]


def test_ports_of_the_switch_itself_are_not_physical(datapath: Any) -> None:
    ofproto = datapath.ofproto
    assert openflow.is_physical(ofproto, 1)
    for number in (0, ofproto.OFPP_LOCAL, ofproto.OFPP_CONTROLLER):
        assert not openflow.is_physical(ofproto, number)


def test_a_port_is_up_unless_its_link_or_its_administrator_says_no(datapath: Any) -> None:
    ofproto = datapath.ofproto
    assert openflow.port_is_up(ofproto, SimpleNamespace(state=ofproto.OFPPS_LIVE, config=0))
    assert not openflow.port_is_up(ofproto, SimpleNamespace(state=ofproto.OFPPS_LINK_DOWN, config=0))
    assert not openflow.port_is_up(ofproto, SimpleNamespace(state=0, config=ofproto.OFPPC_PORT_DOWN))
