"""Tables of a grid: a row for every cell, score and comparison, as in the csv files."""

from __future__ import annotations

import dataclasses
import io
from collections import Counter
from pathlib import Path

import pandas as pd
import pytest

import flaxfer
from flaxfer.report import csv_tex, frames
from flaxfer.report.data import ReportData, read_report_data
from tests.report.synthetic import World, write_grid

WORLD = World(
    models=("bert", "xlmr"),
    targets=("classification-domain", "sentiment-domain"),
    seeds=(0, 1, 2),
    n=60,
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_grid(tmp_path_factory.mktemp("grid"), WORLD)


@pytest.fixture(scope="module")
def data(folder: Path) -> ReportData:
    return read_report_data([folder], folder)


def rows_of(text: str) -> list[dict[str, str]]:
    return pd.read_csv(io.StringIO(text), dtype=str, keep_default_na=False).to_dict("records")


def test_tables_of_a_grid_have_the_rows_of_its_csv_files(data: ReportData) -> None:
    for table, types, text in (
        (frames.scores(data.entries), frames.SCORES, csv_tex.results_csv(data)),
        (frames.comparisons(data), frames.COMPARISONS, csv_tex.comparisons_csv(data)),
    ):
        written = rows_of(text)
        assert len(table) == len(written) > 3
        assert table.dtypes.astype(str).to_dict() == dict(types)
        for row, record in zip(table.to_dict("records"), written, strict=True):
            assert row.keys() == record.keys()
            for name, value in record.items():
                if types[name] == "string":
                    assert row[name] == value, name
                elif types[name] == "bool":
                    assert value in ("yes", "no") and row[name] == (value == "yes"), name
                elif value == "":
                    assert pd.isna(row[name]), name
                else:
                    assert row[name] == float(value), name
    assert set(frames.comparisons(data)["runs"]) == {"all", "without collapsed"}


def test_every_cell_has_a_verdict(folder: Path, data: ReportData) -> None:
    table = frames.verdicts(data)
    assert table.dtypes.astype(str).to_dict() == dict(frames.VERDICTS)
    assert list(zip(table.study, table.model, strict=True)) == [
        (f"{model}.{task}", model)
        for model in WORLD.models
        for task in ("imdb.classification-domain", "sst2.sentiment-domain")
    ]
    for entry, comparison in data.judged:
        row = table[table.study == entry.name].iloc[0]
        estimate = comparison.all_runs
        assert (row.verdict, row.difference) == (estimate.verdict, estimate.difference)
        assert (row.direct_mean, row.p_holm) == (estimate.direct.mean, estimate.p_holm)
        assert (row.direct_seeds, row.margin) == (3, 0.1)
    study = flaxfer.load(folder)
    pd.testing.assert_frame_equal(study.verdicts, table)


def test_predictions_of_a_grid_name_their_cells(folder: Path) -> None:
    study = flaxfer.load(folder)
    table = study.predictions("en", condition=("direct",))
    runs = Counter(zip(table.model, table.seed, strict=True))
    assert runs == {(model, seed): 120 for model in WORLD.models for seed in WORLD.seeds}
    one = study.predictions("en", study="bert.imdb.classification-domain", seed=1)
    assert len(one) == 120 and set(one.study) == {"bert.imdb.classification-domain"}
    # Probabilities have columns of their own.
    names = [f"probabilities.{label}" for label in ("negative", "positive")]
    pd.testing.assert_series_equal(one[names].sum(axis=1), pd.Series(1.0, one.index))
    assert set(one.prediction) == set(one.label) == {"negative", "positive"}


def test_a_study_without_a_comparison_is_not_judged(data: ReportData) -> None:
    (entry, *_) = data.entries
    alone = dataclasses.replace(entry, headline=None, comparisons=(), means=())
    table = frames.verdicts(dataclasses.replace(data, entries=(alone,)))
    row = table.iloc[0]
    assert (row.verdict, row.metric, row.direct_seeds) == ("not judged", "accuracy", 3)
    assert pd.isna(row.difference)
