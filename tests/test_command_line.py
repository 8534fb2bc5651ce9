"""Words of the command line that would have no effect are refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from flaxfer import main


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["run", "--config=a.py", "--config=b.py"], "--config is given twice"),
        (["run", "--config", "a.py", "--config=a.py"], "--config is given twice"),
        (["check", "--config=a.py", "--check", "--check"], "--check is given twice"),
        (["run", "--config=a.py", "--check", "--dry-run"], "check and plan exclude each other"),
        (["plan", "--config=a.py", "--check"], "unrecognized arguments: --check"),
        (["run", "--config=a.py", "--", "--config.seeds=1"], "not allowed with argument --config"),
        (["run", "--config=a.py", "--dry-run", "--dry_run"], "--dry-run is given twice"),
        (["run", "--config="], "the value of --config is empty"),
        (["run", "--config", ""], "the value of an argument is empty"),
        (["report", "A", "--output", "B", "--output", "C"], "--output is given twice"),
        (["report", "A", "--output="], "the value of --output is empty"),
        (["report", ""], "the value of an argument is empty"),
        (["report", "A", "A/../A", "--output", "B"], "a folder is given twice"),
        (["export", "A", "B", "--seed=1", "--seed=2"], "--seed is given twice"),
        (["export", "A", "B", "--se", "1"], "unrecognized arguments: --se"),
        (["predict", "A", "B", "--output=", "C"], "the value of --output is empty"),
        (["embed", "sts", "--data=a.tsv", "--mod=m"], "arguments are required: --model"),
        (
            ["embed", "sts", "--data=a.tsv", "--model=m", "--header", "--no-header"],
            "--header/--no-header is given twice",
        ),
        (
            ["embed", "sts", "--data=a.jsonl", "--model=m", "--header"],
            "have an effect on csv and tsv files only",
        ),
        (["embed", "sts", "--data=a.tsv", "--model=m", "--layers=1,1"], "names a layer twice"),
        (["embed", "sts", "--data=a.tsv", "--model=m", "--max-length=-1"], "is not a positive"),
    ],
)
def test_a_word_without_effect_is_an_error(
    words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main.main(words) == 2
    assert message in capsys.readouterr().err


def test_an_option_whose_default_is_empty_may_be_empty() -> None:
    words = ["embed", "sts", "--data=a.tsv", "--model=m", "--prefix"]
    assert main.parse([*words, ""])[1].prefix == ""
    assert main.parse([*words[:-1], "--prefix="])[1].prefix == ""


def test_underscores_are_accepted_in_options() -> None:
    words = ["aot", "--config=x.py", "--topology=v5e:1", "--model_config=a_b", "--examples_per_row"]
    args = main.parse([*words, "4"])[1]
    assert (args.model_config, args.examples_per_row) == ("a_b", 4)
    words = ["embed", "sts", "--data=a_b", "--model=m", "--max_length=5"]
    args = main.parse(words)[1]
    assert (args.data, args.max_length) == ("a_b", 5)
    _, args = main.parse(["predict", "--", "--single_texts", "--ignore_columns"])
    assert (args.model, args.input) == (Path("--single_texts"), Path("--ignore_columns"))


@pytest.mark.parametrize("words", [["run"], ["check"], ["plan"], ["aot", "--topology=v5e:1"]])
def test_a_config_is_named_with_and_without_its_option(words: list[str]) -> None:
    for config in (["x.py:local"], ["--config", "x.py:local"], ["--config=x.py:local"]):
        assert main.parse([words[0], *config, *words[1:]])[1].config == "x.py:local"


def test_words_after_two_hyphens_are_positional() -> None:
    _, args = main.parse(["predict", "--", "-model", "--input"])
    assert (args.model, args.input) == (Path("-model"), Path("--input"))


def test_a_misspelt_environment_variable_is_an_error(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FLAXFER_CAHCE", "x")
    assert main.main(["check", "--config=none.py"]) == 2
    assert "did you mean 'FLAXFER_CACHE'?" in capsys.readouterr().err
