"""Adjusted p values and verdicts on families of comparisons."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
import pytest
from scipy import stats

from flaxfer.statistics.multiplicity import P, Verdict, adjust, levels, verdict


def closed_test(family: Sequence[P], alpha: float) -> list[tuple[bool, bool]]:
    """Test every set of hypotheses whose members can all be true by Bonferroni's inequality."""
    hypotheses = [(i, k) for i, one in enumerate(family) for k in (0, 1) if one[k] is not None]
    possible = [
        members
        for size in range(1, len(family) + 1)
        for members in itertools.combinations(hypotheses, size)
        if len({i for i, _ in members}) == size
    ]
    rejected = {
        members for members in possible
        if min(family[i][k] or 0.0 for i, k in members) <= alpha / len(members)
    }  # fmt: skip

    def claimed(one: tuple[int, int]) -> bool:
        sets = [members for members in possible if one in members]
        return bool(sets) and all(members in rejected for members in sets)

    return [(claimed((i, 0)), claimed((i, 1))) for i in range(len(family))]


def shaffer(family: Sequence[P], alpha: float) -> list[tuple[bool, bool]]:
    """Reject step by step, counting the comparisons with a hypothesis that is not rejected."""
    p = {(i, k): one[k] for i, one in enumerate(family) for k in (0, 1)}
    known = {key: value for key, value in p.items() if value is not None}
    left = dict(known)
    while left:
        key = min(left, key=lambda key: left[key])
        if left[key] > alpha / len({i for i, _ in left}):
            break
        del left[key]
    return [
        ((i, 0) not in left, (i, 1) in known and (i, 1) not in left) for i in range(len(family))
    ]


def holm(p: Sequence[float]) -> list[float]:
    return [one.difference for one in adjust([P(each) for each in p])]


def test_without_margins_the_procedure_is_holms() -> None:
    # By hand: 0.005 * 4, 0.01 * 3, 0.03 * 2, and 0.04 * 1, which must not be below the one before.
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.9, 0.5]) == [1.0, 1.0]
    assert holm([]) == []
    # Its definition: hypotheses are rejected from the smallest p on while p <= alpha / (m - i).
    p = np.random.default_rng(0).uniform(0, 0.05, 12)
    for alpha in (0.01, 0.05, 0.2):
        passed = np.sort(p) <= alpha / np.arange(12, 0, -1)
        rejected = 12 if passed.all() else int(passed.argmin())
        assert sum(adjusted <= alpha for adjusted in holm(p.tolist())) == rejected


@pytest.mark.parametrize("m", [1, 2, 3, 4])
def test_with_margins_the_procedure_is_the_closed_test_and_shaffers(m: int) -> None:
    rng, claims = np.random.default_rng(m), 0
    for _ in range(120):
        p = 10 ** rng.uniform(-3, -0.5, (m, 2))
        family = [P(a, b if rng.random() < 0.8 else None) for a, b in p.tolist()]
        for alpha in (0.05, 0.2):
            adjusted = [
                (one.difference <= alpha, one.equivalence is not None and one.equivalence <= alpha)
                for one in adjust(family)
            ]
            assert adjusted == closed_test(family, alpha) == shaffer(family, alpha)
            by_level = [
                tuple(p is not None and p <= level for p in one)
                for one, level in zip(family, levels(family, alpha), strict=True)
            ]
            assert by_level == adjusted
            claims += sum(map(sum, adjusted))
    assert claims > 100


def test_two_hypotheses_a_comparison_count_once() -> None:
    # By hand: the first step compares with 0.05 / 2, not with 0.05 / 4.
    first, second = adjust([P(0.02, 0.9), P(0.8, 0.024)])
    assert (first, second) == (P(0.04, 1.0), P(1.0, 0.048))
    # The comparison with both claims leaves the count, one with a single claim does not.
    assert adjust([P(0.01, 0.02), P(0.04, 0.5)])[1].difference == pytest.approx(0.04)
    assert adjust([P(0.01, 0.5), P(0.04, 0.5)])[1].difference == pytest.approx(0.08)
    assert levels([P(0.01, 0.02), P(0.04, 0.5)], 0.05) == [0.025, 0.05]


def test_family_wise_error_rate_of_both_claims() -> None:
    """Half of the comparisons have no difference, the others one of exactly the margin."""
    rng, m, margin = np.random.default_rng(0), 6, 3.0
    truth = np.where(np.arange(m) % 2, margin, 0.0)
    wrong = naive = 0
    count = 2000
    for z in truth + rng.standard_normal((count, m)):
        p = 2 * stats.norm.sf(np.abs(z))
        p_equivalence = np.maximum(stats.norm.sf(z + margin), stats.norm.sf(margin - z))
        family = [P(*one) for one in zip(p.tolist(), p_equivalence.tolist(), strict=True)]
        false = np.where(truth, *np.array(adjust(family)).T[::-1])
        wrong += bool((false <= 0.05).any())
        naive += bool((np.where(truth, p_equivalence, p) <= 0.05).any())
    assert wrong / count <= 0.05 + 3 * np.sqrt(0.05 * 0.95 / count)
    assert wrong / count > 0.03  # It uses the whole of alpha, or nearly.
    assert naive / count > 0.2


@pytest.mark.parametrize(
    ("difference", "p", "larger_is_better", "gap", "expected"),
    [
        (0.1, P(0.05), True, False, "helps"),
        (0.1, P(0.01), False, False, "hurts"),
        (-0.1, P(0.01), False, False, "helps"),
        (-0.1, P(0.01, 0.2), True, False, "hurts"),
        (0.1, P(0.051), True, False, "undecided"),
        (0.1, P(0.051, 0.051), True, False, "undecided"),
        (0.1, P(0.051, 0.05), True, False, "no relevant change"),
        (0.0, P(0.0), True, False, "undecided"),
        (0.01, P(0.01, 0.01), True, False, "helps, but by less than the margin"),
        (-0.01, P(0.01, 0.01), True, False, "hurts, but by less than the margin"),
        (-0.1, P(0.01), False, True, "narrower"),
        (0.1, P(0.01, 0.5), False, True, "wider"),
        (-0.1, P(0.01, 0.01), False, True, "narrower, but by less than the margin"),
        (-0.1, P(0.3, 0.01), False, True, "no relevant change"),
    ],
)
def test_verdicts(
    difference: float, p: P, larger_is_better: bool, gap: bool, expected: Verdict
) -> None:
    settings = {"larger_is_better": larger_is_better, "gap": gap}
    assert verdict(difference, p, alpha=0.05, **settings) == expected
