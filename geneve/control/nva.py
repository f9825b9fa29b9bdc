"""The part of a node's configuration file that says where the NVA is."""

from __future__ import annotations

from pydantic import Field

from geneve.config import StrictModel
from geneve.control.names import IpAddress, Name


class Nva(StrictModel):
    """Where the NVA is, and the files that prove who is who: CA, own certificate and own key (PEM)."""

    name: Name
    address: IpAddress
    port: int = Field(ge=1, le=65535)
    ca: str
    certificate: str
    key: str
