"""Every public data set of single texts or pairs is read as it was published.

Row counts and histograms are counted a second time, by regular expressions on the raw bytes or by
splitting lines, which shares no code with the readers.
"""

from __future__ import annotations

import dataclasses
import re
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from flaxfer.config import Source, Task
from flaxfer.errors import DataError
from tests.data.helpers import read

STS = Task("sts", "regression", "pearson", score_range=(0.0, 5.0))
RELATEDNESS = Task("relatedness", "regression", "pearson", score_range=(1.0, 5.0))
SENTIMENT = Task("sentiment", "classification", "accuracy", labels=("negative", "positive"))
POLARITY3 = Task("tweets", "classification", "accuracy", labels=("negative", "neutral", "positive"))
NLI = Task("nli", "classification", "accuracy", labels=("entailment", "neutral", "contradiction"))
DUPLICATE = Task("duplicate", "classification", "accuracy", labels=("different", "same"))
QUESTION = Task("question", "classification", "accuracy", labels=tuple("012345"))

ZERO_ONE = {"0": "negative", "1": "positive"}
DIFFERENT_SAME = {"0": "different", "1": "same"}
LABEL_FIRST = {"label": 0, "text_a": 1}
PAIR_THEN_LABEL = {"text_a": 0, "text_b": 1, "label": 2}
STS_COLUMNS = {"text_a": 5, "text_b": 6, "label": 4, "domain": 0}
STS_LANGUAGES = "en de es fr it ja nl pl pt ru zh"
TWEET_LANGUAGES = "arabic english french german hindi italian portuguese spanish"
XNLI_LANGUAGES = "ar bg de el en es fr hi ko ru sw th tr ur vi zh"
STS_ROWS = {"train": 5749, "dev": 1500, "test": 1379}
LABEL_SPACE_TEXT = Source(
    format="tsv", delimiter=" ", max_columns=2, header=False, columns=LABEL_FIRST
)


def field(pattern: bytes, flags: int = re.MULTILINE) -> Callable[[bytes], Counter[str]]:
    """Counts what the only group of `pattern` finds in a file."""
    return lambda data: Counter(found.decode() for found in re.findall(pattern, data, flags))


FIRST_TAB = field(rb"^([^\t\n]*)\t")
FIRST_SPACE = field(rb"^(\S+) ")
LAST_TAB = field(rb"\t([^\t\n]*?)\r?$")
LAST_COMMA = field(rb",([^,\n]*?)\r?$")
WHOLE_LINE = field(rb"^(.+)$")


@dataclasses.dataclass(frozen=True)
class Set:
    """A source, its task, how many examples it has and how the raw file tells the labels."""

    source: Source
    task: Task
    rows: int
    count: Callable[[bytes], Counter[str]]
    labels_in: str = ""
    left_out: Counter[str] = dataclasses.field(default_factory=Counter)

    @property
    def id(self) -> str:
        return self.source.path + (" " + self.labels_in if self.labels_in else "")


def sts_sets() -> Iterator[Set]:
    for language in STS_LANGUAGES.split():
        for split, rows in STS_ROWS.items():
            path = f"stsb-multi-mt/stsb-{language}-{split}.csv"
            source = Source(path, header=False, columns=PAIR_THEN_LABEL, language=language)
            yield Set(source, STS, rows, LAST_COMMA)
    for split, rows in STS_ROWS.items():
        source = Source(
            f"stsbenchmark-en/sts-{split}.csv", format="tsv", header=False, columns=STS_COLUMNS
        )
        yield Set(source, STS, rows, field(rb"^(?:[^\t\n]*\t){4}([^\t\n]*)\t"))
    texts = {"text_a": "sentence_A", "text_b": "sentence_B", "id": "pair_ID"}
    for file, rows in (("train", 4500), ("trial", 500), ("test_annotated", 4927)):
        path = f"sick/SICK_{file}.txt"
        columns = texts | {"label": "relatedness_score"}
        source = Source(path, format="tsv", columns=columns)
        yield Set(source, RELATEDNESS, rows, field(rb"\t([\d.]+)\t[A-Z]+\r?$"))
        columns = texts | {"label": "entailment_judgment"}
        labels = {name.upper(): name for name in NLI.labels}
        source = Source(path, format="tsv", columns=columns, labels=labels)
        yield Set(source, NLI, rows, field(rb"\t([A-Z]+)\r?$"))


