"""The subcommand `plan`: the stages of a study, or what it can decide."""

from __future__ import annotations

import argparse
import dataclasses
import json
import textwrap
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from flaxfer.config import Config, Task, loading
from flaxfer.config.grids import Grid
from flaxfer.errors import ConfigError
from flaxfer.evaluation.records import Study, read_study
from flaxfer.report.formatting import about
from flaxfer.statistics.inference import Components
from flaxfer.statistics.looks import ALPHA, LEVEL
from flaxfer.statistics.power import TARGET, Needed
from flaxfer.statistics.variances import CORRELATIONS, Pilot, Stated, has_formula, read_pilot
from flaxfer.study import design
from flaxfer.study.design import Outlook
from flaxfer.tasks import TASK_TYPES

PAIRS = (
    "Runs are compared as pairs of a seed, which halves the degrees of freedom. The standard "
    "deviation over seeds is that of a pair's difference, divided by the square root of 2; a "
    "stated one is taken to be of runs whose scores do not correlate over seeds."
)
WIDTH = 80
"""Columns of the output."""
NAME_WIDTH = 26

Key = tuple[str, str, str]
"""Type, metric and name of a task."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `flaxfer plan`."""
    parser.usage = f"{parser.prog} --config FILE[:PRESET] [--config.KEY=VALUE ...] [options]"
    parser.add_argument("--config", required=True, metavar="FILE[:PRESET]", help="a config file")
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
    print(*_lines(results, assumed), sep="\n")
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
    pairs = [PAIRS] if any(study.paired for study in studies) else []
    if args.pilot:
        pilots = _pilots(args.pilot, tasks, args.config, config.paired)
        used = {one.workdir: one for one in pilots.values()}

        def of_pilot(task: Task, effective: float) -> Components:
            return pilots[_key(task)].on(effective)

        return of_pilot, [*map(_of_pilot, used.values()), *pairs]
    for task in tasks.values():
        if not has_formula(task):
            raise ConfigError(
                f"{task.metric} of {task.name!r} ({task.type}) has no formula for its variance "
                "over examples",
                where=args.config,
                hint="run a study with a few seeds, and name its work directory: --pilot WORKDIR.",
            )
    stated = Stated(args.sd, args.score, args.correlation, args.correlation_seeds)
    return stated.components, [*_stated(stated, tasks.values()), *pairs]


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


def _of_pilot(pilot: Pilot) -> str:
    """Return the variances of a pilot in a sentence."""
    sd, (low, high) = (pilot.components.seeds / 2) ** 0.5, pilot.sd_interval()
    direct, staged = pilot.runs
    return (
        f"{pilot.workdir}, {pilot.task.metric}: a run's score has a standard deviation of "
        f"{sd:#.3g} over seeds (from {direct} direct and {staged} staged runs: 95 % interval "
        f"{low * sd:#.3g} to {high * sd:#.3g}), and staged minus direct one of "
        f"{pilot.components.examples**0.5:#.3g} over test sets of {pilot.effective:,.0f} "
        "independent examples; on others, the variance changes in proportion."
    )


def _stated(stated: Stated, tasks: Iterable[Task]) -> Iterator[str]:
    """Yield what the formulas assume in sentences."""
    yield (
        f"A run's score has a standard deviation of {stated.sd:g} over seeds (--sd), and both "
        f"conditions score {stated.score:g} (--score)."
    )
    rho = f"{stated.correlation:g} (--correlation)"
    for metric in dict.fromkeys(task.metric for task in tasks):
        if ("regression", metric) in CORRELATIONS:
            yield (
                f"{metric}: Fisher's z, normal distributions, and predictions of direct and staged "
                f"that correlate by {rho} (Dunn & Clark 1969; Steiger 1980)."
            )
        else:
            share = 2 * stated.score * (1 - stated.score) * (1 - stated.correlation)
            yield (
                f"{metric}: binomial; that direct and staged are right about an example correlates "
                f"by {rho}, so that one of the two alone is right about {share:.1%} of the "
                "examples (Miettinen 1968; Connor 1987)."
            )
    if stated.correlation_seeds is None:
        yield (
            "Two seeds of a condition are taken to agree in full, which overstates the variance "
            "due to the examples; --correlation-seeds says how much they agree."
        )
    else:
        yield f"Two seeds of a condition correlate by {stated.correlation_seeds:g}."


