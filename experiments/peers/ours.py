"""Our NVE and its transit devices as contenders: the programs themselves, with keys from a file.

With a profile of a channel the same NVE protects its packets by DTLS or IPsec instead of security options.
"""

from __future__ import annotations

import base64
import datetime
import json
import secrets
import socket
from functools import partial
from pathlib import Path
from typing import Any

from controller.pki import TestbedCa
from experiments.peers.contender import Contender, Description, Kind, Running
from experiments.peers.network import (
    BRIDGED,
    DEVICE_ENDS,
    MACS,
    PORT,
    QUEUE,
    SIDES,
    UNDERLAY,
    UNDERLAY_MTU,
    WIRE,
    open_to_owner_only,
    other,
)
from experiments.programs import python_module
from geneve.control.channel import ChannelProtocol, Cipher, receiving_port
from geneve.control.profile import Coverage, InnerCoverage, KeyGranularity, Profile
from geneve.control.rules import Action, Rule
from geneve.control.state import (
    SECRET_SIZE,
    Association,
    AssociationRole,
    Mapping,
    NodeState,
    NveAddress,
    Role,
    TransitVni,
    VniState,
)
from geneve.export import DEVICE_KEY_SIZE
from geneve.offloads import ON
from geneve.overhead import max_options_size, tenant_mtu
from geneve.security.carriage import OptionSize
from geneve.telemetry import TELEMETRY_CLASS, TELEMETRY_OPTION_SIZE, TELEMETRY_TYPE
from topologies.daemon import wait_for
from topologies.profiles import BUILT_IN_PROFILES, CHANNEL_PROFILES

VNI = 100
_COLLECTOR_PORT = 6082
_COLLECTOR = "10.99.0.{}"
"""Address of a collector beside a device."""
_HEADERS = InnerCoverage.HEADERS
_START_SECONDS = 20.0

FULL = next(profile for profile in BUILT_IN_PROFILES if profile.name == "full")
HEADERS_ONLY = Profile(name="headers-only", egress=Coverage(authenticate_inner=_HEADERS, encrypt_inner=_HEADERS))


def node_states(
    profile: Profile | None, devices: tuple[str, ...], underlay_mtu: int = UNDERLAY_MTU
) -> dict[str, NodeState]:
    """Return the states of both NVEs and of the transit devices on the path, with fresh keys.

    ``profile`` None: no protection. With ``devices``, packets carry telemetry that each of them authenticates. With
    DTLS there are no keys in them: the NVEs agree on their own.
    """
    held: list[Association] = []
    for sender in SIDES:
        if profile is None or _is_dtls(profile):
            break
        for role, audience in (
            (AssociationRole.EGRESS, other(sender)), *((AssociationRole.TRANSIT, name) for name in devices)
        ):  # fmt: skip
            held.append(_association(profile, sender, role, audience, len(held)))
    states = {side: _nve_state(side, profile, devices, held, underlay_mtu) for side in SIDES}
    for device in devices:
        states[device] = NodeState(
            node=device, role=Role.TRANSIT, profiles=() if profile is None else (profile,),
            inbound=tuple(item for item in held if item.opens(device)),
            transit_vnis=(TransitVni(vni=VNI, telemetry=True, authenticated=profile is not None),),
        )  # fmt: skip
    return states


def _association(profile: Profile, sender: str, role: AssociationRole, audience: str, number: int) -> Association:
    secret = base64.b64encode(secrets.token_bytes(SECRET_SIZE)).decode()
    return Association.model_validate({
        "spi": 1000 + number, "role": role, "sender": sender, "audience": audience, "sender_address": UNDERLAY[sender],
        "vni": None if profile.key_granularity is KeyGranularity.PAIR else VNI, "profile": profile.name,
        "secret": secret,
    })  # fmt: skip


def _is_dtls(profile: Profile | None) -> bool:
    channel = None if profile is None else profile.channel
    return channel is not None and channel.protocol is ChannelProtocol.DTLS


def _nve_state(
    side: str, profile: Profile | None, devices: tuple[str, ...], held: list[Association], underlay_mtu: int
) -> NodeState:
    far = other(side)
    on_path = devices if side == SIDES[0] else tuple(reversed(devices))
    action = Action.BYPASS if profile is None else Action.SECURE
    return NodeState(
        node=side, role=Role.NVE,
        vnis=(VniState(
            vni=VNI, mtu=underlay_mtu - overhead(profile, len(devices), underlay_mtu), telemetry=bool(devices)
        ),),
        nves=(NveAddress(name=far, address=UNDERLAY[far], vnis=(VNI,), transit=on_path),),
        mappings=tuple(Mapping(vni=VNI, mac=MACS[name], ips=(BRIDGED[name],), nve=name) for name in SIDES),
        profiles=() if profile is None else (profile,),
        policy=(Rule(vni=VNI, action=action, profile=None if profile is None else profile.name),),
        outbound=tuple(item for item in held if item.sender == side),
        inbound=tuple(item for item in held if item.opens(side)),
    )  # fmt: skip


