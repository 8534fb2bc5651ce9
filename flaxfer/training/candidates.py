"""Memory for the embeddings of an evaluated set that has candidates."""

from __future__ import annotations

import logging

from flaxfer.data.tokenize import Tokenized
from flaxfer.errors import ConfigError
from flaxfer.runtime import host

logger = logging.getLogger("flaxfer.training")


def check_memory(name: str, data: Tokenized, width: int) -> None:
    """Log how much memory the embeddings of a set's queries and candidates need.

    They are on the host twice: as the model gives them, and with length 1 for the search. Sets
    without candidates are small, and are not logged.

    Args:
      name: Name of the set.
      data: The set.
      width: Width of the encoder.

    Raises:
      ConfigError: The machine has less memory.
    """
    if not data.candidates:
        return
    size = 2 * 4 * width * len(data) / 2**30
    memory = host.cpu_and_memory()["memory_gib"]
    text = (
        f"{len(data.id):,} queries and {len(data.candidates):,} candidates need {size:,.1f} GiB "
        f"for their embeddings; this machine has {memory:,.1f} GiB"
    )
    if size > memory:
        hint = "use a machine with more memory, a narrower encoder, or a file of fewer candidates."
        raise ConfigError(text, where=f"evaluate.{name}.candidates", hint=hint)
    logger.info("evaluate.%s: %s", name, text)
