"""Key log lines, with which a dissector decrypts a demonstration's packets. Never used unless asked for.

One line for each association, and for each flow where flows have keys of their own. The format is in
docs/wire-format.md.
"""

from __future__ import annotations

from collections.abc import Callable

from geneve.control.profile import KeyGranularity, Profile
from geneve.control.state import Association
from geneve.security.association import InboundAssociation, OutboundAssociation
from geneve.security.keys import derive_material


def key_log_line(
    association: Association, profile: Profile, end: InboundAssociation | OutboundAssociation, flow_id: bytes = b""
) -> str:
    """Return the line of an association, or of one of its flows. It holds the key: for a file of mode 0600 only."""
    key, salt = derive_material(association, profile, flow_id)
    shape = end.shape
    fields = {
        "spi": f"{association.spi:#010x}",
        "role": association.role.value,
        "aead": profile.aead.value,
        "key": key.hex(),
        "salt": salt.hex(),
        "flow": flow_id.hex() or "-",
        "head": str(shape.head_size),
        "sealed_header": f"{shape.reveal_mask:016x}",
        "inner": shape.coverage.encrypt_inner.value,
        "padded": str(int(shape.padded)),
    }
    return "GSA " + " ".join(f"{name}={value}" for name, value in fields.items())


def log_association(
    association: Association,
    profile: Profile,
    end: InboundAssociation | OutboundAssociation,
    write: Callable[[str], None],
) -> None:
    """Write the line of an association now, or those of its flows as they come up."""
    if profile.key_granularity is KeyGranularity.FLOW:
        end.on_flow_key = lambda flow_id: write(key_log_line(association, profile, end, flow_id))
    else:
        write(key_log_line(association, profile, end))
