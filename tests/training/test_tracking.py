"""TensorBoard and Weights & Biases: names of runs, hyper-parameters, scores and verdicts."""

from __future__ import annotations

import dataclasses
import struct
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import flaxfer
from flaxfer.config import Data, Source, Stage, Wandb
from flaxfer.errors import ConfigError
from flaxfer.runtime.host import install_hint
from flaxfer.tasks.models import model_spec
from flaxfer.training.callbacks import Calls, check_callbacks
from flaxfer.training.run import info
from flaxfer.training.stage import StageSpec
from flaxfer.training.trackers import MetricsLog
from flaxfer.training.tracking import Tracking
from tests.commands import python_of
from tests.training.helpers import ENCODER, OPTIMIZER, SCORE, TRAIN

RECORD = {
    "best_step": 6,
    "evaluations": [
        {"set": "test", "language": "en", "metrics": {"pearson": 0.5, "mse": None}},
        {"set": "german", "language": "de", "metrics": {"pearson": 0.25, "mse": 2.0}},
    ],
}
SCORES = {"test/en/pearson": 0.5, "german/de/pearson": 0.25, "german/de/mse": 2.0}
VERDICTS = {
    "sts": {"verdict": "helps", "difference": "0.0312", "low": "0.01", "high": "0.05",
            "metric": "pearson", "language": "de", "set": "german", "p": "0.001"},
}  # fmt: skip


@pytest.fixture
def spec(tmp_path: Path) -> StageSpec:
    stage = Stage(SCORE, Data((Source(path="x.tsv"),)), {}, OPTIMIZER, TRAIN)
    model = model_spec(ENCODER, SCORE)
    spec = StageSpec("direct", "target", 3, stage, model, "float32", "pretrained", {}, tmp_path, 9)
    spec.folder.mkdir()
    return spec


def track(tracking: Tracking, spec: StageSpec) -> None:
    """Train two steps, continue after the first one, evaluate, and announce verdicts."""
    for resumed, steps in ((0, (1, 2)), (1, (2,))):
        log = MetricsLog(spec.folder, resumed, tracking.open(spec, info(spec, "sts"), resumed))
        for step in steps:
            log.write(step, "train", loss=1 / step)
        log.close()
    tracking.report(spec, info(spec, "sts"), RECORD)
    tracking.report(spec, info(spec, "sts"), {"error": "it has diverged"})
    tracking.announce("sts", VERDICTS)


def events(folder: Path) -> Iterator[Any]:
    from tensorboardX.proto.event_pb2 import Event

    for file in sorted(folder.iterdir()):
        content = file.read_bytes()
        while content:  # A TFRecord: length, its checksum, the event, its checksum.
            (length,) = struct.unpack("<Q", content[:8])
            yield Event.FromString(content[12 : 12 + length])
            content = content[12 + length + 4 :]


def test_tensorboard_has_a_run_by_condition_stage_and_seed(tmp_path: Path, spec: StageSpec) -> None:
    pytest.importorskip("tensorboardX")
    from tensorboardX.proto.event_pb2 import SessionLog
    from tensorboardX.proto.plugin_hparams_pb2 import HParamsPluginData

    track(Tracking(("tensorboard",), tmp_path / "work", model="some/bert"), spec)
    root = tmp_path / "work" / "tensorboard"
    assert {str(p.parent.relative_to(root)) for p in root.rglob("*.tfevents.*")} == {
        *("direct/target/seed-3", "verdicts")
    }
    scalars, purged, parameters = set(), [], {}
    for event in events(root / "direct/target/seed-3"):
        if event.session_log.status == SessionLog.START:
            purged.append(event.step)
        for value in event.summary.value:
            if value.metadata.plugin_data.plugin_name == "hparams":
                data = HParamsPluginData.FromString(value.metadata.plugin_data.content)
                hparams = data.session_start_info.hparams
                parameters |= {key: hparams[key] for key in hparams}
            else:
                scalars.add((event.step, value.tag, value.simple_value))
    assert scalars == {
        *((1, "train/loss", 1.0), (2, "train/loss", 0.5)),
        *((6, name, value) for name, value in SCORES.items()),
    }
    assert sorted(purged) == [1, 2]  # What stands there from step 2 on is dropped.
    assert parameters["optimizer.learning_rate"].number_value == OPTIMIZER.learning_rate
    assert parameters["train.batch_size"].number_value == TRAIN.batch_size
    assert parameters["model"].string_value == "some/bert"
    assert parameters["condition"].string_value == "direct"
    (text,) = [value.tensor.string_val[0].decode() for event in events(root / "verdicts")
               for value in event.summary.value]  # fmt: skip
    assert "| sts | helps | 0.0312 | 0.01 | 0.05 | pearson | de | german |" in text.splitlines()


