"""The benchmark against peers: its search, its counting and its analysis, on figures made up here."""

from __future__ import annotations

import json
import math
import socket
import struct
from pathlib import Path

import pytest

from experiments.measure import MeasureError
from experiments.peers import analysis, datagrams, fastd, openvpn, plots, publish, strongswan, tinc
from experiments.peers.analysis import MET, NOT_MEASURED, NOT_MET, Benchmark
from experiments.peers.measuring import machine_nanoseconds, proportional_memory
from experiments.peers.network import MACS, UNDERLAY
from experiments.peers.ours import FULL, HEADERS_ONLY, OURS, node_states
from experiments.peers.registry import CONTENDERS
from experiments.peers.runner import PLANS, WHOLE, reason_of
from experiments.peers.search import MOST_TRIALS, Search, Trial
from experiments.results import RunDirectory
from experiments.samples import SampleWriter, sample
from experiments.tables import read_csv
from geneve.errors import ConfigError
from nve.config import NveConfig
from nve.sizes import refuse_sizes
from transit.config import TransitConfig

# Search ----------------------------------------------------------------------------------------------


class FakePath:
    """A path that carries ``capacity`` datagrams a second, and a sender that makes at most ``most``."""

    def __init__(self, capacity: float, most: float = math.inf) -> None:
        self.capacity, self.most = capacity, most
        self.rates: list[tuple[float, bool]] = []

    def attempt(self, rate: float, long: bool) -> Trial:
        self.rates.append((rate, long))
        made = min(rate, self.most)
        sent = int(made * 10)
        return Trial(sent, min(sent, int(self.capacity * 10)), 10.0, busy=1.0 if rate > self.most else rate / self.most)


@pytest.mark.parametrize("capacity", [60.0, 500.0, 9_000.0, 10_000.0, 93_000.0, 1_500_000.0])
@pytest.mark.parametrize("known", [None, 20_000.0])
def test_the_highest_rate_is_found(capacity, known):
    path = FakePath(capacity)
    best = Search(path.attempt, known, resolution=1.05).run()
    assert best is not None
    assert best.good
    assert path.rates[-1][1], "the result comes from a long trial"
    if known is None or capacity < known:  # upwards from a known rate there is a bound to the steps of one repeat
        assert capacity / 1.3 <= best.rate <= capacity * 1.001


def test_a_known_rate_is_left_upwards_step_by_step():
    found = Search(FakePath(22_500.0).attempt, 20_000.0, resolution=1.05).run()
    assert found is not None
    assert 22_500 / 1.06 <= found.rate <= 22_500


def test_a_sender_that_cannot_do_more_ends_the_search():
    path = FakePath(1e9, most=100_000.0)
    best = Search(path.attempt).run()
    assert best is not None
    assert best.held_back
    assert best.rate == pytest.approx(100_000)
    assert len(path.rates) < 12


def test_a_path_that_carries_nothing_has_no_rate():
    path = FakePath(0.0)
    assert Search(path.attempt).run() is None
    assert len(path.rates) <= MOST_TRIALS


def test_one_bad_moment_of_the_machine_is_no_limit():
    path = FakePath(50_000.0)
    moments = iter([False, True])

    def attempt(rate: float, long: bool) -> Trial:
        trial = path.attempt(rate, long)
        return Trial(trial.sent, 0, trial.seconds) if next(moments, False) else trial

    best = Search(attempt).run()
    assert best is not None
    assert best.rate > 40_000


def test_loss_of_the_limit_or_more_is_too_much():
    assert Trial(10_000, 9_991, 1.0).good
    assert not Trial(10_000, 9_990, 1.0).good
    assert not Trial(0, 0, 1.0).good


# Load ------------------------------------------------------------------------------------------------


@pytest.fixture
def receiver(monkeypatch):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.bind(("127.0.0.1", 0))
        monkeypatch.setattr(datagrams, "PORT", probe.getsockname()[1])
    return datagrams.Receiver("127.0.0.1")


@pytest.mark.parametrize("segments", [1, 4])
def test_every_number_is_sent_and_counted_once(receiver, segments):
    receiver.begin(7, 200, 64, segments > 1)
    answer = datagrams.Sender("127.0.0.1").send(7, 2_000.0, 0.1, 64, segments)
    while receiver.drain():
        pass
    assert answer["sent"] == 200
    assert receiver.report(2**63) == {"received": 200, "late": 0, "duplicates": 0, "foreign": 0}


def test_late_repeated_and_foreign_datagrams_are_told_apart(receiver):
    receiver.begin(3, 10, 64, False)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        for run, number in ((3, 0), (3, 0), (2, 1), (3, 10), (3, 5)):
            sender.sendto(struct.pack("!II", run, number).ljust(64, b"\0"), ("127.0.0.1", datagrams.PORT))
    receiver.drain()
    assert receiver.report(0) == {"received": 0, "late": 2, "duplicates": 1, "foreign": 2}
    assert not receiver.counting


# Reading -----------------------------------------------------------------------------------------------


