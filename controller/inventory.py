"""The inventory: the one file that says which switches, links, nodes, tenants and policies exist.

Roles, addresses and places come from here and never from a node's own words. The schema is strict;
references are checked across the whole file, and the first fault is reported in one sentence.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Hashable, Iterable
from pathlib import Path

from pydantic import Field

from geneve.config import StrictModel, load
from geneve.control.names import IpAddress, MacAddress, Name, Vni
from geneve.control.profile import Profile
from geneve.control.rules import Action, Rule, TagRule
from geneve.control.state import Mapping, MulticastGroup, Role, StaticOption
from geneve.errors import ConfigError
from geneve.policy import Policy
from geneve.security.option import PADDING_TYPE, SECURITY_CLASS, is_mechanism_option
from geneve.tags import TAG_CLASS, TAG_TYPE
from geneve.telemetry import TELEMETRY_CLASS, TELEMETRY_TYPE

MAX_PATH_COST = 65535
"""Largest cost of one link."""

MAX_PORT = 0xFFFFFF00
"""Largest number of a real port (OpenFlow 1.3 §7.2.1)."""


class Nva(StrictModel):
    """The NVA's own name, where it listens for nodes, and its TLS files (relative to the inventory file).

    ``switch``, ``switch_port`` and ``mac``: as a node's.
    """

    name: Name
    address: IpAddress
    port: int = Field(default=6640, ge=1, le=65535)
    ca: str
    certificate: str
    key: str
    switch: Name | None = None
    switch_port: int | None = Field(default=None, ge=1, le=MAX_PORT)
    mac: MacAddress | None = None


class Listener(StrictModel):
    """An address and a TCP port to listen on."""

    address: IpAddress
    port: int = Field(ge=1, le=65535)


class Fabric(StrictModel):
    """What the underlay's switches are told to do.

    ``ecmp``: unicast is spread over all shortest paths, not sent along one. ``anti_spoofing``: edge ports drop frames
    with the source addresses of nodes elsewhere. ``counters_seconds``: how often switches are asked what their rules
    and ports counted; 0 means never.
    """

    ecmp: bool = True
    anti_spoofing: bool = False
    counters_seconds: float = Field(default=5, ge=0, le=3600)


class InventoryLink(StrictModel):
    """A link between two switches, its cost, and what sits on it from the first switch to the second."""

    between: tuple[Name, Name]
    via: tuple[Name, ...] = ()
    cost: int = Field(default=10, ge=1, le=MAX_PATH_COST)


class InventoryNode(StrictModel):
    """A node that may register. ``switch`` is where its interface with ``address`` is attached.

    (A transit device sits on a link besides.) ``mac`` is that interface's; it is believed at this switch only, and,
    with ``switch_port``, at this OpenFlow port only: then the way to it is set up before it speaks. ``vnis`` are
    those that an NVE may serve; without them, those in which static mappings place tenants there.
    """

    role: Role
    address: IpAddress
    switch: Name | None = None
    switch_port: int | None = Field(default=None, ge=1, le=MAX_PORT)
    mac: MacAddress | None = None
    vnis: tuple[Vni, ...] | None = None


class InventoryVni(StrictModel):
    """One virtual network: its tenant, what its policy does, what packets carry, and its tenants' MTU in bytes.

    ``action`` and ``profile`` hold where no rule of the inventory's ``policy`` matches. ``group_policy`` is
    enforced by the transit devices in ``enforcers``, or, if there are none, by all on the VNI's paths.
    ``learned``: where its tenants are is learned from the NVEs that serve it, besides what ``mappings`` says.
    """

    vni: Vni
    tenant: Name
    action: Action
    profile: Name | None = None
    telemetry: bool = False
    tags: bool = False
    options: tuple[StaticOption, ...] = ()
    multicast: tuple[MulticastGroup, ...] = ()
    learned: bool = False
    group_policy: tuple[TagRule, ...] | None = None
    enforcers: tuple[Name, ...] = ()
    mtu: int = Field(ge=576, le=65535)


class StoreFiles(StrictModel):
    """The NVA's memory (relative to the inventory file): an SQLite database and, apart from it, the key that seals it.

    Both are made if they are missing. Without this key nothing survives the NVA.
    """

    database: str
    key: str


class KeyPolicy(StrictModel):
    """When keys are made: for NVEs that want to talk (``on_demand``), or for all that may."""

    on_demand: bool = True


class Inventory(StrictModel):
    """The whole file. Use :func:`load_inventory`, which also checks references."""

    nva: Nva
    store: StoreFiles | None = None
    keys: KeyPolicy = KeyPolicy()
    openflow: Listener
    rest: Listener
    operators: tuple[Name, ...] = ()
    fabric: Fabric = Fabric()
    switches: dict[Name, int]
    links: tuple[InventoryLink, ...] = ()
    nodes: dict[Name, InventoryNode] = Field(default_factory=dict)
    profiles: tuple[Profile, ...] = ()
    vnis: tuple[InventoryVni, ...] = ()
    mappings: tuple[Mapping, ...] = ()
    policy: tuple[Rule, ...] = ()

    def rules(self) -> tuple[Rule, ...]:
        """Return the whole policy: the rules given, then one for each VNI with what holds otherwise."""
        derived = [
            Rule(name=f"vni-{vni.vni}", vni=vni.vni, action=vni.action, profile=vni.profile) for vni in self.vnis
        ]
        return (*self.policy, *derived)

    def secures(self, vni: int) -> bool:
        """Whether some rule of the policy can protect packets of ``vni``."""
        return any(rule.action is Action.SECURE and rule.vni in (None, vni) for rule in self.rules())

    def members(self, vni: int) -> tuple[str, ...]:
        """Return the names of the NVEs that serve ``vni``, sorted."""
        placed = {mapping.nve for mapping in self.mappings if mapping.vni == vni}
        return tuple(
            sorted(
                name
                for name, node in self.nodes.items()
                if (name in placed if node.vnis is None else vni in node.vnis) and node.role is Role.NVE
            )
        )

    def link_costs(self) -> dict[tuple[int, int], int]:
        """Return the cost of each expected link by its two datapath ids, the smaller first."""
        costs = {}
        for link in self.links:
            low, high = sorted(self.switches[name] for name in link.between)
            costs[low, high] = link.cost
        return costs

    def fixed_places(self) -> dict[str, int]:
        """Return the MAC addresses that belong to the NVA and the nodes, each with its switch's datapath id."""
        owners: list[Nva | InventoryNode] = [self.nva, *self.nodes.values()]
        return {
            owner.mac: self.switches[owner.switch]
            for owner in owners
            if owner.mac is not None and owner.switch is not None
        }

    def fixed_ports(self) -> dict[str, int]:
        """Return the MAC addresses of the NVA and the nodes whose port at their switch is known, and the port."""
        owners: list[Nva | InventoryNode] = [self.nva, *self.nodes.values()]
        return {
            owner.mac: owner.switch_port for owner in owners if owner.mac is not None and owner.switch_port is not None
        }

    def via(self, first: int, second: int) -> tuple[str, ...]:
        """Return the devices on the link from datapath ``first`` to ``second``, in order of travel."""
        for link in self.links:
            ends = tuple(self.switches[name] for name in link.between)
            if ends == (first, second):
                return link.via
            if ends == (second, first):
                return link.via[::-1]
        return ()


