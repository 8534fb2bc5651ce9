"""Numbers and lists as a report words them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from flaxfer.statistics.records import ConditionScores, Estimate
from flaxfer.statistics.scores import DIFFERENCE

DASH = "\N{EN DASH}"
SPACE = "\N{NO-BREAK SPACE}"


def join(parts: Iterable[str]) -> str:
    """The parts with commas."""
    return ", ".join(parts)


def amount(value: float | None, digits: int = 0) -> str:
    """A count or a rate; empty if it was not measured."""
    return "" if value is None else f"{value:,.{digits}f}"


def plural(number: int, noun: str) -> str:
    """The number with its noun: 1 seed, 2 seeds."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def spread(column: str, values: np.ndarray) -> str:
    """Mean ± sample standard deviation over seeds; a difference carries its sign."""
    if not np.all(np.isfinite(values)):
        return "undefined"
    sign = "+" if column == DIFFERENCE else ""
    # The no-break space keeps a narrow column from leaving "±" alone at the end of a line.
    deviation = f" ±{SPACE}{values.std(ddof=1):.3f}" if values.size > 1 else ""
    return f"{values.mean():{sign}.3f}{deviation}"


def spread_note(seeds: Sequence[int]) -> str:
    """How to read the numbers: whether they have a spread."""
    if len(seeds) == 1:
        return "One seed: no spread, no verdict."
    return f"Mean ± standard deviation over {len(seeds)} seeds."


def scored(path: ConditionScores) -> str:
    """Mean ± standard deviation of a path."""
    return f"{path.mean:.3f}" + ("" if path.sd is None else f" ±{SPACE}{path.sd:.3f}")


def signed(value: float, digits: int = 3) -> str:
    """With its sign; one that is rounded to zero has a further digit or more."""
    while value and round(value, digits) == 0 and digits < 9:
        digits += 1
    return f"{value:+.{digits}f}"


def interval(estimate: Estimate) -> str:
    """Both ends of the interval."""
    return f"[{signed(estimate.low)},{SPACE}{signed(estimate.high)}]"


def p_value(p: float | None) -> str:
    """Two digits; a dash where there is none."""
    return DASH if p is None else f"{p:.2g}"


def seeds_of(estimate: Estimate) -> str:
    """How many runs the estimate is from, in one number if the paths have as many."""
    direct, staged = len(estimate.direct.seeds), len(estimate.staged.seeds)
    return plural(direct, "seed") if direct == staged else f"{direct} direct and {staged} staged"
