"""Break each invariant of the mechanism in a copy of the source, and see that the tests notice.

Not a test of its own: ``make break-invariants`` (or ``python -m tests.break_invariants``) prints one line
per mutant and fails if one survives. Run it after changing the mechanism or its tests.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
TESTS = (
    "tests/geneve/test_mechanism.py", "tests/geneve/test_splices.py", "tests/geneve/test_signature.py",
    "tests/geneve/test_limiter.py", "tests/geneve/test_burst.py", "tests/geneve/test_tamper.py",
    "tests/geneve/test_vectors.py", "tests/nve", "tests/transit",
)  # fmt: skip
"""What is run for each: the quickest to notice first."""


@dataclass(frozen=True)
class Mutant:
    """One way to break an invariant: in ``file``, ``old`` becomes ``new``."""

    invariant: int
    what: str
    file: str
    old: str
    new: str


MUTANTS = (
    Mutant(1, "a tag covers no security option in front of it", "geneve/security/aad.py",
           "and span.start >= own.start", ""),
    Mutant(1, "an audience's own place among the options is not bound", "geneve/security/aad.py",
           "ROLE_CODES[role], place // 4, size)", "ROLE_CODES[role], 0, size)"),
    Mutant(1, "the NVE's option is sealed before the others", "geneve/security/seal.py",
           "return (*((self.group,) if self.group else ()), *self.transit, self.egress)",
           "return (self.egress, *((self.group,) if self.group else ()), *self.transit)"),
    Mutant(2, "the base header is not covered", "geneve/security/aad.py",
           "self._mask = fields_mask(shape.coverage.header)", "self._mask = 0"),
    Mutant(2, "options are not covered", "geneve/security/aad.py",
           "elif covers_option(shape.coverage, span, own):", "elif False:"),
    Mutant(2, "the length of the stream is not stated", "geneve/security/aad.py",
           "place // 4, size)", "place // 4, 0)"),
    Mutant(2, "the clear payload of a fully covered packet is not covered", "geneve/security/aad.py",
           "return covered + clear if clear else covered", "return covered"),
    Mutant(2, "the clear payload of a partly covered packet is not covered", "geneve/security/aad.py",
           "parts.append(clear)", "pass"),
    Mutant(2, "the role is not bound", "geneve/security/aad.py", "ROLE_CODES[role], place", "1, place"),
    Mutant(2, "what is encrypted in part leaves the rest uncovered", "geneve/security/unseal.py",
           "rest if covered else None, rest,", "None, rest,"),
    Mutant(3, "the payload may be bound without the VNI", "geneve/control/profile.py",
           "not self.header >= BINDING_FIELDS", "False"),
    Mutant(4, "numbers repeat", "geneve/security/association.py", "self.last_sequence += count",
           "self.last_sequence = count"),
    Mutant(4, "a burst uses up one number only", "geneve/security/association.py", "self.last_sequence += count",
           "self.last_sequence += 1"),
    Mutant(4, "no hard limit", "geneve/security/association.py", "if self.last_sequence + count > self.hard_limit:",
           "if False:"),
    Mutant(4, "a repeated push restarts an association", "geneve/security/store.py",
           "prepared[spi] = held", "prepared[spi] = self._hold(association, profile, now)"),
    Mutant(4, "a withdrawn association comes back", "geneve/security/store.py", "if spi in self._retired:",
           "if False:"),
    Mutant(4, "a restart begins again", "nve/sequence_file.py", "end.resume(start[end.spi],", "end.resume(0,"),
    Mutant(4, "both directions share a key", "geneve/security/keys.py",
           "            association.sender.encode(),\n", ""),
    Mutant(4, "all flows share a key", "geneve/security/keys.py", "        context += _part(flow_id)", "        pass"),
    Mutant(4, "flow ids repeat", "geneve/security/association.py", "self._last_flow += 1", "self._last_flow = 1"),
    Mutant(4, "a node takes another sender's key", "nve/dataplane.py",
           "if association.sender != self.name:", "if False:"),
    Mutant(5, "the window moves before the tag verified", "geneve/security/open.py",
           "        unsealed = unseal(association, place, packet)\n",
           "        association.window.commit(number)\n        unsealed = unseal(association, place, packet)\n"),
    Mutant(5, "no tag is too many", "geneve/security/association.py", "not self.limiter.allows(number, now)", "False"),
    Mutant(5, "a flood makes plausible packets be refused", "geneve/security/limiter.py",
           "number - highest <= PLAUSIBLE_AHEAD or not highest", "not highest"),
    Mutant(5, "a receiver that was started anew refuses", "geneve/security/limiter.py",
           "number - highest <= PLAUSIBLE_AHEAD or not highest", "number - highest <= PLAUSIBLE_AHEAD"),
    Mutant(5, "failed tags of implausible packets cost nothing", "geneve/security/open.py",
           "            association.limiter.failed(number, now)\n", ""),
    Mutant(5, "the limiter is not asked about a burst", "geneve/security/unseal.py",
           "if sequences[-1] - association.window.highest > PLAUSIBLE_AHEAD:", "if False:"),
    Mutant(5, "the window never moves", "geneve/security/open.py", "            association.window.commit(number)",
           "            pass"),
    Mutant(5, "the window of a packet with hidden parts never moves", "geneve/security/open.py",
           "end.window.commit(end_number)", "pass"),
    Mutant(5, "the tag is not checked", "geneve/security/unseal.py", "    except InvalidTag:\n        return None",
           '    except InvalidTag:\n        return b"", packet[place.payload :]'),
    Mutant(5, "the window of a burst never moves", "geneve/security/open.py",
           "association.window.commit_all(sequences)", "pass"),
    Mutant(5, "the window moves for forged packets of a burst", "geneve/security/open.py",
           "        if refused:\n            sequences =", "        if False:\n            sequences ="),
    Mutant(5, "a burst is not looked up in the window", "geneve/security/unseal.py",
           "if not association.window.all_ahead(sequences):", "if False:"),
    Mutant(5, "a window takes a burst for new that is not", "geneve/security/replay.py",
           "if first <= self.highest:", "if False:"),
    Mutant(5, "the tags of a burst are not checked", "geneve/security/association.py",
           "                refused.append(len(plaintexts))\n", ""),
    Mutant(5, "a burst is taken for what its first packet is", "geneve/security/layout.py",
           "if head.count(head[0]) != len(head):", "if False:"),
    Mutant(5, "a burst may come from anywhere", "geneve/security/open.py",
           " or entry.association.sender_address != source:\n            return False",
           ":\n            return False"),
    Mutant(5, "a stranger's layout is remembered", "geneve/security/open.py",
           "            layout = found\n",
           "            layout = found\n            self._layouts.remember(packet, found)\n"),
    Mutant(6, "a frame is cut where the tenant says, whatever stands there", "nve/segmentation.py",
           " or not _agrees(header, inner)", ""),
    Mutant(6, "frames of two DSCPs are one flow", "nve/flows.py",
           "frame[:16] + frame[20:24]", "frame[:15] + frame[20:24]"),
    Mutant(6, "a flow's sender need not be known", "nve/encapsulation.py",
           " and (flow.claims is None or flow.claims in self._presence.known)", ""),
    Mutant(6, "an unprotected packet passes", "nve/admission.py", "return DropReason.UNPROTECTED", "return None"),
    Mutant(6, "any profile passes", "nve/admission.py", "association.profile != profile.name", "False"),
    Mutant(6, "any rule's key passes", "nve/admission.py", "association.rule != decision.rule", "False"),
    Mutant(6, "the group's option may be stripped", "geneve/security/open.py",
           "        if span is None:\n            return DropReason.POLICY_MISMATCH",
           '        if span is None:\n            return entry.association, 0, (), packet[layout.end :]'),
    Mutant(6, "an association outlives its lifetime", "geneve/security/store.py",
           "if held.until <= now and not held.expired", "if False"),
    Mutant(6, "a repeated push prolongs a lifetime", "geneve/security/store.py",
           "prepared[spi] = held", "prepared[spi] = Held(association, profile, held.end, now + 100)"),
    Mutant(6, "one expired association leaves the rest of a packet", "nve/sealers.py",
           "if self._expired and not self._expired.isdisjoint(devices):", "if False:"),
    Mutant(6, "what waited for keys leaves under the policy of before", "nve/dataplane.py",
           "if applied.policy is not before.policy:", "if False:"),
    Mutant(6, "what waited for keys goes where its receiver was", "nve/dataplane.py",
           "key in applied.targets or key[0] not in same", "key in applied.targets"),
    Mutant(6, "a missing key sends in clear", "nve/encapsulation.py",
           "reason = self._wait(wanted, network, frames, work, now, peer if flood else None) or reason\n"
           "                    continue",
           "pass"),
    Mutant(7, "a transit device's window never moves", "geneve/security/transit.py",
           "        step.association.window.commit(number)", "        pass"),
    Mutant(7, "a transit device's window does not move for a burst", "geneve/security/transit.py",
           "        window.commit_all(numbers[: len(done)])\n", ""),
    Mutant(7, "a bad tag in a burst is not noticed", "geneve/security/transit.py",
           "return len(done)", "return count"),
    Mutant(7, "what does not fit a plan is verified by it all the same", "geneve/security/transit.py",
           "if (packets[:, : self._end] & self._mask).tobytes() != self._expected * count:", "if False:"),
    Mutant(7, "a repetition in a burst is not noticed", "geneve/security/transit.py",
           "if not window.all_ahead(numbers):", "if False:"),
    Mutant(7, "a device drops a whole frame for one of its packets", "transit/forwarder.py",
           "wanted = [index for index, decision in enumerate(decisions) if decision.forward]", "wanted = []"),
    Mutant(7, "a transit device acts on a bad tag", "geneve/security/transit.py",
           "        if sealed is None:\n            return DropReason.AUTHENTICATION_FAILED",
           '        if sealed is None:\n            sealed = b""'),
    Mutant(7, "a transit device acts on telemetry without a tag", "transit/device.py",
           "return () if proof is None else proof.spans",
           "return find_options(packet) if proof is None else proof.spans"),
    Mutant(7, "a transit device acts on telemetry that its tag leaves out", "transit/device.py",
           "return () if proof is None else proof.spans", "return () if proof is None else find_options(packet)"),
    Mutant(7, "a transit device uses a key of another VNI", "geneve/security/transit.py",
           "    if len(bound) > 1:\n        return DropReason.POLICY_MISMATCH", "    pass"),
    Mutant(7, "an option for t1 goes out in clear where t1 is not on the path", "geneve/security/carriage.py",
           "never_clear = hidden_kinds(profile)",
           "never_clear = frozenset().union(*({(i.option_class, i.type) for i in "
           "make_shape(profile, *audience).coverage.hidden_options} for audience in audiences))"),
    Mutant(8, "any member's signature passes", "geneve/security/signature.py",
           "    except InvalidSignature:\n            return False",
           "    except InvalidSignature:\n            return True"),
    Mutant(8, "a packet without a signature passes", "geneve/security/open.py",
           "if entry.signature is not None and not _proves_source(entry, packet):", "if False:"),
    Mutant(8, "a root is remembered whoever signed it", "geneve/security/signature.py",
           "        if not self._signed(signature, message):\n            return False\n", ""),
    Mutant(8, "the signature option has free bits", "geneve/security/open.py",
           "if packet[span.start + OPTION_HEADER_SIZE - 1] >> 5:", "if False:"),
    Mutant(8, "anybody may send to a group", "nve/admission.py",
           "and association.sender in group.senders", ""),
    Mutant(8, "what belongs to a group may come to each member alone", "nve/admission.py",
           "        return group is None", "        return True"),
    Mutant(9, "a key of one VNI works in another", "nve/admission.py",
           " or association.vni not in (None, opened.header.vni)", ""),
    Mutant(9, "any inner source passes", "nve/admission.py",
           "None if network.authorises(association.sender, inner) else DropReason.UNAUTHORISED_SOURCE", "None"),
    Mutant(9, "the inner IP source is not checked", "nve/tables.py",
           "return known is not None and known[1] == nve", "return True"),
    Mutant(9, "what cannot be read passes", "nve/tables.py", "return inner.readable and all(", "return all("),
    Mutant(9, "what ARP and neighbour discovery claim is not checked", "nve/tables.py",
           "for mac, ip in inner.claims)", "for mac, ip in inner.claims[:1])"),
    Mutant(10, "a changed outer ECN field breaks the packet", "nve/decapsulation.py",
           "opener.open_burst(packet.payload, size, packet.source, now)",
           "opener.open_burst(packet.payload, size, packet.source if not packet.traffic_class else b'', now)"),
    Mutant(2, "IPsec: which kind of numbers is not bound", "nve/ipsec/keys.py",
           'b"esn" if channel.extended_sequence_numbers else b"",', 'b"",'),
    Mutant(2, "AH: a router's change breaks the packet", "nve/ipsec/ah.py",
           "return _IPV4.pack(first, 0, size,", "return _IPV4.pack(first, packet[1], size,"),
    Mutant(2, "AH: the addresses are not covered", "nve/ipsec/ah.py",
           "return _IPV6.pack(6 << 28, size, protocol, 0, both)", "return _IPV6.pack(6 << 28, size, protocol, 0, b'')"),
    Mutant(4, "IPsec: short numbers cycle", "nve/ipsec/sa.py",
           "self.hard_limit = min(self.hard_limit, MAX_SHORT)", "pass"),
    Mutant(4, "IPsec: both directions share a key", "nve/ipsec/keys.py",
           "            association.sender.encode(),\n", ""),
    Mutant(5, "IPsec: the window moves before the ICV verified", "nve/ipsec/opener.py",
           "    text = end.codec.open(packet, number)\n",
           "    end.window.commit(number)\n    text = end.codec.open(packet, number)\n"),
    Mutant(5, "IPsec: the window moves for all of a burst", "nve/ipsec/opener.py",
           "for index, number in enumerate(numbers) if index not in bad])", "for number in numbers])"),
    Mutant(5, "IPsec: in a burst numbers repeat", "nve/ipsec/opener.py", "not window.all_ahead(numbers) or ", ""),
    Mutant(5, "IPsec: no ICV is too many", "nve/ipsec/opener.py", "        end.limiter.failed(number, now)\n", ""),
    Mutant(5, "IPsec: in a burst what is far ahead is not limited", "nve/ipsec/opener.py",
           " or numbers[-1] - window.highest > PLAUSIBLE_AHEAD", ""),
    Mutant(5, "IPsec: any ICV passes", "nve/ipsec/icv.py",
           'if hmac.compare_digest(b"".join(expected), b"".join(received)):', "if True:"),
    Mutant(5, "IPsec: late packets are taken for those after the wrap", "nve/ipsec/sa.py",
           "lowest = max(highest - size + 1, 0)", "lowest = highest"),
    Mutant(5, "ESP: padding is not looked at", "nve/ipsec/esp.py",
           "if end < 0 or text[end:-TRAILER_SIZE] != _PADDING[:pad]:", "if end < 0:"),
    Mutant(5, "ESP: in a burst the first trailer speaks for all", "nve/ipsec/esp.py",
           "if not all(map(bytes.endswith, texts, repeat(behind))):", "if False:"),
    Mutant(8, "IPsec: any outer source passes", "nve/ipsec/opener.py",
           "return end if end.sender_address == source else DropReason.SOURCE_MISMATCH", "return end"),
    Mutant(8, "AH: a packet may say another source than it came from", "nve/ipsec/opener.py",
           "if found.source != source:", "if False:"),
    Mutant(9, "IPsec: what is carried may be for another port", "nve/ipsec/opener.py",
           "if port != GENEVE_PORT:", "if False:"),
    Mutant(9, "IPsec: in a burst what is carried may be for another port", "nve/ipsec/opener.py",
           "wanted = _PORT +", "wanted = payloads[0][2:4] +"),
    Mutant(2, "AH: what was put in front of it on the path is not seen", "nve/raw_underlay.py",
           "extended |= kind in _TOLD", "pass"),
    Mutant(2, "AH: where more was put in than fits it is not seen", "nve/raw_underlay.py",
           " or flags & socket.MSG_CTRUNC", ""),
    Mutant(4, "kernel: a state is made anew under the same key", "nve/ipsec/installed.py",
           "key in self._spent or (held is not None and held != sa)", "False"),
    Mutant(4, "kernel: a state that went comes back", "nve/ipsec/installed.py", "key in self._spent or ", ""),
    Mutant(4, "kernel: keys of a file are used again after a start", "nve/config.py",
           'self.ipsec != "user-space" and held', "False"),
    Mutant(6, "kernel: what blocks lets pass", "nve/ipsec/xfrm.py", "action block", "action allow"),
    Mutant(6, "kernel: what blocks comes before pairs' policies", "nve/ipsec/xfrm.py",
           "PAIR_PRIORITY, BLOCK_PRIORITY = 1, 2", "PAIR_PRIORITY, BLOCK_PRIORITY = 2, 1"),
    Mutant(6, "kernel: what comes in is not blocked", "nve/ipsec/xfrm.py",
           'for way in ("out", "in")]', 'for way in ("out",)]'),
    Mutant(6, "kernel: policies are for Geneve's own port", "nve/ipsec/kernel.py",
           "self._installed = Installed(address, port, run)", "self._installed = Installed(address, 6081, run)"),
    Mutant(6, "kernel: pairs' policies are for Geneve's own port", "nve/ipsec/kernel.py",
           "far, True, self._port)", "far, True)"),
    Mutant(6, "kernel: a socket is bound before anything blocks", "nve/mechanism.py",
           "        kernel.begin()\n", "        pass\n"),
    Mutant(6, "kernel: what blocks goes first", "nve/ipsec/installed.py",
           "        for key in list(self._states):\n",
           "        for line in xfrm.unblock_lines(self._address, self._port):\n            self._run(line)\n"
           "        for key in list(self._states):\n"),
    Mutant(6, "kernel: one SPI in both directions is one association", "nve/ipsec/kernel.py",
           "wanted[False, into.spi]", "wanted[True, into.spi]"),
    Mutant(6, "kernel: an NVE without its port unblocks that of another", "nve/ipsec/installed.py",
           "if not self._owned:\n            return", "if False:\n            return"),
    Mutant(6, "kernel: a key that has gone and was not deleted still opens", "nve/ipsec/kernel.py",
           "end is None or source in self._stuck", "end is None"),
    Mutant(6, "kernel: a key that has gone and was not deleted still seals", "nve/ipsec/kernel.py",
           "not count or self._destination in self._stuck", "not count"),
    Mutant(8, "kernel: a peer may send in another's name", "nve/ipsec/xfrm.py", ', f"sel {sa.selector}"]', "]"),
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


def main(words: Sequence[str] = ()) -> int:
    """Try every mutant, or those with one of ``words`` in file or description; 1 if one survives."""
    survivors = 0
    chosen = [m for m in MUTANTS if not words or any(word in f"{m.file} {m.what}" for word in words)]
    for mutant in chosen:
        alive = survives(mutant)
        survivors += alive
        print(f"{'SURVIVES' if alive else 'noticed '}  invariant {mutant.invariant:2}: {mutant.what}", flush=True)
    print(f"{len(chosen)} mutants, {survivors} survive")
    return 1 if survivors else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
