"""Results of comparing conditions, as reports show them; `dataclasses.asdict` gives JSON."""

from __future__ import annotations

import dataclasses
from typing import Literal

from flaxfer.config import Condition
from flaxfer.statistics.collapse import Collapsed
from flaxfer.statistics.inference import Over
from flaxfer.statistics.multiplicity import Verdict

Family = Literal["primary", "secondary", "benchmark"]
"""Comparisons whose claims are corrected together: one of each study, all others, and those of
the tasks of a benchmark and their mean."""


@dataclasses.dataclass(frozen=True)
class ConditionScores:
    """Scores of the runs of one condition; `sd` is None for a single run."""

    seeds: tuple[int, ...]
    scores: tuple[float, ...]
    mean: float
    sd: float | None


@dataclasses.dataclass(frozen=True)
class Estimate:
    """Staged against direct over some runs; `inference` and `multiplicity` define the statistics.

    Attributes:
      direct, staged: scores; a correlation with constant predictions counts as 0.
      difference: staged minus direct.
      low, high: ends of the interval of the difference, within what is possible for the metric.
      over: sources of variation behind the interval and `p`.
      p: two-sided p value of no difference.
      p_equivalence: p value of a difference of at least the margin; None without a margin.
      p_seeds: p value of permuting the condition labels across runs, or within pairs.
      p_seeds_least: smallest possible `p_seeds` for so many runs; 1 for 1 and 1.
      p_examples: p value of exchanging the conditions' predictions of random examples, for all
        seeds at once, conditional on these runs; None if the conditions share no seed.
      pooled_sd: standard deviation over seeds within conditions; None if one has a single run.
      effect_size: Hedges' g over seeds, by the standard deviation within conditions, so that it
        means the same whether runs are paired or not.
      seed_correlation: correlation of the conditions' scores over the seeds that both have; None
        for fewer than three of them.
      variance_examples: variance of the difference over examples, shared by all runs.
      variance_seeds: variance over seeds on these examples, of one run of each condition, or of one
        pair; with R seeds, the variance of the difference is `variance_examples + variance_seeds /
        R`.
      variance_interaction: part of `variance_seeds` that more examples reduce.
      examples_share: share of the variance of the difference that no number of seeds reduces.
      left_out: condition and seed of the runs that a paired comparison leaves out, as the other
        condition has no run of the seed; they count nowhere else.
      p_holm, p_equivalence_holm: p values adjusted for the family.
      alpha_holm: level of `p` after the correction: the largest value with a claim.
      low_simultaneous, high_simultaneous: ends of Bonferroni's interval, which has
        `level_simultaneous`; all of a family cover their differences at once with 1 - alpha.
      needed_seeds: seeds per condition for power 0.8 at the level `alpha_holm` on these examples,
        if the true difference and variances are as observed, and the study has a single look; None
        if there is no such number.
      needed_examples: examples for the same power with these seeds; None if no number is enough.
      needed_both: seeds and examples together, where neither alone is enough.
      verdict: verdict by `p_holm` and `p_equivalence_holm`.

    The variances, and all values from `p_holm` on, are None if a condition has a single run.
    """

    direct: ConditionScores
    staged: ConditionScores
    difference: float
    low: float
    high: float
    over: Over
    p: float
    p_equivalence: float | None
    p_seeds: float
    p_seeds_least: float
    p_examples: float | None
    pooled_sd: float | None
    effect_size: float | None
    seed_correlation: float | None
    variance_examples: float | None
    variance_seeds: float | None
    variance_interaction: float | None
    examples_share: float | None
    left_out: tuple[tuple[Condition, int], ...]
    p_holm: float | None = None
    p_equivalence_holm: float | None = None
    alpha_holm: float | None = None
    level_simultaneous: float | None = None
    low_simultaneous: float | None = None
    high_simultaneous: float | None = None
    needed_seeds: int | None = None
    needed_examples: int | None = None
    needed_both: tuple[int, int] | None = None
    verdict: Verdict = "undecided"


@dataclasses.dataclass(frozen=True)
class Comparison:
    """Staged against direct on one set, or on a mean over languages.

    Attributes:
      workdir: directory of the study.
      study: name of the study.
      metric: compared metric.
      larger_is_better: direction of the scores; that of a transfer gap is opposite to the metric's.
      language: language, or name of the mean.
      set: name of the set; empty for a mean.
      n: number of examples.
      family: `primary` for the comparison that gives the verdict on its study.
      margin: smallest relevant difference, from the study's config; None if none is declared.
      paired: whether runs of the same seed are compared as pairs, from the study's config.
      units: number of resampled units, see `flaxfer.statistics.units`: fewer than `n` if examples
        belong to clusters, or sets of a mean are parallel.
      at_chance: no condition scores above chance on the set, or on any set of the mean.
      all_runs: estimate over all runs, including collapsed ones.
      collapsed: collapsed runs, each with its symptom on this set.
      not_transferred: other runs that learned nothing on this set, or on some set of the mean.
      without_collapsed: estimate over the other runs; None if no run collapsed, or a whole
        condition did, or no pair is left.
    """

    workdir: str
    study: str
    metric: str
    larger_is_better: bool
    language: str
    set: str
    n: int
    family: Family
    margin: float | None
    paired: bool
    units: int
    at_chance: bool
    all_runs: Estimate
    collapsed: tuple[Collapsed, ...]
    not_transferred: tuple[Collapsed, ...]
    without_collapsed: Estimate | None


@dataclasses.dataclass(frozen=True)
class BenchmarkComparison:
    """Staged against direct on a task of a benchmark, or on the mean over tasks.

    Attributes:
      benchmark: name of the benchmark.
      model, intermediate: names from the grid, or else from the study.
      tasks: the task, or those of the mean over tasks.
      comparison: its scores are means over languages; `study` is the task, or empty.
    """

    benchmark: str
    model: str
    intermediate: str
    tasks: tuple[str, ...]
    comparison: Comparison


@dataclasses.dataclass(frozen=True)
class Evidence:
    """All comparisons of some studies.

    Attributes:
      comparisons: comparisons of sets, in the order of the studies.
      means: comparisons of means over languages.
      skipped: what could not be compared and why, one sentence each.
      notes: what looks wrong with the sets, one sentence each.
      level: nominal coverage of the intervals.
      alpha: family-wise error rate of the verdicts.
      draws: number of resamples of the examples.
      benchmarks: comparisons on the tasks of benchmarks.
    """

    comparisons: tuple[Comparison, ...]
    means: tuple[Comparison, ...]
    skipped: tuple[str, ...]
    notes: tuple[str, ...]
    level: float
    alpha: float
    draws: int
    benchmarks: tuple[BenchmarkComparison, ...] = ()
