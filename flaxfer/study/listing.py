"""The subcommand `list`: the studies of a folder and their state, read from files alone."""

from __future__ import annotations

import argparse
import collections
import csv
import dataclasses
import datetime
import itertools
import textwrap
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from flaxfer.errors import DataError
from flaxfer.evaluation.records import NOT_JUDGED, Study, read_study
from flaxfer.runtime import sealed
from flaxfer.study import claims

RECORD, ORIGIN, CONFIG = "study.json", "origin.json", "config.json"
REPORT, COMPARISONS, CELLS = "report.html", "comparisons.csv", "cells"

State = Literal["running", "stopped", "finished", "damaged"]

COLUMNS = {"name": 20, "state": 8, "date": 10, "done": 16, "verdict": 18}
"""Columns of the table and their widths; with the spaces between, 80 characters."""

MAX_NAMES = 5
"""Folders of other kinds that are named."""


@dataclasses.dataclass(frozen=True)
class Listed:
    """A study or grid, as its files show it.

    Attributes:
      workdir: Its work directory.
      name: Its name, or else that of the directory.
      is_grid: Whether it is a grid of studies.
      state: `running` if a process seems to work on it; `stopped` if it is not finished; `damaged`
        if a record cannot be read.
      date: When its records were written, or it was started, in ISO 8601.
      done, planned: Number of seeds whose stages are all settled, and how many there may be; of a
        grid, the numbers of finished studies and of all.
      verdicts: Verdict and primary comparison by study; None if it is not finished, or has none of
        its own, like a cell of a grid.
      problem: What is wrong with a damaged one.
    """

    workdir: Path
    name: str
    is_grid: bool
    state: State
    date: str
    done: int
    planned: int
    verdicts: Mapping[str, Mapping[str, str]] | None = None
    problem: str = ""

    @property
    def progress(self) -> str:
        """Progress, such as `3 of 5 seeds`."""
        return f"{self.done} of {self.planned} {'studies' if self.is_grid else 'seeds'}"

    @property
    def verdict(self) -> str:
        """The verdict, or how often a grid has each; empty if there is none yet."""
        if self.verdicts is None:
            return ""
        if not self.verdicts:
            return "no comparison"
        words = [row["verdict"] for row in self.verdicts.values()]
        if not self.is_grid:
            return words[0]
        return ", ".join(f"{n} {word}" for word, n in collections.Counter(words).most_common())


def look(workdir: Path) -> Listed | None:
    """Return what the files of a folder show; None if it is not the folder of a study or grid."""
    if not any((workdir / name).is_file() for name in (ORIGIN, RECORD)):
        return None
    listed = Listed(workdir, workdir.absolute().name, False, "damaged", _modified(workdir), 0, 0)
    try:
        origin = _read(workdir / ORIGIN, sealed.read)
        config = _read(workdir / CONFIG, sealed.read_json)
        listed = dataclasses.replace(listed, name=config["name"])
        return _grid(listed, origin) if "cells" in origin else _study(listed, origin, config)
    except DataError as error:
        problem = str(error).partition("\n")[0]
    except (KeyError, TypeError, AttributeError) as error:
        problem = f"a record is damaged: {type(error).__name__}: {error}"
    return dataclasses.replace(listed, problem=problem)


def _read(path: Path, read: Callable[[Path], Any]) -> Any:
    """Return the content of a file.

    Raises:
      DataError: It is missing or damaged.
    """
    try:
        return read(path)
    except (*sealed.UNREADABLE, csv.Error) as error:
        what = error.strerror if isinstance(error, OSError) else f"it is damaged: {error}"
        raise DataError(str(what), where=str(path)) from error


def _study(listed: Listed, origin: Mapping[str, Any], config: Mapping[str, Any]) -> Listed:
    """Return the state of a study; raise if a record is damaged."""
    workdir, stages = listed.workdir, origin["stages"]
    record = read_study(workdir) if (workdir / RECORD).exists() else None
    store = workdir / origin["store"]
    failed = {(f.condition, f.stage, f.seed) for f in record.failed} if record else set()
    runs = {run.id for run in record.runs} if record else set()
    left = {  # Seeds with a stage that is not settled.
        stage["seed"]
        for name, stage in stages.items()
        if (stage["condition"], stage["stage"], stage["seed"]) not in failed
        and not _is_complete(store / name, stage["measurements"])
        and (name not in runs or (store / name).exists())  # The store may be elsewhere.
    }
    seeds = {stage["seed"] for stage in stages.values()}
    looks = config["seeds"]["looks"] if isinstance(config["seeds"], dict) else []
    has_report = (workdir / REPORT).exists() or workdir.absolute().parent.name == CELLS
    held = any(claims.looks_held(store / name, time.time()) for name in stages)
    state: State = "running" if held else "stopped"
    if record and has_report and not held and _is_settled(record, seeds, left, looks):
        state = "finished"
    verdicts = None
    if state == "finished" and (workdir / COMPARISONS).exists():
        verdicts = _read(workdir / COMPARISONS, _verdicts)
    return dataclasses.replace(
        listed,
        state=state,
        date=record.date if record and state == "finished" else listed.date,
        done=len(seeds - left),
        planned=looks[-1] if looks else len(seeds),
        verdicts=verdicts,
    )


