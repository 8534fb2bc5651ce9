"""Guesses at what the columns of a data set mean: texts, labels, languages, splits.

What cannot be decided becomes a placeholder (`flaxfer.config.findings.PLACEHOLDER`) that says what
to put there. Every guess is noted, with its reason.
"""

from __future__ import annotations

import dataclasses
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence

from flaxfer.data import languages
from flaxfer.data.column_names import SPLIT_OF, is_named
from flaxfer.data.columns import Columns
from flaxfer.data.labels import NO_LABEL
from flaxfer.data.sniffing import Layout, Settings
from flaxfer.data.tables import Key
from flaxfer.data.values import NUMBER, written
from flaxfer.errors import DataError

MAX_SCORES = 12
"""Different whole numbers above which they are scores instead of classes."""
RANGES = ((0.0, 1.0), (-1.0, 1.0), (0.0, 5.0), (1.0, 5.0), (0.0, 10.0), (1.0, 10.0), (0.0, 100.0))
"""Usual ranges of scores."""
ENTITY = re.compile(r"[BIESLUMW]-.+")
"""A tag that marks a part of an entity."""
QUESTIONS = {"cause": "What was the cause?", "effect": "What happened as a result?"}
"""Questions of COPA, by the values of its column."""


@dataclasses.dataclass
class Meaning:
    """Guessed task and columns of a data set.

    Attributes:
      task: Fields of `Task` but its name.
      source: Fields of `Source` beside those of its layout.
      columns: Columns by role.
      splits: Values of a column that select a split, by split; empty without such a column.
      split_column: The column of the splits.
      languages: Values of the column of languages, the most frequent first.
      language: Code of the language without such a column; empty if it was not recognised.
      length: Characters of a long example: 95 in 100 are shorter.
      notes: The guesses in words.
    """

    task: Settings = dataclasses.field(default_factory=dict)
    source: Settings = dataclasses.field(default_factory=dict)
    columns: dict[str, Key] = dataclasses.field(default_factory=dict)
    splits: dict[str, tuple[str, ...]] = dataclasses.field(default_factory=dict)
    split_column: Key = ""
    languages: tuple[str, ...] = ()
    language: str = ""
    length: int = 0
    notes: list[str] = dataclasses.field(default_factory=list)


def interpret(layouts: Sequence[Layout], task_type: str = "") -> Meaning:
    """Return what a data set holds.

    Args:
      layouts: Its files; all have the columns of the first, which is the one to train on.
      task_type: Type of its task; empty to guess it.

    Raises:
      DataError: If the files hold no examples of the type.
    """
    columns, meaning = Columns(layouts), Meaning()
    kind = task_type or _structure(columns)
    _common(columns, meaning)
    texts = _FINDERS[kind](columns, meaning, task_type)
    lengths = sorted(columns.lengths(texts))
    meaning.length = lengths[int(0.95 * (len(lengths) - 1))] if lengths else 0
    if not meaning.languages:
        meaning.language = languages.guess(map(written, columns.values(texts[0])[:2000]))
    return meaning


def _structure(columns: Columns) -> str:
    """Return the type of the task by the structure of its data; classification by default."""
    if columns.format in ("conll", "conllu"):
        return "tagging"
    if columns.answers() is not None:
        return "question_answering"
    if len(columns.lists()) >= 2:
        return "tagging"
    return "multiple_choice" if columns.choices() else "classification"


def _refusal(columns: Columns, what: str, hint: str) -> DataError:
    return DataError(what, where=str(columns.path), hint=f"{hint} Or write the config by hand.")


