"""Translates rules and frames into OpenFlow messages, and what switches count back; ``datapath`` is Ryu's or os-ken's.

OpenFlow 1.5 where the switch speaks it, else 1.3. What 1.3 lacks is a word on how a group of type SELECT chooses.
Open vSwitch 3.1 then hashes addresses, protocol and the ports of TCP, not those of UDP: all Geneve packets between two
NVEs take one path (measured: 400 flows of different UDP source ports, shares 400 and 0). With 1.5 and the extension
below it hashes the UDP ports as well, and the source port is a hash of the inner flow (RFC 8926 §3.3): the same 400
flows went 185 and 215 ways. Each switch mixes in its own number; with the same hash everywhere, the second switch
would get only flows that agree in what it looks at, and send them all one way.
"""

from __future__ import annotations

import struct
from typing import Any

from controller.fabric.counters import FlowCount, PortCount
from controller.fabric.flows import (
    COOKIE_MASK,
    COOKIES,
    ETHERTYPE_ARP,
    ETHERTYPE_IPV6,
    NEIGHBOUR_ADVERTISEMENT,
    PROTOCOL_ICMPV6,
    FlowRule,
    GroupEntry,
    Match,
)

OPENFLOW_13, OPENFLOW_15 = 4, 6
"""Version numbers on the wire."""

PACKET_IN_BYTES = 256
"""Bytes of a frame that a switch sends to the controller: a probe whole, of other frames the addresses."""

_NETRONOME, _SELECTION_METHOD, _DATAPATH_HASH = 0x0000154D, 1, b"dp_hash"
_HASH_L4 = 0
"""The datapath's hash of addresses, protocol and ports, those of UDP included."""


def port_is_up(ofproto: Any, port: Any) -> bool:
    """Whether a port description says that the port can carry frames."""
    return not (port.state & ofproto.OFPPS_LINK_DOWN or port.config & ofproto.OFPPC_PORT_DOWN)


def is_physical(ofproto: Any, number: int) -> bool:
    """Whether a port number is that of a real port, not of the switch itself."""
    return 0 < number <= int(ofproto.OFPP_MAX)


def flow_add(datapath: Any, rule: FlowRule, cookie: int = 0) -> Any:
    """Return the message that adds ``rule``, or replaces the one with the same key, under ``cookie``."""
    ofproto, parser = datapath.ofproto, datapath.ofproto_parser
    actions = [parser.OFPActionOutput(port) for port in rule.outputs]
    if rule.group is not None:
        actions.append(parser.OFPActionGroup(rule.group.group_id))
    if rule.controller:
        actions.append(parser.OFPActionOutput(ofproto.OFPP_CONTROLLER, PACKET_IN_BYTES))
    instructions = []
    if actions:
        instructions.append(parser.OFPInstructionActions(ofproto.OFPIT_APPLY_ACTIONS, actions))
    if rule.goto is not None:
        instructions.append(parser.OFPInstructionGotoTable(rule.goto))
    return parser.OFPFlowMod(
        datapath=datapath,
        command=ofproto.OFPFC_ADD,
        cookie=cookie,
        table_id=rule.table,
        priority=rule.priority,
        match=_match(parser, rule.match),
        instructions=instructions,
    )


def flow_delete(datapath: Any, rule: FlowRule) -> Any:
    """Return the message that deletes exactly ``rule``."""
    ofproto, parser = datapath.ofproto, datapath.ofproto_parser
    return parser.OFPFlowMod(
        datapath=datapath,
        command=ofproto.OFPFC_DELETE_STRICT,
        table_id=rule.table,
        priority=rule.priority,
        match=_match(parser, rule.match),
        out_port=ofproto.OFPP_ANY,
        out_group=ofproto.OFPG_ANY,
    )


