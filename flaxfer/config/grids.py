"""A grid of studies: models x targets with their intermediate tasks x fractions of the data.

A config file describes a grid if it has one of the keys `models`, `intermediates`, `targets` and
`fractions` instead of `model`, `intermediate` and `target`. Its top-level sections `optimizer` and
`train` apply to all stages; settings of a stage take precedence.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator, Mapping
from typing import Annotated

from pydantic import Field

from flaxfer.config import Common, Config, Model, Stage, fields
from flaxfer.config.clashes import check_same_items, check_same_stages
from flaxfer.config.findings import Finding, finding, suggestion
from flaxfer.config.task_types import TaskTypes
from flaxfer.config.validation import check_common, check_kernel, check_model, check_stage, place


@dataclasses.dataclass(frozen=True)
class Target(Stage):
    """A target stage.

    Attributes:
      intermediates: Names of the intermediate stages that are compared for it.
    """

    intermediates: fields.Tuple[fields.Part] = ()


@dataclasses.dataclass(frozen=True, kw_only=True)
class Grid(Common):
    """Studies that share stages where possible; each is a cell of the grid.

    A target without intermediates has one cell per model and fraction, without the condition
    `staged`.

    Attributes:
      models: Models by name.
      targets: Target stages by name.
      intermediates: Intermediate stages by name.
      fractions: Fractions of each target's training split, see `Data.train_fraction`.
    """

    models: Mapping[fields.Part, Model] = dataclasses.field(default_factory=dict)
    targets: Mapping[fields.Part, Target] = dataclasses.field(default_factory=dict)
    intermediates: Mapping[fields.Part, Stage] = dataclasses.field(default_factory=dict)
    fractions: Annotated[fields.Distinct[fields.Fraction], Field(min_length=1)] = (1.0,)


KEYS = frozenset(Grid.__annotations__)
"""Keys that only a grid has."""


@dataclasses.dataclass(frozen=True)
class CellKey:
    """Coordinates of a cell in its grid, by names; `intermediate` is empty if there is none."""

    model: str
    intermediate: str
    target: str
    fraction: float


def cell_keys(grid: Grid) -> dict[str, CellKey]:
    """Return the cells of a grid by the names of their studies.

    A name is MODEL.INTERMEDIATE.TARGET, followed by the fraction unless that is 1.
    """
    keys = {}
    for model in grid.models:
        for target, stage in grid.targets.items():
            pairs = itertools.product(stage.intermediates or ("",), grid.fractions)
            for intermediate, fraction in pairs:
                parts = (model, intermediate, target, f"{fraction:g}" if fraction != 1 else "")
                name = ".".join(part for part in parts if part)
                keys[name] = CellKey(model, intermediate, target, fraction)
    return keys


def cells(config: Config | Grid) -> dict[str, Config]:
    """Return the studies of a grid by name, or a single study by its own name.

    The directory of a cell is WORKDIR/cells/NAME.
    """
    if isinstance(config, Config):
        return {config.name: config}
    common = {field.name: getattr(config, field.name) for field in dataclasses.fields(Common)}
    studies = {}
    for name, key in cell_keys(config).items():
        target = config.targets[key.target]
        settings = common | {
            "name": name,
            "workdir": f"{config.workdir}/cells/{name}",
            "store": config.stages,
            "model": config.models[key.model],
            "target": _subsampled(target, key.fraction),
            "margin": {m: size for m, size in config.margin.items() if m == target.task.metric},
        }
        if key.intermediate:
            settings["intermediate"] = config.intermediates[key.intermediate]
        else:
            others = tuple(condition for condition in config.conditions if condition != "staged")
            settings |= {"conditions": others or ("direct",), "margin": {}, "paired": False}
        studies[name] = Config(**settings)
    return studies


def check(grid: Grid, task_types: TaskTypes) -> Iterator[Finding]:
    """Yield every contradiction in a grid, and every setting without effect."""
    staged = "staged" in grid.conditions
    places = {
        f"targets.{name}": place(
            *(target, task_types, grid),
            staged=staged and bool(target.intermediates),
            fractions=grid.fractions,
        )
        for name, target in grid.targets.items()
    }
    places |= {
        f"intermediates.{name}": place(stage, task_types, grid, target=False)
        for name, stage in grid.intermediates.items()
    }
    yield from check_common(grid, list(places.values()))
    for section in ("models", "targets"):
        if not getattr(grid, section):
            yield finding("is empty", section)
    for section in ("models", "intermediates", "targets"):
        yield from check_same_items(section, getattr(grid, section))
    for name, model in grid.models.items():
        yield from check_model(f"models.{name}", model)
        for at, each in places.items():
            yield from check_kernel(at, each.stage.train, f"models.{name}", model, grid)
    for at, each in places.items():
        yield from check_stage(at, each, task_types)
    for name, target in grid.targets.items():
        yield from _check_intermediates(f"targets.{name}", target, grid)
    default = Common.__dataclass_fields__["conditions"].default
    if staged and grid.conditions != default and not any(p.staged for p in places.values()):
        message = "'staged' has no effect, as no target has intermediates; leave it out"
        yield finding(message, "conditions", "targets")
    sizes = (len({*target.intermediates}) or 1 for target in grid.targets.values())
    if len(cell_keys(grid)) < sum(sizes) * len(grid.models) * len(grid.fractions):
        message = "two studies of the grid have the same name; use other names or fractions"
        yield finding(message, "targets", "models", "intermediates", "fractions")


def _check_intermediates(at: str, target: Target, grid: Grid) -> Iterator[Finding]:
    """Yield contradictions between the target at a dotted key and its intermediate stages."""
    key = f"{at}.intermediates"
    if len(set(target.intermediates)) < len(target.intermediates):
        yield finding(f"should not contain duplicates; is {target.intermediates}", key)
    for word in dict.fromkeys(target.intermediates):
        if word not in grid.intermediates:
            message = f"{word!r} is not an intermediate stage; "
            yield finding(message + suggestion(word, grid.intermediates), key, "intermediates")
        else:
            stage = grid.intermediates[word]
            yield from check_same_stages(f"intermediates.{word}", stage, at, target)
    if grid.conditions == ("staged",) and not target.intermediates:
        message = "the condition 'staged', the only one, needs an intermediate stage"
        yield finding(message, key, "conditions")


def _subsampled(target: Target, fraction: float) -> Stage:
    """Return the target as an ordinary stage with a fraction of its training split."""
    stage = {field.name: getattr(target, field.name) for field in dataclasses.fields(Stage)}
    fraction *= target.data.train_fraction
    return Stage(**stage | {"data": dataclasses.replace(target.data, train_fraction=fraction)})
