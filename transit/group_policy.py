"""Group policy: which pairs of security groups may talk, decided from the tag that the ingress NVE attached."""

from __future__ import annotations

from collections.abc import Sequence

from geneve.control.rules import TagRule, Verdict
from geneve.errors import ParseError
from geneve.option import Option
from geneve.tags import TAG_CLASS, TAG_TYPE, decide, parse_tag
from transit.outcome import Outcome


def refuse(rules: Sequence[TagRule], options: Sequence[Option]) -> Outcome | None:
    """Return why a packet is to be dropped, None if ``rules`` permit it.

    ``options`` are those that the device may believe. What is not among them does not count: an option
    that nobody authenticated neither permits a packet nor spoils it.
    """
    found = [option for option in options if option.type == TAG_TYPE and option.option_class == TAG_CLASS]
    if not found:
        return Outcome.TAG_MISSING
    if len(found) > 1:
        return Outcome.TAG_MALFORMED  # which of them counts would be anyone's guess
    try:
        tags = parse_tag(found[0])
    except ParseError:
        return Outcome.TAG_MALFORMED
    return None if decide(rules, tags) is Verdict.PERMIT else Outcome.TAG_DENIED
