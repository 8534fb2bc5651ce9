"""Weights that cannot be used: the error names the cause, and its hint works."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from tests.models import tiny
from tests.models.folders import (
    INDEX,
    QUERY,
    WEIGHTS,
    Arrays,
    assert_same,
    change,
    load,
    refusal,
    write_folder,
)


def renamed(function: Callable[[str], str]) -> Callable[[Arrays], Arrays]:
    return lambda arrays: {function(name): array for name, array in arrays.items()}


@pytest.mark.parametrize("prefix", ["_orig_mod.", "bert.", "encoder.", "module._orig_mod."])
def test_a_prefix_of_all_names_is_named_and_its_hint_strips_it(folder: Path, prefix: str) -> None:
    want = load(folder, 3)
    change(folder, renamed(lambda name: prefix + name))
    error = refusal(folder)
    assert error.what.startswith(f"every name of the weights begins with {prefix!r}")
    kinds = [detail.partition(":")[0] for detail in error.details]
    assert kinds == ["missing"] * 3 + ["unexpected"] * 3
    assert (" twice" in error.what) == (prefix == "bert.")
    _, command = str(error.hint).split("strip it with: ")
    python, *rest = shlex.split(command)
    assert python == "python"
    subprocess.run([sys.executable, *rest], check=True)
    assert_same(load(folder, 3), want)


def test_a_prefix_is_stripped_from_shards(folder: Path) -> None:
    want = load(folder)
    arrays = {f"module.{name}": array for name, array in load_file(folder / WEIGHTS).items()}
    arrays["module." + QUERY] = arrays["module." + QUERY].astype(ml_dtypes.bfloat16)
    (folder / WEIGHTS).unlink()
    names = sorted(arrays)
    files = {name: f"model-0000{1 + i % 2}-of-00002.safetensors" for i, name in enumerate(names)}
    for file in set(files.values()):
        save_file({name: arrays[name] for name in names if files[name] == file}, folder / file)
    (folder / INDEX).write_text(json.dumps({"weight_map": files}))
    _, command = str(refusal(folder).hint).split("strip it with: ")
    subprocess.run([sys.executable, *shlex.split(command)[1:]], check=True)
    layers = load(folder)["encoder"]["layers"], want["encoder"]["layers"]
    np.testing.assert_array_equal(*(layer[1]["attention"]["query"]["bias"] for layer in layers))


@pytest.mark.parametrize(
    ("function", "words", "hint"),
    [
        (
            renamed(lambda n: n if ".layer." in n else f"module.{n}"),
            "9 of 41 names of the weights begin with 'module.'",
            "strip it",
        ),
        (
            renamed(lambda n: n.replace("bert.", "0.auto_model.")),
            "39 of 41 names of the weights begin with '0.auto_model.'",
            "strip it",
        ),
        (
            renamed(lambda n: n.replace("bert.", "roberta.")),
            "begin with 'roberta.', but model_type is 'bert'",
            "set model_type to 'roberta' or 'xlm-roberta'",
        ),
        (
            lambda a: (
                renamed(lambda n: f"base_model.model.{n}")(a)
                | {"base_model.model.bert.x.lora_A.default.weight": np.ones((2, 2), np.float32)}
            ),
            "an adapter of peft that is not merged",
            "merge_and_unload",
        ),
        (
            renamed(lambda n: n.replace(".weight", ".kernel")),
            "those of Flax or TensorFlow",
            "save_pretrained",
        ),
        (
            lambda a: a | {QUERY: a[QUERY].astype(np.int8), f"{QUERY[:-6]}SCB": np.ones(16)},
            "the weights are quantised (I8)",
            "use the original weights",
        ),
    ],
)
def test_the_cause_of_other_names_is_found(
    folder: Path, function: Callable[[Arrays], Arrays], words: str, hint: str
) -> None:
    change(folder, function)
    error = refusal(folder)
    assert words in error.what and hint in str(error.hint)


def test_a_name_with_and_without_its_prefix_is_refused(folder: Path) -> None:
    change(folder, lambda a: a | {name.removeprefix("bert."): x for name, x in a.items()})
    details = refusal(folder).details
    assert details[0] == "unexpected: embeddings.LayerNorm.bias" and len(details) == 11
    assert details[-1] == "unexpected: 27 more"


@pytest.mark.parametrize("layers", [1, 3])
def test_another_number_of_layers_is_named(folder: Path, layers: int) -> None:
    settings = tiny.settings("bert") | {"num_hidden_layers": layers}
    (folder / "config.json").write_text(json.dumps(settings))
    error = refusal(folder)
    assert error.what == (
        f"num_hidden_layers is {layers} in config.json, but the weights have 2 layer(s)"
    )
    kind = "missing" if layers > 2 else "unexpected"
    assert error.details[-1] == f"{kind}: 14 more" and len(error.details) == 3


@pytest.mark.parametrize(
    ("key", "value", "have"),
    [
        ("vocab_size", 60, 50),
        ("hidden_size", 32, 16),
        ("intermediate_size", 32, 24),
        ("max_position_embeddings", 30, 20),
        ("type_vocab_size", 3, 2),
    ],
)
def test_sizes_that_disagree_are_named(folder: Path, key: str, value: int, have: int) -> None:
    (folder / "config.json").write_text(json.dumps(tiny.settings("bert") | {key: value}))
    error = refusal(folder)
    assert f"; {key} is {value} in config.json and {have} in the weights" in error.what
    assert len(error.details) <= 11


def test_the_number_of_classes_that_disagrees_is_named(folder: Path) -> None:
    assert "; number of classes is 2 in config.json and 3 in the weights" in refusal(folder, 2).what


@pytest.mark.parametrize("value", [np.inf, -np.inf, np.nan])
@pytest.mark.parametrize("dtype", [np.float16, np.float32, ml_dtypes.bfloat16])
def test_values_that_are_not_finite_are_refused(folder: Path, value: float, dtype: Any) -> None:
    def damage(arrays: Arrays) -> Arrays:
        array = arrays[QUERY].astype(dtype)
        array[0, 3] = array[2, 2] = value
        return arrays | {QUERY: array}

    change(folder, damage)
    assert refusal(folder).what == (
        f"the weights are damaged: {QUERY}: 2 of 256 values are NaN, infinite or beyond 3.39e+38"
    )


def test_values_that_overflow_in_bfloat16_are_refused(folder: Path) -> None:
    largest = float(ml_dtypes.finfo(ml_dtypes.bfloat16).max)
    for value in (largest, np.nextafter(np.float32(largest), np.float32(np.inf))):
        change(folder, lambda a, value=value: a | {QUERY: np.full_like(a[QUERY], value)})
        if value == largest:
            load(folder)
    assert "256 of 256 values" in refusal(folder).what
    assert np.isinf(np.float32(3.4e38).astype(ml_dtypes.bfloat16))


def test_damaged_arrays_are_all_counted(folder: Path) -> None:
    change(folder, lambda a: {name: np.full_like(x, np.nan) for name, x in a.items()})
    error = refusal(folder)
    assert ", and 38 more array(s)" in error.what
    assert len(error.details) == 11 and error.details[-1] == "29 more"


def test_unused_arrays_may_hold_anything(folder: Path) -> None:
    want = load(folder)
    change(folder, lambda a: a | {"classifier.bias": np.full(3, np.inf, np.float32)})
    assert_same(load(folder), want)
    assert "classifier.bias" in refusal(folder, 3).what


def test_kernels_of_zeros_are_an_unfinished_download(folder: Path) -> None:
    change(folder, lambda a: a | {QUERY: np.zeros_like(a[QUERY])})
    assert f"{QUERY}: all 256 values are zero" in refusal(folder).what
    write_folder(folder, "bert", "sequence")
    types = "bert.embeddings.token_type_embeddings.weight"
    change(folder, lambda a: a | {types: np.zeros_like(a[types])})  # As in XLM-R.
    load(folder)


@pytest.mark.parametrize(
    ("dtype", "name"),
    [(ml_dtypes.float8_e4m3fn, "F8_E4M3"), (ml_dtypes.float8_e5m2, "F8_E5M2"), (np.float64, "F64")],
)
def test_dtypes_that_are_not_read_are_named(folder: Path, dtype: Any, name: str) -> None:
    change(folder, lambda a: a | {QUERY: a[QUERY].astype(dtype)})
    error = refusal(folder)
    assert error.what.endswith(f"; 1 array(s) are {name}")
    assert QUERY in error.details[0] and "not quantised" in str(error.hint)


def moved(name: str) -> Callable[[Path], None]:
    def move(folder: Path) -> None:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / WEIGHTS).rename(folder / name)

    return move


def written(content: bytes) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        (folder / WEIGHTS).write_bytes(content)

    return write


def dangling(folder: Path) -> None:
    (folder / WEIGHTS).unlink()
    (folder / WEIGHTS).symlink_to("../../blobs/0123")


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (moved("model.gguf"), "model.gguf, a file of llama.cpp"),
        (moved("onnx/model.onnx"), "onnx/model.onnx, a file of ONNX"),
        (moved("openvino/openvino_model.xml"), "a file of OpenVINO"),
        (moved("model.safetensors.incomplete"), "an unfinished download, model.safetensors.inc"),
        (moved(".cache/huggingface/download/a.incomplete"), "an unfinished download, .cache/"),
        (moved("bert.safetensors"), "only bert.safetensors"),
        (
            moved("model-00001-of-00002.safetensors"),
            f"{INDEX} is missing, which belongs to model-0",
        ),
        (moved("training_args.bin"), f"there is no {WEIGHTS} and no {INDEX}"),
        (dangling, "is a link to a missing file, ../../blobs/0123"),
        (written(b"version https://git-lfs.github.com/spec/v1\noid"), "a Git LFS pointer"),
        (written(b"<!DOCTYPE html><html>"), "a web page"),
        (written(b""), "the file is empty"),
        (written(bytes(4096)), "begins with zero bytes"),
    ],
)
def test_what_lies_instead_of_the_weights_is_named(
    folder: Path, damage: Callable[[Path], None], words: str
) -> None:
    damage(folder)
    assert words in refusal(folder).what
