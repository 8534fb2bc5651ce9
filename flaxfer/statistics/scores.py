"""The target's scores by condition, seed and set, and their means over languages."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from flaxfer.evaluation.records import CONDITIONS, MIXED, Evaluation, Metrics, Study

MEAN, ZERO_SHOT, GAP = "mean over all languages", "zero-shot mean", "transfer gap"
DIFFERENCE = "staged minus direct"


@dataclasses.dataclass(frozen=True)
class Row:
    """One line of a table of scores: an evaluated set or, with `domain`, a domain of it."""

    language: str
    set: str
    n: int
    domain: str = ""


def number(value: float | None) -> float:
    """Return the value, or NaN if it is undefined."""
    return math.nan if value is None else value


def scored(evaluation: Evaluation) -> Iterator[tuple[Row, Metrics]]:
    """Yield the metrics of the set, then those of its domains if it has several."""
    yield Row(evaluation.language, evaluation.set, evaluation.n), evaluation.metrics
    if len(evaluation.domains) > 1:
        for name, part in evaluation.domains.items():
            row = Row(evaluation.language, evaluation.set, part.n, name or "(no name)")
            yield row, part.metrics


class Scores:
    """The target's scores by condition, seed and row, and their means over languages.

    Arrays are float64 of shape (seeds,), in the order of `seeds`. NaN stands for undefined or
    missing scores and propagates into means; `gaps` explains each.

    The means are those of XTREME-R (Ruder et al. 2021): over all languages, over the zero-shot
    languages, and the transfer gap, which is the mean over the training languages minus the
    zero-shot mean. A language with several sets counts once, with their mean.

    Attributes:
      seeds: seeds of the study.
      conditions: conditions of the study, in the order of `CONDITIONS`.
      training: languages of the target's training split.
      rows: evaluated sets; training languages first, mixed languages last.
      domain_rows: domains of the sets that have more than one.
      trained, zero_shot: evaluated languages within and outside of `training`.
      mean_languages: by name of each mean that exists, the languages averaged and those whose mean
        is subtracted.
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
        rows = list(dict.fromkeys(row for by_row in self._metrics.values() for row in by_row))
        rows.sort(key=lambda row: (row.language == MIXED, row.language not in self.training))
        self.rows = [row for row in rows if not row.domain]
        self.domain_rows = [row for row in rows if row.domain]
        languages = list(dict.fromkeys(row.language for row in self.rows if row.language != MIXED))
        self.trained = [language for language in languages if language in self.training]
        self.zero_shot = [language for language in languages if language not in self.training]
        self.mean_languages: dict[str, tuple[list[str], list[str]]] = {}
        if languages:
            self.mean_languages[MEAN] = languages, []
        if self.zero_shot:
            self.mean_languages[ZERO_SHOT] = self.zero_shot, []
        if self.trained and self.zero_shot:
            self.mean_languages[GAP] = self.trained, self.zero_shot

    @property
    def headline(self) -> tuple[str, str] | None:
        """Language, or name of the mean, and set of the comparison that decides about the study.

        It is the zero-shot mean, else the mean over all languages, or the only set.
        """
        mean, languages = (ZERO_SHOT, self.zero_shot) if self.zero_shot else (MEAN, self.trained)
        rows = [row for row in self.rows if row.language in languages] or self.rows
        if len(rows) > 1:
            return mean, ""
        return (rows[0].language, rows[0].set) if rows else None

    def values(self, condition: str, row: Row, metric: str) -> np.ndarray:
        """Return one score per seed; NaN where it is undefined or missing."""
        metrics = [self._metrics.get((condition, seed), {}).get(row, {}) for seed in self.seeds]
        return np.array([number(by_name.get(metric)) for by_name in metrics])

    def by_row(self, condition: str, metric: str) -> dict[Row, np.ndarray]:
        """Return the scores of a condition on every set."""
        return {row: self.values(condition, row, metric) for row in self.rows}

    def language_mean(
        self, languages: Sequence[str], by_row: Mapping[Row, np.ndarray]
    ) -> np.ndarray:
        """Average arrays over the sets of each language, then over languages."""
        by_language = [
            [by_row[row] for row in self.rows if row.language == language] for language in languages
        ]
        return np.mean([np.mean(arrays, axis=0) for arrays in by_language], axis=0)

    def mean(self, name: str, by_row: Mapping[Row, np.ndarray]) -> np.ndarray:
        """Compute a mean of `mean_languages` from one array for each set that it covers."""
        languages, subtracted = self.mean_languages[name]
        mean = self.language_mean(languages, by_row)
        return mean - self.language_mean(subtracted, by_row) if subtracted else mean

    def row_columns(self, row: Row, metric: str) -> dict[str, np.ndarray]:
        """Return the scores of a row by condition, and their difference."""
        return with_difference({c: self.values(c, row, metric) for c in self.conditions})

    def mean_columns(self, metric: str) -> dict[str, dict[str, np.ndarray]]:
        """Return every mean by name, then by condition, with the difference."""
        by_row = {condition: self.by_row(condition, metric) for condition in self.conditions}
        return {
            name: with_difference({c: self.mean(name, by_row[c]) for c in self.conditions})
            for name in self.mean_languages
        }

    def missing_runs(self) -> list[str]:
        """List the conditions and seeds without a finished run of the target."""
        return [
            f"{condition} seed {seed}"
            for condition in self.conditions
            for seed in self.seeds
            if (condition, seed) not in self._metrics
        ]

    def gaps(self, rows: Sequence[Row], metric: str) -> list[str]:
        """Explain every score that a finished run lacks, in one sentence each."""
        notes = []
        for row in rows:
            for (condition, seed), metrics in self._metrics.items():
                name = " / ".join(filter(None, (row.language, row.set, row.domain)))
                what = f"{metric} of {name}, {condition} seed {seed}"
                if row not in metrics:
                    notes.append(f"{what}: not evaluated on n = {row.n}.")
                elif metric not in metrics[row]:
                    notes.append(f"{what}: not computed.")
                elif not math.isfinite(number(metrics[row][metric])):
                    notes.append(f"{what}: undefined (constant predictions or labels).")
        return notes


def with_difference(columns: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Insert staged minus direct, seed by seed, after these two if both are present."""
    if "direct" in columns and "staged" in columns:
        columns = columns | {DIFFERENCE: columns["staged"] - columns["direct"]}
    order = ("direct", "staged", DIFFERENCE, "scratch")
    return {name: columns[name] for name in order if name in columns}
