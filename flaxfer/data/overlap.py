"""Overlap between the splits of a study: training texts in evaluation sets, and repeated texts.

Hashes of texts in a normal form are compared, see `normalise`. A **text** is shared if it occurs
anywhere in the other split, such as in another pair; an **example** is shared if all its texts
occur in one example there, in any order. Only what is too long to be a coincidence counts, see
`TELLING`.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import html
import itertools
import logging
import re
import unicodedata
from collections import Counter
from collections.abc import Iterator, Mapping, MutableMapping, Sequence
from typing import Literal

import numpy as np

from flaxfer.config import Task
from flaxfer.data.examples import Examples
from flaxfer.errors import DataError

logger = logging.getLogger("flaxfer.data")

Mode = Literal["report", "remove", "forbid"]
Between = Literal["train and evaluation", "train and train", "within"]

TELLING = 20
"""Length from which on equal texts are not considered a coincidence: the number of letters and
digits of the normal form, with three for a wide character (Chinese, Japanese, Korean). That is four
to five English words, or seven Chinese characters. The lengths of the texts of an example add up.
"""

COLUMNS = ("texts of", "in", "texts", "pairs", "same label", "short", "share", "removed")
"""Header of `rows`."""

_BREAK = re.compile(r"<br ?/?>", re.IGNORECASE)
_MIX = np.uint64(0x9E3779B97F4A7C15)
"""Odd, so that multiplication by it is invertible; from the golden ratio, as in Knuth's hashing."""


_MEANING = frozenset("%‰‱٪′″")
"""Punctuation that changes the number before it."""

_EMOJI_PARTS = (*range(0x1F3FB, 0x1F400), *range(0xE0020, 0xE0080))
"""Colours of skin, and the letters of regional flags."""

_DASHES = str.maketrans(dict.fromkeys("-\u2010\u2011\u2012\u2013\u2014\u2015", "\u2212"))
_SUPERSCRIPT = "²³¹⁰⁴⁵⁶⁷⁸⁹"

# What a number loses with its punctuation: what stands between two digits, and a sign; and the
# sharp of C#. The normal form has characters that it keeps: a minus for a hyphen or dash, and a
# musical sharp.
# A point before the first digit is not told from the end of a sentence in tokenised texts.
_NUMBERS = re.compile(
    r"(?<=\d)(?P<between>(?:[^\w]|_)+)(?=\d)"
    r"|(?<![\w\-\u2010-\u2015])(?P<sign>[-\u2010-\u2015])(?=[.]?\d)"
    r"|(?<=[a-z])(?P<sharp>#)(?!\w)"
)
_NUMBER_OR_SHARP = re.compile(r"[\d#]")


class _Kept(dict[int, int | None]):
    """A table for `str.translate` that keeps a character or removes it."""

    def __init__(self, categories: str):
        super().__init__({code: code for code in _EMOJI_PARTS})
        self._categories = categories

    def __missing__(self, code: int) -> int | None:
        category = unicodedata.category(chr(code))
        dropped = category[0] in self._categories or 0xFE00 <= code <= 0xFE0F
        if "P" in self._categories:
            dropped = (dropped or category == "Sk") and chr(code) not in _MEANING
        return self.setdefault(code, None if dropped else code)


_KEPT = _Kept("PZC")
_VISIBLE = _Kept("ZC")


@dataclasses.dataclass(frozen=True)
class Overlap:
    """Overlap of two splits, counted in examples of `b`, or repetition within one split.

    Attributes:
      between: Type of comparison; `within` compares a split with itself.
      a, b: Stage and split, such as `target/train`.
      examples: Number of examples of `b`.
      texts: Examples with at least one telling text that occurs in `a`; within a split, in an
        earlier example.
      pairs: Examples whose texts all occur in one example of `a`, in any order; None if both
        splits hold single texts.
      short: Like `pairs`, or like `texts` for single texts, but too short to be counted there.
      share: Share of the examples counted in `pairs`, or in `texts` for single texts.
      same_label: Number of those whose label in `a` is the same; None if the tasks differ, or
        their labels are neither classes, scores nor choices.
      removed: Examples of `a` that were removed because of `b`. An example may occur in several
        sets; the record of `a` with itself counts all that were removed.
      seed: The seed whose splits were compared; None if all seeds have the same counts.
    """

    between: Between
    a: str
    b: str
    examples: int
    texts: int
    pairs: int | None
    short: int
    share: float
    same_label: int | None
    removed: int = 0
    seed: int | None = None


