"""From files to a config that passes the check, for every task type."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from flaxfer import main
from flaxfer.config import Config, loading
from flaxfer.study.python_text import Code, Section, render
from flaxfer.tasks import TASK_TYPES
from tests.helpers import WORDS, restored_compilation_cache, tiny_model

WORLD = ["die", "der", "das", "ist", "nicht", "schön", "für", "Größe"]
Write = Callable[[Path, np.random.Generator], str]


def texts(rng: np.random.Generator, n: int, words: list[str] = WORDS) -> list[str]:
    return [" ".join(rng.choice(words, rng.integers(5, 12))) for _ in range(n)]


def german(folder: Path, rng: np.random.Generator) -> str:
    """Reviews as Excel writes them in Germany, and French ones beside them."""
    for code in ("de", "fr"):
        rows = [
            f"{text};{('gut', 'schlecht')[i % 2]}" for i, text in enumerate(texts(rng, 80, WORLD))
        ]
        content = "\r\n".join(["Text;Bewertung", *dict.fromkeys(rows)]) + "\r\n"
        (folder / f"reviews_{code}.csv").write_bytes(content.encode("cp1252"))
    return "reviews_de.csv"


def scored(folder: Path, rng: np.random.Generator) -> str:
    """Pairs with scores in three splits of two languages, without a header."""
    for code in ("en", "de"):
        for split in ("train", "dev", "test"):
            pairs = zip(texts(rng, 40), texts(rng, 40), rng.uniform(0, 5, 40), strict=True)
            lines = "".join(f'"{a}",{b},{score:.2f}\n' for a, b, score in pairs)
            (folder / f"sts-{code}-{split}.csv").write_text(lines)
    return "sts-en-train.csv"


def tagged(folder: Path, rng: np.random.Generator) -> str:
    """Words and entities with blanks between, as in CoNLL-2003."""
    for name in ("eng.train", "eng.testa", "eng.testb"):
        lines = ["-DOCSTART- -X- -X- O", ""]
        for text in texts(rng, 40):
            lines += [f"{w} NN {'B' if i else 'I'}-NP {'B-PER' if w == 'man' else 'O'}"
                      for i, w in enumerate(text.split())]  # fmt: skip
            lines.append("")
        (folder / name).write_text("\n".join([*lines, "man NN I-NP B-PER", ""]))
    return "eng.train"


def answered(folder: Path, rng: np.random.Generator) -> str:
    """Questions as in SQuAD."""
    paragraphs = []
    for i, text in enumerate(texts(rng, 40)):
        answers = [{"text": text.split()[0], "answer_start": 0}]
        question = {"id": f"q{i}", "question": "the man plays what", "answers": answers}
        paragraphs.append({"context": f"{text} {i}", "qas": [question]})
    content = {"data": [{"title": "t", "paragraphs": paragraphs}]}
    (folder / "questions.json").write_text(json.dumps(content))
    return "questions.json"


def chosen(folder: Path, rng: np.random.Generator) -> str:
    """Choices as in COPA, with a column of languages."""
    lines = []
    for i, text in enumerate(texts(rng, 90)):
        record: dict[str, Any] = {
            "premise": text,
            "choice1": texts(rng, 1)[0],
            "choice2": f"is {i}",
        }
        record |= {"question": ("cause", "effect")[i % 2], "label": i % 2}
        lines.append(json.dumps(record | {"language": ("de", "en")[i % 3 == 0]}))
    (folder / "copa.jsonl").write_text("\n".join(lines))
    return "copa.jsonl"


def written_records(folder: Path, rng: np.random.Generator) -> str:
    """Reviews with empty texts, missing labels, five stars and a column of splits."""
    stars = ["", *"12345"]
    rows = [
        {"id": i, "review": text if i % 20 else "", "stars": stars[i % 6],
         "split": ("train", "train", "validation", "test")[i % 4]}
        for i, text in enumerate(texts(rng, 150))
    ]  # fmt: skip
    (folder / "records.json").write_text(json.dumps({"rows": rows}))
    return "records.json"


WRITERS: dict[str, tuple[Write, str, list[str]]] = {
    "german": (german, "classification", ["fr", "test"]),
    "scored": (scored, "regression", ["de", "test"]),
    "tagged": (tagged, "tagging", ["test"]),
    "answered": (answered, "question_answering", ["test"]),
    "chosen": (chosen, "multiple_choice", ["de", "test"]),
    "records": (written_records, "classification", ["test"]),
}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model(tmp_path_factory.mktemp("model") / "tiny", "bert", layers=1)


@pytest.fixture(autouse=True)
def inside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def load(file: str) -> Config:
    config = loading.load(file, TASK_TYPES)
    assert isinstance(config, Config)
    return config


@pytest.mark.parametrize("name", WRITERS)
def test_from_a_file_to_a_checked_config(
    name: str, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write, kind, evaluated = WRITERS[name]
    rng = np.random.default_rng(0)
    file = write(tmp_path, rng)
    (tmp_path / "nli.tsv").write_text(
        "label\tpremise\thypothesis\n"
        + "".join(f"{'yn'[i % 2]}\t{a}\t{b}\n"
                  for i, (a, b) in enumerate(zip(texts(rng, 60), texts(rng, 60), strict=True)))
    )  # fmt: skip
    words = ["init", "study.py", "--target", file, "--intermediate", "nli.tsv"]
    assert main.main([*words, "--model", str(model)]) == 0
    out, err = capsys.readouterr()
    assert f"target ({kind})" in out and "intermediate (classification)" in out and not err
    for command in (["check", "study.py"], ["--config", "study.py", "--check"]):
        code = main.main(command)
        out, err = capsys.readouterr()
        assert (code, err) == (0, ""), f"{out}{err}\n{Path('study.py').read_text()}"
        assert out.endswith("nothing would stop a run\n")
        for split in ("train", "dev", *evaluated):
            assert f"\n  {split:<5}  " in out
    config = load("study.py")
    assert config.target.task.type == kind and config.conditions == ("direct", "staged")
    text = Path("study.py").read_text()
    assert len(text.splitlines()) <= 60
    for command in (["check", "--isolated", "--select=E,F,I,UP,B,SIM,RUF", "--line-length=100"],
                    ["format", "--check", "--isolated", "--line-length=100"]):  # fmt: skip
        done = subprocess.run(
            [sys.executable, "-m", "ruff", *command, "study.py"], capture_output=True, text=True
        )
        assert done.returncode == 0, f"{done.stdout}{done.stderr}{text}"


def test_what_the_german_file_holds_is_in_its_config(model: Path, tmp_path: Path) -> None:
    german(tmp_path, np.random.default_rng(0))
    assert main.main(["init", "s.py", "--target", "reviews_de.csv", "--model", str(model)]) == 0
    config = load("s.py")
    (source,) = config.target.data.train
    assert (source.path, source.delimiter, source.encoding) == ("reviews_de.csv", ";", "cp1252")
    assert source.columns == {"text_a": "Text", "label": "Bewertung"}
    assert (source.language, config.target.evaluate["fr"].language) == ("de", "fr")
    assert config.target.task.labels == ("gut", "schlecht")
    assert config.conditions == ("direct",) and config.margin == {}
    assert config.target.train.max_length == 64  # What the model takes.


def test_without_a_model_a_placeholder_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [f"some text {i} about it,{'ab'[i % 2]},{'xy'[i // 2 % 2]}\n" for i in range(20)]
    (tmp_path / "a.csv").write_text("text,kind,mood\n" + "".join(rows))
    assert main.main(["init", "s.py", "--target", "a.csv"]) == 0
    assert "Replace what begins with TODO" in capsys.readouterr().out
    assert main.main(["check", "s.py"]) == 2
    out, err = capsys.readouterr()
    assert "error: s.py: 4 setting(s) are still to be filled in" in err
    for key in ("model.path", "target.data.train.0.columns.label", "target.task.labels.0"):
        assert f"  - {key}: is still to be filled in: " in err
    assert "data.train.0: not read" in out
    assert main.main(["run", "s.py"]) == 2
    assert "model.path: is still to be filled in" in capsys.readouterr().err
    text = Path("s.py").read_text()
    text = text.replace("\"TODO: the column of the labels; left are 'kind', 'mood'\"", '"kind"')
    text = text.replace("TODO: name of the first class", "a")
    Path("s.py").write_text(text.replace("TODO: name of the second", "b"))
    assert main.main(["check", "s.py"]) == 2
    out, err = capsys.readouterr()
    assert "1 setting(s)" in err and "  train  14 examples; en 14; a " in out


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["there.py", "--target", "a.csv"], 2, "there.py: the file exists already\n"),
        (["new.yaml", "--target", "a.csv"], 2, "write new.py instead"),
        (["no/new.py", "--target", "a.csv"], 2, "no: there is no such folder"),
        (["new.py", "--target", "b.csv"], 3, "b.csv: there is no such file"),
        (["new.py", "--target", "a.csv", "--model", "nowhere"], 3, "nowhere: there is no such fol"),
        (["new.py", "--target", "a.csv", "--task", "nlp"], 2, "invalid choice: 'nlp'"),
        (["new.py", "--target", "a.csv", "--task", "tagging"], 3, "no two columns hold lists"),
        (["new.py"], 2, "the following arguments are required: --target"),
    ],
)
def test_what_init_cannot_do_is_an_error(
    words: list[str], code: int, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("there.py").write_text("x = 1\n")
    Path("a.csv").write_text("text,label\n" + "some words of text,a\nmore words of text,b\n" * 5)
    assert main.main(["init", *words]) == code
    assert message in capsys.readouterr().err
    assert Path("there.py").read_text() == "x = 1\n" and not Path("new.py").exists()


def test_init_overwrites_a_file_only_if_told(capsys: pytest.CaptureFixture[str]) -> None:
    Path("s.py").write_text("x = 1\n")
    Path("a.csv").write_text("text,label\n" + "some words of text,a\nmore words of text,b\n" * 5)
    assert main.main(["init", "s.py", "--target", "a.csv", "--replace", "--model", "me/some"]) == 0
    assert load("s.py").model.hub == "me/some"


def test_init_needs_no_jax(tmp_path: Path) -> None:
    Path("a.csv").write_text("text,label\n" + "some words of text,a\nmore words of text,b\n" * 5)
    command = [sys.executable, "-X", "importtime", "-m", "flaxfer", "init", "s.py"]
    environment = os.environ | {"PYTHONPATH": str(Path(main.__file__).parents[1])}
    done = subprocess.run(
        [*command, "--target=a.csv"], env=environment, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    imported = {line.split("|")[-1].strip() for line in done.stderr.splitlines()}
    assert not imported & {"jax", "flax", "transformers", "datasets", "pyarrow", "torch"}


def test_python_text_is_valid_and_the_value() -> None:
    long = "word " * 30
    value = Section(
        {"a": {"is": 1, "b c": 2.5}, "b": ("x",), "c": {"de": (1, "it's")}, "d": Code("A")},
        {"a": "note " * 40},
        "B",
    )
    for each in (value, (long, long), {"a": {"b": long}}, 'say "no"', 'it\'s "no"', "ü\n\\"):
        found = eval(render(each), {"A": 1, "B": {"z": 0}})
        if isinstance(each, Section):
            assert found == {**each.items, "d": 1, "z": 0}
        else:
            assert found == each
    assert max(map(len, render(value).splitlines())) <= 100


PUBLISHED = [
    ("stsb-multi-mt/stsb-en-train.csv", 6),
    ("pattern-reviews/polarity-nl-bol.com.csv", 0),
    ("xquad/xquad.en.json", 11),
    ("glue-samples/MNLI/train.tsv", 0),
]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "sets"), PUBLISHED)
def test_published_files_become_checked_configs(
    name: str, sets: int, shared: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["init", "s.py", "--target", str(shared / "data" / name)]
    assert main.main([*words, "--model", str(shared / "models/me5-small-32k-xlmr")]) == 0
    assert main.main(["check", "s.py"]) == 0, capsys.readouterr()
    assert len(load("s.py").target.evaluate) >= sets


@pytest.fixture
def compilation_cache() -> Iterator[None]:
    with restored_compilation_cache():
        yield


@pytest.mark.slow
@pytest.mark.usefixtures("compilation_cache")
@pytest.mark.parametrize("name", ["german", "tagged"])
def test_a_written_config_runs_as_it_stands(
    name: str, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FLAXFER_CACHE", str(tmp_path / "cache"))
    file = WRITERS[name][0](tmp_path, np.random.default_rng(0))
    assert main.main(["init", "study.py", "--target", file, "--model", str(model)]) == 0
    short = ["--config.seeds=(0,)", "--config.train.max_steps=2", "--config.transferability=0"]
    assert main.main(["run", "study.py", *short]) == 0
    assert Path("runs/study/report.html").exists()
