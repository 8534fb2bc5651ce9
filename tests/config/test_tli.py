"""The config after Targeted Lexical Injection has the settings of the published code."""

from __future__ import annotations

from pathlib import Path

from flaxfer.config import Config, Lora, loading
from flaxfer.tasks import TASK_TYPES

FILE = Path(__file__).parents[2] / "configs" / "tli_xling.py"


def test_the_alignment_is_that_of_the_paper() -> None:
    config = loading.load_any(str(FILE), TASK_TYPES)
    assert isinstance(config, Config) and config.intermediate is not None
    stage = config.intermediate
    task, optimizer, train = stage.task, stage.optimizer, stage.train
    assert (task.pooling, task.embedding_layer, task.triplet_margin) == ("mean", 2, 0.4)
    assert stage.lora == Lora(16, 32.0, 0.05, (0, 2), ("query", "value"))
    assert (optimizer.name, optimizer.learning_rate, optimizer.warmup) == ("adamw", 2e-4, 50)
    assert (optimizer.weight_decay, optimizer.clip_norm, optimizer.schedule) == (0.01, 0, "linear")
    assert (train.batch_size, train.epochs) == (8, 5)
    assert config.target.lora is None
