"""What nodes ask of the NVA, checked: parameters of a request in, plain values out. Pure.

Every function raises ParseError with one sentence when the parameters are not what the method takes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from geneve.config import validate
from geneve.control.demand import MAX_DEMANDS, MAX_TENANTS, Demand, Tenant
from geneve.control.protocol import PROTOCOL_VERSION
from geneve.control.state import PUBLIC_KEY_SIZE, Role, is_base64
from geneve.errors import ConfigError, ParseError

_MAX_INSTANCE = 64
_MAX_EPOCH = 64

Params = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Registration:
    """A registration: the process's instance, its signing key, and how far it has followed which epoch."""

    instance: str
    signing_key: str | None
    resume: tuple[str, int] | None


def registration(params: Params, role: Role) -> Registration:
    """Return what a node of ``role`` registers with."""
    if not {"instance", "protocol"} <= set(params) <= {"instance", "protocol", "signing_key", "resume"}:
        raise ParseError("register takes the parameters instance, protocol, resume and, for an NVE, signing_key")
    protocol = params.get("protocol")
    if isinstance(protocol, bool) or protocol != PROTOCOL_VERSION:
        raise ParseError(f"only protocol {PROTOCOL_VERSION} is spoken here")
    instance = params.get("instance")
    if not isinstance(instance, str) or not 0 < len(instance) <= _MAX_INSTANCE or not instance.isascii():
        raise ParseError(f"instance must be 1 to {_MAX_INSTANCE} ASCII characters")
    return Registration(instance, _signing_key(params.get("signing_key"), role), _resume(params.get("resume")))


def _signing_key(value: object, role: Role) -> str | None:
    if value is None:
        return None
    if role is not Role.NVE:
        raise ParseError("only an NVE has a signing key")
    if not isinstance(value, str) or not is_base64(value, PUBLIC_KEY_SIZE):
        raise ParseError(f"signing_key must be base64 of {PUBLIC_KEY_SIZE} bytes")
    return value


def _resume(value: object) -> tuple[str, int] | None:
    if value is None:
        return None
    if not isinstance(value, dict) or set(value) != {"epoch", "sequence"}:
        raise ParseError("resume takes epoch and sequence")
    epoch, sequence = value["epoch"], value["sequence"]
    if not isinstance(epoch, str) or not 0 < len(epoch) <= _MAX_EPOCH:
        raise ParseError(f"resume.epoch must be a text of 1 to {_MAX_EPOCH} characters")
    return epoch, whole_number(sequence, "resume.sequence")


def whole_number(value: object, name: str) -> int:
    """Return a number from 0; ParseError names the parameter."""
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise ParseError(f"{name} must be a whole number from 0")
    return value


def rekey(params: Params) -> int:
    """Return the SPI that is to be replaced."""
    if set(params) != {"spi"}:
        raise ParseError("rekey takes the parameter spi, a number")
    return whole_number(params["spi"], "spi")


def demands(params: Params) -> list[Demand]:
    """Return the demands of a request for keys."""
    listed = params.get("demands")
    if set(params) != {"demands"} or not isinstance(listed, list) or len(listed) > MAX_DEMANDS:
        raise ParseError(f"need takes the parameter demands, a list of {MAX_DEMANDS} at most")
    try:
        return [validate(item, "demands", Demand) for item in listed]
    except ConfigError as error:
        raise ParseError(str(error)) from None


def tenants(params: Params) -> tuple[int, list[Tenant]]:
    """Return the number of a report and the tenants that it names; each address may stand once."""
    listed = params.get("present")
    if set(params) != {"number", "present"} or not isinstance(listed, list) or len(listed) > MAX_TENANTS:
        raise ParseError(f"tenants takes the parameters number and present, a list of {MAX_TENANTS} at most")
    number = whole_number(params["number"], "number")
    try:
        found = [validate(item, "present", Tenant) for item in listed]
    except ConfigError as error:
        raise ParseError(str(error)) from None
    if len({(tenant.vni, tenant.mac) for tenant in found}) != len(found):
        raise ParseError("present names a tenant twice")
    return number, found
