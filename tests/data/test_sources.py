from __future__ import annotations

import csv
import dataclasses
import gzip
import io
import json
import logging
import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from flaxfer.config import Data, Source, Task
from flaxfer.data.sources import Examples, load_splits, read_source
from flaxfer.errors import ConfigError, DataError

NLI = Task("nli", "classification", "accuracy", labels=("entailment", "neutral", "contradiction"))
STS = Task("sts", "regression", "pearson", score_range=(0.0, 5.0))
PAIRS = {"text_a": "a", "text_b": "b", "label": "y"}
ROWS = [
    ("A man eats.", "A man is eating.", "entailment"),
    ("Ein Hund — läuft.", "他在跑步。", "neutral"),
    ('He said "no", twice', "two\nlines, one field", "contradiction"),
]


def write_csv(path: Path, rows: Sequence[tuple[str, ...]] = ROWS, **options: Any) -> Path:
    out = io.StringIO(newline="")
    csv.writer(out, **options).writerows([("a", "b", "y"), *rows])
    path.write_bytes(out.getvalue().encode())
    return path


def write_jsonl(path: Path) -> Path:
    lines = [json.dumps(dict(zip("aby", row, strict=True))) for row in ROWS]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def write_json(path: Path) -> Path:
    path.write_text(json.dumps([dict(zip("aby", row, strict=True)) for row in ROWS]))
    return path


def write_parquet(path: Path) -> Path:
    import pyarrow
    import pyarrow.parquet

    columns = dict(zip("aby", map(list, zip(*ROWS, strict=True)), strict=True))
    pyarrow.parquet.write_table(pyarrow.table(columns), path)
    return path


WRITERS: dict[str, Callable[[Path], Path]] = {
    "data.csv": write_csv,
    "data.jsonl": write_jsonl,
    "data.json": write_json,
    "data.parquet": write_parquet,
}


def text_file(folder: Path, text: str | bytes, name: str = "data.tsv") -> str:
    path = folder / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return str(path)


def refusal(source: Source, task: Task = NLI) -> DataError:
    with pytest.raises(DataError) as caught:
        read_source(source, task)
    return caught.value


@pytest.mark.parametrize("packed", [False, True], ids=["plain", "gz"])
@pytest.mark.parametrize("name", WRITERS)
def test_formats(name: str, packed: bool, tmp_path: Path) -> None:
    path = WRITERS[name](tmp_path / name)
    if packed:
        path = tmp_path / f"{name}.gz"
        path.write_bytes(gzip.compress((tmp_path / name).read_bytes()))
    examples = read_source(Source(path.name, columns=PAIRS, rows=3), NLI, str(tmp_path))
    assert examples.text_a == tuple(row[0] for row in ROWS)
    assert examples.text_b == tuple(row[1] for row in ROWS)
    assert examples.label.tolist() == [0, 1, 2] and examples.label.dtype == np.int32
    assert examples.id == ("data:1", "data:2", "data:3")
    assert examples.language == ("en",) * 3 and examples.domain == ("",) * 3


def test_csv_agrees_with_pandas_writer(tmp_path: Path) -> None:
    """Fields with every character that matters to the format survive, in any quoting."""
    draw = random.Random(0)
    rows = [
        ("".join(draw.choices('ab",\n \t\u2028\x85é', k=9)) + "x", "y,", "neutral")
        for _ in range(200)
    ]
    for quoting in (csv.QUOTE_MINIMAL, csv.QUOTE_ALL):
        path = write_csv(tmp_path / "data.csv", rows, quoting=quoting)
        examples = read_source(Source(str(path), columns=PAIRS), NLI)
        assert examples.text_a == tuple(row[0] for row in rows)


