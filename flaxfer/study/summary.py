"""Summaries of a study: tables printed at its start, and its record study.json."""

from __future__ import annotations

import collections
import dataclasses
import datetime
import itertools
import math
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax

from flaxfer.config import loading, seeds
from flaxfer.config.grids import CellKey
from flaxfer.data import overlap
from flaxfer.models.spec import ModelSpec
from flaxfer.runtime import platform, sealed, sharding
from flaxfer.runtime.progress import table, warn
from flaxfer.study import workdirs
from flaxfer.study.plan import StudyPlan
from flaxfer.tasks import task_type
from flaxfer.training.data import StudyData
from flaxfer.training.record import TRAINED_ON
from flaxfer.training.stage import StageSpec

SIZE_RATIO = 10
"""Smallest ratio of training examples, intermediate task to target, in the design of Mohapatra &
Mohapatra (2022).
"""


MAX_OVERLAPS = 3
"""Pairs of splits with shared texts that are printed; the report has all of them."""

MAX_SETS = 3
"""Evaluated sets of a stage that are printed one by one; more of them are one line."""


def introduce(data: StudyData, mesh: jax.sharding.Mesh) -> None:
    """Print model, devices, data and steps of a study: with its bars, in 24 lines of 80 columns."""
    config, model = data.config, model_facts(data)
    dtype = platform.compute_dtype(config.target.train.compute_dtype)
    size = f"{model['parameters']:,} parameters, {model['vocabulary']:,} tokens"
    rows = [("model", f"{model['source']} ({model['family']}), {size}")]
    for name, size in model["parameters_in_use"].items():
        tokens = model["vocabulary_in_use"][name]
        rows.append((name, f"trains {size:,} parameters with {tokens:,} tokens"))
    axes = ", ".join(f"{axis} {size}" for axis, size in mesh.shape.items() if size > 1)
    devices = f"{platform.machine()['devices']}{f', mesh {axes}' if axes else ''}"
    compiler = platform.describe_compiler(mesh.devices.flat[0], dtype)
    conditions, of_seeds = ", ".join(config.conditions), seeds.describe(config.seeds)
    if not config.looks:
        of_seeds = f"{'seed' if len(config.run_seeds) == 1 else 'seeds'} {of_seeds}"
    rows += [
        ("devices", f"{devices}; {compiler}"),
        ("conditions", f"{conditions}; {of_seeds}"),
        *(("margin", f"{metric} {size:g}") for metric, size in config.margin.items()),
        *([("analysis", "paired by seed")] if config.paired else []),
    ]
    for name, stage in data.stages.items():
        task = stage.settings.task
        if scoring := task_type(task).scoring(task):
            rows.append((f"{name} metrics", scoring))
    rows += [("overlap", text) for text in _overlaps(data)]
    table(f"study {config.name} in {config.workdir}", None, rows)
    header = ["stage", "split", "examples", "tokens", "mean", "cut", "rows of", "padding", "steps"]
    table("", header, [_data_row(data, entry, mesh) for entry in _shown_splits(data)])
    rule = size_rule(data)
    if rule is not None and not rule["holds"]:
        warn(
            f"warning: the intermediate task has {rule['intermediate']:,} training examples, "
            f"{rule['ratio']:.1f} times the target's {rule['target']:,}; the published design has "
            f"at least {SIZE_RATIO} times as many"
        )


def _overlaps(data: StudyData) -> list[str]:
    """Return the largest overlaps with training splits, a text each."""
    rows = sorted(overlap.rows(data.overlap), key=lambda row: -int(str(row[2])))
    texts = [
        f"{first} in {second}: {count:,} examples share a text"
        + (f", {pairs} whole examples" if pairs not in ("", "0") else "")
        + (f"; {removed:,} left out" if removed else "")
        for first, second, count, pairs, _, _, _, removed in rows[:MAX_OVERLAPS]
    ]
    more = len(rows) - MAX_OVERLAPS
    return [*texts, *([f"{more:,} more pairs of splits in the report"] if more > 0 else [])]


def _shown_splits(data: StudyData) -> list[dict[str, Any]]:
    """Return the records of all splits; the evaluated sets of a stage as one if there are many."""
    shown: list[dict[str, Any]] = []
    for stage, records in itertools.groupby(data.summary(), key=lambda record: record["stage"]):
        by_kind: dict[bool, list[dict[str, Any]]] = {True: [], False: []}
        for record in records:
            by_kind[record["split"] in TRAINED_ON].append(record)
        sets = by_kind[False]
        if len(sets) > MAX_SETS:
            sums = {key: sum(one[key] for one in sets) for key in ("examples", "tokens")}
            cut = sum(one["truncated"] for one in sets)
            sets = [{"stage": stage, "split": f"{len(sets)} sets", "truncated": cut} | sums]
        shown += by_kind[True] + sets
    return shown


def _data_row(data: StudyData, entry: Mapping[str, Any], mesh: jax.sharding.Mesh) -> list[Any]:
    seed, padding, steps = entry.get("seed", data.config.run_seeds[0]), "", ""
    stage = data.stage(entry["stage"], seed)
    train = stage.settings.train
    if entry["split"] == "train":
        plan = stage.plan((seed,), sharding.row_shards(mesh))
        padding, steps = f"{plan.padding_share():.1%}", f"{plan.total_steps} x {train.batch_size}"
    return [
        entry["stage"],
        f"{entry['split']}, seed {seed}" if "seed" in entry else entry["split"],
        *(entry[key] for key in ("examples", "tokens")),
        round(entry["tokens"] / entry["examples"], 1),
        entry["truncated"],
        train.row_length,
        padding,
        steps,
    ]


