"""Weights of Hugging Face folders: read whole, or refused with the whole list of reasons."""

from __future__ import annotations

import json
import logging
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import huggingface_hub
import jax
import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from flaxfer.config import Model
from flaxfer.errors import CheckpointError, ConfigError, DataError
from flaxfer.models import pretrained
from flaxfer.models.families import read_config
from flaxfer.models.pretrained import (
    checkpoint_arrays,
    load_encoder,
    load_encoder_config,
    load_pretrained,
    resolve,
)
from tests.parity import cases, flax_side

BERT, _, ROBERTA, _ = cases.CASES
WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
QUERY = "bert.encoder.layer.0.attention.self.query.weight"

Arrays = dict[str, np.ndarray]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A BERT with pooler and classifier."""
    flax_side.write_folder(BERT, tmp_path)
    return tmp_path


def change(folder: Path, function: Callable[[Arrays], Arrays | None]) -> None:
    """Rewrites the weights of a folder."""
    arrays = load_file(folder / WEIGHTS)
    save_file(function(arrays) or arrays, folder / WEIGHTS)


def load(folder: Path, classifier_outputs: int = 0) -> dict[str, Any]:
    config = load_encoder_config(folder)
    return load_pretrained(folder, config, classifier_outputs=classifier_outputs)


def refusal(folder: Path, classifier_outputs: int = 0) -> CheckpointError:
    with pytest.raises(CheckpointError) as caught:
        load(folder, classifier_outputs)
    assert caught.value.mend and str(folder) in str(caught.value.where)
    return caught.value


def assert_same(a: Any, b: Any) -> None:
    assert jax.tree.structure(a) == jax.tree.structure(b)
    jax.tree.map(np.testing.assert_array_equal, a, b)


@pytest.mark.parametrize("case", cases.CASES, ids=lambda case: case.name)
def test_arrays_of_a_checkpoint_survive_the_way_there_and_back(
    case: cases.Case, tmp_path: Path
) -> None:
    arrays = flax_side.write_folder(case, tmp_path)
    config, params = flax_side.load(tmp_path, case.num_outputs)
    back = checkpoint_arrays(params, config)
    assert_same(back, arrays)


def test_parts_of_the_head(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "flaxfer.models")
    params = load(folder)
    assert params["head"].keys() == {"pooler"}
    assert "not used: classifier.bias, classifier.weight" in caplog.text
    assert "head/output/bias, head/output/kernel" in caplog.text
    assert load(folder, 3)["head"].keys() == {"pooler", "output"}
    assert_same(load_encoder(folder, load_encoder_config(folder)), params["encoder"])
    change(folder, lambda a: {n: x for n, x in a.items() if "pooler" not in n})
    assert load(folder).keys() == {"encoder"}
    assert refusal(folder, 3).details == (
        "missing: bert.pooler.dense.weight",
        "missing: bert.pooler.dense.bias",
    )


def test_the_classifier_has_to_fit(folder: Path) -> None:
    details = refusal(folder, 2).details
    assert details == (
        "classifier.weight for head/output/kernel: have (3, 16) / want (2, 16)",
        "classifier.bias for head/output/bias: have (3,) / want (2,)",
    )


def test_names_without_prefix_and_of_old_files(folder: Path) -> None:
    want = load(folder)

    def rename(arrays: Arrays) -> Arrays:
        for old, new in (
            ("bert.", ""),
            ("LayerNorm.weight", "LayerNorm.gamma"),
            ("LayerNorm.bias", "LayerNorm.beta"),
        ):
            arrays = {name.replace(old, new): x for name, x in arrays.items()}
        return arrays | {"embeddings.position_ids": np.arange(20)[None]}

    change(folder, rename)
    assert_same(load(folder), want)
    change(folder, lambda a: a | {"embeddings.LayerNorm.weight": np.ones(16, np.float32)})
    assert "embeddings.LayerNorm.gamma" in str(refusal(folder))


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16])
def test_half_precision_becomes_float32(folder: Path, dtype: Any) -> None:
    exact = load(folder)
    change(folder, lambda a: {name: x.astype(dtype) for name, x in a.items()})
    params = load(folder)
    assert {x.dtype for x in jax.tree.leaves(params)} == {np.dtype(np.float32)}
    assert_same(params, jax.tree.map(lambda x: x.astype(dtype).astype(np.float32), exact))


@pytest.mark.parametrize("dtype", [np.int8, np.float64])
def test_other_dtypes_are_refused(folder: Path, dtype: Any) -> None:
    change(folder, lambda a: a | {QUERY: a[QUERY].astype(dtype)})
    (detail,) = refusal(folder).details
    assert QUERY in detail and "encoder/layers/0/attention/query/kernel" in detail
    assert {np.int8: "I8", np.float64: "F64"}[dtype] in detail


def test_f08_missing_and_unexpected_arrays_come_in_one_list(folder: Path) -> None:
    def spoil(arrays: Arrays) -> Arrays:
        del arrays[QUERY], arrays["bert.embeddings.LayerNorm.bias"]
        extra = "bert.encoder.layer.2.output.dense.bias", "bert.encoder.adapter.weight"
        heads = "cls.predictions.bias", "cls.seq_relationship.weight", "lm_head.dense.weight"
        return arrays | {name: np.ones(2, np.float32) for name in extra + heads}

    change(folder, spoil)
    assert set(refusal(folder).details) == {
        f"missing: {QUERY}",
        "missing: bert.embeddings.LayerNorm.bias",
        "unexpected: bert.encoder.layer.2.output.dense.bias",
        "unexpected: bert.encoder.adapter.weight",
    }


def test_f07_shapes_are_compared_before_arrays_are_read(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = BERT.settings | {"vocab_size": 60, "intermediate_size": 32}
    (folder / "config.json").write_text(json.dumps(settings))
    monkeypatch.setattr(pretrained, "_read_arrays", lambda *_: pytest.fail("read too early"))
    details = refusal(folder).details
    assert len(details) == 1 + 2 * 3
    assert (
        "bert.embeddings.word_embeddings.weight for encoder/embeddings/word/embedding: "
        "have (50, 16) / want (60, 16)"
    ) in details
    assert (
        "bert.encoder.layer.1.output.dense.weight for encoder/layers/1/feed_forward/down/kernel: "
        "have (16, 24) / want (16, 32)"
    ) in details


def test_weights_of_another_family_are_refused(folder: Path) -> None:
    settings = BERT.settings | {"model_type": "roberta"}
    (folder / "config.json").write_text(json.dumps(settings))
    assert any(detail.startswith("unexpected: bert.") for detail in refusal(folder).details)


def shard(folder: Path) -> dict[str, str]:
    """Divides the weights of a folder over two files; returns the index's weight_map."""
    arrays = load_file(folder / WEIGHTS)
    (folder / WEIGHTS).unlink()
    names = sorted(arrays)
    files = {name: f"model-0000{1 + i % 2}-of-00002.safetensors" for i, name in enumerate(names)}
    for file in set(files.values()):
        save_file({name: arrays[name] for name in names if files[name] == file}, folder / file)
    (folder / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": files}))
    return files


def test_shards_equal_a_single_file(folder: Path) -> None:
    single = load(folder, 3)
    shard(folder)
    assert_same(load(folder, 3), single)


def test_shards_have_to_be_complete(folder: Path) -> None:
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
def test_an_index_that_makes_no_sense_is_refused(folder: Path, text: str) -> None:
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
def test_f19_malformed_files_are_refused(folder: Path, content: bytes) -> None:
    (folder / WEIGHTS).write_bytes(content)
    assert "safetensors" in refusal(folder).what


@pytest.mark.parametrize("share", [0.001, 0.1, 0.5, 0.999])
def test_f19_truncated_files_are_refused(folder: Path, share: float) -> None:
    whole = (folder / WEIGHTS).read_bytes()
    (folder / WEIGHTS).write_bytes(whole[: int(share * len(whole))])
    refusal(folder)


@pytest.mark.parametrize("name", ["pytorch_model.bin", "tf_model.h5", "flax_model.msgpack"])
def test_f19_other_formats_are_refused_with_what_to_do(folder: Path, name: str) -> None:
    (folder / WEIGHTS).unlink()
    assert "copy" in str(refusal(folder).mend)
    (folder / name).write_bytes(b"\x80\x04.")
    error = refusal(folder)
    assert name in error.what and "save_pretrained" in str(error.mend)


@pytest.mark.parametrize("content", [None, b"", b"{", b"[]", b"\xff", b"[" * 100_000])
def test_config_json_has_to_be_there(folder: Path, content: bytes | None) -> None:
    path = folder / "config.json"
    path.unlink() if content is None else path.write_bytes(content)
    with pytest.raises(DataError) as caught:
        load_encoder_config(folder)
    assert str(path) in str(caught.value)


def test_config_errors_name_the_file(folder: Path) -> None:
    (folder / "config.json").write_text(json.dumps(BERT.settings | {"hidden_act": "swish"}))
    with pytest.raises(ConfigError, match="swish") as caught:
        load_encoder_config(folder)
    assert str(folder / "config.json") in str(caught.value)


def test_roberta_never_loads_a_pooler(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    flax_side.write_folder(ROBERTA, tmp_path)
    change(tmp_path, lambda a: a | {"roberta.pooler.dense.bias": np.ones(16, np.float32)})
    caplog.set_level(logging.INFO, "flaxfer.models")
    assert load(tmp_path).keys() == {"encoder"}
    assert "roberta.pooler.dense.bias" in caplog.text


def test_local_folders_never_reach_the_hub(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pretrained, "snapshot_download", lambda *_, **__: pytest.fail("network"))
    assert resolve(Model(path=str(folder))) == folder
    with pytest.raises(DataError, match="nowhere") as caught:
        resolve(Model(path=str(folder / "nowhere")))
    assert "model.hub" in str(caught.value)
    with pytest.raises(ConfigError):
        resolve(Model())


def test_hub_models_are_downloaded_without_what_is_not_needed(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: dict[str, Any] = {}

    def download(repo: str, *, revision: str, allow_patterns: list[str]) -> str:
        asked.update(repo=repo, revision=revision)
        files = ["config.json", WEIGHTS, INDEX, "model-00001-of-00002.safetensors"]
        files += ["tokenizer.json", "tokenizer_config.json", "vocab.txt", "sentencepiece.bpe.model"]
        unneeded = ["pytorch_model.bin", "README.md", "onnx/model.onnx", "tf_model.h5"]
        kept = huggingface_hub.utils.filter_repo_objects(
            files + unneeded, allow_patterns=allow_patterns
        )
        assert list(kept) == files
        return str(folder)

    reached: list[tuple[str, ...]] = []
    monkeypatch.setattr(pretrained, "reach", lambda *asked: reached.append(asked))
    monkeypatch.setattr(pretrained, "snapshot_download", download)
    assert resolve(Model(hub="someone/bert", revision="v2")) == folder
    assert asked == {"repo": "someone/bert", "revision": "v2"}
    assert reached == [("someone/bert", "model", "v2")]


@pytest.mark.parametrize(
    "cause",
    [
        huggingface_hub.errors.LocalEntryNotFoundError("no connection"),
        huggingface_hub.errors.OfflineModeIsEnabled("no connection"),
        huggingface_hub.errors.HFValidationError("no connection"),
        ConnectionError("no connection"),
        TimeoutError("no connection"),
    ],
    ids=lambda cause: type(cause).__name__,
)
def test_f48_a_hub_out_of_reach_says_what_to_do(
    cause: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    def download(*_: Any, **__: Any) -> str:
        raise cause

    monkeypatch.setattr(pretrained, "reach", lambda *_: None)
    monkeypatch.setattr(pretrained, "snapshot_download", download)
    with pytest.raises(DataError) as caught:
        resolve(Model(hub="someone/bert"))
    text = str(caught.value)
    assert "someone/bert@main" in text and "no connection" in text and "model.path" in text


def test_weights_in_shards_and_in_one_file_prefer_the_file(folder: Path) -> None:
    want = load(folder)
    copy = folder / "copy.safetensors"
    shutil.copy(folder / WEIGHTS, copy)
    shard(folder)
    copy.rename(folder / WEIGHTS)
    (folder / INDEX).write_text("{}")
    assert_same(load(folder), want)
    assert read_config(BERT.settings) == load_encoder_config(folder)
