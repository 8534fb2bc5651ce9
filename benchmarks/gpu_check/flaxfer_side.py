"""Time flaxfer's cells of a part: training, evaluation, batched seeds, and where the time goes."""

from __future__ import annotations

import collections
import contextlib
import gc
import statistics
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import common, eval_throughput, programs, seeds, stage, summary, train_throughput
from benchmarks.gpu_check import peaks, plan, shapes
from benchmarks.gpu_check.records import Child
from flaxfer.aot import flops
from flaxfer.config import Task, Train
from flaxfer.data.loader import TrainPlan
from flaxfer.data.tokenize import Tokenized
from flaxfer.evaluation.evaluator import Evaluator
from flaxfer.models.families import read_config
from flaxfer.runtime import platform, sharding
from flaxfer.runtime.prng import HASH
from flaxfer.study.open_study import forget_programs
from flaxfer.tasks import TASK_TYPES
from flaxfer.tasks.models import model_spec
from flaxfer.training.state import TrainState
from flaxfer.training.step import TrainStep

BUCKET_SIZES = 1
"""Programs of a train step. A study compiles up to six, which pad less, but each takes as long to
compile as a cell may take."""

LARGE_ROWS = 256
"""Rows of an evaluation step with `large_rows`."""

MATMUL = 8192


def main(arguments: Sequence[str] | None = None) -> None:
    child = Child.parse(__doc__, arguments)
    platform.use_compilation_cache(child.cache)

    def figures(cell: plan.Cell) -> dict[str, Any]:
        before = peak_bytes()
        record = MEASURES[cell.what](cell, child.tiny)
        after = peak_bytes()
        # The peak is that of the process: without a rise, this cell's is unknown.
        record["peak_device_bytes"] = after if after > before else None
        forget_programs()
        gc.collect()
        return record | {"device": device_name(), "versions": common.versions(*stage.PACKAGES)}

    child.run_cells(figures, "flaxfer", (OutOfMemory,))


class OutOfMemory(Exception):
    """The device has too little memory for a cell."""


def inputs(cell: plan.Cell, tiny: bool) -> stage.StageInputs:
    """Return the inputs of a stage with random weights and ids, its vocabulary cut to these ids."""
    corpus = shapes.corpus(cell.model, cell.data, tiny)
    encoder = read_config(shapes.settings(cell.model, tiny))
    if plan.NO_DROPOUT in cell.how:
        encoder = encoder.with_dropout(None, attention=0.0)
    task = Task("benchmark", "regression", "pearson", score_range=(0.0, 5.0))
    train = Train(
        batch_size=batch_size(cell, tiny),
        epochs=stage.EPOCHS,
        max_length=corpus.length,
        row_length=corpus.length,
        compute_dtype="bfloat16",
        max_bucket_sizes=BUCKET_SIZES,
        attention="xla" if plan.XLA in cell.how else "auto",
        eval_rows=LARGE_ROWS if cell.how == "large_rows" else Train().eval_rows,
    )
    spec = model_spec(encoder, task).with_vocabulary(corpus.used)
    evaluator = Evaluator(spec, task, train, jnp.dtype("bfloat16"), sharding.make_mesh())
    kind = HashInputs if plan.HASH in cell.how else stage.StageInputs
    return kind(tokenized(corpus), spec.random_params(0), evaluator)


class HashInputs(stage.StageInputs):
    """Inputs of a stage whose dropout has the bits of `runtime.prng.HASH`."""

    def start(self, plan: TrainPlan) -> tuple[TrainStep, TrainState, jax.Array]:
        train_step, state, _ = super().start(plan)
        return train_step, state, jax.random.key(plan.seeds[0], impl=HASH)