class FakeRun:
    """The calls of a run of Weights & Biases that are used."""

    def __init__(self, settings: dict[str, Any]):
        self.settings, self.logged = settings, list[tuple[int, dict[str, float]]]()
        self.summary: dict[str, Any] = {}
        self.finished = 0

    def log(self, values: dict[str, float], step: int) -> None:
        self.logged.append((step, values))

    def finish(self) -> None:
        self.finished += 1


class FakeWandb:
    """Weights & Biases with the function that is used."""

    def __init__(self) -> None:
        self.runs: list[FakeRun] = []

    def init(self, **settings: Any) -> FakeRun:
        self.runs.append(FakeRun(settings))
        return self.runs[-1]


@pytest.fixture
def wandb(monkeypatch: pytest.MonkeyPatch) -> FakeWandb:
    fake = FakeWandb()
    monkeypatch.setitem(sys.modules, "wandb", fake)
    monkeypatch.delenv("WANDB_MODE", raising=False)
    return fake


def test_a_run_of_wandb_goes_on_and_gets_scores(
    tmp_path: Path, spec: StageSpec, wandb: FakeWandb
) -> None:
    (tmp_path / "work").mkdir()
    online = Wandb(mode="online")
    track(Tracking(("wandb",), tmp_path / "work", online, model="some/bert"), spec)
    first, second, scored, verdicts = wandb.runs
    assert all(run.finished == 1 for run in wandb.runs)
    assert [run.logged for run in wandb.runs] == [
        [(1, {"train/loss": 1.0}), (2, {"train/loss": 0.5})],
        [(2, {"train/loss": 0.5})],
        *([], []),
    ]
    assert len({run.settings["id"] for run in (first, second, scored)}) == 1
    assert verdicts.settings["id"] != first.settings["id"]
    assert {run.settings["resume"] for run in wandb.runs} == {"allow"}
    assert scored.summary == {**SCORES, "best_step": 6}
    assert verdicts.summary["sts/verdict"] == "helps"
    assert verdicts.summary["sts/difference"] == 0.0312 and "sts/p" not in verdicts.summary
    settings = first.settings
    assert settings["config"]["optimizer.learning_rate"] == OPTIMIZER.learning_rate
    assert settings["config"]["model"] == "some/bert"
    assert {key: settings[key] for key in ("project", "entity", "group", "tags", "name")} == {
        "project": "flaxfer",
        "entity": None,
        "group": "sts",
        "tags": [],
        "name": "sts direct/target seed 3",
    }
    assert (settings["mode"], settings["job_type"]) == ("online", "target")
    assert (settings["dir"], settings["reinit"]) == (str(spec.folder), "create_new")
    assert verdicts.settings["name"] == "sts verdicts" and verdicts.settings["group"] == "sts"


def test_a_stage_that_starts_again_is_a_run_of_its_own(spec: StageSpec, wandb: FakeWandb) -> None:
    for _ in range(2):
        Tracking(("wandb",), wandb=Wandb(mode="online")).open(spec, info(spec, "sts"), 0)
    assert len({run.settings["id"] for run in wandb.runs}) == 2


def test_runs_that_are_offline_do_not_replace_each_other(
    tmp_path: Path, spec: StageSpec, wandb: FakeWandb
) -> None:
    track(Tracking(("wandb",), tmp_path / "work"), spec)
    *runs, verdicts = wandb.runs
    assert {run.settings["name"] for run in runs} == {"sts direct/target seed 3"}
    assert not any({"id", "resume"} & run.settings.keys() for run in wandb.runs)
    assert runs[-1].summary == {**SCORES, "best_step": 6} and verdicts.summary
    assert [file.name for file in spec.folder.iterdir()] == ["metrics.jsonl"]


