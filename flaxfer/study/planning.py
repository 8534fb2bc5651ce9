"""The subcommand `plan`: the stages of a study, or what it can decide."""

from __future__ import annotations

import argparse
import dataclasses
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from flaxfer.config import Config, Task, loading
from flaxfer.config.arguments import add_config
from flaxfer.config.grids import Grid
from flaxfer.errors import ConfigError
from flaxfer.evaluation.records import Study, read_study
from flaxfer.statistics.inference import Components
from flaxfer.statistics.looks import ALPHA, LEVEL
from flaxfer.statistics.power import TARGET
from flaxfer.statistics.variances import Pilot, Stated, has_formula, read_pilot
from flaxfer.study import design, outlook_text
from flaxfer.study.design import Outlook
from flaxfer.tasks import TASK_TYPES

Key = tuple[str, str, str]
"""Type, metric and name of a task."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `flaxfer plan`."""
    add_config(parser, "[--config.KEY=VALUE ...] [options]")
    parser.add_argument(
        "--pilot",
        type=Path,
        nargs="+",
        default=[],
        metavar="WORKDIR",
        help="take the variances from finished studies, each for the targets with its task type "
        "and metric",
    )
    parser.add_argument(
        "--sd",
        type=_number(0),
        metavar="SD",
        help="standard deviation of a run's score over seeds, on the evaluated sets",
    )
    parser.add_argument(
        "--score", type=_number(0, 1), metavar="SCORE", help="with --sd: the expected score"
    )
    parser.add_argument(
        "--correlation",
        type=_number(0, 1),
        metavar="RHO",
        help="with --sd: correlation of a direct and a staged run over examples, of being right, "
        "or of the predictions if the metric is a correlation",
    )
    parser.add_argument(
        "--correlation-seeds",
        type=_number(0, 1),
        metavar="RHO",
        help="with --sd: the same of two seeds of a condition, which is no smaller; without it, "
        "what two seeds disagree on counts as due to the examples",
    )
    parser.add_argument(
        "--difference",
        type=_number(0),
        metavar="SIZE",
        help="difference that should be found; by default, the margin of the config",
    )
    parser.add_argument(
        "--power",
        type=_number(0.5, 1),
        default=TARGET,
        metavar="P",
        help="probability to decide with (default: %(default)s)",
    )
    parser.add_argument("--json", metavar="FILE", help="also write the numbers to this file")