def overhead(profile: Profile | None, devices: int, underlay_mtu: int = UNDERLAY_MTU) -> int:
    """Return the bytes between the largest IP packet of a tenant and the underlay's MTU."""
    telemetry = [OptionSize(TELEMETRY_CLASS, TELEMETRY_TYPE, TELEMETRY_OPTION_SIZE)] if devices else []
    options = max_options_size(profile, telemetry, [f"device{number + 1}" for number in range(devices)])
    return underlay_mtu - tenant_mtu(underlay_mtu, 4, options, profile)


def protection(profile: Profile | None) -> str | None:
    """Return in words what is done to packets; None for nothing."""
    if profile is None:
        return None
    channel = profile.channel
    if channel is None:
        return f"AES-128-GCM, profile {profile.name}"
    return f"{'HMAC' if channel.cipher is Cipher.NULL else 'AES-128-GCM'}, {channel.protocol.value.upper()}"


def encrypts(profile: Profile | None) -> bool:
    """Return whether any part of inner frames is hidden."""
    if profile is None:
        return False
    if profile.channel is not None:
        return profile.channel.cipher is not Cipher.NULL
    return profile.egress.encrypt_inner is not InnerCoverage.NONE


class OurNve(Contender):
    """Two NVEs, and transit devices that verify between them; ``export``: these report to a collector each.

    Not ``batched``: one packet in a system call, as where IP itself carries the packets. ``ipsec``: whose ESP and AH.
    """

    def __init__(
        self, name: str, title: str, profile: Profile | None, devices: int = 0, *, export: bool = False,
        batched: bool = True, ipsec: str = "user-space", underlay_mtu: int = UNDERLAY_MTU, notes: str = "",
    ) -> None:  # fmt: skip
        super().__init__(Description(
            name, title, Kind.OURS, 2, overhead(profile, devices, underlay_mtu), protection(profile), encrypts(profile),
            devices=devices, notes=notes, underlay_mtu=underlay_mtu,
        ))  # fmt: skip
        self.profile = profile
        self._export, self._batched, self._ipsec = export, batched, ipsec

    def start(self, running: Running) -> None:
        """Start devices and NVEs and wait until all are ready."""
        names = tuple(running.network.devices)
        states = node_states(self.profile, names, self.description.underlay_mtu)
        credentials = _issue(running) if _is_dtls(self.profile) else {}
        for device in names:
            self._start_device(running, device, states[device])
        self._suit_wires(running, names)
        for side in SIDES:
            document = self._nve_document(running, side, states[side])
            if side in credentials:
                document["credentials"] = credentials[side]
            config = open_to_owner_only(running.side_folder(side) / "nve.json", json.dumps(document))
            running.launch(side, f"nve-{side}", python_module("nve", "--config", str(config)))
        for side in SIDES:
            _await_ready(running, side)
        for side in SIDES:
            running.network.node(side).ip([f"link set tap{VNI} txqueuelen {QUEUE}"])
        self.observe(running)

    def _nve_document(self, running: Running, side: str, state: NodeState) -> dict[str, Any]:
        channel = None if self.profile is None else self.profile.channel
        document: dict[str, Any] = {
            "name": side, "vnis": [{"vni": VNI, "ports": [PORT]}], "static_state": state.to_wire(),
            "underlay": {
                "address": UNDERLAY[side], "interface": WIRE, "mtu": self.description.underlay_mtu,
                "port": receiving_port(channel),
            },
            "sequence_file": str(running.side_folder(side) / "numbers.json"), "stats": _stats(running, side),
            "offloads": {"udp_segment": self._batched, "udp_gro": self._batched},
        }  # fmt: skip
        if channel is not None:
            document |= {"channel": channel.model_dump(mode="json"), "ipsec": self._ipsec}
        return document

    def _start_device(self, running: Running, device: str, state: NodeState) -> None:
        folder = running.side_folder(device)
        document: dict[str, Any] = {
            "name": device, "interfaces": list(DEVICE_ENDS), "static_state": state.to_wire(),
            "stats": _stats(running, device),
        }  # fmt: skip
        if self._export:
            document["collector"] = self._start_collector(running, device, folder)
        config = open_to_owner_only(folder / "transit.json", json.dumps(document))
        argv = python_module("transit", "--config", str(config))
        running.launch("transit", f"transit-{device}", argv, node=device)

    def _suit_wires(self, running: Running, devices: tuple[str, ...]) -> None:
        """Switch the offloads of the underlay off where a device cannot pass on packets that are not finished yet."""
        for device in devices:
            _await_ready(running, device)
            state = (_ask(running, device).get("offloads") or {}).get("vnet_header", "unknown to this version")
            if state != ON:
                running.facts["underlay_offloads"] = f"off, since vnet_header of {device} is: {state}"
        if "underlay_offloads" in running.facts:
            for side in SIDES:
                running.network.node(side).offloads_off(WIRE)

    def _start_collector(self, running: Running, device: str, folder: Path) -> dict[str, Any]:
        """Start a collector in the device's own namespace, at an address that the underlay does not have."""
        address = _COLLECTOR.format(running.network.devices.index(device) + 1)
        running.network.node(device).ip([f"address replace {address}/32 dev lo"])
        keys = folder / "keys"
        keys.mkdir(mode=0o700)
        key = open_to_owner_only(keys / f"{device}.key", secrets.token_hex(DEVICE_KEY_SIZE))
        argv = python_module(
            "transit.collector", "--listen", f"{address}:{_COLLECTOR_PORT}", "--keys", str(keys),
            "--output", str(folder / "telemetry.jsonl"),
        )  # fmt: skip
        running.launch("collector", f"collector-{device}", argv, node=device)
        return {"address": address, "port": _COLLECTOR_PORT, "key": str(key)}

    def observe(self, running: Running) -> None:
        """Note what became of the offloads, and what the nodes have counted so far."""
        for name in (*SIDES, *running.network.devices):
            document = _ask(running, name)
            running.facts.setdefault("offloads", {})[name] = document.get("offloads")
            running.facts.setdefault("mechanism", {})[name] = document.get("mechanism")
            running.facts.setdefault("drops", {})[name] = document.get("drops", {})
            if name in running.network.devices:
                running.facts.setdefault("counters", {})[name] = document.get("counters", {})


