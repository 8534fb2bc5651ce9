"""Verification of what stages have left on disk; what is damaged is set aside and made again.

Files that are set aside are moved to STAGE/damaged/<n>/. A record is made again from what is
intact: done.json from the copy in the best checkpoint, scores and predictions by another
evaluation, and a stage whose best checkpoint is damaged by another training.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from flaxfer.errors import CheckpointError
from flaxfer.runtime import sealed
from flaxfer.study.claims import Claims
from flaxfer.training import restarts
from flaxfer.training.checkpoints import verify
from flaxfer.training.record import DIGEST, DONE, FAILED, METRICS, file_digest, predictions_of
from flaxfer.training.stage import StageSpec

FOLDER = "damaged"
WHOLE = (DONE, FAILED, METRICS, "evaluations", "predictions", "notes", "checkpoints", "restarts")
"""All that training and measuring leave."""

log = logging.getLogger("flaxfer.study.repair")


@dataclasses.dataclass(frozen=True)
class Problem:
    """Damage of a stage: what is wrong, the files that are set aside for it, and what follows."""

    what: str
    names: tuple[str, ...]
    outcome: str = "what is missing is made again"


def repair(spec: StageSpec, claims: Claims, every_byte: bool = False) -> bool:
    """Set aside what is damaged of a stage; return whether anything was.

    Args:
      spec: The stage. Nothing is done if another process works on it.
      claims: Claims of this process, which does not hold the stage.
      every_byte: Whether to verify the whole checkpoint of a trained stage, too.
    """
    if not spec.folder.is_dir() or not problems(spec, every_byte):
        return False
    with claims.taking([spec.folder]) as taken:
        found = problems(spec, every_byte) if taken else []
        for problem in found:
            text = f"{problem.what}. Set aside in its folder {FOLDER}; {problem.outcome}."
            log.warning("%s, %s: %s", spec.title, spec.folder.absolute(), text)
        names = {name for problem in found for name in problem.names}
        if names:
            taken[0].confirm()
            done = None if "checkpoints" in names else _kept_record(spec)
            _set_aside(spec.folder, names)
            if DONE in names and done:
                spec.record.write(DONE, done, taken[0].confirm)
    return bool(found)


def problems(spec: StageSpec, every_byte: bool = False) -> list[Problem]:
    """Return what is damaged of a stage."""
    found: list[Problem] = []
    record = spec.record
    with _noted(found, (FAILED,)):
        record.failure()
    with _noted(found, WHOLE):
        restarts.records(spec.folder)
    if not record.is_trained():
        return found
    # Without the optimizer's state, only a copy of the record saves another training.
    resumable = any(spec.folder.glob("checkpoints/*/opt_state")) or _kept_record(spec)
    with _noted(found, (DONE,) if resumable else WHOLE):
        done = record.read(DONE)
        if missing := {"best_step", "total_steps", "steps", "dev"} - done.keys():
            raise CheckpointError(f"{DONE} lacks {', '.join(sorted(missing))}")
        with _noted(found, WHOLE):
            best = record.best_checkpoint(spec.settings.task)
            if every_byte:
                verify(best)
        metrics = file_digest(spec.folder / METRICS)
        if metrics and done.get(DIGEST, metrics) != metrics:
            what, outcome = f"{METRICS} was changed after the training", "its curves are lost"
            found.append(Problem(what, (METRICS,), f"{outcome}, its scores are not"))
    if spec.start_scores and (spec.folder / spec.start_scores).exists():
        with _noted(found, (spec.start_scores,)):
            record.read(spec.start_scores)
    for one in spec.measurements:
        found += _measured(spec, one.file)
    return found


def _measured(spec: StageSpec, name: str) -> Iterator[Problem]:
    """Yield what is damaged of a measurement."""
    file, found = spec.folder / name, list[Problem]()
    if file.exists():
        with _noted(found, (name,)):
            digest = spec.record.read(name).get("predictions", "")
            if digest != file_digest(predictions := predictions_of(file)):
                where = predictions.relative_to(spec.folder)
                raise CheckpointError(f"{where} is missing or was changed after it was written")
    yield from found


@contextlib.contextmanager
def _noted(found: list[Problem], names: tuple[str, ...]) -> Iterator[None]:
    """Add the error of a damaged file, for which `names` are set aside."""
    try:
        yield
    except CheckpointError as error:
        what = f"{error.where}: {error.what}" if error.where else error.what
        found.append(Problem("; ".join([what, *error.details[:3]]), names))
    except sealed.UNREADABLE as error:
        found.append(Problem(str(error), names))


def _kept_record(spec: StageSpec) -> dict[str, object] | None:
    """Return the copy of done.json in the best checkpoint, if there is one."""
    try:
        return spec.checkpoints.kept_record()
    except sealed.UNREADABLE:
        return None


def _set_aside(folder: Path, names: Sequence[str] | set[str]) -> None:
    """Move files and folders of a stage to a new folder within it."""
    number = 1
    while (folder / FOLDER / str(number)).exists():
        number += 1
    for name in sorted(names):
        if (folder / name).exists():
            target = folder / FOLDER / str(number) / name
            target.parent.mkdir(parents=True, exist_ok=True)
            os.rename(folder / name, target)
