"""The experiments there are: how each is run, and how its tables, plots and part of the page are made."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from experiments import (
    attacks_analysis,
    attacks_plots,
    control_analysis,
    control_plots,
    overhead_analysis,
    overhead_plots,
    telemetry_analysis,
    telemetry_plots,
)
from experiments.conformance import section as conformance
from experiments.dataplane import flood_analysis, flood_plots, scale, scale_analysis, scale_plots
from experiments.mechanism import analysis as mechanism_analysis
from experiments.mechanism.probes import PROBES
from experiments.mechanisms import compared_analysis, compared_plots, partial_analysis, partial_plots
from experiments.profiles import START_SECONDS, Profile
from experiments.report import Section, Table, write_report
from experiments.results import RunDirectory, write_atomically

if TYPE_CHECKING:
    from experiments.context import Context


@dataclass(frozen=True, slots=True)
class Experiment:
    """One experiment. ``seconds`` is the plan for progress; ``run`` needs root, ``evaluate`` does not."""

    name: str
    scenario: str
    description: str
    seconds: Callable[[Profile], float]
    run: Callable[[Context], None]
    evaluate: Callable[[Path], Section]


def _run_overhead(context: Context) -> None:
    from experiments.overhead import run  # Mininet is imported only where it is needed

    run(context)


def _run_attacks(context: Context) -> None:
    from experiments.attacks import run

    run(context)


def _run_telemetry(context: Context) -> None:
    from experiments.telemetry import run

    run(context)


def _run_mechanism(context: Context) -> None:
    from experiments.mechanism.live import run

    run(context)


def _run_conformance(context: Context) -> None:
    from experiments.conformance.live import run

    run(context)


def _run_control(context: Context) -> None:
    from experiments.control import run

    run(context)


def _run_flood(context: Context) -> None:
    from experiments.dataplane.flood import run

    run(context)


def _run_compared(context: Context) -> None:
    from experiments.mechanisms.compared import run

    run(context)


def _run_partial(context: Context) -> None:
    from experiments.mechanisms.partial import run

    run(context)


def _overhead_section(root: Path) -> Section:
    result = overhead_analysis.analyse(root)
    overhead_analysis.write_tables(result, _folder(root, "csv"))
    plots = overhead_plots.draw(result, _folder(root, "plots"))
    confidence = "count is the number of repeats, missing how many of them failed, with the reasons."
    return Section(
        "overhead", "Overhead", "What the overlay, its protection and telemetry cost, through 0, 1 and 2 "
        "transit devices. Medians with order-statistics confidence intervals.",
        overhead_analysis.summary(result),
        (
            Table("overhead-throughput.csv", "TCP goodput",
                  f"Mode underlay is the network without overlay; {confidence}"),
            Table("overhead-rtt.csv", "Round-trip time", "Median of the repeats' medians; p90 and p99 over "
                  f"all pings together; {confidence}"),
            Table("overhead-cpu.csv", "CPU time per packet",
                  f"One row per role, and per transit device; {confidence}"),
            Table("overhead-idle.csv", "CPU time of idle daemons", "Percent of one processor without tenant "
                  "traffic; contained in the figures above, not subtracted."),
            Table("overhead-paths.csv", "Paths", "Before anything is measured: which devices reported the probes "
                  "of each flow with telemetry, in their order; a run whose paths are not the expected ones fails."),
            Table("overhead-bytes.csv", "Bytes per packet", "Outer minus inner frame length, from captures; "
                  "expected is what the wire format says."),
        ),
        plots, result.failures, result.warnings,
    )  # fmt: skip


def _attacks_section(root: Path) -> Section:
    result = attacks_analysis.analyse(root)
    attacks_analysis.write_tables(result, _folder(root, "csv"))
    plots = attacks_plots.draw(result, _folder(root, "plots"))
    return Section(
        "attacks", "Attack resistance", "Each attack by a node of the underlay against tenants without "
        "protection (none: the control, where it must succeed), under security options (full) and under channels below "
        "Geneve (dtls, esp, ah), where it must fail, while legitimate traffic goes on. Two things are by design: what "
        "does not encrypt can be read (ah, dtls-null, esp-null), and under a channel there is nothing to attack in a "
        "transit device, which reads nothing.",
        attacks_analysis.summary(result),
        (
            Table("attacks-outcomes.csv", "Outcomes", "sent: packets of the attacker; delivered: those that "
                  "reached their aim; drops, device outcomes: counters of the nodes and of the attacked transit "
                  "device during the trials, as an explanation only."),
            Table("attacks-legitimate.csv", "Legitimate traffic beside the attacks", "Messages sent "
                  "and received by tenants that nobody attacked."),
        ),
        plots, result.failures, result.warnings,
    )  # fmt: skip


def _telemetry_section(root: Path) -> Section:
    result = telemetry_analysis.analyse(root)
    telemetry_analysis.write_tables(result, _folder(root, "csv"))
    plots = telemetry_plots.draw(result, _folder(root, "plots"))
    path = " to ".join(result.path) or "unknown"
    return Section(
        "telemetry", "Path telemetry", f"The path of one flow as transit devices reported it: {path}. "
        f"{result.complete} of {result.sent} packets were reported by every device.",
        telemetry_analysis.summary(result),
        (Table("telemetry-path.csv", "Time along the path",
               "Microseconds; medians with order-statistics intervals."),),
        plots, result.failures, result.warnings,
    )  # fmt: skip


def _mechanism_section(root: Path) -> Section:
    result = mechanism_analysis.analyse(root)
    mechanism_analysis.write_tables(result, _folder(root, "csv"))
    return Section(
        "mechanism", "The requirements SEC-GEN-1 to 17", "Each requirement of the draft on the emulated network: what "
        "a probe did and saw in captures and at receivers, under a profile that is to meet the requirement, and "
        "beside it under one that was crippled on purpose, where the same probe must find the fault.",
        mechanism_analysis.summary(result),
        (
            Table("mechanism.csv", "Requirements", "Verdict of the probes; crippled: the verdict of the same probes "
                  "where the protection was taken out. Captures are in the run's folder."),
            Table("mechanism-findings.csv", "Findings", "One row per statement; packets: numbers in the capture."),
        ),
        (), result.failures, result.warnings,
    )  # fmt: skip


def _control_section(root: Path) -> Section:
    result = control_analysis.analyse(root)
    control_analysis.write_tables(result, _folder(root, "csv"))
    plots = control_plots.draw(result, _folder(root, "plots"))
    return Section(
        "control", "Control plane", "How long convergence, failures, moves, revocation and rekeying take, and what "
        "tenants lose by them, judged from tenants' own logs. Each repeat is a network of its own with all events in "
        "shuffled order; what depends on the mechanism was done again, fewer times, under ESP and DTLS. "
        "Medians with order-statistics confidence intervals; one event is one sample.",
        control_analysis.summary(result),
        (
            Table("control-outages.csv", "Outages", "Of several flows the worst; sent and lost: messages in the "
                  "windows of all events; count: events with a figure; missing: flows not back. Event nothing "
                  "is the control, and so is whoever has no part in a revocation: they must lose nothing."),
            Table("control-isolation.csv", "Time to isolation", "From the operator's request; rounded up by the "
                  "resolution."),
            Table("control-rekey.csv", "Rekeying under load", "rate: replacements of all associations, or of all DTLS "
                  "sessions, a second asked for; done: those made of the flow's own; rekeys: those made in all; lost "
                  "high: upper end of the Wilson interval of the loss; cpu: percent of one processor."),
            Table("control-convergence.csv", "Convergence", "Seconds from the launch of the programs, or from the "
                  "event that the step names."),
            Table("control-scale.csv", "Simulated nodes", "What the NVA's program needs for so many simulated NVEs "
                  "on real TLS connections, phase by phase; no packets are forwarded. static: all tenants in the "
                  "inventory; learned: reported by the NVEs."),
            Table("control-scale-growth.csv", "Growth with the number of nodes", "exponent: slope of the logarithms "
                  "over the sizes measured; 1 is linear, 2 is with the square."),
        ),
        plots, result.failures, result.warnings,
    )  # fmt: skip


def _scale_section(root: Path) -> Section:
    result = scale_analysis.analyse(root)
    scale_analysis.write_tables(result, _folder(root, "csv"))
    plots = scale_plots.draw(result, _folder(root, "plots"))
    least, most = (result.bounds.get(f"flow cache, {end}") for end in ("least", "most"))
    return Section(
        scale_analysis.NAME, "Scale of the data plane", "What a packet costs, and how much memory it takes, as "
        "associations, policy rules, flows and audiences become more; in one process, without a network. The flow "
        f"cache keeps the last {least} to {most} flows of each direction; one that has been forgotten is decided anew, "
        "at the price of a new one.",
        scale_analysis.summary(result),
        (
            Table("dataplane-scale-growth.csv", "Growth", "ratio: cost at the largest over that at the smallest "
                  "number; ratio to reference: from reference to reference size, the largest within the cache where "
                  "there is one, by which the verdict is made; exponent: slope of the logarithms between these two."),
            Table("dataplane-scale-memory.csv", "Memory", "Growth of the process's resident set by so many "
                  "associations (with the tenant behind each, one packet each) or flows (one packet each), divided by "
                  "their number."),
            Table("dataplane-scale-cost.csv", "Cost", "Medians of the rounds; count is the number of rounds."),
        ),
        plots, result.failures, result.warnings,
    )  # fmt: skip


def _flood_section(root: Path) -> Section:
    result = flood_analysis.analyse(root)
    flood_analysis.write_tables(result, _folder(root, "csv"))
    plots = flood_plots.draw(result, _folder(root, "plots"))
    target = result.target
    return Section(
        "flood", "Under a flood", "What a tenant notices while an attacker beside its NVE sends forged packets. "
        f"Goodput under {target['rate']} packets a second with bad tags: {target['ratio']} of that without an attack "
        f"(target: more than {target['target']}).",
        flood_analysis.summary(result),
        (
            Table("flood-goodput.csv", "Goodput", "before: the same flow just before the flood; ratio: to that, of "
                  "each sample its own; sent per s: what the attacker reached; cpu percent: of one processor, the "
                  "flooded NVE. Without an attack, ratio tells how far apart two measurements lie anyway."),
            Table("flood-latency.csv", "Round-trip time and loss", "Without TCP; probes: messages of a paced stream, "
                  "lost: those that the receiver did not log; lost high: upper end of the Wilson interval."),
            Table("flood-refusals.csv", "Refusals", "refused: by these reasons, in all repeats together; buffer drops: "
                  "datagrams for which the socket had no room, true ones included; others: other reasons, which "
                  "count true packets; cpu us: the NVE's CPU time for a refused packet; alone us: of the data plane."),
            Table("flood-controls.csv", "Controls", "Forged packets that came to the tenant: none, where they must, "
                  "and full, where they must not; judged by the frames on the tenant's interface."),
        ),
        plots, result.failures, result.warnings,
    )  # fmt: skip


def _compared_section(root: Path) -> Section:
    result = compared_analysis.analyse(root)
    compared_analysis.write_tables(result, _folder(root, "csv"))
    plots = compared_plots.draw(result, _folder(root, "plots"))
    return Section(
        compared_analysis.NAME, "Mechanisms compared", "Security options beside the mechanisms that the draft's "
        "appendix judges: DTLS, ESP and AH, through the same NVE, between the same tenants. Compare rows of the same "
        "path: where IP itself carries ESP or AH, a packet is a system call, and so it is in the rows of none and full "
        "that stand beside them.",
        compared_analysis.summary(result),
        (
            Table("mechanisms-nves.csv", "What ran", "By the NVEs' own account, after all measurements; drops: "
                  "packets that both refused or could not send, by reason."),
            Table("mechanisms-bytes.csv", "Bytes per packet", "Outer IP packet minus inner frame, captured and by "
                  "the formulas of the formats; a difference fails the run."),
            Table("mechanisms-goodput.csv", "TCP goodput", "One flow; ratio: to plain Geneve (none) on the same path, "
                  "within the same repeats."),
            Table("mechanisms-rtt.csv", "Round-trip time", "Idle, and beside the TCP flow; medians of the repeats' "
                  "medians."),
            Table("mechanisms-cpu.csv", "CPU time per packet", "Of the NVEs' processes, under a paced load of "
                  "datagrams and under the TCP flow; ratio: to plain Geneve on the same path."),
            Table("mechanisms-setup.csv", "Key set-up", "From a tenant's first frame to its delivery beyond what a "
                  "later frame takes; back: the first frame in the other direction. None is the control."),
        ),
        plots, result.failures, result.warnings,
    )  # fmt: skip


def _partial_section(root: Path) -> Section:
    result = partial_analysis.analyse(root)
    partial_analysis.write_tables(result, _folder(root, "csv"))
    plots = partial_plots.draw(result, _folder(root, "plots"))
    said = "; ".join(partial_analysis.conclusions(result)) or "nothing, for want of samples"
    return Section(
        partial_analysis.NAME, "Partial protection and tenants' TLS", "What headers-only protection saves when "
        "tenants run TLS already, against overlays that encrypt it once more. With tenants' TLS the figures say: "
        f"{said}.",
        partial_analysis.summary(result),
        (
            Table("partial-savings.csv", "Savings", "One protection over another within the same repeats; below 1 the "
                  "first needs less CPU time. cpu saved: seconds per gigabyte. Verdict: by the interval of the CPU "
                  "ratio."),
            Table("partial-goodput.csv", "Goodput", "Of one bulk flow; ratio: to no protection with the same tenants."),
            Table("partial-cpu.csv", "CPU time", "Of the NVEs' processes for 10^9 bytes that the tenant received."),
            Table("partial-twice.csv", "What an observer reads", "Full-size packets on the underlay, compared with "
                  "what left the tenant. hidden: bytes of the tenant's stream that do not stand in the packet; twice: "
                  "of these, what TLS had encrypted; addresses: share of packets that show inner addresses."),
            Table("partial-nves.csv", "What ran", "By the NVEs' own account; cipher: of the tenants' TLS."),
        ),
        plots, result.failures, result.warnings,
    )  # fmt: skip


def _folder(root: Path, name: str) -> Path:
    path = root / name
    path.mkdir(exist_ok=True)
    return path


def _overhead_seconds(profile: Profile) -> float:
    configurations = len(overhead_analysis.OVERLAY_CONFIGURATIONS)
    references = len(overhead_analysis.UNDERLAY_CONFIGURATIONS)
    common = profile.tcp_seconds + 0.4 + profile.pings * profile.ping_interval + 0.2
    repeats = configurations * (common + profile.udp_seconds + 0.4) + references * common
    return START_SECONDS + profile.repeats * repeats + configurations * 1.5


def _attacks_seconds(profile: Profile) -> float:
    modes = attacks_analysis.MODES
    trials = sum(len(attacks_analysis.attacks_in(mode)) for mode in modes) * profile.attack_trials
    return len(modes) * START_SECONDS + trials * (0.3 + 0.01 * profile.packets_per_trial)


def _mechanism_seconds(_: Profile) -> float:
    scenarios = len({probe.scenario for probe in PROBES})
    return scenarios * START_SECONDS + 2 * len(PROBES) * mechanism_analysis.PROBE_SECONDS


def _control_seconds(profile: Profile) -> float:
    repeats = profile.repeats * (control_analysis.START_SECONDS + control_analysis.repeat_seconds(profile))
    return repeats + control_analysis.channel_seconds(profile) + control_analysis.growth_seconds(profile.growth_sizes)


def _flood_seconds(profile: Profile) -> float:
    point = flood_analysis.point_seconds(profile)
    points = len(flood_analysis.points(profile.flood_rates, profile.flood_repeats, profile.repeats))
    return START_SECONDS + flood_analysis.CONTROL_SECONDS + points * point


def _telemetry_seconds(profile: Profile) -> float:
    return START_SECONDS + 2 + 0.005 * profile.telemetry_packets


EXPERIMENTS: dict[str, Experiment] = {
    experiment.name: experiment
    for experiment in (
        Experiment(
            "overhead", "overhead", "bytes per packet, TCP goodput, round-trip time and CPU time per packet",
            _overhead_seconds, _run_overhead, _overhead_section,
        ),
        Experiment(
            "attacks", "default", "attacks from the underlay, without protection and under each mechanism",
            _attacks_seconds, _run_attacks, _attacks_section,
        ),
        Experiment(
            "telemetry", "default", "the path of a flow and the time spent along it",
            _telemetry_seconds, _run_telemetry, _telemetry_section,
        ),
        Experiment(
            "mechanism", "mechanism-confidentiality", "SEC-GEN-1 to 17, each with a crippled twin",
            _mechanism_seconds, _run_mechanism, _mechanism_section,
        ),
        Experiment(
            "conformance", "mechanism-confidentiality", "the draft's own tables: every requirement, each mechanism",
            conformance.seconds, _run_conformance, conformance.section,
        ),
        Experiment(
            "control", "control-plane", "convergence, failures, moves, revocation and rekeying under load",
            _control_seconds, _run_control, _control_section,
        ),
        Experiment(
            scale_analysis.NAME, "none", "cost per packet with many associations, rules, flows and audiences",
            scale.seconds, scale.run, _scale_section,
        ),
        Experiment(
            flood_analysis.NAME, "flood", "goodput and latency under forged packets, and what each kind costs",
            _flood_seconds, _run_flood, _flood_section,
        ),
        Experiment(
            compared_analysis.NAME, "mechanisms", "security options beside DTLS, ESP and AH",
            compared_analysis.seconds, _run_compared, _compared_section,
        ),
        Experiment(
            partial_analysis.NAME, "none", "what headers-only protection saves when tenants run TLS",
            partial_analysis.seconds, _run_partial, _partial_section,
        ),
    )
}  # fmt: skip


def evaluate(run: RunDirectory, names: Sequence[str]) -> list[Section]:
    """Make tables and plots of ``run`` again from its raw files; ValueError on damaged raw files."""
    return [EXPERIMENTS[name].evaluate(run.path) for name in names]


def write_outcome(run: RunDirectory, sections: Sequence[Section]) -> None:
    """Write summary.json and the page, which both show the run's status as it is now."""
    summary = {
        "status": run.status,
        "experiments": {section.name: section.summary for section in sections},
    }
    write_atomically(run.path / "summary.json", json.dumps(summary, indent=2, default=str) + "\n")
    write_report(run, sections)
