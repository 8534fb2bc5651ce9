"""Restarts: a run that has not learned is trained again with another seed.

Fine-tuning on small data fails altogether with some seeds (`flaxfer.statistics.collapse`), and a
common remedy is to start again (Devlin et al. 2019, section 4.1; Phang et al. 2018). The decision
uses the run's own best dev score, never another run or an evaluated set. Data order, new heads,
dropout and random weights of the next attempt follow another seed, while the run keeps its name and
its place in the comparison.

An attempt that was given up leaves STAGE/restarts/<attempt>.json, which says why, and
<attempt>.jsonl, its metrics. The latter is moved there last: until then a kill may have left
something to complete.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from pathlib import Path
from typing import Any

from flaxfer.errors import CheckpointError
from flaxfer.evaluation.chance import chance
from flaxfer.runtime import sealed
from flaxfer.runtime.files import write_atomically

FOLDER, CHECKPOINTS, METRICS = "restarts", "checkpoints", "metrics.jsonl"


def attempt_seed(seed: int, attempt: int) -> int:
    """Return the seed of an attempt: the run's own for attempt 0, else one of 31 bits."""
    if not attempt:
        return seed
    digest = hashlib.sha256(f"{seed}/{attempt}".encode()).digest()
    return int.from_bytes(digest[:4], "big") >> 1


def records(folder: Path) -> list[dict[str, Any]]:
    """Return the notes of the attempts of a stage that were given up, in order.

    Raises:
      CheckpointError: one is damaged.
    """
    files = [file for file in (folder / FOLDER).glob("*.json") if file.stem.isdigit()]
    return [_record(file) for file in sorted(files, key=lambda file: int(file.stem))]


def _record(file: Path) -> dict[str, Any]:
    try:
        return sealed.read(file, _seal(file))
    except sealed.UNREADABLE as error:
        raise CheckpointError(
            f"the record is damaged: {error}",
            where=str(file),
            hint="run the study's command again: it repeats the stage.",
        ) from error


def _seal(file: Path) -> str:
    """Return the name that a record is sealed with."""
    return "/".join(file.absolute().parts[-3:])


def why_not_learned(name: str, score: float, n: int, classes: float) -> str:
    """Return why a run counts as not having learned, with numbers; empty if it has learned.

    Args:
      name: name of its best dev score, see `flaxfer.tasks.base.TaskType.learning_score`.
      score: value of the score.
      n: examples of dev.
      classes: effective number of their classes, see `flaxfer.evaluation.chance`.
    """
    level = chance(n, classes)
    if score > level:
        return ""
    return f"the best dev {name} is {score:.3f}: up to {level:.3f} is chance"


def give_up(folder: Path, record: dict[str, Any]) -> None:
    """End the current attempt of a stage, and move its files out of the next one's way."""
    kept = folder / FOLDER
    kept.mkdir(exist_ok=True)
    file = kept / f"{len(records(folder))}.json"
    write_atomically(file, json.dumps(sealed.sealed(record, _seal(file)), indent=1))
    complete(folder)


def complete(folder: Path) -> None:
    """Complete a `give_up` that a kill interrupted. The attempt's parameters are deleted."""
    given_up = len(records(folder))
    last = folder / FOLDER / f"{given_up - 1}.jsonl"
    if given_up and not last.exists():
        if (folder / CHECKPOINTS).exists():
            shutil.rmtree(folder / CHECKPOINTS)
        os.replace(folder / METRICS, last)
