"""Exports of adapters in peft's format, against the format's formula and peft itself."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy

from flaxfer.config import Lora, Task
from flaxfer.errors import ConfigError
from flaxfer.interop.adapter import PREFIX
from flaxfer.interop.card import Publication
from flaxfer.interop.export import export
from flaxfer.main import main
from flaxfer.training.record import StageRecord
from tests.interop.helpers import read_json
from tests.interop.test_export_task_types import TASKS, stage_without_training

EVERYWHERE = Lora(3, 12.0, 0.1, modules=("query", "key", "value", "output", "up", "down"))
DOWN = Lora(2, 3.0, layers=(1, 2), modules=("value", "down"))
ADAPTER = Publication(adapter=True)
Arrays = dict[str, np.ndarray]


def targeted(config: dict[str, Any], weights: Arrays) -> set[str]:
    """Return the modules of a model that peft adapts: `check_target_module_exists`."""
    modules = {name.removesuffix(".weight") for name in weights if name.endswith(".weight")}
    return {
        module
        for module in modules
        if any(module == end or module.endswith(f".{end}") for end in config["target_modules"])
        if (layer := re.match(r".*\.[^.]*\.(\d+)\.", module))
        and int(layer.group(1)) in config["layers_to_transform"]
    }


@pytest.mark.parametrize(
    ("family", "type_name", "settings"),
    [
        ("bert", "classification", EVERYWHERE),
        pytest.param("xlm-roberta", "classification", DOWN, marks=pytest.mark.slow),
        pytest.param("xlm-roberta", "tagging", DOWN, marks=pytest.mark.slow),
    ],
)
def test_base_plus_scaled_b_a_are_the_weights_of_the_whole_export(
    family: Any, type_name: str, settings: Lora, tmp_path: Path
) -> None:
    stage, _ = stage_without_training(tmp_path, family, TASKS[type_name], lora=settings)
    whole = safetensors.numpy.load_file(export(stage, tmp_path / "whole") / "model.safetensors")
    out = export(stage, tmp_path / "out", publication=ADAPTER)
    base = safetensors.numpy.load_file(tmp_path / "model" / "model.safetensors")
    found = safetensors.numpy.load_file(out / "adapter_model.safetensors")
    config = read_json(out / "adapter_config.json")
    adapted = {name.split(".lora_")[0] for name in found if ".lora_" in name}
    assert adapted == {PREFIX + module for module in targeted(config, whole)}
    layers = len(config["layers_to_transform"])
    assert len(adapted) == layers * len(settings.modules)
    for name, value in whole.items():
        module = PREFIX + name.removesuffix(".weight")
        if PREFIX + name in found:
            assert name.removeprefix("bert.").split(".")[0] in config["modules_to_save"]
            np.testing.assert_array_equal(found.pop(PREFIX + name), value)
        elif module in adapted and name.endswith(".weight"):
            a, b = (found.pop(f"{module}.lora_{part}.weight") for part in "AB")
            assert a.shape == (settings.rank, value.shape[1])
            assert b.shape == (value.shape[0], settings.rank)
            scale = config["lora_alpha"] / config["r"]
            np.testing.assert_allclose(base[name] + scale * b @ a, value, rtol=0, atol=1e-6)
            assert np.abs(base[name] - value).max() > 0.01
        else:
            np.testing.assert_array_equal(base[name], value)
    assert not found


def test_the_config_is_the_one_that_peft_reads(tmp_path: Path) -> None:
    stage, _ = stage_without_training(tmp_path, "bert", TASKS["tagging"], lora=DOWN)
    out = export(stage, tmp_path / "out", publication=ADAPTER)
    assert read_json(out / "adapter_config.json") == {
        "peft_type": "LORA",
        "task_type": "TOKEN_CLS",
        "base_model_name_or_path": str(tmp_path / "model"),
        "r": 2,
        "lora_alpha": 3,
        "lora_dropout": 0.0,
        "target_modules": ["value", "layer.1.output.dense"],
        "layers_to_transform": [1],
        "modules_to_save": ["classifier"],
        "bias": "none",
        "fan_in_fan_out": False,
        "inference_mode": True,
        "init_lora_weights": True,
    }
    assert not (out / "model.safetensors").exists()
    assert read_json(out / "config.json")["id2label"]["1"] == "B-X"
    card = (out / "README.md").read_text()
    assert "library_name: peft" in card and "PeftModel.from_pretrained(base, 'out')" in card
    assert "flaxfer predict" not in card
    named = Publication(adapter=True, base_model="me/base")
    out = export(stage, out, overwrite=True, publication=named)
    assert read_json(out / "adapter_config.json")["base_model_name_or_path"] == "me/base"
    assert "base_model: me/base" in (out / "README.md").read_text()


def test_a_stage_whose_adapters_peft_cannot_load_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def stage_of(
        name: str, family: Any, lora: Lora | None, task: Task = TASKS["regression"]
    ) -> Path:
        stage, _ = stage_without_training(tmp_path / name, family, task, lora=lora)
        return stage

    plain, xlnet = stage_of("plain", "bert", None), stage_of("xlnet", "xlnet", DOWN)
    bert = stage_of("bert", "bert", DOWN)
    embeds = stage_of("embeds", "bert", DOWN, Task("find", "retrieval", "map_at_20"))
    for stage, start, message in (
        (plain, "", "the stage was trained without adapters"),
        (xlnet, "", "the maps of an XLNet are no linear modules in transformers"),
        (embeds, "", "peft has no place for the trained scale of embeddings"),
        (bert, "random", "the adapters belong to an encoder of random weights"),
        (bert, "0123456789abcdef", "the adapters belong to the model of the stage before"),
    ):
        record = StageRecord(stage)
        identity = record.identity() | ({"start": start} if start else {})
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(StageRecord, "identity", lambda self, found=identity: found)
            patch.setattr(StageRecord, "has_own_identity", lambda self: True)
            patch.setattr(StageRecord, "parent", lambda self: None)
            with pytest.raises(ConfigError, match=message) as caught:
                export(stage, tmp_path / "out", publication=ADAPTER)
        assert caught.value.hint.startswith("export ")
        assert not (tmp_path / "out").exists()
    words = ["export", str(bert), str(tmp_path / "out"), "--adapter"]
    assert main([*words, "--pooling", "mean"]) == 2
    assert "a folder of adapters embeds no texts" in capsys.readouterr().err
    assert main([*words, "--base-model", str(tmp_path / "bert" / "model")]) == 0
    base = json.loads((tmp_path / "out" / "adapter_config.json").read_text())
    assert base["base_model_name_or_path"] == str(tmp_path / "bert" / "model")


@pytest.mark.parity
@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize(
    ("family", "type_name", "settings"),
    [
        ("bert", "classification", EVERYWHERE),
        ("bert", "multiple_choice", DOWN),
        ("xlm-roberta", "tagging", EVERYWHERE),
        ("xlm-roberta", "classification", DOWN),
    ],
)
def test_peft_loads_it_and_gives_the_logits_of_the_whole_export(
    family: Any, type_name: str, settings: Lora, tmp_path: Path
) -> None:
    import torch
    import transformers

    peft = pytest.importorskip("peft", reason="needs the extra parity")

    task = TASKS[type_name]
    stage, _ = stage_without_training(tmp_path, family, task, lora=settings)
    whole, out = (
        export(stage, tmp_path / name, publication=Publication(adapter=name == "out"))
        for name in ("whole", "out")
    )
    auto: Any = getattr(
        transformers, json.loads((out / "config.json").read_text())["architectures"][0]
    )
    wanted = auto.from_pretrained(whole)
    config = transformers.AutoConfig.from_pretrained(out)
    base = auto.from_pretrained(
        read_json(out / "adapter_config.json")["base_model_name_or_path"], config=config
    )
    model = peft.PeftModel.from_pretrained(base, out)
    ids = (
        torch.arange(5, 35).reshape(2, 3, 5)
        if type_name == "multiple_choice"
        else torch.arange(5, 25).reshape(4, 5)
    )
    with torch.no_grad():
        one, other = wanted(input_ids=ids).logits, model(input_ids=ids).logits
    np.testing.assert_allclose(other, one, rtol=0, atol=1e-5)
    assert model.peft_config["default"].r == settings.rank
