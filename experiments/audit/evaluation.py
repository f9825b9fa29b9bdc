"""What a capture shows of SEC-OP-1 to SEC-OP-10, and what it cannot show.

A capture has no risk analysis in it, no policy, and no key: nothing here verifies a tag. "Met" means that all packets
seen look as they would where the requirement is met; "cannot be known" is an answer, not a failure.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from experiments.audit.patterns import describe_sizes, merged, networks_of, opaque_keys
from experiments.audit.payload import AUTHENTICATING, SECURED, Content, looks_random
from experiments.audit.records import Key, Seen
from experiments.audit.result import LEVELS, Judgement, Reason, Verdict, make_judgement
from geneve.security.option import EGRESS_TYPE, GROUP_TYPE, is_mechanism_option

MET, NOT_MET, IN_PART = Verdict.MET, Verdict.NOT_MET, Verdict.IN_PART
UNKNOWN, NOT_APPLICABLE = Verdict.UNKNOWN, Verdict.NOT_APPLICABLE

_CLEAR_STATES = ("plain", "authenticated")
"""States in which the inner packet can be read."""
_READABLE = frozenset({Content.CLEAR, Content.UNKNOWN, Content.AUTHENTICATED})


def evaluate(seen: Seen) -> tuple[Judgement, ...]:
    """Return the judgements on SEC-OP-1 to SEC-OP-10, in this order."""
    if not seen.geneve.packets and not opaque_keys(seen):
        text = "The capture holds no Geneve packet that can be read, and nothing that could protect one."
        return tuple(make_judgement(name, [Reason(UNKNOWN, text)]) for name in LEVELS)
    return tuple(make_judgement(name, list(check(seen))) for name, check in _CHECKS.items())


def packets_of(seen: Seen, start: str) -> int:
    """Return how many packets the facts whose names begin with ``start`` count together."""
    return sum(count.packets for name, count in seen.facts.items() if name.startswith(start))


def unprotected(seen: Seen) -> int:
    """Return how many Geneve packets nothing authenticates, as far as it shows."""
    states = seen.plain_states
    return sum(states[state].packets for state in ("plain", "unreadable") if state in states)


def content_packets(seen: Seen, state: str, contents: Iterable[Content]) -> int:
    """Return how many packets in ``state`` carry one of ``contents``."""
    names = [f"content: {state}: {content.value}" for content in contents]
    return sum(seen.facts[name].packets for name in names if name in seen.facts)


def _share(part: int, whole: int) -> str:
    return f"{part} of {whole} Geneve packets"


def _opaque(seen: Seen) -> tuple[int, int]:
    """Return packets in channels that look encrypted, and packets in channels of which that cannot be said."""
    random = other = 0
    for mechanism, key in opaque_keys(seen):
        if mechanism in ("WireGuard", "MACsec") or looks_random(key.sample):
            random += key.packets
        else:
            other += key.packets
    return random, other


def _payload_encrypted(seen: Seen) -> Iterator[Reason]:
    """SEC-OP-1."""
    total, states = seen.geneve.packets, seen.plain_states
    clear = sum(content_packets(seen, state, _READABLE) for state in _CLEAR_STATES)
    own = sum(content_packets(seen, state, SECURED) for state in _CLEAR_STATES)
    random = sum(content_packets(seen, state, {Content.RANDOM}) for state in _CLEAR_STATES)
    bare = sum(content_packets(seen, state, {Content.EMPTY}) for state in _CLEAR_STATES)
    agreeing = sum(content_packets(seen, state, {Content.IKE}) for state in _CLEAR_STATES)
    if clear:
        text = f"{_share(clear, total)} show an inner payload that nobody encrypts."
        yield Reason(NOT_MET if clear * 2 > total - bare - agreeing else IN_PART, text)
    if own:
        text = f"{_share(own, total)} carry a tenant's own encryption; their inner headers can be read."
        yield Reason(IN_PART, text)
    if random:
        text = f"{_share(random, total)} have a payload without a pattern, encrypted by the tenant or just compressed."
        yield Reason(IN_PART, text)
    if agreeing:
        text = f"{_share(agreeing, total)} are a tenant's IKE, which agrees on keys and carries no data."
        yield Reason(IN_PART, text)
    if bare:
        yield Reason(IN_PART, f"{_share(bare, total)} have readable inner headers and no payload.")
    control = sum(packets_of(seen, f"control: {state}: ") for state in _CLEAR_STATES)
    if control:
        yield Reason(IN_PART, f"{_share(control, total)} are the network's own (ARP, BFD and the like), in clear.")
    if "headers encrypted" in states:
        text = f"In {_share(states['headers encrypted'].packets, total)}, only the inner headers look encrypted."
        yield Reason(IN_PART, text)
    if "encrypted" in states:
        yield Reason(MET, f"In {_share(states['encrypted'].packets, total)}, the inner packet is encrypted.")
    if "unreadable" in states:
        text = f"{_share(states['unreadable'].packets, total)} carry something that is not known, perhaps ciphertext."
        yield Reason(UNKNOWN, text)
    hidden, other = _opaque(seen)
    if hidden:
        text = f"{hidden} packets pass in encrypted channels; if Geneve is in them, it is encrypted."
        yield Reason(MET, text)
    if other:
        yield Reason(UNKNOWN, f"Of {other} packets in channels it cannot be said whether they are encrypted.")


def _leaks(seen: Seen) -> Iterator[Reason]:
    """SEC-OP-2."""
    shown = seen.facts.get("VNI shown")
    others = [kind for kind, option in seen.options if option.packets and not is_mechanism_option(*kind)]
    kinds = f"{len(others)} {'kind' if len(others) == 1 else 'kinds'} of options"
    clear = f"and {kinds} in clear" if others else "and no option in clear"
    if shown is not None:
        text = (
            f"{_share(shown.packets, seen.geneve.packets)} show VNI and protocol type, {clear}; whether somebody has "
            "evaluated that is in no packet."
        )
        yield Reason(UNKNOWN, text)
    elif others:
        yield Reason(UNKNOWN, f"VNIs are hidden, but packets carry {kinds} in clear; who evaluated that, none says.")
    elif seen.geneve.packets:
        yield Reason(MET, "VNI and protocol type are hidden, and no option with information travels in clear.")
    if opaque_keys(seen):
        yield Reason(MET, "Of what passes in channels, only their ends, sizes and times can be seen.")


def _patterns(seen: Seen) -> Iterator[Reason]:
    """SEC-OP-3."""
    tables = []
    for name, network in networks_of(seen):
        if set(network.states) <= {"encrypted"}:
            tables.append((f"VNI {name}", network.sizes, network.flows, network.regular))
        else:
            text = f"Packets of VNI {name} are not all encrypted, so padding would hide nothing; who evaluated that, "
            yield Reason(UNKNOWN, f"{text}none says.")
    channel = merged(seen.channel_sizes.values())
    if channel:
        keys = [key for _, key in opaque_keys(seen)]
        tables.append(("channels", channel, len(keys), sum(key.gaps.regular for key in keys)))
    for name, sizes, flows, regular in tables:
        found = describe_sizes(sizes)
        if found.padded is None:
            yield Reason(UNKNOWN, f"Too few packets of {name} ({found.packets}) to say anything of their sizes.")
        elif not found.padded:
            text = f"Packets of {name} have {found.different} sizes and are not padded; who evaluated that, none says."
            yield Reason(UNKNOWN, text)
        elif flows and regular == flows:
            yield Reason(MET, f"Packets of {name} look padded, and leave at a constant rate.")
        else:
            yield Reason(IN_PART, f"Packets of {name} look padded; that some are dummies cannot be seen.")


def _payload_authenticated(seen: Seen) -> Iterator[Reason]:
    """SEC-OP-4."""
    bare, total = unprotected(seen), seen.geneve.packets
    own = content_packets(seen, "plain", AUTHENTICATING)
    if own:
        yield Reason(IN_PART, f"{_share(own, total)} leave authentication to a protocol of the tenant's.")
    if bare - own > 0:
        text = f"{_share(bare - own, total)} have nothing that could authenticate the inner payload."
        yield Reason(NOT_MET if (bare - own) * 2 > total else IN_PART, text)
    if total - bare:
        yield Reason(MET, f"{_share(total - bare, total)} carry a tag for it; no capture tells whether it is right.")
    if opaque_keys(seen):
        yield Reason(MET, "The channels seen authenticate what they carry, unless configured not to.")


def _modification(seen: Seen) -> Iterator[Reason]:
    """SEC-OP-5."""
    bare, total, channel = unprotected(seen), seen.geneve.packets, packets_of(seen, "cover: ")
    if bare:
        text = f"Anybody on the path can change headers and options of {_share(bare, total)}; the risk is not in them."
        yield Reason(UNKNOWN, text)
    if total > bare + channel:
        share = _share(total - bare - channel, total)
        yield Reason(UNKNOWN, f"{share} have a tag; which header fields and options it covers is in no packet.")
    if opaque_keys(seen) or channel:
        yield Reason(MET, "In channels, the Geneve header and all options are authenticated.")


def _nves_authenticated(seen: Seen) -> Iterator[Reason]:
    """SEC-OP-6."""
    bare, total = unprotected(seen), seen.geneve.packets
    if bare:
        text = f"{_share(bare, total)} could come from anybody: nothing authenticates the sending NVE."
        yield Reason(NOT_MET if bare * 2 > total else IN_PART, text)
    if total - bare:
        yield Reason(MET, f"{_share(total - bare, total)} carry a tag for the receiving NVE.")
    mechanisms = {mechanism for mechanism, _ in opaque_keys(seen)}
    if mechanisms - {"MACsec"}:
        yield Reason(MET, "Channels authenticate their two ends.")
    if "MACsec" in mechanisms or packets_of(seen, "cover: MACsec"):
        yield Reason(IN_PART, "MACsec authenticates the neighbour on a link, not the NVE at the other end of the way.")


def _processing(seen: Seen) -> Iterator[Reason]:
    """SEC-OP-7."""
    bare = unprotected(seen)
    if bare:
        text = f"Whoever acts on these {bare} packets acts on data that nothing can authenticate."
        yield Reason(NOT_MET if bare * 2 > seen.geneve.packets else IN_PART, text)
    if bare < seen.geneve.packets or opaque_keys(seen):
        yield Reason(UNKNOWN, "In which order nodes verify and act, and which transit devices read, is in no packet.")


def _replay(seen: Seen) -> Iterator[Reason]:
    """SEC-OP-8."""
    bare, total = unprotected(seen), seen.geneve.packets
    if bare:
        text = f"{_share(bare, total)} have no authenticated number and can be replayed; the risk is not in them."
        yield Reason(UNKNOWN, text)
    if total - bare or opaque_keys(seen):
        repeated = seen.facts.get("sequence numbers seen twice")
        if repeated is not None:
            text = f"{repeated.packets} packets repeat a number: a replay, a sender's fault, or captured in two places."
            yield Reason(UNKNOWN, text)
        else:
            yield Reason(MET, "Protected packets are numbered, and no number was seen twice.")


def _policies(seen: Seen) -> Iterator[Reason]:
    """SEC-OP-9."""
    for name, network in networks_of(seen):
        states = sorted(state for state, count in network.states.items() if count.packets)
        if len(states) > 1:
            yield Reason(UNKNOWN, f"Flows of VNI {name} differ ({', '.join(states)}), as by a policy, or by accident.")
    yield Reason(UNKNOWN, "A policy is in no packet; compare the talks of the inventory with what it should say.")


def _keys(seen: Seen) -> Iterator[Reason]:
    """SEC-OP-10."""
    options = [(place[1], key) for place, key in seen.keys if place[0] == "security option"]
    egress = [key for kind, key in options if kind in (EGRESS_TYPE, GROUP_TYPE)]
    for key in egress:
        if len(key.vnis) > 1:
            vnis = ", ".join(str(vni) for vni in sorted(key.vnis))
            yield Reason(NOT_MET, f"One SPI serves the VNIs {vnis}.")
        if _receivers(key) > 1 or len({pair[0] for pair in key.pairs}) > 1:
            yield Reason(IN_PART, "One SPI serves several pairs of addresses.")
    if egress and all(len(key.vnis) == 1 for key in egress):
        yield Reason(UNKNOWN, "Each SPI serves one VNI; whether flows in it have keys of their own is in no packet.")
    channels = any(place[0] != "security option" for place, _ in seen.keys)
    if channels:
        yield Reason(IN_PART, "A channel has the same keys for all VNIs and flows between its ends.")
    if not egress and not channels:
        yield Reason(NOT_APPLICABLE, "Nothing is protected, so there are no keys to be distinct.")


def _receivers(key: Key) -> int:
    return len({destination for _, destination in key.pairs})


_CHECKS: dict[str, Callable[[Seen], Iterator[Reason]]] = {
    "SEC-OP-1": _payload_encrypted,
    "SEC-OP-2": _leaks,
    "SEC-OP-3": _patterns,
    "SEC-OP-4": _payload_authenticated,
    "SEC-OP-5": _modification,
    "SEC-OP-6": _nves_authenticated,
    "SEC-OP-7": _processing,
    "SEC-OP-8": _replay,
    "SEC-OP-9": _policies,
    "SEC-OP-10": _keys,
}
