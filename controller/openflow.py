"""Translates rules and frames into OpenFlow 1.3 messages; ``datapath`` is Ryu's or os-ken's."""

from __future__ import annotations

from typing import Any

from controller.fabric import ETHERTYPE_IPV6, FlowRule, GroupEntry, Match

PACKET_IN_BYTES = 256
"""Bytes of a frame that a switch sends to the controller: a probe whole, of other frames the addresses."""


def port_is_up(ofproto: Any, port: Any) -> bool:
    """Whether a port description says that the port can carry frames."""
    return not (port.state & ofproto.OFPPS_LINK_DOWN or port.config & ofproto.OFPPC_PORT_DOWN)


def is_physical(ofproto: Any, number: int) -> bool:
    """Whether a port number is that of a real port, not of the switch itself."""
    return 0 < number <= int(ofproto.OFPP_MAX)


def flow_add(datapath: Any, rule: FlowRule) -> Any:
    """Return the message that adds ``rule``, or replaces the one with the same key."""
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
    """Return the message that adds a group of type ALL, one bucket for each port."""
    ofproto, parser = datapath.ofproto, datapath.ofproto_parser
    buckets = [
        parser.OFPBucket(
            watch_port=ofproto.OFPP_ANY, watch_group=ofproto.OFPG_ANY, actions=[parser.OFPActionOutput(port)]
        )
        for port in entry.ports
    ]
    return parser.OFPGroupMod(datapath, ofproto.OFPGC_ADD, ofproto.OFPGT_ALL, entry.group_id, buckets)


def group_delete(datapath: Any, entry: GroupEntry) -> Any:
    """Return the message that deletes a group."""
    ofproto, parser = datapath.ofproto, datapath.ofproto_parser
    return parser.OFPGroupMod(datapath, ofproto.OFPGC_DELETE, ofproto.OFPGT_ALL, entry.group_id, [])


def group_clear(datapath: Any) -> Any:
    """Return the message that deletes every group."""
    ofproto, parser = datapath.ofproto, datapath.ofproto_parser
    return parser.OFPGroupMod(datapath, ofproto.OFPGC_DELETE, ofproto.OFPGT_ALL, ofproto.OFPG_ALL, [])


def packet_out(datapath: Any, port: int, frame: bytes) -> Any:
    """Return the message that sends ``frame`` from ``port``."""
    ofproto, parser = datapath.ofproto, datapath.ofproto_parser
    return parser.OFPPacketOut(
        datapath=datapath,
        buffer_id=ofproto.OFP_NO_BUFFER,
        in_port=ofproto.OFPP_CONTROLLER,
        actions=[parser.OFPActionOutput(port)],
        data=frame,
    )


def echo_request(datapath: Any) -> Any:
    """Return the message that a live switch answers."""
    return datapath.ofproto_parser.OFPEchoRequest(datapath)


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
    if match.ip_dst is not None:
        fields["ipv6_dst" if match.eth_type == ETHERTYPE_IPV6 else "ipv4_dst"] = match.ip_dst
    return parser.OFPMatch(**fields)