def _common(columns: Columns, meaning: Meaning) -> None:
    """Find the columns of splits, languages, domains and ids."""
    for key in list(columns.free):
        values, size = set(map(written, columns.values(key))), len(columns.values(key))
        role = ""
        if "" in values or any(isinstance(value, list | dict) for value in columns.values(key)):
            continue
        if values <= SPLIT_OF.keys() and (len(values) > 1 or is_named(key, "split")):
            for value in sorted(values):
                split = SPLIT_OF[value]
                meaning.splits[split] = (*meaning.splits.get(split, ()), value)
            meaning.split_column = key
            columns.take(key)
            meaning.notes.append(f"splits: column {key!r}, {columns.shown(key)}")
        elif (is_named(key, "language") and len(values) <= 200) or (
            isinstance(key, int) and len(values) > 1 and values <= languages.CODES
        ):
            role = "language"
        elif is_named(key, "domain") and len(values) <= 50:
            role = "domain"
        elif is_named(key, "id") and len(values) == size:
            role = "id"
        if role:
            meaning.columns[role] = key
            columns.take(key)
            what = "all values differ" if role == "id" else columns.shown(key)
            meaning.notes.append(f"{role}: column {key!r}, {what}")
        if role == "language":
            counts = Counter(map(written, columns.values(key)))
            meaning.languages = tuple(value for value, _ in counts.most_common())


def _labelled(columns: Columns, meaning: Meaning, task_type: str) -> list[Key]:
    """Find texts or pairs, and their classes or scores; return the columns of the texts."""
    label = columns.label()
    if label is not None:
        columns.take(label)
    texts = columns.texts()
    if not texts:
        raise _refusal(columns, "no column holds texts", "Name a file with a column of texts.")
    columns.take(*texts)
    for role, key in zip(("text_a", "text_b"), texts, strict=False):
        meaning.columns[role] = key
        _note_text(columns, meaning, role, key)
    if label is not None:
        meaning.columns["label"] = label
        counts = _labels(columns, meaning, label)
        if task_type != "classification" and (task_type or _are_scores(counts)):
            _scores(columns, meaning, label, counts)
        else:
            _classes(columns, meaning, label, counts)
        return texts
    meaning.columns["label"] = f"TODO: the column of the labels; left are {columns.listed()}"
    meaning.notes.append("label: not recognised, so a placeholder stands in its place")
    meaning.task = {"type": "regression", "metric": "pearson"}
    if task_type != "regression":
        meaning.task = {"type": "classification", "metric": "accuracy"}
        meaning.task["labels"] = ("TODO: name of the first class", "TODO: name of the second")
    return texts


def _note_text(columns: Columns, meaning: Meaning, role: str, key: Key) -> None:
    note = f"{role}: column {key!r}, {columns.mean_length(key):.0f} characters in the mean"
    empty = sorted({text for text in columns.counts(key) if not text.strip()})
    if empty:
        number = sum(columns.counts(key)[text] for text in empty)
        note += f"; {number:,} without a text are left out (drop)"
        meaning.source.setdefault("drop", {})[role] = tuple(empty)
    meaning.notes.append(note)


def _labels(columns: Columns, meaning: Meaning, key: Key) -> Counter[str]:
    """Return the labels of a column with their numbers, without values that stand for none."""
    counts = columns.counts(key)
    numbers = [text for text in counts if NUMBER.fullmatch(text)]
    # Polarities are -1 and 1, perhaps with 0.
    polarity = set(numbers) in ({"-1", "1"}, {"-1", "0", "1"}) and len(numbers) == len(counts)
    none = [text for text in counts if text.strip().lower() in NO_LABEL]
    if none and not polarity:
        number = sum(counts.pop(text) for text in none)
        meaning.source["drop_unlabeled"] = True
        shown = ", ".join(map(repr, none))
        meaning.notes.append(f"{number:,} records without a label ({shown}) are left out")
    return counts


def _are_scores(counts: Counter[str]) -> bool:
    """Return whether labels are numbers that no class would be named by."""
    numbers = all(map(NUMBER.fullmatch, counts))
    return numbers and (len(counts) > MAX_SCORES or any(float(text) % 1 for text in counts))


