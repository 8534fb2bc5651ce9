"""The LaTeX tables of scores by language."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest

from flaxfer.report.data import read_report_data
from flaxfer.report.language_tex import languages_tex
from tests.report.helpers import NASTY, study_record, write_study
from tests.report.synthetic import World, write_grid

WORLD = World(targets=("sentiment-language", "similarity-language"), seeds=(0, 1), n=40)


def rows_of(table: str) -> list[list[str]]:
    lines = [line for line in table.splitlines() if line.endswith(r" \\")]
    return [line.removesuffix(r" \\").split(" & ") for line in lines]


def test_scores_are_means_over_seeds_and_the_best_is_bold(tmp_path: Path) -> None:
    grid = write_grid(tmp_path, WORLD)
    text = languages_tex(read_report_data([grid], grid))
    _, classes = text.split("\\end{tabular}\n")[:2]
    assert "% sentiment-language: accuracy, in percent" in classes
    assert classes.count(r"\midrule") == 2  # After the heading, and between the models.
    rows = rows_of(classes)
    assert rows[0] == ["model", "training", "en", "de", "fr", "zh", "avg"]
    assert [row[:2] for row in rows[1:]] == [
        ["bert", "direct"], ["", "after sst2"], ["xlmr", "direct"], ["", "after sst2"]
    ]  # fmt: skip
    expected = []
    for model in WORLD.models:
        name = f"{model}.sst2.sentiment-language"
        study = json.loads((grid / "cells" / name / "study.json").read_text())
        for condition in ("direct", "staged"):
            scores = np.mean([
                [one["metrics"]["accuracy"] for one in run["evaluations"]]
                for run in study["runs"]
                if (run["condition"], run["stage"]) == (condition, "target")
            ], axis=0)  # fmt: skip
            expected.append([*scores, scores.mean()])
    printed = [[f"{100 * value:.1f}" for value in row] for row in expected]
    best = [max(column, key=float) for column in zip(*printed, strict=True)]
    for row, numbers in zip(rows[1:], printed, strict=True):
        assert row[2:] == [
            rf"\textbf{{{number}}}" if number == top else number
            for number, top in zip(numbers, best, strict=True)
        ]


@pytest.mark.parametrize(("metric", "choose"), [("pearson", max), ("mse", min)])
def test_the_direction_and_the_range_of_the_metric_count(
    metric: str, choose: type, tmp_path: Path
) -> None:
    record = study_record() | {"metric": metric, "larger_is_better": metric == "pearson"}
    record["task"] = {**record["task"], "metric": metric}
    for one in record["runs"]:
        one["dev"] = {metric: 0.5} if one["stage"] == "target" else one["dev"]
    study = write_study(tmp_path, record)
    rows = rows_of(languages_tex(read_report_data([study], study)))
    for column in range(2, 7):
        bold = [re.fullmatch(r"\\textbf\{(.*)\}", row[column]) for row in rows[1:]]
        numbers = [float(re.sub(r"[^\d.-]", "", row[column])) for row in rows[1:]]
        (best,) = [float(match[1]) for match in bold if match]
        assert best == choose(numbers)
        digits = 1 if metric == "pearson" else 3
        assert all(re.search(rf"\.\d{{{digits}}}\D*$", row[column]) for row in rows[1:])
    assert not re.search(r"(?<!\\)[#$&](?! )", rows[1][0]) and NASTY not in rows[1][0]


def test_undefined_scores_are_dashes_and_one_row_has_no_best(tmp_path: Path) -> None:
    record = study_record(("direct",))
    record["runs"][0]["evaluations"][3]["metrics"]["pearson"] = None
    study = write_study(tmp_path, record)
    (_, row) = rows_of(languages_tex(read_report_data([study], study)))
    assert row[5:] == ["--", "--"] and "textbf" not in "".join(row)
