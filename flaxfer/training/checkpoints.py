"""Checkpoints of one stage: written by Orbax, committed and verified by a manifest of checksums.

A checkpoint is the folder `STAGE/checkpoints/<step>/` with one Orbax folder for each item
(`params`, `opt_state`) and `manifest.json`. It is written under a name of its own and committed by
renaming it, right after its owner has confirmed its claim on the stage. A folder without a manifest
does not count. Orbax itself would not notice a flipped byte.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import logging
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from flax import traverse_util

from flaxfer.errors import CheckpointError
from flaxfer.runtime import files, sealed
from flaxfer.runtime.progress import logging_from
from flaxfer.runtime.trees import leaves_by_name, map_names
from flaxfer.training import manifests
from flaxfer.training.manifests import MANIFEST

SET_ASIDE = f"{MANIFEST}.damaged"
log = logging.getLogger("flaxfer.training.checkpoints")

Confirm = Callable[[], None]


def unclaimed() -> None:
    """Confirm nothing: the checkpoints belong to this process alone."""


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """A committed checkpoint: its step, dev score, the notes of its writer, and who that was."""

    path: Path
    step: int
    score: float
    notes: dict[str, Any]
    owner: str = ""


class CheckpointStore:
    """The checkpoints of one stage; the newest and the best survive.

    Args:
      folder: of the checkpoints, in the folder of the stage.
      larger_is_better: whether larger scores are better.
      confirm: called right before anything is committed or deleted; raises ClaimLostError if the
        stage may belong to another process by now.
      owner: unique name of who writes, so that a checkpoint of an earlier owner is told apart.
    """

    def __init__(
        self,
        folder: Path,
        larger_is_better: bool,
        confirm: Confirm = unclaimed,
        owner: str = "",
    ):
        self.folder = folder
        self._sign = 1 if larger_is_better else -1
        self._confirm, self._owner = confirm, owner

    def save(self, step: int, items: dict[str, Any], score: float, notes: dict[str, Any]) -> None:
        """Write `items` (trees of arrays by name), commit them, and delete superseded checkpoints.

        Raises:
          CheckpointError: there is a committed checkpoint at this step or above.
          StorageError: the disk is full, read-only or failing; the earlier checkpoints are intact.
          ClaimLostError: the stage belongs to another process by now.
        """
        self._confirm()
        self._check_order(step)
        final = self.folder / f"{step:08d}"
        self.folder.mkdir(parents=True, exist_ok=True)
        for path in self.folder.glob("*"):  # Of killed runs; not committed.
            if path == final or _is_temporary(path):
                _remove(path)
        path = files.temporary_name(final)
        with self._removed_if_it_fails(path, items):
            path.mkdir()
            with ocp.StandardCheckpointer() as checkpointer:
                for name, tree in items.items():
                    checkpointer.save(path.absolute() / name, _string_keys(tree))
                    checkpointer.wait_until_finished()
            manifest = {
                "step": step,
                "score": score if np.isfinite(score) else None,
                "notes": notes,
                "owner": self._owner,
                "stage": self._stage,
                "files": manifests.checksums(path),
            }
            sealed.write(path / MANIFEST, manifest)
            self._confirm()
            os.rename(path, final)
        files.sync_folder(self.folder)
        self._prune(self.best(), self.newest())

    def add_score(self, score: float, notes: dict[str, Any]) -> None:
        """Note the score of the newest checkpoint, saved without one; delete superseded ones."""
        newest = self.newest()
        assert newest is not None
        scored = {"score": score if np.isfinite(score) else None, "notes": notes}
        manifest = manifests.read(newest.path) | scored
        sealed.write(newest.path / MANIFEST, manifest, confirm=self._confirm)
        self._prune(self.best(), self.newest())

    @property
    def _stage(self) -> str:
        """Identity of the stage: the name of its folder."""
        return self.folder.absolute().parent.name

    def _check_order(self, step: int) -> None:
        """Refuse a step that is saved; put one aside that an earlier owner saved too late."""
        for newer in [checkpoint for checkpoint in self.all() if checkpoint.step >= step]:
            if newer.owner == self._owner:
                raise CheckpointError(
                    f"step {step} is not after the newest checkpoint, step {newer.step}",
                    where=str(self.folder),
                )
            self._set_aside(newer, "is of an owner that has lost this stage")

    @contextlib.contextmanager
    def _removed_if_it_fails(self, path: Path, items: dict[str, Any]) -> Iterator[None]:
        """Remove an incomplete checkpoint, and say what the disk lacks."""
        try:
            # Orbax logs the trace of every error that it raises.
            with logging_from(logging.CRITICAL, "absl"):
                yield
        except Exception as error:
            shutil.rmtree(path, ignore_errors=True)
            self._confirm()  # Another owner may have removed it; that is the error then.
            if what := _storage_problem(error):
                needed = sum(leaf.nbytes for leaf in jax.tree.leaves(items))
                raise files.storage_error(path.parent, what, needed) from error
            raise

    def all(self) -> list[Checkpoint]:
        """Return the committed checkpoints by step. Other folders and files are ignored."""
        checkpoints = []
        for path in sorted(self.folder.glob(f"*/{MANIFEST}")):
            if not path.parent.name.isdigit():
                continue  # Being written, or nothing of ours.
            try:
                content = manifests.read(path.parent)
            except FileNotFoundError:
                continue  # Its owner has just deleted it.
            except sealed.UNREADABLE as error:
                log.warning("%s is damaged (%s): this checkpoint does not count", path, error)
                continue
            score = float("nan") if content["score"] is None else content["score"]
            owner = content.get("owner", "")
            checkpoint = Checkpoint(path.parent, content["step"], score, content["notes"], owner)
            checkpoints.append(checkpoint)
        return sorted(checkpoints, key=lambda checkpoint: checkpoint.step)

    def newest(self) -> Checkpoint | None:
        """Return the checkpoint that a killed run continues from."""
        return next(reversed(self.all()), None)

    def best(self) -> Checkpoint | None:
        """Return the checkpoint with the best dev score, the earlier of equals.

        If no score is defined, it is the newest checkpoint.
        """
        return next(iter(self._by_score()), None)

    def _by_score(self) -> list[Checkpoint]:
        """Return the checkpoints from the best to the worst, undefined scores last."""
        every = self.all()
        scored = [checkpoint for checkpoint in every if np.isfinite(checkpoint.score)]
        scored.sort(key=lambda c: (-self._sign * c.score, c.step))
        return scored + [c for c in reversed(every) if not np.isfinite(c.score)]

    def improves(self, score: float) -> bool:
        """Return whether a score is better than those of all checkpoints; NaN never is."""
        scores = [self._sign * checkpoint.score for checkpoint in self.all()]
        return bool(np.isfinite(score)) and not any(s >= self._sign * score for s in scores)

    def newest_whole(self) -> Checkpoint | None:
        """Return the newest intact checkpoint; log damaged ones and set them aside."""
        return self._first_whole(self.all()[::-1], "the checkpoint before it")[0]

    def best_whole(self) -> tuple[Checkpoint | None, list[str]]:
        """Return the best intact checkpoint with dev scores, and what is damaged of better ones.

        Damaged ones are logged and set aside.
        """
        evaluated = [one for one in self._by_score() if one.notes.get("dev", {}) is not None]
        return self._first_whole(evaluated, "the next best checkpoint")

    def _first_whole(
        self, checkpoints: Sequence[Checkpoint], otherwise: str
    ) -> tuple[Checkpoint | None, list[str]]:
        damaged = []
        for checkpoint in checkpoints:
            try:
                verify(checkpoint)
            except CheckpointError as error:
                damaged.append(f"step {checkpoint.step}: {'; '.join(error.details) or error.what}")
                # Uncommitted from now on, so that the steps after it can be saved again.
                self._set_aside(checkpoint, f"{error}\n  Falling back to {otherwise}.")
            else:
                return checkpoint, damaged
        return None, damaged

    def _set_aside(self, checkpoint: Checkpoint, why: str) -> None:
        self._confirm()
        log.warning("%s", why if "\n" in why else f"{checkpoint.path} {why}")
        (checkpoint.path / MANIFEST).rename(checkpoint.path / SET_ASIDE)

    def restore_newest(self, items: dict[str, Any]) -> tuple[Checkpoint, dict[str, Any]] | None:
        """Return the newest intact checkpoint and its items; raise as `restore` if they misfit."""
        checkpoint = self.newest_whole()
        return None if checkpoint is None else (checkpoint, _read(checkpoint, items))

    def finish(self, done: dict[str, Any] | None = None) -> None:
        """Delete everything but the parameters of the best checkpoint, once a stage is finished.

        Args:
          done: record of the end of the stage, of which the checkpoint keeps a copy.
        """
        best = self.best()
        if best is None:
            return
        self._prune(best)
        for path in self.folder.glob("*"):
            if path != best.path and (_is_temporary(path) or (path / SET_ASIDE).exists()):
                _remove(path)
        manifest = manifests.read(best.path)
        names = manifest["files"].items()
        kept = {k: v for k, v in names if not k.startswith("opt_state/")}
        if len(kept) < len(names) or (done and not manifest.get("done")):
            # The manifest first: with it written, the files that follow are no longer missed.
            content = manifest | {"files": kept, "done": done}
            sealed.write(best.path / MANIFEST, content, confirm=self._confirm)
        if (best.path / "opt_state").exists():
            _remove(best.path / "opt_state")

    def kept_record(self) -> dict[str, Any] | None:
        """Return the copy of the record that `finish` was given, if there is one."""
        best = self.best()
        return None if best is None else manifests.read(best.path).get("done")

    def _prune(self, *kept: Checkpoint | None) -> None:
        paths = [checkpoint.path for checkpoint in kept if checkpoint]
        superseded = [one.path for one in self.all() if one.path not in paths]
        if superseded:
            self._confirm()
        for path in superseded:
            _remove(path)


def restore(checkpoint: Checkpoint, items: dict[str, Any]) -> dict[str, Any]:
    """Read items of a checkpoint after verifying every byte of it.

    Args:
      checkpoint: from a `CheckpointStore`.
      items: trees of `ShapeDtypeStruct` with the wanted shardings, by name.

    Raises:
      CheckpointError: a file is damaged or missing, or a shape or dtype is not the wanted one; all
        differences are listed.
    """
    verify(checkpoint)
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


def verify(checkpoint: Checkpoint) -> None:
    """Compare every byte of a checkpoint with its manifest.

    Raises:
      CheckpointError: a file is damaged or missing.
    """
    what, findings = "", []
    try:
        if findings := manifests.damage(checkpoint.path):
            what = f"the checkpoint of step {checkpoint.step} is damaged"
    except sealed.UNREADABLE as error:
        what = f"the manifest of the checkpoint of step {checkpoint.step} is damaged: {error}"
    if what:
        raise CheckpointError(
            what,
            where=str(checkpoint.path),
            hint="run the study's command again: it goes on from the checkpoint before this one, "
            "or repeats the stage.",
            details=findings,
        )


def _storage_problem(error: BaseException | None) -> str:
    """Return what is wrong with the disk if that caused an error; empty if it did not.

    TensorStore puts the error of the system into a text.
    """
    while error is not None:
        if isinstance(error, OSError) and error.errno in files.STORAGE_ERRORS:
            return files.STORAGE_ERRORS[error.errno]
        for number, what in files.STORAGE_ERRORS.items():
            if os.strerror(number) in str(error) or f"[{errno.errorcode[number]}]" in str(error):
                return what
        error = error.__cause__ or error.__context__
    return ""


def _is_temporary(path: Path) -> bool:
    """Return whether a path has a name of `files.temporary_name`."""
    return path.name.startswith(".") and path.name.endswith(".tmp")


def _remove(path: Path) -> None:
    """Remove a folder, a file, or the link to one."""
    if path.is_symlink() or path.is_file():
        path.unlink()
    else:
        shutil.rmtree(path)


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
