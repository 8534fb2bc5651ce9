"""Names of families and task types in transformers and on the Hugging Face hub."""

from __future__ import annotations

from typing import NamedTuple

from flaxfer.config import Kind, Task

FAMILIES = {
    "bert": "Bert",
    "ernie": "Ernie",
    "roberta": "Roberta",
    "xlm-roberta": "XLMRoberta",
    "camembert": "Camembert",
    "data2vec-text": "Data2VecText",
    "xlnet": "XLNet",
}
"""Prefix of the names of transformers' classes, by family."""


class TaskNames(NamedTuple):
    """Names of a task type.

    Attributes:
      head: suffix of the names of transformers' classes.
      pipeline: the hub's pipeline tag.
      problem: transformers' `problem_type`; empty for task types that label more than a text or
        pair, or choose between several.
    """

    head: str
    pipeline: str
    problem: str = ""


TASK_TYPES: dict[Kind, TaskNames] = {
    "classification": TaskNames(
        "ForSequenceClassification", "text-classification", "single_label_classification"
    ),
    "regression": TaskNames("ForSequenceClassification", "text-classification", "regression"),
    "tagging": TaskNames("ForTokenClassification", "token-classification"),
    "question_answering": TaskNames("ForQuestionAnswering", "question-answering"),
    "multiple_choice": TaskNames("ForMultipleChoice", "multiple-choice"),
}


def class_name(family: str, task: Task) -> str:
    """Return the name of transformers' class for a family and a task."""
    head = TASK_TYPES[task.kind].head
    # XLNetForQuestionAnswering is a beam search over spans; ours is the plain head.
    simple = "Simple" if (family, task.kind) == ("xlnet", "question_answering") else ""
    return f"{FAMILIES[family]}{head}{simple}"


def describe_output(task: Task) -> str:
    """Return what a model of a task predicts, to complete the sentence "It predicts"."""
    match task.kind:
        case "classification":
            return f"one of the classes {', '.join(task.labels)}, in the order of the logits"
        case "regression":
            low, high = task.score_range
            return f"a score; the scores it was trained on range from {low:g} to {high:g}"
        case "tagging":
            return f"a tag for every word, at its first piece: {', '.join(task.labels)}"
        case "question_answering":
            none = ", or that there is none" if task.no_answer else ""
            return f"the part of a context that answers a question{none}"
        case "multiple_choice":
            return "which of several choices is the right one"