def glue_and_imdb() -> Iterator[Set]:
    pair = {"text_a": "text_a", "text_b": "text_b", "label": "label"}
    for split, rows in (("train", 8999), ("dev", 1000)):
        path = f"glue-samples/QQP/{split}.tsv"
        source = Source(path, columns=pair, labels=DIFFERENT_SAME)
        yield Set(source, DUPLICATE, rows, FIRST_TAB)
        source = Source(f"glue-samples/MNLI/{split}.tsv", columns=pair)
        yield Set(source, NLI, rows, FIRST_TAB)
    single = {"text_a": "text", "label": "label"}
    for path, rows in (
        ("glue-samples/SST-2/train.tsv", 6227),
        ("glue-samples/SST-2/dev.tsv", 692),
        ("imdb-sample/dev.tsv", 1000),
        ("imdb-sample/test.tsv", 1000),
    ):
        source = Source(path, columns=single, labels=ZERO_ONE)
        yield Set(source, SENTIMENT, rows, FIRST_TAB)


def fdu_mtl() -> Iterator[Set]:
    domains = "apparel books electronics health_personal_care kitchen_housewares imdb MR"
    for domain in domains.split(" "):
        for split, rows in (("train", 1598 if domain == "electronics" else 1600), ("test", 400)):
            source = Source(
                f"fdu-mtl/{domain}.task.{split}",
                format="tsv",
                header=False,
                encoding="latin-1" if domain == "MR" else "utf-8",
                columns=LABEL_FIRST,
                labels=ZERO_ONE,
                domain=domain,
            )
            yield Set(source, SENTIMENT, rows, FIRST_TAB)


def senteval() -> Iterator[Set]:
    for path, encoding, rows, task, labels, empty in (
        ("rt-polarity.all", "latin-1", 10662, SENTIMENT, ZERO_ONE, {}),
        ("custrev.all", "utf-8", 3771, SENTIMENT, ZERO_ONE, {"0": 2, "1": 2}),
        ("mpqa.all", "utf-8", 10603, SENTIMENT, ZERO_ONE, {"0": 2, "1": 1}),
        ("stsa.binary.train", "utf-8", 6920, SENTIMENT, ZERO_ONE, {}),
        ("stsa.binary.dev", "utf-8", 872, SENTIMENT, ZERO_ONE, {}),
        ("stsa.binary.test", "utf-8", 1821, SENTIMENT, ZERO_ONE, {}),
        ("TREC.train.all", "latin-1", 5452, QUESTION, {}, {}),
        ("TREC.test.all", "utf-8", 500, QUESTION, {}, {}),
    ):
        source = dataclasses.replace(
            LABEL_SPACE_TEXT,
            path=f"senteval-style/{path}",
            encoding=encoding,
            labels=labels,
            drop={"text_a": ("",)} if empty else {},
        )
        yield Set(source, task, rows, FIRST_SPACE, left_out=Counter(empty))


def tweets() -> Iterator[Set]:
    for language in TWEET_LANGUAGES.split():
        for split, rows in (("train", 1839), ("val", 324), ("test", 870)):
            source = Source(
                f"xlm-t-sentiment/{language}",
                format="lines",
                aligned={"text_a": f"{split}_text.txt", "label": f"{split}_labels.txt"},
                labels={"0": "negative", "1": "neutral", "2": "positive"},
                language=language,
            )
            yield Set(source, POLARITY3, rows, WHOLE_LINE, labels_in=f"{split}_labels.txt")


def reviews() -> Iterator[Set]:
    label_quoted = field(rb'^(?:\xef\xbb\xbf)?"(-?1)","')
    for path, columns, rows, count in (
        ("fr-amazon", {"text_a": 0, "label": 1}, 1500, field(rb'","(-?1)"\r?$')),
        ("nl-bol.com", LABEL_FIRST, 3000, label_quoted),
        ("de-amazon", LABEL_FIRST, 200, label_quoted),
    ):
        source = Source(
            f"pattern-reviews/polarity-{path}.csv",
            header=False,
            columns=columns,
            labels={"-1": "negative", "1": "positive"},
            language=path[:2],
        )
        yield Set(source, SENTIMENT, rows, count)
    for path, rows, empty in (("ChnSentiCorp_htl_all", 7765, 1), ("waimai_10k", 11987, 0)):
        source = Source(
            f"zh-reviews/{path}.csv",
            columns={"text_a": "review", "label": "label"},
            labels=ZERO_ONE,
            language="zh",
            drop={"text_a": ("",)} if empty else {},
        )
        left_out = Counter({"0": empty})
        yield Set(source, SENTIMENT, rows, field(rb"^([01]),"), left_out=left_out)


