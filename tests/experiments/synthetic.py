"""A made-up run on disk: what the experiments would have left, without a network."""

from __future__ import annotations

import json
import random
import struct
from pathlib import Path
from typing import Any

from experiments.attacks_analysis import (
    ADD_TELEMETRY,
    ATTACKS,
    CHANNELS,
    LEGITIMATE,
    MODES,
    SESSION_ATTACKS,
    TELEMETRY_ATTACKS,
    UNENCRYPTED,
    attacks_in,
)
from experiments.overhead_analysis import (
    OVERLAY_CONFIGURATIONS,
    UNDERLAY_CONFIGURATIONS,
    Configuration,
    theory,
)
from experiments.results import RunDirectory
from experiments.samples import sample
from experiments.traffic import build_message
from geneve.header import BaseHeader
from geneve.option import Option
from geneve.outer import build_datagram, build_frame
from geneve.packet import make_packet

SOURCE, DESTINATION = "192.168.1.1", "192.168.1.2"
VNI = 100


def write_lines(path: Path, entries: list[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(entry) + "\n" for entry in entries))


def pcap(frames: list[bytes]) -> bytes:
    records = [
        struct.pack("<IIII", 1_700_000_000 + n, n, len(frame), len(frame)) + frame for n, frame in enumerate(frames)
    ]
    return struct.pack("<IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, 262144, 1) + b"".join(records)


def geneve_frame(inner: bytes, option_bytes: int = 0, vni: int = VNI) -> bytes:
    """An outer frame around ``inner`` with options of ``option_bytes`` bytes altogether."""
    options = []
    while option_bytes:
        size = min(option_bytes, 128)
        options.append(Option(0xFF60, 0x02, bytes(size - 4)))
        option_bytes -= size
    packet = make_packet(BaseHeader(vni=vni), options, inner).build()
    return build_frame(bytes(6), bytes(6), build_datagram(SOURCE, DESTINATION, 50000, packet))


def new_run(results: Path, experiments: list[str]) -> RunDirectory:
    return RunDirectory.create(results, "test", {"experiments": experiments, "seed": 1, "warnings": []})


def overhead(run: Path, repeats: int = 6, seed: int = 1) -> None:
    """Leave what the overhead experiment would leave."""
    chance = random.Random(seed)
    entries: list[dict[str, Any]] = []
    for configuration in (*UNDERLAY_CONFIGURATIONS, *OVERLAY_CONFIGURATIONS):
        for repeat in range(repeats):
            key = {**configuration.as_dict(), "repeat": repeat}
            entries.extend(_repeat(configuration, key, chance))
        if configuration.mode != "underlay":
            entries.append(_bytes_entry(run, configuration))
    entries.append({"measure": "check_telemetry", "flow": "full with telemetry, 1 transit device", "expected": ["t1"],
                    "value": [[["t1"], 50]], "sent": 50, "missing": None})  # fmt: skip
    entries.append({"measure": "idle", "daemon": "nve0", "value": 0.3, "unit": "%", "missing": None, "seconds": 1})
    write_lines(run / "raw" / "overhead" / "samples.jsonl", entries)


def _repeat(configuration: Configuration, key: dict[str, Any], chance: random.Random) -> list[dict[str, Any]]:
    slow = {"underlay": 1.0, "none": 2.0, "full": 3.0}[configuration.mode] + configuration.hops
    rtts = [0.2 * slow * chance.lognormvariate(0, 0.3) for _ in range(100)]
    entries = [
        sample("tcp", key, 8e8 / slow * chance.uniform(0.9, 1.1), "bit/s"),
        sample("rtt", key, rtts, "ms", lost=0),
    ]
    if configuration.mode == "underlay":
        return entries
    daemons = [("ingress", "nve0"), ("egress", "nve1")]
    daemons += [("transit", name) for name in {0: [], 1: ["t1"], 2: ["t2", "t3"]}[configuration.hops]]
    for role, daemon in daemons:
        entries.append(sample(
            "cpu", {**key, "role": role, "daemon": daemon}, 2e4 * slow * chance.uniform(0.9, 1.1), "ns/packet",
            packets=2000, datagrams=2000, lost_share=0.0,
        ))  # fmt: skip
    return entries


def _bytes_entry(run: Path, configuration: Configuration, sizes: tuple[int, ...] = (64, 512, 1280)) -> dict[str, Any]:
    extra = theory(configuration, 4) - 50
    order = [size for size in sizes for _ in range(3)]
    random.Random(2).shuffle(order)
    name = f"{configuration.mode}-{configuration.telemetry}-{configuration.hops}.pcap"
    path = run / "captures" / "overhead" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(pcap([geneve_frame(bytes(size), extra) for size in order]))
    value = {
        "capture": f"captures/overhead/{name}", "sizes": order, "vni": VNI, "source": SOURCE,
        "destination": DESTINATION,
    }  # fmt: skip
    return sample("bytes", configuration.as_dict(), value, "bytes")


def attacks(run: Path, mode: str, rates: dict[str, float], trials: int = 3, packets: int = 10) -> None:
    """Leave what the attacks would leave in ``mode``; ``rates`` is the share that succeeds, 0 if not named.

    Legitimate messages are sent every 20 ms from time 0 on; trials take 100 ms each, one behind the other. With DTLS
    mallory sends records of sessions in the second and later trials.
    """
    raw = run / "raw" / "attacks" / mode
    sent: list[bytes] = []
    red3: list[bytes] = []
    blue3: list[bytes] = []
    records: list[dict[str, Any]] = [] if mode in CHANNELS else [record(7, 1)]
    sniffed: list[bytes] = []
    log: list[dict[str, Any]] = []
    for index in range(50):
        payload = build_message(f"{LEGITIMATE}-red", 0, index, 100)
        sent.append(payload)
        red3.append(payload)
    for attack in attacks_in(mode):
        wins = round(rates.get(attack, 0) * packets)
        for trial in range(trials):
            messages = [build_message(attack, trial, index, 200) for index in range(packets)]
            events: list[dict[str, Any]] = [{"n": index} for index in range(packets)]
            victim = "red3"
            if attack == "inject":
                events = [{"payload": message.hex()} for message in messages]
                red3.extend(messages[:wins])
                if mode == "dtls" and trial:
                    variant = SESSION_ATTACKS[(trial - 1) % len(SESSION_ATTACKS)]
                    events = [{"variant": variant} for _ in messages]
            elif attack in TELEMETRY_ATTACKS:
                flow = 98 if attack == ADD_TELEMETRY else 99
                events = [{"flow": flow, "sequence": trial * 100 + index} for index in range(packets)]
                records.extend(record(flow, event["sequence"]) for event in events[:wins])
            else:
                sent.extend(messages)
            if attack == "sniff":
                sniffed.extend(messages[:wins] + [b"\xff" * 200] * (packets - wins))
                red3.extend(messages)
            elif attack == "modify":
                red3.extend(message[:-1] + b"!" for message in messages[:wins])
            elif attack == "replay":
                red3.extend(messages + messages[:wins])
            elif attack == "cross_vni":
                victim = "blue3"
                red3.extend(messages)
                blue3.extend(messages[:wins])
            begin = len(log) * 100_000_000
            outcomes = {"outcomes": {"t2 exported": 3, "t2 authentication_failed": packets - wins}}
            log.append({
                **(outcomes if attack in TELEMETRY_ATTACKS else {}),
                "attack": attack, "trial": trial, "sender": "red1", "victim": victim, "device": "t2",
                "variant": events[0].get("variant"), "begin_ns": begin, "end_ns": begin + 99_000_000,
                "events": events, "drops": {"nve3 authentication_failed": packets - wins}, "missing": None,
            })  # fmt: skip
    write_lines(raw / "trials.jsonl", log)
    write_lines(raw / "setup.jsonl", [{"flow": "red", "sender": "red1", "receiver": "red3"}])
    write_lines(raw / "sent-red1.jsonl", [
        {"time_ns": index * 20_000_000, "event": "sent", "payload": text.hex()} for index, text in enumerate(sent)
    ])  # fmt: skip
    write_lines(raw / "received-red3.jsonl", [{"event": "received", "payload": text.hex()} for text in red3])
    write_lines(raw / "received-blue3.jsonl", [{"event": "received", "payload": text.hex()} for text in blue3])
    write_lines(raw / "records.jsonl", records)
    capture = run / "captures" / "attacks" / f"{mode}-eve.pcap"
    capture.parent.mkdir(parents=True, exist_ok=True)
    capture.write_bytes(pcap(sniffed))


def all_attacks(run: Path, control: dict[str, float], full: dict[str, float], trials: int = 3) -> None:
    """Leave what the attacks would leave in all modes: channels withstand what they are to withstand."""
    attacks(run, "none", control, trials)
    attacks(run, "full", full, trials)
    for mode in MODES[2:]:
        attacks(run, mode, {"sniff": 1.0} if mode in UNENCRYPTED else {}, trials)


def record(flow: int, sequence: int, device: str = "t2", start: int = 1_000_000) -> dict[str, Any]:
    return {
        "device": device, "ingress_ns": start, "egress_ns": start + 40_000, "vni": VNI, "flow": flow,
        "sequence": sequence, "sender": "nve1", "authenticated": True, "source": SOURCE, "destination": DESTINATION,
    }  # fmt: skip


def telemetry(run: Path, packets: int = 50) -> None:
    """Leave what the telemetry experiment would leave."""
    raw = run / "raw" / "telemetry"
    setup = {
        "vni": VNI, "source": SOURCE, "destination": DESTINATION, "expected_path": ["t1", "t2"], "sent": packets,
    }  # fmt: skip
    write_lines(raw / "setup.jsonl", [setup])
    chance = random.Random(3)
    records = []
    for sequence in range(packets):
        start = 10_000_000 * (sequence + 1)
        records.append(record(5, sequence, "t1", start))
        records.append(record(5, sequence, "t2", start + 40_000 + chance.randrange(20_000, 90_000)))
    chance.shuffle(records)
    write_lines(raw / "records.jsonl", records)


ALL_SUCCEED = dict.fromkeys(ATTACKS, 1.0)
