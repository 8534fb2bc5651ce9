"""Plots as SVG elements for one HTML page, and as SVG and PDF files.

An element has no fonts, no scripts and no external references. Its colours are the page's CSS
variables, so that it follows the page into dark mode. The same numbers give the same bytes.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import html
import io
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

from flaxfer.report import document
from flaxfer.report.svg import compact
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
    "font.family": [FONT, "sans-serif"],
    "font.sans-serif": FONT,
    "font.size": 11,
    "grid.color": LINE,
    "legend.borderaxespad": 0.3,
    "legend.frameon": False,
    "legend.handlelength": 2.2,
    "pdf.fonttype": 42,  # TrueType, which publishers accept
    "svg.fonttype": "none",  # text, in the font of the page; narrower than matplotlib's
    "svg.hashsalt": "flaxfer",  # deterministic ids
    "path.simplify_threshold": 0.6,  # of a point
    "text.color": INK,
    "text.parse_math": False,
    "xtick.bottom": False,
    "xtick.color": INK,
    "ytick.color": INK,
    "ytick.left": False,
}
WIDTH = 5.2  # inches; text stays readable when scaled down to a phone
LONGEST = 36  # characters of a label


@dataclasses.dataclass(frozen=True)
class Drawing:
    """A plot as an element of a page, and the contents of its files by suffix."""

    name: str
    svg: str
    files: Mapping[str, bytes]

    def figure(self, caption: str) -> document.Figure:
        """Return the plot as a block of a document."""
        return document.Figure(self.name, self.svg, caption, self.files)


@dataclasses.dataclass(frozen=True)
class Curve:
    """The line of a condition and seed: x and y values, both (points,); NaN in y leaves a gap."""

    condition: str
    seed: int
    x: np.ndarray
    y: np.ndarray


def bars(name: str, rows: Sequence[str], series: Mapping[str, np.ndarray], metric: str) -> Drawing:
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
                    # Dots are the round ends of lines without length: one short path for all.
                    x_r3 = np.stack([values, values, np.full_like(values, np.nan)], axis=1)
                    axes.plot(
                        x_r3.ravel(), [y] * x_r3.size, color=INK, lw=2.8, solid_capstyle="round"
                    )
                if np.isnan(mean):
                    axes.annotate(" undefined", (0, y), va="center", fontsize=9)
        axes.margins(y=0.02)
        axes.invert_yaxis()
        _label_rows(axes, rows, metric, ticks=6)
        _add_legend(axes, [Patch(color=COLOR[condition], label=condition) for condition in series])
        return _drawing(
            axes, name, f"Bars of {metric} by {', '.join(series)} for {', '.join(rows)}."
        )


def intervals(
    name: str, rows: Sequence[str], comparisons: Sequence[Comparison], quantity: str
) -> Drawing:
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
        return _drawing(axes, name, f"Intervals of {quantity} for {', '.join(rows)}.")


def curves(name: str, lines: Sequence[Curve], quantity: str, over: str = "step") -> Drawing:
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
                marker=MARKER[line.condition] if len(line.x) <= 25 and len(lines) <= 4 else "",
                ms=4,
                label=line.condition,
            )
            artist.get_path().should_simplify = len(line.x) > 25  # By default, more than 127.
            first_lines.setdefault(line.condition, artist)
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=over == "step"))
        axes.grid(clip_on=False)
        axes.set_xlabel(_drawable(over))
        axes.set_ylabel(_drawable(quantity))
        _add_legend(axes, list(first_lines.values()))
        seeds = len({line.seed for line in lines})
        label = f"Curves of {quantity} by {over}: {', '.join(first_lines)}; {seeds} seed(s)."
        return _drawing(axes, name, label)


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
    axes.grid(axis="x", clip_on=False)
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


def _drawing(axes: Axes, name: str, label: str) -> Drawing:
    """Return the figure as an element, which others may share a page with, and as files."""
    figure = axes.get_figure(root=True)
    assert figure is not None
    text, pdf = io.StringIO(), io.BytesIO()
    no_metadata = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    figure.savefig(text, format="svg", transparent=True, metadata=no_metadata)
    figure.set_layout_engine("none")  # The layout is done.
    no_metadata = dict.fromkeys(("Creator", "Producer", "CreationDate"))
    figure.savefig(pdf, format="pdf", transparent=True, metadata=no_metadata)
    svg = compact(text.getvalue())
    for color, variable in VARIABLE.items():
        svg = svg.replace(color, f"var({variable})")
    svg = svg.replace("<svg", f'<svg role="img" aria-label="{html.escape(label)}"', 1)
    return Drawing(name, svg, {".svg": text.getvalue().encode(), ".pdf": pdf.getvalue()})
