"""Verdicts on several comparisons at once.

Each comparison has one or two hypotheses, and rejecting one makes a claim: "no difference" is
rejected by "helps" or "hurts", and, where a margin is declared, "a difference of at least the
margin" is rejected by "no relevant change".

**How many may be true at once.** A positive margin excludes that both hypotheses of a comparison
are true, so that of m comparisons at most m hypotheses are true, not 2 m. The closed test (Marcus
et al. 1976) rejects a hypothesis if every set of hypotheses that contains it, and whose members can
all be true, is rejected; the sets have at most one hypothesis of each comparison. A set of s
hypotheses is rejected by Bonferroni's inequality if one of their p values is at most alpha / s. The
set of s that is hardest to reject, among those with a given hypothesis, holds the larger p value of
each of s - 1 other comparisons, and these are the comparisons where that value is largest. Hence,
with M(1) >= M(2) >= ... for the larger p values of the other comparisons and M(0) infinite, a
hypothesis with the p value p is rejected if

    min(p, M(s - 1)) <= alpha / s   for s = 1, ..., m,

and its adjusted p value is the maximum over s of s * min(p, M(s - 1)). This is Holm's procedure
(1979) with the count of Shaffer (1986, her second procedure): step by step, the smallest p value is
compared with alpha over the number of comparisons with a hypothesis that is not yet rejected. A
comparison leaves the count only when both its hypotheses are rejected. Without margins there is one
hypothesis a comparison, and the procedure is Holm's. The family-wise error rate is at most alpha,
however the comparisons depend on each other.

**Simultaneous intervals** are Bonferroni's: each has the level 1 - alpha / m, so all cover their
true differences together with at least 1 - alpha. One that excludes 0 belongs to a difference that
is claimed; the reverse may fail, as the procedure above claims more than Bonferroni's. Intervals
that match Holm's claims exactly exist for one-sided hypotheses, where they only repeat the sign of
what is claimed (Strassburger & Bretz 2008; Guilbaud 2008), so they would not say how large it is.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Literal, NamedTuple, cast

import numpy as np

Verdict = Literal[
    "helps",
    "hurts",
    "helps, but by less than the margin",
    "hurts, but by less than the margin",
    "narrower",
    "wider",
    "narrower, but by less than the margin",
    "wider, but by less than the margin",
    "no relevant change",
    "undecided",
]
"""Of the difference of a score; `narrower` and `wider` are said of transfer gaps alone."""


class P(NamedTuple):
    """P values of a comparison's hypotheses.

    Attributes:
      difference: of no difference.
      equivalence: of a difference of at least the margin; None without a margin.
    """

    difference: float
    equivalence: float | None = None


def adjust(family: Sequence[P]) -> list[P]:
    """Return adjusted p values (see the module); SciPy has none of the family-wise error rate.

    Rejecting adjusted p values of at most alpha keeps the probability of any false claim at most
    alpha.
    """
    adjusted = []
    for one, others in _each(family):
        count = np.arange(1, len(others) + 1)
        p = [
            None if p is None else min(float((count * np.minimum(p, others)).max()), 1.0)
            for p in one
        ]
        adjusted.append(P(cast(float, p[0]), p[1]))
    return adjusted


def levels(family: Sequence[P], alpha: float) -> list[float]:
    """Return, for each comparison, the largest unadjusted p value at which it would be claimed.

    It depends on the other comparisons: alpha over the number of those that count.
    """
    return [
        alpha / max(s for s, other in enumerate(others, 1) if other > alpha / s)
        for _, others in _each(family)
    ]


def _each(family: Sequence[P]) -> Iterator[tuple[P, np.ndarray]]:
    """Yield each comparison and, beginning with infinity, M of the others in descending order."""
    larger = np.array([max(p for p in one if p is not None) for one in family])
    order = np.argsort(-larger, kind="stable")
    for i, one in enumerate(family):
        yield one, np.concatenate([[np.inf], larger[order[order != i]]])


def verdict(difference: float, p: P, *, larger_is_better: bool, gap: bool, alpha: float) -> Verdict:
    """Return what adjusted p values of at most `alpha` say about a difference.

    Args:
      difference: staged minus direct.
      p: adjusted p values.
      larger_is_better: direction of the score.
      gap: the score is a transfer gap, which is better if it is narrower.
      alpha: family-wise error rate.
    """
    differs = p.difference <= alpha and difference != 0
    small = p.equivalence is not None and p.equivalence <= alpha
    if not differs:
        return "no relevant change" if small else "undecided"
    better = (difference > 0) == larger_is_better
    word = ("narrower" if better else "wider") if gap else ("helps" if better else "hurts")
    return cast(Verdict, f"{word}, but by less than the margin" if small else word)
