"""The Ryu or os-ken application (thin shell): OpenFlow events in, flow rules and frames out."""

from __future__ import annotations

import logging
import queue
import threading
from dataclasses import dataclass
from typing import Any

from controller.fabric import openflow
from controller.fabric.framework import Framework
from controller.fabric.underlay import (
    AskStats,
    Clear,
    Command,
    Emit,
    FlowStats,
    PacketIn,
    PortStats,
    PortStatus,
    Sweep,
    SwitchDown,
    SwitchUp,
    Update,
)
from controller.shell import Shell

MAX_WAITING = 10000
"""Messages that wait for one switch at most; one that does not read is cut off."""

PROBE_TIMEOUT = 5.0
"""Seconds in which a switch must answer an echo request when somebody else connects in its name."""

log = logging.getLogger("controller")


@dataclass(frozen=True, slots=True)
class Echo:
    """Ask a switch for a sign of life."""


class SwitchWriter:
    """The way to one connected switch: a bounded queue and its own thread, so that none blocks others."""

    def __init__(self, framework: Framework, datapath: Any) -> None:
        self.datapath = datapath
        self._spawn = framework.spawn
        self._queue: queue.Queue[Command | Echo | None] = queue.Queue(MAX_WAITING)
        self._alive = threading.Event()
        self._probing = False
        self._spawn(self._run)

    def probe(self) -> None:
        """Close the connection unless the switch answers an echo request in time; returns at once."""
        if not self._probing:
            self._probing = True
            self._alive.clear()
            self._spawn(self._probe)

    def answered(self) -> None:
        """Note that the switch answered an echo request."""
        self._alive.set()

    def _probe(self) -> None:
        self.put(Echo())
        if not self._alive.wait(PROBE_TIMEOUT):
            log.warning("switch %d does not answer; closing its connection", self.datapath.id)
            self.datapath.close()
        self._probing = False

    def put(self, command: Command | Echo | None) -> None:
        """Queue a command; None ends the thread."""
        try:
            self._queue.put_nowait(command)
        except queue.Full:
            log.warning("switch %d does not read; closing its connection", self.datapath.id)
            self.datapath.close()

    def _run(self) -> None:
        while (command := self._queue.get()) is not None:
            for message in self._messages(command):
                self.datapath.send_msg(message)

    def _messages(self, command: Command | Echo) -> list[Any]:
        datapath = self.datapath
        if isinstance(command, Echo):
            return [openflow.echo_request(datapath)]
        if isinstance(command, Emit):
            return [openflow.packet_out(datapath, command.port, command.frame)]
        if isinstance(command, Update):
            messages = [openflow.group_add(datapath, entry) for entry in command.new_groups]
            messages += [openflow.flow_add(datapath, rule, command.cookie) for rule in command.add]
            messages += [openflow.flow_delete(datapath, rule) for rule in command.delete]
            return messages + [openflow.group_delete(datapath, entry) for entry in command.old_groups]
        if isinstance(command, AskStats):
            return openflow.stats_requests(datapath)
        if isinstance(command, Sweep):
            return openflow.flow_sweep(datapath, command.cookie)
        if isinstance(command, Clear):
            return [openflow.flow_clear(datapath), openflow.group_clear(datapath)]
        return []


class Switches:
    """The connected switches by datapath id; used under the shell's lock only.

    A datapath id proves nothing, so the first connection that gives it holds it while it is alive. A second
    one is refused, and makes the first prove that it is: a switch that comes back before its old connection
    was noticed dead gets in when it tries again, PROBE_TIMEOUT later at most.
    """

    def __init__(self) -> None:
        self._writers: dict[int, SwitchWriter] = {}

    def admits(self, datapath: Any) -> bool:
        """Whether no other connection holds this datapath id; asks one that does for a sign of life."""
        holder = self._writers.get(datapath.id)
        if holder is None or holder.datapath is datapath:
            return True
        holder.probe()
        return False

    def add(self, writer: SwitchWriter) -> None:
        """Add a switch that was admitted."""
        self._writers[writer.datapath.id] = writer

    def remove(self, writer: SwitchWriter | None) -> None:
        """Stop using a connection."""
        if writer is not None:
            del self._writers[writer.datapath.id]
            writer.put(None)

    def find(self, datapath: Any) -> SwitchWriter | None:
        """Return the writer of this very connection, or None when it is not (or no longer) used."""
        writer = self._writers.get(datapath.id) if datapath.id is not None else None
        return writer if writer is not None and writer.datapath is datapath else None

    def dispatch(self, command: Command) -> None:
        """Give a command to the switch it is for."""
        if isinstance(command, (Clear, Update, Sweep, Emit, AskStats)):
            writer = self._writers.get(command.dpid)
            if writer is not None:
                writer.put(command)


