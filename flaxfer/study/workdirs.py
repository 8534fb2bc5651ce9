"""The work directory of a study or grid: its config, its origin, and what it may become.

A work directory belongs to one study or grid. It may grow (more seeds, conditions, evaluated sets
or cells), and settings that alter no result, such as a margin, may change. Then the records of the
earlier configuration (study.json, report, tables) are copied to WORKDIR/replaced/<n>/ before any
is written again. A command that would drop or replace results is refused, with the differences,
unless `replace` moves the earlier records there. Stages stay in the store, whose folders are named
by their content.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from flaxfer.config import Config, grids, loading
from flaxfer.config.grids import Grid
from flaxfer.errors import ConfigError
from flaxfer.runtime import platform, sealed
from flaxfer.runtime.files import temporary_name, write_atomically
from flaxfer.runtime.progress import say
from flaxfer.study.plan import StudyPlan
from flaxfer.study.revisions import (
    RECORD,
    Recorded,
    changed_settings,
    differences,
    has_results,
    listed,
    origin,
    recorded,
)
from flaxfer.training.record import ORIGIN

CONFIG = "config.json"
REPLACED = "replaced"
"""Folder of earlier records, in a work directory."""
TABLES = ("results.csv", "results.tex", "languages.tex", "comparisons.csv")


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
    stated = {line.partition(":")[0] for line in details}
    details += [line for line in _changes(plans) if line.partition(":")[0] not in stated]
    workdir = Path(config.workdir)
    if replace:
        kept = _put_away(workdir)
        _announce(config, details, f"moved to {kept}; stages that have not changed are used again")
        return
    raise ConfigError(
        "the work directory holds results of another configuration, which would be lost",
        where=str(workdir.absolute()),
        hint="choose another folder with --config.name=NAME or --config.workdir=FOLDER; or add "
        "--replace, which moves the old records to its folder 'replaced' and reuses stages that "
        "have not changed.",
        details=details,
    )


def _changes(plans: Sequence[StudyPlan]) -> list[str]:
    """Return the settings that differ from the records of the studies, each once."""
    return listed(list(dict.fromkeys(line for plan in plans for line in changed_settings(plan))))


def _announce(config: Config | Grid, lines: Sequence[str], outcome: str) -> None:
    """Say what differs from the earlier records, and where those are now."""
    text = "\n".join(f"  {line}" for line in lines)
    say(f"{config.name}: not as in the records in {config.workdir}:\n{text}")
    say(f"the earlier records are {outcome}")


def adopt(config: Config | Grid, command: str, plans: Sequence[StudyPlan]) -> None:
    """Write config, origin and the list of stages or cells into the work directories.

    Records of another configuration are copied first.
    """
    if changes := [*_new_cells(config), *_changes(plans)]:
        kept = _keep(Path(config.workdir))
        _announce(config, changes, f"copied to {kept}; study.json and the report are written again")
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


def _new_cells(config: Config | Grid) -> list[str]:
    """Return the cells of a grid that the report in its work directory does not have."""
    workdir = Path(config.workdir)
    if not isinstance(config, Grid) or not (workdir / "report.html").exists():
        return []
    names = grids.cell_keys(config)
    return listed([f"cells.{n}: added" for n in names if not has_results(workdir / "cells" / n)])


def _studies(workdir: Path) -> list[Path]:
    """Return a work directory and those of its cells."""
    return [workdir, *(workdir / "cells").glob("*/")]


def _records(study: Path) -> list[str]:
    """Return the names of the records that may lie in a work directory; its config is the last."""
    reports = sorted(file.name for file in study.glob("report.*"))
    return [*reports, *TABLES, RECORD, ORIGIN, CONFIG]


def _keep(workdir: Path) -> Path:
    """Copy the records in a work directory and its cells to `replaced`; return the copy.

    A command that was stopped afterwards finds its copy again.
    """
    parent = workdir / REPLACED
    copy = temporary_name(parent / "copy")
    for study in _studies(workdir):
        target = copy / study.relative_to(workdir)
        target.mkdir(parents=True)
        for name in _records(study):
            with contextlib.suppress(FileNotFoundError):
                shutil.copy2(study / name, target / name)
        _relocate(target, study)
    numbers = [int(path.name) for path in parent.iterdir() if path.name.isdecimal()]
    newest = parent / str(max(numbers, default=0))
    if numbers and _contents(newest) == _contents(copy):
        shutil.rmtree(copy)
        return newest
    number = max(numbers, default=0) + 1
    while True:
        try:
            os.rename(copy, parent / str(number))
            return parent / str(number)
        except OSError:  # Another process has taken the number.
            if not (parent / str(number)).exists():
                raise
            number += 1


def _contents(folder: Path) -> dict[str, bytes]:
    """Return the records of studies below a folder by path."""
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob(RECORD)}


def _put_away(workdir: Path) -> Path:
    """Move the records of an earlier configuration, its own and of its cells, to `replaced`."""
    parent = workdir / REPLACED
    number = 1
    # The config comes last, so a number without it is of an interrupted call.
    while (parent / str(number) / CONFIG).exists():
        number += 1
    target = parent / str(number)
    target.mkdir(parents=True, exist_ok=True)
    for study in _studies(workdir):
        _relocate(study, study, target / study.relative_to(workdir))
    for name in ("cells", *_records(workdir)):
        with contextlib.suppress(FileNotFoundError):  # Another process moves them, too.
            os.rename(workdir / name, target / name)
    return target


def _relocate(record: Path, study: Path, target: Path | None = None) -> None:
    """Let study.json name the folders of its stages as seen from the folder it is moved to.

    Args:
      record: Folder of the study.json that is changed.
      study: Folder that its paths start from.
      target: Folder that they will start from; by default `record`.
    """
    try:
        content = sealed.read(record / RECORD)
        for run in content["runs"]:
            place = os.path.relpath(study / run["dir"], target or record)
            run["dir"] = Path(place).as_posix()
    except (*sealed.UNREADABLE, KeyError, TypeError):
        return  # Missing or damaged: it is moved as it is.
    sealed.write(record / RECORD, content)
