"""Files that are no text, have another encoding, or would not end."""

from __future__ import annotations

import dataclasses
import gzip
import json
import logging
import os
import socket
from pathlib import Path

import pytest

from flaxfer.config import Source
from flaxfer.data import files
from flaxfer.errors import summarised
from tests.data.helpers import NLI, PAIRS, read, refusal, text_file

COLUMNS: dict[str, str | int] = {"text_a": "a", "label": "y"}
TEXT = "a\ty\ncafé\tneutral\n"


def test_only_regular_files_are_opened(tmp_path: Path) -> None:
    """None of them has an end, so that reading would hang."""
    os.mkfifo(tmp_path / "pipe.csv")
    (tmp_path / "device.csv").symlink_to("/dev/zero")
    (tmp_path / "linked.csv").symlink_to(tmp_path / "pipe.csv")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(os.path.relpath(tmp_path / "socket.csv"))
        for name, what in (
            ("pipe", "it is a named pipe (FIFO)"),
            ("linked", "it is a named pipe (FIFO)"),
            ("device", "it is a device"),
            ("socket", "it is a socket"),
        ):
            error = refusal(Source(str(tmp_path / f"{name}.csv"), columns=PAIRS))
            assert error.what == f"cannot be read: {what}, not a regular file"
            assert error.where == str(tmp_path / f"{name}.csv") and "`path`" in str(error.hint)
    aligned = {"text_a": "pipe.csv", "label": "pipe.csv"}
    error = refusal(Source(str(tmp_path), format="lines", aligned=aligned))
    assert "named pipe" in error.what and "aligned.text_a" in str(error.hint)


@pytest.mark.parametrize("name", ["data.csv", "data.jsonl", "data.conll", "data.csv.gz"])
def test_a_line_without_end_is_not_read_to_its_end(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    if name.endswith(".gz"):
        path.write_bytes(gzip.compress(b"x" * (files.MAX_LINE + 2), 1))
    else:
        path.touch()
        os.truncate(path, 2**31)  # Sparse: it takes no room.
    error = refusal(Source(str(path), columns=PAIRS))
    assert error.what == f"the line is longer than {files.MAX_LINE:,} bytes"
    assert error.where == f"{path}:1"


def test_the_longest_line_is_counted_across_blocks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "MAX_LINE", 40)
    for size in range(1, 33):
        good = f"a\ty\n{'x' * size}\tneutral\r\n{'y' * 32}\tneutral"
        path = text_file(tmp_path, good)
        assert len(read(Source(path, columns=COLUMNS), NLI)) == 2
        path = text_file(tmp_path, f"{good}\n{'z' * 33}\tneutral\n")
        error = refusal(Source(path, columns=COLUMNS))
        assert (error.what, error.where) == ("the line is longer than 40 bytes", f"{path}:4")