def test_time_of_the_machine_is_what_was_not_idle_or_waiting():
    assert machine_nanoseconds("cpu  10 1 20 1000 500 3 4 2 0 0\ncpu0 ...", 100) == 40 * 10_000_000
    with pytest.raises(MeasureError):
        machine_nanoseconds("intr 1 2", 100)


def test_memory_is_the_proportional_set_size():
    assert proportional_memory("0-1 rollup\nRss:  900 kB\nPss:  512 kB\nPss_Anon: 1 kB\n") == 512 * 1024
    with pytest.raises(MeasureError):
        proportional_memory("")


def test_a_long_reason_keeps_its_last_words():
    reason = reason_of(RuntimeError("first words " + "x" * 500 + "\n the cause"))
    assert len(reason) <= 300
    assert reason.startswith("first words")
    assert reason.endswith("the cause")


# Configurations ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("profile", [None, FULL, HEADERS_ONLY])
@pytest.mark.parametrize("devices", [(), ("device1", "device2")])
def test_our_own_programs_take_their_configurations(profile, devices):
    states = node_states(profile, devices)
    for side, address in UNDERLAY.items():
        document = {"name": side, "underlay": {"address": address}, "vnis": [{"vni": 100, "ports": ["tenant"]}],
                    "static_state": states[side].to_wire(), "sequence_file": "numbers"}  # fmt: skip
        state = NveConfig.model_validate_json(json.dumps(document)).static_state
        assert state is not None
        refuse_sizes(state, 1500, 4)
        larger = state.vnis[0].model_copy(update={"mtu": state.vnis[0].mtu + 1})
        if profile is not None:  # the tenants' MTU is the largest that fits
            with pytest.raises(ConfigError, match="leaves"):
                refuse_sizes(state.model_copy(update={"vnis": (larger,)}), 1500, 4)
        assert {mapping.mac for mapping in state.mappings} == set(MACS.values())
    for device in devices:
        document = {"name": device, "interfaces": ["a", "b"], "static_state": states[device].to_wire()}
        assert TransitConfig.model_validate_json(json.dumps(document)).static_state is not None
    held = {item.spi for state in states.values() for item in state.inbound}
    assert len(held) == (0 if profile is None else 2 + 2 * len(devices))


def test_no_secret_is_in_what_a_run_records():
    text = json.dumps([contender.description.as_dict() for contender in CONTENDERS.values()])
    assert "PRIVATE" not in text
    again = node_states(FULL, ())
    assert node_states(FULL, ())["left"].outbound[0].secret_bytes() != again["left"].outbound[0].secret_bytes()


def test_each_peer_is_told_its_mtu_and_its_cipher():
    mtu = CONTENDERS["openvpn"].description.tenant_mtu
    text = openvpn.configuration("left", "/f", mtu)
    assert f"tun-mtu {mtu}\n" in text
    assert "data-ciphers AES-128-GCM\n" in text
    assert "disable-dco\n" in text
    assert 'method "null"' in fastd.configuration("right", "null", 1457, "00", "11")
    assert "remote" in fastd.configuration("right", "null", 1457, "00", "11")
    assert "Mode = switch\n" in tinc.configuration("left")
    assert "esp_proposals = aes128gcm16" in strongswan.connection("left", "s")


def test_contenders_are_told_apart_and_fit_the_underlay():
    descriptions = [contender.description for contender in CONTENDERS.values()]
    assert len({item.title for item in descriptions}) == len(descriptions)
    assert {contender.description.name for contender in OURS} <= set(CONTENDERS)
    assert all(1300 <= item.tenant_mtu <= 1500 for item in descriptions)
    assert PLANS["quick"].repeats >= 5
    assert PLANS["paper"].repeats >= 20


# Analysis ------------------------------------------------------------------------------------------------

MEASURED = {"tcp_1": 1e9, "tcp_4": 1e9, "udp_64": 1e5, "udp_512": 1e5, "udp_1400": 1e5, "udp_64_segmented": 1e5,
            "rtt_idle": 0.1, "rtt_load": 1.0, "cpu_udp_left": 5.0, "cpu_udp_right": 5.0,
            "cpu_udp_machine": 20.0}  # fmt: skip
UNITS = dict(WHOLE)


def samples_of(name: str, repeats: int = 6, **changes: float) -> list[dict]:
    return [
        sample(measure, {"contender": name, "repeat": repeat}, changes.get(measure, value) * (1 + 0.01 * repeat),
               UNITS.get(measure, "us"))
        for repeat in range(repeats) for measure, value in MEASURED.items()
    ]  # fmt: skip


def missing_of(name: str, reason: str) -> list[dict]:
    return [sample(measure, {"contender": name, "repeat": 0}, None, unit, reason) for measure, unit in WHOLE]


def load(tmp_path: Path, samples: list[dict], name: str = "samples.jsonl") -> Benchmark:
    with SampleWriter(tmp_path / name) as writer:
        for entry in samples:
            writer.write(entry)
    names = {entry["contender"] for entry in samples}
    return Benchmark.load(
        tmp_path / name, [item.description.as_dict() for key, item in CONTENDERS.items() if key in names]
    )


