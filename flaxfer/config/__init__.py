"""Configuration: schema, loading, validation and grids."""

from flaxfer.config.common import Common, Condition, Mesh, Wandb
from flaxfer.config.data import Data, Source
from flaxfer.config.schema import Config, Lora, Model, Optimizer, Stage, Task, Train

__all__ = [
    "Common",
    "Condition",
    "Config",
    "Data",
    "Lora",
    "Mesh",
    "Model",
    "Optimizer",
    "Source",
    "Stage",
    "Task",
    "Train",
    "Wandb",
]
