"""The Python API: its tables hold what the files hold."""

from __future__ import annotations

import dataclasses
import html
import importlib.metadata
import json
import shutil
import textwrap
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

import flaxfer
import flaxfer.api
from flaxfer.config import Config, Model, loading
from flaxfer.errors import ConfigError, DataError, FlaxferError
from flaxfer.interop.export import export
from flaxfer.report import frames
from flaxfer.runtime import plugins
from flaxfer.study import runner
from flaxfer.tasks import TASK_TYPES
from flaxfer.training.callbacks import StageInfo
from flaxfer.training.trackers import Tracker
from tests.e2e.helpers import (
    folder_of,
    lines_of,
    predictions_of,
    results,
    runs_of,
    summary_of,
    with_stage,
    work_in,
)

pytestmark = pytest.mark.usefixtures("no_waiting")


@pytest.fixture(scope="module")
def study(small_study: Config) -> flaxfer.Study:
    return flaxfer.load(small_study.workdir)


def csv_of(study: flaxfer.Study, name: str, types: Mapping[str, str]) -> pd.DataFrame:
    """A csv file of a report with the dtypes of its table."""
    table = pd.read_csv(study.workdir / name, dtype=str, keep_default_na=False)
    for column, dtype in types.items():
        if dtype == "bool":
            table[column] = table[column] == "yes"
        elif dtype != "string":
            table[column] = [float(text) if text else np.nan for text in table[column]]
    return table.astype(dict(types))


def test_scores_and_comparisons_are_those_of_the_csv_files(study: flaxfer.Study) -> None:
    for table, name, types in (
        (study.scores, "results.csv", frames.SCORES),
        (study.comparisons, "comparisons.csv", frames.COMPARISONS),
    ):
        pd.testing.assert_frame_equal(table, csv_of(study, name, types), check_exact=True)
        assert len(table) and table.dtypes.astype(str).to_dict() == dict(types)


def test_one_seed_is_not_judged(study: flaxfer.Study) -> None:
    (row,) = study.verdicts.to_dict("records")
    primary = study.comparisons.query("family == 'primary' and runs == 'all'")
    for name in ("study", "metric", "language", "set", "difference", "low", "high", "direct_mean"):
        assert row[name] == primary[name].item()
    assert (row["verdict"], row["direct_seeds"], row["staged_seeds"]) == ("not judged", 1, 1)
    assert pd.isna(row["p_holm"])
    assert study.verdicts.dtypes.astype(str).to_dict() == dict(frames.VERDICTS)


def test_predictions_are_those_of_the_files(small_study: Config, study: flaxfer.Study) -> None:
    table = study.predictions("german")
    assert table.columns[: len(frames.PREDICTIONS)].tolist() == list(frames.PREDICTIONS)
    for condition in ("direct", "staged"):
        records = predictions_of(folder_of(small_study, f"{condition}/target"), "german")
        rows = table[table.condition == condition]
        for name in ("id", "language", "domain", "prediction", "score"):
            assert rows[name].tolist() == [record[name] for record in records], name
    assert set(zip(table.study, table.seed, table.stage, strict=True)) == {("tiny", 0, "target")}
    direct = study.predictions("test", condition="direct", seed=[0])
    assert set(direct.condition) == {"direct"} and len(direct) == 13


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"set": "germna"}, "'germna' is no evaluated set .*\n.*did you mean 'german'"),
        ({"set": "german", "seed": 3}, "no finished run .* seed 3"),
        ({"set": "german", "condition": "scratch"}, "no finished run .* condition 'scratch'"),
        ({"set": "german", "study": "tin"}, "no study 'tin'\n.*did you mean 'tiny'"),
    ],
)
def test_predictions_that_are_not_there(
    arguments: dict[str, Any], message: str, study: flaxfer.Study
) -> None:
    with pytest.raises(ConfigError) as caught:
        study.predictions(**arguments)
    assert pd.Series([str(caught.value)]).str.contains(message).item()