def _number(above: float, below: float = float("inf")) -> Callable[[str], float]:
    """Return a parser of numbers between two others."""

    def parse(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = float("nan")
        if not above < value < below:
            between = f"above {above:g}" if below == float("inf") else f"in ({above:g}, {below:g})"
            raise argparse.ArgumentTypeError(f"{text!r} is no number {between}")
        return value

    return parse


def run(args: argparse.Namespace) -> int:
    """Print the stages of a study or a grid, or what its studies can decide.

    Raises:
      FlaxferError: the config or an argument is wrong, or data or a pilot cannot be used.
    """
    _check(args)
    config = loading.load_any(args.config, TASK_TYPES, args.overrides)
    if not args.pilot and args.sd is None:
        # Imported late, so that a wrong configuration is refused before JAX is imported.
        from flaxfer.study import runner

        runner.show(config)
        return 0
    variances, assumed = _variances(args, config)
    results = design.outlooks(config, variances, args.difference, args.power)
    print(*outlook_text.lines(results, assumed), sep="\n")
    if args.json:
        from flaxfer.runtime.files import write_atomically

        record = {"alpha": ALPHA, "level": LEVEL, "assumed": assumed}
        record |= {"studies": [_record(one) for one in results]}
        write_atomically(Path(args.json), json.dumps(record, indent=1))
    return 0


def _check(args: argparse.Namespace) -> None:
    """Refuse arguments that contradict each other or have no effect."""
    by_formula = {name: getattr(args, name) for name in ("score", "correlation")}
    others = by_formula | {n: getattr(args, n) for n in ("correlation_seeds", "difference", "json")}
    if args.power != TARGET:
        others["power"] = args.power
    names = [f"--{name.replace('_', '-')}" for name, value in others.items() if value is not None]
    if args.sd is not None and args.pilot:
        what = "--sd and --pilot exclude each other: both give the variance over seeds"
    elif args.sd is None and not args.pilot and names:
        what = f"{names[0]} needs --sd or --pilot, without which the stages are listed"
    elif args.pilot and (stated := {"--score", "--correlation", "--correlation-seeds"} & {*names}):
        what = f"{min(stated)} goes with --sd; a pilot has it"
    elif args.sd is not None and None in by_formula.values():
        what = "--sd needs --score and --correlation for the variance over examples, or use --pilot"
    elif args.correlation_seeds is not None and args.correlation_seeds < args.correlation:
        what = "--correlation-seeds is below --correlation; runs of a condition are more alike"
    elif args.json and not Path(args.json).absolute().parent.is_dir():
        what = f"the folder of --json does not exist: {args.json}"
    else:
        return
    raise ConfigError(what, where="command line", hint="see flaxfer plan --help.")


def _variances(
    args: argparse.Namespace, config: Config | Grid
) -> tuple[design.Variances, list[str]]:
    """Return the variances of comparisons, and what is assumed about them in sentences.

    Raises:
      ConfigError: a metric has no formula, or not exactly one pilot fits a task.
      DataError: a pilot cannot be used.
    """
    studies = design.compared_studies(config)
    tasks = {_key(study.target.task): study.target.task for study in studies}
    pairs = [outlook_text.PAIRS] if any(study.paired for study in studies) else []
    if args.pilot:
        pilots = _pilots(args.pilot, tasks, args.config, config.paired)
        used = {one.workdir: one for one in pilots.values()}

        def of_pilot(task: Task, effective: float) -> Components:
            return pilots[_key(task)].on(effective)

        return of_pilot, [*map(outlook_text.of_pilot, used.values()), *pairs]
    for task in tasks.values():
        if not has_formula(task):
            raise ConfigError(
                f"{task.metric} of {task.name!r} ({task.type}) has no formula for its variance "
                "over examples",
                where=args.config,
                hint="run a study with a few seeds, and name its work directory: --pilot WORKDIR.",
            )
    stated = Stated(args.sd, args.score, args.correlation, args.correlation_seeds)
    return stated.components, [*outlook_text.of_stated(stated, tasks.values()), *pairs]


def _key(task: Task) -> Key:
    return task.type, task.metric, task.name


def _pilots(
    workdirs: Sequence[Path], tasks: dict[Key, Task], where: str, paired: bool
) -> dict[Key, Pilot]:
    """Return the pilot of each task."""
    studies = [(workdir, read_study(workdir)) for workdir in workdirs]
    fit: dict[Key, Pilot] = {}
    for key, task in tasks.items():
        pairs = _fitting(studies, task)
        if len(pairs) != 1:
            which = "no pilot has" if not pairs else "several pilots have"
            raise ConfigError(
                f"{which} the metric {task.metric} of {task.name!r} ({task.type})",
                where=where,
                hint="name one study for each task type and metric of the targets; of several, the "
                "one with a target task of the same name is taken.",
                details=[
                    f"{workdir}: {', '.join(study.metrics)} of {study.task.name!r} "
                    f"({study.task.type})"
                    for workdir, study in studies
                ],
            )
        ((workdir, study),) = pairs
        fit[key] = read_pilot(study, workdir, task.metric, paired)
    return fit


def _fitting(studies: Sequence[tuple[Path, Study]], task: Task) -> list[tuple[Path, Study]]:
    """Return the pilots with a task's type and metric: those of its name, if there are any."""
    alike = [
        (workdir, study)
        for workdir, study in studies
        if study.task.type == task.type and task.metric in study.metrics
    ]
    return [pair for pair in alike if pair[1].task.name == task.name] or alike


def _record(one: Outlook) -> dict[str, Any]:
    return {**dataclasses.asdict(one), "finds": one.finds, "shows_none": one.shows_none}
