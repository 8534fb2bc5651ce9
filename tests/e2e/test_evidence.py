"""Evidence beside the scores: overlap of the data, and scores of the starts before training."""

from __future__ import annotations

import dataclasses
import itertools
import json
import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from flaxfer.config import Config
from flaxfer.data.tokenize import Tokenized
from flaxfer.evaluation.step import cast_for_eval, make_eval_step
from flaxfer.evaluation.transferability import knn_score, logme
from flaxfer.interop.embedding import make_embed_step
from flaxfer.models import pretrained
from flaxfer.models.encoders import EncoderConfig
from flaxfer.models.families import FAMILIES
from flaxfer.models.layers import Keys
from flaxfer.runtime.trees import Params
from flaxfer.study import runner, transferability
from flaxfer.study.open_study import forget_programs
from flaxfer.training.step import make_train_step
from tests.e2e.helpers import config_of, open_study, summary_of, with_train, write_sets
from tests.helpers import encoder_config, mesh_of, random_tokenized, tiny_model


@pytest.fixture
def config(tmp_path: Path) -> Config:
    """A study whose target's train split holds its test set, and the intermediate one German."""
    tiny_model(tmp_path / "model", "bert", layers=1)
    write_sets(tmp_path)
    for train, other in (("sts-train", "sts-test"), ("nli-train", "sts-german")):
        lines = (tmp_path / f"{other}.tsv").read_text().splitlines(keepends=True)
        if train == "nli-train":
            fields = [line.split("\t") for line in lines]
            lines = ["\t".join([b, a, "yes", *rest]) for a, b, _, *rest in fields]
        with (tmp_path / f"{train}.tsv").open("a") as file:
            file.writelines(lines)
    config = config_of(tmp_path)
    for name in ("intermediate", "target"):
        config = with_train(config, name, max_steps=2, epochs=1.0, eval_every=2)
    return dataclasses.replace(config, conditions=("direct", "staged"), transferability=20)


def test_overlap_with_evaluated_sets_is_removed_alike_for_every_condition(config: Config) -> None:
    clean = dataclasses.replace(config, overlap="remove")
    direct = dataclasses.replace(clean, conditions=("direct",))
    reported, removed, alone = (open_study(one).data for one in (config, clean, direct))
    fingerprints = [data.stages["target"].train.fingerprint for data in (removed, alone, reported)]
    assert fingerprints[0] == fingerprints[1] != fingerprints[2]
    counts = {(record.a, record.b): (record.pairs, record.removed) for record in removed.overlap}
    target = counts["target/train", "target/test"]
    german = counts["intermediate/train", "target/german"]
    assert target[1] >= target[0] > 9 and german[1] >= german[0] > 7
    for name, (_, number) in (("target", target), ("intermediate", german)):
        before, after = (len(data.stages[name].train.id) for data in (reported, removed))
        assert before - after == counts[f"{name}/train", f"{name}/train"][1] >= number


def test_starts_are_scored_once_and_before_the_target_is_trained(
    config: Config, capsys: pytest.CaptureFixture[str]
) -> None:
    config = dataclasses.replace(config, seeds=(0, 1), batched_seeds=1)
    runner.run(config, "test")
    shown = capsys.readouterr().err
    assert "overlap" in shown
    # Both seeds share the pretrained start.
    assert re.findall(r"(\w+/\w+ seed \d)  (scores its start|step 2/2  dev)", shown) == [
        ("direct/target seed 0", "scores its start"),
        ("direct/target seed 0", "step 2/2  dev"),
        ("staged/intermediate seed 0", "step 2/2  dev"),
        ("staged/target seed 0", "scores its start"),
        ("staged/target seed 0", "step 2/2  dev"),
        ("direct/target seed 1", "step 2/2  dev"),
        ("staged/intermediate seed 1", "step 2/2  dev"),
        ("staged/target seed 1", "scores its start"),
        ("staged/target seed 1", "step 2/2  dev"),
    ]
    summary = summary_of(config)
    records = summary["transferability"]
    assert [(r["condition"], r["seed"]) for r in records] == [
        ("direct", 0), ("staged", 0), ("direct", 1), ("staged", 1)
    ]  # fmt: skip
    parents = {run["seed"]: run["parent"] for run in summary["runs"] if run["parent"]}
    assert [r["start"] for r in records] == ["pretrained", parents[0], "pretrained", parents[1]]
    assert records[0]["logme"] == records[2]["logme"] != records[1]["logme"]
    assert {r["examples"] for r in records} == {20}
    pairs = {(r["a"], r["b"]): r["pairs"] for r in summary["overlap"]}
    assert pairs["target/train", "target/test"] > 9

    study = open_study(config)  # The values, from the pretrained weights.
    stage = study.data.stages["target"]
    data = transferability.sample(stage.train, 20)
    data = dataclasses.replace(data, token=stage.vocabulary.ids[data.token])
    weights = pretrained.load_encoder(study.data.folder, study.data.encoder)
    feature_nD = mean_features(study.data.encoder, weights, data)
    assert records[0]["logme"] == pytest.approx(logme(feature_nD, data.label), abs=1e-4)
    assert records[0]["knn"] == pytest.approx(knn_score(feature_nD, data.label), abs=1e-4)

    for make in (make_train_step, make_eval_step, cast_for_eval, make_embed_step):
        assert make.cache_info().currsize > 0
    forget_programs()
    for make in (make_train_step, make_eval_step, cast_for_eval, make_embed_step):
        assert make.cache_info().currsize == 0

    before = json.dumps(records)
    runner.run(config, "test")
    assert json.dumps(summary_of(config)["transferability"]) == before
    # The start of a finished stage is not scored later.
    for file in Path(config.workdir).glob("stages/*/transferability-20.json"):
        file.unlink()
    for examples in (20, 0):
        runner.run(dataclasses.replace(config, transferability=examples), "test")
        assert summary_of(config)["transferability"] == []
    assert "scores its start" not in capsys.readouterr().err


