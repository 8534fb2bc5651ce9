"""Whole studies: what they write, what they start from, and that nothing is repeated."""

from __future__ import annotations

import csv
import dataclasses
import json
import shutil
import signal
import time
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy

from flaxfer.config import Config
from flaxfer.data.packing import best_row_length
from flaxfer.main import main
from flaxfer.runtime.trees import leaves_by_name
from flaxfer.study import summary
from flaxfer.study.starts import Starts
from flaxfer.training.record import DONE
from tests.e2e.helpers import (
    COMMAND,
    LABELS,
    assert_equal_trees,
    data_of,
    folder_of,
    ids_of,
    lines_of,
    predictions_of,
    run_study,
    runs_of,
    source,
    specs_of,
    start_of,
    start_process,
    summary_of,
    times_of,
    with_stage,
    write_config,
)
from tests.helpers import mesh_of


def test_study_json_describes_study_model_and_data(finished: Config) -> None:
    record = summary_of(finished)
    assert record["name"] == "tiny"
    assert (record["metric"], record["larger_is_better"]) == ("pearson", True)
    assert record["metrics"] == ["pearson", "spearman", "mse"]
    assert record["task"]["name"] == "sts" and record["intermediate_task"]["name"] == "nli"
    assert record["conditions"] == ["direct", "staged", "scratch"] and record["seeds"] == [0]
    assert record["command"] == COMMAND
    assert record["config"]["target"]["train"]["batch_size"] == 8
    weights = safetensors.numpy.load_file(Path(finished.model.path) / "model.safetensors")
    whole = sum(array.size for array in weights.values()) + 32 + 1  # And a classifier.
    stages = ("intermediate", "target")
    assert record["model"]["parameters"] == whole and record["model"]["vocabulary"] == 300
    assert record["model"]["vocabulary_in_use"] == dict.fromkeys(stages, 128)
    in_use = whole - (300 - 128) * 32
    assert record["model"]["parameters_in_use"] == dict.fromkeys(stages, in_use)
    assert {"jax", "flaxfer", "python"} <= record["versions"].keys()
    assert {"cpu", "cores", "devices", "memory_gib"} <= record["machine"].keys()
    splits = {(d["stage"], d["split"]): d["examples"] for d in record["data"]}
    assert splits == {
        ("intermediate", "train"): 40,
        ("intermediate", "dev"): 12,
        ("target", "train"): 40,
        ("target", "dev"): 12,
        ("target", "test"): 13,
        ("target", "german"): 11,
    }


