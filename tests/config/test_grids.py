"""Grids: loading them, their studies, and their errors."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from flaxfer.config import Config, Model, grids, loading
from flaxfer.config.grids import Grid
from flaxfer.errors import ConfigError
from flaxfer.tasks import TASK_TYPES

FILE = """
COLUMNS = dict(text_a="one", text_b=1, label="score")

def stage(name, **more):
    data = dict(train=dict(path=f"{name}.tsv", columns=COLUMNS))
    return dict(task=dict(name=name, type="regression", metric="pearson"), data=data, **more)

def get_config(preset="two"):
    return dict(
        name="grid",
        models=dict(small=dict(path="small"), large=dict(hub="some/large")),
        intermediates=dict(para=stage("para"), nli=stage("nli", train=dict(epochs=9))),
        targets=dict(
            news=stage("news", intermediates=("para", "nli")),
            films=stage("films", intermediates="nli", optimizer=dict(learning_rate=1e-4)),
            alone=stage("alone"),
        ),
        fractions=(1.0, 0.1),
        conditions=("staged", "direct", "scratch"),
        seeds=(0, 1),
        optimizer=dict(learning_rate=3e-5, weight_decay=0.1),
        train=dict(batch_size=16),
        data_dir="data",
    )
"""


@pytest.fixture
def file(tmp_path: Path) -> str:
    path = tmp_path / "grid.py"
    path.write_text(FILE, encoding="utf-8")
    return str(path)


def load(file: str, *overrides: tuple[str, str]) -> Grid:
    grid = loading.load_any(file, TASK_TYPES, overrides)
    assert isinstance(grid, Grid)
    return grid


def test_a_grid_has_a_study_for_every_combination(file: str) -> None:
    grid = load(file)
    cells = grids.cells(grid)
    pairs = ["para.news", "nli.news", "nli.films", "alone"]
    assert list(cells) == [
        f"{model}.{pair}{fraction}"
        for model in ("small", "large")
        for pair in pairs
        for fraction in ("", ".0.1")
    ]
    for name, cell in cells.items():
        assert type(cell) is Config
        assert (cell.name, cell.workdir) == (name, f"runs/grid/cells/{name}")
        assert cell.stages == "runs/grid/stages"
        assert (cell.seeds, cell.data_dir) == ((0, 1), "data")
        assert cell.target.train.batch_size == 16
        assert cell.target.data.train_fraction == (0.1 if name.endswith(".0.1") else 1)
    part = cells["large.nli.news.0.1"]
    assert part.model == Model(hub="some/large")
    assert part.intermediate is not None
    assert (part.intermediate.task.name, part.target.task.name) == ("nli", "news")
    assert part.intermediate.data.train_fraction == 1
    assert (part.intermediate.train.epochs, part.target.train.epochs) == (9, 3)
    assert part.conditions == ("staged", "direct", "scratch")
    assert cells["small.alone"].intermediate is None
    assert cells["small.alone"].conditions == ("direct", "scratch")
    only = grids.cells(dataclasses.replace(grid, conditions=("staged",)))
    assert only["small.alone"].conditions == ("direct",)


def test_a_single_study_is_its_own_cell(tmp_path: Path) -> None:
    path = tmp_path / "study.py"
    start = FILE.partition("def get_config")[0]
    study = "dict(name='study', model=dict(path='m'), conditions='direct', target=stage('t'))"
    path.write_text(f"{start}def get_config():\n    return {study}\n")
    config = loading.load_any(str(path), TASK_TYPES)
    assert isinstance(config, Config)
    assert grids.cells(config) == {"study": config}
    assert config.stages == "runs/study/stages"


def test_overrides_reach_into_a_grid(file: str) -> None:
    grid = load(
        file,
        ("models.small.path", "elsewhere"),
        ("models.third.hub", "some/third"),
        ("models.large.path", "local"),  # In place of the hub id.
        ("targets.news.train.epochs", "1"),
        ("targets.news.data.train.0.num_records", "7"),
        ("train.max_length", "64"),
        ("targets.alone.intermediates", "para"),
        ("fractions", "0.5"),
        ("store", "shared"),
    )
    assert list(grid.models) == ["small", "large", "third"]
    assert grid.models["small"].path == "elsewhere"
    assert grid.models["large"] == Model(path="local")
    assert [target.train.epochs for target in grid.targets.values()] == [1, 3, 3]
    assert grid.targets["news"].data.train[0].num_records == 7
    every = (*grid.intermediates.values(), *grid.targets.values())
    assert {stage.train.max_length for stage in every} == {64}
    rates = [stage.optimizer.learning_rate for stage in every]
    assert rates == [3e-5, 3e-5, 3e-5, 1e-4, 3e-5]
    cells = grids.cells(grid)
    assert "small.para.alone.0.5" in cells
    assert {cell.stages for cell in cells.values()} == {"shared"}


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        ({"model.path": "m"}, ["model: unknown key; did you mean 'models'?"]),
        ({"targets": "{}"}, ["targets: is empty", "conditions: 'staged' has no effect"]),
        ({"models": "{}"}, ["models: is empty"]),
        (
            {"models.large.path": "x", "models.large.hub": "y"},
            ["models.large.path: set either a local path"],
        ),
        ({"models.small.dropout": "1.0"}, ["models.small.dropout: should be less than 1; is 1.0"]),
        (
            {
                "targets.alone.evaluate_retention": "True",
                "intermediates.nli.rehearsal_examples": "4",
            },
            [
                "targets.alone.evaluate_retention: has no effect except on a target stage",
                "intermediates.nli.rehearsal_examples: has no effect except on a target stage",
            ],
        ),
        (
            {"targets.news.evaluate_retention": "True", "targets.news.wise_ft_alphas": "2.0"},
            ["wise_ft_alphas.0: should be less than or equal to 1; is 2.0"],
        ),
        (
            {"targets.news.intermediates": "nlu"},
            ["'nlu' is not an intermediate stage; did you mean 'nli'?"],
        ),
        (
            {"targets.news.intermediates": "'nli', 'nli'"},
            ["intermediates: should not contain duplicates"],
        ),
        ({"fractions": "0.5,0.5"}, ["fractions: should not contain duplicates"]),
        (
            {"fractions": "0,1.5"},
            [
                "fractions.0: should be greater than 0",
                "fractions.1: should be less than or equal to 1",
            ],
        ),
        ({"fractions": "()"}, ["fractions: value should have at least 1 item"]),
        ({"models": "{'a.b': {'path': 'x'}}"}, ["models.a.b: string should match pattern"]),
        (
            {"train.batch_size": "0"},
            ["train.batch_size: should be greater than or equal to 1; is 0"],
        ),
        ({"optimizer.learning_rat": "1"}, ["optimizer.learning_rat: unknown key; did you mean"]),
        (
            {"targets.news.train.batch_size": "0", "targets.news.train.epoch": "1"},
            ["targets.news.train.epoch: unknown key", "targets.news.train.batch_size: should be"],
        ),
        (
            {"targets.news.data.train.0.columns": "{'words': 0}"},
            ["news.data.train.0.columns.words: no role", "text_a: is missing", "label: is missing"],
        ),
        (
            {"targets.news.data.train_fraction": "0.0", "seeds": "-1", "name": "a/b"},
            [
                "name: string should match",
                "seeds.0: should be",
                "news.data.train_fraction: should be",
            ],
        ),
    ],
    ids=str,
)
def test_errors_in_a_grid_are_reported_together(
    overrides: dict[str, str], expected: list[str], file: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        load(file, *overrides.items())
    details = caught.value.details
    assert len(details) == len(expected), details
    for text in expected:
        assert any(text in detail for detail in details), details


def test_a_grid_is_not_a_single_study(file: str) -> None:
    with pytest.raises(ConfigError, match="a grid of 16 studies instead of one"):
        loading.load(file, TASK_TYPES)


def test_a_margin_reaches_the_studies_that_compare_its_metric(file: str) -> None:
    cells = grids.cells(load(file, ("margin", "{'pearson': 0.02}")))
    margins = {name: dict(cell.margin) for name, cell in cells.items()}
    assert {name for name, margin in margins.items() if not margin} == {
        f"{model}.alone{fraction}" for model in ("small", "large") for fraction in ("", ".0.1")
    }
    assert margins["small.nli.films"] == {"pearson": 0.02}
    with pytest.raises(ConfigError, match="1 error") as caught:
        load(file, ("margin", "{'accuracy': 0.02}"))
    assert "margin: 'accuracy' is the metric of no target" in caught.value.details[0]


def test_pairing_reaches_the_studies_that_compare_conditions(file: str) -> None:
    cells = grids.cells(load(file, ("paired", "True"), ("seeds", "0,1,2")))
    assert {name for name, cell in cells.items() if not cell.paired} == {
        f"{model}.alone{fraction}" for model in ("small", "large") for fraction in ("", ".0.1")
    }
