"""Telemetry records: what a transit device reports about one packet, and their form on the wire."""

from __future__ import annotations

import json
from functools import lru_cache
from typing import Annotated, NamedTuple

from pydantic import Field, TypeAdapter, ValidationError, model_validator

from geneve.config import StrictModel
from geneve.control.names import IpAddress, Name, Vni
from geneve.errors import ParseError

MAX_RECORDS_SIZE = 1400
"""Largest datagram of records in bytes, seal included: fits the smallest underlay MTU in use, headers included."""

Nanoseconds = Annotated[int, Field(ge=0, le=2**63 - 1)]
"""Time since 1970 in nanoseconds, UTC."""


class Observation(NamedTuple):
    """What a device saw of a packet that it has not sent on yet. Addresses are the outer ones, as text.

    ``sender`` is the NVE that the packet's security option proves, None when nothing proved it.
    """

    ingress_port: int
    ingress_ns: int
    vni: int
    flow: int
    sequence: int
    sender: str | None
    source: str
    destination: str

    def record(self, device: str, egress_ns: int) -> bytes:
        """Return the record as JSON, now that the packet left at ``egress_ns``."""
        # Written out: a JSON encoder costs more than all else that is done about a packet.
        sender, proven = ("null", "false") if self.sender is None else (_quoted(self.sender), "true")
        return (
            f'{{"device":{_quoted(device)},"ingress_ns":{self.ingress_ns},'
            # Two clock readings: a step of the clock between them must not make time run backwards.
            f'"egress_ns":{max(egress_ns, self.ingress_ns)},"vni":{self.vni},"flow":{self.flow},'
            f'"sequence":{self.sequence},"sender":{sender},"authenticated":{proven},'
            f'"source":{_quoted(self.source)},"destination":{_quoted(self.destination)}}}'
        ).encode()


@lru_cache(maxsize=4096)  # names and addresses: few, unless somebody makes them up
def _quoted(text: str) -> str:
    return json.dumps(text)


class TelemetryRecord(StrictModel):
    """One record as a collector accepts it."""

    device: Name
    ingress_ns: Nanoseconds
    egress_ns: Nanoseconds
    vni: Vni
    flow: int = Field(ge=0, le=0xFFFFFFFF)
    sequence: int = Field(ge=0, le=2**64 - 1)
    sender: Name | None
    authenticated: bool
    source: IpAddress
    destination: IpAddress

    @model_validator(mode="after")
    def _consistent(self) -> TelemetryRecord:
        if self.egress_ns < self.ingress_ns:
            raise ValueError("the packet left before it came")
        if self.authenticated != (self.sender is not None):
            raise ValueError("a sender belongs to an authenticated record and to no other")
        return self


_RECORDS: TypeAdapter[list[TelemetryRecord]] = TypeAdapter(list[TelemetryRecord])


def parse_records(payload: bytes) -> list[TelemetryRecord]:
    """Parse what a datagram of records held, a JSON array; ParseError unless every one of them is sound."""
    if len(payload) > MAX_RECORDS_SIZE:
        raise ParseError(f"records of more than {MAX_RECORDS_SIZE} bytes")
    try:
        return _RECORDS.validate_json(payload)
    except ValidationError as error:
        raise ParseError(f"not an array of telemetry records ({error.error_count()} faults)") from None
