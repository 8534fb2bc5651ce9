"""What is known of a comparison of two paths, as JSON and reports have it."""

from __future__ import annotations

import dataclasses

from flaxfer.statistics.collapse import Collapsed
from flaxfer.statistics.inference import Over, Verdict


@dataclasses.dataclass(frozen=True)
class ConditionScores:
    """Scores of the runs of one path; `sd` is None for a single run."""

    seeds: tuple[int, ...]
    scores: tuple[float, ...]
    mean: float
    sd: float | None


@dataclasses.dataclass(frozen=True)
class Estimate:
    """Staged against direct over some runs.

    Attributes:
      direct, staged: their scores; a correlation with constant predictions counts as 0.
      difference: of the means, staged minus direct.
      low, high: interval of the difference, see `inference`.
      over: what the interval and `p` are over.
      p: two-sided.
      p_holm: adjusted for the family; None if a path has a single run.
      p_seeds: of a permutation test over runs.
      p_seeds_least: the smallest value that it could have with so many runs, 1 for 1 and 1.
      p_examples: of a permutation test that exchanges both paths' predictions of an example, of
        all seeds at once, conditional on these runs; None without a seed in both paths.
      pooled_sd: over seeds within the paths, None if a path has a single run.
      effect_size: Hedges' g over seeds.
      needed_seeds: a path, to find a difference of this size over such a standard deviation with
        power 0.8 at level 0.05 on this test set; None if there is no number.
      verdict: `helps`, `hurts` or `no evidence`, by `p_holm`.
    """

    direct: ConditionScores
    staged: ConditionScores
    difference: float
    low: float
    high: float
    over: Over
    p: float
    p_holm: float | None
    p_seeds: float
    p_seeds_least: float
    p_examples: float | None
    pooled_sd: float | None
    effect_size: float | None
    needed_seeds: int | None
    verdict: Verdict


@dataclasses.dataclass(frozen=True)
class Comparison:
    """One comparison.

    Attributes:
      workdir: of the study.
      study, model, intermediate, target: names from its record.
      metric: that is compared.
      larger_is_better: of the metric, and of a transfer gap the other way round.
      language: or the name of a mean.
      set: empty for a mean.
      n: examples.
      all_runs: over every run, collapsed ones included.
      collapsed: runs that have collapsed, with what is to be seen of it here.
      not_transferred: runs that have not, and have learned nothing on the set, or on some of a
        mean's sets.
      without_collapsed: over the other runs; None if none collapsed, or all of a path did.
    """

    workdir: str
    study: str
    model: str
    intermediate: str
    target: str
    metric: str
    larger_is_better: bool
    language: str
    set: str
    n: int
    all_runs: Estimate
    collapsed: tuple[Collapsed, ...]
    not_transferred: tuple[Collapsed, ...]
    without_collapsed: Estimate | None


@dataclasses.dataclass(frozen=True)
class Evidence:
    """What studies say; `dataclasses.asdict` of it is JSON.

    Attributes:
      comparisons: of every set, in the order of the studies.
      means: of means over languages.
      skipped: what could not be compared, and why, a sentence each.
      level: of the intervals.
      alpha: level of the verdicts, family-wise.
      draws: resamples of the examples.
    """

    comparisons: tuple[Comparison, ...]
    means: tuple[Comparison, ...]
    skipped: tuple[str, ...]
    level: float
    alpha: float
    draws: int