def _lines(results: Sequence[Outlook], assumed: Sequence[str]) -> Iterator[str]:
    """Yield the report in lines of at most `WIDTH` columns."""
    first = results[0]
    level = f"level {first.alpha:.3g}"
    if len(results) > 1:
        level = f"level {ALPHA:g} / {len(results)} studies = {first.alpha:.3g}"
    yield f"What staged minus direct can show: {level}, power {first.target:g}"
    yield ""
    yield _row("study", "seeds", "finds", "interval", "corrected", "margin", "examples")
    for one in results:
        yield from _rows(one)
    yield ""
    looks = " at this number of seeds or before" if any(len(r.looks) > 1 for r in results) else ""
    texts = [
        f"finds: smallest difference that is found{looks}.",
        f"interval: expected half width of the {LEVEL:.0%} interval; corrected: at the level "
        "above.",
        "margin: smallest margin within which no relevant change is shown, if there is no "
        "difference" + (" (at this look alone)." if looks else "."),
        "examples: share of the variance due to the examples, which no number of seeds reduces.",
        *dict.fromkeys(map(_sets, results)),
        *(f"Assumed: {sentence}" for sentence in assumed),
        *filter(None, map(_needs, results)),
        *(warning for one in results for warning in _warnings(one)),
    ]
    for text in texts:
        yield from textwrap.wrap(text, WIDTH, subsequent_indent="  ", break_on_hyphens=False)


def _row(name: str, *values: str) -> str:
    widths = (7, 9, 9, 10, 9, 9)
    cells = "".join(f"{value:>{width}}" for value, width in zip(values, widths, strict=True))
    return f"{name:<{NAME_WIDTH}}{cells}".rstrip()


def _rows(one: Outlook) -> Iterator[str]:
    """Yield the lines of a study in the table."""
    names = textwrap.wrap(one.study, NAME_WIDTH - 1, break_on_hyphens=False)
    if not one.detectable:
        yield _row(names.pop(0), str(one.looks[-1]), *["-"] * 5)
    values = zip(
        one.looks,
        one.detectable,
        one.half_width,
        one.half_width_simultaneous,
        one.smallest_margin,
        one.examples_share,
        strict=False,
    )
    for look, finds, half, corrected, margin, share in values:
        yield _row(
            names.pop(0) if names else "",
            str(look),
            f"{finds:#.3g}",
            f"±{half:#.3g}",
            f"±{corrected:#.3g}",
            f"{margin:#.3g}",
            f"{share:.0%}",
        )
    yield from names


def _sets(one: Outlook) -> str:
    of = one.compared
    sets = "1 set" if of.sets == 1 else f"{of.sets} sets"
    return (
        f"{one.metric}, {of.name}: {sets} with {of.examples:,} examples in {of.units:,} units of "
        f"resampling, at least as good as {of.effective:,.0f} independent examples."
    )


def _needs(one: Outlook) -> str:
    """Return which designs decide what this one does not; empty if none is asked for."""
    if one.needed is None:
        return ""
    what = f"To find a difference of {one.sought:g}"
    if one.margin is not None:
        what += f", and to show that there is none (margin {one.margin:g})"
    fixed = " (without looks)" if len(one.looks) > 1 else ""
    return f"{one.study}: {what}{fixed}: {_designs(one.needed)}"


def _designs(design: Needed) -> str:
    """Return the smallest designs that are enough."""
    seeds, examples = design.seeds, design.examples
    if seeds and examples:
        return f"more seeds: {seeds:,}, or larger test sets: about {about(examples)} examples."
    if seeds:
        return f"more seeds: {seeds:,}; no test set is large enough with these seeds."
    if examples:
        text = f"larger test sets: about {about(examples)} examples"
        return f"{text}; no number of seeds is enough on these."
    if design.both:
        text = f"more seeds and larger test sets: {design.both[0]:,} seeds and about "
        return f"{text}{about(design.both[1])} examples; neither alone is enough."
    return "no number of seeds and examples is enough."


def _warnings(one: Outlook) -> Iterator[str]:
    """Yield what is wrong with the sets, and what the study cannot decide."""
    yield from (f"warning: {one.study}: {note}" for note in one.compared.notes)
    if not one.detectable:
        yield f"warning: {one.study} cannot decide anything: a verdict needs at least 2 seeds"
        return
    reasons = []
    if one.sought is not None and not one.finds:
        reasons.append(f"it finds one of {one.sought:g} with a power of {one.power:.0%}")
    if one.margin is None and not (one.sought and one.finds):
        reasons.append("without a margin, it never shows that there is no relevant change")
    if one.margin is not None and not one.shows_none:
        reasons.append(
            "it shows that there is no relevant change with a power of "
            f"{one.equivalence_power:.0%} (margin {one.margin:g})"
        )
    if reasons:
        verb = "find" if one.shows_none else "decide"
        yield (
            f"warning: {one.study} cannot {verb} anything up to a difference of "
            f"{one.detectable[-1]:#.3g}: {', and '.join(reasons)}"
        )


def _record(one: Outlook) -> dict[str, Any]:
    return {**dataclasses.asdict(one), "finds": one.finds, "shows_none": one.shows_none}
