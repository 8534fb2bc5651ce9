from __future__ import annotations

import re
import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest

from flaxfer.report import plots
from flaxfer.statistics.records import Comparison, ConditionScores, Estimate

SVG = "{http://www.w3.org/2000/svg}"


def shapes(svg: str, variable: str) -> list[np.ndarray]:
    """Return the corners, (points, 2), of every SVG path within the axes in one colour."""
    return [
        np.array(re.findall(r"[ML] (\S+) (\S+)", path.attrib["d"]), dtype=float)
        for path in ElementTree.fromstring(svg).iter(f"{SVG}path")
        if f"var({variable})" in path.attrib.get("style", "") and "clip-path" in path.attrib
    ]


def test_bars_are_as_long_as_the_means() -> None:
    series = {
        "direct": np.array([[0.5, 0.7], [-0.25, -0.15], [np.nan, 0.3]]),
        "staged": np.array([[0.1, 0.3], [0.8, 0.9], [0.4, 0.4]]),
    }
    svg = plots.bars("bars", ["en", "de", "fr"], series, "pearson")
    zero = shapes(svg, "--direct")[0][:, 0].min()
    lengths = {}
    for condition in series:
        ends = [corners[:, 0] for corners in shapes(svg, f"--{condition}")]
        lengths[condition] = [x[np.argmax(np.abs(x - zero))] - zero for x in ends]
    assert len(lengths["direct"]) == 2, "an undefined mean has no bar"
    drawn = np.array(lengths["direct"] + lengths["staged"])
    means = np.array([0.6, -0.2, 0.2, 0.85, 0.4])
    np.testing.assert_allclose(drawn / drawn[0], means / means[0], rtol=1e-4)


def test_a_condition_without_any_defined_value_stays_in_the_legend() -> None:
    series = {"direct": np.array([[0.5]]), "staged": np.array([[np.nan]])}
    assert "var(--staged)" in plots.bars("bars", ["en"], series, "pearson")


def test_curves_follow_the_values_and_leave_gaps() -> None:
    steps = np.array([10, 20, 30, 40, 50])
    values = np.array([1.0, 4.0, np.nan, 2.0, 2.5])
    lines = [
        plots.Curve("direct", 0, steps, values),
        plots.Curve("direct", 1, steps, values / 2),
        plots.Curve("scratch", 0, np.array([10, 50]), np.array([3.0, 3.5])),
    ]
    svg = plots.curves("loss", lines, "train loss")
    first, second = (points for points in shapes(svg, "--direct") if len(points) > 1)
    assert len(shapes(svg, "--scratch")) == 1
    for points, y in ((first, values), (second, values / 2)):
        kept = np.isfinite(y)
        assert len(points) == kept.sum()
        np.testing.assert_allclose(np.corrcoef(points[:, 0], steps[kept])[0, 1], 1, rtol=1e-9)
        np.testing.assert_allclose(np.corrcoef(points[:, 1], y[kept])[0, 1], -1, rtol=1e-9)
    path = re.search(r'd="([^"]*)"[^>]*var\(--direct\)', svg)
    assert path and path[1].count("M ") == 2, "the gap splits the line"


def test_the_margin_is_a_band_behind_the_interval() -> None:
    scores = ConditionScores((0, 1), (0.5, 0.5), 0.5, 0.0)
    estimate = Estimate(
        scores, scores, 0.1, -0.1, 0.3, "seeds and examples",
        **dict.fromkeys(("p", "p_seeds", "p_seeds_least"), 0.5),
        **dict.fromkeys(
            ("p_equivalence", "p_examples", "pooled_sd", "effect_size", "seed_correlation",
             "variance_examples", "variance_seeds", "variance_interaction", "examples_share")
        ),
        left_out=(),
    )  # fmt: skip
    rows = [
        Comparison(
            **{"workdir": "w", "study": "s", "metric": "pearson", "larger_is_better": True},
            **{"language": "en", "set": "en", "n": 9, "units": 9, "at_chance": False},
            **{"family": "primary", "margin": margin, "paired": False, "all_runs": estimate},
            **{"collapsed": (), "not_transferred": (), "without_collapsed": None},
        )
        for margin in (0.05, None, 0.2)
    ]
    svg = plots.intervals("intervals", ["a", "b", "c"], rows, "difference")
    bands = [band for band in shapes(svg, "--line") if len(band) >= 4]
    (width,) = {round(float(np.ptp(line[:, 0])), 2) for line in shapes(svg, "--staged")
                if len(line) == 2}  # fmt: skip
    assert [np.ptp(band[:, 0]) / width for band in bands] == pytest.approx([0.25, 1.0], rel=1e-3)
    assert svg.index("var(--line)") < svg.index("var(--staged)")
