"""Conversion of PyTorch's files: only on demand, in any layout, and without running code."""

from __future__ import annotations

import json
import os
import shutil
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy

from flaxfer.errors import CheckpointError, ConfigError, DataError, FlaxferError
from flaxfer.interop.convert import convert
from flaxfer.interop.folders import new_folder
from flaxfer.main import main
from flaxfer.models.pretrained import load_encoder_config, load_pretrained
from flaxfer.models.weights import INDEX, read_headers
from tests.helpers import tiny_model

BIN, BIN_INDEX, WEIGHTS = "pytorch_model.bin", "pytorch_model.bin.index.json", "model.safetensors"


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A model with safetensors."""
    return tiny_model(tmp_path / "model", "bert")


@pytest.fixture
def folder(model: Path, tmp_path: Path) -> Path:
    """The same model with a file named like a pickle instead, whose content does not matter."""
    copied = Path(shutil.copytree(model, tmp_path / "old model"))
    (copied / WEIGHTS).rename(copied / BIN)
    return copied


def refused(capsys: pytest.CaptureFixture[str], code: int, *words: str) -> str:
    assert main(["convert", *words]) == code
    out, err = capsys.readouterr()
    assert out == "" and err.startswith("error: ")
    return err


def test_the_error_without_safetensors_names_the_command(folder: Path) -> None:
    with pytest.raises(CheckpointError) as caught:
        read_headers(folder)
    assert f"flaxfer convert '{folder}' OUT --allow-torch" in str(caught.value.hint)


def test_nothing_is_opened_without_permission(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: Any
) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)  # An import would be another error.
    out = tmp_path / "new"
    message = refused(capsys, 2, str(folder), str(out))
    assert "can run code" in message
    assert f"flaxfer convert '{folder}' {out} --allow-torch" in message
    assert not out.exists()


def test_without_a_safe_pytorch_the_error_names_the_command_to_install_it(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: Any
) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    words = (str(folder), str(tmp_path / "new"), "--allow-torch")
    assert 'pip install "torch>=2.6"' in refused(capsys, 2, *words)
    monkeypatch.setitem(sys.modules, "torch", types.SimpleNamespace(__version__="2.5.1+cpu"))
    message = refused(capsys, 2, *words)
    assert "2.5.1" in message and "torch>=2.6" in message

    class Opened(Exception):
        pass

    def load(*_: Any, weights_only: bool, **__: Any) -> None:
        assert weights_only
        raise Opened

    new = types.SimpleNamespace(__version__="2.10.0", load=load)
    monkeypatch.setitem(sys.modules, "torch", new)
    assert "Opened" in refused(capsys, 4, *words)


def unlink(name: str) -> Any:
    return lambda folder: (folder / name).unlink()


def sharded(content: Any, *names: str) -> Any:
    def change(folder: Path) -> None:
        (folder / BIN).unlink()
        (folder / BIN_INDEX).write_text(json.dumps(content))
        for name in names:
            (folder / name).write_bytes(b"")

    return change


@pytest.mark.parametrize(
    ("change", "kind", "words"),
    [
        (shutil.rmtree, DataError, "no such folder"),
        (unlink(BIN), DataError, BIN_INDEX),
        (unlink("config.json"), DataError, "config.json: there is no such file"),
        (lambda folder: (folder / WEIGHTS).write_bytes(b""), DataError, "already has safetensors"),
        (sharded({"weight_map": []}), CheckpointError, "weight_map"),
        (sharded({"weight_map": {"a": "../a.bin"}}, "../a.bin"), CheckpointError, "weight_map"),
        (sharded({"weight_map": {"a": "1.bin", "b": "2.bin"}}, "1.bin"), CheckpointError, "2.bin"),
        (lambda folder: (folder.parent / "new").write_text(""), ConfigError, "a file of this name"),
        (
            lambda folder: (folder.parent / "new" / "a").mkdir(parents=True),
            ConfigError,
            "flaxfer export --overwrite replaces",
        ),
    ],
)
def test_an_unsuitable_folder_is_refused(
    folder: Path, monkeypatch: Any, change: Any, kind: type[FlaxferError], words: str
) -> None:
    monkeypatch.setitem(sys.modules, "torch", types.SimpleNamespace(__version__="2.6"))
    change(folder)
    with pytest.raises(kind) as caught:
        convert(folder, folder.parent / "new", allow_torch=True)
    assert words in str(caught.value)


def test_what_another_process_has_written_is_kept(tmp_path: Path) -> None:
    out = tmp_path / "new"
    with pytest.raises(ConfigError, match="not empty"), new_folder(out):
        out.mkdir()
        (out / "model").write_text("another's")
    assert [path.name for path in tmp_path.rglob("*")] == ["new", "model"]


def leaves(folder: Path) -> dict[str, np.ndarray]:
    import jax

    loaded = load_pretrained(folder, load_encoder_config(folder))
    return {jax.tree_util.keystr(path): leaf for path, leaf in jax.tree.leaves_with_path(loaded)}


def assert_same_model(one: Path, other: Path) -> None:
    first, second = leaves(one), leaves(other)
    assert first.keys() == second.keys()
    for name in first:
        np.testing.assert_array_equal(first[name], second[name], err_msg=name)


def tensors_of(model: Path) -> dict[str, Any]:
    import torch

    arrays = safetensors.numpy.load_file(model / WEIGHTS)
    return {name: torch.tensor(array) for name, array in arrays.items()}


@pytest.mark.parity
@pytest.mark.parametrize("legacy", [False, True])
def test_a_pickle_becomes_the_same_model(
    model: Path, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], legacy: bool
) -> None:
    import torch

    torch.save(tensors_of(model), folder / BIN, _use_new_zipfile_serialization=not legacy)
    out = tmp_path / "deep" / "new"
    assert main(["convert", str(folder), str(out), "--allow-torch"]) == 0
    assert capsys.readouterr().out == f"{out}\n"
    assert_same_model(model, out)
    assert {p.name for p in out.iterdir()} == {p.name for p in model.iterdir()}
    assert (out / "config.json").read_bytes() == (model / "config.json").read_bytes()
    assert [p.name for p in out.parent.iterdir()] == ["new"]


@pytest.mark.parity
def test_shards_stay_shards(model: Path, folder: Path, tmp_path: Path) -> None:
    import torch

    tensors = tensors_of(model)
    names = [f"pytorch_model-{i}-of-2.bin" for i in (1, 2)]
    weight_map = {name: names[i % 2] for i, name in enumerate(tensors)}
    (folder / BIN).unlink()
    (folder / BIN_INDEX).write_text(json.dumps({"weight_map": weight_map}))
    for file in names:
        torch.save({k: v for k, v in tensors.items() if weight_map[k] == file}, folder / file)
    out = convert(folder, tmp_path / "new", allow_torch=True)
    index = json.loads((out / INDEX).read_text())
    shards = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
    assert sorted(p.name for p in out.glob("*.safetensors")) == shards
    assert set(index["weight_map"].values()) == set(shards)
    assert index["metadata"]["total_size"] == sum(4 * t.numel() for t in tensors.values())
    assert_same_model(model, out)
    torch.save(tensors, folder / names[0])  # Holds the arrays of the other shard too.
    with pytest.raises(CheckpointError, match="two shards"):
        convert(folder, tmp_path / "twice", allow_torch=True)
    assert not (tmp_path / "twice").exists()


@pytest.mark.parity
def test_shared_strided_and_half_precision_tensors(folder: Path, tmp_path: Path) -> None:
    import torch
    from safetensors.torch import load_file

    table = torch.arange(12.0).reshape(3, 4)
    tensors = {
        "table": table,
        "tied": table,
        "transposed": table.T,
        "row": table[1],
        "every other": table[:, ::2],
        "trained": torch.nn.Parameter(torch.ones(2)),
        "half": torch.tensor([1.5, -2.0], dtype=torch.bfloat16),
        "ids": torch.arange(5).expand(1, -1),
        "scalar": torch.tensor(3.0),
        "none": torch.zeros(0, 4),
        "none either": torch.zeros(0, 4),
    }
    torch.save(tensors, folder / BIN)
    stored = load_file(convert(folder, tmp_path / "new", True) / WEIGHTS)
    assert stored.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert stored[name].dtype == tensor.dtype, name
        assert torch.equal(stored[name], tensor), name


class Payload:
    """An object that creates a folder when it is unpickled without restrictions."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.path),)


