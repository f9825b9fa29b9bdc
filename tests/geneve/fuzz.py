"""Coverage-guided fuzzing of everything that reads bytes from strangers: ``make fuzz`` (atheris, where it installs).

A target that raises anything is a bug. The corpus is in tests/corpus/TARGET; ``tests/geneve/test_fuzz.py`` runs every
file of it, and Hypothesis over the same targets, without atheris.

    python -m tests.geneve.fuzz TARGET [--seconds N]    (exit code 1 and a file crash-* when a target raises)
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

CORPUS = Path(__file__).parents[1] / "corpus"


def main() -> int:
    """Fuzz one target until something raises or the time is over."""
    parser = argparse.ArgumentParser(prog="tests.geneve.fuzz", description=__doc__)
    parser.add_argument("target", help="a folder of the corpus, such as parser or audit")
    parser.add_argument("--seconds", type=int, default=60)
    parser.add_argument("--new", type=Path, help="where inputs that reach something new are kept (default: the corpus)")
    options = parser.parse_args()
    try:
        import atheris
    except ImportError:
        print("tests.geneve.fuzz: atheris is not installed; run '.venv/bin/pip install atheris'.", file=sys.stderr)
        return 2
    # Only what is ours is instrumented, and so it is imported only now.
    with atheris.instrument_imports(include=["geneve", "nve", "transit", "experiments"]):
        from tests.geneve.fuzz_targets import TARGETS
    corpus = CORPUS / options.target
    folders = [str(options.new), str(corpus)] if options.new else [str(corpus)]
    for folder in folders:
        Path(folder).mkdir(parents=True, exist_ok=True)
    argv = [sys.argv[0], *folders, f"-max_total_time={options.seconds}", "-max_len=400", "-timeout=5"]
    atheris.Setup(argv, TARGETS[options.target])
    atheris.Fuzz()
    return 0


if __name__ == "__main__":
    sys.exit(main())