def verdicts(found: Benchmark) -> list[str]:
    return [row["verdict"] for row in analysis.targets(found)]


def test_targets_are_judged_against_the_best_encrypting_peer_in_user_space(tmp_path):
    peers = [
        *samples_of("openvpn", tcp_1=0.6e9, udp_64=0.9e5, rtt_idle=0.12),
        *samples_of("fastd", tcp_1=0.5e9, udp_64=0.95e5, rtt_idle=0.11),
        *samples_of("fastd-null", tcp_1=9e9, udp_64=9e5, rtt_idle=0.001),  # protects nothing
        *samples_of("kernel-wireguard", tcp_1=9e9, udp_64=9e5, rtt_idle=0.001),  # not in user space
    ]
    ours = [*samples_of("nve-full"), *samples_of("nve-full-2t", tcp_1=0.7e9),
            *samples_of("nve-headers", cpu_udp_left=4.0)]  # fmt: skip
    found = load(tmp_path, peers + ours)
    rows = analysis.targets(found)
    assert [row["verdict"] for row in rows] == [MET] * 5
    assert [row["against"] for row in rows] == ["openvpn", "fastd", "fastd", "nve-full", "nve-full"]
    assert rows[0]["value"] == pytest.approx(1.67, abs=0.01)
    slow = [*samples_of("nve-full", tcp_1=0.8e9, udp_64=0.9e5, rtt_idle=0.2),
            *samples_of("nve-full-2t", tcp_1=0.4e9), *samples_of("nve-headers", cpu_udp_left=5.0)]  # fmt: skip
    assert verdicts(load(tmp_path, peers + slow, "slow")) == [NOT_MET] * 4 + [MET]


def test_what_was_not_measured_is_no_target_met(tmp_path):
    assert verdicts(load(tmp_path, samples_of("nve-full"))) == [NOT_MEASURED] * 5


def test_visibly_less_means_the_whole_interval(tmp_path):
    noisy = samples_of("nve-headers", cpu_udp_left=4.0)
    for entry in noisy:
        if entry["repeat"] == 5 and entry["measure"] == "cpu_udp_left":
            entry["value"] = 9.0
    assert verdicts(load(tmp_path, samples_of("nve-full") + noisy))[-1] == NOT_MET


def test_ratios_are_taken_within_a_repeat():
    summary = analysis.ratio({0: 2.0, 1: 40.0, 2: 6.0}, {0: 1.0, 1: 20.0, 3: 5.0})
    assert (summary.median, summary.count) == (2.0, 2)


def test_a_missing_contender_stays_in_every_table_with_its_reason(tmp_path):
    samples = samples_of("nve-full") + samples_of("openvpn") + samples_of("veth", tcp_1=1.5e10)
    samples += missing_of("kernel-esp", "the kernel has no ESP")
    run = RunDirectory.create(tmp_path, "bench-quick", {"seed": 1, "plan": {"repeats": 6}, "contenders": [
        CONTENDERS[name].description.as_dict() for name in ("nve-full", "openvpn", "kernel-esp", "veth")
    ]})  # fmt: skip
    with SampleWriter(run.folder("raw") / publish.SAMPLES) as writer:
        for entry in samples:
            writer.write(entry)
    publish.publish(run)
    text = (run.path / publish.SUMMARY).read_text(encoding="utf-8")
    assert "| Kernel ESP | 1446 | missing |" in text
    assert "- Kernel ESP: the kernel has no ESP" in text
    assert r"Kernel ESP & \multicolumn{8}{c}{missing} \\" in (run.path / "table.tex").read_text(encoding="utf-8")
    _, rows = read_csv(run.path / "csv" / "bench.csv")
    esp = [row for row in rows if row["contender"] == "kernel-esp"]
    assert {(row["median"], row["count"], row["missing"], row["reason"]) for row in esp} == {
        ("", "0", "1", "the kernel has no ESP")
    }
    _, rows = read_csv(run.path / "csv" / "bench-ratios.csv")
    assert {row["peer"] for row in rows} == {"openvpn", "veth"}
    for plot in plots.PLOTS:
        assert (run.path / "plots" / f"{plot.name}.png").stat().st_size > 1000


def test_limits_of_the_kernel_do_not_set_the_scale(tmp_path):
    found = load(tmp_path, samples_of("nve-full") + samples_of("veth", tcp_1=1.5e10))
    series = (plots.Series("tcp_1", 1e-9, plots.Look("", "0", "", "o", "-")),)
    assert plots.edge(found, series) < 2
    near = load(tmp_path, samples_of("nve-full") + samples_of("veth", tcp_1=1.5e9), "near")
    assert plots.edge(near, series) > 1.5


def test_numbers_are_short_and_plain():
    assert [publish.number(value) for value in (None, 1234.5, 25146.0, 0.01234, 12.34)] == [
        "-", "1234", "25146", "0.0123", "12.3",
    ]  # fmt: skip
