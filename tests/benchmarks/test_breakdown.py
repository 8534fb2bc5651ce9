"""The breakdown of a tiny model's steps, and the page's section on it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jax
import pytest

from benchmarks import breakdown
from flaxfer.aot import hlo
from flaxfer.runtime import platform
from tests.helpers import WORDS, tiny_model

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


def test_what_holds_a_product() -> None:
    module = hlo.parse(PROGRAM)
    entry = module.computations[module.entry]
    found = {name for name, item in entry.items() if breakdown.multiplies(module, item)}
    assert found == {"library", "alone", "other"}


def test_steps_by_part(tmp_path: Path, monkeypatch: Any, capsys: Any) -> None:
    rows = [f"{WORDS[i % 5]} {WORDS[i % 7]},{WORDS[i % 3]},{i / 10:.2f}\n" for i in range(48)]
    file = tmp_path / "pairs.csv"
    file.write_text("".join(rows))
    monkeypatch.setattr(breakdown, "OPTIONS", (("xla_cpu_enable_fast_min_max", True),))
    monkeypatch.setattr(breakdown, "PAIRS", 1)
    words = ["breakdown", "--model", str(tiny_model(tmp_path / "model")), "--data", str(file)]
    words += [
        "--eval_data",
        str(file),
        "--title",
        "tiny",
        "--batch",
        "16",
        "--steps",
        "3",
        "--length",
        "32",
    ]
    monkeypatch.setattr("sys.argv", words)
    breakdown.main()
    record = json.loads(capsys.readouterr().out)
    assert platform._chosen == {}
    assert str(tmp_path) not in json.dumps(record)
    assert record["train"]["steps"] == 3 and record["eval"]["steps"] == 1
    for what, needed in (("train", {"optimiser"}), ("eval", set[str]())):
        parts = record[what]["parts"]
        assert parts.keys() >= {"attention", "feed_forward", "layer norm", *needed}
        assert parts["feed_forward"]["products"] > 0
        assert parts["layer norm"] == {"products": 0, "rest": pytest.approx(0, abs=1)}
        spent = sum(sum(times.values()) for times in parts.values())
        assert 0 < spent < 3 * record[what]["seconds"] * jax.device_count()
    [other] = record["options"]
    assert other["option"] == "xla_cpu_enable_fast_min_max=True"
    assert other["train"] > 0 and other["eval"] > 0
    assert "| feed_forward |" in breakdown.section(record)


def test_the_section_gives_milliseconds_of_a_step_and_shares() -> None:
    parts = {
        "attention": {"products": 0.3, "rest": 0.1},
        "optimiser": {"products": 0.0, "rest": 0.6},
        "head": {"products": 0.0, "rest": 0.0001},
    }
    record = {
        "settings": {"title": "M, D"},
        "train": {"seconds": 1.0, "steps": 2, "parts": parts},
        "eval": {"seconds": 0.5, "steps": 5, "parts": {"attention": parts["attention"]}},
        "options": [{"option": "a=1", "train": 1.25, "eval": 0.996}],
    }
    lines = breakdown.section(record).splitlines()
    assert lines[0] == "## Where the time goes on a CPU: M, D"
    tables = [line for line in lines if line.startswith("| ") and "---" not in line]
    assert tables == [
        "| part | products | rest | share |",
        "| optimiser | 0.0 | 300.0 | 60.0% |",
        "| attention | 150.0 | 50.0 | 40.0% |",
        "| part | products | rest | share |",
        "| attention | 300.0 | 100.0 | 100.0% |",
        "| option | training | evaluation |",
        "| `a=1` | 1.25 | 1.00 |",
    ]
    assert "Milliseconds of a training step, 500 in all; 30% of" in "\n".join(lines)
