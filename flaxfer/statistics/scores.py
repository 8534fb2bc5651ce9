"""The target's scores of a study by condition, seed and set, and their means over languages."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Sequence

import numpy as np

from flaxfer.evaluation.records import CONDITIONS, MIXED, Evaluation, Metrics, Study

MEAN, ZERO_SHOT, GAP = "mean over all languages", "zero-shot mean", "transfer gap"
DIFFERENCE = "staged minus direct"


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
