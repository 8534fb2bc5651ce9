"""Progress of a command through its stages, and the time that the rest may take."""

from __future__ import annotations

import contextlib
import functools
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence

from flaxfer.runtime.bars import StudyState
from flaxfer.runtime.progress import is_interactive, say
from flaxfer.study import forecast
from flaxfer.study.plan import StudyPlan
from flaxfer.training.stage import StageSpec

Key = tuple[str, str]
"""Content hash of a model, and the name of a stage: what the time per token depends on."""


class Pace:
    """Progress of a command through the stages of its studies.

    Work is counted in tokens of training. Its rate is measured on the stages that this command has
    finished, with compilation and evaluation: on those of the same model and name, else on the
    current stage if it is such a one, else on all of the model. Before the first one, it is that of
    finished stages in the store, or of the current one.

    Args:
      plans: Returns the studies, which may grow at a look.
      settled: Returns whether nothing is left to do for a stage.
    """

    def __init__(
        self, plans: Callable[[], Sequence[StudyPlan]], settled: Callable[[StageSpec], bool]
    ):
        self._plans, self._settled = plans, settled
        self._tokens: dict[Key, float] = defaultdict(float)
        self._seconds: dict[Key, float] = defaultdict(float)
        self._stored = functools.cache(forecast.tokens_per_s)
        self._current: tuple[StageSpec, ...] = ()
        self._began = time.monotonic()
        self._start = 0.0  # Share of the current stage that an earlier process has trained.
        self._share = 0.0
        self.count()

    def count(self) -> None:
        """Count what is done and left; it is kept until the next call, as it reads files."""
        stages = {spec.folder: spec for plan in self._plans() for spec in plan.stages}
        left = [spec for spec in stages.values() if not self._settled(spec)]
        self._store = next(spec.store for spec in stages.values())
        self._total, self._done = len(stages), len(stages) - len(left)
        self._work = sum(spec.tokens for spec in stages.values())
        self._left: dict[Key, float] = defaultdict(float)
        current = {spec.folder for spec in self._current}
        for spec in left:
            if spec.folder not in current:
                self._left[_key(spec)] += spec.tokens

    @property
    def done(self) -> int:
        """Number of stages that are settled."""
        return self._done

    @property
    def total(self) -> int:
        """Number of all stages."""
        return self._total

    @contextlib.contextmanager
    def working(self, group: Sequence[StageSpec]) -> Iterator[None]:
        """Measure the time of stages that are trained and evaluated together."""
        self._current, self._began = tuple(group), time.monotonic()
        self._start = self._share = sum(map(_trained, group)) / len(group)
        self.count()
        if not is_interactive():
            state = self.state(None)
            say(f"{state.place}: {_name(group)}, {state.left}")
        try:
            yield
        finally:
            key, tokens = _key(group[0]), sum(spec.tokens for spec in group)
            if all(spec.record.is_trained() for spec in group) and self._start < 1:
                self._tokens[key] += tokens * (1 - self._start)
                self._seconds[key] += time.monotonic() - self._began
            self._current = ()
            self.count()

    def state(self, share: float | None) -> StudyState:
        """Return how far the studies are.

        Args:
          share: Fraction of the current stage's steps that are taken; None as long as it is not
            trained, or no longer.
        """
        self._share = self._share if share is None else share
        current = sum(spec.tokens for spec in self._current)
        left = current * (1 - self._share)
        seconds: float | None = 0.0
        work = [*self._left.items(), *([(_key(self._current[0]), left)] if self._current else [])]
        for key, tokens in work:
            rate = self._rate(key, current)
            seconds = None if seconds is None or not rate else seconds + tokens / rate
        first = min(self._done + 1, self._total)
        last = max(first, self._done + len(self._current))
        done = 1 - (left + sum(self._left.values())) / self._work if self._work else 1.0
        return StudyState(first, last, self._total, done, seconds)

    def _rate(self, key: Key, current: float) -> float | None:
        """Return the tokens per second of stages, None if nothing was measured."""
        if key in self._tokens:
            return self._tokens[key] / self._seconds[key]
        trained = current * (self._share - self._start)
        own = trained / (time.monotonic() - self._began) if trained > 0 else None
        if own and self._current and key == _key(self._current[0]):
            return own
        if same := [other for other in self._tokens if other[0] == key[0]]:
            return sum(self._tokens[k] for k in same) / sum(self._seconds[k] for k in same)
        return self._stored(self._store, key[0]) or own


def _key(spec: StageSpec) -> Key:
    return spec.hashes["model"], spec.name


def _trained(spec: StageSpec) -> float:
    """Return the share of a stage's steps that an earlier process has trained and saved."""
    if spec.record.is_trained():
        return 1.0
    newest = spec.checkpoints.newest()
    return newest.step / spec.total_steps if newest else 0.0


def _name(group: Sequence[StageSpec]) -> str:
    seeds = ", ".join(str(spec.seed) for spec in group)
    return f"{group[0].condition}/{group[0].name} {'seed' if len(group) == 1 else 'seeds'} {seeds}"
