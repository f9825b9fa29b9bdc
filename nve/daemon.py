"""The NVE as a process: one event loop over TAPs, underlay sockets, NVA and stats (thin shell)."""

from __future__ import annotations

import contextlib
import functools
import gc
import logging
import math
import os
import secrets
import socket
import time
from pathlib import Path
from typing import Any

from geneve.control.agent import ControlAgent
from geneve.control.demand import Demand
from geneve.control.state import NodeState
from geneve.errors import ConfigError
from geneve.overhead import ETHERNET_HEADER_SIZE, encapsulation_size
from nve import key_files, sequence_file
from nve.config import NveConfig
from nve.control import make_agent
from nve.datagrams import Datagram
from nve.dataplane import Dataplane
from nve.mechanism import make_mechanism, make_underlay
from nve.memberships import UnderlayError
from nve.netlink import BridgeWatch
from nve.poller import Poller
from nve.presence import PortMove, Presence
from nve.segmentation import Frame
from nve.sizes import refuse_sizes
from nve.stats import StatsSocket
from nve.stop import StopSignal
from nve.tap import LinkError, Tap, TenantBridge

BATCH = 64
"""Packets taken from one descriptor before the others get their turn."""

IDLE_INTERVAL = 1.0
"""Seconds after which the loop looks at its timers even if nothing happened."""

TIMERS_INTERVAL = 0.001
"""Seconds after which the loop looks at its timers even if there is always something to do."""

log = logging.getLogger("nve")


