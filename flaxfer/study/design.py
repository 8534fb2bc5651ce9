"""Power of studies by their design, before anything is trained.

The evaluated sets are read as the studies read them, for their sizes, languages and units of
resampling; of training data, only what these depend on. `statistics.variances` has the variances,
`statistics.power` what follows from them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from flaxfer.config import Config, Stage, Task, grids
from flaxfer.config.grids import Grid
from flaxfer.data.clusters import clusters
from flaxfer.data.sources import Examples, Pool
from flaxfer.errors import ConfigError, DataError
from flaxfer.evaluation.records import Evaluation, ModelInfo, Run, Split, Study
from flaxfer.statistics.inference import Components
from flaxfer.statistics.looks import ALPHA, LEVEL
from flaxfer.statistics.power import Needed, Planned, smallest_designs
from flaxfer.statistics.reading import Predicted
from flaxfer.statistics.scores import Row, Scores
from flaxfer.statistics.sets import COMPARED
from flaxfer.statistics.units import find_units
from flaxfer.statistics.variances import effective_examples, headline_rows
from flaxfer.tasks import task_type

Variances = Callable[[Task, float], Components]
"""Variance components of a comparison by its task and number of independent examples."""


@dataclasses.dataclass(frozen=True)
class Compared:
    """The evaluated sets of a study's primary comparison.

    Attributes:
      name: set and language, or name of the mean.
      sets: number of sets.
      examples: number of their examples.
      units: number of units of resampling; those of parallel sets count once.
      effective: number of independent examples, see `variances.effective_examples`.
      notes: what looks wrong with the sets, one sentence each.
    """

    name: str
    sets: int
    examples: int
    units: int
    effective: float
    notes: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Outlook:
    """Power of a study at each look; fixed seeds are a single look.

    All but the last four are numbers of the config and its data, `power.Planned` defines the rest.
    Values by look are empty if there is a single seed, which allows no verdict.

    Attributes:
      study: name of the study.
      metric: compared metric.
      compared: sets of its primary comparison.
      looks: numbers of seeds per condition.
      alpha: level of its comparison: the family-wise error rate over the number of comparisons.
      margin: smallest relevant difference; None if none is declared.
      sought: difference to find; None if neither that nor a margin is given.
      target: power to reach.
      components: assumed variance components.
      detectable: by look, the smallest difference that is found with the power.
      half_width: by look, half the expected width of the interval.
      half_width_simultaneous: the same at the level `alpha`.
      smallest_margin: by look, the smallest margin within which no difference is shown to be.
      examples_share: by look, the share of the variance that no number of seeds reduces.
      power: power at the last look for the difference sought.
      equivalence_power: power at the last look to show that there is no relevant change.
      needed: designs that find the difference and, with a margin, show that there is none; None if
        this one does, or if no difference is sought.
    """

    study: str
    metric: str
    compared: Compared
    looks: tuple[int, ...]
    alpha: float
    margin: float | None
    sought: float | None
    target: float
    components: Components
    detectable: tuple[float, ...] = ()
    half_width: tuple[float, ...] = ()
    half_width_simultaneous: tuple[float, ...] = ()
    smallest_margin: tuple[float, ...] = ()
    examples_share: tuple[float, ...] = ()
    power: float | None = None
    equivalence_power: float | None = None
    needed: Needed | None = None

    @property
    def finds(self) -> bool:
        """Whether the difference sought is found."""
        return bool(self.detectable) and (self.sought or 0.0) >= self.detectable[-1]

    @property
    def shows_none(self) -> bool:
        """Whether the absence of a relevant difference is shown."""
        return bool(self.detectable) and (self.margin or 0.0) >= self.smallest_margin[-1]


def outlooks(
    config: Config | Grid, variances: Variances, sought: float | None, target: float
) -> list[Outlook]:
    """Return what each study of a config can decide.

    Args:
      config: a study or a grid; its studies are one family of comparisons.
      variances: variance components.
      sought: difference to find; None for the margin of each study.
      target: power to reach.

    Raises:
      FlaxferError: there is nothing to compare, or data or variances cannot be had.
    """
    studies = compared_studies(config)
    read: list[tuple[Stage, Compared]] = []
    results = []
    for study in studies:
        stage = _evaluated(study.target)
        compared = next((sets for other, sets in read if other == stage), None)
        if compared is None:
            compared = read_compared(study)
            read.append((stage, compared))
        components = variances(study.target.task, compared.effective)
        components = dataclasses.replace(components, groups=1 if study.paired else 2)
        alpha = ALPHA / len(studies)
        results.append(_outlook(study, compared, components, alpha, sought, target))
    return results


def compared_studies(config: Config | Grid) -> list[Config]:
    """Return the studies that compare staged with direct.

    Raises:
      ConfigError: there are none.
    """
    cells = grids.cells(config).values()
    studies = [study for study in cells if {*COMPARED} <= {*study.conditions}]
    if not studies:
        raise ConfigError(
            "no study compares staged with direct",
            where=config.name,
            hint="add an intermediate task and the conditions 'direct' and 'staged'.",
        )
    return studies


def _evaluated(stage: Stage) -> Stage:
    """Return a stage without what its evaluated sets do not depend on."""
    data = dataclasses.replace(stage.data, train_fraction=1.0)
    return dataclasses.replace(stage, data=data)


def _outlook(
    study: Config,
    compared: Compared,
    components: Components,
    alpha: float,
    sought: float | None,
    target: float,
) -> Outlook:
    metric = study.target.task.metric
    looks, margin = study.looks or (len(study.run_seeds),), study.margin.get(metric)
    sought = margin if sought is None else sought
    outlook = Outlook(
        *(study.name, metric, compared, looks, alpha, margin, sought, target, components)
    )
    if looks[-1] > 1:
        planned = Planned(components, looks, alpha)
        outlook = dataclasses.replace(
            outlook,
            detectable=tuple(planned.detectable(target)),
            half_width=tuple(planned.half_width(LEVEL)),
            half_width_simultaneous=tuple(planned.half_width(1 - alpha)),
            smallest_margin=tuple(planned.smallest_margin(target)),
            examples_share=tuple(planned.examples_share()),
            power=None if sought is None else planned.power(sought)[-1],
            equivalence_power=None if margin is None else planned.equivalence_power(margin)[-1],
        )
    if sought is None or (outlook.finds and (margin is None or outlook.shows_none)):
        return outlook

    def enough(of: Components, seeds: float) -> bool:
        if seeds < 2:
            return False
        planned = Planned(of, (round(seeds),), alpha)
        found = planned.power(sought)[0] >= target
        return found and (margin is None or planned.equivalence_power(margin)[0] >= target)

    designs = smallest_designs(components, looks[-1], compared.examples, enough)
    return dataclasses.replace(outlook, needed=designs)


def read_compared(study: Config) -> Compared:
    """Read the evaluated sets of a study's primary comparison.

    Raises:
      DataError: there are none, they cannot be compared, or their data are wrong.
    """
    task = study.target.task
    trained, sets = _read(study)
    predicted = {row: one for name, of in sets.items() for row, one in _by_language(name, of)}
    scores = Scores(_record(study, trained, list(predicted)))
    weights = headline_rows(scores)
    if not weights or scores.headline is None:
        hint = "name sources in target.data.test or target.evaluate."
        raise DataError("no set is evaluated", where=study.name, hint=hint)
    units, notes = find_units(predicted, study.target.parallel, study.name)
    for row in weights:
        what = f"{row.set} in {row.language} cannot be compared: "
        if units[row].own == 1:
            raise DataError(f"{what}its {row.n} examples are one cluster", where=study.name)
        if task_type(task).undefined(task.metric, predicted[row].gold):
            raise DataError(f"{what}all its labels are the same", where=study.name)
    groups: dict[int, list[np.ndarray]] = {}
    for row in weights:
        groups.setdefault(units[row].group, []).append(units[row].unit_n)
    return Compared(
        name=" / ".join(filter(None, scores.headline)),
        sets=len(weights),
        examples=sum(row.n for row in weights),
        units=sum(len(np.unique(np.concatenate(unit_n))) for unit_n in groups.values()),
        effective=effective_examples(weights, units),
        notes=tuple(notes),
    )


def _read(study: Config) -> tuple[set[str], dict[str, Examples]]:
    """Return the languages of the target's training split, and its evaluated sets."""
    stage, data = study.target, study.target.data
    form = task_type(stage.task)
    if any("language" in {*source.roles, *source.aligned} for source in data.train):
        trained = None
    else:
        trained = {source.language for source in data.train}
    divided = not data.dev and not data.test and data.split[2] > 0
    if trained is None or divided:
        splits = Pool.read(stage, form, study.data_dir).splits(study.run_seeds[0])
        trained = set(splits.pop("train").language)
        del splits["dev"]
        return trained, splits
    without = dataclasses.replace(data, train=(), dev=())
    pool = Pool.read(dataclasses.replace(stage, data=without), form, study.data_dir)
    return trained, dict(pool.evaluated)