def flow_sweep(datapath: Any, cookie: int) -> list[Any]:
    """Return the messages that delete the rules under every cookie of ours but ``cookie``."""
    ofproto, parser = datapath.ofproto, datapath.ofproto_parser
    return [
        parser.OFPFlowMod(
            datapath=datapath,
            command=ofproto.OFPFC_DELETE,
            cookie=other,
            cookie_mask=COOKIE_MASK,
            table_id=ofproto.OFPTT_ALL,
            out_port=ofproto.OFPP_ANY,
            out_group=ofproto.OFPG_ANY,
            match=parser.OFPMatch(),
        )
        for other in COOKIES
        if other != cookie
    ]


def flow_clear(datapath: Any) -> Any:
    """Return the message that deletes every rule of every table."""
    ofproto, parser = datapath.ofproto, datapath.ofproto_parser
    return parser.OFPFlowMod(
        datapath=datapath,
        command=ofproto.OFPFC_DELETE,
        table_id=ofproto.OFPTT_ALL,
        out_port=ofproto.OFPP_ANY,
        out_group=ofproto.OFPG_ANY,
        match=parser.OFPMatch(),
    )


def group_add(datapath: Any, entry: GroupEntry) -> Any:
    """Return the message that adds a group, one bucket for each port; one of SELECT passes over ports that are down."""
    ofproto, parser = datapath.ofproto, datapath.ofproto_parser
    kind = ofproto.OFPGT_SELECT if entry.select else ofproto.OFPGT_ALL
    if ofproto.OFP_VERSION < OPENFLOW_15:
        buckets = [
            parser.OFPBucket(
                weight=1 if entry.select else 0,
                watch_port=port if entry.select else ofproto.OFPP_ANY,
                watch_group=ofproto.OFPG_ANY,
                actions=[parser.OFPActionOutput(port)],
            )
            for port in entry.ports
        ]
        return parser.OFPGroupMod(datapath, ofproto.OFPGC_ADD, kind, entry.group_id, buckets)
    buckets = [
        parser.OFPBucket(
            bucket_id=number,
            actions=[parser.OFPActionOutput(port)],
            properties=_bucket_properties(ofproto, parser, port) if entry.select else [],
        )
        for number, port in enumerate(entry.ports)
    ]
    properties = [_selection(ofproto, parser, datapath.id)] if entry.select else []
    return parser.OFPGroupMod(
        datapath, ofproto.OFPGC_ADD, kind, entry.group_id, buckets=buckets, properties=properties
    )


def _bucket_properties(ofproto: Any, parser: Any, port: int) -> list[Any]:
    return [
        parser.OFPGroupBucketPropWeight(type_=ofproto.OFPGBPT_WEIGHT, weight=1),
        parser.OFPGroupBucketPropWatch(type_=ofproto.OFPGBPT_WATCH_PORT, watch=port),
    ]


def _selection(ofproto: Any, parser: Any, dpid: int) -> Any:
    """Return the property that names the hash (Netronome's extension, ``selection_method`` in ovs-ofctl(8))."""
    basis = dpid & 0xFFFFFFFF
    method = (*struct.unpack("!4I", _DATAPATH_HASH.ljust(16, b"\0")), _HASH_L4, basis)
    return parser.OFPGroupPropExperimenter(
        type_=ofproto.OFPGPT_EXPERIMENTER, experimenter=_NETRONOME, exp_type=_SELECTION_METHOD, data=[0, *method]
    )


def group_delete(datapath: Any, entry: GroupEntry) -> Any:
    """Return the message that deletes a group."""
    return _group_delete(datapath, entry.group_id)


def group_clear(datapath: Any) -> Any:
    """Return the message that deletes every group."""
    return _group_delete(datapath, datapath.ofproto.OFPG_ALL)


def _group_delete(datapath: Any, number: int) -> Any:
    ofproto = datapath.ofproto
    return datapath.ofproto_parser.OFPGroupMod(
        datapath, ofproto.OFPGC_DELETE, ofproto.OFPGT_ALL, number, buckets=[]
    )


