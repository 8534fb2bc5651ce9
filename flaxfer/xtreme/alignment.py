"""Checks that predictions and labels belong to the same examples."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from flaxfer.errors import DataError
from flaxfer.xtreme.benchmarks import KINDS


def check(gold: Any, predicted: Any, task: str, gold_path: Path, predicted_path: Path) -> list[str]:
    """Return notes on ids without predictions, which count 0, and on unknown ones.

    Args:
      gold: Value of `files.read`.
      predicted: Value of `files.read`.
      task: Key of `benchmarks.KINDS`.
      gold_path: File of the labels.
      predicted_path: File of the predictions.

    Raises:
      DataError: If there are no labels, or lines, sentences or tags do not correspond.
    """
    kind = KINDS[task]
    if not gold:
        raise DataError("there are no labels", where=str(gold_path), hint="fetch the file again.")
    if kind == "tags":
        _require_equal_lengths(gold, predicted, predicted_path)
    if kind in ("answers", "rankings"):
        missing = [key for key in gold if key not in predicted]
        unknown = [key for key in predicted if key not in gold]
        return [
            f"{predicted_path}: {len(ids):,} ids {what}: {', '.join(ids[:3])}"
            + ", ..." * (len(ids) > 3)
            for ids, what in (
                (missing, "are missing, and count 0"),
                (unknown, "have no label, and are ignored"),
            )
            if ids
        ]
    if kind != "pairs" and len(predicted) != len(gold):
        unit = "sentences" if kind == "tags" else "lines"
        last = len(predicted) if kind != "tags" or not predicted else predicted[-1][0]
        difference = len(gold) - len(predicted)
        what = f"{difference:,} missing" if difference > 0 else f"{-difference:,} too many"
        count = f"{len(predicted):,} {unit}" if predicted else f"the file is empty: 0 {unit}"
        raise DataError(
            f"{count} for {len(gold):,} of the labels: {what}",
            where=f"{predicted_path}:{last}" if predicted else str(predicted_path),
            hint=f"predict every example of {gold_path}, in its order.",
        )
    return []


def _require_equal_lengths(gold: Any, predicted: Any, path: Path) -> None:
    """Raise an error at the first sentence that has more or fewer tags than in the labels."""
    pairs = zip(predicted, gold, strict=False)
    for i, ((line, tags), (gold_line, gold_tags)) in enumerate(pairs, 1):
        if len(tags) != len(gold_tags):
            raise DataError(
                f"sentence {i:,} has {len(tags)} tags, and {len(gold_tags)} in the labels, from "
                f"line {gold_line} on",
                where=f"{path}:{line}",
                hint="give each word one tag, also words that were cut off, and end each sentence "
                "with a blank line.",
            )