def _by_language(name: str, examples: Examples) -> Iterator[tuple[Row, Predicted]]:
    """Yield each language of a set with its examples, which nothing has predicted yet."""
    cluster, language = clusters(examples), np.array(examples.language)
    for code in sorted(set(examples.language)):
        chosen = np.flatnonzero(language == code).tolist()
        yield (
            Row(code, name, len(chosen)),
            Predicted(
                Path(name),
                ids=[examples.id[i] for i in chosen],
                cluster=[cluster[i] for i in chosen],
                gold=[examples.label[i] for i in chosen],
            ),
        )


def _record(study: Config, trained: set[str], rows: list[Row]) -> Study:
    """Return the record of a study as far as the choice of its primary comparison needs it."""
    evaluations = [Evaluation(row.set, row.language, row.n, {}) for row in rows]
    train = Split("target", "train", 1, 0, 0, dict.fromkeys(sorted(trained), 1))
    task = study.target.task
    return Study(
        name=study.name,
        metric=task.metric,
        metrics=[task.metric],
        larger_is_better=task_type(task).larger_is_better(task.metric),
        task=task,
        conditions=list(study.conditions),
        seeds=[0],
        model=ModelInfo("", "", 0),
        data=[train],
        runs=[Run("direct", 0, "target", "", "", 0, {}, evaluations)],
    )
