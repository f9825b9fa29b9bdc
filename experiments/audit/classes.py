"""Who owns which Geneve option, as far as it is public: IANA's registry of option classes, and some owners' own words.

Only what is assigned by name is claimed. What an option's data means is said where its owner has published it.
"""

from __future__ import annotations

from geneve.security.option import EGRESS_TYPE, GROUP_TYPE, SECURITY_CLASS, SIGNATURE_TYPE, TRANSIT_TYPE
from geneve.tags import TAG_TYPE
from geneve.telemetry import TELEMETRY_TYPE
from topologies.risks import option_key

OVN, VMWARE, AWS, CILIUM, GOOGLE = 0x0102, 0x0104, 0x0108, 0x014B, 0x0132

_CLASSES: tuple[tuple[int, int, str], ...] = (
    (0x0000, 0x00FF, "standard (IETF)"),
    (0x0100, 0x0100, "Linux"),
    (0x0101, 0x0101, "Open vSwitch"),
    (OVN, OVN, "OVN"),
    (0x0103, 0x0103, "In-band Network Telemetry"),
    (VMWARE, VMWARE, "VMware (NSX)"),
    (0x0105, 0x0105, "Amazon"),
    (0x0106, 0x0106, "Cisco"),
    (0x0107, 0x0107, "Oracle"),
    (AWS, 0x0110, "Amazon"),
    (0x0111, 0x0118, "IBM"),
    (0x0119, 0x0128, "Ericsson"),
    (0x0129, 0x0129, "Oxide"),
    (0x0130, 0x0131, "Cisco"),
    (GOOGLE, 0x0135, "Google"),
    (CILIUM, CILIUM, "Cilium"),
    (0xFF00, 0xFFFF, "experimental use"),
)
"""IANA, "Geneve Option Class" (RFC 8926, section 7); classes left out are assigned to others or to nobody."""

_MEANINGS: dict[tuple[int, int], str] = {
    (OVN, 0x80): "logical ingress and egress port (ovn-architecture)",
    (AWS, 0x01): "GWLB: endpoint",
    (AWS, 0x02): "GWLB: attachment",
    (AWS, 0x03): "GWLB: flow cookie",
    (CILIUM, 0x81): "service address and port (direct server return)",
    (GOOGLE, 0x01): "virtual network",
    (GOOGLE, 0x02): "endpoint",
    (GOOGLE, 0x03): "profile",
    (SECURITY_CLASS, TRANSIT_TYPE): "this project's security option for a transit device",
    (SECURITY_CLASS, EGRESS_TYPE): "this project's security option for an egress NVE",
    (SECURITY_CLASS, GROUP_TYPE): "this project's security option for devices and egress NVE",
    (SECURITY_CLASS, SIGNATURE_TYPE): "this project's signature of a multicast packet",
    (SECURITY_CLASS, TELEMETRY_TYPE): "this project's telemetry",
    (SECURITY_CLASS, TAG_TYPE): "this project's security groups",
}


def class_name(option_class: int) -> str:
    """Return the owner of an option class, or ``unknown``."""
    return next((name for low, high, name in _CLASSES if low <= option_class <= high), "unknown")


def option_name(kind: tuple[int, int]) -> str:
    """Return an option by class and type, its owner, and its meaning where that is published."""
    meaning = _MEANINGS.get(kind)
    return f"{option_key(*kind)} ({class_name(kind[0])}{f': {meaning}' if meaning else ''})"
