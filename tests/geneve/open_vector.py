"""Opens a packet with the implementation and tells the result as vector files do."""

from __future__ import annotations

from typing import Any

from geneve.control.profile import Profile
from geneve.control.state import Association
from geneve.drops import DropReason
from geneve.security.association import InboundAssociation
from geneve.security.open import PacketOpener
from geneve.security.transit import TransitVerifier
from tests.support import source


def expect(packet: bytes, role: str, node: str, held: list[Association], made: Profile) -> dict[str, Any]:
    ends = [InboundAssociation(item, made) for item in held if item.opens(node)]
    if role == "transit":
        verified = TransitVerifier(ends).verify(packet, source("nve1"))
        if verified is None or isinstance(verified, DropReason):
            return {"refused": "not_addressed" if verified is None else verified.value}
        return {"frame": None, "dummy": False, **_common(verified.header, verified.options)}
    opened = PacketOpener(ends).open(packet, source("nve1"))
    if isinstance(opened, DropReason):
        return {"refused": opened.value}
    if opened.association is None:
        return {"refused": "unprotected"}
    return {"frame": opened.frame.hex(), "dummy": opened.dummy, **_common(opened.header, opened.options())}


def _common(header: Any, options: Any) -> dict[str, Any]:
    return {
        "header": header.build().hex(),
        "options": [[option.option_class, option.type, option.data.hex()] for option in options],
    }
