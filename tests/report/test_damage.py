"""Learning curves of a metrics.jsonl that was edited by hand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from flaxfer.errors import DataError
from flaxfer.report.curves import curve_blocks
from flaxfer.report.data import read_report_data
from tests.report.helpers import study_record, write_study


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ({"step": 5, "kind": "train", "loss": "low"}, "loss of step 5 is 'low'"),
        ({"step": 5, "kind": "dev", "metrics": [1]}, r"metrics of step 5 is \[1\]"),
        ({"step": 5, "kind": "dev", "metrics": {"pearson": "x"}}, "pearson of step 5 is 'x'"),
        ({"step": "5", "kind": "train"}, "this line is no record"),
    ],
)
def test_a_value_of_another_type_is_named(
    line: dict[str, Any], message: str, tmp_path: Path
) -> None:
    record = study_record(("direct",))
    workdir = write_study(tmp_path, record)
    file = workdir / record["runs"][0]["dir"] / "metrics.jsonl"
    file.write_text(json.dumps(line) + "\n")
    with pytest.raises(DataError, match=message) as caught:
        curve_blocks(read_report_data([workdir], workdir))
    assert str(file) in str(caught.value.where)
