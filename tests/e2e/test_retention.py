"""Controls of forgetting in whole studies: what they record, and what they leave alone."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
import safetensors.numpy

from flaxfer.config import Config, Optimizer
from flaxfer.evaluation import records
from flaxfer.study import studies, study
from flaxfer.training import retention, vocabulary
from tests import helpers
from tests.e2e.test_study import (
    OPTIMIZER,
    SETS,
    config_of,
    one_device,
    summary_of,
    use_one_device,
    write_sets,
)
from tests.helpers import tiny_model

Json = dict[str, Any]
pytestmark = pytest.mark.usefixtures(one_device.__name__, "plain_code")
UNMOVED = Optimizer(learning_rate=1e-12, weight_decay=0.0)


def cut_close(monkeypatch: pytest.MonkeyPatch) -> None:
    """One device; and an embedding without the rows that fill it up, so that rows are missing."""
    use_one_device(monkeypatch)
    monkeypatch.setattr(vocabulary, "MULTIPLE", 1)


def run(config: Config, **target: Any) -> dict[tuple[str, str], Json]:
    """The records of a study by path and stage."""
    config = dataclasses.replace(config, target=dataclasses.replace(config.target, **target))
    studies.run(config, "")
    assert len(records.read_study(Path(config.workdir)).runs) == 4
    return {(r["condition"], r["stage"]): r for r in summary_of(config)["runs"]}


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Config:
    folder = tmp_path_factory.mktemp("retention")
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setitem(helpers.TINY_SIZES, "num_hidden_layers", 1)
        tiny_model(folder / "model", "bert", vocab_size=300)
    write_sets(folder)
    # Tokens that the other task, or the splits that are trained on, do not have.
    for name, word, other in (("sts-*", "guitar", "quiz"), ("sts-test", "dog", "jazz")):
        for file in folder.glob(f"{name}.tsv"):
            file.write_text(file.read_text().replace(word, other))
    made = config_of(folder)
    assert made.intermediate is not None
    scores, classes = dataclasses.replace(made.target, evaluate={}), made.intermediate
    optimizer = dataclasses.replace(OPTIMIZER, learning_rate=1e-2)
    classes = dataclasses.replace(
        classes, optimizer=optimizer, evaluate={"again": classes.data.dev[0]}
    )
    return dataclasses.replace(made, intermediate=scores, target=classes)


@pytest.fixture(scope="module")
def unmoved(config: Config) -> dict[tuple[str, str], Json]:
    """A target stage that changes nothing."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        cut_close(monkeypatch)
        changes: Json = {"wise_ft_alphas": (0.0, 0.25, 1.0), "evaluate_retention": True}
        return run(config, optimizer=UNMOVED, **changes)


@pytest.fixture(scope="module")
def mixed() -> list[tuple[float, Json, Json]]:
    """Share, start and result of the mixtures in `moved`."""
    return []


@pytest.fixture(scope="module")
def moved(config: Config, unmoved: Json, mixed: list[Any]) -> dict[tuple[str, str], Json]:
    """Every control at once."""
    del unmoved
    real = retention.mixture

    def mixture(start: Json, result: Json, share: float, new: tuple[str, ...]) -> Json:
        mixed.append((share, start, result))
        return real(start, result, share, new)

    with pytest.MonkeyPatch.context() as monkeypatch:
        cut_close(monkeypatch)
        monkeypatch.setattr(retention, "mixture", mixture)
        optimizer = dataclasses.replace(config.target.optimizer, l2_sp=0.1)
        changes: Json = {"optimizer": optimizer, "rehearsal_examples": 2}
        return run(config, **changes, wise_ft_alphas=(0.5, 1.0), evaluate_retention=True)


def up_kernel(params: Json) -> np.ndarray:
    return np.asarray(params["encoder"]["layers"][0]["feed_forward"]["up"]["kernel"])


def close(one: Json, other: Json) -> bool:
    return one.keys() == other.keys() and all(
        one[k] == pytest.approx(other[k], abs=1e-5) for k in one
    )


def test_where_nothing_moved_nothing_is_forgotten(unmoved: Any) -> None:
    before = unmoved["staged", "intermediate"]
    kept = unmoved["staged", "target"]["retained"]
    wanted = [("dev", SETS["sts-dev"][0]), ("test", SETS["sts-test"][0])]
    assert [(r["set"], r["n"]) for r in kept] == wanted
    assert kept[0]["before"] != kept[1]["before"]
    assert close(kept[0]["before"], before["dev"])
    assert close(kept[1]["before"], before["evaluations"][0]["metrics"])
    for record in kept:
        assert close(record["after"], record["before"])
    for path in ("direct", "staged"):
        own = unmoved[path, "target"]
        assert [mixed["alpha"] for mixed in own["wise_ft"]] == [0.0, 0.25, 1.0]
        for mixed in own["wise_ft"]:
            assert close(mixed["dev"], own["dev"])
            for entry, first in zip(mixed["evaluations"], own["evaluations"], strict=True):
                assert (entry["set"], entry["language"]) == (first["set"], first["language"])
                assert close(entry["metrics"], first["metrics"])
    assert not {"wise_ft", "retained"} & (unmoved["scratch", "target"].keys() | before.keys())
    assert "retained" not in unmoved["direct", "target"]


