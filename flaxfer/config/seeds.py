"""The seeds of a study: fixed ones, or as many as its verdict takes."""

from __future__ import annotations

import dataclasses
from typing import Annotated

from pydantic import Discriminator, Field, Tag

from flaxfer.config import fields


@dataclasses.dataclass(frozen=True)
class Looks:
    """Seeds 0, 1, 2 and so on, until the study is decided.

    Attributes:
      looks: Increasing numbers of seeds in each condition. At each of them, the study is judged,
        and stops if there is a verdict. `flaxfer.statistics.sequential` keeps the error rate of all
        looks together at its level.
    """

    looks: Annotated[fields.Increasing[fields.PositiveInt], Field(min_length=2)]


Seeds = Annotated[
    Annotated[fields.Distinct[fields.NonNegativeInt], Field(min_length=1), Tag(fields.TUPLE)]
    | Annotated[Looks, Tag(fields.SECTION)],
    Discriminator(fields.tuple_or_section),
]


def describe(seeds: tuple[int, ...] | Looks) -> str:
    """Return the seeds, or at which numbers of them a study has its looks."""
    if isinstance(seeds, Looks):
        return f"looks at {', '.join(map(str, seeds.looks))} seeds; a study that is decided stops"
    return ", ".join(map(str, seeds))
