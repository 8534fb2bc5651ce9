"""Running a study or a grid: plan all stages, then train and measure until all are settled.

Any number of processes may run the same command. They agree through claims on the folders of the
store (`flaxfer.study.claims`): each process takes stages that no other holds, and ends when all are
settled. It holds data and weights of one study at a time.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from flaxfer.config import Config, grids, loading
from flaxfer.config.grids import Grid
from flaxfer.runtime import bars, platform, signals
from flaxfer.runtime.bars import doing
from flaxfer.runtime.progress import say
from flaxfer.study import forecast, listing, summary, troubles, workdirs
from flaxfer.study.claims import Claims
from flaxfer.study.open_study import Studies, ready_stages
from flaxfer.study.pace import Pace
from flaxfer.study.plan import StudyPlan
from flaxfer.study.stopping import Stopping
from flaxfer.study.troubles import Troubles
from flaxfer.tasks import TASK_TYPES
from flaxfer.training.callbacks import Callbacks, check_callbacks
from flaxfer.training.tracking import Tracking

REMINDER = 600.0
"""Seconds between two messages of what this process waits for."""

POLL = 1.0
"""Seconds between two looks at other processes' work, when there is nothing else to do."""

Failed = list[dict[str, Any]]


def run(
    config: Config | Grid,
    command: str,
    replace: bool = False,
    callbacks: Sequence[Callbacks] = (),
) -> Path:
    """Run the unfinished stages of a study or grid, and return its report.

    Args:
      config: Config from `loading.load_any`, or made in Python.
      command: Command that this process was started with, for the report.
      replace: Whether to move the records of another configuration in the work directory away.
      callbacks: What is called while stages are trained.

    Raises:
      FlaxferError: By kind of problem; finished stages are kept. Stages that have diverged or
        whose checkpoints are damaged raise last, when all other stages are finished and the report
        is written.
    """
    config = loading.validated(config, TASK_TYPES)
    check_callbacks(callbacks)
    workdirs.prepare(config)
    platform.keep_memory()
    began = time.monotonic()
    studies = Studies(config, callbacks)

    def summarise(plan: StudyPlan) -> Failed:
        now = {"seconds": time.monotonic() - began, **stopping.facts(plan)}
        return summary.write_summary(plan, facts[plan.config.name] | now, studies.troubles.of)

    with Claims() as claims:
        plans, facts = _open(config, command, studies, claims)
        workdirs.check(config, plans, replace)
        stopping = Stopping(plans)
        workdirs.adopt(config, command, plans)
        if len(plans) > 1:
            forecast.show(plans, claims, in_brief=True)
        else:
            studies.open(plans[0].config).introduce()
        # Steps run meanwhile. An error is raised again where the module is used.
        threading.Thread(target=_import_report).start()
        pace = Pace(lambda: stopping.plans, studies.troubles.settled)
        if pace.done and len(plans) == 1:
            left = pace.total - pace.done
            rest = f"{left:,} left" if left else "nothing is left to train"
            say(f"{pace.done:,} of {pace.total:,} stages are finished, {rest}")
        with bars.study(pace.state):
            _drain(stopping, studies, claims, pace, summarise)
            while _go_on(stopping, summarise):
                pace.count()
                _drain(stopping, studies, claims, pace, summarise)
    return _finish(config, stopping, studies.troubles, summarise)


def _open(
    config: Config | Grid, command: str, studies: Studies, claims: Claims
) -> tuple[list[StudyPlan], dict[str, dict[str, Any]]]:
    """Return the plans of all studies, and their facts for study.json; complete their records."""
    plans, facts = [], {}
    places = grids.cell_keys(config) if isinstance(config, Grid) else {}
    for name, cell in grids.cells(config).items():
        # No variable holds an opened study: the next one replaces it in memory.
        facts[name] = summary.study_facts(studies.open(cell).data, command, places.get(name))
        plans.append(studies.open(cell).plan)
        with doing(f"checking the records of {name}"):
            studies.open(cell).complete_records(claims)
    return plans, facts


def _finish(
    config: Config | Grid,
    stopping: Stopping,
    known: Troubles,
    summarise: Callable[[StudyPlan], Failed],
) -> Path:
    """Write the last records and the report, unless another process does; return its page.

    Raises:
      FlaxferError: Stages have diverged or could not be trained.
    """
    output, plans = Path(config.workdir), stopping.plans
    if not all(map(stopping.is_current, plans)):
        say(f"{output}: another process has added to this study since, and writes its report")
        return output / "report.html"
    failed = [
        f"{plan.config.name}: {fail['condition']}/{fail['stage']} seed {fail['seed']}: "
        f"{fail['error']}"
        for plan in plans
        for fail in summarise(plan)
    ]
    html = write_report([Path(plan.config.workdir) for plan in plans], output)
    if config.trackers and (listed := listing.look(output)) and listed.verdicts:
        Tracking.of(config).announce(config.name, listed.verdicts)
    if failed:
        number = sum(len(group) for plan in plans for group in plan.groups)
        raise troubles.failure(failed, number, html, known.errors())
    return html


def write_report(folders: Sequence[Path], output: Path) -> Path:
    """Write the report of studies into a folder, print its result, and return its page."""
    with doing("comparing the conditions and writing the report"):
        from flaxfer.report import data, terminal, writing

        content = data.read_report_data(folders, output)
        paths = writing.write(content)
    terminal.show_result(content)
    terminal.show_paths(paths)
    return paths[0]


def _import_report() -> None:
    """Import the report, with pandas and matplotlib, which takes two seconds."""
    from flaxfer.report import terminal, writing  # noqa: F401 - for later


def _go_on(stopping: Stopping, summarise: Callable[[StudyPlan], Failed]) -> bool:
    """Judge the studies at a look, if they have looks; return whether any goes on."""
    with doing("judging the studies at this look"):
        return stopping.go_on(summarise)


def _drain(
    stopping: Stopping,
    studies: Studies,
    claims: Claims,
    pace: Pace,
    summarise: Callable[[StudyPlan], Failed],
) -> None:
    """Train and measure up to the current look of each study, by this process or by others."""
    reminded, settled = -math.inf, studies.troubles.settled
    while pending := [plan for plan in stopping.plans if not all(map(settled, plan.stages))]:
        worked = False
        for plan in pending:
            if any(ready_stages(group, claims, studies.troubles) for group in plan.groups):
                worked |= studies.open(plan.config).advance(plan, claims, pace.working)
                if all(map(settled, plan.stages)) and stopping.is_current(plan):
                    summarise(plan)  # A record of finished studies, while others run.
        if not worked:
            if time.monotonic() - reminded > REMINDER:
                reminded = time.monotonic()
                say(troubles.waiting(pending, claims))
            signals.check()
            with doing("waiting for other processes"):
                time.sleep(POLL)
        else:
            reminded = -math.inf


def show(config: Config | Grid) -> None:
    """Print the state of all stages, and how long the unfinished ones may take.

    Raises:
      FlaxferError: By kind of problem.
    """
    config = loading.validated(config, TASK_TYPES)
    studies = Studies(config)
    plans = [studies.open(cell).plan for cell in grids.cells(config).values()]
    forecast.show(plans, Claims())
