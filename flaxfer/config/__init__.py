"""Configuration: schema, loading, validation and grids."""

from flaxfer.config.schema import (
    Common,
    Condition,
    Config,
    Data,
    Mesh,
    Model,
    Optimizer,
    Source,
    Stage,
    Task,
    Train,
)

__all__ = [
    "Common",
    "Condition",
    "Config",
    "Data",
    "Mesh",
    "Model",
    "Optimizer",
    "Source",
    "Stage",
    "Task",
    "Train",
]
