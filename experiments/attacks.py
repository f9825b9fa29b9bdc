"""The attacks experiment: attacks from the underlay, without protection and under each mechanism.

Each mode has a network of its own. All trials of all attacks run in one shuffled order while
legitimate traffic goes on. What is written down is what happened; the verdict is made afterwards, in
``attacks_analysis.py``, from the victims' logs, the collector's records and the captures.
"""

from __future__ import annotations

import ipaddress
import json
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from experiments.attacks_analysis import (
    ADD_TELEMETRY,
    CONTROL,
    LEGITIMATE,
    MODES,
    NAME,
    TELEMETRY_ATTACKS,
    attacks_in,
)
from experiments.bench import (
    Hosts,
    address_of,
    difference,
    drops,
    load,
    neighbours_on_link,
    outcomes,
    records,
    started,
    with_profile,
)
from experiments.channel_forgeries import CONTROL_RECORDS
from experiments.context import Context, ExperimentError
from experiments.control_flows import watch
from experiments.measure import Capture
from experiments.programs import Program, ProgramError, python_module, wait_for
from experiments.samples import SampleWriter
from experiments.traffic import parse_message
from experiments.view import CAPTURE_FILTER, Carrier
from geneve.control.channel import ChannelProtocol, Cipher, Encapsulation
from topologies.network import Testbed
from topologies.plan import End
from topologies.profiles import CHANNEL_PROFILES
from topologies.scenario import Scenario

EVE, MALLORY, DEVICE = "eve", "mallory", "t2"
SENDER, VICTIM = "red1", "red3"
"""Red's traffic crosses t1, t2 and eve, in this order."""
FOREIGN_SENDER, FOREIGN_VICTIM = "blue1", "blue3"
"""The other tenant's hosts with the same MAC and IP addresses."""
TARGET_SIZE, LEGITIMATE_SIZE = 300, 100
"""Bytes of payload: by the size the attacker picks her targets, in clear text or ciphertext alike."""
_INNER_HEADERS = 14 + 20 + 8
_STREAM_INTERVAL = 0.02
_BURST_INTERVAL = 0.004
_CAPTURE_LIMIT = 20_000
_FORGED_FLOW, _ADDED_FLOW = 0xE7E0_0000, 0xADD0_0000
"""Flow labels of the false records; each trial has its own."""
_DATA_INJECTIONS = ("plain", "unknown_spi", "observed_spi")
"""What mallory tries with protection on; without it, plain Geneve is all there is. DTLS has an epoch for an SPI."""
_AHEAD = 1_000_000
"""How far ahead of the last sequence number that she knows mallory counts."""
_AFTERMATH_SECONDS = 0.3
"""How long tenants' messages are watched after records that are to break a session."""
_CARRIERS = {ChannelProtocol.DTLS: Carrier.DTLS, ChannelProtocol.ESP: Carrier.ESP, ChannelProtocol.AH: Carrier.AH}


@dataclass(slots=True)
class LogTail:
    """Reads what a receiver has logged since the last look."""

    path: Path
    offset: int = 0
    labels: set[tuple[str, int, int]] | None = None

    def seen(self) -> set[tuple[str, int, int]]:
        """Return (label, trial, index) of every message that has arrived so far."""
        if self.labels is None:
            self.labels = set()
        if not self.path.exists():
            return self.labels
        with self.path.open("rb") as file:
            file.seek(self.offset)
            for line in file:
                if not line.endswith(b"\n"):
                    break
                self.offset += len(line)
                message = parse_message(bytes.fromhex(json.loads(line)["payload"]))
                if message is not None:
                    self.labels.add((message.label, message.trial, message.index))
        return self.labels