def test_a_report_is_shown_in_a_frame_of_its_own(study: flaxfer.Study) -> None:
    page = study.report()._repr_html_()
    assert page.startswith("<iframe srcdoc=") and page.count("<iframe") == 1
    inner = html.unescape(page.partition('srcdoc="')[2].partition('"')[0])
    base = '<base href="about:srcdoc">'
    assert base in inner
    assert inner.replace(base, "") == (study.workdir / "report.html").read_text()
    assert repr(study.report()) == f"report: {study.workdir / 'report.html'}"


def test_a_study_says_what_it_is(small_study: Config, study: flaxfer.Study) -> None:
    lines = repr(study).splitlines()
    assert len(lines) == 2
    assert lines[0].startswith(f"study tiny in {small_study.workdir}: finished, 1 of 1 seeds, 20")
    row = study.verdicts.iloc[0]
    assert lines[1] == (
        f"not judged: {row.difference:+.3f} [{row.low:+.3f}, {row.high:+.3f}] in pearson, "
        + ", ".join(dict.fromkeys(filter(None, (row.language, row.set))))
    )
    assert study.state == "finished"


def test_a_folder_without_a_study_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="not the work directory"):
        flaxfer.load(str(tmp_path))


def test_a_study_without_a_report_says_so(copied: Config) -> None:
    (Path(copied.workdir) / "report.html").unlink()
    with pytest.raises(DataError, match="no report here yet"):
        flaxfer.load(copied.workdir).report()


def test_running_a_finished_study_trains_nothing(copied: Config, small_study: Config) -> None:
    before = work_in(copied.stages)
    study = flaxfer.run(copied, margin={"pearson": np.float64(0.25)})
    assert work_in(copied.stages) == before and results(copied) == results(small_study)
    assert study.workdir == Path(copied.workdir)
    assert set(study.comparisons.margin) == {0.25}
    assert summary_of(copied)["command"] == "flaxfer.run(<Config>, **{'margin.pearson': 0.25})"


class Recorder(flaxfer.Callbacks):
    """Callbacks that remember, and fail at a step."""

    def __init__(self, fails_at: int = 0) -> None:
        self.seen: list[tuple[str, StageInfo, Any]] = []
        self._fails_at = fails_at

    def on_step(self, stage: StageInfo, step: int, metrics: Mapping[str, float]) -> None:
        if step == self._fails_at:
            raise ZeroDivisionError("a fault")
        self.seen.append(("step", stage, (step, dict(metrics))))

    def on_evaluate(
        self, stage: StageInfo, step: int, scores: Mapping[str, float], best: bool
    ) -> None:
        self.seen.append(("evaluate", stage, (step, dict(scores), best)))

    def on_stage_end(self, stage: StageInfo, record: Mapping[str, Any]) -> None:
        self.seen.append(("end", stage, dict(record)))

    def of(self, kind: str, condition: str, stage: str) -> list[Any]:
        return [
            value
            for name, info, value in self.seen
            if (name, info.condition, info.stage) == (kind, condition, stage)
        ]


@pytest.fixture(scope="module")
def grown(small_study: Config, tmp_path_factory: pytest.TempPathFactory) -> tuple[Config, Recorder]:
    """The direct runs of another seed, and what callbacks were told."""
    recorder = Recorder()
    workdir = tmp_path_factory.mktemp("api") / "work"
    config = dataclasses.replace(
        small_study, workdir=str(workdir), conditions=("direct",), intermediate=None
    )
    flaxfer.run(config, seeds=[7], callbacks=[flaxfer.Callbacks(), recorder])
    return dataclasses.replace(config, seeds=(7,)), recorder


