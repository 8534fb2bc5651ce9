"""The studies of a report, what they are called in it, and the evidence from all of them."""

from __future__ import annotations

import dataclasses
import os
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

from flaxfer.errors import DataError
from flaxfer.evaluation.records import Run, Study, read_study
from flaxfer.report.document import Block, Folded, Link
from flaxfer.statistics.comparisons import compare
from flaxfer.statistics.records import Comparison, Evidence
from flaxfer.statistics.scores import MEAN, ZERO_SHOT, Scores

RECORD = "study.json"


@dataclasses.dataclass(frozen=True)
class Entry:
    """A study.

    Attributes:
      workdir: of the study.
      study: its record.
      name: unique among the studies of the report.
      model, intermediate, target: as its cell or else its record has them; the target with the
        fraction of its data, and with the name of the study if the three are not unique.
      headline: the comparison that its verdict is of; None if there is none.
      comparisons, means: its own.
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

    @property
    def stages(self) -> list[str]:
        """`intermediate` and `target`, as far as they are there."""
        there = {run.stage for run in self.study.runs}
        return [stage for stage in ("intermediate", "target") if stage in there]

    def metric_of(self, stage: str) -> str:
        """The dev metric of a stage."""
        other = self.study.intermediate_task
        return other.metric if stage == "intermediate" and other else self.study.metric

    def folder(self, run: Run) -> Path:
        """Of a run, without the detours of a relative path."""
        return Path(os.path.normpath(self.workdir / run.dir))


@dataclasses.dataclass(frozen=True)
class Material:
    """All that a report is made from.

    Attributes:
      entries: at least one.
      evidence: from all of them.
      output: folder of the report, which links start from.
      unfinished: folders of studies that have no record yet.
    """

    entries: tuple[Entry, ...]
    evidence: Evidence
    output: Path
    unfinished: tuple[Path, ...] = ()

    @property
    def single(self) -> bool:
        """Whether there is one study alone."""
        return len(self.entries) == 1

    def link(self, path: Path, text: str = "") -> Link:
        """To a file or folder, relative to the report."""
        relative = Path(os.path.relpath(path, self.output)).as_posix()
        return Link(text or relative, relative)

    def by_study(self, blocks_of: Callable[[Entry], Sequence[Block]]) -> list[Block]:
        """The blocks of every study that has some; folded, if there are several studies."""
        if self.single:
            return list(blocks_of(self.entries[0]))
        made = ((entry.name, blocks_of(entry)) for entry in self.entries)
        return [Folded(name, blocks) for name, blocks in made if blocks]


def gather(folders: Sequence[Path], output: Path) -> Material:
    """Reads the studies of some folders and compares them.

    Args:
      folders: of studies, or of grids, whose studies are in `cells`.
      output: folder of the report.

    Raises:
      DataError: a folder is neither or given twice, or something in it is wrong.
    """
    workdirs, unfinished = [], []
    for folder in folders:
        cells = sorted((folder / "cells").glob("*/"))
        if (folder / RECORD).exists() or not cells:
            workdirs.append(folder)
            continue
        workdirs += [cell for cell in cells if (cell / RECORD).exists()]
        unfinished += [cell for cell in cells if not (cell / RECORD).exists()]
    counts = Counter(workdir.resolve() for workdir in workdirs)
    if twice := [str(workdir) for workdir, count in counts.items() if count > 1]:
        raise DataError("a study is given twice", where=", ".join(twice), hint="give it once.")
    if not workdirs:
        raise DataError(
            "no study in these folders is finished",
            where=", ".join(map(str, folders)),
            hint="start the grid again; a study whose stages are all settled has a study.json.",
        )
    studies = {workdir: read_study(workdir) for workdir in workdirs}
    evidence = compare(workdirs)
    return Material(tuple(_entries(studies, evidence)), evidence, output, tuple(unfinished))


def _entries(studies: dict[Path, Study], evidence: Evidence) -> list[Entry]:
    names = Counter(study.name for study in studies.values())
    places = {workdir: _place(study) for workdir, study in studies.items()}
    counts = Counter(places.values())
    entries = []
    for workdir, study in studies.items():
        name = study.name if names[study.name] == 1 else f"{study.name} ({workdir})"
        model, intermediate, target = places[workdir]
        if counts[places[workdir]] > 1:
            target = f"{target} ({name})"
        comparisons, means = (
            tuple(one for one in found if one.workdir == str(workdir))
            for found in (evidence.comparisons, evidence.means)
        )
        chosen = _headline(study, comparisons, means)
        entries.append(
            Entry(workdir, study, name, model, intermediate, target, chosen, comparisons, means)
        )
    return entries


def _place(study: Study) -> tuple[str, str, str]:
    if (cell := study.cell) is not None:
        part = "" if cell.fraction == 1 else f" ({cell.fraction:.4g} of the data)"
        return cell.model, cell.intermediate, cell.target + part
    intermediate = study.intermediate_task.name if study.intermediate_task else ""
    return study.model.source, intermediate, study.task.name


def _headline(
    study: Study, comparisons: Sequence[Comparison], means: Sequence[Comparison]
) -> Comparison | None:
    """The zero-shot mean, else the mean over all languages; where there is one set, that set."""
    scores = Scores(study)
    wanted, languages = (
        (ZERO_SHOT, scores.zero_shot) if scores.zero_shot else (MEAN, scores.trained)
    )
    rows = [row for row in scores.rows if row.language in languages] or scores.rows
    if len(rows) > 1:
        return next((one for one in means if one.language == wanted), None)
    own = [(row.language, row.set) for row in rows]
    return next((one for one in comparisons if (one.language, one.set) in own), None)
