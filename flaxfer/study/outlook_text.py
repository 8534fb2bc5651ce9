"""The text of `flaxfer plan`: what studies can decide, and what that assumes."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Iterator, Sequence

from flaxfer.config import Task
from flaxfer.report.formatting import about
from flaxfer.statistics.looks import ALPHA, LEVEL
from flaxfer.statistics.power import Needed
from flaxfer.statistics.variances import CORRELATIONS, Pilot, Stated
from flaxfer.study.design import Outlook

WIDTH = 80
"""Columns of the output."""
NAME_WIDTH = 26
PAIRS = (
    "Runs are compared as pairs of a seed, which halves the degrees of freedom. The standard "
    "deviation over seeds is that of a pair's difference, divided by the square root of 2; a "
    "stated one is taken to be of runs whose scores do not correlate over seeds."
)


def lines(results: Sequence[Outlook], assumed: Sequence[str]) -> Iterator[str]:
    """Yield the report in lines of at most `WIDTH` columns."""
    first = results[0]
    level = f"level {first.alpha:.3g}"
    if len(results) > 1:
        level = f"level {ALPHA:g} / {len(results)} studies = {first.alpha:.3g}"
    yield f"What staged minus direct can show: {level}, power {first.target:g}"
    yield ""
    yield _row("study", "seeds", "finds", "interval", "corrected", "margin", "examples")
    for one in results:
        yield from _rows(one)
    yield ""
    looks = " at this number of seeds or before" if any(len(r.looks) > 1 for r in results) else ""
    texts = [
        f"finds: smallest difference that is found{looks}.",
        f"interval: expected half width of the {LEVEL:.0%} interval; corrected: at the level "
        "above.",
        "margin: smallest margin within which no relevant change is shown, if there is no "
        "difference" + (" (at this look alone)." if looks else "."),
        "examples: share of the variance due to the examples, which no number of seeds reduces.",
        *dict.fromkeys(map(_sets, results)),
        *(f"Assumed: {sentence}" for sentence in assumed),
        *filter(None, map(_needs, results)),
        *(warning for one in results for warning in _warnings(one)),
    ]
    for text in texts:
        yield from textwrap.wrap(text, WIDTH, subsequent_indent="  ", break_on_hyphens=False)


def _row(name: str, *values: str) -> str:
    widths = (7, 9, 9, 10, 9, 9)
    cells = "".join(f"{value:>{width}}" for value, width in zip(values, widths, strict=True))
    return f"{name:<{NAME_WIDTH}}{cells}".rstrip()


def _rows(one: Outlook) -> Iterator[str]:
    """Yield the lines of a study in the table."""
    names = textwrap.wrap(one.study, NAME_WIDTH - 1, break_on_hyphens=False)
    if not one.detectable:
        yield _row(names.pop(0), str(one.looks[-1]), *["-"] * 5)
    values = zip(
        one.looks,
        one.detectable,
        one.half_width,
        one.half_width_simultaneous,
        one.smallest_margin,
        one.examples_share,
        strict=False,
    )
    for look, finds, half, corrected, margin, share in values:
        yield _row(
            names.pop(0) if names else "",
            str(look),
            f"{finds:#.3g}",
            f"±{half:#.3g}",
            f"±{corrected:#.3g}",
            f"{margin:#.3g}",
            f"{share:.0%}",
        )
    yield from names


def _sets(one: Outlook) -> str:
    of = one.compared
    sets = "1 set" if of.sets == 1 else f"{of.sets} sets"
    return (
        f"{one.metric}, {of.name}: {sets} with {of.examples:,} examples in {of.units:,} units of "
        f"resampling, at least as good as {of.effective:,.0f} independent examples."
    )


def _needs(one: Outlook) -> str:
    """Return which designs decide what this one does not; empty if none is asked for."""
    if one.needed is None:
        return ""
    what = f"To find a difference of {one.sought:g}"
    if one.margin is not None:
        what += f", and to show that there is none (margin {one.margin:g})"
    fixed = " (without looks)" if len(one.looks) > 1 else ""
    return f"{one.study}: {what}{fixed}: {_designs(one.needed)}"


def _designs(design: Needed) -> str:
    """Return the smallest designs that are enough."""
    seeds, examples = design.seeds, design.examples
    if seeds and examples:
        return f"more seeds: {seeds:,}, or larger test sets: about {about(examples)} examples."
    if seeds:
        return f"more seeds: {seeds:,}; no test set is large enough with these seeds."
    if examples:
        text = f"larger test sets: about {about(examples)} examples"
        return f"{text}; no number of seeds is enough on these."
    if design.both:
        text = f"more seeds and larger test sets: {design.both[0]:,} seeds and about "
        return f"{text}{about(design.both[1])} examples; neither alone is enough."
    return "no number of seeds and examples is enough."


def _warnings(one: Outlook) -> Iterator[str]:
    """Yield what is wrong with the sets, and what the study cannot decide."""
    yield from (f"warning: {one.study}: {note}" for note in one.compared.notes)
    if not one.detectable:
        yield f"warning: {one.study} cannot decide anything: a verdict needs at least 2 seeds"
        return
    reasons = []
    if one.sought is not None and not one.finds:
        reasons.append(f"it finds one of {one.sought:g} with a power of {one.power:.0%}")
    if one.margin is None and not (one.sought and one.finds):
        reasons.append("without a margin, it never shows that there is no relevant change")
    if one.margin is not None and not one.shows_none:
        reasons.append(
            "it shows that there is no relevant change with a power of "
            f"{one.equivalence_power:.0%} (margin {one.margin:g})"
        )
    if reasons:
        verb = "find" if one.shows_none else "decide"
        yield (
            f"warning: {one.study} cannot {verb} anything up to a difference of "
            f"{one.detectable[-1]:#.3g}: {', and '.join(reasons)}"
        )


def of_pilot(pilot: Pilot) -> str:
    """Return the variances of a pilot in a sentence."""
    sd, (low, high) = (pilot.components.seeds / 2) ** 0.5, pilot.sd_interval()
    direct, staged = pilot.runs
    return (
        f"{pilot.workdir}, {pilot.task.metric}: a run's score has a standard deviation of "
        f"{sd:#.3g} over seeds (from {direct} direct and {staged} staged runs: 95 % interval "
        f"{low * sd:#.3g} to {high * sd:#.3g}), and staged minus direct one of "
        f"{pilot.components.examples**0.5:#.3g} over test sets of {pilot.effective:,.0f} "
        "independent examples; on others, the variance changes in proportion."
    )


def of_stated(stated: Stated, tasks: Iterable[Task]) -> Iterator[str]:
    """Yield what the formulas assume in sentences."""
    yield (
        f"A run's score has a standard deviation of {stated.sd:g} over seeds (--sd), and both "
        f"conditions score {stated.score:g} (--score)."
    )
    rho = f"{stated.correlation:g} (--correlation)"
    for metric in dict.fromkeys(task.metric for task in tasks):
        if ("regression", metric) in CORRELATIONS:
            yield (
                f"{metric}: Fisher's z, normal distributions, and predictions of direct and staged "
                f"that correlate by {rho} (Dunn & Clark 1969; Steiger 1980)."
            )
        else:
            share = 2 * stated.score * (1 - stated.score) * (1 - stated.correlation)
            yield (
                f"{metric}: binomial; that direct and staged are right about an example correlates "
                f"by {rho}, so that one of the two alone is right about {share:.1%} of the "
                "examples (Miettinen 1968; Connor 1987)."
            )
    if stated.correlation_seeds is None:
        yield (
            "Two seeds of a condition are taken to agree in full, which overstates the variance "
            "due to the examples; --correlation-seeds says how much they agree."
        )
    else:
        yield f"Two seeds of a condition correlate by {stated.correlation_seeds:g}."
