"""Names of models in transformers."""

from __future__ import annotations

from flaxfer.config import Task
from flaxfer.tasks import task_type

CLASS_PREFIXES = {
    "bert": "Bert",
    "ernie": "Ernie",
    "roberta": "Roberta",
    "xlm-roberta": "XLMRoberta",
    "camembert": "Camembert",
    "data2vec-text": "Data2VecText",
    "xlnet": "XLNet",
}
"""Prefix of the names of transformers' classes, by family."""


def class_name(family: str, task: Task) -> str:
    """Return the name of transformers' class for a family and a task."""
    suffix = task_type(task).architecture
    # XLNetForQuestionAnswering is a beam search over spans; ours is the plain head.
    simple = "Simple" if (family, suffix) == ("xlnet", "ForQuestionAnswering") else ""
    return f"{CLASS_PREFIXES[family]}{suffix}{simple}"
