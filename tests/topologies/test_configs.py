"""The generated configuration files, held against the schemas of the programs that read them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from controller.inventory import parse_inventory
from geneve.config import validate
from nve.config import NveConfig
from topologies.configs import (
    REST_URL,
    Layout,
    collector_argv,
    config_files,
    controller_argv,
    daemon_argv,
    export_keys,
    inventory,
    nve_config,
    operator_argv,
    pki_argv,
    transit_config,
)
from topologies.plan import Kind, Plan, make_plan
from topologies.scenario_file import load_scenario, parse_scenario, scenario_names, scenario_path
from transit.config import TransitConfig

LAYOUT = Layout(Path("/private"), Path("/kept"))


@pytest.fixture(params=scenario_names())
def plan(request: pytest.FixtureRequest) -> Plan:
    return make_plan(load_scenario(request.param))


def test_controller_accepts_the_inventory(plan: Plan) -> None:
    parsed = parse_inventory(json.dumps(inventory(plan, LAYOUT)), "inventory.json")
    assert set(parsed.nodes) == {*plan.nodes(Kind.NVE), *plan.nodes(Kind.TRANSIT)}
    static = [tenant for tenant in plan.scenario.tenants.values() if tenant.mappings == "static"]
    assert len(parsed.mappings) == sum(len(tenant.hosts) for tenant in static)


def test_inventory_tells_where_each_node_is_on_the_underlay(plan: Plan) -> None:
    parsed = parse_inventory(json.dumps(inventory(plan, LAYOUT)), "inventory.json")
    places = {"nva": (parsed.nva.mac, parsed.nva.switch, parsed.nva.switch_port)}
    places |= {name: (node.mac, node.switch, node.switch_port) for name, node in parsed.nodes.items()}
    for wire in plan.wires:
        if wire.underlay and wire.first.addresses and wire.first.node in places:
            switch = wire.second
            found = places.pop(wire.first.node)
            assert found[:2] == (wire.first.mac, switch.node)
            assert f"{found[1]}-eth{found[2]}" == switch.interface
    assert not places


def test_inventory_says_what_the_scenario_asks_of_the_fabric() -> None:
    text = scenario_path("small").read_text()
    for ecmp in (True, False):
        for guard in (True, False):
            keys = f"anti_spoofing: {str(guard).lower()}\n  ecmp: {str(ecmp).lower()}"
            plan = make_plan(parse_scenario(text.replace("anti_spoofing: false", keys), "x.yaml"))
            fabric = parse_inventory(json.dumps(inventory(plan, LAYOUT)), "inventory.json").fabric
            assert (fabric.ecmp, fabric.anti_spoofing) == (ecmp, guard)


def test_switches_guard_against_spoofing_but_for_scenarios_whose_attackers_need_it() -> None:
    unguarded = {name for name in scenario_names() if not load_scenario(name).underlay.anti_spoofing}
    assert unguarded == {"default", "small", "small-ipv6", "mechanism-multicast"}


def test_inventory_knows_no_attacker() -> None:
    plan = make_plan(load_scenario("default"))
    text = json.dumps(inventory(plan, LAYOUT))
    assert not [name for name in plan.nodes(Kind.ATTACKER) if f'"{name}"' in text]


def test_the_operator_is_nobody_else_and_finds_the_nva_where_its_certificate_says(plan: Plan) -> None:
    parsed = parse_inventory(json.dumps(inventory(plan, LAYOUT)), "inventory.json")
    assert parsed.operators == ("operator",)
    argv = pki_argv(plan, LAYOUT)
    assert argv[argv.index("--operator") + 1] == "operator"
    addresses = [argv[number + 1] for number, text in enumerate(argv) if text == "--address"]
    assert addresses == [plan.underlay_addresses["nva"], parsed.rest.address]
    assert f"https://{parsed.rest.address}:{parsed.rest.port}" == REST_URL
    given = operator_argv(LAYOUT)
    assert given[1:5] == ["-m", "controller.cli", "--url", REST_URL]
    assert given[-1] == "/private/pki/operator.key"


def test_nve_accepts_its_file(plan: Plan) -> None:
    for name in plan.nodes(Kind.NVE):
        config = validate(nve_config(plan, LAYOUT, name), name, NveConfig)
        hosts = [host for tenant in plan.scenario.tenants.values() for host in tenant.hosts.values()]
        ports = [port for vni in config.vnis for port in vni.ports]
        assert len(ports) == sum(host.nve == name for host in hosts)


def test_transit_device_accepts_its_file(plan: Plan) -> None:
    for name in plan.nodes(Kind.TRANSIT):
        config = validate(transit_config(plan, LAYOUT, name), name, TransitConfig)
        assert config.interfaces == (f"{name}-eth0", f"{name}-eth1")


def test_transit_device_gets_its_impairment() -> None:
    text = scenario_path("small").read_text().replace(
        "t1: {management: s1}", "t1: {management: s1, impair: {delay_ms: 5, loss: 0.25}}"
    )
    document = transit_config(make_plan(parse_scenario(text, "x.yaml")), LAYOUT, "t1")
    impair = validate(document, "t1", TransitConfig).impair
    assert impair is not None
    assert (impair.delay_ms, impair.loss) == (5, 0.25)


def test_keys_and_configuration_stay_in_the_private_folder(plan: Plan) -> None:
    assert all(path.is_relative_to("/private") for path in config_files(plan, LAYOUT))
    argv = pki_argv(plan, LAYOUT)
    assert argv[argv.index("--out") + 1].startswith("/private/")


def test_command_lines() -> None:
    plan = make_plan(load_scenario("small-ipv6"))
    assert daemon_argv(plan, LAYOUT, "nve1")[1:] == ["-m", "nve", "--config", "/private/nve1.json"]
    assert daemon_argv(plan, LAYOUT, "t1")[1:] == ["-m", "transit", "--config", "/private/t1.json"]
    assert "--framework" not in controller_argv(LAYOUT, "auto")
    assert controller_argv(LAYOUT, "ryu")[-2:] == ["--framework", "ryu"]
    argv = collector_argv(plan, LAYOUT)
    assert argv[argv.index("--listen") + 1] == "[fd00:6081::64]:6082"
    assert argv[argv.index("--output") + 1] == "/kept/telemetry.jsonl"
    assert argv[argv.index("--keys") + 1] == "/private/export-keys"


def test_every_transit_device_has_an_export_key_of_its_own_in_the_private_folder(plan: Plan) -> None:
    keys = export_keys(plan, LAYOUT)
    files = {transit_config(plan, LAYOUT, name)["collector"]["key"] for name in plan.nodes(Kind.TRANSIT)}
    assert files == {str(path) for path in keys}
    assert all(path.parent == LAYOUT.export_keys and path.is_relative_to("/private") for path in keys)
    assert len(set(keys.values())) == len(keys)
    assert all(len(bytes.fromhex(key)) == 32 for key in keys.values())
    assert not keys or keys != export_keys(plan, LAYOUT)
    written = json.dumps([*config_files(plan, LAYOUT).values()], default=str) + " ".join(collector_argv(plan, LAYOUT))
    assert not [key for key in keys.values() if key in written]


def test_nve_names_the_interface_with_its_underlay_address(plan: Plan) -> None:
    for name in plan.nodes(Kind.NVE):
        interface = validate(nve_config(plan, LAYOUT, name), name, NveConfig).underlay.interface
        (end,) = [end for end in plan.ends(name) if end.interface == interface]
        assert end.addresses[0].split("/")[0] == plan.underlay_addresses[name]


def test_keys_are_logged_in_the_run_folder_only_on_demand(plan: Plan) -> None:
    logs = {nve_config(plan, LAYOUT, name).get("key_log") for name in plan.nodes(Kind.NVE)}
    wanted = {f"/kept/{name}.keylog" for name in plan.nodes(Kind.NVE)}
    assert logs == (wanted if plan.scenario.key_log else {None})


def test_inventory_has_what_the_scenario_says_of_tenants(plan: Plan) -> None:
    parsed = parse_inventory(json.dumps(inventory(plan, LAYOUT)), "inventory.json")
    assert parsed.policy == plan.scenario.policy
    for vni in parsed.vnis:
        tenant = plan.scenario.tenants[vni.tenant]
        assert (vni.tags, vni.options) == (tenant.tags, tenant.options)
        assert (vni.group_policy, vni.enforcers) == (tenant.group_policy, tenant.enforcers)
        assert vni.learned == (tenant.mappings == "learned")
        serving = plan.scenario.nves if vni.learned else {host.nve for host in tenant.hosts.values()}
        members = tuple(sorted(serving))
        assert parsed.members(vni.vni) == members
        assert [group.senders for group in vni.multicast] == [group.senders or members for group in tenant.multicast]
    tags = {(mapping.vni, mapping.mac): mapping.tag for mapping in parsed.mappings}
    for tenant in plan.scenario.tenants.values():
        expected = {(tenant.vni, host.mac): host.tag for host in tenant.hosts.values()}
        found = {place: tag for place, tag in tags.items() if place[0] == tenant.vni}
        assert found == (expected if tenant.mappings == "static" else {})
