"""The policy: every selector, order, direction, cache, shadowed rules."""

from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.inet6 import ICMPv6EchoRequest, IPv6
from scapy.layers.l2 import ARP, Dot1Q, Ether
from scapy.layers.sctp import SCTP

from geneve import policy as module
from geneve.control.profile import KeyGranularity, Profile
from geneve.control.rules import Action, Direction, Endpoint, Rule
from geneve.errors import ConfigError
from geneve.inner import parse_inner
from geneve.policy import DISCARD, Policy, shadowed

A, B = "02:00:00:00:00:0a", "02:00:00:00:00:0b"
ETHER = Ether(src=A, dst=B)
V4, V6 = IP(src="10.1.2.3", dst="10.9.8.7", tos=46 << 2), IPv6(src="fd00::1", dst="fd01::2", tc=46 << 2, fl=0x12345)
FRAMES = {
    "tcp": ETHER / V4 / TCP(sport=1000, dport=443),
    "udp": ETHER / V4 / UDP(sport=2000, dport=53),
    "udp, no DSCP": ETHER / IP(src="10.1.2.3", dst="10.9.8.7") / UDP(sport=2000, dport=53),
    "udp6": ETHER / V6 / UDP(sport=2000, dport=53),
    "sctp": ETHER / V4 / SCTP(sport=7, dport=9),
    "icmp": ETHER / V4 / ICMP(type=8),
    "icmp6": ETHER / V6 / ICMPv6EchoRequest(),
    "arp": Ether(src=A, dst="ff:ff:ff:ff:ff:ff") / ARP(psrc="10.1.2.3", pdst="10.9.8.7"),
    "tagged": ETHER / Dot1Q(vlan=7) / V4 / UDP(sport=2000, dport=53),
    "multicast": Ether(src=A, dst="01:00:5e:01:01:01") / IP(src="10.1.2.3", dst="239.1.1.1") / UDP(dport=53, sport=1),
}
INNER = {name: parse_inner(bytes(frame)) for name, frame in FRAMES.items()}
ALL = set(FRAMES)
WITH_IP4 = ALL - {"udp6", "icmp6", "arp"}
KIND = (0x0102, 0x11)

SELECTORS = [
    ({}, ALL),
    ({"vni": 5}, ALL),
    ({"vni": 6}, set()),
    ({"source": {"mac": A}}, ALL),
    ({"source": {"mac": B}}, set()),
    ({"destination": {"mac": B}}, ALL - {"arp", "multicast"}),
    ({"source": {"ip": "10.1.0.0/16"}}, WITH_IP4),
    ({"source": {"ip": "10.2.0.0/16"}}, set()),
    ({"source": {"ip": "fd00::/64"}}, {"udp6", "icmp6"}),
    ({"destination": {"ip": "10.9.8.7"}}, WITH_IP4 - {"multicast"}),
    ({"destination": {"ip": "fd01::2/128"}}, {"udp6", "icmp6"}),
    ({"protocol": "tcp"}, {"tcp"}),
    ({"protocol": "udp"}, {"udp", "udp, no DSCP", "udp6", "tagged", "multicast"}),
    ({"protocol": "sctp"}, {"sctp"}),
    ({"protocol": 132}, {"sctp"}),
    ({"protocol": "icmpv6"}, {"icmp6"}),
    ({"protocol": "tcp", "destination": {"port": 443}}, {"tcp"}),
    ({"protocol": "tcp", "destination": {"port": 444}}, set()),
    ({"protocol": "sctp", "source": {"port": [6, 7]}, "destination": {"port": [9, 9]}}, {"sctp"}),
    ({"protocol": "udp", "source": {"port": [2000, 2001]}}, {"udp", "udp, no DSCP", "udp6", "tagged"}),
    ({"protocol": "icmp", "icmp_type": 8}, {"icmp"}),
    ({"protocol": "icmp", "icmp_type": 0}, set()),
    ({"protocol": "icmpv6", "icmp_type": 128}, {"icmp6"}),
    ({"dscp": 46}, ALL - {"udp, no DSCP", "arp", "multicast"}),
    ({"dscp": 0}, {"udp, no DSCP", "multicast"}),
    ({"flow_label": 0x12345}, {"udp6", "icmp6"}),
    ({"flow_label": 1}, set()),
    ({"vlan": 7}, {"tagged"}),
    ({"vlan": 8}, set()),
    ({"cast": "unicast"}, ALL - {"arp", "multicast"}),
    ({"cast": "multicast"}, {"arp", "multicast"}),
    ({"option": {"option_class": 0x0102, "type": 0x11}}, ALL),
    ({"option": {"option_class": 0x0102, "type": 0x12}}, set()),
]


def rule(action: str = "bypass", **fields) -> Rule:
    import json

    return Rule.model_validate_json(json.dumps({"action": action, **fields}))


@pytest.mark.parametrize(("fields", "matching"), SELECTORS, ids=lambda value: str(value))
def test_each_selector_matches_what_it_says_and_nothing_else(fields, matching):
    made = Policy([rule(**fields)], ())
    found = {
        name
        for name, inner in INNER.items()
        if made.decide(Direction.OUT, 5, inner, frozenset({KIND})).action is Action.BYPASS
    }
    assert found == matching


def test_no_match_is_discard_and_the_first_match_decides():
    assert Policy([], ()).decide(Direction.OUT, 5, INNER["udp"], frozenset()) is DISCARD
    rules = [rule("discard", protocol="tcp"), rule("bypass", name="rest"), rule("discard")]
    made = Policy(rules, ())
    assert made.decide(Direction.OUT, 5, INNER["tcp"], frozenset()).action is Action.DISCARD
    assert made.decide(Direction.OUT, 5, INNER["udp"], frozenset()).rule == "rest"


