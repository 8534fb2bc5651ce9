"""Controls of forgetting in whole studies: their records, and what they leave unchanged."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
import safetensors.numpy

from flaxfer.config import Config
from flaxfer.evaluation import records
from flaxfer.evaluation.evaluator import Evaluator, finite
from flaxfer.study import runner, scoring
from flaxfer.study.scoring import mixture
from flaxfer.training.record import StageRecord
from flaxfer.training.state import param_items
from tests.e2e.helpers import (
    SETS,
    Json,
    config_of,
    ids_of,
    open_study,
    runs_of,
    source,
    spec_of,
    with_optimizer,
    with_stage,
    write_sets,
)
from tests.helpers import tiny_model

pytestmark = pytest.mark.usefixtures("exact_vocabulary")


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Config:
    """A study whose intermediate task is the regression and whose target is the classification."""
    folder = tmp_path_factory.mktemp("retention")
    tiny_model(folder / "model", "bert", vocab_size=300, layers=1)
    write_sets(folder)
    # Tokens that are missing from the other task, or from the splits that are trained on.
    for name, word, other in (("sts-*", "guitar", "quiz"), ("sts-test", "dog", "jazz")):
        for file in folder.glob(f"{name}.tsv"):
            file.write_text(file.read_text().replace(word, other))
    config = config_of(folder)
    assert config.intermediate is not None
    regression = dataclasses.replace(config.target, evaluate={})
    shutil.copyfile(folder / "nli-dev.tsv", folder / "nli-again.tsv")
    again = {"again": source("nli-again")}
    classification = dataclasses.replace(config.intermediate, evaluate=again)
    config = dataclasses.replace(config, intermediate=regression, target=classification)
    config = dataclasses.replace(config, store=str(folder / "stages"))
    return with_optimizer(config, "target", learning_rate=1e-2)


def run(config: Config) -> dict[str, Json]:
    runner.run(config, "")
    assert len(records.read_study(Path(config.workdir)).runs) == 4
    return runs_of(config)


@pytest.fixture(scope="module")
def unmoved(config: Config, exact_vocabulary: None) -> dict[str, Json]:
    """Runs with a target stage that changes nothing."""
    config = dataclasses.replace(config, workdir=f"{config.workdir}-unmoved")
    config = with_optimizer(config, "target", learning_rate=1e-12, weight_decay=0.0)
    config = with_stage(config, "target", wise_ft_alphas=(0.0, 0.25, 1.0), evaluate_retention=True)
    return run(config)


@pytest.fixture(scope="module")
def moving(config: Config) -> Config:
    """The study with every control at once."""
    config = with_optimizer(config, "target", l2_sp=0.1)
    return with_stage(
        config,
        "target",
        rehearsal_examples=2,
        wise_ft_alphas=(0.5, 1.0),
        evaluate_retention=True,
    )


@pytest.fixture(scope="module")
def moved(moving: Config, unmoved: Any) -> dict[str, Json]:
    """Runs of `moving`, in the same store."""
    return run(moving)


def up_kernel(params: Json) -> np.ndarray:
    return np.asarray(params["encoder"]["layers"][0]["feed_forward"]["up"]["kernel"])


def close(one: Json, other: Json) -> bool:
    return one.keys() == other.keys() and all(
        one[k] == pytest.approx(other[k], abs=1e-5) for k in one
    )


def test_where_nothing_moved_nothing_is_forgotten(unmoved: dict[str, Json]) -> None:
    before = unmoved["staged/intermediate"]
    retained = unmoved["staged/target"]["retained"]
    sizes = [("dev", SETS["sts-dev"][0]), ("test", SETS["sts-test"][0])]
    assert [(r["set"], r["n"]) for r in retained] == sizes
    assert retained[0]["before"] != retained[1]["before"]
    assert close(retained[0]["before"], before["dev"])
    assert close(retained[1]["before"], before["evaluations"][0]["metrics"])
    for record in retained:
        assert close(record["after"], record["before"])
    for condition in ("direct", "staged"):
        target = unmoved[f"{condition}/target"]
        assert [mixed["alpha"] for mixed in target["wise_ft"]] == [0.0, 0.25, 1.0]
        for mixed in target["wise_ft"]:
            assert close(mixed["dev"], target["dev"])
            for entry, first in zip(mixed["evaluations"], target["evaluations"], strict=True):
                assert (entry["set"], entry["language"]) == (first["set"], first["language"])
                assert close(entry["metrics"], first["metrics"])
    assert not {"wise_ft", "retained"} & (unmoved["scratch/target"].keys() | before.keys())
    assert "retained" not in unmoved["direct/target"]


@pytest.mark.slow  # The fast test above measures and mixes a target stage that moves nothing.
def test_what_moved_is_measured_again(moved: dict[str, Json], unmoved: dict[str, Json]) -> None:
    assert moved["staged/intermediate"]["id"] == unmoved["staged/intermediate"]["id"]
    target = moved["staged/target"]
    _, whole = target["wise_ft"]
    assert close(whole["dev"], target["dev"])
    for entry, wanted in zip(whole["evaluations"], target["evaluations"], strict=True):
        assert close(entry["metrics"], wanted["metrics"])
    before = unmoved["staged/target"]["retained"]
    for record, first in zip(target["retained"], before, strict=True):
        assert close(record["before"], first["before"])
        assert not close(record["after"], record["before"])


@pytest.mark.slow  # Mixtures are tested apart.
@pytest.mark.parametrize("condition", ["direct", "staged"])
def test_wise_ft_mixes_the_start_and_the_result_of_the_target_stage(
    condition: str, moving: Config, moved: dict[str, Json]
) -> None:
    study = open_study(moving)
    spec = spec_of(study, condition)
    start = param_items(study.starts.params(spec))["params"]
    result = spec.record.best_params(study.data.encoder, study.mesh)
    arrays = safetensors.numpy.load_file(Path(moving.model.path) / "model.safetensors")
    (pretrained,) = (v.T for k, v in arrays.items() if k.endswith("0.intermediate.dense.weight"))
    if condition == "direct":
        np.testing.assert_array_equal(up_kernel(start), pretrained)
    else:
        assert np.abs(up_kernel(start) - pretrained).max() > 1e-3
    assert np.abs(up_kernel(result) - up_kernel(start)).max() > 1e-3
    mixed = mixture(start, result, 0.5, spec.fresh)
    settings, stage = spec.settings, study.data.stage("target", spec.seed, condition == "staged")
    evaluator = Evaluator(
        spec.model, settings.task, settings.train, np.dtype(spec.dtype), study.mesh
    )
    half, _ = moved[f"{condition}/target"]["wise_ft"]
    assert close(finite(evaluator.predict(mixed, stage.dev)[1]), half["dev"])


@pytest.mark.slow
@pytest.mark.parametrize("key", ["wise_ft", "retained"])
def test_a_measurement_reads_each_checkpoint_once(
    key: str, moving: Config, moved: dict[str, Json], monkeypatch: pytest.MonkeyPatch
) -> None:
    study = open_study(moving)
    spec = spec_of(study, "staged")
    assert spec.parent is not None
    files = [spec.folder / one.file for one in spec.measurements if one.key == key]
    before = [json.loads(file.read_text()) for file in files]
    for file in files:
        file.unlink()
    read: list[str] = []
    real: Callable[..., Any] = StageRecord.best_params

    def best_params(self: StageRecord, *rest: Any) -> Any:
        read.append(self.folder.name)
        return real(self, *rest)

    monkeypatch.setattr(StageRecord, "best_params", best_params)
    scoring.measure(study.starts, spec, lambda: None)
    assert sorted(read) == sorted([spec.folder.name, spec.parent.folder.name])
    assert [json.loads(file.read_text()) for file in files] == before


@pytest.mark.slow  # It needs the trained studies.
def test_an_identity_holds_only_what_acts_on_the_stage(
    config: Config, moved: dict[str, Json]
) -> None:
    plain = ids_of(config)

    def changed(config: Config) -> set[str]:
        return {name for name, identity in ids_of(config).items() if identity != plain[name]}

    assert changed(with_stage(config, "target", rehearsal_examples=2)) == {"staged/target 0"}
    measured = with_stage(config, "target", wise_ft_alphas=(0.5,), evaluate_retention=True)
    assert changed(measured) == set()
    pulled = with_optimizer(config, "target", l2_sp=0.1)
    assert changed(pulled) == {"direct/target 0", "staged/target 0"}
    assert plain["scratch/target 0"] == moved["scratch/target"]["id"]
    assert spec_of(open_study(pulled), "staged").fresh == (r"^head/(?!(pooler)/)",)


def test_mixtures_are_weighted_means_but_for_fresh_parameters() -> None:
    rng = np.random.default_rng(0)
    start, result = (
        {
            "encoder": {"kernel": rng.normal(size=3)},
            "head": {"pooler": rng.normal(size=2), "output": rng.normal(size=2)},
        }
        for _ in range(2)
    )
    for alpha in (0.0, 0.3, 1.0):
        mixed = mixture(start, result, alpha, (r"^head/(?!(pooler/?))",))
        kernel = start["encoder"]["kernel"] + alpha * (
            result["encoder"]["kernel"] - start["encoder"]["kernel"]
        )
        np.testing.assert_allclose(mixed["encoder"]["kernel"], kernel)
        np.testing.assert_array_equal(mixed["head"]["output"], result["head"]["output"])
        pooler = (1 - alpha) * start["head"]["pooler"] + alpha * result["head"]["pooler"]
        np.testing.assert_allclose(mixed["head"]["pooler"], pooler)
    whole = mixture(start, result, 1.0, ())
    for one, other in zip(jax.tree.leaves(whole), jax.tree.leaves(result), strict=True):
        np.testing.assert_array_equal(one, other)
