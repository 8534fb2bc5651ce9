"""Comparisons of staged with direct on every evaluated set and mean of some studies.

A comparison covers one set and language of one study: the runs of both conditions on the same
examples. Means over languages, as `scores.Scores` defines them, are compared in the same way, with
the examples of all sets resampled. Holm's correction treats the comparisons of sets as one family
and those of means as another.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from flaxfer.statistics import inference
from flaxfer.statistics.collapse import Collapsed
from flaxfer.statistics.records import Comparison, ConditionScores, Estimate, Evidence
from flaxfer.statistics.sets import COMPARED, SetScores, StudyRuns


def compare(
    workdirs: Sequence[Path],
    *,
    metric: str = "",
    draws: int = 10_000,
    level: float = 0.95,
    alpha: float = 0.05,
    seed: int = 0,
) -> Evidence:
    """Compare staged with direct on everything that the studies evaluated.

    Results are deterministic. Those of a comparison do not depend on the other studies, except for
    `p_holm` and the verdict. Memory is bounded by the predictions of one study.

    Args:
      workdirs: directories with study.json and stages.
      metric: metric to compare; empty for the dev metric of each study.
      draws: number of resamples of the examples.
      level: nominal coverage of the intervals.
      alpha: family-wise error rate of the verdicts.
      seed: seed of all random draws.

    Raises:
      DataError: a record or a predictions file is wrong, or runs predicted different examples.
    """
    comparisons: list[Comparison] = []
    means: list[Comparison] = []
    skipped: list[str] = []
    notes: list[str] = []
    for workdir in workdirs:
        study = StudyRuns(workdir, metric)
        sets = study.sets(draws, seed)
        collapsed = study.collapsed(list(sets.values()))
        comparisons += [_compare(study, one, collapsed, level, seed) for one in sets.values()]
        means += [_compare(study, one, collapsed, level, seed) for one in study.means(sets)]
        skipped += study.skipped
        notes += study.notes
    return Evidence(
        tuple(_judge(comparisons, alpha)),
        tuple(_judge(means, alpha)),
        tuple(skipped),
        tuple(notes),
        level,
        alpha,
        draws,
    )


def _compare(
    study: StudyRuns, scores: SetScores, collapsed_r: np.ndarray, level: float, seed: int
) -> Comparison:
    """Return the comparison on a set or mean, without its verdicts."""
    collapsed, not_transferred = [], []
    for run, failed, why in zip(study.runs, collapsed_r, scores.unlearned, strict=True):
        if failed:
            why = why or "it learned nothing in the languages of its training"
            collapsed.append(Collapsed(run.condition, run.seed, run.id, why))
        elif why:
            not_transferred.append(Collapsed(run.condition, run.seed, run.id, why))
    remaining = {run.condition for run, bad in zip(study.runs, collapsed_r, strict=True) if not bad}
    partly = collapsed and len(remaining) == len(COMPARED)
    return Comparison(
        workdir=str(study.workdir),
        study=study.study.name,
        metric=study.metric,
        larger_is_better=scores.larger_is_better,
        language=scores.language,
        set=scores.set,
        n=scores.n,
        units=scores.units,
        at_chance=scores.at_chance,
        all_runs=_estimate(study, scores, np.full_like(collapsed_r, True), level, seed),
        collapsed=tuple(collapsed),
        not_transferred=tuple(not_transferred),
        without_collapsed=_estimate(study, scores, ~collapsed_r, level, seed) if partly else None,
    )


def _estimate(
    study: StudyRuns, scores: SetScores, kept: np.ndarray, level: float, seed: int
) -> Estimate:
    """Return the estimate from the runs that `kept`, (runs,) bool, selects."""
    first, second = (
        [i for i, run in enumerate(study.runs) if run.condition == condition and kept[i]]
        for condition in COMPARED
    )
    direct, staged = scores.scores[first], scores.scores[second]
    rng = np.random.default_rng((seed, scores.n, 1))
    resampled = scores.resampled[:, first], scores.resampled[:, second]
    interval = inference.hierarchical_interval(
        direct, staged, *resampled, level=level, largest=scores.largest, rng=rng
    )
    p_seeds, least = inference.permute_seeds(direct, staged, len(scores.resampled), rng)
    sd = inference.pooled_sd(direct, staged)
    return Estimate(
        direct=_condition_scores(study, first, direct),
        staged=_condition_scores(study, second, staged),
        **dataclasses.asdict(interval),
        p_seeds=p_seeds,
        p_seeds_least=least,
        p_examples=_permute_examples(study, scores, kept),
        pooled_sd=sd,
        effect_size=inference.hedges_g(direct, staged),
        needed_seeds=inference.needed_seeds(interval.difference, sd),
    )


def _condition_scores(
    study: StudyRuns, indices: Sequence[int], scores: np.ndarray
) -> ConditionScores:
    return ConditionScores(
        tuple(study.runs[i].seed for i in indices),
        tuple(scores.tolist()),
        float(scores.mean()),
        float(scores.std(ddof=1)) if len(scores) > 1 else None,
    )


def _permute_examples(study: StudyRuns, scores: SetScores, kept: np.ndarray) -> float | None:
    """Return the p value of exchanging predictions between runs of the same seed."""
    first, second = (np.array(runs, int) for runs in study.pairs)
    paired = kept[first] & kept[second]
    if not paired.any():
        return None
    observed = (scores.scores[second] - scores.scores[first])[paired].mean()
    differences = scores.exchanged[:, paired].mean(axis=1)
    return inference.permutation_p(differences, observed, exact=False)


def _judge(family: Sequence[Comparison], alpha: float) -> list[Comparison]:
    """Return the comparisons with adjusted p values and verdicts.

    The estimates without collapsed runs form a family of their own, together with the estimates
    over all runs where none collapsed.
    """
    better = [one.larger_is_better for one in family]
    every = _adjust([one.all_runs for one in family], better, alpha)
    sound = _adjust([one.without_collapsed or one.all_runs for one in family], better, alpha)
    return [
        dataclasses.replace(
            one, all_runs=all_runs, without_collapsed=without if one.without_collapsed else None
        )
        for one, all_runs, without in zip(family, every, sound, strict=True)
    ]


def _adjust(
    estimates: Sequence[Estimate], larger_is_better: Sequence[bool], alpha: float
) -> list[Estimate]:
    tested = [i for i, one in enumerate(estimates) if one.over == "seeds and examples"]
    p_holm = dict(zip(tested, inference.holm([estimates[i].p for i in tested]), strict=True))
    return [
        dataclasses.replace(
            one,
            p_holm=p_holm.get(i),
            verdict=inference.verdict(one.difference, p_holm.get(i), larger_is_better[i], alpha),
        )
        for i, one in enumerate(estimates)
    ]
