"""``python -m experiments``: run the experiments, draw a run's plots again, or list what there is."""

from __future__ import annotations

import argparse
import secrets
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from types import FrameType

from experiments import environment
from experiments.context import Context
from experiments.doctor import as_document, examine
from experiments.profiles import PROFILES
from experiments.progress import Progress, duration_text
from experiments.registry import EXPERIMENTS, evaluate, write_outcome
from experiments.report import Section
from experiments.results import COMPLETE, FAILED, INTERRUPTED, ResultsError, RunDirectory
from geneve.errors import ConfigError

_ROOT = Path(__file__).resolve().parent.parent
USAGE_ERROR, RUN_FAILED, RUN_INTERRUPTED = 2, 1, 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit code: 0 well, 1 a run failed, 2 wrong usage, 130 interrupted."""
    options = _parser().parse_args(arguments)
    if options.command == "list":
        return _list()
    try:
        if options.command == "plots":
            return _plots(options.directory)
        return _run(options)
    except (ResultsError, ConfigError) as error:
        print(f"experiments: {error}", file=sys.stderr)
        return USAGE_ERROR


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="experiments", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    run = commands.add_parser("run", help="run experiments in a sandbox of their own (needs root)")
    run.add_argument("--profile", choices=sorted(PROFILES), default="quick", help="how much to measure")
    run.add_argument("--only", type=_names, default=list(EXPERIMENTS), help="comma-separated experiments")
    run.add_argument("--seed", type=int, help="seed of every random choice; drawn and recorded if not given")
    run.add_argument("--results", type=Path, default=_ROOT / "results", help="where runs are kept")
    run.add_argument("--framework", choices=("auto", "ryu", "os-ken"), default="auto")
    plots = commands.add_parser("plots", help="analyse and draw a run again from disk (no root)")
    plots.add_argument("directory", type=Path)
    commands.add_parser("list", help="list experiments and profiles")
    return parser


def _names(text: str) -> list[str]:
    names = [name.strip() for name in text.split(",") if name.strip()]
    unknown = [name for name in names if name not in EXPERIMENTS]
    if unknown or not names:
        wrong = ", ".join(unknown) or "nothing"
        raise argparse.ArgumentTypeError(f"no experiment named {wrong}; there are: {', '.join(EXPERIMENTS)}")
    return [name for name in EXPERIMENTS if name in names]


def _list() -> int:
    print("Experiments:")
    for experiment in EXPERIMENTS.values():
        print(f"  {experiment.name:10} {experiment.description} (scenario {experiment.scenario})")
    print("Profiles:")
    for profile in PROFILES.values():
        whole = sum(experiment.seconds(profile) for experiment in EXPERIMENTS.values())
        print(f"  {profile.name:10} {profile.repeats} repeats, about {duration_text(whole)} for everything")
    return 0


def _plots(directory: Path) -> int:
    run = RunDirectory.open(directory)
    names = [name for name in run.record.get("experiments", []) if name in EXPERIMENTS]
    try:
        sections = evaluate(run, names)
    except ValueError as error:
        raise ResultsError(str(error)) from None
    write_outcome(run, sections)
    _say_what(run, sections)
    return 0


def _run(options: argparse.Namespace) -> int:
    from topologies import sandbox  # needs Linux and root; plots and list do not

    if not sandbox.inside():
        sandbox.enter([sys.executable, "-m", "experiments", *sys.argv[1:]])
    profile = PROFILES[options.profile]
    seed = options.seed if options.seed is not None else secrets.randbelow(2**31)
    suffix = "" if options.only == list(EXPERIMENTS) else "-" + "-".join(options.only)
    run = RunDirectory.create(
        options.results.resolve(), profile.name + suffix,
        {"experiments": options.only, "profile": profile.as_dict(), "seed": seed, "warnings": []},
    )  # fmt: skip
    progress = Progress()
    status, reason = FAILED, "the runner ended early"
    sections: list[Section] = []
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        run.update(environment=environment.describe(), doctor=as_document(examine()))
        failed = _run_all(options, run, seed, progress)
        progress.close()
        sections = evaluate(run, options.only)
        status, reason = _outcome(failed, sections)
    except KeyboardInterrupt:
        status, reason = INTERRUPTED, "interrupted before the end"
    except Exception as error:
        reason = f"{type(error).__name__}: {error}"
        raise
    finally:
        progress.close()
        run.conclude(status, reason or None)
        sections = _final_page(run, options.only, sections)
    run.publish()
    _say_what(run, sections)
    if status == COMPLETE:
        return 0
    print(f"experiments: run {status}: {reason}.", file=sys.stderr)
    return RUN_INTERRUPTED if status == INTERRUPTED else RUN_FAILED


def _outcome(failed: dict[str, str], sections: Sequence[Section]) -> tuple[str, str]:
    """Return status and reason; of an experiment that broke off, its own error says all."""
    failures = [f"{name}: {text}" for name, text in failed.items()]
    failures += [text for section in sections if section.name not in failed for text in section.failures]
    return (FAILED, "; ".join(failures)) if failures else (COMPLETE, "")


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _run_all(options: argparse.Namespace, run: RunDirectory, seed: int, progress: Progress) -> dict[str, str]:
    """Run every experiment chosen and return why which failed; the others run nevertheless."""
    profile = PROFILES[options.profile]
    chosen = [EXPERIMENTS[name] for name in options.only]
    for experiment in chosen:
        progress.plan(experiment.seconds(profile))
    failed = {}
    for experiment in chosen:
        progress.section(experiment.name)
        context = Context(
            experiment.name, experiment.scenario, run, profile, seed, progress, options.framework
        )  # fmt: skip
        try:
            experiment.run(context)
        except (RuntimeError, OSError, ValueError) as error:
            failed[experiment.name] = str(error)
            progress.note(f"experiments: {experiment.name} failed: {error}")
    return failed


def _final_page(run: RunDirectory, names: Sequence[str], sections: list[Section]) -> list[Section]:
    """Write the page with the final status; what a run that failed left is shown as far as it goes."""
    try:
        sections = sections or evaluate(run, names)
        write_outcome(run, sections)
    except ValueError as error:
        if run.status == COMPLETE:
            raise
        print(f"experiments: no page for {run.path}: {error}", file=sys.stderr)
    return sections


def _say_what(run: RunDirectory, sections: Sequence[Section]) -> None:
    for section in sections:
        for text in section.warnings:
            print(f"warning: {text}", file=sys.stderr)
    print(f"Results: {run.path}/index.html")


if __name__ == "__main__":
    sys.exit(main())
