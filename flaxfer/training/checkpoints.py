"""Checkpoints of one stage: written by Orbax, committed and verified by a manifest of checksums.

A checkpoint is the folder `STAGE/checkpoints/<step>/` with one Orbax folder for each item
(`params`, `opt_state`) and, written last, `manifest.json`. A folder without a manifest was never
committed and does not count. Orbax itself would not notice a flipped byte.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import orbax.checkpoint as ocp
from flax import traverse_util

from flaxfer.errors import CheckpointError
from flaxfer.runtime.files import write_atomically
from flaxfer.runtime.trees import leaves_by_name, map_names

MANIFEST = "manifest.json"
log = logging.getLogger("flaxfer.training.checkpoints")


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """A committed checkpoint: its step, dev score, and the notes of its writer."""

    path: Path
    step: int
    score: float
    notes: dict[str, Any]


class CheckpointStore:
    """The checkpoints of one stage; the newest and the best survive."""

    def __init__(self, folder: Path, larger_is_better: bool):
        self.folder = folder
        self._sign = 1 if larger_is_better else -1

    def save(self, step: int, items: dict[str, Any], score: float, notes: dict[str, Any]) -> None:
        """Write `items` (trees of arrays by name), commit them, and delete superseded checkpoints.

        Raises:
          CheckpointError: there is a committed checkpoint at this step or above.
        """
        newest = self.newest()
        if newest is not None and newest.step >= step:
            raise CheckpointError(
                f"step {step} is not after the newest checkpoint, step {newest.step}",
                where=str(self.folder),
            )
        path = self.folder / f"{step:08d}"
        if path.exists():  # Left by a killed run, without a manifest.
            shutil.rmtree(path)
        path.mkdir(parents=True)
        with ocp.StandardCheckpointer() as checkpointer:
            for name, tree in items.items():
                checkpointer.save(path.absolute() / name, _string_keys(tree))
                checkpointer.wait_until_finished()
        manifest = {
            "step": step,
            "score": score if np.isfinite(score) else None,
            "notes": notes,
            "files": _checksums(path),
        }
        _write_manifest(path, manifest)
        self._prune(self.best(), self.newest())

    def add_score(self, score: float, notes: dict[str, Any]) -> None:
        """Note the score of the newest checkpoint, saved without one; delete superseded ones."""
        newest = self.newest()
        assert newest is not None
        manifest = _read_manifest(newest.path / MANIFEST)
        score_or_none = score if np.isfinite(score) else None
        _write_manifest(newest.path, manifest | {"score": score_or_none, "notes": notes})
        self._prune(self.best(), self.newest())

    def all(self) -> list[Checkpoint]:
        """Return the committed checkpoints by step. Other folders and files are ignored."""
        checkpoints = []
        for path in sorted(self.folder.glob(f"*/{MANIFEST}")):
            try:
                content = _read_manifest(path)
            except ValueError as error:
                log.warning("%s is damaged (%s): this checkpoint does not count", path, error)
                continue
            score = float("nan") if content["score"] is None else content["score"]
            checkpoints.append(Checkpoint(path.parent, content["step"], score, content["notes"]))
        return sorted(checkpoints, key=lambda checkpoint: checkpoint.step)

    def newest(self) -> Checkpoint | None:
        """Return the checkpoint that a killed run continues from."""
        return next(reversed(self.all()), None)

    def best(self) -> Checkpoint | None:
        """Return the checkpoint with the best dev score, the earlier of equals.

        If no score is defined, it is the newest checkpoint.
        """
        scored = [checkpoint for checkpoint in self.all() if np.isfinite(checkpoint.score)]
        return max(scored, key=lambda c: (self._sign * c.score, -c.step), default=self.newest())

    def improves(self, score: float) -> bool:
        """Return whether a score is defined, and better than that of every checkpoint."""
        scores = [self._sign * checkpoint.score for checkpoint in self.all()]
        return bool(np.isfinite(score)) and not any(s >= self._sign * score for s in scores)

    def newest_whole(self) -> Checkpoint | None:
        """Return the newest intact checkpoint; log damaged ones and set them aside."""
        for checkpoint in reversed(self.all()):
            try:
                _verify(checkpoint)
            except CheckpointError as error:
                log.warning("%s\n  Falling back to the checkpoint before it.", error)
                # Uncommitted from now on, so that the steps after the fallback can be saved again.
                (checkpoint.path / MANIFEST).rename(checkpoint.path / f"{MANIFEST}.damaged")
            else:
                return checkpoint
        return None

    def restore_newest(self, items: dict[str, Any]) -> tuple[Checkpoint, dict[str, Any]] | None:
        """Return the newest intact checkpoint and its items; raise as `restore` if they misfit."""
        checkpoint = self.newest_whole()
        return None if checkpoint is None else (checkpoint, _read(checkpoint, items))

    def finish(self) -> None:
        """Delete everything but the parameters of the best checkpoint, once a stage is finished."""
        best = self.best()
        self._prune(best)
        if best is not None and (best.path / "opt_state").exists():
            manifest = _read_manifest(best.path / MANIFEST)
            files = manifest["files"].items()
            manifest["files"] = {k: v for k, v in files if not k.startswith("opt_state/")}
            # The manifest first: with it written, the files that follow are no longer missed.
            _write_manifest(best.path, manifest)
            shutil.rmtree(best.path / "opt_state")

    def _prune(self, *kept: Checkpoint | None) -> None:
        paths = [checkpoint.path for checkpoint in kept if checkpoint]
        for checkpoint in self.all():
            if checkpoint.path not in paths:
                shutil.rmtree(checkpoint.path)


def restore(checkpoint: Checkpoint, items: dict[str, Any]) -> dict[str, Any]:
    """Read items of a checkpoint after verifying every byte of it.

    Args:
      checkpoint: from a `CheckpointStore`.
      items: trees of `ShapeDtypeStruct` with the wanted shardings, by name.

    Raises:
      CheckpointError: a file is damaged or missing, or a shape or dtype is not the wanted one; all
        differences are listed.
    """
    _verify(checkpoint)
    return _read(checkpoint, items)


def _read(checkpoint: Checkpoint, items: dict[str, Any]) -> dict[str, Any]:
    restored = {}
    with ocp.StandardCheckpointer() as checkpointer:
        for name, wanted in items.items():
            path = checkpoint.path.absolute() / name
            target = _string_keys(wanted)
            saved = checkpointer.metadata(path).item_metadata.tree if path.is_dir() else {}
            _compare(path, saved, target)
            leaves = leaves_by_name(checkpointer.restore(path, target))
            restored[name] = map_names(leaves.__getitem__, wanted)
    return restored


def _checksums(folder: Path) -> dict[str, str]:
    checksums = {}
    for path in sorted(p for p in folder.rglob("*") if p.is_file() and p.name != MANIFEST):
        with open(path, "rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        checksums[path.relative_to(folder).as_posix()] = digest
    return checksums


def _write_manifest(folder: Path, manifest: dict[str, Any]) -> None:
    """Write a manifest with its own checksum."""
    content = {**manifest, "checksum": _checksum(manifest)}
    write_atomically(folder / MANIFEST, json.dumps(content, indent=1))


def _checksum(manifest: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()


def _read_manifest(path: Path) -> dict[str, Any]:
    """Read a manifest; raise ValueError if it is damaged or belongs to another checkpoint."""
    content = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(content, dict) or content.pop("checksum", None) != _checksum(content):
        raise ValueError("its checksum is not that of its contents")
    if path.parent.name != f"{content['step']:08d}":
        raise ValueError(f"it is of step {content['step']}")
    return content


def _verify(checkpoint: Checkpoint) -> None:
    wanted = _read_manifest(checkpoint.path / MANIFEST)["files"]
    actual = _checksums(checkpoint.path)
    damage = [
        f"{name}: {'changed since it was written' if name in actual else 'missing'}"
        for name in wanted
        if actual.get(name) != wanted[name]
    ]
    if damage:
        raise CheckpointError(
            f"the checkpoint of step {checkpoint.step} is damaged",
            where=str(checkpoint.path),
            hint="delete this folder; the same command then goes on from the checkpoint before it, "
            "or repeats the stage.",
            details=damage,
        )


def _compare(path: Path, saved: Any, wanted: Any) -> None:
    have, want = leaves_by_name(saved), leaves_by_name(wanted)
    differences = [f"{name}: have none" for name in sorted(want.keys() - have.keys())]
    differences += [f"{name}: not wanted" for name in sorted(have.keys() - want.keys())]
    for name in sorted(want.keys() & have.keys()):
        h, w = have[name], want[name]
        if tuple(h.shape) != tuple(w.shape) or np.dtype(h.dtype) != np.dtype(w.dtype):
            differences.append(
                f"{name}: have {h.dtype}{list(h.shape)}, want {w.dtype}{list(w.shape)}"
            )
    if differences:
        raise CheckpointError(
            "the checkpoint does not fit the model", where=str(path), details=differences
        )


def _string_keys(tree: Any) -> dict[str, Any]:
    """Return the tree as nested dicts with string keys, which Orbax reads back without classes."""
    return traverse_util.unflatten_dict(leaves_by_name(tree), sep="/")
