"""The work directory of a study or grid: its config, its origin, and what it may become.

A work directory belongs to one study or grid. It may grow (more seeds, conditions, evaluated sets
or cells), and settings that alter no result may change. A command that would drop or replace
results is refused, with the differences. `replace` moves the records of the earlier configuration
to WORKDIR/replaced/<n>/; stages stay in the store, whose folders are named by their content.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from flaxfer.config import Config, grids, loading
from flaxfer.config.grids import Grid
from flaxfer.errors import ConfigError
from flaxfer.runtime import platform, sealed
from flaxfer.runtime.files import temporary_name, write_atomically
from flaxfer.study.plan import StudyPlan
from flaxfer.study.revisions import Recorded, differences, has_results, listed, origin, recorded
from flaxfer.training.record import ORIGIN

CONFIG, RECORD = "config.json", "study.json"


def prepare(config: Config | Grid) -> None:
    """Create the store and the work directory, and check that they can be written.

    Raises:
      ConfigError: If a folder cannot be written.
    """
    _make(Path(config.workdir), "work directory", "workdir")
    _make(Path(config.stages), "stage store", "store" if config.store else "workdir")


def _make(folder: Path, what: str, key: str) -> None:
    """Create a folder, and write to it; `key` is that of the config."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = temporary_name(folder / "probe")
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise ConfigError(
            f"the {what} cannot be written: {error}",
            where=str(folder.absolute()),
            hint=f"pass another one with --config.{key}=FOLDER.",
        ) from error


def check(config: Config | Grid, plans: Sequence[StudyPlan], replace: bool) -> None:
    """Check that the results in a work directory, and in those of its cells, are kept.

    Args:
      config: Config of the study or grid.
      plans: Its studies.
      replace: Whether to move the records of another configuration away.

    Raises:
      ConfigError: Results would be dropped or replaced; all differences are listed.
    """
    details: list[str] = []
    if isinstance(config, Grid):
        details += _lost_cells(config)
    elif any((Path(config.workdir) / "cells").glob(f"*/{RECORD}")):
        details.append("have a grid of studies, want one study")
    details += listed([line for plan in plans for line in differences(plan)])
    if not details:
        return
    workdir = Path(config.workdir)
    if replace:
        _put_away(workdir)
        return
    raise ConfigError(
        "the work directory holds results of another configuration, which would be lost",
        where=str(workdir.absolute()),
        hint="choose another folder with --config.name=NAME or --config.workdir=FOLDER; or add "
        "--replace, which moves the old records to its folder 'replaced' and reuses stages that "
        "have not changed.",
        details=details,
    )


def adopt(config: Config | Grid, command: str, plans: Sequence[StudyPlan]) -> None:
    """Write config, origin and the list of stages or cells into the work directories."""
    about = {"command": command, "versions": platform.versions(), "git": git_state()}
    if isinstance(config, Grid):
        _write(config, {**about, "cells": list(grids.cell_keys(config))})
    for plan in plans:
        _make(Path(plan.config.workdir), "work directory", "workdir")
        _write(plan.config, {**about, **recorded(plan)})


def is_current(plan: StudyPlan) -> bool:
    """Return whether no other process has added to the study since this one started."""
    content = origin(Path(plan.config.workdir))
    return content is None or not Recorded(content).beyond(plan)


def git_state() -> str:
    """Return the commit of the running code, with `-dirty` if files differ; empty if unknown."""
    try:
        finished = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--abbrev=12"],
            cwd=Path(__file__).parent,
            capture_output=True,
            text=True,
            timeout=10,
        )
    except (OSError, subprocess.TimeoutExpired):  # Without git the versions remain.
        return ""
    return finished.stdout.strip() if finished.returncode == 0 else ""


def _write(config: Config | Grid, about: dict[str, Any]) -> None:
    workdir = Path(config.workdir)
    text = json.dumps(loading.to_dict(config), indent=1, ensure_ascii=False)
    write_atomically(workdir / CONFIG, text)
    sealed.write(workdir / ORIGIN, about)


def _lost_cells(config: Grid) -> Iterator[str]:
    """Yield the results in the work directory that are of no cell of the grid."""
    workdir = Path(config.workdir)
    if (workdir / RECORD).exists():
        yield "have one study, want a grid of studies"
    names = grids.cell_keys(config)
    for folder in sorted((workdir / "cells").glob("*/")):
        if folder.name not in names and has_results(folder):
            yield f"cells: have {folder.name!r}, want none of that name"


def _put_away(workdir: Path) -> None:
    """Move the records of an earlier configuration, its own and of its cells, to `replaced`."""
    parent = workdir / "replaced"
    number = 1
    # The config comes last, so a number without it is of an interrupted call.
    while (parent / str(number) / CONFIG).exists():
        number += 1
    target = parent / str(number)
    target.mkdir(parents=True, exist_ok=True)
    for study in (workdir, *(workdir / "cells").glob("*/")):
        _relocate(study, target / study.relative_to(workdir))
    names = ("cells", *(file.name for file in workdir.glob("report.*")), "results.csv")
    for name in (*names, "results.tex", "comparisons.csv", RECORD, ORIGIN, CONFIG):
        with contextlib.suppress(FileNotFoundError):  # Another process moves them, too.
            os.rename(workdir / name, target / name)


def _relocate(study: Path, target: Path) -> None:
    """Let study.json name the folders of its stages as seen from the folder it is moved to."""
    try:
        content = sealed.read(study / RECORD)
        for run in content["runs"]:
            run["dir"] = Path(os.path.relpath(study / run["dir"], target)).as_posix()
    except (*sealed.UNREADABLE, KeyError, TypeError):
        return  # Missing or damaged: it is moved as it is.
    sealed.write(study / RECORD, content)
