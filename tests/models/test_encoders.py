"""Encoder configs from config.json: values, defaults and refusals."""

from __future__ import annotations

from typing import Any

import pytest
import transformers

from flaxfer.errors import ConfigError
from flaxfer.models.encoders import AbsoluteConfig, XLNetConfig
from flaxfer.models.families import FAMILIES, read_config
from tests.models import tiny
from tests.models.tiny import ABSOLUTE as SIZES


@pytest.mark.parametrize("model_type", [name for name in FAMILIES if name != "xlnet"])
def test_defaults_are_those_of_transformers(model_type: str) -> None:
    theirs = transformers.AutoConfig.for_model(model_type)
    sizes = {name: getattr(theirs, name) for name in tiny.ABSOLUTE}
    ours = read_config(sizes | {"model_type": model_type})
    assert isinstance(ours, AbsoluteConfig)
    assert ours == read_config(theirs.to_dict())
    assert ours.family == model_type
    assert ours.pad_token_id == theirs.pad_token_id
    assert ours.type_vocab_size == theirs.type_vocab_size
    assert ours.layer_norm_eps == theirs.layer_norm_eps
    assert ours.activation == theirs.hidden_act
    assert ours.hidden_dropout == ours.classifier_dropout == theirs.hidden_dropout_prob
    assert ours.attention_dropout == theirs.attention_probs_dropout_prob
    assert ours.initializer_range == theirs.initializer_range


def test_defaults_of_xlnet_are_those_of_transformers() -> None:
    theirs = transformers.AutoConfig.for_model("xlnet")
    ours = read_config({name: getattr(theirs, name) for name in tiny.RELATIVE})
    assert isinstance(ours, XLNetConfig)
    assert ours == read_config(theirs.to_dict())
    assert ours.pad_token_id == theirs.pad_token_id
    assert ours.layer_norm_eps == theirs.layer_norm_eps
    assert ours.activation == theirs.ff_activation
    assert ours.hidden_dropout == ours.attention_dropout == theirs.dropout
    assert ours.classifier_dropout == theirs.summary_last_dropout
    assert ours.initializer_range == theirs.initializer_range
    assert ours.clamp_len == theirs.clamp_len
    assert ours.max_length is None


def test_bert_settings_are_read() -> None:
    config = read_config(
        SIZES
        | {
            "model_type": "xlm-roberta",
            "max_position_embeddings": 514,
            "pad_token_id": 1,
            "hidden_dropout_prob": 0.2,
            "attention_probs_dropout_prob": 0,
            "classifier_dropout": 0.0,
            "layer_norm_eps": 1e-5,
            "hidden_act": "gelu_pytorch_tanh",
        }
    )
    assert isinstance(config, AbsoluteConfig)
    assert (config.position_offset, config.max_length) == (2, 512)
    assert (config.hidden_dropout, config.attention_dropout) == (0.2, 0.0)
    assert config.classifier_dropout == 0.0
    assert config.layer_norm_eps == 1e-5
    assert config.activation == "gelu_pytorch_tanh"
    assert config.head_size == 4
    lowered = config.with_dropout(0.05)
    assert lowered.hidden_dropout == lowered.attention_dropout == lowered.classifier_dropout == 0.05


def test_bert_positions_start_at_zero() -> None:
    config = read_config(SIZES | {"model_type": "bert", "max_position_embeddings": 512})
    assert isinstance(config, AbsoluteConfig)
    assert (config.position_offset, config.max_length) == (0, 512)


