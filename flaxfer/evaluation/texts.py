"""Texts of evaluated sets, which reports show beside the predictions.

They are kept once for all stages of a store, in STORE/texts/<set>-<fingerprint>.json: a sealed
record (`flaxfer.runtime.sealed`) with the lists `id` and `text`, in the order of the lines of the
predictions files of the same name. The text of an example is a list: see
`flaxfer.data.examples.excerpts`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

from flaxfer.data.tokenize import Tokenized
from flaxfer.errors import DataError
from flaxfer.runtime import sealed
from flaxfer.runtime.files import write_atomically

FOLDER = "texts"


def write_texts(predictions: Path, data: Tokenized, confirm: Callable[[], None]) -> None:
    """Write the texts of a set for STORE/<identity>/predictions/<name>.jsonl unless they are there.

    Args:
      predictions: File of the predictions.
      data: The set.
      confirm: Called right before the file is in force.
    """
    path = _path(predictions)
    if data.text and not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        record = sealed.sealed({"id": data.id, "text": data.text}, f"{FOLDER}/{path.name}")
        write_atomically(path, json.dumps(record, ensure_ascii=False), confirm)


def read_texts(predictions: Path) -> dict[str, Sequence[str]]:
    """Return the texts of a set by id; none if an earlier version evaluated it.

    Raises:
      DataError: the file is damaged.
    """
    path = _path(predictions)
    try:
        content = sealed.read(path, f"{FOLDER}/{path.name}")
        return dict(zip(content["id"], content["text"], strict=True))
    except FileNotFoundError:
        return {}
    except (*sealed.UNREADABLE, KeyError, TypeError) as error:
        raise DataError(
            f"the texts are damaged: {error}",
            where=str(path),
            hint="delete the file; the report then names these examples by their ids alone.",
        ) from error


def _path(predictions: Path) -> Path:
    return predictions.parents[2] / FOLDER / f"{predictions.stem}.json"
