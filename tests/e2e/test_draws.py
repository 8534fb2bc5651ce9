"""Seeds that draw their own training data: each is trained as by a study with that `split_seed`."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from flaxfer.config import Config
from flaxfer.data import overlap
from flaxfer.errors import PreemptedError
from flaxfer.runtime import signals
from flaxfer.study import plan, runner, scoring, transferability
from flaxfer.training import loop
from flaxfer.training.data import StudyData, example_ids
from flaxfer.training.vocabulary import Vocabulary
from tests.e2e.helpers import (
    TIMES,
    Json,
    config_of,
    ids_of,
    open_study,
    predictions_of,
    summary_of,
    with_stage,
    with_train,
    write_sets,
)
from tests.helpers import tiny_model
from tests.training.test_stopping import signal_at

SEEDS = (3, 0)


@pytest.fixture(scope="module")
def fixed(tmp_path_factory: pytest.TempPathFactory) -> Config:
    """A study that samples the training data of both stages and divides the target's."""
    folder = tmp_path_factory.mktemp("draws")
    tiny_model(folder / "model", "bert", layers=1)
    write_sets(folder)
    lines = (folder / "sts-test.tsv").read_text().splitlines(keepends=True)
    with (folder / "sts-train.tsv").open("a") as file:
        file.writelines(lines)  # For the overlap.
    config = dataclasses.replace(
        config_of(folder), conditions=("direct", "staged"), seeds=SEEDS, batched_seeds=1
    )
    (german,) = config.target.evaluate.values()
    sampled = dataclasses.replace(german, fraction=0.6)
    config = with_stage(config, "target", evaluate={"german": sampled}, evaluate_retention=True)
    config = with_data(config, "target", dev=(), split=(0.6, 0.4, 0.0))
    for name in ("intermediate", "target"):
        config = with_data(config, name, train_fraction=0.8)
        config = with_train(config, name, max_steps=4, eval_every=2, save_every=1)
    return config


def with_data(config: Config, name: str, /, **changes: Any) -> Config:
    data = dataclasses.replace(getattr(config, name).data, **changes)
    return with_stage(config, name, data=data)


def drawn(config: Config, split_seed: Any = "seed", *names: str) -> Config:
    for name in names or ("intermediate", "target"):
        config = with_data(config, name, split_seed=split_seed)
    return config


def fingerprints(data: StudyData, seed: int) -> dict[str, str]:
    """Content hashes of all splits of a seed."""
    return {
        f"{name}/{split}": tokenized.fingerprint
        for name, stage in data.draws[seed].stages.items()
        for split, tokenized in (*stage.splits.items(), *stage.evaluated.items())
    }


def test_each_seed_has_the_data_and_stages_of_its_number(fixed: Config) -> None:
    study = open_study(drawn(fixed))
    stages = {f"{s.condition}/{s.name} {s.seed}": s for s in study.plan.stages}
    evaluated = {"intermediate/test", "target/test", "target/german"}
    for seed in SEEDS:
        # By number, sampled evaluated sets follow it too; by seed, they are those of 0.
        number = dataclasses.replace(drawn(fixed, seed), seeds=(seed,))
        expected = fingerprints(open_study(number).data, seed)
        have = fingerprints(study.data, seed)
        assert {k: v for k, v in have.items() if k not in evaluated} == {
            k: v for k, v in expected.items() if k not in evaluated
        }
        ids = ids_of(number)
        assert {key: spec.folder.name for key, spec in stages.items() if key in ids} == ids
    both = [fingerprints(study.data, seed) for seed in SEEDS]
    zero = fingerprints(open_study(drawn(fixed, 0)).data, 0)
    for key, fingerprint in both[0].items():
        same = key in evaluated or key == "intermediate/dev"
        assert (fingerprint == both[1][key]) == same, key
        assert not same or fingerprint == zero[key]


def test_conditions_of_a_seed_train_on_the_same_batches(fixed: Config) -> None:
    study = open_study(drawn(fixed))
    ids = {}
    for spec in study.plan.stages:
        batches = plan.stage_data(study.data, spec).plan((spec.seed,), 1)
        steps = range(batches.total_steps)
        ids[spec.condition, spec.name, spec.seed] = [example_ids(batches, step) for step in steps]
    for seed in SEEDS:
        assert ids["direct", "target", seed] == ids["staged", "target", seed]
    used = [{i for step in ids["direct", "target", seed] for i in step} for seed in SEEDS]
    assert used[0] - used[1] and used[1] - used[0]


def test_one_stage_may_draw_while_the_other_does_not(fixed: Config) -> None:
    numbers = ids_of(fixed)
    target = open_study(drawn(fixed, "seed", "target"))
    first, second = (target.data.stage("intermediate", seed) for seed in SEEDS)
    assert first is second
    assert target.data.stage("target", 3) is not target.data.stage("target", 0)
    ids = {f"{s.condition}/{s.name} {s.seed}": s.folder.name for s in target.plan.stages}
    # Its target is that of the number 0, as in `fixed`.
    assert {key for key, name in ids.items() if numbers[key] != name} == {
        "direct/target 3",
        "staged/target 3",
    }
    intermediate = ids_of(drawn(fixed, "seed", "intermediate"))
    assert {key for key, name in intermediate.items() if numbers[key] != name} == {
        "staged/intermediate 3",
        "staged/target 3",
    }


