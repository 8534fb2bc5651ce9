"""Numbers and lists as text."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from flaxfer.report.document import Label
from flaxfer.statistics.records import Estimate
from flaxfer.statistics.scores import DIFFERENCE

DASH = "\N{EN DASH}"
SPACE = "\N{NO-BREAK SPACE}"
SMALLEST_P = 1e-15
"""Smaller p values are shown as below it: the distributions are not known so far out."""


def join(parts: Iterable[str]) -> str:
    """Return the parts, separated by commas."""
    return ", ".join(parts)


def amount(value: float | None, digits: int = 0) -> str:
    """Return a count or rate with thousands separators; empty for None."""
    return "" if value is None else f"{value:,.{digits}f}"


def plural(number: int, noun: str) -> str:
    """Return the number with its noun: 1 seed, 2 seeds."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def spread(values: np.ndarray, sign: str = "") -> str:
    """Return mean ± sample standard deviation over seeds; the sign `+` marks differences."""
    if not np.all(np.isfinite(values)):
        return "undefined"
    # The no-break space keeps "±" from ending a line in a narrow column.
    deviation = f" ±{SPACE}{values.std(ddof=1):.3f}" if values.size > 1 else ""
    return f"{values.mean():{sign}.3f}{deviation}"


def spreads(columns: Mapping[str, np.ndarray]) -> dict[str, str]:
    """Return `spread` of every column; arrays without axes are means over seeds."""
    return {
        name: spread(np.atleast_1d(values), "+" if name == DIFFERENCE else "")
        for name, values in columns.items()
    }


def spread_note(seeds: Sequence[int]) -> str:
    """Return a sentence that explains the numbers of `spread`."""
    if len(seeds) == 1:
        return "One seed: no spread, no verdict."
    return f"Mean ± standard deviation over {len(seeds)} seeds."


def label(estimate: Estimate) -> Label:
    """Return the verdict, or that a single seed allows none."""
    return Label("not judged: 1 seed" if estimate.p_holm is None else estimate.verdict)


def signed(value: float, digits: int = 3) -> str:
    """Return the number with its sign, and with more digits if it would round to zero."""
    while value and round(value, digits) == 0 and digits < 9:
        digits += 1
    return f"{value:+.{digits}f}"


def interval(estimate: Estimate) -> str:
    """Return both ends of the interval."""
    return f"[{signed(estimate.low)},{SPACE}{signed(estimate.high)}]"


def simultaneous_interval(estimate: Estimate) -> str:
    """Return both ends of the simultaneous interval, or a dash if there is none."""
    if estimate.low_simultaneous is None or estimate.high_simultaneous is None:
        return DASH
    return f"[{signed(estimate.low_simultaneous)},{SPACE}{signed(estimate.high_simultaneous)}]"


def p_value(p: float | None) -> str:
    """Return two significant digits, or a dash for None."""
    if p is not None and p < SMALLEST_P:
        return f"<{SMALLEST_P:g}"
    return DASH if p is None else f"{p:.2g}"


def share(value: float | None) -> str:
    """Return a whole percentage; empty for None."""
    return "" if value is None else f"{value:.0%}"


def about(count: int) -> str:
    """Return a count with two significant digits, rounded up."""
    unit = 10 ** max(len(str(count)) - 2, 0)
    return f"{-(-count // unit) * unit:,}"


def count_seeds(estimate: Estimate) -> str:
    """Return the number of seeds; one number if both conditions have equally many."""
    direct, staged = len(estimate.direct.seeds), len(estimate.staged.seeds)
    return plural(direct, "seed") if direct == staged else f"{direct} direct and {staged} staged"
