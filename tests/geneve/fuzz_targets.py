"""What reads bytes from strangers, as targets for fuzzing: each takes any bytes and may raise nothing."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Callable
from pathlib import Path

from experiments.audit.capture_audit import audit_capture
from experiments.audit.evaluation import evaluate
from experiments.audit.findings import find
from experiments.audit.observer import Observer
from experiments.audit.page import render
from experiments.capture_file import CaptureError
from experiments.underlay import LINK_NAMES
from geneve.control import jsonrpc
from geneve.control.protocol import ConfirmAsked, Identity, NodeProtocol, Progress, SessionError, StateReceived
from geneve.control.state import Role
from geneve.drops import DropReason
from geneve.errors import ParseError
from geneve.inner import parse_inner
from geneve.option import parse_options
from geneve.outer import build_datagram, build_frame
from geneve.packet import parse_packet
from geneve.security.association import InboundAssociation
from geneve.security.open import Burst, Opened, PacketOpener
from geneve.security.transit import TransitVerifier, Verified
from nve.datagrams import Received
from nve.dataplane import Dataplane
from nve.fdb import parse_messages
from nve.ipsec.ah import Addresses
from nve.ipsec.esp import NEXT_UDP, Esp
from nve.presence import Presence
from nve.too_big import build_too_big
from tests.geneve.make_vectors import PROFILES, associations
from tests.nve.ipsec.ipsec_support import KINDS, Pair
from tests.support import node_state, source
from tests.transit.builders import MAC_A, MAC_B, device_state
from transit.device import TransitDevice

CORPUS = Path(__file__).parents[1] / "corpus"
HERE = source("nve1")


def _ends(node: str) -> list[list[InboundAssociation]]:
    """Return what a node holds under each profile of the vectors."""
    held = []
    for feature, (_, profiles) in PROFILES.items():
        for _, made in profiles:
            held.append([InboundAssociation(item, made) for item in associations(made, feature) if item.opens(node)])
    return held


_OPENERS = [PacketOpener(ends) for ends in _ends("nve2") if ends]
_VERIFIERS = [TransitVerifier(ends) for ends in _ends("t1") if ends]
_NVE = Dataplane("nve2", bytes(32))
_NVE.apply(node_state("nve2", telemetry=True))
_DEVICE = TransitDevice("t1")
_DEVICE.apply(device_state("t1"))


def fuzz_parser(data: bytes) -> None:
    """Options and whole packets: parsed and built again they are the same."""
    with contextlib.suppress(ParseError):
        packet = parse_packet(data)
        assert packet.build() == data
    with contextlib.suppress(ParseError):
        block = parse_options(data)
        assert b"".join(option.build() for option in block) == data


def fuzz_opener(data: bytes) -> None:
    """An NVE under every profile; the first byte picks one."""
    result = _OPENERS[data[0] % len(_OPENERS)].open(data[1:], HERE) if data else DropReason.MALFORMED
    assert isinstance(result, (Opened, DropReason))
    if isinstance(result, Opened) and result.association is None:
        result.options()


def fuzz_transit(data: bytes) -> None:
    """A transit device's verifier, and the device with a whole frame."""
    if data:
        result = _VERIFIERS[data[0] % len(_VERIFIERS)].verify(data[1:], HERE)
        assert result is None or isinstance(result, (Verified, DropReason))
    assert _DEVICE.process(MAC_A + MAC_B + data, 0, 0).forward, "a device without group policy never drops"


def fuzz_inner(data: bytes) -> None:
    """The inner frame's headers, and the message about a frame that is too big."""
    with contextlib.suppress(ParseError):
        inner = parse_inner(data)
        assert 14 <= inner.headers_end <= len(data)
        build_too_big(data, inner, 1300)


def fuzz_ipsec(data: bytes) -> None:
    """IPsec at the egress NVE: as a stranger's, with the first byte picking kind and size; then as a sender's text."""
    if not data:
        return
    name, version = KINDS[data[0] % len(KINDS)]
    pair = Pair(name, version)
    for size in (len(data), 1 + data[0] * 2):
        for result in pair.open_burst(data[1:], size):
            assert isinstance(result, (Burst, DropReason))
    codec = pair.out.codec
    if isinstance(codec, Esp):
        text = data[1:].ljust(4, b"\0")
        packet = codec.seal_texts(1, [text[: len(text) // 4 * 4]])[0]
    else:
        packet = codec.seal(1, data[1:], NEXT_UDP if data[0] < 200 else data[0], Addresses(*pair.addresses))
    (result,) = pair.open(packet)
    assert result is not DropReason.AUTHENTICATION_FAILED
    assert pair.open(packet) == [DropReason.REPLAYED]


def fuzz_nve(data: bytes) -> None:
    """The whole NVE, from both sides."""
    _NVE.from_underlay([Received(data, HERE)])
    _NVE.from_tenants(100, [data])


def fuzz_netlink(data: bytes) -> None:
    """What the kernel tells of bridges, and what the NVE makes of it."""
    with contextlib.suppress(ParseError):
        events = [message.event for message in parse_messages(data) if message.event is not None]
        presence = Presence()
        presence.add_bridge(100, 3, 4)
        presence.set_learned([100], 0.0)
        presence.handle(events, 0.0)
        presence.resync(events, 1.0)
        presence.report()


def fuzz_control(data: bytes) -> None:
    """A node's side of the control protocol: one message in JSON, before and after registration, twice each."""
    for epoch in (None, "e1"):
        progress = Progress(epoch, 0 if epoch is None else 1)
        protocol = NodeProtocol(Identity("nve1", Role.NVE, "aa", "nva"), progress, 0.0)
        if epoch is not None:
            protocol.handle(jsonrpc.Response(1, {"epoch": epoch}), 0.0)
        for _ in range(2):
            with contextlib.suppress(ParseError):
                message = jsonrpc.decode(data)
                with contextlib.suppress(SessionError):
                    for event in protocol.handle(message, 0.0):
                        if isinstance(event, StateReceived):
                            protocol.acknowledge(event)
                        elif isinstance(event, ConfirmAsked):
                            protocol.confirm(event.vni, event.mac, True)
        for answer in protocol.take_outgoing():
            jsonrpc.encode(answer)


def fuzz_audit(data: bytes) -> None:
    """A capture from anywhere: the bytes as a file, as a frame of every link type, and as what Geneve's port gets."""
    with contextlib.suppress(CaptureError), tempfile.NamedTemporaryFile() as file:
        file.write(data)
        file.flush()
        render(audit_capture(file.name))
    datagram = build_frame(MAC_A, MAC_B, build_datagram("192.168.1.1", "192.168.1.2", 50000, data, checksum=False))
    observer = Observer()
    observer.watch((1, 1.0, linktype, data, len(data)) for linktype in LINK_NAMES)
    observer.watch([(2, 2.0, 1, datagram, len(datagram))])
    seen = observer.finish()
    evaluate(seen)
    find(seen)


TARGETS: dict[str, Callable[[bytes], None]] = {
    "parser": fuzz_parser,
    "opener": fuzz_opener,
    "transit": fuzz_transit,
    "inner": fuzz_inner,
    "ipsec": fuzz_ipsec,
    "nve": fuzz_nve,
    "control": fuzz_control,
    "netlink": fuzz_netlink,
    "audit": fuzz_audit,
}
