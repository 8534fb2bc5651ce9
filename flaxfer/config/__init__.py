"""Configuration: schema, loading, validation and grids."""

from flaxfer.config.schema import (
    FORMAT_OF_SUFFIX,
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
    "FORMAT_OF_SUFFIX",
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
