"""Stages of tiny models on random data, for tests of training."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from flaxfer.config import Data, Lora, Optimizer, Stage, Task, Train
from flaxfer.data.packing import REHEARSED
from flaxfer.data.tokenize import Tokenized
from flaxfer.evaluation.evaluator import Evaluator
from flaxfer.models.encoders import EncoderConfig
from flaxfer.runtime.trees import Params
from flaxfer.tasks import TASK_TYPES
from flaxfer.training import loop
from flaxfer.training.checkpoints import CheckpointStore
from flaxfer.training.data import StageData
from flaxfer.training.optimizer import with_frozen_parts
from flaxfer.training.record import IDENTITY, VOCABULARY
from flaxfer.training.rehearsal import Rehearsal
from flaxfer.training.run import Run
from flaxfer.training.stage import StageSpec
from flaxfer.training.vocabulary import Vocabulary
from tests.helpers import encoder_config, mesh_of, random_tokenized

SCORE = Task("score", "regression", "pearson")
ENCODER = encoder_config(layers=1, dropout=0.1)
# Fourteen examples: an epoch ends in the middle of the fourth step.
TRAIN = Train(
    batch_size=4,
    gradient_accumulation_steps=2,
    max_steps=9,
    eval_every=2,
    row_length=32,
    max_bucket_sizes=1,
    eval_rows=4,
    log_every=1,
)
OPTIMIZER = Optimizer(learning_rate=1e-2)
TIMES = ("seconds", "compile_seconds", "examples_per_s", "useful_tokens_per_s", "input_stall_share")
Saves = dict[tuple[str, int], Any]
"""Saved items by folder of the stage and step."""


class Killed(Exception):
    """Stands for a kill: nothing catches it."""


@dataclasses.dataclass(frozen=True)
class Case:
    """A stage with its data, and what it leaves."""

    spec: StageSpec
    data: StageData
    mesh: jax.sharding.Mesh

    @property
    def folder(self) -> Path:
        return self.spec.folder

    def start(self) -> Params:
        """Random parameters by the seed of the current attempt."""
        seed = self.spec.attempt_seed()
        params = self.spec.trained_model.random_params(seed)
        if self.data.rehearsal is not None:
            head = self.data.rehearsal.model.random_params(seed + 100)["head"]
            params = {**params, REHEARSED: head}
        return params

    def run(self, start: Callable[[], Params] | None = None) -> Run:
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / IDENTITY).write_text(json.dumps(self.spec.identity))
        self.data.vocabulary.save(self.folder / VOCABULARY)
        return Run(self.spec, start or self.start)

    def is_done(self) -> bool:
        return self.spec.record.is_trained()

    def done(self) -> dict[str, Any]:
        return self.spec.record.done()

    def best_params(self) -> Params:
        return self.spec.record.best_params(self.data.encoder, self.mesh)

    def log(self, kind: str = "") -> list[dict[str, Any]]:
        """Records of metrics.jsonl, without times, of one kind or all."""
        lines = (self.folder / "metrics.jsonl").read_text().splitlines()
        records = [without_times(json.loads(line)) for line in lines]
        return [record for record in records if kind in ("", record["kind"])]


def random_tagged(n: int) -> Tokenized:
    """Random sentences of words with one of two tags, or none."""
    data = random_tokenized(n, 2, seed=5)
    label = np.random.default_rng(6).integers(-1, 2, len(data.token)).astype(np.int32)
    return dataclasses.replace(data, label=label, task_type=TASK_TYPES["tagging"])


def stage_case(
    store: Path,
    seed: int = 0,
    *,
    task: Task = SCORE,
    encoder: EncoderConfig = ENCODER,
    optimizer: Optimizer = OPTIMIZER,
    mesh: jax.sharding.Mesh | None = None,
    max_restarts: int = 0,
    rehearsal: Rehearsal | None = None,
    lora: Lora | None = None,
    splits: tuple[Tokenized, Tokenized] | None = None,
    **train: Any,
) -> Case:
    """A stage of random parameters; further arguments replace fields of `TRAIN`."""
    settings = Stage(
        task,
        Data(()),
        {},
        optimizer,
        dataclasses.replace(TRAIN, **train),
        lora=lora,
        max_restarts=max_restarts,
    )
    settings = with_frozen_parts(settings, encoder.num_layers)
    classes = len(task.labels)
    data, dev = splits or (random_tokenized(14, classes), random_tokenized(9, classes, seed=1))
    vocabulary = Vocabulary.whole(encoder.vocab_size)
    stage = StageData(
        settings=settings,
        encoder=encoder,
        vocabulary=vocabulary,
        splits={"train": data, "dev": dev},
        scoring_vocabulary=vocabulary,
        evaluated={},
        rehearsal=rehearsal,
    )
    spec = StageSpec(
        condition="direct",
        name="target",
        seed=seed,
        settings=settings,
        model=stage.model,
        dtype="float32",
        start="random",
        hashes={
            "train_data": data.fingerprint,
            "dev_data": dev.fingerprint,
            "vocabulary": vocabulary.fingerprint,
            "model": "random",
        },
        store=store,
        total_steps=stage.total_steps(),
    )
    return Case(spec, stage, mesh or mesh_of())


def train(*cases: Case, starts: Sequence[Callable[[], Params] | None] = ()) -> None:
    """Train cases that differ in seed alone as one program, in places from other starts."""
    runs = [
        case.run(start) for case, start in zip(cases, starts or [None] * len(cases), strict=True)
    ]
    loop.train(runs, cases[0].data, cases[0].mesh)


def no_start() -> Params:
    raise AssertionError("it has a checkpoint to continue from")


def without_times(record: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in record.items() if key not in TIMES}


def record_saves(monkeypatch: pytest.MonkeyPatch) -> Saves:
    """Collect what is saved from here on, in the order of the saves."""
    saves: Saves = {}
    real = CheckpointStore.save

    def save(self: CheckpointStore, step: int, items: Any, *rest: Any) -> None:
        saves[str(self.folder.parent), step] = jax.tree.map(np.array, items)
        real(self, step, items, *rest)

    monkeypatch.setattr(CheckpointStore, "save", save)
    return saves


def saves_of(saves: Saves, case: Case) -> dict[int, Any]:
    """Items that a case saved, by step."""
    return {step: items for (folder, step), items in saves.items() if folder == str(case.folder)}


@pytest.fixture
def saved(monkeypatch: pytest.MonkeyPatch) -> Saves:
    return record_saves(monkeypatch)


def script_scores(monkeypatch: pytest.MonkeyPatch, *scores: Sequence[float]) -> None:
    """Let dev evaluations give these scores, one list a seed; the last one of a list repeats."""

    def columns() -> Iterator[tuple[float, ...]]:
        number = 0
        while True:
            yield tuple(column[min(number, len(column) - 1)] for column in scores)
            number += 1

    numbers = columns()

    def predict(self: Evaluator, params: Any, data: Any, seeds: int) -> Any:
        outputs = np.zeros((len(data), 1))
        values = next(numbers)
        names = ("pearson", "spearman", "accuracy", "f1")
        return [(outputs, {"mse": 1.0} | dict.fromkeys(names, s)) for s in values[:seeds]]

    monkeypatch.setattr(Evaluator, "predict_seeds", predict)


def kill_at(
    monkeypatch: pytest.MonkeyPatch, owner: Any, name: str, call: int, after: bool = False
) -> None:
    """Let the numbered call of a function raise `Killed`, before it does anything or after."""
    real, calls = getattr(owner, name), iter(range(1, 100))

    def function(*args: Any, **kwargs: Any) -> Any:
        number = next(calls)
        if number == call and not after:
            raise Killed
        result = real(*args, **kwargs)
        if number == call:
            raise Killed
        return result

    monkeypatch.setattr(owner, name, function)


def assert_equal_trees(one: Any, other: Any) -> None:
    assert jax.tree.structure(one) == jax.tree.structure(other)
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        np.testing.assert_array_equal(a, b)


def assert_close_trees(one: Any, other: Any) -> None:
    assert jax.tree.structure(one) == jax.tree.structure(other)
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)


def assert_same_run(case: Case, expected: Case, saves: Saves) -> None:
    """Compare every loss, dev score, saved array and note, the result, and the files."""
    log, expected_log = case.log("train"), expected.log("train")
    assert [record["step"] for record in log] == [record["step"] for record in expected_log]
    assert len({record["loss"] for record in expected_log}) == len(expected_log)
    for name in ("loss", "gradient_norm", "learning_rate"):
        values, wanted = ([record[name] for record in records] for records in (log, expected_log))
        np.testing.assert_allclose(values, wanted, atol=1e-5, rtol=1e-5)
    for dev, expected_dev in zip(case.log("dev"), expected.log("dev"), strict=True):
        assert (dev["step"], dev["best"]) == (expected_dev["step"], expected_dev["best"])
        assert dev["metrics"] == pytest.approx(expected_dev["metrics"], abs=1e-5)
    own, wanted_saves = saves_of(saves, case), saves_of(saves, expected)
    assert set(own) == set(wanted_saves) == {record["step"] for record in expected.log("dev")}
    for step in wanted_saves:
        assert_close_trees(own[step], wanted_saves[step])
    done, expected_done = case.done(), expected.done()
    assert done.keys() == expected_done.keys()
    for name in ("steps", "total_steps", "best_step", "stopped_early"):
        assert done[name] == expected_done[name]
    assert done["dev"] == pytest.approx(expected_done["dev"], abs=1e-5)
    assert_close_trees(case.best_params(), expected.best_params())
    names, expected_names = (
        {path.name for path in one.folder.glob("*")} for one in (case, expected)
    )
    assert names == expected_names
    checkpoints = [
        sorted(path.name for path in (one.folder / "checkpoints").iterdir())
        for one in (case, expected)
    ]
    assert checkpoints == [[f"{expected_done['best_step']:08d}"]] * 2
