"""Record of a finished or running stage, in its folder STORE/<identity>.

The folder holds identity.json, origin.json and vocabulary.npy from the start; metrics.jsonl and
checkpoints/ while it trains; done.json or failed.json at the end; then evaluations/, predictions/
and notes/. Records are sealed (`flaxfer.runtime.sealed`) with the identity of their stage.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import pydantic

from flaxfer.config import Lora, Model, Optimizer, Task, Train
from flaxfer.data.packing import REHEARSED
from flaxfer.errors import CheckpointError, DataError
from flaxfer.evaluation.records import Evaluation
from flaxfer.models.encoders import EncoderConfig
from flaxfer.models.lora import adapters
from flaxfer.models.spec import ModelSpec
from flaxfer.runtime import sealed
from flaxfer.runtime.sharding import tree_shardings
from flaxfer.runtime.trees import Params
from flaxfer.tasks import task_type
from flaxfer.tasks.models import model_spec
from flaxfer.training import restarts
from flaxfer.training.checkpoints import Checkpoint, CheckpointStore, restore, unclaimed, verify
from flaxfer.training.state import ADAPTERS
from flaxfer.training.vocabulary import Vocabulary

IDENTITY, ORIGIN, DONE, FAILED = "identity.json", "origin.json", "done.json", "failed.json"
VOCABULARY, METRICS = "vocabulary.npy", "metrics.jsonl"
DIGEST = "metrics_sha256"
"""Key of done.json for the SHA-256 of metrics.jsonl."""
TRAINED_ON = ("train", "dev")
"""Splits that training reads."""


@dataclasses.dataclass(frozen=True)
class StageRecord:
    """The folder of a stage. Everything is read from disk when it is asked for."""

    folder: Path

    def is_trained(self) -> bool:
        """Return whether training has ended."""
        return (self.folder / DONE).exists()

    def failure(self) -> str:
        """Return why training diverged; empty if it did not."""
        file = self.folder / FAILED
        return str(self.read(FAILED).get("error", FAILED)) if file.exists() else ""

    def read(self, name: str) -> dict[str, Any]:
        """Return the content of a record in the folder.

        Raises:
          FileNotFoundError: it is missing.
          CheckpointError: it is damaged, was edited, or is of another stage.
        """
        try:
            return sealed.read(self.folder / name, self._seal(name))
        except FileNotFoundError:
            raise
        except sealed.UNREADABLE as error:
            raise CheckpointError(
                f"the record is damaged: {error}",
                where=str(self.folder / name),
                hint=f"{_rerun_hint(self.folder)}; it makes what is damaged again.",
            ) from error

    def write(
        self, name: str, content: dict[str, Any], confirm: Callable[[], None] | None = None
    ) -> None:
        """Write a record into the folder; `confirm` is called right before it is in force."""
        file = self.folder / name
        file.parent.mkdir(exist_ok=True)
        sealed.write(file, content, self._seal(name), confirm)

    def _seal(self, name: str) -> str:
        return f"{self.folder.absolute().name}/{name}"

    def identity(self) -> dict[str, Any]:
        """Return everything that the result depends on."""
        return _object(self.folder / IDENTITY)

    def has_own_identity(self) -> bool:
        """Return whether identity.json is the one whose content hash names the folder."""
        return content_hash(self.identity()) == self.folder.absolute().name

    def task(self) -> Task:
        """Return the task's settings."""
        return _typed(Task, self.identity()["task"])

    def optimizer(self) -> Optimizer:
        """Return the optimizer's settings."""
        return _typed(Optimizer, self.identity()["optimizer"])

    def lora(self) -> Lora | None:
        """Return the settings of the adapters; None if there are none."""
        return _typed(Lora | None, self.identity().get("lora"))

    def train(self) -> Train:
        """Return the settings of the loop."""
        return _typed(Train, self.identity()["train"])

    def origin(self) -> dict[str, Any]:
        """Return where the stage comes from: stage name, model, tokenizer, data, versions."""
        return self.read(ORIGIN)

    def model_config(self) -> Model:
        """Return the config's section `model`."""
        return _typed(Model, self.origin()["model"])

    def vocabulary(self) -> Vocabulary:
        """Return the ids that have a row in the stage's embedding."""
        return Vocabulary.load(self.folder / VOCABULARY)

    def done(self) -> dict[str, Any]:
        """Return what was noted at the end of training."""
        return {name: value for name, value in self.read(DONE).items() if name != DIGEST}

    def attempts(self) -> list[dict[str, Any]]:
        """Return the notes of the attempts that were given up, in order."""
        return restarts.records(self.folder)

    def attempt_seed(self) -> int:
        """Return the seed of the current or finished attempt."""
        return restarts.attempt_seed(self.identity()["seed"], len(self.attempts()))

    def parent(self) -> StageRecord | None:
        """Return the record of the stage that this one started from, if it started from one."""
        start = self.identity()["start"]
        known = start in ("pretrained", "random")
        return None if known else StageRecord(self.folder.parent / start)

    def lineage(self) -> list[StageRecord]:
        """Return the records of all stages up to this one, the first one first."""
        parent = self.parent()
        return [*(parent.lineage() if parent else ()), self]

    def evaluations(self) -> list[Evaluation]:
        """Return the scores of the sets that the stage was not trained on."""
        scores: list[Evaluation] = []
        for entry in self.origin()["data"]:
            if entry["split"] not in TRAINED_ON:
                name = f"{entry['split']}-{entry['fingerprint'][:12]}.json"
                scores += _typed(list[Evaluation], self.measured(f"evaluations/{name}"))
        return scores

    def measured(self, name: str) -> list[dict[str, Any]]:
        """Return the records of a measurement; raise as `read`."""
        content = _json(self.folder / name) if (self.folder / name).exists() else None
        if isinstance(content, list):  # Written by an earlier version.
            return content
        records: list[dict[str, Any]] = self.read(name)["records"]
        return records

    def write_measured(
        self, name: str, records: list[dict[str, Any]], confirm: Callable[[], None] | None = None
    ) -> None:
        """Write the records of a measurement, and the checksum of its predictions."""
        digest = file_digest(predictions_of(self.folder / name))
        self.write(name, {"records": records, "predictions": digest}, confirm)

    def checkpoints(
        self, task: Task, confirm: Callable[[], None] = unclaimed, owner: str = ""
    ) -> CheckpointStore:
        """Return the store of its checkpoints; `task` is that of the stage."""
        larger_is_better = task_type(task).larger_is_better(task.metric)
        return CheckpointStore(self.folder / "checkpoints", larger_is_better, confirm, owner)

    def tidy(self, task: Task, confirm: Callable[[], None] = unclaimed) -> None:
        """Delete what a trained stage no longer needs, if its best checkpoint is intact.

        Raises:
          CheckpointError: it is gone or damaged; nothing is deleted.
        """
        verify(self.best_checkpoint(task))
        self.checkpoints(task, confirm).finish(self.read(DONE))

    def best_checkpoint(self, task: Task | None = None) -> Checkpoint:
        """Return the best checkpoint on dev of a trained stage; `task` is that of the stage.

        Raises:
          CheckpointError: it is gone.
        """
        best = self.checkpoints(task or self.task()).best()
        if best is None or (self.is_trained() and best.step != self.done()["best_step"]):
            raise CheckpointError(
                "the stage is marked as finished, but its best checkpoint is gone",
                where=str(self.folder),
                hint=f"{_rerun_hint(self.folder)}; it repeats this stage.",
            )
        return best

    def model(self, encoder: EncoderConfig) -> ModelSpec:
        """Return the stage's model; `encoder` is that of the pretrained model."""
        return model_spec(encoder, self.task()).with_vocabulary(len(self.vocabulary()))

    def best_params(self, encoder: EncoderConfig, mesh: jax.sharding.Mesh) -> Params:
        """Return the parameters of the best checkpoint, placed on the mesh.

        Raises:
          CheckpointError: it is gone, damaged, or does not fit.
        """
        shapes = self.model(encoder).param_shapes()
        return restore(self.best_checkpoint(), {"params": placed(shapes, mesh)})["params"]

    def adapters(self, encoder: EncoderConfig, mesh: jax.sharding.Mesh) -> Params:
        """Return the adapters of the best checkpoint at their paths, placed on the mesh."""
        model = dataclasses.replace(self.model(encoder), lora=self.lora())
        shapes = {ADAPTERS: adapters(model.param_shapes())}
        return restore(self.best_checkpoint(), placed(shapes, mesh))[ADAPTERS]

    def rehearsed_head(self, encoder: EncoderConfig, mesh: jax.sharding.Mesh) -> Params:
        """Return the head of the rehearsed task at the best checkpoint, placed on the mesh."""
        parent = self.parent()
        assert parent is not None
        shapes = parent.model(encoder).param_shapes()["head"]
        return restore(self.best_checkpoint(), {REHEARSED: placed(shapes, mesh)})[REHEARSED]