def test_quotes_literal_in_tsv(tmp_path: Path) -> None:
    path = text_file(tmp_path, 'y\ta\tb\nneutral\t"open\tand "shut"\nneutral\t""\t"\n')
    examples = read_source(Source(path, columns=PAIRS), NLI)
    assert examples.text_a == ('"open', '""')
    assert examples.text_b == ('and "shut"', '"')
    quoted = text_file(tmp_path, 'y\ta\tb\nneutral\t"a\t\nb\rc"\t"say ""x"""\n')
    examples = read_source(Source(quoted, quotes="csv", columns=PAIRS), NLI)
    assert (examples.text_a, examples.text_b) == (("a\t\nb\rc",), ('say "x"',))


def test_columns_by_number_without_header(tmp_path: Path) -> None:
    path = text_file(tmp_path, "neutral\tx\t7\ty\nentailment\tz\t8\tw\textra\n")
    columns = {"label": 0, "text_a": 3, "text_b": 1, "id": 2}
    examples = read_source(Source(path, header=False, columns=columns), NLI)
    assert examples.text_a == ("y", "w") and examples.text_b == ("x", "z")
    assert examples.id == ("7", "8") and examples.label.tolist() == [1, 0]


def test_last_of_max_columns_takes_the_rest(tmp_path: Path) -> None:
    path = text_file(tmp_path, "neutral not  my film\nentailment  indented\n", "data.all")
    source = Source(
        path,
        format="tsv",
        delimiter=" ",
        max_columns=2,
        header=False,
        columns={"label": 0, "text_a": 1},
    )
    examples = read_source(source, NLI)
    assert examples.text_a == ("not  my film", " indented") and examples.text_b is None


def test_bom_and_crlf(tmp_path: Path) -> None:
    path = text_file(tmp_path, b"\xef\xbb\xbfa\ty\r\none\tneutral\r\ntwo\tneutral")
    examples = read_source(Source(path, columns={"text_a": "a", "label": "y"}), NLI)
    assert examples.text_a == ("one", "two")
    utf16 = text_file(tmp_path, "a\ty\none\tneutral\n".encode("utf-16"))
    source = Source(utf16, encoding="utf-16", columns={"text_a": "a", "label": "y"})
    assert read_source(source, NLI).text_a == ("one",)


def test_only_line_feeds_end_a_line(tmp_path: Path) -> None:
    path = text_file(tmp_path, "a\ty\none\u2028two\x85three\x0bfour\tneutral\n")
    examples = read_source(Source(path, columns={"text_a": "a", "label": "y"}), NLI)
    assert examples.text_a == ("one\u2028two\x85three\x0bfour",)


def test_fields_longer_than_the_csv_module_allows(tmp_path: Path) -> None:
    path = write_csv(tmp_path / "data.csv", [("x" * 300_000, "b", "neutral")])
    assert len(read_source(Source(str(path), columns=PAIRS), NLI).text_a[0]) == 300_000


def test_aligned_files(tmp_path: Path) -> None:
    text_file(tmp_path, "one\ntwo\nthree", "text.txt")
    text_file(tmp_path, "neutral\nneutral\nentailment\n", "label.txt")
    text_file(tmp_path, "de\r\nfr\r\nde\r\n", "language.txt")
    aligned = {"text_a": "text.txt", "label": "label.txt", "language": "language.txt"}
    source = Source(str(tmp_path), format="lines", aligned=aligned, domain="tweets")
    examples = read_source(source, NLI)
    assert examples.text_a == ("one", "two", "three") and examples.label.tolist() == [1, 1, 0]
    assert examples.language == ("de", "fr", "de") and examples.domain == ("tweets",) * 3
    assert examples.id[0] == "text:1"
    only = dataclasses.replace(source, keep={"language": ("de",)})
    assert read_source(only, NLI).text_a == ("one", "three")
    text_file(tmp_path, "neutral\nneutral\n", "label.txt")
    error = refusal(source)
    assert "label: label.txt has 2" in str(error) and "text_a: text.txt has 3" in str(error)


