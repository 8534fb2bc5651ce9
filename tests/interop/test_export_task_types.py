"""Exports of every family and task type, without training."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import huggingface_hub
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy

from flaxfer.config import Lora, Model, Optimizer, Task
from flaxfer.data import tokenize
from flaxfer.interop.export import class_name, export
from flaxfer.models import pretrained
from flaxfer.models.families import FAMILIES, read_config
from flaxfer.models.lora import merged, with_adapters
from flaxfer.tasks import TASK_TYPES, task_type
from flaxfer.tasks.models import model_spec
from flaxfer.training.checkpoints import CheckpointStore
from flaxfer.training.record import content_hash
from flaxfer.training.state import ADAPTERS
from flaxfer.training.vocabulary import Vocabulary
from tests.helpers import tiny_tokenizer

ROWS = 300
Json = dict[str, Any]


TASKS = {
    "classification": Task("topic", "classification", "accuracy", ("a", "b", "c")),
    "regression": Task("score", "regression", "pearson"),
    "tagging": Task("names", "tagging", "f1", ("O", "B-X", "I-X", "B-Y")),
    "question_answering": Task("answers", "question_answering", "f1", no_answer=True),
    "multiple_choice": Task("choice", "multiple_choice", "accuracy"),
}


def stage_without_training(
    folder: Path, family: Any, task: Task, *, lora: Lora | None = None, **train: Any
) -> tuple[Path, Any]:
    """Write a finished stage with random parameters; return its folder and the uncut parameters.

    With `lora`, it has adapters, and its head is another one than that of the pretrained model.
    """
    model, head = tiny_tokenizer(folder / "model", family), task_type(task).head_of(task)
    settings = json.loads((model / "config.json").read_text()) | {"vocab_size": ROWS}
    (model / "config.json").write_text(json.dumps(settings))
    whole = read_config(settings)
    rng = np.random.default_rng(0)
    params = jax.tree.map(
        lambda x: np.asarray(x + 0.3 * rng.standard_normal(x.shape), np.float32),
        model_spec(whole, task).random_params(0),
    )
    head_names = {name for name, _, _ in FAMILIES[family].heads[head].names}
    arrays = pretrained.checkpoint_arrays(params, whole, head)
    arrays = {name: array for name, array in arrays.items() if name not in head_names}
    safetensors.numpy.save_file(arrays, model / "model.safetensors", metadata={"format": "pt"})
    items = {}
    if lora is not None:
        adapted = dataclasses.replace(model_spec(whole, task), lora=lora)
        adapters = jax.tree.map(
            lambda x: jnp.asarray(0.3 * rng.standard_normal(x.shape), jnp.float32),
            adapted.random_adapters(0),
        )
        items = {ADAPTERS: adapters}
        params = merged(with_adapters(jax.tree.map(jnp.asarray, params), adapters), lora)
        params = jax.tree.map(np.asarray, params)
        params["head"] = jax.tree.map(lambda x: x + np.float32(0.1), params["head"])
    vocabulary = Vocabulary(np.arange(ROWS - 20))
    cut = jax.tree.map(np.copy, params)
    word = cut["encoder"]["embeddings"]["word"]
    word["embedding"] = word["embedding"][vocabulary.ids]
    identity = {
        "task": dataclasses.asdict(task),
        "optimizer": dataclasses.asdict(Optimizer(weight_decay=0.0)),
        "train": train,
        "seed": 0,
        "dtype": "float32",
        "start": "pretrained",
        "vocabulary": vocabulary.fingerprint,
        "model": pretrained.weights_fingerprint(model, whole),
        **({"lora": dataclasses.asdict(lora)} if lora else {}),
    }
    stage = folder / "work" / "stages" / content_hash(identity)
    store = CheckpointStore(stage / "checkpoints", True)
    store.save(1, {"params": cut, **items}, 0.5, {})
    split = {"languages": {"en": 1}, "sources": [], "examples": 1, "tokens": 9, "truncated": 0}
    records = {
        "identity.json": identity,
        "origin.json": {
            "stage": "target",
            "model": dataclasses.asdict(Model(path=str(model))) | {"folder": str(model)},
            "tokenizer": tokenize.tokenizer_fingerprint(
                tokenize.load_tokenizer(Model(path=str(model)))
            ),
            "data": [{**split, "split": name} for name in ("train", "dev")],
            "versions": {},
        },
        "done.json": {"steps": 1, "best_step": 1, "total_steps": 1, "dev": {}},
    }
    vocabulary.save(stage / "vocabulary.npy")
    for name, content in records.items():
        (stage / name).write_text(json.dumps(content))
    return stage, params


def flaxfer_logits(params: Any, config: Any, task: Task, encoded: Json, last: bool) -> np.ndarray:
    """Compute logits with one sequence a row; the CLS token is the first or the last one."""
    model = model_spec(config, task)
    lengths = [len(ids) for ids in encoded["input_ids"]]
    token_BT = np.zeros((len(lengths), max(lengths)), np.int32)
    type_BT, segment_BT = np.zeros_like(token_BT), np.zeros_like(token_BT)
    for row, (n, ids) in enumerate(zip(lengths, encoded["input_ids"], strict=True)):
        token_BT[row, :n], segment_BT[row, :n] = ids, 1
        type_BT[row, :n] = encoded.get("token_type_ids", [[0] * n] * len(lengths))[row]
    batch = {
        "token_BT": token_BT,
        "type_BT": type_BT,
        "position_BT": np.broadcast_to(np.arange(max(lengths)), token_BT.shape),
        "segment_BT": segment_BT,
        "cls_BE": np.array([[n - 1 if last else 0] for n in lengths], np.int32),
    }
    params, batch = jax.device_put((params, batch))
    return np.asarray(model.apply(params, batch))


CASES = [("bert", type_name) for type_name in TASKS] + [
    (family, type_name)
    for family in ("xlm-roberta", "xlnet")
    for type_name in ("classification", "tagging", "question_answering", "multiple_choice")
]


@pytest.mark.parity
@pytest.mark.parametrize(("family", "type_name"), CASES)
def test_an_export_gives_the_logits_in_transformers(
    family: Any, type_name: str, tmp_path: Path
) -> None:
    import torch
    import transformers

    task = TASKS[type_name]
    stage, params = stage_without_training(tmp_path, family, task)
    out = export(stage, tmp_path / "out")
    auto = {
        "sequence": transformers.AutoModelForSequenceClassification,
        "token": transformers.AutoModelForTokenClassification,
        "span": transformers.AutoModelForQuestionAnswering,
        "choice": transformers.AutoModelForMultipleChoice,
    }[TASK_TYPES[type_name].head]
    model, info = auto.from_pretrained(out, output_loading_info=True)
    assert not any(info.values()), info
    assert [type(model).__name__] == json.loads((out / "config.json").read_text())["architectures"]
    if task.labels:
        assert [model.config.id2label[i] for i in range(len(task.labels))] == list(task.labels)
    tokenizer = transformers.AutoTokenizer.from_pretrained(out)
    pairs = [("a man plays", "the red dog"), ("a man plays", "cats eat")][
        : 1 + (type_name[0] == "m")
    ]
    encoded = tokenizer(*zip(*pairs, strict=True))
    inputs = tokenizer(*map(list, zip(*pairs, strict=True)), padding=True, return_tensors="pt")
    config = pretrained.load_encoder_config(out)
    wanted = flaxfer_logits(params, config, task, encoded, last=family == "xlnet")
    # Another study may start from it.
    encoder = pretrained.load_pretrained(out, config)["encoder"]
    np.testing.assert_array_equal(
        encoder["embeddings"]["word"]["embedding"],
        params["encoder"]["embeddings"]["word"]["embedding"],
    )
    with torch.no_grad():
        if type_name == "multiple_choice":
            logits = model(**{k: v[None] for k, v in inputs.items()}).logits.T[:, None]
        elif type_name == "question_answering":
            answers = model(**inputs)
            logits = torch.stack([answers.start_logits, answers.end_logits], -1)
        else:
            logits = model(**inputs).logits
    logits = logits if logits.ndim == 3 else logits[:, None]
    assert wanted.shape == logits.shape and np.abs(wanted).max() > 0.1
    np.testing.assert_allclose(logits, wanted, atol=1e-5)
    card = huggingface_hub.ModelCard.load(out / "README.md")
    assert card.data.tags == ["flaxfer", type_name.replace("_", "-")]
    assert f"import {auto.__name__}, AutoTokenizer" in card.text


@pytest.mark.parity
def test_every_class_is_one_of_transformers() -> None:
    import transformers

    for family in FAMILIES:
        for task in TASKS.values():
            assert hasattr(transformers, class_name(family, task)), (family, task.type)
