"""Configuration: schema, loading, validation and grids."""

from flaxfer.config.schema import (
    ENDINGS,
    Common,
    Condition,
    Config,
    Data,
    Mesh,
    Model,
    Optimizer,
    RowLength,
    Source,
    Stage,
    Task,
    Train,
)

__all__ = [
    "ENDINGS",
    "Common",
    "Condition",
    "Config",
    "Data",
    "Mesh",
    "Model",
    "Optimizer",
    "RowLength",
    "Source",
    "Stage",
    "Task",
    "Train",
]