def size_rule(data: StudyData) -> dict[str, Any] | None:
    """Return the training examples of both stages, their ratio, and whether `SIZE_RATIO` holds.

    Of the seed with the smallest ratio, if seeds draw their own data. None without an intermediate
    task.
    """
    if "intermediate" not in data.stages:
        return None
    of_seeds = [
        {name: len(draw.stages[name].train.id) for name in ("intermediate", "target")}
        for draw in data.draws.values()
    ]
    sizes = min(of_seeds, key=lambda sizes: sizes["intermediate"] / sizes["target"])
    ratio = sizes["intermediate"] / sizes["target"]
    return {**sizes, "ratio": ratio, "holds": ratio >= SIZE_RATIO}


def model_facts(data: StudyData) -> dict[str, Any]:
    """Return the model's source and sizes, by stage without the embedding rows it never trains.

    If seeds draw their own data, the sizes by stage are the largest.
    """
    in_use = {
        name: max(len(draw.stages[name].vocabulary) for draw in data.draws.values())
        for name in data.stages
    }
    shapes = ModelSpec(data.encoder).param_shapes()
    whole = sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(shapes))
    size, width = data.encoder.vocab_size, data.encoder.hidden_size
    return {
        "source": data.config.model.hub or data.folder.name,
        "family": data.encoder.family,
        "parameters": whole,
        "parameters_in_use": {n: whole - (size - used) * width for n, used in in_use.items()},
        "vocabulary": size,
        "vocabulary_in_use": in_use,
        "fingerprint": data.weights,
    }


def study_facts(data: StudyData, command: str, cell: CellKey | None) -> dict[str, Any]:
    """Return the content of study.json except seeds, runs, looks that were had, and times.

    Args:
      data: Data of the study.
      command: Command that the study was started with.
      cell: Place of the study in its grid, if it has one.
    """
    config = data.config
    task, intermediate = config.target.task, data.stages.get("intermediate")
    return {
        "name": config.name,
        "metric": task.metric,
        "metrics": list(task_type(task).metrics_of(task)),
        "scoring": task_type(task).scoring(task),
        "larger_is_better": task_type(task).larger_is_better(task.metric),
        "task": dataclasses.asdict(task),
        "intermediate_task": intermediate and dataclasses.asdict(intermediate.settings.task),
        "conditions": list(config.conditions),
        "looks": list(config.looks),
        "margin": dict(config.margin),
        "paired": config.paired,
        "sets": {
            name: {key: getattr(source, key) for key in ("benchmark", "answer_style", "fraction")}
            for name, source in config.target.evaluate.items()
        },
        "model": model_facts(data),
        "config": loading.to_dict(config),
        "versions": platform.versions(),
        "machine": platform.machine(),
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "git": workdirs.git_state(),
        "data": data.summary(),
        "parallel": config.target.parallel,
        "overlap": [dataclasses.asdict(record) for record in data.overlap],
        "size_rule": size_rule(data),
        "command": command,
        "cell": cell and dataclasses.asdict(cell),
    }


def write_summary(
    plan: StudyPlan, facts: Mapping[str, Any], trouble: Callable[[StageSpec], str] = lambda spec: ""
) -> list[dict[str, Any]]:
    """Write study.json of a settled study, and return the stages that failed.

    Args:
      plan: The study.
      facts: From `study_facts`, times, and what the looks have shown.
      trouble: Returns why a stage is given up that has not diverged.

    Raises:
      CheckpointError: A record of a stage is damaged.
    """
    order = {seed: i for i, seed in enumerate(plan.seeds)}
    stages = sorted(plan.stages, key=lambda spec: order[spec.seed])  # Stable: stages in order.
    workdir = Path(plan.config.workdir)
    failed = [
        {**_place(spec), "error": spec.failure() or trouble(spec)}
        for spec in stages
        if not spec.is_complete()
    ]
    record = {
        **facts,
        "seeds": list(plan.seeds),
        "transferability": [start for spec in stages for start in _start_scores(spec)],
        "runs": [entry(spec, workdir) for spec in stages if spec.is_complete()],
        "failed": failed,
    }
    sealed.write(workdir / "study.json", record)
    return failed


def _place(spec: StageSpec) -> dict[str, Any]:
    return {"condition": spec.condition, "seed": spec.seed, "stage": spec.name}


def entry(spec: StageSpec, workdir: Path) -> dict[str, Any]:
    """Return the entry of a settled stage in study.json, among `runs` or among `failed`."""
    if not spec.is_complete():
        return {**_place(spec), "error": spec.failure()}
    measured: dict[str, list[Any]] = collections.defaultdict(list, evaluations=[])
    for one in spec.measurements:
        measured[one.key] += spec.record.measured(one.file)
    return {
        **_place(spec),
        "id": spec.folder.name,
        "dir": Path(os.path.relpath(spec.folder, workdir)).as_posix(),
        "parent": spec.parent.folder.name if spec.parent else None,
        **spec.record.done(),
        **measured,
    }


def _start_scores(spec: StageSpec) -> list[dict[str, Any]]:
    """Return the scores of a stage's start for study.json, if it was scored."""
    if not spec.start_scores or not (spec.folder / spec.start_scores).exists():
        return []
    start = spec.parent.folder.name if spec.parent else "pretrained"
    scores = spec.record.read(spec.start_scores)
    return [{"condition": spec.condition, "seed": spec.seed, "start": start, **scores}]
