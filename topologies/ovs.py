"""A private Open vSwitch: database and switch daemon of our own, all files in one folder.

The host's Open vSwitch, if it runs, is neither used nor touched: the private one lives in the
sandbox's network namespace and is found through OVS_RUNDIR.
"""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from topologies.daemon import Daemon, TestbedError, stop_all, wait_for

_SBIN = "/usr/sbin:/sbin:/usr/local/sbin"
_SCHEMAS = (
    Path("/usr/share/openvswitch/vswitch.ovsschema"),
    Path("/usr/local/share/openvswitch/vswitch.ovsschema"),
)
_TIMEOUT = 20
_PROBE_BRIDGE = "probe-datapath"

USERSPACE = "netdev"
KERNEL = "system"


@dataclass(frozen=True)
class BridgeSpec:
    """One switch: name, datapath id, and its ports with their OpenFlow numbers."""

    name: str
    datapath_id: int
    ports: Mapping[str, int]


def _listens(path: Path) -> bool:
    """Whether somebody accepts connections at a socket; its file is there a moment earlier."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
        return client.connect_ex(str(path)) == 0


def find_program(name: str) -> str | None:
    """Return the path of a program that may live in an sbin folder; None when it is missing."""
    return shutil.which(name, path=os.environ.get("PATH", "") + ":" + _SBIN)


def find_schema() -> Path | None:
    """Return Open vSwitch's database schema; None when it is not installed."""
    return next((path for path in _SCHEMAS if path.exists()), None)


class PrivateOvs:
    """ovsdb-server and ovs-vswitchd of one testbed. ``folder`` holds sockets and the database."""

    def __init__(self, folder: Path, logs: Path) -> None:
        self.folder = folder
        self._logs = logs
        self._daemons: list[Daemon] = []
        self.datapath = USERSPACE
        self.environment = {
            **os.environ,
            "PATH": os.environ.get("PATH", "") + ":" + _SBIN,
            "OVS_RUNDIR": str(folder),
            "OVS_LOGDIR": str(logs),
            "OVS_DBDIR": str(folder),
            "OVS_SYSCONFDIR": str(folder),
        }

    @property
    def daemons(self) -> tuple[Daemon, ...]:
        """Both daemons, once started."""
        return tuple(self._daemons)

    def start(self) -> None:
        """Start both daemons and choose the datapath; TestbedError when Open vSwitch does not come up."""
        self.folder.mkdir(parents=True, exist_ok=True)
        schema, server = find_schema(), find_program("ovsdb-server")
        if schema is None or server is None:
            raise TestbedError("Open vSwitch is not installed; run 'make setup'.")
        database, endpoint = self.folder / "conf.db", self.folder / "db.sock"
        self._run(["ovsdb-tool", "create", str(database), str(schema)])
        self._launch("ovsdb-server", [str(database), f"--remote=punix:{endpoint}"])
        wait_for("the database of Open vSwitch", lambda: _listens(endpoint), self._daemons)
        self.vsctl("--no-wait", "init")
        self._launch("ovs-vswitchd", [f"unix:{endpoint}"])
        # The daemon sets cur_cfg once it has read the database: then it is ready for bridges.
        self.vsctl("set", "Open_vSwitch", ".", "external_ids:ready=true")
        self.datapath = KERNEL if self._kernel_datapath_works() else USERSPACE

    def _launch(self, name: str, arguments: list[str]) -> None:
        program = find_program(name)
        if program is None:
            raise TestbedError(f"{name} is not installed; run 'make setup'.")
        # Console messages go to the log through standard error; no --detach: our own child, ended by pid.
        argv = [program, *arguments, f"--pidfile={self.folder / name}.pid", "--no-chdir", "-vconsole:info"]
        argv += ["-vsyslog:off", "-vfile:off"]
        self._daemons.append(Daemon(name, argv, self._logs / f"{name}.log", self.environment))

    def _kernel_datapath_works(self) -> bool:
        self.vsctl("add-br", _PROBE_BRIDGE, "--", "set", "bridge", _PROBE_BRIDGE, f"datapath_type={KERNEL}")
        port = self.vsctl("get", "interface", _PROBE_BRIDGE, "ofport").strip()
        self.vsctl("del-br", _PROBE_BRIDGE)
        return bool(re.fullmatch(r"\d+", port))

    def vsctl(self, *arguments: str) -> str:
        """Run ovs-vsctl and return what it prints; TestbedError with its message when it fails."""
        return self._run(["ovs-vsctl", f"--timeout={_TIMEOUT}", *arguments])

    def _run(self, argv: list[str]) -> str:
        try:
            done = subprocess.run(
                argv, env=self.environment, capture_output=True, text=True, check=False, timeout=2 * _TIMEOUT
            )
        except FileNotFoundError:
            raise TestbedError(f"{argv[0]} is not installed; run 'make setup'.") from None
        except subprocess.TimeoutExpired:
            raise TestbedError(f"'{' '.join(argv)}' did not answer in {2 * _TIMEOUT} s.") from None
        if done.returncode != 0:
            for daemon in self._daemons:
                daemon.check()
            raise TestbedError(f"'{' '.join(argv)}' failed: {done.stderr.strip() or done.returncode}")
        return done.stdout

    def add_bridges(self, bridges: Iterable[BridgeSpec]) -> None:
        """Make all bridges in one transaction; without a controller they forward nothing yet."""
        arguments: list[str] = []
        for bridge in bridges:
            arguments += ["--", "add-br", bridge.name, "--", "set", "bridge", bridge.name]
            arguments += [
                f"datapath_type={self.datapath}",
                "protocols=OpenFlow13,OpenFlow15",
                "fail_mode=secure",
                f"other-config:datapath-id={bridge.datapath_id:016x}",
                f"other-config:dp-desc={bridge.name}",
                "other-config:disable-in-band=true",
            ]
            for port, number in bridge.ports.items():
                arguments += ["--", "add-port", bridge.name, port]
                arguments += ["--", "set", "interface", port, f"ofport_request={number}"]
        if arguments:
            self.vsctl(*arguments[1:])

    def set_controller(self, bridges: Iterable[str], target: str) -> None:
        """Connect bridges to a controller; ``target`` is an OpenFlow target such as tcp:A:6653."""
        arguments: list[str] = []
        for name in bridges:
            arguments += ["--", "set-controller", name, target]
            arguments += ["--", "set", "controller", name, "max_backoff=1000", "inactivity_probe=5000"]
        if arguments:
            self.vsctl(*arguments[1:])

    def ports_up(self) -> bool:
        """Tell whether every port has its OpenFlow number; TestbedError when the switch refused one."""
        text = self.vsctl("--format=csv", "--no-headings", "--columns=name,ofport,error", "list", "interface")
        rows = [line.split(",", 2) for line in text.splitlines()]
        for name, number, error in rows:
            if number == "-1":
                raise TestbedError(f"Open vSwitch could not take port {name}: {error}")
        return all(re.fullmatch(r"\d+", number) for _, number, _ in rows)

    def version(self) -> str:
        """Return the version of the switch daemon."""
        found = re.search(r"\d+(\.\d+)+", self._run(["ovs-vsctl", "--version"]))
        return found.group() if found else "unknown"

    def remove_bridges(self, names: Iterable[str]) -> None:
        """Remove bridges, those that exist."""
        arguments: list[str] = []
        for name in names:
            arguments += ["--", "--if-exists", "del-br", name]
        if arguments:
            self.vsctl(*arguments[1:])

    def stop(self) -> None:
        """Stop both daemons; the switch daemon first."""
        for daemon in reversed(self._daemons):
            stop_all([daemon])
        self._daemons.clear()
