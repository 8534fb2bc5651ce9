"""Programs compiled ahead of their use, in a thread."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from concurrent.futures import Future, ThreadPoolExecutor

import jax


class Programs:
    """Programs that a thread lowers and compiles one by one, while earlier ones run.

    A jitted function finds what was compiled ahead for arrays of the same shapes and shardings, so
    it is called as usual. XLA does not hold Python's lock while it compiles.
    """

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, "compile")
        self._planned: dict[Hashable, Future[jax.stages.Compiled]] = {}

    def plan(self, key: Hashable, lower: Callable[[], jax.stages.Lowered]) -> None:
        """Compile what `lower` returns after all that was planned before."""
        self._planned[key] = self._thread.submit(lambda: lower().compile())

    def is_planned(self, key: Hashable) -> bool:
        """Return whether a program was planned and nothing has waited for it yet."""
        return key in self._planned

    def wait(self, key: Hashable) -> None:
        """Wait for a program, if it was planned; raise what its compilation has raised."""
        if planned := self._planned.pop(key, None):
            planned.result()

    def close(self) -> None:
        """Drop the programs that are not begun, and wait for the one that is."""
        self._thread.shutdown(cancel_futures=True)
