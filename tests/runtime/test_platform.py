"""Precision, compiler options, memory and compilation cache."""

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
from flaxfer.runtime import cpu, platform
from flaxfer.runtime.cpu import CpuKind


@pytest.fixture(autouse=True)
def no_chosen_options() -> Iterator[None]:
    yield
    platform.choose_compiler_options({})


def test_auto_precision_is_that_of_the_kind_of_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    kind = CpuKind("new", bfloat16_since=jax.__version_info__[:2])
    monkeypatch.setattr(platform, "this_cpu", lambda: kind)
    assert platform.compute_dtype("auto") == jnp.bfloat16
    assert platform.compute_dtype("float32") == jnp.float32
    monkeypatch.setattr(platform, "this_cpu", lambda: CpuKind("old"))
    assert platform.compute_dtype("auto") == platform.compute_dtype("auto", "cpu") == jnp.float32
    assert platform.compute_dtype("bfloat16") == jnp.bfloat16
    assert platform.compute_dtype("auto", "tpu") == jnp.bfloat16
    assert platform.compute_dtype("float32", "gpu") == jnp.float32


KNOWN, UNKNOWN = "xla_cpu_multi_thread_eigen", "xla_no_such_option"


def test_an_unknown_default_option_is_omitted_and_named(monkeypatch: pytest.MonkeyPatch) -> None:
    kind = CpuKind("new", compiler_options={KNOWN: True, UNKNOWN: True}, measured="something")
    monkeypatch.setattr(platform, "this_cpu", lambda: kind)
    device = jax.devices()[0]
    assert platform.compiler_options(device) == {KNOWN: True}
    assert platform.describe_compiler(device, jnp.bfloat16) == (
        f"bfloat16 matmuls, CPU kind new, {KNOWN}=True, {UNKNOWN} is not known to this jaxlib"
    )


@pytest.mark.parametrize("kind", [*cpu.X86, *cpu.ARM, cpu.OTHER], ids=str)
def test_this_jaxlib_knows_the_options_of_every_kind(
    kind: CpuKind, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(platform, "this_cpu", lambda: kind)
    assert platform.compiler_options(jax.devices()[0]) == kind.compiler_options
    assert platform.describe_compiler(jax.devices()[0], jnp.float32) == ", ".join(
        [
            "float32 matmuls",
            f"CPU kind {kind}",
            *(f"{name}={value}" for name, value in kind.compiler_options.items()),
        ]
    )


def test_accelerators_have_their_own_options_and_no_kind_of_cpu(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(platform, "backend_of", lambda device: "gpu")
    monkeypatch.setattr(platform, "_refusal", lambda *arguments: "")
    options = platform.COMPILER_OPTIONS["gpu"]
    assert platform.compiler_options(jax.devices()[0]) == options
    assert "CPU" not in platform.describe_compiler(jax.devices()[0], jnp.bfloat16)


def test_chosen_options_extend_and_override_the_defaults(monkeypatch: pytest.MonkeyPatch) -> None:
    kind = CpuKind("new", compiler_options={KNOWN: True})
    monkeypatch.setattr(platform, "this_cpu", lambda: kind)
    chosen = {KNOWN: False, "xla_cpu_enable_fast_min_max": True}
    platform.choose_compiler_options(chosen)
    assert platform.compiler_options(jax.devices()[0]) == chosen


@pytest.mark.parametrize("options", [{UNKNOWN: True}, {KNOWN: "perhaps"}], ids=str)
def test_a_refused_option_is_an_error(options: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match=next(iter(options))) as caught:
        platform.choose_compiler_options(options)
    assert caught.value.where == "compiler_options"


PROGRAM = """
import json, os, pathlib, resource, sys, time
from flaxfer.runtime import platform
kept = platform.keep_memory()
import jax, jax.numpy as jnp
platform.use_compilation_cache(pathlib.Path(sys.argv[1]))
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
events = []
jax.monitoring.register_event_listener(lambda name, **_: events.append(name))

@jax.jit
def work(x):
    # 64 MiB: by default glibc does not keep as much.
    y = jax.lax.optimization_barrier(jnp.sin(x)[:, None] * x[None, :])
    return (y * y.T).sum()

x = jnp.linspace(0.0, 1.0, 4096)
for call in range(30):
    if call == 10:  # By now the heap is large enough for a call.
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    value = work(x).block_until_ready()
faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
hits = events.count("/jax/compilation_cache/cache_hits")

def resident():
    return int(pathlib.Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

if kept:
    held = resident()
    platform.return_memory()
    returned = held - resident()
else:
    returned = 0
result = {"kept": kept, "faults": faults, "hits": hits, "value": float(value)}
print(json.dumps(result | {"returned": returned}))
"""


def run(folder: Path, **environment: str) -> dict[str, float]:
    # A single device, as for users: the simulated devices of the tests each keep memory.
    environment = {**os.environ, "XLA_FLAGS": "", **environment}
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(PROGRAM), str(folder)],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    result: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return result


def test_memory_is_kept_till_returned_and_compiled_programs_are_cached(tmp_path: Path) -> None:
    first = run(tmp_path)
    assert first["hits"] == 0
    again = run(tmp_path, FLAXFER_MALLOC="system")
    assert again["hits"] > 0
    assert not again["kept"]
    if first["kept"]:  # glibc; elsewhere there is nothing to compare.
        assert first["faults"] < again["faults"] / 2
        assert first["returned"] > 64 << 20
    programs = [path for path in (tmp_path / "xla").rglob("*") if path.is_file()]
    for path in programs:  # Truncate, as a full disk does.
        path.write_bytes(path.read_bytes()[:20])
    damaged = run(tmp_path)
    assert damaged["value"] == first["value"] == again["value"]
