"""Schemes of tags that mark entities: how tags are spelled, their letters, and what is allowed.

A tag is `O`, or a letter and the type of an entity: `B-PER`, `B_PER`, `PER-B`, or only `B` if there
is one type. Letters are those of IOB (Ramshaw & Marcus 1995; Tjong Kim Sang & Veenstra 1999) and of
IOBES; BILOU writes L for E and U for S, BMES writes M for I, and BMEWO W for S, too.
"""

from __future__ import annotations

import dataclasses
import functools
import re
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from flaxfer.config import Task
from flaxfer.tasks import entities

LETTERS = {
    "iob2": "BI", "iob1": "BI", "ioe2": "IE", "ioe1": "IE", "iobes": "BIES", "bilou": "BILU",
    "bmes": "BMES", "bmewo": "BMEW",
}  # fmt: skip
"""Letters of each scheme, of which a task need not have all."""

CHUNKS = "chunks"
"""Name of the scheme that makes entities of any tags, as seqeval does for parts of speech."""

_IOBES = {"M": "I", "L": "E", "U": "S", "W": "S"}
_SEPARATOR = "[-_:./|]"
_SPELLINGS = (
    re.compile(f"(?P<letter>[BIESLUMW])(?P<separator>{_SEPARATOR})(?P<type>.+)"),
    re.compile(f"(?P<type>.+)(?P<separator>{_SEPARATOR})(?P<letter>[BIESLUMW])"),
    re.compile("(?P<letter>[BIESLUMW])(?P<separator>)(?P<type>)"),
)

# What the strict mode of seqeval allows: the letter before, the letter, and whether their types are
# the same (=), different (!) or either (*), for a tag that starts an entity, continues one, or ends
# the one before it. X is any letter.
_RULES = {
    "iob1": ("OI* II! BI* IB= BB=", "BI= II=", "II! IO* IB* BO* BI! BB="),
    "iob2": ("XB*", "BI= II=", "IO* II! IB* BO* BI! BB*"),
    "ioe1": ("OI* II! EI* EE=", "II= IE=", "II! IO* IE! EI= EE="),
    "ioe2": ("OI* OE* EI* EE* II! IE!", "IE= II=", "EX*"),
    "iobes": ("XB* XS*", "BI= BE= II= IE=", "SX* EX*"),
}
_OUTSIDE = ("O", "")


@dataclasses.dataclass(frozen=True)
class Scheme:
    """A scheme and the spelling of its tags.

    Attributes:
      name: Key of `LETTERS`, or `CHUNKS`.
      tags: By label of the task, its letter in IOB or IOBES and its type.
      strict: Whether only entities that the scheme allows count.
    """

    name: str
    tags: Mapping[str, tuple[str, str]]
    strict: bool

    def counts(
        self, gold: Sequence[Sequence[str | None]], predicted: Sequence[Sequence[str]]
    ) -> np.ndarray:
        """Count entities and words, see `entities.sentence_counts` for the arguments and result.

        They are those of `seqeval.metrics` for the tags spelled as `B-PER`, in its default mode,
        which follows conlleval, or in its strict mode.

        Raises:
          ValueError: If a tag is no label, or numbers of sentences or words differ.
        """
        known = {*self.tags, None}
        for tags in (*gold, *predicted):
            if unknown := [tag for tag in tags if tag not in known]:
                raise ValueError(f"{unknown[0]!r} is none of the tags {', '.join(self.tags)}")
        if not self.strict:
            if self.name == CHUNKS:
                return entities.sentence_counts(gold, predicted)
            spelled = self._spelled()
            return entities.sentence_counts(
                [[tag and spelled[tag] for tag in tags] for tags in gold],
                [[spelled[tag] for tag in tags] for tags in predicted],
            )
        return np.array([self._strict_counts(*tags) for tags in zip(gold, predicted, strict=True)])

    def entities(self, tags: Sequence[str]) -> list[tuple[int, int, str]]:
        """Return the first word, the one after the last, and the type of each entity, in order."""
        if self.strict:
            return sorted(self.strict_entities(tags))
        spelled = self._spelled()
        return entities.entities_of([spelled[tag] for tag in tags])

    def _spelled(self) -> dict[str, str]:
        """Return the labels as seqeval spells them, such as `B-PER`."""
        return {label: "-".join(filter(None, tag)) for label, tag in self.tags.items()}

    def _strict_counts(self, gold: Sequence[str | None], predicted: Sequence[str]) -> list[int]:
        pairs = [(t, p) for t, p in zip(gold, predicted, strict=True) if t is not None]
        true, guessed = (self.strict_entities([pair[side] for pair in pairs]) for side in (0, 1))
        right = sum(one == other for one, other in pairs)
        return [len(true & guessed), len(guessed), len(true), right, len(pairs)]

    def strict_entities(self, tags: Iterable[str]) -> set[tuple[int, int, str]]:
        """Return the first word, the one after the last, and the type of each allowed entity."""
        starts, continues, ends = _rules(self.name if self.name in _RULES else "iobes")
        words = [*(self.tags[tag] for tag in tags), _OUTSIDE]

        def fits(rules: frozenset[tuple[str, str, bool]], i: int) -> bool:
            (before, type_before), (letter, type_) = words[i - 1] if i else _OUTSIDE, words[i]
            return (before, letter, type_before == type_) in rules

        found, i = set(), 0
        while i < len(words):
            first, i = i, i + 1
            if fits(starts, first):
                while fits(continues, i):  # The O at the end continues nothing.
                    i += 1
                if fits(ends, i):
                    found.add((first, i, words[first][1]))
        return found


