"""Recognition of how files are written and what their columns mean."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from flaxfer.config import Source
from flaxfer.data.column_names import is_known
from flaxfer.data.meaning import Meaning, interpret
from flaxfer.data.readers import read_table
from flaxfer.data.siblings import family
from flaxfer.data.sniffing import sniff
from flaxfer.errors import DataError
from flaxfer.tasks import TASK_TYPES

SENTENCE = "Das Hotel war schön, und das Frühstück ist nicht schlecht; für die Größe"
GERMAN = SENTENCE.split()


def reviews(n: int = 40) -> list[tuple[str, str]]:
    """German texts with commas and umlauts, and a label of two."""
    words = [GERMAN[i % len(GERMAN) :] + GERMAN[: i % len(GERMAN)] for i in range(n)]
    return [
        (" ".join(w).replace(";", ","), ("gut", "schlecht")[i % 2]) for i, w in enumerate(words)
    ]


def table(delimiter: str, header: str = "text{}note", rows: int = 40) -> str:
    lines = [f'"{a}"{delimiter}{b}' if delimiter == "," else f"{a}{delimiter}{b}"
             for a, b in reviews(rows)]  # fmt: skip
    return "\n".join([header.format(delimiter), *lines]) + "\n"


def file(folder: Path, name: str, content: str | bytes) -> Path:
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def meaning(path: Path, task_type: str = "") -> Meaning:
    return interpret([sniff(path)], task_type)


DELIMITED: list[tuple[str, str | bytes, dict[str, Any]]] = [
    ("a.csv", table(","), {}),
    ("a.csv", table(";"), {"delimiter": ";"}),
    ("a.csv", table(";").encode("cp1252"), {"delimiter": ";", "encoding": "cp1252"}),
    ("a.csv", table(";").encode("utf-8-sig"), {"delimiter": ";"}),
    ("a.csv", table("\t").encode("utf-16"), {"format": "tsv", "encoding": "utf-16"}),
    ("a.csv", "sep=;\n" + table(";"), {"comment": "sep=", "delimiter": ";"}),
    ("a.tsv", table("\t"), {}),
    ("a.tsv", table(","), {"format": "csv"}),
    ("a.txt", table("|"), {"format": "csv", "delimiter": "|"}),
    ("a.csv", table(";").replace("\n", "\r\n"), {"delimiter": ";"}),
]


@pytest.mark.parametrize(("name", "content", "settings"), DELIMITED)
def test_tables_are_recognised(
    name: str, content: str | bytes, settings: dict[str, Any], tmp_path: Path
) -> None:
    path = file(tmp_path, name, content)
    layout = sniff(path)
    assert layout.settings == settings
    assert list(layout.columns) == ["text", "note"]
    assert list(zip(*layout.columns.values(), strict=True)) == reviews()
    found = interpret([layout])
    assert found.columns == {"text_a": "text", "label": "note"}
    assert found.task["labels"] == ("gut", "schlecht") and found.language == "de"
    # The settings are enough for the reader.
    source = Source(path=str(path), **layout.settings)
    assert read_table(path, source, ["note"]).size == 40


@pytest.mark.parametrize(
    ("lines", "header"),
    [
        (["text,label", "x y z,a", "u v w,b"], True),
        (["comment,verdict", *[f"this is a long one {i},{'ab'[i % 2]}" for i in range(9)]], True),
        ([f"this is a long one {i},{'ab'[i % 2]}" for i in range(9)], False),
        ([f"{i % 2},this is a long one {i}" for i in range(9)], False),
        (["foo,bar", *[f"some words {i},{i}" for i in range(9)]], True),
    ],
)
def test_a_header_is_recognised(lines: list[str], header: bool, tmp_path: Path) -> None:
    layout = sniff(file(tmp_path, "a.csv", "\n".join(lines)))
    assert layout.settings == ({} if header else {"header": False})
    assert list(layout.columns) == (lines[0].split(",") if header else [0, 1])


def test_quotes_are_those_of_the_file(tmp_path: Path) -> None:
    literal = "".join(f'{i % 2}\t"Well said he {i}\n' for i in range(20))
    assert sniff(file(tmp_path, "a.tsv", literal)).settings == {"header": False}
    quoted = "".join(f'{i % 2}\t"He said ""no"" {i}"\n' for i in range(20))
    assert sniff(file(tmp_path, "b.tsv", quoted)).settings == {"quotes": "csv", "header": False}
    torn = "".join(f"{i % 2},{'' if i else chr(34)}well he said {i}\n" for i in range(20))
    assert sniff(file(tmp_path, "c.csv", torn)).settings == {"quotes": "literal", "header": False}


TEXTS = [{"review": f"a fine film number {i}", "stars": 1 + i % 5} for i in range(20)]
SQUAD = {
    "data": [{"title": "t", "paragraphs": [{"context": "The man eats.", "qas": [
        {"id": str(i), "question": "Who eats?", "answers": [{"text": "man", "answer_start": 4}]}
        for i in range(3)
    ]}]}]
}  # fmt: skip


@pytest.mark.parametrize(
    ("name", "content", "settings"),
    [
        ("a.jsonl", "\n".join(map(json.dumps, TEXTS)), {}),
        ("a.json", "\n".join(map(json.dumps, TEXTS)), {"format": "jsonl"}),
        ("a.json", json.dumps(TEXTS, indent=1), {}),
        ("a.jsonl", json.dumps(TEXTS), {"format": "json"}),
        ("a.json", json.dumps({"version": 1, "rows": TEXTS}), {"field": "rows"}),
    ],
)
def test_json_is_recognised(
    name: str, content: str, settings: dict[str, Any], tmp_path: Path
) -> None:
    layout = sniff(file(tmp_path, name, content))
    assert layout.settings == settings
    found = interpret([layout])
    assert found.columns == {"text_a": "review", "label": "stars"}
    assert found.task["labels"] == ("1", "2", "3", "4", "5")
    assert interpret([layout], "regression").task["score_range"] == (1.0, 5.0)


def test_squad_is_recognised(tmp_path: Path) -> None:
    layout = sniff(file(tmp_path, "a.json", json.dumps(SQUAD)))
    assert layout.settings == {"format": "squad"}
    found = interpret([layout])
    assert (found.columns, found.source) == ({}, {})
    assert found.task == {"type": "question_answering", "metric": "f1"}


def test_parquet_is_recognised(tmp_path: Path) -> None:
    import pyarrow
    import pyarrow.parquet

    path = tmp_path / "data"
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(TEXTS), path)
    layout = sniff(path)
    assert layout.settings == {"format": "parquet"}
    assert interpret([layout]).columns == {"text_a": "review", "label": "stars"}


CONLL_2003 = "-DOCSTART- -X- -X- O\n\n" + "EU NNP B-NP B-ORG\nrejects VBZ B-VP O\n\n" * 9
TAGS = {"words": 0, "tags": 1}


@pytest.mark.parametrize(
    ("text", "settings", "columns", "metric"),
    [
        (CONLL_2003, {"format": "conll", "delimiter": " "}, {"words": 0, "tags": 3}, "f1"),
        ("EU\tB-ORG\nsays\tO\n\n" * 9, {"format": "conll"}, TAGS, "f1"),
        ("en:EU\tB-ORG\nen:says\tO\n\n" * 9, {"format": "conll"}, TAGS, "f1"),
        ("EU\tPROPN\nsays\tVERB\n\n" * 9, {"format": "conll"}, TAGS, "accuracy"),
        (
            "# id 7\n1\tEU\tB-ORG\tO\n2\tsays\tO\tO\n\n" * 9,
            {"format": "conll", "comment": "# id "},
            {"words": 1, "tags": 2},
            "f1",
        ),
    ],
)
def test_words_with_tags_are_recognised(
    text: str, settings: dict[str, Any], columns: dict[str, int], metric: str, tmp_path: Path
) -> None:
    layout = sniff(file(tmp_path, "data.txt", text))
    assert layout.settings == settings
    found = interpret([layout])
    assert found.columns == columns and found.task["metric"] == metric
    assert found.source == ({"word_prefix": "en:"} if "en:" in text else {})


def test_universal_dependencies_are_recognised(tmp_path: Path) -> None:
    sentence = "# text = EU says\n1\tEU\tEU\tPROPN\t_\t_\t2\tnsubj\t_\t_\n"
    sentence += "2\tsays\tsay\tVERB\t_\t_\t0\troot\t_\t_\n\n"
    layout = sniff(file(tmp_path, "a.conllu", sentence * 2))
    assert layout.settings == {} and sniff(file(tmp_path, "a", sentence)).format == "conllu"
    assert interpret([layout]).task["labels"] == ("PROPN", "VERB")


CHOICES = [
    {"premise": "It rained all day.", "choice1": "I got wet.", "choice2": "I ran.",
     "question": ("effect", "cause")[i % 2], "label": i % 2, "idx": i} for i in range(8)
]  # fmt: skip


def test_choices_are_recognised(tmp_path: Path) -> None:
    found = meaning(file(tmp_path, "a.jsonl", "\n".join(map(json.dumps, CHOICES))))
    expected = {"id": "idx", "text_a": "premise", "choice_1": "choice1", "choice_2": "choice2"}
    assert found.columns == expected | {"question": "question", "label": "label"}
    assert set(found.source["questions"]) == {"cause", "effect"}
    letters = [{**c, "label": "AB"[i % 2]} for i, c in enumerate(CHOICES)]
    found = meaning(file(tmp_path, "b.jsonl", "\n".join(map(json.dumps, letters))))
    assert found.source["labels"] == {"A": "0", "B": "1"}


def test_pairs_scores_languages_and_splits_are_recognised(tmp_path: Path) -> None:
    header = "split,lang,sentence1,sentence2,similarity,uid\n"
    lines = [
        f"{('train', 'train', 'val', 'test')[i % 4]},{('en', 'de', 'en')[i % 3]},"
        f"a man eats {i},the man eats {i},{i % 6 * 0.8:.1f},u{i}\n"
        for i in range(48)
    ]
    found = meaning(file(tmp_path, "a.csv", header + "".join(lines)))
    roles = {"language": "lang", "text_a": "sentence1", "text_b": "sentence2", "id": "uid"}
    assert found.columns == roles | {"label": "similarity"}
    assert found.task == {"type": "regression", "metric": "pearson", "score_range": (0.0, 5.0)}
    assert found.languages == ("en", "de")
    assert found.splits == {"train": ("train",), "dev": ("val",), "test": ("test",)}


def test_records_without_text_or_label_are_left_out(tmp_path: Path) -> None:
    lines = [f"this is a text {i},{i % 2}\n" for i in range(20)]
    found = meaning(
        file(tmp_path, "a.csv", "text,label\n,1\n  ,0\nno label,n/a\n" + "".join(lines))
    )
    assert found.source == {"drop": {"text_a": ("", "  ")}, "drop_unlabeled": True}
    assert found.task["labels"] == ("0", "1")
    polarity = [f"this is a text {i},{i % 2 * 2 - 1}\n" for i in range(20)]
    found = meaning(file(tmp_path, "b.csv", "text,label\n" + "".join(polarity)))
    assert found.source == {} and found.task["labels"] == ("-1", "1")


def test_the_metric_fits_the_balance(tmp_path: Path) -> None:
    for share, metric in ((2, "accuracy"), (10, "macro_f1")):
        lines = [f"this is a text {i},{'yes' if i % share else 'no'}\n" for i in range(60)]
        found = meaning(file(tmp_path, f"{share}.csv", "text,label\n" + "".join(lines)))
        assert found.task["metric"] == metric


def test_what_cannot_be_decided_is_a_placeholder(tmp_path: Path) -> None:
    lines = [f"this is a text {i},{'ab'[i % 2]},{'xy'[i // 2 % 2]}\n" for i in range(20)]
    found = meaning(file(tmp_path, "a.csv", "text,kind,mood\n" + "".join(lines)))
    assert found.columns["label"] == "TODO: the column of the labels; left are 'kind', 'mood'"
    assert all(label.startswith("TODO") for label in found.task["labels"])
    assert meaning(tmp_path / "a.csv", "regression").task == {
        "type": "regression",
        "metric": "pearson",
    }


@pytest.mark.parametrize(
    ("name", "content", "what"),
    [
        ("a.csv", "one\ntwo\nthree\n", "the lines have no columns"),
        ("a.csv", "Это книга,1\nЭто тоже,0\n".encode("cp1251"), "do not tell in which encoding"),
        ("a.csv", "", "is empty"),
        ("a.csv", "1,2\n3,4\n5,6\n", "no column holds texts"),
        ("a.json", '{"a": [1, 2], "b": [3, 4]}', "column by column"),
        ("a.json", '{"a": [1, 2', "damaged, cut off, or no JSON"),
        ("a.csv", b"PK\x03\x04" + b"x" * 30, "a zip archive or an Excel workbook"),
    ],
)
def test_what_no_config_reads_is_refused(
    name: str, content: str | bytes, what: str, tmp_path: Path
) -> None:
    with pytest.raises(DataError, match=what):
        meaning(file(tmp_path, name, content))
    with pytest.raises(DataError, match="there is no such file"):
        sniff(tmp_path / "absent.csv")


@pytest.mark.parametrize("label", ["positive", "negative"])
def test_a_label_tells_no_header(label: str) -> None:
    assert not is_known(label)


def test_columns_of_retrieval_are_found_by_name(tmp_path: Path) -> None:
    words = ("who wrote it", "the man wrote the book", "the bank is closed")
    lines = [",".join(f"{text} {i}" for text in words) + "\n" for i in range(20)]
    head = "Question,Document,hard_negative\n"
    found = meaning(file(tmp_path, "a.csv", head + "".join(lines)), "retrieval")
    assert found.columns == {
        "query": "Question",
        "passage": "Document",
        "negative": "hard_negative",
    }
    assert found.task == {"type": "retrieval", "metric": "map_at_20"}


@pytest.mark.parametrize("kind", sorted(TASK_TYPES.keys() - {"classification", "regression"}))
def test_a_type_that_the_file_is_not_of_is_refused(kind: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="Or write the config by hand"):
        meaning(file(tmp_path, "a.csv", table(",")), kind)
    with pytest.raises(DataError, match="which is no score"):
        meaning(tmp_path / "a.csv", "regression")


@pytest.mark.parametrize(
    ("names", "first", "expected"),
    [
        ("r_de.csv r_fr.csv r_x.csv", "r_de.csv", [("", "de"), ("", "fr")]),
        ("train.tsv test.tsv val.tsv", "train.tsv", [("test", ""), ("train", ""), ("dev", "")]),
        (
            "s-de-test.csv s-de-train.csv s-en-test.csv t-de-test.csv",
            "s-de-train.csv",
            [("test", "de"), ("train", "de"), ("test", "en")],
        ),
        ("my_data.csv to_data.csv", "my_data.csv", [("", "my")]),
        ("eng.train eng.testa eng.testb", "eng.train", [("dev", ""), ("test", ""), ("train", "")]),
        ("a.de.jsonl.gz a.it.jsonl.gz a.it.jsonl", "a.de.jsonl.gz", [("", "de"), ("", "it")]),
        ("reviews.csv reviews.tsv", "reviews.csv", [("", "")]),
    ],
)
def test_files_that_belong_together_are_found(
    names: str, first: str, expected: list[tuple[str, str]], tmp_path: Path
) -> None:
    for name in names.split():
        (tmp_path / name).write_text("")
    assert [one[1:] for one in family(tmp_path / first)] == expected


Check = Callable[[Meaning], bool]
PUBLISHED: list[tuple[str, str, dict[str, Any], dict[str, Any]]] = [
    ("pattern-reviews/polarity-de-amazon.csv", "classification", {"label": 0, "text_a": 1}, {}),
    ("pattern-reviews/polarity-fr-amazon.csv", "classification", {"label": 1, "text_a": 0}, {}),
    ("zh-reviews/waimai_10k.csv", "classification", {"label": "label", "text_a": "review"}, {}),
    ("fdu-mtl/books.task.train", "classification", {"label": 0, "text_a": 1}, {"format": "tsv"}),
    ("stsb-multi-mt/stsb-de-dev.csv", "regression", {"text_a": 0, "text_b": 1, "label": 2}, {}),
    ("xnli/dev-de.tsv", "classification", {"text_a": 0, "text_b": 1, "label": 2}, {}),
    ("paws-x/dev-de.tsv", "classification", {"text_a": 0, "text_b": 1, "label": 2}, {}),
    ("glue-samples/RTE/dev.tsv", "classification", {"text_b": "sentence2", "id": "index"}, {}),
    ("glue-samples/MRPC/dev.tsv", "classification", {"label": "Quality"}, {}),
    ("glue-samples/SST-2/dev.tsv", "classification", {"label": "label", "text_a": "text"}, {}),
    ("sick/SICK_trial.txt", "regression", {"text_a": "sentence_A"}, {"format": "tsv"}),
    ("imdb-sample/dev.tsv", "classification", {"label": "label", "text_a": "text"}, {}),
    ("panx/dev-de.tsv", "tagging", {"words": 0, "tags": 1}, {"format": "conll"}),
    ("udpos/dev-en.tsv", "tagging", {"words": 0, "tags": 1}, {"format": "conll"}),
    ("ud-en-ewt/en_ewt-ud-dev.conllu", "tagging", {}, {}),
    ("xquad/xquad.de.json", "question_answering", {}, {"format": "squad"}),
    ("mlqa/dev/dev-context-de-question-de.json", "question_answering", {}, {"format": "squad"}),
    ("xcopa/et/val.et.jsonl", "multiple_choice", {"text_a": "premise"}, {}),
    ("copa/train-en.jsonl", "multiple_choice", {"question": "question"}, {}),
    ("siqa/socialIQa_v1.4_dev.jsonl", "multiple_choice", {"label": "correct"}, {}),
]


@pytest.mark.parametrize(("name", "kind", "columns", "settings"), PUBLISHED)
def test_published_files_are_recognised(
    name: str, kind: str, columns: dict[str, Any], settings: dict[str, Any], shared: Path
) -> None:
    layout = sniff(shared / "data" / name)
    found = interpret([layout])
    assert found.task["type"] == kind, found.notes
    assert found.columns.items() >= columns.items(), found.notes
    assert layout.settings.items() >= settings.items(), layout.note
