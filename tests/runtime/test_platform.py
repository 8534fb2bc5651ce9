"""What follows from the hardware: precision, compiler options, kept memory, compiled programs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

from flaxfer.errors import ConfigError
from flaxfer.runtime import platform


@pytest.fixture(autouse=True)
def as_before() -> Iterator[None]:
    yield
    platform.choose_compiler_options({})
    platform._refusal.cache_clear()


def set_cpu(monkeypatch: pytest.MonkeyPatch, flags: str, release: tuple[int, int]) -> None:
    monkeypatch.setattr(platform, "_cpu_flags", lambda: frozenset(flags.split()))
    monkeypatch.setattr(jax, "__version_info__", (*release, 0))


@pytest.mark.parametrize(
    ("flags", "release", "dtype"),
    [
        ("avx2 avx512f", (0, 12), "float32"),
        ("avx512f amx_bf16", (0, 12), "bfloat16"),
        ("avx512f avx512_bf16", (0, 13), "bfloat16"),
        ("avx512f amx_bf16", (0, 10), "float32"),
        ("", (0, 12), "float32"),
    ],
)
def test_precision_goes_by_the_cpu_and_jax(
    flags: str, release: tuple[int, int], dtype: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_cpu(monkeypatch, flags, release)
    assert platform.compute_dtype("auto") == jnp.dtype(dtype)
    assert platform.compute_dtype("auto", "tpu") == jnp.bfloat16
    assert platform.compute_dtype("float32", "gpu") == jnp.float32
    assert platform.compute_dtype("bfloat16") == jnp.bfloat16


def test_an_unknown_option_of_ours_is_left_out_and_named(monkeypatch: pytest.MonkeyPatch) -> None:
    set_cpu(monkeypatch, "avx512_bf16", (0, 12))
    known = "xla_cpu_multi_thread_eigen"
    monkeypatch.setattr(
        platform, "COMPILER_OPTIONS", {"cpu": {known: True, "xla_no_such_option": True}}
    )
    device = jax.devices()[0]
    assert platform.compiler_options(device) == {known: True}
    described = platform.describe_compiler(device, jnp.bfloat16)
    assert described == (
        f"bfloat16 products, {known}=True, xla_no_such_option is not known to this jaxlib"
    )


@pytest.mark.parametrize(
    ("flags", "options"),
    [("avx512f avx512_bf16", {"xla_cpu_prefer_vector_width": 512}), ("avx512f", {}), ("", {})],
)
def test_wide_vectors_go_by_the_cpu(
    flags: str, options: dict[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    set_cpu(monkeypatch, flags, (0, 12))
    device = jax.devices()[0]
    assert platform.compiler_options(device) == options
    words = [f"{name}={value}" for name, value in options.items()]
    assert platform.describe_compiler(device, jnp.float32) == ", ".join(
        ["float32 products", *words]
    )


def test_chosen_options_go_beside_and_before_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    set_cpu(monkeypatch, "avx512_bf16", (0, 12))
    own = {"xla_cpu_multi_thread_eigen": True}
    monkeypatch.setattr(platform, "COMPILER_OPTIONS", {"cpu": own})
    chosen = {"xla_cpu_multi_thread_eigen": False, "xla_cpu_enable_fast_min_max": True}
    platform.choose_compiler_options(chosen)
    assert platform.compiler_options(jax.devices()[0]) == chosen


@pytest.mark.parametrize(
    "options", [{"xla_no_such_option": True}, {"xla_cpu_multi_thread_eigen": "perhaps"}], ids=str
)
def test_a_chosen_option_that_the_compiler_refuses_is_an_error(options: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match=next(iter(options))) as caught:
        platform.choose_compiler_options(options)
    assert caught.value.where == "compiler_options"


PROGRAM = """
import json, os, pathlib, resource, sys, time
from flaxfer import platform
kept = platform.keep_memory()
import jax, jax.numpy as jnp
platform.use_compilation_cache(pathlib.Path(sys.argv[1]))
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
found = []
jax.monitoring.register_event_listener(lambda name, **_: found.append(name))

@jax.jit
def work(x):
    # 64 MiB: more than glibc keeps if nobody asks it to.
    y = jax.lax.optimization_barrier(jnp.sin(x)[:, None] * x[None, :])
    return (y * y.T).sum()

x = jnp.linspace(0.0, 1.0, 4096)
for call in range(30):
    if call == 10:  # By now the heap has grown to what a call needs.
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    value = work(x).block_until_ready()
faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
hits = found.count("/jax/compilation_cache/cache_hits")
print(json.dumps({"kept": kept, "faults": faults, "hits": hits, "value": float(value)}))
"""


def run(folder: Path, **environment: str) -> dict[str, float]:
    # One device, as users have it: the tests' simulated ones each keep memory of their own.
    environment = {**os.environ, "XLA_FLAGS": "", **environment}
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(PROGRAM), str(folder)],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def test_kept_memory_and_compiled_programs(tmp_path: Path) -> None:
    first = run(tmp_path)
    assert first["hits"] == 0
    again = run(tmp_path, FLAXFER_MALLOC="system")
    assert again["hits"] > 0
    assert not again["kept"]
    if first["kept"]:  # glibc; elsewhere there is nothing to compare.
        assert first["faults"] < again["faults"] / 2
    programs = [path for path in (tmp_path / "xla").rglob("*") if path.is_file()]
    for path in programs:  # Cut short, as by a full disk.
        path.write_bytes(path.read_bytes()[:20])
    damaged = run(tmp_path)
    assert damaged["value"] == first["value"] == again["value"]
