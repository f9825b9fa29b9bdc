"""IPsec by the kernel (XFRM) as the NVE's data path uses it: Geneve leaves and enters the sockets in clear.

The NVE tells the kernel which associations there are, counts what it sends, and otherwise relies on it: what comes from
the address of an association's sender has passed the kernel's policy, which demands that association. Who runs the
kernel's lines is given, so that nothing here touches it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from geneve.control.channel import Channel
from geneve.control.profile import Profile
from geneve.control.state import Association, AssociationRole
from geneve.drops import DropReason
from geneve.errors import ConfigError
from geneve.inner import InnerFrame
from geneve.security.association import InboundEnd, OutboundEnd
from geneve.security.open import Burst, PacketOpener
from geneve.security.seal import Item
from nve.ipsec.mechanism import IpsecKeys
from nve.ipsec.xfrm import KernelSa, add_lines, delete_lines
from nve.plain import plain_packets
from nve.protection import Chosen, Use


class KernelOutbound(OutboundEnd):
    """The sender's end. The kernel numbers packets; the count here is for the limits."""

    def __init__(self, association: Association, profile: Profile) -> None:
        _refuse_groups(association)
        super().__init__(association, profile)
        self.association = association


class KernelInbound(InboundEnd):
    """The audience's end. The kernel keeps the replay window."""

    def __init__(self, association: Association, profile: Profile) -> None:
        _refuse_groups(association)
        super().__init__(association, profile)
        self.association = association


def _refuse_groups(association: Association) -> None:
    if association.role is not AssociationRole.EGRESS:
        raise ValueError("of the kernel's IPsec only associations between two NVEs are used")


class KernelSealer:
    """Makes plain Geneve packets, which the kernel protects on their way out (:class:`nve.protection.Sealer`)."""

    def __init__(self, vni: int, end: KernelOutbound) -> None:
        self._vni, self._end = vni, end

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
        if not count:
            return []
        self._end.reserve(count)
        return plain_packets(self._vni, frames[:count], options[:count])

    def seal_dummy(self, size: int, options: Sequence[bytes] = ()) -> bytes:  # noqa: ARG002
        """Raise ValueError: the kernel makes no dummies."""
        raise ValueError("the kernel's IPsec has no dummy packets")


class KernelOpener:
    """Reads what the kernel let pass (:class:`nve.protection.Opener`)."""

    def __init__(self, ends: Iterable[KernelInbound]) -> None:
        self._ends = {end.sender_address: end for end in ends}
        self._geneve = PacketOpener()

    def open_burst(self, buffer: bytes, size: int, source: bytes, now: float) -> list[Burst | DropReason]:
        """Read packets of ``size`` bytes from one source; without an association with it, they are refused."""
        end = self._ends.get(source)
        if end is None:
            return [DropReason.UNPROTECTED] * max(1, -(-len(buffer) // max(1, size)))
        results = self._geneve.open_burst(buffer, size, source, now)
        for result in results:
            if isinstance(result, Burst):
                result.opened.association = end
        return results


class KernelIpsec(IpsecKeys):
    """Security associations in the kernel. ``run`` has it do lines, and returns why not, or nothing (see xfrm.py)."""

    def __init__(self, channel: Channel, address: str, run: Callable[[Iterable[str]], str]) -> None:
        super().__init__(channel, address)
        self._run = run
        self._held: dict[int, KernelSa] = {}

    def outbound(self, association: Association, profile: Profile) -> KernelOutbound:
        """Return the sender's end; ValueError for what the kernel cannot do."""
        return KernelOutbound(association, profile)

    def inbound(self, association: Association, profile: Profile) -> KernelInbound:
        """Return the receiver's end; ValueError for what the kernel cannot do."""
        return KernelInbound(association, profile)

    def opener(self, ends: Iterable[InboundEnd], expired: Iterable[InboundEnd]) -> KernelOpener:  # noqa: ARG002
        """Return who reads what the kernel opened under ``ends``."""
        return KernelOpener(end for end in ends if isinstance(end, KernelInbound))

    def sealer(self, use: Use, chosen: Chosen) -> KernelSealer | None:
        """Return who makes the packets for ``use``, None without a key; ValueError when options do not fit."""
        if not isinstance(chosen.egress, KernelOutbound):
            return None
        sealer = KernelSealer(use.vni, chosen.egress)
        sealer.check_room(use.options)
        return sealer

    def hold(self, outbound: Iterable[OutboundEnd], inbound: Iterable[InboundEnd], peers: Mapping[str, str]) -> None:
        """Have the kernel hold exactly these; ConfigError with its words when it does not take them.

        What is new comes before what goes: in between, both can be opened, and nothing leaves in clear.
        """
        wanted: dict[int, KernelSa] = {}
        try:
            for out in outbound:
                if isinstance(out, KernelOutbound):
                    far = peers[out.audience]
                    wanted[out.spi] = KernelSa(out.association, out.terms, self._address, far, True)
            for into in inbound:
                if isinstance(into, KernelInbound):
                    far = into.association.sender_address
                    wanted[into.spi] = KernelSa(into.association, into.terms, far, self._address, False)
        except (ValueError, KeyError) as error:
            raise ConfigError(f"the kernel's IPsec cannot be used: {error}.") from None
        new = [sa for spi, sa in wanted.items() if spi not in self._held]
        gone = [sa for spi, sa in self._held.items() if spi not in wanted]
        lines = [*add_lines(new), *delete_lines(gone, kept=wanted.values())]
        said = self._run(lines) if lines else ""
        if said:
            raise ConfigError(f"the kernel refuses the IPsec associations ({said}); set 'ipsec: user-space'.")
        self._held = wanted

    def close(self) -> None:
        """Take everything out of the kernel again."""
        if self._held:
            self._run(delete_lines(self._held.values()))
            self._held = {}

    def document(self) -> dict[str, Any]:
        """Return the protocol, its choices, and that the kernel does it."""
        return {**super().document(), "implementation": "kernel"}
