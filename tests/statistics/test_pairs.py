"""Runs that are paired by seed: intervals, tests, power, and studies that declare it."""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats

from benchmarks import coverage
from flaxfer.config import Task
from flaxfer.statistics import inference, power
from flaxfer.statistics.comparisons import compare
from flaxfer.statistics.descriptive import describe_studies
from flaxfer.statistics.inference import Components, Difference
from flaxfer.statistics.records import Comparison, Evidence
from tests.helpers import random_tokenized
from tests.statistics.helpers import RunKey, write_study

DIRECT = np.array([0.70, 0.74, 0.71, 0.69, 0.78])
STAGED = np.array([0.75, 0.83, 0.74, 0.74, 0.80])
SCORES = Task("sts", "regression", "pearson")
DATA = random_tokenized(120)
DRAWS = 400
ALPHA = 0.05


def of_pairs(direct: np.ndarray, staged: np.ndarray) -> Difference:
    """Return the paired difference on infinitely many examples, whose resamples are equal."""
    return Difference(direct, staged, *(np.tile(runs, (9, 1)) for runs in (direct, staged)),
                      paired=True)  # fmt: skip


@pytest.mark.parametrize("level", [0.8, 0.95, 0.999, 1 - 1e-6])
def test_with_infinitely_many_examples_it_is_the_paired_t_test(level: float) -> None:
    result, expected = of_pairs(DIRECT, STAGED), stats.ttest_rel(STAGED, DIRECT)
    assert result.over == "seeds and examples"
    assert result.value == pytest.approx(STAGED.mean() - DIRECT.mean())
    assert result.interval(level) == pytest.approx(expected.confidence_interval(level), rel=1e-5)
    assert result.p == pytest.approx(expected.pvalue, rel=1e-4)
    for margin in (0.01, 0.06, 0.2):
        above = stats.ttest_rel(STAGED + margin, DIRECT, alternative="greater").pvalue
        below = stats.ttest_rel(STAGED - margin, DIRECT, alternative="less").pvalue
        assert result.p_equivalence(margin) == pytest.approx(max(above, below), rel=1e-4)


@pytest.mark.parametrize("runs", [2, 3, 5, 20, 500])
def test_p_is_that_of_the_paired_t_test_far_in_the_tail(runs: int) -> None:
    direct, staged = np.random.default_rng(runs).normal(0, 1, (2, runs)) * [[1], [1.7]]
    staged += direct.mean() - staged.mean()
    se = (staged - direct).std(ddof=1) / np.sqrt(runs)
    smallest = 1.0
    for t in np.geomspace(0.1, 1e6, 40):
        if (expected := 2 * stats.t.sf(t, runs - 1)) > 1e-12:
            smallest = expected
            for sign in (1, -1):
                assert of_pairs(direct, staged + sign * t * se).p == pytest.approx(
                    expected, rel=1e-4
                )
    assert smallest < 1e-5


def test_components_are_those_of_the_analysis_of_variance_of_the_differences() -> None:
    rng, n, runs = np.random.default_rng(0), 60, 5
    example, seed = rng.normal(0, 1, (n, 1)), rng.normal(0, 0.4, runs)
    direct, staged = (
        example + seed + rng.normal(0, 0.8, (n, 1)) + rng.normal(0, 0.2, runs)
        + rng.normal(0, 0.5, (n, runs))
        for _ in range(2)
    )  # fmt: skip
    weights = rng.multinomial(n, np.full(n, 1 / n), 40_000) / n
    means = direct.mean(axis=0), staged.mean(axis=0)
    result = Difference(*means, weights @ direct, weights @ staged, paired=True).components
    assert result is not None and result.groups == 1
    d = staged - direct
    residual = ((d - d.mean(0) - d.mean(1, keepdims=True) + d.mean()) ** 2).sum()
    residual /= (n - 1) * (runs - 1)
    examples = d.mean(axis=1).var(ddof=1) - residual / runs
    assert result.examples == pytest.approx(examples / n, rel=0.05)
    assert result.interaction == pytest.approx(residual / n, rel=0.05)
    assert result.seeds == pytest.approx(d.mean(axis=0).var(ddof=1))
    assert result.total == pytest.approx(result.examples + result.seeds / runs)