def test_a_json_document_and_a_cell_are_bounded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    records = [{"a": "x" * 50, "y": "neutral"}] * 3
    source = Source(text_file(tmp_path, json.dumps(records), "data.json"), columns=COLUMNS)
    monkeypatch.setattr(files, "MAX_DOCUMENT", 300)
    assert len(read(source, NLI)) == 3, "it may be one line, longer than a line of other formats"
    monkeypatch.setattr(files, "MAX_DOCUMENT", 100)
    assert "the document is larger than 100 bytes" in str(refusal(source))
    assert "format='jsonl'" in str(refusal(source))
    text_file(tmp_path, 'a,y\n"' + ("x" * 1023 + "\n") * (files.MAX_LINE // 1024 + 1), "data.csv")
    error = refusal(Source(str(tmp_path / "data.csv"), columns=COLUMNS))
    assert error.where == f"{tmp_path}/data.csv:2"
    assert f"a quote is opened and never closed within {files.MAX_LINE:,} characters" in error.what


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32"])
def test_unicode_of_another_width_is_named(encoding: str, tmp_path: Path) -> None:
    source = Source(text_file(tmp_path, (TEXT * 20).encode(encoding)), columns=COLUMNS)
    error = refusal(source)
    assert error.hint == f"set encoding='{encoding}'." and error.details == ()
    assert error.what == f"the file is not in utf-8 but in {encoding}"
    text_file(tmp_path, TEXT.encode(encoding))
    assert read(dataclasses.replace(source, encoding=encoding), NLI).text_a == ("café",)


@pytest.mark.parametrize(
    ("path", "hint"),
    [
        ("https://example.org/data.csv", "download the file"),
        ("hf://datasets/owner/data.csv", "download the file"),
        ("train-*.csv", "list a source for each"),
        ("gone.csv", "`data_dir`"),
    ],
)
def test_a_path_that_is_no_file_says_what_to_set(path: str, hint: str, tmp_path: Path) -> None:
    error = refusal(Source(str(tmp_path / path), columns=PAIRS))
    assert error.what == "there is no such file" and hint in str(error.hint)


@pytest.mark.parametrize("text", [TEXT, TEXT + "\n"])
def test_text_is_not_taken_for_utf_16(text: str, tmp_path: Path) -> None:
    """An even number of bytes would decode to Chinese characters."""
    source = Source(text_file(tmp_path, text), columns=COLUMNS, encoding="utf-16")
    assert "the file is not in utf-16" in refusal(source).what


def test_utf_8_that_is_read_as_something_else_is_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    source = Source(text_file(tmp_path, TEXT), columns=COLUMNS, encoding="latin-1")
    assert read(source, NLI).text_a == ("cafÃ©",)
    assert "is valid UTF-8, but is read as encoding='latin-1'" in caplog.text
    caplog.clear()
    text_file(tmp_path, TEXT.encode("latin-1"))
    assert read(source, NLI).text_a == ("café",)
    text_file(tmp_path, TEXT.replace("é", "e"))
    read(source, NLI)
    assert not caplog.text


def test_undecodable_lines_are_summarised(tmp_path: Path) -> None:
    text = "a\ty\n" + "café\tneutral\n" * 500 + "für\tneutral\n" * 12
    error = refusal(Source(text_file(tmp_path, text.encode("latin-1")), columns=COLUMNS))
    assert summarised(error.details) == [
        "data.tsv:2:4: 0xe9: invalid continuation byte (the first of 500 like this)",
        "data.tsv:502:2: 0xfc: invalid start byte (the first of 12 like this)",
    ]


def test_a_byte_order_mark_within_a_file_is_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    text = "\ufeffone\tneutral\n\ufefftwo\tneutral\n"
    columns: dict[str, str | int] = {"text_a": 0, "label": 1}
    source = Source(text_file(tmp_path, text), columns=columns, header=False)
    assert read(source, NLI).text_a == ("one", "\ufefftwo")
    assert "data.tsv:2: begins with a byte order mark (1 such lines)" in caplog.text


def test_mixed_line_ends_and_other_separators_of_lines(tmp_path: Path) -> None:
    text = "a\ty\r\none\x0b\x0c\x1c\x1d\x1e\x85\u2028\u2029two\tneutral\nthree\tneutral\r\n"
    for name in ("data.tsv", "data.csv"):
        path = text_file(tmp_path, text.replace("\t", "," if name == "data.csv" else "\t"), name)
        examples = read(Source(path, columns=COLUMNS), NLI)
        assert examples.text_a == ("one\x0b\x0c\x1c\x1d\x1e\x85\u2028\u2029two", "three")
    lines = '{"a": "one\u2028\x85two", "y": "neutral"}\r\n{"a": "b", "y": "neutral"}\n'
    source = Source(text_file(tmp_path, lines, "data.jsonl"), columns=COLUMNS)
    assert read(source, NLI).text_a == ("one\u2028\x85two", "b")
    text_file(tmp_path, "one\u2028x\r\ntwo\x85\n", "text.txt")
    text_file(tmp_path, "neutral\nneutral", "label.txt")
    aligned = {"text_a": "text.txt", "label": "label.txt"}
    assert read(Source(str(tmp_path), format="lines", aligned=aligned), NLI).text_a == (
        "one\u2028x",
        "two\x85",
    )


@pytest.mark.parametrize("name", ["data.csv", "data.tsv", "data.jsonl", "data.json", "data.conll"])
@pytest.mark.parametrize("data", [b"", b"\xef\xbb\xbf", b"\n\n", b" \r\n"])
def test_an_empty_file_is_named(data: bytes, name: str, tmp_path: Path) -> None:
    error = refusal(Source(text_file(tmp_path, data, name), columns=PAIRS))
    assert error.what == "the file is empty"
    packed = text_file(tmp_path, gzip.compress(data) if data else b"", f"{name}.gz")
    assert refusal(Source(packed, columns=PAIRS)).what == "the file is empty"


def test_a_file_with_only_a_header_is_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, "flaxfer.data"):
        error = refusal(Source(text_file(tmp_path, "a\ty\n"), columns=COLUMNS))
    assert "of 0 records none is left to use" in error.what and "fetch" in str(error.hint)


def test_windows_1252_is_named(tmp_path: Path) -> None:
    text = "a\ty\nDas Café war „schön“, 5 €\tneutral\n"
    source = Source(text_file(tmp_path, text.encode("cp1252")), columns=COLUMNS)
    error = refusal(source)
    assert error.hint == "set encoding='cp1252', which the file looks like."
    assert read(dataclasses.replace(source, encoding="cp1252"), NLI).text_a[0].endswith("“, 5 €")
    text_file(tmp_path, "a\ty\nЭто книга\tneutral\n".encode("cp1251"))
    assert "such as cp1251" in str(refusal(source).hint)
