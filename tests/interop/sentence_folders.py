"""Folders of sentence-transformers with a tiny BERT, and reference values.

Where sentence-transformers is installed, `python -m tests.interop.sentence_folders` writes the
vectors that its classes give, the reference of `test_sentence.py`.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from flaxfer.interop.sentence import POOLINGS
from tests.helpers import tiny_model

REFERENCE = Path(__file__).with_name("sentence_reference.json")
TEXTS = ["a man plays the guitar", "The Dog", "a woman is eats red big piano not a cat runs", "man"]
WIDTH = 32
SHOWN = 8
"""Components of a vector that the reference holds."""

PROMPTS = {"prompts": {"query": "the man ", "passage": ""}, "default_prompt_name": "query"}
LIMITS = {"max_seq_length": 9, "do_lower_case": True}
CASES: dict[str, dict[str, Any]] = {
    **{mode: {"pooling": mode} for mode in POOLINGS},
    "cls+max+mean": {"pooling": ["cls", "max", "mean"]},
    "prompt and limits": {"pooling": "mean", "settings": PROMPTS, "limits": LIMITS},
    "modules": {"pooling": "max", "modules": ("Dense", "LayerNorm", "Normalize")},
}
"""Arguments of `write_folder` by the name of the reference."""


def write_folder(
    folder: Path,
    pooling: str | list[str] = "mean",
    modules: tuple[str, ...] = (),
    settings: Mapping[str, Any] = {},
    limits: Mapping[str, Any] = {},
) -> Path:
    """Write a whole model whose dense modules halve the width of their input."""
    tiny_model(folder, "bert")
    add_module(folder, 1, "Pooling", {"embedding_dimension": WIDTH, "pooling_mode": pooling})
    rng, width = np.random.default_rng(7), WIDTH
    for number, kind in enumerate(modules, start=2):
        config: dict[str, Any] = {}
        shapes: dict[str, tuple[int, ...]] = {}
        if kind == "Dense":
            config = {"in_features": width, "out_features": width // 2, "bias": True}
            config["activation_function"] = "torch.nn.modules.activation.Tanh"
            shapes = {"linear.weight": (width // 2, width), "linear.bias": (width // 2,)}
            width //= 2
        elif kind == "LayerNorm":
            config, shapes = {"dimension": width}, {"norm.weight": (width,), "norm.bias": (width,)}
        add_module(folder, number, kind, config)
        if shapes:
            arrays = {
                n: rng.normal(0, 0.5, shape).astype(np.float32) for n, shape in shapes.items()
            }
            save_file(arrays, folder / f"{number}_{kind}" / "model.safetensors")
    for name, content in (
        ("config_sentence_transformers.json", settings),
        ("sentence_bert_config.json", limits),
    ):
        if content:
            (folder / name).write_text(json.dumps(content))
    return folder


def add_module(folder: Path, number: int, kind: str, config: Mapping[str, Any]) -> None:
    """Add a module to a folder and to its modules.json."""
    file = folder / "modules.json"
    path = f"{number}_{kind}" if number else ""
    modules = json.loads(file.read_text()) if file.exists() else []
    if number and not modules:
        modules = [{"idx": 0, "name": "0", "path": "", "type": of("Transformer")}]
    modules.append({"idx": number, "name": str(number), "path": path, "type": of(kind)})
    file.write_text(json.dumps(modules))
    (folder / path).mkdir(exist_ok=True)
    (folder / path / "config.json").write_text(json.dumps(config))


def of(kind: str) -> str:
    return f"sentence_transformers.models.{kind}"


def main() -> None:
    from sentence_transformers import SentenceTransformer

    reference = {}
    for name, arguments in CASES.items():
        with tempfile.TemporaryDirectory() as folder:
            write_folder(Path(folder), **arguments)
            vector_nD = SentenceTransformer(folder, device="cpu").encode(TEXTS)
            reference[name] = [[round(float(x), 6) for x in row[-SHOWN:]] for row in vector_nD]
    REFERENCE.write_text(json.dumps(reference, indent=1) + "\n")


if __name__ == "__main__":
    main()
