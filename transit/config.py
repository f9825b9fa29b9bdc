"""The transit device's configuration file (YAML or JSON)."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, Field, model_validator

from geneve.config import StrictModel, load
from geneve.control.names import IpAddress, Name
from geneve.control.nva import Nva
from geneve.control.state import NodeState, Role, refuse_open_secrets
from geneve.errors import ConfigError
from geneve.offloads import TransitOffloads


def _check_interface(value: str) -> str:
    if not 1 <= len(value.encode()) <= 15 or "/" in value or any(character.isspace() for character in value):
        raise ValueError("expected an interface name of 1 to 15 characters, without spaces or slashes")
    return value


InterfaceName = Annotated[str, AfterValidator(_check_interface)]
Port = Annotated[int, Field(ge=1, le=65535)]
Probability = Annotated[float, Field(ge=0.0, le=1.0, allow_inf_nan=False)]
Milliseconds = Annotated[float, Field(ge=0.0, le=60_000.0, allow_inf_nan=False)]


class Impair(StrictModel):
    """What the device does to traffic on purpose, in each direction on its own.

    ``delay_ms`` is added to every frame, varied evenly by up to ``jitter_ms`` either way; ``loss`` and
    ``reorder`` are probabilities per frame; ``rate_mbit`` counts whole frames. The same ``seed``
    gives the same decisions for the same sequence of frames.
    """

    delay_ms: Milliseconds = 0.0
    jitter_ms: Milliseconds = 0.0
    loss: Probability = 0.0
    reorder: Probability = 0.0
    rate_mbit: Annotated[float, Field(gt=0.0, le=100_000.0, allow_inf_nan=False)] | None = None
    seed: int = 1

    @model_validator(mode="after")
    def _jitter_within_delay(self) -> Impair:
        if self.jitter_ms > self.delay_ms:
            raise ValueError("key 'jitter_ms' is larger than 'delay_ms', so some delays would be negative")
        return self

    @property
    def idle(self) -> bool:
        """Whether nothing at all is asked for."""
        return not (self.delay_ms or self.loss or self.reorder or self.rate_mbit)


class Collector(StrictModel):
    """Where telemetry records go, over UDP, and the file with the key that seals them (64 hex digits, mode 0600)."""

    address: IpAddress
    port: Port
    key: str = Field(min_length=1)


class TransitConfig(StrictModel):
    """The whole file. Without ``nva`` and ``static_state`` the device is a plain relay."""

    name: Name
    interfaces: tuple[InterfaceName, InterfaceName]
    impair: Impair | None = None
    nva: Nva | None = None
    static_state: NodeState | None = None
    collector: Collector | None = None
    stats: str | None = None
    offloads: TransitOffloads = TransitOffloads()

    @model_validator(mode="after")
    def _whole(self) -> TransitConfig:
        if self.interfaces[0] == self.interfaces[1]:
            raise ValueError("key 'interfaces' names one interface twice; a relay needs two")
        if self.nva is not None and self.static_state is not None:
            raise ValueError("give 'nva' (state from the controller) or 'static_state', not both")
        state = self.static_state
        if state is not None and (state.node != self.name or state.role is not Role.TRANSIT):
            raise ValueError(f"key 'static_state' is not for a transit device named {self.name!r}")
        return self


def load_config(path: Path) -> TransitConfig:
    """Read and check ``path``; ConfigError in one sentence, also when secrets lie open to others."""
    try:
        text = path.read_text(encoding="utf-8")
        mode = path.stat().st_mode
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read ({error}).") from None
    config = load(text, str(path), TransitConfig)
    refuse_open_secrets(config.static_state, mode, str(path))
    return config
