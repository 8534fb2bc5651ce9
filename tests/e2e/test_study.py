"""Whole studies of a tiny model: their records, what they share, and that nothing is repeated."""

from __future__ import annotations

import csv
import dataclasses
import json
import re
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from flaxfer.config import Config, Task
from flaxfer.data.packing import best_row_length
from flaxfer.models import pretrained
from flaxfer.models.spec import ModelSpec
from flaxfer.study import runner, summary
from flaxfer.study.open_study import OpenStudy
from flaxfer.training.record import DONE
from tests.e2e.helpers import (
    LABELS,
    Terminal,
    assert_equal_trees,
    config_of,
    folder_of,
    ids_of,
    kill,
    lines_of,
    open_study,
    predictions_of,
    runs_of,
    source,
    spec_of,
    start_worker,
    summary_of,
    with_optimizer,
    with_stage,
    with_train,
    work_in,
    write_sets,
)
from tests.helpers import tiny_model

COMMAND = "flaxfer run --config tiny.py"


@pytest.fixture(scope="module")
def terminal() -> Terminal:
    """The terminal that the study of `finished` was run on."""
    return Terminal()


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, terminal: Terminal) -> Config:
    """A finished study, whose model has more rows in its embedding than the data needs."""
    folder = tmp_path_factory.mktemp("study")
    tiny_model(folder / "model", "bert", vocab_size=300, layers=1)
    write_sets(folder)
    config = config_of(folder)
    with terminal:
        runner.run(config, COMMAND)
    return config


def test_a_terminal_of_80_columns_shows_bars_and_at_the_end_the_result(
    finished: Config, terminal: Terminal
) -> None:
    lines = terminal.lines
    assert max(map(len, lines)) <= 80
    title = next(i for i, line in enumerate(lines) if line.startswith("study tiny in "))
    warning = next(i for i, line in enumerate(lines) if line.startswith("warning: "))
    assert warning - title < 18, "with the bars and this warning, the start is on one screen"
    bars = [re.sub(r"\d:\d\d:\d\d", "0:00:00", " ".join(line.split())) for line in lines]
    for number in range(1, 5):
        assert any(line.startswith(f"stage {number} of 4 ━") for line in bars), number
    assert any("0:00:00 elapsed, time left unknown" in line for line in bars)
    assert any("0:00:00 elapsed, about 0:00:00 left" in line for line in bars)
    assert "staged/intermediate seed 0 ━" in "\n".join(bars)
    assert "staged/intermediate seed 0  step 3/10  dev accuracy" in "\n".join(lines)
    (verdict,) = [line for line in lines if line.startswith("not judged: staged minus direct ")]
    end = lines[lines.index(verdict) :]
    assert "pearson (larger is better) by language, one seed" in end
    rows = [line.split() for line in end]
    scores = {
        (name.split("/")[0], entry["language"]): f"{entry['metrics']['pearson']:.3f}"
        for name, run in runs_of(finished).items()
        for entry in run["evaluations"]
    }
    for language in ("en", "de"):
        (row,) = [row for row in rows if row[:1] == [language]]
        assert row[1:4] == [scores[c, language] for c in ("direct", "staged", "scratch")]
    assert end[-3:] == [
        f"report: {Path(finished.workdir).absolute()}/report.html",
        "in the same folder: report.md, results.csv, comparisons.csv, results.tex,",
        "languages.tex, figures",
    ]


