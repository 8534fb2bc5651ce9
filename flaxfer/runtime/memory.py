"""Out of memory, on a device or on the host, as an error that says what to change."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterator

from flaxfer.errors import ConfigError

SIZE = re.compile(r"[\d.,]+ ?(?:[KMGTPE]i?B?|B|bytes)\b", re.IGNORECASE)


def is_exhausted(error: BaseException) -> bool:
    """Return whether memory has run out.

    XLA raises a RuntimeError of its own that begins with RESOURCE_EXHAUSTED; NumPy and Python raise
    MemoryError, as does C++ code that raises std::bad_alloc.
    """
    text = str(error)
    return isinstance(error, MemoryError) or "RESOURCE_EXHAUSTED" in text or "bad_alloc" in text


def out_of_memory(
    error: BaseException, where: str | None = None, work: str = "", hint: str = ""
) -> ConfigError:
    """Return an error with what was to be computed, and how many bytes were asked for.

    Args:
      error: One that `is_exhausted`.
      where: Stage, seed and step.
      work: What was computed, with its sizes.
      hint: Remedies.
    """
    size = SIZE.search(str(error))
    asked = f": {size.group()} could not be allocated" if size else ""
    first_line = str(error).strip().partition("\n")[0] or type(error).__name__
    return ConfigError(
        f"out of memory{' in ' if work else ''}{work}{asked}",
        where=where,
        hint=hint
        or "lower train.batch_size or train.eval_rows, read less of the data (Source.fraction), or "
        "use a machine with more memory; finished stages and checkpoints are kept.",
        details=[first_line],
    )


@contextlib.contextmanager
def explained(where: str, describe: Callable[[], tuple[str, str]]) -> Iterator[None]:
    """Raise what runs out of memory within a `with` block as `out_of_memory`.

    Args:
      where: Stage, seed and step.
      describe: Returns what is computed, with its sizes, and remedies.

    Raises:
      ConfigError: Memory has run out.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not is_exhausted(error):
            raise
        raise out_of_memory(error, where, *describe()) from error
