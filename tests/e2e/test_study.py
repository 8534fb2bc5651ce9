"""Whole studies of a tiny model: what they write, what they share, and that nothing is repeated."""

from __future__ import annotations

import csv
import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from flaxfer.study.study import Study
from flaxfer.training.stage_run import StageRun

from flaxfer.config import Config, Data, Model, Optimizer, Source, Stage, Task, Train
from flaxfer.data.packing import best_row_length
from flaxfer.evaluation.evaluator import Evaluator
from flaxfer.models.spec import ModelSpec
from flaxfer.runtime import sharding
from flaxfer.study import inputs, studies, study
from flaxfer.training import loop, stage_run
from tests.helpers import WORDS, mesh_of, tiny_model

COLUMNS = {"text_a": 0, "text_b": 1, "label": 2, "language": 3, "domain": 4}
LABELS = ("no", "maybe", "yes")
SETS = {
    "nli-train": (40, "en", LABELS),
    "nli-dev": (12, "en", LABELS),
    "sts-train": (40, "en", ()),
    "sts-dev": (12, "en", ()),
    "sts-test": (13, "en", ()),
    "sts-german": (11, "de", ()),
}
TRAIN = Train(
    batch_size=8,
    epochs=2,
    eval_every=3,
    max_length=32,
    row_length=64,
    max_bucket_sizes=1,
    eval_rows=4,
    log_every=1,
)
OPTIMIZER = Optimizer(learning_rate=1e-3)
Json = dict[str, Any]


def write_sets(folder: Path) -> None:
    rng = np.random.default_rng(0)
    for name, (n, language, labels) in SETS.items():
        lines = []
        for i in range(n):
            first, second = (" ".join(rng.choice(WORDS, rng.integers(2, 9))) for _ in range(2))
            label = rng.choice(labels) if labels else f"{rng.uniform(0, 5):.2f}"
            lines.append(f"{first}\t{second}\t{label}\t{language}\t{('news', 'films')[i % 2]}\n")
        (folder / f"{name}.tsv").write_text("".join(lines), encoding="utf-8")


def source(name: str) -> Source:
    return Source(path=f"{name}.tsv", header=False, columns=COLUMNS)


def config_of(folder: Path) -> Config:
    return Config(
        name="tiny",
        model=Model(path=str(folder / "model")),
        intermediate=Stage(
            Task("nli", "classification", "accuracy", LABELS),
            Data((source("nli-train"),), (source("nli-dev"),)),
            {},
            OPTIMIZER,
            TRAIN,
        ),
        target=Stage(
            Task("sts", "regression", "pearson"),
            Data((source("sts-train"),), (source("sts-dev"),), (source("sts-test"),)),
            {"german": source("sts-german")},
            OPTIMIZER,
            TRAIN,
        ),
        conditions=("direct", "staged", "scratch"),
        workdir=str(folder / "work"),
        data_dir=str(folder),
        cache=str(folder / "cache"),
    )


def with_optimizer(config: Config, stage_name: str, /, **changes: Any) -> Config:
    own: Stage = getattr(config, stage_name)
    optimizer = dataclasses.replace(own.optimizer, **changes)
    return dataclasses.replace(
        config, **{stage_name: dataclasses.replace(own, optimizer=optimizer)}
    )


def use_one_device(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sharding, "make_mesh", lambda sizes: mesh_of())
    monkeypatch.setattr(study.platform, "use_compilation_cache", lambda folder: None)


@pytest.fixture(autouse=True)
def one_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """The mesh of a machine with one device, which compiles faster."""
    use_one_device(monkeypatch)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model with more rows in its embedding than the data needs, and the data."""
    folder = tmp_path_factory.mktemp("study")
    tiny_model(folder / "model", "bert", vocab_size=300)
    write_sets(folder)
    return folder


@pytest.fixture(scope="module")
def finished(world: Path) -> Iterator[Config]:
    """A config whose study is finished."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        use_one_device(monkeypatch)
        config = config_of(world)
        studies.run(config, "python -m flaxfer.main --config tiny.py")
        yield config


