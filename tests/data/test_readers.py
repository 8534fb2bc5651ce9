from __future__ import annotations

import csv
import dataclasses
import gzip
import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from flaxfer.config import Source
from flaxfer.errors import ConfigError
from tests.data.helpers import NLI, PAIRS, ROWS, WRITERS, read, refusal, text_file, write_csv


@pytest.mark.parametrize("packed", [False, True], ids=["plain", "gz"])
@pytest.mark.parametrize("name", WRITERS)
def test_formats(name: str, packed: bool, tmp_path: Path) -> None:
    path = WRITERS[name](tmp_path / name)
    if packed:
        path = tmp_path / f"{name}.gz"
        path.write_bytes(gzip.compress((tmp_path / name).read_bytes()))
    examples = read(Source(path.name, columns=PAIRS, num_records=3), NLI, str(tmp_path))
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
        examples = read(Source(str(path), columns=PAIRS), NLI)
        assert examples.text_a == tuple(row[0] for row in rows)


def test_quotes_literal_in_tsv(tmp_path: Path) -> None:
    path = text_file(tmp_path, 'y\ta\tb\nneutral\t"open\tand "shut"\nneutral\t""\t"\n')
    examples = read(Source(path, columns=PAIRS), NLI)
    assert examples.text_a == ('"open', '""')
    assert examples.text_b == ('and "shut"', '"')
    quoted = text_file(tmp_path, 'y\ta\tb\nneutral\t"a\t\nb\rc"\t"say ""x"""\n')
    examples = read(Source(quoted, quotes="csv", columns=PAIRS), NLI)
    assert (examples.text_a, examples.text_b) == (("a\t\nb\rc",), ('say "x"',))


def test_columns_by_number_without_header(tmp_path: Path) -> None:
    path = text_file(tmp_path, "neutral\tx\t7\ty\nentailment\tz\t8\tw\textra\n")
    columns = {"label": 0, "text_a": 3, "text_b": 1, "id": 2}
    examples = read(Source(path, header=False, columns=columns), NLI)
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
    examples = read(source, NLI)
    assert examples.text_a == ("not  my film", " indented") and examples.text_b is None


def test_bom_and_crlf(tmp_path: Path) -> None:
    path = text_file(tmp_path, b"\xef\xbb\xbfa\ty\r\none\tneutral\r\ntwo\tneutral")
    examples = read(Source(path, columns={"text_a": "a", "label": "y"}), NLI)
    assert examples.text_a == ("one", "two")
    utf16 = text_file(tmp_path, "a\ty\none\tneutral\n".encode("utf-16"))
    source = Source(utf16, encoding="utf-16", columns={"text_a": "a", "label": "y"})
    assert read(source, NLI).text_a == ("one",)


def test_only_line_feeds_end_a_line(tmp_path: Path) -> None:
    path = text_file(tmp_path, "a\ty\none\u2028two\x85three\x0bfour\tneutral\n")
    examples = read(Source(path, columns={"text_a": "a", "label": "y"}), NLI)
    assert examples.text_a == ("one\u2028two\x85three\x0bfour",)


def test_fields_longer_than_the_csv_module_allows(tmp_path: Path) -> None:
    path = write_csv(tmp_path / "data.csv", [("x" * 300_000, "b", "neutral")])
    assert len(read(Source(str(path), columns=PAIRS), NLI).text_a[0]) == 300_000


def test_aligned_files(tmp_path: Path) -> None:
    text_file(tmp_path, "one\ntwo\nthree", "text.txt")
    text_file(tmp_path, "neutral\nneutral\nentailment\n", "label.txt")
    text_file(tmp_path, "de\r\nfr\r\nde\r\n", "language.txt")
    aligned = {"text_a": "text.txt", "label": "label.txt", "language": "language.txt"}
    source = Source(str(tmp_path), format="lines", aligned=aligned, domain="tweets")
    examples = read(source, NLI)
    assert examples.text_a == ("one", "two", "three") and examples.label.tolist() == [1, 1, 0]
    assert examples.language == ("de", "fr", "de") and examples.domain == ("tweets",) * 3
    assert examples.id[0] == "text:1"
    only = dataclasses.replace(source, keep={"language": ("de",)})
    assert read(only, NLI).text_a == ("one", "three")
    text_file(tmp_path, "neutral\nneutral\n", "label.txt")
    error = refusal(source)
    assert "label: label.txt has 2" in str(error) and "text_a: text.txt has 3" in str(error)


def test_all_bad_records_of_a_file_are_listed(tmp_path: Path) -> None:
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


def test_line_numbers_count_newlines_in_quotes(tmp_path: Path) -> None:
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


def test_a_missing_column_is_named(tmp_path: Path) -> None:
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
    assert "there is no column 5" in str(error) and "'0', '1'" in str(error)
    twice = text_file(tmp_path, "a\ta\ty\nx\tx\tneutral\n")
    error = refusal(Source(twice, columns={"text_a": "a", "label": "y"}))
    assert "there are 2 columns 'a'" in str(error)


