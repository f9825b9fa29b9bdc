"""Open vSwitch as a contender: its own Geneve tunnel on the userspace datapath, without encryption."""

from __future__ import annotations

import json
import signal
import sys
import tempfile
from pathlib import Path

from experiments.peers.contender import Contender, Description, Kind, Running, find_program
from experiments.peers.network import PORT, SIDES, TENANT_INTERFACE, UNDERLAY, UNDERLAY_MTU, WIRE, other
from experiments.programs import python_module
from topologies.daemon import TestbedError, wait_for
from topologies.ovs import PrivateOvs
from topologies.sandbox import exit_on_sigterm

_VNI = 100
_PHYSICAL, _INTEGRATION = "phy", "int"


class OvsGeneve(Contender):
    """An Open vSwitch at each end, a process of its own, that switches and encapsulates in user space."""

    def __init__(self) -> None:
        super().__init__(Description(
            "ovs-geneve", "Open vSwitch Geneve", Kind.USER_SPACE, 2, 50, None, False, "ovs-vswitchd",
            notes="userspace datapath; offloads of the wires off, without which it passes no TCP",
        ))  # fmt: skip

    def start(self, running: Running) -> None:
        """Start a private Open vSwitch in each end, with the underlay's address on its bridge."""
        find_program("ovs-vswitchd")
        network = running.network
        for side in SIDES:
            # The switch hands frames on as they are: checksums that are left to hardware would never be made.
            network.node(side).offloads_off(WIRE)
            network.node(side).offloads_off(PORT)
            network.tenant(side).offloads_off(TENANT_INTERFACE)
            network.node(side).ip([f"address flush dev {WIRE}"])
        for side in SIDES:
            argv = python_module("experiments.peers.openvswitch", side, str(running.side_folder(side)))
            running.launch(side, f"ovs-{side}", argv, counted=False)
        for side in SIDES:
            ready = running.side_folder(side) / "ready"
            wait_for("Open vSwitch", ready.exists, running.daemons, 40.0)
            running.processes[side] = json.loads(ready.read_text())
            network.node(side).ip([
                f"link set {_PHYSICAL} mtu {UNDERLAY_MTU} up", f"address add {UNDERLAY[side]}/24 dev {_PHYSICAL}",
            ])  # fmt: skip
        for side in SIDES:  # the tunnel needs the other end's MAC address from the kernel
            network.node(side).run(["ping", "-n", "-c", "1", "-w", "10", UNDERLAY[other(side)]], 20.0)


def serve(side: str, folder: Path) -> None:
    """Run the switch of one end until SIGTERM; says in ``ready`` which processes work for it."""
    ovs = PrivateOvs(folder / "ovs", folder)
    exit_on_sigterm()
    try:
        ovs.start()
        for bridge, port in ((_PHYSICAL, WIRE), (_INTEGRATION, PORT)):
            ovs.vsctl("add-br", bridge, "--", "set", "bridge", bridge, "datapath_type=netdev", "--",
                      "add-port", bridge, port)  # fmt: skip
        ovs.vsctl("add-port", _INTEGRATION, "gnv", "--", "set", "interface", "gnv", "type=geneve",
                  f"options:key={_VNI}", f"options:remote_ip={UNDERLAY[other(side)]}")  # fmt: skip
        with tempfile.NamedTemporaryFile("w", dir=folder, delete=False) as file:
            json.dump([daemon.pid for daemon in ovs.daemons if daemon.name == "ovs-vswitchd"], file)
        Path(file.name).replace(folder / "ready")
        signal.pause()
    except TestbedError as error:
        print(error, file=sys.stderr)
    finally:
        ovs.stop()


if __name__ == "__main__":
    serve(sys.argv[1], Path(sys.argv[2]))
