"""Descriptions of stages in the store: their identity, and what an export needs."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

from flaxfer.config import Stage
from flaxfer.runtime import platform, sealed
from flaxfer.runtime.files import write_atomically
from flaxfer.runtime.progress import say
from flaxfer.study.plan import stage_data
from flaxfer.training.data import StudyData
from flaxfer.training.record import IDENTITY, ORIGIN, VOCABULARY
from flaxfer.training.stage import StageSpec


def describe(data: StudyData, spec: StageSpec) -> None:
    """Write the identity of a stage, and what an export needs without training again."""
    spec.folder.mkdir(parents=True, exist_ok=True)
    _write_identity(spec)
    file = spec.folder / ORIGIN
    if not spec.record.is_trained():
        versions = platform.versions()
    else:  # They may have changed since it was trained.
        versions = spec.record.origin()["versions"] if file.exists() else {}
    stage = stage_data(data, spec)
    names = _source_names(stage.settings)
    model = dataclasses.asdict(data.config.model)
    origin = {
        "stage": spec.name,
        "model": model | {"folder": str(data.folder.absolute())},
        "tokenizer": data.tokenizer,
        "texts": _number_of_texts(stage.settings),
        "data": [
            {"stage": spec.name, **entry, "sources": names.get(entry["split"], [])}
            for entry in data.stage(spec.name, spec.seed).summary()
        ],
        "versions": versions,
    }
    stage.vocabulary.save(spec.folder / VOCABULARY)
    spec.record.write(ORIGIN, origin)


def _write_identity(spec: StageSpec) -> None:
    """Write the identity of a stage, unless it is there; say if it was another one."""
    file = spec.folder / IDENTITY
    try:
        if spec.record.has_own_identity():
            return
        what = "was changed or copied from another stage"
    except FileNotFoundError:
        what = ""
    except sealed.UNREADABLE as error:
        what = f"is damaged ({error})"
    if what:
        say(f"{file} {what}: it is written again")
    write_atomically(file, json.dumps(spec.identity, indent=1))


def _number_of_texts(settings: Stage) -> int:
    """Return 2 if the training examples are pairs, else 1."""
    return 1 + any("text_b" in {*one.roles, *one.aligned} for one in settings.data.train)


def _source_names(settings: Stage) -> dict[str, list[str]]:
    """Return the names of the files or hub data sets that each split is read from."""
    splits = {split: getattr(settings.data, split) for split in ("train", "dev", "test")}
    splits |= {name: (source,) for name, source in settings.evaluate.items()}
    return {
        split: [source.hub or Path(source.path).name for source in sources]
        for split, sources in splits.items()
    }