def test_seeds_that_draw_are_not_batched(fixed: Config) -> None:
    batched = dataclasses.replace(fixed, batched_seeds=0)
    assert plan.seed_groups(open_study(batched).data) == [SEEDS]
    assert plan.seed_groups(open_study(drawn(batched)).data) == [(3,), (0,)]


def test_records_name_the_seed_where_seeds_differ(fixed: Config) -> None:
    assert not any("seed" in record for record in open_study(fixed).data.summary())
    data = open_study(dataclasses.replace(drawn(fixed), overlap="remove")).data
    splits = [(r["stage"], r["split"], r.get("seed")) for r in data.summary()]
    assert splits == [
        ("intermediate", "train", 3),
        ("intermediate", "train", 0),
        ("intermediate", "dev", None),
        ("target", "train", 3),
        ("target", "train", 0),
        ("target", "dev", 3),
        ("target", "dev", 0),
        ("target", "test", None),
        ("target", "german", None),
    ]
    records = {(r.a, r.b, r.seed): r for r in data.overlap}
    assert records["target/test", "target/test", None].examples == 13
    removed = {s: records["target/train", "target/train", s].removed for s in SEEDS}
    shown = {row[0] for row in overlap.rows(data.overlap)}
    assert {f"target/train, seed {seed}" for seed in SEEDS} <= shown
    for seed in SEEDS:
        train = data.stage("target", seed).train
        assert len(train) == round(0.8 * round(0.6 * 53)) - removed[seed]


def results(config: Config) -> dict[tuple[str, str, int], Json]:
    """Runs without times, with the predictions of an evaluated set."""
    found = {}
    for run in summary_of(config)["runs"]:
        content = {key: value for key, value in run.items() if key not in {*TIMES, "dir"}}
        if run["stage"] == "target":
            content["test"] = predictions_of(Path(config.workdir) / run["dir"], "test")
        found[run["condition"], run["stage"], run["seed"]] = content
    return found


def test_sets_are_scored_with_the_vocabulary_of_each_seed(
    fixed: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    class AskedError(Exception):
        pass

    asked: list[Vocabulary] = []

    def evaluator(starts: Any, spec: Any, vocabulary: Vocabulary) -> None:
        asked.append(vocabulary)
        raise AskedError

    monkeypatch.setattr(scoring, "_evaluator", evaluator)
    study = open_study(drawn(fixed))
    for spec in study.plan.stages:
        if spec.name == "target":
            with pytest.raises(AskedError):
                scoring.measure(study.starts, spec, lambda: None)
            assert asked[-1] is study.data.stage("target", spec.seed).scoring_vocabulary
    assert len(asked) == 4 and asked[0] is not asked[-1]


@pytest.mark.slow  # The other tests cover what differs by seed: data, stages, starts and scoring.
@pytest.mark.usefixtures("default_signals")
def test_a_killed_study_ends_like_studies_with_each_number(
    fixed: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = dataclasses.replace(fixed, conditions=("staged",))  # All draw alike.
    plain = with_stage(plain, "target", evaluate={})  # Sampled by the number.
    expected: dict[tuple[str, str, int], Json] = {}
    for seed in SEEDS:
        workdir = str(tmp_path / str(seed))
        number = dataclasses.replace(drawn(plain, seed), seeds=(seed,), workdir=workdir)
        runner.run(number, "command")
        expected |= results(number)
    config = dataclasses.replace(drawn(plain), workdir=str(tmp_path / "drawn"))
    with monkeypatch.context() as patch, pytest.raises(PreemptedError), signals.handled():
        signal_at(patch, loop, "compiled_programs", 6)
        runner.run(config, "command")
    assert not list(Path(config.stages).glob("*/done.json"))
    runner.run(config, "command")
    have = results(config)
    assert have.keys() == expected.keys()
    for key, content in expected.items():
        assert have[key] == content, key
    summary = summary_of(config)
    assert {r.get("seed") for r in summary["data"] if r["split"] == "train"} == {*SEEDS}


def test_starts_are_scored_on_the_data_of_each_seed(
    fixed: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scored: list[tuple[str, ...]] = []

    def score(encoder: Any, params: Any, train: Any, *rest: Any) -> Json:
        scored.append(train.id)
        return {"logme": 0.0, "knn": 0.0, "neighbours": 1, "examples": 1, "features": ""}

    monkeypatch.setattr(transferability, "score", score)
    config = drawn(with_stage(fixed, "target", evaluate_retention=False))
    config = dataclasses.replace(
        config, conditions=("direct",), transferability=5, workdir=str(tmp_path)
    )
    study = open_study(config)
    for group in study.plan.groups:
        for spec in group:
            study._prepare(spec, lambda: None)
    assert scored == [study.data.stage("target", seed).train.id for seed in SEEDS]
