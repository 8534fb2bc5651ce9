"""The breakdown of a tiny model's steps, and its section of the page."""

from __future__ import annotations

from pathlib import Path

import jax
import pytest

from benchmarks import breakdown, stage
from flaxfer.aot import hlo
from flaxfer.runtime import platform
from tests.helpers import WORDS, mesh_of, tiny_model

ORIGIN = {
    "machine": {"cpu": "c", "features": [], "cores": 2, "memory_gib": 8.0},
    **{"versions": {"jax": "1"}, "git": "g", "date": "2026-11-23"},
}
PROGRAM = """HloModule m

%inner (a: bf16[4,4], b: bf16[4,4]) -> bf16[4,4] {
  %a = bf16[4,4]{1,0} parameter(0)
  %b = bf16[4,4]{1,0} parameter(1)
  ROOT %dot.1 = bf16[4,4]{1,0} dot(%a, %b), lhs_contracting_dims={1}, rhs_contracting_dims={0}
}

ENTRY %main (x: bf16[4,4]) -> bf16[4,4] {
  %x = bf16[4,4]{1,0} parameter(0)
  %library = bf16[4,4]{1,0} fusion(%x, %x), kind=kCustom, calls=%inner
  %alone = bf16[4,4]{1,0} dot(%x, %x), lhs_contracting_dims={1}, rhs_contracting_dims={0}
  %other = bf16[4,4]{1,0} custom-call(%x, %x), custom_call_target="__onednn$matmul"
  %softmax = bf16[4,4]{1,0} custom-call(%x), custom_call_target="__onednn$softmax"
  ROOT %sum = bf16[4,4]{1,0} add(%library, %alone)
}
"""


def test_operations_with_matmuls_are_recognised() -> None:
    module = hlo.parse(PROGRAM)
    entry = module.computations[module.entry]
    names = {name for name, item in entry.items() if breakdown.has_matmul(module, item)}
    assert names == {"library", "alone", "other"}


def test_operations_are_attributed_to_parts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(breakdown, "OPTIONS", (("xla_cpu_enable_fast_min_max", True),))
    monkeypatch.setattr(breakdown, "PAIRS", 1)
    rows = [f"{WORDS[i % 5]} {WORDS[i % 7]},{WORDS[i % 3]},{i / 10:.2f}\n" for i in range(48)]
    file = tmp_path / "pairs.csv"
    file.write_text("".join(rows))
    words = ["--model", str(tiny_model(tmp_path / "model")), "--data", str(file)]
    options = stage.parser("").parse_args(
        [*words, "--batch", "16", "--steps", "3", "--length", "32"]
    )
    inputs = stage.prepare(options, mesh=mesh_of())
    record = breakdown.measure(inputs, inputs, options)
    assert "xla_cpu_enable_fast_min_max" not in platform.compiler_options(jax.devices()[0])
    assert record["train"]["steps"] == 3 and record["eval"]["steps"] == 1
    for step, needed in (("train", {"optimizer"}), ("eval", set[str]())):
        parts = record[step]["parts"]
        assert parts.keys() >= {"attention", "feed_forward", "layer norm", *needed}
        assert parts["feed_forward"]["matmuls"] > 0
        assert parts["layer norm"] == {"matmuls": 0, "rest": pytest.approx(0, abs=1)}
        spent = sum(sum(times.values()) for times in parts.values())
        assert 0 < spent < 3 * record[step]["seconds"] * jax.device_count()
    [variant] = record["options"]
    assert variant["option"] == "xla_cpu_enable_fast_min_max=True"
    assert variant["train"] > 0 and variant["eval"] > 0
    origin = {"settings": {"title": "tiny"}, **ORIGIN}
    assert "| feed_forward |" in breakdown.section(record | origin)


def test_the_section_gives_milliseconds_of_a_step_and_shares() -> None:
    parts = {
        "attention": {"matmuls": 0.3, "rest": 0.1},
        "optimizer": {"matmuls": 0.0, "rest": 0.6},
        "head": {"matmuls": 0.0, "rest": 0.0001},
    }
    record = {
        "settings": {"title": "M, D"},
        **ORIGIN,
        "train": {"seconds": 1.0, "steps": 2, "parts": parts},
        "eval": {"seconds": 0.5, "steps": 5, "parts": {"attention": parts["attention"]}},
        "options": [{"option": "a=1", "train": 1.25, "eval": 0.996}],
    }
    lines = breakdown.section(record).splitlines()
    assert lines[0] == "## Where the time goes on a CPU: M, D"
    tables = [line for line in lines if line.startswith("| ") and "---" not in line]
    assert tables == [
        "| part | matmuls | rest | share |",
        "| optimizer | 0.0 | 300.0 | 60.0% |",
        "| attention | 150.0 | 50.0 | 40.0% |",
        "| part | matmuls | rest | share |",
        "| attention | 300.0 | 100.0 | 100.0% |",
        "| option | training | evaluation |",
        "| `a=1` | 1.25 | 1.00 |",
    ]
    assert "Versions: jax 1. Commit g; 2026-11-23." in "\n".join(lines)
    assert "Milliseconds of a training step, 500 in all; 30% of" in "\n".join(lines)
