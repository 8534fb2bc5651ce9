"""The grid of configs/paper.py: its targets, sources and sizes.

The expected records and labels of a file are counted here independently of flaxfer's readers.
"""

from __future__ import annotations

import csv
import dataclasses
import io
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from flaxfer.config import Source, Stage, Task, grids, loading
from flaxfer.config.grids import Grid
from flaxfer.data import sources
from flaxfer.demo import packages, reviews
from flaxfer.errors import DataError
from flaxfer.tasks import TASK_TYPES, task_type

PAPER = Path(__file__).parents[2] / "configs" / "paper.py"
PRESETS = ("hub", "hub_trained", "local", "local_trained", "demo")
FAMILIES = ("classification", "sentiment", "similarity")
STS_LANGUAGES = {"en", "de", "es", "fr", "it", "ja", "nl", "pl", "pt", "ru", "zh"}
TWEET_LANGUAGES = {"ar", "de", "en", "es", "fr", "hi", "it", "pt"}


MEANING = {
    ("negative", "positive"): {"-1": "negative", "0": "negative", "1": "positive"},
    ("negative", "neutral", "positive"): {"0": "negative", "1": "neutral", "2": "positive"},
    ("different", "paraphrase"): {"0": "different", "1": "paraphrase"},
}
"""Task label by label in the published files, for each set of task labels."""


def grid(preset: str, data_dir: str = "DATA") -> Grid:
    local = [("data_dir", data_dir)] if preset.startswith("local") else []
    built = loading.load_any(f"{PAPER}:{preset}", TASK_TYPES, local)
    assert isinstance(built, Grid)
    return built


def every_source(stage: Stage) -> Iterator[Source]:
    for part in (stage.data.train, stage.data.dev, stage.data.test, stage.evaluate.values()):
        yield from part


@pytest.mark.parametrize("preset", PRESETS)
def test_six_targets_are_trained_with_and_without_their_intermediate_task(preset: str) -> None:
    paper = grid(preset)
    assert list(paper.targets) == [f"{f}-{of}" for f in FAMILIES for of in ("domain", "language")]
    assert paper.conditions == ("direct", "staged")
    for cell in grids.cells(paper).values():
        assert cell.intermediate is not None
        # As in the paper: all weights are updated, with 70 % of data without published splits.
        for stage in (cell.intermediate, cell.target):
            assert stage.optimizer.freeze == () and stage.train.patience > 0
            assert stage.data.dev or stage.data.split[0] == 0.7
    used = {name for target in paper.targets.values() for name in target.intermediates}
    assert used == set(paper.intermediates)
    for name, stage in (*paper.intermediates.items(), *paper.targets.items()):
        for source in every_source(stage):
            assert bool(source.hub) == preset.startswith("hub"), name
        if preset.startswith("hub"):
            assert stage.train.epochs == (100 if name in used else 10)


@pytest.mark.parametrize("preset", PRESETS[:4])
def test_evaluated_languages(preset: str) -> None:
    targets = grid(preset).targets
    spoken = {
        family: {source.language for source in targets[f"{family}-language"].evaluate.values()}
        for family in FAMILIES
    }
    trained = {
        source.language
        for family in FAMILIES
        for source in targets[f"{family}-language"].data.train
    }
    assert trained == {"fr" if preset.endswith("trained") else "en"}
    # The French reviews of `local_trained` are split, and evaluated on their own test split.
    reviews_in = {"en", "fr", "nl", "de", "zh"} - ({"fr"} if preset == "local_trained" else set())
    assert spoken == {
        "classification": reviews_in,
        "sentiment": TWEET_LANGUAGES,
        "similarity": STS_LANGUAGES,
    }


