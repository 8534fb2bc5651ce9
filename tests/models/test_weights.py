"""Safetensors files: single, sharded, or refused."""

from __future__ import annotations

import json
import shutil
import struct
from pathlib import Path
from typing import Any

import pytest
from safetensors.numpy import load_file, save_file

from tests.models.folders import INDEX, QUERY, WEIGHTS, assert_same, load, refusal


def shard(folder: Path) -> dict[str, str]:
    """Split the weights of a folder into two files; return the weight_map of the index."""
    arrays = load_file(folder / WEIGHTS)
    (folder / WEIGHTS).unlink()
    names = sorted(arrays)
    files = {name: f"model-0000{1 + i % 2}-of-00002.safetensors" for i, name in enumerate(names)}
    for file in set(files.values()):
        save_file({name: arrays[name] for name in names if files[name] == file}, folder / file)
    (folder / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": files}))
    return files


def test_shards_load_like_a_single_file(folder: Path) -> None:
    single = load(folder, 3)
    shard(folder)
    assert_same(load(folder, 3), single)


def test_incomplete_shards_are_refused(folder: Path) -> None:
    files = shard(folder)
    index = folder / INDEX
    index.write_text(json.dumps({"weight_map": files | {"ghost": files[QUERY]}}))
    assert refusal(folder).details == (f"ghost in {files[QUERY]}",)
    index.write_text(json.dumps({"weight_map": {n: f for n, f in files.items() if n != QUERY}}))
    assert refusal(folder).details == (f"{QUERY} in {files[QUERY]}",)
    index.write_text(json.dumps({"weight_map": files}))
    (folder / files[QUERY]).unlink()
    assert refusal(folder).details == (files[QUERY],)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "{}",
        '{"weight_map": 3}',
        '{"weight_map": {"a": 3}}',
        '{"weight_map": {"a": "../model.safetensors"}}',
        '{"weight_map": {"a": ""}}',
        '{"weight_map": {"a": ".."}}',
    ],
)
def test_malformed_indexes_are_refused(folder: Path, text: str) -> None:
    (folder / WEIGHTS).rename(folder.parent / WEIGHTS)
    (folder / INDEX).write_text(text)
    refusal(folder)


def with_header(header: Any, size: int | None = None, data: bytes = bytes(64)) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if size is None else size) + text + data


def entry(start: int, end: int, shape: Any = (16,), dtype: str = "F32") -> dict[str, Any]:
    return {"dtype": dtype, "shape": list(shape), "data_offsets": [start, end]}


MALFORMED = {
    "empty": b"",
    "shorter than a header": b"1234",
    "header larger than the file": with_header({}, size=10_000),
    "header too large": with_header({}, size=2**63),
    "header of an enormous size": with_header({}, size=10**9),
    "not JSON": with_header(b"{{{{"),
    "not UTF-8": with_header(b"\xff\xfe{}"),
    "not an object": with_header(b"[1]"),
    "deep": with_header(b'{"a":' * 5000),
    "offset past the end": with_header({"a": entry(0, 640, (160,))}),
    "huge array": with_header({"a": entry(0, 2**62, (2**60,))}),
    "shape that overflows": with_header({"a": entry(0, 64, (2**40, 2**40))}),
    "offsets that overlap": with_header({"a": entry(0, 64), "b": entry(32, 96)}, data=bytes(96)),
    "a gap": with_header({"a": entry(0, 64), "b": entry(96, 160)}, data=bytes(160)),
    "end before start": with_header({"a": entry(64, 0)}),
    "shape unlike the bytes": with_header({"a": entry(0, 64, (7,))}),
    "negative shape": with_header({"a": entry(0, 64, (-16,))}),
    "unknown dtype": with_header({"a": entry(0, 64, dtype="F31")}),
    "trailing bytes": with_header({"a": entry(0, 64)}, data=bytes(65)),
    "a pointer": b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 67582000\n",
}


@pytest.mark.parametrize("content", MALFORMED.values(), ids=MALFORMED)
def test_malformed_files_are_refused(folder: Path, content: bytes) -> None:
    (folder / WEIGHTS).write_bytes(content)
    assert "safetensors" in refusal(folder).what


@pytest.mark.parametrize("share", [0.001, 0.1, 0.5, 0.999])
def test_truncated_files_are_refused(folder: Path, share: float) -> None:
    whole = (folder / WEIGHTS).read_bytes()
    (folder / WEIGHTS).write_bytes(whole[: int(share * len(whole))])
    refusal(folder)


@pytest.mark.parametrize("name", ["pytorch_model.bin", "tf_model.h5", "flax_model.msgpack"])
def test_other_formats_are_refused_with_a_hint(folder: Path, name: str) -> None:
    (folder / WEIGHTS).unlink()
    assert "copy" in str(refusal(folder).hint)
    (folder / name).write_bytes(b"\x80\x04.")
    error = refusal(folder)
    assert name in error.what and "save_pretrained" in str(error.hint)


def test_a_single_file_is_preferred_to_shards(folder: Path) -> None:
    want = load(folder)
    copy = folder / "copy.safetensors"
    shutil.copy(folder / WEIGHTS, copy)
    shard(folder)
    copy.rename(folder / WEIGHTS)
    (folder / INDEX).write_text("{}")
    assert_same(load(folder), want)
