"""Records of small studies, and parsers of reports."""

from __future__ import annotations

import json
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
from markdown_it import MarkdownIt

from flaxfer import report
from flaxfer.report.writing import write_report

NASTY = "<script>alert('x')</script> & \"q\" | `a` *b* _c_ $d$"
LANGUAGES = ("de", "en", "fr", "ja")  # en is trained on, and not first
SEEDS = (0, 1)
SCRIPT = (Path(report.__file__).parent / "page.js").read_text()
METRICS = ("pearson", "spearman", "mse")
TASK = {"name": f"sts {NASTY}", "type": "regression", "metric": "pearson", "score_range": [0, 5]}
OTHER = {"name": "nli", "type": "classification", "metric": "accuracy", "labels": ["no", "yes"]}


def value(condition: str, seed: int, language: str, metric: str, domain: str = "") -> float:
    """Return a score that is unique to its place."""
    places = (
        ("direct", "staged", "scratch").index(condition),
        seed,
        LANGUAGES.index(language),
        METRICS.index(metric),
        len(domain),
    )
    return float(np.random.default_rng(places).uniform(-0.2, 1))


def scores(condition: str, seed: int, language: str, domain: str = "") -> dict[str, float | None]:
    return {metric: value(condition, seed, language, metric, domain) for metric in METRICS}


def evaluation(condition: str, seed: int, language: str) -> dict[str, Any]:
    domains = {}
    if language == "de":
        names = ("captions", NASTY)
        domains = {
            name: {"n": 30, "metrics": scores(condition, seed, language, name)} for name in names
        }
    return {
        "set": f"test_{language}",
        "language": language,
        "n": 60 + LANGUAGES.index(language),
        "metrics": scores(condition, seed, language),
        "domains": domains,
    }


def run(condition: str, seed: int, stage: str, parent: str | None = None) -> dict[str, Any]:
    name = f"{condition}{seed}{stage}"
    evaluated = [evaluation(condition, seed, language) for language in LANGUAGES]
    return {
        "condition": condition,
        "seed": seed,
        "stage": stage,
        "id": name,
        "dir": f"stages/{name}",
        "parent": parent,
        "steps": 1200,
        "best_step": 1100,
        "stopped_early": condition == "staged",
        "seconds": 1234.5,
        "examples_per_s": 31.2,
        "useful_tokens_per_s": 2345.6,
        "padding_share": 0.0625,
        "dev": {"accuracy": 0.75} if stage == "intermediate" else {"pearson": 0.5},
        "evaluations": evaluated if stage == "target" else [],
    }


def study_record(conditions: tuple[str, ...] = ("direct", "staged", "scratch")) -> dict[str, Any]:
    runs = []
    for seed in SEEDS:
        for condition in conditions:
            parent = None
            if condition == "staged":
                runs.append(run(condition, seed, "intermediate"))
                parent = runs[-1]["id"]
            runs.append(run(condition, seed, "target", parent))
    split = {"examples": 1300, "tokens": 45678, "truncated": 7, "fingerprint": "f" * 64}
    return {
        "name": f"study {NASTY}",
        "metric": "pearson",
        "metrics": list(METRICS),
        "larger_is_better": True,
        "task": TASK,
        "intermediate_task": OTHER if "staged" in conditions else None,
        "conditions": list(conditions),
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


def undefine(record: dict[str, Any], condition: str, seed: int, language: str, metric: str) -> None:
    (one,) = (
        e
        for r in record["runs"]
        if (r["condition"], r["seed"], r["stage"]) == (condition, seed, "target")
        for e in r["evaluations"]
        if e["language"] == language
    )
    one["metrics"][metric] = None


class Page(HTMLParser):
    """Texts by tag, tables by caption, and attributes of a page whose tags are all closed."""

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


def report_page(*folders: Path, output: Path | None = None) -> Page:
    """Write the report of some studies and return its page."""
    return Page(write_report(*folders, output=output)[0].read_text(encoding="utf-8"))


def markdown_tables(text: str) -> list[list[list[str]]]:
    """Return the tables that an independent Markdown parser finds."""
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
    (matching,) = (rows for name, rows in page.tables.items() if name.startswith(caption))
    return matching


def spread(values: Any, sign: str = "") -> str:
    return f"{np.mean(values):{sign}.3f} ±\N{NO-BREAK SPACE}{np.std(values, ddof=1):.3f}"
