"""Stages with low-rank adapters: what they train, save, and continue from."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from flaxfer.config import Lora, Optimizer
from flaxfer.runtime.trees import leaves_by_name
from flaxfer.training.checkpoints import CheckpointStore
from flaxfer.training.vocabulary import WORD, row_decay
from tests.helpers import encoder_config, mesh_of
from tests.training.helpers import (
    Case,
    Killed,
    Saves,
    assert_equal_trees,
    assert_same_run,
    kill_at,
    record_saves,
    saved,
    saves_of,
    stage_case,
    train,
)

__all__ = ["saved"]

SETTINGS = Lora(4, 8.0, 0.1, (1, 2))
# A large eps: what is rounding in a gradient that is zero must not become a step.
OPTIMIZER = Optimizer(learning_rate=5e-2, eps=1e-3)
ENCODER = encoder_config(dropout=0.1)
QUERY = "encoder/layers/1/attention/query"
ADAPTED = {f"encoder/layers/1/attention/{name}/kernel" for name in ("query", "value")}


def lora_case(store: Path, seed: int = 0, **changes: Any) -> Case:
    given = {"encoder": ENCODER, "optimizer": OPTIMIZER, "lora": SETTINGS, "max_steps": 5}
    given["gradient_accumulation_steps"] = 1
    return stage_case(store, seed, **given | changes)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Case, dict[int, Any]]]:
    """A stage that nobody disturbed, and what it saved."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        saves = record_saves(monkeypatch)
        case = lora_case(tmp_path_factory.mktemp("whole"))
        train(case)
        yield case, saves_of(saves, case)


def test_adapters_and_head_are_trained_and_nothing_else_moves_by_a_bit(
    whole: tuple[Case, dict[int, Any]],
) -> None:
    case, saves = whole
    start = leaves_by_name(case.start())
    for items in saves.values():
        params, adapters = leaves_by_name(items["params"]), leaves_by_name(items["adapters"])
        assert params.keys() | adapters.keys() == start.keys()
        for name, value in params.items():
            if name.startswith("head/"):
                assert np.abs(value - start[name]).max() > 1e-3, name
            elif name in ADAPTED:
                path = name.removesuffix("/kernel")
                a, b = (np.float64(adapters[f"{path}/lora/{part}"]) for part in "ab")
                merged = start[name] + 8.0 / 4 * np.einsum("Dr,rHK->DHK", a, b)
                np.testing.assert_allclose(value, merged, rtol=0, atol=1e-6)
                assert np.abs(value - start[name]).max() > 1e-3, name
            else:
                assert value.tobytes() == np.asarray(start[name]).tobytes(), name
        moments = [x.size for x in jax.tree.leaves(items["opt_state"]) if x.ndim]
        trained = [x.size for name, x in params.items() if name.startswith("head/")]
        assert sorted(moments) == sorted(2 * [*trained, *(x.size for x in adapters.values())])


def test_the_best_checkpoint_is_an_ordinary_model_beside_its_adapters(
    whole: tuple[Case, dict[int, Any]],
) -> None:
    case, saves = whole
    best = saves[case.done()["best_step"]]
    assert_equal_trees(jax.tree.map(np.asarray, case.best_params()), best["params"])
    adapters = case.spec.record.adapters(ENCODER, case.mesh)
    assert_equal_trees(jax.tree.map(np.asarray, adapters), best["adapters"])
    assert case.spec.record.lora() == SETTINGS
    assert case.spec.identity["lora"] == {
        "rank": 4, "alpha": 8.0, "dropout": 0.1, "layers": (1, 2), "modules": ("query", "value"),
    }  # fmt: skip
    shapes = case.spec.model.param_shapes()
    assert row_decay(case.spec.record.optimizer(), 5, 5, shapes) == 1
    assert row_decay(OPTIMIZER, 5, 5, shapes) < 1
    assert WORD in leaves_by_name(shapes)


def test_a_killed_stage_ends_the_same_to_the_bit(
    whole: tuple[Case, dict[int, Any]],
    tmp_path: Path,
    saved: Saves,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    case = lora_case(tmp_path)
    with monkeypatch.context() as patch:
        kill_at(patch, CheckpointStore, "save", 1, after=True)
        with pytest.raises(Killed):
            train(case)
    train(case)
    undisturbed, saves = whole
    assert_equal_trees(saves_of(saved, case), saves)
    assert case.log("train") == undisturbed.log("train")


@pytest.mark.slow
def test_batched_seeds_on_eight_devices_end_as_alone_on_one(
    whole: tuple[Case, dict[int, Any]], tmp_path: Path, saved: Saves
) -> None:
    alone, saves = whole
    cases = [lora_case(tmp_path, seed, mesh=mesh_of(2, 2, 2)) for seed in (0, 1)]
    train(*cases)
    expected = {(str(alone.folder), step): items for step, items in saves.items()}
    assert_same_run(cases[0], alone, saved | expected)
