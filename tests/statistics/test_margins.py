"""Verdicts of studies that declare the smallest difference that matters."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from flaxfer.statistics.comparisons import compare
from flaxfer.statistics.multiplicity import P, adjust
from tests.statistics.helpers import write_study
from tests.statistics.test_comparisons import DATA, DRAWS, SCORES, noisy


def declare(workdir: Path, **margin: float) -> Path:
    """Write margins into the record of a study."""
    record = json.loads((workdir / "study.json").read_text())
    (workdir / "study.json").write_text(json.dumps(record | {"margin": margin}))
    return workdir


def test_a_margin_lets_studies_show_no_relevant_change(tmp_path: Path) -> None:
    similar = noisy(0.2, 0.2, 5)
    workdirs = [
        declare(write_study(tmp_path / "similar", SCORES, similar, DATA), pearson=0.02),
        declare(write_study(tmp_path / "apart", SCORES, noisy(3.0, 0.3, 5), DATA), pearson=0.02),
        declare(write_study(tmp_path / "small", SCORES, noisy(0.5, 0.1, 5), DATA), pearson=0.2),
        write_study(tmp_path / "without", SCORES, similar, DATA),
    ]
    evidence = compare(workdirs, draws=DRAWS)
    primary = [one for one in evidence.comparisons if one.family == "primary"]
    assert [(one.study, one.margin, one.all_runs.verdict) for one in primary] == [
        ("similar", 0.02, "no relevant change"),
        ("apart", 0.02, "helps"),
        ("small", 0.2, "helps, but by less than the margin"),
        ("without", None, "undecided"),
    ]
    estimates = [one.all_runs for one in primary]
    adjusted = adjust([P(one.p, one.p_equivalence) for one in estimates])
    assert [P(one.p_holm or 0, one.p_equivalence_holm) for one in estimates] == adjusted
    assert estimates[0].p == estimates[3].p and estimates[3].p_equivalence is None
    # The margin is that of the compared metric.
    errors = compare(workdirs[:1], metric="mse", draws=DRAWS).comparisons
    assert all(one.margin is None for one in errors)


def test_runs_that_learned_nothing_show_no_lack_of_change(tmp_path: Path) -> None:
    constant = {run: np.full_like(output, 2.5) for run, output in noisy(0.2, 0.2, 5).items()}
    workdir = declare(write_study(tmp_path / "a", SCORES, constant, DATA), pearson=0.02)
    for one in compare([workdir], draws=DRAWS).comparisons:
        assert len(one.collapsed) == 10 and one.all_runs.difference == 0
        assert one.all_runs.p_equivalence == 1 and one.all_runs.verdict == "undecided"
