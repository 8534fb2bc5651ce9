from __future__ import annotations

import csv
import json
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from markdown_it import MarkdownIt

from flaxfer.errors import DataError
from flaxfer.evaluation.records import read_study
from flaxfer.report.writing import main, write_report
from flaxfer.training.trackers import read_metrics

NASTY = "<script>alert('x')</script> & \"q\" | `a` *b* _c_ $d$"
LANGUAGES = ("de", "en", "fr", "ja")  # en is trained on, and not first
SEEDS = (0, 1)
METRICS = ("pearson", "spearman", "mse")
TASK = {"name": f"sts {NASTY}", "type": "regression", "metric": "pearson", "score_range": [0, 5]}
OTHER = {"name": "nli", "type": "classification", "metric": "accuracy", "labels": ["no", "yes"]}


def value(path: str, seed: int, language: str, metric: str, domain: str = "") -> float:
    """A score that no two places share."""
    places = (
        ("direct", "staged", "scratch").index(path),
        seed,
        LANGUAGES.index(language),
        METRICS.index(metric),
        len(domain),
    )
    return float(np.random.default_rng(places).uniform(-0.2, 1))


def scores(path: str, seed: int, language: str, domain: str = "") -> dict[str, float | None]:
    return {metric: value(path, seed, language, metric, domain) for metric in METRICS}


def evaluation(path: str, seed: int, language: str) -> dict[str, Any]:
    domains = {}
    if language == "de":
        names = ("captions", NASTY)
        domains = {name: {"n": 30, "metrics": scores(path, seed, language, name)} for name in names}
    return {
        "set": f"test_{language}",
        "language": language,
        "n": 60 + LANGUAGES.index(language),
        "metrics": scores(path, seed, language),
        "domains": domains,
    }


def run(path: str, seed: int, stage: str, parent: str | None = None) -> dict[str, Any]:
    name = f"{path}{seed}{stage}"
    evaluated = [evaluation(path, seed, language) for language in LANGUAGES]
    return {
        "condition": path,
        "seed": seed,
        "stage": stage,
        "id": name,
        "dir": f"stages/{name}",
        "parent": parent,
        "steps": 1200,
        "best_step": 1100,
        "stopped_early": path == "staged",
        "seconds": 1234.5,
        "examples_per_s": 31.2,
        "useful_tokens_per_s": 2345.6,
        "padding_share": 0.0625,
        "dev": {"accuracy": 0.75} if stage == "intermediate" else {"pearson": 0.5},
        "evaluations": evaluated if stage == "target" else [],
    }


def study_record(paths: tuple[str, ...] = ("direct", "staged", "scratch")) -> dict[str, Any]:
    runs = []
    for seed in SEEDS:
        for path in paths:
            parent = None
            if path == "staged":
                runs.append(run(path, seed, "intermediate"))
                parent = runs[-1]["id"]
            runs.append(run(path, seed, "target", parent))
    split = {"examples": 1300, "tokens": 45678, "truncated": 7, "fingerprint": "f" * 64}
    return {
        "name": f"study {NASTY}",
        "metric": "pearson",
        "metrics": list(METRICS),
        "larger_is_better": True,
        "task": TASK,
        "intermediate_task": OTHER if "staged" in paths else None,
        "conditions": list(paths),
        "seeds": list(SEEDS),
        "model": {"source": NASTY, "family": "xlm-roberta", "parameters": 278043648},
        "config": {"name": NASTY, "target": {"data": ["```", "</pre>"]}},
        "versions": {"jax": "0.10.2"},
        "machine": {"cpu": NASTY, "cores": 2, "devices": ["cpu:0"], "memory_gib": 15.5},
        "date": "2025-01-02T03:04:05+00:00",
        "command": f"flaxfer {NASTY}",
        "git": "abc123",
        "seconds": 4321.0,
        "data": [{"stage": "target", "split": "train", "languages": {"en": 1300}, **split}],
        "runs": runs,
    }


def write_study(workdir: Path, record: dict[str, Any]) -> Path:
    (workdir / "study.json").write_text(json.dumps(record))
    for one in record["runs"]:
        lines: list[dict[str, Any]] = []
        metric = OTHER["metric"] if one["stage"] == "intermediate" else TASK["metric"]
        for step in range(10, 210, 10):
            loss = float(3 * np.exp(-step / 80) + one["seed"] / 10)
            lines.append({"step": step, "kind": "train", "loss": loss, "learning_rate": 1e-5})
            if step % 40 == 0:
                metrics = {metric: 1 - loss / 3}
                lines.append({"step": step, "kind": "dev", "metrics": metrics, "best": True})
        directory = workdir / one["dir"]
        directory.mkdir(parents=True, exist_ok=True)
        text = "".join(json.dumps(line) + "\n" for line in lines)
        (directory / "metrics.jsonl").write_text(text)
    return workdir


