"""Interface of task types (`flaxfer.tasks`) for checks of a config."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import TYPE_CHECKING, Protocol, TypeAlias

if TYPE_CHECKING:
    from flaxfer.config import Task, Train
    from flaxfer.config.findings import Finding


class TaskType(Protocol):
    """Members of `flaxfer.tasks.base.TaskType` used by this package; documented there."""

    name: str
    metrics: tuple[str, ...]
    settings: frozenset[str]
    per_token: bool
    single_label: bool
    roles: tuple[str, ...]
    list_roles: tuple[str, ...]
    formats: tuple[str, ...]
    special_formats: tuple[str, ...]

    def check_task(self, at: str, task: Task) -> Iterator[Finding]: ...

    def check_train(self, at: str, train: Train, task_at: str) -> Iterator[Finding]: ...

    def has_role(self, role: str) -> bool: ...

    def required_roles(self, named: Collection[str]) -> list[str]: ...

    def has_metric(self, name: str) -> bool: ...

    def metric_range(self, metric: str) -> tuple[float, float]: ...

    def label_names(self, task: Task, named: Collection[str]) -> tuple[str, ...] | None: ...


TaskTypes: TypeAlias = Mapping[str, TaskType]
"""Task types by name."""