def test_study_json_holds_settings_data_and_runs(finished: Config) -> None:
    workdir = Path(finished.workdir)
    summary = summary_of(finished)
    assert summary["name"] == "tiny"
    assert (summary["metric"], summary["larger_is_better"]) == ("pearson", True)
    assert summary["metrics"] == ["pearson", "spearman", "mse"]
    assert summary["task"]["name"] == "sts" and summary["intermediate_task"]["name"] == "nli"
    assert summary["conditions"] == ["direct", "staged", "scratch"] and summary["seeds"] == [0]
    assert summary["command"] == COMMAND
    assert summary["config"]["target"]["train"]["batch_size"] == 8
    encoder = open_study(finished).data.encoder
    params = ModelSpec(encoder, num_outputs=1).random_params(0)
    whole = sum(array.size for array in jax.tree.leaves(params))
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
def test_an_intermediate_task_of_less_than_ten_times_the_examples_is_warned_of(
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
    config = with_train(config, "target", epochs=10.0)  # Enough steps for its settings.
    study = open_study(config)
    study.introduce()
    holds = ratio >= 10
    assert summary.size_rule(study.data) == {
        "intermediate": 40,
        "target": examples,
        "ratio": ratio,
        "holds": holds,
    }
    warning = (
        "warning: the intermediate task has 40 training examples, 8.0 times the target's 5; the "
        "published design has at least 10 times as many"
    )
    shown = capsys.readouterr().err
    assert ("warning" in shown) == (warning in shown) == (not holds)
    direct = open_study(dataclasses.replace(config, conditions=("direct",)))
    direct.introduce()
    assert summary.size_rule(direct.data) is None and "warning" not in capsys.readouterr().err


def test_the_same_command_repeats_nothing_and_a_file_gets_no_escape_codes(
    finished: Config, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    before, work = summary_of(finished), work_in(finished.stages)

    def refuse(*args: Any, **kwargs: Any) -> Any:
        raise AssertionError("the weights are read although nothing is left to do")

    monkeypatch.setattr(pretrained, "load_pretrained", refuse)
    runner.run(finished, before["command"])
    shown = capsys.readouterr().err
    assert "4 of 4 stages are finished, nothing is left to train\n" in shown
    assert "not judged: staged minus direct" in shown and "\x1b" not in shown
    after = summary_of(finished)
    assert {k for k in after if after[k] != before[k]} <= {"date", "seconds", "git", "checksum"}
    assert len(work) > 12 and work_in(finished.stages) == work


def fresh_params(study: OpenStudy, outputs: int, seed: int) -> Any:
    """Random parameters, their embedding cut to the target's vocabulary."""
    params = ModelSpec(study.data.encoder, num_outputs=outputs).random_params(seed)
    word = params["encoder"]["embeddings"]["word"]
    word["embedding"] = word["embedding"][study.data.stages["target"].vocabulary.ids]
    return params


def test_each_stage_starts_from_its_condition(finished: Config) -> None:
    study = open_study(finished)
    starts = {spec.title: study.starts.params(spec) for spec in study.plan.stages}
    assert list(starts) == [
        "direct/target seed 0",
        "staged/intermediate seed 0",
        "staged/target seed 0",
        "scratch/target seed 0",
    ]
    direct, nli, staged, scratch = starts.values()
    weights, fresh = study.starts.pretrained("sequence"), fresh_params(study, 1, 0)
    for params in (direct, nli):
        assert_equal_trees(params["encoder"], weights["encoder"])
        assert_equal_trees(params["head"]["pooler"], weights["head"]["pooler"])
    record = spec_of(study, "staged", "intermediate").record
    best = record.best_params(study.data.encoder, study.mesh)
    assert_equal_trees(staged["encoder"], best["encoder"])
    assert_equal_trees(staged["head"]["pooler"], best["head"]["pooler"])
    trained = best["encoder"]["layers"][0]["feed_forward"]["up"]["kernel"]
    before = nli["encoder"]["layers"][0]["feed_forward"]["up"]["kernel"]
    assert np.abs(np.asarray(trained) - before).max() > 1e-4
    for params in (direct, staged, scratch):
        assert params["head"]["output"]["kernel"].shape == (32, 1)
        assert_equal_trees(params["head"]["output"], fresh["head"]["output"])
    assert_equal_trees(scratch, fresh)
    kernel = scratch["encoder"]["layers"][0]["attention"]["query"]["kernel"]
    wanted = weights["encoder"]["layers"][0]["attention"]["query"]["kernel"]
    assert np.abs(np.asarray(kernel) - wanted).max() > 0.01


def test_the_head_is_kept_only_for_the_same_question(finished: Config) -> None:
    study = open_study(finished)
    spec = spec_of(study, "staged")
    assert finished.intermediate is not None and spec.parent is not None
    task = finished.intermediate.task
    best = spec.parent.record.best_params(study.data.encoder, study.mesh)
    fresh = fresh_params(study, 3, spec.seed)

    def head(task: Task) -> Any:
        settings = dataclasses.replace(finished.target, task=task)
        model = dataclasses.replace(spec.model, num_outputs=3)
        other = dataclasses.replace(spec, settings=settings, model=model)
        return study.starts.params(other)["head"]

    renamed = dataclasses.replace(task, name="other", metric="mcc")
    assert_equal_trees(head(renamed), best["head"])
    permuted = head(dataclasses.replace(task, labels=LABELS[::-1]))
    assert_equal_trees(permuted["output"], fresh["head"]["output"])
    assert_equal_trees(permuted["pooler"], best["head"]["pooler"])


def test_the_bias_of_a_regression_may_start_at_the_mean_score(finished: Config) -> None:
    study = open_study(with_train(finished, "target", output_bias="mean"))
    lines = (Path(finished.data_dir) / "sts-train.tsv").read_text().splitlines()
    scores = [float(line.split("\t")[2]) for line in lines]
    head = study.starts.params(spec_of(study, "direct"))["head"]
    np.testing.assert_allclose(head["output"]["bias"], [np.mean(scores)], rtol=1e-6)
    assert_equal_trees(head["pooler"], study.starts.pretrained("sequence")["head"]["pooler"])


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
    assert changed(with_stage(finished, "target", task=task)) == targets
    seeds = ids_of(dataclasses.replace(finished, seeds=(0, 1)))
    assert len(set(seeds.values())) == 8 and seeds.items() > ids.items()


def test_the_row_length_is_resolved_before_the_identity(finished: Config, tmp_path: Path) -> None:
    config = dataclasses.replace(finished, workdir=str(tmp_path))
    automatic = with_train(config, "target", row_length=0)
    stage = open_study(automatic).data.stages["target"]
    chosen = stage.settings.train.row_length
    assert chosen == best_row_length(stage.train.lengths, batch=8, longest=32, width=32) == 64
    assert ids_of(automatic) == ids_of(with_train(config, "target", row_length=chosen))


def test_a_killed_stage_continues_to_the_same_result(finished: Config, tmp_path: Path) -> None:
    """The process is killed as soon as its first checkpoint is written."""
    config = dataclasses.replace(finished, workdir=str(tmp_path), conditions=("direct",))
    process = start_worker(config)
    try:
        while not (manifests := list(tmp_path.glob("stages/*/checkpoints/*/manifest.json"))):
            assert process.poll() is None, process.stderr and process.stderr.read()
            time.sleep(0.005)
    finally:
        assert kill(process)
    folder = manifests[0].parents[2]
    assert not (folder / DONE).exists()
    runner.run(config, "")
    (killed,), whole = summary_of(config)["runs"], runs_of(finished)["direct/target"]
    assert killed["id"] == whole["id"] == folder.name
    for key in ("steps", "best_step", "dev", "evaluations"):
        assert killed[key] == whole[key]
    whole_folder = folder_of(finished, "direct/target")
    logs = [
        [
            (record["step"], record["kind"], record.get("loss"), record.get("metrics"))
            for record in lines_of(stage / "metrics.jsonl")
        ]
        for stage in (folder, whole_folder)
    ]
    assert logs[0] == logs[1]
    assert predictions_of(folder, "test") == predictions_of(whole_folder, "test")
