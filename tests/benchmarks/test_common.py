"""Data files, their task types, and the figures of runs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks import common, matmuls, run
from flaxfer.errors import ConfigError, DataError, FlaxferError
from flaxfer.models.families import read_config
from flaxfer.runtime import host
from tests.helpers import encoder_config


def written(tmp_path: Path, name: str, text: str) -> Path:
    path = tmp_path / name
    path.write_text(text, encoding="utf-8")
    return path


def test_pairs_with_scores_without_a_header(tmp_path: Path) -> None:
    texts = common.read(written(tmp_path, "a.csv", 'a,"b, c",5.0\n"d ""e""",f,0.25\n'))
    assert (texts.text_a, texts.text_b) == (["a", 'd "e"'], ["b, c", "f"])
    assert texts.targets() == [5.0, 0.25]
    assert texts.layout == common.Layout(
        {"text_a": 0, "text_b": 1, "label": 2}, False, "regression", (), (0.25, 5.0)
    )


def test_only_line_feeds_end_a_record(tmp_path: Path) -> None:
    texts = common.read(written(tmp_path, "a.csv", "a\u2028b,c\x85d,5.0\ne,f,0.25\n"))
    assert (texts.text_a, texts.text_b) == (["a\u2028b", "e"], ["c\x85d", "f"])


def test_texts_with_classes_below_a_header(tmp_path: Path) -> None:
    texts = common.read(written(tmp_path, "a.tsv", 'label\ttext\n1\tgood "film\n0\tbad\n1\tfine\n'))
    assert (texts.text_a, texts.text_b) == (['good "film', "bad", "fine"], None)
    assert texts.targets() == [1, 0, 1]
    assert texts.layout.task_type == "classification" and texts.layout.labels == ("0", "1")
    assert texts.first(2).targets() == [1, 0]


def test_options_override_the_layout_of_the_file(tmp_path: Path) -> None:
    path = written(tmp_path, "a.tsv", "x\t3\ta\tb\nx\t4\tc\td\n")
    texts = common.read(path, "text_a=2,text_b=3,label=1", "regression")
    assert texts.targets() == [3.0, 4.0] and texts.text_b == ["b", "d"]


@pytest.mark.parametrize(
    ("text", "columns", "task", "message"),
    [
        ("one\ntwo\n", "", "auto", "is neither a header"),
        ("a,b,good\nc,d,bad\n", "", "auto", "is neither a header"),
        ("a,b,1.5\nc,d,x1\n", "", "regression", "label 'x1' is not a score"),
        ("a,b,1.5\nc,d\n", "", "auto", "has 2 column"),
        ("text,label\na,1\n", "text_a=words,label=label", "auto", "no column 'words'"),
        ("a,b,1.5\n", "", "auto", "holds no examples"),
    ],
)
def test_unusable_data_are_refused(
    tmp_path: Path, text: str, columns: str, task: str, message: str
) -> None:
    with pytest.raises(DataError, match=message) as caught:
        common.read(written(tmp_path, "a.csv", text), columns, task)
    assert caught.value.hint


def test_malformed_columns_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="text_a and label"):
        common.read(written(tmp_path, "a.csv", "a,1\nb,2\n"), "text=0,label=1")


def test_figures_of_a_run() -> None:
    measured = common.Measured(
        examples=60, tokens=900, slots=1200, steps=3, seconds=2.0, stall_seconds=0.5
    )
    figures = measured.result()
    assert figures["examples_per_s"] == 30.0 and figures["useful_tokens_per_s"] == 450.0
    assert figures["padding_share"] == 0.25 and figures["input_stall_share"] == 0.25
    assert 10 * 2**20 < figures["peak_rss_bytes"] < 2**40


