"""Looks at the frames of a capture one by one and remembers what matters for the requirements (``records.py``).

Most packets belong to a flow that is known, and cost a few dictionary look-ups; only the first packets of a flow are
read as a whole. All tables are bounded, whatever is in the capture.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable

from experiments.audit.counters import Count, Table
from experiments.audit.inside import flow_key, read_inside
from experiments.audit.payload import Content, entropy, is_dtls, is_wireguard, recognise
from experiments.audit.records import (
    MAX_FLOWS,
    MAX_NAMES,
    OPAQUE,
    SAMPLE,
    Flow,
    Key,
    Kind,
    Network,
    OptionSeen,
    Seen,
    Shape,
    count_size,
    named,
)
from experiments.capture_file import Record
from experiments.underlay import (
    ETHERTYPE_MACSEC,
    LINK_NAMES,
    PROTOCOL_AH,
    PROTOCOL_ESP,
    PROTOCOL_UDP,
    authenticated_by_ah,
    find_network,
    parse_network,
)
from experiments.underlay import (
    Network as Packet,
)
from geneve.control.channel import DTLS_PORT, ESP_UDP_PORT
from geneve.errors import ParseError
from geneve.header import BASE_HEADER_SIZE, ETHERTYPE_TEB, GENEVE_PORT
from geneve.inner import ETHERTYPE_IPV4, ETHERTYPE_IPV6
from geneve.outer import UDP_SIZE, address_text
from geneve.security.option import SECURITY_CLASS, SecuritySpan, scan_options

WIREGUARD_PORTS = frozenset({51820, 51871})
"""WireGuard's usual port, and Cilium's."""
IKE_PORT = 500

_APPLICATION_DATA = 23
_LONGEST_IV = 16
"""Bytes at the start of ciphertext that may be a counter, so no sign of encryption or its absence (RFC 4106: 8)."""

_MAX_SHAPES = 4096
_MAX_REGULAR = 200
_MAX_TOP = 50
_OURS = SECURITY_CLASS.to_bytes(2, "big")
_NOT_SHAPED = Shape(())


class Observer:
    """Takes frames; ``seen`` is what they showed. Call :meth:`finish` once at the end."""

    def __init__(self, ports: Iterable[int] = (GENEVE_PORT,)) -> None:
        self.ports = frozenset(ports)
        self.seen = Seen()
        self._port_bytes = {port.to_bytes(2, "big") for port in self.ports}
        self._flows: Table[tuple[object, ...], Flow] = Table(MAX_FLOWS, lambda flow: flow.packets, self._fold_early)
        self._rows = self._flows.rows
        self._shapes: dict[bytes, Shape] = {b"": _NOT_SHAPED}

    def watch(self, records: Iterable[Record]) -> None:
        """Take in all ``records``."""
        ports, geneve, slow, frames = self._port_bytes, self._geneve, self._frame, self.seen.frames
        for number, time, linktype, data, wire in records:
            frames.packets = number
            frames.bytes += wire
            self.seen.stop = time
            if self.seen.start is None:
                self.seen.start = time
            # Ethernet, IPv4 without options, no fragment, UDP, to a port of Geneve; all else takes the long way.
            if (
                linktype == 1
                and data[12:15] == b"\x08\x00\x45"
                and data[36:38] in ports
                and data[23] == PROTOCOL_UDP
                and not data[20] & 0x3F
                and not data[21]
                and (data[16] or data[17])
            ):
                end = 14 + (data[16] << 8 | data[17])
                geneve(number, time, data, 42, end, data[26:38], "")
            else:
                slow(number, time, linktype, data, wire)

    def _frame(self, number: int, time: float, linktype: int, data: bytes, wire: int) -> None:
        found = find_network(linktype, data)
        if found is None:
            name = "frames of link types that are not read" if linktype not in LINK_NAMES else "frames without IP"
            self.seen.fact(name, number, wire)
            return
        kind, at = found
        if kind == ETHERTYPE_MACSEC:
            self._macsec(number, time, data, at)
            return
        packet = parse_network(data, kind, at)
        if packet is None:
            self.seen.fact("frames without IP", number, wire)
            return
        self._packet(number, time, data, packet, "")

    def _packet(self, number: int, time: float, data: bytes, packet: Packet, cover: str) -> None:
        if packet.fragment:
            self._fragment(number, data, packet)
            return
        if packet.protocol == PROTOCOL_UDP:
            self._udp(number, time, data, packet, cover)
        elif packet.protocol == PROTOCOL_ESP:
            self._esp(number, time, data, packet, packet.transport, "ESP")
        elif packet.protocol == PROTOCOL_AH and not cover:
            inner = authenticated_by_ah(packet, data)
            if inner is not None:
                spi, sequence = data[packet.transport + 4 : packet.transport + 8], data[packet.transport + 8 :][:4]
                body = data[inner.transport : packet.end]
                self._key(number, time, packet, "AH", spi, int.from_bytes(sequence, "big"), body)
                self._packet(number, time, data, inner, "AH")
        else:
            self.seen.fact("other packets", number, packet.end - packet.transport)

    def _fragment(self, number: int, data: bytes, packet: Packet) -> None:
        """Count a fragment where Geneve or what protects it may be inside; the first part only has ports."""
        if packet.protocol in (PROTOCOL_ESP, PROTOCOL_AH):
            self.seen.fact("fragments of ESP or AH", number)
        elif packet.protocol == PROTOCOL_UDP and packet.first:
            port = int.from_bytes(data[packet.transport + 2 : packet.transport + 4], "big")
            self.seen.fact("fragments of Geneve" if port in self.ports else "fragments of other UDP", number)
        elif packet.protocol == PROTOCOL_UDP:
            self.seen.fact("fragments of UDP without ports", number)

    def _udp(self, number: int, time: float, data: bytes, packet: Packet, cover: str) -> None:
        at = packet.transport
        if len(data) < at + UDP_SIZE:
            self.seen.fact("UDP headers cut short", number)
            return
        source, port = data[at] << 8 | data[at + 1], data[at + 2] << 8 | data[at + 3]
        start, end = at + UDP_SIZE, packet.end
        if port in self.ports:
            outer = packet.source + packet.destination + data[at : at + 4]
            self._geneve(number, time, data, start, end, outer, cover)
            return
        payload = data[start : min(end, start + 64)]
        if ESP_UDP_PORT in (source, port):
            if payload[:4] == bytes(4) and len(payload) > 4:
                self.seen.fact("IKE packets", number)
            elif len(payload) > 8:
                self._esp(number, time, data, packet, start, "ESP in UDP")
        elif IKE_PORT in (source, port):
            self.seen.fact("IKE packets", number)
        elif WIREGUARD_PORTS & {source, port} and is_wireguard(payload, end - start):
            sequence = int.from_bytes(payload[8:16], "little") if payload[0] == 4 else -1
            self._key(number, time, packet, "WireGuard", payload[4:8] if payload[0] == 4 else b"", sequence,
                      data[start + 16 : end] if payload[0] == 4 else b"")  # fmt: skip
        elif is_dtls(payload):
            self._dtls(number, time, data, packet, start, (source, port))
        else:
            self.seen.fact("other packets", number, end - at)

    def _dtls(
        self, number: int, time: float, data: bytes, packet: Packet, start: int, ports: tuple[int, int]
    ) -> None:
        """RFC 6347, section 4.1: type 1 B, version 2 B, epoch 2 B, number 6 B, length 2 B; several in a datagram."""
        if DTLS_PORT in ports:
            self.seen.fact("DTLS on this project's port for Geneve", number)
        outer = packet.source + packet.destination + data[packet.transport : packet.transport + 4]
        while start < packet.end and is_dtls(data[start : start + 13]):
            end = min(start + 13 + int.from_bytes(data[start + 11 : start + 13], "big"), packet.end)
            if data[start] == _APPLICATION_DATA:
                name = data[packet.transport : packet.transport + 4] + data[start + 3 : start + 5]
                sequence = int.from_bytes(data[start + 5 : start + 11], "big")
                body = data[start + 13 : end]
                key = self._key(number, time, packet, "DTLS", name, sequence, body)
                if self._find_geneve(key, body, ((0, True),)):
                    # Behind the Geneve packet, a cipher suite that encrypts nothing has its MAC.
                    self._geneve(number, time, data, start + 13, end, outer, "DTLS without encryption")
            else:
                self.seen.fact("DTLS records other than data", number)
            start = end

    def _esp(self, number: int, time: float, data: bytes, packet: Packet, start: int, name: str) -> None:
        """RFC 4303, section 2: SPI 4 B, sequence number 4 B; then what is encrypted, or is not."""
        if len(data) < start + 8:
            self.seen.fact("ESP headers cut short", number)
            return
        body = data[start + 8 : packet.end]
        sequence = int.from_bytes(data[start + 4 : start + 8], "big")
        key = self._key(number, time, packet, name, data[start : start + 4], sequence, body)
        # ESP that only authenticates shows the UDP header: at once (RFC 2410), or behind an IV of 8 bytes (RFC 4543).
        if self._find_geneve(key, body, ((0, False), (8, False))):
            assert key.inner_at is not None
            at = start + 8 + key.inner_at
            outer = packet.source + packet.destination + data[at : at + 4]
            size = data[at + 4] << 8 | data[at + 5] if len(data) > at + 5 else 0
            self._geneve(number, time, data, at + UDP_SIZE, at + size, outer, "ESP without encryption")

    def _find_geneve(self, key: Key, body: bytes, places: tuple[tuple[int, bool], ...]) -> bool:
        """Whether a channel shows Geneve packets: decided by its first packets, at (offset, without a UDP header)."""
        if key.inner_at is None and key.tried < 4:
            key.tried += 1
            for at, bare in places:
                part = body[at:]
                if bare:
                    fits = _is_geneve(part)
                else:
                    size = int.from_bytes(part[4:6], "big")
                    fits = part[2:4] in self._port_bytes and size <= len(part) and _is_geneve(part[8:])
                if fits:
                    key.inner_at = at
                    break
        return key.inner_at is not None

    def _macsec(self, number: int, time: float, data: bytes, at: int) -> None:
        """IEEE 802.1AE: flags 1 B, short length 1 B, packet number 4 B, perhaps SCI 8 B."""
        if len(data) < at + 6:
            self.seen.fact("MACsec headers cut short", number)
            return
        flags = data[at]
        start = at + 6 + (8 if flags & 0x20 else 0)
        ends = data[6:12].hex(":"), data[0:6].hex(":")
        encrypted = bool(flags & 0x0C)
        name = "MACsec" if encrypted else "MACsec without encryption"
        sequence = int.from_bytes(data[at + 2 : at + 6], "big")
        self._channel(number, time, ends, name, bytes([flags & 3]) + data[at + 6 : start], sequence, data[start:])
        if not encrypted and len(data) >= start + 2:
            packet = parse_network(data, data[start] << 8 | data[start + 1], start + 2)
            if packet is not None:
                self._packet(number, time, data, packet, name)

    def _key(
        self, number: int, time: float, packet: Packet, name: str, spi: bytes, sequence: int, body: bytes
    ) -> Key:
        ends = address_text(packet.source), address_text(packet.destination)
        return self._channel(number, time, ends, name, spi, sequence, body)

    def _channel(
        self, number: int, time: float, ends: tuple[str, str], name: str, spi: bytes, sequence: int, body: bytes
    ) -> Key:
        """Count a packet under a key that is known by mechanism, ends and SPI."""
        place = (name, *ends, spi)
        key = self.seen.keys.get(place)
        if key is None:
            key = Key(time)
            key.pairs.add(ends)
            self.seen.keys.put(place, key)
        key.add(number, len(body))
        key.gaps.add(time)
        if key.inner_at is None and name in OPAQUE:
            count_size(self.seen.channel_sizes.setdefault(name, {}), len(body))
        if len(key.sample) < SAMPLE:
            key.sample += body[_LONGEST_IV:][-256:]
        if sequence >= 0 and key.numbers.add(sequence):
            self.seen.fact("sequence numbers seen twice", number)
        self._talk(*ends, name).add(number, len(body))
        return key

    def _talk(self, source: str, destination: str, name: str) -> Count:
        talk = self.seen.talks.get((source, destination, name))
        if talk is None:
            talk = Count()
            self.seen.talks.put((source, destination, name), talk)
        return talk

    def _geneve(self, number: int, time: float, data: bytes, start: int, end: int, outer: bytes, cover: str) -> None:
        """Take in what UDP carried to a port of Geneve, ``data[start:end]``; ``outer`` are addresses and ports."""
        header = data[start : start + 8]
        at = start + BASE_HEADER_SIZE
        if len(header) < 8 or header[0] & 0xC0:
            self._malformed_header(number, header, start, end)
            return
        size = (header[0] & 0x3F) << 2
        if size:
            block = data[at : at + size]
            shape = self._shapes.get(block)
            if shape is None or len(block) < size:
                shape = self._read_options(number, data, start, at + size, end, outer)
                if shape is None:
                    return
            at += size
        else:
            shape = _NOT_SHAPED
        seen = self.seen
        protocol_type = header[2] << 8 | header[3]
        if at > end:
            self._malformed(number, "shorter than its header")
            return
        # Ciphertext has no flows: only a readable inner packet tells them apart.
        if shape.for_nve and read_inside(data, at, end, protocol_type, True) is None:
            key: tuple[object, ...] = outer, header, shape.kinds, cover
        else:
            key = outer, header, shape.kinds, cover, flow_key(data, at, protocol_type)
        flow = self._rows.get(key)
        if flow is None:
            flow = self._new_flow(key, time, outer, header, shape, cover)
        if flow.samples:
            self._sample(flow, data, at, end)
        flow.packets += 1
        length = end - start
        flow.bytes += length
        if flow.packets <= 5:
            flow.first.append(number)
        sizes = flow.sizes
        if length in sizes:
            sizes[length] += 1
        else:
            count_size(sizes, length)
        if time - flow.gaps.last >= 0.01:
            flow.gaps.add(time)
        if seen.recent.seen(data[start:end]) and not (flow.inside is not None and flow.inside.control):
            seen.fact("identical packets", number, length)

    def _malformed_header(self, number: int, header: bytes, start: int, end: int) -> None:
        if len(header) >= 8:
            self._malformed(number, f"version {header[0] >> 6}")
        elif end - start < 8:
            self._malformed(number, "shorter than its header")
        else:
            self.seen.fact("Geneve headers cut short by the capture", number)

    def _malformed(self, number: int, reason: str) -> None:
        named(self.seen.malformed, reason).add(number)

    def _read_options(
        self, number: int, data: bytes, start: int, options_end: int, end: int, outer: bytes
    ) -> Shape | None:
        """Read options that were not seen before, or that are never twice the same; None when that is impossible."""
        if options_end > end:
            self._malformed(number, "options longer than the packet")
            return None
        if options_end > len(data):
            self.seen.fact("Geneve headers cut short by the capture", number)
            return None
        packet = data[start:options_end]
        try:
            spans = scan_options(packet, len(packet))
        except ParseError as error:
            self._malformed(number, str(error))
            return None
        kinds: tuple[Kind, ...] = tuple((span.option_class, span.type) for span in spans)
        shape = Shape.of(kinds)
        ours = False
        for span in spans:
            option = self.seen.options.get((span.option_class, span.type))
            if option is None:
                option = OptionSeen()
                self.seen.options.put((span.option_class, span.type), option)
            content = packet[span.start + 4 : span.end]
            option.example = option.example or content[:32]
            option.sizes.add(span.end - span.start)
            if len(option.values) < 64:
                option.values.add(hash(content))
            else:
                option.more = True
            ours = ours or span.option_class == SECURITY_CLASS
            if isinstance(span, SecuritySpan):
                self._spi(number, end - start, span, packet, outer)
        if not ours:
            if len(self._shapes) >= _MAX_SHAPES:
                self._shapes.clear()
                self._shapes[b""] = _NOT_SHAPED
            self._shapes[packet[BASE_HEADER_SIZE:]] = shape
        return shape

    def _spi(self, number: int, size: int, span: SecuritySpan, packet: bytes, outer: bytes) -> None:
        half = (len(outer) - 4) // 2
        place = ("security option", span.type, span.spi)
        key = self.seen.keys.get(place)
        if key is None:
            key = Key(0.0)
            self.seen.keys.put(place, key)
        key.add(number, size)
        if len(key.vnis) < MAX_NAMES:
            key.vnis.add(int.from_bytes(packet[4:7], "big"))
        if len(key.pairs) < MAX_NAMES:
            key.pairs.add((address_text(outer[:half]), address_text(outer[half : 2 * half])))
        if key.numbers.add(span.sequence):
            self.seen.fact("sequence numbers seen twice", number)

    def _new_flow(
        self, key: tuple[object, ...], time: float, outer: bytes, header: bytes, shape: Shape, cover: str
    ) -> Flow:
        half = (len(outer) - 4) // 2
        vni = int.from_bytes(header[4:7], "big")
        network = self.seen.networks.get(vni)
        if network is None:
            network = Network()
            if not self.seen.networks.put(vni, network):
                network = self.seen.other_networks
        flow = Flow(
            address_text(outer[:half]), address_text(outer[half : 2 * half]), header, shape, cover, network, time
        )
        self._flows.put(key, flow)
        return flow

    def _sample(self, flow: Flow, data: bytes, at: int, end: int) -> None:
        """Look into one of a flow's first packets: what it is, and some of its payload."""
        flow.samples -= 1
        if len(data) < end:
            flow.cut = True
        inside = read_inside(data, at, end, flow.protocol_type, flow.shape.for_nve)
        if inside is not None:
            flow.inside = flow.inside or inside
            payload = data[inside.data_at : inside.data_end]
            if payload and not inside.control:
                if flow.content in (None, Content.IKE):  # on one port, IKE comes first and ESP follows
                    flow.content = recognise(
                        inside.protocol or 0, inside.source_port, inside.destination_port, payload,
                        inside.data_end - inside.data_at,
                    ) or flow.content  # fmt: skip
                flow.sample += payload[: SAMPLE - len(flow.sample)]
        elif flow.inside is None:
            flow.sample += data[at:end][-256:][: SAMPLE - len(flow.sample)]

    def _fold_early(self, flow: Flow) -> None:
        self.seen.folded += 1
        self._fold(flow)

    def _fold(self, flow: Flow) -> None:
        """Add a flow to what is known of its network, its options and its ends."""
        seen, network, state = self.seen, flow.network, flow.state
        seen.geneve.merge(flow)
        network.merge(flow)
        network.flows += 1
        if len(network.talks) < 256:
            network.talks.add((flow.source, flow.destination))
        named(network.states, state).merge(flow)
        named(seen.plain_states, state).merge(flow)
        if flow.inside is not None and flow.inside.control:
            named(network.control, flow.inside.control).merge(flow)
            named(seen.facts, f"control: {state}: {flow.inside.control}").merge(flow)
        elif flow.inside is not None:
            named(network.contents, flow.what.value).merge(flow)
            named(seen.facts, f"content: {state}: {flow.what.value}").merge(flow)
        for kind in dict.fromkeys(flow.shape.kinds):
            option = seen.options.get(kind)
            if option is not None:
                option.merge(flow)
                name = "authenticated" if flow.shape.for_nve or flow.cover else "unauthenticated"
                named(seen.facts, f"option {name}: {kind[0]}:{kind[1]}").merge(flow)
        self._fold_flags(flow)
        self._talk(flow.source, flow.destination, _with_what(flow, state)).merge(flow)
        self._fold_times(flow)

    def _fold_flags(self, flow: Flow) -> None:
        facts = self.seen.facts
        protected = "under protection" if flow.shape.for_nve or flow.cover else "unprotected"
        if flow.oam:
            named(facts, f"O bit, {protected}").merge(flow)
        if flow.critical:
            named(facts, f"C bit, {protected}").merge(flow)
        if flow.header[1] & 0x3F or flow.header[7]:
            named(facts, "reserved bits set").merge(flow)
        if flow.critical != any(kind[1] & 0x80 for kind in flow.shape.kinds):
            named(facts, "C bit that contradicts the options").merge(flow)
        if flow.cover:
            named(facts, f"cover: {flow.cover}").merge(flow)
        if flow.shape.for_nve and flow.vni == 0 and flow.protocol_type == 0x88B5:
            named(facts, "VNI hidden").merge(flow)
        else:
            named(facts, "VNI shown").merge(flow)
        if flow.shape.for_transit and not flow.shape.for_nve:
            named(facts, "security options for transit devices only").merge(flow)
        if flow.cut:
            named(facts, "packets cut short by the capture").merge(flow)
        if _is_multicast(flow.destination):
            named(facts, "multicast, signed" if flow.shape.signed else f"multicast, {protected}").merge(flow)

    def _fold_times(self, flow: Flow) -> None:
        seen = self.seen
        text = flow.inside.text if flow.inside is not None else f"{flow.source} > {flow.destination}"
        if flow.gaps.regular:
            flow.network.regular += 1
            row = (flow.packets, f"VNI {flow.vni}: {text}", flow.gaps.mean, flow.first)
            if len(seen.regular) < _MAX_REGULAR:
                seen.regular.append(row)
            named(seen.facts, "regular packets").merge(flow)
        top = (flow.bytes, flow.packets, text, flow.vni, flow.what.value, round(entropy(flow.sample), 1))
        if len(seen.top) < _MAX_TOP:
            heapq.heappush(seen.top, top)
        else:
            heapq.heappushpop(seen.top, top)

    def finish(self) -> Seen:
        """Fold all flows; return everything that was seen."""
        for _, flow in self._flows:
            self._fold(flow)
        self._rows.clear()
        return self.seen


def _with_what(flow: Flow, state: str) -> str:
    if flow.shape.for_nve:
        return f"Geneve, security option, {state}"
    return f"Geneve, {flow.cover or 'no protection'}"


def _is_multicast(address: str) -> bool:
    if ":" in address:
        return address.startswith("ff")
    return 224 <= int(address.split(".", 1)[0]) <= 239


def _is_geneve(data: bytes) -> bool:
    """Whether bytes look like a Geneve packet: version and reserved bits 0, a protocol type that is carried."""
    if len(data) < 8 or data[0] & 0xC0 or data[1] & 0x3F or data[7]:
        return False
    return int.from_bytes(data[2:4], "big") in (ETHERTYPE_TEB, ETHERTYPE_IPV4, ETHERTYPE_IPV6)
