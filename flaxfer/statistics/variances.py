"""Variance components of a comparison before its runs: from a pilot study, or by formulas.

**A pilot** is a finished study with the same metric. Its components are those of `inference`, on
as many examples as it has; the variances that examples reduce are scaled to the planned ones.

**By formulas**, the variance over examples follows from the score and from how alike two runs are.
On one example, the difference of two runs has a variance of

- 2 p (1 - p) (1 - rho) for a share p of right answers, where rho is the correlation of being right.
  This is the share of the examples that only one of the two runs gets right, whose place in the
  power of paired proportions Miettinen (1968) and Connor (1987) describe. The square of the
  difference, which they subtract, is neglected; it is small and makes the variance smaller;
- 2 (1 - r^2)^2 (1 - c) for Pearson's correlation r with the true scores, by Fisher's z. Both
  correlations have the true scores in common, so that they are correlated themselves, by c (Dunn &
  Clark 1969; Steiger 1980), which follows from r and the correlation rho of the predictions of the
  runs. This assumes normal distributions. n examples count as n - 3 (Fisher 1921);
- that times 1 + r^2 / 2 for Spearman's correlation (Bonett & Wright 2000).

With rho of a direct and a staged run, this is the variance of the difference of two runs. With rho
of two seeds of a condition, it is the part of that which more seeds reduce: the interaction of
seeds and examples. The difference of both is due to the examples alone (`Components.examples`).

**Examples that are not independent**, those of a cluster or the same example in parallel sets,
count as copies of each other, which makes the variance no smaller than it is.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from scipy import special

from flaxfer.config import Task
from flaxfer.errors import ConfigError, DataError
from flaxfer.evaluation.records import Study
from flaxfer.statistics.inference import Components, Difference
from flaxfer.statistics.power import rescaled
from flaxfer.statistics.scores import Row, Scores
from flaxfer.statistics.sets import StudyRuns
from flaxfer.statistics.units import Units

SHARES = {
    ("classification", "accuracy"),
    ("multiple_choice", "accuracy"),
    ("question_answering", "exact_match"),
}
"""Task types and metrics that are the share of right examples."""
CORRELATIONS = {("regression", "pearson"), ("regression", "spearman")}
DRAWS = 2000
"""Resamples of a pilot's examples; the variances are known to 3 %."""


def has_formula(task: Task) -> bool:
    """Return whether the variance of a task's metric over examples has a formula."""
    return (task.type, task.metric) in SHARES | CORRELATIONS


def of_one_example(task: Task, score: float, correlation: float) -> float:
    """Return the variance of the difference of two runs on one example (see the module).

    Args:
      task: task whose metric has a formula.
      score: metric of both runs.
      correlation: of the two runs, over examples: of being right, or of the predictions.
    """
    if (task.type, task.metric) in SHARES:
        return 2 * score * (1 - score) * (1 - correlation)
    shared = correlation * (1 - 2 * score**2)
    shared -= score**2 / 2 * (1 - 2 * score**2 - correlation**2)
    variance = 2 * ((1 - score**2) ** 2 - shared)
    return variance * (1 + score**2 / 2) if task.metric == "spearman" else variance


@dataclasses.dataclass(frozen=True)
class Stated:
    """Variances by formulas from stated numbers.

    Attributes:
      sd: standard deviation of a run's score over seeds, on the evaluated sets.
      score: expected score of both conditions.
      correlation: of a direct and a staged run, over examples, see the module.
      correlation_seeds: of two seeds of a condition; None if all of the variance that
        `correlation` gives counts as due to the examples, which is more than it is.
    """

    sd: float
    score: float
    correlation: float
    correlation_seeds: float | None

    def components(self, task: Task, effective: float) -> Components:
        """Return the variance components of a comparison.

        Args:
          task: task whose metric has a formula.
          effective: number of independent examples, see `effective_examples`.

        Raises:
          ConfigError: the numbers contradict each other, or there are too few examples.
        """
        fisher = (task.type, task.metric) in CORRELATIONS
        least = 2 * self.score**2 - 1
        if fisher and self.correlation < least:
            raise _contradiction(
                f"predictions that correlate with the scores by {self.score:g} correlate with each "
                f"other by at least {least:.3g}, not {self.correlation:g}"
            )
        n = effective - 3 if fisher else effective
        if n < 1:
            raise _contradiction(f"{effective:.1f} independent examples are too few")
        both = of_one_example(task, self.score, self.correlation) / n
        interaction = 0.0
        if self.correlation_seeds is not None:
            interaction = of_one_example(task, self.score, self.correlation_seeds) / n
        seeds = 2 * self.sd**2
        if interaction > seeds:
            raise _contradiction(
                f"runs of two seeds that correlate by {self.correlation_seeds:g} have a standard "
                f"deviation of at least {(interaction / 2) ** 0.5:.2g} on {effective:,.0f} "
                f"independent examples, not {self.sd:g}"
            )
        return Components(both - interaction, seeds, interaction, total=both - interaction + seeds)


