"""The studies of a report, their names in it, and the statistical evidence from all of them."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import logging
import math
import os
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from flaxfer.errors import DataError
from flaxfer.evaluation.records import Run, Study, read_study
from flaxfer.report.document import Block, Folded, Link
from flaxfer.runtime import sealed
from flaxfer.statistics.comparisons import compare
from flaxfer.statistics.descriptive import Described, Descriptive, describe_studies
from flaxfer.statistics.records import Comparison, Evidence
from flaxfer.statistics.scores import Scores

RECORD = "study.json"

log = logging.getLogger("flaxfer.report.data")


@dataclasses.dataclass(frozen=True)
class Entry:
    """A study in a report, under a unique name.

    Attributes:
      model, intermediate, target: names from the grid cell or else the record; the target
        includes the fraction of its data, and the study's name where the three are not unique.
      headline: the primary comparison, which gives the verdict, if there is one.
      comparisons, means: comparisons of the sets, and of the means over languages.
    """

    workdir: Path
    study: Study
    name: str
    model: str
    intermediate: str
    target: str
    headline: Comparison | None
    comparisons: tuple[Comparison, ...]
    means: tuple[Comparison, ...]

    @functools.cached_property
    def scores(self) -> Scores:
        """The target's scores."""
        return Scores(self.study)

    def metric_of(self, stage: str) -> str:
        """Return the dev metric of a stage."""
        task = self.study.intermediate_task
        return task.metric if stage == "intermediate" and task else self.study.metric

    def folder(self, run: Run) -> Path:
        """Return the normalized folder of a run."""
        return Path(os.path.normpath(self.workdir / run.dir))

    def plot_name(self, prefix: str) -> str:
        """Return a file name, without suffix, that no plot of another study has."""
        digest = hashlib.sha256(self.name.encode()).hexdigest()[:6]
        readable = re.sub(r"\W+", "-", self.name)[:40].strip("-")
        return f"{prefix}-{readable}-{digest}"


@dataclasses.dataclass(frozen=True)
class ReportData:
    """The studies of a report, at least one, and the comparisons of all of them.

    Links are relative to `output`, the folder of the report. Unfinished studies have no record.
    `descriptive` is empty unless these statistics were asked for. Single examples and their texts
    are shown unless `examples` is false.
    """

    entries: tuple[Entry, ...]
    evidence: Evidence
    output: Path
    unfinished: tuple[Path, ...] = ()
    descriptive: Mapping[Described, Descriptive] = dataclasses.field(default_factory=dict)
    examples: bool = True

    @property
    def single(self) -> bool:
        """True for a report of one study."""
        return len(self.entries) == 1

    @property
    def judged(self) -> list[tuple[Entry, Comparison]]:
        """Studies with a verdict and the comparison that gives it, grouped by target."""
        targets = list(dict.fromkeys(entry.target for entry in self.entries))
        entries = sorted(self.entries, key=lambda entry: targets.index(entry.target))
        return [(entry, entry.headline) for entry in entries if entry.headline is not None]

    def link(self, path: Path, name: str = "") -> Link:
        """Return a link to a file or folder, relative to the report."""
        return Link(Path(os.path.relpath(path, self.output)).as_posix(), name)

    def by_study(self, blocks_of: Callable[[Entry], Sequence[Block]]) -> list[Block]:
        """Return the blocks of all studies, folded if there are several studies."""
        if self.single:
            return list(blocks_of(self.entries[0]))
        return [Folded(one.name, blocks) for one in self.entries if (blocks := blocks_of(one))]


