"""The NVE's configuration file (YAML or JSON)."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, model_validator

from geneve.config import StrictModel, load
from geneve.control.channel import Channel, ChannelProtocol
from geneve.control.names import IpAddress, Name, Vni
from geneve.control.nva import Nva
from geneve.control.state import NodeState, Role, refuse_open_secrets
from geneve.errors import ConfigError
from geneve.header import GENEVE_PORT
from geneve.offloads import NveOffloads


def _check_interface(value: str) -> str:
    if not 1 <= len(value) <= 15 or "/" in value or any(character.isspace() for character in value):
        raise ValueError("expected an interface name of 1 to 15 characters, without spaces or slashes")
    return value


InterfaceName = Annotated[str, AfterValidator(_check_interface)]


class Underlay(StrictModel):
    """The NVE's side of the underlay. ``mtu`` in bytes; ``dscp`` of outer packets, or "inherit".

    ``interface`` is the one with the address; it is needed only where underlay multicast is used.
    """

    address: IpAddress
    interface: InterfaceName | None = None
    port: int = Field(default=GENEVE_PORT, ge=1, le=65535)
    mtu: int = Field(default=1500, ge=1280, le=65535)
    source_ports: int = Field(default=32, ge=1, le=256)
    dscp: Annotated[int, Field(ge=0, le=63)] | Literal["inherit"] = 0


class LocalVni(StrictModel):
    """A VNI served here, and the local tenants' interfaces that belong to it."""

    vni: Vni
    ports: tuple[InterfaceName, ...] = ()


class Credentials(StrictModel):
    """PEM files: the CA that all NVEs trust, this NVE's certificate, its private key."""

    ca: str
    certificate: str
    key: str


class NveConfig(StrictModel):
    """The whole file. Exactly one of ``nva`` and ``static_state`` says where the state comes from.

    ``signing_key`` is a file (64 hex digits, mode 0600) with the seed of the Ed25519 key that proves multicast
    packets; without it the process makes a key of its own. ``key_log`` is a file to which all keys are
    written, for demonstrations only. With a ``channel`` everything is protected by that, and ``underlay.port`` is the
    channel's; ``ipsec`` says whose ESP and AH are used. ``credentials`` are for DTLS; without them those for the NVA
    serve.
    """

    name: Name
    channel: Channel | None = None
    ipsec: Literal["user-space", "kernel", "auto"] = "user-space"
    credentials: Credentials | None = None
    underlay: Underlay
    vnis: tuple[LocalVni, ...] = Field(min_length=1)
    offloads: NveOffloads = NveOffloads()
    nva: Nva | None = None
    static_state: NodeState | None = None
    sequence_file: str | None = None
    signing_key: str | None = None
    key_log: str | None = None
    stats: str | None = None

    @model_validator(mode="after")
    def _whole(self) -> NveConfig:
        if (self.nva is None) == (self.static_state is None):
            raise ValueError("give exactly one of 'nva' (state from the controller) and 'static_state'")
        numbers = [vni.vni for vni in self.vnis]
        if len(set(numbers)) != len(numbers):
            raise ValueError("key 'vnis' names a VNI twice")
        ports = [port for vni in self.vnis for port in vni.ports]
        if len(set(ports)) != len(ports):
            raise ValueError("key 'vnis' gives one port to two VNIs")
        state = self.static_state
        if state is not None:
            if state.node != self.name or state.role is not Role.NVE:
                raise ValueError(f"key 'static_state' is not for an NVE named {self.name!r}")
            if state.outbound and self.sequence_file is None:
                raise ValueError(
                    "key 'sequence_file' is missing: keys from a file survive a restart, so the sequence "
                    "numbers must too, or a nonce would repeat"
                )
        return self

    @model_validator(mode="after")
    def _dtls_has_credentials(self) -> NveConfig:
        dtls = self.channel is not None and self.channel.protocol is ChannelProtocol.DTLS
        if dtls and self.credentials is None and self.nva is None:
            raise ValueError("key 'credentials' is missing: DTLS needs a certificate and its key")
        return self

    @model_validator(mode="after")
    def _kernel_has_fresh_keys(self) -> NveConfig:
        held = self.static_state is not None and self.static_state.outbound
        if self.channel is not None and self.ipsec != "user-space" and held:
            raise ValueError(
                f"key 'ipsec' is '{self.ipsec}' and 'static_state' has keys to send with: the kernel's sequence "
                "numbers start again with each start, under the same keys; set it to 'user-space'"
            )
        return self

    @property
    def dscp(self) -> int | None:
        """The outer DSCP, or None to copy the inner one."""
        return None if self.underlay.dscp == "inherit" else self.underlay.dscp


def load_config(path: Path) -> NveConfig:
    """Read and check ``path``; ConfigError in one sentence, also when secrets lie open to others."""
    try:
        text = path.read_text(encoding="utf-8")
        mode = path.stat().st_mode
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read ({error}).") from None
    config = load(text, str(path), NveConfig)
    refuse_open_secrets(config.static_state, mode, str(path))
    return config
