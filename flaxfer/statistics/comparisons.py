"""Comparisons of staged with direct on every evaluated set and mean of some studies.

A comparison covers one set and language of one study: the runs of both conditions on the same
examples. Means over languages, as `scores.Scores` defines them, are compared in the same way, with
the examples of all sets resampled.

The comparisons that decide about their studies, one of each (`Scores.headline`), form the primary
family. All others are secondary and form a family of their own: single sets, other means, gaps.
Tasks of benchmarks and their means (`benchmarks`) form a third one. `multiplicity` corrects the
claims of a family.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import get_args

import numpy as np

from flaxfer.statistics import inference, multiplicity, power
from flaxfer.statistics.benchmarks import TaskRuns, mean_over_tasks, read_tasks
from flaxfer.statistics.collapse import Collapsed
from flaxfer.statistics.inference import Difference
from flaxfer.statistics.looks import AnyDifference, of_all_looks
from flaxfer.statistics.records import (
    BenchmarkComparison,
    Comparison,
    ConditionScores,
    Estimate,
    Evidence,
    Family,
)
from flaxfer.statistics.scores import GAP
from flaxfer.statistics.sets import Compared, SetScores, StudyRuns


@dataclasses.dataclass(frozen=True)
class _Draft:
    """A comparison before the correction, with the distributions of its estimates."""

    comparison: Comparison
    all_runs: AnyDifference
    without_collapsed: AnyDifference | None


def compare(
    workdirs: Sequence[str | Path],
    *,
    metric: str = "",
    draws: int = 10_000,
    level: float = 0.95,
    alpha: float = 0.05,
    seed: int = 0,
) -> Evidence:
    """Compare staged with direct on everything that the studies evaluated.

    Results are deterministic. Those of a comparison do not depend on the other studies, except for
    what the correction for multiple testing yields. Memory is bounded by the predictions of one
    study.

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
    sets: list[_Draft] = []
    means: list[_Draft] = []
    tasks: list[TaskRuns] = []
    skipped: list[str] = []
    notes: list[str] = []
    for workdir in map(Path, workdirs):
        study = StudyRuns(workdir, metric)
        scored = study.sets(draws, seed)
        collapsed = study.collapsed(list(scored.values()))
        for drafts, of in ((sets, [*scored.values()]), (means, study.means(scored))):
            drafts += [_compare(study, one, collapsed, level, seed) for one in of]
        if not metric:
            tasks += read_tasks(study, scored, draws, seed)
        skipped += study.skipped
        notes += study.notes
    tasks += mean_over_tasks(tasks)
    of_tasks = [_compare_task(one, level, seed) for one in tasks]
    comparisons = _judge([*sets, *means, *of_tasks], alpha)
    number = len(sets) + len(means)
    return Evidence(
        tuple(comparisons[: len(sets)]),
        tuple(comparisons[len(sets) : number]),
        tuple(skipped),
        tuple(notes),
        level,
        alpha,
        draws,
        tuple(
            BenchmarkComparison(one.benchmark, one.model, one.intermediate, one.tasks, comparison)
            for one, comparison in zip(tasks, comparisons[number:], strict=True)
        ),
    )


def _compare_task(task: TaskRuns, level: float, seed: int) -> _Draft:
    """Return the comparison on a task of a benchmark or a mean over tasks, over all runs."""
    every = np.zeros(len(task.runs.runs), bool)
    draft = _compare(task.runs, task.scores, every, level, seed, "benchmark")
    name = task.tasks[0] if len(task.tasks) == 1 else ""
    return dataclasses.replace(draft, comparison=dataclasses.replace(draft.comparison, study=name))


def _compare(
    study: Compared,
    scores: SetScores,
    collapsed_r: np.ndarray,
    level: float,
    seed: int,
    family: Family | None = None,
) -> _Draft:
    """Return the comparison on a set or mean, without its verdicts.

    Its family is primary if it decides about its study, unless one is given.
    """
    family = family or _family(study, scores)
    collapsed, not_transferred = [], []
    for run, failed, why in zip(study.runs, collapsed_r, scores.unlearned, strict=True):
        if failed:
            why = why or "it learned nothing in the languages of its training"
            collapsed.append(Collapsed(run.condition, run.seed, run.id, why))
        elif why:
            not_transferred.append(Collapsed(run.condition, run.seed, run.id, why))
    partly = collapsed and all(study.compared(~collapsed_r))
    settings = level, seed, family == "primary", not collapsed_r.all()
    every = _estimate(study, scores, np.full_like(collapsed_r, True), *settings)
    sound = _estimate(study, scores, ~collapsed_r, *settings) if partly else (None, None)
    comparison = Comparison(
        workdir=str(study.workdir),
        study=study.study.name,
        metric=study.metric,
        larger_is_better=scores.larger_is_better,
        language=scores.language,
        set=scores.set,
        n=scores.n,
        family=family,
        margin=study.margin,
        paired=study.paired,
        units=scores.units,
        at_chance=scores.at_chance,
        all_runs=every[0],
        collapsed=tuple(collapsed),
        not_transferred=tuple(not_transferred),
        without_collapsed=sound[0],
    )
    return _Draft(comparison, every[1], sound[1])


def _family(study: Compared, scores: SetScores) -> Family:
    return "primary" if (scores.language, scores.set) == study.headline else "secondary"


