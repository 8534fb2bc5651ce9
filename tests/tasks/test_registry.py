"""A task type defined outside of the package, from its config to the comparison of its runs."""

from __future__ import annotations

import importlib.metadata
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import flaxfer
from flaxfer import tasks
from flaxfer.config import Config, Model, Optimizer, Source, Task, Train, loading
from flaxfer.data import sources
from flaxfer.data.labels import Labels, read_single_labels
from flaxfer.data.loader import TrainPlan, put_rows
from flaxfer.data.tables import Column
from flaxfer.data.tokenize import load_tokenizer, tokenize
from flaxfer.errors import ConfigError, DataError
from flaxfer.evaluation.evaluator import Evaluator
from flaxfer.models.pretrained import load_encoder_config
from flaxfer.statistics.comparisons import compare
from flaxfer.tasks import TASK_TYPES, Predictions, TaskType, losses, register, resampling, task_type
from flaxfer.tasks.models import model_spec
from flaxfer.training.optimizer import make_optimizer
from flaxfer.training.state import init_state
from flaxfer.training.step import StepSpec, make_train_step
from tests.helpers import mesh_of, tiny_tokenizer
from tests.statistics.helpers import predictions_file, write_study

GRADES = tuple("12345")
COLUMNS = {"text_a": "text", "label": "grade", "language": "language"}


class Grades(Predictions):
    def scores(self, chosen: np.ndarray) -> dict[str, float]:
        error = self._outputs[chosen, 0] - self.data.label[chosen]
        return {"mae": float(np.abs(error).mean())}

    def record(self, i: int) -> dict[str, Any]:
        return {"prediction": float(self._outputs[i, 0]), "grade": float(self.data.label[i])}


class Grading(TaskType):
    """A grade from 1 to 5, with the absolute error as loss and metric."""

    name = "grading"
    metrics = ("mae",)
    smaller_is_better = ("mae",)
    single_label = True
    label_dtype = np.float32
    gold_key = "grade"
    learning_metric = "pearson"
    predictions = Grades
    pipeline_tag = "text-classification"

    def read_labels(
        self, columns: Mapping[str, Column], source: Source, task: Task, records: Sequence[int]
    ) -> Labels:
        return read_single_labels(
            columns["label"],
            source,
            records,
            lambda value: float(value) if value in GRADES else None,
            lambda value: "is not a grade",
        )

    def loss(
        self, task: Task, logits: jax.Array, batch: losses.Arrays, label_smoothing: float
    ) -> losses.Sum:
        return losses.masked_sum(jnp.abs(logits[..., 0] - batch["label_BE"]), batch["mask_BE"])

    def resampled(
        self, task: Task, metric: str, language: str, gold: list[Any], predictions: list[list[Any]]
    ) -> resampling.Resampled:
        gold_n, predicted_nR = np.array(gold), np.array(predictions).T
        if metric == "pearson":
            return resampling.pearson(predicted_nR, gold_n)
        return resampling.mean(np.abs(predicted_nR - gold_n[:, None]))

    def constant(self, prediction: Sequence[Any], gold: Sequence[Any]) -> str:
        return ""

    def describe(self, task: Task) -> str:
        return "a grade"


@pytest.fixture
def grading() -> Iterator[None]:
    register(Grading())
    yield
    del TASK_TYPES["grading"]


def settings(folder: Path, **task: Any) -> dict[str, Any]:
    rows = [("text", "grade", "language")]
    rows += [(f"the {('man', 'dog')[i % 2]} runs", GRADES[i % 5], ("de", "en")[i % 2])
             for i in range(20)]  # fmt: skip
    path = folder / "grades.tsv"
    path.write_text("".join("\t".join(row) + "\n" for row in rows))
    return {
        "name": "grades",
        "model": {"path": str(tiny_tokenizer(folder / "model"))},
        "conditions": "direct",
        "target": {
            "task": {"name": "grade", "type": "grading", "metric": "mae", **task},
            "data": {"train": [{"path": str(path), "columns": COLUMNS}]},
        },
    }