def xnli() -> Iterator[Set]:
    for language in XNLI_LANGUAGES.split():
        path = f"xnli/dev-{language}.tsv"
        source = Source(path, header=False, columns=PAIR_THEN_LABEL, language=language)
        yield Set(source, NLI, 2490, LAST_TAB)
    for language in ("en", "de", "sw", "tr", "zh", "ko"):
        source = Source(
            f"xnli/test-{language}.tsv",
            header=False,
            columns=PAIR_THEN_LABEL,
            aligned={"domain": "test-genres.txt"},
            language=language,
        )
        yield Set(source, NLI, 5010, LAST_TAB)


SETS = [
    each
    for sets in (sts_sets, glue_and_imdb, fdu_mtl, senteval, tweets, reviews, xnli)
    for each in sets()
]


@pytest.mark.parametrize("each", SETS, ids=lambda each: each.id)
def test_set(each: Set, shared: Path) -> None:
    examples = read(each.source, each.task, str(shared / "data"))
    assert len(examples) == each.rows
    file = shared / "data" / each.source.path / each.labels_in
    written = each.count(file.read_bytes()) - each.left_out
    if each.source.header and each.source.format != "lines":
        written.pop("label", None)
    expected: Counter[Any] = Counter()
    if each.task.type == "regression":
        for score, n in written.items():
            expected[np.float32(score)] += n
        assert Counter(examples.label) == expected
    else:
        for label, n in written.items():
            expected[(each.source.labels or {label: label})[label]] += n
        assert Counter(each.task.labels[i] for i in examples.label) == expected
    assert len(set(examples.id)) == len(examples)
    assert set(examples.language) == {each.source.language}


PAWS_X = "dev-de dev-en dev-es dev-fr dev-ja dev-ko dev-zh test-de test-zh"


@pytest.mark.parametrize("file", PAWS_X.split())
def test_paws_x(file: str, shared: Path) -> None:
    source = Source(
        f"paws-x/{file}.tsv",
        header=False,
        columns=PAIR_THEN_LABEL,
        labels=DIFFERENT_SAME,
        drop={"text_a": ("NS",), "text_b": ("NS",)},
        num_records=2000,
    )
    examples = read(source, DUPLICATE, str(shared / "data"))
    lines = (shared / "data" / source.path).read_text(encoding="utf-8").rstrip("\n").split("\n")
    whole = [line.split("\t") for line in lines if "NS" not in line.split("\t")[:2]]
    assert list(examples.text_a) == [line[0] for line in whole]
    assert list(examples.text_b or ()) == [line[1] for line in whole]
    assert examples.label.tolist() == [int(line[2]) for line in whole]


def test_domains_of_sts_benchmark(shared: Path) -> None:
    source = Source(
        "stsbenchmark-en/sts-test.csv",
        format="tsv",
        header=False,
        columns=STS_COLUMNS,
    )
    examples = read(source, STS, str(shared / "data"))
    # As the task's own readme gives them: news 500, captions 625, forums 254.
    assert Counter(examples.domain) == {"main-news": 500, "main-captions": 625, "main-forums": 254}
    assert any(text.count('"') == 1 for text in examples.text_a)  # Quotes are literal.


def test_genres_of_xnli(shared: Path) -> None:
    source = Source(
        "xnli/test-de.tsv",
        header=False,
        columns=PAIR_THEN_LABEL,
        aligned={"domain": "test-genres.txt"},
    )
    genres = read(source, NLI, str(shared / "data")).domain
    assert Counter(genres) == WHOLE_LINE((shared / "data/xnli/test-genres.txt").read_bytes())
    assert set(Counter(genres).values()) == {501}


@pytest.mark.parametrize("path", ["rt-polarity.all", "TREC.train.all"])
def test_latin_1_is_not_guessed(path: str, shared: Path) -> None:
    source = dataclasses.replace(LABEL_SPACE_TEXT, path=f"senteval-style/{path}")
    with pytest.raises(DataError, match=rf"is not in utf-8\n  - {path}:\d+:\d+: 0x"):
        read(source, QUESTION, str(shared / "data"))


def test_empty_review_is_refused_unless_dropped(shared: Path) -> None:
    source = Source(
        "zh-reviews/ChnSentiCorp_htl_all.csv",
        columns={"text_a": "review", "label": "label"},
        labels=ZERO_ONE,
    )
    with pytest.raises(DataError, match=r"ChnSentiCorp_htl_all.csv:\d+: column 'review': is empty"):
        read(source, SENTIMENT, str(shared / "data"))
