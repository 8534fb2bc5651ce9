"""Models, tokenizers and meshes that several tests build."""

from __future__ import annotations

import contextlib
import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
import safetensors.numpy
import tokenizers
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors

if TYPE_CHECKING:
    import jax

    from flaxfer.data.tokenize import Tokenized
    from flaxfer.models.encoders import EncoderConfig

TEXT = "a man woman child dog cat is are plays playing eats the guitar piano red big runs not"
WORDS = TEXT.split()
LETTERS = "abcdefghijklmnopqrstuvwxyz"

Family = Literal["bert", "roberta", "xlm-roberta", "xlnet"]

TINY_SIZES = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
}


def tiny_tokenizer(folder: Path, family: Family = "bert", positions: int = 64) -> Path:
    """Writes a real tokenizer of about a hundred pieces, and the config.json of a tiny model.

    BERT: lowercasing WordPiece. RoBERTa: byte-level BPE. XLM-R and XLNet: Unigram over words and
    letters, with the templates of those models. `positions` is the longest example a model takes.
    """
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer, special = _BUILDERS[family]()
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(
        json.dumps({"tokenizer_class": "PreTrainedTokenizerFast", **special}), encoding="utf-8"
    )
    pad = tokenizer.get_vocab()[special["pad_token"]]
    config = {"model_type": family, "vocab_size": tokenizer.get_vocab_size(), "pad_token_id": pad}
    if family == "xlnet":
        config |= {"d_model": 16, "n_layer": 2, "n_head": 2, "d_inner": 32}
    else:
        config |= {
            "hidden_size": 16,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "intermediate_size": 32,
            "max_position_embeddings": positions + (0 if family == "bert" else pad + 1),
            "type_vocab_size": 2 if family == "bert" else 1,
        }
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    return folder


def tiny_model(
    folder: Path,
    family: Literal["bert", "xlm-roberta"] = "bert",
    seed: int = 0,
    vocab_size: int = 0,
    deviation: float = 0.05,
    layers: int = 0,
) -> Path:
    """Writes a whole Hugging Face model: config.json, tokenizer, and random weights by their names.

    Two layers of width 32 with four heads and dropout 0.1; BERT has its pooler, as after
    pretraining, and neither has a classifier. `vocab_size`: rows of the embedding, if there are to
    be more of them than the tokenizer has tokens; `deviation`: of the weights, from zero or, for
    the scale of a norm, from one; `layers`: if not two.
    """
    # Not at the top: tests of data need no JAX.
    from flaxfer.models.families import FAMILIES, read_config
    from flaxfer.models.names import stored_shape
    from flaxfer.models.pretrained import parameter_names, parameter_shapes

    tiny_tokenizer(folder, family)
    settings = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    if "hidden_size" in settings:  # XLNet has other names.
        settings |= TINY_SIZES
        settings["num_hidden_layers"] = layers or settings["num_hidden_layers"]
    settings["vocab_size"] = vocab_size or settings["vocab_size"]
    (folder / "config.json").write_text(json.dumps(settings), encoding="utf-8")
    config = read_config(settings)
    shapes = parameter_shapes(config, 1)
    classifier = {name for name, _, _ in FAMILIES[family].heads["sequence"].names}
    rng = np.random.default_rng(seed)
    arrays = {
        name: rng.normal(0.0, deviation, stored_shape(shapes[path], layout)).astype(np.float32)
        + np.float32(path.endswith("norm/scale"))
        for name, path, layout in parameter_names(config)
        if name not in classifier
    }
    safetensors.numpy.save_file(arrays, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def encoder_config(layers: int = 2, dropout: float = 0.0) -> EncoderConfig:
    """A tiny BERT of width 16 with four heads, for rows of up to 32 tokens."""
    from flaxfer.models.families import read_config

    settings = {
        "model_type": "bert",
        "vocab_size": 48,
        "hidden_size": 16,
        "num_hidden_layers": layers,
        "num_attention_heads": 4,
        "intermediate_size": 32,
        "max_position_embeddings": 32,
        "initializer_range": 0.2,
    }
    return read_config(settings).with_dropout(dropout)


def random_tokenized(n: int, classes: int = 0, seed: int = 0, longest: int = 12) -> Tokenized:
    """Random examples for `encoder_config`; without classes the labels are scores from 0 to 5."""
    from flaxfer.data.tokenize import Tokenized
    from flaxfer.tasks import TASK_TYPES

    rng = np.random.default_rng(seed)
    lengths = rng.integers(2, longest + 1, n)
    scores = rng.uniform(0, 5, n).astype(np.float32)
    return Tokenized(
        token=rng.integers(3, 48, lengths.sum()).astype(np.int32),
        type=rng.integers(0, 2, lengths.sum()).astype(np.uint8),
        offset=np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)]),
        cls=np.zeros(n, np.int32),
        label=rng.integers(0, classes, n).astype(np.int32) if classes else scores,
        id=tuple(f"example:{i}" for i in range(n)),
        language=tuple(("en", "de")[i % 2] for i in range(n)),
        domain=tuple(("news", "films", "")[i % 3] for i in range(n)),
        truncated=0,
        fingerprint=f"{n}-{classes}-{seed}-{longest}",
        task_type=TASK_TYPES["classification" if classes else "regression"],
    )


