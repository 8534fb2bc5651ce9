"""Predictions of words, answers and choices: of files, of standard input, and from Python."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from seqeval.metrics.sequence_labeling import get_entities

from flaxfer.config import Task
from flaxfer.errors import ConfigError, DataError
from flaxfer.interop.export import export
from flaxfer.interop.inputs import read_inputs
from flaxfer.interop.predict import predict
from flaxfer.interop.predictor import Predictor
from flaxfer.main import main
from tests.helpers import mesh_of
from tests.interop.test_export_task_types import TASKS, stage_without_training

Json = dict[str, Any]
Exporter = Callable[..., Path]

SENTENCES = [["A", "man", "plays", "the", "guitar"], ["cats"], ["dogs", "runs", "x"] * 6]
CONTEXT = "The red dog eats; a cat runs. The child plays the big piano, and a man is not eating."
QUESTIONS = [("who plays", CONTEXT), ("what is red", "a  big dog")]
CHOICES = [("a man plays", ("the guitar", "a dog", "cats")), ("the cat", ("eats", "is", "red"))]


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Exporter:
    """Export a random model of a task type, for sequences of a length."""

    def exported(type_name: str, family: Any = "bert", length: int = 24) -> Path:
        folder = tmp_path_factory.mktemp(type_name)
        train = {"max_length": length, "row_length": 64, "doc_stride": 6}
        stage, _ = stage_without_training(folder, family, TASKS[type_name], **train)
        return export(stage, folder / "out")

    return exported


def write(path: Path, records: list[Json]) -> Path:
    path.write_text("".join(f"{json.dumps(record)}\n" for record in records))
    return path


def printed(capsys: pytest.CaptureFixture[str], *words: str) -> list[Json]:
    code = main(["predict", *words])
    out, err = capsys.readouterr()
    assert code == 0, err
    return [json.loads(line) for line in out.splitlines()]


def standard_input(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(text.encode())))


def same(records: list[Json], others: list[Json]) -> bool:
    """Return whether records are equal up to rounding."""
    return len(records) == len(others) and all(
        one.keys() == other.keys()
        and all(one[key] == pytest.approx(other[key], abs=1e-5) for key in one.keys() - NESTED)
        for one, other in zip(records, others, strict=True)
    )


NESTED = {"n_best", "prediction"}


def test_every_word_gets_a_tag(
    exported: Exporter,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    model = exported("tagging")
    records = Predictor(model, mesh=mesh_of())(SENTENCES)
    for words, record in zip(SENTENCES, records, strict=True):
        assert record.keys() == {"prediction", "entities"}
        assert len(record["prediction"]) == len(words)
        assert [(one["type"], one["start"], one["end"] - 1) for one in record["entities"]] == (
            get_entities(record["prediction"])
        )
        assert {*record["prediction"]} <= {*TASKS["tagging"].labels}
    assert len({tag for record in records for tag in record["prediction"]}) > 1

    standard_input(monkeypatch, "".join(f"{' '.join(words)}\n" for words in SENTENCES))
    lines = printed(capsys, str(model), "-", "--text")
    assert [line["words"] for line in lines] == SENTENCES
    assert [line["id"] for line in lines] == ["stdin:1", "stdin:2", "stdin:3"]
    assert [line["prediction"] for line in lines] == [one["prediction"] for one in records]

    conll = tmp_path / "x.conll"
    conll.write_text("\n\n".join("\n".join(f"{w} ?" for w in words) for words in SENTENCES))
    words = [str(model), str(conll), "--columns", "words=0", "--source", "delimiter= "]
    assert [line["prediction"] for line in printed(capsys, *words)] == [
        one["prediction"] for one in records
    ]


def test_an_answer_is_a_part_of_its_context(
    exported: Exporter, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = exported("question_answering")
    records = Predictor(model, mesh=mesh_of())(QUESTIONS)
    for (_, context), record in zip(QUESTIONS, records, strict=True):
        assert record.keys() == {"prediction", "start", "end", "n_best"}
        assert record["prediction"] == context[record["start"] : record["end"]]
        assert "answers" not in record
    assert any(record["prediction"] for record in records)
    assert sum(one["probability"] for one in records[0]["n_best"]) == pytest.approx(1)

    qas = [[{"question": q, "id": str(i)}] for i, (q, _) in enumerate(QUESTIONS)]
    paragraphs = [
        {"context": context, "qas": qa} for (_, context), qa in zip(QUESTIONS, qas, strict=True)
    ]
    squad = tmp_path / "x.json"
    squad.write_text(json.dumps({"data": [{"title": "t", "paragraphs": paragraphs}]}))
    lines = printed(capsys, str(model), str(squad), "--source", "format=squad", "--text")
    assert [(line.pop("text_a"), line.pop("text_b")) for line in lines] == QUESTIONS
    assert [line.pop("id") for line in lines] == ["0", "1"]
    assert same(lines, records)


def test_the_choices_have_probabilities(exported: Exporter, tmp_path: Path) -> None:
    model = exported("multiple_choice")
    predictor = Predictor(model, mesh=mesh_of())
    records = predictor(CHOICES)
    for record in records:
        assert record.keys() == {"prediction", "probabilities"}
        assert record["prediction"] == np.argmax(record["probabilities"])
        assert len(record["probabilities"]) == 3
        assert sum(record["probabilities"]) == pytest.approx(1)
    parts = [
        {"premise": text, "choice_1": a, "choice_2": b, "choice_3": c, "more": 0}
        for text, (a, b, c) in CHOICES
    ]
    file = write(tmp_path / "x.jsonl", parts)
    options: Any = {"columns": {"text_a": "premise"}, "ignored": ["more"]}
    lines = list(predict(model, file, mesh_of(), **options))
    assert [{k: v for k, v in line.items() if k != "id"} for line in lines] == records
    repeated = list(predict(model, file, mesh_of(), texts=True, **options))
    assert {"text_a", "choice_1", "choice_2", "choice_3"} < repeated[0].keys()
    by_role = [{"text_a": one["premise"], **{f"choice_{i}": one[f"choice_{i}"] for i in (1, 2, 3)}}
               for one in parts]  # fmt: skip
    assert predictor(by_role) == records


@pytest.mark.parity
@pytest.mark.parametrize("family", ["bert", "xlm-roberta"])
def test_words_answers_and_choices_are_those_of_transformers(
    exported: Exporter, family: Any
) -> None:
    import torch
    import transformers

    def loaded(type_name: str, auto: Any) -> tuple[Path, Any, Any]:
        out = exported(type_name, family, length=60)
        return out, transformers.AutoTokenizer.from_pretrained(out), auto.from_pretrained(out)

    with torch.no_grad():
        out, tokenizer, model = loaded("tagging", transformers.AutoModelForTokenClassification)
        for words, record in zip(SENTENCES, Predictor(out)(SENTENCES), strict=True):
            encoded = tokenizer(words, is_split_into_words=True, return_tensors="pt")
            best = model(**encoded).logits[0].argmax(-1).tolist()
            first: dict[int, int] = {}
            for place, word in enumerate(encoded.word_ids()):
                if word is not None:
                    first.setdefault(word, place)
            tags = [model.config.id2label[best[first[word]]] for word in range(len(words))]
            assert record["prediction"] == tags
        auto = transformers.AutoModelForQuestionAnswering
        out, tokenizer, model = loaded("question_answering", auto)
        for (question, context), record in zip(QUESTIONS, Predictor(out)(QUESTIONS), strict=True):
            encoded = tokenizer(question, context, return_tensors="pt")
            answer = model(**encoded)
            start, end = answer.start_logits[0].double(), answer.end_logits[0].double()
            inside = [i for i, part in enumerate(encoded.sequence_ids()) if part == 1]
            span = encoded.token_to_chars
            candidates = [
                (float(start[i] + end[j]), span(i)[0], span(j)[1])
                for i in inside for j in inside if i <= j < i + 30
            ]  # fmt: skip
            score, begin, stop = max(candidates)
            none = float(start[0] + end[0])
            begin, stop = (0, 0) if none > score else (begin, stop)
            assert record["prediction"] == context[begin:stop].strip()
            assert (record["start"], record["end"])[1] == stop
        auto = transformers.AutoModelForMultipleChoice
        out, tokenizer, model = loaded("multiple_choice", auto)
        for (text, choices), record in zip(CHOICES, Predictor(out)(CHOICES), strict=True):
            pairs = [text] * len(choices), list(choices)
            encoded = tokenizer(*pairs, padding=True, return_tensors="pt")
            logits = model(**{key: value[None] for key, value in encoded.items()}).logits[0]
            np.testing.assert_allclose(record["probabilities"], logits.softmax(-1), atol=1e-5)
            assert record["prediction"] == int(logits.argmax())


@pytest.mark.parametrize(
    ("items", "message"),
    [
        (("tagging", ["a man"]), "item 1 cannot be used: it is a text; divide it into words"),
        (("tagging", [["a", " "]]), "texts:1: column 'words': item 2: is empty"),
        (("question_answering", ["who"]), "item 1 cannot be used: it is one text"),
        (("multiple_choice", [("a", "b")]), "its choices are no list of several texts"),
        (("multiple_choice", [*CHOICES, ("a", ("b", "c"))]), "item 3 has other parts than item 1"),
    ],
)
def test_items_of_another_form_are_refused(items: tuple[str, list[Any]], message: str) -> None:
    from flaxfer.interop.inputs import from_items

    type_name, values = items
    with pytest.raises(DataError) as caught:
        from_items(values, TASKS[type_name])
    assert message in str(caught.value)


PAIRS = Task("t", "regression", "mse")


@pytest.mark.parametrize(
    ("task", "name", "options", "message"),
    [
        (PAIRS, "x.csv", {"columns": {"text": "a"}}, "there is no such role"),
        (PAIRS, "x.csv", {"columns": {"label": "a"}}, "labels are not read"),
        (PAIRS, "x.csv", {"columns": {"text_a": "c"}}, "there is no column 'c'"),
        (PAIRS, "x.csv", {"settings": {"header": 1}}, "header: Input should be a valid boolean"),
        (PAIRS, "x.csv", {"settings": {"path": "y"}}, "'path' is no setting"),
        (PAIRS, "x.csv", {"settings": {"field": "y"}}, "source.field: has no effect"),
        (PAIRS, "x.csv", {"settings": {"num_records": 3}}, "holds 1 records, not 3"),
        (PAIRS, "x.txt", {"columns": {"text_a": "a"}}, "a text on each line has no columns"),
        (TASKS["question_answering"], "x.txt", {}, "a line of text cannot hold text_a, text_b"),
        (TASKS["tagging"], "x.csv", {}, "tagging is not predicted from csv files"),
        (TASKS["tagging"], "x.conll", {}, "number them from 0: --columns words=NUMBER."),
        (PAIRS, "x.csv", {"settings": {"header": False}}, "--columns text_a=NUMBER."),
    ],
)
def test_options_that_cannot_be_used(
    tmp_path: Path, task: Task, name: str, options: Json, message: str
) -> None:
    file = tmp_path / name
    file.write_text("text_a,b\na dog,1\n")
    options = {"ignored": ["b"]} | options
    with pytest.raises((ConfigError, DataError)) as caught:
        read_inputs(file, task, **options)
    assert message in str(caught.value)


def test_questions_of_choices_are_mapped(tmp_path: Path) -> None:
    task, file = TASKS["multiple_choice"], tmp_path / "x.jsonl"
    choices = {"text_a": "the dog runs", "choice_1": "a", "choice_2": "b"}
    asked = {"questions": {"cause": "Why?"}}
    file.write_text(json.dumps({**choices, "question": "Why?"}))
    expected = read_inputs(file, task).examples.text_a
    file.write_text(json.dumps({**choices, "question": "cause"}))
    assert read_inputs(file, task, settings=asked).examples.text_a == expected
    assert read_inputs(file, task).examples.text_a != expected
    file.write_text(json.dumps(choices))
    with pytest.raises(ConfigError, match="no column has the role question"):
        read_inputs(file, task, settings=asked)


def test_a_file_as_excel_writes_it_is_read_with_settings(tmp_path: Path) -> None:
    file = tmp_path / "x.csv"
    file.write_bytes("Größe;Text\n1;schön\n2;nä\n".encode("cp1252"))
    settings = {"delimiter": ";", "encoding": "cp1252"}
    columns: Any = {"text_a": "Text", "id": "Größe"}
    examples, fields = read_inputs(file, PAIRS, columns=columns, settings=settings)
    assert examples.text_a == ("schön", "nä") and examples.id == ("1", "2")
    assert fields == [{"text_a": "schön"}, {"text_a": "nä"}]
    numbered = {"text_a": 1, "id": 0}
    read = read_inputs(file, PAIRS, columns=numbered, settings=settings | {"header": False})
    assert read.examples.text_a == ("Text", "schön", "nä")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--columns", "text_a"], "'text_a' is no KEY=VALUE"),
        (["--columns", "text_a=x", "text_a=y"], "'text_a' is given twice"),
        (["--source", "header=false", "header=true"], "'header' is given twice"),
    ],
)
def test_pairs_of_options_are_checked(
    options: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["predict", "OUT", "x.csv", *options]) == 2
    assert message in capsys.readouterr().err
