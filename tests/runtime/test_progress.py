"""Tables and progress lines."""

from __future__ import annotations

import subprocess
import sys

import pytest

from flaxfer.runtime import progress


def test_tables_align_numbers_right_and_keep_brackets(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    progress.table("data", ["folder", "examples"], [["runs/[red]a[/]", 12345], ["b", 6]])
    out, err = capsys.readouterr()
    assert out == ""
    lines = [line for line in err.splitlines() if "12,345" in line or " 6 " in line]
    assert "runs/[red]a[/]" in lines[0]
    assert lines[0].index("12,345") + 5 == lines[1].index("6")


def test_output_that_nobody_reads_any_more_is_no_error() -> None:
    code = """
import os, sys
from flaxfer.runtime import progress
progress.say("before")
os.close(2)  # As when the terminal is closed, or the program behind a pipe has ended.
os.dup(os.open("/dev/full", os.O_WRONLY))
progress.say("after")
progress.StageBar("a", 0, 10).update(1, 0.5, 1.0, 1.0, 0.0)
print("still here")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=30)
    assert (done.returncode, done.stdout, done.stderr) == (0, "still here\n", "before\n")


def test_progress_is_printed_as_lines_without_a_terminal(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 100.0
    monkeypatch.setattr(progress.time, "monotonic", lambda: now)
    bar = progress.StageBar("direct/target seed 0", 0, 50)
    for step in range(1, 31):
        now += 1.0
        bar.update(step, 0.5, 1234.5, 20000.0, 0.0125)
    bar.close()
    assert capsys.readouterr().err.splitlines() == [
        "direct/target seed 0  step 21/50  loss 0.5000  1,234 examples/s  20,000 tokens/s  "
        "1.2% waiting for data"
    ]