def _estimate(
    study: Compared,
    scores: SetScores,
    kept: np.ndarray,
    level: float,
    seed: int,
    primary: bool,
    learned: bool,
) -> tuple[Estimate, AnyDifference]:
    """Return the estimate from the runs that `kept`, (runs,) bool, selects.

    `learned` is whether any run learned something.
    """
    first, second = study.compared(kept)
    of_pairs = study.kept_pairs(kept)
    pairs = scores.scores[np.array(study.pairs, int)][:, of_pairs]
    direct, staged = scores.scores[first], scores.scores[second]
    rng = np.random.default_rng((seed, scores.n, 1))
    resampled = scores.resampled[:, first], scores.resampled[:, second]
    primary = primary and study.metric == study.study.metric
    difference = of_all_looks(
        study.study,
        Difference(
            direct, staged, *resampled, scores.largest, paired=study.paired, learned=learned
        ),
        primary and bool(kept.all()),
    )
    low, high = difference.interval(level)
    p_seeds, least = inference.permute_seeds(
        direct, staged, len(scores.resampled), rng, paired=study.paired
    )
    variances = difference.components
    estimate = Estimate(
        direct=_condition_scores(study, first, direct),
        staged=_condition_scores(study, second, staged),
        difference=difference.value,
        low=low,
        high=high,
        over=difference.over,
        p=difference.p,
        p_equivalence=None if study.margin is None else difference.p_equivalence(study.margin),
        p_seeds=p_seeds,
        p_seeds_least=least,
        p_examples=_permute_examples(pairs, scores.exchanged[:, of_pairs]),
        pooled_sd=inference.pooled_sd(direct, staged),
        effect_size=inference.hedges_g(direct, staged),
        seed_correlation=inference.seed_correlation(*pairs),
        variance_examples=variances.examples if variances else None,
        variance_seeds=variances.seeds if variances else None,
        variance_interaction=variances.interaction if variances else None,
        examples_share=variances.examples_share if variances else None,
        left_out=tuple(
            (run.condition, run.seed)
            for i, run in enumerate(study.runs)
            if kept[i] and i not in {*first, *second}
        ),
    )
    return estimate, difference


def _condition_scores(
    study: Compared, indices: Sequence[int], scores: np.ndarray
) -> ConditionScores:
    return ConditionScores(
        tuple(study.runs[i].seed for i in indices),
        tuple(scores.tolist()),
        float(scores.mean()),
        float(scores.std(ddof=1)) if len(scores) > 1 else None,
    )


def _permute_examples(pairs: np.ndarray, exchanged: np.ndarray) -> float | None:
    """Return the p value of exchanging predictions between runs of the same seed.

    Args:
      pairs: (2, pairs), scores of the direct and staged runs.
      exchanged: (draws, pairs), staged minus direct after exchanging predictions.
    """
    if not pairs.size:
        return None
    direct, staged = pairs
    observed = (staged - direct).mean()
    return inference.permutation_p(exchanged.mean(axis=1), observed, exact=False)


def _judge(drafts: Sequence[_Draft], alpha: float) -> list[Comparison]:
    """Return the comparisons with what the correction within their families yields.

    The estimates without collapsed runs form families of their own, together with the estimates
    over all runs where none collapsed.
    """
    judged = [draft.comparison for draft in drafts]
    for family in get_args(Family):
        members = [i for i, one in enumerate(judged) if one.family == family]
        every = [(judged[i], judged[i].all_runs, drafts[i].all_runs) for i in members]
        sound = [
            (one, one.without_collapsed or estimate, drafts[i].without_collapsed or difference)
            for i, (one, estimate, difference) in zip(members, every, strict=True)
        ]
        of_all, of_sound = _adjusted(every, alpha), _adjusted(sound, alpha)
        for i, all_runs, without in zip(members, of_all, of_sound, strict=True):
            if judged[i].without_collapsed:
                judged[i] = dataclasses.replace(judged[i], without_collapsed=without)
            judged[i] = dataclasses.replace(judged[i], all_runs=all_runs)
    return judged


def _adjusted(
    family: Sequence[tuple[Comparison, Estimate, AnyDifference]], alpha: float
) -> Iterator[Estimate]:
    """Yield the estimates of a family; those over examples alone have no verdict."""
    p = [
        multiplicity.P(one.p, one.p_equivalence)
        for _, one, difference in family
        if difference.components is not None
    ]
    corrected = zip(multiplicity.adjust(p), multiplicity.levels(p, alpha), strict=True)
    for comparison, estimate, difference in family:
        if (components := difference.components) is None:
            yield estimate
            continue
        adjusted, alpha_holm = next(corrected)
        level = 1 - alpha / len(p)
        low, high = difference.interval(level)
        # The harmonic mean of the numbers of runs determines the variance over seeds.
        runs = 2 / sum(1 / len(scores.seeds) for scores in (estimate.direct, estimate.staged))
        design = power.needed(estimate.difference, components, runs, comparison.n, alpha_holm)
        yield dataclasses.replace(
            estimate,
            p_holm=adjusted.difference,
            p_equivalence_holm=adjusted.equivalence,
            alpha_holm=alpha_holm,
            level_simultaneous=level,
            low_simultaneous=low,
            high_simultaneous=high,
            needed_seeds=design.seeds,
            needed_examples=design.examples,
            needed_both=design.both,
            verdict=multiplicity.verdict(
                estimate.difference,
                adjusted,
                larger_is_better=comparison.larger_is_better,
                gap=comparison.language.startswith(GAP),
                alpha=alpha,
            ),
        )
