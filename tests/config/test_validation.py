"""Every check of the config, each by one case; a valid config has no finding."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from flaxfer.config import Config, Data, Model, Source, Stage, Task, Train
from flaxfer.config.validation import check
from flaxfer.tasks import TASK_TYPES

COLUMNS = {"text_a": 0, "label": 1}
VALID = Config(
    name="study",
    model=Model(path="model"),
    intermediate=Stage(
        Task("topic", "classification", "accuracy", ("no", "yes")),
        Data((Source(path="topic.tsv", columns=COLUMNS, labels={"n": "no"}),)),
    ),
    target=Stage(
        Task("same", "regression", "pearson"),
        Data((Source(path="same.tsv", columns=COLUMNS),)),
        {"de": Source(hub="some/set", columns=COLUMNS)},
    ),
)
SOURCE = "target.data.train.0"


def changed(config: Any, key: str, value: Any) -> Any:
    """The config with another value at a dotted key."""
    first, _, rest = key.partition(".")
    if isinstance(config, tuple):
        i = int(first)
        return (*config[:i], changed(config[i], rest, value), *config[i + 1 :])
    if isinstance(config, dict):
        return {**config, first: changed(config[first], rest, value) if rest else value}
    inner = changed(getattr(config, first), rest, value) if rest else value
    return dataclasses.replace(config, **{first: inner})


def findings(changes: dict[str, Any]) -> list[tuple[tuple[str, ...], str]]:
    config = VALID
    for key, value in changes.items():
        config = changed(config, key, value)
    return list(check(config, TASK_TYPES))


def test_a_valid_config_has_no_finding() -> None:
    assert findings({}) == []


TRAIN, OPTIMIZER = "target.train", "target.optimizer"
CASES: list[tuple[dict[str, Any], str]] = [
    ({"model.path": ""}, "model.path: name either"),
    ({"model.hub": "some/model"}, "model.path: name either"),
    ({"model.dropout": 1.0}, "model.dropout: must be in [0, 1)"),
    ({"model.dropout": -0.1}, "model.dropout: must be in [0, 1)"),
    ({"name": "a study"}, "name: letters, digits"),
    ({"name": ""}, "name: letters, digits"),
    ({"conditions": ()}, "conditions: is empty"),
    ({"conditions": ("direct", "direct")}, "conditions: holds a value twice"),
    ({"seeds": ()}, "seeds: is empty"),
    ({"seeds": (1, 1)}, "seeds: holds a value twice"),
    ({"seeds": (1, -1)}, "seeds: must not be negative"),
    ({"seeds_at_once": -1}, "seeds_at_once: must not be negative, is -1"),
    ({"intermediate": None}, "conditions: 'staged' needs the section intermediate"),
    ({"mesh.data": 0}, "mesh.data: must be positive"),
    ({"mesh.fsdp": -2}, "mesh.fsdp: must be positive"),
    ({"mesh.tensor": 0}, "mesh.tensor: must be positive"),
    ({"mesh.tensor": -1}, "mesh.data: only one axis may be -1"),
    # The task.
    ({"intermediate.task.labels": ("no",)}, "intermediate.task.labels: classification needs"),
    ({"intermediate.task.labels": ("no", "no")}, "intermediate.task.labels: holds a label twice"),
    ({"target.task.labels": ("no", "yes")}, "target.task.labels: regression has none"),
    ({"target.task.score_range": (1.0, 1.0)}, "target.task.score_range: is empty"),
    ({"target.task.metric": "accuracy"}, "target.task.metric: 'accuracy' is no metric of regr"),
    # The data.
    ({"target.data.train": ()}, "target.data.train: names no source"),
    ({"target.data.split": (0.7, 0.2, 0.2)}, "target.data.split: shares"),
    ({"target.data.split": (0.7, 0.5, -0.2)}, "target.data.split: shares"),
    ({"target.data.split": (0.0, 0.5, 0.5)}, "target.data.split: shares"),
    ({"target.data.split": (0.7, 0.0, 0.3)}, "target.data.split: shares"),
    ({"target.evaluate": {"dev": Source(path="x", columns=COLUMNS)}}, "target.evaluate.dev: a n"),
    ({"target.evaluate": {"a/b": Source(path="x", columns=COLUMNS)}}, "target.evaluate.a/b: a n"),
    ({"target.evaluate.de.rows": -1}, "target.evaluate.de.rows: must not be negative"),
    ({"target.data.dev": (Source(columns=COLUMNS),)}, "target.data.dev.0.path: name either"),
    ({"target.data.test": (Source(columns=COLUMNS),)}, "target.data.test.0.path: name either"),
    # A source.
    ({f"{SOURCE}.path": ""}, f"{SOURCE}.path: name either a local file"),
    ({f"{SOURCE}.hub": "some/set"}, f"{SOURCE}.path: name either"),
    ({f"{SOURCE}.columns": {**COLUMNS, "txt_b": 2}}, f"{SOURCE}.columns.txt_b: unknown role; did"),
    ({f"{SOURCE}.aligned": {"zzz": "f"}}, f"{SOURCE}.aligned.zzz: unknown role; there are text_a"),
    ({f"{SOURCE}.aligned": {"label": "f"}}, f"{SOURCE}.aligned: label stands in columns too"),
    ({f"{SOURCE}.columns": {"text_a": 0}}, f"{SOURCE}.columns.label: is missing"),
    ({f"{SOURCE}.columns": {"label": 0}}, f"{SOURCE}.columns.text_a: is missing"),
    ({f"{SOURCE}.format": "lines"}, f"{SOURCE}.columns: a source of aligned lines has no columns"),
    ({f"{SOURCE}.delimiter": "::"}, f"{SOURCE}.delimiter: one character"),
    ({f"{SOURCE}.max_columns": -1}, f"{SOURCE}.max_columns: must not be negative"),
    ({f"{SOURCE}.rows": -1}, f"{SOURCE}.rows: must not be negative"),
    ({f"{SOURCE}.fraction": 0.0}, f"{SOURCE}.fraction: must be in (0, 1]"),
    ({f"{SOURCE}.fraction": 1.1}, f"{SOURCE}.fraction: must be in (0, 1]"),
    (
        {"intermediate.data.train.0.labels": {"y": "maybe"}},
        "intermediate.data.train.0.labels.y: 'maybe' is no label of topic; there are no, yes",
    ),
    # The loop.
    *[
        ({f"{TRAIN}.{key}": 0}, f"{TRAIN}.{key}: must be at least 1, is 0")
        for key in (
            "batch_size",
            "gradient_accumulation_steps",
            "eval_rows",
            "log_every",
            "max_bucket_sizes",
        )
    ],
    *[
        ({f"{TRAIN}.{key}": -1}, f"{TRAIN}.{key}: must not be negative, is -1")
        for key in ("max_steps", "eval_every", "patience")
    ],
    ({f"{TRAIN}.epochs": 0.0}, f"{TRAIN}.epochs: must be positive"),
    (
        {f"{TRAIN}.gradient_accumulation_steps": 3},
        f"{TRAIN}.gradient_accumulation_steps: 3 does not divide batch_size 32",
    ),
    ({f"{TRAIN}.max_length": 3}, f"{TRAIN}.max_length: must be at least 4"),
    ({f"{TRAIN}.row_length": 127}, f"{TRAIN}.row_length: 127 tokens cannot hold"),
    (
        {"intermediate.train.label_smoothing": 1.0},
        "intermediate.train.label_smoothing: must be in [0, 1), is 1.0",
    ),
    ({f"{TRAIN}.label_smoothing": 0.1}, f"{TRAIN}.label_smoothing: is for classification"),
    # The optimiser.
    *[
        ({f"{OPTIMIZER}.{key}": 0.0}, f"{OPTIMIZER}.{key}: must be positive, is 0.0")
        for key in ("learning_rate", "eps", "power", "layer_decay")
    ],
    *[
        ({f"{OPTIMIZER}.{key}": -1.0}, f"{OPTIMIZER}.{key}: must not be negative, is -1.0")
        for key in ("weight_decay", "warmup", "end_factor", "clip_norm", "l2_sp")
    ],
    *[
        ({f"{OPTIMIZER}.{key}": 1.0}, f"{OPTIMIZER}.{key}: must be in [0, 1), is 1.0")
        for key in ("b1", "b2")
    ],
    ({f"{OPTIMIZER}.decay_share": 0.0}, f"{OPTIMIZER}.decay_share: must be in (0, 1]"),
    (
        {f"{OPTIMIZER}.schedule": "inverse_sqrt", f"{OPTIMIZER}.warmup": 0.0},
        f"{OPTIMIZER}.warmup: inverse_sqrt is measured in warm-up steps",
    ),
    ({f"{OPTIMIZER}.warmup": 1.5}, f"{OPTIMIZER}.warmup: below 1 a share"),
    (
        {f"{OPTIMIZER}.warmup": 10.0, f"{TRAIN}.max_steps": 10},
        f"{OPTIMIZER}.warmup: 10 steps of warm-up leave none of max_steps 10",
    ),
    ({"target.restarts": -1}, "target.restarts: must be 0 or more"),
    ({"intermediate.restarts": -2}, "intermediate.restarts: must be 0 or more"),
    # Against forgetting.
    ({"target.rehearse": 32}, "target.rehearse: must leave some of the batch_size 32"),
    ({"target.rehearse": -1}, "target.rehearse: must leave some of the batch_size 32"),
    (
        {"target.rehearse": 6, f"{TRAIN}.gradient_accumulation_steps": 4},
        "target.rehearse: gradient_accumulation_steps 4 does not divide 6",
    ),
    ({"target.wise": (0.5, 1.1)}, "target.wise: must be in [0, 1]"),
    ({"target.wise": (0.5, 0.5)}, "target.wise: holds a value twice"),
    ({"intermediate.rehearse": 8}, "intermediate.rehearse: is for the target stage of the path"),
    ({"intermediate.retained": True}, "intermediate.retained: is for the target stage of the pat"),
    ({"intermediate.wise": (0.5,)}, "intermediate.wise: is for the target stage; leave"),
    (
        {"target.retained": True, "conditions": ("direct",)},
        "target.retained: is for the target stage of the path staged",
    ),
    (
        {"target.rehearse": 8, "conditions": ("direct",)},
        "target.rehearse: is for the target stage of the path staged",
    ),
    ({f"{OPTIMIZER}.freeze": ("(",)}, f"{OPTIMIZER}.freeze: '(' is no regular expression"),
    ({f"{OPTIMIZER}.no_decay": ("[",)}, f"{OPTIMIZER}.no_decay: '[' is no regular expression"),
]


@pytest.mark.parametrize(("changes", "finding"), CASES, ids=[case[1] for case in CASES])
def test_each_check_gives_one_finding(changes: dict[str, Any], finding: str) -> None:
    ((keys, text),) = findings(changes)
    assert text.startswith(finding)
    # The keys name what was read, so that a wrong type there does not lead to a second finding.
    assert any(key.startswith(k) or k.startswith(key) for key in changes for k in keys)


NER = Task("ner", "tagging", "f1", ("O", "B-PER", "I-PER"))
QA = Task("qa", "question_answering", "f1")
COPA = Task("copa", "multiple_choice", "accuracy")
WORDS = Source(path="ner.tsv", format="conll", columns={"words": 0, "tags": 1})
TREES = Source(path="de.conllu.gz", columns={"id": "sent_id"})
SQUAD = Source(path="squad.json", format="squad")
ASKED = Source(path="qa.jsonl", columns={"text_a": "q", "text_b": "c", "answers": "a"})
CHOICES = {"text_a": 0, "choice_1": 1, "choice_2": 2, "label": 3, "question": 4}
CHOSEN = Source(path="copa.tsv", columns=CHOICES, questions={"cause": "Why?"})
KINDS = {
    "ner": Stage(NER, Data((WORDS,)), {"de": TREES}),
    "qa": Stage(QA, Data((SQUAD,)), {"de": ASKED}, train=Train(max_length=384, row_length=384)),
    "copa": Stage(COPA, Data((CHOSEN,))),
}
KIND_CASES: list[tuple[str, dict[str, Any], str]] = [
    # Tagging.
    ("ner", {"task.labels": ("O",), "task.metric": "accuracy"}, "task.labels: tagging needs at"),
    ("ner", {"task.labels": ("O", "B-PER", "B-PER")}, "task.labels: holds a label twice"),
    ("ner", {"task.labels": ("NOUN", "VERB")}, "task.metric: 'f1' counts entities"),
    ("ner", {"task.labels": ("O", "I-PER")}, "task.metric: 'f1' counts entities"),
    ("ner", {"task.labels": ("O", "B-", "B-PER")}, "task.metric: 'f1' counts entities"),
    ("ner", {"task.metric": "macro_f1"}, "task.metric: 'macro_f1' is no metric of tagging; the"),
    ("ner", {"task.no_answer": True}, "task.no_answer: tagging has no answers"),
    ("ner", {"data.train.0.labels": {"1": "B-LOC"}}, "data.train.0.labels.1: 'B-LOC' is no label"),
    ("ner", {"data.train.0.columns": {"words": 0}}, "data.train.0.columns.tags: is missing"),
    ("ner", {"data.train.0.columns.id": 2}, "data.train.0.columns.id: a conll file has words"),
    ("ner", {"data.train.0.columns.text_a": 2}, "data.train.0.columns.text_a: no role of tagging"),
    ("ner", {"data.train.0.format": "tsv"}, "data.train.0.format: tagging is not read from tsv"),
    (
        "ner",
        {"evaluate.de.path": "de.csv", "evaluate.de.columns": WORDS.columns},
        "evaluate.de.format: tagging is not read from csv files; it is from conll, conllu, jsonl",
    ),
    ("ner", {"evaluate.de.word_prefix": "de:"}, "evaluate.de.word_prefix: is for conll files"),
    ("ner", {"evaluate.de.aligned": {"tags": "f"}}, "evaluate.de.aligned.tags: a line cannot hold"),
    ("ner", {"train.output_bias": "mean"}, "train.output_bias: tagging has no mean score"),
    # Questions.
    ("qa", {"task.labels": ("yes", "no")}, "task.labels: question_answering has none"),
    ("qa", {"task.metric": "exact"}, "task.metric: 'exact' is no metric of question_answering; di"),
    ("qa", {"task.max_answer_tokens": 0}, "task.max_answer_tokens: must be at least 1"),
    ("qa", {"task.n_best": 0}, "task.n_best: must be at least 1"),
    ("qa", {"train.doc_stride": -1}, "train.doc_stride: must not be negative"),
    ("qa", {"train.doc_stride": 379}, "train.doc_stride: windows that share 379 tokens need a"),
    ("qa", {"train.label_smoothing": 0.1}, "train.label_smoothing: is for classification"),
    ("qa", {"data.train.0.labels": {"a": "b"}}, "data.train.0.labels: question_answering has none"),
    (
        "qa",
        {"data.train.0.format": "conllu"},
        "data.train.0.format: question_answering is not read from conllu files; it is",
    ),
    ("qa", {"evaluate.de.columns": {"text_a": 0, "answers": 1}}, "evaluate.de.columns.text_b: is"),
    ("qa", {"evaluate.de.aligned": {"words": "f"}}, "evaluate.de.aligned.words: no role of"),
    # Choices.
    ("copa", {"task.labels": ("0", "1")}, "task.labels: multiple_choice has none"),
    ("copa", {"data.train.0.labels": {"1": "0", "2": "2"}}, "data.train.0.labels.2: '2' is no la"),
    ("copa", {"data.train.0.columns.choice_4": 4}, "data.train.0.columns.choice_3: is missing"),
    ("copa", {"data.train.0.columns.choice_0": 4}, "data.train.0.columns.choice_0: unknown role"),
    ("copa", {"data.train.0.columns": {**CHOICES, "text_b": 1}}, "data.train.0.columns.text_b: no"),
    ("copa", {"data.train.0.format": "squad"}, "data.train.0.format: multiple_choice is not read"),
    ("copa", {"train.label_smoothing": 0.1}, "train.label_smoothing: is for classification"),
]


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_can_be_valid(kind: str) -> None:
    assert list(check(dataclasses.replace(VALID, target=KINDS[kind]), TASK_TYPES)) == []


@pytest.mark.parametrize(
    ("kind", "changes", "finding"), KIND_CASES, ids=[case[2] for case in KIND_CASES]
)
def test_each_check_of_a_kind_gives_one_finding(
    kind: str, changes: dict[str, Any], finding: str
) -> None:
    stage = KINDS[kind]
    for key, value in changes.items():
        stage = changed(stage, key, value)
    ((keys, text),) = check(dataclasses.replace(VALID, target=stage), TASK_TYPES)
    assert text.startswith(f"target.{finding}")
    full = [f"target.{key}" for key in changes]
    assert any(key.startswith(k) or k.startswith(key) for key in full for k in keys)


@pytest.mark.parametrize(
    "changes",
    [
        {"conditions": ("direct", "scratch"), "intermediate": None},
        {"mesh.data": 1, "mesh.fsdp": -1},
        {"target.data.split": (1.0, 0.0, 0.0), "target.data.dev": VALID.target.data.train},
        {"target.data.split": (0.9, 0.1, 0.0)},
        {f"{TRAIN}.epochs": 0.0, f"{TRAIN}.max_steps": 5},
        {f"{TRAIN}.row_length": 128, f"{TRAIN}.max_length": 128},
        {f"{TRAIN}.max_length": 4, "model.dropout": 0.0, f"{OPTIMIZER}.decay_share": 1.0},
        {f"{TRAIN}.batch_size": 12, f"{TRAIN}.gradient_accumulation_steps": 4},
        {"intermediate.train.label_smoothing": 0.1},
        {f"{OPTIMIZER}.warmup": 0.0, f"{OPTIMIZER}.clip_norm": 0.0, f"{OPTIMIZER}.b1": 0.0},
        {f"{OPTIMIZER}.warmup": 9.0, f"{TRAIN}.max_steps": 10},
        {f"{OPTIMIZER}.warmup": 0.5, f"{TRAIN}.max_steps": 10},
        {f"{SOURCE}.fraction": 1.0, f"{SOURCE}.delimiter": ";"},
        {f"{SOURCE}.format": "lines", f"{SOURCE}.columns": {}, f"{SOURCE}.aligned": COLUMNS},
    ],
)
def test_the_edges_are_valid(changes: dict[str, Any]) -> None:
    assert findings(changes) == []
