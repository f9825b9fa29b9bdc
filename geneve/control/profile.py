"""Security profiles: what is authenticated, encrypted, hidden and padded, for which audience, under which keys.

A profile is a property of associations, agreed through the NVA and bound into their keys; no packet
carries it. What the wire looks like under each setting is docs/wire-format.md.
"""

from __future__ import annotations

from collections.abc import Iterator
from enum import Enum

from pydantic import Field, field_serializer, model_validator

from geneve.config import StrictModel
from geneve.control.channel import Channel, ChannelProtocol, Cipher
from geneve.control.names import Name
from geneve.header import MAX_OPTIONS_SIZE, HeaderField

BINDING_FIELDS = frozenset({HeaderField.VNI, HeaderField.PROTOCOL_TYPE})
"""Header fields bound to the payload whenever it is authenticated (design invariant 3)."""

MAX_PACKETS = 2**48
"""Largest hard limit: packets of one association, in numbers that no run of a testbed reaches."""


class Aead(str, Enum):
    """AEAD algorithms an association can use (RFC 8221, section 5): 12-byte nonces, 16-byte tags."""

    AES_128_GCM = "aes-128-gcm"
    AES_256_GCM = "aes-256-gcm"
    CHACHA20_POLY1305 = "chacha20-poly1305"


class KeyGranularity(str, Enum):
    """What has keys of its own (SEC-GEN-16, SEC-OP-10): each pair of NVEs, VNI, policy rule, or inner flow."""

    PAIR = "pair"
    VNI = "vni"
    RULE = "rule"
    FLOW = "flow"


class SourceProof(str, Enum):
    """How a multicast packet proves its sender to the group's members (SEC-GEN-17)."""

    ED25519 = "ed25519"
    MERKLE = "merkle"


class OptionSelector(StrictModel):
    """Selects options by class and type (the type octet, critical bit included)."""

    option_class: int = Field(ge=0, le=0xFFFF)
    type: int = Field(ge=0, le=0xFF)


class InnerCoverage(str, Enum):
    """How much of the inner frame is covered: nothing, its L2-L4 headers, or all of it."""

    NONE = "none"
    HEADERS = "headers"
    ALL = "all"

    def __le__(self, other: object) -> bool:
        """Order by how much is covered."""
        if not isinstance(other, InnerCoverage):
            return NotImplemented
        order = tuple(InnerCoverage)
        return order.index(self) <= order.index(other)


def _sorted(fields: frozenset[HeaderField]) -> list[str]:
    """Return header fields in one order: that of a set is another in each process, and texts are compared."""
    return sorted(field.value for field in fields)


class Coverage(StrictModel):
    """What one audience's security option authenticates, encrypts and reveals.

    ``options=None`` authenticates every option of the packet, security options in front of its own included.
    ``hidden_options`` travel inside this security option, readable by its audience only. ``reveal_header``
    are the hidden header fields whose true values this audience is told (an egress NVE is told them all).
    """

    header: frozenset[HeaderField] = frozenset(HeaderField)
    reveal_header: frozenset[HeaderField] = frozenset()
    options: tuple[OptionSelector, ...] | None = None
    hidden_options: tuple[OptionSelector, ...] = ()
    authenticate_inner: InnerCoverage = InnerCoverage.ALL
    encrypt_inner: InnerCoverage = InnerCoverage.ALL

    @field_serializer("header", "reveal_header", when_used="json")
    def _in_order(self, value: frozenset[HeaderField]) -> list[str]:
        return _sorted(value)

    @model_validator(mode="after")
    def _encryption_is_authenticated(self) -> Coverage:
        if not self.encrypt_inner <= self.authenticate_inner:
            raise ValueError(
                f"what is encrypted is authenticated too: give authenticate_inner '{self.encrypt_inner.value}' or more"
            )
        if self.authenticate_inner is not InnerCoverage.NONE and not self.header >= BINDING_FIELDS:
            raise ValueError("who authenticates the inner frame must cover the header's vni and protocol_type")
        return self


class PaddingMode(str, Enum):
    """How the encrypted inner frame is padded (SEC-GEN-6)."""

    NONE = "none"
    MULTIPLE = "multiple"
    BUCKETS = "buckets"
    MTU = "mtu"
    RANDOM = "random"


