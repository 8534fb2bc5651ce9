"""config.json: what is read, and what is refused by name."""

from __future__ import annotations

from typing import Any

import pytest
import transformers

from flaxfer.errors import ConfigError
from flaxfer.models.families import FAMILIES, read_config
from tests.parity.cases import SIZES


@pytest.mark.parametrize("model_type", FAMILIES)
def test_defaults_are_those_of_transformers(model_type: str) -> None:
    """A config.json may leave out what transformers' config classes know."""
    theirs = transformers.AutoConfig.for_model(model_type)
    sizes = {name: getattr(theirs, name) for name in SIZES if name not in ("initializer_range",)}
    ours = read_config({name: x for name, x in sizes.items() if x} | {"model_type": model_type})
    assert ours == read_config(theirs.to_dict())
    assert ours.family == model_type
    assert ours.pad_token_id == theirs.pad_token_id
    assert ours.type_vocab_size == theirs.type_vocab_size
    assert ours.layer_norm_eps == theirs.layer_norm_eps
    assert ours.activation == theirs.hidden_act
    assert ours.hidden_dropout == ours.classifier_dropout == theirs.hidden_dropout_prob
    assert ours.attention_dropout == theirs.attention_probs_dropout_prob
    assert ours.initializer_range == theirs.initializer_range


def test_values_are_taken_over() -> None:
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
    assert (config.position_offset, config.max_length) == (0, 512)


@pytest.mark.parametrize("model_type", ["xlm-roberta-xl", "t5", "deberta-v2", None, ["bert"]])
def test_other_model_types_are_refused(model_type: Any) -> None:
    with pytest.raises(ConfigError) as caught:
        read_config(SIZES | {"model_type": model_type}, "folder/config.json")
    assert repr(model_type) in str(caught.value) and "xlm-roberta" in str(caught.value)
    assert "folder/config.json" in str(caught.value)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"position_embedding_type": "relative_key"}, "relative_key"),
        ({"hidden_act": "swish"}, "swish"),
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
def test_what_is_not_implemented_is_refused_by_name(change: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        read_config(SIZES | {"model_type": "roberta", "pad_token_id": 1} | change)


def test_all_problems_come_at_once() -> None:
    settings = SIZES | {"model_type": "bert", "hidden_act": "swish", "is_decoder": True}
    del settings["vocab_size"]
    with pytest.raises(ConfigError) as caught:
        read_config(settings)
    assert len(caught.value.details) == 3
