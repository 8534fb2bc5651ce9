"""The record of a study, study.json: its runs, their scores, model and data."""

from __future__ import annotations

import dataclasses
import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import pydantic

from flaxfer.config import Task
from flaxfer.config.common import Condition
from flaxfer.config.data import AnswerStyle
from flaxfer.config.grids import CellKey
from flaxfer.data.overlap import Overlap
from flaxfer.errors import DataError
from flaxfer.runtime import sealed

CONDITIONS: tuple[Condition, ...] = ("direct", "staged", "scratch")

Stage = Literal["intermediate", "target"]

NOT_JUDGED = "not judged"
"""Verdict on a study that compares nothing, or has a condition with a single run."""

MIXED = "mixed"
"""Language of a set with examples in several languages."""

Metrics = dict[str, float | None]
"""Metrics by name; None if undefined."""


@dataclasses.dataclass(frozen=True)
class DomainScores:
    """Metrics of the examples of one domain."""

    n: pydantic.PositiveInt
    metrics: Metrics


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """Metrics of an evaluated set, over all examples and by domain."""

    set: str
    language: str
    n: pydantic.PositiveInt
    metrics: Metrics
    domains: dict[str, DomainScores] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Mixture:
    """Scores of the WiSE-FT mixture of a stage's result, weighted `alpha`, and its start."""

    alpha: float
    dev: Metrics
    evaluations: list[Evaluation]


@dataclasses.dataclass(frozen=True)
class Retained:
    """Metrics of a set of the intermediate task, before and after the target stage."""

    set: str
    language: str
    n: pydantic.PositiveInt
    before: Metrics
    after: Metrics


@dataclasses.dataclass(frozen=True)
class Restart:
    """An abandoned attempt of a run, and its seed."""

    attempt_seed: int
    why: str
    steps: int
    seconds: float


@dataclasses.dataclass(frozen=True)
class Run:
    """A finished stage of a condition and seed; times in seconds, `padding_share` in [0, 1]."""

    condition: Condition
    seed: int
    stage: Stage
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
    """A stage that diverged, or whose start did."""

    condition: Condition
    seed: int
    stage: Stage
    error: str


@dataclasses.dataclass(frozen=True)
class Split:
    """Size of a split of a stage; `languages` counts its examples by language.

    `seed` is that of the runs with this split; None if it is the same for all seeds. `units` is the
    number of its clusters, where an example in none counts as one; None where they are not
    recorded.
    """

    stage: str
    split: str
    examples: int
    tokens: int
    truncated: int
    languages: dict[str, int]
    fingerprint: str = ""
    units: int | None = None
    seed: int | None = None


@dataclasses.dataclass(frozen=True)
class ModelInfo:
    """The pretrained encoder: folder or hub id, family, and number of parameters."""

    source: str
    family: str
    parameters: int


@dataclasses.dataclass(frozen=True)
class StartScores:
    """Scores of how well frozen features of a target stage's start predict its labels.

    `start` is `pretrained` or the identity of the stage before; None where undefined.
    """

    condition: Condition
    seed: int
    start: str
    logme: float | None
    knn: float | None
    neighbours: int
    examples: int
    features: str


@dataclasses.dataclass(frozen=True)
class SizeRule:
    """Training examples of both stages, and whether their ratio meets the design's minimum."""

    intermediate: int
    target: int
    ratio: float
    holds: bool


@dataclasses.dataclass(frozen=True)
class Look:
    """A look of a study with sequential seeds at its primary comparison.

    The p values are not corrected for the other studies of a grid; those of the equivalence are
    None without a margin.

    Attributes:
      seeds: number of seeds in each condition.
      share: share of the maximum information, by which the look spends its part of the level.
      difference: staged minus direct; None if there is nothing to compare, and the p values are 1.
      low, high: ends of the repeated confidence interval.
      p, p_equivalence: p values of this look alone.
      p_sequential, p_equivalence_sequential: p values of all looks up to this one.
      decided: whether the study stops here, after the correction for the other studies.
    """

    seeds: int
    share: float
    difference: float | None
    low: float | None
    high: float | None
    p: float
    p_sequential: float
    p_equivalence: float | None = None
    p_equivalence_sequential: float | None = None
    decided: bool = False


