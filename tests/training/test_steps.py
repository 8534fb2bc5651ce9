"""Settings that count steps fit the number of steps, which may follow from the data."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from flaxfer.config import Config, Optimizer, Train
from flaxfer.config.validation import check_steps
from flaxfer.errors import ConfigError
from flaxfer.training.reading import read_study_data
from tests.e2e.helpers import config_of, with_optimizer, with_stage, with_train, write_sets
from tests.helpers import tiny_model


@pytest.mark.parametrize(
    ("optimizer", "train", "steps", "findings"),
    [
        ({"warmup": 500}, {}, 10, ["optimizer.warmup: 500 warm-up steps are all of the 10 steps"]),
        ({"warmup": 10}, {}, 10, ["optimizer.warmup: 10 warm-up steps are all of the 10 steps"]),
        ({"warmup": 9}, {}, 10, []),
        ({"warmup": 0.95}, {}, 10, ["optimizer.warmup: 10 warm-up steps are all of the 10 steps"]),
        ({"warmup": 0.1}, {}, 1, ["optimizer.warmup: 1 warm-up steps are all of the 1 steps"]),
        ({"warmup": 0}, {}, 1, []),
        ({}, {"eval_every": 10, "save_every": 10}, 10, []),
        (
            {},
            {"eval_every": 11, "save_every": 500},
            10,
            [
                "train.eval_every: 11 is more than the 10 steps: it would have no effect",
                "train.save_every: 500 is more than the 10 steps: it would have no effect",
            ],
        ),
        ({"schedule": "wsd", "warmup": 0.5, "decay_fraction": 0.5}, {}, 3, []),
        ({"schedule": "wsd", "warmup": 5, "decay_fraction": 0.5}, {}, 10, []),
        (
            {"schedule": "wsd", "warmup": 6, "decay_fraction": 0.5},
            {},
            10,
            ["optimizer.warmup: 6 warm-up steps and 5 of decay are more than the 10 steps"],
        ),
        ({"schedule": "linear", "warmup": 6, "decay_fraction": 0.5}, {}, 10, []),
    ],
)
def test_settings_are_compared_with_the_steps(
    optimizer: dict[str, Any], train: dict[str, Any], steps: int, findings: list[str]
) -> None:
    found = check_steps(Optimizer(**optimizer), Train(**train), steps, f"the {steps} steps")
    assert [text for _, text in found] == findings


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Config:
    """A study of 40 examples a stage in batches of 8 for 2 epochs: 10 steps."""
    folder = tmp_path_factory.mktemp("steps")
    tiny_model(folder / "model", layers=1)
    write_sets(folder)
    return config_of(folder)


def test_steps_that_follow_from_the_data_are_checked_before_training(config: Config) -> None:
    wrong = with_optimizer(config, "target", warmup=500)
    wrong = with_train(wrong, "intermediate", eval_every=11)
    with pytest.raises(ConfigError) as error:
        read_study_data(wrong, Path(config.cache))
    assert error.value.details == (
        "intermediate.train.eval_every: 11 is more than the 10 steps of 2 epochs of 40 examples: "
        "it would have no effect",
        "target.optimizer.warmup: 500 warm-up steps are all of the 10 steps of 2 epochs of 40 "
        "examples",
    )
    assert not Path(config.workdir).exists()
    # Advice of the hint: a fraction, or longer.
    fraction = with_optimizer(wrong, "target", warmup=0.5)
    longer = with_train(with_train(wrong, "target", epochs=200), "intermediate", epochs=3)
    for mended in (with_train(fraction, "intermediate", eval_every=10), longer):
        read_study_data(mended, Path(config.cache))


def test_a_stage_that_rehearses_is_checked_with_its_own_number_of_steps(config: Config) -> None:
    """Six of eight places are the target's: 14 steps instead of 10."""
    wrong = with_optimizer(with_stage(config, "target", rehearsal_examples=2), "target", warmup=12)
    with pytest.raises(ConfigError, match="do not fit") as error:
        read_study_data(wrong, Path(config.cache))
    assert len(error.value.details) == 1 and "all of the 10 steps" in error.value.details[0]
    staged = dataclasses.replace(wrong, conditions=("staged",))
    read_study_data(staged, Path(config.cache))
    with pytest.raises(ConfigError, match="do not fit") as error:
        read_study_data(with_optimizer(staged, "target", warmup=14), Path(config.cache))
    assert len(error.value.details) == 1 and "all of the 14 steps" in error.value.details[0]
