"""A study, or a grid of them: opened one at a time, drained, and reported."""

from __future__ import annotations

import gc
import time
from pathlib import Path
from typing import Any

from flaxfer.config import Config, grids
from flaxfer.config.grids import Grid
from flaxfer.errors import DataError, DivergedError
from flaxfer.evaluation.step import make_eval_step
from flaxfer.runtime import platform
from flaxfer.runtime.progress import say
from flaxfer.study import forecast, graph, workdirs
from flaxfer.study.claims import Claims
from flaxfer.study.study import Study
from flaxfer.training.stage_run import FAILED
from flaxfer.training.step import make_train_step


def run(config: Config | Grid, command: str) -> Path:
    """Does what is left of a study or grid, and returns its report.

    Other processes may do the same at the same time, on all machines that see its directory.

    Args:
      config: from `config.loading.load_any`.
      command: how it was started, for the report.

    Raises:
      FlaxferError: of the kind of what is wrong; what was finished by then is kept. DivergedError
        comes last, when all others are finished and the report is written.
    """
    began = time.monotonic()
    keys = grids.cell_keys(config) if isinstance(config, Grid) else {}
    platform.keep_memory()
    workdirs.prepare(config, command)
    with Claims() as claims:
        opener = _Opener(config, claims)
        cells = []
        for own in grids.cells(config).values():
            workdirs.prepare(own, command)
            cells.append(opener.open(own).cell())
            opener.open(own).keep(claims)
        if len(cells) > 1:
            forecast.show(cells, claims)
        else:
            opener.open(cells[0].config).introduce()

        def summarise(cell: graph.Cell) -> list[dict[str, Any]]:
            more = {"command": command, "seconds": time.monotonic() - began}
            return graph.write_summary(cell, more, keys.get(cell.config.name))

        def work(cell: graph.Cell) -> bool:
            worked = opener.work(cell)
            if cell.settled:  # So that there are reports of what is finished, while others run.
                summarise(cell)
            return worked

        graph.drain(cells, claims, work)
    failed = [
        f"{cell.config.name}: {fail['path']}/{fail['stage']} seed {fail['seed']}: {fail['error']}"
        for cell in cells
        for fail in summarise(cell)
    ]
    html = graph.write_report(cells, Path(config.workdir))
    say(f"report: {html.absolute()}")
    if failed:
        number = sum(len(group) for cell in cells for group in cell.groups)
        raise DivergedError(
            f"{len(failed)} of {number} stages have diverged, or begin with one that has",
            where=str(html.absolute()),
            hint="lower optimizer.learning_rate, lengthen the warm-up, or compute in float32; "
            f"without its file {FAILED} a stage is tried again as it is.",
            details=failed,
        )
    return html


def show(config: Config | Grid) -> None:
    """Prints what `run` would do, what is done, and how long the rest may take.

    Raises:
      FlaxferError: of the kind of what is wrong.
    """
    claims = Claims()
    opener = _Opener(config, claims)
    cells = [opener.open(own).cell() for own in grids.cells(config).values()]
    forecast.show(cells, claims)


def forget_programs() -> None:
    """Free all compiled steps, which are cached for stages with equal specs."""
    make_train_step.cache_clear()
    make_eval_step.cache_clear()


class _Opener:
    """Keeps the study that was opened last, so that data and weights of one alone are held."""

    def __init__(self, config: Config | Grid, claims: Claims):
        platform.choose_compiler_options(config.compiler_options)
        self._claims = claims
        self._cache = platform.cache_dir(config.cache)
        platform.use_compilation_cache(self._cache)
        self.study: Study | None = None

    def open(self, config: Config) -> Study:
        """The study of a config."""
        if self.study is None or self.study.config != config:
            if self.study is not None and self.study.config.model != config.model:
                forget_programs()
            self.study = None
            gc.collect()  # What has gone holds data, weights and programs in cycles.
            self.study = Study(config, Path(config.workdir), self._cache)
        return self.study

    def work(self, cell: graph.Cell) -> bool:
        """Does of a cell what nobody else does; gives whether it was anything."""
        study = self.open(cell.config)
        if not study.introduced:
            study.introduce()
        if [job.nodes for job in study.jobs] != list(cell.groups):
            raise DataError(
                "the data or the model have changed since this command was started",
                where=cell.config.name,
                hint="start it again; what is finished and has not changed is not repeated.",
            )
        # A list: each of them is to be done.
        return any([study.work(job, self._claims) for job in study.jobs])
