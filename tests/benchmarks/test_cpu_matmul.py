"""The measurement of a CPU's matmuls, on tiny ones, and what it says."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from benchmarks import cpu_matmul, matmuls
from benchmarks.cpu_matmul import Cell, Variant
from flaxfer.errors import ConfigError
from flaxfer.runtime.cpu import CpuKind, this_cpu
from tests.helpers import encoder_config

ROWS = (3, 8)
KIND = CpuKind("new", bfloat16_since=(0, 0), compiler_options={"a": 1}, measured="all")


@pytest.mark.parametrize("of", cpu_matmul.PASSES)
def test_every_way_computes_the_same_matmul(of: str) -> None:
    cell = Cell("tiny", of, (16, 24), 1)
    x, kernel, cotangent = (a.reshape(-1, a.shape[-1]) for a in cpu_matmul.arrays((16, 24), ROWS))
    expected = {"forward": x @ kernel, "dX": cotangent @ kernel.T, "dW": x.T @ cotangent}[of]
    for dtype, tolerance in (("float32", 1e-4), ("bfloat16", 0.5)):
        for flat in (True, False):
            result = np.asarray(cpu_matmul.compiled(Variant(dtype, flat), cell, ROWS)(), np.float32)
            np.testing.assert_allclose(result.reshape(expected.shape), expected, atol=tolerance)
    for name, call in cpu_matmul.libraries(cell, ROWS):
        result = call()
        # NumPy cannot read PyTorch's bfloat16.
        values = result if isinstance(result, np.ndarray) else result.float().numpy()
        tolerance = 0.5 if "bfloat16" in name else 1e-4
        np.testing.assert_allclose(values, expected, atol=tolerance)


def test_the_matmuls_are_those_of_a_step_without_attention() -> None:
    encoder = encoder_config(layers=1)
    sizes = {"tiny": (encoder.hidden_size, encoder.intermediate_size)}
    counts = matmuls.matmuls(encoder, *ROWS, train=True)
    expected = sum(2 * m * k * n * count for (b, m, k, n), count in counts.items() if b == 1)
    assert sum(c.count * c.flops(ROWS) for c in cpu_matmul.cells(sizes)) == expected


def test_one_choice_differs_in_each_variant() -> None:
    table = cpu_matmul.table_variant(KIND)
    assert table == Variant("bfloat16", False, (("a", 1),))
    dtype, form, vectors = cpu_matmul.choices(KIND)
    assert (dtype.value, dtype.others) == (
        "bfloat16",
        {"float32": Variant("float32", True, (("a", 1),))},
    )
    assert (form.value, form.others) == ("rows", {"flat": Variant("bfloat16", True, (("a", 1),))})
    wide = Variant("bfloat16", False, (("a", 1), ("xla_cpu_prefer_vector_width", 512)))
    assert (vectors.value, vectors.others) == ("256 bits", {"512 bits": wide})


def test_a_time_is_the_fastest_of_the_rounds_and_counts_for_the_layer() -> None:
    one, two = Cell("tiny", "dX", (1, 1), 4), Cell("tiny", "dW", (1, 1), 1)
    rounds = [
        {("a", one): (1.0, 9.0), ("a", two): (7.0, 8.0)},
        {("a", one): (2.0, 5.0), ("a", two): (3.0, 9.0)},
    ]
    seconds = [cpu_matmul.seconds_of(rounds, "a", [one, two], clock) for clock in (0, 1)]
    assert seconds == [4 * 1.0 + 3.0, 4 * 5.0 + 8.0]


def test_calls_of_a_matmul_follow_each_other_in_changing_order() -> None:
    called: list[str] = []
    one, two = (Cell("tiny", of, (1, 1), 1) for of in ("dX", "dW"))
    calls = {
        (name, cell): lambda name=name, cell=cell: called.append(name + cell.of)
        for name in "abc"
        for cell in (one, two)
    }
    rounds, load = cpu_matmul.timed(calls, 0)
    assert all(times.keys() == calls.keys() for times in rounds) and load > 0
    groups = [tuple(called[i : i + 3]) for i in range(0, len(called), 3)]
    assert [{name[1:] for name in group} for group in groups] == [{"dX"}, {"dW"}] * 4
    assert len(called) == 24 and len({group for group in groups if "adX" in group}) > 1


def test_the_script_measures_tiny_matmuls_and_records_them_by_kind(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "record.json"
    file.write_text(json.dumps({"another kind": {"rates": []}}))
    cpu_matmul.main(["--tiny", "--seconds", "0", "--record", str(file)])
    records = json.loads(file.read_text())
    kind = this_cpu().name
    assert records.keys() == {"another kind", kind}
    record = records[kind]
    assert record.keys() >= {"versions", "machine", "date", "git"} and record["rounds"] == 4
    dtype = record["choices"][0]["value"]
    assert [c["choice"] for c in record["choices"]] == ["dtype", f"form in {dtype}", "vectors"]
    assert all(rates[of] > 0 for rates in record["rates"] for of in cpu_matmul.PASSES)
    printed = capsys.readouterr().out
    assert printed == cpu_matmul.describe(record) + "\n"
    assert printed.startswith(f"CPU kind {kind} (") and "tiny  NumPy float32  " in printed
    assert f"### {kind}\n" in cpu_matmul.section({kind: record})


def test_another_device_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    with pytest.raises(ConfigError, match="JAX computes on a gpu"):
        cpu_matmul.main(["--tiny"])


SLOW = "float16 0.10 times as fast)"


def choice(*ratios: float) -> dict[str, Any]:
    others = {
        "bfloat16": {"gflops": 12.3, "ratios": ratios},
        "float16": {"gflops": 9, "ratios": [0.1, 9.0]},
    }
    return {"choice": "dtype", "value": "float32", "gflops": 65.2, "others": others}


def test_a_line_says_whether_another_choice_is_faster() -> None:
    record = {
        "choices": [choice(0.2, 0.2), choice(1.049, 2.0), choice(1.27, 1.3)],
        "cpu_share": 0.9,
    }
    best = "dtype: float32 is best here (65 GFLOP/s; bfloat16 {} times as fast; {}"
    assert cpu_matmul.verdicts(record) == [
        best.format("0.20", SLOW),
        best.format("1.05", SLOW),
        "dtype: float32 is not best here: another choice, bfloat16, is 27% faster "
        f"(65 GFLOP/s; bfloat16 1.27 times as fast; {SLOW}",
    ]


def test_rates_of_a_busy_machine_are_called_too_low() -> None:
    record = {
        **{"kind": "AVX2", "machine": {"cpu": "c", "cores": 2}, "versions": {"jaxlib": "1"}},
        **{"rows": [8, 128], "rounds": 4, "choices": [], "rates": []},
    }
    assert "too low" not in cpu_matmul.describe(record | {"cpu_share": 0.76})
    assert "this one had 51%" in cpu_matmul.describe(record | {"cpu_share": 0.51})


def test_the_section_has_a_table_and_the_lines_of_each_kind() -> None:
    record = {
        "machine": {"cpu": "c", "features": ["avx2"], "cores": 2, "memory_gib": 8.0},
        **{"versions": {"jaxlib": "1"}, "git": "g", "date": "2026-11-28"},
        **{"choices": [choice(0.2, 0.3)], "rows": [8, 128], "rounds": 4, "cpu_share": 0.9},
        "rates": [{"encoder": "e", "by": "float32, flat", "forward": 65.4, "dX": 60, "dW": 1.6}],
    }
    lines = cpu_matmul.section({"AVX2": record, "AMX": record}).splitlines()
    assert lines[0] == "## Matmuls by kind of CPU"
    assert [line for line in lines if line.startswith("### ")] == ["### AVX2", "### AMX"]
    assert lines.count("| e | float32, flat | 65 | 60 | 2 |") == 2
    best = f"- dtype: float32 is best here (65 GFLOP/s; bfloat16 0.20 times as fast; {SLOW}"
    assert lines.count(best) == 2
    assert "Versions: jaxlib 1. Commit g; 2026-11-28." in "\n".join(lines)
