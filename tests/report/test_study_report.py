from __future__ import annotations

import csv
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from markdown_it import MarkdownIt

from flaxfer.errors import DataError
from flaxfer.evaluation.records import read_study
from flaxfer.report import plots
from flaxfer.report.writing import write_report
from flaxfer.training.trackers import read_metrics
from tests.report.helpers import (
    LANGUAGES,
    METRICS,
    NASTY,
    SCRIPT,
    SEEDS,
    Page,
    markdown_tables,
    report_page,
    spread,
    study_record,
    table,
    undefine,
    value,
    write_study,
)


@pytest.fixture(scope="module")
def workdir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    record = study_record()
    undefine(record, "staged", 1, "ja", "spearman")
    workdir = write_study(tmp_path_factory.mktemp("study"), record)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(plots.STYLE, "pdf.fonttype", 42)  # TrueType, as in another process.
        write_report(workdir)
    return workdir


@pytest.fixture(scope="module")
def page(workdir: Path) -> Page:
    return Page((workdir / "report.html").read_text())


def test_languages_and_means_equal_numpy(page: Page) -> None:
    rows = table(page, "pearson by language")
    assert rows[0] == ["language", "set", "n", "direct", "staged", "staged minus direct", "scratch"]
    assert [row[0] for row in rows[1:]] == [
        "en", "de", "fr", "ja", "mean over all languages", "zero-shot mean", "transfer gap",
    ]  # fmt: skip
    conditions = ("direct", "staged", "scratch")
    grid = np.array(
        [[[value(c, s, la, "pearson") for la in LANGUAGES] for s in SEEDS] for c in conditions]
    )
    en, others = grid[..., 1], grid[..., [0, 2, 3]]
    expected = [en, *np.moveaxis(others, -1, 0), grid.mean(-1), others.mean(-1)]
    expected.append(en - others.mean(-1))
    for row, (direct, staged, scratch) in zip(rows[1:], expected, strict=True):
        assert row[3:] == [
            spread(direct), spread(staged), spread(staged - direct, "+"), spread(scratch)
        ]  # fmt: skip
    assert rows[1][1:3] == ["test_en", "61"]


def test_headline_is_the_zero_shot_mean(page: Page) -> None:
    direct, staged = (
        [np.mean([value(condition, s, la, "pearson") for la in ("de", "fr", "ja")]) for s in SEEDS]
        for condition in ("direct", "staged")
    )
    lead = page.texts["p"][1]
    assert lead.startswith("Zero-shot mean of pearson over de, fr, ja (without en, trained on): ")
    difference = spread(np.subtract(staged, direct), "+")
    assert (
        f"direct {spread(direct)}, staged {spread(staged)}, staged minus direct {difference}"
        in lead
    )
    assert lead.endswith("Mean ± standard deviation over 2 seeds.")


def test_an_undefined_value_makes_the_means_undefined_and_is_named(page: Page) -> None:
    rows = {row[0]: row[3:] for row in table(page, "spearman by language")[1:]}
    for name in ("ja", "mean over all languages", "zero-shot mean", "transfer gap"):
        assert ["undefined" in cell for cell in rows[name]] == [False, True, True, False]
    assert not any("undefined" in cell for name in ("en", "de", "fr") for cell in rows[name])
    assert [text for text in page.texts["li"] if "undefined" in text] == [
        "spearman of ja / test_ja, staged seed 1: undefined (constant predictions or labels)."
    ]


def test_scores_by_domain_are_shown_for_sets_with_several(page: Page) -> None:
    rows = table(page, "pearson by domain")
    assert [row[:4] for row in rows[1:]] == [
        ["de", "test_de", domain, "30"] for domain in ("captions", NASTY)
    ]
    values = [value("staged", seed, "de", "pearson", NASTY) for seed in SEEDS]
    assert rows[2][5] == spread(values)


