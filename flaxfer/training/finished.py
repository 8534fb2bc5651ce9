"""A finished stage, read back from the store with the stages before it."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pydantic

from flaxfer.config import Model, Optimizer, Task, Train
from flaxfer.errors import CheckpointError, DataError
from flaxfer.evaluation.records import Evaluation
from flaxfer.training.restarts import drawn_seed
from flaxfer.training.vocabulary import Vocabulary

IDENTITY, ORIGIN, DONE, VOCABULARY = "identity.json", "origin.json", "done.json", "vocabulary.npy"
STARTS = ("pretrained", "random")


@dataclasses.dataclass(frozen=True)
class Finished:
    """What is known of a stage that is done.

    Attributes:
      folder: of the stage in the store.
      name: `intermediate` or `target`.
      task, optimizer, train: its settings.
      seed: of order, heads and dropout.
      dtype: of the matrix products.
      start: `pretrained`, `random`, or the identity of `parent`.
      parent: the stage whose encoder this one began with.
      weights: fingerprint of the pretrained weights.
      model: as in the config.
      model_folder: where it lay.
      tokenizer: its fingerprint.
      vocabulary: the ids that have a row in the stage's embedding.
      data: a record a split, as in study.json, with the names of its `sources`.
      versions: of the packages that it was trained with.
      done: what `stage.train` noted at its end.
      evaluations: scores of the sets that it was not trained on.
    """

    folder: Path
    name: str
    task: Task
    optimizer: Optimizer
    train: Train
    seed: int
    dtype: str
    start: str
    parent: Finished | None
    weights: str
    model: Model
    model_folder: Path
    tokenizer: str
    vocabulary: Vocabulary
    data: list[dict[str, Any]]
    versions: Mapping[str, str]
    done: Mapping[str, Any]
    evaluations: list[Evaluation]

    @property
    def attempt_seed(self) -> int:
        """The seed of the attempt that this is."""
        return drawn_seed(self.seed, len(self.done.get("restarts", ())))

    @property
    def lineage(self) -> list[Finished]:
        """All stages up to this one, the first one first."""
        return [*(self.parent.lineage if self.parent else []), self]


def read(folder: Path) -> Finished:
    """Reads a stage folder of a work directory.

    Raises:
      DataError: it is none.
      CheckpointError: the stage is not finished, or what an export needs is missing or damaged.
    """
    if not (folder / IDENTITY).is_file():
        raise DataError(
            "this is not the folder of a stage",
            where=str(folder),
            hint="name a folder WORKDIR/stages/IDENTITY, or a work directory with study.json.",
        )
    again = _again(folder)
    if not (folder / DONE).is_file():
        raise CheckpointError(
            "the stage is not finished",
            where=str(folder),
            hint=f"{again}; it goes on where it stopped.",
        )
    try:
        return _read(folder)
    except FileNotFoundError as error:
        what = f"{Path(error.filename).relative_to(folder)} is missing"
    except (OSError, ValueError, KeyError, TypeError) as error:
        what = f"a file of the stage is damaged: {type(error).__name__}: {error}"
    raise CheckpointError(
        what,
        where=str(folder),
        hint=f"{again}; it writes this without training again. If that does not help, delete this "
        "folder, and the stage is repeated.",
    )


def _read(folder: Path) -> Finished:
    identity, origin, done = (_object(folder / name) for name in (IDENTITY, ORIGIN, DONE))
    vocabulary = Vocabulary.load(folder / VOCABULARY)
    if vocabulary.fingerprint != identity["vocabulary"]:
        raise ValueError(f"{VOCABULARY} is of another study")
    evaluations = []
    for entry in origin["data"]:
        if entry["split"] not in ("train", "dev"):
            name = f"{entry['split']}-{entry['fingerprint'][:12]}.json"
            evaluations += _typed(list[Evaluation], _json(folder / "evaluations" / name))
    start = identity["start"]
    model = dict(origin["model"])
    model_folder = model.pop("folder")
    return Finished(
        folder=folder,
        name=origin["stage"],
        task=_typed(Task, identity["task"]),
        optimizer=_typed(Optimizer, identity["optimizer"]),
        train=_typed(Train, identity["train"]),
        seed=identity["seed"],
        dtype=identity["dtype"],
        start=start,
        parent=None if start in STARTS else read(folder.parent / start),
        weights=identity["model"],
        model=_typed(Model, model),
        model_folder=Path(model_folder),
        tokenizer=origin["tokenizer"],
        vocabulary=vocabulary,
        data=origin["data"],
        versions=origin["versions"],
        done=done | {"total_steps": done["total_steps"], "best_step": done["best_step"]},
        evaluations=evaluations,
    )


def _again(folder: Path) -> str:
    """What starts the study again."""
    file = folder.absolute().parents[1] / ORIGIN
    command = _object(file).get("command") if file.is_file() else None
    return f"run the study again: {command}" if command else "run the study's command again"


def _typed(kind: Any, value: Any) -> Any:
    return pydantic.TypeAdapter(kind).validate_python(value)


def _object(path: Path) -> dict[str, Any]:
    content = _json(path)
    if not isinstance(content, dict):
        raise ValueError(f"{path.name} holds no JSON object")
    return content


def _json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))
