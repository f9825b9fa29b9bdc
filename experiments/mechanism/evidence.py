"""What a probe left on disk, read back for its judge. Pure: files in, facts out; needs no root."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from experiments.capture import CaptureReader, GeneveFrame, geneve_frame
from experiments.samples import read_lines
from experiments.traffic import Message, parse_message
from geneve.control.profile import Profile

FACTS = "facts.json"
SENT, RECEIVED = "sent-{}.jsonl", "received-{}.jsonl"


@dataclass(frozen=True, slots=True)
class Seen:
    """A Geneve packet of the capture, with its number there, counted from 1 over all frames of the file."""

    number: int
    frame: GeneveFrame
    raw: bytes


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
        """All Geneve packets of the capture, in order."""
        seen = []
        with CaptureReader(self.capture) as reader:
            for number, frame in enumerate(reader, 1):
                geneve = geneve_frame(frame)
                if geneve is not None:
                    seen.append(Seen(number, geneve, frame.data))
        return seen

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
