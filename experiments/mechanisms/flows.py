"""A tenant's bulk flow through a pair of NVEs, in clear or within TLS 1.3 (thin shell)."""

from __future__ import annotations

import datetime
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from controller.pki import TestbedCa
from experiments.dataplane import bulk
from experiments.measure import MeasureError
from experiments.mechanisms.pairs import SINK, SOURCE, Pair
from experiments.peers.measuring import cpu_now
from experiments.peers.network import LEFT, RIGHT, SIDES, open_to_owner_only
from experiments.programs import Program, wait_for

MODULE = "experiments.dataplane.bulk"
SUITE = "TLS_AES_128_GCM_SHA256"
"""The cipher suite of tenants' TLS: the same AEAD as the overlay's."""
SETTLE_SECONDS = 0.12
"""How long a flow gets going before anything is counted."""
_TLS_PORT = bulk.PORT + 1
_OPENSSL = f"""openssl_conf = settings
[settings]
ssl_conf = ssl
[ssl]
system_default = tls
[tls]
Ciphersuites = {SUITE}
"""


@dataclass(frozen=True, slots=True)
class Certificates:
    """Files of the tenants' TLS, made for one run; the one with the key is for its owner only."""

    ca: Path
    own: Path
    settings: Path

    @classmethod
    def make(cls, folder: Path, name: str, address: str) -> Certificates:
        """Make a certificate for the server at ``address``."""
        authority = TestbedCa(datetime.datetime.now(datetime.timezone.utc))
        issued = authority.issue_nva(name, [address])
        files = cls(folder / "tenant-ca.pem", folder / "tenant.pem", folder / "openssl.cnf")
        files.ca.write_bytes(authority.certificate)
        open_to_owner_only(files.own, (issued.certificate + issued.key).decode())
        files.settings.write_text(_OPENSSL)
        return files


def open_flow(pair: Pair, certificates: Certificates | None = None) -> dict[str, Any]:
    """Connect a tenant's flow, which waits; return what the source said of itself; MeasureError if not as asked."""
    suffix, port = ("", bulk.PORT) if certificates is None else ("-tls", _TLS_PORT)
    near, far = pair.network.tenant_address(LEFT), pair.address
    environment, server, client = [], [], []
    if certificates is not None:
        environment = [f"OPENSSL_CONF={certificates.settings}"]
        server, client = ["--certificate", str(certificates.own)], ["--ca", str(certificates.ca)]
    pair.program(SINK + suffix, RIGHT, MODULE, "sink", far, "--port", str(port), *server, environment=environment)
    pair.program(
        SOURCE + suffix, LEFT, MODULE, "source", near, far, "--port", str(port), *client, environment=environment
    )
    said = pair.said(SOURCE + suffix)
    wanted = None if certificates is None else SUITE
    if said.get("cipher") != wanted:
        raise MeasureError(f"the tenants' flow has the cipher suite {said.get('cipher')}, wanted {wanted}")
    return said


def measure_flow(pair: Pair, seconds: float, tls: bool = False) -> dict[str, Any]:
    """Let the flow go for ``seconds``; return its bits per second (``value``), bytes, and CPU time in ns by end."""
    suffix = "-tls" if tls else ""
    source, sink = pair.programs[SOURCE + suffix], pair.programs[SINK + suffix]
    source.ask({"do": "go"})
    try:
        time.sleep(SETTLE_SECONDS)
        first, before = sink.ask({"do": "count"}), cpu_now(pair.running)
        time.sleep(seconds)  # the length of the measurement
        last, after = sink.ask({"do": "count"}), cpu_now(pair.running)
    finally:
        source.ask({"do": "pause"})
    carried, span = last["bytes"] - first["bytes"], last["at"] - first["at"]
    drain(sink)
    if carried <= 0:
        raise MeasureError("the flow carried nothing")
    return {
        "value": 8 * carried / span, "bytes": carried, "seconds": round(span, 6),
        "cpu_ns": {end: after[end] - before[end] for end in (*SIDES, "machine")},
    }  # fmt: skip


def drain(sink: Program) -> None:
    """Return when nothing more comes to a sink; MeasureError when that does not end."""

    def still() -> bool:
        first = sink.ask({"do": "count"})["bytes"]
        time.sleep(0.02)
        return bool(sink.ask({"do": "count"})["bytes"] == first)

    if not wait_for(still, 5):
        raise MeasureError("the flow does not end")