def scheme_of(task: Task) -> Scheme | None:
    """Return the scheme of a task's tags; None if they mark no entities."""
    found = _find(task.labels, task.tag_scheme)
    return found if found is None else dataclasses.replace(found, strict=task.strict_entities)


def spelling_fault(labels: Sequence[str], wanted: str = "auto") -> str:
    """Return why labels do not mark entities, or not by the scheme called `wanted`."""
    tagged = [label for label in labels if label != "O"]
    spellings = [spelling for spelling in _SPELLINGS if any(map(spelling.fullmatch, tagged))]
    letters = LETTERS.get(wanted, "")
    names = f"the letters {', '.join(letters)}" if letters else f"those of {', '.join(LETTERS)}"
    need = f"entities need labels such as B-PER, I-PER and O with {names}"
    for spelling in spellings[:1]:
        if other := [label for label in tagged if not spelling.fullmatch(label)]:
            return f"{need}; {', '.join(map(repr, other[:10]))} is not spelled like the others"
    return f"{need}; they are {', '.join(map(repr, labels[:10]))}"


@functools.cache
def _find(labels: tuple[str, ...], wanted: str) -> Scheme | None:
    """Return the scheme called `wanted`, or with `auto` the one that the labels have."""
    if wanted == "none":
        return None
    if wanted == CHUNKS:
        return Scheme(CHUNKS, {label: (label, "") for label in labels}, strict=False)
    tagged = [label for label in labels if label != "O"]
    for spelling in _SPELLINGS:
        matches = [match for match in map(spelling.fullmatch, tagged) if match]
        if not tagged or len(matches) < len(tagged) or len({m["separator"] for m in matches}) > 1:
            continue
        parts = [(match["letter"], match["type"]) for match in matches]
        if name := _name(parts, wanted, "O" in labels):
            tags = [(_IOBES.get(letter, letter), type_) for letter, type_ in parts]
            return Scheme(name, {"O": _OUTSIDE} | dict(zip(tagged, tags, strict=True)), False)
    return None


def _name(parts: Sequence[tuple[str, str]], wanted: str, outside: bool) -> str:
    """Return the name of the scheme of letters and types; empty if `wanted` has other letters."""
    letters = {letter for letter, _ in parts}
    names = [name for name, those in LETTERS.items() if letters <= set(those)]
    if wanted != "auto":
        return wanted if wanted in names else ""
    # Such as the sizes S and M, or the genders NOUN-M and VERB-M: nothing begins or is outside.
    name = names[0] if names and (outside or "B" in letters) else ""
    # Where a type has an I and no B (or E), that letter is for neighbours of the same type alone.
    edge = {"iob2": "B", "ioe2": "E"}.get(name)
    inside, edges = ({type_ for letter, type_ in parts if letter == x} for x in ("I", edge))
    return f"{name[:-1]}1" if edge and inside - edges else name


@functools.cache
def _rules(name: str) -> tuple[frozenset[tuple[str, str, bool]], ...]:
    """Return the rules of a scheme: letter before, letter, and whether the types are equal."""

    def expanded(rule: str) -> Iterable[tuple[str, str, bool]]:
        before, letter, relation = tuple(rule)
        relations = {"=": (True,), "!": (False,), "*": (True, False)}[relation]
        for a in "OBIES" if before == "X" else before:
            for b in "OBIES" if letter == "X" else letter:
                yield from ((a, b, same) for same in relations)

    return tuple(
        frozenset(triple for rule in rules.split() for triple in expanded(rule))
        for rules in _RULES[name]
    )
