"""A secure channel below Geneve: IPsec or DTLS between two NVEs, which protects each Geneve datagram whole.

These are the protocols that the draft's appendix compares its requirements with. Unlike the security options, a
channel knows nothing of VNIs, Geneve options or inner headers.
"""

from __future__ import annotations

from enum import Enum

from pydantic import model_validator

from geneve.config import StrictModel
from geneve.header import GENEVE_PORT

ESP_UDP_PORT = 4500
"""UDP port of ESP in UDP (RFC 3948, section 2.1)."""
DTLS_PORT = 46081
"""UDP port of Geneve over DTLS. No port is assigned to it; it is not Geneve's, whose receivers expect Geneve there."""
IP_PROTOCOL_ESP, IP_PROTOCOL_AH = 50, 51


class ChannelProtocol(str, Enum):
    """What protects the datagrams: DTLS 1.2 (RFC 6347), ESP (RFC 4303) or AH (RFC 4302) in transport mode."""

    DTLS = "dtls"
    ESP = "esp"
    AH = "ah"


class Cipher(str, Enum):
    """What encrypts: AES-128-GCM, or nothing, with a separate integrity check (HMAC).

    ESP: RFC 4106, or RFC 2410 with HMAC-SHA-256-128 (RFC 4868). DTLS: an ECDHE-ECDSA suite with AES_128_GCM_SHA256, or
    one with NULL_SHA.
    """

    AES_128_GCM = "aes-128-gcm"
    NULL = "null"


class Encapsulation(str, Enum):
    """What carries ESP: IP itself (protocol 50), or UDP on port 4500 (RFC 3948)."""

    IP = "ip"
    UDP = "udp"


class Channel(StrictModel):
    """A channel's protocol and what can be chosen of it.

    ``encapsulation`` and ``extended_sequence_numbers`` (64 bits, RFC 4303, section 2.2.1) are ESP's and AH's; AH
    authenticates the outer IP header too, and is carried by IP only.
    """

    protocol: ChannelProtocol
    cipher: Cipher = Cipher.AES_128_GCM
    encapsulation: Encapsulation = Encapsulation.IP
    extended_sequence_numbers: bool = True

    @model_validator(mode="after")
    def _fits_the_protocol(self) -> Channel:
        if self.protocol is ChannelProtocol.AH and self.cipher is not Cipher.NULL:
            raise ValueError("AH encrypts nothing: set cipher to 'null'")
        if self.protocol is ChannelProtocol.AH and self.encapsulation is not Encapsulation.IP:
            raise ValueError("AH is carried by IP only: set encapsulation to 'ip'")
        if self.protocol is ChannelProtocol.DTLS and self.encapsulation is not Encapsulation.UDP:
            raise ValueError("DTLS is carried by UDP: set encapsulation to 'udp'")
        return self

    @property
    def port(self) -> int | None:
        """The UDP port on which an NVE receives; None where IP carries the channel."""
        if self.encapsulation is Encapsulation.IP:
            return None
        return DTLS_PORT if self.protocol is ChannelProtocol.DTLS else ESP_UDP_PORT

    @property
    def ip_protocol(self) -> int | None:
        """The IP protocol number; None where UDP carries the channel."""
        if self.encapsulation is Encapsulation.UDP:
            return None
        return IP_PROTOCOL_AH if self.protocol is ChannelProtocol.AH else IP_PROTOCOL_ESP


def receiving_port(channel: Channel | None) -> int:
    """Return the UDP port that an NVE receives on: Geneve's own, or the channel's where UDP carries that."""
    return GENEVE_PORT if channel is None or channel.port is None else channel.port
