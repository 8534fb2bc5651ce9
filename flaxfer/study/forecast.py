"""What a grid has done, what it will do, and how long that may take."""

from __future__ import annotations

import dataclasses
import datetime
import json
import statistics
from collections.abc import Sequence
from pathlib import Path

from flaxfer.runtime.progress import say, table
from flaxfer.study.claims import Claims
from flaxfer.study.graph import Cell, Node
from flaxfer.training.checkpoints import CheckpointStore
from flaxfer.training.finished import IDENTITY
from flaxfer.training.stage_run import DONE


@dataclasses.dataclass(frozen=True)
class Entry:
    """A folder of the store in the forecast.

    Attributes:
      node: one of those that it is.
      cells: names of the studies that it is part of.
      state: `done`, `failed`, `to do`, or who works on it.
      steps_left: optimiser updates, if it does not stop early.
      seconds: an estimate of the time left; None if nothing is known of the model.
    """

    node: Node
    cells: tuple[str, ...]
    state: str
    steps_left: int
    seconds: float | None


def entries(cells: Sequence[Cell], claims: Claims) -> list[Entry]:
    """All stages of the cells, each once, in the order that one process would take them in."""
    users: dict[Path, list[str]] = {}
    nodes: dict[Path, tuple[Node, str]] = {}
    for cell in cells:
        for node in cell.nodes:
            names = users.setdefault(node.folder, [])
            names += [] if cell.config.name in names else [cell.config.name]
            nodes.setdefault(node.folder, (node, cell.facts["model"]["fingerprint"]))
    speeds: dict[tuple[Path, str], float | None] = {}
    found = []
    for folder, (node, model) in nodes.items():
        of = (folder.parent, model)
        speed = speeds[of] = speeds[of] if of in speeds else tokens_per_s(*of)
        owner = claims.owner(folder)
        left = 0 if node.settled or node.trained else node.steps - _steps_taken(folder)
        seconds = None if speed is None else left / node.steps * node.tokens / speed
        state = "done" if node.done else "failed" if node.failed else "to do"
        state = f"running on {owner}" if owner else state
        found.append(Entry(node, tuple(users[folder]), state, left, seconds if left else 0.0))
    return found


def show(cells: Sequence[Cell], claims: Claims) -> None:
    """Prints all stages, and the time that one process may need for the rest."""
    found = entries(cells, claims)
    rows = [
        [
            entry.node.folder.name,
            f"{entry.node.condition}/{entry.node.stage}",
            entry.node.seed,
            entry.state,
            entry.node.steps,
            _span(entry.seconds),
            ", ".join(entry.cells),
        ]
        for entry in found
    ]
    header = ["identity", "stage", "seed", "state", "steps", "time left", "of the studies"]
    table(f"{len(found)} stages of {len(cells)} studies", header, rows)
    known = [entry.seconds for entry in found if entry.seconds is not None]
    unknown = len(found) - len(known)
    total = _span(sum(known)) if known else "unknown"
    if known and unknown:
        total = f"{total}, and {unknown} stages of models that nothing is known of"
    say(f"time left for one process, by the speed of finished stages of the same model: {total}")


def tokens_per_s(store: Path, model: str) -> float | None:
    """Speed of finished stages of a model, with compilation and evaluation: the median.

    By tokens, as a task's texts may be longer than another's. None if none is finished.
    """
    speeds = []
    for file in store.glob(f"*/{DONE}"):
        identity = json.loads((file.parent / IDENTITY).read_text(encoding="utf-8"))
        done = json.loads(file.read_text(encoding="utf-8"))
        if identity["model"] == model and done["examples_per_s"] and done["seconds"]:
            examples = done["steps"] * identity["train"]["batch_size"]
            tokens = examples * done["useful_tokens_per_s"] / done["examples_per_s"]
            speeds.append(tokens / done["seconds"])
    return statistics.median(speeds) if speeds else None


def _steps_taken(folder: Path) -> int:
    """How far a stage has come that is not finished."""
    newest = CheckpointStore(folder / "checkpoints", True).newest()
    return newest.step if newest else 0


def _span(seconds: float | None) -> str:
    if seconds is None:
        return "unknown"
    return str(datetime.timedelta(seconds=round(seconds)))
