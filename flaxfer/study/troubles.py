"""Stages that a process cannot train or measure, while it goes on with the others."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from flaxfer.errors import CheckpointError, DivergedError, FlaxferError
from flaxfer.study.claims import Claims
from flaxfer.study.plan import StudyPlan
from flaxfer.training.record import FAILED
from flaxfer.training.stage import StageSpec

MAX_LINES = 10
"""Stages that are listed when this process waits for them."""

TRIES = 2
"""Times that a stage is tried: once more after what is damaged was set aside."""


class Troubles:
    """The errors of stages, each with the number of times that it was tried in vain."""

    def __init__(self) -> None:
        self._errors: dict[Path, tuple[int, CheckpointError]] = {}

    def note(self, specs: Sequence[StageSpec], error: CheckpointError) -> None:
        """Count a failure of stages that were trained together."""
        for spec in specs:
            tries, _ = self._errors.get(spec.folder, (0, error))
            self._errors[spec.folder] = tries + 1, error

    def apart(self, group: Sequence[StageSpec]) -> Sequence[Sequence[StageSpec]]:
        """Return the parts of a group that are trained as one program: all, unless that failed."""
        failed = any(spec.folder in self._errors for spec in group)
        return [[spec] for spec in group] if failed else [group]

    def of(self, spec: StageSpec) -> str:
        """Return why a stage is given up, itself or with one that it starts from; else empty."""
        for stage in spec.lineage:
            tries, error = self._errors.get(stage.folder, (0, None))
            if error is not None and tries >= TRIES and not stage.is_settled():
                what = "; ".join([error.what, *error.details[:3]])
                return f"{error.where}: {what}" if error.where else what
        return ""

    def settled(self, spec: StageSpec) -> bool:
        """Return whether nothing is left that this process could do for a stage."""
        return spec.is_settled() or bool(self.of(spec))

    def errors(self) -> list[CheckpointError]:
        """Return the errors of stages that are given up, each once."""
        given_up = [error for tries, error in self._errors.values() if tries >= TRIES]
        return list({str(error): error for error in given_up}.values())


def failure(
    failed: list[str], number: int, html: Path, errors: Sequence[CheckpointError]
) -> FlaxferError:
    """Return the error of a study some of whose stages could not be trained."""
    if len(errors) == 1:
        (error,) = errors
        error.details = (*error.details, *failed)
        return error
    if errors:
        return CheckpointError(
            f"{len(failed)} of {number} stages could not be trained or measured",
            where=str(html.absolute()),
            hint="run the same command again: it tries them again. If that does not help, check "
            "the disk, and delete the folders named above.",
            details=failed,
        )
    return DivergedError(
        f"{len(failed)} of {number} stages have diverged, or start from one that has",
        where=str(html.absolute()),
        hint="lower optimizer.learning_rate, lengthen the warm-up, or compute in float32 (with "
        f"another name or --replace); without its file {FAILED} a stage is tried again as it is.",
        details=failed,
    )


def waiting(pending: Sequence[StudyPlan], claims: Claims) -> str:
    """Return what this process waits for: stages, their owners, since when and until when."""
    specs = {spec.folder: spec for plan in pending for spec in plan.stages if not spec.is_settled()}
    every = {stage.folder: stage for spec in specs.values() for stage in spec.lineage}
    held = [(spec, owner) for spec in every.values() if (owner := claims.owner(spec.folder))]
    lines = [f"  {spec.title}, {spec.folder.name}: {owner}" for spec, owner in held]
    more = len(lines) - MAX_LINES
    title = f"waiting for {len(specs)} stages held by other processes (or for their prerequisites)"
    return "\n".join(
        [title, *lines[:MAX_LINES], *([f"  and {more} more are held"] if more > 0 else [])]
    )
