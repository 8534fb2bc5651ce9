"""Models of tasks."""

from __future__ import annotations

from flaxfer.config import Task
from flaxfer.models.encoders import EncoderConfig
from flaxfer.models.spec import ModelSpec
from flaxfer.tasks import task_type


def model_spec(encoder: EncoderConfig, task: Task) -> ModelSpec:
    """Return the encoder with the head that a task needs."""
    return ModelSpec(encoder, task_type(task).head, task_type(task).num_outputs(task))
