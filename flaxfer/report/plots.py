"""Plots of a study as SVG elements for one HTML page: no fonts, no scripts, no outside references.

The colours are the page's CSS variables, so that a plot follows the page into dark mode. The same
numbers give the same bytes.
"""

from __future__ import annotations

import dataclasses
import html
import io
import re
from collections.abc import Mapping, Sequence
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

FONT = "DejaVu Sans"  # comes with matplotlib
INK, LINE, HOLLOW = "#1b1f24", "#d0d7de", "#ffffff"
COLOR = {"direct": "#0072b2", "staged": "#d55e00", "scratch": "#6b6b6b"}
MARKER = {"direct": "o", "staged": "s", "scratch": "^"}
DASH = {"direct": "-", "staged": (0, (5, 1.5)), "scratch": (0, (1, 1.2))}
VARIABLE = {INK: "--ink", LINE: "--line", HOLLOW: "--paper"} | {
    c: f"--{path}" for path, c in COLOR.items()
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
    "legend.frameon": False,
    "svg.fonttype": "path",  # glyphs as outlines: the same on every device
    "svg.hashsalt": "flaxfer",  # ids by content instead of by chance
    "text.color": INK,
    "text.parse_math": False,
    "xtick.color": INK,
    "ytick.color": INK,
}
WIDTH = 5.2  # inches; on a phone the text is still of readable size
LONGEST = 36  # characters of a label


@dataclasses.dataclass(frozen=True)
class Curve:
    """A line of a path and seed: steps (or shares), values, both (points,); NaN leaves a hole."""

    condition: str
    seed: int
    steps: np.ndarray
    values: np.ndarray


def bars(name: str, rows: Sequence[str], series: Mapping[str, np.ndarray], metric: str) -> str:
    """Horizontal bars of the means over seeds, a dot for every seed if there are several.

    Args:
      name: of the plot, unique within the page.
      rows: labels.
      series: path -> values of shape (rows, seeds); NaN where undefined.
      metric: label of the axis.

    Returns:
      An SVG element.
    """
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH, 1.2 + len(rows) * (0.2 * len(series) + 0.16)), dpi=72)
        figure.set_layout_engine("constrained")
        axes = figure.subplots()
        thickness = 0.82 / len(series)
        for place, (path, values_RS) in enumerate(series.items()):
            y_R = np.arange(len(rows)) + (place - (len(series) - 1) / 2) * thickness
            means_R = values_RS.mean(axis=1)
            defined = np.isfinite(means_R)
            height = thickness * 0.92
            axes.barh(y_R[defined], means_R[defined], height, color=COLOR[path])
            for y, values, mean in zip(y_R, values_RS, means_R, strict=True):
                if values.size > 1:
                    axes.plot(values, [y] * values.size, "o", ms=3.5, mfc=LINE, mec=INK, mew=0.8)
                if np.isnan(mean):
                    axes.annotate(" undefined", (0, y), va="center", fontsize=9)
        axes.set_yticks(range(len(rows)), [_short(row) for row in rows])
        axes.tick_params(axis="y", length=0)
        axes.margins(y=0.02)
        axes.invert_yaxis()
        axes.spines.left.set_visible(False)
        axes.axvline(0, color=INK, lw=0.8)
        axes.xaxis.set_major_locator(MaxNLocator(6))
        axes.grid(axis="x")
        axes.set_xlabel(_drawable(metric))
        _legend(axes, [Patch(color=COLOR[path], label=path) for path in series])
        label = f"Bars of {metric} by {', '.join(series)} for {', '.join(rows)}."
        return _svg(figure, name, label)


def intervals(
    name: str,
    rows: Sequence[str],
    differences: np.ndarray,
    ends: np.ndarray,
    decided: Sequence[bool],
    quantity: str,
) -> str:
    """Differences with their intervals, one below the other, beside a line at 0.

    Args:
      name: of the plot, unique within the page.
      rows: labels.
      differences: (rows,).
      ends: (rows, 2), the ends of the intervals.
      decided: whether there is a verdict; the point is full then, and hollow else.
      quantity: label of the axis.

    Returns:
      An SVG element.
    """
    color = COLOR["staged"]
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH, 0.9 + len(rows) * 0.3), dpi=72)
        figure.set_layout_engine("constrained")
        axes = figure.subplots()
        axes.axvline(0, color=INK, lw=0.8)
        for y, (difference, (low, high), sure) in enumerate(
            zip(differences, ends, decided, strict=True)
        ):
            axes.plot([low, high], [y, y], color=color, lw=2.2, solid_capstyle="butt")
            fill = color if sure else HOLLOW
            axes.plot([difference], [y], "o", ms=7, mfc=fill, mec=color, mew=1.6)
        axes.set_yticks(range(len(rows)), [_short(row) for row in rows])
        axes.tick_params(axis="y", length=0)
        axes.set_ylim(len(rows) - 0.5, -0.5)
        axes.spines.left.set_visible(False)
        axes.xaxis.set_major_locator(MaxNLocator(5))
        axes.grid(axis="x")
        axes.set_xlabel(_drawable(quantity))
        label = f"Intervals of {quantity} for {', '.join(rows)}."
        return _svg(figure, name, label)