@pytest.mark.parametrize(
    "model_type", ["xlm-roberta-xl", "roberta-prelayernorm", "t5", ["bert"], 3]
)
def test_unknown_model_types_are_refused(model_type: Any) -> None:
    with pytest.raises(ConfigError) as caught:
        read_config(SIZES | {"model_type": model_type}, "folder/config.json")
    assert repr(model_type) in str(caught.value) and "xlm-roberta" in str(caught.value)
    assert "folder/config.json" in str(caught.value)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"position_embedding_type": "relative_key"}, "relative_key"),
        ({"hidden_act": "swish"}, "swish"),
        ({"use_task_id": True}, "use_task_id"),
        ({"hidden_act": ["gelu"]}, "hidden_act"),
        ({"is_decoder": True}, "is_decoder"),
        ({"add_cross_attention": True}, "add_cross_attention"),
        ({"hidden_size": 18}, "multiple of num_attention_heads"),
        ({"hidden_size": None}, "hidden_size"),
        ({"num_hidden_layers": "2"}, "num_hidden_layers"),
        ({"num_hidden_layers": 0}, "num_hidden_layers"),
        ({"num_attention_heads": True}, "num_attention_heads"),
        ({"pad_token_id": 50}, "pad_token_id"),
        ({"pad_token_id": "0"}, "pad_token_id"),
        ({"hidden_dropout_prob": 1.0}, "hidden_dropout_prob"),
        ({"classifier_dropout": -0.1}, "classifier_dropout"),
        ({"attention_probs_dropout_prob": "0.1"}, "attention_probs_dropout_prob"),
        ({"type_vocab_size": 0}, "type_vocab_size"),
        ({"max_position_embeddings": 1}, "max_position_embeddings"),
        ({"layer_norm_eps": "small"}, "layer_norm_eps"),
        ({"initializer_range": -1}, "initializer_range"),
    ],
)
def test_unsupported_settings_are_refused_by_name(change: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        read_config(SIZES | {"model_type": "roberta", "pad_token_id": 1} | change)


def test_all_problems_are_listed() -> None:
    settings = SIZES | {"model_type": "bert", "hidden_act": "swish", "is_decoder": True}
    del settings["vocab_size"]
    with pytest.raises(ConfigError) as caught:
        read_config(settings)
    assert len(caught.value.details) == 3


def test_xlnet_settings_are_read() -> None:
    config = read_config(
        tiny.RELATIVE
        | {
            "dropout": 0.2,
            "summary_last_dropout": 0,
            "ff_activation": "relu",
            "layer_norm_eps": 1e-5,
            "clamp_len": 7,
            "pad_token_id": None,
            "d_head": 4,
            "mem_len": 512,
            "reuse_len": 256,
        }
    )
    assert isinstance(config, XLNetConfig)
    assert (config.hidden_size, config.num_layers, config.num_heads) == (16, 2, 4)
    assert (config.intermediate_size, config.vocab_size, config.head_size) == (24, 50, 4)
    assert (config.hidden_dropout, config.attention_dropout) == (0.2, 0.2)
    assert (config.classifier_dropout, config.layer_norm_eps) == (0.0, 1e-5)
    assert (config.activation, config.clamp_len, config.pad_token_id) == ("relu", 7, 5)
    lowered = config.with_dropout(0.05)
    assert isinstance(lowered, XLNetConfig)
    assert lowered.hidden_dropout == lowered.attention_dropout == lowered.classifier_dropout == 0.05


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"attn_type": "uni"}, "attn_type has to be 'bi' .*, not 'uni'"),
        ({"bi_data": True}, "bi_data has to be false .*, not True"),
        ({"same_length": True}, "same_length"),
        ({"use_mems_train": True}, "use_mems_train .*without memory"),
        ({"untie_r": False}, "untie_r has to be true .*, not False"),
        ({"summary_type": "first"}, "summary_type has to be 'last'"),
        ({"summary_use_proj": False}, "summary_use_proj"),
        ({"summary_activation": None}, "summary_activation has to be 'tanh', not None"),
        ({"ff_activation": "silu"}, "ff_activation"),
        ({"clamp_len": None}, "clamp_len"),
        ({"d_model": 15, "n_head": 3}, "d_model has to be a positive even integer"),
        ({"d_model": 18}, "multiple of n_head"),
        ({"d_head": 8}, "d_head 8"),
        ({"d_model": None}, "d_model"),
        ({"n_layer": 0}, "n_layer"),
        ({"dropout": 1}, "dropout"),
        ({"pad_token_id": 50}, "pad_token_id"),
    ],
)
def test_unsupported_xlnet_settings_are_refused_by_name(change: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        read_config(tiny.RELATIVE | change)
