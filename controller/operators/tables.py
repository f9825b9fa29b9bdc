"""The operators' documents as text for people: aligned tables. Pure."""

from __future__ import annotations

import datetime
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

Document = Mapping[str, Any]


def cell(value: object) -> str:
    """Return one value as text. What a terminal could take for a command is shown as a question mark."""
    if value is None or value in ((), [], ""):
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.1f}"
    if isinstance(value, (list, tuple)):
        return ",".join(cell(item) for item in value)
    if isinstance(value, dict):
        return " ".join(f"{cell(key)}={cell(item)}" for key, item in value.items())
    return "".join(char if char.isprintable() else "?" for char in str(value))


def table(titles: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Return lines with aligned columns: numbers to the right, texts to the left."""
    values = [list(row) for row in rows]
    texts = [list(titles), *([cell(value) for value in row] for row in values)]
    numeric = [bool(values) and all(_is_number(row[place]) for row in values) for place in range(len(titles))]
    widths = [max(len(line[place]) for line in texts) for place in range(len(titles))]
    lines = []
    for line in texts:
        parts = [
            text.rjust(width) if right else text.ljust(width)
            for text, width, right in zip(line, widths, numeric, strict=True)
        ]
        lines.append("  ".join(parts).rstrip())
    return "\n".join(lines)


def _is_number(value: object) -> bool:
    return value is None or (isinstance(value, (int, float)) and not isinstance(value, bool))


def _columns(entries: Iterable[Document], columns: Mapping[str, str]) -> str:
    """Return a table of ``entries``; ``columns`` maps titles to keys."""
    return table(list(columns), [[entry[key] for key in columns.values()] for entry in entries])


def _nodes(document: Document) -> str:
    columns = {
        "NAME": "name", "ROLE": "role", "ADDRESS": "address", "CONNECTED": "connected", "IN-STEP": "in_step",
        "REVOKED": "revoked", "SINCE-S": "registered_s", "SEQUENCE": "sequence", "REFUSAL": "refusal",
    }  # fmt: skip
    state = "everything has reached everyone" if document["converged"] else "changes are on their way"
    return f"{_columns(document['nodes'], columns)}\n\nepoch {cell(document['epoch'])}: {state}"


def _tenants(document: Document) -> str:
    titles = ("TENANT", "VNI", "ACTION", "PROFILE", "LEARNED", "TAGS", "MTU", "MEMBERS")
    keys = ("vni", "action", "profile", "learned", "tags", "mtu", "members")
    rows = [[tenant["name"], *(vni[key] for key in keys)] for tenant in document["tenants"] for vni in tenant["vnis"]]
    return table(titles, rows)


def _mappings(document: Document) -> str:
    columns = {"VNI": "vni", "MAC": "mac", "IPS": "ips", "NVE": "nve", "TAG": "tag", "STATIC": "static"}
    return _columns(document["mappings"], columns)


def _associations(document: Document) -> str:
    columns = {
        "SPI": "spi", "STAGE": "stage", "ROLE": "role", "SENDER": "sender", "AUDIENCE": "audience",
        "MEMBERS": "members", "VNI": "vni", "PROFILE": "profile", "RULE": "rule", "AGE-S": "age_s",
        "WAITING": "waiting",
    }  # fmt: skip
    return _columns(document["associations"], columns)


def _selectors(rule: Document) -> dict[str, object]:
    """Return what a rule selects by: the keys that are set, those of its ends with ``from-`` or ``to-``."""
    found: dict[str, object] = {}
    for key, value in rule.items():
        if key in {"name", "action", "profile"} or value is None or (key, value) == ("direction", "both"):
            continue
        if key in {"source", "destination"}:
            prefix = "from-" if key == "source" else "to-"
            found |= {prefix + name: given for name, given in value.items() if given is not None}
        else:
            found[key] = value
    return found


def _policy(document: Document) -> str:
    parts = [f"version {document['version']} is in force"]
    candidate, rejected, policy = document["candidate"], document["rejected"], document["document"]
    if candidate is not None:
        parts.append(f"version {candidate['version']} is being checked by {cell(candidate['waiting'])}")
    if rejected is not None:
        parts.append(f"version {rejected['version']} was given up: {cell(rejected['reason'])}")
    rules = [
        [number, rule["name"], _selectors(rule) or "everything", rule["action"], rule["profile"]]
        for number, rule in enumerate(policy["policy"], start=1)
    ]
    if rules:
        parts.append(table(("RULE", "NAME", "MATCHES", "ACTION", "PROFILE"), rules))
    vnis = [[f"VNI {vni}", entry["action"], entry["profile"]] for vni, entry in policy["vnis"].items()]
    parts.append(table(("OTHERWISE", "ACTION", "PROFILE"), vnis))
    return "\n\n".join(parts)


def _topology(document: Document) -> str:
    links = {"LINK": "between", "PORTS": "ports", "VIA": "via", "COST": "cost", "UP": "up", "TREE": "tree"}
    return "\n\n".join(
        [
            _columns(document["switches"], {"SWITCH": "name", "DPID": "dpid", "CONNECTED": "connected"}),
            _columns(document["links"], links),
            _columns(document["hosts"], {"HOST": "mac", "SWITCH": "switch", "PORT": "port"}),
            _columns(document["paths"], {"FROM": "from", "TO": "to", "TRANSIT": "transit"}),
            "every link is found" if document["complete"] else "links are missing",
        ]
    )


def _flows(document: Document) -> str:
    rows = [
        [switch["name"], flow["table"], flow["priority"], flow["packets"], flow["bytes"], flow["match"] or "everything"]
        for switch in document["switches"]
        for flow in switch["flows"]
    ]
    flows = table(("SWITCH", "TABLE", "PRIORITY", "PACKETS", "BYTES", "MATCH"), rows)
    return f"{flows}\n\n{document['spoofed_packets']} packets with another's source address were dropped"


def moment(seconds: float) -> str:
    """Return a time, UTC in seconds, in the form of RFC 3339."""
    when = datetime.datetime.fromtimestamp(seconds, datetime.timezone.utc)
    return when.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def event_line(event: Document) -> str:
    """Return one event as one line."""
    parts = (str(event["number"]), moment(event["time"]), cell(event["kind"]), cell(event["node"]), cell(event["text"]))
    return "  ".join(parts)


def _events(document: Document) -> str:
    rows = [
        [event["number"], moment(event["time"]), event["kind"], event["node"], event["text"]]
        for event in document["events"]
    ]
    return table(("NUMBER", "TIME", "KIND", "NODE", "TEXT"), rows)


VIEWS: dict[str, Callable[[Document], str]] = {
    "nodes": _nodes,
    "tenants": _tenants,
    "mappings": _mappings,
    "policy": _policy,
    "associations": _associations,
    "topology": _topology,
    "flows": _flows,
    "events": _events,
}
"""Each resource with the function that makes a text of it."""