def content_hash(identity: dict[str, Any]) -> str:
    """Return the name of the folder of a stage: the content hash of its identity."""
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:16]


def predictions_of(evaluation: Path) -> Path:
    """Return the file of the predictions behind an evaluation's file."""
    return evaluation.parents[1] / "predictions" / f"{evaluation.stem}.jsonl"


def file_digest(file: Path) -> str:
    """Return the SHA-256 of a file; empty if it does not exist."""
    if not file.is_file():
        return ""
    with open(file, "rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def open_finished(folder: Path) -> StageRecord:
    """Return the record of a finished stage, after checking that its files can be read.

    Raises:
      DataError: the folder is not one of a stage.
      CheckpointError: the stage is not finished, or a file of it is missing or damaged.
    """
    if not (folder / IDENTITY).is_file():
        raise DataError(
            "this is not the folder of a stage",
            where=str(folder),
            hint="name a folder WORKDIR/stages/IDENTITY, or a work directory with study.json.",
        )
    record = StageRecord(folder)
    rerun = _rerun_hint(folder)
    if not record.is_trained():
        failure = record.failure()
        raise CheckpointError(
            f"the stage has diverged: {failure}" if failure else "the stage is not finished",
            where=str(folder),
            hint=f"delete its file {FAILED} to let it try again, and {rerun}."
            if failure
            else f"{rerun}; it continues where it stopped.",
        )
    try:
        _check(record)
    except FileNotFoundError as error:
        problem = f"{Path(error.filename).relative_to(folder)} is missing"
    except CheckpointError as error:
        problem = str(error)
    except (OSError, ValueError, KeyError, TypeError) as error:
        problem = f"a file of the stage is damaged: {type(error).__name__}: {error}"
    else:
        if (parent := record.parent()) is not None:
            open_finished(parent.folder)
        return record
    raise CheckpointError(
        problem,
        where=str(folder),
        hint=f"{rerun}; it writes this file without training again. If that does not help, delete "
        "this folder, and the stage is repeated.",
    )


def placed(shapes: Any, mesh: jax.sharding.Mesh) -> Any:
    """Return shapes and dtypes with their shardings on the mesh, for a restore."""
    return jax.tree.map(
        lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
        shapes,
        tree_shardings(shapes, mesh),
    )


def _check(record: StageRecord) -> None:
    """Read everything that users of a finished stage need."""
    identity, done = record.identity(), record.done()
    if not record.has_own_identity():
        raise ValueError(f"{IDENTITY} was changed, or is of another stage")
    if record.vocabulary().fingerprint != identity["vocabulary"]:
        raise ValueError(f"{VOCABULARY} is of another study")
    for read in (record.task, record.optimizer, record.train, record.model_config):
        read()
    origin = record.origin()
    for content, names in (
        (origin, ("stage", "tokenizer", "versions")),
        (origin["model"], ("folder",)),
        (identity, ("seed", "dtype", "start", "model")),
        (done, ("best_step", "total_steps", "dev")),
    ):
        for name in names:
            content[name]
    record.evaluations()


def _rerun_hint(folder: Path) -> str:
    file = folder.absolute().parents[1] / ORIGIN
    try:
        command = _object(file).get("command")
    except sealed.UNREADABLE:
        command = None
    return f"run the study again: {command}" if command else "run the study's command again"


_adapter = functools.cache(pydantic.TypeAdapter)


def _typed(kind: Any, value: Any) -> Any:
    return _adapter(kind).validate_python(value)


def _object(path: Path) -> dict[str, Any]:
    content = _json(path)
    if not isinstance(content, dict):
        raise ValueError(f"{path.name} holds no JSON object")
    return content


def _json(path: Path) -> Any:
    return sealed.read_json(path)
