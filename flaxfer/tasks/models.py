"""Models of tasks."""

from __future__ import annotations

from flaxfer.config import Task
from flaxfer.models.encoders import EncoderConfig
from flaxfer.models.spec import ModelSpec
from flaxfer.tasks import task_type


def model_spec(encoder: EncoderConfig, task: Task) -> ModelSpec:
    """Return the encoder with the head that a task needs."""
    form = task_type(task)
    outputs = form.num_outputs(task) or encoder.hidden_size
    return ModelSpec(encoder, form.head_of(task), outputs, layer=task.embedding_layer)