def test_csv_holds_every_score(workdir: Path) -> None:
    with (workdir / "results.csv").open(newline="") as file:
        lines = list(csv.DictReader(file))
    assert list(lines[0]) == [
        "study", "model", "intermediate", "target", "condition", "seed", "stage", "set", "language",
        "domain", "n", "metric", "value", "stage_id",
    ]  # fmt: skip
    assert {
        (line["study"], line["model"], line["intermediate"], line["target"]) for line in lines
    } == {(f"study {NASTY}", NASTY, "nli", f"sts {NASTY}")}
    assert len(lines) == 3 * len(SEEDS) * (len(LANGUAGES) + 2) * len(METRICS)
    undefined = 0
    for line in lines:
        place = (
            line["condition"],
            int(line["seed"]),
            line["language"],
            line["metric"],
            line["domain"],
        )
        assert line["stage_id"] == f"{line['condition']}{line['seed']}target"
        if line["value"]:
            assert float(line["value"]) == value(*place)
        else:
            undefined += 1
            assert place == ("staged", 1, "ja", "spearman", "")
    assert undefined == 1


def test_runs_and_splits_are_listed(page: Page) -> None:
    rows = table(page, "Stages")
    assert len(rows) == 1 + 4 * len(SEEDS)
    assert rows[2] == [
        "staged", "0", "intermediate", "accuracy 0.750", "1,200", "1,100", "yes",
        "1,234.5", "31.2", "2,346", "6.2%", "stages/staged0intermediate", "",
    ]  # fmt: skip
    assert rows[3][-1] == "staged0intermediate"
    assert table(page, "Examples")[1] == [
        "target", "train", "f" * 12, "en 1,300", "1,300", "45,678", "7"
    ]  # fmt: skip


def test_draws_of_seeds_are_listed_and_explained(page: Page, tmp_path: Path) -> None:
    record = study_record()
    same = "All seeds train on the same examples"
    assert any(text.startswith(same) for text in page.texts["p"])
    (split,) = record["data"]
    of_seeds = [split | {"seed": seed, "fingerprint": f"{seed}" * 64} for seed in SEEDS]
    pair = {"between": "train and evaluation", "a": "target/train", "b": "target/test"}
    counts = {"examples": 9, "texts": 1, "pairs": 1, "short": 0, "share": 0.1, "same_label": None}
    record["data"] = [split | {"stage": "intermediate"}, *of_seeds]
    record["overlap"] = [pair | counts | {"seed": 1}]
    page = report_page(write_study(tmp_path, record))
    (text,) = (text for text in page.texts["p"] if text.startswith("Each seed draws its own"))
    assert "examples of the stage target, so" in text
    assert text.endswith("All seeds have the same examples of the stage intermediate.")
    assert not any(text.startswith(same) for text in page.texts["p"])
    assert [row[:3] for row in table(page, "Examples and tokens")[1:]] == [
        ["intermediate", "train", "f" * 12],
        ["target", "train, seed 0", "0" * 12],
        ["target", "train, seed 1", "1" * 12],
    ]
    assert table(page, "1 pair of splits")[1][2:4] == ["target/train, seed 1", "target/test"]


def test_html_is_one_safe_accessible_file(workdir: Path, page: Page) -> None:
    text = (workdir / "report.html").read_text()
    assert page.texts["script"] == [SCRIPT]
    assert page.texts["h1"] == [f"study {NASTY}"]
    links = [value for _, name, value in page.attributes if name in ("src", "href", "xlink:href")]
    folders = [link for link in links if not link.startswith("#")]
    assert all(link.startswith("./") for link in folders) and folders
    assert all((workdir / link).exists() for link in folders)
    links = [link for link in links if link.startswith("#")]
    assert "@import" not in text and text.count("url(") == text.count("url(#")
    ids = [value for _, name, value in page.attributes if name == "id"]
    assert len(ids) == len(set(ids)) and {link[1:] for link in links} <= set(ids)
    assert len(page.texts["svg"]) == len(page.texts["figcaption"]) == 5
    labels = [value for tag, name, value in page.attributes if (tag, name) == ("svg", "aria-label")]
    assert len(labels) == 5 and labels[0].startswith("Bars of pearson by direct, staged, scratch")
    scopes = [tag for tag, name, _ in page.attributes if name == "scope"]
    assert len(scopes) == len(page.texts["th"])
    assert "prefers-color-scheme: dark" in text


