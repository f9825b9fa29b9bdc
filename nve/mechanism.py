"""Which mechanism an NVE has, by its configuration, and the sockets that go with it (thin shell)."""

from __future__ import annotations

import logging

from geneve.control.channel import ChannelProtocol
from geneve.control.kernel_ipsec import kernel_lacks
from geneve.control.tls import TlsFiles
from geneve.errors import ConfigError
from geneve.security.signature import SourceSigner
from nve.config import NveConfig
from nve.dtls.link import Established, Failed, SessionEvent
from nve.dtls.mechanism import Dtls
from nve.dtls.sessions import DtlsSessions
from nve.ipsec import xfrm
from nve.ipsec.kernel import KernelIpsec
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
        sessions = DtlsSessions(config.name, underlay.address, _credentials(config), underlay.mtu, channel)
        return Dtls(channel, sessions, _log_session)
    missing = _kernel_lacks(config)
    if missing is None:
        return KernelIpsec(channel, underlay.address, xfrm.run_line, underlay.port)
    if config.ipsec == "kernel":
        raise ConfigError(f"key 'ipsec': the kernel's IPsec cannot be used ({missing}); set it to 'user-space'.")
    log.info("IPsec in user space: %s", missing)
    return Ipsec(channel, underlay.address)


def _kernel_lacks(config: NveConfig) -> str | None:
    """Return why the kernel's ESP or AH is not used, None where it is."""
    if config.ipsec == "user-space" or config.channel is None:
        return "so configured"
    # The NVA's profiles are not known yet: those that the kernel cannot do are refused when they come.
    profiles = config.static_state.profiles if config.static_state is not None else ()
    for lacks in map(kernel_lacks, profiles):
        if lacks:
            return lacks
    return xfrm.find_missing(config.channel) or None


def _credentials(config: NveConfig) -> TlsFiles:
    given = config.credentials or config.nva
    assert given is not None  # NveConfig has seen to it
    return TlsFiles(given.ca, given.certificate, given.key)


def _log_session(event: SessionEvent) -> None:
    if isinstance(event, Established):
        role = "client" if event.client else "server"
        log.info("DTLS session with %s (%s), after %.1f ms", event.peer, role, 1e3 * event.seconds)
    else:
        what = "handshake failed" if isinstance(event, Failed) else "session ended"
        log.warning("DTLS with %s: %s: %s", event.peer, what, event.reason)


def make_underlay(config: NveConfig, mechanism: Mechanism) -> UnderlaySockets | RawSockets:
    """Return the sockets; UnderlayError when they cannot be had, ConfigError when nothing would protect them.

    The kernel's IPsec begins to drop what is in clear before a socket is bound: nothing waits in one from before.
    """
    underlay, channel = config.underlay, config.channel
    kernel = mechanism if isinstance(mechanism, KernelIpsec) else None
    if channel is not None and channel.ip_protocol is not None and kernel is None:
        return RawSockets(underlay.address, channel.ip_protocol, underlay.interface)
    if kernel is not None:
        bypass = xfrm.find_bypass(underlay.interface)
        if bypass:
            raise ConfigError(f"key 'ipsec': the kernel passes over its policies ({bypass} is set); set that to 0.")
        kernel.begin()
    sockets = UnderlaySockets(
        underlay.address, underlay.port, underlay.source_ports, underlay.interface, config.offloads
    )
    try:
        if kernel is not None:
            kernel.take_over()
    except ConfigError:
        sockets.close()
        raise
    return sockets
