"""Safetensors files of a Hugging Face folder, single or in shards; other formats are refused."""

from __future__ import annotations

import contextlib
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from safetensors import SafetensorError, safe_open

from flaxfer.data.json_files import foreign_content, read_json
from flaxfer.errors import CheckpointError

WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
UNSAFE_ENDINGS = (".bin", ".bin.index.json", ".h5", ".msgpack", ".pt", ".pth", ".ckpt")
UNFINISHED_ENDINGS = (".incomplete", ".part", ".partial", ".crdownload", ".aria2", ".tmp")
NO_WEIGHTS = {"training_args.bin", "optimizer.pt", "scheduler.pt", "rng_state.pth", "scaler.pt"}
"""Files of transformers' Trainer that are not weights."""

OTHER_FORMATS = {
    "*.gguf": "llama.cpp",
    "**/*.onnx": "ONNX",
    "**/openvino_model.xml": "OpenVINO",
    "*.ckpt.index": "TensorFlow",
    "*.tflite": "TensorFlow",
    "*.ot": "Rust",
    "*.mlpackage": "Core ML",
}
"""Formats of weights that are not read, by patterns of their files."""

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
    raise _absent(folder)


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
        slices = ((name, reader.get_slice(name)) for name in reader.keys())  # noqa: SIM118 - no dict
        return [Stored(file, n, s.get_dtype(), tuple(s.get_shape())) for n, s in slices]


@contextlib.contextmanager
def open_safetensors(file: Path) -> Iterator[Any]:
    """Open a safetensors file for reading; raise a CheckpointError if it is malformed."""
    try:
        with safe_open(file, framework="np") as reader:
            yield reader
    except (SafetensorError, OSError) as cause:
        raise CheckpointError(
            f"not a valid safetensors file: {_explanation(file) or cause}",
            where=str(file),
            hint="download or copy it again, and compare its size with the published one.",
        ) from cause


def _explanation(file: Path) -> str | None:
    try:
        return foreign_content(file)
    except OSError:
        return None


def _absent(folder: Path) -> CheckpointError:
    """Return the error of a folder without safetensors files of a model, by what it has instead."""
    names = {path.name for path in folder.iterdir()} - NO_WEIGHTS
    pickles = sorted(name for name in names if name.endswith(UNSAFE_ENDINGS))
    shards = sorted(path.name for path in folder.glob("model-*-of-*.safetensors"))
    others = sorted(path.name for path in folder.glob("*.safetensors"))
    unfinished = sorted(
        str(path.relative_to(folder))
        for place in ("*", ".cache/huggingface/download/*")
        for path in folder.glob(place)
        if path.name.endswith(UNFINISHED_ENDINGS)
    )
    what = f"there is no {WEIGHTS} and no {INDEX}"
    hint = "copy the model's safetensors file(s) there."
    if (folder / WEIGHTS).is_symlink():
        what = f"{WEIGHTS} is a link to a missing file, {(folder / WEIGHTS).readlink()}"
        hint = "copy the file itself: `cp -L` follows links."
    elif pickles:
        what = f"there is no {WEIGHTS}, only {', '.join(pickles)}, whose formats can run code"
        hint = (
            "convert a pytorch_model.bin from a trusted source: "
            f"flaxfer convert {shlex.quote(str(folder))} OUT --allow-torch; other "
            "formats: load the model with transformers' from_pretrained and write it with "
            "save_pretrained."
        )
    elif shards:
        what = f"{INDEX} is missing, which belongs to {shards[0]}"
        hint = "copy it there too."
    elif others:
        what = f"there is no {WEIGHTS}, only {', '.join(others)}"
        hint = f"if that is the whole model, rename it to {WEIGHTS}."
    elif unfinished:
        what += f", only an unfinished download, {unfinished[0]}"
        hint = "finish the download."
    elif found := [(name, kind) for kind, name in _other_formats(folder)]:
        what = f"there is no {WEIGHTS}, only {found[0][0]}, a file of {found[0][1]}"
        hint = "use the weights in safetensors that it was made from."
    return CheckpointError(what, where=str(folder), hint=hint)


def _other_formats(folder: Path) -> list[tuple[str, str]]:
    """Return the formats that are not read in a folder, each with a file of it."""
    return [
        (kind, str(path.relative_to(folder)))
        for pattern, kind in OTHER_FORMATS.items()
        for path in sorted(folder.glob(pattern))
    ]