def test_bytes_of_another_encoding_are_refused(tmp_path: Path) -> None:
    data = "a\ty\ncafé\tneutral\nx\tneutral\nnaïve\tneutral\n".encode("latin-1")
    source = Source(text_file(tmp_path, data), columns={"text_a": "a", "label": "y"})
    assert refusal(source).details == (
        "data.tsv:2:4: 0xe9: invalid continuation byte",
        "data.tsv:4:3: 0xef: invalid continuation byte",
    )
    assert read(dataclasses.replace(source, encoding="latin-1"), NLI).text_a[0] == "café"
    with pytest.raises(ConfigError, match="no encoding 'latin-17'"):
        read(dataclasses.replace(source, encoding="latin-17"), NLI)


def test_nul_characters_are_refused(tmp_path: Path) -> None:
    path = text_file(tmp_path, "a\ty\nx\tneutral\nx\0\0y\tneutral\n")
    error = refusal(Source(path, columns={"text_a": "a", "label": "y"}))
    assert error.details == ("data.tsv:3: 2 NUL",)
    path = text_file(tmp_path, '{"a": "x\\u0000", "y": "neutral"}\n', "data.jsonl")
    error = refusal(Source(path, columns={"text_a": "a", "label": "y"}))
    assert error.details == ("data.jsonl:1: column 'a': holds a NUL",)


def test_values_of_other_types_are_refused(tmp_path: Path) -> None:
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
        "data.jsonl:5: is a list, no object",
    )
    path = text_file(tmp_path, json.dumps(records), "data.json")
    assert refusal(Source(path, columns=columns)).details == (
        *(f"data.json: record {i}: {finding}" for i, finding in enumerate(findings, 1)),
        "data.json: record 5: is a list, no object",
    )


@pytest.mark.parametrize("name", [*WRITERS, *(f"{name}.gz" for name in WRITERS)])
def test_truncated_files_are_refused(name: str, tmp_path: Path) -> None:
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


def test_torn_json_lines_are_refused(tmp_path: Path) -> None:
    path = text_file(
        tmp_path, '{"a": "x", "y": "neutral"}\n\nx\n{"a": "x", "y": "neu', "data.jsonl"
    )
    details = refusal(Source(path, columns={"text_a": "a", "label": "y"})).details
    expected = ("data.jsonl:2: the line is empty", "data.jsonl:3: the line is no JSON")
    assert len(details) == 3 and details[2].startswith("data.jsonl:4: the line is cut off")
    assert all(d.startswith(e) for d, e in zip(details, expected, strict=False))


def test_damaged_gzip_and_parquet_are_refused(tmp_path: Path) -> None:
    packed = bytearray(gzip.compress(write_csv(tmp_path / "data.csv").read_bytes()))
    packed[len(packed) // 2] ^= 0xFF
    path = text_file(tmp_path, bytes(packed), "data.csv.gz")
    assert "gzip file is damaged" in str(refusal(Source(path, columns=PAIRS)))
    path = text_file(tmp_path, b"PAR1 nothing of the kind PAR1", "data.parquet")
    assert "parquet file is damaged" in str(refusal(Source(path, columns=PAIRS)))


def test_open_quote_names_its_line(tmp_path: Path) -> None:
    path = text_file(tmp_path, 'a,b,y\nx,y,neutral\nx,"y,neutral\nx,y,neutral\n', "data.csv")
    error = refusal(Source(path, columns=PAIRS))
    assert error.where == f"{path}:3" and "a quote is opened and never closed" in error.what


def test_no_file_names_the_absolute_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    error = refusal(Source("gone/data.csv", columns=PAIRS))
    assert error.where == str(tmp_path / "gone/data.csv") and "data_dir" in str(error.hint)
    (tmp_path / "folder.csv").mkdir()
    assert "Is a directory" in str(refusal(Source("folder.csv", columns=PAIRS)))
    source = Source(".", format="lines", aligned={"text_a": "gone.txt", "label": "y.txt"})
    assert "aligned.text_a" in str(refusal(source).hint)


def test_unknown_ending_needs_a_format(tmp_path: Path) -> None:
    path = text_file(tmp_path, "a\ty\nx\tneutral\n", "data.txt")
    source = Source(path, columns={"text_a": "a", "label": "y"})
    with pytest.raises(ConfigError, match="set format"):
        read(source, NLI)
    assert len(read(dataclasses.replace(source, format="tsv"), NLI)) == 1


@pytest.mark.parametrize("text", ["", "a\ty\n"])
def test_empty_files_are_refused(text: str, tmp_path: Path) -> None:
    for name in ("data.tsv", "data.csv"):
        path = text_file(tmp_path, text.replace("\t", "," if name == "data.csv" else "\t"), name)
        refusal(Source(path, columns={"text_a": "a", "label": "y"}))
    refusal(Source(text_file(tmp_path, "", "data.jsonl"), columns=PAIRS))
    refusal(Source(text_file(tmp_path, "[]", "data.json"), columns=PAIRS))


def test_local_files_need_no_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import socket

    def refuse(*args: Any, **kwargs: Any) -> None:
        raise AssertionError("a connection was tried")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    for name, write in WRITERS.items():
        assert len(read(Source(str(write(tmp_path / name)), columns=PAIRS), NLI)) == 3