def count_labels(source: Source, folder: Path) -> Counter[str]:
    """Count the labels as written in a file, after `keep` and `drop`, before `fraction`."""
    path = folder / source.path
    if source.format == "lines":
        return Counter((path / source.aligned["label"]).read_text("utf-8").splitlines())
    text = path.read_text("utf-8-sig")
    if source.delimiter == " ":
        lines = (line.split(" ", 1) for line in text.rstrip("\n").split("\n"))
        return Counter(label for label, *rest in lines if "".join(rest).strip())
    if source.path.endswith(".csv") and source.format == "auto":
        rows = list(csv.reader(io.StringIO(text, newline="")))
    else:
        rows = [line.split("\t") for line in re.split(r"\r?\n", text) if line]
    names = rows.pop(0) if source.header else [str(i) for i in range(len(rows[0]))]
    at = {role: names.index(str(column)) for role, column in source.columns.items()}
    for key, values in source.keep.items():
        column = at.get(key, names.index(key) if key in names else -1)
        rows = [row for row in rows if row[column] in values]
    for key, values in source.drop.items():
        rows = [row for row in rows if row[at[key]] not in values]
    return Counter(row[at["label"]] for row in rows)


def assert_read_correctly(source: Source, task: Task, folder: Path) -> None:
    whole = sources.read_source(
        dataclasses.replace(source, fraction=1.0), task, task_type(task), str(folder)
    )
    part = sources.read_source(source, task, task_type(task), str(folder))
    counts = count_labels(source, folder)
    expected: Counter[str | float] = Counter()
    for label, count in counts.items():
        scored = task.type == "regression"
        expected[round(float(label), 3) if scored else MEANING[task.labels][label]] += count
    if task.type == "regression":
        read = Counter(round(float(score), 3) for score in whole.label)
    else:
        read = Counter(task.labels[i] for i in whole.label)
    assert read == expected, source.path
    assert len(part) == round(source.fraction * counts.total()), source.path
    assert set(part.id) <= set(whole.id)


@pytest.mark.parametrize("preset", ["local", "local_trained"])
def test_local_sources_are_read_completely(preset: str, shared: Path) -> None:
    paper = grid(preset)
    seen: list[Source] = []
    for stage in (*paper.intermediates.values(), *paper.targets.values()):
        for source in every_source(stage):
            if source not in seen:
                assert_read_correctly(source, stage.task, shared / "data")
                seen.append(source)


SIZES = {
    "local": {
        "imdb": 2013,
        "sst2": 2502,
        "qqp": 2502,
        "classification-domain": 200,
        "classification-language": 200,
        "sentiment-domain": 250,
        "sentiment-language": 250,
        "similarity-domain": 250,
        "similarity-language": 250,
    },
    "demo": {
        "imdb": 526,
        "sentences": 538,
        "paraphrase": 484,
        "classification-domain": 48,
        "classification-language": 48,
        "sentiment-domain": 48,
        "sentiment-language": 48,
        "similarity-domain": 411,
        "similarity-language": 411,
    },
}
SIZES["local_trained"] = SIZES["local"]


@pytest.mark.parametrize("preset", SIZES)
def test_intermediate_tasks_have_ten_times_the_examples_of_targets(
    preset: str, request: pytest.FixtureRequest
) -> None:
    folder = str(request.getfixturevalue("shared") / "data") if preset != "demo" else ""
    paper = grid(preset, folder)
    sizes = {
        name: len(
            sources.Pool.read(Stage(stage.task, stage.data), task_type(stage.task), folder).splits(
                0
            )["train"]
        )
        for name, stage in (*paper.intermediates.items(), *paper.targets.items())
    }
    assert sizes == SIZES[preset]
    short = {
        (name, target)
        for target, stage in paper.targets.items()
        for name in stage.intermediates
        if sizes[name] < 10 * sizes[target]
    }
    # The exceptions that the config names.
    assert short == (
        {("paraphrase", "similarity-domain"), ("paraphrase", "similarity-language")}
        if preset == "demo"
        else {("imdb", "sentiment-domain")}
    )


def test_film_reviews_need_their_package() -> None:
    with pytest.raises(DataError, match="no_such_package is not installed") as caught:
        packages.package_folder("no_such_package", "pip install it")
    assert caught.value.hint == "pip install it"


def test_film_reviews_are_all_of_imdb_train() -> None:
    """IMDB has 25,000 training reviews, half of them positive (Maas et al. 2011)."""
    with open(reviews.reviews_path(), newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    counts = Counter((row["source"], row["label"]) for row in rows)
    assert {key: n for key, n in counts.items() if key[0] == "imdb"} == {
        ("imdb", "0"): 12500,
        ("imdb", "1"): 12500,
    }