def test_a_single_pair_is_conditional_on_its_runs() -> None:
    shift = np.random.default_rng(1).normal(0, 0.02, (10_000, 1))
    one = np.array([0.7])
    result = Difference(one, one + 0.1, one + 0 * shift, one + 0.1 + shift, paired=True)
    assert result.over == "examples alone" and result.components is None
    low, high = result.interval(0.95)
    assert high - low == pytest.approx(2 * 1.96 * 0.02, rel=0.05)


@pytest.mark.parametrize("most", [10_000, 20])
def test_labels_are_permuted_within_pairs(most: int) -> None:
    direct, staged = DIRECT, DIRECT + np.array([0.02, 0.05, -0.01, 0.03, 0.01])
    rng = np.random.default_rng(0)
    p, least = inference.permute_seeds(direct, staged, most, rng, paired=True)
    expected = stats.permutation_test(
        (staged, direct), lambda x, y, axis: x.mean(axis) - y.mean(axis), vectorized=True,
        permutation_type="samples",
    )  # fmt: skip
    assert p == pytest.approx(expected.pvalue, abs=1e-12 if most > 32 else 0.2)
    assert least == 2 / 32
    assert inference.permute_seeds(direct[:1], staged[:1], most, rng, paired=True) == (1, 1)
    # Of many pairs, the number of draws limits p.
    many = np.arange(40.0)
    p, least = inference.permute_seeds(many, many + 1, most, rng, paired=True)
    assert p == least == 1 / (most + 1)


def test_correlation_over_seeds() -> None:
    expected = stats.pearsonr(DIRECT, STAGED).statistic
    assert inference.seed_correlation(DIRECT, STAGED) == pytest.approx(expected)
    assert inference.seed_correlation(DIRECT[:3], STAGED[:3]) is not None
    assert inference.seed_correlation(DIRECT[:2], STAGED[:2]) is None
    assert inference.seed_correlation(DIRECT, np.full(5, 0.7)) is None


def test_needed_pairs() -> None:
    def needed(difference: float, of_examples: float = 0.0) -> power.Needed:
        pairs = Components(of_examples, 1.0, 0.0, total=1.0, groups=1)
        return power.needed(difference, pairs, runs=5, n=400, alpha=ALPHA)

    # Pairs for standardised differences of 0.2, 0.5 and 0.8, by the noncentral t distribution.
    found = [needed(d).seeds for d in (0.2, -0.5, 0.8)]
    for pairs, d in zip(found, (0.2, 0.5, 0.8), strict=True):
        assert pairs is not None
        reached = [
            stats.nct.sf(stats.t.isf(ALPHA / 2, k - 1), k - 1, d * np.sqrt(k))
            for k in (pairs - 1, pairs)
        ]
        assert reached[0] < 0.8 <= reached[1]
    assert found == [199, 34, 15]  # As in the tables of G*Power.
    assert needed(0.5, of_examples=0.1).seeds is None


def rejections(shared: float, studies: int) -> tuple[float, float]:
    """Return the shares of studies without a difference with p <= 0.05: paired, unpaired.

    The scores of examples are sums of skewed and heavy-tailed effects, the effects of seeds are
    uniform, and neither comes from the generator of the benchmarks.
    """
    rng, n, runs = np.random.default_rng(round(10 * shared)), 80, 5
    weights = rng.multinomial(n, np.full(n, 1 / n), 300) / n
    rejected = np.zeros(2)
    for _ in range(studies):
        common, own = rng.uniform(-1, 1, runs), rng.uniform(-1, 1, (2, runs))
        seed = np.sqrt(3) * (np.sqrt(shared) * common + np.sqrt(1 - shared) * own)
        example = rng.exponential(1, (n, 1))
        scores = [
            example + 0.1 * rng.laplace(0, 1, (n, 1)) + 0.2 * of_condition
            + 0.3 * rng.laplace(0, 1, (n, runs))
            for of_condition in seed
        ]  # fmt: skip
        means, drawn = [of.mean(axis=0) for of in scores], [weights @ of for of in scores]
        p = [Difference(*means, *drawn, paired=paired).p for paired in (True, False)]
        rejected += np.array(p) <= ALPHA
    paired, unpaired = rejected / studies
    return float(paired), float(unpaired)


@pytest.mark.parametrize("studies", [200, pytest.param(3000, marks=pytest.mark.slow)])
@pytest.mark.parametrize("shared", [0.0, 0.8])
def test_false_positives_in_another_world(shared: float, studies: int) -> None:
    error = 3 * np.sqrt(ALPHA * (1 - ALPHA) / studies)
    paired, unpaired = rejections(shared, studies)
    assert paired == pytest.approx(ALPHA, abs=error)
    if shared:  # Conservative.
        assert unpaired < 0.02
    else:
        assert unpaired == pytest.approx(ALPHA, abs=error)


