"""The results of a study: the record study.json, the curves in metrics.jsonl, and the means."""

from __future__ import annotations

import dataclasses
import json
import math
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pydantic

from flaxfer.config import Task
from flaxfer.config.grids import CellKey
from flaxfer.errors import DataError

CONDITIONS = ("direct", "staged", "scratch")
MIXED = "mixed"  # the language of a set whose examples are in several languages
MEAN, ZERO_SHOT, GAP = "mean over all languages", "zero-shot mean", "transfer gap"
DIFFERENCE = "staged minus direct"

Metrics = dict[str, float | None]


@dataclasses.dataclass(frozen=True)
class DomainScores:
    """Metrics of the examples of one domain; `None` where a metric is undefined."""

    n: int
    metrics: Metrics


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """Metrics of one evaluated set, over all its examples and by domain."""

    set: str
    language: str
    n: int
    metrics: Metrics
    domains: dict[str, DomainScores] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Mixture:
    """Scores of `alpha` of a stage's result and the rest of its start."""

    alpha: float
    dev: Metrics
    evaluations: list[Evaluation]


@dataclasses.dataclass(frozen=True)
class Retained:
    """Metrics of a set of the intermediate task, before and after the target stage."""

    set: str
    language: str
    n: int
    before: Metrics
    after: Metrics


@dataclasses.dataclass(frozen=True)
class Restart:
    """An attempt that was given up, and what seed it drew from."""

    attempt_seed: int
    why: str
    steps: int
    seconds: float


@dataclasses.dataclass(frozen=True)
class Run:
    """A finished stage of a condition and seed; times in seconds, `padding_share` in [0, 1]."""

    condition: str
    seed: int
    stage: str
    id: str
    dir: str
    steps: int
    dev: Metrics
    evaluations: list[Evaluation]
    parent: str | None = None
    best_step: int | None = None
    stopped_early: bool = False
    seconds: float | None = None
    examples_per_s: float | None = None
    useful_tokens_per_s: float | None = None
    padding_share: float | None = None
    wise_ft: list[Mixture] = dataclasses.field(default_factory=list)
    retained: list[Retained] = dataclasses.field(default_factory=list)
    restarts: list[Restart] = dataclasses.field(default_factory=list)


@dataclasses.dataclass(frozen=True)
class Failed:
    """A stage that has diverged, or begins with one that has."""

    condition: str
    seed: int
    stage: str
    error: str


@dataclasses.dataclass(frozen=True)
class Split:
    """What one split of one stage holds; `languages` counts its examples by language."""

    stage: str
    split: str
    examples: int
    tokens: int
    truncated: int
    languages: dict[str, int]
    fingerprint: str = ""


@dataclasses.dataclass(frozen=True)
class ModelInfo:
    """The pretrained encoder: folder or hub id, family, and number of parameters."""

    source: str
    family: str
    parameters: int


@dataclasses.dataclass(frozen=True)
class Shared:
    """What two splits share, counted in examples of `b`, see `data.overlap`."""

    between: str
    a: str
    b: str
    examples: int
    texts: int
    pairs: int | None
    short: int
    share: float
    same_label: int | None
    removed: int = 0


@dataclasses.dataclass(frozen=True)
class StartScores:
    """How well frozen features of the start of a target stage tell its labels.

    `start` is `pretrained` or the identity of the stage before; None where undefined.
    """

    condition: str
    seed: int
    start: str
    logme: float | None
    knn: float | None
    neighbours: int
    examples: int
    features: str


@dataclasses.dataclass(frozen=True)
class SizeRule:
    """Examples to train on in both stages, and whether their ratio is what the design asks for."""

    intermediate: int
    target: int
    ratio: float
    holds: bool