def test_callbacks_are_told_what_is_logged(grown: tuple[Config, Recorder]) -> None:
    config, recorder = grown
    assert {info.study for _, info, _ in recorder.seen} == {"tiny"}
    for place, run in runs_of(config).items():
        condition, stage = place.split("/")
        logged = lines_of(folder_of(config, place) / "metrics.jsonl")
        steps = recorder.of("step", condition, stage)
        assert [step for step, _ in steps] == [1, 2, 3, 4]
        trained = [line for line in logged if line["kind"] == "train"]
        for (step, values), line in zip(steps, trained, strict=True):
            assert values.keys() == {"loss", "gradient_norm", "learning_rate"}
            assert {"step": step, **values}.items() <= line.items()
        scored = [line for line in logged if line["kind"] == "dev"]
        told = recorder.of("evaluate", condition, stage)
        assert told == [(line["step"], line["metrics"], line["best"]) for line in scored]
        (record,) = recorder.of("end", condition, stage)
        assert json.loads(json.dumps(record)) == run
        (info,) = {info for _, info, _ in recorder.seen if info.stage == stage} & {
            info for _, info, _ in recorder.seen if info.condition == condition
        }
        assert (info.seed, info.total_steps, info.folder.name) == (7, 4, run["id"])
        assert info.title == f"tiny {place} seed 7"


def test_a_failing_callback_stops_the_run_which_can_go_on(
    small_study: Config, grown: tuple[Config, Recorder], tmp_path: Path
) -> None:
    config = dataclasses.replace(grown[0], workdir=str(tmp_path))
    with pytest.raises(FlaxferError) as caught:
        flaxfer.run(config, callbacks=[Recorder(fails_at=4)])
    assert str(caught.value).startswith(
        "tiny direct/target seed 7: the callback Recorder.on_step failed: ZeroDivisionError: a "
    )
    assert flaxfer.load(tmp_path).state == "stopped"
    recorder = Recorder()
    assert flaxfer.run(config, callbacks=[recorder]).state == "finished"
    assert [step for step, _ in recorder.of("step", "direct", "target")] == [3, 4]
    assert (
        results(config)["direct/target"]["evaluations"]
        == (results(grown[0])["direct/target"]["evaluations"])
    )


class Misspelt(flaxfer.Callbacks):
    def on_steps(self) -> None:
        pass


@pytest.mark.parametrize(
    ("callback", "message"),
    [
        (Misspelt(), "Misspelt.on_steps would never be called"),
        (Recorder, "is no instance of flaxfer.Callbacks"),
        (print, "is no instance of flaxfer.Callbacks"),
    ],
)
def test_a_callback_that_would_not_be_called_is_refused(
    callback: Any, message: str, small_study: Config
) -> None:
    with pytest.raises(ConfigError, match=message):
        flaxfer.run(small_study, callbacks=[callback])


TRACKED: list[Any] = []


def open_tracker(folder: Path, run: str, resume_step: int) -> Tracker:
    """A tracker as another package declares it."""
    TRACKED.append((folder, run, resume_step))
    return Tracker(lambda step, values: TRACKED.append((step, values)), lambda: None)


def failing_tracker(folder: Path, run: str, resume_step: int) -> Tracker:
    return Tracker(lambda step, values: values.no_such_thing, lambda: None)


@pytest.fixture
def entry_points(monkeypatch: pytest.MonkeyPatch) -> None:
    """Trackers of another package."""
    names = {"mine": "open_tracker", "failing": "failing_tracker", "gone": "no_such_function"}
    declared = [
        importlib.metadata.EntryPoint(name, f"{__name__}:{function}", plugins.TRACKERS)
        for name, function in names.items()
    ]

    def entry_points(**wanted: str) -> importlib.metadata.EntryPoints:
        return importlib.metadata.EntryPoints(declared).select(**wanted)

    monkeypatch.setattr(importlib.metadata, "entry_points", entry_points)


@pytest.mark.usefixtures("entry_points")
def test_a_tracker_of_another_package_gets_the_metrics(
    grown: tuple[Config, Recorder], tmp_path: Path
) -> None:
    config = dataclasses.replace(grown[0], workdir=str(tmp_path))
    for name, message in (("failing", "AttributeError"), ("gone", "cannot be imported")):
        with pytest.raises(ConfigError, match=message) as caught:
            flaxfer.run(config, trackers=name)
        assert name in str(caught.value)
    TRACKED.clear()
    flaxfer.run(config, trackers=("mine", "tensorboard"))
    folder = folder_of(config, "direct/target")
    assert TRACKED[0][:2] == (folder.absolute(), "direct/target seed 7")
    losses = [line["loss"] for line in lines_of(folder / "metrics.jsonl") if "loss" in line]
    assert [v["train/loss"] for _, v in TRACKED[1:] if "train/loss" in v] == losses[-4:]
    events = [file.read_bytes() for file in tmp_path.glob("tensorboard/direct/target/seed-7/*")]
    for name in (b"train/loss", b"test/en/pearson", b"german/de/pearson", b"optimizer.learning"):
        assert any(name in content for content in events)
    with pytest.raises(ConfigError, match="'mien' is no tracker; did you mean 'mine'"):
        loading.validated(dataclasses.replace(config, trackers=("mien",)), TASK_TYPES)