def test_simulated_coverage_of_both_analyses() -> None:
    world = coverage.World(n=200, seeds=4, sd=(0.3, 0.3))
    correlated, uncorrelated = (
        coverage.pairing(world._replace(shared=shared), 40, draws=200) for shared in (0.8, 0.0)
    )
    assert correlated["correlation"] > 0.4 > 0.3 > abs(uncorrelated["correlation"])
    assert correlated["width_ratio"] < 0.9 and uncorrelated["width_ratio"] > 1.05
    for shares in (correlated, uncorrelated):
        for analysis in ("paired", "unpaired"):
            assert shares[f"coverage_{analysis}"] > 0.95 - 3 * np.sqrt(0.05 * 0.95 / 40)
            assert shares[f"rejected_{analysis}"] == pytest.approx(
                1 - shares[f"coverage_{analysis}"]
            )
    record = {"part": "pairs", "rows": [correlated]}
    record |= {"versions": {"numpy": "2"}, "git": "abc", "date": "2026-01-01"}
    text = coverage.section(record)
    assert text.startswith("### Runs paired by seed\n") and "40 simulated studies" in text
    assert f"| 4 | 0.800 | {correlated['correlation']:.3f} |" in text


def similar(seeds: int) -> dict[RunKey, np.ndarray]:
    """Return outputs whose noise depends more on the seed than on the condition."""
    rng = np.random.default_rng(3)
    return {
        (condition, seed): (
            DATA.label + (0.6 + 0.3 * seed) * factor * rng.standard_normal(len(DATA.label))
        )[:, None].astype(np.float32)
        for condition, factor in (("direct", 1.0), ("staged", 0.9))
        for seed in range(seeds)
    }


def collapse(runs: Mapping[RunKey, np.ndarray], *keys: RunKey) -> dict[RunKey, np.ndarray]:
    """Return the outputs, constant for some runs."""
    return {run: np.full_like(out, 2.5) if run in keys else out for run, out in runs.items()}


def judged(workdir: Path, runs: Mapping[RunKey, np.ndarray], **settings: Any) -> Evidence:
    """Return the comparisons of a study."""
    record = json.loads((write_study(workdir, SCORES, runs, DATA) / "study.json").read_text())
    (workdir / "study.json").write_text(json.dumps(record | settings))
    return compare([workdir], draws=DRAWS)


def every(evidence: Evidence) -> list[Comparison]:
    return [*evidence.comparisons, *evidence.means]


def test_a_study_pairs_its_runs_only_if_it_declares_it(tmp_path: Path) -> None:
    runs = similar(5)
    evidences = judged(tmp_path / "a", runs), judged(tmp_path / "b", runs, paired=True)
    assert len(every(evidences[0])) == 4
    for apart, paired in zip(*map(every, evidences), strict=True):
        assert (apart.paired, paired.paired) == (False, True)
        one, two = apart.all_runs, paired.all_runs
        assert (one.direct, one.staged, one.difference) == (two.direct, two.staged, two.difference)
        assert one.left_out == two.left_out == ()
        direct, staged = np.array(one.direct.scores), np.array(one.staged.scores)
        d = staged - direct
        assert one.variance_seeds == pytest.approx(direct.var(ddof=1) + staged.var(ddof=1))
        assert two.variance_seeds == pytest.approx(d.var(ddof=1))
        assert one.seed_correlation == two.seed_correlation
        assert one.seed_correlation == pytest.approx(np.corrcoef(direct, staged)[0, 1])
        signs = np.array(list(itertools.product((1, -1), repeat=5)))
        beyond = np.abs(signs @ d) >= abs(d.sum()) - 1e-9
        assert two.p_seeds == pytest.approx(beyond.mean()) and two.p_seeds_least == 2 / 32
        assert one.p_seeds_least == 2 / 252
        assert two.variance_examples is not None and two.variance_interaction is not None
        assert two.alpha_holm is not None and two.variance_seeds is not None
        parts = Components(two.variance_examples, two.variance_seeds, two.variance_interaction,
                           total=1.0, groups=1)  # fmt: skip
        needed = power.needed(two.difference, parts, 5, paired.n, two.alpha_holm)
        assert (two.needed_seeds, two.needed_examples) == (needed.seeds, needed.examples)
    shorter = every(evidences[0])[1].all_runs, every(evidences[1])[1].all_runs
    assert shorter[0].seed_correlation is not None and shorter[0].seed_correlation > 0.8
    assert shorter[1].high - shorter[1].low < 0.8 * (shorter[0].high - shorter[0].low)


