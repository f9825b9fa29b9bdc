"""How long keys take: two NVEs of the emulated network talk for the first time, under each mechanism (thin shell).

Each start of the network gives as many fresh pairs as there are pairs of NVEs. The first frame goes one way, and when
it has arrived the first one goes the other way: keys from the NVA are for one direction, a DTLS session for both.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

from experiments.bench import Hosts, address_of, load, started
from experiments.context import Context, ExperimentError
from experiments.control_logs import FlowLog, read_flows
from experiments.measure import MeasureError, cpu_nanoseconds, ping
from experiments.mechanisms.compared_analysis import BACK, FIRST, PAIR_SECONDS, SETUP_LIMIT, set_up_time
from experiments.mechanisms.variants import SETUP
from experiments.programs import wait_for
from experiments.samples import SampleWriter, sample
from topologies.configs import CONTROLLER_NAME
from topologies.network import Testbed
from topologies.plan import Kind
from topologies.profiles import FULL_PROTECTION
from topologies.scenario import Scenario

_TENANT = "red"
_WARM_FRAMES = 8
_WARM_INTERVAL = 0.005
_SIZE = 120
_COLD, _WARM = "cold", "warm"


@dataclass(frozen=True, slots=True)
class _Talk:
    """One first frame; ``trial`` is its number in the logs, ``nva_ns`` the CPU time that the NVA spent meanwhile."""

    sender: str
    receiver: str
    direction: str
    trial: int
    nva_ns: int


def scenario_of(scenario: Scenario, mechanism: str) -> Scenario:
    """Return the scenario under a protection for all."""
    return scenario if mechanism == FULL_PROTECTION else scenario.under(mechanism)


def run(context: Context, samples: SampleWriter) -> None:
    """Start the network anew for each mechanism and write what every fresh pair took."""
    scenario = load(context)
    for start in range(context.profile.mechanisms_setup_starts):
        order = list(context.profile.mechanisms_setup or SETUP)
        context.random(f"set-up {start}").shuffle(order)
        for mechanism in order:
            try:
                _one(context, scenario_of(scenario, mechanism), mechanism, start, samples)
            except (RuntimeError, OSError, ValueError) as error:
                reason = " ".join(str(error).split())[:300]
                for direction in (FIRST, BACK):
                    key = {"mechanism": mechanism, "start": start, "direction": direction}
                    samples.write(sample("setup", key, None, "ms", reason))


def _one(context: Context, scenario: Scenario, mechanism: str, start: int, samples: SampleWriter) -> None:
    label = f"setup-{mechanism}-{start}"
    hosts = list(scenario.tenants[_TENANT].hosts)
    pairs = [tuple(pair) for pair in itertools.combinations(hosts, 2)]
    chosen = context.random(f"pairs {label}")
    chosen.shuffle(pairs)
    pairs = [pair if chosen.random() < 0.5 else (pair[1], pair[0]) for pair in pairs]
    folder = context.raw(label, "hosts")
    with started(context, scenario, label) as testbed, Hosts(testbed, folder, marks_only=True) as programs:
        _prepare(testbed, programs, hosts)
        context.progress.step(f"key set-up, {mechanism}", PAIR_SECONDS * len(pairs))
        talks = [
            _talk(testbed, programs, ends, direction, 2 * number + place)
            for number, pair in enumerate(pairs)
            for place, (direction, ends) in enumerate(((FIRST, pair), (BACK, (pair[1], pair[0]))))
        ]
        details = testbed.stats(testbed.plan.nodes(Kind.NVE)[0]).get("mechanism")
    flows = read_flows(folder)
    for talk in talks:
        _write(samples, {"mechanism": mechanism, "start": start}, talk, flows)
    samples.write(sample("setup_nve", {"mechanism": mechanism, "start": start}, details, ""))


def _prepare(testbed: Testbed, programs: Hosts, hosts: list[str]) -> None:
    """Resolve all addresses beforehand, of tenants and on the underlay, and start the tenants' programs."""
    scenario = testbed.scenario
    entries = scenario.tenants[_TENANT].hosts
    for host in hosts:
        programs.receiver(host)
        programs.sender(host)
        interface = testbed.interface(host, entries[host].nve)
        testbed.node(host).ip([
            f"neighbour replace {entries[far].ips[0]} lladdr {entries[far].mac} dev {interface} nud permanent"
            for far in hosts if far != host
        ])  # fmt: skip
    addresses = testbed.plan.underlay_addresses
    for near, far in itertools.permutations(testbed.plan.nodes(Kind.NVE), 2):
        if ping(testbed.node(near), addresses[far], 1, 0.01).lost:
            raise ExperimentError(f"the underlay does not lead from {near} to {far}")


def _talk(testbed: Testbed, programs: Hosts, ends: tuple[str, ...], direction: str, trial: int) -> _Talk:
    """Send one first frame, wait for it, and send some more that find everything there."""
    sender, receiver = ends
    log = programs.receiver(receiver)
    seen = log.stat().st_size if log.exists() else 0
    nva = testbed.daemon_pid(CONTROLLER_NAME)
    before = cpu_nanoseconds(nva)
    order = {
        "do": "send", "label": _COLD, "trial": trial, "destination": address_of(testbed.scenario, receiver),
        "sizes": [_SIZE], "interval": 0.0,
    }  # fmt: skip
    programs.sender(sender).ask(order)
    arrived = wait_for(lambda: log.stat().st_size > seen, SETUP_LIMIT, pause=0.005)
    spent = cpu_nanoseconds(nva) - before
    if arrived:
        warm = {**order, "label": _WARM, "sizes": [_SIZE] * _WARM_FRAMES, "interval": _WARM_INTERVAL}
        programs.sender(sender).ask(warm)
        wait_for(lambda: False, 0.03)
    return _Talk(sender, receiver, direction, trial, spent)


def _write(
    samples: SampleWriter, key: dict[str, object], talk: _Talk, flows: dict[tuple[str, int], FlowLog]
) -> None:
    key = {**key, "direction": talk.direction, "sender": talk.sender, "receiver": talk.receiver}
    try:
        found = set_up_time(flows.get((_COLD, talk.trial)), flows.get((_WARM, talk.trial)))
    except MeasureError as error:
        samples.write(sample("setup", key, None, "ms", str(error)))
        return
    value = found.pop("value")
    assert math.isfinite(value)
    samples.write(sample("setup", key, value, "ms", nva_cpu_ms=talk.nva_ns / 1e6, **found))
