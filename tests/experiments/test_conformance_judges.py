"""The judges of the probes under every mechanism: what the same statements say of captures that differ in it only."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from experiments.conformance.configurations import scenario_of
from experiments.conformance.verdicts import Trial
from experiments.mechanism.evidence import FACTS, Evidence
from experiments.mechanism.probe import WHOLE, Probe, Weight
from experiments.mechanism.probes import PROBES, patterns
from experiments.mechanism.probes.common import INNER_HEADERS, own
from experiments.traffic import build_message
from geneve.option import Option
from tests.experiments.channel_packets import KINDS, OPAQUE, SPI, geneve, protected
from tests.support import udp_frame

ADDRESSES = {"nve1": "192.168.1.1", "nve2": "192.168.1.2"}
OPTIONS = (Option(0x0102, 0x11, b"SECRET-ONE!!"), Option(0x0102, 0x12, b"PUBLIC-TWO!!"))
READABLE = [kind for kind in KINDS if kind not in OPAQUE]
START = 1_800_000_000.0


def probe(name: str, requirement: int) -> Probe:
    return next(entry for entry in PROBES if (entry.name, entry.requirement) == (name, requirement))


def messages(sizes: Iterable[int]) -> list[bytes]:
    return [build_message("x", 0, number, size) for number, size in enumerate(sizes)]


def write_capture(path: Path, frames: Sequence[tuple[float, bytes]]) -> None:
    parts = [struct.pack("<IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, 65535, 1)]
    for when, frame in frames:
        parts.append(struct.pack("<IIII", int(when), round(when % 1 * 1e6), len(frame), len(frame)) + frame)
    path.write_bytes(b"".join(parts))


def evidence(
    folder: Path, frames: Sequence[tuple[float, bytes]], logs: dict[str, list[tuple[float, bytes]]],
    facts: dict[str, Any] | None = None, stats: dict[str, Any] | None = None,
    associations: Sequence[dict[str, Any]] = (), hosts: Sequence[str] = (), addresses: dict[str, str] = ADDRESSES,
) -> Evidence:  # fmt: skip
    """Write what a probe of VNI 100 would have left, and read it back."""
    write_capture(folder / "probe.pcap", frames)
    for name, lines in logs.items():
        texts = [json.dumps({"time_ns": int(when * 1e9), "payload": payload.hex()}) for when, payload in lines]
        (folder / f"{name}.jsonl").write_text("".join(text + "\n" for text in texts))
    names = hosts or sorted({name.partition("-")[2] for name in logs})
    given, nodes = stats or {}, (*addresses, "t1", "t2")
    after = {node: {"counters": {}, "drops": {}, **given.get(node, {})} for node in nodes}
    document = {
        "capture": "probe.pcap", "vni": 100, "profile": None, "label": "x", "associations": list(associations),
        "replaced": [], "addresses": addresses, "facts": facts or {}, "hosts": {name: name for name in names},
        "stats": {"before": {node: {"counters": dict.fromkeys(entry["counters"], 0)} for node, entry in after.items()},
                  "after": after},
    }  # fmt: skip
    (folder / FACTS).write_text(json.dumps(document))
    return Evidence.read(folder, folder)


def timed(payloads: list[bytes], start: float = START) -> list[tuple[float, bytes]]:
    return [(start + 0.01 * number, payload) for number, payload in enumerate(payloads)]


def carried(
    kind: str, payloads: list[tuple[float, bytes]], options: tuple[Option, ...] = (), pad: Callable[[int], int] = int,
    source: str = ADDRESSES["nve1"], destination: str = ADDRESSES["nve2"],
) -> list[tuple[float, bytes]]:  # fmt: skip
    """The frames of the underlay that messages travel in, a millisecond after they were sent."""
    frames = []
    for number, (when, payload) in enumerate(payloads, 1):
        frame = udp_frame(data=payload)
        padded = frame + bytes(pad(len(frame)) - len(frame))
        frames.append((when + 0.001, protected(kind, geneve(padded, 100, options), number, source, destination)))
    return frames


def tried(name: str, requirement: int, found: Evidence) -> Trial:
    entry = probe(name, requirement)
    return Trial(name, "some", tuple(entry.judge(found)))


def burst(folder: Path, kind: str, prefix: str, sizes: Sequence[int], **more: Any) -> Evidence:
    sent = timed(messages(sizes))
    frames = carried(kind, sent, more.pop("options", ()), more.pop("pad", int))
    return evidence(folder, frames, {f"sent-{prefix}1": sent, f"received-{prefix}2": sent}, **more)


# --- whose packets -----------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_a_tenants_packets_of_one_size_are_found_under_every_mechanism(tmp_path, kind):
    first, second = timed(messages([300] * 4)), timed(messages([310] * 3), START + 1)
    frames = carried(kind, first) + carried(kind, second)
    found = evidence(tmp_path, frames, {"sent-a1": first + second})
    assert [seen.number for seen in own(found, "nve1", 310 + INNER_HEADERS)] == [5, 6, 7]
    assert len(own(found, "nve1")) == 7
    assert own(found, "nve2") == []
    assert own(found, "nve1", 320 + INNER_HEADERS) == []


@pytest.mark.parametrize("kind", READABLE)
def test_where_it_can_be_read_another_vni_is_another_tenants(tmp_path, kind):
    sent = timed(messages([300] * 3))
    other = [(when, protected(kind, geneve(udp_frame(data=data), 101))) for when, data in sent]
    found = evidence(tmp_path, other, {"sent-a1": sent})
    assert own(found) == []


# --- SEC-GEN-1 to 5 ----------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_encryption_is_seen_by_what_can_be_read(tmp_path, kind):
    trial = tried("payload", 1, burst(tmp_path, kind, "pay", [300] * 8))
    assert trial.void == ""
    assert trial.parts() == {WHOLE: kind in OPAQUE}
    assert len(trial.findings[0].packets) == 8


@pytest.mark.parametrize("kind", KINDS)
def test_no_channel_encrypts_the_inner_headers_only(tmp_path, kind):
    trial = tried("headers", 2, burst(tmp_path, kind, "head", [300] * 8))
    assert trial.parts() == {WHOLE: False}
    assert [finding.holds for finding in trial.findings] == [kind in OPAQUE, kind not in OPAQUE, True]


@pytest.mark.parametrize("kind", KINDS)
def test_no_channel_encrypts_one_option_only(tmp_path, kind):
    stats = {"nve2": {"options": {"0x0102:0x11": {"count": 8}}}}
    found = burst(tmp_path, kind, "one", [300] * 8, options=OPTIONS, stats=stats)
    trial = tried("one-hidden", 3, found)
    assert [finding.holds for finding in trial.findings[:2]] == [kind in OPAQUE, kind not in OPAQUE]
    assert trial.parts() == {WHOLE: False}


@pytest.mark.parametrize("kind", KINDS)
def test_header_fields_are_hidden_all_or_none(tmp_path, kind):
    options = (Option(0x0102, 0x91, b"1234"),)
    some = tried("some-fields", 4, burst(tmp_path, kind, "vni", [300] * 8, options=options))
    assert some.parts() == {WHOLE: False}
    assert tried("all-fields", 4, burst(tmp_path, kind, "hid", [300] * 8)).parts() == {WHOLE: kind in OPAQUE}


@pytest.mark.parametrize("kind", KINDS)
def test_no_channel_shares_an_option_with_transit_devices(tmp_path, kind):
    found = burst(tmp_path, kind, "share", [300] * 8, options=OPTIONS)
    assert tried("shared", 5, found).parts() == {WHOLE: False}


# --- SEC-GEN-6 and 7 ---------------------------------------------------------------------------------

SIZES = [60, 100, 300, 700, 1000, 1200] * 3
LARGEST = 1416


def to_multiple(size: int) -> int:
    return -(-size // 128) * 128


def to_bucket(size: int) -> int:
    return next((bucket for bucket in (128, 512, 1024) if size <= bucket), LARGEST)


@pytest.mark.parametrize(
    ("name", "prefix", "pad", "other"),
    [
        ("multiple", "mul", to_multiple, to_bucket),
        ("buckets", "buck", to_bucket, to_multiple),
        ("buckets", "buck", lambda size: to_bucket(size + 8) - 8 if size < 1016 else LARGEST, to_multiple),
        ("mtu", "mtu", lambda _: LARGEST, to_bucket),
    ],
    ids=["multiple", "buckets of frames", "buckets of packets", "mtu"],
)
@pytest.mark.parametrize("kind", ["esp", "dtls"])
def test_padding_is_seen_by_the_sizes_of_ciphertexts(tmp_path, kind, name, prefix, pad, other):
    def judged(rule: Callable[[int], int]) -> bool:
        found = burst(tmp_path, kind, prefix, SIZES, pad=rule, facts={"largest": LARGEST})
        trial = tried(name, 6, found)
        assert trial.void == ""
        return trial.parts()[WHOLE]

    assert judged(pad)
    assert not judged(int)
    # Buckets happen to be multiples; whatever else there is must not pass for what was asked for.
    assert judged(other) == (name == "multiple" and {to_bucket(size + INNER_HEADERS) % 128 for size in SIZES} == {0})


@pytest.mark.parametrize("kind", KINDS)
def test_without_padding_nobody_is_believed_to_pad(tmp_path, kind):
    for name, prefix, sizes in (
        ("multiple", "mul", SIZES), ("buckets", "buck", SIZES), ("mtu", "mtu", SIZES), ("random", "rand", [200] * 30),
    ):  # fmt: skip
        found = burst(tmp_path, kind, prefix, sizes, facts={"largest": LARGEST})
        assert tried(name, 6, found).parts() == {WHOLE: False}, name


def dummy_evidence(folder: Path, kind: str, alike: bool) -> Evidence:
    """Two quiet seconds with a dummy every 20 ms, then two with data among them."""
    sent = timed(messages([900] * 40), START + 2)
    frames = carried(kind, sent, pad=lambda _: LARGEST)
    quiet = [(START + 0.02 * number, b"dummy") for number in range(100)]
    frames += carried(kind, quiet, pad=(lambda _: LARGEST) if alike else int)
    facts = {"begin": START, "middle": START + 2, "end": START + 4, "received while idle": 0}
    stats = {"nve2": {"counters": {"dummies_received": 100}}}
    logs = {"sent-cons1": sent, "received-cons2": sent}
    return evidence(folder, sorted(frames), logs, facts, stats)


def test_dummies_of_esp_look_like_data_or_not(tmp_path):
    assert tried("constant", 7, dummy_evidence(tmp_path, "esp", True)).parts() == {WHOLE: True}
    assert tried("constant", 7, dummy_evidence(tmp_path, "esp", False)).parts() == {WHOLE: False}


@pytest.mark.parametrize(("kind", "told"), [("esp-udp", True), ("none", True), ("esp", False)])
def test_another_source_port_tells_dummies_from_data(tmp_path, kind, told):
    found = dummy_evidence(tmp_path, kind, True)
    assert patterns._clear_fields(found.packets[0]) == patterns._clear_fields(found.packets[-1])
    raw = found.packets[0].raw
    port = raw[:34] + bytes([raw[34] ^ 1]) + raw[35:]
    other = patterns._clear_fields(replace(found.packets[0], raw=port))
    assert (other != patterns._clear_fields(found.packets[0])) == told


def test_fields_are_in_clear_as_an_ingress_sets_them(tmp_path):
    def statement(options: tuple[Option, ...]) -> bool:
        found = burst(tmp_path, "none", "vni", [300] * 8, options=options)
        return tried("some-fields", 4, found).findings[1].holds

    assert statement(())
    assert statement((Option(0x0102, 0x91, b"1234"),))


# --- SEC-GEN-8 to 14 ---------------------------------------------------------------------------------


def modified(folder: Path, kind: str, delivered: int) -> Evidence:
    attacked, after = messages([300] * 8), messages([310] * 8)
    changed = [payload[:-8] + b"changed!" for payload in attacked[:delivered]]
    sent = timed(attacked + after)
    logs = {"sent-pay1": sent, "received-pay2": timed(changed + after)}
    return evidence(folder, carried(kind, sent), logs, {"seen": 8})


@pytest.mark.parametrize("kind", KINDS)
def test_a_changed_payload_that_is_delivered_is_not_authenticated(tmp_path, kind):
    refused, passed = (tried("payload", 8, modified(tmp_path, kind, delivered)) for delivered in (0, 8))
    # The probe asks for authentication that does not encrypt: a channel shows it with its NULL cipher.
    assert refused.parts() == {WHOLE: kind not in OPAQUE}
    assert passed.parts() == {WHOLE: False}


def flipped(folder: Path, passing: Sequence[str], unchanged: int = 8) -> Evidence:
    sizes = {"reserved": 300, "critical": 310, "vni": 320}
    payloads = {name: messages([size] * 8) for name, size in sizes.items()}
    alone = messages([305] * 8)
    back = [payload for name in passing for payload in payloads[name]] + alone[:unchanged]
    sent = timed([p for group in payloads.values() for p in group] + alone)
    facts = {"sizes": {**sizes, **{f"{name} seen": 8 for name in sizes}}, "unchanged": [305]}
    return evidence(folder, carried("none", sent), {"sent-field1": sent, "received-field2": timed(back)}, facts)


def test_authenticating_the_whole_header_is_the_first_half(tmp_path):
    first, chosen = "fields authenticated", "fields chosen"
    assert tried("fields", 11, flipped(tmp_path, [])).parts() == {first: True, chosen: False}
    assert tried("fields", 11, flipped(tmp_path, ["reserved"])).parts() == {first: True, chosen: True}
    assert tried("fields", 11, flipped(tmp_path, [])).void == ""
    dead = tried("fields", 11, flipped(tmp_path, [], unchanged=0))
    assert "unchanged ones are delivered: it does not (0 of 8)" in dead.void
    unprotected = flipped(tmp_path, ["reserved", "critical", "vni"])
    assert tried("fields", 11, unprotected).parts() == {first: False, chosen: False}


def replayed(folder: Path, kind: str, twice: bool, exported: int, copies: int = 8) -> Evidence:
    sent = timed(messages([300] * 8))
    # DTLS is OpenSSL's, which does not say how many records it refused.
    stats = {"nve1": {"drops": {"replayed": 0 if twice or kind.startswith("dtls") else 8}},
             "t1": {"counters": {"exported": exported}}}  # fmt: skip
    logs = {"sent-full2": sent, "received-full1": sent * (2 if twice else 1)}
    frames = carried(kind, sent, source=ADDRESSES["nve2"], destination=ADDRESSES["nve1"])
    return evidence(folder, frames + frames[:copies], logs, {"repeated": 8}, stats)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "none"])
def test_under_a_channel_transit_devices_have_nothing_to_refuse(tmp_path, kind):
    assert tried("replay", 14, replayed(tmp_path, kind, False, 0)).parts() == {WHOLE: True}
    assert tried("replay", 14, replayed(tmp_path, kind, True, 0)).parts() == {WHOLE: False}
    assert tried("replay", 14, replayed(tmp_path, kind, False, 1)).parts() == {WHOLE: False}
    # Copies that eve says she sent and that did not pass prove nothing.
    assert tried("replay", 14, replayed(tmp_path, kind, False, 0, 7)).parts() == {WHOLE: False}


def test_without_a_channel_transit_devices_have_to_refuse_what_is_repeated(tmp_path):
    assert tried("replay", 14, replayed(tmp_path, "none", False, 0)).parts() == {WHOLE: False}


# --- SEC-GEN-15 to 17 --------------------------------------------------------------------------------


def association(sender: str, audience: str, spi: int = SPI, role: str = "egress") -> dict[str, Any]:
    return {"spi": spi, "role": role, "vni": None, "sender": sender, "audience": audience, "profile": "esp"}


THREE = {**ADDRESSES, "nve3": "192.168.1.3"}
TUNNELS = {201: ("nve1", "nve2"), 202: ("nve2", "nve1"), 203: ("nve1", "nve3"), 240: ("nve1", "nve2")}


def paired(
    folder: Path, kind: str, spis: dict[tuple[str, str], int], named: Sequence[tuple[str, str]], believed: int = 0,
    held: Sequence[str] = ("nve2", "nve3"),
) -> dict[str, bool]:  # fmt: skip
    """Judge packets of three tunnels, and copies of a fourth burst that eve brought to nve3."""
    frames, logs = [], {"sent-paira1": [], "sent-paira2": [], "received-paira3": []}
    for number, (size, tunnel) in enumerate(TUNNELS.items()):
        sent = timed(messages([size] * 5), START + number)
        ends = [THREE[node] for node in tunnel]
        for when, frame in carried(kind, sent, source=ends[0], destination=ends[1]):
            frames.append((when, frame.replace(SPI.to_bytes(4, "big"), spis[tunnel].to_bytes(4, "big"))))
        logs[f"sent-paira{tunnel[0][-1]}"] += sent
        if size == 240:
            logs["received-paira3"] = sent + sent[:believed]
    sessions = {node: {"established": True} for node in held}
    stats = {"nve1": {"mechanism": {"sessions": sessions}}, "nve3": {"drops": {"unknown_spi": 5 - believed}}}
    stats |= {node: {"mechanism": {"sessions": {"nve1": {"established": True}}}, **stats.get(node, {})}
              for node in ("nve2", "nve3")}  # fmt: skip
    keys = [association(*tunnel, spi=spis[tunnel]) for tunnel in named]
    found = evidence(folder, frames, logs, {"redirected": 5}, stats, keys, addresses=THREE)
    return tried("pairs", 16, found).parts()


DISTINCT = {("nve1", "nve2"): SPI, ("nve2", "nve1"): SPI + 1, ("nve1", "nve3"): SPI + 2}


def test_one_security_association_for_all_flows_is_no_policy(tmp_path):
    groups = [timed(messages([size] * 5), START + number) for number, size in enumerate((201, 202, 203, 204))]
    frames = [frame for group in groups for frame in carried("esp", group)]
    sent = [line for group in groups for line in group]
    found = evidence(tmp_path, frames, {"sent-flow1": sent}, associations=[association("nve1", "nve2")])
    trial = tried("flows", 15, found)
    assert trial.parts() == {WHOLE: False}
    assert all("5 packets, under esp" in finding.reason for finding in trial.of_weight(Weight.DEMANDED))
    assert trial.void == ""


@pytest.mark.parametrize("kind", ["esp", "esp-null", "ah"])
def test_pairs_of_nves_have_keys_of_their_own(tmp_path, kind):
    tunnels = list(DISTINCT)
    assert paired(tmp_path, kind, DISTINCT, tunnels) == {WHOLE: True}
    assert paired(tmp_path, kind, DISTINCT, tunnels[:2]) == {WHOLE: False}, "one is nobody's key"
    assert paired(tmp_path, kind, dict.fromkeys(tunnels, SPI), tunnels) == {WHOLE: False}, "one key for all"
    assert paired(tmp_path, kind, DISTINCT, tunnels, believed=1) == {WHOLE: False}


@pytest.mark.parametrize("kind", ["dtls", "dtls-null"])
def test_pairs_of_nves_have_sessions_of_their_own(tmp_path, kind):
    assert paired(tmp_path, kind, DISTINCT, []) == {WHOLE: True}
    assert paired(tmp_path, kind, DISTINCT, [], held=["nve2"]) == {WHOLE: False}
    assert paired(tmp_path, kind, DISTINCT, [], believed=1) == {WHOLE: False}


@pytest.mark.parametrize("kind", ["esp", "esp-null", "ah"])
def test_a_group_key_alone_proves_no_sender(tmp_path, kind):
    group = "239.60.81.1"
    sent, forged = timed(messages([301] * 10)), timed(messages([305] * 10), START + 1)
    to_group = [
        (when, protected(kind, geneve(udp_frame(data=data)), number, ADDRESSES["nve1"], group))
        for number, (when, data) in enumerate(sent)
    ]
    keys = [association(f"nve{n}", "group", SPI + n - 1, "multicast") for n in (1, 2, 3)]
    keys.append(association("nve1", "another", SPI + 9, "multicast"))
    to_another = carried(kind, timed(messages([309] * 10), START + 2), destination="239.60.81.2")

    def judged(believed: list[tuple[float, bytes]], refused: int, spi: int = SPI + 9) -> dict[str, bool]:
        old, new = SPI.to_bytes(4, "big"), spi.to_bytes(4, "big")
        frames = to_group + [(when, frame.replace(old, new)) for when, frame in to_another]
        logs = {"sent-sign1": sent, "received-sign2": sent + believed, "received-sign3": sent, "sent-sign3": []}
        stats = {"nve2": {"drops": {"authentication_failed": refused}}}
        facts = {"group": "group", "forged": 10, "forged from": START + 9}
        found = evidence(tmp_path, frames, logs, facts, stats, keys)
        return tried("group", 17, found).parts()

    assert judged(forged, 0) == {"group keys": True, "proof of the sender": False}
    assert judged([], 10) == {"group keys": True, "proof of the sender": True}
    assert judged([], 10, SPI) == {"group keys": False, "proof of the sender": True}


def test_copies_for_each_receiver_are_no_multicast(tmp_path):
    sent = timed(messages([301] * 10))
    frames = [frame for end in ("nve2", "nve3") for frame in carried("dtls", sent, destination=THREE[end])]
    logs = {"sent-sign1": sent, "received-sign2": sent, "received-sign3": sent}
    found = evidence(tmp_path, sorted(frames), logs, {"group": "", "forged": 0}, addresses=THREE)
    trial = tried("group", 17, found)
    assert trial.parts() == {"group keys": False, "proof of the sender": False}
    assert "20 unicast copies to 192.168.1.2 and 192.168.1.3" in trial.findings[0].reason
    assert len(trial.findings[0].packets) == 20


@pytest.mark.parametrize("entry", PROBES, ids=lambda entry: f"{entry.requirement}-{entry.name}")
def test_no_probe_is_satisfied_with_silence(tmp_path, entry):
    places = ("reserved", "critical", "vni", "payload", "one", "two")
    sizes = {name: 300 + 10 * number for number, name in enumerate(places)}
    facts: dict[str, Any] = dict.fromkeys(
        ("repeated", "seen", "ports", "number", "data", "forged", "redirected", "forged from", "begin", "middle",
         "received while idle"), 0,
    )  # fmt: skip
    facts |= {"sizes": {**sizes, **{f"{name} seen": 0 for name in sizes}}, "largest": LARGEST, "group": "group"}
    facts |= {"end": 1, "unchanged": [305]}
    facts["middle"] = {"t1": {"authentication_failed": 0, "exported": 0}}
    facts["middle"] = 0 if entry.requirement == 7 else {**facts["middle"], "t2": facts["middle"]["t1"]}
    hosts = list(scenario_of(entry.scenario).tenants[entry.tenant].hosts)
    counters = {"counters": {"authentication_failed": 0, "exported": 0}}
    addresses = {**ADDRESSES, "nve3": "192.168.1.3"}
    found = evidence(tmp_path, [], {}, facts, dict.fromkeys(("t1", "t2"), counters), hosts=hosts, addresses=addresses)
    trial = Trial(entry.name, "some", tuple(entry.judge(found)))
    assert not any(trial.parts().values())
    assert "it does not" in trial.void or not trial.of_weight(Weight.DEMANDED)