@dataclasses.dataclass(frozen=True, eq=False)
class Keys:
    """Hashes of examples and of their texts, and whether they are long enough, see `TELLING`.

    Arrays of texts have a row for each example. Whole examples are hashed whatever the order of
    their texts, without and with their labels, which are comparable if `question` is equal: the
    task type, and names or range of labels; None if they are neither classes, scores nor choices.
    """

    text: np.ndarray
    whole: np.ndarray
    labelled: np.ndarray
    telling_text: np.ndarray
    telling: np.ndarray
    question: tuple[object, ...] | None

    @functools.cached_property
    def ordered(self) -> dict[str, np.ndarray]:
        """Hashes in ascending order: sorted once, however many sets they are compared with."""
        names = ("text", "whole", "labelled")
        return {name: np.sort(getattr(self, name), axis=None) for name in names}


def normalise(text: str) -> str:
    """Return the normal form of a text: letters, marks, digits and symbols, and whole numbers.

    In this order: HTML character references are resolved and line breaks `<br />` removed; Unicode
    NFKC; case folding; NFKC again, as folding can undo it; punctuation (categories P), whitespace
    (Z), control and format characters (C), modifier symbols (Sk, such as the backquote) and
    variation selectors are removed. So tokenised and plain text, with or without spaces, are equal;
    accents, vowel signs and emoji still distinguish texts.

    What distinguishes numbers stays: punctuation or a space between digits (1.5, 1,5, 3:2, 1 5), a
    sign, and percent signs. A text of nothing but punctuation, such as :-), keeps it.
    """
    folded = _folded(text)
    return _content(folded) or folded.translate(_VISIBLE)


def _folded(text: str) -> str:
    """Return a text in lower case and compatibility form, without invisible characters."""
    text = _BREAK.sub(" ", html.unescape(text))
    if not text.isascii():
        text = _digit_like().sub(_apart, text)
    folded = unicodedata.normalize("NFKC", text).casefold()
    folded = unicodedata.normalize("NFKC", folded)
    if not folded.isascii():
        folded = folded.replace("\u2044", "/").translate(_invisible())
    return folded


def _content(folded: str) -> str:
    """Return what the normal form keeps of a folded text."""
    if not _NUMBER_OR_SHARP.search(folded):  # Then `_NUMBERS`, which is slow, matches nothing.
        return folded.translate(_KEPT)
    parts, end = [], 0
    for match in _NUMBERS.finditer(folded):
        parts.append(folded[end : match.start()].translate(_KEPT))
        end = match.end()
        if between := match["between"]:
            parts.append(between.translate(_VISIBLE).translate(_DASHES) or " ")
        else:
            parts.append({"sign": "\u2212", "sharp": "\u266f"}[match.lastgroup or ""])
    parts.append(folded[end:].translate(_KEPT))
    return "".join(parts)


@functools.cache
def _digit_like() -> re.Pattern[str]:
    """Return a pattern of characters after a digit whose compatibility form begins with one.

    Such as fractions, circled and superscript digits: 1½ is not 11/2, and 10² is not 102.
    """
    codes = (*range(0xB2, 0x33FF), *range(0x1F100, 0x1F10B))
    found = [
        character
        for character in map(chr, codes)
        if unicodedata.category(character) != "Nd"
        and unicodedata.normalize("NFKC", character)[0].isdigit()
    ]
    return re.compile(f"(?<=[\\d{''.join(found)}])[{''.join(found)}]")


def _apart(match: re.Match[str]) -> str:
    return ("^" if match[0] in _SUPERSCRIPT else " ") + match[0]


@functools.cache
def _invisible() -> dict[int, None]:
    """Return a table that removes the usual format characters, which may stand in a number."""
    codes = (0xAD, 0xFEFF, *range(0x200B, 0x2010), *range(0x202A, 0x202F), *range(0x2060, 0x2070))
    return dict.fromkeys(codes)


