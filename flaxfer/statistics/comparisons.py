"""Every comparison of staged with direct that some studies allow, each with its verdict.

A comparison is one evaluated set and language of one study: the runs of both paths on the same
examples. Means over languages, as `results.Scores` defines them, are compared likewise, the
examples of all sets being resampled. The verdicts of all sets are one family for Holm's correction,
those of all means another.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from flaxfer.evaluation.records import Run
from flaxfer.statistics import inference
from flaxfer.statistics.collapse import Collapsed
from flaxfer.statistics.distributions import MOST_SEEDS, needed_seeds
from flaxfer.statistics.records import Comparison, ConditionScores, Estimate, Evidence
from flaxfer.statistics.sets import CONDITIONS, Compared, StudyRuns, resample


def compare(
    workdirs: Sequence[Path],
    *,
    metric: str = "",
    draws: int = 10_000,
    level: float = 0.95,
    alpha: float = 0.05,
    seed: int = 0,
) -> Evidence:
    """Compares staged with direct on all that the studies in some work directories evaluated.

    The same files give the same numbers. A comparison's own numbers do not depend on the other
    studies; `p_holm` and the verdict do. Memory is bounded by the predictions of one study.

    Args:
      workdirs: each with study.json and the predictions in its stages.
      metric: to compare; empty for the dev metric of each study.
      draws: resamples of the examples.
      level: of the intervals.
      alpha: level of the verdicts.
      seed: of everything that is drawn.

    Raises:
      DataError: a record or a predictions file is wrong, or runs predicted different examples.
    """
    comparisons: list[Comparison] = []
    means: list[Comparison] = []
    skipped: list[str] = []
    for workdir in workdirs:
        study = StudyRuns(workdir, metric, skipped)
        sets = study.sets()
        resample(sets, draws, seed)
        estimate = _Estimator(study.runs, level, seed)
        comparisons += [_comparison(study, one, estimate) for one in sets]
        means += [_comparison(study, one, estimate) for one in study.means(sets)]
    return Evidence(
        tuple(_judged(comparisons, alpha)),
        tuple(_judged(means, alpha)),
        tuple(skipped),
        level,
        alpha,
        draws,
    )


def _comparison(study: StudyRuns, one: Compared, estimate: _Estimator) -> Comparison:
    """The comparison of a set or a mean; its verdicts are still to come."""
    nothing = [
        Collapsed(run.condition, run.seed, run.id, why)
        for run, why in zip(study.runs, one.nothing, strict=True)
    ]
    collapsed = tuple(
        dataclasses.replace(of, why=of.why or "it learned nothing in the languages of its training")
        for of, failed in zip(nothing, one.failed, strict=True)
        if failed
    )
    every, sound = np.ones(len(study.runs), bool), ~one.failed
    left = {run.condition for run, kept in zip(study.runs, sound, strict=True) if kept}
    record = study.study
    return Comparison(
        workdir=str(study.workdir),
        study=record.name,
        model=record.model.source,
        intermediate=record.intermediate_task.name if record.intermediate_task else "",
        target=record.task.name,
        metric=study.metric,
        larger_is_better=one.larger_is_better,
        language=one.row.language,
        set=one.row.set,
        n=one.row.n,
        all_runs=estimate(one, every),
        collapsed=collapsed,
        not_transferred=tuple(
            of for of, failed in zip(nothing, one.failed, strict=True) if of.why and not failed
        ),
        without_collapsed=(
            estimate(one, sound) if collapsed and len(left) == len(CONDITIONS) else None
        ),
    )


class _Estimator:
    """Estimates from chosen runs."""

    def __init__(self, runs: Sequence[Run], level: float, seed: int):
        self._runs, self._level, self._seed = runs, level, seed

    def __call__(self, one: Compared, chosen: np.ndarray) -> Estimate:
        """The estimate from the runs that `chosen`, (R,) bool, selects."""
        own = [
            [i for i, run in enumerate(self._runs) if run.condition == path and chosen[i]]
            for path in CONDITIONS
        ]
        direct, staged = (one.scores[i] for i in own)
        rng = np.random.default_rng((self._seed, one.row.n, 1))
        interval = inference.hierarchical_interval(
            direct, staged, one.drawn[:, own[0]], one.drawn[:, own[1]], level=self._level, rng=rng
        )
        p_seeds, least = inference.permute_seeds(direct, staged, len(one.drawn), rng)
        sd = inference.pooled_sd(direct, staged)
        return Estimate(
            direct=self._path(own[0], one.scores),
            staged=self._path(own[1], one.scores),
            **dataclasses.asdict(interval),
            p_holm=None,
            p_seeds=p_seeds,
            p_seeds_least=least,
            p_examples=self._by_examples(one, chosen),
            pooled_sd=sd,
            effect_size=inference.hedges_g(direct, staged),
            needed_seeds=_needed(interval.difference, sd),
            verdict="no evidence",
        )

    def _path(self, own: Sequence[int], scores: np.ndarray) -> ConditionScores:
        values = scores[list(own)]
        return ConditionScores(
            tuple(self._runs[i].seed for i in own),
            tuple(values.tolist()),
            float(values.mean()),
            float(values.std(ddof=1)) if len(values) > 1 else None,
        )

    def _by_examples(self, one: Compared, chosen: np.ndarray) -> float | None:
        first, second = (np.array(own, int) for own in one.pairs)
        kept = chosen[first] & chosen[second]
        if not kept.any():
            return None
        observed = (one.scores[second] - one.scores[first])[kept].mean()
        return inference.share_beyond(one.exchanged[:, kept].mean(axis=1), observed, exact=False)


def _needed(difference: float, sd: float | None) -> int | None:
    if not sd or abs(difference) / sd < 8 / math.sqrt(MOST_SEEDS):
        return None
    return needed_seeds(difference, sd)


def _judged(family: Sequence[Comparison], alpha: float) -> list[Comparison]:
    """The comparisons with adjusted p values and verdicts.

    The estimates without collapsed runs make a family of their own, with the estimates over all
    runs of the comparisons where none collapsed.
    """
    every = _adjusted([one.all_runs for one in family], family, alpha)
    sound = _adjusted([one.without_collapsed or one.all_runs for one in family], family, alpha)
    return [
        dataclasses.replace(
            one, all_runs=first, without_collapsed=second if one.without_collapsed else None
        )
        for one, first, second in zip(family, every, sound, strict=True)
    ]


def _adjusted(
    estimates: Sequence[Estimate], family: Sequence[Comparison], alpha: float
) -> list[Estimate]:
    tested = [i for i, one in enumerate(estimates) if one.over == "seeds and examples"]
    adjusted = dict(zip(tested, inference.holm([estimates[i].p for i in tested]), strict=True))
    return [
        dataclasses.replace(
            one,
            p_holm=adjusted.get(i),
            verdict=inference.verdict(
                one.difference, adjusted.get(i), family[i].larger_is_better, alpha
            ),
        )
        for i, one in enumerate(estimates)
    ]
