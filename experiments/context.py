"""What a running experiment gets: where to write, how much to measure, and how to say how far it is."""

from __future__ import annotations

import random
from dataclasses import dataclass
from pathlib import Path

from experiments.profiles import Profile
from experiments.progress import Progress
from experiments.results import RunDirectory
from experiments.samples import SampleWriter


class ExperimentError(RuntimeError):
    """An experiment cannot go on; one sentence that says what is wrong."""


@dataclass(slots=True)
class Context:
    """One run of one experiment."""

    name: str
    scenario: str
    run: RunDirectory
    profile: Profile
    seed: int
    progress: Progress
    framework: str = "auto"

    def random(self, purpose: str) -> random.Random:
        """Return a generator that depends only on the run's seed, the experiment and ``purpose``."""
        return random.Random(f"{self.seed}/{self.name}/{purpose}")

    def raw(self, *names: str) -> Path:
        """Return the path of a raw file of this experiment; its folder exists."""
        path = self.run.folder("raw", self.name).joinpath(*names)
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def captures(self) -> Path:
        """Return the folder of this experiment's captures."""
        return self.run.folder("captures", self.name)

    def writer(self, *names: str) -> SampleWriter:
        """Open a raw file for samples."""
        return SampleWriter(self.raw(*names))

    def relative(self, path: Path) -> str:
        """Return ``path`` relative to the run's directory, as samples refer to it."""
        return str(path.relative_to(self.run.path))
