"""Conversion of PyTorch's pickled weights to safetensors, for files from a trusted source."""

from __future__ import annotations

import argparse
import json
import re
import shlex
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from flaxfer.data.json_files import read_json
from flaxfer.errors import CheckpointError, ConfigError, DataError
from flaxfer.interop.folders import copy_patterns, copy_tokenizer, new_folder
from flaxfer.models.pretrained import SENTENCE_FILES, load_encoder_config
from flaxfer.models.weights import INDEX, WEIGHTS, read_headers

BIN = "pytorch_model.bin"
BIN_INDEX = f"{BIN}.index.json"

SAFE_TORCH = (2, 6)
"""In earlier versions, a crafted file runs code in spite of `weights_only` (CVE-2025-32434)."""


def convert(folder: str | Path, out: str | Path, allow_torch: bool) -> Path:
    """Write the model of a folder to `out`, with its weights as safetensors.

    A single file becomes model.safetensors; shards become as many shards with an index. Arrays
    that share memory, such as tied embeddings, are stored separately.

    Args:
      folder: holds config.json and pytorch_model.bin, or shards of it with their index.
      out: a new or empty folder.
      allow_torch: whether PyTorch may open the files.

    Raises:
      ConfigError: PyTorch is not allowed, missing or too old, `out` is in use, or config.json
        does not describe a known encoder.
      DataError: a file is missing.
      CheckpointError: a file is damaged, or holds something else than arrays.
    """
    folder, out = Path(folder), Path(out)
    files = _pickles(folder)
    if not allow_torch:
        command = shlex.join(["flaxfer", "convert", str(folder), str(out), "--allow-torch"])
        raise ConfigError(
            f"{', '.join(file.name for file in files)}: the format of PyTorch can run code",
            where=str(folder),
            hint="if you trust the source of the files, open them with unpickling restricted to "
            f"arrays: {command}",
        )
    torch = _import_torch()
    weight_map: dict[str, str] = {}
    size = 0
    with new_folder(out) as temporary:
        for number, file in enumerate(files, start=1):
            tensors = _separate(torch, _load(torch, file), file)
            from safetensors.torch import save_file  # Imports PyTorch.

            if duplicates := sorted(tensors.keys() & weight_map.keys()):
                raise CheckpointError(
                    "arrays are stored in two shards", where=str(file), details=duplicates
                )
            shard = f"model-{number:05}-of-{len(files):05}.safetensors"
            name = shard if len(files) > 1 else WEIGHTS
            save_file(tensors, temporary / name, metadata={"format": "pt"})
            weight_map |= dict.fromkeys(tensors, name)
            size += sum(tensor.nbytes for tensor in tensors.values())
        if len(files) > 1:
            index = {"metadata": {"total_size": size}, "weight_map": weight_map}
            (temporary / INDEX).write_text(json.dumps(index, indent=1), encoding="utf-8")
        shutil.copyfile(folder / "config.json", temporary / "config.json")
        copy_tokenizer(folder, temporary)
        copy_patterns(SENTENCE_FILES, folder, temporary)
        read_headers(temporary)  # Checks that the new files can be read.
    return out


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `flaxfer convert`."""
    parser.add_argument("folder", type=Path, help="a model with pytorch_model.bin, or its shards")
    parser.add_argument("out", type=Path, help="the new folder")
    parser.add_argument(
        "--allow-torch",
        action="store_true",
        help="open the files with PyTorch; only for weights from a trusted source",
    )


def run(args: argparse.Namespace) -> int:
    """Convert the weights of a model and print the path of the new folder."""
    print(convert(args.folder, args.out, args.allow_torch))
    return 0


def _pickles(folder: Path) -> list[Path]:
    """Return the weight files of a folder with the config of a supported model, by name."""
    load_encoder_config(folder)
    names = {path.name for path in folder.glob("*")}
    if names & {WEIGHTS, INDEX}:
        what, hint = "the folder already has safetensors files", "use it as it is."
    elif BIN in names:
        return [folder / BIN]
    elif BIN_INDEX in names:
        return _shards(folder)
    else:
        what = f"there is no {BIN} and no {BIN_INDEX}"
        hint = "name a folder with one of them; other formats are not converted."
    raise DataError(what, where=str(folder), hint=hint)


def _shards(folder: Path) -> list[Path]:
    weight_map = read_json(folder / BIN_INDEX, CheckpointError).get("weight_map")
    if not isinstance(weight_map, dict) or not all(
        isinstance(name, str) and name == Path(name).name for name in weight_map.values()
    ):
        raise CheckpointError(
            "weight_map does not map names of arrays to files of the folder",
            where=str(folder / BIN_INDEX),
            hint="download or copy it again.",
        )
    files = [folder / name for name in sorted(set(weight_map.values()))]
    if missing := [file.name for file in files if not file.is_file()]:
        raise CheckpointError(
            "shards are missing", where=str(folder), details=missing, hint="copy them there too."
        )
    return files


def _import_torch() -> Any:
    hint = 'install it here, or on the machine that converts: pip install "torch>=2.6".'
    try:
        import torch
    except ImportError as error:
        what = "PyTorch, which alone reads its files, is not installed"
        raise ConfigError(what, where="torch", hint=hint) from error
    if tuple(map(int, torch.__version__.split(".")[:2])) < SAFE_TORCH:
        what = f"PyTorch {torch.__version__} can run code even with restricted unpickling"
        raise ConfigError(what, where="torch", hint=hint)
    return torch


def _load(torch: Any, file: Path) -> Mapping[str, Any]:
    try:
        content = torch.load(file, map_location="cpu", weights_only=True)
    # PyTorch raises the errors of its formats, from KeyError to those of its zip reader.
    except Exception as error:
        raise CheckpointError(
            "the file is damaged, or holds something else than arrays, such as code to be run; "
            f"nothing of it was executed ({_reason(error)})",
            where=str(file),
            hint="download it again from a trusted source, or one with safetensors files.",
        ) from error
    if not isinstance(content, Mapping) or not all(
        isinstance(name, str) and isinstance(value, torch.Tensor) for name, value in content.items()
    ):
        raise CheckpointError(
            "the file does not hold arrays by their names",
            where=str(file),
            hint="convert the weights of a model, not the state of a training run.",
        )
    return content


def _reason(error: Exception) -> str:
    """Return PyTorch's finding, without its advice on how to run the code nevertheless."""
    text = str(error)
    if unknown := re.search(r"GLOBAL (\S+)", text):
        return f"it asks for {unknown[1]}"
    _, _, reason = text.rpartition("WeightsUnpickler error:")
    return f"{type(error).__name__}: {reason.strip().partition(chr(10))[0]}"


def _separate(torch: Any, tensors: Mapping[str, Any], file: Path) -> dict[str, Any]:
    """Return dense tensors that share no memory, as safetensors requires."""
    if sparse := sorted(name for name, t in tensors.items() if t.layout != torch.strided):
        raise CheckpointError("arrays are sparse", where=str(file), details=sparse)
    seen: set[int] = set()
    separate = {}
    for name, tensor in tensors.items():
        tensor = tensor.detach().contiguous()
        address = tensor.untyped_storage().data_ptr()
        separate[name] = tensor.clone() if address in seen else tensor
        seen.add(address)
    return separate
