"""Random texts, tokens, models and finished studies of any size, for `benchmarks.growth`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import safetensors.numpy
import tokenizers
from tokenizers import models, normalizers, pre_tokenizers, processors

from flaxfer import config
from flaxfer.config import Source, Task
from flaxfer.data.examples import Examples
from flaxfer.data.tokenize import Tokenized
from flaxfer.evaluation.evaluator import write_predictions
from flaxfer.models.encoders import EncoderConfig
from flaxfer.models.families import read_config
from flaxfer.models.names import stored_shape
from flaxfer.models.pretrained import parameter_names, parameter_shapes
from flaxfer.tasks import TASK_TYPES

TASK = Task("similarity", "regression", "pearson", (), (0.0, 5.0))
SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]")
WORDS = 4000
SEEDS = 5
"""Seeds of a finished study, each of two conditions."""

SETTINGS = {
    "model_type": "bert",
    "vocab_size": len(SPECIAL) + WORDS,
    "hidden_size": 8,
    "num_hidden_layers": 1,
    "num_attention_heads": 1,
    "intermediate_size": 8,
    "max_position_embeddings": 128,
    "pad_token_id": 0,
}


def vocabulary() -> list[str]:
    """Return different words of three to nine letters."""
    letters = np.array(list("abcdefghijklmnopqrstuvwxyz"))
    rng, words = np.random.default_rng(0), dict[str, None]()
    while len(words) < WORDS:
        words["".join(rng.choice(letters, rng.integers(3, 10)))] = None
    return list(words)


def word_counts(size: int, seed: int) -> np.ndarray:
    """Return the number of words of both texts of pairs, (size, 2): 12 on average, skewed."""
    rng = np.random.default_rng(seed)
    common = rng.lognormal(2.35, 0.5, (size, 1))
    return np.clip(np.rint(common * rng.lognormal(0, 0.15, (size, 2))), 2, 60).astype(np.int64)


def texts(size: int, seed: int = 0) -> list[str]:
    """Return the texts of pairs, the first one of a pair before the second."""
    counts = word_counts(size, seed).ravel()
    rng = np.random.default_rng((seed, 1))
    drawn = (WORDS * rng.random(counts.sum()) ** 3).astype(np.int64)  # Some words are frequent.
    words = np.array(vocabulary(), object)[drawn].tolist()
    ends = np.cumsum(counts).tolist()
    return [" ".join(words[a:b]) for a, b in zip([0, *ends], ends, strict=False)]


def examples(size: int, seed: int = 0) -> Examples:
    """Return pairs with scores."""
    both = texts(size, seed)
    score = np.random.default_rng(seed).uniform(0, 5, size).astype(np.float32)
    ids = tuple(f"pairs:{i}" for i in range(size))
    form, second = TASK_TYPES[TASK.type], tuple(both[1::2])
    return Examples(form, tuple(both[::2]), second, score, ids, ("en",) * size, ("",) * size)


def write_pairs(file: Path, size: int, seed: int = 0) -> Path:
    """Write pairs with scores as a file that `source` describes."""
    both = texts(size, seed)
    scores = np.random.default_rng(seed).uniform(0, 5, size)
    with file.open("w", encoding="utf-8") as lines:
        for a, b, score in zip(both[::2], both[1::2], scores.tolist(), strict=True):
            lines.write(f"{a}\t{b}\t{score:.2f}\n")
    return file


def source(name: str, language: str = "en") -> Source:
    """Return the source of a file of `write_pairs`."""
    columns: dict[str, str | int] = {"text_a": 0, "text_b": 1, "label": 2}
    return Source(path=name, header=False, columns=columns, language=language)


def tokens(size: int, languages: Sequence[str] = ("en",)) -> Tokenized:
    """Return the tokens of pairs without their texts."""
    lengths = np.minimum(word_counts(size, 0).sum(axis=1) + 3, 128)
    rng = np.random.default_rng(0)
    blank = ("",) * size
    return Tokenized(
        token=rng.integers(0, SETTINGS["vocab_size"], lengths.sum(), dtype=np.int32),
        type=np.zeros(lengths.sum(), np.uint8),
        offset=np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)]),
        cls=np.zeros(size, np.int32),
        label=rng.uniform(0, 5, size).astype(np.float32),
        id=tuple(map(str, range(size))),
        language=tuple(languages[i % len(languages)] for i in range(size)),
        domain=blank,
        truncated=0,
        fingerprint="f" * 64,
        task_type=TASK_TYPES[TASK.type],
    )


def encoder() -> EncoderConfig:
    """Return the config of a tiny encoder."""
    return read_config(SETTINGS)


def write_model(folder: Path) -> config.Model:
    """Write a Hugging Face folder: tokenizer, and random weights of `encoder`."""
    ids = {word: i for i, word in enumerate([*SPECIAL, *vocabulary()])}
    tokenizer = tokenizers.Tokenizer(models.WordPiece(ids, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    folder = folder / "model"
    folder.mkdir()
    tokenizer.save(str(folder / "tokenizer.json"))
    special = {f"{word[1:-1].lower()}_token": word for word in SPECIAL}
    about = {"tokenizer_class": "PreTrainedTokenizerFast", **special}
    (folder / "tokenizer_config.json").write_text(json.dumps(about), encoding="utf-8")
    (folder / "config.json").write_text(json.dumps(SETTINGS), encoding="utf-8")
    rng, shapes = np.random.default_rng(0), parameter_shapes(encoder(), 1)
    arrays = {
        name: rng.normal(0, 0.02, stored_shape(shapes[path], layout)).astype(np.float32)
        for name, path, layout in parameter_names(encoder())
        if not name.startswith("classifier")
    }
    safetensors.numpy.save_file(arrays, folder / "model.safetensors", metadata={"format": "pt"})
    return config.Model(path=str(folder))


def write_study(folder: Path, languages: int, size: int) -> Path:
    """Write a finished study with an evaluated set of `size` examples in each language."""
    sets = [f"l{i}" for i in range(languages)]
    rng = np.random.default_rng(languages)
    split = {"stage": "target", "tokens": 1, "truncated": 0, "examples": size}
    runs = []
    for condition in ("direct", "staged"):
        for seed in range(SEEDS):
            place = f"stages/{condition}{seed}"
            evaluations = []
            for language in sets:
                data = tokens(size, [language])
                outputs = data.label[:, None] + rng.normal(0, 2, (size, 1)).astype(np.float32)
                file = folder / f"{place}/predictions/{language}-{'f' * 12}.jsonl"
                write_predictions(file, TASK, data, outputs)
                score = float(np.corrcoef(outputs[:, 0], data.label)[0, 1])
                one = {"set": language, "language": language, "n": size}
                evaluations.append(one | {"metrics": {"pearson": score, "spearman": score}})
            run = {"condition": condition, "seed": seed, "stage": "target", "dir": place}
            run |= {"id": f"{condition}{seed}", "steps": 1, "dev": {"pearson": 0.5}}
            runs.append(run | {"evaluations": evaluations})
    splits = [{"split": "train", "languages": {"en": size}, "fingerprint": "e" * 64}]
    facts = {"fingerprint": "f" * 64, "units": size}
    splits += [{"split": name, "languages": {name: size}, **facts} for name in sets]
    record = {
        "name": folder.name,
        "metric": TASK.metric,
        "metrics": ["pearson", "spearman"],
        "larger_is_better": True,
        "task": {"name": TASK.name, "type": TASK.type, "metric": TASK.metric},
        "conditions": ["direct", "staged"],
        "seeds": list(range(SEEDS)),
        "model": {"source": "model", "family": "bert", "parameters": 1},
        "data": [part | split for part in splits],
        "runs": runs,
    }
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "study.json").write_text(json.dumps(record), encoding="utf-8")
    return folder