@pytest.mark.parametrize(
    ("mode", "variable", "wanted"),
    [
        ("auto", None, "offline"),
        ("auto", "online", "online"),
        ("online", "disabled", "online"),
        ("disabled", None, "disabled"),
    ],
)
def test_the_config_names_the_runs_of_wandb(
    spec: StageSpec,
    wandb: FakeWandb,
    monkeypatch: pytest.MonkeyPatch,
    mode: Any,
    variable: str | None,
    wanted: str,
) -> None:
    if variable:
        monkeypatch.setenv("WANDB_MODE", variable)
    named = Wandb("transfer", "team", "grid", ("a", "b"), "{seed}-{condition}", mode)
    Tracking(("wandb",), wandb=named).open(spec, info(spec, "sts"), 0)
    (run,) = wandb.runs
    names = ("project", "entity", "group", "tags", "name", "mode")
    assert [run.settings[name] for name in names] == [
        *("transfer", "team", "grid", ["a", "b"], "3-direct", wanted)
    ]


class FakeMlflow:
    """The calls of mlflow 3.17 that the guide uses, with their signatures, and their effects."""

    def __init__(self) -> None:
        self.names: list[str] = []
        self.logged: dict[str, list[tuple[str, float, int | None]]] = {}
        self.terminated: list[str] = []

    def MlflowClient(self) -> FakeMlflow:
        return self

    def set_experiment(self, experiment_name: str) -> SimpleNamespace:
        return SimpleNamespace(experiment_id=f"id of {experiment_name}")

    def create_run(self, experiment_id: str, *, run_name: str) -> SimpleNamespace:
        assert experiment_id == "id of transfer"
        self.names.append(run_name)
        self.logged[f"run {len(self.names)}"] = []
        return SimpleNamespace(info=SimpleNamespace(run_id=f"run {len(self.names)}"))

    def log_metric(self, run_id: str, key: str, value: float, *, step: int | None = None) -> None:
        self.logged[run_id].append((key, value, step))

    def set_terminated(self, run_id: str) -> None:
        self.terminated.append(run_id)


def test_the_callback_of_the_guide_logs_to_mlflow(
    spec: StageSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = FakeMlflow()
    monkeypatch.setitem(sys.modules, "mlflow", fake)
    (code,) = (
        block for block in python_of("docs/guides/python.md").values() if "class Mlflow" in block
    )
    names: dict[str, Any] = {"flaxfer": flaxfer}
    exec(code, names)
    callback, stage = names["Mlflow"]("transfer"), info(spec, "sts")
    check_callbacks([callback])
    call = Calls([callback])
    call("on_step", stage, 1, {"loss": 0.5, "learning_rate": 0.1})
    call("on_evaluate", stage, 1, {"pearson": 0.25}, True)
    call("on_stage_end", stage, RECORD)
    call("on_stage_end", dataclasses.replace(stage, seed=4), {"error": "nan"})
    assert fake.names == ["sts direct/target seed 3", "sts direct/target seed 4"]
    assert fake.logged == {
        "run 1": [
            *(("train/loss", 0.5, 1), ("train/learning_rate", 0.1, 1), ("dev/pearson", 0.25, 1)),
            *((name, value, 6) for name, value in SCORES.items()),
        ],
        "run 2": [],
    }
    assert fake.terminated == ["run 1", "run 2"]


@pytest.mark.parametrize(("name", "package"), [("tensorboard", "tensorboardX"), ("wandb", "wandb")])
def test_a_tracker_that_is_not_installed(
    spec: StageSpec, monkeypatch: pytest.MonkeyPatch, name: str, package: str
) -> None:
    monkeypatch.setitem(sys.modules, package, None)  # What makes `import` fail.
    with pytest.raises(ConfigError, match=f"the tracker '{name}' is not installed") as caught:
        Tracking((name,)).open(spec, info(spec, "sts"), 0)
    assert install_hint(name) in str(caught.value)


def test_an_error_of_a_tracker_names_it(
    spec: StageSpec, wandb: FakeWandb, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(**settings: Any) -> None:
        raise RuntimeError("no network")

    monkeypatch.setattr(wandb, "init", fail)
    with pytest.raises(ConfigError, match="'wandb' failed: RuntimeError: no network") as caught:
        Tracking(("wandb",)).open(spec, info(spec, "sts"), 0)
    assert caught.value.where == "sts direct/target seed 3"
