"""Why a packet was not forwarded. Every drop in the project has exactly one of these reasons.

The values are what stands in the daemons' counters, in the results and in the documents.
"""

from __future__ import annotations

from enum import Enum


class DropReason(str, Enum):
    """One name per way to refuse a packet."""

    # What the bytes are not
    MALFORMED = "malformed"
    """The Geneve packet, or the security option in it, does not parse."""
    UNSUPPORTED_VERSION = "unsupported_version"
    """A Geneve version other than 0 (RFC 8926, section 3.4: endpoints must drop it)."""
    OAM = "oam"
    """A control packet (O bit), which has no payload for a tenant."""
    UNSUPPORTED_PROTOCOL = "unsupported_protocol"
    """A protocol type other than an Ethernet frame; in IPsec, anything but UDP to the Geneve port, and IP options or
    extension headers in front of AH."""
    UNKNOWN_CRITICAL_OPTION = "unknown_critical_option"
    """An option with its critical bit set that this endpoint does not know (section 3.5.1)."""
    MALFORMED_INNER = "malformed_inner"
    """The inner frame is too short to be Ethernet or its headers contradict its length."""
    ECN = "ecn"
    """Congestion marked outside, while the inner packet cannot carry the mark (RFC 6040, section 4.2)."""

    # What the overlay does not serve
    UNKNOWN_VNI = "unknown_vni"
    """A VNI without tenants at this NVE."""
    UNKNOWN_DESTINATION = "unknown_destination"
    """No NVE to send the frame to."""
    FRAME_TOO_BIG = "frame_too_big"
    """The encapsulated frame would exceed the underlay's MTU."""
    SEND_FAILED = "send_failed"
    """The kernel refused to send the packet."""

    # What the security policy refuses
    POLICY_DISCARD = "policy_discard"
    """The policy says DISCARD, or no rule matches."""
    NO_ASSOCIATION = "no_association"
    """The policy says SECURE and there is no association for it: fail closed."""
    KEY_WAIT_OVERFLOW = "key_wait_overflow"
    """No room to keep the frame until the NVA has given the keys that it needs."""
    KEY_WAIT_TIMEOUT = "key_wait_timeout"
    """The keys that the frame needs did not come in time."""
    UNPROTECTED = "unprotected"
    """The policy demands protection and the packet carries none for this node."""
    UNKNOWN_SPI = "unknown_spi"
    """A security option for an endpoint under an SPI that this node does not hold."""
    ASSOCIATION_EXPIRED = "association_expired"
    """A security option under an association that is past its lifetime: the sender's keys were not replaced."""
    SOURCE_MISMATCH = "source_mismatch"
    """The outer source address is not that of the association's sender."""
    NO_SESSION = "no_session"
    """A record of a channel for which this node has no session with the sender."""
    RECORD_REFUSED = "record_refused"
    """A record of a channel that does not verify, or was received before: OpenSSL does not tell which (DTLS)."""
    REPLAYED = "replayed"
    """The sequence number was seen before."""
    BEHIND_WINDOW = "behind_window"
    """The sequence number lies too far behind to tell whether it was seen before."""
    AUTHENTICATION_FAILED = "authentication_failed"
    """The tag does not verify."""
    AUTHENTICATION_LIMITED = "authentication_limited"
    """The sequence number lies implausibly far ahead, and too many such packets failed lately: no tag was tried."""
    SOURCE_UNPROVEN = "source_unproven"
    """The tag of a multicast packet verifies, and the signature that would prove its sender does not."""
    POLICY_MISMATCH = "policy_mismatch"
    """The packet verified, but under an association that the policy does not ask for."""
    UNAUTHORISED_SOURCE = "unauthorised_source"
    """The inner source address does not belong to the sending NVE. The egress NVE finds that in a packet that verified,
    the ingress NVE when the NVA has not confirmed a tenant's place in time."""
    UNAUTHORISED_GROUP = "unauthorised_group"
    """A frame to a group of stations from an NVE that may not send to that group, or not in this way."""
    SEQUENCE_EXHAUSTED = "sequence_exhausted"
    """The association's hard packet limit is reached; sealing refuses."""
