"""IPsec by the kernel (XFRM) as the NVE's data path uses it: Geneve leaves and enters the sockets in clear.

The NVE tells the kernel which associations there are, counts what it sends, and otherwise relies on it: what comes from
the address of an association's sender has passed the kernel's policy, which demands that association. What else is in
clear, the kernel drops (see installed.py). Who runs the kernel's lines is given, so that nothing here touches it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from ipaddress import ip_address
from typing import Any

from geneve.control.channel import Channel
from geneve.control.kernel_ipsec import kernel_lacks
from geneve.control.profile import Profile
from geneve.control.state import Association, AssociationRole
from geneve.drops import DropReason
from geneve.errors import ConfigError
from geneve.header import GENEVE_PORT
from geneve.inner import InnerFrame
from geneve.security.association import InboundEnd, OutboundEnd, SequenceExhaustedError
from geneve.security.open import Burst, PacketOpener
from geneve.security.seal import Item
from nve.datagrams import Datagram
from nve.ipsec.installed import Installed, Key
from nve.ipsec.mechanism import IpsecKeys
from nve.ipsec.sa import MAX_SHORT, channel_of
from nve.ipsec.xfrm import KernelSa
from nve.plain import plain_packets
from nve.protection import Chosen, Use

RETRY_INTERVAL = 10.0
"""Seconds after which what the kernel did not delete is tried again."""


class KernelOutbound(OutboundEnd):
    """The sender's end. The kernel numbers packets; the count here is for the limits."""

    def __init__(self, association: Association, profile: Profile) -> None:
        _refuse_unfit(association, profile)
        super().__init__(association, profile)
        self.association = association
        if not channel_of(profile).extended_sequence_numbers:
            self.hard_limit = min(self.hard_limit, MAX_SHORT)
            self.soft_limit = min(self.soft_limit, self.hard_limit)


class KernelInbound(InboundEnd):
    """The audience's end. The kernel keeps the replay window."""

    def __init__(self, association: Association, profile: Profile) -> None:
        _refuse_unfit(association, profile)
        super().__init__(association, profile)
        self.association = association


def _refuse_unfit(association: Association, profile: Profile) -> None:
    if association.role is not AssociationRole.EGRESS:
        raise ValueError("of the kernel's IPsec only associations between two NVEs are used")
    lacks = kernel_lacks(profile)
    if lacks:
        raise ValueError(lacks)


class KernelSealer:
    """Makes plain Geneve packets, which the kernel protects on their way out (:class:`nve.protection.Sealer`).

    None while ``destination`` is among ``stuck``: the kernel may hold a key for it that is not to be used any more.
    """

    def __init__(self, vni: int, end: KernelOutbound, destination: bytes, stuck: Collection[bytes]) -> None:
        self._vni, self._end = vni, end
        self._destination, self._stuck = destination, stuck

    @property
    def associations(self) -> tuple[OutboundEnd, ...]:
        """The one association that a packet uses up numbers of."""
        return (self._end,)

    @property
    def terms(self) -> Profile:
        """The profile that packets are sealed under."""
        return self._end.terms

    def check_room(self, options: Sequence[bytes]) -> None:
        """Raise ValueError when options exceed what Geneve has room for."""
        plain_packets(self._vni, (b"",), (options,))

    def seal(self, items: Iterable[Item]) -> list[bytes]:
        """Return one packet for each item, in order; SequenceExhaustedError at the association's hard limit."""
        pending = list(items)
        if self._destination in self._stuck:
            raise SequenceExhaustedError("the kernel still holds an association that has gone")
        self._end.reserve(len(pending))
        return [plain_packets(self._vni, (item.frame,), (item.options,))[0] for item in pending]

    def seal_burst(
        self,
        frames: Sequence[bytes | memoryview],
        inner: InnerFrame,  # noqa: ARG002
        options: Sequence[Sequence[bytes]],
    ) -> list[bytes]:
        """Return packets for ``frames``, in order; fewer at the association's hard limit."""
        count = min(len(frames), self._end.remaining)
        if not count or self._destination in self._stuck:
            return []
        self._end.reserve(count)
        return plain_packets(self._vni, frames[:count], options[:count])

    def seal_dummy(self, size: int, options: Sequence[bytes] = ()) -> bytes:  # noqa: ARG002
        """Raise ValueError: the kernel makes no dummies."""
        raise ValueError("the kernel's IPsec has no dummy packets")


