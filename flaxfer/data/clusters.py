"""Clusters of examples, which are not independent of each other: named, or of a shared text."""

from __future__ import annotations

from collections import Counter

from flaxfer.data.examples import Examples
from flaxfer.data.normal_form import TELLING, hashed


def clusters(examples: Examples) -> tuple[str, ...]:
    """Return the cluster of each example: as its data name it, else by the text that it shares.

    That is the first text, or the context of a question. Too short a text is a coincidence and no
    cluster; nor is a text of one example.
    """
    parts = list(examples.texts())
    place = examples.task_type.cluster_text
    hashes, lengths = zip(*(hashed(texts[place]) for texts in parts), strict=True)
    count = Counter(hashes)
    return tuple(
        name or (f"{text:016x}" if count[text] > 1 and length >= TELLING else "")
        for name, text, length in zip(examples.cluster, hashes, lengths, strict=True)
    )