@pytest.mark.usefixtures("grading")
def test_a_new_task_type_is_trained_evaluated_and_compared(tmp_path: Path) -> None:
    config = loading.build(settings(tmp_path), TASK_TYPES)
    assert isinstance(config, Config)
    task, (source,) = config.target.task, config.target.data.train
    examples = sources.read_source(source, task, task_type(task))
    assert examples.label.tolist() == [float(grade) for grade in GRADES] * 4
    tokenizer = load_tokenizer(Model(path=config.model.path))
    data = tokenize(examples, tokenizer, 16, tmp_path / "cache")
    assert tokenize(examples, tokenizer, 16, tmp_path / "cache").fingerprint == data.fingerprint

    train = Train(batch_size=20, row_length=32, eval_rows=4, max_steps=30)
    optimizer = Optimizer(learning_rate=0.05, warmup=0, schedule="constant")
    model, mesh = model_spec(load_encoder_config(Path(config.model.path)), task), mesh_of()
    plan = TrainPlan.make(data, train, seeds=(0,), pad_id=0, multiple=1)
    params = model.random_params(0)
    state = init_state(params, make_optimizer(optimizer, 30, params), mesh)
    step = make_train_step(StepSpec(model, task, optimizer=optimizer, total_steps=30), mesh)
    history = []
    for number in range(30):
        batch = put_rows(plan.batch(number), mesh, None)
        state, metrics = step(state, batch, jax.random.key(0, impl="rbg"))
        history.append(float(metrics["loss"]))
    assert history[0] > 2 > 1.5 > history[-1]  # The median grade has an error of 1.2.

    outputs, scores = Evaluator(model, task, train, jnp.dtype("float32"), mesh).predict(
        state.params, data
    )
    assert scores == {"mae": pytest.approx(np.abs(outputs[:, 0] - data.label).mean())}

    runs = {("direct", 0): np.zeros_like(outputs), ("staged", 0): outputs}
    workdir = write_study(tmp_path / "study", task, runs, data)
    lines = predictions_file(workdir, "staged", 0).read_text().splitlines()
    assert [json.loads(line)["grade"] for line in lines] == data.label.tolist()
    english, german = compare([workdir], draws=50).comparisons
    assert not english.larger_is_better
    assert np.mean([one.all_runs.staged.mean for one in (english, german)]) == pytest.approx(
        scores["mae"]
    )


@pytest.mark.usefixtures("grading")
def test_settings_and_labels_of_a_new_task_type_are_checked(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        loading.build(settings(tmp_path, metric="mea", labels=("a", "b")), TASK_TYPES)
    assert list(caught.value.details) == [
        "target.task.metric: 'mea' is no metric of grading; did you mean 'mae'?",
        "target.task.labels: has no effect on a task of the type grading; leave it out",
    ]
    path = tmp_path / "wrong.tsv"
    path.write_text("text\tgrade\tlanguage\na\t6\ten\n")
    source, task = Source(path=str(path), columns=COLUMNS), Task("grade", "grading", "mae")
    with pytest.raises(DataError, match="'6' is not a grade"):
        sources.read_source(source, task, task_type(task))


class Same(Grading):
    name = "regression"


def declare(monkeypatch: pytest.MonkeyPatch, name: str, attribute: str) -> None:
    entry = importlib.metadata.EntryPoint(name, f"{__name__}:{attribute}", tasks.GROUP)
    monkeypatch.setattr(
        importlib.metadata,
        "entry_points",
        lambda **wanted: importlib.metadata.EntryPoints([entry]).select(**wanted),
    )


def test_a_package_may_declare_a_task_type(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    declare(monkeypatch, "grading", "Grading")
    monkeypatch.setattr(tasks, "TASK_TYPES", dict(TASK_TYPES))
    tasks.register_declared()
    config = loading.build(settings(tmp_path), tasks.TASK_TYPES)
    assert isinstance(config, Config)
    assert isinstance(task_type(config.target.task), Grading)


@pytest.mark.parametrize(
    ("name", "attribute", "message"),
    [
        ("marking", "Grading", "not a class of flaxfer.tasks.TaskType of this name"),
        ("GRADES", "GRADES", "not a class of flaxfer.tasks.TaskType of this name"),
        ("regression", "Same", "there is a task type of this name already"),
        ("grading", "Gradings", "cannot be imported"),
    ],
)
def test_a_declared_task_type_that_cannot_be_used_is_refused(
    monkeypatch: pytest.MonkeyPatch, name: str, attribute: str, message: str
) -> None:
    declare(monkeypatch, name, attribute)
    with pytest.raises(ConfigError, match=message) as caught:
        tasks.register_declared()
    assert caught.value.where == f"entry point {name!r} of flaxfer.task_types"
    assert "grading" not in TASK_TYPES


def test_an_unknown_task_type_is_an_error() -> None:
    with pytest.raises(ConfigError, match="'grading' is not a task type"):
        task_type(Task("grade", "grading", "mae"))


def test_nothing_outside_of_task_types_depends_on_a_single_type() -> None:
    names = "|".join(TASK_TYPES)
    branch = re.compile(rf"\.type ((==|!=) \"|(not )?in \()|task_type\.name (==|!=|(not )?in )|"
                        rf"case \"({names})\"|\"({names})\": ")  # fmt: skip
    root = Path(flaxfer.__file__).parent
    found = [
        f"{file.relative_to(root)}: {line.strip()}"
        for file in sorted(root.rglob("*.py"))
        # meaning.py guesses the type of a file; xtreme has groups of tasks of these names.
        if file.parent.name not in ("tasks", "xtreme") and file != root / "data" / "meaning.py"
        for line in file.read_text(encoding="utf-8").splitlines()
        if branch.search(line)
    ]
    assert found == []
