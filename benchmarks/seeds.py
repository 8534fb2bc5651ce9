"""Batched seeds beside sequential ones: prints a JSON line with the examples/s of both.

Random pairs about as long as those of STS-B, a vocabulary cut to 9,000 ids, regression, as a study
trains them. The two modes take turns, and the ratio is the median over the rounds, so other load
on the machine slows both. Compiling is not counted.

  python -m benchmarks.seeds --model MODEL [--seeds 4] [--batch 32] [--dtype float32]
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import json
import time
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from flaxfer.config import Optimizer, Task, Train
from flaxfer.data.loader import TrainPlan
from flaxfer.data.tokenize import Tokenized
from flaxfer.models import pretrained
from flaxfer.models.spec import ModelSpec
from flaxfer.runtime import platform, sharding
from flaxfer.runtime.prng import dropout_key
from flaxfer.tasks import TASK_TYPES
from flaxfer.training.optimizer import make_optimizer
from flaxfer.training.state import init_state, stack
from flaxfer.training.step import StepSpec, make_train_step

TASK = Task("score", "regression", "pearson")
OPTIMIZER = Optimizer()
TOTAL = 1000
EXAMPLES = 512
MEAN_LENGTH = 27.8
VOCABULARY = 9000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--model", required=True, type=Path)
    parser.add_argument("--seeds", type=int, default=4)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--steps", type=int, default=4, help="steps per round")
    options = parser.parse_args()
    encoder = pretrained.load_encoder_config(options.model)
    encoder = dataclasses.replace(encoder, vocab_size=min(encoder.vocab_size, VOCABULARY))
    train = Train(batch_size=options.batch, max_bucket_sizes=1)
    seeds = tuple(range(options.seeds))
    mesh = sharding.make_mesh()
    modes = [
        [runner(encoder, train, group, jnp.dtype(options.dtype), mesh, options) for group in groups]
        for groups in ([(seed,) for seed in seeds], [seeds])
    ]
    seconds: list[list[float]] = [[], []]
    for _ in range(options.rounds):
        for runs, times in zip(modes, seconds, strict=True):
            began = time.monotonic()
            for run in runs:
                run()
            times.append(time.monotonic() - began)
    examples = options.seeds * options.steps * options.batch
    sequential, batched = (examples / np.array(times) for times in seconds)
    result = {
        "model": options.model.name,
        "width": encoder.hidden_size,
        "layers": encoder.num_layers,
        "tokens_per_step": round(options.batch * MEAN_LENGTH),
        "seeds": options.seeds,
        "batch": options.batch,
        "dtype": options.dtype,
        "sequential_examples_per_s": round(float(np.median(sequential)), 1),
        "batched_examples_per_s": round(float(np.median(batched)), 1),
        "ratio": round(float(np.median(batched / sequential)), 3),
        "machine": platform.machine(),
        "versions": platform.versions(),
    }
    print(json.dumps(result), flush=True)


def runner(
    encoder: pretrained.EncoderConfig,
    train: Train,
    seeds: tuple[int, ...],
    dtype: jnp.dtype,
    mesh: jax.sharding.Mesh,
    options: argparse.Namespace,
) -> Callable[[], None]:
    """Return a function that takes `options.steps` steps; it is compiled and warm."""
    batched_seeds = len(seeds) > 1
    if batched_seeds:
        mesh = sharding.seed_mesh(mesh, len(seeds))
    plan = TrainPlan.make(data_of(encoder), train, seeds, 0, sharding.row_shards(mesh))
    model = ModelSpec(encoder)
    spec = StepSpec(
        model,
        TASK,
        optimizer=OPTIMIZER,
        total_steps=TOTAL,
        dtype=dtype,
        batched_seeds=batched_seeds,
    )
    train_step = make_train_step(spec, mesh)
    states = []
    for seed in seeds:
        params = model.random_params(seed)
        states.append(init_state(params, make_optimizer(OPTIMIZER, TOTAL, params), mesh))
    state = stack(states, mesh) if batched_seeds else states[0]
    keys = [dropout_key(seed, jax.default_backend(), jax.device_count()) for seed in seeds]
    key = jnp.stack(keys) if batched_seeds else keys[0]
    batches = [batch for _, batch in itertools.islice(plan.batches(0, mesh), options.steps)]

    def run() -> None:
        nonlocal state
        for batch in batches:
            state, metrics = train_step(state, batch, key)
        jax.block_until_ready((state, metrics))

    run()
    return run


def data_of(encoder: pretrained.EncoderConfig) -> Tokenized:
    """Return random pairs."""
    rng = np.random.default_rng(0)
    max_length = min(encoder.max_length or 128, 128)
    lengths = np.clip(rng.gamma(4.0, MEAN_LENGTH / 4, EXAMPLES).astype(np.int64), 6, max_length)
    tokens = int(lengths.sum())
    return Tokenized(
        token=rng.integers(5, encoder.vocab_size, tokens).astype(np.int32),
        type=np.zeros(tokens, np.uint8),
        offset=np.concatenate([[0], np.cumsum(lengths)]),
        cls=np.zeros(EXAMPLES, np.int32),
        label=rng.uniform(0, 5, EXAMPLES).astype(np.float32),
        id=tuple(map(str, range(EXAMPLES))),
        language=("en",) * EXAMPLES,
        domain=("",) * EXAMPLES,
        truncated=0,
        fingerprint="random",
        task_type=TASK_TYPES["regression"],
    )


if __name__ == "__main__":
    main()
