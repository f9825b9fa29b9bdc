"""The operators' command line: ``python -m controller.cli [--json] COMMAND``; docs/northbound.md has examples.

Where the NVA is, and with which certificate it is asked, come from options or from the environment. Exit codes: 0
done, 1 refused or failed (one sentence on standard error), 2 wrong usage.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from controller.operators import tables
from geneve.config import parse_yaml
from geneve.control.rest_client import RestClient, RestError
from geneve.control.tls import TlsFiles
from geneve.errors import ConfigError

CONNECTION = {
    "url": ("GENEVE_NVA_URL", "the NVA's address, such as https://10.255.0.2:8080"),
    "ca": ("GENEVE_NVA_CA", "file of the CA's certificate"),
    "cert": ("GENEVE_NVA_CERT", "file of the operator's certificate"),
    "key": ("GENEVE_NVA_KEY", "file of the operator's private key"),
}
"""Options with the environment variable that stands in for each, and what they are."""

RESOURCES = {
    "nodes": "nodes, and whether everything has reached everyone",
    "tenants": "tenants and their virtual networks",
    "mappings": "where tenants' addresses are",
    "associations": "associations, without their keys",
    "topology": "the underlay's switches, links and paths",
    "flows": "what the switches' rules counted",
}
"""Commands that show a resource."""

POLICY_PATIENCE = 15.0
"""Seconds in which every node must have checked a policy; the NVA gives up earlier."""

_POLL = 0.2

Command = Callable[[argparse.Namespace, RestClient], None]


def _spi(text: str) -> int:
    try:
        return int(text, 0)
    except ValueError:
        raise argparse.ArgumentTypeError(f"'{text}': expected an SPI, decimal or 0x with hexadecimal digits") from None


def _connection_options(*, nested: bool) -> argparse.ArgumentParser:
    """Return the options that may stand before and after the command's name."""
    parser = argparse.ArgumentParser(add_help=False)
    group = parser.add_argument_group("connection and form")
    for name, (variable, text) in CONNECTION.items():
        default = argparse.SUPPRESS if nested else os.environ.get(variable)
        group.add_argument(f"--{name}", default=default, help=f"{text} (or {variable})")
    group.add_argument(
        "--json", action="store_true", default=argparse.SUPPRESS if nested else False, help="JSON instead of tables"
    )
    return parser


def make_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = argparse.ArgumentParser(
        prog="controller.cli", description="Operate the NVA.", parents=[_connection_options(nested=False)]
    )
    shared = [_connection_options(nested=True)]
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def add(name: str, run: Command, text: str, group: Any = commands) -> argparse.ArgumentParser:
        command: argparse.ArgumentParser = group.add_parser(name, help=text, description=text, parents=shared)
        command.set_defaults(run=run)
        return command

    for name, text in RESOURCES.items():
        add(name, _show, f"show {text}").set_defaults(resource=name)
    events = add("events", _events, "show the audit log")
    events.add_argument("--after", type=int, metavar="N", help="only events after number N")
    events.add_argument("--limit", type=int, metavar="N", help="N events at most")
    events.add_argument("--follow", action="store_true", help="go on with events as they happen")
    rekey = add("rekey", _rekey, "replace associations by fresh ones")
    which = rekey.add_mutually_exclusive_group(required=True)
    which.add_argument("--node", metavar="N", help="all of one node")
    which.add_argument("--spi", type=_spi, metavar="S", help="one")
    which.add_argument("--all", action="store_true", help="all there are")
    for name, text in (("revoke", "cut a node off"), ("restore", "let a revoked node register again")):
        add(name, _membership, text).add_argument("node")
        commands.choices[name].set_defaults(verb=name)

    both = add("policy", _policy_show, "show or set the policy")
    both.set_defaults(document=False)
    policy = both.add_subparsers(metavar="show|set")
    show = add("show", _policy_show, "show the policy", policy)
    show.add_argument("--document", action="store_true", help="only what 'policy set' takes, as JSON")
    setting = add("set", _policy_set, "propose a policy and wait until it is in force", policy)
    setting.add_argument("file", type=Path, help="YAML or JSON, - for standard input")
    setting.add_argument("--expect", type=int, metavar="VERSION", help="only if this version is in force")
    setting.add_argument("--no-wait", action="store_true", help="return once the NVA has taken the proposal")

    mapping = commands.add_parser("mapping", help="set or remove a mapping").add_subparsers(required=True)
    for name, run, text in (
        ("set", _mapping_set, "set a static mapping"),
        ("remove", _mapping_remove, "remove a mapping"),
    ):
        command = add(name, run, text, mapping)
        command.add_argument("vni", type=int)
        command.add_argument("mac")
        if name == "set":
            command.add_argument("--nve", required=True, help="the NVE behind which the tenant is")
            command.add_argument("--ip", action="append", default=[], help="an IP address; repeatable")
            command.add_argument("--tag", type=int, default=0, help="the tenant's security group")
    return parser


def _tell(arguments: argparse.Namespace, document: Any, text: str) -> None:
    print(json.dumps(document, indent=1) if arguments.json else text)


