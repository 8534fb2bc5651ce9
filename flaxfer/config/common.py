"""Settings that a study and a grid of studies share."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import ConfigDict, Field

from flaxfer.config import fields
from flaxfer.config.seeds import Looks, Seeds

Condition = Literal["direct", "staged", "scratch"]
TRACKERS: Mapping[str, str] = {"tensorboard": "tensorboardX", "wandb": "wandb"}
"""Trackers of this package, with the packages that they import."""


@dataclasses.dataclass(frozen=True)
class Mesh:
    """Number of devices along each mesh axis; -1 means all devices that remain.

    Rows of a batch are sharded over `data` and `fsdp`, parameters over `fsdp` and `tensor`.
    """

    data: fields.Int = -1
    fsdp: fields.Int = 1
    tensor: fields.Int = 1

    @property
    def sizes(self) -> tuple[int, int, int]:
        """Sizes of the axes data, fsdp and tensor."""
        return self.data, self.fsdp, self.tensor


@dataclasses.dataclass(frozen=True)
class Wandb:
    """Runs of Weights & Biases, one for each stage and seed, if `trackers` names `wandb`.

    Attributes:
      project, entity: Project of the runs, and its owner; empty for the user's default.
      group: Group of the runs; empty for the name of the study.
      tags: Tags of the runs.
      name: Name of a run, with `{study}`, `{condition}`, `{stage}` and `{seed}` filled in.
      mode: `offline` keeps runs in the folder of their stage, for `wandb sync`, so that no study
        depends on a network; `auto` is what WANDB_MODE says, or `offline`. Only an `online` run
        goes on when its stage does; otherwise there is another one of the same name.
    """

    project: fields.Title = "flaxfer"
    entity: fields.Line = ""
    group: fields.Line = ""
    tags: fields.Distinct[fields.Title] = ()
    name: fields.RunName = "{study} {condition}/{stage} seed {seed}"
    mode: Literal["auto", "online", "offline", "disabled"] = "auto"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Common:
    """Settings shared by a study and a grid of studies.

    Attributes:
      name: Name of the study or grid in the report.
      conditions: `direct` trains the target task from the pretrained encoder, `staged` after the
        intermediate stage, `scratch` from random encoder weights, as a control.
      seeds: Seeds of the runs in each condition: example order, new heads and dropout. Or
        `dict(looks=(5, 10, 15, 20))`, see `seeds.Looks`.
      margin: Smallest relevant difference by target metric; without, no study shows there is none.
      paired: Whether direct and staged runs of the same seed are compared as pairs, instead of two
        groups of runs (`flaxfer.statistics.inference`). To be chosen before there are results.
      batched_seeds: Seeds trained as one program, with the same results; 0 for eight if steps are
        so small that this is faster, otherwise 1.
      mesh: Device mesh.
      workdir: Folder for all results; the same command resumes there. Empty for `runs/<name>`.
      store: Folder of the stage store, which studies may share; empty for WORKDIR/stages.
      data_dir: Folder that relative paths of sources start from; empty for the current one.
      cache: Folder for tokenised data and compiled programs; empty for the user's cache folder.
      compiler_options: XLA options by name; they override those in `flaxfer.runtime.platform`.
      trackers: Additional metric trackers, of `TRACKERS` or of an entry point in the group
        `flaxfer.trackers` (`flaxfer.training.trackers.Opener`).
      wandb: Names of the runs of Weights & Biases.
      overlap: Treatment of training examples that also occur in an evaluation set
        (`flaxfer.data.overlap`): `report` counts them; `remove` excludes them: the target's if a
        set of its stage has them, the intermediate one's if any has; `forbid` raises an error.
      transferability: Number of target training examples for estimating, before training, which
        encoder suits the target (`flaxfer.study.transferability`); 0 disables this.
    """

    __pydantic_config__ = ConfigDict(extra="forbid", allow_inf_nan=False)

    name: fields.Name
    conditions: Annotated[fields.Distinct[Condition], Field(min_length=1)] = ("direct", "staged")
    seeds: Seeds = (0,)
    margin: Mapping[str, fields.Positive] = dataclasses.field(default_factory=dict)
    paired: fields.Bool = False
    batched_seeds: fields.NonNegativeInt = 0
    mesh: Mesh = Mesh()
    workdir: fields.File = ""
    store: fields.File = ""
    data_dir: fields.File = ""
    cache: fields.File = ""
    compiler_options: Mapping[str, fields.Option] = dataclasses.field(default_factory=dict)
    trackers: fields.Distinct[fields.Name] = ()
    wandb: Wandb = Wandb()
    overlap: Literal["report", "remove", "forbid"] = "report"
    transferability: fields.NonNegativeInt = 500

    @property
    def folder(self) -> str:
        """Folder for all results, `workdir` with its default."""
        return self.workdir or f"runs/{self.name}"

    @property
    def stages(self) -> str:
        """Folder of the stage store."""
        return self.store or f"{self.folder}/stages"

    @property
    def looks(self) -> tuple[int, ...]:
        """Numbers of seeds at which a study is judged; empty if its seeds are fixed."""
        return self.seeds.looks if isinstance(self.seeds, Looks) else ()

    @property
    def run_seeds(self) -> tuple[int, ...]:
        """Seeds of the runs, up to the last look."""
        return tuple(range(self.seeds.looks[-1])) if isinstance(self.seeds, Looks) else self.seeds
