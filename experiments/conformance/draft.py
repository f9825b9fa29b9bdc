"""What draft-mglt-nvo3-geneve-security-requirements-06 asks for, and what its appendix says of DTLS and IPsec.

Transcribed from the draft's text: levels and requirements from section 5, letters from sections 8.1.1, 8.1.2, 8.2.1 and
8.2.2. Titles and reasons are our own short words. The appendix calls itself not normative.
"""

from __future__ import annotations

from dataclasses import dataclass

YES, NO, DEPENDS = "Y", "N", "Y/N"
LETTERS = (YES, NO, DEPENDS)
MUST, SHOULD, SHOULD_NOT = "MUST", "SHOULD", "SHOULD NOT"

GEN, OP = "SEC-GEN", "SEC-OP"
DTLS, IPSEC = "DTLS", "IPsec"


@dataclass(frozen=True, slots=True)
class Requirement:
    """One requirement: its name, its level, the section that states it, and what it asks for in a few words."""

    name: str
    level: str
    section: str
    title: str

    @property
    def series(self) -> str:
        """SEC-GEN or SEC-OP."""
        return self.name.rpartition("-")[0]

    @property
    def number(self) -> int:
        """The number within its series."""
        return int(self.name.rpartition("-")[2])


@dataclass(frozen=True, slots=True)
class Judgement:
    """One cell of the appendix: its letter, where it stands, and why in the draft's view.

    ``remark`` is about the cell's text, where its letter, its words and the requirement do not go together.
    """

    letter: str
    section: str
    reasoning: str
    remark: str = ""


REQUIREMENTS: tuple[Requirement, ...] = (
    Requirement("SEC-GEN-1", MUST, "5.1.2", "encrypt the inner payload"),
    Requirement("SEC-GEN-2", SHOULD, "5.1.2", "encrypt the inner headers only"),
    Requirement("SEC-GEN-3", MUST, "5.1.2", "encrypt some options, not others"),
    Requirement("SEC-GEN-4", MUST, "5.1.2", "encrypt header fields, not others"),
    Requirement("SEC-GEN-5", MUST, "5.1.2", "secrets for transit devices and NVE"),
    Requirement("SEC-GEN-6", MUST, "5.1.2", "pad packets"),
    Requirement("SEC-GEN-7", MUST, "5.1.2", "send dummy packets"),
    Requirement("SEC-GEN-8", MUST, "5.2.2", "authenticate the inner payload"),
    Requirement("SEC-GEN-9", SHOULD, "5.2.2", "authenticate the inner headers only"),
    Requirement("SEC-GEN-10", MUST, "5.2.2", "authenticate some options, not others"),
    Requirement("SEC-GEN-11", MUST, "5.2.2", "authenticate header fields, not others"),
    Requirement("SEC-GEN-12", MUST, "5.2.2", "NVE authenticates first"),
    Requirement("SEC-GEN-13", MUST, "5.2.2", "transit device authenticates first"),
    Requirement("SEC-GEN-14", MUST, "5.4.2", "authentication with anti-replay"),
    Requirement("SEC-GEN-15", MUST, "5.5.2", "policies for each flow"),
    Requirement("SEC-GEN-16", MUST, "5.5.2", "keys for each unicast tunnel"),
    Requirement("SEC-GEN-17", MUST, "5.5.2", "group keys, proof of the sending NVE"),
    Requirement("SEC-OP-1", SHOULD, "5.1.1", "inner payload encrypted by default"),
    Requirement("SEC-OP-2", MUST, "5.1.1", "sensitive Geneve information hidden"),
    Requirement("SEC-OP-3", MUST, "5.1.1", "traffic patterns hidden if a risk"),
    Requirement("SEC-OP-4", MUST, "5.2.1", "inner payload authenticated if clear"),
    Requirement("SEC-OP-5", MUST, "5.2.1", "header, options authenticated by risk"),
    Requirement("SEC-OP-6", SHOULD, "5.2.1", "NVEs authenticate each other's traffic"),
    Requirement("SEC-OP-7", SHOULD_NOT, "5.2.1", "nothing processed unauthenticated"),
    Requirement("SEC-OP-8", MUST, "5.4.1", "anti-replay if replay is a risk"),
    Requirement("SEC-OP-9", MUST, "5.5.1", "policies defined for each flow"),
    Requirement("SEC-OP-10", SHOULD, "5.5.1", "distinct keys for each flow"),
)
"""All 27, the mechanism's first. Section 5.4.1 is called "Geneve Security Requirements" but holds SEC-OP-8."""