def load_inventory(path: Path) -> Inventory:
    """Read and check an inventory file; ConfigError is one sentence that names the file and the key."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
        raise ConfigError(f"{path}: cannot be read ({reason}); give an inventory file.") from None
    return parse_inventory(text, str(path))


def parse_inventory(text: str, source: str) -> Inventory:
    """Parse and check an inventory; ConfigError names ``source`` and the key at fault."""
    inventory = load(text, source, Inventory)
    fault = first_fault(inventory)
    if fault is not None:
        raise ConfigError(f"{source}: {fault}")
    return inventory


def first_fault(inventory: Inventory) -> str | None:
    """Return the first thing that contradicts another in an inventory, None when it is sound."""
    checks = (
        _check_switches,
        _check_links,
        _check_nodes,
        _check_places,
        _check_vnis,
        _check_mappings,
        _check_policy,
        _check_channel,
        _check_options,
        _check_groups,
        _check_enforcers,
    )
    for check in checks:
        fault = check(inventory)
        if fault is not None:
            return fault
    return None


def _duplicate(values: Iterable[Hashable]) -> Hashable | None:
    seen: set[Hashable] = set()
    for value in values:
        if value in seen:
            return value
        seen.add(value)
    return None


def _check_switches(inventory: Inventory) -> str | None:
    for name, dpid in inventory.switches.items():
        if not 1 <= dpid < 1 << 64:
            return f"key 'switches.{name}': {dpid} is no datapath id; expected 1 to 2^64-1."
    dpid_twice = _duplicate(inventory.switches.values())
    if dpid_twice is not None:
        return f"key 'switches': datapath id {dpid_twice} is given to two switches; give each its own."
    return None


def _check_links(inventory: Inventory) -> str | None:
    pairs: set[frozenset[str]] = set()
    devices: set[str] = set()
    for number, link in enumerate(inventory.links):
        for end in link.between:
            if end not in inventory.switches:
                return f"key 'links.{number}.between': no switch is named '{end}'; add it to 'switches'."
        pair = frozenset(link.between)
        if len(pair) < 2:
            return f"key 'links.{number}.between': the two switches must differ; correct one."
        if pair in pairs:
            return f"key 'links.{number}.between': these two switches have a link already; keep one."
        pairs.add(pair)
        for device in link.via:
            if device in devices:
                return f"key 'links.{number}.via': '{device}' is on a link already; keep one."
            if device in inventory.nodes and inventory.nodes[device].role is not Role.TRANSIT:
                return f"key 'links.{number}.via': '{device}' is no transit device; change its role or the link."
            devices.add(device)
    return None


def _check_nodes(inventory: Inventory) -> str | None:
    names = list(inventory.nodes) + list(inventory.switches) + [inventory.nva.name]
    for number, operator in enumerate(inventory.operators):
        if operator in names or operator in inventory.operators[:number]:
            return f"key 'operators.{number}': the name '{operator}' is in use already; give each operator its own."
    twice = _duplicate(names)
    if twice is not None:
        return f"key 'nodes.{twice}': the name is in use already; give each switch, node and the NVA its own."
    owners = {inventory.nva.address: inventory.nva.name}
    for name, node in inventory.nodes.items():
        owner = owners.get(node.address)
        if owner is not None:
            return f"key 'nodes.{name}.address': {node.address} belongs to '{owner}' already; change one."
        owners[node.address] = name
        if node.role is Role.NVE and node.switch is None:
            return f"key 'nodes.{name}.switch' is missing; an NVE needs the switch it is attached to."
        if node.vnis is not None and node.role is not Role.NVE:
            return f"key 'nodes.{name}.vnis': only an NVE serves VNIs; remove it."
        known = {vni.vni for vni in inventory.vnis}
        for vni in node.vnis or ():
            if vni not in known:
                return f"key 'nodes.{name}.vnis': VNI {vni} is not in 'vnis'; add it there or correct the number."
    return None


def _check_places(inventory: Inventory) -> str | None:
    owners: dict[str, Nva | InventoryNode] = {"nva": inventory.nva}
    owners |= {f"nodes.{name}": node for name, node in inventory.nodes.items()}
    holders: dict[str, str] = {}
    for where, owner in owners.items():
        if owner.switch is not None and owner.switch not in inventory.switches:
            return f"key '{where}.switch': no switch is named '{owner.switch}'; add it to 'switches'."
        if owner.switch_port is not None and (owner.mac is None or owner.switch is None):
            return f"key '{where}.switch_port': it is where a MAC address is at a switch; give 'mac' and 'switch'."
        if owner.mac is None:
            continue
        if owner.switch is None:
            return f"key '{where}.mac': it is believed at one switch only; say which in 'switch'."
        if owner.mac in holders:
            return f"key '{where}.mac': {owner.mac} belongs to '{holders[owner.mac]}' already; change one."
        holders[owner.mac] = where
    return None


def _check_vnis(inventory: Inventory) -> str | None:
    twice = _duplicate(profile.name for profile in inventory.profiles)
    if twice is not None:
        return f"key 'profiles': '{twice}' is given twice; keep one."
    profiles = {profile.name for profile in inventory.profiles}
    seen: set[int] = set()
    for number, vni in enumerate(inventory.vnis):
        where = f"key 'vnis.{number}"
        if vni.vni in seen:
            return f"{where}.vni': {vni.vni} is given twice; a VNI belongs to one tenant."
        seen.add(vni.vni)
        if (vni.action is Action.SECURE) != (vni.profile is not None):
            return f"{where}.profile': a profile belongs to the action 'secure' and to it only; correct it."
        if vni.profile is not None and vni.profile not in profiles:
            return f"{where}.profile': no profile is named '{vni.profile}'; add it to 'profiles'."
    return None


def _check_mappings(inventory: Inventory) -> str | None:
    vnis = {vni.vni: vni for vni in inventory.vnis}
    macs: set[tuple[int, str]] = set()
    ips: set[tuple[int, str]] = set()
    for number, mapping in enumerate(inventory.mappings):
        where = f"key 'mappings.{number}"
        if mapping.vni not in vnis:
            return f"{where}.vni': VNI {mapping.vni} is not in 'vnis'; add it there or correct the number."
        node = inventory.nodes.get(mapping.nve)
        if node is None or node.role is not Role.NVE:
            return f"{where}.nve': no NVE is named '{mapping.nve}'; add it to 'nodes'."
        if node.vnis is not None and mapping.vni not in node.vnis:
            return f"{where}.nve': '{mapping.nve}' does not serve VNI {mapping.vni}; add it to its 'vnis'."
        if mapping.tag and not vnis[mapping.vni].tags:
            return f"{where}.tag': packets of VNI {mapping.vni} carry no security groups; set its 'tags: true'."
        if (mapping.vni, mapping.mac) in macs:
            return f"{where}.mac': {mapping.mac} is in VNI {mapping.vni} already; each is unique in a VNI."
        macs.add((mapping.vni, mapping.mac))
        for ip in mapping.ips:
            if (mapping.vni, ip) in ips:
                return f"{where}.ips': {ip} is in VNI {mapping.vni} already; each is unique in a VNI."
            ips.add((mapping.vni, ip))
    return None


def _check_policy(inventory: Inventory) -> str | None:
    vnis = {vni.vni for vni in inventory.vnis}
    profiles = {profile.name for profile in inventory.profiles}
    kept = {rule.name for rule in inventory.rules()[len(inventory.policy) :]}
    for number, rule in enumerate(inventory.policy):
        where = f"key 'policy.{number}"
        if rule.name in kept:
            return f"{where}.name': '{rule.name}' is kept for what holds in that VNI otherwise; choose another."
        if rule.vni is not None and rule.vni not in vnis:
            return f"{where}.vni': VNI {rule.vni} is not in 'vnis'; add it there or correct the number."
        if rule.profile is not None and rule.profile not in profiles:
            return f"{where}.profile': no profile is named '{rule.profile}'; add it to 'profiles'."
    try:
        Policy(inventory.rules(), inventory.profiles)
    except ConfigError as error:
        return f"key 'policy': {error}"
    for number, profile in enumerate(inventory.profiles):
        for device in profile.devices:
            node = inventory.nodes.get(device)
            if node is None or node.role is not Role.TRANSIT:
                return f"key 'profiles.{number}.devices': '{device}' is no transit device; correct the name."
    return None


def _check_channel(inventory: Inventory) -> str | None:
    """Refuse a mixture: NVEs have sockets for one mechanism, and nothing goes in clear beside a channel."""
    used = {rule.profile for rule in inventory.rules() if rule.profile is not None}
    channels = {profile.channel for profile in inventory.profiles if profile.name in used}
    if channels <= {None}:
        return None
    if any(rule.action is Action.BYPASS for rule in inventory.rules()):
        return "key 'policy': packets that pass in clear have no way beside a channel; use 'secure' or 'discard'."
    if len(channels) > 1:
        return "key 'profiles': a channel protects all that NVEs send; use no other profiles beside one."
    return None


def _check_options(inventory: Inventory) -> str | None:
    for number, vni in enumerate(inventory.vnis):
        # What the NVEs add themselves: a second one in the same packet would be anyone's guess.
        kinds = {(TELEMETRY_CLASS, TELEMETRY_TYPE), (TAG_CLASS, TAG_TYPE), (SECURITY_CLASS, PADDING_TYPE)}
        for place, option in enumerate(vni.options):
            kind = (option.option_class, option.type)
            if kind in kinds or is_mechanism_option(*kind):
                return f"key 'vnis.{number}.options.{place}': its class and type are in use already; choose others."
            kinds.add(kind)
    return None


def _check_groups(inventory: Inventory) -> str | None:
    names: set[str] = set(inventory.nodes)
    addresses: set[str] = set()
    for number, vni in enumerate(inventory.vnis):
        if sum(not group.inner for group in vni.multicast) > 1:
            return f"key 'vnis.{number}.multicast': two groups are for all other addresses; give one of them 'inner'."
        for place, group in enumerate(vni.multicast):
            fault = _check_group(inventory, vni, group, names, addresses)
            if fault is not None:
                return f"key 'vnis.{number}.multicast.{place}.{fault}"
            names.add(group.name)
            addresses.add(group.address)
    return None


def _check_group(
    inventory: Inventory, vni: InventoryVni, group: MulticastGroup, names: set[str], addresses: set[str]
) -> str | None:
    """Return what is wrong with one group, its key's last part first; ``names`` and ``addresses`` are taken."""
    family = ipaddress.ip_address(inventory.nva.address).version
    if group.name in names:
        return f"name': '{group.name}' is in use already; give each group a name of its own."
    if group.address in addresses or ipaddress.ip_address(group.address).version != family:
        return f"address': expected an IPv{family} group that no other uses, found {group.address}."
    members = inventory.members(vni.vni)
    stranger = next((name for name in group.senders if name not in members), None)
    if stranger is not None:
        return f"senders': '{stranger}' is no NVE with tenants in VNI {vni.vni}; remove it."
    placeless = next((name for name in members if inventory.nodes[name].mac is None), None)
    if placeless is not None:
        return f"name': the underlay cannot find the member '{placeless}'; give 'nodes.{placeless}.mac'."
    return None


def _check_enforcers(inventory: Inventory) -> str | None:
    for number, vni in enumerate(inventory.vnis):
        where = f"key 'vnis.{number}"
        if vni.group_policy is not None and not vni.tags:
            return f"{where}.group_policy': packets of VNI {vni.vni} carry no security groups; set 'tags: true'."
        if vni.group_policy is not None and vni.multicast:
            return f"{where}.multicast': enforcers would drop packets to groups, which carry no tags for them."
        if vni.enforcers and vni.group_policy is None:
            return f"{where}.enforcers': there is no 'group_policy' to enforce; add one or remove them."
        for name in vni.enforcers:
            node = inventory.nodes.get(name)
            if node is None or node.role is not Role.TRANSIT:
                return f"{where}.enforcers': '{name}' is no transit device; correct the name."
    return None
