"""Overlap between the splits of a study: texts that are trained on and evaluated on, and repeats.

Texts are compared in a normal form, see `normalise`, by a hash of it. An **example** is shared if
all its texts are, in either order; a **text** is shared if it stands anywhere in the other split,
such as in another pair. Only what is long enough to be told from a coincidence counts, see
`TELLING`.
"""

from __future__ import annotations

import dataclasses
import hashlib
import html
import itertools
import logging
import re
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from typing import Literal

import numpy as np

from flaxfer.config import Task
from flaxfer.data.examples import Examples
from flaxfer.errors import DataError

logger = logging.getLogger("flaxfer.data")

Mode = Literal["report", "remove", "forbid"]
Between = Literal["train and evaluation", "train and train", "within"]

TELLING = 20
"""The length from which on equal texts are no coincidence: letters and digits of the normal form,
a wide character (Chinese, Japanese, Korean) counting as three. Four to five English words, or seven
Chinese characters. Examples of several texts count the letters of all."""

COLUMNS = ("texts of", "in", "texts", "pairs", "same label", "short", "share", "removed")
"""Of `rows`."""

_BREAK = re.compile(r"<br ?/?>", re.IGNORECASE)
_MIX = np.uint64(0x9E3779B97F4A7C15)
"""Odd, so that multiplying by it loses nothing; the golden ratio's, as in Knuth's hashing."""


class _Kept(dict[int, int | None]):
    """What `str.translate` makes of each character: itself, or nothing."""

    def __missing__(self, code: int) -> int | None:
        category = unicodedata.category(chr(code))
        dropped = category[0] in "PZC" or category == "Sk" or 0xFE00 <= code <= 0xFE0F
        return self.setdefault(code, None if dropped else code)


_KEPT = _Kept()


