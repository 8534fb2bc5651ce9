"""Shapes of compiled steps, against those of the batches of a run."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from flaxfer import config
from flaxfer.aot import programs, verdict
from flaxfer.aot.flops import Work, train_flops
from flaxfer.aot.topology import parse
from flaxfer.config import Data, Lora, Stage, Task, Train
from flaxfer.data.loader import eval_batches
from flaxfer.errors import ConfigError
from flaxfer.models.spec import ModelSpec
from flaxfer.runtime import sharding
from tests.helpers import encoder_config, mesh_of, random_tokenized

TASK = Task("score", "regression", "pearson")
TRAIN = Train(
    batch_size=16, gradient_accumulation_steps=2, row_length=32, eval_rows=6, max_bucket_sizes=2
)


def workload(**changes: Any) -> programs.Workload:
    data = random_tokenized(40)
    stage = Stage(TASK, Data(train=()), train=TRAIN)
    model = ModelSpec(encoder_config(layers=1))
    work = programs.Workload(stage, model, 100, programs.Splits(data, data))
    return dataclasses.replace(work, **changes)


def shapes_of(batch: dict[str, Any]) -> dict[str, tuple[tuple[int, ...], np.dtype]]:
    return {name: (tuple(x.shape), np.dtype(x.dtype)) for name, x in batch.items()}


@pytest.mark.parametrize("row_shards", [1, 4])
def test_shapes_are_those_of_the_batches_of_a_run(row_shards: int) -> None:
    work = workload()
    plan = work.plan(row_shards)
    largest = max(
        (plan.batch(step) for step in range(plan.total_steps)), key=lambda x: x["token_BT"].size
    )
    assert shapes_of(work.train_shapes(row_shards)) == shapes_of(largest)
    batch = next(
        eval_batches(random_tokenized(40), TRAIN, work.model.encoder.pad_token_id, row_shards)
    )
    assert shapes_of(work.eval_shapes(row_shards)) == shapes_of(batch)


@pytest.mark.parametrize(
    ("name", "targets"),
    [
        ("classification", {"label_BE": np.int32}),
        ("regression", {"label_BE": np.float32}),
        ("tagging", {"label_BT": np.int32}),
        ("question_answering", {"start_BE": np.int32, "end_BE": np.int32}),
        ("multiple_choice", {"label_BE": np.float32, "unit_BE": np.int32}),
    ],
)
def test_every_task_type_has_its_targets(name: Any, targets: dict[str, Any]) -> None:
    stage = Stage(dataclasses.replace(TASK, type=name), Data(train=()), train=TRAIN)
    batch = programs.empty_batch(workload(settings=stage), rows=3, slots=2)
    arrays = {k: v.dtype for k, v in batch.items() if k.split("_")[0] in "label start end unit"}
    assert arrays == targets
    sizes = {"BT": (3, 32), "BE": (3, 2)}
    assert all(x.shape == sizes[name[-2:]] for name, x in batch.items())
    assert not batch["mask_BE"].any() and not batch["segment_BT"].any()


def test_useful_work_is_that_of_an_average_batch() -> None:
    work = workload()
    lengths = random_tokenized(40).lengths.astype(float)
    useful = work.useful()
    assert useful.sequences == 16
    assert useful.tokens == pytest.approx(16 * lengths.mean())
    assert useful.pairs == pytest.approx(16 * (lengths**2).mean())
    rows = 2 * work.rows(4)
    assert work.padded(4).tokens == rows * 32 and work.padded(4).pairs == rows * 32**2


def test_assumed_data_fill_the_rows(tmp_path: Path) -> None:
    file = tmp_path / "config.json"
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    settings = {"model_type": "bert", "vocab_size": 500, "intermediate_size": 32, **sizes}
    file.write_text(json.dumps(settings))
    stage = Stage(TASK, Data(train=()), train=TRAIN)
    study = config.Config(name="x", model=config.Model(dropout=0.25), target=stage)
    work = programs.assumed_workload(study, "target", file, programs.Assumed(6, 4, 256))
    encoder = work.model.encoder
    assert (encoder.vocab_size, work.vocabulary) == (256, 500)
    assert encoder.hidden_dropout == 0.25
    assert work.train_shapes(4)["token_BT"].shape == (2, 8, 32)
    assert work.eval_shapes(4)["cls_BE"].shape == (24, 4)
    assert work.useful() == Work(48, 384, 384 * 384 / 48)
    assert work.examples == 48


def test_bytes_on_a_chip_are_those_of_its_shards() -> None:
    work = workload()
    whole = programs.state_shapes(work, mesh_of(8, 1, 1))
    split = programs.state_shapes(work, mesh_of(1, 8, 1))
    number = sum(np.prod(x.shape) for x in jax.tree.leaves(whole.params))
    assert programs.bytes_on_chip(whole.params) == 4 * number
    assert programs.bytes_on_chip(whole.opt_state) == 8 * number + 4 * 2  # Two step counters.
    assert programs.bytes_on_chip(split.params) < programs.bytes_on_chip(whole.params) / 2


def test_adapters_alone_have_moments_and_evaluation_reads_merged_kernels() -> None:
    settings = Lora(3, modules=("query", "up"))
    plain = workload()
    work = workload(settings=dataclasses.replace(plain.settings, lora=settings))
    width, inner = plain.model.encoder.hidden_size, plain.model.encoder.intermediate_size
    adapters = 4 * (3 * (width + width) + 3 * (width + inner))
    state, start = (programs.state_shapes(x, mesh_of()) for x in (work, plain))
    base = programs.bytes_on_chip(start.params)
    assert programs.bytes_on_chip(state.params) == base + adapters
    head = programs.bytes_on_chip(start.params["head"])
    moments = programs.bytes_on_chip(state.opt_state)
    assert moments == 2 * (head + adapters) + 4 * 2  # Two step counters.
    assert programs.merged_bytes(work, mesh_of()) == 4 * (width * width + width * inner)
    split = programs.merged_bytes(work, mesh_of(1, 8, 1))
    assert split == 4 * (width * width + width * inner) // 8
    assert programs.merged_bytes(plain, mesh_of()) == 0


def test_layers_that_an_assumed_model_does_not_have_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "config.json"
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    file.write_text(
        json.dumps({"model_type": "bert", "vocab_size": 9, "intermediate_size": 32} | sizes)
    )
    stage = Stage(TASK, Data(train=()), train=TRAIN, lora=Lora(layers=(1, 3)))
    study = config.Config(name="x", model=config.Model(), target=stage)
    with pytest.raises(ConfigError, match="ends after layer 2") as caught:
        programs.assumed_workload(study, "target", file, programs.Assumed(6, 4))
    assert caught.value.where == "target.lora.layers"


def test_candidate_meshes_divide_the_model_and_have_rows_for_every_shard() -> None:
    work = workload(fixed_rows=2)
    meshes = {(m.data, m.fsdp, m.tensor) for m in verdict.candidates(work, 8)}
    heads = work.model.encoder.num_heads
    assert all(d * f * t == 8 and heads % t == 0 and d * f <= 4 for d, f, t in meshes)
    assert {(2, 1, 4), (1, 2, 4), (4, 1, 2), (2, 2, 2), (1, 4, 2)} <= meshes
    # With one head there is no tensor axis, so all devices are row shards.
    single = ModelSpec(dataclasses.replace(work.model.encoder, num_heads=1))
    rows_only = {(m.data, m.fsdp) for m in verdict.candidates(workload(model=single), 8)}
    assert rows_only == {(8, 1), (4, 2), (2, 4), (1, 8)}


def test_rates_follow_from_cycles() -> None:
    work, topology = workload(), parse("v5e:8")
    mesh = sharding.make_mesh()
    cycles = round(topology.chip.clock / 100)  # A hundredth of a second.
    rates = verdict.rates(work, topology, mesh, cycles)
    assert rates["examples_per_s_estimate"] == pytest.approx(1600)
    useful = train_flops(work.model, work.useful())
    share = useful / (0.01 * 8 * topology.chip.peak)
    assert rates["utilisation_estimate"]["useful"] == pytest.approx(share, rel=1e-6)
    assert rates["utilisation_estimate"]["all_tokens"] > share
    assert verdict.rates(work, parse("h100:8"), mesh, None)["examples_per_s_estimate"] is None


def test_rows_that_no_batch_fits_into_are_refused() -> None:
    fewest = workload().plan(4).bucket_sizes[0]
    assert workload(fixed_rows=fewest + 1).rows(4) == fewest + 4
    with pytest.raises(ConfigError, match=f"at least {workload().plan(1).bucket_sizes[0]}"):
        workload(fixed_rows=1).rows(1)


def test_a_missing_stage_is_refused() -> None:
    stage = Stage(TASK, Data(train=()))
    study = config.Config(name="x", model=config.Model(), target=stage)
    assert programs.stage_settings(study, "target") == stage
    with pytest.raises(ConfigError, match="no intermediate stage"):
        programs.stage_settings(study, "intermediate")