def batch_size(cell: plan.Cell, tiny: bool) -> int:
    """Return the examples per step."""
    return max(cell.batch // 8, 4) if tiny else cell.batch


def tokenized(corpus: shapes.Corpus) -> Tokenized:
    """Return the examples as a stage reads them."""
    n = len(corpus.ids)
    token = np.concatenate(corpus.ids).astype(np.int32)
    return Tokenized(
        token=token,
        type=np.zeros(len(token), np.uint8),
        offset=np.concatenate([[0], np.cumsum(corpus.lengths)]),
        cls=np.zeros(n, np.int32),
        label=corpus.label,
        id=tuple(map(str, range(n))),
        language=("",) * n,
        domain=("",) * n,
        truncated=0,
        fingerprint="random",
        task_type=TASK_TYPES["regression"],
    )


def train(cell: plan.Cell, tiny: bool) -> dict[str, Any]:
    """Return the figures of `benchmarks.train_throughput`, MFU and attention's implementation."""
    given, steps = inputs(cell, tiny), shapes.steps(cell.batch, tiny)
    with out_of_memory():
        measured = train_throughput.run(given, steps, 0)
    trained = given.plan((0,), common.WARMUP + steps)
    chosen = [trained.indices(step) for step in range(common.WARMUP, common.WARMUP + steps)]
    lengths = given.data.lengths[np.concatenate(chosen)]
    assert lengths.sum() == measured.tokens, "other examples were timed"
    count = flops.train_flops(given.evaluator.model, work(lengths))
    return measured.result() | utilisation(count, measured.seconds)


def evaluate(cell: plan.Cell, tiny: bool) -> dict[str, Any]:
    """Return the figures of `benchmarks.eval_throughput`, and MFU."""
    given = inputs(cell, tiny)
    with out_of_memory():
        measured = eval_throughput.run(given)
    count = flops.forward_flops(given.evaluator.model, work(given.data.lengths))
    return measured.result() | utilisation(count, measured.seconds)


def batched_seeds(cell: plan.Cell, tiny: bool) -> dict[str, Any]:
    """Return the rate of several seeds in one program, and the fine-tunings an hour it allows."""
    given, steps = inputs(cell, tiny), 3 if tiny else 12
    with out_of_memory():
        with programs.recorded() as built:
            run = seeds.runner(given, tuple(range(cell.seeds)), steps)
        times = [timed(run) for _ in range(3)]
    seconds = statistics.median(times)
    rate = cell.seeds * steps * given.evaluator.train.batch_size / seconds
    return {
        "examples_per_s": rate,
        "compile_s": programs.seconds(built),
        "seeds_per_hour_training": 3600 * rate / (summary.EPOCHS * summary.TRAIN),
        "seconds": seconds,
        "steps": steps,
    }


def matmul(cell: plan.Cell, tiny: bool) -> dict[str, Any]:
    """Return the rate of a large square bfloat16 matmul, which no step exceeds."""
    del cell
    side = 128 if tiny else MATMUL
    x = jax.random.normal(jax.random.key(0), (side, side), jnp.bfloat16)
    # Ten in a row: the time of a launch is hidden. Scaled, so that numbers stay as they were.
    chain = jax.jit(lambda x, y: jax.lax.fori_loop(0, 10, lambda _, z: (z @ y) * side**-0.5, x))
    run = lambda: chain(x, x).block_until_ready()  # noqa: E731
    run()
    rate = 10 * 2 * side**3 / min(timed(run) for _ in range(3))
    return {"flops_per_s": rate, "peak_flops_per_s": peaks.peak(device_name())}


def profile(cell: plan.Cell, tiny: bool) -> dict[str, Any]:
    """Return the milliseconds of a train step by kind of kernel, from JAX's trace."""
    given, steps = inputs(cell, tiny), 3
    run = seeds.runner(given, (0,), steps)
    with tempfile.TemporaryDirectory() as folder:
        with jax.profiler.trace(folder):
            seconds = timed(run)
        spent = kernels(Path(folder))
    per_step = {kind: 1e3 * value / steps for kind, value in spent.most_common()}
    return {"kernels_ms": per_step, "step_ms": 1e3 * seconds / steps}


KINDS = {
    "attention": ("cudnn", "fmha", "flash", "sdpa"),
    "matmul": ("gemm", "cublas", "cutlass", "nvjet", "dot", "xmma"),
    "copy": ("memcpy", "memset", "copy", "transpose"),
    "reduction": ("reduce",),
    "random bits": ("rng", "random"),
    "scatter or gather": ("scatter", "gather", "sort"),
    "elementwise": ("fusion", "wrapped", "loop"),
}
"""Parts of the names of kernels; the first kind with one of them counts."""


def kernels(folder: Path) -> collections.Counter[str]:
    """Return the seconds of a trace's kernels by kind."""
    from jax.profiler import ProfileData

    spent: collections.Counter[str] = collections.Counter()
    for file in folder.rglob("*.xplane.pb"):
        for plane in ProfileData.from_file(str(file)).planes:
            if not plane.name.startswith("/device:GPU"):
                continue
            for line in plane.lines:
                if "Stream" in line.name:
                    for event in line.events:
                        spent[kind_of(event.name)] += event.duration_ns / 1e9
    return spent


def kind_of(kernel: str) -> str:
    """Return the kind of a kernel by its name."""
    name = kernel.lower()
    return next((k for k, words in KINDS.items() if any(w in name for w in words)), "other")


MEASURES = {
    "train": train,
    "eval": evaluate,
    "seeds": batched_seeds,
    "matmul": matmul,
    "profile": profile,
}


def work(lengths: np.ndarray) -> flops.Work:
    """Return the size of examples without padding."""
    wide = lengths.astype(np.float64)
    return flops.Work(len(lengths), float(wide.sum()), float((wide * wide).sum()))


def utilisation(count: float, seconds: float) -> dict[str, Any]:
    """Return FLOP/s without padding and, for a device with a known peak, the fraction of it."""
    rate, peak = count / seconds, peaks.peak(device_name())
    return {"flops_per_s": rate, "mfu": rate / peak if peak else None}


def timed(run: Any) -> float:
    """Return the seconds of a call."""
    began = time.monotonic()
    run()
    return time.monotonic() - began


def device_name() -> str:
    """Return the device's name, such as NVIDIA H200; the kind of processor without a GPU."""
    return jax.devices()[0].device_kind


def peak_bytes() -> int:
    """Return the device memory that this process has used at most; 0 where it is not counted."""
    return (jax.devices()[0].memory_stats() or {}).get("peak_bytes_in_use", 0)


@contextlib.contextmanager
def out_of_memory() -> Iterator[None]:
    """Raise `OutOfMemory` where XLA runs out of memory."""
    try:
        yield
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        raise OutOfMemory(str(error)) from error


if __name__ == "__main__":
    common.guarded(main)