@pytest.fixture
def configs(monkeypatch: pytest.MonkeyPatch, small_study: Config) -> list[Config]:
    """The configs that would be run; nothing is."""
    built: list[Config] = []
    monkeypatch.setattr(runner, "run", lambda config, *others: built.append(config))
    monkeypatch.setattr(flaxfer.api, "Study", lambda workdir: None)
    return built


def test_configs_of_all_kinds_are_completed_alike(
    configs: list[Config], small_study: Config, tmp_path: Path
) -> None:
    settings = loading.to_dict(dataclasses.replace(small_study, workdir=""))
    for stage in ("intermediate", "target"):
        del settings[stage]["train"]["epochs"]  # Replaced by `max_steps`.
        del settings[stage]["optimizer"]["learning_rate"]  # Replaced by the override.
    file = tmp_path / "study.py"
    file.write_text(f"def get_config():\n    return {settings!r}\n")
    bare = dataclasses.replace(
        small_study,
        workdir="",
        model=Model(path=Path(small_study.model.path)),
    )
    for config in (settings, file, str(file), bare):
        flaxfer.run(config, name="other", optimizer=dict(learning_rate=np.float32(0.5)))
    assert [config.workdir for config in configs] == ["runs/other"] * 4
    assert [config.stages for config in configs] == ["runs/other/stages"] * 4
    assert configs[0] == configs[1] == configs[2]
    for config in configs:
        assert config.target.optimizer.learning_rate == 0.5
        assert config.intermediate is not None
        assert config.intermediate.optimizer.learning_rate == 0.5
    for stage in ("intermediate", "target"):
        train = dataclasses.replace(getattr(configs[0], stage).train, epochs=2)
        configs[0] = with_stage(configs[0], stage, train=train)
    assert configs[3] == configs[0]


def test_a_config_without_a_work_directory_stays_below_runs(small_study: Config) -> None:
    bare = dataclasses.replace(small_study, workdir="")
    assert bare.stages == "runs/tiny/stages"


def test_wrong_overrides_are_reported_together(configs: list[Config], small_study: Config) -> None:
    with pytest.raises(ConfigError) as caught:
        flaxfer.run(small_study, target=dict(train=dict(batch_sise=8)), seeds="many")
    assert len(caught.value.details) == 2
    assert "batch_sise: unknown key; did you mean 'batch_size'?" in str(caught.value)
    assert not configs


def test_the_example_of_the_documentation_runs(
    small_study: Config,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """On a copy of the small study, where nothing is left to be trained."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(small_study.workdir, "runs/my_study")
    config = dataclasses.replace(
        small_study, name="my_study", workdir="", trackers=("tensorboard",)
    )

    def load_any(file: str, *others: Any) -> Config:
        assert file == "my_study.py"
        return loading.validated(config, *others)

    monkeypatch.setattr(loading, "load_any", load_any)
    export(folder_of(small_study, "staged/target"), "exported")
    names: dict[str, Any] = {}
    exec(textwrap.dedent(str(flaxfer.api.__doc__).partition("\n\n")[2]), names)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("study my_study in runs/my_study: finished, 1 of 1 seeds")
    assert names["study"].workdir == Path("runs/my_study")
    assert set(names["study"].comparisons.margin) == {0.02}
    (events,) = Path("runs/my_study/tensorboard/verdicts").iterdir()
    assert b"| my_study | not judged | " in events.read_bytes()
