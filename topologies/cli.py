"""``python -m topologies.cli [SCENARIO]``: Mininet's command line on a running scenario (``make cli``).

With ``--check`` the scenario is only read: no root, nothing is started.
"""

from __future__ import annotations

import argparse
import shlex
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from mininet.cli import CLI
from mininet.log import setLogLevel

from geneve.errors import ConfigError
from geneve.policy import shadowed
from topologies import sandbox
from topologies.configs import Layout, operator_argv
from topologies.daemon import TestbedError
from topologies.network import Testbed
from topologies.scenario import Scenario
from topologies.scenario_file import load_scenario


def hints(scenario: Scenario, layout: Layout) -> list[str]:
    """Return lines that tell what to try on this scenario; ``layout`` is where its files are."""
    lines = []
    for name, tenant in scenario.tenants.items():
        hosts = list(tenant.hosts)
        address = tenant.hosts[hosts[-1]].ips[0]
        protection = f"VNI {tenant.vni}, profile {tenant.profile}"
        lines.append(f"  {hosts[0]} ping -c 3 {address}    (tenant {name}: {protection})")
    switch = scenario.underlay.switches[0]
    nve = next(iter(scenario.nves))
    lines.append(f"  {nve} tshark -i {nve}-eth0 -c 10 udp port 6081    (what the underlay sees)")
    lines.append(f"  sh ovs-ofctl -O OpenFlow13 dump-flows {switch}    (what the controller installed)")
    lines.append(f"  sh {shlex.join(operator_argv(layout))} nodes    (what an operator sees; --help lists more)")
    lines.append("  help, net, exit")
    return lines


def report(scenario: Scenario) -> list[str]:
    """Return lines on a scenario that was read and found sound: what it makes, and what is doubtful in it."""
    lines = [
        f"tenant {name}: VNI {tenant.vni}, profile {tenant.profile}, MTU {scenario.tenant_mtu(name)}"
        for name, tenant in scenario.tenants.items()
    ]
    lines += [f"warning: {text}" for text in shadowed(scenario.policy)]
    if scenario.key_log:
        lines.append("warning: key_log is on, so every NVE writes ALL ITS KEYS to a file; demonstrations only.")
    return lines


def _run(scenario: Scenario, framework: str) -> None:
    setLogLevel("warning")
    with tempfile.TemporaryDirectory(prefix="testbed-cli-", dir="/run") as folder:
        print(f"starting scenario '{scenario.name}' ...", flush=True)
        with Testbed(scenario, Path(folder), framework) as testbed:
            for warning in testbed.warnings:
                print(f"note: {warning}")
            print(f"ready after {testbed.facts['start_seconds']} s; logs in {folder}/logs. Try:")
            print("\n".join(hints(scenario, testbed.layout)), flush=True)
            setLogLevel("info")
            CLI(testbed.net)
            setLogLevel("warning")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the program; returns its exit code."""
    parser = argparse.ArgumentParser(prog="topologies.cli", description=__doc__)
    parser.add_argument("scenario", nargs="?", default="default", help="a scenario's name or file")
    parser.add_argument("--framework", default="auto", choices=("auto", "ryu", "os-ken"))
    parser.add_argument("--check", action="store_true", help="only read the scenario and say what is in it")
    arguments = parser.parse_args(argv)
    try:
        scenario = load_scenario(arguments.scenario)
        if arguments.check:
            print("\n".join(report(scenario)))
            return 0
        if not sandbox.inside():
            options = ["--framework", arguments.framework, arguments.scenario]
            sandbox.enter([sys.executable, "-m", "topologies.cli", *options])
        sandbox.exit_on_sigterm()
        _run(scenario, arguments.framework)
    except (ConfigError, TestbedError) as error:
        print(f"cli: {error}", file=sys.stderr)
        return 2 if isinstance(error, ConfigError) else 1
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
