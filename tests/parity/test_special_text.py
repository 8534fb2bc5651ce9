"""Texts that contain special tokens, against PyTorch with an attention mask (make parity)."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from flaxfer import tasks
from flaxfer.config import Model
from flaxfer.data import bins, packing
from flaxfer.data.examples import Examples
from flaxfer.data.tokenize import load_tokenizer, tokenize
from tests.helpers import Family, tiny_tokenizer
from tests.parity import cases, compare, flax_side

pytestmark = pytest.mark.parity


@pytest.mark.parametrize("family", ["bert", "roberta", "xlm-roberta", "xlnet"])
def test_special_tokens_within_texts_agree(family: Family, tmp_path: Path) -> None:
    from tests.parity import torch_side

    folder = tiny_tokenizer(tmp_path / "tokenizer", family)
    own = json.loads((folder / "config.json").read_text())
    settings = cases.settings(family, 32, 4, 2, 64)
    keys = ("vocab_size", "pad_token_id", "max_position_embeddings", "type_vocab_size")
    settings |= {key: own[key] for key in keys if key in own}
    case = cases.Case(f"special-{family}", settings, seed=3)
    flax_side.write_folder(case, tmp_path)
    for file in folder.glob("tokenizer*"):
        shutil.copy(file, tmp_path)
    tokenizer: Any = load_tokenizer(Model(path=str(tmp_path)))
    pad, sep, cls = tokenizer.pad_token, tokenizer.sep_token, tokenizer.cls_token
    first = ("a man", f"a {pad} man {pad}", f"{pad}{sep}the dog", f"{cls} cat {cls}", pad)
    second = (f"the {pad} cat plays", "the dog", f"{sep}{pad}", "not a cat is", f"{pad} red")
    label = np.arange(len(first), dtype=np.int32) % case.outputs
    columns = [("",) * len(first)] * 3
    data = Examples(tasks.task_type(case.task), first, second, label, *columns)
    tokens = tokenize(data, tokenizer, 48, None)
    rows = bins.pack(tokens.lengths, 64, 3)
    assert len(rows) < len(first)
    packed = packing.build_rows(
        tokens, np.arange(len(first)), rows, len(rows), 64, 3, tokenizer.pad_token_id
    )
    results = flax_side.load(tmp_path, case.task).measure(
        {name: x for name, x in packed.items() if name != "index_BE"}
    )
    names = tokenizer.model_input_names
    inputs = tokenizer(list(first), list(second), padding=True, return_tensors="np")
    assert set(inputs) == set(names) and inputs["attention_mask"].min() == 0
    model = torch_side.tiny_model(case)
    logits, loss = torch_side.classify(model, dict(inputs), label)
    order = np.concatenate([np.asarray(row) for row in rows])
    compare.check(
        {"logits": results["logits"], "loss": results["loss"]},
        {"logits": logits[order], "loss": loss},
    )
