"""Bars on a terminal: the study, below it the current stage, and what is being done.

Without a terminal there are lines instead: what takes long is announced, and a stage reports its
steps every `LINE_SECONDS`. Rich's thread redraws the bars; all else happens in the main thread.
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import logging
import sys
import threading
import time
from collections.abc import Callable, Iterator

from rich.console import Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from flaxfer.runtime import progress, signals
from flaxfer.runtime.progress import say

LINE_SECONDS = 20.0
"""Interval of progress lines without a terminal, as in a log file."""

ANNOUNCED_AFTER = 2.0
"""Seconds after which an activity is announced without a terminal."""

SHOWN_AFTER = 0.5
"""Seconds after which an activity is shown on a terminal; shorter ones would flicker."""

BAR_WIDTH = 30
"""Least columns of a bar."""


@dataclasses.dataclass(frozen=True)
class StudyState:
    """Progress of a study or grid.

    Attributes:
      first, last: Numbers of the stages that are worked on, from 1; equal for a single one.
      total: Number of all stages.
      share: Fraction of the work that is done.
      seconds_left: Estimated time left; None if nothing was measured yet.
    """

    first: int
    last: int
    total: int
    share: float
    seconds_left: float | None

    @property
    def place(self) -> str:
        """The numbers of the stages, such as `stage 2 of 6`."""
        if self.first == self.last:
            return f"stage {self.first:,} of {self.total:,}"
        return f"stages {self.first:,}-{self.last:,} of {self.total:,}"

    @property
    def left(self) -> str:
        """The time left, such as `about 0:03:20 left`."""
        if self.seconds_left is None:
            return "time left unknown"
        return f"about {duration(self.seconds_left)} left"


def duration(seconds: float) -> str:
    """Return a time as hours, minutes and seconds."""
    return str(datetime.timedelta(seconds=round(seconds)))


@dataclasses.dataclass
class _Activity:
    """An activity, its start, and its newest detail."""

    what: str
    began: float
    detail: str = ""


class _Bars:
    """State of the bars. The display exists as long as there is anything to show."""

    def __init__(self) -> None:
        self.study: Callable[[float | None], StudyState] | None = None
        self.began = 0.0
        self.stage: StageBar | None = None
        self.activities: list[_Activity] = []
        self._live: Live | None = None

    def refresh(self) -> None:
        """Start or stop the display, as there is anything to show."""
        shown = self.study or self.stage or self.activities
        if shown and self._live is None and progress.is_interactive():
            self._live = Live(
                get_renderable=lambda: Group(*self.lines(time.monotonic())),
                console=progress.console,
                transient=True,
                # The bars are on stderr: what goes to a file by stdout should stay there.
                redirect_stdout=sys.stdout.isatty(),
            )
            self._live.start()
            signals.announce(False)
        elif not shown and self._live is not None:
            live, self._live = self._live, None
            signals.announce(True)
            live.stop()

    @property
    def is_live(self) -> bool:
        """True if the bars are on a terminal."""
        return self._live is not None

    def lines(self, now: float) -> Iterator[RenderableType]:
        """Yield what the bars show at a time."""
        if self.study is not None:
            state = self.study(self.stage.share if self.stage else None)
            times = f"{duration(now - self.began)} elapsed, {state.left}"
            yield _row(state.place, state.share, times)
        if self.stage is not None:
            yield _row(self.stage.name, self.stage.share, "")
        if stop := signals.pending():
            yield _line(stop)
        elif self.activities and now - self.activities[-1].began >= SHOWN_AFTER:
            activity = self.activities[-1]
            detail = f": {activity.detail}" if activity.detail else ""
            yield _line(f"{activity.what}, {now - activity.began:.0f} s{detail}")
        elif self.stage is not None:
            yield _line(self.stage.numbers)


def _row(name: str, share: float, times: str) -> Table:
    """Return a bar between a name and times."""
    row = Table.grid(expand=True, padding=(0, 2, 0, 0))
    row.add_column(no_wrap=True, overflow="ellipsis")
    row.add_column(ratio=1, min_width=BAR_WIDTH if not times else 8)
    row.add_column(no_wrap=True, justify="right")
    row.add_row(Text(name), ProgressBar(completed=100 * share), times)
    return row


def _line(text: str) -> Text:
    return Text(text, no_wrap=True, overflow="ellipsis")


_bars = _Bars()


@contextlib.contextmanager
def study(state: Callable[[float | None], StudyState]) -> Iterator[None]:
    """Show a bar of a study within a `with` block.

    Args:
      state: Returns how far the study is, given the fraction of the current stage's steps that are
        taken; None if no stage is trained at the time. Another thread calls it several times a
        second.
    """
    _bars.study, _bars.began = state, time.monotonic()
    _bars.refresh()
    try:
        yield
    finally:
        _bars.study = None
        _bars.refresh()


@contextlib.contextmanager
def doing(what: str, announced: bool = False) -> Iterator[None]:
    """Show what is being done within a `with` block, such as `compiling`.

    On a terminal it stands in the bars with its seconds. Without one, it is a line as soon as it
    takes longer than `ANNOUNCED_AFTER`.

    Args:
      what: A verb in its -ing form and its object.
      announced: Whether a line has said it already.
    """
    _bars.activities.append(_Activity(what, time.monotonic()))
    _bars.refresh()
    name = f"{_bars.stage.name}  " if _bars.stage else ""
    timer = threading.Timer(ANNOUNCED_AFTER, say, [f"{name}{what}"])
    timer.daemon = True
    if not announced and not _bars.is_live:
        timer.start()
    try:
        yield
    finally:
        timer.cancel()
        _bars.activities.pop()
        _bars.refresh()


def log(record: logging.LogRecord, text: str) -> None:
    """Print a log record above the bars; one of level INFO is only a detail of an activity there.

    Args:
      record: The record.
      text: Its formatted text.
    """
    if record.levelno >= logging.WARNING:
        progress.warn(text)
    elif not _bars.is_live:
        say(text)
    elif _bars.activities:
        _bars.activities[-1].detail = record.getMessage()


class StageBar:
    """The bar of a stage with epoch, step, loss and throughput; lines if there is no terminal.

    Args:
      name: Name of the stage.
      start: Steps that are already taken.
      total: Steps of the stage.
      steps_per_epoch: Steps of an epoch, which need not be whole.

    Attributes:
      name: Name of the stage.
      share: Fraction of the steps that are taken.
      numbers: What the line below the bar says.
    """

    def __init__(self, name: str, start: int, total: int, steps_per_epoch: float):
        self.name, self.share, self.numbers = name, start / total, "starting"
        self._total, self._steps_per_epoch = total, steps_per_epoch
        self._start, self._began = start, time.monotonic()
        self._printed = self._began
        _bars.stage = self
        _bars.refresh()

    def update(
        self,
        step: int,
        loss: float,
        examples_per_s: float,
        useful_tokens_per_s: float,
        input_stall_share: float,
    ) -> None:
        """Show the state after `step` steps; `input_stall_share` is time without a batch."""
        self.share = step / self._total
        epoch, epochs = step / self._steps_per_epoch, self._total / self._steps_per_epoch
        self.numbers = (
            f"epoch {epoch:.1f}/{epochs:.1f}  step {step:,}/{self._total:,}  loss {loss:.4f}  "
            f"{examples_per_s:,.0f} examples/s"
        )
        if not _bars.is_live and time.monotonic() - self._printed > LINE_SECONDS:
            self._printed = time.monotonic()
            rates = f"{useful_tokens_per_s:,.0f} tokens/s  {input_stall_share:.1%} waiting for data"
            say(f"{self.name}  {self.numbers}  {rates}")
        if input_stall_share >= 0.01:
            self.numbers += f"  {input_stall_share:.0%} waiting for data"

    def close(self) -> None:
        """Remove the bar."""
        _bars.stage = None
        _bars.refresh()