class NveDaemon:
    """Owns the process's descriptors and interfaces; :meth:`close` removes what this process made.

    ConfigError, LinkError or UnderlayError when one of them cannot be had.
    """

    def __init__(self, config: NveConfig) -> None:
        self.config = config
        self._started = time.monotonic()
        self._ready = False
        self._resync_at = math.inf
        signer = key_files.load_signer(config.signing_key)
        self._mechanism = make_mechanism(config, signer)
        key_log = None if config.key_log is None else key_files.KeyLog(Path(config.key_log)).write
        self._presence = Presence()
        self._dataplane = Dataplane(
            config.name,
            secrets.token_bytes(32),
            config.dscp,
            signer,
            key_log,
            on_demand=config.nva is not None,
            presence=self._presence,
            batching=config.offloads.udp_segment,
            merging=config.offloads.merge,
            mechanism=self._mechanism,
        )
        self._bridges: dict[int, TenantBridge] = {}
        self._mtus: dict[int, int] = {}
        self._control: ControlAgent | None = None
        self._poller = Poller()
        self._timers_late = -math.inf
        with contextlib.ExitStack() as opened:
            opened.callback(self._poller.close)
            opened.callback(self._mechanism.close)
            self._underlay = make_underlay(config, self._mechanism)
            opened.callback(self._underlay.close)
            for local in config.vnis:
                bridge = self._bridges[local.vni] = TenantBridge(local.vni, local.ports, config.offloads)
                opened.callback(bridge.close)
            self._bridge_watch = BridgeWatch()
            opened.callback(self._bridge_watch.close)
            self._poller.watch(self._bridge_watch, self._from_kernel)
            for vni, bridge in self._bridges.items():
                self._presence.add_bridge(
                    vni, socket.if_nametoindex(bridge.name), socket.if_nametoindex(bridge.tap.name)
                )
            self._presence.resync(self._bridge_watch.dump(), time.monotonic())
            if config.stats is not None:
                stats = StatsSocket(config.stats)
                opened.callback(stats.close)
                self._poller.watch(stats, lambda *_: stats.answer(self.document()))
            if config.static_state is not None:
                self.apply(config.static_state)
                if config.sequence_file is not None:
                    sequence_file.reserve(Path(config.sequence_file), self._dataplane.outbound_associations())
            if config.nva is not None:
                self._control = make_agent(
                    config.name,
                    config.nva,
                    self.apply,
                    self._poller,
                    signer.public_key(),
                    check=self.check,
                    refused=self._on_refused_demand,
                    confirm=self._on_confirm,
                )
                opened.callback(self._control.close)
            self._opened = opened.pop_all()

    @property
    def _family(self) -> int:
        return 6 if ":" in self.config.underlay.address else 4

    def apply(self, state: NodeState) -> None:
        """Take over a state from the NVA or the file; ConfigError keeps the previous one."""
        self._check_serves(state)
        try:
            joined, left = self._underlay.set_groups(group.address for vni in state.vnis for group in vni.multicast)
        except UnderlayError as error:
            raise ConfigError(str(error)) from None
        for receiver in left:
            self._poller.unwatch(receiver)
            receiver.close()
        for receiver in joined:
            self._poller.watch(receiver, functools.partial(self._from_underlay, receiver))
        for datagram in self._dataplane.apply(state, time.monotonic()):
            self._send(datagram)
        for vni in state.vnis:
            self._set_mtu(vni.vni, vni.mtu)
        if not self._ready:
            self._ready = True
            log.info("%s serves VNIs %s", self.config.name, ", ".join(str(vni.vni) for vni in state.vnis) or "none")

    def check(self, state: NodeState) -> None:
        """Raise ConfigError when a state could not be applied; change nothing."""
        self._check_serves(state)
        refuse_sizes(state, self.config.underlay.mtu, self._family)
        self._dataplane.check(state, time.monotonic())

    def _on_refused_demand(self, demand: Demand) -> None:
        self._dataplane.refuse_demand(demand, time.monotonic())

    def _on_confirm(self, vni: int, mac: str) -> None:
        self._presence.confirm(vni, mac, time.monotonic())

    def _check_serves(self, state: NodeState) -> None:
        unserved = {vni.vni for vni in state.vnis} - self._bridges.keys()
        if unserved:
            raise ConfigError(f"the state has VNI {min(unserved)}, for which the configuration has no ports.")
        room = self.config.underlay.mtu - encapsulation_size(self._family, 0) - ETHERNET_HEADER_SIZE
        for vni in state.vnis:
            if vni.mtu > room:
                raise ConfigError(
                    f"the state gives VNI {vni.vni} an MTU of {vni.mtu}; the underlay's, {self.config.underlay.mtu}, "
                    f"leaves {room} at most."
                )

    def _set_mtu(self, vni: int, mtu: int) -> None:
        if self._mtus.get(vni) == mtu:
            return
        self._mtus[vni] = mtu
        try:
            self._bridges[vni].set_mtu(mtu)
        except LinkError as error:
            # One tenant's interface may be gone; that is no reason to leave the others without service.
            log.error("VNI %d: the MTU is not set everywhere: %s", vni, error)
            self._dataplane.counters["mtu_not_set"] += 1

    def _from_kernel(self, *_: bool) -> None:
        """Hear of ports and MAC addresses behind the bridges."""
        events = self._bridge_watch.read(BATCH)
        if events is None:
            self._dataplane.counters["bridge_events_lost"] += 1
            self._resync_at = time.monotonic()
            return
        self._presence.handle(events, time.monotonic())
        self._follow_ports()

    def _resync(self, now: float) -> None:
        """Take in all ports and MAC addresses, after events were lost; what fails is tried again a little later."""
        try:
            events = self._bridge_watch.dump()
        except LinkError as error:
            log.error("which tenants are here is not known exactly: %s", error)
            self._resync_at = now + IDLE_INTERVAL
            return
        self._resync_at = math.inf
        self._presence.resync(events, now)
        self._follow_ports()

    def _follow_ports(self) -> None:
        for move in self._presence.take_moves():
            self._port_moved(move)

    def _port_moved(self, move: PortMove) -> None:
        bridge = self._bridges[move.vni]
        if not move.joined:
            bridge.leave(move.name)
            return
        try:
            bridge.join(move.name)
        except LinkError as error:
            log.error("VNI %d: port %s cannot be prepared: %s", move.vni, move.name, error)
            self._dataplane.counters["mtu_not_set"] += 1

    def run(self) -> None:
        """Serve until SIGTERM or SIGINT."""
        stop = StopSignal()
        self._poller.watch(stop, lambda *_: stop.note())
        self.start()
        gc.collect()
        gc.freeze()  # modules, classes and code stay: the collector need not look at them again and again
        log.info(
            "%s listens on %s port %d",
            self.config.name,
            self.config.underlay.address,
            self.config.underlay.port,
        )
        while not stop.noted:
            self.step()
        log.info("%s stops", self.config.name)

    def start(self) -> None:
        """Listen to the underlay and to the tenants."""
        self._poller.watch(self._underlay.receiver, functools.partial(self._from_underlay, self._underlay.receiver))
        for vni, bridge in self._bridges.items():
            self._poller.watch(bridge.tap.fd, functools.partial(self._from_tenants, vni, bridge.tap))

    def step(self) -> None:
        """Do what there is to do; when there is nothing, wait for it, or until it is time for something.

        Whatever can wait does so until nothing else is to be done, but not for long.
        """
        if self._poller.turn(0.0):
            if time.monotonic() >= self._timers_late:
                self._run_timers()
            return
        self._run_timers()
        self._poller.turn(self._timeout())

    def _run_timers(self) -> None:
        now = time.monotonic()
        self._timers_late = now + TIMERS_INTERVAL
        if now >= self._resync_at:
            self._resync(now)
        for datagram in self._dataplane.run_due(now):
            self._send(datagram)
        confirmations = self._presence.take_confirmations(now)
        for vni, frame in self._presence.take_frames():
            self._deliver(self._bridges[vni].tap, frame)
        report = self._presence.take_report(now)
        demands = self._dataplane.take_demands(now)  # asked for without an NVA too: some mechanisms agree on keys
        if self._control is None:
            return
        for spi in self._dataplane.take_rekey_requests():
            self._control.ask_rekey(spi)
        self._control.ask_keys(demands)
        # A tenant that is not here is told first: the NVA is to hear why it is missing in the report.
        for vni, mac, present in confirmations:
            self._control.confirmed(vni, mac, present)
        if report is not None:
            self._control.tell_tenants(report)
        self._control.run_timers(now)

    def _timeout(self) -> float:
        deadlines = [self._control.next_deadline if self._control is not None else None]
        deadlines.append(self._dataplane.next_deadline())
        deadlines += [self._presence.next_deadline(), self._resync_at]
        waits = [deadline - time.monotonic() for deadline in deadlines if deadline is not None]
        return max(0.0, min([IDLE_INTERVAL, *waits]))

    def _send(self, datagram: Datagram) -> None:
        for reason in self._underlay.send(datagram):
            self._dataplane.drops[reason] += 1

    def _from_tenants(self, vni: int, tap: Tap, *_: bool) -> None:
        try:
            frames = tap.read(BATCH)
        except LinkError as error:
            log.error("VNI %d is no longer served: %s", vni, error)
            self._dataplane.counters["tap_gone"] += 1
            self._poller.unwatch(tap.fd)
            return
        result = self._dataplane.from_tenants(vni, frames, time.monotonic())
        for datagram in result.datagrams:
            self._send(datagram)
        for reply in result.replies:
            self._deliver(tap, reply)

    def _from_underlay(self, receiver: socket.socket, *_: bool) -> None:
        packets = self._underlay.receive(BATCH, receiver)
        for vni, frame in self._dataplane.from_underlay(packets, time.monotonic()):
            self._deliver(self._bridges[vni].tap, frame)

    def _deliver(self, tap: Tap, frame: Frame) -> None:
        if not tap.write(frame):
            self._dataplane.counters["tap_write_failed"] += 1

    def document(self) -> dict[str, Any]:
        """Return what the stats socket tells: names, numbers, reasons, and options as tenants' NVEs read them.

        Option values may have been confidential on the wire: the socket is for this node's owner only.
        """
        networks = self._dataplane.networks
        return {
            "name": self.config.name,
            "role": "nve",
            "ready": self._ready,
            "pid": os.getpid(),
            "uptime_s": round(time.monotonic() - self._started, 3),
            "counters": dict(self._dataplane.counters),
            "mechanism": self._mechanism.document(),
            "offloads": self._offloads(),
            "options": self._dataplane.seen.document(),
            "drops": {reason.value: count for reason, count in self._dataplane.drops.items()},
            "vnis": {
                str(vni): {
                    "mtu": network.mtu,
                    "peers": sorted(network.peers),
                    "tenants": len(network.location),
                }
                for vni, network in networks.items()
            },
        }

    def _offloads(self) -> dict[str, str]:
        """Return what became of each offload; those of the TAPs are alike."""
        states = dict(self._underlay.states)
        for bridge in self._bridges.values():
            states |= bridge.tap.states
        return states

    def close(self) -> None:
        """Close all descriptors and remove the bridges, the TAPs and the stats socket."""
        self._opened.close()
