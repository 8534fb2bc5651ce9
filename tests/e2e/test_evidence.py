"""What a study says of its data and of its starts: overlap, and scores made before the target."""

from __future__ import annotations

import dataclasses
import itertools
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from flaxfer.config import Config
from flaxfer.data.tokenize import Tokenized
from flaxfer.evaluation.transferability import knn_score, logme
from flaxfer.models import pretrained
from flaxfer.models.encoders import EncoderConfig
from flaxfer.models.families import FAMILIES
from flaxfer.runtime.trees import Params
from flaxfer.study import graph, studies, transferability
from tests.e2e.test_study import config_of, open_study, summary_of, use_one_device, write_sets
from tests.helpers import encoder_config, mesh_of, random_tokenized, tiny_model

SHORT = {"max_steps": 2, "epochs": 1.0}


@pytest.fixture(autouse=True)
def quickly(monkeypatch: pytest.MonkeyPatch, plain_code: None) -> None:
    """One device, little compiling and no drawing."""
    use_one_device(monkeypatch)
    monkeypatch.setattr(graph.report, "write_report", lambda *_, output: [output / "report.html"])


@pytest.fixture
def config(tmp_path: Path) -> Config:
    """A study whose target's train split holds its test set, and the intermediate one German."""
    tiny_model(tmp_path / "model", "bert")
    write_sets(tmp_path)
    for train, other in (("sts-train", "sts-test"), ("nli-train", "sts-german")):
        lines = (tmp_path / f"{other}.tsv").read_text().splitlines(keepends=True)
        if train == "nli-train":
            fields = [line.split("\t") for line in lines]
            lines = ["\t".join([b, a, "yes", *rest]) for a, b, _, *rest in fields]
        with (tmp_path / f"{train}.tsv").open("a") as file:
            file.writelines(lines)
    config = config_of(tmp_path)
    stages = {
        name: dataclasses.replace(stage, train=dataclasses.replace(stage.train, **SHORT))
        for name, stage in (("intermediate", config.intermediate), ("target", config.target))
        if stage is not None
    }
    return dataclasses.replace(
        config, conditions=("direct", "staged"), transferability=20, **stages
    )


def test_what_is_evaluated_on_is_left_out_on_every_path(config: Config) -> None:
    reported = open_study(config)
    study_ = open_study(dataclasses.replace(config, overlap="remove"))
    alone = dataclasses.replace(config, overlap="remove", conditions=("direct",))
    fingerprints = [s.data["target"]["train"].fingerprint for s in (study_, open_study(alone))]
    assert fingerprints[0] == fingerprints[1] != reported.data["target"]["train"].fingerprint
    counts = {(r.a, r.b): (r.pairs, r.removed) for r in study_.overlap}
    target, german = (
        counts["target/train", "target/test"],
        counts["intermediate/train", "target/german"],
    )
    assert target[1] >= target[0] > 9 and german[1] >= german[0] > 7
    for name, (_, removed) in (("target", target), ("intermediate", german)):
        sizes = [len(s.data[name]["train"].id) for s in (reported, study_)]
        assert sizes[0] - sizes[1] == counts[f"{name}/train", f"{name}/train"][1] >= removed


