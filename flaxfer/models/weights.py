"""Safetensors files of a Hugging Face folder, single or in shards; other formats are refused."""

from __future__ import annotations

import contextlib
import json
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from safetensors import SafetensorError, safe_open

from flaxfer.errors import CheckpointError, DataError

WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
UNSAFE_WEIGHTS = ("*.bin", "*.bin.index.json", "*.h5", "*.msgpack", "*.pt", "*.pth", "*.ckpt")

OLD_NAMES = (("LayerNorm.gamma", "LayerNorm.weight"), ("LayerNorm.beta", "LayerNorm.bias"))
"""Names in the first BERT files, and today's."""


class Stored(NamedTuple):
    """Header of an array in a checkpoint."""

    file: Path
    name: str
    dtype: str
    shape: tuple[int, ...]


def read_headers(folder: Path) -> dict[str, Stored]:
    """Return the headers of all arrays in a folder by name, with `OLD_NAMES` replaced.

    Raises:
      CheckpointError: there are no safetensors files, or they are malformed or incomplete.
    """
    sharded = (folder / INDEX).is_file() and not (folder / WEIGHTS).is_file()
    headers: dict[str, Stored] = {}
    for header in _read_shards(folder) if sharded else _read_single(folder):
        name = header.name
        for old, new in OLD_NAMES:
            name = name.replace(old, new)
        if name in headers:
            raise CheckpointError(
                f"{name} is stored twice",
                where=str(header.file),
                details=(f"{headers[name].name} in {headers[name].file.name}", header.name),
                hint="remove one of the two.",
            )
        headers[name] = header
    return headers


def _read_single(folder: Path) -> list[Stored]:
    file = folder / WEIGHTS
    if file.is_file():
        return _read_header(file)
    unsafe = sorted(path.name for pattern in UNSAFE_WEIGHTS for path in folder.glob(pattern))
    if unsafe:
        raise CheckpointError(
            f"there is no {WEIGHTS}, only {', '.join(unsafe)}, whose formats can run code",
            where=str(folder),
            hint="convert a pytorch_model.bin from a trusted source: "
            f"flaxfer convert {shlex.quote(str(folder))} OUT --allow-torch; other "
            "formats: load the model with transformers' from_pretrained and write it with "
            "save_pretrained.",
        )
    raise CheckpointError(
        f"there is no {WEIGHTS} and no {INDEX}",
        where=str(folder),
        hint="copy the model's safetensors file(s) there.",
    )


def _read_shards(folder: Path) -> list[Stored]:
    index = folder / INDEX
    weight_map = read_json(index, CheckpointError).get("weight_map")
    if not isinstance(weight_map, dict) or not all(
        isinstance(file, str) and file == Path(file).name for file in weight_map.values()
    ):
        raise CheckpointError(
            "weight_map does not map names of arrays to files of the folder",
            where=str(index),
            hint="download or copy it again.",
        )
    files = sorted(set(weight_map.values()))
    if missing := [file for file in files if not (folder / file).is_file()]:
        raise CheckpointError(
            "shards are missing", where=str(folder), details=missing, hint="copy them there too."
        )
    headers = [header for file in files for header in _read_header(folder / file)]
    mismatches = {(header.name, header.file.name) for header in headers} ^ set(weight_map.items())
    if mismatches:
        raise CheckpointError(
            "index and shards disagree about the places of arrays",
            where=str(index),
            details=[f"{name} in {file}" for name, file in sorted(mismatches)],
            hint="download index and shards of the same revision.",
        )
    return headers


def _read_header(file: Path) -> list[Stored]:
    with open_safetensors(file) as reader:
        slices = ((name, reader.get_slice(name)) for name in reader.keys())  # noqa: SIM118
        return [Stored(file, n, s.get_dtype(), tuple(s.get_shape())) for n, s in slices]


@contextlib.contextmanager
def open_safetensors(file: Path) -> Iterator[Any]:
    """Open a safetensors file for reading; raise a CheckpointError if it is malformed."""
    try:
        with safe_open(file, framework="np") as reader:
            yield reader
    except (SafetensorError, OSError) as cause:
        raise CheckpointError(
            f"not a valid safetensors file: {cause}",
            where=str(file),
            hint="download or copy it again, and compare its size (a file of about a hundred bytes "
            "is a Git LFS pointer whose content was not fetched).",
        ) from cause


def read_json(path: Path, error: type[DataError] | type[CheckpointError]) -> dict[str, Any]:
    """Return the JSON object in a file; raise `error` if there is none."""
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
