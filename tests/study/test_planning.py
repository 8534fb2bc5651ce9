"""What studies can decide: read from the config and its data, and said before training."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from flaxfer import main
from flaxfer.config import Config, loading
from flaxfer.config.grids import Grid
from flaxfer.data import readers
from flaxfer.data.sources import Pool
from flaxfer.errors import DataError
from flaxfer.statistics import power
from flaxfer.statistics.variances import Stated
from flaxfer.study import design
from flaxfer.study.design import Compared
from flaxfer.tasks import TASK_TYPES, task_type
from tests.config.helpers import changed
from tests.statistics.test_variances import read as read_pilot
from tests.statistics.test_variances import write as write_pilot

STATED = ["--sd=0.03", "--score=0.7", "--correlation=0.5"]
CONFIG = """
import json
from pathlib import Path

def get_config():
    return json.loads(Path(__file__).with_suffix(".json").read_text())
"""


def write_set(folder: Path, name: str, n: int, copies: int = 1, language: str = "") -> None:
    """Write pairs with scores; the first text is in `copies` rows."""
    rng = np.random.default_rng(n)
    rows = [
        f"{i}\tthe long text number {i // copies} of many such\tanother {i}\t"
        f"{rng.uniform(0, 5):.2f}\t{('en', 'de')[i % 2]}"
        for i in range(n)
    ]
    (folder / name).write_text("\n".join(["id\ta\tb\tscore\tlanguage", *rows]) + "\n")


def source(name: str, language: str = "en", **more: Any) -> dict[str, Any]:
    columns = {"text_a": "a", "text_b": "b", "label": "score"} | more.pop("columns", {})
    fixed = {} if "language" in columns else {"language": language}
    return {"path": name, "columns": columns, **fixed, **more}


@pytest.fixture
def settings(tmp_path: Path) -> dict[str, Any]:
    """A study that is evaluated in German and French, on 40 pairs each."""
    sizes = {"first.tsv": 10, "train.tsv": 60, "dev.tsv": 20, "de.tsv": 40, "fr.tsv": 40}
    for name, n in sizes.items():
        write_set(tmp_path, name, n)
    task = {"name": "sts", "type": "regression", "metric": "pearson"}
    data, first = (
        {"train": [source(name)], "dev": [source("dev.tsv")]} for name in ("train.tsv", "first.tsv")
    )
    return {
        "name": "study",
        "seeds": [0, 1, 2, 3, 4],
        "model": {"path": "model"},
        "data_dir": str(tmp_path),
        "intermediate": {"task": task | {"name": "first"}, "data": first},
        "target": {
            "task": task,
            "data": data,
            "evaluate": {"de": source("de.tsv", "de"), "fr": source("fr.tsv", "fr")},
        },
    }


def build(settings: dict[str, Any], **changes: Any) -> Config:
    config = loading.build(changed(settings, changes), TASK_TYPES)
    assert isinstance(config, Config)
    return config


def compared(settings: dict[str, Any], **changes: Any) -> Compared:
    return design.read_compared(build(settings, **changes))


def config_file(folder: Path, settings: dict[str, Any]) -> str:
    (folder / "config.py").write_text(CONFIG)
    (folder / "config.json").write_text(json.dumps(settings))
    return f"--config={folder / 'config.py'}"


def test_sets_are_those_of_the_primary_comparison(settings: dict[str, Any]) -> None:
    # Lines of files in several languages belong together.
    assert compared(settings) == Compared("zero-shot mean", 2, 80, 40, pytest.approx(40), ())
    independent = compared(settings, **{"target.parallel": ()})
    assert (independent.units, independent.effective) == (80, pytest.approx(80))
    only = compared(settings, **{"target.evaluate": {"de": source("de.tsv", "de")}})
    assert only == Compared("de / de", 1, 40, 40, pytest.approx(40), ())
    english = {"one": source("de.tsv"), "two": source("fr.tsv")}
    trained = compared(settings, **{"target.evaluate": english, "target.parallel": ()})
    assert (trained.name, trained.sets) == ("mean over all languages", 2)
    # One language with two sets, so that each counts half.
    assert (trained.examples, trained.effective) == (80, pytest.approx(80))


def test_sets_are_filtered_and_sampled_as_they_will_be(
    settings: dict[str, Any], tmp_path: Path
) -> None:
    write_set(tmp_path, "clustered.tsv", 40, copies=4)

    def of(**more: Any) -> Compared:
        return compared(
            settings, **{"target.evaluate": {"x": source("clustered.tsv", "fr", **more)}}
        )

    assert (of().examples, of().units, of().effective) == (40, 10, pytest.approx(10))
    assert of(keep={"language": ["de"]}).examples == 20
    half = of(fraction=0.5)
    assert half.examples == 20 and half.units <= 10
    by_column = of(columns={"language": "language", "cluster": "id"})
    # English is trained on.
    assert (by_column.name, by_column.examples, by_column.units) == ("de / x", 20, 20)


def test_a_divided_training_split_is_read(
    settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    data = {"train": [source("train.tsv")]}
    found = compared(settings, **{"target.data": data, "target.evaluate": {}})
    config = build(settings, **{"target.data": data, "target.evaluate": {}})
    splits = Pool.read(config.target, task_type(config.target.task), config.data_dir).splits(0)
    assert (found.name, found.examples) == ("en / test", len(splits["test"]))
    # In other cases, training data are not.
    read: list[str] = []
    real: Callable[..., Any] = readers.read_table

    def noted(path: Path, *rest: Any) -> Any:
        read.append(path.name)
        return real(path, *rest)

    monkeypatch.setattr(readers, "read_table", noted)
    compared(settings)
    assert read == ["de.tsv", "fr.tsv"]
    by_column = [source("train.tsv", columns={"language": "language"})]
    assert compared(settings, **{"target.data.train": by_column}).name == "fr / fr"
    assert read[2:] == ["train.tsv", "dev.tsv", "de.tsv", "fr.tsv"]


def test_an_outlook_has_the_numbers_of_the_plan(settings: dict[str, Any]) -> None:
    stated = Stated(0.03, 0.7, 0.5, None)
    config = build(settings, margin={"pearson": 0.1})
    (one,) = design.outlooks(config, stated.components, None, 0.9)
    components = stated.components(config.target.task, one.compared.effective)
    planned = power.Planned(components, (5,), 0.05)
    assert (one.looks, one.alpha, one.margin, one.sought) == ((5,), 0.05, 0.1, 0.1)
    assert one.detectable == tuple(planned.detectable(0.9))
    assert one.half_width == one.half_width_simultaneous == tuple(planned.half_width(0.95))
    assert one.smallest_margin == tuple(planned.smallest_margin(0.9))
    assert one.power == planned.power(0.1)[0]
    assert one.equivalence_power == planned.equivalence_power(0.1)[0]
    assert one.needed is not None and one.needed.seeds is None
    more = one.needed.examples or (one.needed.both or (0, 0))[1]
    seeds = 5 if one.needed.examples else (one.needed.both or (0, 0))[0]
    larger = power.Planned(power.rescaled(components, 80 / more), (seeds,), 0.05)
    assert larger.power(0.1)[0] >= 0.9 and larger.equivalence_power(0.1)[0] >= 0.9
    fewer = power.Planned(power.rescaled(components, 80 / (more - 80)), (seeds,), 0.05)
    assert min(fewer.power(0.1)[0], fewer.equivalence_power(0.1)[0]) < 0.9
    # A difference to find replaces the margin, and a design that finds it needs nothing.
    (other,) = design.outlooks(build(settings), stated.components, 2 * one.detectable[0], 0.9)
    assert (other.margin, other.equivalence_power, other.needed) == (None, None, None)
    assert other.finds and not other.shows_none


def test_pairs_have_half_of_the_degrees_of_freedom(settings: dict[str, Any]) -> None:
    stated = Stated(0.03, 0.7, 0.5, None)
    (one,) = design.outlooks(build(settings, paired=True), stated.components, 0.1, 0.8)
    components = stated.components(build(settings).target.task, one.compared.effective)
    pairs = power.Planned(dataclasses.replace(components, groups=1), (5,), 0.05)
    assert one.detectable == tuple(pairs.detectable())
    assert one.detectable > tuple(power.Planned(components, (5,), 0.05).detectable())


def test_studies_of_a_grid_share_the_level(settings: dict[str, Any], tmp_path: Path) -> None:
    write_set(tmp_path, "large.tsv", 400)
    target, first = settings.pop("target"), settings.pop("intermediate")
    large = target | {"evaluate": {"de": source("large.tsv", "de")}}
    settings |= {
        "models": {"m": settings.pop("model")},
        "intermediates": {"first": first},
        "targets": {
            "small": target | {"intermediates": ["first"]},
            "large": large | {"intermediates": ["first"]},
            "alone": target,
        },
        "fractions": (1.0, 0.5),
        "seeds": {"looks": [3, 6]},
    }
    grid = loading.build(settings, TASK_TYPES)
    assert isinstance(grid, Grid)
    stated = Stated(0.03, 0.7, 0.5, None)
    results = design.outlooks(grid, stated.components, None, 0.8)
    # A target without an intermediate task has no comparison.
    assert [one.study for one in results] == [
        "m.first.small", "m.first.small.0.5", "m.first.large", "m.first.large.0.5",
    ]  # fmt: skip
    assert {one.alpha for one in results} == {0.05 / 4}
    assert [one.compared.examples for one in results] == [80, 80, 400, 400]
    for one in results:
        components = stated.components(grid.targets["small"].task, one.compared.effective)
        planned = power.Planned(components, (3, 6), 0.05 / 4)
        assert one.detectable == tuple(planned.detectable())
        assert one.half_width == tuple(planned.half_width(0.95))
        assert one.half_width_simultaneous == tuple(planned.half_width(1 - 0.05 / 4))
    assert results[2].detectable[1] < results[0].detectable[1] < results[0].detectable[0]


def test_what_is_printed(
    settings: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = config_file(tmp_path, settings | {"margin": {"pearson": 0.02}})
    file = tmp_path / "plan.json"
    assert main.main(["plan", config, *STATED, f"--json={file}"]) == 0
    out = capsys.readouterr().out
    assert max(map(len, out.splitlines())) <= 80
    (record,) = json.loads(file.read_text())["studies"]
    (size,), (width,) = record["detectable"], record["half_width"]
    (row,) = [line for line in out.splitlines() if line.startswith("study   ") and "±" in line]
    assert row.split()[:4] == ["study", "5", f"{size:#.3g}", f"±{width:#.3g}"]
    text = " ".join(out.split())
    assert f"warning: study cannot decide anything up to a difference of {size:#.3g}: " in text
    assert "(margin 0.02)" in text and "80 examples in 40 units" in text
    assert "0.03 over seeds (--sd)" in text and "Fisher's z" in text
    assert "neither alone is enough" in text or "no number of seeds is enough" in text
    # With far larger differences to look for, there is nothing to warn of.
    assert main.main(["plan", config, *STATED, "--config.margin.pearson=0.9"]) == 0
    assert "warning" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("changes", "words", "message"),
    [
        ({"seeds": [0]}, [], "study cannot decide anything: a verdict needs at least 2 seeds"),
        ({}, [], "without a margin, it never shows"),
        ({}, ["--difference=0.001"], "it finds one of 0.001 with a power of 5%"),
        ({"margin": {"pearson": 0.5}}, ["--difference=0.01"], "cannot find anything up to"),
    ],
)
def test_warnings_say_what_cannot_be_decided(
    changes: dict[str, Any],
    words: list[str],
    message: str,
    settings: dict[str, Any],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    config = config_file(tmp_path, settings | changes)
    assert main.main(["plan", config, *STATED, *words]) == 0
    lines = capsys.readouterr().out.splitlines()
    first = next(i for i, line in enumerate(lines) if line.startswith("warning: study"))
    assert message in " ".join(" ".join(lines[first:]).split())


def test_a_pilot_replaces_stated_numbers(
    settings: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pilot, file = write_pilot(tmp_path / "pilot", (4, 4)), tmp_path / "plan.json"
    config = config_file(tmp_path, settings)
    assert main.main(["plan", config, "--pilot", str(pilot), f"--json={file}"]) == 0
    text = " ".join(capsys.readouterr().out.split())
    assert "from 4 direct and 4 staged runs: 95 % interval" in text
    (record,) = json.loads(file.read_text())["studies"]
    expected = read_pilot(pilot).on(40)  # Both sets have the same 40 units.
    assert record["components"] == pytest.approx(dataclasses.asdict(expected))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--sd=0"], "'0' is no number above 0"),
        (["--sd=-1"], "'-1' is no number above 0"),
        (["--sd=nan"], "is no number"),
        (["--sd=0.1"], "--sd needs --score and --correlation"),
        (["--sd=0.1", "--score=1.5"], "is no number in (0, 1)"),
        (["--score=0.5"], "--score needs --sd or --pilot"),
        (["--power=0.9"], "--power needs --sd or --pilot"),
        (["--power=0.3", *STATED], "is no number in (0.5, 1)"),
        (["--pilot=x", "--sd=0.1"], "exclude each other"),
        (["--pilot=x", "--score=0.1"], "--score goes with --sd"),
        ([*STATED, "--correlation-seeds=0.4"], "--correlation-seeds is below --correlation"),
        ([*STATED, "--json=none/x.json"], "the folder of --json does not exist"),
        ([*STATED, "--config.target.task.metric=mse"], "mse of 'sts' (regression) has no formula"),
        ([*STATED, "--config.conditions=direct"], "no study compares staged with direct"),
    ],
)
def test_wrong_arguments_are_refused(
    words: list[str],
    message: str,
    settings: dict[str, Any],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main.main(["plan", config_file(tmp_path, settings), *words]) == 2
    out, err = capsys.readouterr()
    assert not out and message in err and "Hint" in err


def test_pilots_must_fit(
    settings: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pilot, other = (str(write_pilot(tmp_path / name, (2, 2))) for name in ("pilot", "other"))
    config = config_file(tmp_path, settings)
    task = {"name": "nli", "type": "classification", "metric": "mcc", "labels": ("0", "1")}
    of_mcc = config_file(tmp_path, changed(settings, {"target.task": task}))
    assert main.main(["plan", of_mcc, "--pilot", pilot]) == 2
    assert "no pilot has the metric mcc of 'nli' (classification)" in capsys.readouterr().err
    config_file(tmp_path, settings)
    assert main.main(["plan", config, "--pilot", pilot, other]) == 2
    assert "several pilots have the metric pearson" in capsys.readouterr().err
    assert main.main(["plan", config, "--pilot", str(tmp_path)]) == 3
    assert "there is no study.json here" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["0\tthe same long text as in others\tx\t1\ten"] * 4, "its 4 examples are one cluster"),
        ([f"{i}\ttext {i}\tx\t2\ten" for i in range(4)], "all its labels are the same"),
        ([], "of 0 records none is left"),
    ],
)
def test_sets_without_a_comparison_are_refused(
    lines: list[str], message: str, settings: dict[str, Any], tmp_path: Path
) -> None:
    (tmp_path / "bad.tsv").write_text("\n".join(["id\ta\tb\tscore\tlanguage", *lines]) + "\n")
    with pytest.raises(DataError, match=message):
        compared(settings, **{"target.evaluate.de": source("bad.tsv", "de")})


def test_a_study_without_evaluated_sets_is_refused(settings: dict[str, Any]) -> None:
    config = build(settings)
    target = dataclasses.replace(config.target, evaluate={})
    with pytest.raises(DataError, match="no set is evaluated"):
        design.read_compared(dataclasses.replace(config, target=target))