def examine(
    stages: Mapping[str, Mapping[str, Examples]],
    tasks: Mapping[str, Task],
    mode: Mode,
    known: MutableMapping[tuple[str, Examples], Keys] | None = None,
) -> tuple[dict[str, dict[str, Examples]], list[Overlap]]:
    """Count, and optionally remove, the overlap between the splits of a study.

    Every training split is compared with the evaluation sets of all stages, including dev, and
    with the other training split. With `remove`, the target's training split loses its examples
    that occur in the target's own sets, so that it does not depend on the intermediate stage; the
    intermediate stage's loses those in its own sets and in the target's. Examples that share only
    one of several texts are kept.

    Args:
      stages: Splits by stage; all but `train` are evaluated on.
      tasks: Tasks by stage.
      mode: `report` counts, `remove` removes, `forbid` is an error if `remove` would remove any.
      known: Hashes by stage and split from earlier calls for the same tasks; new ones are added.

    Returns:
      The stages, with their training splits after removal, and the counts before it.

    Raises:
      DataError: If overlap is forbidden, or nothing is left to train on.
    """
    known = {} if known is None else known
    keys = {}
    for stage, splits in stages.items():
        for split, examples in splits.items():
            if (stage, examples) not in known:
                known[stage, examples] = _keys(examples, tasks[stage])
            keys[f"{stage}/{split}"] = known[stage, examples]
    trains = [name for name in keys if name.endswith("/train")]
    evaluated = [name for name in keys if name not in trains]
    records = [_compare(*pair, keys) for pair in itertools.combinations(trains, 2)]
    records += [_compare(name, name, keys) for name in evaluated]
    left = {name: dict(splits) for name, splits in stages.items()}
    for train in trains:
        stage = train.removesuffix("/train")
        leaked = np.zeros(len(keys[train].whole), bool)
        for name in evaluated:
            shared = _isin(keys[train].whole, keys[name].ordered["whole"]) & keys[train].telling
            shared &= name.startswith((f"{stage}/", "target/"))
            leaked |= shared
            records.append(_compare(train, name, keys, shared if mode == "remove" else None))
        records.append(_compare(train, train, keys, leaked if mode == "remove" else None))
        if leaked.any() and mode != "report":
            left[stage]["train"] = _without(stages[stage]["train"], leaked, train, mode)
    order = list(keys)
    return left, sorted(records, key=lambda each: (order.index(each.a), order.index(each.b)))


def clusters(examples: Examples) -> tuple[str, ...]:
    """Return the cluster of each example: as its data name it, else by the text that it shares.

    That is the first text, or the context of a question. Too short a text is a coincidence and no
    cluster; nor is a text of one example.
    """
    parts = list(_parts(examples))
    place = examples.task_type.cluster_text
    hashes, lengths = zip(*(_hashed(texts[place]) for texts in parts), strict=True)
    count = Counter(hashes)
    return tuple(
        name or (f"{text:016x}" if count[text] > 1 and length >= TELLING else "")
        for name, text, length in zip(examples.cluster, hashes, lengths, strict=True)
    )


def rows(records: Sequence[Overlap]) -> Iterator[list[object]]:
    """Yield the overlap with and the repetition in training splits as rows of `COLUMNS`."""
    for record in records:
        if record.a.endswith("/train") and (record.texts or record.pairs or record.short):
            b = "itself" if record.a == record.b else record.b
            pairs = "" if record.pairs is None else f"{record.pairs:,}"
            same = "" if record.same_label is None else f"{record.same_label:,}"
            share = f"{record.share:.1%}"
            a = record.a if record.seed is None else f"{record.a}, seed {record.seed}"
            yield [a, b, record.texts, pairs, same, record.short, share, record.removed]


