"""Rules become messages of OpenFlow 1.3 and 1.5 that each installed framework can write, and the right ones."""

from __future__ import annotations

import importlib
from types import SimpleNamespace
from typing import Any

import pytest

from controller.fabric import openflow
from controller.fabric.counters import FlowCount, PortCount
from controller.fabric.flows import FlowRule, GroupEntry, Match

MATCHES = [
    Match(),
    Match(in_port=3),
    Match(eth_type=0x88CC),
    Match(in_port=3, eth_src="02:00:00:00:00:01"),
    Match(eth_dst="02:00:00:00:00:01"),
    Match(eth_type=0x0800, eth_dst="01:00:5e:3c:51:01", ip_dst="239.60.81.1"),
    Match(eth_type=0x86DD, eth_dst="33:33:00:00:00:01", ip_dst="ff05::1"),
    Match(in_port=2, eth_dst="01:00:00:00:00:00", eth_dst_mask="01:00:00:00:00:00"),
    Match(eth_type=0x0806, ip_src="192.168.1.1"),
    Match(in_port=1, eth_type=0x0800, eth_src="02:00:00:00:00:01", ip_src="192.168.1.1"),
    Match(eth_type=0x86DD, ip_src="fd00::1"),
    Match(in_port=1, eth_type=0x86DD, advertisement=True),
    Match(eth_type=0x86DD, advertisement=True, nd_target="fd00::1"),
]


def make_datapath(framework: str, version: str) -> Any:
    name = f"{framework}.ofproto.ofproto_{version}"
    pytest.importorskip(name, exc_type=ImportError)
    ofproto, parser = importlib.import_module(name), importlib.import_module(f"{name}_parser")
    return SimpleNamespace(ofproto=ofproto, ofproto_parser=parser, id=0x1_0000_0007)


@pytest.fixture(params=["ryu v1_3", "ryu v1_5", "os_ken v1_3", "os_ken v1_5"])
def datapath(request: pytest.FixtureRequest) -> Any:
    return make_datapath(*request.param.split())


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
    if match.ip_src is not None:
        source = {0x0806: "arp_spa", 0x0800: "ipv4_src", 0x86DD: "ipv6_src"}[match.eth_type or 0]
        expected[source] = match.ip_src
    if match.advertisement:
        expected |= {"ip_proto": 58, "icmpv6_type": 136}
    if match.nd_target is not None:
        expected["ipv6_nd_target"] = match.nd_target
    assert dict(message.match.items()) == expected


@pytest.mark.parametrize("ports", [(3, 7), ()])
def test_a_group_is_of_type_all_with_a_bucket_for_each_port(datapath: Any, ports: tuple[int, ...]) -> None:
    entry, ofproto = GroupEntry("239.60.81.1", ports), datapath.ofproto
    message = openflow.group_add(datapath, entry)
    new = ofproto.OFP_VERSION == openflow.OPENFLOW_15
    assert len(written(message)) == (24 + 24 * len(ports) if new else 16 + 32 * len(ports))
    assert (message.command, message.type, message.group_id) == (ofproto.OFPGC_ADD, ofproto.OFPGT_ALL, entry.group_id)
    assert [[action.port for action in bucket.actions] for bucket in message.buckets] == [[port] for port in ports]
    flow = openflow.flow_add(datapath, FlowRule(1, 250, MATCHES[5], group=entry))
    assert written(flow)
    (instruction,) = flow.instructions
    assert [action.group_id for action in instruction.actions] == [entry.group_id]


def test_a_group_of_type_select_has_equal_buckets_that_watch_their_ports(datapath: Any) -> None:
    entry, ofproto = GroupEntry("", (3, 7), select=True), datapath.ofproto
    message = openflow.group_add(datapath, entry)
    data = written(message)
    assert (message.command, message.type) == (ofproto.OFPGC_ADD, ofproto.OFPGT_SELECT)
    assert message.group_id == entry.group_id
    if ofproto.OFP_VERSION == openflow.OPENFLOW_13:
        assert [(bucket.weight, bucket.watch_port) for bucket in message.buckets] == [(1, 3), (1, 7)]
        return
    kinds = [[(prop.type, getattr(prop, "weight", None), getattr(prop, "watch", None)) for prop in bucket.properties]
             for bucket in message.buckets]  # fmt: skip
    assert kinds == [[(ofproto.OFPGBPT_WEIGHT, 1, None), (ofproto.OFPGBPT_WATCH_PORT, None, port)] for port in (3, 7)]
    # Netronome's property (ovs-ofctl(8), selection_method): dp_hash over L4 (0), mixed with the switch's number (7).
    expected = "ffff0028" "0000154d" "00000001" "00000000" + b"dp_hash".ljust(16, b"\0").hex() + "0000000000000007"
    assert data[-40:].hex() == expected


@pytest.mark.parametrize("version", ["v1_3", "v1_5"])
@pytest.mark.parametrize("entry", [GroupEntry("239.60.81.1", (1, 2)), GroupEntry("", (1, 2, 3), select=True)])
def test_both_frameworks_write_the_same_groups(version: str, entry: GroupEntry) -> None:
    pair = [make_datapath(framework, version) for framework in ("ryu", "os_ken")]
    first, second = (written(openflow.group_add(datapath, entry)) for datapath in pair)
    assert first == second


def test_counters_are_asked_for_and_understood(datapath: Any) -> None:
    ofproto, parser = datapath.ofproto, datapath.ofproto_parser
    for request in openflow.stats_requests(datapath):
        assert written(request)
    match = parser.OFPMatch(in_port=3, eth_dst=("01:00:00:00:00:00", "01:00:00:00:00:00"))
    counts: dict[str, Any] = {"packet_count": 5, "byte_count": 700}
    stat = SimpleNamespace(table_id=1, priority=300, match=match, **counts)
    if ofproto.OFP_VERSION == openflow.OPENFLOW_15:
        stat = SimpleNamespace(table_id=1, priority=300, match=match, stats=counts)
    message = SimpleNamespace(datapath=datapath, body=[stat], flags=ofproto.OFPMPF_REPLY_MORE)
    fields = {"in_port": 3, "eth_dst": "01:00:00:00:00:00/01:00:00:00:00:00"}
    assert openflow.flow_counts(message) == ((FlowCount(1, 300, fields, 5, 700),), True)
    names = ("port_no", "rx_packets", "tx_packets", "rx_bytes", "tx_bytes", "rx_dropped", "tx_dropped")
    ports = [SimpleNamespace(**dict(zip(names, range(start, start + 7), strict=True))) for start in (2, 0xFFFFFFFE)]
    answer = SimpleNamespace(datapath=datapath, body=ports, flags=0)
    assert openflow.port_counts(answer) == (PortCount(2, 3, 4, 5, 6, 7, 8),), "the switch's own port is left out"


def test_deleting_a_group_names_it_and_clearing_names_all(datapath: Any) -> None:
    entry, ofproto = GroupEntry("239.60.81.1", (3,)), datapath.ofproto
    for message, number in (
        (openflow.group_delete(datapath, entry), entry.group_id),
        (openflow.group_clear(datapath), ofproto.OFPG_ALL),
    ):
        assert len(written(message)) == (24 if ofproto.OFP_VERSION == openflow.OPENFLOW_15 else 16)
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