def _issue(running: Running) -> dict[str, dict[str, str]]:
    """Return the files of each end's certificate, made for this start only."""
    authority = TestbedCa(datetime.datetime.now(datetime.timezone.utc))
    found = {}
    for side in SIDES:
        folder, issued = running.side_folder(side), authority.issue_node(side)
        files = {"ca": authority.certificate, "certificate": issued.certificate, "key": issued.key}
        found[side] = {
            name: str(open_to_owner_only(folder / f"{name}.pem", content.decode())) for name, content in files.items()
        }  # fmt: skip
    return found


def _stats(running: Running, name: str) -> str:
    return str(running.side_folder(name) / "stats.sock")


def _await_ready(running: Running, name: str) -> None:
    wait_for(f"{name} to be ready", partial(_ready, running, name), running.daemons, _START_SECONDS)


def _ready(running: Running, name: str) -> bool:
    try:
        return bool(_ask(running, name)["ready"])
    except (OSError, ValueError):
        return False


def _ask(running: Running, name: str) -> dict[str, Any]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
        client.settimeout(5.0)
        client.connect(_stats(running, name))
        document: dict[str, Any] = json.loads(client.makefile("rb").read())
        return document


OURS = (
    OurNve("nve-none", "NVE none", None, notes="policy decides 'bypass'; no protection"),
    OurNve("nve-full", "NVE full", FULL, notes="everything authenticated and encrypted, replay window"),
    OurNve("nve-headers", "NVE headers-only", HEADERS_ONLY, notes="inner L2-L4 headers authenticated and encrypted"),
    OurNve("nve-full-1t", "NVE full, 1 transit", FULL, 1, notes="a transit device verifies telemetry"),
    OurNve("nve-full-2t", "NVE full, 2 transit", FULL, 2, notes="two transit devices verify telemetry"),
    OurNve("nve-full-2t-export", "NVE full, 2 + export", FULL, 2, export=True,
           notes="and each sends a record of each packet to a collector beside it"),
)  # fmt: skip
"""Our contenders, in the order of tables."""

CHANNELS = tuple(
    OurNve(f"nve-{profile.name}", f"NVE {profile.name}", profile, notes="a channel below Geneve in place of options")
    for profile in CHANNEL_PROFILES
)
"""The same NVE with the mechanisms that the draft compares, in the order of tables."""
