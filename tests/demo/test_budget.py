"""The demo is a whole study, yet short on any machine."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from flaxfer.config import Config, Stage, loading
from flaxfer.demo import weights
from flaxfer.tasks import TASK_TYPES
from flaxfer.training.reading import read_study_data

CONFIG = Path(__file__).parents[2] / "configs" / "sts_xling.py"
PADDING = 1.3
"""Slots of the rows for each token."""


@pytest.fixture(scope="module")
def demo() -> Config:
    return loading.load(str(CONFIG), TASK_TYPES)


def test_the_demo_has_three_seeds_two_conditions_and_six_languages(demo: Config) -> None:
    assert (len(demo.seeds), demo.conditions) == (3, ("direct", "staged"))
    assert set(demo.target.evaluate) == {"en", "de", "fr", "es", "zh", "hi"}


def forward_and_backward(encoder: dict[str, int], stage: Stage) -> float:
    """Operations of the matmuls with weights, for a token of a step."""
    width, inner = encoder["hidden_size"], encoder["intermediate_size"]
    frozen = [re.compile(pattern) for pattern in stage.optimizer.freeze]
    names = [f"encoder/layers/{n}/attention" for n in range(encoder["num_hidden_layers"])]
    trained = [name for name in names if not any(p.search(name) for p in frozen)]
    assert trained == names[-len(trained) :], "layers below a trained one need gradients"
    # Two operations a weight and token forward, and twice as many backward.
    return (2 * len(names) + 4 * len(trained)) * (4 * width**2 + 2 * width * inner)


def test_training_takes_at_most_1e13_operations(demo: Config, tmp_path: Path) -> None:
    """They take 150 s at 65 GFLOP/s, which two slow cores with AVX2 multiply in float32."""
    if not weights.has_multilingual():
        pytest.skip("another encoder")
    encoder = json.loads(Path(demo.model.path, "config.json").read_text(encoding="utf-8"))
    data = read_study_data(demo, tmp_path)
    operations = 0.0
    for name, stage, times in (
        ("intermediate", demo.intermediate, 1),
        ("target", demo.target, len(demo.conditions)),
    ):
        assert stage is not None and stage.train.epochs > 0
        tokens = data.stages[name].train.lengths.sum() * stage.train.epochs * PADDING
        operations += times * tokens * forward_and_backward(encoder, stage)
    assert len(demo.seeds) * operations <= 1e13


def test_all_stages_share_the_shape_of_their_batches(demo: Config) -> None:
    """One bucket size, of the same row length and batch size, so few programs are compiled."""
    assert demo.intermediate is not None
    trains = [stage.train for stage in (demo.target, demo.intermediate)]
    shapes = {(t.batch_size, t.row_length, t.max_length, t.max_bucket_sizes) for t in trains}
    assert len(shapes) == 1 and trains[0].max_bucket_sizes == 1
