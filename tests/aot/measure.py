"""Figures of a small model's compiled steps, which do not depend on the machine.

python -m tests.aot.measure   rewrites tests/aot/gate.json (make gate-record)

Needs libtpu. Two layers of width 128, packed rows, dropout, bfloat16.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

os.environ.setdefault("JAX_PLATFORMS", "cpu")

import numpy as np

from flaxfer import config
from flaxfer.aot import programs, topology, verdict
from flaxfer.config import Data, Stage, Task, Train
from flaxfer.data.tokenize import Tokenized
from flaxfer.models.families import read_config
from flaxfer.models.spec import ModelSpec
from flaxfer.runtime import sharding
from flaxfer.tasks import TASK_TYPES

RECORD = Path(__file__).with_name("gate.json")

PROGRAMS: dict[str, tuple[str, str, config.Mesh]] = {
    "train, v5e:1x1": ("train", "v5e:1", config.Mesh(1, 1, 1)),
    "eval, v5e:1x1": ("eval", "v5e:1", config.Mesh(1, 1, 1)),
    "train, v5e:2x2, data 4": ("train", "v5e:4", config.Mesh(4, 1, 1)),
    "train, v5e:2x2, fsdp 4": ("train", "v5e:4", config.Mesh(1, 4, 1)),
    "train, v5e:2x2, tensor 4": ("train", "v5e:4", config.Mesh(1, 1, 4)),
}
"""Step, topology and mesh of each compiled program."""


def workload() -> programs.Workload:
    """Return a stage with pairs of 9 to 40 tokens, fixed in number and order."""
    lengths = 9 + np.arange(400) * 7 % 32
    tokens = int(lengths.sum())
    data = Tokenized(
        token=np.arange(tokens, dtype=np.int32) % 2048,
        type=np.zeros(tokens, np.uint8),
        offset=np.concatenate([[0], np.cumsum(lengths)]),
        cls=np.zeros(len(lengths), np.int32),
        label=np.zeros(len(lengths), np.float32),
        id=tuple(map(str, range(len(lengths)))),
        language=("en",) * len(lengths),
        domain=("",) * len(lengths),
        truncated=0,
        fingerprint="",
        task_type=TASK_TYPES["regression"],
    )
    sizes = {"hidden_size": 128, "num_hidden_layers": 2, "intermediate_size": 512}
    encoder = {"model_type": "bert", "vocab_size": 2048, "num_attention_heads": 4, **sizes}
    task = Task("similarity", "regression", "pearson")
    train = Train(
        batch_size=64,
        row_length=128,
        max_bucket_sizes=6,
        eval_rows=16,
        compute_dtype="bfloat16",
    )
    return programs.Workload(
        settings=Stage(task, Data(train=()), train=train),
        model=ModelSpec(read_config(encoder)),
        vocabulary=2048,
        data=programs.Splits(data, data),
    )


def plan() -> dict[str, Any]:
    """Return the bucket sizes, each of them a program, and the slots of a row."""
    train_plan = workload().plan(1)
    return {"bucket_sizes": list(train_plan.bucket_sizes), "slots": train_plan.slots}


def compiled(name: str) -> dict[str, Any]:
    """Return cycles, bytes and collectives of one of `PROGRAMS`."""
    step, place, sizes = PROGRAMS[name]
    target = topology.parse(place)
    mesh = sharding.make_mesh(*sizes.sizes, devices=topology.devices(target))
    report = verdict.examine(step, workload(), target, mesh)
    return {
        "compiler_cycles": report["cycles_by_source"]["compiler"],
        "estimated_cycles": report["estimated_cycles"],
        "temporary_bytes": report["bytes"]["temporaries"],
        "collectives": {kind: entry["count"] for kind, entry in report["collectives"].items()},
    }


def versions() -> dict[str, str]:
    """Return the versions of the packages that the figures depend on."""
    installed = verdict.versions()
    return {name: installed[name] for name in ("jax", "jaxlib", "libtpu", "flax", "optax")}


def main() -> None:
    """Measure everything and write the record."""
    record = {"versions": versions(), "plan": plan(), "programs": {}}
    for name in PROGRAMS:
        record["programs"][name] = compiled(name)
        print(name, record["programs"][name], file=sys.stderr)
    RECORD.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