def summary_of(config: Config) -> Json:
    content: Json = json.loads((Path(config.workdir) / "study.json").read_text())
    return content


def lines_of(path: Path) -> list[Json]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def predictions_of(folder: Path, name: str) -> list[dict[str, Any]]:
    """What a stage wrote of the set `name`."""
    (path,) = folder.glob(f"predictions/{name}-*.jsonl")
    return lines_of(path)


def open_study(config: Config) -> Study:
    return Study(config, Path(config.workdir), Path(config.cache))


def test_a_study_writes_what_its_report_needs(finished: Config) -> None:
    workdir = Path(finished.workdir)
    summary = summary_of(finished)
    assert summary["name"] == "tiny"
    assert (summary["metric"], summary["larger_is_better"]) == ("pearson", True)
    assert summary["metrics"] == ["pearson", "spearman", "mse"]
    assert summary["task"]["name"] == "sts" and summary["intermediate_task"]["name"] == "nli"
    assert summary["conditions"] == ["direct", "staged", "scratch"] and summary["seeds"] == [0]
    assert summary["command"] == "python -m flaxfer.main --config tiny.py"
    assert summary["config"]["target"]["train"]["batch_size"] == 8
    whole = sum(
        a.size
        for a in jax.tree.leaves(
            ModelSpec(open_study(finished).encoder, num_outputs=1).random_params(0)
        )
    )
    stages = ("intermediate", "target")
    assert summary["model"]["parameters"] == whole and summary["model"]["vocabulary"] == 300
    assert summary["model"]["vocabulary_in_use"] == dict.fromkeys(stages, 128)
    in_use = whole - (300 - 128) * 32
    assert summary["model"]["parameters_in_use"] == dict.fromkeys(stages, in_use)
    assert {"jax", "flaxfer", "python"} <= summary["versions"].keys()
    assert {"cpu", "cores", "devices", "memory_gib"} <= summary["machine"].keys()
    splits = {(d["stage"], d["split"]): d["examples"] for d in summary["data"]}
    assert splits == {
        ("intermediate", "train"): 40,
        ("intermediate", "dev"): 12,
        ("target", "train"): 40,
        ("target", "dev"): 12,
        ("target", "test"): 13,
        ("target", "german"): 11,
    }
    runs = summary["runs"]
    order = [("direct", "target"), ("staged", "intermediate"), ("staged", "target")]
    assert [(r["condition"], r["stage"]) for r in runs] == [*order, ("scratch", "target")]
    assert len({r["id"] for r in runs}) == 4
    assert [r["parent"] for r in runs] == [None, None, runs[1]["id"], None]
    for run in runs:
        folder = workdir / run["dir"]
        assert run["steps"] == 10 and run["best_step"] in (3, 6, 9, 10)
        assert run["seconds"] > 0 and 0 < run["padding_share"] < 1
        log = lines_of(folder / "metrics.jsonl")
        assert [r["step"] for r in log if r["kind"] == "train"] == list(range(1, 11))
        assert [r["step"] for r in log if r["kind"] == "dev"] == [3, 6, 9, 10]
        assert len(list((folder / "checkpoints").iterdir())) == 1
        sets = [(e["set"], e["language"], e["n"]) for e in run["evaluations"]]
        if run["stage"] == "intermediate":
            assert sets == [] and run["dev"].keys() == {"accuracy", "macro_f1", "mcc"}
            continue
        assert sets == [("test", "en", 13), ("german", "de", 11)]
        for entry in run["evaluations"]:
            assert entry["metrics"].keys() == {"pearson", "spearman", "mse"}
            assert sum(part["n"] for part in entry["domains"].values()) == entry["n"]
            predictions = predictions_of(folder, entry["set"])
            score, label = np.array([(p["prediction"], p["score"]) for p in predictions]).T
            pearson = np.corrcoef(score, label)[0, 1]
            assert entry["metrics"]["pearson"] == pytest.approx(pearson, abs=1e-5)
            assert entry["metrics"]["mse"] == pytest.approx(((score - label) ** 2).mean())