def undefine(record: dict[str, Any], path: str, seed: int, language: str, metric: str) -> None:
    (one,) = (
        e
        for r in record["runs"]
        if (r["condition"], r["seed"], r["stage"]) == (path, seed, "target")
        for e in r["evaluations"]
        if e["language"] == language
    )
    one["metrics"][metric] = None


class Page(HTMLParser):
    """Text, tables by caption, and whether all tags are closed in their order."""

    VOID = frozenset({"meta", "br", "link", "img"})

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.attributes: list[tuple[str, str, str]] = []
        self.tables: dict[str, list[list[str]]] = {}
        self.texts: dict[str, list[str]] = {}
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        if tag not in self.VOID:
            self.open.append(tag)
            self.texts.setdefault(tag, []).append("")
        if tag == "tr":
            self.tables[self.texts["caption"][-1]] = self.rows = self.tables.get(
                self.texts["caption"][-1], []
            )
            self.rows.append([])

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.attributes += [(tag, name, value or "") for name, value in attrs]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag
        if tag in ("th", "td"):
            self.rows[-1].append(self.texts[tag][-1])

    def handle_data(self, data: str) -> None:
        for tag in set(self.open):
            self.texts[tag][-1] += data


def markdown_tables(text: str) -> list[list[list[str]]]:
    """The tables as a Markdown parser not ours reads them."""
    tables: list[list[list[str]]] = []
    inside = False
    for token in MarkdownIt("commonmark").enable("table").parse(text):
        inside = token.type == "table_open" or (inside and token.type != "table_close")
        if token.type == "table_open":
            tables.append([])
        elif token.type == "tr_open":
            tables[-1].append([])
        elif token.type == "inline" and inside:
            known = ("text", "text_special", "link_open", "link_close")
            plain = all(child.type in known for child in token.children or [])
            assert plain, token.content
            tables[-1][-1].append("".join(child.content for child in token.children or []))
    return tables


def table(page: Page, caption: str) -> list[list[str]]:
    (found,) = (rows for name, rows in page.tables.items() if name.startswith(caption))
    return found


def shown(values: Any, sign: str = "") -> str:
    return f"{np.mean(values):{sign}.3f} ±\N{NO-BREAK SPACE}{np.std(values, ddof=1):.3f}"


@pytest.fixture(scope="module")
def workdir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    record = study_record()
    undefine(record, "staged", 1, "ja", "spearman")
    workdir = write_study(tmp_path_factory.mktemp("study"), record)
    write_report(workdir)
    return workdir


@pytest.fixture(scope="module")
def page(workdir: Path) -> Page:
    return Page((workdir / "report.html").read_text())


def test_languages_and_means_are_those_numpy_computes(page: Page) -> None:
    rows = table(page, "pearson by language")
    assert rows[0] == ["language", "set", "n", "direct", "staged", "staged minus direct", "scratch"]
    assert [row[0] for row in rows[1:]] == [
        "en", "de", "fr", "ja", "mean over all languages", "zero-shot mean", "transfer gap",
    ]  # fmt: skip
    paths = ("direct", "staged", "scratch")
    grid = np.array(
        [[[value(p, s, la, "pearson") for la in LANGUAGES] for s in SEEDS] for p in paths]
    )
    en, others = grid[..., 1], grid[..., [0, 2, 3]]
    expected = [en, *np.moveaxis(others, -1, 0), grid.mean(-1), others.mean(-1)]
    expected.append(en - others.mean(-1))
    for row, (direct, staged, scratch) in zip(rows[1:], expected, strict=True):
        assert row[3:] == [
            shown(direct), shown(staged), shown(staged - direct, "+"), shown(scratch)
        ]  # fmt: skip
    assert rows[1][1:3] == ["test_en", "61"]


def test_headline_is_the_zero_shot_mean(page: Page) -> None:
    direct, staged = (
        [np.mean([value(path, s, la, "pearson") for la in ("de", "fr", "ja")]) for s in SEEDS]
        for path in ("direct", "staged")
    )
    lead = page.texts["p"][1]
    assert lead.startswith("Zero-shot mean of pearson over de, fr, ja (without en, trained on): ")
    difference = shown(np.subtract(staged, direct), "+")
    assert (
        f"direct {shown(direct)}, staged {shown(staged)}, staged minus direct {difference}" in lead
    )
    assert lead.endswith("Mean ± standard deviation over 2 seeds.")


def test_an_undefined_value_spreads_into_the_means_and_is_named(page: Page) -> None:
    rows = {row[0]: row[3:] for row in table(page, "spearman by language")[1:]}
    for name in ("ja", "mean over all languages", "zero-shot mean", "transfer gap"):
        assert ["undefined" in cell for cell in rows[name]] == [False, True, True, False]
    assert not any("undefined" in cell for name in ("en", "de", "fr") for cell in rows[name])
    assert [text for text in page.texts["li"] if "undefined" in text] == [
        "spearman of ja / test_ja, staged seed 1: undefined (constant predictions or labels)."
    ]


