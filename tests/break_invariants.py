"""Break each invariant of the mechanism in a copy of the source, and see that the tests notice.

Not a test of its own: ``make break-invariants`` (or ``python -m tests.break_invariants``) prints one line
per mutant and fails if one survives. Run it after changing the mechanism or its tests.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
TESTS = ("tests/geneve", "tests/nve", "tests/transit")


@dataclass(frozen=True)
class Mutant:
    """One way to break an invariant: in ``file``, ``old`` becomes ``new``."""

    invariant: int
    what: str
    file: str
    old: str
    new: str


MUTANTS = (
    Mutant(1, "the egress tag leaves out other security options", "geneve/security/aad.py",
           "return role is AssociationRole.EGRESS and coverage.options is None", "return False"),
    Mutant(1, "an NVE's own place among the options is not bound", "geneve/security/aad.py",
           "entries.append((0, 0, _OWN_ENTRY))", "pass"),
    Mutant(2, "the base header is not covered", "geneve/security/aad.py",
           "header: bytes = bytes(packet[:BASE_HEADER_SIZE])", "header: bytes = bytes(8)"),
    Mutant(2, "options are not covered", "geneve/security/aad.py", "elif covers_option(role, coverage, span):",
           "elif False:"),
    Mutant(2, "options enter without their length", "geneve/security/aad.py",
           'struct.pack("!H", span.end - span.start)', 'b""'),
    Mutant(2, "the clear payload is not covered", "geneve/security/aad.py", "parts.append(clear)", "pass"),
    Mutant(2, "the role is not bound", "geneve/security/aad.py", "LABEL + ROLE_CODES[role]", "LABEL"),
    Mutant(3, "the payload may be bound without the VNI", "geneve/control/state.py",
           "not self.header >= BINDING_FIELDS", "False"),
    Mutant(4, "numbers repeat", "geneve/security/association.py", "self.last_sequence += 1", "self.last_sequence = 1"),
    Mutant(4, "no hard limit", "geneve/security/association.py", "if self.last_sequence >= self.hard_limit:",
           "if False:"),
    Mutant(4, "a repeated push restarts an association", "geneve/security/store.py",
           "prepared[spi] = held", "prepared[spi] = (association, profile, self._make(association, profile))"),
    Mutant(4, "a withdrawn association comes back", "geneve/security/store.py", "if spi in self._retired:",
           "if False:"),
    Mutant(4, "a restart begins again", "nve/sequence_file.py", "end.resume(start[end.spi],", "end.resume(0,"),
    Mutant(4, "both directions share a key", "geneve/security/keys.py",
           "            association.sender.encode(),\n", ""),
    Mutant(5, "the window moves before the tag verified", "geneve/security/open.py",
           "        frame = verify(", "        association.window.commit(own.sequence)\n        frame = verify("),
    Mutant(5, "the window never moves", "geneve/security/open.py", "association.window.commit(own.sequence)", "pass"),
    Mutant(5, "the tag is not checked", "geneve/security/open.py", "    except InvalidTag:\n        return None",
           "    except InvalidTag:\n        return payload"),
    Mutant(6, "an unprotected packet passes", "nve/dataplane.py", "return DropReason.UNPROTECTED", "return None"),
    Mutant(6, "any profile passes", "nve/dataplane.py", "association.profile != profile.name", "False"),
    Mutant(6, "a missing key sends in clear", "nve/dataplane.py",
           "reason = DropReason.NO_ASSOCIATION\n                    continue",
           "packet = _plain(network.vni, frame, options)\n                    result.datagrams.append("
           "Datagram(peer.address, packet, 0, 0))\n                    continue"),
    Mutant(7, "a transit device's window never moves", "geneve/security/transit.py",
           "association.window.commit(own.sequence)", "pass"),
    Mutant(7, "a transit device acts on a bad tag", "geneve/security/transit.py",
           "return DropReason.AUTHENTICATION_FAILED", "pass"),
    Mutant(7, "a transit device acts on telemetry without a tag", "transit/device.py",
           "Outcome.TELEMETRY_UNAUTHENTICATED if policy.authenticated else _read_telemetry(present)",
           "_read_telemetry(present)"),
    Mutant(7, "a transit device acts on telemetry that its tag leaves out", "transit/device.py",
           "covered = _select_telemetry(verdict.options)", "covered = _select_telemetry(_options(packet))"),
    Mutant(7, "a transit device uses a key of another VNI", "geneve/security/transit.py",
           "if association.vni != header.vni:", "if False:"),
    Mutant(9, "a key of one VNI works in another", "nve/dataplane.py",
           "or association.vni != opened.header.vni", ""),
    Mutant(9, "any inner source passes", "nve/dataplane.py",
           "not network.authorises(association.sender, inner)", "False"),
    Mutant(9, "the inner IP source is not checked", "nve/tables.py",
           "return known is not None and known[1] == nve", "return True"),
    Mutant(9, "what cannot be read passes", "nve/tables.py", "return inner.readable and all(", "return all("),
    Mutant(9, "what ARP and neighbour discovery claim is not checked", "nve/tables.py",
           "for mac, ip in inner.claims)", "for mac, ip in inner.claims[:1])"),
    Mutant(4, "a node takes another sender's key", "nve/dataplane.py",
           "if association.sender != self.name:", "if False:"),
    Mutant(10, "a changed outer ECN field breaks the packet", "nve/dataplane.py",
           "applied.opener.open(packet.payload, packet.source)",
           "applied.opener.open(packet.payload, packet.source if not packet.traffic_class else b'')"),
)  # fmt: skip


def survives(mutant: Mutant) -> bool:
    """Return whether the tests pass although ``mutant`` is in the source."""
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "copy"
        ignored = shutil.ignore_patterns(".venv", ".git", "results", ".*_cache", "__pycache__")
        shutil.copytree(ROOT, copy, ignore=ignored)
        path = copy / mutant.file
        text = path.read_text(encoding="utf-8")
        if text.count(mutant.old) < 1:
            raise SystemExit(f"{mutant.file}: no longer contains {mutant.old!r}; update the mutant.")
        path.write_text(text.replace(mutant.old, mutant.new), encoding="utf-8")
        run = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", *TESTS]
        return subprocess.run(run, cwd=copy, capture_output=True, check=False).returncode == 0


def main() -> int:
    """Try every mutant; 1 if one survives."""
    survivors = 0
    for mutant in MUTANTS:
        alive = survives(mutant)
        survivors += alive
        print(f"{'SURVIVES' if alive else 'noticed '}  invariant {mutant.invariant:2}: {mutant.what}", flush=True)
    print(f"{len(MUTANTS)} mutants, {survivors} survive")
    return 1 if survivors else 0


if __name__ == "__main__":
    sys.exit(main())
