"""Every check of the settings of a task type, each with one case."""

from __future__ import annotations

from typing import Any

import pytest

from flaxfer.config import loading
from flaxfer.tasks import TASK_TYPES
from tests.config.helpers import VALID, changed, errors, wrong_type

SOURCE = "target.data.train.0"
TAGS = {"name": "ner", "type": "tagging", "metric": "f1", "labels": ("O", "B-PER", "I-PER")}
WORDS = {"words": 0, "tags": 1}
CHOICES = {"text_a": 0, "choice_1": 1, "choice_2": 2, "label": 3, "question": 4}
KINDS: dict[str, dict[str, Any]] = {
    "ner": {
        "task": TAGS,
        "data": {"train": [{"path": "ner.tsv", "format": "conll", "columns": WORDS}]},
        "evaluate": {"de": {"path": "de.conllu.gz", "columns": {"id": "sent_id"}}},
    },
    "qa": {
        "task": {"name": "qa", "type": "question_answering", "metric": "f1"},
        "data": {"train": [{"path": "squad.json", "format": "squad"}]},
        "evaluate": {
            "de": {"path": "qa.jsonl", "columns": {"text_a": "q", "text_b": "c", "answers": "a"}}
        },
        "train": {"max_length": 384, "row_length": 384},
    },
    "copa": {
        "task": {"name": "copa", "type": "multiple_choice", "metric": "accuracy"},
        "data": {
            "train": [{"path": "copa.tsv", "columns": CHOICES, "questions": {"cause": "Why?"}}]
        },
    },
    "find": {
        "task": {"name": "align", "type": "retrieval", "metric": "accuracy_at_1"},
        "data": {"train": [{"path": "words.tsv", "columns": {"query": 0, "passage": 1}}]},
    },
}
KIND_CASES: list[tuple[str, dict[str, Any], str]] = [
    # Retrieval.
    (
        "find",
        {"lora.layers": (0, 3), "task.embedding_layer": 2},
        "lora.layers: adapters above the embedding_layer 2 would not be trained; end there",
    ),
    (
        "find",
        {"task.embedding_layer": 2, "task.pooling": "cls"},
        "task.embedding_layer: needs the pooling 'mean'; is 'cls'",
    ),
    (
        "find",
        {"task.triplet_margin": 0.4, "task.similarity_scale": 20.0},
        "task.similarity_scale: has no effect on the loss of triplets",
    ),
    (
        "find",
        {"task.triplet_margin": 2.5},
        "task.triplet_margin: should be at most 2, the largest difference of cosines; is 2.5",
    ),
    # Tagging.
    ("ner", {"task.labels": ("O",), "task.metric": "accuracy"}, "task.labels: tagging needs at"),
    ("ner", {"task.labels": ("O", "B-PER", "B-PER")}, "task.labels: holds a label twice"),
    ("ner", {"task.labels": ("NOUN", "VERB")}, "task.metric: 'f1' counts entities"),
    ("ner", {"task.labels": ("O", "B-PER", "LOC")}, "task.metric: 'f1' counts entities"),
    ("ner", {"task.labels": ("O", "B-", "B-PER")}, "task.metric: 'f1' counts entities"),
    ("ner", {"task.metric": "macro_f1"}, "task.metric: 'macro_f1' counts classes of words"),
    ("ner", {"task.metric": "rouge"}, "task.metric: 'rouge' is no metric of tagging; the"),
    ("ner", {"task.tag_scheme": "iobes5"}, "task.tag_scheme: should be 'auto'"),
    (
        "ner",
        {"task.no_answer": True},
        "task.no_answer: has no effect on a task of the type tagging",
    ),
    ("ner", {"data.train.0.labels": {"1": "B-LOC"}}, "data.train.0.labels.1: 'B-LOC' is no label"),
    ("ner", {"data.train.0.columns": {"words": 0}}, "data.train.0.columns.tags: is missing"),
    ("ner", {"data.train.0.columns.id": 2}, "data.train.0.columns.id: a conll file has words"),
    ("ner", {"data.train.0.columns.text_a": 2}, "data.train.0.columns.text_a: no role of tagging"),
    ("ner", {"data.train.0.format": "tsv"}, "data.train.0.format: tagging is not read from tsv"),
    (
        "ner",
        {"evaluate.de.path": "de.csv", "evaluate.de.columns": WORDS},
        "evaluate.de.format: tagging is not read from csv files; it is from conll, conllu, jsonl",
    ),
    (
        "ner",
        {"evaluate.de.word_prefix": "de:"},
        "evaluate.de.word_prefix: has no effect except on conll files",
    ),
    (
        "ner",
        {"evaluate.de.comment": "#"},
        "evaluate.de.comment: has no effect except on csv, tsv and conll files",
    ),
    (
        "ner",
        {"data.train.0.field": "data"},
        "data.train.0.field: has no effect except on json files",
    ),
    ("ner", {"evaluate.de.aligned": {"tags": "f"}}, "evaluate.de.aligned.tags: a line cannot hold"),
    (
        "ner",
        {"train.output_bias": "mean"},
        "train.output_bias: has no effect on a task of the type tagging",
    ),
    # Questions.
    (
        "qa",
        {"task.labels": ("yes", "no")},
        "task.labels: has no effect on a task of the type question_answering",
    ),
    ("qa", {"task.metric": "exact"}, "task.metric: 'exact' is no metric of question_answering; di"),
    (
        "qa",
        {"task.max_answer_tokens": 0},
        "task.max_answer_tokens: should be greater than or equal to 1; is 0",
    ),
    ("qa", {"task.n_best": 0}, "task.n_best: should be greater than or equal to 1; is 0"),
    (
        "qa",
        {"train.doc_stride": -1},
        "train.doc_stride: should be greater than or equal to 0; is -1",
    ),
    ("qa", {"train.doc_stride": 379}, "train.doc_stride: windows that share 379 tokens need a"),
    (
        "qa",
        {"train.label_smoothing": 0.1},
        "train.label_smoothing: has no effect on a task of the type",
    ),
    (
        "qa",
        {"data.train.0.labels": {"a": "b"}},
        "data.train.0.labels: has no effect on a task of the type question_answering",
    ),
    (
        "qa",
        {"data.train.0.format": "conllu"},
        "data.train.0.format: question_answering is not read from conllu files; it is",
    ),
    ("qa", {"evaluate.de.columns": {"text_a": 0, "answers": 1}}, "evaluate.de.columns.text_b: is"),
    ("qa", {"evaluate.de.aligned": {"words": "f"}}, "evaluate.de.aligned.words: no role of"),
    # Choices.
    (
        "copa",
        {"task.labels": ("0", "1")},
        "task.labels: has no effect on a task of the type multiple_choice",
    ),
    (
        "copa",
        {"data.train.0.columns": {**CHOICES, "choice_3": 5}, "data.train.0.labels": {"1": "3"}},
        "data.train.0.labels.1: '3' is no label of copa; there are 0, 1, 2",
    ),
    ("copa", {"data.train.0.labels": {"1": "0", "2": "2"}}, "data.train.0.labels.2: '2' is no la"),
    ("copa", {"data.train.0.columns.choice_4": 5}, "data.train.0.columns.choice_3: is missing"),
    ("copa", {"data.train.0.columns.choice_0": 5}, "data.train.0.columns.choice_0: unknown role"),
    ("copa", {"data.train.0.columns": {**CHOICES, "text_b": 5}}, "data.train.0.columns.text_b: no"),
    ("copa", {"data.train.0.format": "squad"}, "data.train.0.format: multiple_choice is not read"),
    (
        "copa",
        {"train.label_smoothing": 0.1},
        "train.label_smoothing: has no effect on a task of the type",
    ),
]