def test_domains(page: Page) -> None:
    rows = table(page, "pearson by domain")
    assert [row[:4] for row in rows[1:]] == [
        ["de", "test_de", domain, "30"] for domain in ("captions", NASTY)
    ]
    values = [value("staged", seed, "de", "pearson", NASTY) for seed in SEEDS]
    assert rows[2][5] == shown(values)


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


def test_runs_and_data(page: Page) -> None:
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


def test_html_is_one_safe_accessible_file(workdir: Path, page: Page) -> None:
    text = (workdir / "report.html").read_text()
    assert "script" not in page.texts
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
    names = ("report.html", "report.md", "results.csv", "comparisons.csv", "results.tex")
    before = [(workdir / name).read_bytes() for name in names]
    command = [sys.executable, "-W", "error", "-m", "flaxfer.report.writing", str(workdir)]
    printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    assert printed.splitlines() == [str(workdir / name) for name in names]
    assert [(workdir / name).read_bytes() for name in names] == before


def test_one_seed_has_no_spread(tmp_path: Path) -> None:
    record = study_record()
    record["seeds"] = [0]
    record["runs"] = [one for one in record["runs"] if one["seed"] == 0]
    write_report(write_study(tmp_path, record))
    page = Page((tmp_path / "report.html").read_text())
    assert page.texts["p"][1].endswith("One seed: no spread, no verdict.")
    rows = table(page, "pearson by language")
    assert "±" not in str(rows)
    assert rows[1][3] == f"{value('direct', 0, 'en', 'pearson'):.3f}"


def test_one_path_is_enough(tmp_path: Path) -> None:
    write_report(write_study(tmp_path, study_record(("direct",))))
    page = Page((tmp_path / "report.html").read_text())
    assert table(page, "pearson by language")[0] == ["language", "set", "n", "direct"]
    assert "staged" not in page.texts["p"][0] + page.texts["p"][1]
    assert len(page.texts["svg"]) == 3


def test_a_missing_run_is_said(tmp_path: Path) -> None:
    record = study_record()
    record["runs"] = [
        one for one in record["runs"] if (one["condition"], one["seed"]) != ("staged", 1)
    ]
    write_report(write_study(tmp_path, record))
    page = Page((tmp_path / "report.html").read_text())
    assert "No finished run of the target: staged seed 1" in " ".join(page.texts["p"])
    for row in table(page, "pearson by language")[1:]:
        assert ["undefined" in cell for cell in row[3:]] == [False, True, True, False]


def test_sets_of_one_language_count_as_one_and_mixed_sets_not_at_all(tmp_path: Path) -> None:
    record = study_record(("direct",))
    for one in record["runs"]:
        one["evaluations"][2]["language"] = "de"
        one["evaluations"][3]["language"] = "mixed"
    write_report(write_study(tmp_path, record))
    rows = table(Page((tmp_path / "report.html").read_text()), "pearson by language")
    assert [row[0] for row in rows[1:5]] == ["en", "de", "de", "mixed"]
    en, de, fr = (
        np.array([value("direct", seed, language, "pearson") for seed in SEEDS])
        for language in ("en", "de", "fr")
    )
    assert [row[3] for row in rows[5:]] == [
        shown((en + (de + fr) / 2) / 2), shown((de + fr) / 2), shown(en - (de + fr) / 2)
    ]  # fmt: skip


def test_no_zero_shot_language(tmp_path: Path) -> None:
    record = study_record()
    record["data"][0]["languages"] = dict.fromkeys(LANGUAGES, 10)
    write_report(write_study(tmp_path, record))
    page = Page((tmp_path / "report.html").read_text())
    assert "no language was evaluated zero-shot" in page.texts["p"][1]
    direct = [np.mean([value("direct", s, la, "pearson") for la in LANGUAGES]) for s in SEEDS]
    assert f"direct {shown(direct)}" in page.texts["p"][1]
    assert table(page, "pearson by language")[-1][0] == "mean over all languages"


def test_names_that_plots_cannot_draw_as_they_are(tmp_path: Path) -> None:
    record = study_record(("direct",))
    for one in record["runs"]:
        one["evaluations"][3]["language"] = "日本語"
        one["evaluations"][2]["language"] = r"$\no$ <math>"
    write_report(write_study(tmp_path, record))
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert '<th scope="row">日本語</th>' in text


def test_missing_and_invalid_records(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(DataError, match="run the study"):
        read_study(tmp_path)
    assert main([str(tmp_path)]) == DataError.exit_code
    assert "study.json" in capsys.readouterr().err
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


def test_metrics_of_killed_and_resumed_runs(tmp_path: Path) -> None:
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


def test_missing_curves_are_said(tmp_path: Path) -> None:
    record = study_record()
    write_study(tmp_path, record)
    (tmp_path / "stages/direct1target/metrics.jsonl").unlink()
    write_report(tmp_path)
    page = Page((tmp_path / "report.html").read_text())
    assert any("direct seed 1 (stages/direct1target)" in text for text in page.texts["p"])
    assert len(page.texts["svg"]) == 5
