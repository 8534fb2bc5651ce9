"""Settings of encoders in a Hugging Face config.json: valid values, defaults, and refusals.

A setting that transformers' classes read, or once read, is either read here, required to have the
one value that is implemented, or listed in `NEUTRAL` because the outputs do not depend on it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from flaxfer.data.families import FAMILIES
from flaxfer.errors import ConfigError

GELU_NAMES = ("gelu", "gelu_python")
TANH_GELU_NAMES = (
    *("gelu_new", "gelu_fast", "gelu_accurate", "gelu_pytorch_tanh", "gelu_python_tanh"),
)
ACTIVATION_NAMES = ("relu", *GELU_NAMES, *TANH_GELU_NAMES)

Rule = tuple[str, Callable[[Any], bool]]
"""Description of the valid values of a setting, and their test."""


def _size(most: int) -> Rule:
    """Return the rule of a size; `most` is beyond every model, and keeps nonsense cheap."""
    return f"a positive integer up to {most:,}", lambda x: type(x) is int and 0 < x <= most


def _only(valid: Any, reason: str = "") -> Rule:
    """Return the rule that a setting has the one value that is implemented."""
    text = repr(valid).lower() if isinstance(valid, bool) else repr(valid)
    text += f" ({reason})" if reason else ""
    return text, lambda value: (value or None) == (valid or None)


def _absent(reason: str) -> Rule:
    """Return the rule that a setting is not set."""
    return f"absent ({reason})", lambda value: not value


VOCABULARY, WIDTH, LAYERS = _size(10**7), _size(2**16), _size(1000)
EVEN: Rule = (
    WIDTH[0].replace("integer", "even integer"),
    lambda value: WIDTH[1](value) and not value % 2,
)
INTEGER: Rule = ("an integer", lambda value: type(value) is int)
TOKEN: Rule = ("the id of a token", lambda value: type(value) is int and value >= 0)
RATE: Rule = (
    "a number from 0 to below 1",
    lambda value: type(value) in (int, float) and 0 <= value < 1,
)
OPTIONAL_RATE: Rule = (f"{RATE[0]}, or null", lambda value: value is None or RATE[1](value))
POSITIVE: Rule = (
    "a positive number",
    lambda value: type(value) in (int, float) and 0 < value < math.inf,
)
ACTIVATION: Rule = (
    f"one of {', '.join(ACTIVATION_NAMES)}",
    lambda value: value in tuple(ACTIVATION_NAMES),
)
NO_CODE: Rule = (
    "without models (code that comes with a model is not run)",
    lambda value: (
        not value or (isinstance(value, dict) and not any("Model" in str(key) for key in value))
    ),
)
BIDIRECTIONAL: Rule = _only(False, "an encoder reads the whole text")
NO_TABLE: Rule = ("absent or -1 (positions are relative)", lambda value: value in (None, -1))


class Setting(NamedTuple):
    """A setting of config.json.

    Attributes:
      key: name in config.json.
      rule: valid values.
      default: default of transformers' config class; None if required.
      fields: fields of the EncoderConfig that it sets.
    """

    key: str
    rule: Rule
    default: Any = None
    fields: tuple[str, ...] = ()


EVERY_FAMILY = (
    Setting("is_encoder_decoder", BIDIRECTIONAL, False),
    Setting("is_decoder", BIDIRECTIONAL, False),
    Setting("add_cross_attention", _only(False, "there is no second sequence to attend to"), False),
    Setting("cross_attention_hidden_size", _absent("there is no second sequence to attend to")),
    Setting("pruned_heads", _absent("all heads of all layers are computed")),
    Setting("quantization_config", _absent("quantised weights are not read; use the original")),
    Setting("auto_map", NO_CODE),
)
BERT_SETTINGS = (
    Setting("vocab_size", VOCABULARY, fields=("vocab_size",)),
    Setting("hidden_size", WIDTH, fields=("hidden_size",)),
    Setting("num_hidden_layers", LAYERS, fields=("num_layers",)),
    Setting("num_attention_heads", WIDTH, fields=("num_heads",)),
    Setting("intermediate_size", VOCABULARY, fields=("intermediate_size",)),
    Setting("max_position_embeddings", VOCABULARY, 512, ("max_position_embeddings",)),
    Setting("type_vocab_size", WIDTH, 2, ("type_vocab_size",)),
    Setting("pad_token_id", TOKEN, fields=("pad_token_id",)),
    Setting("hidden_dropout_prob", RATE, 0.1, ("hidden_dropout",)),
    Setting("attention_probs_dropout_prob", RATE, 0.1, ("attention_dropout",)),
    Setting("classifier_dropout", OPTIONAL_RATE, fields=("classifier_dropout",)),
    Setting("layer_norm_eps", POSITIVE, 1e-12, ("layer_norm_eps",)),
    Setting("initializer_range", POSITIVE, 0.02, ("initializer_range",)),
    Setting("hidden_act", ACTIVATION, "gelu", ("activation",)),
    Setting("position_embedding_type", _only("absolute"), "absolute"),
    Setting("use_task_id", _only(False, "ERNIE's embedding of pretraining tasks")),
    *EVERY_FAMILY,
)
XLNET_SETTINGS = (
    Setting("vocab_size", VOCABULARY, fields=("vocab_size",)),
    Setting("d_model", EVEN, fields=("hidden_size",)),
    Setting("n_layer", LAYERS, fields=("num_layers",)),
    Setting("n_head", WIDTH, fields=("num_heads",)),
    Setting("d_inner", VOCABULARY, fields=("intermediate_size",)),
    Setting("pad_token_id", TOKEN, fields=("pad_token_id",)),
    Setting("dropout", RATE, 0.1, ("hidden_dropout", "attention_dropout")),
    Setting("summary_last_dropout", RATE, 0.1, ("classifier_dropout",)),
    Setting("layer_norm_eps", POSITIVE, 1e-12, ("layer_norm_eps",)),
    Setting("initializer_range", POSITIVE, 0.02, ("initializer_range",)),
    Setting("ff_activation", ACTIVATION, "gelu", ("activation",)),
    Setting("clamp_len", INTEGER, -1, ("clamp_len",)),
    Setting("max_position_embeddings", NO_TABLE),
    Setting(
        "attn_type", _only("bi", "'uni' is Transformer-XL, which predicts the next token"), "bi"
    ),
    Setting("bi_data", _only(False, "it reads every second row backwards, for pretraining"), False),
    Setting("same_length", _only(False, "it cuts the attention of causal models"), False),
    Setting("use_mems_train", _only(False, "examples are independent, without memory"), False),
    Setting("untie_r", _only(True, "the biases of layers are separate"), True),
    Setting(
        "summary_type", _only("last", "heads read the CLS token, which ends an example"), "last"
    ),
    Setting("summary_use_proj", _only(True), True),
    Setting("summary_activation", _only("tanh"), "tanh"),
    Setting("summary_first_dropout", _only(0, "there is no dropout before the summary"), 0),
    Setting("summary_proj_to_labels", _only(False, "the summary is as wide as the model"), False),
    *EVERY_FAMILY,
)
SYNONYMS = {
    "xlnet": {
        "n_token": "vocab_size",
        "hidden_size": "d_model",
        "num_attention_heads": "n_head",
        "num_hidden_layers": "n_layer",
    }
}
"""Other names of settings in config.json, by family."""

NEUTRAL = frozenset(
    (
        # Names and versions.
        *("model_type", "architectures", "_name_or_path", "name_or_path", "transformers_version"),
        *("tokenizer_class", "finetuning_task", "task_specific_params", "flaxfer"),
        *("_commit_hash", "adapters", "language", "license", "model_name"),
        # Heads; `read_labels` and the loading of a head read them.
        *("num_labels", "id2label", "label2id", "problem_type"),
        # Ids of tokens, which come from the tokenizer.
        *("bos_token_id", "eos_token_id", "sep_token_id", "cls_token_id", "mask_token_id"),
        *("unk_token_id", "decoder_start_token_id"),
        # Dtypes of files, memory, and what else is returned; the outputs are the same.
        *("dtype", "torch_dtype", "use_bfloat16", "torchscript", "gradient_checkpointing"),
        *("output_attentions", "output_hidden_states", "return_dict", "use_return_dict"),
        *("chunk_size_feed_forward", "use_cache", "tie_word_embeddings", "tie_encoder_decoder"),
        *("attn_implementation", "_attn_implementation", "_attn_implementation_autoset"),
        *("_attn_implementation_internal", "tf_legacy_loss", "xla_device"),
        # Sizes of parts that are not used: ERNIE's tasks, and the poolers of old BERT files.
        *("task_type_vocab_size", "directionality", "pooler_fc_size", "pooler_num_attention_heads"),
        *("pooler_num_fc_layers", "pooler_size_per_head", "pooler_type"),
        # XLNet's memory, which the first segment of a text finds empty, and its beam search.
        *("mem_len", "reuse_len", "use_mems_eval", "start_n_top", "end_n_top"),
        # Generation of text.
        *(
            "max_length",
            "min_length",
            "do_sample",
            "early_stopping",
            "num_beams",
            "diversity_penalty",
        ),
        *("num_beam_groups", "temperature", "top_k", "top_p", "typical_p"),
        *("repetition_penalty", "length_penalty", "no_repeat_ngram_size"),
        *("encoder_no_repeat_ngram_size", "bad_words_ids", "num_return_sequences", "output_scores"),
        *("return_dict_in_generate",),
        *("forced_bos_token_id", "forced_eos_token_id", "remove_invalid_values", "suppress_tokens"),
        *("exponential_decay_length_penalty", "begin_suppress_tokens", "prefix"),
        # Widths that have to agree with the encoder's, see `read_fields` and `read_xlnet`.
        *("embedding_size", "embedding_dim", "d_head"),
    )
)
"""Settings that the outputs do not depend on."""


def unknown_settings(settings: Mapping[str, Any]) -> list[str]:
    """Return the settings of a config.json that are neither read nor known to be neutral."""
    model_type = settings["model_type"]
    known = {setting.key for setting in (*BERT_SETTINGS, *XLNET_SETTINGS)} | NEUTRAL
    return sorted(settings.keys() - known - SYNONYMS.get(model_type, {}).keys())


def read_fields(
    table: Sequence[Setting], settings: Mapping[str, Any], where: str
) -> tuple[dict[str, Any], list[str]]:
    """Return the fields of an EncoderConfig, and a line for each conflict between them.

    Raises:
      ConfigError: settings are invalid; lists all of them.
    """
    family = settings["model_type"]
    fields: dict[str, Any] = {"family": family}
    settings, conflicts = _without_synonyms(settings, SYNONYMS.get(family, {}))
    values = {setting.key: setting.default for setting in table} | settings
    if values["pad_token_id"] is None:
        values["pad_token_id"] = FAMILIES[family].pad_token_id
    refuse(
        (
            f"{key} is missing; it has to be {valid}"
            if values[key] is None and key not in settings
            else f"{key} has to be {valid}, not {values[key]!r:.100}"
            for key, (valid, is_valid), _, _ in table
            if not is_valid(values[key])
        ),
        where,
    )
    keys: dict[str, str] = {}
    for key, rule, _, names in table:
        value = values[key]
        if rule in (RATE, OPTIONAL_RATE, POSITIVE) and value is not None:
            value = float(value)
        fields |= dict.fromkeys(names, value)
        keys |= dict.fromkeys(names, key)
    width = fields["hidden_size"]
    if width % fields["num_heads"]:
        conflicts.append(f"{keys['hidden_size']} has to be a multiple of {keys['num_heads']}")
    if fields["pad_token_id"] >= fields["vocab_size"]:
        conflicts.append(f"pad_token_id {fields['pad_token_id']} is not a row of the vocabulary")
    conflicts += [
        f"{key} {values[key]!r:.100} has to equal {keys['hidden_size']} {width}: the embeddings "
        "are not projected"
        for key in ("embedding_size", "embedding_dim")
        if values.get(key) not in (None, width)
    ]
    return fields, conflicts


def refuse(problems: Iterable[str], where: str) -> None:
    """Raise a ConfigError if config.json has problems."""
    problems = list(problems)
    if problems:
        one = len(problems) == 1
        raise ConfigError(
            problems[0] if one else f"{len(problems)} settings do not describe a known encoder",
            where=where,
            details=[] if one else problems,
            hint="use a checkpoint of a supported architecture, or correct its config.json.",
        )


def _without_synonyms(
    settings: Mapping[str, Any], synonyms: Mapping[str, str]
) -> tuple[dict[str, Any], list[str]]:
    """Return the settings by their names here, and a line for each pair that disagrees."""
    renamed = {key: value for key, value in settings.items() if key not in synonyms}
    conflicts = []
    for key, name in synonyms.items():
        value = settings.get(key)
        if value is not None and renamed.setdefault(name, value) != value:
            conflicts.append(f"{key} {value!r:.100} is another name of {name}, and differs")
    return renamed, conflicts
