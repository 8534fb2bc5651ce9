"""Scores of a study's direct and staged runs on evaluated sets, with resampled examples.

What is resampled is defined in `flaxfer.statistics.units`.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np

from flaxfer.evaluation.records import Run, Study, read_study
from flaxfer.statistics import reading
from flaxfer.statistics.collapse import at_chance, why_unlearned
from flaxfer.statistics.scores import Row, Scores
from flaxfer.statistics.units import Units, Usable, find_units
from flaxfer.tasks import resampling, task_type
from flaxfer.tasks.resampling import Learning, Resampled

COMPARED = ("direct", "staged")
LEARNED = "{} without sets at chance"
"""Name of the additional mean over the sets that some condition has learned on."""


@dataclasses.dataclass(frozen=True)
class SetScores:
    """Scores of the runs of a study on an evaluated set, or on a mean over sets.

    Attributes:
      language: language, or name of the mean.
      set: name of the set; empty for a mean.
      n: number of examples.
      larger_is_better: direction of the scores.
      largest: largest possible absolute difference of two scores.
      unlearned: by run, why it learned nothing here; empty if it learned something.
      at_chance: no condition scores above chance here, or on any set of the mean.
      drawn: units of the set, or of each set of the mean.
      scores: (runs,).
      resampled: (draws, runs), scores in resamples of the examples.
      exchanged: (draws, pairs), staged minus direct of pairs of runs that exchange predictions.
    """

    language: str
    set: str
    n: int
    larger_is_better: bool
    largest: float
    unlearned: list[str]
    at_chance: bool
    drawn: tuple[Units, ...]
    scores: np.ndarray
    resampled: np.ndarray
    exchanged: np.ndarray

    @property
    def units(self) -> int:
        """Number of resampled units; those that sets of a mean share count once."""
        of_group: dict[int, list[np.ndarray]] = {}
        for units in self.drawn:
            of_group.setdefault(units.group, []).append(units.unit_n)
        return sum(len(np.unique(np.concatenate(unit_n))) for unit_n in of_group.values())

    def in_own_order(self, field: str) -> np.ndarray:
        """Return an array of a set, its draws in an order of their own for each group of units.

        Groups of equal size share draws. In another order, these are independent.
        """
        values: np.ndarray = getattr(self, field)
        (units,) = self.drawn
        if field == "scores" or not units.group:
            return values
        return values[np.random.default_rng(units.group).permutation(len(values))]


@dataclasses.dataclass(frozen=True)
class _Measured:
    """The metric of a set, and what its resamples depend on."""

    metric: Resampled
    unlearned: list[str]
    at_chance: bool
    units: Units
    usable: Usable | None


class Compared:
    """Direct and staged runs, and which of them are compared.

    Attributes:
      workdir, study: directory and record of the study, or of the first one of several.
      metric: metric of all scores.
      runs: runs, direct before staged.
      paired: whether runs are compared as pairs of a seed.
      margin: smallest relevant difference of the metric; None if none is declared.
      headline: language and set that decide about the study, see `Scores.headline`.
      pairs: indices of the direct and of the staged runs of the seeds in both conditions.
    """

    margin: float | None = None
    headline: tuple[str, str] | None = None

    def __init__(self, workdir: Path, study: Study, metric: str, runs: Sequence[Run]):
        self.workdir, self.study, self.metric = workdir, study, metric
        self.runs, self.paired = runs, study.paired
        direct, staged = (
            {run.seed: i for i, run in enumerate(runs) if run.condition == condition}
            for condition in COMPARED
        )
        both = [seed for seed in staged if seed in direct]
        self.pairs = [direct[seed] for seed in both], [staged[seed] for seed in both]

    def kept_pairs(self, kept: np.ndarray) -> np.ndarray:
        """Return (pairs,) bool: the pairs of two runs that `kept`, (runs,) bool, selects."""
        direct, staged = (np.array(runs, int) for runs in self.pairs)
        both: np.ndarray = kept[direct] & kept[staged]
        return both

    def compared(self, kept: np.ndarray) -> tuple[list[int], list[int]]:
        """Return the indices of the direct and of the staged runs that are compared.

        If the study is paired, these are the runs of the same seeds, in the same order.

        Args:
          kept: (runs,) bool, runs to select from.
        """
        if self.paired:
            kept_pairs = self.kept_pairs(kept)
            direct, staged = (list(itertools.compress(runs, kept_pairs)) for runs in self.pairs)
        else:
            direct, staged = (
                [i for i, run in enumerate(self.runs) if run.condition == condition and kept[i]]
                for condition in COMPARED
            )
        return direct, staged


class StudyRuns(Compared):
    """The target's direct and staged runs of a study, scored from their predictions.

    Attributes:
      larger_is_better: direction of the metric.
      skipped: why the study, sets or means are left out, one sentence each.
      notes: what looks wrong with the sets, one sentence each.
    """

    def __init__(self, workdir: Path, metric: str, study: Study | None = None):
        study = study or read_study(workdir)
        runs = [
            run
            for condition in COMPARED
            for run in study.runs
            if (run.condition, run.stage) == (condition, "target")
        ]
        super().__init__(workdir, study, metric or study.metric, runs)
        form, known = task_type(self.study.task), self.metric in self.study.metrics
        self.larger_is_better = form.larger_is_better(self.metric) if known else True
        lowest, highest = form.metric_range(self.metric)
        self._largest = highest - lowest
        self.skipped: list[str] = []
        self.notes: list[str] = []
        if {run.condition for run in self.runs} != set(COMPARED):
            self._skip("it has no finished runs of both direct and staged")
        elif self.paired and not self.pairs[0]:
            self._skip("it is paired, but no seed has finished runs of both direct and staged")
        if not known:
            self._skip(f"it has no metric {self.metric}")
        self._comparable = not self.skipped
        self._scores = Scores(self.study)
        self.margin = self.study.margin.get(self.metric)
        self.headline = self._scores.headline

    def _skip(self, why: str) -> None:
        self.skipped.append(f"{self.study.name} ({self.workdir}): {why}.")

    def sets(self, draws: int, seed: int) -> dict[Row, SetScores]:
        """Score every set on its examples, on resamples of them, and with exchanged predictions.

        Groups of sets with equally many units share the draws, which saves time.
        """
        if not self._comparable:
            return {}
        measured = self._measure()
        sets = {}
        for total in sorted({one.units.total for one in measured.values()}):
            members = {row: one for row, one in measured.items() if one.units.total == total}
            rng, again = (np.random.default_rng(key) for key in ((seed, total), (seed, total, 2)))
            resamples = [
                _values(block, members, again) for block in resampling.resamples(total, draws, rng)
            ]
            exchanges = [
                {row: one.metric.swapped(block, *self.pairs) for row, one in members.items()}
                for block in resampling.exchanges(total, draws, rng)
            ]
            for row, one in members.items():
                sets[row] = SetScores(
                    language=row.language,
                    set=row.set,
                    n=one.metric.n,
                    larger_is_better=self.larger_is_better,
                    largest=self._largest,
                    unlearned=one.unlearned,
                    at_chance=one.at_chance,
                    drawn=(one.units,),
                    scores=one.metric.observed(),
                    resampled=np.concatenate([block[row] for block in resamples]),
                    exchanged=np.concatenate([block[row] for block in exchanges]),
                )
        return {row: sets[row] for row in measured}

    def _measure(self) -> dict[Row, _Measured]:
        """Read all predictions; return by set its metric with its units."""
        form = task_type(self.study.task)
        measured: dict[Row, tuple[Resampled, list[Learning]]] = {}
        examples: dict[Row, reading.Predicted] = {}
        for name in dict.fromkeys(row.set for row in self._scores.rows):
            predicted = self._read(name)
            for row in self._scores.rows if predicted else ():
                if row.set != name:
                    continue
                language = row.language
                of_runs = [of[language] for of in predicted if language in of]
                reading.require(of_runs, row.n)
                if len(of_runs) < len(predicted):
                    self._skip(f"{name} has no predictions in {language}")
                elif form.undefined(self.metric, of_runs[0].gold):
                    self._skip(f"{self.metric} of {name} in {language}: all labels are the same")
                else:
                    task = self.study.task_of(name)
                    measured[row] = reading.measured(task, self.metric, language, of_runs)
                    examples[row] = dataclasses.replace(of_runs[0], prediction=[])
            for of in predicted:
                reading.require_clusters(of, name, self.study)
        units, notes = find_units(examples, self.study.parallel, str(self.workdir))
        self.notes += [f"{self.study.name} ({self.workdir}): {note}" for note in notes]
        for row in [row for row in units if units[row].own == 1]:
            self._skip(f"{row.set} in {row.language}: all {row.n} examples are one cluster")
            del measured[row]
        conditions = [run.condition for run in self.runs]
        return {
            row: _Measured(
                metric=_grouped(metric, units[row]),
                unlearned=why_unlearned(learning, units[row].own),
                at_chance=at_chance(learning, conditions, units[row].own),
                units=units[row],
                usable=Usable.of(
                    units[row],
                    examples[row].gold,
                    form.undefined(self.metric, examples[row].gold[:1]),
                ),
            )
            for row, (metric, learning) in measured.items()
        }

    def _read(self, name: str) -> list[dict[str, reading.Predicted]]:
        """Return the predictions of each run for a set, by language; none if a file is missing."""
        splits = [s for s in self.study.data if (s.stage, s.split) == ("target", name)]
        fingerprint = splits[0].fingerprint[:12] if splits else ""
        file = f"predictions/{name}-{fingerprint}.jsonl"
        paths = [self.workdir / run.dir / file for run in self.runs]
        if missing := [str(path) for path in paths if not path.is_file()]:
            self._skip(f"{name} has no predictions in {', '.join(missing)}")
            return []
        return [reading.read(path, self.study.task) for path in paths]

    def collapsed(self, sets: Sequence[SetScores]) -> np.ndarray:
        """Return (runs,) bool: runs that learned nothing in the languages of training."""
        judged = [one for one in sets if one.language in self._scores.training] or sets
        unlearned = [one.unlearned for one in judged]
        return np.array([all(reasons) for reasons in zip(*unlearned, strict=True)], bool)

    def means(self, sets: Mapping[Row, SetScores]) -> list[SetScores]:
        """Compute the means over languages of at least two sets, unless a set is missing.

        Where no condition learns on some sets, the mean over the others follows as well.
        """
        means = []
        for name, parts in self._scores.mean_languages.items():
            rows = [[row for row in self._scores.rows if row.language in part] for part in parts]
            if len(rows[0] + rows[1]) < 2 or not self._comparable:
                continue
            if missing := sorted(row.set for row in rows[0] + rows[1] if row not in sets):
                self._skip(f"{name}: no comparison of {', '.join(missing)}")
                continue
            means.append(self.mean(name, *([sets[row] for row in part] for part in rows)))
            learned = [[sets[row] for row in part if not sets[row].at_chance] for part in rows]
            fewer = 2 <= len(learned[0] + learned[1]) < len(rows[0] + rows[1])
            if fewer and [bool(part) for part in learned] == [bool(part) for part in rows]:
                means.append(self.mean(LEARNED.format(name), *learned))
        return means

    def mean(
        self, name: str, averaged: Sequence[SetScores], subtracted: Sequence[SetScores] = ()
    ) -> SetScores:
        """Return a mean over languages, or the difference of two such means."""
        sets = [*averaged, *subtracted]
        reasons = (
            [f"{one.language} / {one.set}: {why}" if why else "" for why in one.unlearned]
            for one in sets
        )
        arrays = {}
        for field in ("scores", "resampled", "exchanged"):
            arrays[field] = _language_mean(averaged, field)
            if subtracted:  # A gap is itself a difference of two means.
                arrays[field] = arrays[field] - _language_mean(subtracted, field)
        return SetScores(
            language=name,
            set="",
            n=sum(one.n for one in sets),
            larger_is_better=self.larger_is_better != bool(subtracted),
            largest=self._largest * (2 if subtracted else 1),
            unlearned=["; ".join(filter(None, of_run)) for of_run in zip(*reasons, strict=True)],
            at_chance=all(one.at_chance for one in sets),
            drawn=tuple(units for one in sets for units in one.drawn),
            **arrays,
        )


def _grouped(metric: Resampled, units: Units) -> Resampled:
    """Return a metric with the units of its set."""
    if np.array_equal(units.unit_n, np.arange(units.total)):
        return metric
    return metric.grouped(units.unit_n, units.total)


def _values(
    weights_BU: np.ndarray, sets: Mapping[Row, _Measured], rng: np.random.Generator
) -> dict[Row, np.ndarray]:
    """Return the metric of sets in resamples; `rng` is for those that are drawn again."""
    values: dict[Row, np.ndarray] = {}
    for group in dict.fromkeys(one.units.group for one in sets.values()):
        members = {row: one for row, one in sets.items() if one.units.group == group}
        checks = [one.usable for one in members.values() if one.usable is not None]
        drawn = _drawn_again(weights_BU, checks, rng)
        values |= {row: one.metric.values(drawn) for row, one in members.items()}
    return values


def _drawn_again(
    weights_BU: np.ndarray, checks: Sequence[Usable], rng: np.random.Generator
) -> np.ndarray:
    """Return resamples with those drawn again that are not usable for all sets."""

    def unusable(weights_BU: np.ndarray) -> np.ndarray:
        usable_B = np.ones(len(weights_BU), bool)
        for usable in checks:
            usable_B &= usable(weights_BU)
        return ~usable_B

    bad = np.flatnonzero(unusable(weights_BU))
    if len(bad):
        weights_BU = weights_BU.copy()
    while len(bad):
        (weights_BU[bad],) = resampling.resamples(weights_BU.shape[1], len(bad), rng)
        bad = bad[unusable(weights_BU[bad])]
    return weights_BU


def _language_mean(sets: Iterable[SetScores], field: str) -> np.ndarray:
    """Return the mean of an array over the sets of each language, then over languages."""
    by_language: dict[str, list[np.ndarray]] = {}
    for one in sets:
        by_language.setdefault(one.language, []).append(one.in_own_order(field))
    mean: np.ndarray = np.mean([np.mean(of, axis=0) for of in by_language.values()], axis=0)
    return mean
