"""The experiment *partial*: tenants' TLS through overlays that encrypt it once more, or leave it alone (thin shell).

Tenants move bulk data in clear (the control) and within TLS 1.3, through pairs of NVEs with each protection, over an
underlay of 1500 and of 9000 bytes. A capture of each shows what an observer of the underlay can read.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from experiments.context import Context
from experiments.measure import Capture, MeasureError
from experiments.mechanisms import flows
from experiments.mechanisms.compared_analysis import capture_filter
from experiments.mechanisms.pairs import FAULTS, SINK, SOURCE, START_SECONDS, Pair, Pairs, whole_datagrams
from experiments.mechanisms.partial_analysis import (
    CAPTURED,
    POINT_OVERHEAD,
    SAMPLES,
    TENANTS,
    TENANTS_CAPTURED,
    TLS,
)
from experiments.mechanisms.variants import Variant, partial_variants
from experiments.mechanisms.wire import outer_packets
from experiments.peers.network import BRIDGED, LEFT, RIGHT, TENANT_INTERFACE, UNDERLAY, WIRE
from experiments.peers.runner import reason_of
from experiments.programs import wait_for
from experiments.samples import SampleWriter, sample

_CAPTURE_SECONDS = 3.0


class Partial:
    """One run of the experiment."""

    def __init__(self, context: Context, pairs: Pairs, samples: SampleWriter) -> None:
        self._context, self._pairs, self._samples = context, pairs, samples

    def measure(self, variant: Variant, tenants: str, repeat: int, place: int) -> None:
        """Take one sample of goodput, with the CPU time of both NVEs."""
        key = {**variant.key(), "tenants": tenants, "repeat": repeat, "order": place}
        pair = self._pairs.pairs.get(variant)
        try:
            if pair is None:
                raise MeasureError(self._pairs.missing[variant])
            found = flows.measure_flow(pair, self._context.profile.partial_seconds, tenants == TLS)
        except FAULTS as error:
            self._samples.write(sample("flow", key, None, "bit/s", reason_of(error)))
            return
        self._samples.write(sample("flow", key, found.pop("value"), "bit/s", None, **found))

    def capture(self, variant: Variant, tenants: str) -> None:
        """Capture a flow where it leaves the tenant, and where the same bytes leave the NVE."""
        key = {**variant.key(), "tenants": tenants}
        try:
            pair = self._pairs.pairs.get(variant)
            if pair is None:
                raise MeasureError(self._pairs.missing[variant])
            found = self._captured(pair, tenants)
        except FAULTS as error:
            self._samples.write(sample("capture", key, None, "", reason_of(error)))
            return
        self._samples.write(sample("capture", key, found, ""))

    def _captured(self, pair: Pair, tenants: str) -> dict[str, str]:
        suffix = "-tls" if tenants == TLS else ""
        source, sink = pair.programs[SOURCE + suffix], pair.programs[SINK + suffix]
        folder, name = self._context.captures(), f"{pair.variant.name}-{tenants}"
        tenant, underlay = folder / f"{name}-tenant.pcap", folder / f"{name}-underlay.pcap"
        wanted = capture_filter(pair.variant.profile, UNDERLAY[RIGHT])
        near = pair.network.tenant(LEFT)
        with (
            whole_datagrams(pair),
            Capture(near, TENANT_INTERFACE, tenant, "tcp", TENANTS_CAPTURED, "out"),
            Capture(pair.network.node(LEFT), WIRE, underlay, wanted, CAPTURED, "out"),
        ):
            source.ask({"do": "go"})
            try:
                arrived = wait_for(lambda: len(outer_packets(underlay)) >= CAPTURED, _CAPTURE_SECONDS, pause=0.05)
            finally:
                source.ask({"do": "pause"})
            flows.drain(sink)
        if not arrived:
            raise MeasureError("too few packets were captured")
        addresses = {side: pair.network.tenant_address(side) for side in (LEFT, RIGHT)}
        relative = self._context.relative
        return {"tenant": relative(tenant), "underlay": relative(underlay), **addresses}

    def note(self, variant: Variant) -> None:
        """Note what the NVEs say of themselves after they have worked."""
        value: dict[str, Any] | None = None
        reason = self._pairs.missing.get(variant)
        if variant in self._pairs.pairs:
            pair = self._pairs.pairs[variant]
            self._samples.write(sample("tls", variant.key(), pair.said(SOURCE + "-tls")["cipher"], ""))
            try:
                value, reason = pair.observe(), None
            except FAULTS as error:
                reason = reason_of(error)
        self._samples.write(sample("nve", variant.key(), value, "", reason))


def _plan(context: Context, chosen: Sequence[Variant]) -> list[tuple[Variant, str, int]]:
    """Return everything in the order of measurement: what is compared follows each other within a repeat, shuffled."""
    plan = []
    for repeat in range(context.profile.repeats):
        order = context.random(f"order {repeat}")
        blocks = [(mtu, tenants) for mtu in context.profile.partial_mtus for tenants in TENANTS]
        order.shuffle(blocks)
        for mtu, tenants in blocks:
            block = [variant for variant in chosen if variant.underlay_mtu == mtu]
            order.shuffle(block)
            plan += [(variant, tenants, repeat) for variant in block]
    return plan


def _open_flows(pair: Pair, certificates: flows.Certificates) -> None:
    flows.open_flow(pair)
    flows.open_flow(pair, certificates)


def _measure(
    context: Context, chosen: Sequence[Variant], plan: Sequence[tuple[Variant, str, int]], partial: Partial
) -> None:
    for place, (variant, tenants, repeat) in enumerate(plan):
        label = f"{variant.name}, {tenants} (measurement {place + 1} of {len(plan)})"
        context.progress.step(label, context.profile.partial_seconds + POINT_OVERHEAD)
        partial.measure(variant, tenants, repeat, place)
    for variant in chosen:
        context.progress.step(f"what can be read: {variant.name}", 1.0)
        # The control is the same for every MTU, and captures of large frames are large.
        for tenants in TENANTS if variant.underlay_mtu == min(context.profile.partial_mtus) else (TLS,):
            partial.capture(variant, tenants)
        partial.note(variant)


def run(context: Context) -> None:
    """Run the experiment; every sample is on disk when this returns."""
    chosen = partial_variants(context.profile.partial_mtus)
    plan = _plan(context, chosen)
    names = [f"{variant.name}, {tenants}, repeat {repeat}" for variant, tenants, repeat in plan]
    context.run.update(order={**context.run.record.get("order", {}), context.name: names})
    folder = context.raw("programs", "x").parent
    context.progress.step("start the pairs of NVEs", START_SECONDS * len(chosen))
    with tempfile.TemporaryDirectory(prefix="tenants-", dir="/run") as private, context.writer(SAMPLES) as samples:
        certificates = flows.Certificates.make(Path(private), "tenant", BRIDGED[RIGHT])
        with Pairs(chosen, folder, lambda pair: _open_flows(pair, certificates)) as pairs:
            _measure(context, chosen, plan, Partial(context, pairs, samples))