def test_markdown_and_html_hold_the_same_tables(workdir: Path, page: Page) -> None:
    text = (workdir / "report.md").read_text()
    clean = [
        [[" ".join(cell.split()) for cell in row] for row in rows] for rows in page.tables.values()
    ]
    assert markdown_tables(text) == clean
    headline = " ".join(page.texts["p"][1].split())
    assert f"**{headline}**" in text
    config = next(t for t in MarkdownIt().parse(text) if t.type == "fence")
    assert json.loads(config.content) == study_record()["config"]


def test_rebuilding_in_another_process_gives_the_same_bytes(workdir: Path) -> None:
    names = [
        *("report.html", "report.md", "results.csv", "comparisons.csv", "results.tex"),
        "languages.tex",
    ]
    drawn = sorted(path.name for path in (workdir / "figures").iterdir())
    assert len(drawn) == 2 * 5
    names += [f"figures/{name}" for name in drawn]
    before = [(workdir / name).read_bytes() for name in names]
    command = [sys.executable, "-W", "error", "-m", "flaxfer.main", "report", str(workdir)]
    printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    assert printed.splitlines() == [str(workdir / name) for name in (*names[:6], "figures")]
    assert [(workdir / name).read_bytes() for name in names] == before


def test_one_seed_has_no_spread(tmp_path: Path) -> None:
    record = study_record()
    record["seeds"] = [0]
    record["runs"] = [one for one in record["runs"] if one["seed"] == 0]
    page = report_page(write_study(tmp_path, record))
    assert page.texts["p"][1].endswith("One seed: no spread, no verdict.")
    rows = table(page, "pearson by language")
    assert "±" not in str(rows)
    assert rows[1][3] == f"{value('direct', 0, 'en', 'pearson'):.3f}"


def test_one_condition_is_enough(tmp_path: Path) -> None:
    page = report_page(write_study(tmp_path, study_record(("direct",))))
    assert table(page, "pearson by language")[0] == ["language", "set", "n", "direct"]
    assert "staged" not in page.texts["p"][0] + page.texts["p"][1]
    assert len(page.texts["svg"]) == 3


def test_a_missing_run_is_named(tmp_path: Path) -> None:
    record = study_record()
    record["runs"] = [
        one for one in record["runs"] if (one["condition"], one["seed"]) != ("staged", 1)
    ]
    page = report_page(write_study(tmp_path, record))
    assert "No finished run of the target: staged seed 1" in " ".join(page.texts["p"])
    for row in table(page, "pearson by language")[1:]:
        assert ["undefined" in cell for cell in row[3:]] == [False, True, True, False]


def test_a_study_without_finished_runs_has_a_report(tmp_path: Path) -> None:
    page = report_page(write_study(tmp_path, study_record() | {"runs": [], "data": []}))
    assert "No finished run of the target: direct seed 0" in " ".join(page.texts["p"])
    assert page.tables["Stages, each with its directory."] == [[]]
    assert "Learning curves" not in page.texts["h2"]
    assert table(page, "Training by stage")[1][:2] == ["all stages", "0"]
    assert len((tmp_path / "results.csv").read_text().splitlines()) == 1


def test_a_run_of_several_studies_costs_once(tmp_path: Path) -> None:
    for name, seeds in (("a", [0, 1]), ("b", [0])):
        record = study_record(("direct",)) | {"name": name, "seeds": seeds}
        record["runs"] = [
            one | {"dir": f"../{one['dir']}"} for one in record["runs"] if one["seed"] in seeds
        ]
        (tmp_path / name).mkdir()
        write_study(tmp_path / name, record)
    page = report_page(tmp_path / "a", tmp_path / "b", output=tmp_path / "report")
    assert table(page, "Training by stage")[-1][3:5] == ["2", f"{2 * 1234.5:,.1f}"]


