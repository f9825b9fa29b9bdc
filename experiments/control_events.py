"""The events of the control-plane experiment: what is done to a running network, and when, for the record.

Nothing is judged here. Each event returns one entry or two: its kind, the flows under way, ``begin_ns`` and ``end_ns``
(the window in which the analysis looks at the flows), and times of its own.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

from experiments.bench import records
from experiments.context import Context, ExperimentError
from experiments.control_flows import Flow, Flows, watch
from experiments.control_sessions import Sessions
from experiments.measure import IperfServer, MeasureError, cpu_nanoseconds, tcp_goodput
from experiments.programs import wait_for
from geneve.control.channel import ChannelProtocol
from geneve.errors import ConfigError
from topologies.configs import CONTROLLER_NAME
from topologies.network import Testbed

Entry = dict[str, Any]

INTERVAL = 0.004
"""Seconds between two messages of a flow: the resolution of every outage and isolation."""
REKEY_INTERVAL = 0.002
START_INTERVAL = 0.01
REVOKED, DEVICE = "nve3", "t1"
BOTH_WAYS = (("red1", "red3"), ("red3", "red1"))
MOVING = "red3"
HOMES = ("nve3", "nve2")
"""Where the moving tenant is at first, and where it moves to and comes back from."""
CHANNEL_RATES = (0, 1)
"""How often a second keys are replaced under a channel."""
_POLL = 0.02
_PATIENCE = 15.0


class Events:
    """All events on one started testbed."""

    def __init__(self, context: Context, testbed: Testbed, flows: Flows) -> None:
        self.context = context
        self.testbed = testbed
        self.flows = flows
        self.server: IperfServer | None = None

    def table(self) -> dict[str, Callable[[], list[Entry]]]:
        """Return every event by its name; rekeying is one event for each rate."""
        events: dict[str, Callable[[], list[Entry]]] = {
            "nothing": self.nothing,
            "nva_killed": self.nva_killed,
            "link": self.link,
            "move": self.move,
            "static_move": self.static_move,
            "revoke_nve": self.revoke_nve,
            "revoke_transit": self.revoke_transit,
        }
        for rate in self.context.profile.rekey_rates:
            events[f"rekey {rate}"] = lambda rate=rate: self.rekey(rate)  # type: ignore[misc]
        return events

    def channel_table(self) -> dict[str, Callable[[], list[Entry]]]:
        """Return the events that a channel may make another thing of, by name, and controls."""
        events: dict[str, Callable[[], list[Entry]]] = {
            "nothing": self.nothing,
            "nva_killed": self.nva_killed,
            "link": self.link,
            "revoke_nve": self.revoke_nve,
        }
        for rate in CHANNEL_RATES:
            events[f"rekey {rate}"] = lambda rate=rate: self.channel_rekey(rate)  # type: ignore[misc]
        return events

    def _entry(self, event: str, flows: list[Flow], begin_ns: int, end_ns: int, **details: Any) -> Entry:
        interval = details.pop("interval", INTERVAL)
        return {
            "event": event, "begin_ns": begin_ns, "end_ns": end_ns, "interval": interval,
            "flows": [flow.as_dict() for flow in flows], "missing": None, **details,
        }  # fmt: skip

    # What operators do and see ---------------------------------------------------------------------------

    def _operate(self, path: str) -> tuple[int, int]:
        """Ask for an operation; returns when it was asked and when it was answered, UTC nanoseconds."""
        asked = time.time_ns()
        self.testbed.operate("POST", f"/v1/{path}", {})
        return asked, time.time_ns()

    def _nodes(self) -> dict[str, Any]:
        try:
            return self.testbed.rest("/v1/nodes")
        except (OSError, ValueError):
            return {}

    def _converged(self) -> bool:
        return bool(self._nodes().get("converged"))

    def settle(self) -> None:
        """Wait until the network is as before an event; ExperimentError when it never is."""
        if not wait_for(self._converged, _PATIENCE, pause=0.05):
            raise ExperimentError("the NVA's state did not reach every node again after an event")

    def _path(self) -> list[str]:
        paths = self.testbed.rest("/v1/topology")["paths"]
        return next((path["transit"] for path in paths if (path["from"], path["to"]) == ("nve1", "nve3")), [])

    # Events ----------------------------------------------------------------------------------------------

    def nothing(self) -> list[Entry]:
        """Do nothing: what this method takes for an outage where there is none."""
        with self.flows.running(BOTH_WAYS, INTERVAL) as flows:
            begin = time.time_ns()
            return [self._entry("nothing", flows, begin, watch(1.0))]

    def nva_killed(self) -> list[Entry]:
        """Kill the controller (-9) and start it again at once."""
        with self.flows.running(BOTH_WAYS, INTERVAL) as flows:
            begin = time.time_ns()
            self.testbed.kill_daemon(CONTROLLER_NAME)
            self.testbed.relaunch_daemon(CONTROLLER_NAME)
            launched = time.time_ns()
            back = wait_for(self._converged, _PATIENCE, pause=_POLL)
            in_step = time.time_ns() if back else None
            end = watch(0.2)
        self.testbed.reconnect_switches()
        return [self._entry(
            "nva_killed", flows, begin, end, launched_ns=launched, in_step_ns=in_step, poll=_POLL,
        )]  # fmt: skip

    def link(self) -> list[Entry]:
        """Take the link on the flows' path down, and up again."""
        with self.flows.running(BOTH_WAYS, INTERVAL) as flows:
            before = self._path()
            down = time.time_ns()
            self.testbed.set_link("s1", "s2", up=False)
            down_end = watch(1.0)
            round_about = self._path()
            up = time.time_ns()
            self.testbed.set_link("s1", "s2", up=True)
            found = wait_for(lambda: self._path() == before, _PATIENCE, pause=0.05)
            found_ns = time.time_ns() if found else None
            up_end = watch(0.5)
        self.testbed.reconnect_switches()
        return [
            self._entry("link_down", flows, down, down_end, path_before=before, path_after=round_about),
            self._entry("link_up", flows, up, up_end, path_before=round_about, path_after=before, path_ns=found_ns),
        ]

    def move(self) -> list[Entry]:
        """Move a tenant's host behind another NVE, and back."""
        senders = {"nve1": "red1", "nve2": "red2", "nve3": "red4"}
        entries = []
        with self.flows.running([(host, MOVING) for host in senders.values()], INTERVAL) as flows:
            for old, new in (HOMES, HOMES[::-1]):
                roles = {senders[old]: "old place", senders[new]: "new place"}
                begin = time.time_ns()
                arrived = self.testbed.move_host(MOVING, new)
                announced = time.time_ns()
                entry = self._entry("move", flows, begin, watch(0.7), moved_from=old, moved_to=new)
                for flow in entry["flows"]:
                    flow["role"] = roles.get(flow["sender"], "third place")
                entries.append({**entry, "arrived_ns": arrived, "announced_ns": announced})
        return entries

    def static_move(self) -> list[Entry]:
        """Try to move a host whose place is fixed: control, its traffic must not follow it."""
        with self.flows.running([("blue1", "blue3")], INTERVAL) as flows:
            begin = time.time_ns()
            try:
                self.testbed.move_host("blue3", "nve2")
            except ConfigError as error:
                return [self._entry("static_move", flows, begin, time.time_ns(), refused=str(error))]
            moved = time.time_ns()
            end = watch(0.5)
            mappings = self.testbed.rest("/v1/mappings")["mappings"]
            places = sorted(
                item["nve"] for item in mappings if item["vni"] == 200 and item["mac"] == "02:00:00:00:00:03"
            )
            self.testbed.move_host("blue3", "nve3")
            back = self.flows.await_flowing(flows)
        return [self._entry(
            "static_move", flows, begin, end, moved_ns=moved, mapped_to=places, back=back, refused=None,
        )]  # fmt: skip

    def revoke_nve(self) -> list[Entry]:
        """Revoke an NVE while its tenant talks in both directions; then restore it and start it anew."""
        with self.flows.running([*BOTH_WAYS, ("red2", "red1")], INTERVAL) as flows:
            asked, answered = self._operate(f"nodes/{REVOKED}/revoke")
            end = watch(0.8)
            _, restored = self._operate(f"nodes/{REVOKED}/restore")
            self.testbed.kill_daemon(REVOKED)
            self.testbed.relaunch_daemon(REVOKED)
            launched = time.time_ns()
            self.flows.await_flowing(flows, seconds=_PATIENCE)
            back_end = time.time_ns()
        entries = [
            self._entry("revoke_nve", flows, asked, end, node=REVOKED, answered_ns=answered),
            self._entry("return_nve", flows, restored, back_end, node=REVOKED, launched_ns=launched),
        ]
        for entry in entries:
            for flow in entry["flows"]:
                flow["role"] = "bystander" if flow["sender"] == "red2" else "of the node"
        return entries

    def revoke_transit(self) -> list[Entry]:
        """Revoke a transit device on a path with telemetry, and restore it; it is not started anew."""

        def authenticated() -> int:
            return sum(1 for record in records(self.testbed) if record["authenticated"])

        with self.flows.running([("blue1", "blue2")], INTERVAL) as flows:
            if not wait_for(lambda: authenticated() > 0, 3, pause=0.05):
                raise ExperimentError(f"{DEVICE} reports no authenticated packet before it is revoked")
            asked, answered = self._operate(f"nodes/{DEVICE}/revoke")
            end = watch(0.8)
            _, restored = self._operate(f"nodes/{DEVICE}/restore")
            known = authenticated()
            wait_for(lambda: authenticated() > known + 10, _PATIENCE, pause=0.05)
            back_end = time.time_ns()
        return [
            self._entry("revoke_transit", flows, asked, end, node=DEVICE, answered_ns=answered),
            self._entry("return_transit", flows, restored, back_end, node=DEVICE),
        ]

    # Rekeying --------------------------------------------------------------------------------------------

    def rekey(self, rate: int) -> list[Entry]:
        """Replace all associations ``rate`` times a second under a UDP flow, and then under a TCP flow."""
        profile = self.context.profile
        entry = self._rekey(rate, Operator(self.testbed, rate), profile.rekey_seconds)
        if rate in profile.rekey_tcp_rates:
            entry["tcp"] = self._tcp(rate)
        return [entry]

    def channel_rekey(self, rate: int) -> list[Entry]:
        """Replace the keys of a channel ``rate`` times a second under a UDP flow: IPsec's, or DTLS sessions."""
        channel = self.testbed.scenario.channel
        assert channel is not None
        dtls = channel.protocol is ChannelProtocol.DTLS
        operator = Sessions(self.testbed, rate) if dtls else Operator(self.testbed, rate, vni=None)
        profile = self.context.profile
        return [self._rekey(rate, operator, profile.channel_rekey_seconds if rate else profile.rekey_seconds)]

    def _rekey(self, rate: int, operator: Operator | Sessions, seconds: float) -> Entry:
        with self.flows.running([BOTH_WAYS[0]], REKEY_INTERVAL) as flows:
            with operator:
                before, begin = self._work(), time.time_ns()
                end = watch(seconds)
                used = {name: work - before[name] for name, work in self._work().items()}
            return self._entry(
                "rekey", flows, begin, end, interval=REKEY_INTERVAL, rate=rate, cpu_ns=used, **operator.done()
            )

    def _work(self) -> dict[str, int]:
        """CPU time of the daemons that a replacement concerns, in nanoseconds."""
        return {name: cpu_nanoseconds(self.testbed.daemon_pid(name)) for name in (CONTROLLER_NAME, "nve1", "nve3")}

    def _tcp(self, rate: int) -> Entry:
        """Goodput of one TCP flow while associations are replaced; a value or the reason why there is none."""
        sender, receiver = BOTH_WAYS[0]
        if self.server is None:
            self.server = IperfServer(self.testbed.node(receiver))
        self.server.await_ready()
        address = self.testbed.scenario.tenants["red"].hosts[receiver].ips[0]
        with Operator(self.testbed, rate) as operator:
            try:
                found = tcp_goodput(self.testbed.node(sender), address, self.context.profile.rekey_tcp_seconds)
            except MeasureError as error:
                self.server.restart()
                return {"value": None, "missing": str(error)}
        return {**found, "missing": None, **operator.done()}

    def stop(self) -> None:
        """End what events have started."""
        if self.server is not None:
            self.server.stop()
            self.server = None


