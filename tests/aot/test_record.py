"""The file that `flaxfer aot --json` writes."""

from __future__ import annotations

import datetime
import json
from pathlib import Path

import pytest

from flaxfer import main
from flaxfer.aot import command, topology
from flaxfer.runtime import host


@pytest.mark.parametrize(("fits", "code"), [(True, 0), (False, 1)])
def test_the_record_has_the_report_with_commit_and_date(
    fits: bool, code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    report = {"fits": fits, "peak_bytes": 7}
    monkeypatch.setattr(topology, "devices", lambda target: [])
    monkeypatch.setattr(command, "compile_steps", lambda *arguments: report)
    monkeypatch.setattr(command, "show", lambda report: None)
    config = Path(__file__).parents[2] / "configs" / "sts_english.py"
    words = ["aot", "--config", str(config), "--topology", "v5e:1", "--json"]
    assert main.main([*words, str(tmp_path / "report.json")]) == code
    record = json.loads((tmp_path / "report.json").read_text())
    assert {key: record.pop(key) for key in report} == report
    assert record.pop("git") == host.commit()
    age = datetime.datetime.now(datetime.UTC) - datetime.datetime.fromisoformat(record.pop("date"))
    assert datetime.timedelta(0) <= age < datetime.timedelta(minutes=5)
    assert record == {}