def _show(arguments: argparse.Namespace, client: RestClient) -> None:
    document = client.request("GET", f"/v1/{arguments.resource}")
    _tell(arguments, document, tables.VIEWS[arguments.resource](document))


def _events(arguments: argparse.Namespace, client: RestClient) -> None:
    if arguments.follow:
        for event in client.events(arguments.after):
            print(json.dumps(event) if arguments.json else tables.event_line(event), flush=True)
        return
    query = [f"{key}={value}" for key in ("after", "limit") if (value := getattr(arguments, key)) is not None]
    document = client.request("GET", "/v1/events" + ("?" + "&".join(query) if query else ""))
    _tell(arguments, document, tables.VIEWS["events"](document))


def _rekey(arguments: argparse.Namespace, client: RestClient) -> None:
    body = {key: value for key in ("node", "spi") if (value := getattr(arguments, key)) is not None}
    answer = client.request("POST", "/v1/rekey", body)
    _tell(arguments, answer, f"{answer['replaced']} associations are being replaced.")


def _membership(arguments: argparse.Namespace, client: RestClient) -> None:
    answer = client.request("POST", f"/v1/nodes/{quote(arguments.node, safe='')}/{arguments.verb}", {})
    state = "revoked: it has no keys and cannot register" if answer["revoked"] else "free to register"
    _tell(arguments, answer, f"{answer['node']} is {state}.")


def _policy_show(arguments: argparse.Namespace, client: RestClient) -> None:
    view = client.request("GET", "/v1/policy")
    if arguments.document:
        print(json.dumps(view["document"], indent=1))
    else:
        _tell(arguments, view, tables.VIEWS["policy"](view))


def _policy_set(arguments: argparse.Namespace, client: RestClient) -> None:
    headers = {} if arguments.expect is None else {"If-Match": f'"{arguments.expect}"'}
    answer = client.request("PUT", "/v1/policy", _read_policy(arguments.file), headers)
    version = answer["version"]
    if arguments.no_wait:
        _tell(arguments, answer, f"version {version} is being checked by the nodes.")
        return
    deadline = time.monotonic() + POLICY_PATIENCE
    while not policy_is_decided(client.request("GET", "/v1/policy"), version):
        if time.monotonic() >= deadline:
            raise RestError(f"version {version} is still being checked after {POLICY_PATIENCE:g} s.")
        time.sleep(_POLL)
    _tell(arguments, answer, f"version {version} is in force.")


def _read_policy(path: Path) -> dict[str, Any]:
    name = "standard input" if str(path) == "-" else str(path)
    try:
        text = sys.stdin.read() if str(path) == "-" else path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
        raise ConfigError(f"{name}: cannot be read ({reason}); give a policy file.") from None
    document = parse_yaml(text, name)
    if not isinstance(document, dict):
        raise ConfigError(f"{name}: expected a mapping with the keys 'profiles', 'policy' and 'vnis'.")
    # YAML reads the number of a VNI as a number; the NVA's document has it as text.
    if isinstance(document.get("vnis"), dict):
        document["vnis"] = {str(key): value for key, value in document["vnis"].items()}
    return document


def policy_is_decided(view: dict[str, Any], version: int) -> bool:
    """Whether ``version`` is in force, or was and is replaced already; RestError when it was given up."""
    rejected, candidate = view["rejected"], view["candidate"]
    if rejected is not None and rejected["version"] == version:
        raise RestError(f"version {version} was given up: {rejected['reason']}; version {view['version']} stays.")
    return bool(view["version"] >= version) or (candidate is not None and candidate["version"] > version)


def _mapping_path(arguments: argparse.Namespace) -> str:
    return f"/v1/mappings/{arguments.vni}/{quote(arguments.mac, safe=':')}"


def _mapping_set(arguments: argparse.Namespace, client: RestClient) -> None:
    body = {"nve": arguments.nve, "ips": arguments.ip, "tag": arguments.tag}
    answer = client.request("PUT", _mapping_path(arguments), body)
    mapping = answer["mapping"]
    text = f"{mapping['mac']} ({tables.cell(mapping['ips'])}) of VNI {mapping['vni']} is behind {mapping['nve']}."
    _tell(arguments, answer, text)


def _mapping_remove(arguments: argparse.Namespace, client: RestClient) -> None:
    answer = client.request("DELETE", _mapping_path(arguments))
    text = f"{arguments.mac} of VNI {arguments.vni} is removed; an NVE that reports it maps it again."
    _tell(arguments, answer, text)


def _client(arguments: argparse.Namespace) -> RestClient:
    for name, (variable, _) in CONNECTION.items():
        if not getattr(arguments, name):
            raise ConfigError(f"--{name} is missing; give it or set {variable}.")
    return RestClient(arguments.url, TlsFiles(arguments.ca, arguments.cert, arguments.key))


def main(argv: Sequence[str] | None = None) -> int:
    """Run the program; returns its exit code."""
    arguments = make_parser().parse_args(argv)
    try:
        arguments.run(arguments, _client(arguments))
    except (ConfigError, RestError) as error:
        print(f"controller.cli: {tables.cell(str(error))}", file=sys.stderr)
        return 2 if isinstance(error, ConfigError) else 1
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # whoever read our output has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
