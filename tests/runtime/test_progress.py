"""Tables and progress lines."""

from __future__ import annotations

import io
import subprocess
import sys

import pytest
from rich.console import Console

from flaxfer.runtime import progress


def test_tables_align_numbers_right_and_keep_brackets(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    progress.table("data", ["folder", "examples"], [["runs/[red]a[/]", 12345], ["b", 6]])
    out, err = capsys.readouterr()
    assert out == ""
    assert err.splitlines() == [
        "data                    ",
        "folder          examples",
        "runs/[red]a[/]    12,345",
        "b                      6",
    ]


@pytest.mark.parametrize("terminal", [True, False])
def test_only_a_terminal_folds_the_rows_of_a_wide_table(
    terminal: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    file, width = io.StringIO(), 80 if terminal else progress.UNLIMITED
    console = Console(file=file, force_terminal=terminal, width=width)
    monkeypatch.setattr(progress, "console", console)
    name, cells = "xlm-roberta-base.social-iqa.xcopa", [f"cell-{i}-of-a-row" * 2 for i in range(9)]
    progress.table("", ["study", *"abcdefghi"], [[name, *cells]], first_width=20)
    lines = file.getvalue().splitlines()
    if terminal:
        assert len(lines) > 2 and max(map(len, lines)) <= 80
    else:
        assert [line.split() for line in lines] == [["study", *"abcdefghi"], [name, *cells]]


def test_output_that_nobody_reads_any_more_is_no_error() -> None:
    code = """
import os, sys
from flaxfer.runtime import bars, progress
progress.say("before")
os.close(2)  # As when the terminal is closed, or the program behind a pipe has ended.
os.dup(os.open("/dev/full", os.O_WRONLY))
progress.say("after")
bars.StageBar("a", 0, 10, 5.0).update(1, 0.5, 1.0, 1.0, 0.0)
print("still here")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=30)
    assert (done.returncode, done.stdout, done.stderr) == (0, "still here\n", "before\n")
