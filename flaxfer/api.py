"""The Python API: run studies, and read what they have left.

import flaxfer

study = flaxfer.run("my_study.py", margin={"pearson": 0.02})
print(study)  # Its state and its verdict.
study.verdicts[["study", "verdict", "difference", "low", "high"]]
study.scores.query("metric == 'pearson'").groupby(["condition", "language"]).value.mean()
study.predictions("german", condition="staged", seed=0)
study.report()  # Shown inline in a notebook.

study = flaxfer.load("runs/my_study")  # Of an earlier run; starts no JAX.
predict = flaxfer.Predictor("exported")  # A folder that `flaxfer export` has written.
predict([("A man plays the guitar.", "A man is playing.")])
"""

from __future__ import annotations

import functools
import html
import os
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flaxfer.config import Config, environment, loading
from flaxfer.config.files import plain
from flaxfer.config.findings import suggestion
from flaxfer.config.grids import Grid
from flaxfer.config.overrides import Override
from flaxfer.errors import ConfigError, DataError
from flaxfer.report.formatting import signed
from flaxfer.runtime import signals
from flaxfer.study import listing
from flaxfer.tasks import TASK_TYPES

if TYPE_CHECKING:
    import pandas as pd

    from flaxfer.report.data import Entry, ReportData
    from flaxfer.training.callbacks import Callbacks

HEIGHT = 800
"""Height of a report in a notebook, in pixels."""


def run(
    config: Config | Grid | Mapping[str, Any] | str | os.PathLike[str],
    *,
    replace: bool = False,
    callbacks: Sequence[Callbacks] = (),
    **overrides: Any,
) -> Study:
    """Run or resume a study or grid, as `flaxfer run` does, and return it.

    An interrupt stops after the current step, which is saved; the same call goes on.

    Args:
      config: A config, nested settings, or a file: FILE or FILE:PRESET.
      replace: Whether the records of another configuration in the work directory are moved to its
        folder `replaced`, instead of being an error.
      callbacks: What is called while stages are trained, see `flaxfer.training.callbacks`.
      **overrides: Settings that replace those of `config`: fields, as `seeds=(0, 1)`; sections, as
        `train=dict(epochs=2)`, of which only the given fields change; or dotted keys, from an
        unpacked dict such as `{"target.train.epochs": 2}`.

    Raises:
      FlaxferError: By kind of problem. Finished stages are kept; if some have diverged, the error
        comes last, and `load` reads the others.
    """
    built: Config | Grid
    changes = list(_changes(overrides))
    if isinstance(config, str | os.PathLike):
        built = loading.load_any(os.fspath(config), TASK_TYPES, changes)
    elif isinstance(config, Config | Grid):
        built = loading.validated(config, TASK_TYPES, changes)
    else:
        built = loading.build(config, TASK_TYPES, changes)
    from flaxfer.study import runner  # Imports JAX.

    environment.check(os.environ)
    with signals.handled():
        runner.run(built, _command(config, changes), replace, callbacks)
    return Study(built.workdir)


def load(workdir: str | os.PathLike[str]) -> Study:
    """Return the study or grid in a work directory.

    Raises:
      DataError: There is none.
    """
    return Study(workdir)


def _changes(overrides: Mapping[str, Any], at: str = "") -> Iterator[Override]:
    """Yield overrides of nested settings as the command line has them: a dotted key and a text."""
    for name, value in overrides.items():
        key, value = f"{at}.{name}" if at else name, plain(value)
        if isinstance(value, dict) and value:
            yield from _changes(value, key)
        else:
            yield key, repr(value)


def _command(config: Any, changes: Sequence[Override]) -> str:
    """Return the call of `run`, for the report and for hints."""
    file = isinstance(config, str | os.PathLike)
    words = [repr(os.fspath(config)) if file else f"<{type(config).__name__}>"]
    words += [f"{key}={text}" for key, text in changes if "." not in key]
    if dotted := [f"{key!r}: {text}" for key, text in changes if "." in key]:
        words.append(f"**{{{', '.join(dotted)}}}")
    return f"flaxfer.run({', '.join(words)})"


