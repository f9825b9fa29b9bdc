"""What a probe left on disk, read back for its judge. Pure: files in, facts out; needs no root."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from experiments.capture import CaptureReader
from experiments.samples import read_lines
from experiments.traffic import Message, parse_message
from experiments.view import View, view
from geneve.control.profile import Profile
from geneve.packet import Packet

FACTS = "facts.json"
SENT, RECEIVED = "sent-{}.jsonl", "received-{}.jsonl"


@dataclass(frozen=True, slots=True)
class Seen:
    """A packet of the overlay in the capture, with its number there, counted from 1 over all frames of the file.

    ``view`` is what an observer without keys reads of it, whichever mechanism protects it; seconds since 1970.
    """

    number: int
    timestamp: float
    view: View
    raw: bytes

    @property
    def packet(self) -> Packet | None:
        """The Geneve packet; None where it cannot be read."""
        return self.view.packet

    @property
    def size(self) -> int:
        """Bytes that an observer counts: of the payload, or, where it cannot be told, of all that a channel carries."""
        return self.view.size


@dataclass
class Evidence:
    """All that one run of one probe for one tenant left."""

    run: Path
    folder: Path
    facts: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def read(cls, run: Path, folder: Path) -> Evidence:
        """Read the facts; ValueError when they are damaged or missing."""
        path = folder / FACTS
        try:
            facts = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            raise ValueError(f"{path}: cannot be read; the probe did not end.") from None
        return cls(run, folder, facts)

    @property
    def capture(self) -> Path:
        """The capture of what passed on the underlay while the probe acted."""
        return self.run / str(self.facts["capture"])

    @property
    def vni(self) -> int:
        """The tenant's VNI."""
        return int(self.facts["vni"])

    @property
    def profile(self) -> Profile | None:
        """The tenant's profile; None for ``none``."""
        entry = self.facts["profile"]
        return None if entry is None else Profile.model_validate_json(json.dumps(entry))

    @property
    def spis(self) -> dict[int, dict[str, Any]]:
        """The tenant's associations as the NVA's view tells them (no keys), by SPI."""
        return {int(entry["spi"]): entry for entry in (*self.facts["replaced"], *self.facts["associations"])}

    @cached_property
    def packets(self) -> list[Seen]:
        """All packets of the overlay in the capture, in order: Geneve's own, or those of a channel that carry data."""
        seen = []
        with CaptureReader(self.capture) as reader:
            for number, frame in enumerate(reader, 1):
                read = view(frame.data)
                if read is not None and read.data:
                    seen.append(Seen(number, frame.timestamp, read, frame.data))
        return seen

    def when_sent(self, size: int) -> list[tuple[float, float]]:
        """Return when messages of ``size`` bytes were sent: for each host that did, from the first to the last."""
        times = []
        for host in self.facts["hosts"]:
            lines = [line for message, line in self.messages(SENT, self.facts["hosts"][host])]
            sent = [line["time_ns"] / 1e9 for line in lines if len(line["payload"]) == 2 * size and "time_ns" in line]
            if sent:
                times.append((min(sent), max(sent)))
        return times

    def messages(self, pattern: str, host: str) -> list[tuple[Message, dict[str, Any]]]:
        """Return the marked messages in a host's log, SENT or RECEIVED, of this probe's label."""
        found = []
        for line in read_lines(self.folder / pattern.format(host)):
            message = parse_message(bytes.fromhex(line["payload"]))
            if message is not None and message.label == self.facts["label"]:
                found.append((message, line))
        return found

    def stats(self, node: str, when: str = "after") -> dict[str, Any]:
        """Return what a node's statistics said ``before`` or ``after`` the probe acted."""
        document: dict[str, Any] = self.facts["stats"][when][node]
        return document

    def counted(self, node: str, group: str, name: str) -> int:
        """Return by how much one counter of a node grew (``group`` is counters or drops)."""
        before = self.stats(node, "before").get(group, {}).get(name, 0)
        return int(self.stats(node).get(group, {}).get(name, 0)) - int(before)