def random_queries(n: int, passages: int, seed: int = 0) -> Tokenized:
    """Random queries for `encoder_config` with one or two of the passages, and some negatives."""
    from flaxfer.tasks import TASK_TYPES
    from flaxfer.tasks.retrieval import Numbers

    rng = np.random.default_rng(seed)
    drawn = [rng.permutation(passages)[: rng.integers(1, 5)].tolist() for _ in range(n)]
    drawn[0] += sorted({*range(passages)}.difference(*drawn))  # Every passage is an example's.
    numbers = tuple(
        Numbers(tuple(each[: 1 + i % 2]), tuple(each[1 + i % 2 :])) for i, each in enumerate(drawn)
    )
    label = np.full((n + passages, 2), -1, np.int32)
    for i, each in enumerate(numbers):
        label[i, : len(each.right)] = each.right
    label[n:, 0] = np.arange(passages)
    texts = random_tokenized(n + passages, seed=seed)
    return dataclasses.replace(
        texts,
        label=label,
        **{name: getattr(texts, name)[:n] for name in ("id", "language", "domain")},
        cluster=("",) * n,
        example=np.append(np.arange(n), rng.integers(0, n, passages)).astype(np.int32),
        reference=numbers,
        task_type=TASK_TYPES["retrieval"],
    )


@contextlib.contextmanager
def restored_compilation_cache() -> Iterator[None]:
    """Restore JAX's compilation cache, which a study sets for the whole process."""
    import jax

    names = ("jax_compilation_cache_dir", "jax_persistent_cache_min_compile_time_secs")
    values = {name: getattr(jax.config, name) for name in names}
    try:
        yield
    finally:
        for name, value in values.items():
            jax.config.update(name, value)


def mesh_of(data: int = 1, fsdp: int = 1, tensor: int = 1) -> jax.sharding.Mesh:
    """A mesh over the first of the simulated devices."""
    import jax

    devices = np.array(jax.devices()[: data * fsdp * tensor]).reshape(data, fsdp, tensor)
    return jax.sharding.Mesh(devices, ("data", "fsdp", "tensor"))


def _bert() -> tuple[tokenizers.Tokenizer, dict[str, str]]:
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    pieces = [*special, *WORDS, *(c for c in LETTERS if c not in WORDS)]
    pieces += [f"##{c}" for c in LETTERS] + ["##s", "##ing", ".", ",", "!", "?"]
    vocabulary = {piece: i for i, piece in enumerate(dict.fromkeys(pieces))}
    tokenizer = tokenizers.Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", vocabulary["[CLS]"]), ("[SEP]", vocabulary["[SEP]"])],
    )
    tokenizer.decoder = decoders.WordPiece()
    return _named(tokenizer, pad="[PAD]", unk="[UNK]", cls="[CLS]", sep="[SEP]", mask="[MASK]")


def _roberta() -> tuple[tokenizers.Tokenizer, dict[str, str]]:
    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    vocabulary = {piece: i for i, piece in enumerate(special)}
    for byte in sorted(pre_tokenizers.ByteLevel.alphabet()):
        vocabulary[byte] = len(vocabulary)
    merges = [("Ġ", "a"), ("t", "h"), ("th", "e"), ("Ġ", "the"), ("m", "a"), ("ma", "n")]
    for left, right in merges:
        vocabulary.setdefault(left + right, len(vocabulary))
    tokenizer = tokenizers.Tokenizer(models.BPE(vocabulary, merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.post_processor = processors.RobertaProcessing(
        ("</s>", 2), ("<s>", 0), trim_offsets=True, add_prefix_space=False
    )
    tokenizer.decoder = decoders.ByteLevel()
    return _named(tokenizer, pad="<pad>", unk="<unk>", cls="<s>", sep="</s>", mask="<mask>")


def _xlm_roberta() -> tuple[tokenizers.Tokenizer, dict[str, str]]:
    tokenizer = _unigram(["<s>", "<pad>", "</s>", "<unk>", "<mask>"])
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>",
        pair="<s> $A </s> </s> $B </s>",
        special_tokens=[("<s>", 0), ("</s>", 2)],
    )
    return _named(tokenizer, pad="<pad>", unk="<unk>", cls="<s>", sep="</s>", mask="<mask>")


def _xlnet() -> tuple[tokenizers.Tokenizer, dict[str, str]]:
    tokenizer = _unigram(["<unk>", "<s>", "</s>", "<cls>", "<sep>", "<pad>", "<mask>"])
    tokenizer.post_processor = processors.TemplateProcessing(
        single="$A:0 <sep>:0 <cls>:2",
        pair="$A:0 <sep>:0 $B:1 <sep>:1 <cls>:2",
        special_tokens=[("<cls>", 3), ("<sep>", 4)],
    )
    return _named(tokenizer, pad="<pad>", unk="<unk>", cls="<cls>", sep="<sep>", mask="<mask>")


def _unigram(special: list[str]) -> tokenizers.Tokenizer:
    pieces = [(piece, 0.0) for piece in special]
    pieces += [(f"▁{word}", -2.0) for word in WORDS]
    pieces += [("▁", -3.0), *((letter, -5.0) for letter in LETTERS + ".,!?")]
    tokenizer = tokenizers.Tokenizer(models.Unigram(pieces, unk_id=special.index("<unk>")))
    tokenizer.normalizer = normalizers.NFKC()
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    return tokenizer


def _named(
    tokenizer: tokenizers.Tokenizer, **names: str
) -> tuple[tokenizers.Tokenizer, dict[str, str]]:
    tokenizer.add_special_tokens(list(names.values()))
    return tokenizer, {f"{role}_token": token for role, token in names.items()}


_BUILDERS = {"bert": _bert, "roberta": _roberta, "xlm-roberta": _xlm_roberta, "xlnet": _xlnet}