@pytest.mark.parametrize("kind", KINDS)
def test_every_task_type_can_be_valid(kind: str) -> None:
    loading.build(changed(VALID, {"target": KINDS[kind]}), TASK_TYPES)


@pytest.mark.parametrize(
    ("kind", "changes", "error"), KIND_CASES, ids=[case[2] for case in KIND_CASES]
)
def test_a_contradiction_with_the_task_type_is_one_error(
    kind: str, changes: dict[str, Any], error: str
) -> None:
    changes = {f"target.{key}": value for key, value in changes.items()}
    settings = changed(VALID, {"target": KINDS[kind]})
    (reported,) = errors(changed(settings, changes))
    assert reported.startswith(f"target.{error}")
    assert len(errors(changed(settings, wrong_type(changes)))) == len(changes)


def test_labels_are_not_compared_with_choices_that_are_missing() -> None:
    settings = changed(VALID, {"target": KINDS["copa"]})
    columns = {"text_a": 0, "label": 3}
    changes = {f"{SOURCE}.columns": columns, f"{SOURCE}.labels": {"a": "0"}}
    missing = [f"{SOURCE}.columns.choice_{i}: is missing" for i in (1, 2)]
    reported = errors(changed(settings, {**changes, f"{SOURCE}.questions": {}}))
    assert sorted(reported) == missing
