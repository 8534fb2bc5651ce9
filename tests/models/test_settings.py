"""Settings of config.json: every one that a computation depends on is read or refused."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import Any

import pytest
import transformers

from flaxfer.errors import ConfigError
from flaxfer.models.families import FAMILIES, read_config
from flaxfer.models.settings import BERT_SETTINGS, XLNET_SETTINGS, unknown_settings
from tests.models import tiny

MODELS = Path(transformers.__file__).parent / "models"
MODEL_FILES = {
    "bert": "bert/modeling_bert.py",
    "ernie": "ernie/modeling_ernie.py",
    "roberta": "roberta/modeling_roberta.py",
    "xlm-roberta": "xlm_roberta/modeling_xlm_roberta.py",
    "camembert": "camembert/modeling_camembert.py",
    "data2vec-text": "data2vec/modeling_data2vec_text.py",
    "xlnet": "xlnet/modeling_xlnet.py",
}
NOT_SETTINGS = {"get_text_config", "n_layers", "_attn_implementation"}
"""Names that transformers' modules read from a config, and that no config.json sets."""


@pytest.mark.parametrize("family", FAMILIES)
def test_every_setting_of_transformers_is_read_refused_or_neutral(family: str) -> None:
    config = transformers.AutoConfig.for_model(family)
    fields = {field.name for field in dataclasses.fields(config)} | config.to_dict().keys()
    source = (MODELS / MODEL_FILES[family]).read_text(encoding="utf-8")
    read = set(re.findall(r"config\.([a-z_]\w*)", source))
    read |= set(re.findall(r'(?:getattr|hasattr)\(config, "(\w+)"', source))
    assert {"hidden_size", "vocab_size"} <= read
    names = (fields | read) - NOT_SETTINGS
    assert unknown_settings(dict.fromkeys(names, 0) | {"model_type": family}) == []
    assert unknown_settings({"model_type": family, "alibi": 1, "vocab_size": 2}) == ["alibi"]


def refusal(family: str, change: dict[str, Any]) -> str:
    with pytest.raises(ConfigError) as caught:
        read_config(tiny.settings(family) | change, "folder/config.json")
    return str(caught.value)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"hidden_size": "32"}, "hidden_size has to be a positive integer up to 65,536, not '32'"),
        (
            {"vocab_size": 1e12},
            "vocab_size has to be a positive integer up to 10,000,000, not 1000",
        ),
        ({"vocab_size": 10**12}, "vocab_size has to be"),
        (
            {"num_hidden_layers": 10**6},
            "num_hidden_layers has to be a positive integer up to 1,000",
        ),
        ({"num_hidden_layers": -1}, "num_hidden_layers has to be"),
        ({"intermediate_size": 10**9}, "intermediate_size has to be"),
        ({"max_position_embeddings": 10**12}, "max_position_embeddings has to be"),
        ({"type_vocab_size": 10**6}, "type_vocab_size has to be"),
        ({"layer_norm_eps": float("nan")}, "layer_norm_eps has to be a positive number, not nan"),
        ({"layer_norm_eps": 0}, "layer_norm_eps has to be"),
        ({"initializer_range": float("inf")}, "initializer_range has to be"),
        ({"hidden_dropout_prob": 2}, "hidden_dropout_prob has to be a number from 0 to below 1"),
        ({"classifier_dropout": 2}, "classifier_dropout has to be"),
        ({"position_embedding_type": "relative_key_query"}, "position_embedding_type has to be"),
        ({"pruned_heads": {"1": [0]}}, "pruned_heads has to be absent"),
        ({"quantization_config": {"load_in_4bit": True}}, "quantised weights are not read"),
        ({"embedding_size": 8}, "embedding_size 8 has to equal hidden_size 16"),
        ({"embedding_dim": 8}, "embedding_dim 8 has to equal"),
        ({"is_encoder_decoder": True}, "is_encoder_decoder has to be false"),
        ({"cross_attention_hidden_size": 16}, "cross_attention_hidden_size has to be absent"),
        ({"auto_map": {"AutoModel": "code.Model"}}, "code that comes with a model is not run"),
        ({"auto_map": 3}, "auto_map has to be without models"),
        ({"architectures": "BertModel"}, "architectures has to be a list"),
        ({"architectures": ["RobertaModel"]}, "contradicts architectures"),
        ({"architectures": ["XLNetForSequenceClassification"]}, "contradicts architectures"),
    ],
)
def test_a_setting_of_bert_is_refused_in_one_line(change: dict[str, Any], words: str) -> None:
    message = refusal("bert", change)
    assert message.startswith("folder/config.json: ") and words in message
    assert message.count("\n") == 1 and "\n  Hint: " in message


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"hidden_size": 32}, "hidden_size 32 is another name of d_model"),
        ({"summary_first_dropout": 0.1}, "summary_first_dropout has to be 0"),
        ({"summary_proj_to_labels": True}, "summary_proj_to_labels has to be false"),
        ({"max_position_embeddings": 512}, "max_position_embeddings has to be absent or -1"),
        ({"is_decoder": True}, "is_decoder has to be false"),
    ],
)
def test_a_setting_of_xlnet_is_refused_in_one_line(change: dict[str, Any], words: str) -> None:
    message = refusal("xlnet", change)
    assert words in message and message.count("\n") == 1