class Study:
    """A study or grid of studies, as its work directory holds it.

    Tables are computed when they are first used, and kept: after the work directory has changed,
    `load` it again. Grids have the same tables, with a row or more for every finished cell.

    Attributes:
      workdir: The work directory.
    """

    def __init__(self, workdir: str | os.PathLike[str]):
        self.workdir = Path(workdir).expanduser()
        if listing.look(self.workdir) is None and not self._has_cells():
            raise DataError(
                "this is not the work directory of a study or grid",
                where=str(self.workdir.absolute()),
                hint="name a folder such as runs/NAME; `flaxfer list FOLDER` shows the studies in "
                "a folder.",
            )

    def _has_cells(self) -> bool:
        return any((self.workdir / listing.CELLS).glob(f"*/{listing.RECORD}"))

    @property
    def state(self) -> str:
        """`running`, `stopped`, `finished` or `damaged`, see `flaxfer.study.listing`."""
        listed = listing.look(self.workdir)
        return listed.state if listed else "finished"

    @property
    def scores(self) -> pd.DataFrame:
        """Every score of every run; columns and dtypes: `flaxfer.report.frames.SCORES`."""
        from flaxfer.report import frames

        return frames.scores(self._entries)

    @property
    def comparisons(self) -> pd.DataFrame:
        """Every comparison of staged with direct: `flaxfer.report.frames.COMPARISONS`.

        The first use takes as long as `flaxfer report`.
        """
        from flaxfer.report import frames

        return frames.comparisons(self._data)

    @property
    def verdicts(self) -> pd.DataFrame:
        """The verdict on every study: `flaxfer.report.frames.VERDICTS`; see `comparisons`."""
        from flaxfer.report import frames

        return frames.verdicts(self._data)

    def predictions(
        self,
        set: str,
        *,
        condition: str | Collection[str] | None = None,
        seed: int | Collection[int] | None = None,
        study: str | None = None,
        stage: str = "target",
    ) -> pd.DataFrame:
        """Return predictions of finished runs for an evaluated set.

        Columns and dtypes: `flaxfer.report.frames.PREDICTIONS`.

        Args:
          set: Name of the evaluated set; `scores` lists them.
          condition: Condition, or several of them; None for all.
          seed: Seed, or several of them; None for all.
          study: Name of a study of a grid; None for all.
          stage: `target` or `intermediate`.

        Raises:
          ConfigError: There is no such set or run.
          DataError: A file of predictions is missing or damaged.
        """
        from flaxfer.report import frames

        entries = [one for one in self._entries if study in (None, one.name)]
        if not entries:
            hint = suggestion(str(study), [one.name for one in self._entries])
            raise ConfigError(f"there is no study {study!r}", where=str(self.workdir), hint=hint)
        return frames.predictions(entries, set, condition, seed, stage)

    def report(self) -> Report:
        """Return the report, which notebooks show inline.

        Raises:
          DataError: There is none yet.
        """
        return Report(self.workdir / listing.REPORT)

    @functools.cached_property
    def _entries(self) -> tuple[Entry, ...]:
        from flaxfer.report import data

        return data.read_entries([self.workdir])

    @functools.cached_property
    def _data(self) -> ReportData:
        from flaxfer.report import data

        return data.read_report_data([self.workdir], self.workdir)

    def __repr__(self) -> str:
        listed = listing.look(self.workdir)
        if listed is None:
            return f"grid in {self.workdir}"
        kind = "grid" if listed.is_grid else "study"
        lines = [f"{kind} {listed.name} in {self.workdir}: {listed.state}"]
        if listed.problem:
            return f"{lines[0]}\n{listed.problem}"
        lines[0] += f", {listed.progress}, {listed.date[:10]}"
        if listed.verdict:
            lines.append(listed.verdict)
        if listed.verdict and listed.verdicts and not listed.is_grid:
            (row,) = listed.verdicts.values()
            low, high = signed(float(row["low"])), signed(float(row["high"]))
            names = dict.fromkeys(row[key] for key in ("metric", "language", "set"))
            place = ", ".join(filter(None, names))
            lines[1] += f": {signed(float(row['difference']))} [{low}, {high}] in {place}"
        return "\n".join(lines)


class Report:
    """A report.html, which notebooks show inline.

    It has a frame of its own, so its styles and those of the notebook do not mix.

    Attributes:
      path: The file.
    """

    def __init__(self, path: str | os.PathLike[str]):
        self.path = Path(path)
        if not self.path.is_file():
            raise DataError(
                "there is no report here yet",
                where=str(self.path.parent.absolute()),
                hint="a study has a report when all its stages are finished; `flaxfer report "
                "FOLDER` writes it from the records of finished studies.",
            )

    def _repr_html_(self) -> str:
        page = self.path.read_text(encoding="utf-8")
        # The base makes links to sections stay in the frame.
        page = page.replace("<head>", '<head><base href="about:srcdoc">', 1)
        return (
            f'<iframe srcdoc="{html.escape(page)}" width="100%" height="{HEIGHT}" '
            'style="border: 1px solid #ccc" sandbox="allow-scripts allow-popups"></iframe>'
        )

    def __repr__(self) -> str:
        return f"report: {self.path.absolute()}"
