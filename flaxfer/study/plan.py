"""The plan of a study: the stages of every condition and seed.

Nothing here trains or writes. Equal stages of conditions or studies have the same identity, so they
are trained once.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from flaxfer.config import Config
from flaxfer.data.loader import train_examples
from flaxfer.runtime import platform
from flaxfer.study import transferability
from flaxfer.training.data import StageData, StudyData
from flaxfer.training.optimizer import with_frozen_parts
from flaxfer.training.stage import Measurement, StageSpec

GROUP = 8
"""Batched seeds where batching is faster."""

SMALL_WORK = 2**13
"""Largest workload (tokens of a micro-batch x width) for which seeds are batched by default.

`benchmarks/seeds.py`, float32, 2 cores of an AMD EPYC shared with other work, November 2026;
workload: batched over one by one. 7,000: 2.2 (width 32, batch 8). 28,000: 0.8 (width 128, batch 8).
57,000: 0.7 (width 64, batch 32), 1.0 (width 256, batch 8). 114,000: 1.0 (width 128, batch 32).
342,000: 1.0 (all-MiniLM-L6-v2, batch 32).
"""

STARTS = {"direct": "pretrained", "staged": "intermediate", "scratch": "random"}
"""Start of the target stage by condition."""


@dataclasses.dataclass(frozen=True)
class StudyPlan:
    """The stages of a study.

    Attributes:
      config: Config of the study.
      groups: Specs that differ only in their seed and are trained as one program, in topological
        order.
      seeds: Seeds of the stages.
    """

    config: Config
    groups: tuple[tuple[StageSpec, ...], ...]
    seeds: tuple[int, ...]

    @property
    def stages(self) -> Iterator[StageSpec]:
        """All specs in topological order."""
        for group in self.groups:
            yield from group

    def until(self, look: int) -> StudyPlan:
        """Return the plan up to a look, for the first `look` seeds."""
        seeds = self.seeds[:look]
        groups = tuple(group for group in self.groups if group[0].seed in seeds)
        return StudyPlan(self.config, groups, seeds)

    def is_settled(self) -> bool:
        """Return whether all stages are settled."""
        return all(spec.is_settled() for spec in self.stages)


def plan_study(data: StudyData) -> StudyPlan:
    """Return the stages of every condition and seed of a study."""
    config, groups = data.config, []
    for seeds in seed_groups(data):
        for condition in config.conditions:
            parents: Sequence[StageSpec | None] = [None] * len(seeds)
            for name in ("intermediate", "target") if condition == "staged" else ("target",):
                start = STARTS[condition] if name == "target" else "pretrained"
                group = tuple(
                    _stage(data, condition, name, seed, parent or start)
                    for seed, parent in zip(seeds, parents, strict=True)
                )
                groups.append(group)
                parents = group
    return StudyPlan(config, tuple(groups), config.run_seeds)


def seed_groups(data: StudyData) -> list[tuple[int, ...]]:
    """Return the seeds in groups that are trained as one program, by `Config.batched_seeds`.

    Seeds that draw their own data differ in the shapes of their arrays and are trained one by one.
    A group ends at a look, as the study may stop there.
    """
    seeds, size = data.config.run_seeds, data.config.batched_seeds
    if any(stage.settings.data.split_seed == "seed" for stage in data.stages.values()):
        size = 1
    if not size:
        work = max(_workload(stage) for stage in data.stages.values())
        size = GROUP if work <= SMALL_WORK else 1
    ends = data.config.looks or (len(seeds),)
    return [
        seeds[i : min(i + size, end)]
        for start, end in zip((0, *ends), ends, strict=False)
        for i in range(start, end, size)
    ]


def _workload(data: StageData) -> float:
    """Return the tokens of a micro-batch times the width of the model."""
    train = data.settings.train
    sequences = train.batch_size / train.gradient_accumulation_steps * data.train.choices
    return sequences * float(data.train.lengths.mean()) * data.encoder.hidden_size


def stage_data(data: StudyData, spec: StageSpec) -> StageData:
    """Return the data of a stage of a study."""
    return data.stage(spec.name, spec.seed, after_intermediate=spec.parent is not None)


def _stage(
    data: StudyData, condition: str, name: str, seed: int, start: StageSpec | str
) -> StageSpec:
    stage = data.stage(name, seed, after_intermediate=isinstance(start, StageSpec))
    settings = with_frozen_parts(stage.settings, stage.encoder.num_layers)
    if start == "random":  # No L2-SP: decay towards random weights is pointless.
        optimizer = dataclasses.replace(settings.optimizer, l2_sp=0.0)
        settings = dataclasses.replace(settings, optimizer=optimizer)
    total_steps = stage.total_steps()
    mean_tokens = len(stage.train.token) / train_examples(stage.train)
    examples = data.config.transferability
    scores_start = name == "target" and transferability.applies(settings.task, start)
    return StageSpec(
        condition=condition,
        name=name,
        seed=seed,
        settings=settings,
        model=stage.model,
        dtype=str(platform.compute_dtype(settings.train.compute_dtype)),
        start=start,
        hashes={
            "train_data": stage.train.fingerprint,
            "dev_data": stage.dev.fingerprint,
            "vocabulary": stage.vocabulary.fingerprint,
            "model": data.weights,
        },
        store=Path(data.config.stages),
        total_steps=total_steps,
        tokens=total_steps * settings.train.batch_size * mean_tokens,
        measurements=tuple(_measurements(stage, data.draws[seed].stages, start)),
        loaded=data.head_parts[stage.model.head] if start != "random" else frozenset(),
        start_scores=f"transferability-{examples}.json" if examples and scores_start else "",
    )


def _measurements(
    stage: StageData, stages: Mapping[str, StageData], start: StageSpec | str
) -> Iterator[Measurement]:
    """Yield the measurements of a stage after its training; `stages` are those of its seed."""
    for split, tokenized in stage.evaluated.items():
        file = f"evaluations/{split}-{tokenized.fingerprint[:12]}.json"
        yield Measurement("evaluations", file, split)
    if start != "random":
        for alpha in stage.settings.wise_ft_alphas:
            yield _note("wise_ft", f"wise_ft-{alpha:g}", stage, repr(alpha))
    if stage.settings.evaluate_retention and isinstance(start, StageSpec):
        yield _note("retained", "retained", stages["intermediate"], "")


def _note(key: str, stem: str, stage: StageData, name: str) -> Measurement:
    text = "".join(data.fingerprint for data in [stage.dev, *stage.evaluated.values()])
    digest = hashlib.sha256(text.encode()).hexdigest()
    return Measurement(key, f"notes/{stem}-{digest[:12]}.json", name)
