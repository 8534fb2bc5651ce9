from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from flaxfer.errors import ConfigError
from flaxfer.statistics import distributions


@pytest.mark.parametrize("df", [1, 1.3, 2, 4, 17.5, 1000])
def test_tails_are_those_of_scipy(df: float) -> None:
    for value in (0.0, 0.5, 2.0, 5.0, 30.0):
        tail = distributions.t_tail(value, df)
        assert tail == pytest.approx(stats.t.sf(value, df), abs=1e-12)
        shifted = distributions.t_tail(value, df, 2.5)
        assert shifted == pytest.approx(stats.nct.sf(value, df, 2.5), abs=1e-9)
    for tail in (0.4, 0.025, 1e-6):
        assert distributions.t_quantile(tail, df) == pytest.approx(stats.t.isf(tail, df), rel=1e-6)
    share = (np.arange(1000) + 0.5) / 1000
    np.testing.assert_allclose(
        distributions.chi2_quantiles(df, 1000), stats.chi2.ppf(share, df), rtol=1e-2
    )


def test_normal_cdf_reaches_into_the_tails() -> None:
    z = np.array([-np.inf, -30.0, -1.96, 0.0, 3.0, np.inf])
    np.testing.assert_allclose(distributions.normal_cdf(z), stats.norm.cdf(z), rtol=1e-12)


def test_needed_seeds_of_cohens_tables() -> None:
    # Cohen (1988), table 2.4.1, two-sided 0.05, power 0.8: a group for d of 0.2, 0.5 and 0.8.
    assert [distributions.needed_seeds(d, 1.0) for d in (0.2, -0.5, 0.8)] == [394, 64, 26]


@pytest.mark.parametrize(("difference", "power", "alpha"), [(1.7, 0.9, 0.01), (3.0, 0.8, 0.05)])
def test_needed_seeds_is_the_smallest_number(difference: float, power: float, alpha: float) -> None:
    def reached(seeds: int) -> float:
        df, shift = 2 * (seeds - 1), difference / 2.0 * np.sqrt(seeds / 2)
        beyond = stats.t.isf(alpha / 2, df)
        return stats.nct.sf(beyond, df, shift) + stats.nct.cdf(-beyond, df, shift)

    needed = distributions.needed_seeds(difference, 2.0, power, alpha)
    assert reached(needed) >= power > reached(needed - 1)
    assert distributions.power(difference, 2.0, needed, alpha) == pytest.approx(reached(needed))


def test_needed_seeds_of_nothing_is_an_error() -> None:
    for arguments in ((0.0, 1.0), (1.0, 0.0), (1.0, 1.0, 0.04), (1e-9, 1.0)):
        with pytest.raises(ConfigError):
            distributions.needed_seeds(*arguments)
