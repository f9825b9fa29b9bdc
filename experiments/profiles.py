"""How long and how often each experiment measures: ``quick`` for every day, ``paper`` for publication."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Profile:
    """Repeats and durations of one profile. Times in seconds, rates in packets per second."""

    name: str
    repeats: int
    """Repeats of each configuration; six is the fewest for which a 95% interval of the median exists."""
    tcp_seconds: int
    udp_seconds: int
    udp_rate: int
    """Packets per second of the load under which CPU time is measured; must lie well below capacity."""
    pings: int
    ping_interval: float
    frames_per_size: int
    attack_trials: int
    packets_per_trial: int
    telemetry_packets: int
    rekey_seconds: float
    """How long a flow is watched under each rate of rekeying."""
    rekey_tcp_seconds: int
    rekey_rates: tuple[int, ...] = (0, 1, 2, 5, 10)
    """How often a second all associations are replaced."""
    rekey_tcp_rates: tuple[int, ...] = (0, 1, 2, 5, 10)
    """At which of them TCP goodput is measured too; the ratio needs 0."""
    channel_repeats: int = 3
    """Repeats of the control-plane experiment under each channel, with fewer events than under our mechanism."""
    channel_rekey_seconds: float = 4.0
    """How long a flow is watched there while keys are replaced: DTLS makes a session a second at most."""
    growth_sizes: tuple[int, ...] = (10, 30, 100)
    """Numbers of simulated NVEs with which the growth of the control plane is measured."""
    growth_changes: int = 5
    """Mapping changes that are timed with each number."""
    scale_rounds: int = 7
    """How often each point of the data plane's scale is timed."""
    scale_packets: int = 2048
    """Packets in each of these rounds."""
    scale_largest: tuple[tuple[str, int], ...] = ()
    """Largest number along an axis of the data plane's scale, where that is not all there is."""
    scale_memory_repeats: int = 2
    flood_before_seconds: float = 0.4
    """How long goodput is measured just before each flood."""
    flood_seconds: float = 0.6
    """How long it is measured under the flood."""
    flood_probe_seconds: float = 0.4
    """How long round-trip time and loss are."""
    flood_repeats: int = 2
    """Repeats of all kinds and rates; the pair that the target is about has ``repeats``."""
    flood_rates: tuple[int, ...] = (1000, 5000, 10_000, 20_000, 50_000)
    """Forged packets a second."""
    mechanisms_tcp_seconds: float = 0.5
    mechanisms_udp_seconds: float = 0.3
    mechanisms_pings: int = 40
    mechanisms_setup: tuple[str, ...] = ()
    """Under which of them key set-up is timed; empty: under all."""
    mechanisms_setup_starts: int = 1
    """How often the network is started under each mechanism to time how long keys take."""
    partial_mtus: tuple[int, ...] = (1500, 9000)
    """MTUs of the underlay."""
    partial_seconds: float = 0.3
    """How long a tenant's flow is measured under each protection."""
    conformance: tuple[int, ...] = ()
    """The SEC-GEN requirements that are tried under every mechanism; none: all, and SEC-OP too."""

    def as_dict(self) -> dict[str, Any]:
        """Return all fields for run.json."""
        return asdict(self)


START_SECONDS = 12.0
"""Expected time to build and start a testbed."""

UDP_PAYLOAD = 1200
"""Bytes of payload of the CPU load's datagrams: fits the tenant MTU of every configuration."""

FRAME_SIZES = (64, 128, 256, 512, 1024, 1280)
"""Inner frame sizes in bytes, Ethernet header included and no FCS; the tenant's largest is added."""

PROFILES = {
    profile.name: profile
    for profile in (
        Profile(
            "quick", repeats=6, tcp_seconds=2, udp_seconds=1, udp_rate=2000, pings=100, ping_interval=0.004,
            frames_per_size=5, attack_trials=6, packets_per_trial=10, telemetry_packets=200, rekey_seconds=1.0,
            rekey_tcp_seconds=1, rekey_tcp_rates=(0, 10),
        ),
        Profile(
            "paper", repeats=20, tcp_seconds=5, udp_seconds=5, udp_rate=2000, pings=500, ping_interval=0.004,
            frames_per_size=20, attack_trials=30, packets_per_trial=20, telemetry_packets=2000, rekey_seconds=5.0,
            rekey_tcp_seconds=3, channel_repeats=12, channel_rekey_seconds=6.0,
            growth_sizes=(10, 100, 1000), growth_changes=20,
            scale_rounds=21, scale_memory_repeats=6,
            flood_before_seconds=1.0, flood_seconds=2.0, flood_probe_seconds=1.0, flood_repeats=8,
            mechanisms_tcp_seconds=2.0, mechanisms_udp_seconds=2.0, mechanisms_pings=200, mechanisms_setup_starts=3,
            partial_seconds=1.5,
        ),
        Profile(
            "smoke", repeats=1, tcp_seconds=1, udp_seconds=1, udp_rate=1000, pings=20, ping_interval=0.004,
            frames_per_size=2, attack_trials=3, packets_per_trial=3, telemetry_packets=20, rekey_seconds=1.0,
            rekey_tcp_seconds=1, rekey_tcp_rates=(0, 10), channel_repeats=1, growth_sizes=(5, 10), growth_changes=2,
            scale_rounds=1, scale_packets=256, scale_memory_repeats=1,
            scale_largest=(("associations", 100), ("rules", 100), ("flows", 1000)),
            flood_repeats=1, flood_rates=(1000, 20_000), mechanisms_tcp_seconds=0.2, mechanisms_udp_seconds=0.1,
            mechanisms_pings=10, mechanisms_setup=("full", "dtls"), partial_seconds=0.2,
            partial_mtus=(1500,), conformance=(12, 14),
        ),
    )
}  # fmt: skip
"""All profiles by name; ``smoke`` only shows that everything runs: its numbers mean nothing."""
