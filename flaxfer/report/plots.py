"""Plots as SVG elements for one HTML page: no fonts, no scripts, no external references.

Colours are the page's CSS variables, so that a plot follows the page into dark mode. The same
numbers give the same bytes. Every plot needs a name that is unique within its page.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import html
import io
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties, findfont, get_font
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from flaxfer.report.document import GLYPH
from flaxfer.statistics.records import Comparison

FONT = "DejaVu Sans"  # comes with matplotlib
INK, LINE, HOLLOW = "#1b1f24", "#d0d7de", "#ffffff"
COLOR = {"direct": "#0072b2", "staged": "#d55e00", "scratch": "#6b6b6b"}
MARKER = {"direct": "o", "staged": "s", "scratch": "^"}
DASH = {"direct": "-", "staged": (0, (5, 1.5)), "scratch": (0, (1, 1.2))}
VARIABLE = {INK: "--ink", LINE: "--line", HOLLOW: "--paper"} | {
    color: f"--{condition}" for condition, color in COLOR.items()
}

STYLE: Any = {
    "axes.axisbelow": True,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "font.family": FONT,
    "font.size": 11,
    "grid.color": LINE,
    "legend.borderaxespad": 0.3,
    "legend.frameon": False,
    "legend.handlelength": 2.2,
    "svg.fonttype": "path",  # glyphs as outlines: the same on every device
    "svg.hashsalt": "flaxfer",  # deterministic ids
    "text.color": INK,
    "text.parse_math": False,
    "xtick.color": INK,
    "ytick.color": INK,
}
WIDTH = 5.2  # inches; text stays readable when scaled down to a phone
LONGEST = 36  # characters of a label


@dataclasses.dataclass(frozen=True)
class Curve:
    """The line of a condition and seed: x and y values, both (points,); NaN in y leaves a gap."""

    condition: str
    seed: int
    x: np.ndarray
    y: np.ndarray


def bars(name: str, rows: Sequence[str], series: Mapping[str, np.ndarray], metric: str) -> str:
    """Plot horizontal bars of the means over seeds, with a dot for each of several seeds.

    `series` maps conditions to values of shape (rows, seeds), NaN where undefined.
    """
    with _axes(1.2 + len(rows) * (0.2 * len(series) + 0.16)) as axes:
        thickness = 0.82 / len(series)
        for place, (condition, values_rs) in enumerate(series.items()):
            y_r = np.arange(len(rows)) + (place - (len(series) - 1) / 2) * thickness
            means_r = values_rs.mean(axis=1)
            defined = np.isfinite(means_r)
            axes.barh(y_r[defined], means_r[defined], thickness * 0.92, color=COLOR[condition])
            for y, values, mean in zip(y_r, values_rs, means_r, strict=True):
                if values.size > 1:
                    axes.plot(values, [y] * values.size, "o", ms=3.5, mfc=LINE, mec=INK, mew=0.8)
                if np.isnan(mean):
                    axes.annotate(" undefined", (0, y), va="center", fontsize=9)
        axes.margins(y=0.02)
        axes.invert_yaxis()
        _label_rows(axes, rows, metric, ticks=6)
        _add_legend(axes, [Patch(color=COLOR[condition], label=condition) for condition in series])
        return _svg(axes, name, f"Bars of {metric} by {', '.join(series)} for {', '.join(rows)}.")


def intervals(
    name: str, rows: Sequence[str], comparisons: Sequence[Comparison], quantity: str
) -> str:
    """Plot the difference and interval of each row over the band of differences within the margin.

    A filled point has a verdict other than `undecided`.
    """
    color = COLOR["staged"]
    with _axes(0.9 + len(rows) * 0.3) as axes:
        for y, comparison in enumerate(comparisons):
            estimate, margin = comparison.all_runs, comparison.margin
            if margin is not None:
                axes.barh(y, 2 * margin, 1, left=-margin, color=LINE, lw=0)
            ends = [estimate.low, estimate.high]
            axes.plot(ends, [y, y], color=color, lw=2.2, solid_capstyle="butt")
            fill = HOLLOW if estimate.verdict == "undecided" else color
            axes.plot([estimate.difference], [y], "o", ms=7, mfc=fill, mec=color, mew=1.6)
        axes.set_ylim(len(rows) - 0.5, -0.5)
        _label_rows(axes, rows, quantity, ticks=5)
        return _svg(axes, name, f"Intervals of {quantity} for {', '.join(rows)}.")


def curves(name: str, lines: Sequence[Curve], quantity: str, over: str = "step") -> str:
    """Plot a line for every condition and seed; the seeds of a condition look the same."""
    with _axes(3.3) as axes:
        first_lines: dict[str, Artist] = {}
        for line in lines:
            (artist,) = axes.plot(
                line.x,
                line.y,
                color=COLOR[line.condition],
                ls=DASH[line.condition],
                lw=1.6,
                marker=MARKER[line.condition] if len(line.x) <= 25 else "",
                ms=4,
                label=line.condition,
            )
            first_lines.setdefault(line.condition, artist)
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=over == "step"))
        axes.grid()
        axes.set_xlabel(_drawable(over))
        axes.set_ylabel(_drawable(quantity))
        _add_legend(axes, list(first_lines.values()))
        seeds = len({line.seed for line in lines})
        label = f"Curves of {quantity} by {over}: {', '.join(first_lines)}; {seeds} seed(s)."
        return _svg(axes, name, label)


@contextlib.contextmanager
def _axes(height: float) -> Iterator[Axes]:
    """Yield the axes of a new figure, with the style in effect."""
    with mpl.rc_context(STYLE):
        yield Figure(figsize=(WIDTH, height), dpi=72, layout="constrained").subplots()


def _label_rows(axes: Axes, rows: Sequence[str], quantity: str, ticks: int) -> None:
    """Label the rows and the horizontal axis of a plot, and mark 0."""
    axes.set_yticks(range(len(rows)), [_shorten(row) for row in rows])
    axes.tick_params(axis="y", length=0)
    axes.spines.left.set_visible(False)
    axes.axvline(0, color=INK, lw=0.8, zorder=1.5)  # above bars, below points
    axes.xaxis.set_major_locator(MaxNLocator(ticks))
    axes.grid(axis="x")
    axes.set_xlabel(_drawable(quantity))


def _add_legend(axes: Axes, handles: Sequence[Artist]) -> None:
    axes.legend(handles=handles, ncols=len(handles), loc="lower left", bbox_to_anchor=(0, 1))


def _shorten(text: str) -> str:
    """Return a label that leaves room for the plot; screen readers get the whole text."""
    text = " ".join(text.split())
    return _drawable(text if len(text) <= LONGEST else f"{text[: LONGEST - 3]}...")


@functools.cache
def _font_characters() -> frozenset[int]:
    return frozenset(get_font(findfont(FontProperties(family=[FONT]))).get_charmap())


def _drawable(text: str) -> str:
    """Return the text with the code points of characters that the font does not have."""
    known = _font_characters()
    return "".join(c if ord(c) in known else f"<U+{ord(c):04X}>" for c in " ".join(text.split()))


def _svg(axes: Axes, name: str, label: str) -> str:
    """Return the figure as an element that can be embedded in a page with others."""
    buffer = io.StringIO()
    no_metadata = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    figure = axes.get_figure(root=True)
    assert figure is not None
    figure.savefig(buffer, format="svg", transparent=True, metadata=no_metadata)
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :].strip()
    # Drop what a page does not need: comments, style sheet, ids of groups, whitespace, and digits
    # beyond a thousandth of a point.
    svg = re.sub(r"<!--.*?-->\s*", "", svg, flags=re.DOTALL)
    svg = re.sub(r"\s*<defs>\s*<style.*?</style>\s*</defs>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'<g id="[^"]*"', "<g", svg)
    svg = re.sub(r">\s+<", "><", svg).replace(" \n", "\n")
    svg = re.sub(
        r"(scale\([^)]*\))|-?\d+\.\d{4,}",
        lambda match: match[1] or f"{float(match[0]):.3f}".rstrip("0").rstrip("."),
        svg,
    )
    # Ids are unique only within a figure, except those of glyphs, which figures share.
    svg = re.sub(rf'(\bid="|href="#|url\(#)(?!{GLYPH})', rf"\g<1>{name}-", svg)
    for color, variable in VARIABLE.items():
        svg = svg.replace(color, f"var({variable})")
    return svg.replace("<svg", f'<svg role="img" aria-label="{html.escape(label)}"', 1)