def curves(name: str, lines: Sequence[Curve], quantity: str, over: str = "step") -> str:
    """A line for every path and seed over steps; the seeds of a path look the same.

    Args:
      name: of the plot, unique within the page.
      lines: at least one.
      quantity: label of the axis.
      over: what is counted along the other one, in whole numbers if it is `step`.

    Returns:
      An SVG element.
    """
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH, 3.3), dpi=72)
        figure.set_layout_engine("constrained")
        axes = figure.subplots()
        paths: list[str] = []
        for line in lines:
            marker = MARKER[line.condition] if len(line.steps) <= 25 else ""
            axes.plot(
                line.steps,
                line.values,
                color=COLOR[line.condition],
                ls=DASH[line.condition],
                lw=1.6,
                marker=marker,
                ms=4,
                label="_" if line.condition in paths else line.condition,  # a legend leaves "_" out
            )
            paths += [] if line.condition in paths else [line.condition]
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=over == "step"))
        axes.grid()
        axes.set_xlabel(_drawable(over))
        axes.set_ylabel(_drawable(quantity))
        _legend(axes, axes.get_legend_handles_labels()[0])
        seeds = len({line.seed for line in lines})
        label = f"Curves of {quantity} by {over}: {', '.join(paths)}; {seeds} seed(s)."
        return _svg(figure, name, label)


def _legend(axes: Axes, handles: Sequence[Artist]) -> None:
    axes.legend(
        handles=handles,
        ncols=len(handles),
        loc="lower left",
        bbox_to_anchor=(0, 1),
        borderaxespad=0.3,
        handlelength=2.2,
    )


def _short(text: str) -> str:
    """A label that leaves room for the plot; the whole one is in the text for screen readers."""
    text = " ".join(text.split())
    return _drawable(text if len(text) <= LONGEST else f"{text[: LONGEST - 3]}...")


def _drawable(text: str) -> str:
    """The text, with the code point in place of a character that the font does not have."""
    known = get_font(findfont(FontProperties(family=[FONT]))).get_charmap()
    shown = (c if ord(c) in known else f"<U+{ord(c):04X}>" for c in " ".join(text.split()))
    return "".join(shown)


def _svg(figure: Figure, name: str, label: str) -> str:
    """The figure as an element that can stand in a page beside others."""
    buffer = io.StringIO()
    no_metadata = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    figure.savefig(buffer, format="svg", transparent=True, metadata=no_metadata)
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :].strip()
    # Ids are unique only within a figure, but for those of glyphs, which are the same in all; its
    # style sheet and groups are of no use to a page, nor is less than a thousandth of a point.
    svg = re.sub(r"<!--.*?-->\s*", "", svg, flags=re.DOTALL)
    svg = re.sub(r"\s*<defs>\s*<style.*?</style>\s*</defs>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'<g id="[^"]*"', "<g", svg)
    svg = re.sub(r">\s+<", "><", svg).replace(" \n", "\n")  # A page has many of them.
    svg = re.sub(r"scale\([^)]*\)|-?\d+\.\d{4,}", _rounded, svg)
    svg = re.sub(rf'(\bid="|href="#|url\(#)(?!{GLYPH})', rf"\g<1>{name}-", svg)
    for color, variable in VARIABLE.items():
        svg = svg.replace(color, f"var({variable})")
    return svg.replace("<svg", f'<svg role="img" aria-label="{html.escape(label)}"', 1)


def _rounded(number: re.Match[str]) -> str:
    """A length with three decimals; a scale as it is."""
    text = number[0]
    return text if text.startswith("scale") else f"{float(text):.3f}".rstrip("0").rstrip(".")
