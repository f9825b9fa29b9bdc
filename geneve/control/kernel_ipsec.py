"""What of a profile the Linux kernel's own ESP and AH cannot do, by what its XFRM interface lets one say."""

from __future__ import annotations

from geneve.control.channel import ChannelProtocol, Encapsulation
from geneve.control.profile import Profile

MAX_KERNEL_WINDOW = 4096
"""The largest replay window in packets (the kernel's XFRMA_REPLAY_ESN_MAX)."""


def kernel_lacks(profile: Profile) -> str:
    """Return why the kernel cannot protect under ``profile``, as a clause; empty when it can, given its algorithms."""
    channel = profile.channel
    if channel is None or channel.protocol is ChannelProtocol.DTLS:
        return f"profile {profile.name!r} is not one of IPsec"
    if channel.encapsulation is not Encapsulation.IP:
        return f"profile {profile.name!r} has ESP in UDP, which is left to the NVE's own implementation"
    if profile.padded:
        return f"profile {profile.name!r} has padding or dummies, and the kernel pads to one length only and makes none"
    if profile.replay_window > MAX_KERNEL_WINDOW:
        return (
            f"profile {profile.name!r} has a replay window of {profile.replay_window} packets, and the kernel's is "
            f"{MAX_KERNEL_WINDOW} at most"
        )
    return ""