def test_rules_have_a_direction():
    made = Policy([rule(direction="out"), rule("discard", direction="in")], ())
    assert made.decide(Direction.OUT, 5, INNER["udp"], frozenset()).action is Action.BYPASS
    assert made.decide(Direction.IN, 5, INNER["udp"], frozenset()).action is Action.DISCARD


@pytest.mark.parametrize(
    ("rules", "words"),
    [
        ([rule("secure", profile="gone")], ("rule 0", "'gone'")),
        ([rule(name="a"), rule(name="a")], ("rule 1", "'a'")),
        ([rule("secure", profile="per-rule")], ("rule 0", "name")),
    ],
)
def test_a_policy_is_refused_as_a_whole(rules, words):
    profiles = [Profile(name="per-rule", key_granularity=KeyGranularity.RULE)]
    with pytest.raises(ConfigError) as caught:
        Policy(rules, profiles)
    assert all(word in str(caught.value) for word in words)


@pytest.mark.parametrize(
    "fields",
    [
        {"source": {"port": 1}},
        {"protocol": "udp", "destination": {"port": [5, 4]}},
        {"protocol": "udp", "icmp_type": 8},
        {"source": {"ip": "10.0.0.1/8"}},
        {"vlan": 4095},
        {"profile": "p"},
        {"colour": "green"},
    ],
)
def test_rules_that_make_no_sense_cannot_be_written(fields):
    with pytest.raises(ValueError, match="1 validation error"):
        rule(**fields)


def matches(item: Rule, vni: int, inner, kinds) -> bool:
    """First principles, field by field."""

    def end(side: Endpoint, mac: bytes, ip: bytes, port: int | None) -> bool:
        if side.mac is not None and bytes.fromhex(side.mac.replace(":", "")) != mac:
            return False
        if side.ip is not None and (not ip or ipaddress.ip_address(ip) not in ipaddress.ip_network(side.ip)):
            return False
        low, high = side.port if isinstance(side.port, tuple) else (side.port, side.port)
        return low is None or (port is not None and low <= port <= high)

    plain = (
        (item.vni, vni), (item.protocol_number, inner.protocol), (item.icmp_type, inner.icmp_type),
        (item.dscp, inner.dscp), (item.flow_label, inner.flow_label), (item.vlan, inner.vlan),
    )  # fmt: skip
    many = bool(inner.destination[0] & 1)
    return (
        all(wanted is None or wanted == found for wanted, found in plain)
        and (item.cast is None or (item.cast.value == "multicast") == many)
        and (item.option is None or (item.option.option_class, item.option.type) in kinds)
        and end(item.source, inner.source, inner.source_ip, inner.source_port)
        and end(item.destination, inner.destination, inner.destination_ip, inner.destination_port)
    )


RULES = [rule(**fields) for fields, _ in SELECTORS]


@given(st.lists(st.sampled_from(RULES), max_size=6), st.data())
@settings(max_examples=200, deadline=None)
def test_the_cache_never_changes_a_decision(rules, data):
    named = [item.model_copy(update={"name": f"r{n}"}) for n, item in enumerate(rules)]
    made = Policy(named, ())
    for _ in range(6):
        inner = INNER[data.draw(st.sampled_from(sorted(INNER)))]
        kinds = data.draw(st.sampled_from([frozenset(), frozenset({KIND})]))
        vni = data.draw(st.sampled_from([5, 6]))
        expected = next((item.name for item in named if matches(item, vni, inner, kinds)), None)
        assert made.decide(Direction.IN, vni, inner, kinds).rule == expected


def test_the_cache_is_bounded_and_congestion_marks_do_not_matter(monkeypatch):
    monkeypatch.setattr(module, "MAX_FLOWS", 10)
    made = Policy([rule(protocol="udp", source={"port": [0, 65535]}, dscp=1)], ())
    for port in range(50):
        for ecn in range(4):
            frame = ETHER / IP(tos=4 | ecn) / UDP(sport=port)
            assert made.decide(Direction.OUT, 5, parse_inner(bytes(frame)), frozenset()).action is Action.BYPASS
        assert len(made._cache) <= 10
    assert len({key[-2:] for key in made._cache}) == len(made._cache), "one entry for all four marks of a flow"


SHADOWS = [
    ([{}, {"protocol": "tcp"}], True),
    ([{"protocol": "tcp"}, {}], False),
    ([{"vni": 1}, {"vni": 2}], False),
    ([{"source": {"ip": "10.0.0.0/8"}}, {"source": {"ip": "10.1.0.0/16"}}], True),
    ([{"source": {"ip": "10.1.0.0/16"}}, {"source": {"ip": "10.0.0.0/8"}}], False),
    ([{"source": {"ip": "0.0.0.0/0"}}, {"source": {"ip": "fd00::/8"}}], False),
    ([{"protocol": "tcp", "source": {"port": [1, 9]}}, {"protocol": "tcp", "source": {"port": 4}}], True),
    ([{"protocol": "tcp", "source": {"port": [1, 9]}}, {"protocol": "tcp", "source": {"port": [4, 10]}}], False),
    ([{"direction": "out"}, {}], False),
    ([{}, {"direction": "out"}], True),
]


@pytest.mark.parametrize(("rules", "expected"), SHADOWS, ids=str)
def test_a_rule_that_can_never_match_is_named_with_the_one_in_front(rules, expected):
    warnings = shadowed([rule(name=f"r{n}", **fields) for n, fields in enumerate(rules)])
    assert bool(warnings) is expected
    assert all("1 (r1)" in text and "0 (r0)" in text for text in warnings)
