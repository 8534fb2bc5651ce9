"""A work directory keeps its results: it may grow, and nothing replaces them unasked."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from flaxfer.config import Config, Data
from flaxfer.config.grids import Grid, Target
from flaxfer.errors import ConfigError, DataError
from flaxfer.evaluation.records import read_study
from flaxfer.report.writing import write_report
from flaxfer.study import runner, workdirs
from flaxfer.study.claims import Claims
from flaxfer.training.record import DONE
from tests.e2e.helpers import (
    open_study,
    results,
    runs_of,
    source,
    with_optimizer,
    with_stage,
    with_train,
    work_in,
)

pytestmark = pytest.mark.usefixtures("no_waiting")


def with_evaluated(config: Config, **files: str) -> Config:
    return with_stage(config, "target", evaluate={n: source(f) for n, f in files.items()})


def checked(config: Config, replace: bool = False) -> None:
    workdirs.check(config, [open_study(config).plan], replace)


def text_files(workdir: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in workdir.iterdir() if path.is_file()}


Change = Callable[[Config], Config]


@pytest.mark.parametrize(
    ("change", "lines"),
    [
        pytest.param(
            lambda c: with_train(c, "target", batch_size=16),
            ["target.train.batch_size: 8 -> 16 (in 2 stages)"],
            id="batch-size",
        ),
        pytest.param(
            lambda c: with_optimizer(c, "intermediate", learning_rate=2e-3, b2=0.98),
            [
                "intermediate.optimizer.b2: 0.999 -> 0.98",
                "intermediate.optimizer.learning_rate: 0.001 -> 0.002",
            ],
            id="optimizer-of-one-stage",
        ),
        pytest.param(
            lambda c: with_stage(
                c, "target", data=Data((source("sts-test"),), (source("sts-dev"),))
            ),
            [
                "target: the content of the training data has changed (in 2 stages)",
                "target.data.train.0.path: 'sts-train.tsv' -> 'sts-test.tsv'",
                "target.data.test.0: removed",
            ],
            id="other-data",
        ),
        pytest.param(
            lambda c: dataclasses.replace(c, conditions=("direct",)),
            [
                "staged seed 0 would be dropped (in 2 stages)",
                "conditions: ['direct', 'staged'] -> ['direct']",
            ],
            id="a-condition-less",
        ),
        pytest.param(
            lambda c: dataclasses.replace(c, seeds=(1,)),
            [
                "direct seed 0 would be dropped",
                "staged seed 0 would be dropped (in 2 stages)",
                "seeds: [0] -> [1]",
            ],
            id="another-seed",
        ),
        pytest.param(
            lambda c: with_evaluated(c),
            [
                "target: the scores of 'german' would be dropped (in 2 stages)",
                "target.evaluate.german: removed",
            ],
            id="an-evaluated-set-less",
        ),
        pytest.param(
            lambda c: with_evaluated(c, german="sts-more"),
            [
                "target: the content of the evaluated set 'german' has changed (in 2 stages)",
                "target.evaluate.german.path: 'sts-german.tsv' -> 'sts-more.tsv'",
            ],
            id="other-data-of-an-evaluated-set",
        ),
    ],
)
def test_a_configuration_that_would_replace_results_is_refused(
    change: Change, lines: list[str], small_study: Config
) -> None:
    with pytest.raises(ConfigError, match="results of another configuration") as caught:
        checked(change(small_study))
    assert caught.value.exit_code == 2
    assert caught.value.where == str(Path(small_study.workdir))
    assert all(word in str(caught.value.hint) for word in ("name=", "workdir=", "--replace"))
    assert list(caught.value.details) == lines


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda c: c, id="none"),
        pytest.param(lambda c: dataclasses.replace(c, seeds=(3, 0)), id="another-seed"),
        pytest.param(
            lambda c: dataclasses.replace(c, conditions=("scratch", "staged", "direct")),
            id="another-condition",
        ),
        pytest.param(
            lambda c: with_evaluated(c, german="sts-german", more="sts-more"), id="another-set"
        ),
        pytest.param(
            lambda c: dataclasses.replace(
                with_train(with_train(c, "target", log_every=7), "intermediate", log_every=2),
                name="renamed",
                cache=f"{c.cache}2",
                trackers=("tensorboard",),
                transferability=9,
            ),
            id="settings-that-alter-no-result",
        ),
        pytest.param(
            lambda c: with_stage(c, "target", wise_ft_alphas=(0.5,), evaluate_retention=True),
            id="further-measurements",
        ),
    ],
)
def test_a_study_may_grow_and_change_what_alters_no_result(
    change: Change, small_study: Config
) -> None:
    checked(change(small_study))


def test_a_refused_command_changes_nothing(copied: Config) -> None:
    workdir = Path(copied.workdir)
    before, work = text_files(workdir), work_in(copied.stages)
    assert {"config.json", "origin.json", "study.json", "report.html", "results.csv"} <= set(before)
    with pytest.raises(ConfigError, match="another configuration"):
        runner.run(with_train(copied, "target", batch_size=16), "another command")
    assert text_files(workdir) == before and work_in(copied.stages) == work


def test_records_are_replaced_only_on_request_and_kept_aside(
    small_study: Config, copied: Config
) -> None:
    workdir, work = Path(copied.workdir), work_in(copied.stages)
    before = text_files(workdir)
    direct = dataclasses.replace(copied, conditions=("direct",))
    for number in (1, 2):
        runner.run(direct, "the command", replace=True)
        assert runs_of(direct).keys() == {"direct/target"}
        assert work_in(copied.stages) == work, "nothing is trained or measured again"
        assert [path.name for path in (workdir / "replaced").iterdir()] == ["1"], number
    old = workdir / "replaced" / "1"
    assert (old / "config.json").read_bytes() == before["config.json"]
    assert (old / "results.csv").read_bytes() == before["results.csv"]
    runs = read_study(old).runs
    assert [run.condition for run in runs] == ["direct", "staged", "staged"]
    assert all((old / run.dir / DONE).is_file() for run in runs)
    write_report(old)
    assert (old / "results.csv").read_bytes() == before["results.csv"]
    runner.run(copied, "the command")
    assert results(copied) == results(small_study)


def test_records_of_another_configuration_are_copied_before_they_are_written_again(
    copied: Config, capsys: pytest.CaptureFixture[str]
) -> None:
    workdir, work = Path(copied.workdir), work_in(copied.stages)
    before, old = text_files(workdir), workdir / "replaced" / "1"
    changed = dataclasses.replace(copied, margin={"pearson": 0.5}, batched_seeds=1)
    runner.run(changed, "the command")
    said = capsys.readouterr().err
    assert "margin.pearson: none -> 0.5" in said
    assert f"the earlier records are copied to {old}" in said
    assert "batched_seeds" not in said, "it alters no result"
    workdirs.adopt(changed, "the command", [open_study(changed).plan])
    assert not capsys.readouterr().err, "its records are there now"
    assert [path.name for path in old.parent.iterdir()] == ["1"]
    assert work_in(copied.stages) == work
    assert read_study(workdir).margin == {"pearson": 0.5}
    kept = text_files(old)
    assert kept.keys() == before.keys()
    assert {name for name in kept if kept[name] != before[name]} == {"study.json"}
    assert read_study(old).margin == {}
    write_report(old)
    assert text_files(old)["comparisons.csv"] == before["comparisons.csv"]


def test_a_stop_after_the_copy_makes_no_second_one(
    copied: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    changed = dataclasses.replace(copied, margin={"pearson": 0.5})

    def stop(*args: Any) -> None:
        raise KeyboardInterrupt

    for _ in range(2):
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(runner, "_drain", stop)
            runner.run(changed, "the command")
    assert [path.name for path in (Path(copied.workdir) / "replaced").iterdir()] == ["1"]


def test_an_unfinished_study_is_kept_from_its_first_checkpoint_on(copied: Config) -> None:
    other = with_train(copied, "target", batch_size=16)
    workdir = Path(copied.workdir)
    (workdir / "study.json").unlink()
    for done in Path(copied.stages).glob(f"*/{DONE}"):
        done.unlink()
    with pytest.raises(ConfigError, match="another configuration"):
        checked(other)
    for checkpoints in Path(copied.stages).glob("*/checkpoints"):
        shutil.rmtree(checkpoints)
    checked(other)
    with Claims() as own:
        for claims in Path(copied.stages).glob("*/claims"):
            assert own.take(claims.parent) is not None
        with pytest.raises(ConfigError, match="another configuration"):
            checked(other)
        checked(copied)


def test_the_list_of_stages_is_read_from_study_json_if_there_is_no_other(copied: Config) -> None:
    other = with_train(copied, "target", batch_size=16)
    for content in (None, "", '{"checksum": "0"}'):
        file = Path(copied.workdir) / "origin.json"
        file.unlink() if content is None else file.write_text(content)
        with pytest.raises(ConfigError, match="another configuration") as caught:
            checked(other)
        assert "target.train.batch_size: 8 -> 16 (in 2 stages)" in caught.value.details
        checked(copied)


def test_a_process_does_not_write_the_record_of_a_study_that_another_has_extended(
    copied: Config, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    file, plan = Path(copied.workdir) / "study.json", open_study(copied).plan
    before = file.read_bytes()
    wider = open_study(dataclasses.replace(copied, seeds=(0, 1))).plan
    real = runner._drain

    def drain(*args: Any) -> None:
        """Let another process extend the study while this one works."""
        workdirs.adopt(wider.config, "another command", [wider])
        real(*args)

    monkeypatch.setattr(runner, "_drain", drain)
    runner.run(copied, "the command")
    assert "another process has added to this study" in capsys.readouterr().err.replace("\n", " ")
    assert file.read_bytes() == before
    assert not workdirs.is_current(plan) and workdirs.is_current(wider)


def grid_around(config: Config, name: str = "model") -> Grid:
    """A grid whose only cell is the study of a config."""
    assert config.intermediate is not None
    target = {f.name: getattr(config.target, f.name) for f in dataclasses.fields(config.target)}
    return Grid(
        name="grid",
        models={name: config.model},
        intermediates={"nli": config.intermediate},
        targets={"sts": Target(**target, intermediates=("nli",))},
        workdir=config.workdir,
        data_dir=config.data_dir,
        cache=config.cache,
        transferability=0,
    )


def test_a_study_and_a_grid_do_not_share_a_folder(copied: Config) -> None:
    with pytest.raises(ConfigError) as caught:
        workdirs.check(grid_around(copied), [], False)
    assert caught.value.details == ("have one study, want a grid of studies",)
    workdir = Path(copied.workdir)
    shutil.copytree(workdir, workdir / "cells" / "a.b", ignore=shutil.ignore_patterns("stages"))
    with pytest.raises(DataError, match="a study and those of a grid"):
        write_report(workdir)
    (workdir / "study.json").unlink()
    with pytest.raises(ConfigError) as caught:
        workdirs.check(copied, [], False)
    assert caught.value.details == ("have a grid of studies, want one study",)


def test_cells_of_an_earlier_grid_are_refused_by_name_and_never_reported(
    small_study: Config, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    workdir, store = str(tmp_path / "grid"), small_study.stages
    config = dataclasses.replace(small_study, workdir=workdir, store=store)
    grid = dataclasses.replace(grid_around(config), store=small_study.stages)
    runner.run(grid, "the command")
    workdir = Path(grid.workdir)
    csv = (workdir / "results.csv").read_bytes()
    renamed = dataclasses.replace(grid_around(config, "other"), store=small_study.stages)
    before, work = text_files(workdir), work_in(small_study.stages)
    with pytest.raises(ConfigError) as caught:
        runner.run(renamed, "the command")
    assert caught.value.details == ("cells: have 'model.nli.sts', want none of that name",)
    assert text_files(workdir) == before
    runner.run(renamed, "the command", replace=True)
    assert work_in(small_study.stages) == work
    assert [path.name for path in (workdir / "cells").iterdir()] == ["other.nli.sts"]
    old = workdir / "replaced" / "1"
    write_report(old)
    assert (old / "results.csv").read_bytes() == csv
    shutil.copytree(old / "cells" / "model.nli.sts", workdir / "cells" / "stray.nli.sts")
    caplog.clear()
    write_report(workdir)
    lines = (workdir / "results.csv").read_text().splitlines()[1:]
    assert {line.partition(",")[0] for line in lines} == {"other.nli.sts"}
    assert "left out: stray.nli.sts" in caplog.text