@dataclasses.dataclass(frozen=True)
class Study:
    """The record study.json; `metric` is the target's dev metric, the one that is compared.

    What a study does not have, such as `cell` outside a grid, is empty or None.
    """

    name: str
    metric: str
    metrics: list[str]
    larger_is_better: bool
    task: Task
    conditions: list[str]
    seeds: list[int]
    model: ModelInfo
    data: list[Split]
    runs: list[Run]
    intermediate_task: Task | None = None
    config: dict[str, Any] = dataclasses.field(default_factory=dict)
    versions: dict[str, str] = dataclasses.field(default_factory=dict)
    machine: dict[str, Any] = dataclasses.field(default_factory=dict)
    date: str = ""
    command: str = ""
    git: str | None = None
    seconds: float | None = None
    failed: list[Failed] = dataclasses.field(default_factory=list)
    overlap: list[Shared] = dataclasses.field(default_factory=list)
    transferability: list[StartScores] = dataclasses.field(default_factory=list)
    size_rule: SizeRule | None = None
    cell: CellKey | None = None


def read_study(workdir: Path) -> Study:
    """WORKDIR/study.json, checked.

    Raises:
      DataError: the file is missing, is not JSON, or lacks or repeats something.
    """
    path = workdir / "study.json"
    hint = "run the study (flaxfer with its config and this workdir); it writes study.json"
    try:
        study = pydantic.TypeAdapter(Study).validate_json(path.read_bytes())
    except FileNotFoundError:
        raise DataError("there is no study.json here", where=str(workdir), hint=hint) from None
    except pydantic.ValidationError as error:
        details = [
            ": ".join(filter(None, [".".join(map(str, e["loc"])), e["msg"]]))
            for e in error.errors()
        ]
        what = "this is not the record of a study"
        raise DataError(what, where=str(path), hint=hint, details=details) from None
    repeated = [
        f"{condition} seed {seed} {stage}"
        for (condition, seed, stage), count in Counter(
            (run.condition, run.seed, run.stage) for run in study.runs
        ).items()
        if count > 1
    ]
    if repeated:
        what = "a stage has several runs"
        raise DataError(what, where=str(path), hint=hint, details=repeated)
    return study


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The records of a metrics.jsonl, by step; of a step's records of one kind the last counts.

    Raises:
      DataError: a line is not a record.
    """
    lines = path.read_bytes().splitlines()
    records: dict[tuple[str, int], dict[str, Any]] = {}
    for line_number, line in enumerate(lines, start=1):
        try:
            record = json.loads(line)
            # A resumed run repeats the steps after its checkpoint: what it wrote last is in force.
            records[record["kind"], record["step"]] = record
        except (ValueError, KeyError, TypeError) as error:
            if line_number == len(lines) and isinstance(error, ValueError):
                break  # A killed run stops in the middle of a line; all the lines before are whole.
            raise DataError(
                "this line is no record with kind and step",
                where=f"{path}:{line_number}",
                hint="delete the line, or the stage's directory and run the study again",
            ) from None
    return sorted(records.values(), key=lambda record: record["step"])


@dataclasses.dataclass(frozen=True)
class Row:
    """One line of a table of scores: a set, or with `domain` the part of it in that domain."""

    language: str
    set: str
    n: int
    domain: str = ""


def number(value: float | None) -> float:
    """The value, with NaN for undefined."""
    return math.nan if value is None else value


def scored(evaluation: Evaluation) -> Iterator[tuple[Row, Metrics]]:
    """The whole set, then each of its domains if it has more than one."""
    yield Row(evaluation.language, evaluation.set, evaluation.n), evaluation.metrics
    if len(evaluation.domains) > 1:
        for name, part in evaluation.domains.items():
            row = Row(evaluation.language, evaluation.set, part.n, name or "(no name)")
            yield row, part.metrics


class Scores:
    """The target's scores by condition, seed and row, and their means over languages.

    Arrays are float64 of shape (seeds,), in the order of `seeds`. NaN stands for undefined or
    missing and spreads into every mean; `gaps` names each.

    Attributes:
      seeds: of the study.
      conditions: of the study, in the order of `CONDITIONS`.
      training: languages of the target's train split.
      rows: sets, those in training languages first, those of mixed language last.
      domain_rows: domains of the sets that have more than one.
    """

    def __init__(self, study: Study):
        self.seeds = study.seeds
        self.conditions = [condition for condition in CONDITIONS if condition in study.conditions]
        self.training = {
            language
            for split in study.data
            if (split.stage, split.split) == ("target", "train")
            for language in split.languages
        }
        self._metrics: dict[tuple[str, int], dict[Row, Metrics]] = {
            (run.condition, run.seed): {
                row: metrics
                for evaluation in run.evaluations
                for row, metrics in scored(evaluation)
            }
            for run in study.runs
            if run.stage == "target"
        }
        found = list(dict.fromkeys(row for rows in self._metrics.values() for row in rows))
        found.sort(key=lambda row: (row.language == MIXED, row.language not in self.training))
        self.rows = [row for row in found if not row.domain]
        self.domain_rows = [row for row in found if row.domain]
        languages = list(dict.fromkeys(row.language for row in self.rows if row.language != MIXED))
        self.trained = [language for language in languages if language in self.training]
        self.zero_shot = [language for language in languages if language not in self.training]

    def values(self, condition: str, row: Row, metric: str) -> np.ndarray:
        """One value a seed; NaN where it is undefined or missing."""
        scores = [self._metrics.get((condition, seed), {}).get(row, {}) for seed in self.seeds]
        return np.array([number(metrics.get(metric)) for metrics in scores])

    def language_mean(self, condition: str, languages: Sequence[str], metric: str) -> np.ndarray:
        """Mean over languages; a language with several sets counts once, with their mean."""
        sets = [[row for row in self.rows if row.language == language] for language in languages]
        return np.mean(
            [
                np.mean([self.values(condition, row, metric) for row in rows], axis=0)
                for rows in sets
            ],
            axis=0,
        )

    def means(self, condition: str, metric: str) -> dict[str, np.ndarray]:
        """Mean, zero-shot mean and transfer gap as in XTREME-R (Ruder et al. 2021), if they exist.

        The transfer gap is the mean over the training languages minus the zero-shot mean.
        """
        means: dict[str, np.ndarray] = {}
        if self.trained or self.zero_shot:
            means[MEAN] = self.language_mean(condition, self.trained + self.zero_shot, metric)
        if self.zero_shot:
            means[ZERO_SHOT] = self.language_mean(condition, self.zero_shot, metric)
        if self.trained and self.zero_shot:
            trained = self.language_mean(condition, self.trained, metric)
            means[GAP] = trained - means[ZERO_SHOT]
        return means

    def row_columns(self, row: Row, metric: str) -> dict[str, np.ndarray]:
        """The values of a row by condition, with their difference."""
        return with_difference(
            {condition: self.values(condition, row, metric) for condition in self.conditions}
        )

    def mean_columns(self, metric: str) -> dict[str, dict[str, np.ndarray]]:
        """Name of the mean -> its values by condition, with their difference."""
        means = {condition: self.means(condition, metric) for condition in self.conditions}
        names = list(
            dict.fromkeys(name for of_condition in means.values() for name in of_condition)
        )
        return {
            name: with_difference(
                {condition: of_condition[name] for condition, of_condition in means.items()}
            )
            for name in names
        }

    def missing_runs(self) -> list[str]:
        """Conditions and seeds that have no finished run of the target."""
        return [
            f"{condition} seed {seed}"
            for condition in self.conditions
            for seed in self.seeds
            if (condition, seed) not in self._metrics
        ]

    def gaps(self, rows: Sequence[Row], metric: str) -> list[str]:
        """One sentence for every value that a finished run does not have."""
        notes = []
        for row in rows:
            for (condition, seed), scores in self._metrics.items():
                name = " / ".join(filter(None, (row.language, row.set, row.domain)))
                what = f"{metric} of {name}, {condition} seed {seed}"
                if row not in scores:
                    notes.append(f"{what}: not evaluated on n = {row.n}.")
                elif metric not in scores[row]:
                    notes.append(f"{what}: not computed.")
                elif not math.isfinite(number(scores[row][metric])):
                    notes.append(f"{what}: undefined (constant predictions or labels).")
        return notes


def with_difference(columns: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The columns, and staged minus direct seed by seed behind the two where both are there."""
    if "direct" in columns and "staged" in columns:
        columns = columns | {DIFFERENCE: columns["staged"] - columns["direct"]}
    order = ("direct", "staged", DIFFERENCE, "scratch")
    return {name: columns[name] for name in order if name in columns}