def test_incomplete_pairs_are_left_out_and_named(tmp_path: Path) -> None:
    runs = similar(5)
    del runs["staged", 3]
    runs = collapse(runs, ("direct", 1))
    apart, paired = judged(tmp_path / "a", runs), judged(tmp_path / "b", runs, paired=True)
    for one, two in zip(every(apart), every(paired), strict=True):
        assert one.all_runs.direct.seeds == (0, 1, 2, 3, 4) and one.all_runs.left_out == ()
        assert two.all_runs.direct.seeds == two.all_runs.staged.seeds == (0, 1, 2, 4)
        assert two.all_runs.left_out == (("direct", 3),)
        sound, pairs = one.without_collapsed, two.without_collapsed
        assert sound is not None and pairs is not None
        assert (sound.direct.seeds, sound.staged.seeds) == ((0, 2, 3, 4), (0, 1, 2, 4))
        assert pairs.direct.seeds == pairs.staged.seeds == (0, 2, 4)
        assert pairs.left_out == (("direct", 3), ("staged", 1))
        assert sound.seed_correlation == pairs.seed_correlation
        expected = np.corrcoef(pairs.direct.scores, pairs.staged.scores)[0, 1]
        assert pairs.seed_correlation == pytest.approx(expected)
        assert pairs.p_examples == sound.p_examples


def test_the_multi_bootstrap_draws_the_pairs_of_a_paired_study(tmp_path: Path) -> None:
    runs = similar(5)
    runs["direct", 7] = runs["staged", 0]  # Without a partner.
    paired = judged(tmp_path / "b", runs, paired=True)
    judged(tmp_path / "a", runs)
    described = describe_studies([tmp_path / "a", tmp_path / "b"], draws=DRAWS)
    lengths = []
    for comparison in every(paired):
        apart, pairs = (
            described[str(tmp_path / name), comparison.language, comparison.set, True]
            for name in "ab"
        )
        lengths.append((pairs.multi_high - pairs.multi_low, apart.multi_high - apart.multi_low))
        staged, direct = (np.array(x.scores) for x in (
            comparison.all_runs.staged, comparison.all_runs.direct,
        ))  # fmt: skip
        assert len(direct) == 5
        better = np.greater.outer(staged, direct) + np.equal.outer(staged, direct) / 2
        expected = better.mean() if comparison.larger_is_better else 1 - better.mean()
        assert pairs.better == pytest.approx(expected)
    assert lengths[1][0] < 0.8 * lengths[1][1]  # Where runs vary more than examples.


def test_fewer_than_two_pairs_give_no_verdict(tmp_path: Path) -> None:
    runs = similar(5)
    chosen = [("direct", 0), ("direct", 1), ("direct", 2), ("staged", 2), ("staged", 3)]
    evidence = judged(tmp_path / "one", {run: runs[run] for run in chosen}, paired=True)
    for comparison in every(evidence):
        one = comparison.all_runs
        assert (one.over, one.verdict, one.p_holm) == ("examples alone", "undecided", None)
        assert one.seed_correlation is None and one.direct.seeds == one.staged.seeds == (2,)
        assert one.left_out == (("direct", 0), ("direct", 1), ("staged", 3))
    chosen = [("direct", 0), ("direct", 1), ("staged", 2), ("staged", 3)]
    apart = {run: runs[run] for run in chosen}
    assert every(judged(tmp_path / "apart", apart))
    evidence = judged(tmp_path / "none", apart, paired=True)
    assert not every(evidence)
    assert "no seed has finished runs of both direct and staged" in evidence.skipped[0]


def test_without_collapsed_runs_no_pair_may_be_left(tmp_path: Path) -> None:
    runs = collapse(similar(2), ("direct", 0), ("staged", 1))
    assert all(one.without_collapsed for one in every(judged(tmp_path / "a", runs)))
    paired = every(judged(tmp_path / "b", runs, paired=True))
    assert all(len(one.collapsed) == 2 and one.without_collapsed is None for one in paired)