class Operator:
    """Asks for new keys ``rate`` times a second in a thread of its own, and keeps which associations there were.

    What was really done is read from the NVA's list: the SPIs of the observed line that were not there before. Keys of
    a pair of NVEs are of no ``vni``.
    """

    def __init__(
        self, testbed: Testbed, rate: int, sender: str = "nve1", audience: str = "nve3", vni: int | None = 100
    ) -> None:
        self._testbed = testbed
        self._rate = rate
        self._line = (sender, audience, vni)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self.requests = 0
        self.failed: list[str] = []
        self._before: set[int] = set()
        self._line_before: set[int] = set()
        self._spis: set[int] = set()
        self._line_spis: set[int] = set()

    def _look(self) -> tuple[set[int], set[int]]:
        """Return all SPIs there are, and those of the observed line."""
        listed = self._testbed.rest("/v1/associations")["associations"]
        everyone = {int(item["spi"]) for item in listed if item["stage"] != "offered"}
        mine = {
            int(item["spi"])
            for item in listed
            if item["stage"] != "offered" and (item["sender"], item["audience"], item["vni"]) == self._line
        }
        return everyone, mine

    def _run(self) -> None:
        looked = time.monotonic()
        due = looked + 0.5 / self._rate  # so that a window has as many as rate and length say
        while not self._stop.wait(max(0.0, due - time.monotonic())):
            try:
                self._testbed.operate("POST", "/v1/rekey", {})
                self.requests += 1
                if time.monotonic() - looked > 1.0:  # replaced ones are listed for three seconds
                    looked = time.monotonic()
                    self._note()
            except (OSError, ValueError) as error:
                self.failed.append(str(error))
            due = max(due + 1 / self._rate, time.monotonic())

    def _note(self) -> None:
        everyone, mine = self._look()
        self._spis |= everyone
        self._line_spis |= mine

    def done(self) -> Entry:
        """Return what was asked for and what was really replaced."""
        return {
            "requests": self.requests, "failed_requests": len(self.failed),
            "line_rekeys": len(self._line_spis - self._line_before), "rekeys": len(self._spis - self._before),
        }  # fmt: skip

    def __enter__(self) -> Operator:
        self._before, self._line_before = self._look()
        if self._rate:
            self._thread.start()
        return self

    def __exit__(self, *_: Any) -> None:
        self._stop.set()
        if self._rate:
            self._thread.join(10)
        time.sleep(0.1)  # the last replacement is under way
        self._note()
