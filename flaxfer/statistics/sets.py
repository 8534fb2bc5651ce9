"""Scores of a study's direct and staged runs on evaluated sets, with resampled examples."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from flaxfer.evaluation.records import Study, read_study
from flaxfer.statistics import reading
from flaxfer.statistics.collapse import why_unlearned
from flaxfer.statistics.scores import GAP, Row, Scores
from flaxfer.tasks import resampling, task_type
from flaxfer.tasks.resampling import Resampled

COMPARED = ("direct", "staged")


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
    scores: np.ndarray
    resampled: np.ndarray
    exchanged: np.ndarray


class StudyRuns:
    """The target's direct and staged runs of a study, scored from their predictions.

    Attributes:
      workdir, study: directory and record of the study.
      metric, larger_is_better: metric of all scores, and its direction.
      margin: smallest relevant difference of the metric; None if none is declared.
      headline: language and set that decide about the study, see `Scores.headline`.
      runs: runs, direct before staged.
      pairs: indices of the direct and of the staged runs of the seeds in both conditions.
      skipped: why the study, sets or means are left out, one sentence each.
    """

    def __init__(self, workdir: Path, metric: str, study: Study | None = None):
        self.workdir, self.study = workdir, study or read_study(workdir)
        self.metric = metric or self.study.metric
        self.larger_is_better = task_type(self.study.task).larger_is_better(self.metric)
        lowest, highest = task_type(self.study.task).metric_range(self.metric)
        self._largest = highest - lowest
        self.runs = [
            run
            for condition in COMPARED
            for run in self.study.runs
            if (run.condition, run.stage) == (condition, "target")
        ]
        self.skipped: list[str] = []
        if {run.condition for run in self.runs} != set(COMPARED):
            self._skip("it has no finished runs of both direct and staged")
        if self.metric not in self.study.metrics:
            self._skip(f"it has no metric {self.metric}")
        self._comparable = not self.skipped
        direct, staged = (
            {run.seed: i for i, run in enumerate(self.runs) if run.condition == condition}
            for condition in COMPARED
        )
        both = [seed for seed in staged if seed in direct]
        self.pairs = [direct[seed] for seed in both], [staged[seed] for seed in both]
        self._scores = Scores(self.study)
        self.margin = self.study.margin.get(self.metric)
        self.headline = self._scores.headline

    def _skip(self, why: str) -> None:
        self.skipped.append(f"{self.study.name} ({self.workdir}): {why}.")

    def sets(self, draws: int, seed: int) -> dict[Row, SetScores]:
        """Score every set on its examples, on resamples of them, and with exchanged predictions.

        Sets of the same size share the draws. That saves time and preserves the dependence between
        parallel sets, which hold the same examples in several languages; other sets are
        independent anyway.
        """
        if not self._comparable:
            return {}
        measured = self._measure()
        sets = {}
        for n in sorted({measure.n for measure, _ in measured.values()}):
            group = {row: one for row, one in measured.items() if one[0].n == n}
            rng = np.random.default_rng((seed, n))
            resamples = [
                [measure.values(block) for measure, _ in group.values()]
                for block in resampling.resamples(n, draws, rng)
            ]
            exchanges = [
                [measure.swapped(block, *self.pairs) for measure, _ in group.values()]
                for block in resampling.exchanges(n, draws, rng)
            ]
            for i, (row, (measure, unlearned)) in enumerate(group.items()):
                sets[row] = SetScores(
                    language=row.language,
                    set=row.set,
                    n=n,
                    larger_is_better=self.larger_is_better,
                    largest=self._largest,
                    unlearned=unlearned,
                    scores=measure.observed(),
                    resampled=np.concatenate([block[i] for block in resamples]),
                    exchanged=np.concatenate([block[i] for block in exchanges]),
                )
        return {row: sets[row] for row in measured}

    def _measure(self) -> dict[Row, tuple[Resampled, list[str]]]:
        """Read all predictions; return by set its metric and why runs learned nothing."""
        task, rows = self.study.task, self._scores.rows
        fingerprints = {
            split.split: split.fingerprint[:12]
            for split in self.study.data
            if split.stage == "target"
        }
        measured = {}
        for name in dict.fromkeys(row.set for row in rows):
            file = f"predictions/{name}-{fingerprints.get(name, '')}.jsonl"
            paths = [self.workdir / run.dir / file for run in self.runs]
            if missing := [str(path) for path in paths if not path.is_file()]:
                self._skip(f"{name} has no predictions in {', '.join(missing)}")
                continue
            predicted = [reading.read(path, task) for path in paths]
            for row in (row for row in rows if row.set == name):
                language = row.language
                of_runs = [of[language] for of in predicted if language in of]
                reading.require(of_runs, row.n)
                if len(of_runs) < len(predicted):
                    self._skip(f"{name} has no predictions in {language}")
                elif task_type(task).undefined(self.metric, of_runs[0].gold):
                    self._skip(f"{self.metric} of {name} in {language}: all labels are the same")
                else:
                    measure, learning = reading.measured(task, self.metric, language, of_runs)
                    measured[row] = measure, why_unlearned(learning, measure.n)
        return measured

    def collapsed(self, sets: Sequence[SetScores]) -> np.ndarray:
        """Return (runs,) bool: runs that learned nothing in the languages of training."""
        judged = [one for one in sets if one.language in self._scores.training] or sets
        unlearned = [one.unlearned for one in judged]
        return np.array([all(reasons) for reasons in zip(*unlearned, strict=True)], bool)

    def means(self, sets: Mapping[Row, SetScores]) -> list[SetScores]:
        """Compute the means over languages of at least two sets, unless a set is missing."""
        means = []
        for name, (languages, subtracted) in self._scores.mean_languages.items():
            rows = [row for row in self._scores.rows if row.language in (*languages, *subtracted)]
            if len(rows) < 2 or not self._comparable:
                continue
            if missing := sorted(row.set for row in rows if row not in sets):
                self._skip(f"{name}: no comparison of {', '.join(missing)}")
                continue
            reasons = (
                [f"{row.language} / {row.set}: {why}" if why else "" for why in sets[row].unlearned]
                for row in rows
            )
            unlearned = ["; ".join(filter(None, of_run)) for of_run in zip(*reasons, strict=True)]
            arrays = (
                self._scores.mean(name, {row: getattr(sets[row], field) for row in rows})
                for field in ("scores", "resampled", "exchanged")
            )
            n = sum(sets[row].n for row in rows)
            better = self.larger_is_better != (name == GAP)
            # A gap is itself a difference of two means.
            largest = self._largest * (2 if name == GAP else 1)
            means.append(SetScores(name, "", n, better, largest, unlearned, *arrays))
        return means
