"""Confusions, scores by label, overlap of errors, and examples, against code of others."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sklearn.metrics
from seqeval.metrics import classification_report
from seqeval.scheme import IOB2

from flaxfer.config import Task
from flaxfer.errors import DataError
from flaxfer.main import main
from flaxfer.report import errors
from flaxfer.report.data import Entry, read_report_data
from flaxfer.report.document import Folded, Table
from flaxfer.report.examples import examples_per_set
from flaxfer.report.predictions import read_predictions
from flaxfer.tasks.schemes import scheme_of
from tests.report.helpers import Page, report_page, table
from tests.report.synthetic import HOSTILE, World, write_grid

WORLD = World(
    models=("bert",), targets=("sentiment-language", "similarity-domain"), seeds=(0, 1, 2), n=50
)
CLASSES, SCORES = "bert.sst2.sentiment-language", "bert.qqp.similarity-domain"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_grid(tmp_path_factory.mktemp("grid"), WORLD)


@pytest.fixture(scope="module")
def page(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Page:
    return report_page(folder / "cells" / CLASSES, output=tmp_path_factory.mktemp("study"))


def lines(folder: Path, name: str, condition: str, seed: int, code: str) -> list[dict[str, Any]]:
    file = folder / f"stages/{name}-{condition}-{seed}/predictions/{code}-{'f' * 12}.jsonl"
    return [json.loads(line) for line in file.read_text().splitlines()]


def labels(folder: Path, condition: str, seed: int, code: str) -> tuple[list[str], list[str]]:
    found = lines(folder, CLASSES, condition, seed, code)
    return [one["label"] for one in found], [one["prediction"] for one in found]


def test_confusions_and_scores_by_label_equal_scikit_learn(folder: Path, page: Page) -> None:
    names = ["negative", "positive"]
    rows = table(page, "Confusion matrices, de")
    assert rows[0] == ["true label", "condition", *(f"predicted {name}" for name in names)]
    scores = {}
    for condition in ("direct", "staged"):
        pairs = [labels(folder, condition, seed, "de") for seed in WORLD.seeds]
        matrix = np.mean(
            [sklearn.metrics.confusion_matrix(*p, labels=names) for p in pairs], axis=0
        )
        for name, counts in zip(names, matrix, strict=True):
            assert [name, condition, *(f"{count:.1f}" for count in counts)] in rows
        scores[condition] = np.mean([
            sklearn.metrics.precision_recall_fscore_support(
                *pair, labels=names, zero_division=0
            )[:3]
            for pair in pairs
        ], axis=0)  # fmt: skip
    gold = labels(folder, "direct", 0, "de")[0]
    for place, row in enumerate(table(page, "Scores by label, de")[1:]):
        assert row[:2] == [names[place], str(gold.count(names[place]))]
        direct, staged = scores["direct"][:, place], scores["staged"][:, place]
        assert row[2:8] == [f"{value:.3f}" for value in (*direct, *staged)]
        assert row[8] == f"{staged[2] - direct[2]:+.3f}"


def test_counts_over_several_sets_are_sums(folder: Path, page: Page) -> None:
    every = [labels(folder, "direct", 0, code)[0] for code in ("en", "de", "fr", "zh")]
    rows = table(page, "Scores by label over all 4 sets")
    assert [row[1] for row in rows[1:]] == [
        str(sum(gold.count(name) for gold in every)) for name in ("negative", "positive")
    ]


def test_entities_by_type_equal_seqeval() -> None:
    tags = ("O", "B-PER", "I-PER", "B-LOC", "I-LOC")
    rng = np.random.default_rng(3)
    sentences = [[str(tag) for tag in rng.choice(tags, size)] for size in rng.integers(1, 9, 80)]
    guesses = [
        [str(rng.choice(tags)) if rng.random() < 0.4 else tag for tag in one] for one in sentences
    ]
    for strict in (False, True):
        task = Task("ner", "tagging", "f1", labels=tags, strict_entities=strict)
        scheme = scheme_of(task)
        assert scheme is not None
        counts = errors.entity_counts(scheme, ["LOC", "PER"], sentences, guesses)
        mode = {"mode": "strict", "scheme": IOB2} if strict else {}
        expected = classification_report(sentences, guesses, output_dict=True, **mode)
        for name, count, scores in zip(("LOC", "PER"), counts, errors.prf(counts), strict=True):
            of = expected[name]
            assert count[2] == of["support"]
            assert scores == pytest.approx([of["precision"], of["recall"], of["f1-score"]])
        whole = scheme.counts(sentences, guesses)[:, :3].sum(axis=0)
        assert counts.sum(axis=0).tolist() == whole.tolist()


def test_ratios_without_a_denominator_are_zero() -> None:
    assert errors.prf(np.array([[0, 0, 3], [0, 2, 0], [2, 4, 4]])).tolist() == [
        [0, 0, 0], [0, 0, 0], [0.5, 0.5, 0.5]
    ]  # fmt: skip


def test_words_without_a_true_tag_count_in_no_confusion() -> None:
    matrix = errors.confusion(["A", "B"], [["A", None, "B"], ["B"]], [["B", "A", "B"], ["A"]])
    assert matrix.tolist() == [[0, 1], [1, 1]]


def test_many_labels_are_listed_by_their_confusions() -> None:
    names = [f"label {i}" for i in range(20)]
    matrix = np.zeros((20, 20))
    matrix[3, 5], matrix[7, 1], matrix[4, 4] = 6, 9, 100
    (block,) = errors._confusions(names, {"direct": matrix}, [None, None])
    assert isinstance(block, Table)
    assert [list(record.values()) for record in block.records] == [
        ["label 7", "label 1", "9.0"], ["label 3", "label 5", "6.0"]
    ]  # fmt: skip


def test_overlap_of_errors_equals_computations_by_hand(folder: Path, page: Page) -> None:
    rows = table(page, "Overlap of errors")
    row = next(dict(zip(rows[0], row, strict=True)) for row in rows[1:] if row[0] == "fr")
    wrong = {
        (condition, seed): np.not_equal(*labels(folder, condition, seed, "fr"))
        for condition in ("direct", "staged")
        for seed in WORLD.seeds
    }
    pairs = [(wrong["direct", seed], wrong["staged", seed]) for seed in WORLD.seeds]
    for name, cell in (
        ("both right", [~d & ~s for d, s in pairs]), ("only direct", [~d & s for d, s in pairs]),
        ("only staged", [d & ~s for d, s in pairs]), ("both wrong", [d & s for d, s in pairs]),
    ):  # fmt: skip
        assert row[name] == f"{np.mean(cell):.1%}"
    shared = [(d & s).sum() / (d | s).sum() for d, s in pairs]
    assert row["shared errors, direct and staged"] == f"{np.mean(shared):.1%}"
    of = [wrong["direct", seed] for seed in WORLD.seeds]
    seeds = [(of[i] & of[j]).sum() / (of[i] | of[j]).sum() for i, j in ((0, 1), (0, 2), (1, 2))]
    assert row["shared errors, two seeds of direct"] == f"{np.mean(seeds):.1%}"
    assert row["direct, by seed"] == "0 1 2"


def test_examples_are_sorted_by_what_changed_and_have_their_texts(folder: Path, page: Page) -> None:
    rows = table(page, "de: the")
    assert rows[0] == ["example", "change", "label", "direct", "staged", "text"]
    gold = labels(folder, "direct", 0, "de")[0]
    right = {
        condition: np.mean([
            np.equal(*labels(folder, condition, seed, "de")) for seed in WORLD.seeds
        ], axis=0)
        for condition in ("direct", "staged")
    }  # fmt: skip
    change = right["staged"] - right["direct"]
    shown = [int(row[0].removeprefix("example:")) for row in rows[1:]]
    assert 0 < len(shown) <= 20
    assert [row[1] for row in rows[1:]] == [f"{change[i]:+.2f}" for i in shown]
    sizes = np.abs(change[shown])
    assert np.all(np.diff(sizes) <= 0) and sizes.min() >= np.sort(np.abs(change))[-20:].min() > -1
    for i, row in zip(shown, rows[1:], strict=True):
        assert row[2] == gold[i]
        predicted = [labels(folder, "staged", seed, "de")[1][i] for seed in WORLD.seeds]
        most = max(predicted, key=predicted.count)
        assert row[4] == f"{most} ({predicted.count(most)} of 3)"
        assert row[5] == f"de text {i}: {HOSTILE}"


def test_regression_compares_absolute_errors(folder: Path, tmp_path: Path) -> None:
    page = report_page(folder / "cells" / SCORES, output=tmp_path)
    error = {}
    for condition in ("direct", "staged"):
        of = [lines(folder, SCORES, condition, seed, "en") for seed in WORLD.seeds[:2]]
        error[condition] = [
            np.array([abs(x["prediction"] - x["score"]) for x in one]) for one in of
        ]
    rows = table(page, "en: the")
    change = np.mean(error["direct"], axis=0) - np.mean(error["staged"], axis=0)
    # The staged run of the last seed has diverged; the direct one counts.
    last = lines(folder, SCORES, "direct", 2, "en")
    error["direct"].append(np.array([abs(x["prediction"] - x["score"]) for x in last]))
    change = np.mean(error["direct"], axis=0) - np.mean(error["staged"], axis=0)
    order = np.argsort(-np.abs(change), kind="stable")[:20]
    assert [row[0] for row in rows[1:]] == [f"example:{i}" for i in order]
    overlap = table(page, "Overlap of errors")
    row = dict(zip(overlap[0], overlap[1], strict=True))
    assert row["error, staged"] == f"{np.mean(error['staged']):.3f}"
    correlations = [
        np.corrcoef(d, s)[0, 1] for d, s in zip(error["direct"][:2], error["staged"], strict=True)
    ]
    assert row["shared errors, direct and staged"] == f"{np.mean(correlations):+.2f}"
    assert not any(name.startswith(("Confusion", "Scores by label")) for name in page.tables)


def test_several_studies_have_a_table_of_examples_each(folder: Path) -> None:
    blocks = errors.error_blocks(read_report_data([folder], folder))
    (folded,) = [one for one in blocks if isinstance(one, Folded) and one.summary == CLASSES]
    tables = [one for one in folded.blocks if isinstance(one, Table)]
    (examples,) = [one for one in tables if "examples of each set" in one.caption]
    languages = [record["language"] for record in examples.records]
    assert list(dict.fromkeys(languages)) == ["en", "de", "fr", "zh"]
    (overlap,) = [one for one in tables if "Overlap" in one.caption]
    assert [record["direct, by seed"] for record in overlap.records] == [("0",)] * 4


def test_a_report_without_examples_has_no_text_of_a_data_set(folder: Path, tmp_path: Path) -> None:
    text, without = "en text 0: ", tmp_path / "without"
    assert main(["report", str(folder), "--output", str(tmp_path / "with")]) == 0
    assert main(["report", str(folder), "--output", str(without), "--no-examples"]) == 0
    assert text in (tmp_path / "with" / "report.html").read_text("utf-8")
    files = [file for file in without.rglob("*") if file.suffix in (".html", ".md", ".csv", ".tex")]
    assert len(files) > 4
    for file in files:
        assert text not in file.read_text("utf-8")


def test_few_examples_of_many_sets_are_shown() -> None:
    assert [examples_per_set(sets) for sets in (0, 1, 15, 30, 100, 500)] == [20, 20, 16, 8, 2, 2]


def entry_of(folder: Path, name: str) -> Entry:
    return read_report_data([folder / "cells" / name], folder).entries[0]


def test_damaged_texts_and_other_examples_are_errors(tmp_path: Path) -> None:
    small = dataclasses.replace(WORLD, targets=("sentiment-domain",), seeds=(0,), n=8)
    grid = write_grid(tmp_path, small)
    entry = entry_of(grid, "bert.sst2.sentiment-domain")
    (one,) = read_predictions(entry)
    assert one.texts["example:0"] == [f"en text 0: {HOSTILE}"]
    (file,) = grid.glob("stages/texts/*.json")
    content = file.read_text()
    file.write_text(content.replace("example:3", "example:4"))
    with pytest.raises(DataError, match="texts are damaged") as caught:
        read_predictions(entry)
    assert caught.value.where == str(file)
    file.unlink()
    (one,) = read_predictions(entry)
    assert one.texts == {}
    blocks = errors.error_blocks(read_report_data([grid / "cells" / entry.name], grid))
    (folded,) = [block for block in blocks if isinstance(block, Folded) and block.language]
    (examples,) = folded.blocks
    assert isinstance(examples, Table) and "were not recorded" in examples.notes[-1]


def test_direct_runs_alone_have_errors_and_the_worst_examples(tmp_path: Path) -> None:
    small = dataclasses.replace(WORLD, targets=("sentiment-domain",), n=30)
    grid = write_grid(tmp_path, small)
    path = grid / "cells" / "bert.sst2.sentiment-domain" / "study.json"
    record = json.loads(path.read_text())
    runs = [run for run in record["runs"] if run["condition"] == "direct"]
    path.write_text(json.dumps(record | {"runs": runs, "conditions": ["direct"], "failed": []}))
    page = report_page(path.parent)
    rows = table(page, "en: the")
    assert rows[0] == ["example", "label", "direct", "text"] and len(rows) > 5
    assert [row[1] for row in table(page, "Confusion matrices")[1:]] == ["direct"] * 2
    assert table(page, "Overlap of errors")[0] == [
        "language", "set", "shared errors, two seeds of direct", "direct, by seed"
    ]  # fmt: skip
