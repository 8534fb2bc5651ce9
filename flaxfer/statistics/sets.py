"""The runs of a study's two paths on every evaluated set, under resampling of the examples."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np

from flaxfer.evaluation.records import Run, Study, read_study
from flaxfer.statistics import reading
from flaxfer.statistics.collapse import why_nothing
from flaxfer.statistics.scores import GAP, MEAN, ZERO_SHOT, Row, Scores
from flaxfer.tasks import resampling, task_type
from flaxfer.tasks.resampling import Resampled

CONDITIONS = ("direct", "staged")


@dataclasses.dataclass
class Compared:
    """A set, or a mean over sets, with the scores of the R runs.

    Attributes:
      row: language and set.
      larger_is_better: of its scores.
      nothing: by run why it has learned nothing here, empty if it has.
      failed: (R,) bool, runs that have collapsed.
      scores: (R,).
      drawn: (B, R), in resamples of the examples.
      exchanged: (B, P), staged minus direct of the seeds in both paths, under exchanges.
      measure: of a set, until it has been resampled.
      pairs: of the P seeds in both paths the runs of direct, and those of staged.
    """

    row: Row
    larger_is_better: bool
    nothing: list[str]
    scores: np.ndarray
    drawn: np.ndarray
    exchanged: np.ndarray
    measure: Resampled | None = None
    pairs: tuple[list[int], list[int]] = ([], [])
    failed: np.ndarray = dataclasses.field(default_factory=lambda: np.zeros(0, bool))


class StudyRuns:
    """The target's runs of both paths of a study, and what they predicted."""

    def __init__(self, workdir: Path, metric: str, skipped: list[str]):
        self.workdir, self.skipped = workdir, skipped
        self.study: Study = read_study(workdir)
        self.metric = metric or self.study.metric
        by_path = [
            [run for run in self.study.runs if (run.condition, run.stage) == (path, "target")]
            for path in CONDITIONS
        ]
        self.runs: list[Run] = by_path[0] + by_path[1] if all(by_path) else []
        if not self.runs:
            self._skip("it has no finished runs of both direct and staged")
        if self.metric not in self.study.metrics:
            self._skip(f"it has no metric {self.metric}")
            self.runs = []
        self.larger_is_better = task_type(self.study.task).larger_is_better(self.metric)

    def sets(self) -> list[Compared]:
        """The sets that all runs have predictions of."""
        if not self.runs:
            return []
        fingerprint = {
            split.split: split.fingerprint for split in self.study.data if split.stage == "target"
        }
        rows: dict[str, list[Row]] = {}
        for row in Scores(self.study).rows:
            rows.setdefault(row.set, []).append(row)
        made = []
        for name, own in rows.items():
            file = f"predictions/{name}-{fingerprint.get(name, '')[:12]}.jsonl"
            paths = [self.workdir / run.dir / file for run in self.runs]
            if missing := [str(path) for path in paths if not path.is_file()]:
                self._skip(f"{name} has no predictions in {', '.join(missing)}")
                continue
            predicted = [reading.read(path, self.study.task) for path in paths]
            made += [s for row in own if (s := self._set(row, predicted)) is not None]
        trained = Scores(self.study).training
        judged = [one for one in made if one.row.language in trained] or made
        for one in made:
            one.failed = np.all([[bool(why) for why in of.nothing] for of in judged], axis=0)
        return made

    def _set(self, row: Row, predicted: Sequence[dict[str, reading.Predicted]]) -> Compared | None:
        chosen = [of.get(row.language, reading.Predicted(Path(), [], [], [])) for of in predicted]
        if min(len(one.ids) for one in chosen) == 0:
            self._skip(f"{row.set} has no predictions in {row.language}")
            return None
        if task_type(self.study.task).undefined(self.metric, chosen[0].gold):
            self._skip(f"{self.metric} of {row.set} in {row.language}: all labels are the same")
            return None
        measure, learning = reading.measured(self.study.task, self.metric, row.language, chosen)
        return Compared(
            Row(row.language, row.set, measure.n),
            self.larger_is_better,
            why_nothing(learning, measure.n),
            measure.observed(),
            np.empty(0),
            np.empty(0),
            measure,
            self._pairs(),
        )

    def _pairs(self) -> tuple[list[int], list[int]]:
        place = {(run.condition, run.seed): i for i, run in enumerate(self.runs)}
        both = [
            (place["direct", run.seed], i)
            for i, run in enumerate(self.runs)
            if run.condition == "staged" and ("direct", run.seed) in place
        ]
        return [first for first, _ in both], [second for _, second in both]

    def means(self, sets: Sequence[Compared]) -> Iterator[Compared]:
        """The means over languages whose sets are all there."""
        scores = Scores(self.study)
        found = {(one.row.language, one.row.set): one for one in sets}

        def shares(languages: Sequence[str], sign: float) -> dict[tuple[str, str], float]:
            rows = [row for row in scores.rows if row.language in languages]
            own = [row.language for row in rows]
            return {
                (row.language, row.set): sign / len(languages) / own.count(row.language)
                for row in rows
            }

        trained, zero_shot = scores.trained, scores.zero_shot
        wanted = {MEAN: shares(trained + zero_shot, 1), ZERO_SHOT: shares(zero_shot, 1)}
        if trained and zero_shot:
            wanted[GAP] = shares(trained, 1) | shares(zero_shot, -1)
        for name, of in wanted.items():
            if not self.runs or len(of) < 2:
                continue
            if missing := of.keys() - found.keys():
                self._skip(f"{name}: no comparison of {', '.join(sorted(s for _, s in missing))}")
                continue
            parts = [(share, found[key]) for key, share in of.items()]
            yield Compared(
                Row(name, "", sum(part.row.n for _, part in parts)),
                self.larger_is_better != (name == GAP),
                _joined([part for _, part in parts]),
                _sum(parts, lambda part: part.scores),
                _sum(parts, lambda part: part.drawn),
                _sum(parts, lambda part: part.exchanged),
                pairs=parts[0][1].pairs,
                failed=parts[0][1].failed,
            )

    def _skip(self, why: str) -> None:
        self.skipped.append(f"{self.study.name} ({self.workdir}): {why}.")