def _is_settled(record: Study, seeds: set[int], left: set[int], looks: Sequence[int]) -> bool:
    """Return whether the record of a study is that of all its seeds, or it has been decided."""
    if not looks:
        return not left and seeds <= {*record.seeds}
    decided = bool(record.looked) and record.looked[-1].decided
    return not left & {*record.seeds} and (decided or len(record.seeds) == looks[-1])


def _is_complete(folder: Path, measurements: Sequence[str]) -> bool:
    """Return whether a stage is trained and measured, or has diverged."""
    if (folder / "failed.json").exists():
        return True
    # Names of notes are listed without the hash of their data.
    return (folder / "done.json").exists() and all(
        (folder / name).exists() or any(folder.glob(f"{name}-*.json")) for name in measurements
    )


def _grid(listed: Listed, origin: Mapping[str, Any]) -> Listed:
    """Return the state of a grid; raise if a record is damaged."""
    cells = [look(listed.workdir / CELLS / name) for name in origin["cells"]]
    states = collections.Counter(cell.state if cell else "stopped" for cell in cells)
    state: State = "stopped"
    if states["damaged"]:
        state = "damaged"
    elif states["running"]:
        state = "running"
    elif states["finished"] == len(cells) and (listed.workdir / REPORT).exists():
        state = "finished"
    problems = [f"{cell.name}: {cell.problem}" for cell in cells if cell and cell.problem]
    dates = [cell.date for cell in cells if cell and state == "finished"]
    return dataclasses.replace(
        listed,
        is_grid=True,
        state=state,
        date=max(dates, default=listed.date),
        done=states["finished"],
        planned=len(cells),
        verdicts=_read(listed.workdir / COMPARISONS, _verdicts) if state == "finished" else None,
        problem="; ".join(problems[:3]),
    )


def _verdicts(path: Path) -> dict[str, dict[str, str]]:
    """Return the primary comparison of each study in a comparisons.csv, over all runs.

    Raises:
      ValueError: It is damaged.
    """
    verdicts = {}
    for row in csv.DictReader(path.read_text(encoding="utf-8").splitlines()):
        if None in row.values() or not {"family", "runs", "p_holm", "verdict"} <= row.keys():
            raise ValueError("columns are missing")
        if (row["family"], row["runs"]) == ("primary", "all"):
            verdict = row["verdict"] if row["p_holm"] else NOT_JUDGED
            verdicts[row["study"]] = row | {"verdict": verdict}
    return verdicts


def _modified(workdir: Path) -> str:
    """Return when a work directory was last adopted by a command, in ISO 8601."""
    times = [(workdir / n).stat().st_mtime for n in (ORIGIN, RECORD) if (workdir / n).exists()]
    date = datetime.datetime.fromtimestamp(max(times), datetime.UTC)
    return date.isoformat(timespec="seconds")


def find(folder: Path) -> tuple[list[Listed], list[str]]:
    """Return the studies of a folder, the newest first, and its other folders.

    A folder that is the work directory of a study is listed itself.

    Raises:
      DataError: It is not there, or cannot be read.
    """
    if itself := look(folder):
        return [itself], []
    try:
        names = sorted(path.name for path in folder.iterdir() if path.is_dir())
    except OSError as error:
        raise DataError(
            f"the studies of this folder cannot be listed: {error.strerror}",
            where=str(folder),
            hint="name the folder that holds the work directories: flaxfer list FOLDER.",
        ) from error
    studies, others = [], []
    for name in names:
        if listed := _look_or_none(folder / name):
            studies.append(listed)
        elif not name.startswith("."):
            others.append(name)
    return sorted(studies, key=lambda one: one.date, reverse=True), others


def _look_or_none(workdir: Path) -> Listed | None:
    """Return what the files of a folder show; None also if this user may not read them."""
    try:
        return look(workdir)
    except OSError:
        return None


def table(studies: Sequence[Listed]) -> str:
    """Return the studies as a table of 80 columns; longer cells go on below."""
    rows = [dict(zip(COLUMNS, COLUMNS, strict=True))]
    rows += [
        {
            "name": one.name,
            "state": one.state,
            "date": one.date[:10],
            "done": one.progress if one.state != "damaged" else "",
            "verdict": one.verdict,
        }
        for one in studies
    ]
    lines = []
    for row in rows:
        cells = [textwrap.wrap(row[name], width) for name, width in COLUMNS.items()]
        for parts in itertools.zip_longest(*cells, fillvalue=""):
            padded = zip(parts, COLUMNS.values(), strict=True)
            lines.append("  ".join(f"{part:<{width}}" for part, width in padded).rstrip())
    return "\n".join(lines)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `flaxfer list`."""
    parser.add_argument(
        "folder",
        type=Path,
        nargs="?",
        default=Path("runs"),
        metavar="DIR",
        help="folder of work directories, or one of them (default: runs)",
    )


def run(args: argparse.Namespace) -> int:
    """Print the studies of a folder."""
    studies, others = find(args.folder)
    print(table(studies) if studies else f"there are no studies in {args.folder}")
    for one in studies:
        if one.problem:
            print(f"damaged: {one.workdir}: {one.problem}")
    if others:
        more = len(others) - MAX_NAMES
        names = ", ".join(others[:MAX_NAMES]) + (f" and {more} more" if more > 0 else "")
        print(f"other folders: {names}")
    return 0
