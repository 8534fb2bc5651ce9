"""Scores of small submissions, against values by hand and of the published functions."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from flaxfer import main
from flaxfer.errors import DataError
from flaxfer.tasks.rankings import average_precision
from flaxfer.xtreme import metrics, scoring
from flaxfer.xtreme.benchmarks import BENCHMARKS, MODES, file_name
from tests.xtreme.helpers import (
    CORRECTED,
    OFFICIAL_UDPOS,
    TASKS,
    choices,
    rows,
    squad,
    submission,
    write,
)


def one_file(tmp_path: Path, task: str, gold: str, predicted: str, code: str = "de") -> list[Path]:
    """Write the labels and predictions of one language, and return both folders."""
    name = file_name(task, code)
    write(tmp_path, {f"labels/{name}": gold, f"predictions/{name}": predicted})
    return [tmp_path / "predictions", tmp_path / "labels"]


@pytest.mark.parametrize("benchmark", BENCHMARKS)
def test_a_complete_submission(benchmark: str, tmp_path: Path) -> None:
    folders = submission(tmp_path, benchmark)
    assert scoring.benchmarks_of(folders[0]) == [benchmark]
    result = scoring.score(*folders, MODES, [benchmark])
    assert (result.missing, result.faults, result.notes) == ({}, [], [])
    report = result.report(benchmark)
    tasks = BENCHMARKS[benchmark]
    corrected = {task: report["corrected"][task]["avg_metric"] for task in tasks}
    assert corrected == pytest.approx({task: CORRECTED[task] for task in tasks})
    overall = sum(CORRECTED[task] for task in tasks) / len(tasks)
    assert report["corrected"]["all_task"] == pytest.approx(overall)
    official = {
        task: score["avg_metric"] for task, score in report["official"].items() if task in tasks
    }
    expected = {task: CORRECTED[task] for task in tasks if task != "lareqa"}
    assert official == pytest.approx(expected | {"udpos": OFFICIAL_UDPOS})


def test_groups_of_xtreme_r(tmp_path: Path) -> None:
    result = scoring.score(*submission(tmp_path, "xtreme-r"), MODES, ["xtreme-r"])
    report = result.report("xtreme-r")
    # The published script counts XCOPA twice, and has no LAReQA, so that it has no overall score.
    assert report["official"]["multi_choice"] == pytest.approx(60)
    assert report["official"]["retrieval"] == pytest.approx((60 + 25) / 2)
    assert "all_task" not in report["official"] and "multi_choice" not in report["corrected"]
    retrieval = (60 + 25 + CORRECTED["lareqa"]) / 3
    assert report["corrected"]["retrieval"] == pytest.approx(retrieval)
    assert report["corrected"]["classification"] == pytest.approx((50 + 60) / 2)


# The values of `evaluate.py` of github.com/google-research/xtreme at 838c13b, with seqeval 0.0.12.
OFFICIAL = [
    ("panx", "", "", {"f1": 0, "precision": 0, "recall": 0}),
    (
        "udpos",  # The f1 there; CCONJ and SCONJ differ in their type.
        rows("CCONJ", "SCONJ", "NOUN", "NOUN", "X", "", "VERB", "_", "", "INTJ", "ADP", "DET"),
        rows("SCONJ", "SCONJ", "NOUN", "VERB", "X", "", "VERB", "O", "", "INTJ", "ADP", "NOUN"),
        {"f1": 55.55555555555556, "precision": 55.55555555555556, "recall": 55.55555555555556},
    ),
    (
        "udpos",  # A type O is that of O, which does not end it.
        rows("X-O", "", "NOUN"),
        rows("X", "", "NOUN"),
        {"f1": 66.66666666666666, "precision": 50.0, "recall": 100.0},
    ),
    (
        "xcopa",  # accuracy: a text is no number, but true is.
        choices(0, 1, 1),
        choices(0, "1", True),
        {"accuracy": 66.66666666666666},
    ),
    (
        "bucc2018",  # bucc_f1: a pair counts once, and a blank line is one.
        rows("a\tb", "c\td", "c\td", ""),
        rows("a\tb", "c\td", "e\tf"),
        {"f1": 66.66666666666666, "precision": 66.66666666666666, "recall": 66.66666666666666},
    ),
    (
        "mewslix",  # mewslix_map20: missing, repeated and late candidates.
        json.dumps({"a": [" Q1 "], "b": ["Q2", "Q1"], "c": ["Q3"], "d": ["Q4"]}),
        json.dumps(
            {
                "a": ["Q9", "Q1"],
                "b": ["Q1", "Q1", "Q2"],
                "d": [*(f"Q{i}" for i in range(5, 25)), "Q4"],
            }
        ),
        {"map@20": 20.833333333333332},
    ),
]


@pytest.mark.parametrize(("task", "gold", "predicted", "expected"), OFFICIAL)
def test_official_scores_of_odd_files(
    task: str, gold: str, predicted: str, expected: dict[str, float], tmp_path: Path
) -> None:
    write(tmp_path, {"gold": gold, "predicted": predicted})
    scores = metrics.official(tmp_path / "gold", tmp_path / "predicted", task, "de")
    scores.pop(metrics.NEWER, None)
    assert scores == expected


@pytest.mark.parametrize(
    ("relevant", "ranking", "k", "expected"),
    [
        # average_precision_at_k of third_party/utils_lareqa.py at the same commit.
        ([1, 2, 3], [1, 9, 2, 2, 8, 3], 20, 0.7222222222222222),
        ([1, 2], [2, 2, 1], 20, 0.8333333333333333),
        ([1], [4, 5, 1], 20, 0.3333333333333333),
        ([1, 2, 3], [9, 1], 2, 0.25),
        (range(30), range(30), 20, 1.0),
        ([7], [1, 2, 3], 3, 0.0),
    ],
)
def test_average_precision(relevant, ranking, k: int, expected: float) -> None:
    assert average_precision(relevant, ranking, k) == pytest.approx(expected, rel=1e-15)


def test_corrected_rankings_count_all_right_candidates(tmp_path: Path) -> None:
    gold = json.dumps({"a": ["Q2", "Q1"]})
    folders = one_file(tmp_path, "mewslix", gold, json.dumps({"a": ["Q1", "Q9", "Q2"]}))
    result = scoring.score(*folders, MODES, ["xtreme-r"])
    assert result.scores["official"]["mewslix"]["de"]["map@20"] == pytest.approx(100 / 3)
    assert result.scores["corrected"]["mewslix"]["de"]["map@20"] == pytest.approx(500 / 6)


def test_other_names_and_formats_are_read_and_written_as_published(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(
        tmp_path,
        {
            "labels/xnli/test-de.tsv": rows("neutral", "entailment"),
            "labels/udpos/test-de.tsv": TASKS["udpos"][0],
            "labels/xcopa/test-et.jsonl": choices(0, 1),
            "labels/mlqa/test-de.json": squad(a=["Haus"]),
            "ours/XNLI/predictions.de.txt": "\ufeffneutral\r\nneutral\r\n\r\n",
            "ours/UD-POS/de.conllu": "a\tNOUN\nb\tVERB\n\n\nc\tVERB\nd\tX\n\n",
            "ours/XCOPA/et.jsonl": choices("0", 1) + "\n",
            "ours/mlqa/predictions.mlqa.de.de.json": json.dumps({"data": {"a": "das Haus"}}),
            "ours/notes/readme.md": "",
        },
    )
    output = tmp_path / "out"
    words = ["xtreme", "score", str(tmp_path / "ours"), str(tmp_path / "labels")]
    assert main.main([*words, "--output", str(output)]) == 0
    out = capsys.readouterr().out
    assert "official: " in out and "FileNotFoundError" in out
    assert f"{tmp_path / 'ours/notes'}: belongs to no task, and is ignored" in out
    written = {p.relative_to(output).as_posix(): p.read_bytes() for p in output.rglob("*.*")}
    assert written == {
        "xnli/test-de.tsv": b"neutral\nneutral\n",
        "udpos/test-de.tsv": b"NOUN\nVERB\n\nVERB\nX\n",
        "xcopa/test-et.jsonl": b'{"label": 0}\n{"label": 1}\n',
        "mlqa/test-de.json": b'{\n "a": "das Haus"\n}\n',
    }
    result = scoring.score(output, tmp_path / "labels", MODES, ["xtreme-r"])
    assert result.scores["official"]["xnli"]["de"] == {"accuracy": 50}
    assert result.scores["official"]["udpos"]["de"]["f1"] == pytest.approx(OFFICIAL_UDPOS)
    assert result.scores["official"]["xcopa"]["et"] == {"accuracy": 100}
    assert result.scores["official"]["mlqa"]["de"] == {"exact_match": 100, "f1": 100}


FAULTS = [
    (
        "xnli",
        rows("a", "b", "c"),
        rows("a"),
        "test-de.tsv:1: 1 lines for 3 of the labels: 2 missing",
    ),
    (
        "xnli",
        rows("a"),
        "",
        "test-de.tsv: the file is empty: 0 lines for 1 of the labels: 1 missing",
    ),
    ("xnli", rows("a"), rows("a", "b"), "2 lines for 1 of the labels: 1 too many"),
    ("xnli", rows("a", "b", "c"), rows("a", "", "c"), "test-de.tsv:2: 1 of 3 lines cannot be read"),
    ("pawsx", rows(1), rows("1\tsentence"), "test-de.tsv:1: has 2 columns"),
    (
        "panx",
        rows("O", "", "O", "O"),
        rows("O", "", "O"),
        "test-de.tsv:3: sentence 2 has 1 tags, and 2 in the labels, from line 3 on",
    ),
    ("panx", rows("O", "", "O"), rows("O"), "1 sentences for 2 of the labels: 1 missing"),
    ("tatoeba", rows(1), rows("Guten Tag"), "test-de.tsv:1: 'Guten Tag' is no index"),
    ("bucc2018", rows("a\tb"), rows("0.5\ta\tb"), "test-de.tsv:1: has 3 column(s), not 2"),
    ("mlqa", squad(a=["b"]), '{"a": "b",\n"a": "c"}', "an object has the key 'a' twice"),
    ("mlqa", squad(a=["b"]), '{"a": "b",\n"c"', "test-de.json:2: the file is no JSON"),
    ("mlqa", squad(a=["b"]), '{"a": ["b"]}', "test-de.json: a: \"['b']\""),
    ("mlqa", squad(a=["b"]), "[]", "the file holds no JSON object, but a list"),
    ("mlqa", squad(a=[""]), '{"a": "b"}', "1 of 1 examples have no label, the first is a"),
    ("mlqa", '{"data": [{}]}', '{"a": "b"}', "the file is not in SQuAD's format"),
    ("mewslix", '{"a": ["Q1"]}', '{"a": "Q1"}', "test-de.json: a: \"'Q1'\""),
    ("mewslix", '{"a": []}', '{"a": ["Q1"]}', "1 of 1 examples have no label, the first is a"),
    ("xnli", "", "", "there are no labels"),
]


@pytest.mark.parametrize(("task", "gold", "predicted", "message"), FAULTS)
def test_faults_are_named_with_their_places(
    task: str,
    gold: str,
    predicted: str,
    message: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folders = one_file(tmp_path, task, gold, predicted)
    benchmark = "xtreme" if task in BENCHMARKS["xtreme"] else "xtreme-r"
    words = ["xtreme", "score", *map(str, folders), "--benchmark", benchmark]
    assert main.main(words) == 3
    err = capsys.readouterr().err
    assert "1 file(s) have no score" in err and message in err


@pytest.mark.parametrize(
    ("task", "gold", "predicted", "message"),
    [
        # json takes no blanks but those of JSON.
        ("xcopa", choices(0), '{"label": 0}\u2028\n', "JSONDecodeError: Extra data"),
        ("panx", rows("O", "", "O"), rows("O", "", "O", "O"), "sentence 2 has 2 tags, and 1 in"),
        ("xnli", rows("a"), rows("a", ""), "2 predictions for 1 labels"),
    ],
)
def test_why_the_published_script_stops(
    task: str, gold: str, predicted: str, message: str, tmp_path: Path
) -> None:
    write(tmp_path, {"gold": gold, "predicted": predicted})
    with pytest.raises(DataError, match=message):
        metrics.official(tmp_path / "gold", tmp_path / "predicted", task, "de")


def test_a_choice_without_a_label_is_named(tmp_path: Path) -> None:
    text = choices(1) + '{"answer": 1}\n' + choices(2) + choices(True)
    folders = one_file(tmp_path, "xcopa", choices(0, 0, 0, 0), text, "et")
    (fault,) = scoring.score(*folders, ("corrected",), ["xtreme-r"]).faults
    assert "test-et.jsonl:2: 3 of 4 lines cannot be read (test-et.jsonl:2: " in fault


def test_what_counts_as_wrong_is_noted(tmp_path: Path) -> None:
    folders = one_file(tmp_path, "xnli", rows("neutral", "neutral"), rows("neutral", "Neutral"))
    answers = json.dumps({"a": "x", "d": "y"})
    one_file(tmp_path, "mlqa", squad(a=["x"], b=["y"], c=["z"]), answers)
    result = scoring.score(*folders, ("corrected",), ["xtreme-r"])
    mlqa = folders[0] / "mlqa/test-de.json"
    assert result.notes == [
        f"{folders[0] / 'xnli/test-de.tsv'}:2: 'Neutral' is no label of xnli: it counts as wrong",
        f"{mlqa}: 2 ids are missing, and count 0: b, c",
        f"{mlqa}: 1 ids have no label, and are ignored: d",
    ]
    assert result.scores["corrected"]["mlqa"]["de"]["f1"] == pytest.approx(100 / 3)
    assert "all_task" not in result.report("xtreme-r")["corrected"]


def test_the_command_prints_and_writes_everything(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    predictions, labels = submission(tmp_path, "xtreme-r")
    shutil.rmtree(predictions / "tatoeba")
    (labels / "xquad/test-ro.json").unlink()
    file = tmp_path / "scores.json"
    words = ["xtreme", "score", str(predictions), str(labels)]
    assert main.main([*words, "--json", str(file)]) == 0
    lines = capsys.readouterr().out.splitlines()
    table = [line.split() for line in lines]
    assert ["task", "metric", "official", "corrected", "languages"] in table
    assert ["xnli", "accuracy", "50.00", "50.00", "15", "of", "15"] in table
    assert ["udpos", "f1", f"{OFFICIAL_UDPOS:.2f}", "-", "38", "of", "38"] in table
    assert ["xquad", "exact_match", "-", "50.00", "11", "of", "12"] in table
    assert ["lareqa", "map@20", "-", "91.67", "11", "of", "11"] in table
    assert ["all", "tasks", "mean", "-", "-"] in table
    assert "missing labels: xquad: ro" in lines
    assert "missing predictions: tatoeba: all languages" in lines
    report = json.loads(file.read_text())
    assert report["xtreme-r"]["corrected"]["mlqa"]["f1"]["zh"] == pytest.approx(250 / 3)
    assert report["missing"]["xquad"] == {"labels": ["ro"]}
    main.main([*words, "--mode", "corrected"])
    assert "official" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["--mode", "official", "--output", "new"], 2, "--output has no effect with"),
        (["--output", "labels"], 3, "labels: this exists already"),
        (["--benchmark", "xtreme-s"], 2, "invalid choice: 'xtreme-s'"),
    ],
)
def test_options_without_effect_are_refused(
    words: list[str],
    code: int,
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    one_file(tmp_path, "xnli", *TASKS["xnli"])
    monkeypatch.chdir(tmp_path)
    assert main.main(["xtreme", "score", "predictions", "labels", *words]) == code
    assert message in capsys.readouterr().err


def test_folders_that_are_none_or_ambiguous_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    predictions, labels = one_file(tmp_path, "xnli", *TASKS["xnli"])
    for name, message in (("none", "there is no such folder"), ("empty", "no file of any task")):
        (tmp_path / "empty").mkdir(exist_ok=True)
        assert main.main(["xtreme", "score", str(tmp_path / name), str(labels)]) == 3
        assert message in capsys.readouterr().err
    write(predictions, {"xnli/a.de.tsv": "", "xnli/en.tsv": "", "xnli/en.txt": ""})
    assert main.main(["xtreme", "score", str(predictions), str(labels)]) == 3
    assert "2 files are those of the language en" in capsys.readouterr().err
    (predictions / "xnli/en.txt").unlink()
    write(predictions, {"XNLI-/de.tsv": ""})
    assert main.main(["xtreme", "score", str(predictions), str(labels)]) == 3
    assert "two folders are those of xnli" in capsys.readouterr().err
