"""Tokens with tags and answers as transformers' run_ner and run_qa make them, and comparisons.

They call transformers in ways that the code under test does not.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from flaxfer.data.examples import Examples
from flaxfer.data.tokenize import Tokenized


def sequences(tokenized: Tokenized) -> Iterator[slice]:
    for start, end in zip(tokenized.offset[:-1], tokenized.offset[1:], strict=True):
        yield slice(int(start), int(end))


def labels_of_words(word_ids: Sequence[int | None], tags: Sequence[int]) -> list[int]:
    """As run_ner labels the first token of each word."""
    labels, previous = [], None
    for word in word_ids:
        labels.append(-1 if word is None or word == previous else tags[word])
        previous = word
    return labels


def check_tags(tokenized: Tokenized, data: Examples, tokenizer: Any, max_length: int) -> None:
    """Compares sentences with the tokenizer's own encoding of them, whole or in pieces."""
    cut = 0
    of_example: dict[int, list[slice]] = {}
    for example, where in zip(tokenized.example.tolist(), sequences(tokenized), strict=True):
        of_example.setdefault(example, []).append(where)
    assert list(of_example) == list(range(len(data)))
    inner = slice(1, -1) if not tokenized.cls.any() else slice(0, -2)
    special = tokenizer.num_special_tokens_to_add()
    for i, parts in of_example.items():
        words = list(data.text_a[i])
        whole = tokenizer(words, is_split_into_words=True, verbose=False)
        ids = [tokenized.token[part].tolist() for part in parts]
        found = [word for part in parts for word in tokenized.span[part][:, 0].tolist()]
        assert [word for word in found if word >= 0] == list(range(len(words)))
        tags = [tag for part in parts for tag in tokenized.label[part].tolist()]
        pieces = np.bincount([w for w in whole.word_ids() if w is not None], minlength=len(words))
        if len(parts) == 1 and pieces.min() > 0 and len(whole["input_ids"]) <= max_length:
            assert ids[0] == whole["input_ids"]
            assert tags == labels_of_words(whole.word_ids(), data.label[i])
        else:
            room = max_length - special
            expected = [
                token
                for word in range(len(words))
                for token in (
                    [
                        t
                        for t, w in zip(whole["input_ids"], whole.word_ids(), strict=True)
                        if w == word
                    ]
                    or [tokenizer.unk_token_id]
                )[:room]
            ]
            assert [token for each in ids for token in each[inner]] == expected
            sizes = np.minimum(np.maximum(pieces, 1), room)
            last = -1
            for part, tokens in zip(parts, ids, strict=True):
                inside = tokenized.span[part][:, 0]
                first, last = last + 1, int(inside.max())
                assert len(tokens) == special + sizes[first : last + 1].sum() <= max_length
                # The next word would not have fitted.
                assert last == len(words) - 1 or len(tokens) + sizes[last + 1] > max_length
                assert tokens[: inner.start] == whole["input_ids"][: inner.start]
                assert tokens[inner.stop :] == whole["input_ids"][inner.stop :]
            cut += bool((pieces > room).any())
        heads = [k for k, word in enumerate(found) if word >= 0]
        assert [tags[k] for k in heads] == list(data.label[i])
        assert sum(tag != -1 for tag in tags) == sum(tag != -1 for tag in data.label[i])
    assert tokenized.truncated == cut
    assert tokenized.reference == data.label


def windows_of_run_qa(
    tokenizer: Any, data: Examples, max_length: int, stride: int
) -> list[tuple[int, list[int], list[int], list[tuple[int, int]], int, int]]:
    """Example, ids, types, offsets, first and last token of the answer, as run_qa has them."""
    encoded = tokenizer(
        list(data.text_a),
        list(data.text_b or ()),
        truncation="only_second",
        max_length=max_length,
        stride=stride,
        return_overflowing_tokens=True,
        return_offsets_mapping=True,
        return_token_type_ids=True,
    )
    found = []
    for i, (ids, offsets) in enumerate(
        zip(encoded["input_ids"], encoded["offset_mapping"], strict=True)
    ):
        example = encoded["overflow_to_sample_mapping"][i]
        start = end = ids.index(tokenizer.cls_token_id)
        texts = encoded.sequence_ids(i)
        if data.label[example]:
            answer, first_char = data.label[example][0]
            last_char = first_char + len(answer)
            first, last = texts.index(1), len(texts) - 1 - texts[::-1].index(1)
            if offsets[first][0] <= first_char and offsets[last][1] >= last_char:
                while (
                    first < len(offsets) and texts[first] == 1 and offsets[first][0] <= first_char
                ):
                    first += 1
                while texts[last] == 1 and offsets[last][1] >= last_char:
                    last -= 1
                start, end = first - 1, last + 1
        inside = [
            span if text == 1 else (-1, -1) for span, text in zip(offsets, texts, strict=True)
        ]
        found.append((example, ids, encoded["token_type_ids"][i], inside, start, end))
    return found


BLANK = "".join(
    chr(i) for i in range(0x30000) if chr(i).isspace() or unicodedata.category(chr(i)) == "Cf"
)
"""Characters that no answer begins or ends with."""


def check_windows(
    tokenized: Tokenized, data: Examples, tokenizer: Any, max_length: int, stride: int
) -> tuple[int, int]:
    """Compares with run_qa; gives the answers that a window holds, and those it holds exactly."""
    expected = windows_of_run_qa(tokenizer, data, max_length, stride)
    assert len(tokenized) == len(expected)
    held: dict[int, bool] = {}
    for i, (where, (example, ids, types, offsets, start, end)) in enumerate(
        zip(sequences(tokenized), expected, strict=True)
    ):
        assert tokenized.example[i] == example
        assert tokenized.token[where].tolist() == ids
        if "token_type_ids" in tokenizer.model_input_names:
            assert tokenized.type[where].tolist() == types
        context, answers = tokenized.reference[example]
        assert (context, answers) == ((data.text_b or ())[example], data.label[example])
        span = tokenized.span[where]
        for (first, last), (a, b) in zip(span.tolist(), offsets, strict=True):
            assert (
                (first, last) == (-1, -1)
                if a < 0
                else context[first:last] == context[a:b].strip(BLANK)
            )
        first, last = tokenized.label[i].tolist()
        cls = int(tokenized.cls[i])
        assert ids[cls] == tokenizer.cls_token_id
        assert (start == cls) == (first == cls) and (end == cls) == (last == cls)
        if first == cls:
            assert last == cls
            continue
        text = context[span[first, 0] : span[last, 1]]
        assert text == context[offsets[start][0] : offsets[end][1]].strip(BLANK)
        # Of several pieces of one character run_qa takes the inner ones.
        assert first <= start and last >= end
        answer, at = answers[0]
        held[example] = held.get(example, True) and text == answer
        # Whole, and no token more than that needs.
        assert span[first, 0] <= at < span[first, 1]
        assert span[last, 0] < at + len(answer) <= span[last, 1]
    return len(held), sum(held.values())
