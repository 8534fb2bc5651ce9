"""Configuration: schema, loading, validation and grids."""

from flaxfer.config.schema import (
    METRICS,
    Common,
    Condition,
    Config,
    Data,
    Kind,
    Mesh,
    Model,
    Optimizer,
    Source,
    Stage,
    Task,
    Train,
)

__all__ = [
    "METRICS",
    "Common",
    "Condition",
    "Config",
    "Data",
    "Kind",
    "Mesh",
    "Model",
    "Optimizer",
    "Source",
    "Stage",
    "Task",
    "Train",
]