class Attacks:
    """The trials of one mode on a started testbed."""

    def __init__(self, context: Context, mode: str, testbed: Testbed, hosts: Hosts) -> None:
        self.context = context
        self.mode = mode
        self.testbed = testbed
        self.scenario = testbed.scenario
        self.hosts = hosts
        self.tails = {host: LogTail(hosts.receiver(host)) for host in (VICTIM, FOREIGN_VICTIM, SENDER)}
        self.fences = 0
        self.security: tuple[int, int] | None = None
        self.eve: Program
        self.mallory: Program

    # Set-up --------------------------------------------------------------------------------------------

    @contextmanager
    def attackers(self) -> Iterator[None]:
        """Start both attackers; eve's relay takes the place of her bridge and gives it back at the end."""
        ports = self._eve_ports()
        logs = self.context.raw(self.mode, "attackers")
        capture = self.context.captures() / f"{self.mode}-eve.pcap"
        eve = self.testbed.node(EVE)
        attach = self.scenario.attackers[MALLORY].attach
        assert attach is not None
        argv = python_module("experiments.attacker", "on-path", *ports, "--capture", str(capture))
        with ExitStack() as stack:
            self.eve = Program(eve, argv, logs.with_name("eve.stderr"))
            stack.callback(self.eve.stop)
            port = self.testbed.interface(MALLORY, attach)
            argv = python_module("experiments.attacker", "off-path", port)
            self.mallory = Program(self.testbed.node(MALLORY), argv, logs.with_name("mallory.stderr"))
            stack.callback(self.mallory.stop)
            self.eve.answer()
            self.mallory.answer()
            # The relay runs already, so the path is never cut; for an instant frames pass twice.
            eve.ip([f"link set {name} nomaster" for name in ports])
            stack.callback(eve.ip, [f"link set {name} master {EVE}-br" for name in ports])
            yield

    def _eve_ports(self) -> tuple[str, str]:
        before, behind = neighbours_on_link(self.scenario, EVE)
        return self.testbed.interface(EVE, before), self.testbed.interface(EVE, behind)

    def begin(self, setup: SampleWriter) -> None:
        """Start legitimate traffic and see it arrive; ExperimentError when it does not."""
        for tenant, sender, receiver in (
            ("red", SENDER, VICTIM),
            ("blue", FOREIGN_SENDER, FOREIGN_VICTIM),
        ):
            setup.write({"flow": tenant, "sender": sender, "receiver": receiver})
            order = {
                "do": "stream", "label": f"{LEGITIMATE}-{tenant}", "interval": _STREAM_INTERVAL,
                "destination": address_of(self.scenario, receiver), "size": LEGITIMATE_SIZE,
            }  # fmt: skip
            self.hosts.sender(sender).ask(order)
        for sender, receiver in ((SENDER, VICTIM), (FOREIGN_SENDER, FOREIGN_VICTIM), (VICTIM, SENDER)):
            if not self.fence(sender, receiver):
                raise ExperimentError(f"no message from {sender} reached {receiver} (mode {self.mode})")
        self._observe()

    def _observe(self) -> None:
        """Let eve read the SPI and sequence number in use, which mallory will try."""
        count = 3
        self.eve.ask({"do": "begin", "attack": "observe", "limit": count, "target": self.target("nve1", "nve3")})
        self.burst(SENDER, VICTIM, "observe", 0, count)
        if not wait_for(lambda: self.eve.ask({"do": "status"})["seen"] >= count, 3):
            raise ExperimentError(f"{EVE} sees no packets from {SENDER} to {VICTIM}: she is not on their path")
        self.security = self.eve.ask({"do": "end"})["security"]
        if (self.security is not None) != (self.mode != CONTROL):
            raise ExperimentError(f"mode {self.mode} does not show on the wire: {EVE} saw {self.security}")

    def target(self, source: str, destination: str) -> dict[str, Any]:
        """Return what eve attacks: red's packets of the target size between two NVEs."""
        addresses = self.testbed.plan.underlay_addresses
        return {
            "source": addresses[source], "destination": addresses[destination],
            "vni": self.scenario.tenants["red"].vni, "size": TARGET_SIZE + _INNER_HEADERS,
        }  # fmt: skip

    # Traffic -------------------------------------------------------------------------------------------

    def burst(self, sender: str, receiver: str, label: str, trial: int, count: int) -> None:
        """Let a tenant send ``count`` messages of the target size."""
        answer = self.hosts.sender(sender).ask({
            "do": "send", "label": label, "trial": trial, "sizes": [TARGET_SIZE] * count,
            "interval": _BURST_INTERVAL, "destination": address_of(self.scenario, receiver),
        })  # fmt: skip
        if answer["sent"] != count:
            raise ProgramError(f"{sender} could send only {answer['sent']} of {count} messages")

    def fence(self, sender: str, receiver: str) -> bool:
        """Send a message behind all others and wait for it: what was on its way is there or lost by then."""
        for _ in range(5):
            self.fences += 1
            mark = ("fence", self.fences, 0)
            self.hosts.sender(sender).ask({
                "do": "send", "label": mark[0], "trial": mark[1], "sizes": [LEGITIMATE_SIZE], "interval": 0,
                "destination": address_of(self.scenario, receiver),
            })  # fmt: skip
            if wait_for(lambda wanted=mark: wanted in self.tails[receiver].seen(), 1.0):  # type: ignore[misc]
                return True
        return False

    # Trials --------------------------------------------------------------------------------------------

    def trial(self, attack: str, number: int) -> dict[str, Any]:
        """Run one trial and return what is to be written down of it."""
        before, found = drops(self.testbed), outcomes(self.testbed, DEVICE)
        entry: dict[str, Any] = {
            "attack": attack, "trial": number, "sender": SENDER, "victim": VICTIM, "device": DEVICE, "missing": None,
            "begin_ns": time.time_ns(),
        }  # fmt: skip
        count = self.context.profile.packets_per_trial
        if attack == "inject":
            entry.update(self._inject(number, count))
        else:
            entry.update(self._on_path(attack, number, count))
        arrived = self.fence(entry["sender"], VICTIM if entry["sender"] == SENDER else SENDER)
        if attack == "cross_vni":
            arrived = self.fence(FOREIGN_SENDER, FOREIGN_VICTIM) and arrived
        if not arrived:
            entry["missing"] = "no message passed after the attack within 5 s"
        entry["end_ns"] = time.time_ns()
        entry["drops"] = difference(before, drops(self.testbed))
        if attack in TELEMETRY_ATTACKS:
            entry["outcomes"] = difference(found, outcomes(self.testbed, DEVICE))
        return entry

    def _injections(self) -> tuple[str, ...]:
        if self.mode == CONTROL:
            return _DATA_INJECTIONS[:1]
        return _DATA_INJECTIONS + (CONTROL_RECORDS if self._carrier() is Carrier.DTLS else ())

    def _carrier(self) -> Carrier:
        channel = self.scenario.channel
        if channel is None:
            return Carrier.GENEVE
        over_udp = channel.protocol is ChannelProtocol.ESP and channel.encapsulation is Encapsulation.UDP
        return Carrier.ESP_UDP if over_udp else _CARRIERS[channel.protocol]

    def _inject(self, number: int, count: int) -> dict[str, Any]:
        variants, channel, carrier = self._injections(), self.scenario.channel, self._carrier()
        variant = variants[number % len(variants)]
        spi, sequence = self.security or (0, 0)
        spis = [spi]
        if variant == "unknown_spi":  # epoch 0 is that of records without protection
            spis = [spi ^ 0x5A5A_5A5A] if carrier is not Carrier.DTLS else [spi + 1, 0]
        tenant = self.scenario.tenants["red"]
        # In clear and of epoch 0, records begin to count anew.
        first = number * count if variant in CONTROL_RECORDS else sequence + _AHEAD
        answer = self.mallory.ask({
            "do": "inject", "label": "inject", "trial": number, "count": count, "size": TARGET_SIZE,
            "variant": variant, "carrier": carrier.value, "spis": spis, "sequence": first, "vni": tenant.vni,
            "encrypts": channel is not None and channel.cipher is not Cipher.NULL,
            "addresses": self._false_addresses(*self._ends(variant)),
        })  # fmt: skip
        if variant in CONTROL_RECORDS:
            watch(_AFTERMATH_SECONDS)
        return {"events": answer["events"], "variant": variant}

    def _ends(self, variant: str) -> tuple[str, str]:
        """Return the hosts between whose NVEs a forged packet is to seem to pass.

        Of two NVEs the one with the lower address is the DTLS client: only there a HelloRequest means something.
        """
        addresses, hosts = self.testbed.plan.underlay_addresses, self.scenario.tenants["red"].hosts
        ends = (SENDER, VICTIM)
        if variant == "hello_request":
            client = min(ends, key=lambda host: ipaddress.ip_address(addresses[hosts[host].nve]).packed)
            return (VICTIM, SENDER) if client == SENDER else ends
        return ends

    def _false_addresses(self, source: str, destination: str) -> dict[str, str]:
        plan, hosts = self.testbed.plan, self.scenario.tenants["red"].hosts
        sender, victim = hosts[source], hosts[destination]
        return {
            "outer_destination_mac": self._underlay_end(victim.nve).mac,
            "outer_source": plan.underlay_addresses[sender.nve],
            "outer_destination": plan.underlay_addresses[victim.nve],
            "inner_source_mac": sender.mac, "inner_destination_mac": victim.mac,
            "inner_source": sender.ips[0], "inner_destination": victim.ips[0],
        }  # fmt: skip

    def _underlay_end(self, nve: str) -> End:
        interface = self.testbed.interface(nve, self.scenario.nves[nve].attach)
        return next(end for end in self.testbed.plan.ends(nve) if end.interface == interface)

    def _on_path(self, attack: str, number: int, count: int) -> dict[str, Any]:
        sender, receiver = SENDER, VICTIM
        if attack in TELEMETRY_ATTACKS:
            sender, receiver = VICTIM, SENDER  # t2 is behind eve only on the way back
        hosts = self.scenario.tenants["red"].hosts
        flow = _ADDED_FLOW if attack == ADD_TELEMETRY else _FORGED_FLOW
        order: dict[str, Any] = {
            "do": "begin", "attack": attack, "limit": count,
            "target": self.target(hosts[sender].nve, hosts[receiver].nve),
            "vni": self.scenario.tenants["blue"].vni, "flow": flow + number, "first_sequence": 1_000_000,
        }  # fmt: skip
        self.eve.ask(order)
        self.burst(sender, receiver, attack, number, count)
        wait_for(lambda: self.eve.ask({"do": "status"})["seen"] >= count, 2)
        if attack == "replay":
            self._wait_for_originals(receiver, number, count)
            self.eve.ask({"do": "release"})
        events = self.eve.ask({"do": "end"})["events"]
        victim = FOREIGN_VICTIM if attack == "cross_vni" else receiver
        return {"events": events, "sender": sender, "victim": victim}

    def _wait_for_originals(self, receiver: str, number: int, count: int) -> None:
        """A replay comes after the original: wait until the victim has that."""
        wanted = {("replay", number, index) for index in range(count)}
        wait_for(lambda: wanted <= self.tails[receiver].seen(), 2)

    def finish(self) -> None:
        """Stop legitimate traffic, and wait until what is on its way has come."""
        for sender in (SENDER, FOREIGN_SENDER):
            self.hosts.sender(sender).ask({"do": "stop"})
        self.fence(SENDER, VICTIM)
        self.fence(FOREIGN_SENDER, FOREIGN_VICTIM)
        # Behind every forged record comes a true one of this last burst, in the order of export.
        self.burst(VICTIM, SENDER, "last", 0, 3)
        self.fence(VICTIM, SENDER)
        known = [0, len(records(self.testbed))]

        def settled() -> bool:
            known.append(len(records(self.testbed)))
            return known[-1] == known[-2]

        wait_for(settled, 5, pause=0.5)


