"""Captures as other networks make them: verdicts, findings with the right packets, and what is not claimed."""

from __future__ import annotations

import json
import random
import struct
from pathlib import Path

import pytest

from experiments.audit.capture_audit import audit_capture
from experiments.audit.classes import class_name, option_name
from experiments.audit.result import LEVELS, AuditResult, Risk, Verdict, make_judgement, worst
from geneve.control.profile import Coverage, Dummies, DummyMode, InnerCoverage, Padding, PaddingMode, Profile
from geneve.header import HeaderField
from tests.experiments.audit import captures
from tests.experiments.audit.captures import DESTINATION, SOURCE, geneve, ip_frame, outer, pcap, tcp_frame
from tests.experiments.audit.test_observer import ip_in

MET, NOT_MET, IN_PART = Verdict.MET, Verdict.NOT_MET, Verdict.IN_PART
UNKNOWN, NOT_APPLICABLE = Verdict.UNKNOWN, Verdict.NOT_APPLICABLE


def audit(tmp_path: Path, frames: list[captures.Timed], **more: int) -> AuditResult:
    path = tmp_path / "a.pcap"
    path.write_bytes(pcap(frames, **more))  # type: ignore[arg-type]
    return audit_capture(path)


def verdicts(result: AuditResult) -> list[Verdict]:
    return [judgement.verdict for judgement in result.judgements]


def timed(*frames: bytes) -> list[captures.Timed]:
    return [(captures.START + n * 0.01, frame) for n, frame in enumerate(frames)]


def test_ovn_is_open(tmp_path: Path) -> None:
    result = audit(tmp_path, captures.ovn())
    assert verdicts(result) == [
        NOT_MET, UNKNOWN, UNKNOWN, NOT_MET, UNKNOWN, NOT_MET, NOT_MET, UNKNOWN, UNKNOWN, NOT_APPLICABLE,
    ]  # fmt: skip
    names = {finding.name: finding for finding in result.findings}
    assert names["payload-in-clear"].count == 130
    assert names["payload-secured-by-tenant"].count == 50
    assert names["payload-secured-by-tenant"].packets == (1, 5, 9, 13, 17)
    assert names["control-in-clear"].packets == (10, 20, 30, 40, 50)
    assert names["oam-bit-unprotected"].count == 20
    option = names["option-in-clear 0x0102:0x80"]
    assert "OVN" in option.text
    assert "3 different" in option.text
    assert names["unauthenticated"].risk is Risk.HIGH
    risks = [tuple(Risk).index(finding.risk) for finding in result.findings]
    assert risks == sorted(risks)
    assert all(finding.action and finding.text.endswith(".") for finding in result.findings)


def test_cilium_and_gwlb_are_named(tmp_path: Path) -> None:
    result = audit(tmp_path, captures.cilium())
    assert result.finding("option-in-clear 0x014b:0x81") is not None
    assert {row["vni"] for row in result.inventory["vnis"]} == {"20000", "20001", "20002", "20003"}
    result = audit(tmp_path, captures.gwlb())
    assert [row["owner"] for row in result.inventory["options"]] == ["Amazon"] * 3
    assert result.judgement("SEC-OP-1").verdict is IN_PART, "the tenant uses TLS, and headers are in clear"
    assert result.finding("payload-in-clear") is None


def test_classes_that_nobody_has_are_unknown() -> None:
    assert class_name(0x0102) == "OVN"
    assert class_name(0x014B) == "Cilium"
    assert class_name(0x0140) == "unknown"
    assert class_name(0xFF60) == "experimental use"
    assert option_name((0x0140, 1)) == "0x0140:0x01 (unknown)"


def test_our_own_packets_are_protected_and_what_cannot_be_known_is_not_claimed(tmp_path: Path) -> None:
    result = audit(tmp_path, captures.ours())
    assert verdicts(result) == [
        MET, UNKNOWN, UNKNOWN, MET, UNKNOWN, MET, UNKNOWN, MET, UNKNOWN, UNKNOWN,
    ]  # fmt: skip
    assert result.finding("unauthenticated") is None
    assert result.finding("sizes-tell VNI 100") is not None
    assert not [finding for finding in result.findings if finding.risk is Risk.HIGH]


def test_padding_and_a_hidden_vni_show(tmp_path: Path) -> None:
    hidden = Profile(
        name="hidden", hidden_header=frozenset({HeaderField.VNI, HeaderField.PROTOCOL_TYPE}),
        padding=Padding(mode=PaddingMode.BUCKETS, buckets=(512, 1400)), dummies=Dummies(mode=DummyMode.FILL, rate=10),
    )  # fmt: skip
    made = captures.ours(profile=hidden)
    result = audit(tmp_path, made)
    assert result.judgement("SEC-OP-2").verdict is MET
    assert result.judgement("SEC-OP-3").verdict is IN_PART, "that there are dummies cannot be seen"
    steady = [(captures.START + n * 0.1, frame) for n, (_, frame) in enumerate(made)]
    assert audit(tmp_path, steady).judgement("SEC-OP-3").verdict is MET
    beside = [(time + 100, frame) for time, frame in captures.ours(20, vni=200, seed=5, spi=1001)]
    shown = audit(tmp_path, made + beside).finding("vni-in-clear")
    assert shown is not None
    assert shown.count == 20
    assert "1 seen" in shown.text, "what stands where the VNI is hidden is none"


