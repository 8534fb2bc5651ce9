"""The subcommand `xtreme`."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from flaxfer.errors import ConfigError, DataError, summarised
from flaxfer.runtime.files import write_atomically
from flaxfer.xtreme import lareqa, scoring
from flaxfer.xtreme.benchmarks import BENCHMARKS, LANGUAGES, MODES

DASH = "-"
UNSHOWN = ("avg_precision", "avg_recall")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `flaxfer xtreme`."""
    subcommands = parser.add_subparsers(required=True, metavar="SUBCOMMAND")
    what = "score a folder of predictions"
    score = subcommands.add_parser("score", help=what, description=f"{what.capitalize()}.")
    score.add_argument("predictions", type=Path, help="folder with a folder for each task")
    score.add_argument("labels", type=Path, help="folder of the same structure with the labels")
    score.add_argument(
        "--mode",
        choices=(*MODES, "both"),
        default="both",
        help="official: what the published script computes, with its faults; corrected: without "
        "them (default: both)",
    )
    score.add_argument(
        "--benchmark",
        choices=tuple(BENCHMARKS),
        help="by default those with a task that only they have, such as PAWS-X and XCOPA; without "
        "any, xtreme-r",
    )
    score.add_argument(
        "--output",
        type=Path,
        metavar="FOLDER",
        help="write the predictions with the names and formats that the published script reads",
    )
    score.add_argument("--json", type=Path, metavar="FILE", help="write all scores")
    score.set_defaults(action=_score)
    what = "score an encoder on LAReQA, by languages of questions and candidates"
    pools = subcommands.add_parser("lareqa", help=what, description=f"{what.capitalize()}.")
    lareqa.add_arguments(pools)
    pools.set_defaults(action=lareqa.run)


def run(args: argparse.Namespace) -> int:
    """Run a subcommand of `flaxfer xtreme`."""
    code: int = args.action(args)
    return code


def _score(args: argparse.Namespace) -> int:
    """Score a submission, print its averages, and write what is asked for."""
    modes = MODES if args.mode == "both" else (args.mode,)
    if args.output and "corrected" not in modes:
        raise ConfigError(
            "--output has no effect with --mode official, which reads files as they are",
            where="command line",
            hint="leave out one of them.",
        )
    names = [args.benchmark] if args.benchmark else scoring.benchmarks_of(args.predictions)
    result = scoring.score(args.predictions, args.labels, modes, names)
    reports = {name: result.report(name) for name in names}
    for name, report in reports.items():
        print(*table(name, report), "", sep="\n")
    for line in remarks(result, names):
        print(line)
    if args.json:
        remarked = {name: getattr(result, name) for name in ("missing", "faults", "notes")}
        text = json.dumps(reports | remarked, indent=1, ensure_ascii=False, allow_nan=False)
        args.json.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(args.json, f"{text}\n")
    if args.output:
        scoring.write(result, args.output)
        print(f"the predictions are in {args.output}")
    if result.faults:
        raise DataError(
            f"{len(result.faults)} file(s) have no score",
            where=str(args.predictions),
            hint="correct these files, and run the same command again.",
            details=result.faults,
        )
    return 0


def remarks(result: scoring.Result, benchmarks: list[str]) -> Iterator[str]:
    """Yield lines about missing files, and what else is to be known."""
    for task, sides in result.missing.items():
        for codes in dict.fromkeys(map(tuple, sides.values())):
            where = " and ".join(side for side in sides if tuple(sides[side]) == codes)
            number = "all languages" if len(codes) == len(LANGUAGES[task]) else " ".join(codes)
            yield f"missing {where}: {task}: {number}"
    if "official" in result.scores and result.missing:
        yield "official: a task has no mean without all its languages: the published script stops"
    if "official" in result.scores and "xtreme-r" in benchmarks:
        yield "official: XTREME-R has no mean over all tasks: the published script has no LAReQA"
    yield from summarised([f"note: {note}" for note in result.notes])


def table(benchmark: str, report: dict[str, Any]) -> Iterator[str]:
    """Yield the lines of a table: the means over languages by task, metric and mode."""
    modes = list(report)
    yield f"{benchmark}: percentages, means over languages"
    yield _row("task", "metric", *modes, "languages")
    for task, languages in BENCHMARKS[benchmark].items():
        scores = [report[mode].get(task, {}) for mode in modes]
        count = max(len(next(iter(each.values()), ())) for each in scores)
        names = list(dict.fromkeys(key for each in scores for key in each if key[:4] == "avg_"))
        names = [name for name in names if name not in (*UNSHOWN, "avg_metric")]
        if len(names) > 1:
            names.append("avg_metric")  # The one that counts, or their mean.
        coverage = f"{count} of {len(languages)}"
        for i, name in enumerate(names or [DASH]):
            metric = "score" if name == "avg_metric" else name.removeprefix("avg_")
            cells = [_number(each.get(name)) for each in scores]
            yield _row(task if i == 0 else "", metric, *cells, coverage if i == 0 else "")
    tasks = set(BENCHMARKS[benchmark])
    for name in dict.fromkeys(key for mode in modes for key in report[mode] if key not in tasks):
        if name != "all_task":
            yield _row(name, "mean", *(_number(report[mode].get(name)) for mode in modes), "")
    overall = [_number(report[mode].get("all_task")) for mode in modes]
    yield _row("all tasks", "mean", *overall, "")


def _row(task: str, metric: str, *cells: str) -> str:
    return f"{task:<14}  {metric:<17}" + "".join(f"  {cell:>10}" for cell in cells).rstrip()


def _number(value: float | None) -> str:
    return DASH if value is None else f"{value:.2f}"