BY_NAME = {requirement.name: requirement for requirement in REQUIREMENTS}

_WHOLE = "The whole Geneve packet is encrypted, with a cipher that is not NULL."
_NO_CHOICE = "Everything is encrypted: nothing can be left in clear by choice."
_NOT_MANDATORY = "It cannot cover a part of the inner headers, but the requirement is not mandatory."
_TRANSIT = "No transit device can read encrypted packets, nor authenticate those with NULL encryption."
_END_TO_END = "Security from NVE to NVE leaves transit devices out."
_EGRESS_ONLY = "Packets are authenticated where the tunnel ends, so a transit device cannot do it before."
_ANTI_REPLAY = "It has an anti-replay mechanism."
_NOT_SELECTIVE = "Header and options are authenticated as a whole, none by choice."
_OTHER_NUMBER = "The text concludes on another requirement, SEC-GEN-5."

_DTLS_OP = {
    1: Judgement(YES, "8.1.1", _WHOLE),
    2: Judgement(YES, "8.1.1", "Header and metadata are encrypted; only the UDP port leaks, which may be acceptable."),
    3: Judgement(
        DEPENDS, "8.1.1", "DTLS neither pads nor sends dummies; Geneve itself may, and it is not mandatory.",
        "The requirement says MUST where a risk has been identified.",
    ),
    4: Judgement(YES, "8.1.1", "The integrity of the whole packet is protected; DTLS 1.2 has suites for that alone."),
    5: Judgement(YES, "8.1.1", "The packet with its header is authenticated; only the UDP port is not."),
    6: Judgement(YES, "8.1.1", "What NVEs exchange is authenticated."),
    7: Judgement(DEPENDS, "8.1.1", _TRANSIT + " It is met without transit devices."),
    8: Judgement(YES, "8.1.1", _ANTI_REPLAY),
    9: Judgement(DEPENDS, "8.1.1", "DTLS is bound to a UDP socket and has no policies: they are met outside it."),
    10: Judgement(NO, "8.1.1", "Sessions can have keys of their own, but flows are bound outside it and only unicast."),
}  # fmt: skip
_DTLS_GEN = {
    1: Judgement(YES, "8.1.2", _WHOLE),
    2: Judgement(YES, "8.1.2", _NOT_MANDATORY),
    3: Judgement(NO, "8.1.2", _NO_CHOICE),
    4: Judgement(NO, "8.1.2", _NO_CHOICE, _OTHER_NUMBER),
    5: Judgement(NO, "8.1.2", _END_TO_END),
    6: Judgement(NO, "8.1.2", "DTLS has no padding; Geneve options would have to do it."),
    7: Judgement(NO, "8.1.2", "DTLS has no dummies; Geneve options would have to do it."),
    8: Judgement(YES, "8.1.2", "The inner payload is authenticated, with NULL encryption and without."),
    9: Judgement(YES, "8.1.2", _NOT_MANDATORY),
    10: Judgement(
        NO, "8.1.2", _NOT_SELECTIVE, "The letter is N, but the text concludes that SEC-GEN-10 is met, and says encrypt."
    ),
    11: Judgement(NO, "8.1.2", _NOT_SELECTIVE),
    12: Judgement(YES, "8.1.2", "Data are authenticated before the NVE processes them."),
    13: Judgement(NO, "8.1.2", _EGRESS_ONLY),
    14: Judgement(YES, "8.1.2", _ANTI_REPLAY),
    15: Judgement(NO, "8.1.2", "DTLS has no policies: flows are classified by a module outside it."),
    16: Judgement(YES, "8.1.2", "It can have keys of its own for each flow."),
    17: Judgement(NO, "8.1.2", "DTLS has no multicast."),
}
_IPSEC_OP = {
    1: Judgement(YES, "8.2.1", _WHOLE + " (ESP)"),
    2: Judgement(YES, "8.2.1", "All that the outer IP header carries is encrypted, the Geneve header with it. (ESP)"),
    3: Judgement(YES, "8.2.1", "It can send dummies and pad. (ESP)"),
    4: Judgement(YES, "8.2.1", "The integrity of the whole packet is protected. (ESP or AH)"),
    5: Judgement(YES, "8.2.1", "The packet with its header is authenticated. (ESP or AH)"),
    6: Judgement(YES, "8.2.1", "What NVEs exchange is authenticated. (ESP or AH)"),
    7: Judgement(DEPENDS, "8.2.1", _TRANSIT + " It is met without transit devices."),
    8: Judgement(YES, "8.2.1", _ANTI_REPLAY),
    9: Judgement(DEPENDS, "8.2.1", "IPsec has policies, but perhaps not the selectors that Geneve's flows need."),
    10: Judgement(YES, "8.2.1", "Sessions can have keys of their own, and multicast is supported."),
}
_IPSEC_GEN = {
    1: Judgement(YES, "8.2.2", _WHOLE + " (ESP)"),
    2: Judgement(YES, "8.2.2", _NOT_MANDATORY + " (ESP)"),
    3: Judgement(NO, "8.2.2", _NO_CHOICE + " (ESP)"),
    4: Judgement(NO, "8.2.2", _NO_CHOICE + " (ESP)", _OTHER_NUMBER),
    5: Judgement(NO, "8.2.2", _END_TO_END),
    6: Judgement(YES, "8.2.2", "ESP has padding."),
    7: Judgement(YES, "8.2.2", "IPsec can send dummy packets. (ESP)"),
    8: Judgement(YES, "8.2.2", "The inner payload is authenticated. (ESP or AH)"),
    9: Judgement(YES, "8.2.2", _NOT_MANDATORY + " (ESP or AH)"),
    10: Judgement(NO, "8.2.2", _NOT_SELECTIVE, "The text says encrypt, where the requirement says authenticate."),
    11: Judgement(NO, "8.2.2", _NOT_SELECTIVE),
    12: Judgement(YES, "8.2.2", "Data are authenticated before the NVE processes them. (ESP or AH)"),
    13: Judgement(NO, "8.2.2", _EGRESS_ONLY),
    14: Judgement(YES, "8.2.2", _ANTI_REPLAY),
    15: Judgement(NO, "8.2.2", "IPsec has policies, but probably not the selectors that Geneve's flows need."),
    16: Judgement(YES, "8.2.2", "It can have keys of its own for each flow."),
    17: Judgement(YES, "8.2.2", "IPsec handles multicast."),
}


def _named(series: str, cells: dict[int, Judgement]) -> dict[str, Judgement]:
    return {f"{series}-{number}": cell for number, cell in cells.items()}


APPENDIX: dict[str, dict[str, Judgement]] = {
    DTLS: {**_named(GEN, _DTLS_GEN), **_named(OP, _DTLS_OP)},
    IPSEC: {**_named(GEN, _IPSEC_GEN), **_named(OP, _IPSEC_OP)},
}
"""The 54 cells: by protocol (8.1, 8.2), then by requirement."""

MECHANISMS = ("none", "dtls", "esp", "ah", "ours")
"""What is compared. The draft judges ESP and AH together, as IPsec; of the others it says nothing."""
_PROTOCOLS = {"dtls": DTLS, "esp": IPSEC, "ah": IPSEC}


def judgement(requirement: str, mechanism: str) -> Judgement | None:
    """Return what the draft says of a requirement under a mechanism of MECHANISMS; None where it says nothing."""
    protocol = _PROTOCOLS.get(mechanism)
    return None if protocol is None else APPENDIX[protocol][requirement]