def test_study_json_describes_every_run(finished: Config) -> None:
    runs = summary_of(finished)["runs"]
    order = [("direct", "target"), ("staged", "intermediate"), ("staged", "target")]
    assert [(r["condition"], r["stage"]) for r in runs] == [*order, ("scratch", "target")]
    assert len({r["id"] for r in runs}) == 4
    assert [r["parent"] for r in runs] == [None, None, runs[1]["id"], None]
    for run in runs:
        folder = Path(finished.workdir) / run["dir"]
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
def test_an_intermediate_task_below_ten_times_the_examples_gets_a_warning(
    fraction: float,
    examples: int,
    ratio: float,
    finished: Config,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert summary_of(finished)["size_rule"] == {
        "intermediate": 40,
        "target": 40,
        "ratio": 1.0,
        "holds": False,
    }
    part = dataclasses.replace(source("sts-train"), fraction=fraction)
    data = dataclasses.replace(finished.target.data, train=(part,))
    config = with_stage(finished, "target", data=data)
    study_data = data_of(config)
    summary.introduce(study_data, mesh_of())
    holds = ratio >= 10
    assert summary.size_rule(study_data) == {
        "intermediate": 40,
        "target": examples,
        "ratio": ratio,
        "holds": holds,
    }
    warning = "warning: the intermediate task has 40 training examples, 8.0 times the target's 5"
    assert (warning in capsys.readouterr().err) == (not holds)
    direct = data_of(dataclasses.replace(config, conditions=("direct",)))
    summary.introduce(direct, mesh_of())
    assert summary.size_rule(direct) is None and "warning" not in capsys.readouterr().err


def test_the_same_command_repeats_nothing(finished: Config, tmp_path: Path) -> None:
    before, times = summary_of(finished), times_of(Path(finished.stages))
    assert times
    assert main(["run", "--config", str(write_config(tmp_path / "tiny.py", finished))]) == 0
    after = summary_of(finished)
    changed = {key for key in after if after[key] != before[key]}
    assert changed <= {"command", "date", "seconds", "git"}
    assert times_of(Path(finished.stages)) == times


def test_stages_start_from_pretrained_random_or_the_intermediate_parameters(
    finished: Config,
) -> None:
    data, specs = data_of(finished), specs_of(finished)
    starts = Starts(data, mesh_of())
    pretrained = starts.pretrained("sequence")
    fresh = specs["scratch/target 0"].model.random_params(0)
    direct, staged, scratch = (
        starts.params(specs[f"{name}/target 0"]) for name in ("direct", "staged", "scratch")
    )
    nli = starts.params(specs["staged/intermediate 0"])
    file = safetensors.numpy.load_file(Path(finished.model.path) / "model.safetensors")
    (kernel,) = (v.T for k, v in file.items() if k.endswith("0.intermediate.dense.weight"))
    for params in (direct, nli):
        assert_equal_trees(params["encoder"]["layers"], pretrained["encoder"]["layers"])
        assert_equal_trees(params["head"]["pooler"], pretrained["head"]["pooler"])
        np.testing.assert_array_equal(up_kernel(params), kernel)
    best = starts.best_params(specs["staged/intermediate 0"].record)
    assert_equal_trees(staged["encoder"], best["encoder"])
    assert_equal_trees(staged["head"]["pooler"], best["head"]["pooler"])
    assert np.abs(up_kernel(staged) - kernel).max() > 1e-4
    for params in (direct, staged, scratch):
        assert params["head"]["output"]["kernel"].shape == (32, 1)
        assert_equal_trees(params["head"]["output"], fresh["head"]["output"])
    named, fresh_named = leaves_by_name(scratch), leaves_by_name(fresh)
    word = "encoder/embeddings/word/embedding"
    for name in named.keys() - {word}:
        np.testing.assert_array_equal(named[name], fresh_named[name], err_msg=name)
    assert np.abs(up_kernel(scratch) - kernel).max() > 0.01


def up_kernel(params: object) -> np.ndarray:
    return np.asarray(leaves_by_name(params)["encoder/layers/0/feed_forward/up/kernel"])


def test_the_head_is_kept_only_for_the_same_question(finished: Config) -> None:
    assert finished.intermediate is not None
    nli = finished.intermediate
    parent = specs_of(finished)["staged/intermediate 0"]
    best = Starts(data_of(finished), mesh_of()).best_params(parent.record)
    other = dataclasses.replace(nli.task, name="other", metric="mcc")
    config = with_stage(finished, "target", task=other, data=nli.data, evaluate={})
    assert_equal_trees(start_of(config, "staged/target 0")["head"], best["head"])
    permuted = dataclasses.replace(nli.task, labels=LABELS[::-1])
    config = with_stage(config, "target", task=permuted)
    head = start_of(config, "staged/target 0")["head"]
    fresh = specs_of(config)["staged/target 0"].model.random_params(0)["head"]
    assert_equal_trees(head["output"], fresh["output"])
    assert_equal_trees(head["pooler"], best["head"]["pooler"])


def test_the_bias_of_a_regression_may_start_at_the_mean_score(finished: Config) -> None:
    config = with_stage(finished, "target", train={"output_bias": "mean"})
    scores = [
        float(line.split("\t")[2])
        for line in (Path(finished.data_dir) / "sts-train.tsv").read_text().splitlines()
    ]
    head = start_of(config, "direct/target 0")["head"]
    np.testing.assert_allclose(head["output"]["bias"], [np.mean(scores)], rtol=1e-6)
    pretrained = Starts(data_of(finished), mesh_of()).pretrained("sequence")
    assert_equal_trees(head["pooler"], pretrained["head"]["pooler"])


def test_a_changed_setting_changes_the_identities_of_the_stages_it_concerns(
    finished: Config, tmp_path: Path
) -> None:
    ids = ids_of(finished)
    assert set(ids.values()) == {run["id"] for run in summary_of(finished)["runs"]}
    finished = dataclasses.replace(finished, workdir=str(tmp_path))

    def changed(config: Config) -> set[str]:
        return {name for name, value in ids_of(config).items() if value != ids[name]}

    targets = {"direct/target 0", "staged/target 0", "scratch/target 0"}
    assert changed(finished) == set()
    faster = with_stage(finished, "target", optimizer={"learning_rate": 2e-3})
    assert changed(faster) == targets
    assert changed(with_stage(finished, "intermediate", optimizer={"b2": 0.98})) == {
        "staged/intermediate 0",
        "staged/target 0",
    }
    renamed = dataclasses.replace(finished, name="renamed", conditions=("direct", "scratch"))
    assert changed(renamed) == set()
    task = dataclasses.replace(finished.target.task, metric="spearman")
    assert changed(with_stage(finished, "target", task=task)) == targets
    seeds = ids_of(dataclasses.replace(finished, seeds=(0, 1)))
    assert len(set(seeds.values())) == 8 and seeds.items() > ids.items()


def test_the_row_length_is_chosen_before_a_stage_has_its_identity(
    finished: Config, tmp_path: Path
) -> None:
    finished = dataclasses.replace(finished, workdir=str(tmp_path))
    automatic = with_stage(finished, "target", train={"row_length": 0})
    stage = data_of(automatic).stages["target"]
    chosen = stage.settings.train.row_length
    assert chosen == best_row_length(stage.train.lengths, batch=8, longest=32, width=32) == 64
    assert ids_of(automatic) == ids_of(with_stage(finished, "target", train={"row_length": chosen}))


def test_equal_stages_of_different_conditions_are_one(finished: Config) -> None:
    ids = ids_of(dataclasses.replace(finished, intermediate=finished.target))
    assert ids["staged/intermediate 0"] == ids["direct/target 0"] != ids["staged/target 0"]


def test_a_study_killed_after_its_first_checkpoint_ends_as_if_it_had_not_been(
    finished: Config, tmp_path: Path
) -> None:
    workdir = tmp_path / "work"
    config = dataclasses.replace(finished, workdir=str(workdir), conditions=("direct",))
    # Compiled programs, without which the process would spend most of its time on them.
    shutil.copytree(finished.cache, tmp_path / "cache", dirs_exist_ok=True)
    config = dataclasses.replace(config, cache=str(tmp_path / "cache"))
    process = start_process(write_config(tmp_path / "tiny.py", config))
    try:
        while not (manifests := list(workdir.glob("stages/*/checkpoints/*/manifest.json"))):
            assert process.poll() is None, process.stderr and process.stderr.read()
            time.sleep(0.005)
    finally:
        process.send_signal(signal.SIGKILL)
        process.communicate()
    folder = manifests[0].parents[2]
    assert process.returncode == -signal.SIGKILL and not (folder / DONE).exists()
    run_study(config)
    killed, whole = (runs_of(c)["direct/target 0"] for c in (config, finished))
    assert killed["id"] == whole["id"] == folder.name
    for key in ("steps", "best_step", "dev", "evaluations"):
        assert killed[key] == whole[key]
    folders = [folder_of(c, "direct/target 0") for c in (config, finished)]
    logs = [
        [(r["step"], r["kind"], r.get("loss"), r.get("metrics")) for r in lines_of(log)]
        for log in (one / "metrics.jsonl" for one in folders)
    ]
    assert logs[0] == logs[1]
    assert predictions_of(folders[0], "test") == predictions_of(folders[1], "test")
