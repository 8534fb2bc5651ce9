"""Looks of a study with sequential seeds at its primary comparison, and what they decide.

`sequential` has the method. Nothing but the runs of the first seeds enters a look, so that it gives
the same result whenever and by whichever process it is had.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TypeAlias

import numpy as np

from flaxfer.evaluation.records import Look, Study
from flaxfer.statistics.inference import Difference
from flaxfer.statistics.multiplicity import P, adjust
from flaxfer.statistics.sequential import LEAST, Progress
from flaxfer.statistics.sets import StudyRuns

LEVEL = 0.95
"""Coverage of the repeated confidence intervals of all looks together."""
ALPHA = 0.05
"""Family-wise error rate of the decisions."""
DRAWS = 10_000
"""Resamples of the examples."""


class AtLook:
    """A difference at a look: its p values and intervals hold for all looks together.

    They are the repeated p values and intervals of `sequential`.

    Args:
      now: the difference at the newest look.
      seeds: numbers of seeds per condition at all looks up to it.
      last: number of seeds at the last planned look.
      earlier: what earlier looks have shown. Without it, as for comparisons that have decided
        nothing, the shares of the information at earlier looks are estimated now.

    Attributes:
      value, over, components: as of `inference.Difference`.
      share: share of the information by which the newest look spends.
    """

    def __init__(
        self, now: Difference, seeds: Sequence[int], last: int, earlier: Sequence[Look] = ()
    ):
        self.value, self.over, self.components = now.value, now.over, now.components
        self._now, self._before = now, earlier[-1] if earlier else None
        of_examples = of_seeds = 0.0
        if now.components is not None:
            of_examples = now.components.examples
            # The conditions may have different numbers of runs, as some may have diverged.
            of_seeds = (now.components.total - of_examples) * seeds[-1]
        shares = tuple(look.share for look in earlier)
        self._progress = Progress(tuple(seeds[: len(shares)]), shares)
        for look in seeds[len(shares) :]:
            self._progress = self._progress.after(look, last, of_examples, of_seeds)
        self.share = self._progress.shares[-1]

    def interval(self, level: float) -> tuple[float, float]:
        """Return the repeated confidence interval."""
        # Where nothing is left to spend, the interval is nearly everything.
        tail = max(self._progress.critical_p((1 - level) / 2), LEAST)
        return self._now.interval(1 - 2 * tail)

    @property
    def p(self) -> float:
        """Two-sided p value of no difference, of all looks."""
        repeated = min(2 * self._progress.repeated_p(self._now.p / 2), 1.0)
        return min(repeated, self._before.p_sequential if self._before else 1.0)

    def p_equivalence(self, margin: float) -> float:
        """Return the p value of a difference of at least `margin`, of all looks."""
        repeated = self._progress.repeated_p(self._now.p_equivalence(margin))
        before = self._before.p_equivalence_sequential if self._before else None
        return repeated if before is None else min(repeated, before)


AnyDifference: TypeAlias = Difference | AtLook


def of_all_looks(study: Study, now: Difference, primary: bool) -> AnyDifference:
    """Return a difference whose p values hold for all looks that a study had.

    Args:
      study: record of the study; without looks, the difference stays as it is.
      now: difference over all runs.
      primary: whether the looks were at this comparison, and not at others of the same runs.
    """
    if not study.looked or now.components is None:
        return now
    seeds = [look.seeds for look in study.looked]
    earlier = study.looked[:-1] if primary else ()
    return AtLook(now, seeds, max(*study.looks, seeds[-1]), earlier)


def take_look(record: Study, workdir: Path, seeds: int, last: int, before: Sequence[Look]) -> Look:
    """Return a look at the primary comparison of a study; nothing is decided yet.

    If there is nothing to compare, such as after failures, its p values are 1.

    Args:
      record: record of the study, with the runs of at least `seeds` seeds.
      workdir: its directory.
      seeds: number of seeds to look at.
      last: number of seeds at the last planned look.
      before: earlier looks.

    Raises:
      DataError: a predictions file is wrong, or runs predicted different examples.
    """
    kept = record.seeds[:seeds]
    runs = [run for run in record.runs if run.seed in kept]
    study = StudyRuns(workdir, "", dataclasses.replace(record, seeds=kept, runs=runs))
    now, margin = _headline(study), study.margin
    if now is None or now.components is None:
        share = before[-1].share if before else 0.0
        p = before[-1].p_sequential if before else 1.0
        p_equal = before[-1].p_equivalence_sequential if before else None
        if margin is not None and p_equal is None:
            p_equal = 1.0
        return Look(seeds, share, None, None, None, 1.0, p, margin and 1.0, p_equal)
    at = AtLook(now, [*(look.seeds for look in before), seeds], last, before)
    low, high = at.interval(LEVEL)
    return Look(
        seeds=seeds,
        share=at.share,
        difference=now.value,
        low=low,
        high=high,
        p=now.p,
        p_sequential=at.p,
        p_equivalence=None if margin is None else now.p_equivalence(margin),
        p_equivalence_sequential=None if margin is None else at.p_equivalence(margin),
    )


def _headline(study: StudyRuns) -> Difference | None:
    """Return the difference of the primary comparison; None if it cannot be compared."""
    sets = study.sets(DRAWS, 0)
    every = [*sets.values(), *study.means(sets)]
    scores = next((one for one in every if (one.language, one.set) == study.headline), None)
    if scores is None:
        return None
    direct, staged = study.compared(np.full(len(study.runs), True))
    return Difference(
        *(scores.scores[direct], scores.scores[staged]),
        *(scores.resampled[:, direct], scores.resampled[:, staged]),
        scores.largest,
        paired=study.paired,
        learned=not study.collapsed(list(sets.values())).all(),
    )


def decided(looks: Mapping[str, Look]) -> set[str]:
    """Return the studies with a verdict.

    Args:
      looks: newest look of every study of a grid, also of those that have stopped.
    """
    family = [P(one.p_sequential, one.p_equivalence_sequential) for one in looks.values()]
    return {
        name
        for name, p in zip(looks, adjust(family), strict=True)
        if min(one for one in p if one is not None) <= ALPHA
    }
