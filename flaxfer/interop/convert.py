"""Weights from PyTorch's pickles to safetensors, once, for whoever trusts where they come from.

python -m flaxfer.interop.convert FOLDER OUT --allow-torch
"""

from __future__ import annotations

import argparse
import json
import re
import shlex
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from flaxfer.errors import CheckpointError, ConfigError, DataError, FlaxferError
from flaxfer.interop.folders import copy_tokenizer, new_folder
from flaxfer.models.weights import INDEX, WEIGHTS, read_headers, read_json

BIN = "pytorch_model.bin"
BIN_INDEX = f"{BIN}.index.json"

SAFE_TORCH = (2, 6)
"""Before this version `torch.load(weights_only=True)` itself could be made to run code."""


def convert(folder: Path, out: Path, allow_torch: bool) -> Path:
    """Writes `out` with the weights of `folder` as safetensors, its config.json and tokenizer.

    One file becomes model.safetensors, shards become as many shards with their index. Arrays that
    share memory, as tied embeddings do, are stored each by itself.

    Args:
      folder: with config.json and pytorch_model.bin, or shards of it with their index.
      out: a new or empty folder.
      allow_torch: whether the files may be opened, which PyTorch has to do.

    Raises:
      ConfigError: it is not allowed, or PyTorch is absent or too old, or `out` is in use.
      DataError: a file is missing.
      CheckpointError: a file is damaged, or holds something else than arrays.
    """
    files = _files(folder)
    if not allow_torch:
        names = ", ".join(file.name for file in files)
        raise ConfigError(
            f"{names} can only be read by way of a format that can run code",
            where=str(folder),
            hint="if you trust where the file is from, allow it to be opened, with unpickling "
            "restricted to arrays: " + shlex.join(_command(folder, out)),
        )
    torch = _torch()
    weight_map: dict[str, str] = {}
    size = 0
    with new_folder(out) as temporary:
        for number, file in enumerate(files, start=1):
            tensors = _separate(torch, _load(torch, file), file)
            if twice := sorted(tensors.keys() & weight_map.keys()):
                raise CheckpointError(
                    "arrays are stored in two shards", where=str(file), details=twice
                )
            name = WEIGHTS if len(files) == 1 else f"model-{number:05}-of-{len(files):05}"
            name = name.removesuffix(".safetensors") + ".safetensors"
            _save(tensors, temporary / name)
            weight_map |= dict.fromkeys(tensors, name)
            size += sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())
        if len(files) > 1:
            index = {"metadata": {"total_size": size}, "weight_map": weight_map}
            (temporary / INDEX).write_text(json.dumps(index, indent=1), encoding="utf-8")
        shutil.copyfile(folder / "config.json", temporary / "config.json")
        copy_tokenizer(folder, temporary)
        read_headers(temporary)  # What was written can be read.
    return out


def _files(folder: Path) -> list[Path]:
    """The pickles of a folder, in the order of their names."""
    if not folder.is_dir():
        raise DataError(
            "there is no such folder", where=str(folder), hint="name a folder that has a " + BIN
        )
    if (folder / WEIGHTS).is_file() or (folder / INDEX).is_file():
        raise DataError(
            "the folder has safetensors files already: nothing is to be converted",
            where=str(folder),
            hint="use it as it is.",
        )
    if not (folder / "config.json").is_file():
        raise DataError(
            "config.json is missing", where=str(folder), hint="copy the model's config.json there."
        )
    if (folder / BIN).is_file():
        return [folder / BIN]
    if not (folder / BIN_INDEX).is_file():
        raise DataError(
            f"there is no {BIN} and no {BIN_INDEX}",
            where=str(folder),
            hint="name a folder that has one of them; other formats are not converted.",
        )
    weight_map = read_json(folder / BIN_INDEX, CheckpointError).get("weight_map")
    if not isinstance(weight_map, dict) or not all(
        isinstance(name, str) and name == Path(name).name for name in weight_map.values()
    ):
        raise CheckpointError(
            "weight_map does not map the names of arrays to files of the folder",
            where=str(folder / BIN_INDEX),
            hint="download or copy it again.",
        )
    files = [folder / name for name in sorted(set(weight_map.values()))]
    if missing := [file.name for file in files if not file.is_file()]:
        raise CheckpointError(
            "shards are missing",
            where=str(folder),
            details=missing,
            hint="copy them there too.",
        )
    return files


def _command(folder: Path, out: Path) -> list[str]:
    return ["python", "-m", "flaxfer.interop.convert", str(folder), str(out), "--allow-torch"]


def _torch() -> Any:
    try:
        import torch
    except ImportError as error:
        raise ConfigError(
            "PyTorch is not installed, and no other program reads its files",
            where="torch",
            hint='install it here, or wherever you convert: pip install "torch>=2.6".',
        ) from error
    found = re.match(r"(\d+)\.(\d+)", torch.__version__)
    if found is None or (int(found[1]), int(found[2])) < SAFE_TORCH:
        raise ConfigError(
            f"PyTorch {torch.__version__} can be made to run code even by restricted unpickling",
            where="torch",
            hint='install a newer one: pip install "torch>=2.6".',
        )
    return torch


def _load(torch: Any, file: Path) -> Mapping[str, Any]:
    try:
        content = torch.load(file, map_location="cpu", weights_only=True)
    # PyTorch's reader raises what its formats raise, from KeyError to errors of its zip reader.
    except Exception as error:
        raise CheckpointError(
            "the file is damaged, or holds something else than arrays, such as code to be run; "
            f"nothing of it was executed ({_reason(error)})",
            where=str(file),
            hint="download it again from a source that you trust, or one with safetensors files.",
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
    """What PyTorch found, without its advice on how to run the code all the same."""
    text = str(error)
    if found := re.search(r"GLOBAL (\S+)", text):
        return f"it asks for {found[1]}"
    _, _, reason = text.rpartition("WeightsUnpickler error:")
    return f"{type(error).__name__}: {reason.strip().partition(chr(10))[0]}"


def _separate(torch: Any, tensors: Mapping[str, Any], file: Path) -> dict[str, Any]:
    """The tensors, each dense and in memory of its own, which is all that safetensors holds."""
    if odd := sorted(name for name, t in tensors.items() if t.layout != torch.strided):
        raise CheckpointError("arrays are sparse", where=str(file), details=odd)
    seen: set[int] = set()
    separate = {}
    for name, tensor in tensors.items():
        tensor = tensor.detach().contiguous()
        memory = tensor.untyped_storage().data_ptr()
        separate[name] = tensor.clone() if memory in seen else tensor
        seen.add(memory)
    return separate


def _save(tensors: dict[str, Any], file: Path) -> None:
    from safetensors.torch import save_file

    save_file(tensors, str(file), metadata={"format": "pt"})


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m flaxfer.interop.convert",
        description="Write the weights of a pytorch_model.bin as safetensors.",
    )
    parser.add_argument("folder", type=Path, help="a model with pytorch_model.bin, or its shards")
    parser.add_argument("out", type=Path, help="the new folder")
    parser.add_argument(
        "--allow-torch",
        action="store_true",
        help="open the file with PyTorch: only for weights from a source that you trust",
    )
    parsed = parser.parse_args(arguments)
    try:
        print(convert(parsed.folder, parsed.out, parsed.allow_torch))
    except FlaxferError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