def _keys(examples: Examples, task: Task) -> Keys:
    parts = list(_parts(examples))
    texts = list(itertools.chain.from_iterable(parts))
    known = {text: _hashed(text) for text in set(texts)}
    hashes, lengths = zip(*map(known.__getitem__, texts), strict=True)
    text = np.array(hashes, np.uint64).reshape(len(parts), -1)
    length = np.array(lengths, np.int64).reshape(len(parts), -1)
    ordered = np.sort(text, axis=1)
    whole = ordered[:, 0]
    for column in ordered.T[1:]:
        whole = whole * _MIX + column  # Wraps around, as it is to.
    labelled, question = whole, None
    if isinstance(examples.label, np.ndarray):
        label = examples.label.astype(np.float64).view(np.uint64)
        if examples.choices > 1:  # The correct choice, wherever it stands among the others.
            label = text[np.arange(len(text)), 1 + examples.label]
        labelled = whole * _MIX + label
        scores = examples.label.dtype == np.float32
        question = (task.type, task.score_range if scores else task.labels)
    telling = length.sum(axis=1) >= TELLING
    return Keys(text, whole, labelled, length >= TELLING, telling, question)


def _parts(examples: Examples) -> Iterator[tuple[str, ...]]:
    """Yield the texts of each example: one, two, or in multiple choice the text and the choices."""
    for i, first in enumerate(examples.text_a):
        text = first if isinstance(first, str) else " ".join(first)
        second = examples.text_b[i] if examples.text_b else ()
        yield (text, second) if isinstance(second, str) else (text, *second)


def _hashed(text: str) -> tuple[int, int]:
    """Return a 64-bit hash of the normal form, and its length as defined in `TELLING`."""
    folded = _folded(text)
    text = _content(folded)
    length = len(text)
    text = text or folded.translate(_VISIBLE)
    if length and length < TELLING:
        length += 2 * sum(unicodedata.east_asian_width(character) == "W" for character in text)
    digest = hashlib.blake2b(text.encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little"), length


def _compare(
    a: str, b: str, keys: Mapping[str, Keys], removed: np.ndarray | None = None
) -> Overlap:
    """Compare two splits, or one with itself; `removed` examples of `a` are removed for `b`."""
    first, second = keys[a], keys[b]
    if a == b:
        between: Between = "within"
        n, size = first.text.shape
        _, place, group = np.unique(first.text, return_index=True, return_inverse=True)
        text = place[group].reshape(n, size) // size < np.arange(n)[:, None]
        whole, same = _repeated(first.whole), _repeated(first.labelled)
    else:
        between = "train and train" if b.endswith("/train") else "train and evaluation"
        text = _isin(second.text, first.ordered["text"])
        whole = _isin(second.whole, first.ordered["whole"])
        same = _isin(second.labelled, first.ordered["labelled"])
    counted = whole & second.telling
    comparable = first.question is not None and first.question == second.question
    return Overlap(
        between=between,
        a=a,
        b=b,
        examples=len(whole),
        texts=int((text & second.telling_text).any(axis=1).sum()),
        pairs=None if first.text.shape[1] == second.text.shape[1] == 1 else int(counted.sum()),
        short=int((whole & ~second.telling).sum()),
        share=float(counted.mean()),
        same_label=int((counted & same).sum()) if comparable else None,
        removed=0 if removed is None else int(removed.sum()),
    )


def _isin(values: np.ndarray, ordered: np.ndarray) -> np.ndarray:
    """Return which of the values are among those in ascending order, bool."""
    place = np.searchsorted(ordered, values)
    return np.append(ordered, ordered[-1:])[place] == values


def _repeated(values: np.ndarray) -> np.ndarray:
    """Return which of the values are repetitions of an earlier one, bool."""
    repeated = np.ones(len(values), bool)
    repeated[np.unique(values, return_index=True)[1]] = False
    return repeated


def _without(examples: Examples, leaked: np.ndarray, name: str, mode: Mode) -> Examples:
    what = "examples stand in the sets that are evaluated on"
    if mode == "forbid":
        raise DataError(
            f"{leaked.sum()} of {len(leaked)} {what}",
            where=name,
            hint="set overlap='remove' to leave them out, or 'report' to count them only.",
            details=[examples.id[i] for i in np.flatnonzero(leaked)],
        )
    if leaked.all():
        raise DataError(
            f"all {len(leaked)} {what}",
            where=name,
            hint="train on other data, or set overlap='report' to train on these nevertheless.",
        )
    logger.info("%s: %d of %d examples are left out", name, leaked.sum(), len(leaked))
    return examples.take(np.flatnonzero(~leaked))
