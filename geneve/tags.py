"""The security groups option: to which groups sender and receiver of a packet belong, for group policy on the path.

Set by the ingress NVE, read by transit devices that enforce group policy, never changed on the way.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from typing import NamedTuple

from geneve.control.rules import TagRule, Verdict
from geneve.errors import ParseError
from geneve.option import EXPERIMENTAL_CLASS, OPTION_HEADER_SIZE, Option

TAG_CLASS = EXPERIMENTAL_CLASS
TAG_TYPE = 0x06
TAG_OPTION_SIZE = OPTION_HEADER_SIZE + 4
"""Bytes of the whole option."""

_DATA = struct.Struct("!HH")


class Tags(NamedTuple):
    """The security groups of a packet's sender and receiver, 16 bits each; 0 is the group of all without one."""

    source: int
    destination: int


def build_tag(source: int, destination: int) -> bytes:
    """Return the whole option, 8 bytes."""
    return Option(TAG_CLASS, TAG_TYPE, _DATA.pack(source, destination)).build()


def parse_tag(option: Option) -> Tags:
    """Read a security groups option; ParseError when its size is wrong."""
    if len(option.data) != _DATA.size:
        raise ParseError(f"security groups option with {len(option.data)} bytes of data, expected {_DATA.size}")
    return Tags(*_DATA.unpack(option.data))


def decide(rules: Iterable[TagRule], tags: Tags) -> Verdict:
    """Return what group policy says: the first rule that matches decides, none is deny."""
    for rule in rules:
        if rule.source in (None, tags.source) and rule.destination in (None, tags.destination):
            return rule.verdict
    return Verdict.DENY
