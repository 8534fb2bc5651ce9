"""Restarts: a run that has not learned is trained anew, from another draw.

Fine-tuning on small data fails altogether with some seeds (`statistics.collapse`), and a common
remedy is to begin again (Devlin et al. 2019, section 4.1; Phang et al. 2018). What decides here is
the run's own best dev score, and never another run or an evaluated set. Order of the data, new
heads, dropout and random weights of the next attempt are those of another seed, while the run keeps
its name and its place in the comparison.

An attempt that was given up leaves STAGE/restarts/<attempt>.json, which says why, and
<attempt>.jsonl, its metrics. The latter is moved there last: until then a kill may have left
something to tidy up.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from pathlib import Path
from typing import Any

from flaxfer.evaluation.chance import chance
from flaxfer.runtime.files import write_atomically

CHECKPOINTS, METRICS = "checkpoints", "metrics.jsonl"


def drawn_seed(seed: int, attempt: int) -> int:
    """The seed that an attempt draws from: the run's own for attempt 0, else one of 31 bits."""
    if not attempt:
        return seed
    digest = hashlib.sha256(f"{seed}/{attempt}".encode()).digest()
    return int.from_bytes(digest[:4], "big") >> 1


def records(folder: Path) -> list[dict[str, Any]]:
    """What the attempts of a stage left that were given up, the first one first."""
    found = sorted((folder / "restarts").glob("*.json"), key=lambda file: int(file.stem))
    return [json.loads(file.read_text(encoding="utf-8")) for file in found]


def why_not_learned(name: str, score: float, n: int) -> str:
    """Return why a run is considered not to have learned, with numbers; empty if it has.

    Args:
      name, score: Best dev score of the run, see `flaxfer.tasks.base.TaskType.learning_score`.
      n: Examples of dev.
    """
    level = chance(n)
    if score > level:
        return ""
    return f"the best dev {name} is {score:.3f}: up to {level:.3f} is chance"


def give_up(folder: Path, record: dict[str, Any]) -> None:
    """Ends the attempt that a stage is at; the next one finds nothing of it in its way."""
    kept = folder / "restarts"
    kept.mkdir(exist_ok=True)
    write_atomically(kept / f"{len(records(folder))}.json", json.dumps(record, indent=1))
    tidy(folder)


def tidy(folder: Path) -> None:
    """Completes `give_up`, if a kill came between. The parameters of the attempt go."""
    given_up = len(records(folder))
    last = folder / "restarts" / f"{given_up - 1}.jsonl"
    if given_up and not last.exists():
        if (folder / CHECKPOINTS).exists():
            shutil.rmtree(folder / CHECKPOINTS)
        os.replace(folder / METRICS, last)