def _scores(columns: Columns, meaning: Meaning, key: Key, counts: Counter[str]) -> None:
    if odd := [text for text in counts if not NUMBER.fullmatch(text.strip())]:
        what = f"the column {key!r} holds {odd[0]!r}, which is no score"
        raise _refusal(columns, what, "Leave --task out, or set it to classification.")
    scores = [float(text) for text in counts]
    low, high = min(scores), max(scores)
    usual = [r for r in RANGES if r[0] <= low and high <= r[1]]
    score_range = min(usual, key=lambda r: r[1] - r[0], default=(low, high))
    meaning.task = {"type": "regression", "metric": "pearson", "score_range": score_range}
    meaning.notes.append(
        f"label: column {key!r}, scores from {low:g} to {high:g} (regression; for classes, "
        "--task classification)"
    )


def _classes(columns: Columns, meaning: Meaning, key: Key, counts: Counter[str]) -> None:
    numbers = all(map(NUMBER.fullmatch, counts))
    names = sorted(counts, key=(lambda text: (float(text), text)) if numbers else None)
    most = counts.most_common(1)[0][1] / counts.total()
    # Where most examples are of one class, accuracy says little about the others.
    metric = "macro_f1" if most > 0.5 + 0.5 / len(names) else ""
    meaning.task = {"type": "classification", "metric": metric or "accuracy"}
    meaning.task["labels"] = tuple(names)
    note = f"label: column {key!r}, {columns.shown(key)} (classification"
    meaning.notes.append(note + ("; for scores, --task regression)" if numbers else ")"))
    if metric:
        meaning.notes.append(f"metric: macro_f1, as {most:.0%} of the labels are the same")


def _tagged(columns: Columns, meaning: Meaning, task_type: str) -> list[Key]:
    """Find words and their tags; return the column of the words."""
    words: Key
    tags: Key
    if columns.format == "conllu":
        words, tags = "FORM", "UPOS"
    elif columns.format == "conll":
        words, tags = _conll_columns(columns)
    else:
        lists = columns.lists()
        if len(lists) < 2:
            hint = "Tagging needs a CoNLL file, or JSON or parquet with lists of words and tags."
            raise _refusal(columns, "no two columns hold lists", hint)
        tags = next((key for key in lists if is_named(key, "tags")), lists[1])
        words = next(key for key in lists if key != tags)
    columns.take(words, tags)
    if columns.format != "conllu":
        meaning.columns |= {"words": words, "tags": tags}
    prefixes = {text.partition(":")[:2] for text in columns.counts(words)}
    if columns.format == "conll" and len(prefixes) == 1 and len(columns.counts(words)) > 1:
        language, colon = prefixes.pop()
        if colon and re.fullmatch("[a-z]{2,3}", language):
            meaning.source["word_prefix"] = f"{language}:"
            meaning.notes.append(f"words: all begin with '{language}:', which is removed")
    counts = columns.counts(tags)
    if none := [tag for tag in counts if tag in ("", "_", "-")]:
        meaning.source["drop_unlabeled"] = True
        shown = ", ".join(map(repr, none))
        meaning.notes.append(f"words without a tag ({shown}) do not count")
    names = [tag for tag in counts if tag not in none]
    names.sort(key=lambda tag: (tag != "O", tag.partition("-")[2], tag))
    marks = all(tag == "O" or ENTITY.fullmatch(tag) for tag in names)
    meaning.task = {"type": "tagging", "metric": "f1" if marks else "accuracy"}
    meaning.task["labels"] = tuple(names)
    meaning.notes.append(f"words: column {words!r}; tags: column {tags!r}, {columns.shown(tags)}")
    meaning.notes.append(f"tags {'mark entities' if marks else 'are classes of words'}")
    return [words]


def _conll_columns(columns: Columns) -> tuple[Key, Key]:
    """Return the columns of words and tags: the tags with the most entities, else the last."""
    numbered = all(
        [*value] == list(map(str, range(1, len(value) + 1))) for value in columns.values(0)
    )
    first, *others = columns.free[1:] if numbered and len(columns.free) > 2 else columns.free

    def entities(key: Key) -> int:
        counts = columns.counts(key)
        is_all = all(tag == "O" or ENTITY.fullmatch(tag) for tag in counts)
        return (counts.total() - counts["O"]) * is_all

    # The chunks of CoNLL-2003 mark spans, too, but are no entities.
    marked = [
        key for key in others if entities(key) and not {"B-NP", "I-NP"} & columns.counts(key).keys()
    ]
    return first, max(marked, key=entities) if marked else others[-1]


