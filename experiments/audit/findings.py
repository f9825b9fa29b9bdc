"""What was found in a capture, as an operator has to know it: risk, one sentence, what to do, which packets show it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from experiments.audit.classes import CILIUM, OVN, option_name
from experiments.audit.counters import Count
from experiments.audit.patterns import describe_sizes, networks_of, opaque_keys
from experiments.audit.payload import SECURED, Content
from experiments.audit.records import Seen
from experiments.audit.result import Finding, Risk, ranked
from experiments.capture_file import CaptureFile
from experiments.underlay import LINK_NAMES
from geneve.security.option import is_mechanism_option

HIGH, MEDIUM, LOW, INFORMATION = Risk

_ENCRYPT = "Encrypt between the NVEs (a Geneve security option, ESP or DTLS), or write down why tenants do it."
_AUTHENTICATE = "Authenticate between the NVEs; no filter in the underlay tells a forged packet from a true one."
_CLEAR_STATES = ("plain", "authenticated")
_REGULAR_SHOWN = 5


def find(seen: Seen, capture: CaptureFile | None = None) -> tuple[Finding, ...]:
    """Return the findings, the riskiest first; ``capture`` adds what is wrong with the file itself."""
    sources = (_contents, _information, _unprotected, _replays, _keys, _patterns, _multicast, _faults)
    found = [finding for source in sources for finding in source(seen)]
    if capture is not None:
        found += _file(seen, capture)
    return ranked(found)


def _total(counts: Iterable[Count | None]) -> Count:
    total = Count()
    for count in counts:
        if count is not None:
            total.merge(count)
    return total


def _facts(seen: Seen, *names: str) -> Count:
    return _total(seen.facts.get(name) for name in names)


def _make(
    name: str, risk: Risk, numbers: Iterable[int], text: str, action: str, count: Count | None = None
) -> Iterator[Finding]:
    """Yield a finding about the requirements ``numbers``, unless ``count`` is there and counts nothing."""
    if count is None:
        yield Finding(name, risk, tuple(f"SEC-OP-{number}" for number in numbers), text, action)
    elif count.packets:
        requirements = tuple(f"SEC-OP-{number}" for number in numbers)
        yield Finding(name, risk, requirements, text, action, count.packets, tuple(count.first))


def _content(seen: Seen, contents: Iterable[Content]) -> Count:
    return _facts(seen, *(f"content: {state}: {item.value}" for state in _CLEAR_STATES for item in contents))


def _contents(seen: Seen) -> Iterator[Finding]:
    """What of the inner packet is in clear (SEC-OP-1)."""
    yield from _make(
        "payload-in-clear", HIGH, (1,), "What tenants send to each other can be read by everybody on the path.",
        _ENCRYPT, _content(seen, [Content.CLEAR]),
    )  # fmt: skip
    yield from _make(
        "payload-too-small", MEDIUM, (1,), "Tenants' payload is not encrypted between NVEs, and too small to tell what "
        "it is.", _ENCRYPT, _content(seen, [Content.UNKNOWN]),
    )  # fmt: skip
    yield from _make(
        "payload-random", MEDIUM, (1,), "Tenants' payload has no pattern: it is encrypted by the tenant in a way that "
        "is not recognised, or only compressed.", f"Ask the tenants which. {_ENCRYPT}",
        _content(seen, [Content.RANDOM]),
    )  # fmt: skip
    yield from _make(
        "payload-authenticated-by-tenant", HIGH, (1,), "Tenants authenticate this payload themselves (AH, or ESP with "
        "a NULL cipher), and everybody on the path can read it.", _ENCRYPT, _content(seen, [Content.AUTHENTICATED]),
    )  # fmt: skip
    yield from _make(
        "tenant-key-exchange", INFORMATION, (1,), "Tenants agree on keys by IKE; that what they send is encrypted only "
        "shows where ESP is seen.", "Look for their ESP, or ask them.", _content(seen, [Content.IKE]),
    )  # fmt: skip
    names = sorted(item.value for item in SECURED if _content(seen, [item]).packets)
    yield from _make(
        "payload-secured-by-tenant", LOW, (1, 4, 6), f"Tenants protect this payload themselves ({', '.join(names)}); "
        "addresses, and mostly ports, stay in clear.",
        "Write down that encryption is delegated and why that suffices; encrypting the inner headers hides the rest.",
        _content(seen, SECURED),
    )  # fmt: skip
    headers = _total(seen.plain_states.get(state) for state in _CLEAR_STATES)
    yield from _make(
        "inner-headers-in-clear", MEDIUM, (1, 3), "Inner addresses and ports show which workloads talk, and how much.",
        _ENCRYPT, headers,
    )  # fmt: skip
    control = _total(count for name, count in seen.facts.items() if name.startswith("control: "))
    yield from _make(
        "control-in-clear", LOW, (1, 6), "The network's own packets (ARP, neighbour discovery, BFD, LLDP) are in clear "
        "inside the overlay, and tell its structure and health.", "Protect them as tenants' packets are.", control,
    )  # fmt: skip
    yield from _make(
        "unreadable", LOW, (1,), "Packets carry something that is neither a known protocol nor under a known "
        "protection.", "Find out what it is.", seen.plain_states.get("unreadable", Count()),
    )  # fmt: skip
    yield from _make(
        "only-headers-encrypted", MEDIUM, (1,), "Inner headers look encrypted, and the payload behind them does not.",
        "Check that these tenants encrypt themselves.", seen.plain_states.get("headers encrypted", Count()),
    )  # fmt: skip


def _information(seen: Seen) -> Iterator[Finding]:
    """Geneve information in clear (SEC-OP-2), and what could be changed in it (SEC-OP-5)."""
    hidden, zero = seen.facts.get("VNI hidden"), seen.networks.get(0)
    only_hidden = hidden is not None and zero is not None and zero.packets == hidden.packets
    vnis = len(seen.networks) - only_hidden
    yield from _make(
        "vni-in-clear", MEDIUM, (2, 3), f"VNIs are in clear ({vnis} seen): packets can be counted for each tenant.",
        "Evaluate what that tells; hide the VNI or encrypt whole Geneve packets where it is too much.",
        _facts(seen, "VNI shown"),
    )  # fmt: skip
    for kind, option in seen.options:
        if is_mechanism_option(*kind) or not option.packets:
            continue
        different = f"{'more than ' if option.more else ''}{len(option.values)} different"
        known = kind[0] in (OVN, CILIUM)
        bare = seen.facts.get(f"option unauthenticated: {kind[0]}:{kind[1]}")
        yield from _make(
            f"option-in-clear {kind[0]:#06x}:{kind[1]:#04x}", MEDIUM if known or bare else LOW, (2, 5),
            f"Option {option_name(kind)} travels in clear, with {different} contents"
            f"{', and nothing authenticates it' if bare is not None else ''}.",
            "Evaluate what it tells and what a changed one does; hide or authenticate it where that is too much.",
            option,
        )  # fmt: skip
    yield from _make(
        "oam-bit-unprotected", MEDIUM, (5, 6),
        "Nothing authenticates packets with the O bit, which NVEs treat as control messages.",
        _AUTHENTICATE, _facts(seen, "O bit, unprotected"),
    )  # fmt: skip
    yield from _make(
        "critical-bit-unprotected", LOW, (5,),
        "The C bit, which makes receivers drop what they do not know, can be set or cleared by anybody on the path.",
        _AUTHENTICATE, _facts(seen, "C bit, unprotected"),
    )  # fmt: skip
    ends = {end for (source, destination, _), _ in seen.talks for end in (source, destination)}
    yield from _make(
        "endpoints", INFORMATION, (2, 3), f"{len(ends)} tunnel endpoints can be told from outer addresses, whatever "
        "is encrypted.", "Nothing; know it, and keep the underlay's addresses from saying more than they must.",
    ) if ends else ()  # fmt: skip


def _unprotected(seen: Seen) -> Iterator[Finding]:
    """What nothing authenticates (SEC-OP-4 to 7)."""
    bare = _total(seen.plain_states.get(state) for state in ("plain", "unreadable"))
    yield from _make(
        "unauthenticated", HIGH, (4, 5, 6, 7), "Nothing authenticates these packets: whoever reaches an NVE's port can "
        "send into any VNI.", _AUTHENTICATE, bare,
    )  # fmt: skip
    covers = [name for name in seen.facts if name.startswith("cover: ")]
    yield from _make(
        "authenticated-in-clear", MEDIUM, (1, 2), "A channel authenticates whole Geneve packets and encrypts nothing "
        f"({', '.join(sorted(name.removeprefix('cover: ') for name in covers))}).",
        "Choose a cipher that encrypts, unless the tenants do it.", _facts(seen, *covers),
    )  # fmt: skip
    yield from _make(
        "transit-only", MEDIUM, (4, 6), "Packets carry security options for transit devices and none for the egress "
        "NVE.", "Protect them for the NVE too.", _facts(seen, "security options for transit devices only"),
    )  # fmt: skip


def _replays(seen: Seen) -> Iterator[Finding]:
    """What could be replayed, and what was seen twice (SEC-OP-8)."""
    bare = _total(seen.plain_states.get(state) for state in ("plain", "unreadable"))
    yield from _make(
        "replayable", MEDIUM, (8,), "These packets have no number that an NVE could check: a copy sent later is taken "
        "for another packet.", "Use authentication with protection against replay.", bare,
    )  # fmt: skip
    where = "a replay, a tenant that repeats itself, or a capture in two places at once"
    yield from _make(
        "identical-packets", LOW, (8,), f"Packets are identical to the last bit to an earlier one: {where}.",
        "Capture in one place, and look at those packets.", _facts(seen, "identical packets"),
    )  # fmt: skip
    yield from _make(
        "number-repeated", MEDIUM, (8,), "A sequence number was seen twice under one key: a replay, a sender that "
        "counts wrongly, or a capture in two places at once.",
        "Capture in one place; if it stays, stop: with AES-GCM a number used twice gives the key away.",
        _facts(seen, "sequence numbers seen twice"),
    )  # fmt: skip


def _keys(seen: Seen) -> Iterator[Finding]:
    """Which flows share keys as far as it shows (SEC-OP-10)."""
    options = [key for place, key in seen.keys if place[0] == "security option"]
    several = [key for key in options if len(key.vnis) > 1]
    yield from _make(
        "key-for-several-vnis", MEDIUM, (10,), f"{len(several)} SPIs serve more than one VNI, so tenants share keys.",
        "Give each VNI keys of its own, or each flow.", _total(several),
    )  # fmt: skip
    channels = [key for place, key in seen.keys if place[0] != "security option"]
    yield from _make(
        "key-for-a-pair", LOW, (10,), f"All that passes between two ends of a channel is protected alike, so VNIs and "
        f"flows share keys (channels: {len(channels)}).", "Accept it in writing, or protect flows apart.",
        _total(channels),
    )  # fmt: skip
    yield from _make(
        "project-port", INFORMATION, (), "DTLS on the port that this project uses for Geneve.", "Nothing.",
        _facts(seen, "DTLS on this project's port for Geneve"),
    )  # fmt: skip


def _patterns(seen: Seen) -> Iterator[Finding]:
    """Volumes, sizes and times (SEC-OP-3)."""
    for name, network in networks_of(seen):
        sizes = describe_sizes(network.sizes)
        if sizes.padded is False:
            yield from _make(
                f"sizes-tell VNI {name}", MEDIUM, (3,),
                f"Packets of VNI {name} have {sizes.different} different sizes, {sizes.bits:.1f} bits of information "
                "each: no padding can be seen.",
                "Evaluate what sizes tell; pad to buckets or to the largest size where that is too much.", network,
            )  # fmt: skip
    keys = [key for _, key in opaque_keys(seen)]
    for mechanism, table in sorted(seen.channel_sizes.items()):
        sizes = describe_sizes(table)
        if sizes.padded is False:
            yield from _make(
                f"sizes-tell {mechanism}", LOW, (3,),
                f"Packets in {mechanism} have {sizes.different} different sizes, {sizes.bits:.1f} bits of information "
                "each: no padding can be seen.", "Evaluate what sizes tell; ESP can pad (RFC 4303, section 2.7).",
                _total(key for name, key in opaque_keys(seen) if name == mechanism),
            )  # fmt: skip
    for packets, text, gap, first in sorted(seen.regular, reverse=True)[:_REGULAR_SHOWN]:
        count = Count()
        count.packets, count.first = packets, first
        yield from _make(
            f"regular {text}", LOW, (3,),
            f"Packets of a flow leave every {gap:.3g} s ({text}): a heartbeat, a poll, or dummy packets.",
            "Evaluate what the beat tells; dummy packets at a constant rate hide it.", count,
        )  # fmt: skip
    if seen.geneve.packets or keys:
        yield from _make(
            "volumes", INFORMATION, (3,), "Who sends how much to whom and when can be counted, see the inventory.",
            "Evaluate it; dummy packets hide volumes, nothing else does.", _total([seen.geneve, *keys]),
        )  # fmt: skip


def _multicast(seen: Seen) -> Iterator[Finding]:
    yield from _make(
        "multicast-unprotected", MEDIUM, (6, 10), "Packets to multicast groups of the underlay are not protected: any "
        "node reaches all members.", "Protect groups with keys of their own and a proof of the sender.",
        _facts(seen, "multicast, unprotected"),
    )  # fmt: skip
    yield from _make(
        "multicast-unsigned", LOW, (10,), "Packets to multicast groups have a tag, but no signature: any member of the "
        "group could have sent them.", "Have senders prove themselves.", _facts(seen, "multicast, under protection"),
    )  # fmt: skip


def _faults(seen: Seen) -> Iterator[Finding]:
    """Packets that are not as RFC 8926 has them, and those that could not be looked into."""
    for reason, count in sorted(seen.malformed.items()):
        yield from _make(
            f"malformed {reason}", MEDIUM, (5, 7), f"Packets to a Geneve port are malformed: {reason}.",
            "Find their sender: a fault, another protocol on this port, or somebody who tries receivers.", count,
        )  # fmt: skip
    yield from _make(
        "critical-bit-wrong", LOW, (5,), "The C bit contradicts the options (RFC 8926, section 3.4).",
        "Find the sender.", _facts(seen, "C bit that contradicts the options"),
    )  # fmt: skip
    yield from _make(
        "reserved-bits", LOW, (5,), "Reserved bits are set, which receivers ignore (RFC 8926, section 3.4): room for a "
        "hidden channel.", "Find the sender; authenticate the whole header.", _facts(seen, "reserved bits set"),
    )  # fmt: skip
    yield from _make(
        "fragments", LOW, (7,), "Outer packets are fragmented and were not looked into; receivers keep pieces before "
        "they can authenticate anything.", "Raise the underlay's MTU or lower the tenants'.",
        _facts(seen, "fragments of Geneve", "fragments of ESP or AH"),
    )  # fmt: skip
    yield from _make(
        "fragments-of-udp", INFORMATION, (), "Fragments of UDP without ports, or to other ports, were not looked into: "
        "Geneve may be among them.", "Nothing, or as for fragments of Geneve.",
        _facts(seen, "fragments of UDP without ports", "fragments of other UDP"),
    )  # fmt: skip


def _file(seen: Seen, capture: CaptureFile) -> Iterator[Finding]:
    """The file itself: damage, what was left out, and the bounds that were reached."""
    if capture.damage:
        yield from _make(
            "damaged-file", INFORMATION, (),
            f"The file is damaged or cut short: {capture.damage}. What stands in front "
            f"of that ({capture.read} frames) was evaluated.", "Capture again if it matters.",
        )  # fmt: skip
    cut = _facts(seen, "packets cut short by the capture", "Geneve headers cut short by the capture")
    yield from _make(
        "snaplen", INFORMATION, (), "The capture holds only the beginning of packets, so of their payload less can be "
        "said.", "Capture with 'tcpdump -s 0' if that is allowed.", cut,
    )  # fmt: skip
    strange = sorted(linktype for linktype in capture.linktypes if linktype not in LINK_NAMES)
    yield from _make(
        "link-types", INFORMATION, (), f"Frames of link types {', '.join(map(str, strange))} were not looked into.",
        "Capture on an Ethernet or IP interface.", _facts(seen, "frames of link types that are not read"),
    )  # fmt: skip
    if capture.nameless:
        yield from _make(
            "interfaces", INFORMATION, (), f"{capture.nameless} packets belong to interfaces that the file does not "
            "describe, and were left out.", "Capture again if it matters.",
        )  # fmt: skip
    lost = seen.folded + seen.networks.evicted + seen.options.evicted + seen.keys.evicted + seen.talks.evicted
    if lost:
        yield from _make(
            "bounds", INFORMATION, (), f"There was more than is kept apart ({seen.folded} flows, "
            f"{seen.networks.evicted} of VNIs, {seen.keys.evicted} of keys were counted with others); counts of single "
            "rows are lower bounds, totals are right.", "Filter the capture to look at a part.",
        )  # fmt: skip