class KernelOpener:
    """Reads what the kernel let pass (:class:`nve.protection.Opener`), but for what comes from one of ``stuck``."""

    def __init__(self, ends: Iterable[KernelInbound], stuck: Collection[bytes] = ()) -> None:
        self._ends = {end.sender_address: end for end in ends}
        self._stuck = stuck
        self._geneve = PacketOpener()

    def open_burst(self, buffer: bytes, size: int, source: bytes, now: float) -> list[Burst | DropReason]:
        """Read packets of ``size`` bytes from one source; without an association with it, they are refused."""
        end = self._ends.get(source)
        if end is None or source in self._stuck:
            return [DropReason.UNPROTECTED] * max(1, -(-len(buffer) // max(1, size)))
        results = self._geneve.open_burst(buffer, size, source, now)
        for result in results:
            if isinstance(result, Burst):
                result.opened.association = end
        return results


class KernelIpsec(IpsecKeys):
    """Security associations in the kernel. ``run`` has it do a line, and returns why not, or nothing (see xfrm.py).

    ``port`` is the UDP port that all NVEs receive on. :meth:`begin` comes before a socket is bound to it,
    :meth:`take_over` then, and :meth:`close` after all are closed.
    """

    def __init__(self, channel: Channel, address: str, run: Callable[[str], str], port: int = GENEVE_PORT) -> None:
        super().__init__(channel, address)
        self._port = port
        self._installed = Installed(address, port, run)
        self._retry_at = math.inf

    def begin(self) -> None:
        """Have the kernel drop all Geneve in clear; ConfigError when it does not: then nothing may be sent."""
        self._installed.block()

    def take_over(self) -> None:
        """Remove what a process before left in the kernel, now that the port is this one's; ConfigError if it stays."""
        self._installed.take_over()

    def check(self, profiles: Iterable[Profile]) -> None:
        """Raise ConfigError for the first profile of IPsec that the kernel cannot work under; change nothing."""
        for profile in profiles:
            # Profiles of other mechanisms are refused by the data path.
            lacks = kernel_lacks(profile) if profile.channel == self._channel else ""
            if lacks:
                raise ConfigError(f"the kernel's IPsec cannot be used: {lacks}; set 'ipsec: user-space'.")

    def outbound(self, association: Association, profile: Profile) -> KernelOutbound:
        """Return the sender's end; ValueError for what the kernel cannot do."""
        return KernelOutbound(association, profile)

    def inbound(self, association: Association, profile: Profile) -> KernelInbound:
        """Return the receiver's end; ValueError for what the kernel cannot do."""
        return KernelInbound(association, profile)

    def opener(self, ends: Iterable[InboundEnd], expired: Iterable[InboundEnd]) -> KernelOpener:  # noqa: ARG002
        """Return who reads what the kernel opened under ``ends``."""
        held = [end for end in ends if isinstance(end, KernelInbound)]
        return KernelOpener(held, self._installed.stuck)

    def sealer(self, use: Use, chosen: Chosen) -> KernelSealer | None:
        """Return who makes the packets for ``use``, None without a key; ValueError when options do not fit."""
        if not isinstance(chosen.egress, KernelOutbound):
            return None
        sealer = KernelSealer(use.vni, chosen.egress, ip_address(use.address).packed, self._installed.stuck)
        sealer.check_room(use.options)
        return sealer

    def hold(self, outbound: Iterable[OutboundEnd], inbound: Iterable[InboundEnd], peers: Mapping[str, str]) -> None:
        """Have the kernel hold exactly these; ConfigError with its words when it does not take what is new.

        To hold less than before raises nothing: it is called when lifetimes end, too. What the kernel then does not
        delete has its peer shut out until it does, and is tried again.
        """
        wanted: dict[Key, KernelSa] = {}
        try:
            for out in outbound:
                if isinstance(out, KernelOutbound):
                    far = peers[out.audience]
                    wanted[True, out.spi] = KernelSa(out.association, out.terms, self._address, far, True, self._port)
            for into in inbound:
                if isinstance(into, KernelInbound):
                    far = into.association.sender_address
                    wanted[False, into.spi] = KernelSa(
                        into.association, into.terms, far, self._address, False, self._port
                    )
        except KeyError as error:
            raise ConfigError(f"the kernel's IPsec cannot be used: no NVE is named {error}.") from None
        except ValueError as error:
            raise ConfigError(f"the kernel's IPsec cannot be used: {error}.") from None
        self._installed.hold(wanted)
        self._retry_at = -math.inf if self._installed.stuck else math.inf

    def run_due(self, now: float) -> list[Datagram]:
        """Try again to delete what the kernel did not; return nothing, as no packets are due."""
        if self._retry_at == -math.inf:
            self._retry_at = now + RETRY_INTERVAL
        elif now >= self._retry_at:
            self._installed.remove_rest()
            self._retry_at = now + RETRY_INTERVAL if self._installed.stuck else math.inf
        return []

    def close(self) -> None:
        """Take everything out of the kernel again; the sockets are closed before."""
        self._installed.clear()

    def document(self) -> dict[str, Any]:
        """Return the protocol, its choices, that the kernel does it, and to how many peers it is shut (see hold)."""
        return {**super().document(), "implementation": "kernel", "peers_shut_out": len(self._installed.stuck)}