def test_starts_are_scored_once_and_before_the_target(
    config: Config, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    config = dataclasses.replace(config, seeds=(0, 1), batched_seeds=1)
    scored: list[str] = []
    features = transferability.features

    def watched(*given: object) -> np.ndarray:
        done = {path.parent.name for path in Path(config.workdir).glob("stages/*/done.json")}
        scored.append(f"{len(done)}")
        return features(*given)  # type: ignore[arg-type]

    monkeypatch.setattr(transferability, "features", watched)
    studies.run(config, "test")
    assert "overlap" in capsys.readouterr().err
    # Pretrained, before anything is trained; then after the direct and the intermediate stage.
    assert scored == ["0", "2", "5"]
    summary = summary_of(config)
    records = summary["transferability"]
    assert [(r["condition"], r["seed"]) for r in records] == [
        ("direct", 0), ("staged", 0), ("direct", 1), ("staged", 1)
    ]  # fmt: skip
    parents = {run["seed"]: run["parent"] for run in summary["runs"] if run["parent"]}
    assert [r["start"] for r in records] == ["pretrained", parents[0], "pretrained", parents[1]]
    assert records[0]["logme"] == records[2]["logme"] != records[1]["logme"]
    assert {r["examples"] for r in records} == {20}
    found = {(r["a"], r["b"]): r["pairs"] for r in summary["overlap"]}
    assert found["target/train", "target/test"] > 9
    before = json.dumps(records)
    studies.run(config, "test")
    assert len(scored) == 3 and json.dumps(summary_of(config)["transferability"]) == before

    study_ = open_study(config)  # The values, from the pretrained weights.
    data = transferability.sample(study_.data["target"]["train"], 20)
    ids = study_.vocabularies["target"].ids[data.token]
    weights = pretrained.load_encoder(study_.folder, study_.encoder)
    feature = by_hand(study_.encoder, weights, dataclasses.replace(data, token=ids))
    assert records[0]["logme"] == pytest.approx(logme(feature, data.label), abs=1e-4)
    assert records[0]["knn"] == pytest.approx(knn_score(feature, data.label), abs=1e-4)
    # A finished stage needs its start no more.
    for file in Path(config.workdir).glob("stages/*/transferability-20.json"):
        file.unlink()
    for examples in (20, 0):
        studies.run(dataclasses.replace(config, transferability=examples), "test")
        assert summary_of(config)["transferability"] == [] and len(scored) == 3


def by_hand(config: EncoderConfig, params: Params, data: Tokenized) -> np.ndarray:
    """Means over the last layer, every example alone in its row, by a plain loop."""
    family = FAMILIES[config.family]
    made = nnx.eval_shape(lambda: family.encoder(config, rngs=nnx.Rngs(0)))
    encoder = nnx.merge(nnx.split(made, nnx.Param)[0], jax.tree.map(jnp.asarray, params))
    token, type_, segment = np.zeros((3, len(data), int(data.lengths.max())), np.int32)
    for row, (begin, end) in enumerate(itertools.pairwise(data.offset.tolist())):
        token[row, : end - begin] = data.token[begin:end]
        type_[row, : end - begin] = data.type[begin:end]
        segment[row, : end - begin] = 1
    position = np.broadcast_to(np.arange(token.shape[1]), token.shape)
    last = np.asarray(
        encoder.hidden_states(*map(jnp.asarray, (token, type_, position, segment)))[-1]
    )
    return np.stack([row[:len_].mean(axis=0) for row, len_ in zip(last, data.lengths, strict=True)])


def test_a_sample_holds_distinct_examples_as_they_are() -> None:
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
    for wanted, examples in ((12, 12), (30, 60), (30, 30)):
        taken = transferability.sample(twice, examples)
        assert len(taken) == len(taken.id) == wanted
        numbers = [int(name.removeprefix("x:")) for name in taken.id]
        assert numbers == sorted(numbers) and len({n % 30 for n in numbers}) == wanted
        for i, n in enumerate(numbers):
            for mine, theirs in ((taken.token, twice.token), (taken.type, twice.type)):
                own = mine[taken.offset[i] : taken.offset[i + 1]]
                assert own.tolist() == theirs[twice.offset[n] : twice.offset[n + 1]].tolist()
            assert taken.label[i] == twice.label[n] and taken.domain[i] == twice.domain[n]
    config, mesh = encoder_config(), mesh_of()
    module = FAMILIES["bert"].encoder(config, rngs=nnx.Rngs(0))
    params = nnx.to_pure_dict(nnx.split(module, nnx.Param)[1])
    sharded = transferability.features(config, params, taken, mesh)
    np.testing.assert_allclose(sharded, by_hand(config, params, taken), atol=1e-5)
