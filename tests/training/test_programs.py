"""Programs are compiled once, ahead of the steps that need them."""

from __future__ import annotations

import dataclasses
import gc
import threading
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks.programs import recorded
from flaxfer.models.layers import Execution
from flaxfer.runtime.sharding import make_mesh
from flaxfer.study.open_study import forget_programs
from flaxfer.training import loop
from flaxfer.training.programs import Programs
from tests.helpers import encoder_config
from tests.training.helpers import Case, stage_case, train

SHAPES: dict[str, Any] = {"gradient_accumulation_steps": 1, "max_bucket_sizes": 2, "row_length": 16}


def as_staged(case: Case) -> Case:
    """Return an equal stage of another condition, which starts from other parameters."""
    return dataclasses.replace(
        case, spec=dataclasses.replace(case.spec, condition="staged", loaded=frozenset({"pooler"}))
    )


@pytest.mark.parametrize("seeds", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_each_program_is_built_once_and_another_condition_builds_none(
    seeds: int, tmp_path: Path
) -> None:
    forget_programs()
    group = [stage_case(tmp_path, seed, **SHAPES) for seed in range(seeds)]
    sizes = group[0].data.plan(tuple(range(seeds)), 1).bucket_sizes
    assert len(sizes) > 1
    with recorded() as programs:
        train(*group)
    assert programs["train_step"].programs == len(sizes)
    assert programs["eval_step"].programs == 1
    others = [as_staged(case) for case in group]
    assert others[0].spec.fresh != group[0].spec.fresh
    with recorded() as programs:
        train(*others)
    assert all(case.is_done() for case in others)
    assert sum(program.programs for program in programs.values()) == 0
    if (mappings := Path("/proc/self/maps")).exists():  # Linux
        held = len(mappings.read_text().splitlines())
        forget_programs()
        gc.collect()
        assert len(mappings.read_text().splitlines()) < held - 100


def test_equal_layers_are_traced_once_and_called_on_cpus_alone() -> None:
    """All layers but the last, which computes the CLS tokens alone, share a trace."""
    traced = []
    on_cpu = Execution(mesh=make_mesh(1, 1, 1, devices=jax.devices()[:1]))
    for layers in (3, 6):
        case = stage_case(Path(), encoder=encoder_config(layers=layers, dropout=0.1))
        spec = case.spec.model
        batch = case.data.plan((0,), 1).batch(0)
        micro = {key: array[0] for key, array in batch.items()}

        def text(execution: Execution, spec: Any = spec, micro: Any = micro) -> str:
            def loss(params: Any) -> jax.Array:
                key = jax.random.key(0, impl="rbg")
                return spec.apply(params, micro, key, execution).sum()

            return jax.jit(jax.grad(loss)).lower(spec.param_shapes()).as_text()

        traced.append(text(on_cpu).count("func.func private @_run_layer"))
        assert "@_run_layer" not in text(Execution())
    assert traced[0] == traced[1] > 0


def test_an_error_of_the_compiler_is_raised_where_the_program_is_needed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = loop.make_train_step

    def make(*args: Any) -> Any:
        function = real(*args)

        def step(*inputs: Any) -> Any:
            raise AssertionError("it has no program")

        def lower(*inputs: Any) -> Any:
            assert threading.current_thread() is not threading.main_thread()
            raise ValueError("no program")

        step._cache_size = function._cache_size
        step.lower = lower
        return step

    monkeypatch.setattr(loop, "make_train_step", make)
    with pytest.raises(ValueError, match="no program"):
        train(stage_case(tmp_path))


def test_programs_are_compiled_in_order_and_dropped_at_the_end() -> None:
    programs, begun, may_go_on = Programs(), list[str](), threading.Event()
    add = jax.jit(jnp.add)

    def lower(name: str) -> jax.stages.Lowered:
        begun.append(name)
        assert may_go_on.wait(30)
        return add.lower(np.ones(len(begun)), 1.0)

    for name in ("first", "second", "third"):
        programs.plan(name, lambda name=name: lower(name))
    programs.wait("unknown")
    may_go_on.set()
    programs.wait("second")
    assert begun[:2] == ["first", "second"]
    may_go_on.clear()
    closing = threading.Timer(0.1, may_go_on.set)
    closing.start()
    programs.plan("fourth", lambda: lower("fourth"))
    programs.plan("last", lambda: lower("last"))
    programs.close()
    assert "last" not in begun