def test_authentication_without_encryption_and_headers_only(tmp_path: Path) -> None:
    clear = Profile(name="clear", egress=Coverage(encrypt_inner=InnerCoverage.NONE))
    result = audit(tmp_path, captures.ours(profile=clear))
    assert result.judgement("SEC-OP-1").verdict is NOT_MET
    assert result.judgement("SEC-OP-4").verdict is MET
    assert result.judgement("SEC-OP-6").verdict is MET
    headers = Profile(name="headers", egress=Coverage(encrypt_inner=InnerCoverage.HEADERS))
    result = audit(tmp_path, captures.ours(profile=headers))
    assert result.judgement("SEC-OP-1").verdict is IN_PART
    assert result.finding("only-headers-encrypted") is not None


def test_one_spi_for_two_vnis_shares_keys(tmp_path: Path) -> None:
    both = captures.ours(20) + [(time + 100, frame) for time, frame in captures.ours(20, vni=101, seed=5)]
    result = audit(tmp_path, both)
    assert result.judgement("SEC-OP-10").verdict is NOT_MET
    finding = result.finding("key-for-several-vnis")
    assert finding is not None
    assert finding.count == 40
    apart = captures.ours(20) + [(time + 100, frame) for time, frame in captures.ours(20, vni=101, seed=5, spi=1001)]
    assert audit(tmp_path, apart).judgement("SEC-OP-10").verdict is UNKNOWN


def test_ours_beside_plain_packets_is_met_in_part(tmp_path: Path) -> None:
    plain = timed(*[outer(geneve(100, ip_frame("10.0.0.1", "10.0.0.2", 9, b"words of a tenant"))) for _ in range(10)])
    result = audit(tmp_path, captures.ours(90) + plain)
    assert result.judgement("SEC-OP-1").verdict is IN_PART
    assert result.judgement("SEC-OP-6").verdict is IN_PART
    assert any("VNI 100 differ" in reason.text for reason in result.judgement("SEC-OP-9").reasons)


def esp(number: int, size: int = 600) -> bytes:
    noise = random.Random(number).randbytes(size + number % 7 * 41 + number % 5)
    return ip_in(50, struct.pack("!II", 0x1000, number) + noise)


def test_esp_alone(tmp_path: Path) -> None:
    result = audit(tmp_path, timed(*[esp(n) for n in range(1, 80)]))
    assert verdicts(result) == [MET, MET, UNKNOWN, MET, MET, MET, UNKNOWN, MET, UNKNOWN, IN_PART]
    (talk,) = result.inventory["talks"]
    assert (talk["source"], talk["destination"], talk["protection"], talk["packets"]) == (
        SOURCE, DESTINATION, "ESP", 79,
    )  # fmt: skip
    again = audit(tmp_path, timed(*[esp(n) for n in (1, 2, 3, 2)]))
    finding = again.finding("number-repeated")
    assert finding is not None
    assert finding.packets == (4,)
    assert again.judgement("SEC-OP-8").verdict is UNKNOWN


def test_the_counter_in_front_of_ciphertext_is_no_pattern(tmp_path: Path) -> None:
    """Small packets of AES-GCM: 8 bytes of IV, nearly all zero, before some 100 bytes that are encrypted."""
    frames = [
        ip_in(50, struct.pack("!IIQ", 9, n, n) + random.Random(n).randbytes(100)) for n in range(1, 60)
    ]  # fmt: skip
    assert audit(tmp_path, timed(*frames)).judgement("SEC-OP-1").verdict is MET
    clear = [ip_in(50, struct.pack("!II", 9, n) + b"words of another protocol in the clear " * 4) for n in range(1, 60)]
    assert audit(tmp_path, timed(*clear)).judgement("SEC-OP-1").verdict is UNKNOWN


def test_ah_authenticates_and_shows_everything(tmp_path: Path) -> None:
    inner = outer(geneve(7, tcp_frame("10.0.0.1", "10.0.0.2", 80, b"words in clear " * 30)))[34:]
    frames = [ip_in(51, b"\x11\x04\0\0" + struct.pack("!II", 9, n) + bytes(12) + inner) for n in range(1, 60)]
    result = audit(tmp_path, timed(*frames))
    assert result.judgement("SEC-OP-1").verdict is NOT_MET
    assert [result.judgement(f"SEC-OP-{n}").verdict for n in (4, 5, 6, 8)] == [MET, MET, MET, MET]
    assert result.judgement("SEC-OP-10").verdict is IN_PART
    assert result.finding("authenticated-in-clear") is not None


