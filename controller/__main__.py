"""The controller's program: ``python -m controller --inventory FILE [--framework ryu|os-ken] [-v]``."""

from __future__ import annotations

import argparse
import logging
import os
import secrets
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from controller.fabric import framework as frameworks
from geneve.errors import ConfigError

log = logging.getLogger("controller")


def _arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="controller", description="Underlay controller and NVA.")
    parser.add_argument("--inventory", type=Path, required=True, help="the inventory file (YAML or JSON)")
    parser.add_argument(
        "--framework",
        choices=("auto", *frameworks.NAMES),
        default="auto",
        help="auto: Ryu where it can be imported, else os-ken (default)",
    )
    parser.add_argument("-v", "--verbose", action="store_true", help="log more")
    return parser


def _stop(number: int, frame: object) -> None:
    # Threads of either framework cannot be ended from outside; nothing is on disk and sockets go with us.
    del number, frame
    logging.shutdown()
    os._exit(0)


def _run(inventory_path: Path, framework_name: str) -> None:
    framework = frameworks.load(framework_name)
    # Only now: these modules use sockets, threads and queues, which the framework may have replaced.
    from controller.admission import Admission
    from controller.fabric.app import make_app
    from controller.inventory import load_inventory
    from controller.operators.northbound import Northbound
    from controller.operators.rest_server import RestServer
    from controller.server import NodeServer, listen
    from controller.shell import Shell
    from controller.store import Store, load_key
    from geneve.control.tls import TlsFiles, server_context

    inventory = load_inventory(inventory_path)
    folder = inventory_path.parent
    nva = inventory.nva
    context = server_context(TlsFiles(str(folder / nva.ca), str(folder / nva.certificate), str(folder / nva.key)))
    files = inventory.store
    store = Store(None, secrets.token_bytes(32)) if files is None else Store(
        folder / files.database, load_key(folder / files.key)
    )  # fmt: skip
    shell = Shell(inventory, store)
    admission = Admission(node.address for node in inventory.nodes.values())
    nodes = NodeServer(framework.spawn, shell, context, listen(nva.address, nva.port, "nva"), admission)
    where = inventory.rest
    northbound = Northbound(shell, inventory.operators)
    rest = RestServer(framework.spawn, context, listen(where.address, where.port, "rest"), northbound)
    # The framework would only log that it cannot listen, and go on without switches.
    listen(inventory.openflow.address, inventory.openflow.port, "openflow").close()
    log.info("%s %s; nodes on %s port %d", framework.name, framework.version, nva.address, nva.port)
    framework.spawn(nodes.serve)
    framework.spawn(rest.serve)
    framework.spawn(shell.run_timer)
    framework.run(make_app(framework, shell), inventory.openflow.address, inventory.openflow.port)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the program; returns its exit code."""
    arguments = _arguments().parse_args(argv)
    logging.basicConfig(
        level=logging.DEBUG if arguments.verbose else logging.INFO,
        format="%(asctime)s %(name)s %(levelname)s %(message)s",
    )
    logging._srcfile = None  # no line shows its caller, and looking for it costs most
    for name in ("ryu", "os_ken"):
        logging.getLogger(name).setLevel(logging.INFO if arguments.verbose else logging.WARNING)
    signal.signal(signal.SIGTERM, _stop)
    signal.signal(signal.SIGINT, _stop)
    try:
        _run(arguments.inventory, arguments.framework)
    except ConfigError as error:
        print(f"controller: {error}", file=sys.stderr)
        logging.shutdown()
        sys.stderr.flush()
        os._exit(2)  # other threads may run already
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
