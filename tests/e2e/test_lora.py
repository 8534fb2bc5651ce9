"""Studies whose stages train adapters: where each stage starts, and what it hands over."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from flaxfer.config import Config, Data, Lora, Model, Optimizer, Source, Stage, Task
from flaxfer.errors import ConfigError
from flaxfer.interop.export import export
from flaxfer.interop.predict import predict
from flaxfer.models.lora import adapters, without_adapters
from flaxfer.runtime.trees import leaves_by_name
from flaxfer.study import runner
from flaxfer.study.scoring import mixture
from flaxfer.training.optimizer import BASE
from tests.e2e.helpers import (
    TRAIN,
    config_of,
    folder_of,
    ids_of,
    lines_of,
    open_study,
    predictions_of,
    quickly,
    runs_of,
    spec_of,
    with_optimizer,
    with_stage,
    with_train,
    write_sets,
)
from tests.helpers import WORDS, mesh_of, tiny_model
from tests.interop.helpers import texts_of

SETTINGS = Lora(4, 64.0, 0.1, modules=("query", "up"))
ADAPTED = {f"encoder/layers/0/{name}/kernel" for name in ("attention/query", "feed_forward/up")}


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Config:
    folder = tmp_path_factory.mktemp("lora")
    tiny_model(folder / "model", "bert", vocab_size=300, layers=1)
    write_sets(folder)
    config = dataclasses.replace(config_of(folder), conditions=("direct", "staged"))
    for name in ("intermediate", "target"):
        config = with_train(config, name, max_steps=4, eval_every=2, compute_dtype="float32")
        config = with_optimizer(config, name, learning_rate=2e-2)
        config = with_stage(config, name, lora=SETTINGS)
    return with_stage(config, "target", wise_ft_alphas=(0.0, 0.5, 1.0), evaluate_retention=True)


def test_a_stage_starts_from_the_pretrained_encoder_with_new_adapters(config: Config) -> None:
    study = open_study(config)
    spec = spec_of(study, "direct")
    start = study.starts.params(spec)
    pretrained = study.starts.pretrained("sequence")
    for name, value in leaves_by_name(pretrained["encoder"]).items():
        if "word" not in name:
            np.testing.assert_array_equal(leaves_by_name(start["encoder"])[name], value)
    new = leaves_by_name(adapters(start))
    assert new.keys() == leaves_by_name(spec.trained_model.random_adapters(0)).keys()
    assert len(new) == 4
    assert spec.identity["optimizer"]["freeze"] == (BASE,)
    assert spec.identity["lora"] == dataclasses.asdict(SETTINGS)


def test_only_a_stage_with_adapters_has_another_identity(config: Config) -> None:
    plain = with_stage(with_stage(config, "target", lora=None), "intermediate", lora=None)
    before = ids_of(plain)
    after = ids_of(with_stage(plain, "target", lora=SETTINGS))
    assert {name for name in before if before[name] != after[name]} == {
        "direct/target 0", "staged/target 0",
    }  # fmt: skip
    other = with_stage(plain, "target", lora=dataclasses.replace(SETTINGS, alpha=1.0))
    assert ids_of(other)["direct/target 0"] != after["direct/target 0"]
    identity = spec_of(open_study(plain), "direct").identity
    assert "lora" not in identity and identity["optimizer"]["freeze"] == ()


def test_more_layers_than_the_encoder_has_are_refused(config: Config) -> None:
    beyond = with_stage(config, "target", lora=Lora(layers=(0, 2)))
    with pytest.raises(ConfigError, match="ends after layer 1, but the encoder has 1") as caught:
        open_study(beyond)
    assert caught.value.where == "target.lora.layers"


@pytest.mark.slow  # What stages save and load is tested apart.
def test_merged_adapters_are_handed_over_measured_and_exported(
    config: Config, tmp_path: Path
) -> None:
    with quickly():
        runner.run(config, "the command")
    study = open_study(config)
    encoder, mesh = study.data.encoder, mesh_of()

    def best(condition: str, name: str = "target") -> dict[str, Any]:
        params = spec_of(study, condition, name).record.best_params(encoder, mesh)
        return leaves_by_name(jax.tree.map(np.asarray, params))

    spec = spec_of(study, "staged")
    start = leaves_by_name(without_adapters(study.starts.params(spec)))
    pretrained = leaves_by_name(study.starts.pretrained("sequence"))
    intermediate, target = best("staged", "intermediate"), best("staged")
    for name, value in intermediate.items():
        if not name.startswith("encoder/") or "word" in name:
            continue
        np.testing.assert_array_equal(start[name], value)
        assert (np.abs(value - pretrained[name]).max() > 1e-4) == (name in ADAPTED), name
        assert (np.abs(target[name] - value).max() > 1e-4) == (name in ADAPTED), name
    run = runs_of(config)["staged/target"]
    for mixed, scores in zip(run["wise_ft"], (None, None, run["dev"]), strict=True):
        assert scores is None or mixed["dev"] == pytest.approx(scores, abs=1e-5)
    half = mixture(start, target, 0.5, spec.fresh)
    (name, *_) = ADAPTED
    np.testing.assert_allclose(half[name], (start[name] + target[name]) / 2, atol=1e-6)
    assert run["retained"][0]["set"] == "dev"
    folder = folder_of(config, "staged/target")
    out = export(folder, tmp_path / "out")
    before = predictions_of(folder, "test")
    for record in before:
        record.pop("score")
    assert list(predict(out, texts_of(config, folder, "test"), mesh_of())) == before
    table = (out / "README.md").read_text()
    assert "| lora.rank | 4 | 4 |" in table and "| lora.alpha | 64.0 | 64.0 |" in table


@pytest.mark.slow  # The loss, the layer and what is frozen are tested apart.
def test_an_early_layer_is_aligned_before_the_target(config: Config, tmp_path: Path) -> None:
    tiny_model(tmp_path / "model", "bert", vocab_size=300)
    rng = np.random.default_rng(0)
    pairs = [rng.permutation(WORDS)[:4].tolist() for _ in range(80)]
    for name, words in (("en", slice(2)), ("de", slice(1, 3))):  # They share a word.
        lines = "".join(f"{' '.join(pair[words])}\n" for pair in pairs)
        (Path(config.data_dir) / f"words.{name}").write_text(lines)
    words = Source(
        config.data_dir,
        format="lines",
        aligned={"query": "words.de", "passage": "words.en"},
        language="de",
    )
    intermediate = Stage(
        Task(
            "align", "retrieval", "accuracy_at_1", triplet_margin=0.4, embedding_layer=1
        ),
        Data((words,), split=(0.8, 0.2, 0.0)),
        {},
        Optimizer(learning_rate=1e-2, warmup=5),
        dataclasses.replace(TRAIN, batch_size=8, max_steps=8, eval_every=4),
        Lora(16, 32.0, 0.05, (0, 1)),
    )  # fmt: skip
    config = dataclasses.replace(
        with_stage(config, "target", lora=None, wise_ft_alphas=()),
        model=Model(str(tmp_path / "model")),
        intermediate=intermediate,
        conditions=("staged",),
        workdir=str(tmp_path / "work"),
    )
    with quickly():
        runner.run(config, "the command")
    study = open_study(config)
    spec = spec_of(study, "staged")
    assert spec.parent is not None
    log = lines_of(spec.parent.folder / "metrics.jsonl")
    dev = [record["metrics"] for record in log if record["kind"] == "dev"]
    start = leaves_by_name(study.starts.params(spec))
    before = leaves_by_name(study.starts.pretrained("sequence"))
    adapted = {f"encoder/layers/0/attention/{name}/kernel" for name in ("query", "value")}
    for name, value in before.items():
        if "word" not in name:
            assert np.array_equal(start[name], value) == (name not in adapted), name
    (retained, *_) = runs_of(config)["staged/target"]["retained"]
    assert retained["before"]["accuracy_at_1"] == pytest.approx(
        max(metrics["accuracy_at_1"] for metrics in dev)
    )
