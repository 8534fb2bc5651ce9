"""A grid of studies: models x targets with their intermediate tasks x fractions of the data.

A config file describes a grid if it has one of the keys `models`, `intermediates`, `targets` and
`fractions`, in place of `model`, `intermediate` and `target`. The sections `optimizer` and `train`
at its top are for all of its stages, which may set what is in them anew.
"""

from __future__ import annotations

import dataclasses
import difflib
import re
from collections.abc import Iterator, Mapping

from flaxfer.config import Common, Config, Model, Stage
from flaxfer.config.sources import Finding
from flaxfer.config.task_types import TaskTypes
from flaxfer.config.validation import check_common, check_model, check_retention, check_stage


@dataclasses.dataclass(frozen=True)
class Target(Stage):
    """A target stage.

    Attributes:
      intermediates: names of the intermediate stages that are compared for it.
    """

    intermediates: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True, kw_only=True)
class Grid(Common):
    """Studies that share what they can; each is a cell.

    A target without intermediates has one cell a model and fraction, without the path `staged`.

    Attributes:
      models: by name.
      targets: by name.
      intermediates: by name.
      fractions: shares of a target's train split, see `Data.train_fraction`.
    """

    models: Mapping[str, Model] = dataclasses.field(default_factory=dict)
    targets: Mapping[str, Target] = dataclasses.field(default_factory=dict)
    intermediates: Mapping[str, Stage] = dataclasses.field(default_factory=dict)
    fractions: tuple[float, ...] = (1.0,)


KEYS = frozenset(field.name for field in dataclasses.fields(Grid)) - frozenset(
    field.name for field in dataclasses.fields(Common)
)
"""What only a grid has."""


@dataclasses.dataclass(frozen=True)
class Place:
    """Where in a grid a study stands, by names; `intermediate` is empty without one."""

    model: str
    intermediate: str
    target: str
    fraction: float


def places(grid: Grid) -> dict[str, Place]:
    """The places of a grid by the names of their studies, MODEL.INTERMEDIATE.TARGET and, of a part
    of the data, its fraction.
    """
    found = {}
    for model in grid.models:
        for target, stage in grid.targets.items():
            for intermediate in stage.intermediates or ("",):
                for fraction in grid.fractions:
                    parts = [model, intermediate, target]
                    parts += [f"{fraction:g}"] if fraction != 1 else []
                    name = ".".join(part for part in parts if part)
                    found[name] = Place(model, intermediate, target, fraction)
    return found


def cells(config: Config | Grid) -> dict[str, Config]:
    """The studies of a grid by name; their own one if it is a study. Each has a directory
    WORKDIR/cells/NAME.
    """
    if isinstance(config, Config):
        return {config.name: config}
    common = {field.name: getattr(config, field.name) for field in dataclasses.fields(Common)}
    found = {}
    for name, place in places(config).items():
        own = {
            "name": name,
            "workdir": f"{config.workdir}/cells/{name}",
            "store": config.stages,
            "model": config.models[place.model],
            "target": _part(config.targets[place.target], place.fraction),
        }
        if place.intermediate:
            own["intermediate"] = config.intermediates[place.intermediate]
        else:
            own["conditions"] = _without_staged(config)
        found[name] = Config(**common | own)
    return found


def check(grid: Grid, task_types: TaskTypes) -> Iterator[Finding]:
    """Yields everything wrong in a grid."""
    yield from check_common(grid)
    stages = (("intermediates", grid.intermediates), ("targets", grid.targets))
    for section, named in (("models", grid.models), *stages):
        if not named and section != "intermediates":
            yield (section,), f"{section}: names none"
        for name in named:
            if not re.fullmatch(r"[\w-]+", name):
                yield (section,), f"{section}.{name}: a name is letters, digits, '_' and '-'"
    for name, model in grid.models.items():
        yield from check_model(f"models.{name}", model)
    for section, of in stages:
        for name, stage in of.items():
            yield from check_stage(f"{section}.{name}", stage, task_types)
            staged = "staged" in grid.conditions and bool(getattr(stage, "intermediates", ()))
            yield from check_retention(f"{section}.{name}", stage, section == "targets", staged)
    for name, target in grid.targets.items():
        at = f"targets.{name}.intermediates"
        if len(set(target.intermediates)) < len(target.intermediates):
            yield (at,), f"{at}: holds a value twice: {target.intermediates}"
        for given in target.intermediates:
            if given not in grid.intermediates:
                near = difflib.get_close_matches(given, grid.intermediates, n=1)
                there = ", ".join(grid.intermediates) or "none"
                hint = f"did you mean {near[0]!r}?" if near else f"there are {there}"
                yield (at, "intermediates"), f"{at}: {given!r} is no intermediate stage; {hint}"
    if not grid.fractions:
        yield ("fractions",), "fractions: is empty"
    if len(set(grid.fractions)) < len(grid.fractions):
        yield ("fractions",), f"fractions: holds a value twice: {grid.fractions}"
    if any(not 0 < fraction <= 1 for fraction in grid.fractions):
        yield ("fractions",), f"fractions: must be in (0, 1], are {grid.fractions}"


def _part(target: Target, fraction: float) -> Stage:
    """The target as an ordinary stage, with a fraction of its train split."""
    stage = {field.name: getattr(target, field.name) for field in dataclasses.fields(Stage)}
    share = target.data.train_fraction * fraction
    return Stage(**stage | {"data": dataclasses.replace(target.data, train_fraction=share)})


def _without_staged(grid: Grid) -> tuple[str, ...]:
    return tuple(path for path in grid.conditions if path != "staged") or ("direct",)