def _contradiction(what: str) -> ConfigError:
    hint = "state numbers of one study; with --pilot, they are taken from its predictions."
    return ConfigError(what, where="command line", hint=hint)


def headline_rows(scores: Scores) -> dict[Row, float]:
    """Return the sets of the primary comparison of a study, with their weights in its mean."""
    if scores.headline is None:
        return {}
    name, set_name = scores.headline
    if set_name:
        return {row: 1.0 for row in scores.rows if (row.language, row.set) == scores.headline}
    languages, _ = scores.mean_languages[name]
    rows = [row for row in scores.rows if row.language in languages]
    sets = [sum(other.language == row.language for other in rows) for row in rows]
    return {row: 1 / len(languages) / of for row, of in zip(rows, sets, strict=True)}


def effective_examples(weights: Mapping[Row, float], units: Mapping[Row, Units]) -> float:
    """Return how many independent examples a mean over sets is worth, if all of a unit are equal.

    A single set without clusters is worth its examples, equally large sets with the same examples
    as many as one of them, and clusters the number of Kish (1965): n^2 / sum of squared sizes.

    Args:
      weights: sets with their weights, see `headline_rows`.
      units: units of resampling of each of them.
    """
    shares: dict[int, np.ndarray] = {}
    for row, weight in weights.items():
        of = units[row]
        share_U = np.bincount(of.unit_n, minlength=of.total) * weight / len(of.unit_n)
        shares[of.group] = shares.get(of.group, 0) + share_U
    return float(1 / sum((share_U**2).sum() for share_U in shares.values()))


@dataclasses.dataclass(frozen=True)
class Pilot:
    """The variances of a finished study at its primary comparison.

    Attributes:
      workdir: directory of the study.
      task: its target task; the metric is the one of the plan.
      components: variance components on its examples.
      effective: number of independent examples, see `effective_examples`.
      runs: runs of direct and staged.
      df: degrees of freedom of the variance over seeds.
    """

    workdir: Path
    task: Task
    components: Components
    effective: float
    runs: tuple[int, int]
    df: float

    def on(self, effective: float) -> Components:
        """Return the components on another number of independent examples."""
        return rescaled(self.components, self.effective / effective)

    def sd_interval(self) -> tuple[float, float]:
        """Return factors on the standard deviation over seeds that bound its 95 % interval."""
        low, high = (self.df / (2 * special.gammaincinv(self.df / 2, q)) for q in (0.975, 0.025))
        return float(low**0.5), float(high**0.5)


def read_pilot(study: Study, workdir: Path, metric: str, paired: bool = False) -> Pilot:
    """Return the variances of a finished study.

    Args:
      study: its record.
      workdir: its directory.
      metric: metric of the plan, one of the study's.
      paired: whether the plan compares runs as pairs of a seed.

    Raises:
      DataError: it has no primary comparison with several seeds in each condition, its scores do
        not vary, or a file is damaged.
    """
    runs = StudyRuns(workdir, metric, study)
    sets = runs.sets(DRAWS, 0)
    compared = [*sets.values(), *runs.means(sets)]
    scores = next((one for one in compared if (one.language, one.set) == runs.headline), None)
    if scores is None:
        raise DataError(
            "the pilot has no comparison of staged with direct",
            where=str(workdir),
            hint="name a finished study with both conditions.",
            details=runs.skipped,
        )
    is_staged = np.array([run.condition == "staged" for run in runs.runs])
    direct, staged = (
        runs.pairs if paired else (np.flatnonzero(~is_staged), np.flatnonzero(is_staged))
    )
    scores_R, drawn_BR = scores.scores, scores.resampled
    difference = Difference(
        *(scores_R[direct], scores_R[staged], drawn_BR[:, direct], drawn_BR[:, staged]),
        paired=paired,
    )
    sizes = len(direct), len(staged)
    if (components := difference.components) is None or not components.seeds:
        raise DataError(
            f"the pilot has {sizes[0]} direct and {sizes[1]} staged runs"
            + (", whose scores are all the same" if components else ""),
            where=str(workdir),
            hint="the variance over seeds needs at least 2 different ones in each condition.",
        )
    by_seed = np.array([scores_R[chosen].var(ddof=1) for chosen in (direct, staged)])
    df = by_seed.sum() ** 2 / (by_seed**2 / (np.array(sizes) - 1)).sum()
    if paired:
        df = len(direct) - 1
    weights = headline_rows(Scores(study))
    units = {row: one for row in weights for one in sets[row].drawn}
    task = dataclasses.replace(study.task, metric=metric)
    effective = effective_examples(weights, units)
    return Pilot(workdir, task, components, effective, sizes, float(df))