def test_a_study_writes_its_report(finished: Config) -> None:
    workdir = Path(finished.workdir)
    for name in ("report.html", "report.md"):
        text = (workdir / name).read_text(encoding="utf-8")
        assert all(word in text for word in ("direct", "staged", "scratch", "german", "pearson"))
    with open(workdir / "results.csv", newline="", encoding="utf-8") as file:
        assert len(list(csv.DictReader(file))) > 6
    assert json.loads((workdir / "config.json").read_text())["name"] == "tiny"


@pytest.mark.parametrize(("fraction", "examples", "ratio"), [(0.1, 4, 10.0), (0.125, 5, 8.0)])
def test_the_intermediate_task_should_have_ten_times_the_examples(
    fraction: float,
    examples: int,
    ratio: float,
    finished: Config,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    said: list[str] = []
    monkeypatch.setattr(inputs, "say", said.append)
    assert summary_of(finished)["size_rule"] == {
        "intermediate": 40,
        "target": 40,
        "ratio": 1.0,
        "holds": False,
    }
    part = dataclasses.replace(source("sts-train"), fraction=fraction)
    data = dataclasses.replace(finished.target.data, train=(part,))
    config = dataclasses.replace(finished, target=dataclasses.replace(finished.target, data=data))
    opened = open_study(config)
    opened.introduce()
    rule = opened.size_rule()
    holds = ratio >= 10
    assert rule == {"intermediate": 40, "target": examples, "ratio": ratio, "holds": holds}
    assert said == ([] if holds else [said[0]])
    assert holds or said[0].startswith(
        "warning: the intermediate task has 40 examples to train on, 8.0 times the target's 5"
    )
    direct = open_study(dataclasses.replace(config, conditions=("direct",)))
    direct.introduce()
    assert direct.size_rule() is None and len(said) == (not holds)


def test_the_same_command_repeats_nothing(
    finished: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = summary_of(finished)
    stages = Path(finished.workdir) / "stages"
    times = {p: p.stat().st_mtime_ns for p in stages.rglob("*") if p.name == "metrics.jsonl"}

    def refuse(*args: Any, **kwargs: Any) -> Any:
        raise AssertionError("is repeated")

    monkeypatch.setattr(loop, "make_train_step", refuse)
    monkeypatch.setattr(Evaluator, "predict", refuse)
    monkeypatch.setattr(inputs.pretrained, "load_pretrained", refuse)
    studies.run(finished, before["command"])
    after = summary_of(finished)
    assert {k for k in after if after[k] != before[k]} <= {"date", "seconds", "git"}
    assert {p: p.stat().st_mtime_ns for p in times} == times


def starts_of(config: Config, monkeypatch: pytest.MonkeyPatch) -> dict[str, tuple[StageRun, Any]]:
    """Every stage of a finished study with the parameters it began with."""
    found = {}
    real: Callable[..., Any] = loop.train

    def train(jobs: Sequence[tuple[StageRun, Callable[[], Any]]]) -> None:
        found.update({run.title: (run, start()) for run, start in jobs})
        real(jobs)

    monkeypatch.setattr(loop, "train", train)
    own = open_study(config)
    for job in own.jobs:
        own._train(job, job.runs)
    return found


def assert_equal(one: Any, other: Any) -> None:
    assert jax.tree.structure(one) == jax.tree.structure(other)
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        np.testing.assert_array_equal(a, b)


def fresh_params(study: Study, outputs: int, seed: int) -> Any:
    """Random parameters with the rows that the target has of the embedding."""
    params = ModelSpec(study.encoder, num_outputs=outputs).random_params(seed)
    word = params["encoder"]["embeddings"]["word"]
    word["embedding"] = word["embedding"][study.vocabularies["target"].ids]
    return params


def test_what_each_stage_starts_from(finished: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    starts = starts_of(finished, monkeypatch)
    assert list(starts) == [
        "direct/target seed 0",
        "staged/intermediate seed 0",
        "staged/target seed 0",
        "scratch/target seed 0",
    ]
    own = open_study(finished)
    pretrained, fresh = own.weights("sequence"), fresh_params(own, 1, 0)
    _, direct = starts["direct/target seed 0"]
    intermediate, nli = starts["staged/intermediate seed 0"]
    _, staged = starts["staged/target seed 0"]
    _, scratch = starts["scratch/target seed 0"]
    for params in (direct, nli):
        assert_equal(params["encoder"], pretrained["encoder"])
        assert_equal(params["head"]["pooler"], pretrained["head"]["pooler"])
    best = intermediate.best_params()
    assert_equal(staged["encoder"], best["encoder"])
    assert_equal(staged["head"]["pooler"], best["head"]["pooler"])
    trained = best["encoder"]["layers"][0]["feed_forward"]["up"]["kernel"]
    before = nli["encoder"]["layers"][0]["feed_forward"]["up"]["kernel"]
    assert np.abs(np.asarray(trained) - before).max() > 1e-4
    for params in (direct, staged, scratch):
        assert params["head"]["output"]["kernel"].shape == (32, 1)
        assert_equal(params["head"]["output"], fresh["head"]["output"])
    assert_equal(scratch, fresh)
    kernel = scratch["encoder"]["layers"][0]["attention"]["query"]["kernel"]
    wanted = pretrained["encoder"]["layers"][0]["attention"]["query"]["kernel"]
    assert np.abs(np.asarray(kernel) - wanted).max() > 0.01


def test_the_head_is_kept_only_for_the_same_question(
    finished: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    parent, _ = starts_of(finished, monkeypatch)["staged/intermediate seed 0"]
    best = parent.best_params()
    own = open_study(finished)
    assert finished.intermediate is not None
    task = finished.intermediate.task
    fresh = fresh_params(own, 3, 7)

    def head(task: Task) -> Any:
        own.stages = {"target": dataclasses.replace(finished.target, task=task)}
        run = own._run_of("staged", "target", 7, "intermediate", parent)
        return own._start_params("target", run)["head"]

    assert_equal(head(dataclasses.replace(task, name="other", metric="mcc")), best["head"])
    permuted = head(dataclasses.replace(task, labels=LABELS[::-1]))
    assert_equal(permuted["output"], fresh["head"]["output"])
    assert_equal(permuted["pooler"], best["head"]["pooler"])


def test_the_bias_of_a_regression_may_start_at_the_mean_score(finished: Config) -> None:
    train = dataclasses.replace(finished.target.train, output_bias="mean")
    own = open_study(
        dataclasses.replace(finished, target=dataclasses.replace(finished.target, train=train))
    )
    scores = [
        float(line.split("\t")[2])
        for line in (Path(finished.data_dir) / "sts-train.tsv").read_text().splitlines()
    ]
    head = own._start_params("target", own.jobs[0].runs[0])["head"]
    np.testing.assert_allclose(head["output"]["bias"], [np.mean(scores)], rtol=1e-6)
    assert_equal(head["pooler"], own.weights("sequence")["head"]["pooler"])


def ids_of(config: Config) -> dict[str, str]:
    """Identities of the stages, none of which is trained."""
    nodes = open_study(config).cell().nodes
    return {f"{node.condition}/{node.stage} {node.seed}": node.folder.name for node in nodes}


def test_a_changed_setting_changes_the_stages_it_concerns(finished: Config, tmp_path: Path) -> None:
    ids = ids_of(finished)
    assert set(ids.values()) == {run["id"] for run in summary_of(finished)["runs"]}
    finished = dataclasses.replace(finished, workdir=str(tmp_path))

    def changed(config: Config) -> set[str]:
        return {name for name, value in ids_of(config).items() if value != ids[name]}

    targets = {"direct/target 0", "staged/target 0", "scratch/target 0"}
    assert changed(finished) == set()
    assert changed(with_optimizer(finished, "target", learning_rate=2e-3)) == targets
    assert changed(with_optimizer(finished, "intermediate", b2=0.98)) == {
        "staged/intermediate 0",
        "staged/target 0",
    }
    unchanged = dataclasses.replace(finished, name="renamed", conditions=("direct", "scratch"))
    assert changed(unchanged) == set()
    task = dataclasses.replace(finished.target.task, metric="spearman")
    assert (
        changed(
            dataclasses.replace(finished, target=dataclasses.replace(finished.target, task=task))
        )
        == targets
    )
    seeds = ids_of(dataclasses.replace(finished, seeds=(0, 1)))
    assert len(set(seeds.values())) == 8 and seeds.items() > ids.items()


def test_the_length_of_rows_is_chosen_before_a_stage_has_its_identity(
    finished: Config, tmp_path: Path
) -> None:
    def with_rows(length: int) -> Config:
        train = dataclasses.replace(finished.target.train, row_length=length)
        target = dataclasses.replace(finished.target, train=train)
        return dataclasses.replace(finished, target=target, workdir=str(tmp_path))

    study_of = open_study(with_rows(0))
    lengths = study_of.data["target"]["train"].lengths
    chosen = study_of.stages["target"].train.row_length
    assert chosen == best_row_length(lengths, batch=8, longest=32, width=32) == 64
    assert ids_of(with_rows(0)) == ids_of(with_rows(chosen))


def test_equal_stages_of_different_paths_are_one(finished: Config) -> None:
    both = dataclasses.replace(finished, intermediate=finished.target)
    ids = ids_of(both)
    assert ids["staged/intermediate 0"] == ids["direct/target 0"] != ids["staged/target 0"]


def test_f25_sigkill_in_the_middle_of_a_stage(finished: Config, tmp_path: Path) -> None:
    """A process that is killed with its first checkpoint just written; then the same again."""
    config = dataclasses.replace(finished, workdir=str(tmp_path), conditions=("direct",))
    code = "import sys; from tests.e2e.test_study import in_a_process; in_a_process(sys.argv[1:])"
    world = str(Path(finished.data_dir))
    root = Path(__file__).parents[2]
    environment = {**os.environ, "PYTHONPATH": str(root)}
    process = subprocess.Popen(
        [sys.executable, "-c", code, world, str(tmp_path)],
        env=environment,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        while not (found := list(tmp_path.glob("stages/*/checkpoints/*/manifest.json"))):
            assert process.poll() is None, process.stderr and process.stderr.read()
            time.sleep(0.005)
    finally:
        process.send_signal(signal.SIGKILL)
        process.communicate()
    folder = found[0].parents[2]
    assert process.returncode == -signal.SIGKILL and not (folder / stage_run.DONE).exists()
    studies.run(config, "")
    killed, whole = summary_of(config)["runs"][0], summary_of(finished)["runs"][0]
    assert killed["id"] == whole["id"] == folder.name
    for key in ("steps", "best_step", "dev", "evaluations"):
        assert killed[key] == whole[key]
    logs = [
        [(r["step"], r["kind"], r.get("loss"), r.get("metrics")) for r in lines_of(path)]
        for path in (
            folder / "metrics.jsonl",
            Path(finished.workdir) / whole["dir"] / "metrics.jsonl",
        )
    ]
    assert logs[0] == logs[1]
    predictions = [
        predictions_of(Path(c.workdir) / r["dir"], "test")
        for c, r in ((config, killed), (finished, whole))
    ]
    assert predictions[0] == predictions[1]


def in_a_process(arguments: list[str]) -> None:
    """The study that `test_f25_sigkill_in_the_middle_of_a_stage` kills."""
    world, workdir = arguments
    use_one_device(pytest.MonkeyPatch())
    config = dataclasses.replace(config_of(Path(world)), workdir=workdir, conditions=("direct",))
    studies.run(config, "")
