"""Clusters of examples: named by a column, or the text that examples share."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np

from flaxfer.config import Data, Source
from flaxfer.data.clusters import clusters
from flaxfer.data.examples import Examples, count_units
from flaxfer.tasks import TASK_TYPES
from tests.data.helpers import NLI, PAIRS, examples_of, read, read_splits, refusal, text_file

LONG = "The quick brown fox jumps over the lazy dog"
COLUMNS = PAIRS | {"cluster": "document"}


def table(tmp_path: Path, documents: list[str]) -> Source:
    lines = [f"text {i}\tother {i}\tneutral\t{name}" for i, name in enumerate(documents)]
    return Source(
        text_file(tmp_path, "\n".join(["a\tb\ty\tdocument", *lines])), columns=dict(COLUMNS)
    )


def test_a_column_names_clusters(tmp_path: Path) -> None:
    examples = read(table(tmp_path, ["x", "y", "x"]), NLI)
    assert examples.cluster == ("x", "y", "x")
    assert examples.take([2, 1]).cluster == ("x", "y")
    both = Examples.join([examples, dataclasses.replace(examples, cluster=())])
    assert both.cluster == ("x", "y", "x", "", "", "")
    assert clusters(examples) == ("x", "y", "x")
    assert "column 'document': is empty" in str(refusal(table(tmp_path, ["x", ""])))


def test_clusters_change_no_training(tmp_path: Path) -> None:
    source = table(tmp_path, ["x", "y"] * 20)
    splits = read_splits(Data(train=(source,)), NLI)
    assert not any(splits["train"].cluster + splits["dev"].cluster)
    assert set(splits["test"].cluster) <= {"x", "y"}
    without = dataclasses.replace(source, columns=dict(PAIRS))
    plain = read_splits(Data(train=(without,)), NLI)
    assert plain["train"].fingerprint == splits["train"].fingerprint
    assert plain["test"].fingerprint != splits["test"].fingerprint
    none = dataclasses.replace(plain["test"], cluster=("",) * len(plain["test"]))
    assert none.fingerprint == plain["test"].fingerprint


def test_examples_that_share_a_long_text_are_a_cluster() -> None:
    texts = [LONG, "fine", "the quick brown FOX jumps over the lazy dog.", "Fine!", "Another text."]
    names = clusters(examples_of("classification", texts))
    assert names[0] == names[2] != "" and names[1] == names[3] == names[4] == ""
    assert count_units(names) == 4
    # The first text of a pair counts; a second one may be the same question to all of them.
    pairs = examples_of("classification", ["one", "two", "three"], [LONG] * 3)
    assert clusters(pairs) == ("", "", "")
    words = examples_of("tagging", [tuple(LONG.split())] * 2, label=((0,) * 9, (0,) * 9))
    assert clusters(words)[0] == clusters(words)[1] != ""


def test_questions_about_a_context_are_a_cluster() -> None:
    context = ["A long context about a fox.", "A long context about a dog."]
    questions = examples_of(
        "question_answering", ["Who?", "Where?", "Who?"], [context[i] for i in (0, 0, 1)],
        ((("A", 0),),) * 3,
    )  # fmt: skip
    first, second, alone = clusters(questions)
    assert first == second != "" and alone == ""


def test_named_clusters_come_before_shared_texts() -> None:
    examples = Examples(
        TASK_TYPES["regression"], (LONG,) * 3, None, np.zeros(3, np.float32), ("1", "2", "3"),
        ("en",) * 3, ("",) * 3, ("one", "", ""),
    )  # fmt: skip
    first, second, third = clusters(examples)
    assert first == "one" and second == third not in ("", "one")
    assert count_units((first, second, third)) == 2
