"""Scores, comparisons, verdicts and predictions of studies as flat pandas tables.

The dictionaries of this module are the columns of the tables with their dtypes. Text that is
missing is empty, and numbers are NaN or `pd.NA`.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any

import pandas as pd

from flaxfer.config.findings import suggestion
from flaxfer.errors import ConfigError
from flaxfer.evaluation.records import NOT_JUDGED, Run
from flaxfer.report.csv_tex import (
    COMPARISON_COLUMNS,
    NAME_COLUMNS,
    RESULT_COLUMNS,
    comparison_rows,
    result_rows,
)
from flaxfer.report.data import Entry, ReportData
from flaxfer.statistics import reading

TEXT, COUNT, MAYBE_COUNT, NUMBER, FLAG = "string", "int64", "Int64", "float64", "bool"

SCORES: Mapping[str, str] = dict.fromkeys(RESULT_COLUMNS, TEXT) | {
    "seed": COUNT,
    "n": COUNT,
    "value": NUMBER,
}
"""Columns of `scores`, those of results.csv: a row for every run, evaluated set and metric."""

COMPARISONS: Mapping[str, str] = (
    dict.fromkeys(COMPARISON_COLUMNS, NUMBER)
    | dict.fromkeys((*NAME_COLUMNS, "metric", "language", "set", "family", "runs"), TEXT)
    | dict.fromkeys(
        ("direct_seeds", "staged_seeds", "over", "verdict", "collapsed", "left_out"), TEXT
    )
    | {"n": COUNT, "units": COUNT, "larger_is_better": FLAG, "at_chance": FLAG, "paired": FLAG}
    | {"needed_seeds": MAYBE_COUNT, "needed_examples": MAYBE_COUNT, "needed_both": TEXT}
)
"""Columns of `comparisons`, those of comparisons.csv, which `statistics.records` explains."""

VERDICTS: Mapping[str, str] = (
    dict.fromkeys((*NAME_COLUMNS, "verdict", "metric", "language", "set"), TEXT)
    | dict.fromkeys(("direct_seeds", "staged_seeds"), COUNT)
    | dict.fromkeys(("direct_mean", "staged_mean", "difference", "low", "high"), NUMBER)
    | dict.fromkeys(("margin", "p_holm", "p_equivalence_holm"), NUMBER)
)
"""Columns of `verdicts`: a row for every study, with its primary comparison over all runs. The
verdict is `not judged` if a condition has fewer than two runs, which give no p value, or if there
is nothing to compare. Numbers of seeds are those of the runs."""

PREDICTIONS: Mapping[str, str] = dict.fromkeys((*NAME_COLUMNS, "condition"), TEXT) | {
    "seed": COUNT,
    **dict.fromkeys(("stage", "set", "language", "domain", "cluster", "id"), TEXT),
}
"""First columns of `predictions`; `prediction`, the true label (`label`, `score` or `answers`) and
details follow as they stand in the files, such as `probabilities.NAME`."""


def scores(entries: Iterable[Entry]) -> pd.DataFrame:
    """Return every score of every run, see `SCORES`."""
    return _frame(result_rows(entries), SCORES)


def comparisons(data: ReportData) -> pd.DataFrame:
    """Return every comparison of staged with direct, see `COMPARISONS`."""
    return _frame(comparison_rows(data), COMPARISONS)


def verdicts(data: ReportData) -> pd.DataFrame:
    """Return the verdict on every study, see `VERDICTS`."""
    return _frame([_verdict(entry) for entry in data.entries], VERDICTS)


def _verdict(entry: Entry) -> dict[str, Any]:
    if (comparison := entry.headline) is None:
        seeds = {
            f"{name}_seeds": len({run.seed for run in _runs(entry, "target", (name,), None)})
            for name in ("direct", "staged")
        }
        metric = {"metric": entry.study.metric}
        return vars(entry) | metric | seeds | {"study": entry.name, "verdict": NOT_JUDGED}
    estimate = comparison.all_runs
    row = vars(entry) | vars(comparison) | vars(estimate) | {"study": entry.name}
    for name, condition in (("direct", estimate.direct), ("staged", estimate.staged)):
        row |= {f"{name}_seeds": len(condition.seeds), f"{name}_mean": condition.mean}
    return row | ({"verdict": NOT_JUDGED} if estimate.p_holm is None else {})


def predictions(
    entries: Sequence[Entry],
    name: str,
    condition: str | Collection[str] | None = None,
    seed: int | Collection[int] | None = None,
    stage: str = "target",
) -> pd.DataFrame:
    """Return the predictions of some runs for an evaluated set, see `PREDICTIONS`.

    Args:
      entries: The studies; those that have not evaluated the set are left out.
      name: Name of the set.
      condition: Condition, or several of them; None for all.
      seed: Seed, or several of them; None for all.
      stage: `target` or `intermediate`.

    Raises:
      ConfigError: No study has such a set, or such runs.
      DataError: A file of predictions is missing or damaged.
    """
    conditions = (condition,) if isinstance(condition, str) else condition
    seeds = (seed,) if isinstance(seed, int) else seed
    runs = [(entry, run) for entry in entries for run in _runs(entry, stage, conditions, seeds)]
    if not runs:
        raise ConfigError(
            f"there is no finished run of the stage {stage!r} with condition "
            f"{'any' if condition is None else condition!r} and seed "
            f"{'any' if seed is None else seed!r}",
            where="predictions",
            hint="study.scores lists conditions, seeds and stages.",
        )
    sets = dict.fromkeys(one.set for _, run in runs for one in run.evaluations)
    if name not in sets:
        what = f"{name!r} is no evaluated set of these runs"
        raise ConfigError(what, where="predictions", hint=suggestion(name, sets))
    records = [
        {**{column: getattr(entry, column) for column in NAME_COLUMNS[1:]}, "study": entry.name}
        | {"condition": run.condition, "seed": run.seed, "stage": stage, "set": name}
        | {"domain": "", "cluster": ""}
        | record
        for entry, run in runs
        if name in {one.set for one in run.evaluations}
        for record in _records(entry, run, name)
    ]
    frame = pd.json_normalize(records)
    others = [column for column in frame.columns if column not in PREDICTIONS]
    return frame[[*PREDICTIONS, *others]].astype(dict(PREDICTIONS))


def _runs(
    entry: Entry, stage: str, conditions: Collection[str] | None, seeds: Collection[int] | None
) -> Iterator[Run]:
    """Yield the finished runs of a stage with some conditions and seeds; None for all."""
    for run in entry.study.runs:
        wanted = conditions is None or run.condition in conditions
        if run.stage == stage and wanted and (seeds is None or run.seed in seeds):
            yield run


def _records(entry: Entry, run: Run, name: str) -> list[dict[str, Any]]:
    """Return the records of a predictions file."""
    fingerprint = next(
        split.fingerprint[:12]
        for split in entry.study.data
        if (split.stage, split.split) == (run.stage, name) and split.seed in (None, run.seed)
    )
    path = entry.folder(run) / "predictions" / f"{name}-{fingerprint}.jsonl"
    task = entry.study.intermediate_task if run.stage == "intermediate" else entry.study.task
    assert task is not None
    reading.read(path, task)  # Checks every line.
    return reading.read_records(path)


def _frame(rows: Sequence[Mapping[str, Any]], types: Mapping[str, str]) -> pd.DataFrame:
    content = [
        {n: "" if row.get(n) is None and t == TEXT else row.get(n) for n, t in types.items()}
        for row in rows
    ]
    # As objects, integers with gaps stay integers until they get their own type.
    return pd.DataFrame(content, columns=list(types), dtype=object).astype(dict(types))
