"""What a device does with options that it may believe: decided by their kinds and sizes, once for many packets."""

from __future__ import annotations

from collections.abc import Sequence

from geneve.control.state import TransitVni
from geneve.errors import ParseError
from geneve.header import BASE_HEADER_SIZE
from geneve.option import OPTION_HEADER_SIZE, Option, parse_options
from geneve.security.option import OptionSpan
from geneve.security.transit import Proof
from geneve.tags import TAG_CLASS, TAG_TYPE
from geneve.telemetry import TELEMETRY_CLASS, TELEMETRY_OPTION_SIZE, TELEMETRY_TYPE
from transit import group_policy
from transit.options_read import OptionsRead
from transit.outcome import Outcome

MAX_DECISIONS = 1024
"""Decisions of group policy that one reading remembers; when there are more, all are made anew."""

_TELEMETRY_DATA = TELEMETRY_OPTION_SIZE - OPTION_HEADER_SIZE


def find_options(packet: bytes) -> list[OptionSpan]:
    """Return where all options of a Geneve packet stand; ParseError unless they fill their space exactly."""
    end = BASE_HEADER_SIZE + ((packet[0] & 0x3F) << 2)
    if end > len(packet):
        raise ParseError("options cut short")
    spans, offset = [], BASE_HEADER_SIZE
    for option in parse_options(packet[BASE_HEADER_SIZE:end]):
        spans.append(OptionSpan(option.option_class, option.type, offset, offset + option.size))
        offset += option.size
    return spans


class Reading:
    """What is to be done with packets whose believed options are of the kinds and sizes of ``believed``, in that order.

    ``nothing`` is the outcome where there is nothing to export, ``present`` whether the packets have telemetry at
    all, believed or not. ``tags`` and ``telemetry`` are indexes of the options whose values matter; without
    telemetry to be exported (None) the outcome is ``outcome``, where group policy lets the packet pass.
    """

    __slots__ = ("_decided", "_rules", "outcome", "tags", "telemetry")

    def __init__(self, policy: TransitVni | None, believed: Sequence[Option], nothing: Outcome, present: bool) -> None:
        self._rules = policy.group_policy if policy is not None else None
        self._decided: dict[tuple[bytes, ...], Outcome | None] = {}
        self.tags = _find(believed, TAG_CLASS, TAG_TYPE)
        self.telemetry: int | None = None
        self.outcome = nothing
        if policy is None or not policy.telemetry:
            return
        found = _find(believed, TELEMETRY_CLASS, TELEMETRY_TYPE)
        if not found:
            # A telemetry option that the tag leaves out is worth no more than one without any tag.
            self.outcome = Outcome.TELEMETRY_UNAUTHENTICATED if present else nothing
        elif len(found) > 1 or len(believed[found[0]].data) != _TELEMETRY_DATA:
            # With two telemetry options it would be anyone's guess which one counts.
            self.outcome = Outcome.TELEMETRY_MALFORMED
        else:
            self.outcome, self.telemetry = Outcome.EXPORTED, found[0]

    @property
    def enforced(self) -> bool:
        """Whether group policy decides about these packets."""
        return self._rules is not None

    def refuse(self, tags: tuple[bytes, ...]) -> Outcome | None:
        """Return why group policy drops a packet with these values of security groups; None if it does not."""
        if self._rules is None:
            return None
        if tags not in self._decided:
            if len(self._decided) >= MAX_DECISIONS:
                self._decided.clear()
            options = [Option(TAG_CLASS, TAG_TYPE, value) for value in tags]
            self._decided[tags] = group_policy.refuse(self._rules, options)
        return self._decided[tags]


def _find(options: Sequence[Option | OptionSpan], option_class: int, option_type: int) -> tuple[int, ...]:
    return tuple(
        index for index, item in enumerate(options) if item.type == option_type and item.option_class == option_class
    )


def make_reading(policy: TransitVni | None, believed: Sequence[Option], nothing: Outcome, packet: bytes) -> Reading:
    """Return the reading of ``packet``, of whose options ``believed`` may be acted upon; ParseError as find_options."""
    present = bool(_find(find_options(packet), TELEMETRY_CLASS, TELEMETRY_TYPE))
    return Reading(policy, believed, nothing, present)


class Handling:
    """A reading together with where the options of packets stand that all prove the same, in ``proof``."""

    __slots__ = ("_kinds", "_tags", "_telemetry", "proof", "reading")

    def __init__(self, reading: Reading, spans: Sequence[OptionSpan], proof: Proof, read: OptionsRead) -> None:
        self.reading = reading
        self.proof = proof
        places = [(span.start + OPTION_HEADER_SIZE, span.end) for span in spans]
        self._tags = [places[index] for index in reading.tags]
        self._telemetry = (0, 0) if reading.telemetry is None else places[reading.telemetry]
        self._kinds = [
            (entry, *place)
            for span, place in zip(spans, places, strict=True)
            if (entry := read.entry(span.option_class, span.type)) is not None
        ]

    def tags(self, buffer: bytes, at: int) -> tuple[bytes, ...]:
        """Return the values of the security groups options of the packet that stands in ``buffer`` at ``at``."""
        return tuple([buffer[at + start : at + end] for start, end in self._tags])

    def telemetry(self, buffer: bytes, at: int) -> bytes:
        """Return the data of the telemetry option that is to be exported, if there is one."""
        start, end = self._telemetry
        return buffer[at + start : at + end]

    def note_read(self, buffer: bytes, at: int, count: int) -> None:
        """Count the options of ``count`` packets as read; the last of them stands at ``at``."""
        for entry, start, end in self._kinds:
            entry[0] += count
            entry[1] = buffer[at + start : at + end]