@dataclasses.dataclass(frozen=True)
class SetInfo:
    """Settings of an evaluated set, as in `config.Source`."""

    benchmark: str | None = None
    answer_style: AnswerStyle | None = None
    fraction: float = 1.0


@dataclasses.dataclass(frozen=True)
class Study:
    """The record study.json; `metric` is the target's dev metric, the one that is compared.

    `looks` are the planned numbers of seeds, and `looked` what has been seen at them;
    `design_changes` were made after there were results.
    `margin` has the smallest relevant difference by metric, where the config declares one.
    `sets` are the sets of `evaluate`, by name.
    `paired` says whether direct and staged runs of the same seed are compared as pairs.
    What a study does not have, such as `cell` outside a grid, is empty or None.
    """

    name: str
    metric: str
    metrics: list[str]
    larger_is_better: bool
    task: Task
    conditions: list[Condition]
    seeds: list[int]
    model: ModelInfo
    data: list[Split]
    runs: list[Run]
    intermediate_task: Task | None = None
    margin: dict[str, float] = dataclasses.field(default_factory=dict)
    paired: bool = False
    sets: dict[str, SetInfo] = dataclasses.field(default_factory=dict)
    config: dict[str, Any] = dataclasses.field(default_factory=dict)
    versions: dict[str, str] = dataclasses.field(default_factory=dict)
    machine: dict[str, Any] = dataclasses.field(default_factory=dict)
    date: str = ""
    command: str = ""
    git: str | None = None
    seconds: float | None = None
    failed: list[Failed] = dataclasses.field(default_factory=list)
    overlap: list[Overlap] = dataclasses.field(default_factory=list)
    transferability: list[StartScores] = dataclasses.field(default_factory=list)
    size_rule: SizeRule | None = None
    cell: CellKey | None = None
    scoring: str = ""
    parallel: list[list[str]] | None = None
    looks: list[int] = dataclasses.field(default_factory=list)
    looked: list[Look] = dataclasses.field(default_factory=list)
    design_changes: list[str] = dataclasses.field(default_factory=list)

    def task_of(self, name: str) -> Task:
        """Return the task with the settings of an evaluated set."""
        known = self.sets.get(name, SetInfo())
        if known.answer_style is None:
            return self.task
        return dataclasses.replace(self.task, answer_style=known.answer_style)


_STUDY = pydantic.TypeAdapter(Study)


def read_study(workdir: str | Path) -> Study:
    """Read and check WORKDIR/study.json.

    Raises:
      DataError: the file is missing, is not JSON, or lacks or repeats something.
    """
    path = Path(workdir) / "study.json"
    hint = "run the study (flaxfer with its config and this workdir); it writes study.json"
    try:
        content = path.read_bytes()
        study = _STUDY.validate_json(content)
        sealed.opened(json.loads(content))
    except (FileNotFoundError, NotADirectoryError):
        raise DataError("there is no study.json here", where=str(workdir), hint=hint) from None
    except OSError as error:
        raise DataError(
            f"cannot be read: {error.strerror}", where=str(path), hint="check its permissions"
        ) from error
    except pydantic.ValidationError as error:
        what = "this is not the record of a study"
        details = [
            ": ".join(filter(None, [".".join(map(str, e["loc"])), e["msg"]]))
            for e in error.errors()
        ]
    except (ValueError, RecursionError) as error:
        what, details = f"the record is damaged: {error}", []
    else:
        what = "the record contradicts itself"
        details = list(_contradictions(study))
        if not details:
            return study
    raise DataError(what, where=str(path), hint=hint, details=details)


def _contradictions(study: Study) -> Iterator[str]:
    """Yield what cannot be true of a study at once."""
    if not study.conditions or len(set(study.conditions)) < len(study.conditions):
        yield f"conditions: should be some of {', '.join(CONDITIONS)}, each once"
    if study.metric not in study.metrics:
        yield f"metric: {study.metric!r} is none of the metrics"
    keys = Counter(f"{run.condition} seed {run.seed} {run.stage}" for run in study.runs)
    yield from (f"{key}: a stage has several runs" for key, count in keys.items() if count > 1)
    for i, run in enumerate(study.runs):
        if run.condition not in study.conditions:
            yield f"runs.{i}.condition: {run.condition!r} is none of the conditions"
        if run.seed not in study.seeds:
            yield f"runs.{i}.seed: {run.seed} is none of the seeds"