class Padding(StrictModel):
    """Padding of the encrypted part, in bytes: to a multiple, to the next bucket, to the largest frame, or at random.

    What does not fit a bucket is padded to the largest size; random padding is 0 to ``most`` bytes.
    """

    mode: PaddingMode = PaddingMode.NONE
    multiple: int | None = Field(default=None, ge=2, le=4096)
    buckets: tuple[int, ...] = ()
    most: int | None = Field(default=None, ge=1, le=9000)

    @model_validator(mode="after")
    def _parameters_of_the_mode(self) -> Padding:
        given = {
            PaddingMode.MULTIPLE: self.multiple is not None,
            PaddingMode.BUCKETS: bool(self.buckets),
            PaddingMode.RANDOM: self.most is not None,
        }
        names = {PaddingMode.MULTIPLE: "multiple", PaddingMode.BUCKETS: "buckets", PaddingMode.RANDOM: "most"}
        for mode, there in given.items():
            if there != (mode is self.mode):
                raise ValueError(f"key '{names[mode]}' belongs to the mode '{mode.value}' and to it only")
        if any(low >= high for low, high in zip(self.buckets, self.buckets[1:], strict=False)) or (
            self.buckets and not 64 <= self.buckets[0] <= self.buckets[-1] <= 9000
        ):
            raise ValueError("buckets are sizes from 64 to 9000 bytes, ascending, none twice")
        return self


class DummyMode(str, Enum):
    """When dummy packets are sent (SEC-GEN-7)."""

    CONSTANT = "constant"
    POISSON = "poisson"
    FILL = "fill"


class Dummies(StrictModel):
    """Dummy packets to each peer of a VNI: ``rate`` in packets per second.

    ``fill`` sends only what data leaves free of the rate. ``sizes`` are the frame sizes in bytes that dummies
    imitate, one chosen at random each time; none means the largest frame.
    """

    mode: DummyMode
    rate: float = Field(gt=0, le=100_000, allow_inf_nan=False)
    sizes: tuple[int, ...] = ()

    @model_validator(mode="after")
    def _sizes_of_frames(self) -> Dummies:
        if any(not 14 <= size <= 9014 for size in self.sizes):
            raise ValueError("sizes of dummies are those of frames, from 14 to 9014 bytes")
        return self


_OPTIONS_ONLY = (
    "aead", "egress", "transit", "devices", "group", "hidden_header", "options_size", "source_proof",
)  # fmt: skip
"""Keys of a profile that a channel cannot have."""


