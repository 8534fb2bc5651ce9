"""A tiny BERT with random weights, and pairs of invented sentences with scores."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np

WORDS = [
    *("a", "bird", "cat", "dog", "fish", "the", "that", "runs", "sleeps", "swims", "sings"),
    *("red", "blue", "small", "old", "in", "on", "under"),
]
SETTINGS = {
    "architectures": ["BertModel"],
    "model_type": "bert",
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "max_position_embeddings": 128,
    "type_vocab_size": 2,
    "pad_token_id": 0,
}
SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
SIZES = {"train": 512, "dev": 64, "test": 128}


def data(folder: Path) -> Path:
    """Write the files of stsb-multi-mt, with scores by the share of common words."""
    rng = np.random.default_rng(0)
    for name, n in SIZES.items():
        file = folder / "stsb-multi-mt" / f"stsb-en-{name}.csv"
        file.parent.mkdir(parents=True, exist_ok=True)
        with open(file, "w", encoding="utf-8", newline="") as opened:
            for _ in range(n):
                first, second = (rng.choice(WORDS, rng.integers(3, 12)) for _ in range(2))
                common = len({*first} & {*second}) / len({*first} | {*second})
                row = [" ".join(first), " ".join(second), f"{5 * common:.3f}"]
                csv.writer(opened).writerow(row)
    return folder


def model(folder: Path) -> Path:
    """Write a Hugging Face folder: config, tokenizer, and normal weights."""
    import safetensors.numpy
    import tokenizers

    folder.mkdir(parents=True, exist_ok=True)
    vocabulary = {word: i for i, word in enumerate((*SPECIAL, *WORDS))}
    tokenizer = tokenizers.Tokenizer(tokenizers.models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = tokenizers.normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.BertPreTokenizer()
    cls, sep = ((word, vocabulary[word]) for word in ("[CLS]", "[SEP]"))
    tokenizer.post_processor = tokenizers.processors.BertProcessing(sep, cls)
    tokenizer.decoder = tokenizers.decoders.WordPiece()
    tokenizer.save(str(folder / "tokenizer.json"))
    names = dict(zip(("pad", "unk", "cls", "sep", "mask"), SPECIAL, strict=True))
    files = {
        "config.json": SETTINGS | {"vocab_size": len(vocabulary)},
        "tokenizer_config.json": {f"{key}_token": word for key, word in names.items()}
        | {"tokenizer_class": "BertTokenizer", "model_max_length": 128},
    }
    for name, content in files.items():
        (folder / name).write_text(json.dumps(content), encoding="utf-8")
    rng = np.random.default_rng(0)
    arrays = {
        name: rng.normal(0, 0.05, shape).astype(np.float32)
        + np.float32(name.endswith("LayerNorm.weight"))
        for name, shape in shapes(len(vocabulary)).items()
    }
    safetensors.numpy.save_file(arrays, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def shapes(vocabulary: int) -> dict[str, tuple[int, ...]]:
    """Return the shape of each weight of BERT by its name."""
    d, f = 32, 64
    found: dict[str, tuple[int, ...]] = {
        "embeddings.word_embeddings.weight": (vocabulary, d),
        "embeddings.position_embeddings.weight": (128, d),
        "embeddings.token_type_embeddings.weight": (2, d),
    }
    linear = {"pooler.dense": (d, d)}
    norms = ["embeddings.LayerNorm"]
    for i in range(2):
        layer = f"encoder.layer.{i}"
        for name in ("self.query", "self.key", "self.value", "output.dense"):
            linear[f"{layer}.attention.{name}"] = (d, d)
        linear |= {f"{layer}.intermediate.dense": (f, d), f"{layer}.output.dense": (d, f)}
        norms += [f"{layer}.attention.output.LayerNorm", f"{layer}.output.LayerNorm"]
    for name, shape in linear.items():
        found |= {f"{name}.weight": shape, f"{name}.bias": shape[:1]}
    return found | {f"{name}.{part}": (d,) for name in norms for part in ("weight", "bias")}