def test_keep_and_drop_by_column_and_role(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    rows = [
        f"t{i}\t{'NS' if i % 3 == 0 else 'ok'}\tneutral\t{'de' if i < 5 else 'fr'}\t{i}"
        for i in range(9)
    ]
    path = text_file(tmp_path, "a\tb\ty\tlang\tn\n" + "\n".join(rows))
    source = Source(
        path,
        columns=PAIRS | {"language": "lang"},
        keep={"language": ("fr",)},
        drop={"text_b": ("NS",), "n": ("8",)},
    )
    with caplog.at_level(logging.INFO, "flaxfer.data"):
        examples = read_source(source, NLI)
    assert examples.text_a == ("t5", "t7") and examples.id == ("data:6", "data:8")
    assert "9 records read, 7 left out by keep and drop, 0 without a label, 2 used; fr 2" in (
        caplog.text
    )
    by_number = Source(path, header=False, columns={"text_a": 0, "label": 2}, drop={"2": ("y",)})
    assert len(read_source(by_number, NLI)) == 9


def test_f31_all_bad_records_of_a_file_are_listed(tmp_path: Path) -> None:
    lines = ["a\tb\ty", "x\t\tneutral", "x\t \tneutral", "too\tfew", "x\ty\tz\tmany", "x\ty\tmaybe"]
    error = refusal(Source(text_file(tmp_path, "\n".join(lines)), columns=PAIRS))
    assert error.details == (
        "data.tsv:2: column 'b': is empty",
        "data.tsv:3: column 'b': is empty",
        "data.tsv:4: has 2 column(s), the header 3",
        "data.tsv:5: has 4 column(s), the header 3",
        "data.tsv:6: column 'y': 'maybe' is no label",
    )
    assert error.where == str(tmp_path / "data.tsv") and error.exit_code == 3
    assert "'entailment', 'neutral', 'contradiction'" in str(error)


def test_f31_line_numbers_after_newlines_in_quotes(tmp_path: Path) -> None:
    rows = [
        ("two\nlines", "b", "neutral"),
        ("x", "three\r\nmore\nlines", "neutral"),
        ("x", "", "no"),
    ]
    error = refusal(Source(str(write_csv(tmp_path / "data.csv", rows)), columns=PAIRS))
    assert error.details == (
        "data.csv:7: column 'b': is empty",
        "data.csv:7: column 'y': 'no' is no label",
    )


def test_f31_missing_column(tmp_path: Path) -> None:
    for path in (
        text_file(tmp_path, "premise\thypothesis\tlabel\nx\ty\tneutral\n"),
        text_file(
            tmp_path, '{"premise": "x", "hypothesis": "y", "label": "neutral"}\n', "data.jsonl"
        ),
    ):
        columns = {"text_a": "Premise", "text_b": "hypotesis", "label": "gold"}
        error = refusal(Source(path, columns=columns))
        assert error.details == (
            "there is no column 'Premise'; did you mean 'premise'?",
            "there is no column 'hypotesis'; did you mean 'hypothesis'?",
            "there is no column 'gold'",
        )
        assert "'premise', 'hypothesis', 'label'" in str(error)
    error = refusal(
        Source(text_file(tmp_path, "x\ty\n"), header=False, columns={"text_a": 0, "label": 5})
    )
    assert "there is no column 5" in str(error) and "0, 1" in str(error)
    twice = text_file(tmp_path, "a\ta\ty\nx\tx\tneutral\n")
    error = refusal(Source(twice, columns={"text_a": "a", "label": "y"}))
    assert "there are 2 columns 'a'" in str(error)


def test_f31_bad_encoding(tmp_path: Path) -> None:
    data = "a\ty\ncafé\tneutral\nx\tneutral\nnaïve\tneutral\n".encode("latin-1")
    source = Source(text_file(tmp_path, data), columns={"text_a": "a", "label": "y"})
    assert refusal(source).details == (
        "data.tsv:2: byte 7 of the file is 0xe9: invalid continuation byte",
        "data.tsv:4: byte 29 of the file is 0xef: invalid continuation byte",
    )
    assert read_source(dataclasses.replace(source, encoding="latin-1"), NLI).text_a[0] == "café"
    with pytest.raises(ConfigError, match="no encoding 'latin-17'"):
        read_source(dataclasses.replace(source, encoding="latin-17"), NLI)


def test_f31_nul(tmp_path: Path) -> None:
    path = text_file(tmp_path, "a\ty\nx\tneutral\nx\0\0y\tneutral\n")
    error = refusal(Source(path, columns={"text_a": "a", "label": "y"}))
    assert error.details == ("data.tsv:3: 2 NUL, from character 15 of the file",)
    path = text_file(tmp_path, '{"a": "x\\u0000", "y": "neutral"}\n', "data.jsonl")
    error = refusal(Source(path, columns={"text_a": "a", "label": "y"}))
    assert error.details == ("data.jsonl:1: column 'a': holds a NUL",)


def test_f31_wrong_types(tmp_path: Path) -> None:
    records: list[Any] = [
        {"a": 7, "y": "neutral"},
        {"a": None, "y": "neutral"},
        {"y": "neutral"},
        {"a": "\ud83d", "y": "neutral"},
        ["a", "y"],
    ]
    findings = (
        "column 'a': is of type int, not a text",
        "column 'a': is missing",
        "column 'a': is missing",
        "column 'a': holds half of a surrogate pair, U+D83D",
    )
    columns = {"text_a": "a", "label": "y"}
    path = text_file(tmp_path, "\n".join(map(json.dumps, records)) + "\n", "data.jsonl")
    assert refusal(Source(path, columns=columns)).details == (
        *(f"data.jsonl:{i}: {finding}" for i, finding in enumerate(findings, 1)),
        "data.jsonl:5: the line is no JSON object",
    )
    path = text_file(tmp_path, json.dumps(records), "data.json")
    assert refusal(Source(path, columns=columns)).details == (
        *(f"data.json: record {i}: {finding}" for i, finding in enumerate(findings, 1)),
        "data.json: record 5: is a list, not an object",
    )


@pytest.mark.parametrize("name", [*WRITERS, *(f"{name}.gz" for name in WRITERS)])
def test_f32_truncated_files(name: str, tmp_path: Path) -> None:
    """A file cut off in its last record, wherever the cut lies."""
    path = WRITERS[name.removesuffix(".gz")](tmp_path / name.removesuffix(".gz"))
    data = path.read_bytes()
    if name.endswith(".gz"):
        data = gzip.compress(data)
    # Of csv, a missing line end alone is no damage.
    cuts = range(len(data) - 60, len(data) - (3 if name == "data.csv" else 2))
    for cut in cuts:
        (tmp_path / name).write_bytes(data[:cut])
        refusal(Source(str(tmp_path / name), columns=PAIRS))


def test_f32_torn_json_lines(tmp_path: Path) -> None:
    path = text_file(
        tmp_path, '{"a": "x", "y": "neutral"}\n\nx\n{"a": "x", "y": "neu', "data.jsonl"
    )
    details = refusal(Source(path, columns={"text_a": "a", "label": "y"})).details
    expected = ("data.jsonl:2: the line is empty", "data.jsonl:3: the line is no JSON")
    assert len(details) == 3 and details[2].startswith("data.jsonl:4: the line is cut off")
    assert all(d.startswith(e) for d, e in zip(details, expected, strict=False))


def test_f32_damaged_gzip_and_parquet(tmp_path: Path) -> None:
    packed = bytearray(gzip.compress(write_csv(tmp_path / "data.csv").read_bytes()))
    packed[len(packed) // 2] ^= 0xFF
    path = text_file(tmp_path, bytes(packed), "data.csv.gz")
    assert "gzip file is damaged" in str(refusal(Source(path, columns=PAIRS)))
    path = text_file(tmp_path, b"PAR1 nothing of the kind PAR1", "data.parquet")
    assert "parquet file is damaged" in str(refusal(Source(path, columns=PAIRS)))


def test_f32_open_quote_names_its_line(tmp_path: Path) -> None:
    path = text_file(tmp_path, 'a,b,y\nx,y,neutral\nx,"y,neutral\nx,y,neutral\n', "data.csv")
    error = refusal(Source(path, columns=PAIRS))
    assert error.where == f"{path}:3" and "a quote is opened and never closed" in error.what


def test_f33_row_count(tmp_path: Path) -> None:
    source = Source(str(write_csv(tmp_path / "data.csv")), columns=PAIRS, rows=4)
    assert "holds 3 records, not 4" in str(refusal(source))
    # Counted before anything is left out.
    source = dataclasses.replace(source, rows=3, drop={"text_a": (ROWS[0][0],)})
    assert len(read_source(source, NLI)) == 2


@pytest.mark.parametrize("written", ["", "-1"])
def test_f34_no_label(written: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = text_file(tmp_path, f"a\ty\nx\tneutral\ny\t{written}\nz\tentailment\n")
    source = Source(path, columns={"text_a": "a", "label": "y"}, drop_unlabeled=True)
    with caplog.at_level(logging.INFO, "flaxfer.data"):
        assert read_source(source, NLI).text_a == ("x", "z")
    assert "1 without a label, 2 used" in caplog.text
    error = refusal(dataclasses.replace(source, drop_unlabeled=False))
    assert error.details == (f"data.tsv:3: column 'y': '{written}' stands for no label",)
    error = refusal(dataclasses.replace(source, drop_unlabeled=False), STS)
    assert f"data.tsv:3: column 'y': '{written}' stands for no label" in error.details


def test_f34_null_label(tmp_path: Path) -> None:
    path = text_file(tmp_path, '{"a": "x", "y": null}\n{"a": "x", "y": 2}\n', "data.jsonl")
    source = Source(path, columns={"text_a": "a", "label": "y"}, labels={"2": "neutral"})
    assert refusal(source).details == ("data.jsonl:1: column 'y': '' stands for no label",)
    assert len(read_source(dataclasses.replace(source, drop_unlabeled=True), NLI)) == 1


def test_labels_that_are_not_text(tmp_path: Path) -> None:
    records = '[{"a": "x", "y": true}, {"a": "x", "y": 2}, {"a": "x", "y": 1.0}]'
    source = Source(
        text_file(tmp_path, records, "data.json"),
        columns={"text_a": "a", "label": "y"},
        labels={"true": "neutral", "2": "contradiction", "1.0": "entailment"},
    )
    assert read_source(source, NLI).label.tolist() == [1, 2, 0]


def test_minus_one_may_be_a_label_or_a_score(tmp_path: Path) -> None:
    path = text_file(tmp_path, "a\ty\nx\t-1\ny\t1\n")
    source = Source(
        path, columns={"text_a": "a", "label": "y"}, labels={"-1": "neutral", "1": "entailment"}
    )
    assert read_source(source, NLI).label.tolist() == [1, 0]
    polarity = dataclasses.replace(STS, score_range=(-1.0, 1.0))
    examples = read_source(dataclasses.replace(source, labels={}, drop_unlabeled=True), polarity)
    assert examples.label.tolist() == [-1, 1] and examples.label.dtype == np.float32


def test_f34_scores(tmp_path: Path) -> None:
    good = ["0", "5", "4.75", "1e0", " 2.5 ", "+.5", "3."]
    path = text_file(tmp_path, "a\ty\n" + "".join(f"x\t{s}\n" for s in good))
    source = Source(path, columns={"text_a": "a", "label": "y"})
    assert read_source(source, STS).label.tolist() == [float(s) for s in good]
    bad = ["5.01", "-0.1", "nan", "inf", "1e999", "4,5", "1_0", "٣", "high", "0x1"]
    text_file(tmp_path, "a\ty\n" + "".join(f"x\t{s}\n" for s in bad))
    error = refusal(dataclasses.replace(source, drop_unlabeled=True), STS)
    outside, none = "is outside 0 to 5", "is not a number"
    faults = [outside, outside, none, none, outside, none, none, none, none, none]
    assert error.details == tuple(
        f"data.tsv:{i}: column 'y': {score!r} {fault}"
        for i, (score, fault) in enumerate(zip(bad, faults, strict=True), 2)
    )
    numbers = '[{"a": "x", "y": NaN}, {"a": "x", "y": true}, {"a": "x", "y": 1%s}]' % ("0" * 400)
    error = refusal(Source(text_file(tmp_path, numbers, "data.json"), columns=source.columns), STS)
    assert [detail.rpartition("' ")[2] for detail in error.details] == [none, none, outside]


def test_f35_labels_map_by_name(tmp_path: Path) -> None:
    path = str(write_csv(tmp_path / "data.csv"))
    source = Source(path, columns=PAIRS)
    other = dataclasses.replace(NLI, labels=("contradiction", "entailment", "neutral"))
    for task in (NLI, other):
        names = [task.labels[i] for i in read_source(source, task).label]
        assert names == [row[2] for row in ROWS]
    numbers = text_file(tmp_path, "a\ty\nx\t0\nx\t2\n")
    mapped = Source(
        numbers,
        columns={"text_a": "a", "label": "y"},
        labels={"0": "contradiction", "1": "neutral", "2": "entailment"},
    )
    assert read_source(mapped, NLI).label.tolist() == [2, 0]
    assert read_source(mapped, other).label.tolist() == [0, 1]
    # Without a mapping a number is no label, even where it could be an index.
    assert len(refusal(dataclasses.replace(mapped, labels={})).details) == 2
    with pytest.raises(ConfigError, match="'0' -> 'contra'"):
        read_source(dataclasses.replace(mapped, labels={"0": "contra"}), NLI)


def test_ids(tmp_path: Path) -> None:
    path = text_file(tmp_path, "a\ty\tn\nx\tneutral\t1\ny\tneutral\t2\nz\tneutral\t1\n")
    source = Source(path, columns={"text_a": "a", "label": "y", "id": "n"})
    assert refusal(source).details == (
        "data.tsv:4: column 'n': '1' is also data.tsv:2: column 'n'",
    )
    assert read_source(dataclasses.replace(source, drop={"a": ("z",)}), NLI).id == ("1", "2")


def test_no_file_names_the_absolute_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    error = refusal(Source("gone/data.csv", columns=PAIRS))
    assert error.where == str(tmp_path / "gone/data.csv") and "data_dir" in str(error.mend)
    (tmp_path / "folder.csv").mkdir()
    assert "Is a directory" in str(refusal(Source("folder.csv", columns=PAIRS)))
    source = Source(".", format="lines", aligned={"text_a": "gone.txt", "label": "y.txt"})
    assert "aligned.text_a" in str(refusal(source).mend)


def test_unknown_ending_needs_a_format(tmp_path: Path) -> None:
    path = text_file(tmp_path, "a\ty\nx\tneutral\n", "data.txt")
    source = Source(path, columns={"text_a": "a", "label": "y"})
    with pytest.raises(ConfigError, match="set format"):
        read_source(source, NLI)
    assert len(read_source(dataclasses.replace(source, format="tsv"), NLI)) == 1


@pytest.mark.parametrize("text", ["", "a\ty\n"])
def test_f43_empty_files(text: str, tmp_path: Path) -> None:
    for name in ("data.tsv", "data.csv"):
        path = text_file(tmp_path, text.replace("\t", "," if name == "data.csv" else "\t"), name)
        refusal(Source(path, columns={"text_a": "a", "label": "y"}))
    refusal(Source(text_file(tmp_path, "", "data.jsonl"), columns=PAIRS))
    refusal(Source(text_file(tmp_path, "[]", "data.json"), columns=PAIRS))


def many(folder: Path, n: int, name: str = "data.tsv") -> Source:
    path = text_file(folder, "a\ty\n" + "".join(f"{name} {i}\tneutral\n" for i in range(n)), name)
    return Source(path, columns={"text_a": "a", "label": "y"})


def test_fraction_is_seeded_and_keeps_order(tmp_path: Path) -> None:
    whole = many(tmp_path, 400)
    part = dataclasses.replace(whole, fraction=0.25)
    first, again, other = (read_source(part, NLI, seed=seed) for seed in (1, 1, 2))
    assert len(first) == 100 and first.id == again.id and first.id != other.id
    numbers = [int(name.partition(":")[2]) for name in first.id]
    assert numbers == sorted(numbers) and len(set(numbers)) == 100
    everything = read_source(whole, NLI)
    assert all(everything.text_a[n - 1] == t for n, t in zip(numbers, first.text_a, strict=True))


def test_splits_of_one_set(tmp_path: Path) -> None:
    data = Data(train=(many(tmp_path, 200),))
    splits = load_splits(data, NLI)
    assert {name: len(part) for name, part in splits.items()} == {
        "train": 140,
        "dev": 30,
        "test": 30,
    }
    ids = [name for part in splits.values() for name in part.id]
    whole = read_source(data.train[0], NLI).id
    assert sorted(ids) == sorted(whole)
    for part in splits.values():
        assert list(part.id) == sorted(part.id, key=whole.index)
    again = load_splits(data, NLI)
    assert all(again[name].fingerprint == part.fingerprint for name, part in splits.items())
    other = load_splits(dataclasses.replace(data, split_seed=1), NLI)
    assert other["dev"].id != splits["dev"].id
    no_test = load_splits(dataclasses.replace(data, split=(0.9, 0.1, 0.0)), NLI)
    assert {name: len(part) for name, part in no_test.items()} == {"train": 180, "dev": 20}


def test_splits_with_test_or_dev_given(tmp_path: Path) -> None:
    train, test = many(tmp_path, 170), many(tmp_path, 40, "test.tsv")
    splits = load_splits(Data(train=(train,), test=(test,)), NLI)
    assert {name: len(part) for name, part in splits.items()} == {
        "train": 140,
        "dev": 30,
        "test": 40,
    }
    splits = load_splits(Data(train=(train,), dev=(test,)), NLI)
    assert {name: len(part) for name, part in splits.items()} == {"train": 170, "dev": 40}
    splits = load_splits(Data(train=(train, many(tmp_path, 5, "more.tsv")), dev=(test,)), NLI)
    assert splits["train"].id[168:172] == ("data:169", "data:170", "more:1", "more:2")


def test_f43_too_few_to_split(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="3 examples are too few to be divided: train 3, dev 0"):
        load_splits(Data(train=(many(tmp_path, 3),)), NLI)
    with pytest.raises(DataError, match="no source to train on"):
        load_splits(Data(train=()), NLI)


def test_f45_overlap_is_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    train = many(tmp_path, 20)
    same = dataclasses.replace(train, keep={"a": ("data.tsv 3", "data.tsv 7")})
    load_splits(Data(train=(train,), dev=(same,), test=(many(tmp_path, 3, "t.tsv"),)), NLI)
    warnings = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert warnings == ["2 texts of dev are in train too, such as 'data.tsv 3'"]


def test_pairs_and_single_texts_do_not_mix(tmp_path: Path) -> None:
    pairs = Source(str(write_csv(tmp_path / "data.csv")), columns=PAIRS)
    single = many(tmp_path, 9)
    with pytest.raises(DataError, match="cannot be joined"):
        load_splits(Data(train=(pairs, single), dev=(pairs,)), NLI)
    with pytest.raises(DataError, match="some splits hold pairs"):
        load_splits(Data(train=(pairs,), dev=(single,)), NLI)


def test_fingerprint_covers_everything() -> None:
    base = Examples(
        ("ab", "c"), ("d", "e"), np.array([0, 1], np.int32), ("1", "2"), ("en", "de"), ("", "x")
    )
    changed = [
        dataclasses.replace(base, text_a=("a", "bc")),
        dataclasses.replace(base, text_b=None),
        dataclasses.replace(base, text_b=("d", "f")),
        dataclasses.replace(base, label=np.array([1, 1], np.int32)),
        dataclasses.replace(base, label=np.array([0, 0], np.int32)),
        dataclasses.replace(base, label=np.array([0, 0], np.float32)),
        dataclasses.replace(base, id=("1", "3")),
        dataclasses.replace(base, language=("en", "en")),
        dataclasses.replace(base, domain=("x", "")),
        base.take([1, 0]),
    ]
    assert len({each.fingerprint for each in (base, *changed)}) == 1 + len(changed)
    assert base.take([1, 0]).take([1, 0]).fingerprint == base.fingerprint
    assert Examples.join([base.take([0]), base.take([1])]).fingerprint == base.fingerprint


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Replaces the hub; the dict receives the arguments of each call, and gives the data set."""
    import datasets
    import huggingface_hub.constants

    seen: dict[str, Any] = {}

    def load_dataset(path: str, **kwargs: Any) -> Any:
        seen.update(kwargs, path=path)
        return seen["dataset"]

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    return seen


def test_hub_classes_map_by_name(hub: dict[str, Any]) -> None:
    import datasets

    names = ["contradiction", "entailment", "neutral"]
    features = datasets.Features(
        {
            "premise": datasets.Value("string"),
            "label": datasets.ClassLabel(names=names),
            "lang": datasets.Value("string"),
        }
    )
    hub["dataset"] = datasets.Dataset.from_dict(
        {"premise": ["x", "y", "z"], "label": [2, -1, 0], "lang": ["de", "fr", "de"]}, features
    )
    source = Source(
        hub="owner/nli",
        subset="all",
        split="validation",
        revision="v2",
        columns={"text_a": "premise", "label": "label", "language": "lang"},
        drop_unlabeled=True,
    )
    examples = read_source(source, NLI)
    assert examples.label.tolist() == [1, 2] and examples.language == ("de", "de")
    assert examples.id == ("nli-validation:1", "nli-validation:3")
    del hub["dataset"]
    assert hub == {"path": "owner/nli", "name": "all", "split": "validation", "revision": "v2"}


def test_hub_errors(hub: dict[str, Any]) -> None:
    import datasets

    hub["dataset"] = datasets.Dataset.from_dict({"text": ["x", ""], "stars": [3.5, 7.0]})
    source = Source(hub="owner/reviews", columns={"text_a": "text", "label": "stars"})
    assert refusal(source, STS).details == (
        "owner/reviews[train]: record 2: column 'stars': '7.0' is outside 0 to 5",
        "owner/reviews[train]: record 2: column 'text': is empty",
    )
    wrong = dataclasses.replace(source, columns={"text_a": "txt", "label": "stars"})
    assert "did you mean 'text'" in str(refusal(wrong, STS))
    del hub["dataset"]
    assert "cannot be loaded: KeyError" in str(refusal(source, STS))


def test_f48_unreachable_hub_fails_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    def repo_info(*args: Any, **kwargs: Any) -> None:
        assert 0 < kwargs["timeout"] < 5
        raise OSError("no route")

    monkeypatch.setattr(huggingface_hub.HfApi, "repo_info", repo_info)
    error = refusal(Source(hub="owner/nli", columns={"text_a": "a", "label": "y"}))
    assert "no route" in error.what and "HF_HUB_OFFLINE=1" in str(error.mend)


def test_f48_local_files_need_no_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import socket

    def refuse(*args: Any, **kwargs: Any) -> None:
        raise AssertionError("a connection was tried")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    for name, write in WRITERS.items():
        assert len(read_source(Source(str(write(tmp_path / name)), columns=PAIRS), NLI)) == 3
