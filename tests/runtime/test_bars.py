"""Bars on a terminal of 80 columns, and lines without a terminal."""

from __future__ import annotations

import io
import logging
import re
import threading
from collections.abc import Iterator

import pytest
from rich.console import Console, Group

from flaxfer.runtime import bars, progress, signals
from flaxfer.runtime.bars import StageBar, StudyState, doing


class Clock:
    """Time of the bars, which tests advance."""

    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(bars.time, "monotonic", clock)
    return clock


@pytest.fixture
def quiet() -> Iterator[None]:
    progress.set_quiet(True)
    yield
    progress.set_quiet(False)


def shown(now: float, width: int = 80) -> list[str]:
    """What the bars show at a time on a terminal without colours."""
    file = io.StringIO()
    console = Console(file=file, force_terminal=True, width=width, color_system=None)
    console.print(Group(*bars._bars.lines(now)))
    return [line.rstrip() for line in file.getvalue().splitlines()]


def test_the_study_stands_above_its_stage_in_80_columns(clock: Clock) -> None:
    state = StudyState(4, 6, 9, 0.5, 200.4)
    with bars.study(lambda share: state):
        clock.now = 162.0
        assert shown(clock.now) == [
            "stages 4-6 of 9  ━━━━━━━━━━━━━               0:01:02 elapsed, about 0:03:20 left"
        ]
        bar = StageBar("staged/intermediate seeds 0, 1, 2", 0, 400, steps_per_epoch=160.5)
        try:
            with doing("compiling"):
                assert shown(clock.now)[2] == "starting", "too short to be shown"
                clock.now += 12
                assert shown(clock.now)[2] == "compiling, 12 s"
            bar.update(100, 0.51234, 1234.5, 20000.0, 0.02)
            assert shown(clock.now)[1:] == [
                "staged/intermediate seeds 0, 1, 2  ━━━━━━━━━━╸",
                "epoch 0.6/2.5  step 100/400  loss 0.5123  1,234 examples/s  2% waiting for data",
            ]
            bar.update(100_000, 0.51234, 1234.5, 20000.0, 0.0)
            assert max(map(len, shown(clock.now))) <= 80
        finally:
            bar.close()
        assert len(shown(clock.now)) == 1
    assert shown(clock.now) == []


def test_the_bar_of_the_study_is_given_how_far_the_stage_is() -> None:
    shares = []

    def state(share: float | None) -> StudyState:
        shares.append(share)
        return StudyState(2, 2, 3, 0.0, None)

    with bars.study(state):
        assert "stage 2 of 3" in shown(0.0)[0] and "time left unknown" in shown(0.0)[0]
        bar = StageBar("direct/target seed 0", 5, 20, 10.0)
        shown(0.0)
        bar.close()
    assert shares[0] is None and shares[-1] == 0.25


def test_progress_is_printed_as_lines_without_a_terminal(
    capsys: pytest.CaptureFixture[str], clock: Clock
) -> None:
    bar = StageBar("direct/target seed 0", 0, 50, steps_per_epoch=20.0)
    for step in range(1, 31):
        clock.now += 1.0
        bar.update(step, 0.5, 1234.5, 20000.0, 0.0125)
    bar.close()
    assert capsys.readouterr().err.splitlines() == [
        "direct/target seed 0  epoch 1.1/2.5  step 21/50  loss 0.5000  1,234 examples/s  "
        "20,000 tokens/s  1.2% waiting for data"
    ]


def test_what_takes_long_is_announced_without_a_terminal(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bars, "ANNOUNCED_AFTER", 0.05)
    announced = threading.Event()
    say = bars.say
    monkeypatch.setattr(bars, "say", lambda text: (say(text), announced.set()))
    bar = StageBar("direct/target seed 0", 0, 50, 20.0)
    with doing("compiling"):
        assert announced.wait(10)
    with doing("short"):
        pass
    bar.close()
    assert capsys.readouterr().err == "direct/target seed 0  compiling\n"


@pytest.mark.usefixtures("quiet")
def test_quiet_leaves_warnings(capsys: pytest.CaptureFixture[str], clock: Clock) -> None:
    progress.say("said")
    progress.table("title", None, [["a", 1]])
    bar = StageBar("direct/target seed 0", 0, 50, 20.0)
    clock.now += 60
    bar.update(1, 0.5, 1.0, 1.0, 0.0)
    bar.close()
    for level in (logging.INFO, logging.WARNING):
        bars.log(
            logging.LogRecord("a", level, "", 0, "text", (), None), logging.getLevelName(level)
        )
    progress.warn("a problem")
    assert capsys.readouterr().err == "WARNING\na problem\n"


def test_a_terminal_gets_lines_wrapped_between_words_and_whole_paths(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    file = io.StringIO()
    console = Console(file=file, force_terminal=True, width=40, highlight=False)
    monkeypatch.setattr(progress, "console", console)
    progress.say("some words [red] before a path that is long: " + "/folder" * 10)
    assert file.getvalue() == (f"some words [red] before a path that is\nlong:\n{'/folder' * 10}\n")


def test_a_stop_is_shown_while_a_step_is_saved(monkeypatch: pytest.MonkeyPatch) -> None:
    bar = StageBar("direct/target seed 0", 0, 50, 20.0)
    monkeypatch.setattr(signals, "pending", lambda: "stopping")
    assert shown(0.0)[1] == "stopping"
    bar.close()


def test_without_colours_nothing_is_coloured() -> None:
    """https://no-color.org; the cursor may still move, and text be bold."""
    codes = []
    for environment in ({"TERM": "xterm"}, {"TERM": "xterm", "NO_COLOR": "1"}):
        file = io.StringIO()
        console = Console(file=file, force_terminal=True, width=80, _environ=environment)
        with bars.study(lambda share: StudyState(1, 1, 2, 0.5, None)):
            console.print(Group(*bars._bars.lines(0.0)))
        codes.append(re.findall(r"\x1b\[[0-9;]*m", file.getvalue()))
    assert codes[0] and not codes[1]


def test_warnings_stand_above_the_bars(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is logged meanwhile is not drawn over; INFO is a detail of what is done."""
    file = io.StringIO()
    monkeypatch.setattr(file, "isatty", lambda: True)
    console = Console(file=file, force_terminal=True, width=80, color_system=None)
    monkeypatch.setattr(progress, "console", console)
    with doing("reading"):
        bars._bars.activities[-1].began -= 1
        for level, text in ((logging.INFO, "a file"), (logging.WARNING, "a problem")):
            bars.log(logging.LogRecord("a", level, "", 0, text, (), None), f"{level} {text}")
        bars._bars._live.refresh()
    text = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", file.getvalue())
    lines = re.split(r"[\r\n]+", text)
    assert "30 a problem" in lines and "20 a file" not in lines
    assert lines.index("30 a problem") < lines.index("reading, 1 s: a file")
    assert file.getvalue().rstrip().endswith("\x1b[2K") or "\x1b[?25h" in file.getvalue()
