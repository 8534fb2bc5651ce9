"""A tokenizer is what the files of its folder say, or an error that names them."""

from __future__ import annotations

import json
import logging
import shutil
from pathlib import Path
from typing import Any

import pytest
from tokenizers import normalizers, pre_tokenizers

from flaxfer.data.tokenizer import tokenizer_fingerprint
from tests.data.test_tokenize import FAMILIES
from tests.data.tokenizer_folders import (
    as_class,
    assert_as_in_the_file,
    change_backend,
    edit,
    load,
    refusal,
)
from tests.helpers import Family, tiny_tokenizer

CLASSES = {
    "bert": "BertTokenizer",
    "roberta": "RobertaTokenizerFast",
    "xlm-roberta": "XLMRobertaTokenizer",
    "xlnet": "XLNetTokenizerFast",
}


@pytest.mark.parametrize("named", [True, False], ids=["class", "no-config"])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_tokenizer_json_is_obeyed_whatever_the_class(
    family: Family, named: bool, tmp_path: Path
) -> None:
    """Not even a class that has a normalizer or pre-tokenizer of its own changes it."""
    folder = tiny_tokenizer(tmp_path, family)
    as_class(folder, CLASSES[family] if named else None)
    for normalizer in (None, normalizers.Lowercase(), normalizers.NFD()):

        def change(backend: Any, normalizer: Any = normalizer) -> None:
            backend.normalizer = normalizer
            if normalizer is not None:
                backend.pre_tokenizer = pre_tokenizers.Sequence(
                    [pre_tokenizers.Digits(individual_digits=True), backend.pre_tokenizer]
                )

        change_backend(folder, change)
        assert_as_in_the_file(folder)


@pytest.mark.parametrize("config", [None, {}, {"do_lower_case": False}])
def test_a_cased_tokenizer_json_stays_cased(config: Any, tmp_path: Path) -> None:
    folder = tiny_tokenizer(tmp_path)
    as_class(folder, None)
    if config is not None:
        (folder / "tokenizer_config.json").write_text(json.dumps(config))
    change_backend(
        folder, lambda b: setattr(b, "normalizer", normalizers.BertNormalizer(lowercase=False))
    )
    assert load(folder).tokenize("the Man") == ["the", "[UNK]"]
    assert load(folder)("the")["input_ids"] != load(folder)("The")["input_ids"]
    assert_as_in_the_file(folder)


@pytest.mark.parametrize(
    ("key", "options"),
    [
        ("do_lower_case", {"lowercase": True}),
        ("strip_accents", {"strip_accents": True}),
        ("tokenize_chinese_chars", {"handle_chinese_chars": True}),
    ],
)
@pytest.mark.parametrize("wanted", [True, False])
def test_a_setting_that_contradicts_tokenizer_json_is_named(
    key: str, options: dict[str, bool], wanted: bool, tmp_path: Path
) -> None:
    folder = tiny_tokenizer(tmp_path)
    base = {"lowercase": False, "strip_accents": False, "handle_chinese_chars": False}
    options = base | {name: not wanted for name in options}
    change_backend(
        folder, lambda b: setattr(b, "normalizer", normalizers.BertNormalizer(**options))
    )
    as_class(folder, "BertTokenizer")
    edit(folder, "tokenizer_config.json", **{key: wanted})
    text = refusal(folder)
    assert f"{key} is {str(wanted).lower()} in tokenizer_config.json" in text
    assert f"{str(not wanted).lower()} in tokenizer.json" in text and str(folder) in text
    edit(folder, "tokenizer_config.json", **{key: None})  # As the hint says.
    assert_as_in_the_file(folder)
    edit(folder, "tokenizer_config.json", **{key: not wanted})
    assert_as_in_the_file(folder)