def test_since_start_counts_from_the_start_of_the_process() -> None:
    code = (
        "import time; time.sleep(0.3); from benchmarks import common; print(common.since_start())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, cwd=common.ROOT)
    assert 0.3 <= float(done.stdout) < 60


def test_matmuls_of_a_small_encoder() -> None:
    encoder = encoder_config(layers=2)  # Width 16, four heads of 4, feed-forward width 32.
    counts = matmuls.matmuls(encoder, rows=3, row_length=8, train=True)
    assert counts[(1, 24, 16, 16)] == 2 * 4 * 2  # y and dx have the same shape.
    assert counts[(1, 16, 24, 16)] == 2 * 4
    assert counts[(1, 24, 16, 32)] == 2 * 2 and counts[(1, 24, 32, 16)] == 2 * 2
    assert counts[(1, 16, 24, 32)] == 2 and counts[(1, 32, 24, 16)] == 2
    maps = 4 * 24 * 16 * 16 + 2 * 24 * 16 * 32
    attention = 2 * 3 * 4 * 8 * 8 * 4
    flops = sum(2 * b * m * k * n * count for (b, m, k, n), count in counts.items())
    assert flops == 2 * 3 * 2 * (maps + attention)
    forward = matmuls.matmuls(encoder, rows=3, row_length=8, train=False)
    assert 3 * sum(2 * b * m * k * n * count for (b, m, k, n), count in forward.items()) == flops


def test_matmuls_of_relative_attention_are_refused() -> None:
    settings = {"model_type": "xlnet", "vocab_size": 9, "d_model": 8, "n_head": 2, "n_layer": 1}
    with pytest.raises(ConfigError, match="XLNet"):
        matmuls.matmuls(read_config(settings | {"d_inner": 16}), 1, 8, train=True)


def test_cache_state(tmp_path: Path) -> None:
    assert common.cache_state(None) == "none"
    assert common.cache_state(tmp_path / "new") == common.cache_state(tmp_path) == "cold"
    (tmp_path / "program").touch()
    assert common.cache_state(tmp_path) == "warm"


def test_changed_code_makes_a_commit_dirty_but_changed_records_do_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def git(*words: str) -> str:
        who = ("-c", "user.name=t", "-c", "user.email=t@example.org")
        return subprocess.run(
            ["git", *who, *words], cwd=tmp_path, capture_output=True, text=True, check=True
        ).stdout.strip()

    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert common.commit(tmp_path) == ""
    record, code = tmp_path / common.RECORDS / "a.jsonl", tmp_path / "a.py"
    record.parent.mkdir(parents=True)
    for file in (record, code):
        file.write_text("1\n")
    git("init")
    git("add", ".")
    git("commit", "-m", "first")
    record.write_text("2\n")
    assert common.commit(tmp_path) == git("rev-parse", "--short=12", "HEAD")
    code.write_text("2\n")
    assert common.commit(tmp_path) == git("rev-parse", "--short=12", "HEAD") + "-dirty"


@pytest.mark.parametrize(
    ("flags", "kind", "dtype"),
    [
        ({"avx2"}, "avx2", "float32"),
        ({"avx2", "avx512f"}, "avx512", "float32"),
        ({"avx2", "avx512f", "avx512_bf16"}, "avx512-bf16", "bfloat16"),
        ({"avx2", "avx512f", "avx512_bf16", "amx_bf16"}, "amx", "bfloat16"),
        (set(), "cpu", "float32"),
    ],
)
def test_peers_multiply_in_the_faster_dtype_of_the_cpu(
    flags: set[str], kind: str, dtype: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(host, "cpu_flags", lambda: frozenset(flags))
    assert common.kind_of_cpu(flags) == kind
    assert common.torch_dtype() == dtype and common.torch_dtype("cuda") == "bfloat16"
    assert run.SIDES["trainer-compile"].label_of(dtype) == (
        f"Trainer, {dtype}, grouped by length, torch.compile"
    )


SCRIPT = """import json, sys
print("noise")
print(json.dumps({"examples_per_s": 2.0, "settings": {"dtype": "float32"}, "argv": sys.argv[1:]}))
"""


def test_runs_take_turns_and_their_lines_are_stored(tmp_path: Path, capsys: Any) -> None:
    python = tmp_path / "python"
    python.write_text(f"#!{sys.executable}\n{SCRIPT}")
    python.chmod(0o755)
    for place in (*run.STS, "model/x"):
        (tmp_path / place).parent.mkdir(exist_ok=True)
        (tmp_path / place).touch()
    words = ["--only", "sts-minilm", "imdb-minilm", "--rounds", "2", "--steps", "4"]
    words += ["--data", str(tmp_path), "--minilm", str(tmp_path / "model"), "--out", str(tmp_path)]
    words += ["--peers", "flax", "trainer-grouped", "--cache", str(tmp_path / "cache")]
    for name in ("--python", "--python-torch", "--python-flax"):
        words += [name, str(python)]
    run.main(words)
    file = tmp_path / f"sts-minilm-{common.kind_of_cpu(host.cpu_flags())}.jsonl"
    records = [json.loads(x) for x in file.read_text().splitlines()]
    assert [(r["round"], r["label"], r["argv"][1]) for r in records] == [
        (n, label, module)
        for n in (0, 1)
        for label, module in (
            ("flaxfer, float32", "benchmarks.train_throughput"),
            ("Trainer, float32, grouped by length", "benchmarks.peer_trainer"),
            ("Flax classes, padded to full length", "benchmarks.peer_flax"),
            ("flaxfer, float32", "benchmarks.eval_throughput"),
            ("Trainer, float32, grouped by length", "benchmarks.peer_trainer"),
            ("Flax classes, padded to full length", "benchmarks.peer_flax"),
        )
    ]
    assert [r["argv"].count("--eval") for r in records[:6]] == [0, 0, 0, 0, 1, 1]
    assert [r["argv"].count("--cache") for r in records[:3]] == [1, 0, 1], "only what compiles"
    assert records[0]["argv"][records[0]["argv"].index("--steps") + 1] == "4"
    assert f"imdb-minilm: skipped, there is no {tmp_path}/imdb-sample" in capsys.readouterr().out


def test_a_packaged_model_is_used(tmp_path: Path, monkeypatch: Any) -> None:
    package = tmp_path / run.WEIGHTS
    package.mkdir()
    (package / "__init__.py").touch()
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    assert run.packaged_model(sys.executable) == package / "model"
    assert run.packaged_model(str(tmp_path / "no_python")) is None


def test_a_failed_run_is_reported_with_its_output(tmp_path: Path) -> None:
    with pytest.raises(FlaxferError, match="exit code 1") as caught:
        run.measure([sys.executable, "-c", "raise SystemExit('no weights')"])
    assert caught.value.details == ("no weights",)
    with pytest.raises(ConfigError, match="cannot be started") as absent:
        run.measure([str(tmp_path / "python")])
    assert "make bench-setup" in str(absent.value) and os.path.sep in str(absent.value)
