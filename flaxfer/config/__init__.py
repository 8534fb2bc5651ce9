"""Configuration: schema, loading, validation and grids."""

from flaxfer.config.schema import (
    ENDINGS,
    METRICS,
    Common,
    Condition,
    Config,
    Data,
    Kind,
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
    "METRICS",
    "Common",
    "Condition",
    "Config",
    "Data",
    "Kind",
    "Mesh",
    "Model",
    "Optimizer",
    "RowLength",
    "Source",
    "Stage",
    "Task",
    "Train",
]
