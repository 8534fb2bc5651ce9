"""flaxfer: intermediate-task transfer across domains and languages, in JAX and Flax.

The names below are imported when they are first used, so `import flaxfer` takes no time and starts
no JAX.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from flaxfer.api import Report, Study, load, run
    from flaxfer.config import (
        Config,
        Data,
        Mesh,
        Model,
        Optimizer,
        Source,
        Stage,
        Task,
        Train,
        Wandb,
    )
    from flaxfer.config.grids import Grid, Target
    from flaxfer.errors import FlaxferError
    from flaxfer.interop.embedding import Embedder
    from flaxfer.interop.predictor import Predictor
    from flaxfer.tasks.custom import Metric, register_metric
    from flaxfer.training.callbacks import Callbacks

__version__ = "0.1.0"

__all__ = [
    "Callbacks",
    "Config",
    "Data",
    "Embedder",
    "FlaxferError",
    "Grid",
    "Mesh",
    "Metric",
    "Model",
    "Optimizer",
    "Predictor",
    "Report",
    "Source",
    "Stage",
    "Study",
    "Target",
    "Task",
    "Train",
    "Wandb",
    "__version__",
    "load",
    "register_metric",
    "run",
]

_MODULES = {
    **dict.fromkeys(("Report", "Study", "load", "run"), "flaxfer.api"),
    **dict.fromkeys(("Grid", "Target"), "flaxfer.config.grids"),
    **dict.fromkeys(("Metric", "register_metric"), "flaxfer.tasks.custom"),
    "FlaxferError": "flaxfer.errors",
    "Embedder": "flaxfer.interop.embedding",
    "Predictor": "flaxfer.interop.predictor",
    "Callbacks": "flaxfer.training.callbacks",
}
"""Modules of the names that are not in `flaxfer.config`."""


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(_MODULES.get(name, "flaxfer.config")), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
