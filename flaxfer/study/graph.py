"""The stages of one or many studies as a graph, drained by as many processes as are started on it.

A study is a cell. A node is a stage of a path and seed; nodes of several cells may be one folder of
the store, which is trained once. Processes agree by claims on the folders (`flaxfer.study.claims`):
each does what nobody else does, comes back for the rest, and ends when all is settled. What is here
knows nodes by what they leave on disk; how they are trained is `flaxfer.study.study`'s affair.
"""

from __future__ import annotations

import dataclasses
import json
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from flaxfer.config import Config
from flaxfer.config.grids import CellKey
from flaxfer.report import writing
from flaxfer.runtime.files import write_atomically
from flaxfer.runtime.progress import say
from flaxfer.study.claims import Claims
from flaxfer.training.stage_run import DONE, FAILED

POLL = 1.0
"""Seconds between two looks at what others do, where there is nothing else to do."""


@dataclasses.dataclass(frozen=True)
class Node:
    """A stage of a path and seed.

    Attributes:
      path, seed, stage: of a study.
      folder: in the store.
      parent: folder of the stage that it begins with, if it begins with one.
      scores: by name, the files with the scores of the sets that it is not trained on.
      steps: optimiser updates, if it does not stop early.
      tokens: of the examples of all these steps, special tokens included.
      start_scores: file with what was told of its start beforehand, if that is to be told.
      notes: by key of its record, the files with what else is measured of it, lists of records.
    """

    condition: str
    seed: int
    stage: str
    folder: Path
    parent: Path | None
    scores: Mapping[str, Path]
    steps: int
    tokens: float
    start_scores: Path | None = None
    notes: Mapping[str, tuple[Path, ...]] = dataclasses.field(default_factory=dict)

    @property
    def trained(self) -> bool:
        """Whether it has come to the end of its training."""
        return (self.folder / DONE).exists()

    @property
    def done(self) -> bool:
        """Whether it is trained and scored."""
        files = [*self.scores.values(), *(file for own in self.notes.values() for file in own)]
        return self.trained and all(file.exists() for file in files)

    @property
    def failed(self) -> str:
        """Why it cannot be trained; empty if it may."""
        if self.parent is not None and (self.parent / FAILED).exists():
            return f"the stage that it begins with, {self.parent.name}, has diverged"
        file = self.folder / FAILED
        return str(json.loads(file.read_text(encoding="utf-8"))["error"]) if file.exists() else ""

    @property
    def settled(self) -> bool:
        """Whether nothing is left to be done."""
        return self.done or bool(self.failed)

    def can_begin(self, claims: Claims) -> bool:
        """Whether the stage before it is finished, and nobody works on either."""
        if claims.owner(self.folder) is not None:
            return False
        if self.parent is None:
            return True
        # A trained stage is still tidied up and scored by its owner.
        return (self.parent / DONE).exists() and claims.owner(self.parent) is None

    def record(self, workdir: Path) -> dict[str, Any]:
        """Of a finished node, what study.json says."""
        return {
            "condition": self.condition,
            "seed": self.seed,
            "stage": self.stage,
            "id": self.folder.name,
            "dir": Path(os.path.relpath(self.folder, workdir)).as_posix(),
            "parent": self.parent.name if self.parent else None,
            **json.loads((self.folder / DONE).read_text(encoding="utf-8")),
            "evaluations": _joined(self.scores.values()),
            **{key: _joined(files) for key, files in self.notes.items()},
        }

    def start_record(self) -> dict[str, Any] | None:
        """What study.json says of how well its start suits it; None if nothing was told of it."""
        if self.start_scores is None or not self.start_scores.exists():
            return None
        start = self.parent.name if self.parent else "pretrained"
        scores = json.loads(self.start_scores.read_text(encoding="utf-8"))
        return {"condition": self.condition, "seed": self.seed, "start": start, **scores}


def _joined(files: Iterable[Path]) -> list[dict[str, Any]]:
    """The records of files that hold a list of them each."""
    return [record for file in files for record in json.loads(file.read_text(encoding="utf-8"))]


@dataclasses.dataclass(frozen=True)
class Cell:
    """A study with its nodes.

    Attributes:
      config: of the study.
      groups: nodes of one stage that are trained together, a stage after the one it begins with.
      facts: what study.json says beside the runs.
    """

    config: Config
    groups: Sequence[tuple[Node, ...]]
    facts: Mapping[str, Any]

    @property
    def nodes(self) -> Iterator[Node]:
        """By path, stage and seed."""
        for group in self.groups:
            yield from group

    @property
    def settled(self) -> bool:
        """Whether nothing is left to be done."""
        return all(node.settled for node in self.nodes)

    def can_go_on(self, claims: Claims) -> bool:
        """Whether there is something to do now, for all that one can see."""
        return any(ready(group, claims) for group in self.groups)


def ready(group: Sequence[Node], claims: Claims) -> list[Node]:
    """What is left of a group, if all of it can begin now."""
    left = [node for node in group if not node.settled]
    return left if all(node.can_begin(claims) for node in left) else []


def drain(cells: Iterable[Cell], claims: Claims, work: Callable[[Cell], bool]) -> None:
    """Works until all nodes are settled, by this process or by others.

    Args:
      cells: all of the grid.
      claims: of this process.
      work: does of a cell what nobody else does; gives whether it was anything.
    """
    waits = False
    while left := [cell for cell in cells if not cell.settled]:
        worked = [work(cell) for cell in left if cell.can_go_on(claims)]
        if any(worked):
            waits = False
            continue
        if not waits:
            folders = {node.folder for cell in left for node in cell.nodes if not node.settled}
            say(f"waits for {len(folders)} stages that other processes work on, or for theirs")
        waits = True
        time.sleep(POLL)


def write_summary(
    cell: Cell, more: Mapping[str, Any], place: CellKey | None
) -> list[dict[str, Any]]:
    """Writes study.json of a settled cell, and gives its failures.

    Args:
      cell: the study.
      more: what is to be said beside its facts and runs.
      place: in its grid, if it has one.
    """
    order = {seed: i for i, seed in enumerate(cell.config.seeds)}
    nodes = sorted(cell.nodes, key=lambda node: order[node.seed])  # Stable: stages in their order.
    workdir = Path(cell.config.workdir)
    failed = [
        {"condition": node.condition, "seed": node.seed, "stage": node.stage, "error": node.failed}
        for node in nodes
        if not node.done
    ]
    runs = [node.record(workdir) for node in nodes if node.done]
    starts = [record for node in nodes if (record := node.start_record())]
    summary = {
        **cell.facts,
        **more,
        "cell": dataclasses.asdict(place) if place else None,
        "transferability": starts,
        "runs": runs,
        "failed": failed,
    }
    write_atomically(workdir / "study.json", json.dumps(summary, indent=1))
    return failed


def write_report(cells: Sequence[Cell], workdir: Path) -> Path:
    """Writes the report of all cells, which have a study.json each, and gives the page.

    Args:
      cells: all of the grid.
      workdir: of the grid, for the report.
    """
    return writing.write_report(*(Path(cell.config.workdir) for cell in cells), output=workdir)[0]