def _answered(columns: Columns, meaning: Meaning, task_type: str) -> list[Key]:
    """Find questions, contexts and answers; return the columns of questions and contexts."""
    answers = columns.answers()
    texts = [
        next((key for key in columns.free if is_named(key, name)), None)
        for name in ("question", "context")
    ]
    question, context = texts
    if answers is None or question is None or context is None:
        hint = "Question answering needs a SQuAD file, or records with question, context, answers."
        raise _refusal(columns, "there are no such columns", hint)
    if columns.format == "squad":
        meaning.columns.clear()  # The format has its own.
    else:
        meaning.columns |= {"text_a": question, "text_b": context, "answers": answers}
    meaning.task = {"type": "question_answering", "metric": "f1"}
    without = sum(not _has_answer(value) for value in columns.values(answers))
    if without:
        meaning.task |= {"no_answer": True, "answer_style": "squad2"}
        meaning.notes.append(f"{without:,} questions have no answer (no_answer)")
    meaning.notes.append(f"questions, contexts and answers: {question}, {context}, {answers}")
    return [question, context]


def _has_answer(value: object) -> bool:
    return bool(value.get("text") if isinstance(value, dict) else value)


def _chosen(columns: Columns, meaning: Meaning, task_type: str) -> list[Key]:
    """Find a text, its choices, and the right one; return the columns of text and first choice."""
    choices, label = columns.choices(), columns.label()
    if not choices or label is None:
        hint = "Multiple choice needs columns such as choice1 and choice2, and a label."
        raise _refusal(columns, "there are no choices with a label", hint)
    columns.take(*choices, label)
    asked = next((key for key in columns.free if is_named(key, "question")), None)
    texts = [key for key in columns.free if key != asked and columns.is_text(key)]
    text = max(texts, key=columns.mean_length) if texts else asked
    if text is None:
        raise _refusal(columns, "no column holds texts", "Name a file with a column of texts.")
    meaning.columns["text_a"] = text
    meaning.columns |= {f"choice_{i}": key for i, key in enumerate(choices, 1)}
    if asked is not None and asked != text:
        meaning.columns["question"] = asked
        if columns.counts(asked).keys() == QUESTIONS.keys():
            meaning.source["questions"] = dict(QUESTIONS)
    meaning.columns["label"] = label
    values = sorted(_labels(columns, meaning, label))
    if not set(values) <= set(map(str, range(len(choices)))):
        meaning.source["labels"] = {value: str(i) for i, value in enumerate(values)}
    meaning.task = {"type": "multiple_choice", "metric": "accuracy"}
    named = ", ".join(map(repr, choices)) + (f"; question: {asked!r}" if asked is not None else "")
    meaning.notes.append(f"text_a: column {text!r}; choices: {named}")
    meaning.notes.append(f"label: column {label!r}, {columns.shown(label)}")
    return [text, choices[0]]


def _retrieved(columns: Columns, meaning: Meaning, task_type: str) -> list[Key]:
    """Find queries, passages and negatives; return the columns of queries and passages."""
    found: dict[str, Key] = {}
    for role in ("query", "passage", "negative"):
        keys = [key for key in columns.free if is_named(key, role) and columns.is_text(key)]
        if keys:
            found[role] = keys[0]
            columns.take(keys[0])
    if not {"query", "passage"} <= found.keys():
        hint = "Retrieval needs columns such as query and passage."
        raise _refusal(columns, "there are no such columns", hint)
    for role, key in found.items():
        meaning.columns[role] = key
        _note_text(columns, meaning, role, key)
    meaning.task = {"type": "retrieval", "metric": "map_at_20"}
    return [found["query"], found["passage"]]


_FINDERS: Mapping[str, Callable[[Columns, Meaning, str], list[Key]]] = {
    "classification": _labelled,
    "regression": _labelled,
    "tagging": _tagged,
    "question_answering": _answered,
    "multiple_choice": _chosen,
    "retrieval": _retrieved,
}