def test_a_prefix_space_that_contradicts_tokenizer_json_is_named(tmp_path: Path) -> None:
    folder = tiny_tokenizer(tmp_path, "roberta")
    as_class(folder, "RobertaTokenizer")
    edit(folder, "tokenizer_config.json", add_prefix_space=True, trim_offsets=False)
    assert "add_prefix_space is true in tokenizer_config.json, but false in" in refusal(folder)
    edit(folder, "tokenizer_config.json", add_prefix_space=False)
    assert_as_in_the_file(folder)
    change_backend(
        folder,
        lambda b: setattr(b, "pre_tokenizer", pre_tokenizers.ByteLevel(add_prefix_space=True)),
    )
    edit(folder, "tokenizer_config.json", add_prefix_space=None)
    assert_as_in_the_file(folder)


@pytest.mark.parametrize("name", ["PreTrainedTokenizerFast", "XLMRobertaTokenizer"])
def test_a_setting_that_the_class_does_not_read_is_a_warning(
    name: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tiny_tokenizer(tmp_path, "xlm-roberta")
    edit(folder, "tokenizer_config.json", tokenizer_class=name, do_lower_case=True)
    with caplog.at_level(logging.WARNING, "flaxfer.data"):
        assert_as_in_the_file(folder)
    assert "do_lower_case is true in tokenizer_config.json, but false in" in caplog.text


def test_truncation_and_padding_of_a_saved_call_do_not_leak(tmp_path: Path) -> None:
    folder = tiny_tokenizer(tmp_path)
    before = tokenizer_fingerprint(load(folder))

    def baked(backend: Any) -> None:
        backend.enable_truncation(4)
        backend.enable_padding(length=32, pad_id=0, pad_token="[PAD]")

    change_backend(folder, baked)
    assert len(load(folder)("the man is a dog")["input_ids"]) == 7
    assert load(folder).model_max_length == 64
    assert tokenizer_fingerprint(load(folder)) == before
    # The padding names the token if nothing else does.
    (folder / "tokenizer_config.json").unlink()
    assert load(folder).pad_token == "[PAD]"


PANIC = {"type": "Precompiled", "precompiled_charsmap": ""}
"""A normalizer that the library does not refuse, but fails on."""


@pytest.mark.parametrize(
    ("name", "content", "field"),
    [
        ("tokenizer_config.json", {"model_max_length": "512"}, 'model_max_length: is "512"'),
        ("tokenizer_config.json", {"model_max_length": 0}, "model_max_length: is 0"),
        ("tokenizer_config.json", {"model_max_length": True}, "model_max_length: is true"),
        ("tokenizer_config.json", {"do_lower_case": "no"}, 'do_lower_case: is "no"'),
        ("tokenizer_config.json", {"pad_token": 0}, "pad_token: is 0"),
        ("tokenizer_config.json", {"pad_token": {"lstrip": True}}, "pad_token: is {"),
        ("tokenizer_config.json", {"tokenizer_class": ["A"]}, "tokenizer_class: is"),
        ("tokenizer_config.json", {"added_tokens_decoder": [1]}, "added_tokens_decoder: is"),
        ("tokenizer_config.json", {"added_tokens_decoder": {"x": {}}}, "decoder['x']: is {}"),
        ("tokenizer_config.json", {"extra_special_tokens": "<e>"}, "extra_special_tokens: is"),
        ("special_tokens_map.json", {"cls_token": []}, "cls_token: is []"),
        ("special_tokens_map.json", {"additional_special_tokens": [1]}, "tokens: holds 1"),
        ("added_tokens.json", {"<e>": "7"}, "'<e>': is \"7\", not an id"),
        ("tokenizer.json", {"model": {"type": "WordPiece"}}, "model: is no object with a vocab"),
        ("tokenizer.json", {"normalizer": {"type": "Magic"}}, "normalizer: "),
        ("tokenizer.json", {"normalizer": PANIC}, "normalizer: "),
        ("tokenizer.json", {"pre_tokenizer": {"type": "Magic"}}, "pre_tokenizer: "),
        ("tokenizer.json", {"post_processor": "x"}, "post_processor: "),
        ("tokenizer.json", {"added_tokens": {"a": 1}}, "added_tokens: is"),
        ("tokenizer.json", {"added_tokens": ["[PAD]"]}, "added_tokens[0]: is"),
        ("tokenizer.json", {"model": {"type": "Magic", "vocab": {}}}, "model: "),
    ],
)
def test_a_damaged_field_is_named_with_its_file(
    name: str, content: dict[str, Any], field: str, tmp_path: Path
) -> None:
    folder = tiny_tokenizer(tmp_path)
    edit(folder, name, **content)
    text = refusal(folder)
    assert str(folder / name) in text and field in text


@pytest.mark.parametrize(
    "name",
    ["tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"],
)
@pytest.mark.parametrize("content", ["", '{"a"', "[]", "null", "[" * 100_000, "\udcff"])
def test_a_file_that_is_no_json_object_is_named(name: str, content: str, tmp_path: Path) -> None:
    folder = tiny_tokenizer(tmp_path)
    (folder / name).write_bytes(content.encode("utf-8", "surrogateescape"))
    assert f"{folder / name}: the file " in refusal(folder)


@pytest.mark.parametrize(
    ("content", "field"),
    [
        ({"vocab_size": "100"}, "vocab_size: is '100'"),
        ({"vocab_size": 1e12}, "vocab_size: is 1000000000000.0"),
        ({"max_position_embeddings": 64.0}, "max_position_embeddings: is 64.0"),
        ({"pad_token_id": -1}, "pad_token_id: is -1"),
        ({"type_vocab_size": True}, "type_vocab_size: is True"),
    ],
)
def test_a_damaged_field_of_the_model_is_named(
    content: dict[str, Any], field: str, tmp_path: Path
) -> None:
    folder = tiny_tokenizer(tmp_path)
    edit(folder, "config.json", **content)
    text = refusal(folder)
    assert field in text and str(folder) in text and "tokenizer.json" not in text


def test_fields_that_the_tokenizer_does_not_need_are_left_to_the_model(tmp_path: Path) -> None:
    folder = tiny_tokenizer(tmp_path)
    edit(folder, "config.json", hidden_size="32", id2label=["a", "b"], torch_dtype=7)
    assert load(folder)("a")["input_ids"][0] == load(folder).cls_token_id


def test_ids_of_special_tokens_agree_with_config_json(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tiny_tokenizer(tmp_path / "xlmr", "xlm-roberta")
    edit(folder, "config.json", pad_token_id=0)
    text = refusal(folder)
    assert f"pad_token_id is 0 in {folder / 'config.json'}" in text
    assert "the tokenizer's '<pad>' has id 1" in text
    edit(folder, "config.json", pad_token_id=None)  # 1 in the family, as in the tokenizer.
    assert load(folder).unplaced_id == 1
    edit(folder, "config.json", bos_token_id=0, eos_token_id=2)
    edit(folder, "tokenizer_config.json", bos_token="<s>", eos_token="</s>")
    assert load(folder).eos_token_id == 2
    edit(folder, "config.json", eos_token_id=3)
    assert "eos_token_id is 3" in refusal(folder) and "'</s>' has id 2" in refusal(folder)
    edit(folder, "config.json", eos_token_id=2, cls_token_id=2)
    assert "cls_token_id is 2" in refusal(folder) and "'<s>' has id 0" in refusal(folder)
    # BERT's positions do not depend on padding: published models state 0 with a tokenizer of 1.
    folder = tiny_tokenizer(tmp_path / "bert")
    edit(folder, "config.json", pad_token_id=3)
    with caplog.at_level(logging.WARNING, "flaxfer.data"):
        assert load(folder).unplaced_id == -1
    assert "pad_token_id is 3" in caplog.text and "'[PAD]' has id 0" in caplog.text


def test_two_files_that_name_different_special_tokens(tmp_path: Path) -> None:
    folder = tiny_tokenizer(tmp_path)
    edit(folder, "special_tokens_map.json", pad_token={"content": "[MASK]"})
    assert "pad_token is '[PAD]' in tokenizer_config.json and '[MASK]' in" in refusal(folder)
    edit(folder, "tokenizer_config.json", pad_token=None)
    assert load(folder).pad_token == "[MASK]"  # The config's pad_token_id is only a warning.


def test_special_tokens_and_added_tokens_must_be_in_tokenizer_json(tmp_path: Path) -> None:
    folder = tiny_tokenizer(tmp_path)
    size = json.loads((folder / "config.json").read_text())["vocab_size"]
    edit(folder, "tokenizer_config.json", pad_token="<pad>")
    text = refusal(folder)
    assert "tokenizer_config.json: pad_token: '<pad>' is no token of tokenizer.json" in text
    edit(folder, "tokenizer_config.json", pad_token="[PAD]", additional_special_tokens=["<e1>"])
    assert "additional_special_tokens: '<e1>' is no added token of" in refusal(folder)
    edit(folder, "tokenizer_config.json", additional_special_tokens=None)
    edit(folder, "added_tokens.json", **{"<e1>": size})
    assert f"added_tokens.json: '<e1>' has id {size}, but is no token of" in refusal(folder)
    # In the file, but beyond the embeddings.
    change_backend(folder, lambda backend: backend.add_tokens(["<e1>"]))
    text = refusal(folder)
    assert f"largest id is {size} ('<e1>')" in text and "resize_token_embeddings" in text
    edit(folder, "config.json", vocab_size=size + 1)
    assert load(folder)("a<e1>")["input_ids"][-2] == size
    assert_as_in_the_file(folder)
    edit(folder, "added_tokens.json", **{"<e1>": size - 1})
    assert f"'<e1>' has id {size - 1}, but {size} in tokenizer.json" in refusal(folder)


def test_an_added_token_whose_id_is_not_free_is_named(tmp_path: Path) -> None:
    folder = tiny_tokenizer(tmp_path)
    state = json.loads((folder / "tokenizer.json").read_text())
    extra = state["added_tokens"][0] | {"id": 4000, "content": "<e1>"}
    edit(folder, "tokenizer.json", added_tokens=[*state["added_tokens"], extra])
    assert "tokenizer.json: '<e1>' has id 4000, but" in refusal(folder)


def test_the_vocabulary_of_tokenizer_json_counts_before_its_added_tokens(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tiny_tokenizer(tmp_path)
    state = json.loads((folder / "tokenizer.json").read_text())
    state["added_tokens"][-1]["id"] = 9
    edit(folder, "tokenizer.json", added_tokens=state["added_tokens"])
    with caplog.at_level(logging.WARNING, "flaxfer.data"):
        assert load(folder).mask_token_id == 4
    assert "tokenizer.json: '[MASK]' has id 9, but 4 in tokenizer.json" in caplog.text
    assert_as_in_the_file(folder)


def test_a_template_with_ids_of_other_tokens_is_named(tmp_path: Path) -> None:
    folder = tiny_tokenizer(tmp_path)
    post = json.loads((folder / "tokenizer.json").read_text())["post_processor"]
    post["special_tokens"]["[SEP]"]["ids"] = [9]
    edit(folder, "tokenizer.json", post_processor=post)
    assert "post_processor: '[SEP]' has id 9, but 3 in the vocabulary" in refusal(folder)


def test_special_tokens_of_other_names(tmp_path: Path) -> None:
    """As in models of BERT's architecture with another's tokenizer."""
    folder = tiny_tokenizer(tmp_path, "xlm-roberta")
    edit(folder, "config.json", model_type="bert", pad_token_id=0)
    assert load(folder).pad_token_id == 1 and load(folder).cls_token == "<s>"
    as_class(folder, "XLMRobertaTokenizer")
    assert load(folder).pad_token == "<pad>"
    as_class(folder, None)
    assert "names no padding or no CLS token" in refusal(folder)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_folder_that_transformers_saved_loads_the_same(family: Family, tmp_path: Path) -> None:
    import transformers

    folder = tiny_tokenizer(tmp_path / "model", family)
    first = load(folder)
    again = transformers.AutoTokenizer.from_pretrained(folder)
    again.save_pretrained(tmp_path / "saved")
    shutil.copy(folder / "config.json", tmp_path / "saved")
    saved = load(tmp_path / "saved")
    assert tokenizer_fingerprint(saved) == tokenizer_fingerprint(first)
    assert saved.special_tokens_map == first.special_tokens_map