class Profile(StrictModel):
    """A named set of protections: a coverage for each audience, keys, padding, dummies and limits.

    ``transit`` applies to each transit device on the path, unless ``devices`` names the device. ``group`` is one
    security option that all transit devices on the path and the egress NVE can open (SEC-GEN-5).
    ``hidden_header`` fields show a constant on the wire (SEC-GEN-4); hiding ``opt_len`` needs ``options_size``,
    the constant size of all options. Limits count packets of one association.

    ``rekey_seconds`` after it made an association the NVA replaces it. ``lifetime_seconds`` after a node first held
    it, by the node's own clock, the node stops to use it for good, whatever has become of the NVA; where nobody
    replaces keys, as those of a file, that ends the service. None: no limit in time. Neither is part of the keys.

    With a ``channel`` Geneve datagrams are protected whole, from one NVE to another, and carry no security options:
    what is said of audiences, header fields and keys finer than a pair of NVEs then has no meaning and is refused.
    Padding and dummies are ESP's own (RFC 4303, sections 2.6 and 2.7).
    """

    name: Name
    channel: Channel | None = None
    aead: Aead = Aead.AES_128_GCM
    key_granularity: KeyGranularity = KeyGranularity.VNI
    egress: Coverage = Coverage()
    transit: Coverage | None = None
    devices: dict[Name, Coverage] = {}
    group: Coverage | None = None
    hidden_header: frozenset[HeaderField] = frozenset()
    options_size: int | None = Field(default=None, ge=32, le=MAX_OPTIONS_SIZE, multiple_of=4)
    padding: Padding = Padding()
    dummies: Dummies | None = None
    source_proof: SourceProof = SourceProof.ED25519
    replay_window: int = Field(default=1024, ge=64, le=65536, multiple_of=64)
    soft_limit: int = Field(default=2**27, ge=1, le=MAX_PACKETS)
    hard_limit: int = Field(default=2**28, ge=1, le=MAX_PACKETS)
    rekey_seconds: float | None = Field(default=3600.0, gt=0, allow_inf_nan=False)
    lifetime_seconds: float | None = Field(default=14400.0, gt=0, allow_inf_nan=False)

    @field_serializer("hidden_header", when_used="json")
    def _in_order(self, value: frozenset[HeaderField]) -> list[str]:
        return _sorted(value)

    @property
    def padded(self) -> bool:
        """Whether the encrypted part says its own length, so that padding and dummies can be told from data."""
        return self.padding.mode is not PaddingMode.NONE or self.dummies is not None

    def device_coverage(self, device: str) -> Coverage | None:
        """Return what the transit device named is to authenticate and read; None: nothing."""
        return self.devices.get(device, self.transit)

    def _others(self) -> Iterator[tuple[str, Coverage]]:
        if self.transit is not None:
            yield "transit", self.transit
        for name, coverage in self.devices.items():
            yield f"devices.{name}", coverage
        if self.group is not None:
            yield "group", self.group

    @model_validator(mode="after")
    def _one_encryption_of_the_inner_frame(self) -> Profile:
        for key, coverage in self._others():
            if coverage.encrypt_inner is not InnerCoverage.NONE and key != "group":
                raise ValueError(f"the inner frame is no single transit device's: set {key}.encrypt_inner to 'none'")
            if (
                coverage.authenticate_inner is not InnerCoverage.NONE
                and self.egress.encrypt_inner is not InnerCoverage.NONE
            ):
                raise ValueError(
                    f"the egress NVE's option encrypts the inner frame last, so no other can cover it: set "
                    f"{key}.authenticate_inner and {key}.encrypt_inner to 'none', or egress.encrypt_inner"
                )
        if self.padded and self.egress.encrypt_inner is not InnerCoverage.ALL:
            raise ValueError("padding and dummies sit inside the encrypted part: set egress.encrypt_inner to 'all'")
        return self

    @model_validator(mode="after")
    def _hidden_header(self) -> Profile:
        if self.egress.reveal_header:
            raise ValueError("an egress NVE is told every hidden field: leave out egress.reveal_header")
        for key, coverage in self._others():
            if not coverage.reveal_header <= self.hidden_header:
                raise ValueError(f"{key}.reveal_header names a field that is not in hidden_header")
        if (HeaderField.OPT_LEN in self.hidden_header) != (self.options_size is not None):
            raise ValueError("hiding opt_len and options_size, the constant size of all options, belong together")
        return self

    @model_validator(mode="after")
    def _channel_alone(self) -> Profile:
        if self.channel is None:
            return self
        default = Profile.model_fields
        for key in _OPTIONS_ONLY:
            if getattr(self, key) != default[key].get_default(call_default_factory=True):
                raise ValueError(f"'{key}' is a matter of security options: a channel protects whole datagrams")
        if self.key_granularity is not KeyGranularity.PAIR:
            raise ValueError("a channel has keys for each pair of NVEs: set key_granularity to 'pair'")
        encrypts = self.channel.protocol is ChannelProtocol.ESP and self.channel.cipher is not Cipher.NULL
        if self.padded and not encrypts:
            raise ValueError("of channels only ESP pads and has dummies, and hides them only where it encrypts")
        return self

    @model_validator(mode="after")
    def _soft_before_hard(self) -> Profile:
        if self.soft_limit > self.hard_limit:
            raise ValueError("soft_limit is larger than hard_limit, so nobody would ask for new keys in time")
        if (
            self.rekey_seconds is not None
            and self.lifetime_seconds is not None
            and self.rekey_seconds >= self.lifetime_seconds
        ):
            raise ValueError(
                f"rekey_seconds ({self.rekey_seconds:g}) must be less than lifetime_seconds "
                f"({self.lifetime_seconds:g}), or keys end before they are replaced"
            )
        return self
