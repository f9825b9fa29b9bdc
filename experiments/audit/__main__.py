"""``make audit FILE=...``: judge a scenario file, or a capture of anybody's Geneve network, against SEC-OP-1 to 10.

A FILE ending in .yaml or .yml, or the name of a scenario that comes with the testbed, is a scenario; all else is a
capture (pcap or pcapng, gzipped or not). Findings are no errors: the exit code is 0 when the file could be evaluated,
and 2 when it could not be read.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from experiments.audit.capture_audit import audit_capture
from experiments.audit.deployment import audit_deployment
from experiments.audit.page import render, terminal_lines
from experiments.audit.result import AuditResult
from experiments.capture_file import CaptureError
from experiments.results import write_atomically
from geneve.errors import ConfigError
from geneve.header import GENEVE_PORT
from topologies.scenario_file import scenario_names


def _port(text: str) -> int:
    try:
        value = int(text)
    except ValueError:
        value = 0
    if not 0 < value < 65536:
        raise argparse.ArgumentTypeError(f"expected a UDP port from 1 to 65535, found {text!r}")
    return value


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="experiments.audit", description=__doc__)
    parser.add_argument("file", metavar="FILE", help="a scenario, or a capture")
    parser.add_argument("--html", type=Path, metavar="OUT", help="write one page, without foreign parts")
    parser.add_argument("--json", type=Path, metavar="OUT", help="write everything as JSON (docs/audit.md)")
    parser.add_argument(
        "--port", type=_port, action="append", default=[], help=f"one more UDP port of Geneve besides {GENEVE_PORT}"
    )
    parser.add_argument("--findings", type=int, default=12, metavar="N", help="findings on the terminal (12)")
    return parser


def audit(file: str, ports: Sequence[int] = ()) -> AuditResult:
    """Return the audit of a scenario or capture; ConfigError or CaptureError is one sentence."""
    if Path(file).suffix in (".yaml", ".yml") or (file in scenario_names() and not Path(file).exists()):
        return audit_deployment(file)
    return audit_capture(file, ports=(GENEVE_PORT, *ports))


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    options = _parser().parse_args(arguments)
    try:
        result = audit(options.file, options.port)
        if options.html is not None:
            write_atomically(options.html, render(result))
        if options.json is not None:
            write_atomically(options.json, json.dumps(result.as_dict(), indent=1) + "\n")
    except (ConfigError, CaptureError) as error:
        print(f"audit: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        print(f"audit: {error.filename}: cannot be written ({error.strerror}).", file=sys.stderr)
        return 2
    print("\n".join(terminal_lines(result, options.findings)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
