"""The result of studies in 80 columns, compared with the records and with the csv files."""

from __future__ import annotations

import csv
import dataclasses
import io
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from flaxfer.report import terminal
from flaxfer.report.csv_tex import comparisons_csv
from flaxfer.report.data import ReportData, read_report_data
from flaxfer.runtime import progress
from tests.report.helpers import study_record, value, write_study
from tests.report.synthetic import World, write_grid

WORLD = World(
    models=("bert", "xlmr"),
    targets=("sentiment-language", "similarity-domain"),
    seeds=(0, 1, 2),
    n=30,
)


Rows = list[dict[str, str]]


@pytest.fixture(autouse=True)
def columns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress.console, "width", 80)


@pytest.fixture
def quiet() -> Iterator[None]:
    progress.set_quiet(True)
    yield
    progress.set_quiet(False)


@pytest.fixture(scope="module")
def grid(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_grid(tmp_path_factory.mktemp("grid"), WORLD)


def shown(capsys: pytest.CaptureFixture[str], folder: Path) -> tuple[list[str], Rows]:
    """Lines that are printed about some studies, and the comparisons in their csv file."""
    data = read_report_data([folder], folder)
    return lines_of(capsys, data), list(csv.DictReader(io.StringIO(comparisons_csv(data))))


def lines_of(capsys: pytest.CaptureFixture[str], data: ReportData) -> list[str]:
    terminal.show_result(data)
    out, err = capsys.readouterr()
    assert out == "" and "\N{NO-BREAK SPACE}" not in err
    return [line.rstrip() for line in err.splitlines()]


def difference(row: dict[str, str]) -> list[str]:
    """The difference and its interval, by comparisons.csv."""
    number, low, high = (float(row[key]) for key in ("difference", "low", "high"))
    return [f"{number:+.3f}", f"[{low:+.3f}, {high:+.3f}]"]


def spread(values: list[float]) -> str:
    return f"{np.mean(values):.3f} ± {np.std(values, ddof=1):.3f}"


def cells(line: str) -> list[str]:
    """The cells of a line, which two spaces at least stand between."""
    return re.split(r" {2,}", line)


def test_a_study_has_its_verdict_and_its_differences_by_language(
    grid: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines, rows = shown(capsys, grid / "cells" / "bert.sst2.sentiment-language")
    assert lines.pop(1) == "collapsed, and counted: direct seed 0"
    compared = {row["language"]: row for row in rows if row["runs"] == "all"}
    primary = compared["zero-shot mean"]
    number, interval = difference(primary)
    assert lines[:2] == [
        f"{primary['verdict']}: staged minus direct {number} {interval} in the zero-shot mean of "
        "accuracy over de, fr, zh; 3 seeds",
        "accuracy (larger is better) by language, mean ± standard deviation over 3 seeds",
    ]
    assert cells(lines[2]) == ["language", "direct", "staged", "difference", "95% interval"]
    assert [cells(line)[0] for line in lines[3:]] == [
        "en", "de", "fr", "zh", "mean", "zero-shot mean", "transfer gap"
    ]  # fmt: skip
    for line in lines[3:]:
        name, *_, number, interval = cells(line)
        row = compared[{"mean": "mean over all languages"}.get(name, name)]
        assert [number, interval] == difference(row)
    assert max(map(len, lines[1:])) <= 80


@pytest.mark.parametrize("conditions", [("direct", "staged"), ("direct", "staged", "scratch")])
def test_scores_are_means_over_seeds(
    conditions: tuple[str, ...], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Three conditions have no spreads, which would not fit. The records have no predictions."""
    lines, _ = shown(capsys, write_study(tmp_path, study_record(conditions)))
    assert lines[0].startswith("not judged: no comparison of staged with direct. Zero-shot mean")
    table = {line[0]: line[1:] for line in map(cells, lines) if len(line) > 1}
    assert table["language"] == list(conditions)
    for language in ("en", "de", "fr", "ja"):
        scores = [[value(c, seed, language, "pearson") for seed in (0, 1)] for c in conditions]
        expected = [spread(one) if len(conditions) < 3 else f"{np.mean(one):.3f}" for one in scores]
        assert table[language] == expected
    assert max(map(len, lines[1:])) <= 80


def test_one_seed_is_not_judged(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    world = dataclasses.replace(WORLD, seeds=(0,), models=("bert",))
    folder = write_grid(tmp_path, world) / "cells" / "bert.sst2.sentiment-language"
    lines, _ = shown(capsys, folder)
    assert re.match(r"not judged: staged minus direct .* over de, fr, zh; 1 seed$", lines[0])
    assert lines[2] == "accuracy (larger is better) by language, one seed"


def test_a_grid_has_a_verdict_for_each_study(
    grid: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    data = read_report_data([grid], grid)
    lines = lines_of(capsys, data)
    every = csv.DictReader(io.StringIO(comparisons_csv(data)))
    rows = [row for row in every if row["runs"] == "all" and row["family"] == "primary"]
    primary = {row["study"]: row for row in rows}
    assert len(primary) == 4 and lines[0].startswith("4 comparisons of staged with direct: ")
    assert cells(lines[1]) == ["study", "verdict", "difference", "95% interval"]
    note = "each interval is that of one comparison; verdicts are corrected for all 4"
    assert lines[6:] == [note]
    for line in lines[2:6]:
        names, verdict, *numbers = cells(line)
        intermediate, target, model = names.split(", ")
        row = primary[f"{model}.{intermediate}.{target}"]
        assert [verdict, *numbers] == [row["verdict"], *difference(row)]
    assert max(map(len, lines[1:])) <= 80
    monkeypatch.setattr(terminal, "MAX_ROWS", 3)
    assert lines_of(capsys, data) == [*lines[:5], "and 1 more", note]


def test_quiet_leaves_the_verdict_and_the_report(
    grid: Path, capsys: pytest.CaptureFixture[str], quiet: None
) -> None:
    lines, _ = shown(capsys, grid / "cells" / "xlmr.sst2.sentiment-language")
    assert len(lines) == 1 and "staged minus direct" in lines[0]
    terminal.show_paths([Path("report.html"), Path("results.csv")])
    assert capsys.readouterr().err == f"report: {Path('report.html').absolute()}\n"
