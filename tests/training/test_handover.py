"""What a stage starts from: which parts of a head are kept, and which have a start at all."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import jax
import pytest
import safetensors.numpy

from flaxfer.config import Optimizer, Task
from flaxfer.data.packing import REHEARSED
from flaxfer.models.pretrained import load_encoder_config, pretrained_head_parts
from flaxfer.training.handover import fresh_patterns, hand_over, same_question
from flaxfer.training.optimizer import trained_part
from tests.helpers import tiny_model
from tests.training.helpers import OPTIMIZER, stage_case, train

NLI = Task("nli", "classification", "accuracy", ("no", "maybe", "yes"))
TOPIC = Task("topic", "classification", "accuracy", ("a", "b"))
TAGS = Task("tags", "tagging", "accuracy", ("x", "y"))
STS = Task("sts", "regression", "pearson", score_range=(0.0, 5.0))
POOLER = (r"^head/(?!(pooler)/)",)


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        (STS, dataclasses.replace(STS, name="sick", metric="spearman"), True),
        (STS, dataclasses.replace(STS, score_range=(1.0, 5.0)), False),
        (STS, dataclasses.replace(STS, score_range=(0.0, 1.0)), False),
        (NLI, dataclasses.replace(NLI, name="xnli", metric="f1"), True),
        (NLI, dataclasses.replace(NLI, score_range=(0.0, 1.0)), True),
        (NLI, dataclasses.replace(NLI, labels=("yes", "maybe", "no")), False),
        (NLI, TOPIC, False),
        (TOPIC, dataclasses.replace(TAGS, labels=TOPIC.labels), False),
    ],
)
def test_a_head_answers_tasks_with_the_same_classes_or_range(
    one: Task, other: Task, same: bool
) -> None:
    assert same_question(one, other) == same_question(other, one) == same


def test_scores_in_another_range_get_a_new_head() -> None:
    trained = {"encoder": {}, "head": {"output": {"bias": 4.0}, "pooler": {"bias": 1.0}}}
    other = dataclasses.replace(STS, score_range=(0.0, 1.0))
    kept = hand_over(trained, "bert", STS, other, lambda: {"pooler": {"bias": 0.0}})
    assert kept["head"] == {"pooler": {"bias": 1.0}}
    assert hand_over(trained, "bert", STS, STS, dict)["head"] == trained["head"]


@pytest.mark.parametrize(
    ("task", "before", "loaded", "fresh"),
    [
        (NLI, None, {"pooler"}, POOLER),
        (NLI, None, set(), ("^head/",)),
        (NLI, TOPIC, set(), POOLER),  # The stage before has trained one.
        (NLI, TAGS, set(), ("^head/",)),
        (NLI, TAGS, {"pooler"}, POOLER),
        (TAGS, NLI, set(), ("^head/",)),
        (NLI, dataclasses.replace(NLI, name="xnli"), set(), ()),
    ],
)
def test_a_pooler_is_fresh_unless_the_weights_or_the_stage_before_have_one(
    task: Task, before: Task | None, loaded: set[str], fresh: tuple[str, ...]
) -> None:
    assert fresh_patterns("bert", task, before, loaded) == fresh


def test_the_parts_of_a_head_in_the_weights_are_read_off_the_files(tmp_path: Path) -> None:
    folder = tiny_model(tmp_path / "model", layers=1)
    config = load_encoder_config(folder)
    parts = pretrained_head_parts(folder, config)
    assert parts["sequence"] == parts["choice"] == {"pooler"}
    assert parts["token"] == parts["span"] == set()
    arrays = safetensors.numpy.load_file(folder / "model.safetensors")
    kept = {name: array for name, array in arrays.items() if "pooler" not in name}
    assert len(kept) == len(arrays) - 2
    safetensors.numpy.save_file(kept, folder / "model.safetensors", metadata={"format": "pt"})
    assert pretrained_head_parts(folder, config)["sequence"] == set()


def test_the_logged_gradient_norm_leaves_frozen_parameters_out(tmp_path: Path) -> None:
    optimizer = dataclasses.replace(OPTIMIZER, freeze=("^encoder/", "^head/(?!output/bias)"))
    case = stage_case(tmp_path, optimizer=optimizer, max_steps=2)
    train(case)
    # One parameter is left: the derivative of a mean of squares by the bias is at most this.
    for record in case.log("train"):
        assert 0 < record["gradient_norm"] <= 2 * record["loss"] ** 0.5


def test_the_trained_part_includes_a_rehearsed_head() -> None:
    params = {name: {"a": jax.numpy.ones(2)} for name in ("encoder", "head", REHEARSED)}
    assert len(trained_part(Optimizer(freeze=("^encoder/",)), params)) == 2
    assert len(trained_part(Optimizer(), params)) == 3
