"""Which mechanism an NVE has, by its configuration, and the sockets that go with it (thin shell)."""

from __future__ import annotations

from geneve.control.channel import ChannelProtocol
from geneve.security.signature import SourceSigner
from nve.config import NveConfig
from nve.ipsec.mechanism import Ipsec
from nve.protection import Mechanism
from nve.raw_underlay import RawSockets
from nve.security_options import SecurityOptions
from nve.underlay import UnderlaySockets


def make_mechanism(config: NveConfig, signer: SourceSigner) -> Mechanism:
    """Return the mechanism; ConfigError when a file that it needs cannot be used."""
    channel = config.channel
    if channel is None:
        return SecurityOptions(signer)
    if channel.protocol is ChannelProtocol.DTLS:
        raise NotImplementedError(channel.protocol)
    return Ipsec(channel, config.underlay.address)


def make_underlay(config: NveConfig) -> UnderlaySockets | RawSockets:
    """Return the sockets; UnderlayError when they cannot be had."""
    underlay, channel = config.underlay, config.channel
    if channel is not None and channel.ip_protocol is not None:
        return RawSockets(underlay.address, channel.ip_protocol, underlay.interface)
    return UnderlaySockets(
        underlay.address, underlay.port, underlay.source_ports, underlay.interface, config.offloads
    )