@pytest.mark.parity
@pytest.mark.parametrize("legacy", [False, True])
def test_code_in_the_file_is_not_run(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], legacy: bool
) -> None:
    import torch

    mark, out = tmp_path / "was run", tmp_path / "new"
    content = {"a": torch.ones(2), "b": Payload(mark)}
    torch.save(content, folder / BIN, _use_new_zipfile_serialization=not legacy)
    message = refused(capsys, 4, str(folder), str(out), "--allow-torch")
    assert str(folder / BIN) in message and "code to be run" in message
    assert "nothing of it was executed" in message and "asks for posix.mkdir" in message
    assert "weights_only=False" not in message
    assert not mark.exists() and not out.exists()
    torch.load(folder / BIN, weights_only=False)
    assert mark.exists()  # The payload does work.


@pytest.mark.parity
@pytest.mark.parametrize("content", [b"", b"\x80\x04.", b"PK\x03\x04torn", b"<html>"])
def test_damaged_files_are_refused(folder: Path, tmp_path: Path, content: bytes) -> None:
    (folder / BIN).write_bytes(content)
    with pytest.raises(CheckpointError, match="damaged") as caught:
        convert(folder, tmp_path / "new", True)
    assert str(folder / BIN) in str(caught.value)
    assert {p.name for p in tmp_path.iterdir()} == {"model", "old model"}


@pytest.mark.parity
def test_only_arrays_by_name_are_weights(folder: Path, tmp_path: Path) -> None:
    import torch

    for content in ([torch.ones(2)], {"model": {"a": torch.ones(2)}}, {1: torch.ones(2)}):
        torch.save(content, folder / BIN)
        with pytest.raises(CheckpointError, match="arrays by their names"):
            convert(folder, tmp_path / "new", True)
    torch.save({"a": torch.eye(3).to_sparse()}, folder / BIN)
    with pytest.raises(CheckpointError, match="sparse"):
        convert(folder, tmp_path / "new", True)