def test_several_settings_are_refused_together() -> None:
    message = refusal("bert", {"hidden_size": "32", "hidden_act": "swish", "is_decoder": True})
    assert "3 settings do not describe a known encoder" in message
    assert all(f"  - {key} has to be" in message for key in ("hidden_size", "hidden_act"))


def test_settings_without_effect_are_accepted() -> None:
    plain = read_config(tiny.settings("bert"))
    neutral = {
        "architectures": ["BertForMaskedLM", "SomethingElse"],
        "pruned_heads": {},
        "embedding_size": 16,
        "classifier_dropout": None,
        "auto_map": {"AutoTokenizer": ["code.Tokenizer", None]},
        "quantization_config": None,
        "pooler_type": "first_token_transform",
        "torch_dtype": "float16",
    }
    assert read_config(tiny.settings("bert") | neutral) == plain


def test_other_names_of_the_sizes_of_xlnet_are_read() -> None:
    settings = tiny.settings("xlnet")
    names = {"d_model": "hidden_size", "n_layer": "num_hidden_layers", "vocab_size": "n_token"}
    renamed = {names.get(key, key): value for key, value in settings.items()}
    assert renamed.keys() != settings.keys()
    assert read_config(renamed) == read_config(settings)
    assert read_config(settings | {"hidden_size": None, "n_head": 4}) == read_config(settings)
    memory = {"mem_len": 0, "reuse_len": 4, "use_mems_eval": False}
    assert read_config(settings | memory) == read_config(settings)


@pytest.mark.parametrize(
    ("settings", "line"),
    [
        ({"architectures": ["BertForMaskedLM"]}, '"model_type": "bert", which follows'),
        ({"architectures": ["XLMRobertaModel"]}, '"model_type": "xlm-roberta", which follows'),
        ({"architectures": ["XLNetLMHeadModel"]}, '"model_type": "xlnet", which follows'),
        ({"d_model": 16, "n_layer": 2}, '"model_type": "xlnet", which names'),
        ({"architectures": ["BertGenerationEncoder"]}, '"model_type": "bert" or "model_type": "er'),
        ({}, '"model_type": "bert" or "model_type": "ernie"'),
    ],
)
def test_a_missing_model_type_is_derived_from_architectures(
    settings: dict[str, Any], line: str
) -> None:
    with pytest.raises(ConfigError, match="there is no model_type") as caught:
        read_config(settings)
    assert f"add the line {line}" in str(caught.value.hint)


@pytest.mark.parametrize(("written", "meant"), [("Bert", "bert"), ("xlm_roberta", "xlm-roberta")])
def test_a_misspelt_model_type_is_corrected(written: str, meant: str) -> None:
    assert f"did you mean {meant!r}?" in refusal("bert", {"model_type": written})


def test_no_setting_is_in_the_table_twice() -> None:
    for table in (BERT_SETTINGS, XLNET_SETTINGS):
        keys = [setting.key for setting in table]
        assert len(keys) == len(set(keys))