def _sum(
    parts: Sequence[tuple[float, Compared]], field: Callable[[Compared], np.ndarray]
) -> np.ndarray:
    """A linear combination of the arrays of some sets."""
    return np.sum([share * field(part) for share, part in parts], axis=0)


def _joined(sets: Sequence[Compared]) -> list[str]:
    """By run why it has learned nothing on some of the sets."""
    return [
        "; ".join(
            f"{one.row.language} / {one.row.set}: {one.nothing[i]}"
            for one in sets
            if one.nothing[i]
        )
        for i in range(len(sets[0].nothing))
    ]


def resample(sets: Sequence[Compared], draws: int, seed: int) -> None:
    """Fills in the scores under resampling and exchanges.

    Sets of the same size share what is drawn. That saves time, and keeps what parallel sets, which
    hold the same examples in several languages, have in common; to others it does nothing, as their
    examples have nothing in common.
    """
    for n in sorted({one.row.n for one in sets}):
        group = [(one, one.measure) for one in sets if one.row.n == n and one.measure is not None]
        drawn: list[list[np.ndarray]] = [[] for _ in group]
        exchanged: list[list[np.ndarray]] = [[] for _ in group]
        rng = np.random.default_rng((seed, n))
        for block in resampling.resamples(n, draws, rng):
            for (_, measure), values in zip(group, drawn, strict=True):
                values.append(measure.values(block))
        for block in resampling.exchanges(n, draws, rng):
            for (one, measure), values in zip(group, exchanged, strict=True):
                values.append(measure.swapped(block, *one.pairs))
        for (one, _), first, second in zip(group, drawn, exchanged, strict=True):
            one.drawn, one.exchanged = np.concatenate(first), np.concatenate(second)
            one.measure = None
