"""SEC-GEN-1, 2, 4: what of the inner frame and of the base header can be read on the way."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from experiments.mechanism.evidence import Evidence
from experiments.mechanism.probe import MUST, SHOULD, Finding, Probe
from experiments.mechanism.probes.common import (
    INNER_HEADERS,
    arrives,
    enough,
    marked,
    numbers,
    own,
    with_bytes,
)
from geneve.control.profile import InnerCoverage, Profile
from geneve.header import ETHERTYPE_HIDDEN, ETHERTYPE_TEB
from geneve.packet import Packet

if TYPE_CHECKING:
    from experiments.mechanism.live import Bench

SCENARIO = "mechanism-confidentiality"
_SIZE, _COUNT = 300, 8
_INNER = bytes.fromhex("0200000000020200000000010800")
"""Ethernet header of every frame from the first host of a tenant to its second."""
_FILL = b"abcdefghijklmnopqrstuvwxyz" * 4
"""What messages are filled with, behind a mark that may fall into the encrypted headers' last unit."""


def clear(profile: Profile) -> Profile:
    """Encrypt nothing of the inner frame."""
    return profile.model_copy(
        update={"egress": profile.egress.model_copy(update={"encrypt_inner": InnerCoverage.NONE})}
    )


def _burst(first: str, second: str) -> Callable[[Bench], dict[str, object]]:
    def act(bench: Bench) -> dict[str, object]:
        return {"arrived": bench.burst(first, second, [_SIZE] * _COUNT)}

    return act


def judge_payload(evidence: Evidence) -> list[Finding]:
    """SEC-GEN-1: nothing of the tenant's data can be read."""
    packets = own(evidence, "nve1", _SIZE + INNER_HEADERS)
    readable = marked(packets) or [seen for seen in packets if _INNER in seen.raw]
    reason = f"{len(packets)} packets of the tenant, data or inner addresses readable in {len(readable)}"
    statement = "the inner payload is encrypted, headers and data"
    return [
        Finding(statement, enough(packets, _COUNT) and not readable, reason, numbers(readable or packets)),
        arrives(evidence, "pay1", "pay2"),
    ]


def judge_headers(evidence: Evidence) -> list[Finding]:
    """SEC-GEN-2: headers hidden, and only they."""
    packets = own(evidence, "nve1", _SIZE + INNER_HEADERS)
    hidden = [seen for seen in packets if _INNER not in seen.raw]
    readable = with_bytes(packets, _FILL)
    return [
        Finding(
            "the inner headers are encrypted",
            enough(packets, _COUNT) and hidden == packets,
            f"inner MAC addresses readable in {len(packets) - len(hidden)} of {len(packets)} packets",
            numbers(packets),
        ),
        Finding(
            "what follows the inner headers is left as the tenant sent it",
            enough(packets, _COUNT) and readable == packets,
            f"the message's filling can be read in {len(readable)} packets",
            numbers(readable),
        ),
        arrives(evidence, "head1", "head2"),
    ]


def judge_vni(evidence: Evidence) -> list[Finding]:
    """SEC-GEN-4: VNI and protocol type hidden, the rest in clear."""
    packets = own(evidence, "nve1", _SIZE + INNER_HEADERS)
    clear = [(seen, seen.packet) for seen in packets if seen.packet is not None]
    constant = [s for s, p in clear if (p.header.vni, p.header.protocol_type) == (0, ETHERTYPE_HIDDEN)]
    hidden = [seen for seen in packets if seen.packet is None or seen in constant]
    true = [s for s, p in clear if _as_sent(p)]
    return [
        Finding(
            "VNI and protocol type cannot be read",
            enough(packets, _COUNT) and hidden == packets,
            f"of {len(packets)} packets {len(constant)} show constants (VNI 0, protocol type "
            f"{ETHERTYPE_HIDDEN:#06x}) and {len(packets) - len(clear)} no Geneve header at all",
            numbers(packets),
        ),
        Finding(
            "the fields that were not chosen stay in clear (Opt Len, C, version, O)",
            enough(packets, _COUNT) and true == packets,
            f"in {len(true)} of {len(packets)} packets they are as the ingress NVE has to set them: Opt Len the length "
            "of the options, C if one of them is critical, version and O 0",
            numbers(true or packets),
        ),
        arrives(evidence, "vni1", "vni2"),
    ]


def _as_sent(packet: Packet) -> bool:
    """Whether fields say what they say of such a packet without any protection (RFC 8926, section 3.4)."""
    header, options = packet.header, packet.options
    length, critical = sum(option.size for option in options), any(option.type & 0x80 for option in options)
    return header.opt_len == length and header.critical == critical and not header.oam


def judge_header(evidence: Evidence) -> list[Finding]:
    """SEC-GEN-4: every field hidden, the length of the options included."""
    packets = own(evidence, "nve1", _SIZE + INNER_HEADERS)
    headers = {seen.packet.header for seen in packets if seen.packet is not None}
    opaque = [seen for seen in packets if seen.packet is None]
    constant = all(h.vni == 0 and h.protocol_type != ETHERTYPE_TEB and h.opt_len == 128 for h in headers)
    return [
        Finding(
            "no field of the header can be read: all are constants, Opt Len 128 bytes too, or ciphertext",
            enough(packets, _COUNT) and ((len(headers) == 1 and constant and not opaque) or opaque == packets),
            f"{len(opaque)} of {len(packets)} packets show no header"
            + (f", the others {', '.join(sorted(header.build().hex() for header in headers))}" if headers else ""),
            numbers(packets),
        ),
        arrives(evidence, "hid1", "hid2"),
    ]


def show_header(profile: Profile) -> Profile:
    """Hide no field of the header."""
    return profile.model_copy(update={"hidden_header": frozenset(), "options_size": None, "devices": {}})


PROBES = (
    Probe(1, MUST, "payload", SCENARIO, "payload", _burst("pay1", "pay2"), judge_payload, clear),
    Probe(2, SHOULD, "headers", SCENARIO, "headers", _burst("head1", "head2"), judge_headers, clear),
    Probe(4, MUST, "some-fields", SCENARIO, "vni", _burst("vni1", "vni2"), judge_vni, show_header),
    Probe(4, MUST, "all-fields", SCENARIO, "header", _burst("hid1", "hid2"), judge_header, show_header),
)