def packet_out(datapath: Any, port: int, frame: bytes) -> Any:
    """Return the message that sends ``frame`` from ``port``."""
    ofproto, parser = datapath.ofproto, datapath.ofproto_parser
    origin: dict[str, Any] = {"in_port": ofproto.OFPP_CONTROLLER}
    if ofproto.OFP_VERSION >= OPENFLOW_15:
        origin = {"match": parser.OFPMatch(**origin)}
    return parser.OFPPacketOut(
        datapath=datapath,
        buffer_id=ofproto.OFP_NO_BUFFER,
        actions=[parser.OFPActionOutput(port)],
        data=frame,
        **origin,
    )


def echo_request(datapath: Any) -> Any:
    """Return the message that a live switch answers."""
    return datapath.ofproto_parser.OFPEchoRequest(datapath)


def stats_requests(datapath: Any) -> list[Any]:
    """Return the messages that ask for the counters of all rules and all ports."""
    ofproto, parser = datapath.ofproto, datapath.ofproto_parser
    if ofproto.OFP_VERSION >= OPENFLOW_15:
        flows = parser.OFPFlowDescStatsRequest(datapath)
    else:
        flows = parser.OFPFlowStatsRequest(datapath)
    return [flows, parser.OFPPortStatsRequest(datapath, 0, ofproto.OFPP_ANY)]


def flow_counts(message: Any) -> tuple[tuple[FlowCount, ...], bool]:
    """Return what a reply says of rules, and whether it has more parts."""
    ofproto = message.datapath.ofproto
    counts = []
    for stat in message.body:
        if ofproto.OFP_VERSION >= OPENFLOW_15:
            packets, size = stat.stats["packet_count"], stat.stats["byte_count"]
        else:
            packets, size = stat.packet_count, stat.byte_count
        match = {name: _plain(value) for name, value in stat.match.items()}
        counts.append(FlowCount(stat.table_id, stat.priority, match, packets, size))
    return tuple(counts), bool(message.flags & ofproto.OFPMPF_REPLY_MORE)


def port_counts(message: Any) -> tuple[PortCount, ...]:
    """Return what a reply says of real ports."""
    return tuple(
        PortCount(
            stat.port_no,
            stat.rx_packets,
            stat.tx_packets,
            stat.rx_bytes,
            stat.tx_bytes,
            stat.rx_dropped,
            stat.tx_dropped,
        )
        for stat in message.body
        if is_physical(message.datapath.ofproto, stat.port_no)
    )


def _plain(value: Any) -> str | int:
    if isinstance(value, tuple):  # a value and its mask
        return "/".join(str(part) for part in value)
    return value if isinstance(value, int) else str(value)


def _match(parser: Any, match: Match) -> Any:
    fields: dict[str, Any] = {}
    if match.in_port is not None:
        fields["in_port"] = match.in_port
    if match.eth_type is not None:
        fields["eth_type"] = match.eth_type
    if match.eth_src is not None:
        fields["eth_src"] = match.eth_src
    if match.eth_dst is not None:
        mask = match.eth_dst_mask
        fields["eth_dst"] = match.eth_dst if mask is None else (match.eth_dst, mask)
    ipv6 = match.eth_type == ETHERTYPE_IPV6
    if match.ip_dst is not None:
        fields["ipv6_dst" if ipv6 else "ipv4_dst"] = match.ip_dst
    if match.ip_src is not None:
        source = "arp_spa" if match.eth_type == ETHERTYPE_ARP else "ipv4_src"
        fields["ipv6_src" if ipv6 else source] = match.ip_src
    if match.advertisement:
        fields["ip_proto"], fields["icmpv6_type"] = PROTOCOL_ICMPV6, NEIGHBOUR_ADVERTISEMENT
    if match.nd_target is not None:
        fields["ipv6_nd_target"] = match.nd_target
    return parser.OFPMatch(**fields)