def test_multicast_without_protection(tmp_path: Path) -> None:
    packet = geneve(7, ip_frame("10.0.0.1", "224.0.0.5", 9, b"to all of them"))
    result = audit(tmp_path, timed(outer(packet, destination="239.1.1.1")))
    assert result.finding("multicast-unprotected") is not None


def test_a_capture_without_geneve_shows_nothing(tmp_path: Path) -> None:
    result = audit(tmp_path, timed(outer(b"hello", port=53)))
    assert verdicts(result) == [UNKNOWN] * 10
    assert audit(tmp_path, []).judgements[0].verdict is UNKNOWN


def test_damage_and_short_captures_are_findings(tmp_path: Path) -> None:
    path = tmp_path / "cut.pcap"
    path.write_bytes(pcap(captures.ovn(10))[:-5])
    finding = audit_capture(path).finding("damaged-file")
    assert finding is not None
    assert "frame 10" in finding.text
    assert "9 frames" in finding.text
    assert audit(tmp_path, captures.ovn(10), snaplen=100).finding("snaplen") is not None
    strange = audit(tmp_path, captures.ovn(3), linktype=147).finding("link-types")
    assert strange is not None
    assert "147" in strange.text


def test_the_json_is_plain_and_complete(tmp_path: Path) -> None:
    result = audit(tmp_path, captures.ovn())
    document = json.loads(json.dumps(result.as_dict()))
    assert set(document) == {"schema", "kind", "source", "requirements", "findings", "inventory"}
    assert [item["requirement"] for item in document["requirements"]] == list(LEVELS)
    assert set(document["requirements"][0]) == {"requirement", "level", "title", "verdict", "reasons"}
    assert set(document["findings"][0]) == {"name", "risk", "requirements", "text", "action", "count", "packets"}
    assert set(document["inventory"]) == {"file", "talks", "vnis", "options", "keys", "flows", "other"}
    assert sum(row["packets"] for row in document["inventory"]["vnis"]) == 200
    assert document["inventory"]["flows"][0]["payload"] == "clear"


def test_more_rows_than_are_shown_are_bound_together(tmp_path: Path) -> None:
    frames = [
        outer(geneve(n, ip_frame("10.0.0.1", "10.0.0.2", 9, b"x")), source=f"192.168.{n >> 8}.{n & 255}")
        for n in range(1, 700)
    ]
    result = audit(tmp_path, timed(*frames))
    for table in ("talks", "vnis"):
        rows = result.inventory[table]
        assert len(rows) == 51
        assert str(next(iter(rows[-1].values()))).startswith("others")
        assert sum(row["packets"] for row in rows) == 699
    assert result.finding("bounds") is not None


def test_the_worst_reason_decides() -> None:
    assert worst([MET, UNKNOWN]) is UNKNOWN
    assert worst([IN_PART, NOT_MET, MET]) is NOT_MET
    assert worst([NOT_APPLICABLE, MET]) is MET
    assert make_judgement("SEC-OP-1", []).verdict is NOT_APPLICABLE


@pytest.mark.parametrize("port", [6081, 7000])
def test_ports_are_the_callers_choice(tmp_path: Path, port: int) -> None:
    path = tmp_path / "a.pcap"
    path.write_bytes(pcap(timed(outer(geneve(1, bytes(60)), port=port))))
    assert audit_capture(path, ports=[7000]).inventory["file"]["geneve_packets"] == (port == 7000)


def inner_ip(protocol: int, data: bytes) -> bytes:
    """An inner Ethernet frame with IPv4 and ``protocol``."""
    frame = ip_in(protocol, data)
    return geneve(7, frame)


def test_a_tenants_ah_is_readable_and_its_ike_is_no_data(tmp_path: Path) -> None:
    ah = bytes([6, 4]) + bytes(2) + struct.pack("!II", 0x1001, 1) + bytes(12)
    readable = [outer(inner_ip(51, ah + b"words in clear " * 20)) for _ in range(20)]
    result = audit(tmp_path, timed(*readable))
    assert result.judgement("SEC-OP-1").verdict is NOT_MET
    assert result.judgement("SEC-OP-4").verdict is IN_PART, "the tenant authenticates it"
    finding = result.finding("payload-authenticated-by-tenant")
    assert finding is not None
    assert finding.risk is Risk.HIGH
    assert result.finding("payload-secured-by-tenant") is None

    frame = ip_frame("10.0.0.1", "10.0.0.2", 500, captures.ike(200), source_port=500)
    result = audit(tmp_path, timed(outer(geneve(7, frame))))
    assert result.judgement("SEC-OP-1").verdict is IN_PART
    assert result.finding("tenant-key-exchange") is not None
    assert result.finding("payload-secured-by-tenant") is None