def test_sets_of_one_language_count_as_one_and_mixed_sets_not_at_all(tmp_path: Path) -> None:
    record = study_record(("direct",))
    for one in record["runs"]:
        one["evaluations"][2]["language"] = "de"
        one["evaluations"][3]["language"] = "mixed"
    rows = table(report_page(write_study(tmp_path, record)), "pearson by language")
    assert [row[0] for row in rows[1:5]] == ["en", "de", "de", "mixed"]
    en, de, fr = (
        np.array([value("direct", seed, language, "pearson") for seed in SEEDS])
        for language in ("en", "de", "fr")
    )
    assert [row[3] for row in rows[5:]] == [
        spread((en + (de + fr) / 2) / 2), spread((de + fr) / 2), spread(en - (de + fr) / 2)
    ]  # fmt: skip


def test_without_zero_shot_languages_the_headline_is_the_mean(tmp_path: Path) -> None:
    record = study_record()
    record["data"][0]["languages"] = dict.fromkeys(LANGUAGES, 10)
    page = report_page(write_study(tmp_path, record))
    assert "no language was evaluated zero-shot" in page.texts["p"][1]
    direct = [np.mean([value("direct", s, la, "pearson") for la in LANGUAGES]) for s in SEEDS]
    assert f"direct {spread(direct)}" in page.texts["p"][1]
    assert table(page, "pearson by language")[-1][0] == "mean over all languages"


def test_names_outside_the_font_of_plots_stay_whole_in_tables(tmp_path: Path) -> None:
    record = study_record(("direct",))
    for one in record["runs"]:
        one["evaluations"][3]["language"] = "日本語"
        one["evaluations"][2]["language"] = r"$\no$ <math>"
    write_report(write_study(tmp_path, record))
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert '<th scope="row">日本語</th>' in text


def test_missing_and_invalid_records_are_errors(tmp_path: Path) -> None:
    for read in (read_study, write_report):
        with pytest.raises(DataError, match=r"(?s)no study\.json here.*run the study"):
            read(tmp_path)
    (tmp_path / "a file").touch()
    with pytest.raises(DataError, match=r"no study\.json here"):
        read_study(tmp_path / "a file")
    (tmp_path / "study.json").mkdir()
    with pytest.raises(DataError, match="cannot be read: Is a directory"):
        read_study(tmp_path)
    (tmp_path / "study.json").rmdir()
    (tmp_path / "study.json").write_text('{"name": ')
    with pytest.raises(DataError, match="JSON"):
        read_study(tmp_path)
    record = study_record()
    del record["metric"]
    record["runs"][0]["evaluations"][0]["n"] = "many"
    (tmp_path / "study.json").write_text(json.dumps(record))
    with pytest.raises(DataError, match=r"(?s)metric: .*runs\.0\.evaluations\.0\.n: "):
        read_study(tmp_path)
    record = study_record()
    record["runs"].append(record["runs"][0])
    (tmp_path / "study.json").write_text(json.dumps(record))
    with pytest.raises(DataError, match="direct seed 0 target"):
        read_study(tmp_path)


def test_metrics_of_killed_and_resumed_runs_are_read(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    first = (
        '{"step": 10, "kind": "train", "loss": 2.0}\n{"step": 20, "kind": "train", "loss": 1.5}\n'
    )
    again = '{"step": 20, "kind": "train", "loss": 1.25}\n'
    path.write_text(first + again + '{"step": 30, "ki')
    assert [(r["step"], r["loss"]) for r in read_metrics(path)] == [(10, 2.0), (20, 1.25)]
    path.write_text(first + '{"step": 30, "ki\n' + again)
    with pytest.raises(DataError, match=r"metrics\.jsonl:3"):
        read_metrics(path)
    path.write_text(first + '{"step": 30}\n')
    with pytest.raises(DataError, match=r"metrics\.jsonl:3"):
        read_metrics(path)


def test_missing_curves_are_named(tmp_path: Path) -> None:
    record = study_record()
    write_study(tmp_path, record)
    (tmp_path / "stages/direct1target/metrics.jsonl").unlink()
    page = report_page(tmp_path)
    assert any("direct seed 1 (stages/direct1target)" in text for text in page.texts["p"])
    assert len(page.texts["svg"]) == 5
