"""The tenants' MTU, held against packets that the sealer makes: no scenario's largest packet exceeds the underlay."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from geneve.control.profile import Profile
from geneve.control.state import Association, AssociationRole
from geneve.option import Option
from geneve.overhead import (
    ETHERNET_HEADER_SIZE,
    IP_HEADER_SIZE,
    UDP_HEADER_SIZE,
    inner_extra,
    max_options_size,
)
from geneve.security import padding
from geneve.security.association import OutboundAssociation
from geneve.security.carriage import OptionSize
from geneve.security.seal import Item, PacketSealer
from geneve.security.signature import MAX_BATCH, SourceSigner
from geneve.tags import build_tag
from geneve.telemetry import build_telemetry
from tests.support import secret
from topologies.scenario import Scenario, Tenant
from topologies.scenario_file import load_scenario, scenario_names

SIGNER = SourceSigner.from_seed(bytes(32))


def association(profile: Profile, role: str, audience: str, vni: int) -> OutboundAssociation:
    made = Association.model_validate(
        {
            "spi": 1000 + sum(audience.encode()),
            "role": AssociationRole(role),
            "sender": "nve1",
            "audience": audience,
            "members": ("nve2",) if role == "multicast" else (),
            "sender_address": "192.168.1.1",
            "vni": vni,
            "rule": "rule" if profile.key_granularity.value == "rule" else None,
            "profile": profile.name,
            "secret": secret(audience),
            "signer": secret("signer") if role == "multicast" else None,
        }
    )
    return OutboundAssociation(made, profile)


def sealers(profile: Profile, tenant: Tenant, devices: tuple[str, ...], largest: int) -> Iterator[PacketSealer]:
    """Yield a sealer to a peer behind no device, one behind all of them, and one for a group if there is one."""
    for on_path in ((), devices):
        yield PacketSealer(
            tenant.vni,
            association(profile, "egress", "nve2", tenant.vni),
            [
                association(profile, "transit", name, tenant.vni)
                for name in on_path
                if profile.device_coverage(name) is not None
            ],
            association(profile, "group", "nve2", tenant.vni) if profile.group is not None else None,
            largest=largest,
        )
    if tenant.multicast:
        group = association(profile, "multicast", "group", tenant.vni)
        yield PacketSealer(tenant.vni, group, signer=SIGNER, largest=largest)


def options_of(tenant: Tenant) -> list[bytes]:
    options = [Option(item.option_class, item.type, bytes.fromhex(item.data)).build() for item in tenant.options]
    if tenant.telemetry:
        options.append(build_telemetry(0, 0))
    if tenant.tags:
        options.append(build_tag(1, 2))
    return options


def outer_sizes(scenario: Scenario, tenant: Tenant, profile: Profile, mtu: int) -> Iterator[int]:
    """Yield the sizes of the outer IP packets in which frames of the whole tenant MTU travel, alone or in a batch."""
    frame = bytes(ETHERNET_HEADER_SIZE + mtu)
    largest = len(frame) + padding.LENGTH_SIZE
    for sealer in sealers(profile, tenant, tuple(scenario.transit_devices), largest):
        for count in (1, MAX_BATCH):
            for packet in sealer.seal([Item(frame, options_of(tenant))] * count):
                yield IP_HEADER_SIZE[scenario.underlay.ip_version] + UDP_HEADER_SIZE + len(packet)


@pytest.mark.parametrize("name", scenario_names())
def test_frames_of_the_tenant_mtu_fit_the_underlay_and_one_fills_it(name: str) -> None:
    scenario = load_scenario(name)
    for tenant_name, tenant in scenario.tenants.items():
        sizes = [
            size
            for profile in scenario.profiles_of(tenant_name)
            if profile is not None
            for size in outer_sizes(scenario, tenant, profile, scenario.tenant_mtu(tenant_name))
        ]
        if sizes:
            assert max(sizes) == scenario.underlay.mtu, tenant_name


@pytest.mark.parametrize("name", scenario_names())
def test_options_size_is_what_the_sealer_makes_at_most(name: str) -> None:
    scenario = load_scenario(name)
    devices = tuple(scenario.transit_devices)
    for tenant in scenario.tenants.values():
        profile = scenario.profile(tenant.profile)
        if profile is None:
            continue
        sizes = []
        for sealer in sealers(profile, tenant, devices, 2000):
            packets = sealer.seal([Item(bytes(60), options_of(tenant))] * MAX_BATCH)
            sizes += [(packet[0] & 0x3F) * 4 for packet in packets]
        assert max(sizes) == max_options_size(profile, tenant.option_sizes, devices, bool(tenant.multicast))


OPTION = [OptionSize(0x0102, 0x11, 16)]
SELECTED = [{"option_class": 0x0102, "type": 0x11}]
NOTHING_INNER = {"authenticate_inner": "none", "encrypt_inner": "none"}
READS_IT = {"options": [], "hidden_options": SELECTED, **NOTHING_INNER}


# One security option is 32 bytes: header 4, SPI 4, sequence number 8, tag 16.
@pytest.mark.parametrize(
    ("profile", "expected"),
    [
        ({}, 16 + 32),
        ({"egress": {"hidden_options": SELECTED}}, 32 + 16),
        ({"egress": {"hidden_options": SELECTED}, "devices": {"t1": READS_IT}}, 2 * (32 + 16)),
        ({"transit": READS_IT}, 2 * (32 + 16) + 32),
        ({"group": READS_IT}, 32 + 16 + 32),
        ({"key_granularity": "flow"}, 16 + 36),
        ({"egress": {"authenticate_inner": "headers", "encrypt_inner": "headers"}}, 16 + 36),
        ({"hidden_header": ["vni"]}, 16 + 32 + 8),
        ({"hidden_header": ["opt_len"], "options_size": 120}, 120),
    ],
)
def test_sizes_of_two_devices_and_one_option(profile: dict[str, object], expected: int) -> None:
    made = Profile.model_validate_json(json.dumps({"name": "p", **profile}))
    assert max_options_size(made, OPTION, ("t1", "t2")) == expected


@pytest.mark.parametrize(("proof", "size"), [("ed25519", 68), ("merkle", 128)])
def test_a_group_costs_its_signature_and_no_transit_options(proof: str, size: int) -> None:
    profile = Profile.model_validate_json(f'{{"name": "p", "source_proof": "{proof}"}}')
    assert max_options_size(profile, OPTION, ("t1", "t2"), multicast=True) == 16 + 32 + size


def test_what_does_not_fit_is_refused() -> None:
    crowded = Profile.model_validate_json('{"name": "p", "transit": {"encrypt_inner": "none"}, '
                                          '"egress": {"encrypt_inner": "none"}}')  # fmt: skip
    with pytest.raises(ValueError, match="7 transit devices need 272 bytes"):
        max_options_size(crowded, OPTION, [f"t{n}" for n in range(7)])
    small = Profile.model_validate_json('{"name": "p", "hidden_header": ["opt_len"], "options_size": 40}')
    with pytest.raises(ValueError, match="keeps options at 40 bytes"):
        max_options_size(small, OPTION)


def test_a_constant_size_out_of_reach_where_no_device_is_on_the_path_is_refused() -> None:
    # The filler stands in the egress NVE's option, which ends at 128 bytes: 16 + 128 at most.
    text = '{"name": "p", "hidden_header": ["opt_len"], "options_size": %d}'
    assert max_options_size(Profile.model_validate_json(text % 144), OPTION) == 144
    with pytest.raises(ValueError, match="can be filled to 144 only"):
        max_options_size(Profile.model_validate_json(text % 148), OPTION)


def test_only_padded_profiles_say_the_length_inside() -> None:
    assert inner_extra(None) == inner_extra(Profile(name="p")) == 0
    assert inner_extra(Profile.model_validate_json('{"name": "p", "padding": {"mode": "mtu"}}')) == 2
