"""The record of a tiny study's programs."""

from __future__ import annotations

from pathlib import Path

import jax
import pytest

from benchmarks import common, stage
from benchmarks import compile as benchmark
from benchmarks.programs import Program, recorded, seconds
from tests.helpers import WORDS, restored_compilation_cache, tiny_model


@pytest.mark.slow
def test_the_programs_of_a_study_are_counted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [f"{WORDS[i % 5]} {WORDS[i % 7]},{WORDS[i % 3]},{i / 10:.2f}\n" for i in range(48)]
    file, dev = tmp_path / "pairs.csv", tmp_path / "dev.csv"
    file.write_text("".join(rows[:16] + rows[32:]))
    dev.write_text("".join(rows[16:32]))
    words = ["--model", str(tiny_model(tmp_path / "model", layers=1)), "--data", str(file)]
    options = stage.parser("").parse_args(
        [*words, "--batch", "16", "--steps", "2", "--length", "32", "--dtype", "float32"]
    )
    options.eval_data, options.bucket_sizes, options.child = dev, 1, tmp_path
    jax.clear_caches()  # Other tests may have built the same programs.
    with restored_compilation_cache():
        record = benchmark.start(options)
    assert capsys.readouterr().out == ""
    assert len(record["bucket_sizes"]) == 1
    assert record["programs"]["train_step"]["programs"] == 1
    assert 0 < record["waited"] < record["seconds"]
    lines = benchmark.table(record).splitlines()
    assert len(lines) == 4 + benchmark.SHOWN + 2
    cells = lines[-1].split("|")
    programs = sum(program["programs"] for program in record["programs"].values())
    assert [cells[1].strip(), int(cells[2])] == ["all", programs]
    made = {"machine": common.machine(), "versions": common.versions("jax"), **common.stamp()}
    settings = {"steps": options.steps, "batch": options.batch}
    page = benchmark.section({"cold": record, "warm": record, "settings": settings, **made})
    assert page.count(benchmark.table(record)) == len(benchmark.STARTS)
    assert "2 steps of 16 examples" in page


def test_nested_blocks_record_the_same_programs() -> None:
    with recorded() as outer, recorded() as inner:
        jax.jit(lambda x: x * 0.123)(1.0)
    assert inner == outer
    assert inner["<lambda>"].programs == 1
    assert inner["<lambda>"].compile > 0
    assert seconds(inner) >= inner["<lambda>"].seconds > 0


def test_the_trace_of_an_inner_function_counts_once() -> None:
    programs = {
        "outer": Program(programs=2, trace=3.0, lower=1.0, compile=5.0),
        "inner": Program(trace=2.0),
    }
    assert seconds(programs) == 9.0