def read_report_data(
    folders: Sequence[Path], output: Path, descriptive: bool = False, examples: bool = True
) -> ReportData:
    """Read the studies in some folders and compare their conditions.

    Args:
      folders: folders of studies or of grids, whose studies are in `cells`.
      output: folder of the report.
      descriptive: whether to compute the descriptive statistics, too.
      examples: whether the report may show single examples.

    Raises:
      DataError: a study is missing, invalid, or given twice.
    """
    studies, unfinished = _read_studies(folders)
    workdirs = list(studies)
    evidence = compare(workdirs)
    described = describe_studies(workdirs) if descriptive else {}
    entries = tuple(_entries(studies, evidence))
    return ReportData(entries, evidence, output, tuple(unfinished), described, examples)


def read_entries(folders: Sequence[Path]) -> tuple[Entry, ...]:
    """Read the studies in some folders without comparing their conditions.

    Raises:
      DataError: as `read_report_data`.
    """
    nothing = Evidence((), (), (), (), level=math.nan, alpha=math.nan, draws=0)
    return tuple(_entries(_read_studies(folders)[0], nothing))


def _read_studies(folders: Sequence[Path]) -> tuple[dict[Path, Study], list[Path]]:
    """Return the studies in some folders by work directory, and the unfinished ones."""
    workdirs, unfinished = [], []
    for folder in folders:
        cells = _cells(folder)
        if not cells:
            workdirs.append(folder)
        workdirs += [cell for cell in cells if (cell / RECORD).exists()]
        unfinished += [cell for cell in cells if not (cell / RECORD).exists()]
    counts = Counter(workdir.resolve() for workdir in workdirs)
    if repeated := [str(workdir) for workdir, count in counts.items() if count > 1]:
        raise DataError("a study is given twice", where=", ".join(repeated), hint="give it once.")
    if not workdirs:
        raise DataError(
            "no study in these folders is finished",
            where=", ".join(map(str, folders)),
            hint="start the grid again; a study whose stages are all settled has a study.json.",
        )
    return {workdir: read_study(workdir) for workdir in workdirs}, unfinished


def _cells(folder: Path) -> list[Path]:
    """Return the studies of a grid; none for the folder of a study.

    Raises:
      DataError: the folder holds a study and a grid.
    """
    cells = sorted((folder / "cells").glob("*/"))
    if (folder / RECORD).exists():
        if any((cell / RECORD).exists() for cell in cells):
            raise DataError(
                "this folder holds the record of a study and those of a grid, in its folder cells",
                where=str(folder),
                hint=f"move {RECORD} or cells to another folder.",
            )
        return []
    try:
        names = sealed.read(folder / "origin.json").get("cells")
    except sealed.UNREADABLE:
        names = None
    if names is None:  # Nothing says which cells the grid has.
        return cells
    others = [cell.name for cell in cells if cell.name not in names]
    if others:
        log.warning("%s: of another configuration, left out: %s", folder, ", ".join(others))
    return [cell for cell in cells if cell.name in names]


def _entries(studies: dict[Path, Study], evidence: Evidence) -> Iterator[Entry]:
    names = Counter(study.name for study in studies.values())
    titles = Counter(_titles(study) for study in studies.values())
    for workdir, study in studies.items():
        name = study.name if names[study.name] == 1 else f"{study.name} ({workdir})"
        model, intermediate, target = _titles(study)
        if titles[model, intermediate, target] > 1:
            target = f"{target} ({name})"
        comparisons, means = (
            tuple(one for one in family if one.workdir == str(workdir))
            for family in (evidence.comparisons, evidence.means)
        )
        primary = (one for one in (*comparisons, *means) if one.family == "primary")
        headline = next(primary, None)
        yield Entry(workdir, study, name, model, intermediate, target, headline, comparisons, means)


def _titles(study: Study) -> tuple[str, str, str]:
    """Return the names of the model, the intermediate task and the target."""
    if (cell := study.cell) is not None:
        fraction = "" if cell.fraction == 1 else f" ({cell.fraction:.4g} of the data)"
        return cell.model, cell.intermediate, cell.target + fraction
    intermediate = study.intermediate_task.name if study.intermediate_task else ""
    return study.model.source, intermediate, study.task.name