def in_mode(scenario: Scenario, mode: str) -> Scenario:
    """Return the scenario under a profile of ours, without protection, or under a channel."""
    channels = {profile.name for profile in CHANNEL_PROFILES}
    return scenario.under(mode) if mode in channels else with_profile(scenario, mode)


def run(context: Context) -> None:
    """Run all modes; everything the verdict needs is on disk when this returns."""
    scenario = load(context)
    order = {**context.run.record.get("order", {})}
    for mode in MODES:
        trials = [(attack, number) for attack in attacks_in(mode) for number in range(context.profile.attack_trials)]
        context.random(f"order {mode}").shuffle(trials)
        order[f"{NAME} {mode}"] = [f"{attack} {number}" for attack, number in trials]
        context.run.update(order=order)
        with started(context, in_mode(scenario, mode), mode) as testbed:
            _run_mode(context, mode, testbed, trials)


def _run_mode(context: Context, mode: str, testbed: Testbed, trials: list[tuple[str, int]]) -> None:
    weight = 0.3 + 0.01 * context.profile.packets_per_trial
    victim_nve = testbed.scenario.tenants["red"].hosts[VICTIM].nve
    interface = testbed.interface(victim_nve, testbed.scenario.nves[victim_nve].attach)
    path = context.captures() / f"{mode}-{victim_nve}.pcap"
    with ExitStack() as stack:
        hosts = stack.enter_context(Hosts(testbed, context.raw(mode)))
        stack.callback(_keep_records, context, mode, testbed)
        node = testbed.node(victim_nve)
        stack.enter_context(Capture(node, interface, path, CAPTURE_FILTER, _CAPTURE_LIMIT))
        experiment = Attacks(context, mode, testbed, hosts)
        stack.enter_context(experiment.attackers())
        with context.writer(mode, "setup.jsonl") as setup:
            experiment.begin(setup)
        with context.writer(mode, "trials.jsonl") as log:
            for place, (attack, number) in enumerate(trials):
                context.progress.step(f"{mode}: {attack} (trial {place + 1} of {len(trials)})", weight)
                log.write(experiment.trial(attack, number))
        experiment.finish()


def _keep_records(context: Context, mode: str, testbed: Testbed) -> None:
    with context.writer(mode, "records.jsonl") as writer:
        for record in records(testbed):
            writer.write(record)
