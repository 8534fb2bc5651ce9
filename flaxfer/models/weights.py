"""Safetensors files of a Hugging Face folder, one or in shards; the only kind that is read."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from safetensors import SafetensorError, safe_open

from flaxfer.errors import CheckpointError, DataError

T = TypeVar("T")

WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
UNSAFE_WEIGHTS = ("*.bin", "*.bin.index.json", "*.h5", "*.msgpack", "*.pt", "*.pth", "*.ckpt")

OLD_NAMES = (("LayerNorm.gamma", "LayerNorm.weight"), ("LayerNorm.beta", "LayerNorm.bias"))
"""What the first BERT files call the same arrays."""


class Stored(NamedTuple):
    """An array of a checkpoint, not read yet."""

    file: Path
    name: str
    dtype: str
    shape: tuple[int, ...]


def read_headers(folder: Path) -> dict[str, Stored]:
    """Every array of the folder's files by its name, `OLD_NAMES` replaced; only headers are read.

    Raises:
      CheckpointError: there are no safetensors files, or they are malformed or incomplete.
    """
    in_shards = (folder / INDEX).is_file() and not (folder / WEIGHTS).is_file()
    stored: dict[str, Stored] = {}
    for entry in _stored_in_shards(folder) if in_shards else _stored_in_one(folder):
        name = entry.name
        for old, new in OLD_NAMES:
            name = name.replace(old, new)
        if name in stored:
            raise CheckpointError(
                f"{name} is stored twice",
                where=str(entry.file),
                details=(f"{stored[name].name} in {stored[name].file.name}", entry.name),
                hint="remove one of the two.",
            )
        stored[name] = entry
    return stored


def _stored_in_one(folder: Path) -> list[Stored]:
    file = folder / WEIGHTS
    if file.is_file():
        return _read_header(file)
    unsafe = sorted(path.name for pattern in UNSAFE_WEIGHTS for path in folder.glob(pattern))
    if unsafe:
        raise CheckpointError(
            f"there is no {WEIGHTS}, only {', '.join(unsafe)}, whose formats can run code",
            where=str(folder),
            hint="convert a pytorch_model.bin from a source that you trust: "
            f"flaxfer convert {shlex.quote(str(folder))} OUT --allow-torch; other "
            "formats: load the model with transformers' from_pretrained and write it with "
            "save_pretrained.",
        )
    raise CheckpointError(
        f"there is no {WEIGHTS} and no {INDEX}",
        where=str(folder),
        hint="copy the model's safetensors file(s) there.",
    )


def _stored_in_shards(folder: Path) -> list[Stored]:
    index = folder / INDEX
    weight_map = read_json(index, CheckpointError).get("weight_map")
    if not isinstance(weight_map, dict) or not all(
        isinstance(file, str) and file == Path(file).name for file in weight_map.values()
    ):
        raise CheckpointError(
            "weight_map does not map the names of arrays to files of the folder",
            where=str(index),
            hint="download or copy it again.",
        )
    files = sorted(set(weight_map.values()))
    if missing := [file for file in files if not (folder / file).is_file()]:
        raise CheckpointError(
            "shards are missing",
            where=str(folder),
            details=missing,
            hint="copy them there too.",
        )
    stored = [entry for file in files for entry in _read_header(folder / file)]
    disagreement = {(entry.name, entry.file.name) for entry in stored} ^ set(weight_map.items())
    if disagreement:
        raise CheckpointError(
            "the index and the shards disagree about where these arrays are",
            where=str(index),
            details=[f"{name} in {file}" for name, file in sorted(disagreement)],
            hint="download index and shards of the same revision.",
        )
    return stored


def _read_header(file: Path) -> list[Stored]:
    def read(reader: Any) -> list[Stored]:
        slices = ((name, reader.get_slice(name)) for name in reader.keys())  # noqa: SIM118
        return [Stored(file, n, s.get_dtype(), tuple(s.get_shape())) for n, s in slices]

    return open_file(file, read)


def open_file(file: Path, read: Callable[[Any], T]) -> T:
    """What `read` makes of an open safetensors file.

    Raises:
      CheckpointError: the file is malformed.
    """
    try:
        with safe_open(file, framework="np") as reader:
            return read(reader)
    except (SafetensorError, OSError) as cause:
        raise CheckpointError(
            f"not a valid safetensors file: {cause}",
            where=str(file),
            hint="download or copy it again, and compare its size (a pointer of Git LFS, of a "
            "hundred bytes, stands for a file that was not fetched).",
        ) from cause


def read_json(path: Path, error: type[DataError] | type[CheckpointError]) -> dict[str, Any]:
    """The JSON object in a file; raises `error` if there is none."""
    hint = "copy or download the file again from where the model is published."
    try:
        settings = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise error("there is no such file", where=str(path), hint=hint) from None
    except (OSError, ValueError, RecursionError) as cause:
        what = f"the file cannot be read as JSON: {cause}"
        raise error(what, where=str(path), hint=hint) from cause
    if not isinstance(settings, dict):
        raise error("the file does not hold a JSON object", where=str(path), hint=hint)
    return settings
