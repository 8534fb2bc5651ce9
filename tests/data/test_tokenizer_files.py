"""A tokenizer is what the files of its folder say, or an error that names them."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tokenizers
from tokenizers import normalizers, pre_tokenizers

from flaxfer.config import Model
from flaxfer.data.tokenizer import load_tokenizer, tokenizer_fingerprint
from flaxfer.errors import DataError
from tests.data.test_tokenize import FAMILIES
from tests.helpers import Family, tiny_tokenizer

TEXTS = ("The Man, réd 犬犬 12!", "a  cat\tIS not", "[SEP] the <pad> </s> dog", "", "Ａ ｱ ﬁ […]")


def edit(folder: Path, name: str, **changes: Any) -> dict[str, Any]:
    """Changes keys of a JSON file, and drops those that become None."""
    path = folder / name
    value = (json.loads(path.read_text()) if path.exists() else {}) | changes
    value = {key: item for key, item in value.items() if item is not None or key == "normalizer"}
    path.write_text(json.dumps(value))
    return value


def change_backend(folder: Path, change: Callable[[Any], Any]) -> None:
    backend = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    change(backend)
    backend.save(str(folder / "tokenizer.json"))


def load(folder: Path) -> Any:
    return load_tokenizer(Model(path=str(folder)))


def refusal(folder: Path) -> str:
    with pytest.raises(DataError) as caught:
        load(folder)
    return str(caught.value)


def assert_as_in_the_file(folder: Path) -> None:
    tokenizer = load(folder)
    backend = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    backend.no_truncation()
    backend.no_padding()
    assert json.loads(tokenizer.backend_tokenizer.to_str()) == json.loads(backend.to_str())
    for text in TEXTS:
        expected = backend.encode(text)
        assert tokenizer(text)["input_ids"] == expected.ids
        found = tokenizer(text, return_offsets_mapping=True)["offset_mapping"]
        assert [tuple(pair) for pair in found] == expected.offsets


def as_class(folder: Path, name: str | None) -> None:
    """Names a class in tokenizer_config.json; without one, the file is deleted."""
    if name is None:
        (folder / "tokenizer_config.json").unlink()
    else:
        (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": name}))


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


def vocabulary_folder(folder: Path, **config: Any) -> tuple[Path, list[str]]:
    """A BERT with vocab.txt alone, and its tokens."""
    tiny_tokenizer(folder)
    vocabulary = json.loads((folder / "tokenizer.json").read_text())["model"]["vocab"]
    (folder / "tokenizer.json").unlink()
    lines = sorted(vocabulary, key=vocabulary.__getitem__)
    (folder / "vocab.txt").write_text("\n".join(lines) + "\n")
    settings = {"tokenizer_class": "BertTokenizer", "do_lower_case": True} | config
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return folder, lines


def test_a_blank_line_of_a_vocabulary_is_named(tmp_path: Path) -> None:
    folder, lines = vocabulary_folder(tmp_path)
    text = "\n".join(lines) + "\n"
    expected = load(folder)("the man")["input_ids"]
    for good in (text, text.replace("\n", "\r\n"), text.removesuffix("\n")):
        (folder / "vocab.txt").write_bytes(good.encode())
        assert load(folder)("the man")["input_ids"] == expected
    for number in (1, 7, len(lines) + 1):
        for blank in ("", "\r", "  "):
            damaged = [*lines[: number - 1], blank, *lines[number - 1 :]]
            (folder / "vocab.txt").write_bytes(("\n".join(damaged) + "\n").encode())
            text = refusal(folder)
            assert f"blank line in vocab.txt: line {number} of {len(lines) + 1}" in text
            assert str(folder / "vocab.txt") in text


def test_a_vocabulary_that_is_no_plain_text_is_named(tmp_path: Path) -> None:
    folder, lines = vocabulary_folder(tmp_path)
    text = "\n".join(lines)
    (folder / "vocab.txt").write_text(text, encoding="utf-8-sig")
    assert "vocab.txt begins with a byte order mark" in refusal(folder)
    (folder / "vocab.txt").write_text(text.replace("guitar", "güitar"), encoding="latin-1")
    assert f"{folder / 'vocab.txt'}: the file cannot be read" in refusal(folder)


def test_the_last_of_two_equal_tokens_counts(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder, lines = vocabulary_folder(tmp_path)
    lines[lines.index("piano")] = "the"
    (folder / "vocab.txt").write_text("\n".join(lines))
    with caplog.at_level(logging.WARNING, "flaxfer.data"):
        last = len(lines) - 1 - lines[::-1].index("the")
        assert load(folder)("the")["input_ids"][1] == last
    assert "1 lines repeat an earlier token" in caplog.text


def test_a_special_token_that_the_vocabulary_lacks_is_named(tmp_path: Path) -> None:
    folder, lines = vocabulary_folder(tmp_path)
    (folder / "vocab.txt").write_text("\n".join(lines).replace("[PAD]", "<pad>"))
    text = refusal(folder)
    assert "pad_token is '[PAD]', which is not in vocab.txt" in text
    edit(folder, "tokenizer_config.json", pad_token="<pad>")
    assert load(folder).pad_token_id == 0
    edit(folder, "tokenizer_config.json", pad_token="<none>")
    assert "pad_token is '<none>'" in refusal(folder) and "tokenizer_config.json" in refusal(folder)


def test_added_tokens_of_a_vocabulary_keep_their_ids(tmp_path: Path) -> None:
    folder, lines = vocabulary_folder(tmp_path)
    edit(folder, "config.json", vocab_size=len(lines) + 9)
    edit(folder, "added_tokens.json", **{"<e1>": len(lines), "<e2>": len(lines) + 1})
    assert load(folder)("a <e2> cat")["input_ids"][2] == len(lines) + 1
    edit(folder, "added_tokens.json", **{"<e2>": len(lines) + 5})
    assert f"'<e2>' has id {len(lines) + 5}, but {len(lines) + 1} in" in refusal(folder)


def test_a_vocabulary_that_does_not_say_whether_it_lowercases(tmp_path: Path) -> None:
    folder, _ = vocabulary_folder(tmp_path)
    edit(folder, "tokenizer_config.json", do_lower_case=None)
    assert "tokenizer_config.json does not say whether to lowercase" in refusal(folder)


@pytest.mark.parametrize(
    ("settings", "program"),
    [
        ({"tokenizer_class": "BertJapaneseTokenizer"}, "BertJapaneseTokenizer"),
        ({"tokenizer_class": "CpmTokenizer"}, "Jieba"),
        ({"tokenizer_class": "BertTokenizer", "word_tokenizer_type": "mecab"}, "mecab"),
    ],
)
def test_words_of_another_program_are_refused_by_name(
    settings: dict[str, Any], program: str, tmp_path: Path
) -> None:
    folder, _ = vocabulary_folder(tmp_path / "vocabulary", **settings)
    assert program in refusal(folder) and "splits words" in refusal(folder)
    folder = tiny_tokenizer(tmp_path / "file")
    edit(folder, "tokenizer_config.json", **settings)
    assert program in refusal(folder)
    edit(
        folder,
        "tokenizer_config.json",
        tokenizer_class="PreTrainedTokenizerFast",
        word_tokenizer_type=None,
    )
    assert_as_in_the_file(folder)  # As the hint says.


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"tokenizer_class": "PhantomTokenizer"}, "tokenizer_class 'PhantomTokenizer' cannot be"),
        ({"tokenizer_class": "PreTrainedTokenizerFast"}, "tokenizer.json is missing"),
        ({"tokenizer_class": "RobertaTokenizer"}, "vocab.json and merges.txt is missing"),
        ({"auto_map": {"AutoTokenizer": ["a.B", None]}}, "in code of its own cannot be"),
    ],
)
def test_a_class_that_cannot_read_the_vocabulary_is_refused(
    changes: dict[str, Any], expected: str, tmp_path: Path
) -> None:
    folder, _ = vocabulary_folder(tmp_path)
    edit(folder, "tokenizer_config.json", **changes)
    assert expected in refusal(folder)


def byte_level_folder(folder: Path) -> tuple[Path, dict[str, int]]:
    """A RoBERTa with vocab.json and merges.txt alone."""
    tiny_tokenizer(folder, "roberta")
    model = json.loads((folder / "tokenizer.json").read_text())["model"]
    (folder / "tokenizer.json").unlink()
    (folder / "tokenizer_config.json").unlink()
    (folder / "vocab.json").write_text(json.dumps(model["vocab"]))
    (folder / "merges.txt").write_text(
        "#version: 0.2\n" + "".join(f"{' '.join(pair)}\n" for pair in model["merges"])
    )
    return folder, model["vocab"]


def test_ids_of_a_vocabulary_may_have_gaps(tmp_path: Path) -> None:
    folder, vocabulary = byte_level_folder(tmp_path)
    expected = load(folder)("the man, the réd")["input_ids"]
    size = len(vocabulary)
    moved = {token: i if i < 5 else i + 100 for token, i in vocabulary.items()}
    (folder / "vocab.json").write_text(json.dumps(moved))
    assert f"largest id is {size + 99}" in refusal(folder)
    edit(folder, "config.json", vocab_size=size + 100)
    found = load(folder)("the man, the réd")["input_ids"]
    assert found == [i if i < 5 else i + 100 for i in expected]


def test_byte_level_vocabularies_need_their_merges(tmp_path: Path) -> None:
    folder, vocabulary = byte_level_folder(tmp_path)
    (folder / "merges.txt").rename(folder / "merges")
    assert "merges.txt is missing, which RobertaTokenizer reads" in refusal(folder)
    (folder / "merges").rename(folder / "merges.txt")
    (folder / "vocab.json").write_text(json.dumps(vocabulary | {"a": "b"}))
    assert "'a' has no id, but 'b'" in refusal(folder)


def test_a_vocabulary_of_another_model_beside_tokenizer_json_is_named(tmp_path: Path) -> None:
    folder = tiny_tokenizer(tmp_path / "bert")
    _, lines = vocabulary_folder(tmp_path / "other")
    (folder / "vocab.txt").write_text("\n".join(lines) + "\n\n")
    assert_as_in_the_file(folder)  # It is not read, so a blank line does no harm.
    lines[9], lines[10] = lines[10], lines[9]
    (folder / "vocab.txt").write_text("\n".join(lines))
    text = refusal(folder)
    assert "vocab.txt is the vocabulary of another tokenizer than tokenizer.json" in text
    assert f"2 tokens differ, such as {lines[9]!r}, with id 9 in vocab.txt and 10 in" in text
    folder = tiny_tokenizer(tmp_path / "roberta", "roberta")
    byte_level_folder(tmp_path / "bytes")
    shutil.copy(tmp_path / "bytes/vocab.json", folder)
    assert_as_in_the_file(folder)
    edit(folder, "vocab.json", **{"the": 999})
    assert "vocab.json is the vocabulary of another tokenizer" in refusal(folder)


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