def mean_features(config: EncoderConfig, params: Params, data: Tokenized) -> np.ndarray:
    """Means over the last layer by a plain loop, every example alone in its row."""
    family = FAMILIES[config.family]
    module = nnx.eval_shape(lambda: family.encoder(config, rngs=Keys(jax.random.key(0))))
    encoder = nnx.merge(nnx.split(module, nnx.Param)[0], jax.tree.map(jnp.asarray, params))
    token, type_, segment = np.zeros((3, len(data), int(data.lengths.max())), np.int32)
    for row, (begin, end) in enumerate(itertools.pairwise(data.offset.tolist())):
        token[row, : end - begin] = data.token[begin:end]
        type_[row, : end - begin] = data.type[begin:end]
        segment[row, : end - begin] = 1
    position = np.broadcast_to(np.arange(token.shape[1]), token.shape)
    batch = {"token_BT": token, "type_BT": type_, "position_BT": position, "segment_BT": segment}
    last = np.asarray(encoder.hidden_states(jax.tree.map(jnp.asarray, batch))[-1])
    rows = zip(last, data.lengths, strict=True)
    return np.stack([row[:length].mean(axis=0) for row, length in rows])


def test_a_sample_holds_distinct_examples_unchanged() -> None:
    data = random_tokenized(30, 3)
    twice = dataclasses.replace(
        data,
        token=np.tile(data.token, 2),
        type=np.tile(data.type, 2),
        offset=np.concatenate([data.offset, data.offset[1:] + data.offset[-1]]),
        cls=np.tile(data.cls, 2),
        label=np.tile(data.label, 2),
        id=tuple(f"x:{i}" for i in range(60)),
        language=data.language * 2,
        domain=data.domain * 2,
        example=np.arange(60, dtype=np.int32),
    )
    for size, examples in ((12, 12), (30, 60), (30, 30)):
        sample = transferability.sample(twice, examples)
        assert len(sample) == len(sample.id) == size
        numbers = [int(name.removeprefix("x:")) for name in sample.id]
        assert numbers == sorted(numbers) and len({n % 30 for n in numbers}) == size
        for i, n in enumerate(numbers):
            for values, whole in ((sample.token, twice.token), (sample.type, twice.type)):
                part = values[sample.offset[i] : sample.offset[i + 1]]
                assert part.tolist() == whole[twice.offset[n] : twice.offset[n + 1]].tolist()
            assert sample.label[i] == twice.label[n] and sample.domain[i] == twice.domain[n]


def test_features_are_means_over_the_last_layer_of_each_example() -> None:
    config, data = encoder_config(), random_tokenized(30, 3)
    module = FAMILIES["bert"].encoder(config, rngs=Keys(jax.random.key(0)))
    params = nnx.to_pure_dict(nnx.split(module, nnx.Param)[1])
    features = transferability.features(config, params, data, mesh_of())
    np.testing.assert_allclose(features, mean_features(config, params, data), atol=1e-5)