def make_app(framework: Framework, shell: Shell) -> type:
    """Return the application class for ``framework``; the framework makes the one instance."""
    events = framework.module("controller.ofp_event")
    handler = framework.module("controller.handler")
    ofproto = framework.module("ofproto.ofproto_v1_3")
    switches = Switches()
    shell.dispatch_switch = switches.dispatch

    class ControllerApp(framework.app_class):  # type: ignore[name-defined]
        """Translates; decides nothing."""

        OFP_VERSIONS = [openflow.OPENFLOW_13, openflow.OPENFLOW_15]

        @handler.set_ev_cls(events.EventOFPStateChange, [handler.MAIN_DISPATCHER, handler.DEAD_DISPATCHER])
        def on_state(self, event: Any) -> None:
            """A switch is ready or gone."""
            datapath = event.datapath
            with shell.lock:
                if event.state == handler.MAIN_DISPATCHER:
                    if not switches.admits(datapath):
                        log.warning("switch %d is connected already; refused %s", datapath.id, datapath.address[0])
                        datapath.close()
                        return
                    switches.add(SwitchWriter(framework, datapath))
                    ports = {
                        number: openflow.port_is_up(ofproto, port)
                        for number, port in datapath.ports.items()
                        if openflow.is_physical(ofproto, number)
                    }
                    shell.underlay(SwitchUp(datapath.id, ports))
                elif (writer := switches.find(datapath)) is not None:
                    switches.remove(writer)
                    shell.underlay(SwitchDown(datapath.id))

        @handler.set_ev_cls(events.EventOFPPortStatus, handler.MAIN_DISPATCHER)
        def on_port(self, event: Any) -> None:
            """A port has changed."""
            message = event.msg
            if openflow.is_physical(ofproto, message.desc.port_no):
                up = message.reason != ofproto.OFPPR_DELETE and openflow.port_is_up(ofproto, message.desc)
                self._of_switch(message, PortStatus(message.datapath.id, message.desc.port_no, up))

        @handler.set_ev_cls(events.EventOFPPacketIn, handler.MAIN_DISPATCHER)
        def on_packet(self, event: Any) -> None:
            """A frame of an unknown sender, or a probe."""
            message = event.msg
            port = message.match["in_port"]
            if openflow.is_physical(ofproto, port):
                self._of_switch(message, PacketIn(message.datapath.id, port, bytes(message.data)))

        @handler.set_ev_cls(events.EventOFPEchoReply, handler.MAIN_DISPATCHER)
        def on_echo(self, event: Any) -> None:
            """A switch is alive."""
            with shell.lock:
                if (writer := switches.find(event.msg.datapath)) is not None:
                    writer.answered()

        @handler.set_ev_cls(
            [events.EventOFPFlowStatsReply, events.EventOFPFlowDescStatsReply], handler.MAIN_DISPATCHER
        )
        def on_flow_stats(self, event: Any) -> None:
            """A switch says what its rules counted; parsed before the lock is taken."""
            message = event.msg
            self._of_switch(message, FlowStats(message.datapath.id, *openflow.flow_counts(message)))

        @handler.set_ev_cls(events.EventOFPPortStatsReply, handler.MAIN_DISPATCHER)
        def on_port_stats(self, event: Any) -> None:
            """A switch says what its ports counted."""
            message = event.msg
            self._of_switch(message, PortStats(message.datapath.id, openflow.port_counts(message)))

        @handler.set_ev_cls(events.EventOFPErrorMsg, [handler.CONFIG_DISPATCHER, handler.MAIN_DISPATCHER])
        def on_error(self, event: Any) -> None:
            """A switch refused a message."""
            message = event.msg
            log.warning("switch %s: OpenFlow error %d/%d", message.datapath.id, message.type, message.code)

        def _of_switch(self, message: Any, event: PortStatus | PacketIn | FlowStats | PortStats) -> None:
            with shell.lock:
                if switches.find(message.datapath) is not None:
                    shell.underlay(event)

    return ControllerApp