@dataclasses.dataclass(frozen=True)
class Overlap:
    """What two splits share, counted in examples of `b`; or what is repeated within one.

    Attributes:
      between: which kind of record this is; `within` has the same split twice.
      a, b: stage and split, such as `target/train`.
      examples: of `b`.
      texts: with at least one telling text that stands in `a`; within a split, in an earlier
        example.
      pairs: with all their texts in one example of `a`, in either order; None if both splits hold
        single texts.
      short: as `pairs`, or as `texts` of single texts, but too short to be telling; not counted
        there.
      share: of the examples that count in `pairs`, or in `texts` of single texts.
      same_label: how many of those have their label in `a` too; None if the tasks ask different
        questions, or their labels are no classes or scores.
      removed: examples of `a` that were left out because of `b`. They may stand in several sets:
        the record of `a` with itself has all that were left out.
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


@dataclasses.dataclass(frozen=True, eq=False)
class _Keys:
    """Hashes of n examples of P texts: of the texts (n, P), of the whole in any order (n,), and of
    the whole with its label (n,); and whether texts and whole are telling.
    """

    text: np.ndarray
    whole: np.ndarray
    labelled: np.ndarray | None
    telling_text: np.ndarray
    telling: np.ndarray
    question: tuple[object, ...]

    @property
    def single(self) -> bool:
        return self.text.shape[1] == 1


def normalise(text: str) -> str:
    """The form in which texts are compared: letters, marks, digits and symbols alone.

    In this order: HTML's character references are resolved and line breaks `<br />` dropped;
    Unicode NFKC; case folded; NFKC again, as folding can undo it; punctuation (categories P),
    white space (Z), control and format characters (C), modifier symbols (Sk, such as the backquote)
    and variation selectors are dropped. So tokenised and plain text are equal, and writing with and
    without spaces; accents, vowel signs and emoji still tell texts apart.
    """
    text = _BREAK.sub(" ", html.unescape(text))
    folded = unicodedata.normalize("NFKC", text).casefold()
    return unicodedata.normalize("NFKC", folded).translate(_KEPT)


def examine(
    stages: Mapping[str, Mapping[str, Examples]], tasks: Mapping[str, Task], mode: Mode
) -> tuple[dict[str, dict[str, Examples]], list[Overlap]]:
    """Counts what the splits of a study share, and acts on it.

    Every train split is compared with the sets that any stage is evaluated on, dev among them, and
    with the other train split. With `remove`, the target's train split loses its examples that
    stand in the target's own sets, so that it is the same whatever stage comes before; that of the
    intermediate stage loses those in its own sets and in the target's. Examples of which only one
    text is shared stay.

    Args:
      stages: by stage, the splits; all but `train` are evaluated on.
      tasks: by stage.
      mode: `report` counts, `remove` leaves out, `forbid` refuses what `remove` would leave out.

    Returns:
      The stages, with their train splits changed if need be, and the counts of what was read.

    Raises:
      DataError: something is to be refused, or nothing is left to train on.
    """
    keys = {
        f"{stage}/{split}": _keys(examples, tasks[stage])
        for stage, splits in stages.items()
        for split, examples in splits.items()
    }
    trains = [name for name in keys if name.endswith("/train")]
    found = [_between("train and train", *pair, keys) for pair in itertools.combinations(trains, 2)]
    left = {name: dict(splits) for name, splits in stages.items()}
    for train in trains:
        stage = train.removesuffix("/train")
        leaked = np.zeros(len(keys[train].whole), bool)
        for name in keys.keys() - set(trains):
            own = name.startswith((f"{stage}/", "target/"))
            where = _leaked(keys[train], keys[name]) if own else np.zeros_like(leaked)
            record = _between("train and evaluation", train, name, keys)
            found.append(_removing(record, where, mode))
            leaked |= where
        found.append(_removing(_within(train, keys[train]), leaked, mode))
        if mode == "remove" and leaked.any():
            left[stage]["train"] = _without(stages[stage]["train"], leaked, train)
        if mode == "forbid" and leaked.any():
            raise _refused(stages[stage]["train"], leaked, train)
    found += [_within(name, keys[name]) for name in keys if name not in trains]
    order = {name: number for number, name in enumerate(keys)}
    return left, sorted(found, key=lambda record: (order[record.a], order[record.b]))


def rows(records: Sequence[Overlap]) -> Iterator[list[object]]:
    """What is shared with a train split, or repeated in it, as rows under `COLUMNS`."""
    for record in records:
        if record.a.endswith("/train") and (record.texts or record.pairs or record.short):
            b = "itself" if record.a == record.b else record.b
            pairs = "" if record.pairs is None else f"{record.pairs:,}"
            same = "" if record.same_label is None else f"{record.same_label:,}"
            share = f"{record.share:.1%}"
            yield [record.a, b, record.texts, pairs, same, record.short, share, record.removed]


def _keys(examples: Examples, task: Task) -> _Keys:
    parts = list(_parts(examples))
    known = {text: _hashed(text) for text in set(itertools.chain.from_iterable(parts))}
    flat = [known[text] for text in itertools.chain.from_iterable(parts)]
    shape = (len(parts), -1)
    text = np.array([key for key, _ in flat], np.uint64).reshape(shape)
    length = np.array([length for _, length in flat], np.int64).reshape(shape)
    ordered = np.sort(text, axis=1)
    whole = ordered[:, 0]
    for column in ordered.T[1:]:
        whole = whole * _MIX + column  # Wraps around, as it is to.
    labelled = None
    if isinstance(examples.label, np.ndarray):
        labelled = whole * _MIX + examples.label.astype(np.float64).view(np.uint64)
    question = (task.type, task.labels, task.score_range)
    telling = length.sum(axis=1) >= TELLING
    return _Keys(text, whole, labelled, length >= TELLING, telling, question)


def _parts(examples: Examples) -> Iterator[tuple[str, ...]]:
    """The texts of each example: one, two, or of multiple choice the premise and the choices."""
    for i, first in enumerate(examples.text_a):
        text = first if isinstance(first, str) else " ".join(first)
        second = examples.text_b[i] if examples.text_b else ()
        yield (text, second) if isinstance(second, str) else (text, *second)


def _hashed(text: str) -> tuple[int, int]:
    """A hash of the normal form, 64 bits, and its length as `TELLING` counts it."""
    text = normalise(text)
    length = len(text)
    if length < TELLING:
        length += 2 * sum(unicodedata.east_asian_width(character) == "W" for character in text)
    digest = hashlib.blake2b(text.encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little"), length


def _leaked(train: _Keys, other: _Keys) -> np.ndarray:
    """Which examples of `train` stand in `other` as a whole, bool (n,)."""
    return np.isin(train.whole, other.whole) & train.telling


def _between(between: Between, a: str, b: str, keys: Mapping[str, _Keys]) -> Overlap:
    first, second = keys[a], keys[b]
    whole = np.isin(second.whole, first.whole)
    text = np.isin(second.text, first.text[first.telling_text]) & second.telling_text
    same = None
    if first.labelled is not None and second.labelled is not None:
        same = np.isin(second.labelled, first.labelled)
    comparable = first.question == second.question
    single = first.single and second.single
    return _record(between, a, b, second, single, text, whole, same if comparable else None)


def _within(name: str, keys: _Keys) -> Overlap:
    row = np.arange(len(keys.whole))[:, None]
    _, first, group = np.unique(keys.text, return_index=True, return_inverse=True)
    before = first[group].reshape(keys.text.shape) // keys.text.shape[1]
    text = (before < row) & keys.telling_text
    whole = _repeated(keys.whole)
    same = None if keys.labelled is None else _repeated(keys.labelled)
    return _record("within", name, name, keys, keys.single, text, whole, same)


def _repeated(values: np.ndarray) -> np.ndarray:
    """Which of the values stood before, bool."""
    repeated = np.ones(len(values), bool)
    repeated[np.unique(values, return_index=True)[1]] = False
    return repeated


def _record(
    between: Between,
    a: str,
    b: str,
    keys: _Keys,
    single: bool,
    text: np.ndarray,
    whole: np.ndarray,
    same: np.ndarray | None,
) -> Overlap:
    """Counts what is shared: texts, bool (n, P); wholes and wholes with their label, bool (n,)."""
    counted = whole & keys.telling
    return Overlap(
        between=between,
        a=a,
        b=b,
        examples=len(whole),
        texts=int(text.any(axis=1).sum()),
        pairs=None if single else int(counted.sum()),
        short=int((whole & ~keys.telling).sum()),
        share=float(counted.mean()),
        same_label=None if same is None else int((counted & same).sum()),
    )


def _removing(record: Overlap, leaked: np.ndarray, mode: Mode) -> Overlap:
    removed = int(leaked.sum()) if mode == "remove" else 0
    return dataclasses.replace(record, removed=removed)


def _without(examples: Examples, leaked: np.ndarray, name: str) -> Examples:
    if leaked.all():
        raise DataError(
            f"all {len(leaked)} examples stand in the sets that are evaluated on",
            where=name,
            hint="train on other data, or set overlap='report' to train on these nevertheless.",
        )
    logger.info("%s: %d of %d examples are left out", name, leaked.sum(), len(leaked))
    return examples.take(np.flatnonzero(~leaked))


def _refused(examples: Examples, leaked: np.ndarray, name: str) -> DataError:
    return DataError(
        f"{leaked.sum()} of {len(leaked)} examples stand in the sets that are evaluated on",
        where=name,
        hint="set overlap='remove' to leave them out, or 'report' to count them only.",
        details=[examples.id[i] for i in np.flatnonzero(leaked)],
    )
