"""The gate: nobody makes a compiled step slower or larger without noticing."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.aot import measure

RECORD = json.loads(measure.RECORD.read_text(encoding="utf-8"))

ADVICE = """
  If this is intended, run `make gate-record` and commit tests/aot/gate.json, with the reason in the
  commit message. Nothing else in this repository detects that a step grows slower or larger on an
  accelerator. Cycles are the compiler's estimate and have no noise, so a rise has a cause; a new
  collective costs more on larger meshes than here; more programs take more time to compile."""


def differences(name: str, recorded: dict[str, Any], measured: dict[str, Any]) -> list[str]:
    """Return a line for each number that changed."""
    lines = []
    for key in recorded | measured:
        old, new = recorded.get(key, 0), measured.get(key, 0)
        if isinstance(old, dict) and isinstance(new, dict):
            lines += differences(f"{name}, {key}", old, new)
        elif old != new:
            numbers = isinstance(old, int) and isinstance(new, int) and old
            share = f" ({(new - old) / old:+.2%})" if numbers else ""
            lines.append(f"{name}, {key}: {old} -> {new}{share}")
    return lines


def check(name: str, recorded: dict[str, Any], measured: dict[str, Any]) -> None:
    lines = differences(name, recorded, measured)
    if lines:
        pytest.fail("\n".join(["the compiled steps have changed:", *lines, ADVICE]), pytrace=False)


def test_the_plan_has_the_recorded_programs() -> None:
    check("plan", RECORD["plan"], measure.plan())


def test_a_change_is_reported_with_its_size_and_a_hint() -> None:
    old = {"cycles": 100, "collectives": {"all-gather": 2}, "bucket_sizes": [1, 2]}
    new = {"cycles": 103, "collectives": {"all-reduce": 1}, "bucket_sizes": [1, 2]}
    with pytest.raises(pytest.fail.Exception) as caught:
        check("train", old, new)
    for line in (
        "train, cycles: 100 -> 103 (+3.00%)",
        "train, collectives, all-gather: 2 -> 0 (-100.00%)",
        "train, collectives, all-reduce: 0 -> 1\n",
        "make gate-record",
    ):
        assert line in str(caught.value)
    check("train", old, dict(old))


@pytest.mark.gate
def test_the_installed_compilers_are_those_of_the_record() -> None:
    assert measure.versions() == RECORD["versions"], (
        "the record was made with other versions: install those of constraints.txt or, if these "
        "have changed, run `make gate-record` and review the differences"
    )


@pytest.mark.gate
@pytest.mark.parametrize("name", measure.PROGRAMS)
def test_a_program_has_the_recorded_figures(name: str) -> None:
    check(name, RECORD["programs"][name], measure.compiled(name))