def test_what_moved_is_scored_anew(moved: Any, unmoved: Any, mixed: Any, config: Config) -> None:
    assert moved["staged", "intermediate"]["id"] == unmoved["staged", "intermediate"]["id"]
    own = moved["staged", "target"]
    _, whole = own["wise_ft"]
    assert close(whole["dev"], own["dev"])
    for entry, wanted in zip(whole["evaluations"], own["evaluations"], strict=True):
        assert close(entry["metrics"], wanted["metrics"])
    for record, first in zip(own["retained"], unmoved["staged", "target"]["retained"], strict=True):
        assert close(record["before"], first["before"])
        assert not close(record["after"], record["before"])
    # On direct, then on staged; of each dev, then the other sets.
    assert [share for share, _, _ in mixed] == [0.5, 0.5, 1.0, 1.0] * 2
    file = safetensors.numpy.load_file(Path(config.model.path) / "model.safetensors")
    (pretrained,) = (v.T for k, v in file.items() if k.endswith("0.intermediate.dense.weight"))
    kernels = [[up_kernel(start), up_kernel(result)] for _, start, result in mixed]
    for start, result in kernels[:4]:
        np.testing.assert_array_equal(start, pretrained)
        assert np.abs(result - start).max() > 1e-3
    for start, result in kernels[4:]:
        assert np.abs(start - pretrained).max() > 1e-3
        assert np.abs(result - start).max() > 1e-3


def test_only_what_acts_on_a_stage_is_part_of_it(
    config: Config, moved: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    cut_close(monkeypatch)
    ids: dict[str, dict[str, str]] = {}
    for name, changes in {
        "plain": {},
        "rehearse": {"rehearsal_examples": 2},
        "scored": {"wise_ft_alphas": (0.5,), "evaluate_retention": True},
        "pulled": {"optimizer": dataclasses.replace(config.target.optimizer, l2_sp=0.1)},
    }.items():
        made = dataclasses.replace(config, target=dataclasses.replace(config.target, **changes))
        own = study.Study(made, Path(made.workdir), Path(made.cache))
        parent = own._run_of("staged", "intermediate", 0, "pretrained", None)
        runs = {
            "direct": own._run_of("direct", "target", 0, "pretrained", None),
            "staged": own._run_of("staged", "target", 0, "intermediate", parent),
            "scratch": own._run_of("scratch", "target", 0, "random", None),
        }
        ids[name] = {path: run.folder.name for path, run in runs.items()}
    plain = ids["plain"]
    assert ids["scored"] == plain
    assert ids["pulled"]["scratch"] == moved["scratch", "target"]["id"]
    assert {path for path in plain if ids["rehearse"][path] != plain[path]} == {"staged"}
    assert {path for path in plain if ids["pulled"][path] != plain[path]} == {"direct", "staged"}
    assert runs["staged"].new == (r"^head/(?!(pooler)/)",)


def test_mixtures_are_means_but_for_what_is_new() -> None:
    rng = np.random.default_rng(0)
    start, result = (
        {
            "encoder": {"kernel": rng.normal(size=3)},
            "head": {"pooler": rng.normal(size=2), "output": rng.normal(size=2)},
        }
        for _ in range(2)
    )
    leaves = jax.tree.leaves
    for share in (0.0, 0.3, 1.0):
        mixed = retention.mixture(start, result, share, (r"^head/(?!(pooler/?))",))
        kernel = start["encoder"]["kernel"] + share * (
            result["encoder"]["kernel"] - start["encoder"]["kernel"]
        )
        np.testing.assert_allclose(mixed["encoder"]["kernel"], kernel)
        np.testing.assert_array_equal(mixed["head"]["output"], result["head"]["output"])
        pooler = (1 - share) * start["head"]["pooler"] + share * result["head"]["pooler"]
        np.testing.assert_allclose(mixed["head"]["pooler"], pooler)
    whole = retention.mixture(start, result, 1.0, ())
    for one, other in zip(leaves(whole), leaves(result), strict=True):
        np.testing.assert_array_equal(one, other)
