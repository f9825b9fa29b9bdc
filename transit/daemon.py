"""The transit device as a process: one event loop over relay, NVA, collector and stats (thin shell)."""

from __future__ import annotations

import contextlib
import logging
import os
import secrets
import select
import socket
import time
from pathlib import Path
from typing import Any

from geneve.control.agent import ControlAgent
from geneve.control.state import NodeState
from geneve.export import INSTANCE_SIZE, ExportSealer
from transit.config import Collector, TransitConfig
from transit.control import make_agent
from transit.device import TransitDevice
from transit.export_keys import read_key
from transit.exporter import Exporter
from transit.forwarder import Forwarder
from transit.relay import Relay
from transit.stats import StatsSocket
from transit.stop import StopSignal

IDLE_INTERVAL = 1.0
"""Seconds after which the loop looks at its timers even if nothing happened."""

log = logging.getLogger("transit")


class CollectorSocket:
    """A connected UDP socket towards the collector. It may not be there yet, or no longer."""

    def __init__(self, collector: Collector) -> None:
        self._address = (collector.address, collector.port)
        family = socket.AF_INET6 if ":" in collector.address else socket.AF_INET
        self._socket = socket.socket(family, socket.SOCK_DGRAM)
        self._socket.setblocking(False)

    def send(self, datagram: bytes) -> bool | None:
        """Send a datagram: True when sent, False when refused, None when the socket is busy."""
        try:
            self._socket.sendto(datagram, self._address)
        except BlockingIOError:
            return None
        except OSError:
            return False
        return True

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()


def _make_exporter(name: str, collector: Collector) -> Exporter:
    key = read_key(Path(collector.key))
    return Exporter(ExportSealer(name, key, secrets.token_bytes(INSTANCE_SIZE)))


class TransitDaemon:
    """Owns the process's descriptors. ConfigError or RelayError when one of them cannot be had."""

    def __init__(self, config: TransitConfig) -> None:
        self.config = config
        self._started = time.monotonic()
        self._device = TransitDevice(config.name, observing=config.collector is not None)
        self._exporter = _make_exporter(config.name, config.collector) if config.collector else None
        self._has_state = config.nva is None
        if config.static_state is not None:
            self._device.apply(config.static_state, time.monotonic())
        with contextlib.ExitStack() as opened:
            self._relay = Relay(
                config.interfaces, vnet=config.offloads.vnet_header, timestamps=config.collector is not None
            )
            opened.callback(self._relay.close)
            self._collector = CollectorSocket(config.collector) if config.collector else None
            if self._collector:
                opened.callback(self._collector.close)
            self._stats = StatsSocket(config.stats) if config.stats else None
            if self._stats:
                opened.callback(self._stats.close)
            self._poller = select.epoll()
            opened.callback(self._poller.close)
            self._control: ControlAgent | None = None
            if config.nva:
                self._control = make_agent(config.name, config.nva, self._apply, self._poller)
                opened.callback(self._control.close)
            self._opened = opened.pop_all()
        first, second = self._relay.ports
        self._forwarder = Forwarder(
            self._device, self._exporter, config.impair, (first.send, second.send), time.time_ns,
            send_whole=(first.send_whole, second.send_whole),
        )  # fmt: skip

    def _apply(self, state: NodeState) -> None:
        self._device.apply(state, time.monotonic())
        self._has_state = True

    def run(self) -> None:
        """Serve until SIGTERM or SIGINT."""
        stop = StopSignal()
        ports = {port.fileno(): index for index, port in enumerate(self._relay.ports)}
        for descriptor in (*ports, stop.fileno(), *([self._stats.fileno()] if self._stats else [])):
            self._poller.register(descriptor, select.EPOLLIN)
        log.info("%s relays between %s and %s", self.config.name, *self.config.interfaces)
        while True:
            for descriptor, events in self._wait():
                if descriptor in ports:
                    ingress = ports[descriptor]
                    self._forwarder.take(self._relay.ports[ingress].receive(), ingress, time.monotonic())
                elif descriptor == stop.fileno():
                    log.info("%s stops", self.config.name)
                    return
                elif self._stats and descriptor == self._stats.fileno():
                    self._stats.answer(self.document())
                elif self._control and descriptor == self._control.fileno():
                    # Errors and hang-ups show when reading.
                    self._control.handle(
                        bool(events & ~select.EPOLLOUT), bool(events & select.EPOLLOUT), time.monotonic()
                    )
            self._run_timers(time.monotonic())

    def _wait(self) -> list[tuple[int, int]]:
        now = time.monotonic()
        impairment = self._forwarder.next_deadline()
        others = [self._exporter.next_deadline() if self._exporter else None]
        others.append(self._control.next_deadline if self._control else None)
        others.append(self._device.next_expiry())
        deadlines = [deadline for deadline in (impairment, *others) if deadline is not None]
        timeout = max(0.0, min([now + IDLE_INTERVAL, *deadlines]) - now)
        if impairment is not None:
            # epoll counts in milliseconds, too coarse for delays: select waits for epoll's descriptor.
            select.select([self._poller], [], [], timeout)
            return self._poller.poll(0)
        return self._poller.poll(timeout)

    def _run_timers(self, now: float) -> None:
        self._device.expire(now)
        if self._control is not None:
            self._control.run_timers(now)
        self._forwarder.run_due(now)
        if self._exporter is not None and self._collector is not None:
            self._exporter.flush(now, self._collector.send)

    def document(self) -> dict[str, Any]:
        """Return what the stats socket tells.

        ``drops``: outcomes of group policy are the device's decisions, everything else there is loss. Without
        group policy a transit device decides for no drop. ``options_read`` may hold what is confidential
        between a sender and this device: the socket is the device owner's alone.
        """
        ports = {port.interface: port.stats() for port in self._relay.ports}
        drops = self._forwarder.drops()
        for name in ("relay_send_failed", "relay_truncated", "relay_unreadable", "kernel_drops"):
            drops[name] = sum(counters[name] for counters in ports.values())
        counters = {**self._device.counters(), "datagrams_cut": self._forwarder.cut}
        if self._exporter is not None:
            counters.update(self._exporter.counters())
        return {
            "name": self.config.name,
            "role": "transit",
            "ready": self._has_state and (self._control is None or self._control.registered),
            "pid": os.getpid(),
            "uptime_s": round(time.monotonic() - self._started, 3),
            "counters": counters,
            "drops": drops,
            "options_read": self._device.options_read(),
            "interfaces": ports,
            "offloads": {"vnet_header": self._relay.vnet_state()},
        }

    def close(self) -> None:
        """Close all descriptors and remove the stats socket."""
        self._opened.close()
