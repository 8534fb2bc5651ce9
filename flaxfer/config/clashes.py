"""Things that are given twice under different names: records, stages and models."""

from __future__ import annotations

import dataclasses
import itertools
import os
from collections.abc import Iterator, Mapping
from typing import Any

from flaxfer.config.data import Source
from flaxfer.config.findings import Finding, finding
from flaxfer.config.schema import Stage

SPLITS = ("train", "dev", "test")


def sources_of(stage: Stage) -> dict[str, Source]:
    """Return the sources of a stage by dotted key."""
    sources = {
        f"data.{split}.{i}": source
        for split in SPLITS
        for i, source in enumerate(getattr(stage.data, split))
    }
    return sources | {f"evaluate.{name}": source for name, source in stage.evaluate.items()}


def check_same_records(stage: Stage) -> Iterator[Finding]:
    """Yield sources of a stage that read the same records of the same file or data set.

    A source of dev among the training data, or of an evaluated set among those that select the
    checkpoint, makes its scores meaningless, and two sets with the same records count twice in
    every mean. Files may be the same if columns, `keep` or `drop` differ.
    """
    for (first, a), (second, b) in itertools.combinations(sources_of(stage).items(), 2):
        if (a.path or a.hub) and _records(a) == _records(b):
            message = f"reads the same records as {first}; name another file, split or selection"
            yield finding(message, second, first)


def check_same_stages(intermediate: str, a: Stage, target: str, b: Stage) -> Iterator[Finding]:
    """Yield an error if an intermediate stage has the task and training records of its target."""
    records = ([_records(source) for source in stage.data.train] for stage in (a, b))
    task, other = (dataclasses.replace(stage.task, name="") for stage in (a, b))
    if task == other and next(records) == next(records):
        message = f"has the task and the training data of {target}; use another one"
        yield finding(message, intermediate, target)


def check_same_items(section: str, items: Mapping[str, Any]) -> Iterator[Finding]:
    """Yield items of a section that are equal to an earlier one with another name."""
    for (first, a), (second, b) in itertools.combinations(items.items(), 2):
        if a == b:
            message = f"is the same as {section}.{first}; leave one of them out"
            yield finding(message, f"{section}.{second}", f"{section}.{first}")


def _records(source: Source) -> Source:
    """Return a source without what does not change which records and texts it has."""
    plain = Source()
    return dataclasses.replace(
        source,
        path=os.path.normpath(os.path.expanduser(source.path)) if source.path else "",
        format=source.file_format or "auto",  # type: ignore[arg-type]
        columns=source.roles,
        labels={},
        **{
            name: getattr(plain, name)
            for name in (
                "language",
                "domain",
                "fraction",
                "num_records",
                "drop_unlabeled",
                "benchmark",
                "answer_style",
            )
        },
    )
