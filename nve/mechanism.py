"""Which mechanism an NVE has, by its configuration, and the sockets that go with it (thin shell)."""

from __future__ import annotations

import logging

from geneve.control.channel import ChannelProtocol
from geneve.control.tls import TlsFiles
from geneve.security.signature import SourceSigner
from nve.config import NveConfig
from nve.dtls.link import SessionEvent
from nve.dtls.mechanism import Dtls
from nve.dtls.sessions import DtlsSessions
from nve.ipsec.mechanism import Ipsec
from nve.protection import Mechanism
from nve.raw_underlay import RawSockets
from nve.security_options import SecurityOptions
from nve.underlay import UnderlaySockets

log = logging.getLogger("nve")


def make_mechanism(config: NveConfig, signer: SourceSigner) -> Mechanism:
    """Return the mechanism; ConfigError when a file that it needs cannot be used."""
    channel = config.channel
    if channel is None:
        return SecurityOptions(signer)
    underlay = config.underlay
    if channel.protocol is ChannelProtocol.DTLS:
        sessions = DtlsSessions(config.name, underlay.address, _credentials(config), underlay.mtu)
        return Dtls(channel, sessions, _log_session)
    return Ipsec(channel, underlay.address)


def _credentials(config: NveConfig) -> TlsFiles:
    given = config.credentials or config.nva
    assert given is not None  # NveConfig has seen to it
    return TlsFiles(given.ca, given.certificate, given.key)


def _log_session(event: SessionEvent) -> None:
    log.info("%s", event)


def make_underlay(config: NveConfig) -> UnderlaySockets | RawSockets:
    """Return the sockets; UnderlayError when they cannot be had."""
    underlay, channel = config.underlay, config.channel
    if channel is not None and channel.ip_protocol is not None:
        return RawSockets(underlay.address, channel.ip_protocol, underlay.interface)
    return UnderlaySockets(
        underlay.address, underlay.port, underlay.source_ports, underlay.interface, config.offloads
    )
