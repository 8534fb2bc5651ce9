"""Instruction bundles of the kernel for short rows, as the TPU compiler schedules them.

python -m benchmarks.tpu_kernel --length 128 --heads 12 --width 64   (needs libtpu)

The compiler has no estimate of cycles for kernels. A bundle takes a cycle, if it waits for no
memory, and nearly all of them are in the loop over rows. `flaxfer.aot.estimate.SHORT_ROWS` is set
by these numbers.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import tempfile
from pathlib import Path

from benchmarks import common


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    for name, default in (("length", 128), ("heads", 12), ("width", 64)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--rate", type=float, default=0.1)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        # libtpu reads this when it is loaded.
        os.environ["LIBTPU_INIT_ARGS"] = f"--xla_jf_dump_to={folder} --xla_jf_dump_llo_text=true"
        os.environ["JAX_PLATFORMS"] = "cpu"
        compile_kernels(options.length, options.heads, options.width, options.rate)
        print(json.dumps(vars(options) | {"bundles": bundles(Path(folder))}))


def compile_kernels(length: int, heads: int, width: int, rate: float, rows: int = 64) -> None:
    """Compile both kernels for one v5e chip."""
    import jax
    import jax.numpy as jnp
    from jax.sharding import NamedSharding, PartitionSpec

    from flaxfer.aot import topology
    from flaxfer.models.short_rows import short_rows
    from flaxfer.runtime import sharding

    mesh = sharding.make_mesh(1, 1, 1, devices=topology.devices(topology.parse("v5e:1")))
    everywhere = NamedSharding(mesh, PartitionSpec())

    def shape(*size: int, dtype: jax.typing.DTypeLike = jnp.bfloat16) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(size, dtype, sharding=everywhere)

    def both(
        stacked: jax.Array, bias: jax.Array, segment: jax.Array, seed: jax.Array, out: jax.Array
    ) -> tuple[jax.Array, ...]:
        def attend(stacked: jax.Array, bias: jax.Array) -> jax.Array:
            key = jax.random.key(seed)
            return short_rows(
                stacked, bias, segment, mesh, heads=heads, dropout_rate=rate, dropout_key=key
            )

        value, back = jax.vjp(attend, stacked, bias)
        return (value, *back(out))

    lanes = heads * width
    jax.jit(both).lower(
        shape(rows, length, 3 * lanes),
        shape(3 * lanes, dtype=jnp.float32),
        shape(rows, length, dtype=jnp.int32),
        shape(dtype=jnp.int32),
        shape(rows, length, lanes),
    ).compile()


def bundles(folder: Path) -> dict[str, int]:
    """Return the bundles of each kernel in a folder of the compiler's dumps."""
    counts: dict[str, int] = {}
    for file in sorted(folder.glob("*-schedule-analysis_final_bundles.txt")):
        kernel = re.search(r"short_rows_\w+", file.name)
        total = re.search(r"total scheduled bundles: +(\d+)", file.read_text(encoding="utf-8"))
        if kernel and total:
            counts[kernel[0]] = int(total[1])
    return counts


if __name__ == "__main__":
    common.guarded(main)
