"""Files of submissions and labels: finding, strict reading, and writing in the published formats.

Every format of `benchmarks.KINDS` has one value, whichever way a file is written:

- "labels", "indices": a list with the text of each line.
- "choices": a list with the label of each line, 0 or 1, in JSON lines `{"label": 1}`.
- "tags": a list of sentences, each with its first line's number and its tags.
- "pairs": a list of pairs, from two columns.
- "answers": by question id, the answer, or in labels the true answers (SQuAD's format).
- "rankings": by id of the query, ids of candidates, the best first, or in labels the right ones.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from flaxfer.data import files
from flaxfer.errors import DataError, bounded
from flaxfer.xtreme.benchmarks import KINDS, LANGUAGES, file_name, task_named

_COLUMNS = "write one label on each line, and nothing else."
_MAP = "write one JSON object: {%s, ...}."


def find(folder: Path) -> tuple[dict[str, dict[str, Path]], list[str]]:
    """Return the files of a folder by task and language, and notes on what else lies there.

    A folder is that of a task if its name is, in any spelling; a file is that of a language if its
    name has the language's code, such as `test-de.tsv` or `xquad.de.json`. If there are several,
    the one with the published name counts.

    Raises:
      DataError: If this is no folder, has no file of any task, or two folders or files stand for
        the same.
    """
    if not folder.is_dir():
        raise DataError(
            "there is no such folder",
            where=str(folder),
            hint="name the folder that has a folder for each task, such as xnli and udpos.",
        )
    found: dict[str, dict[str, Path]] = {}
    notes = []
    for path in _visible(folder):
        task = task_named(path.name)
        if task is None or not path.is_dir():
            notes.append(f"{path}: belongs to no task, and is ignored")
        elif task in found:
            raise DataError(
                f"two folders are those of {task}",
                where=str(path),
                hint="leave one of them there.",
            )
        else:
            found[task], unknown = _by_language(path, task)
            notes += unknown
    if not any(found.values()):
        raise DataError(
            "there is no file of any task",
            where=str(folder),
            hint=f"files are called as in {folder / 'xnli' / 'test-de.tsv'}; the tasks are "
            f"{', '.join(KINDS)}.",
        )
    return found, notes


def _by_language(folder: Path, task: str) -> tuple[dict[str, Path], list[str]]:
    candidates: dict[str, list[Path]] = {}
    notes = []
    for path in _visible(folder):
        codes = {*re.split("[^a-z]+", path.stem.lower())} & {*LANGUAGES[task]}
        if len(codes) != 1 or not path.is_file():
            notes.append(f"{path}: its name has no code of one language of {task}: it is ignored")
        else:
            candidates.setdefault(codes.pop(), []).append(path)
    found = {}
    for code, paths in candidates.items():
        published = Path(file_name(task, code)).name
        named = [path for path in paths if path.name == published] or paths
        if len(named) > 1:
            raise DataError(
                f"{len(named)} files are those of the language {code}",
                where=str(folder),
                hint=f"call the right one {published}, or remove the others.",
                details=[path.name for path in named],
            )
        found[code] = named[0]
    return found, notes


def _visible(folder: Path) -> Iterator[Path]:
    return (path for path in sorted(folder.iterdir()) if not path.name.startswith("."))


def read(path: Path, task: str, side: str) -> Any:
    """Return the value of a file, see above.

    Args:
      path: The file.
      task: Key of `benchmarks.KINDS`.
      side: "predictions" or "labels".

    Raises:
      DataError: If the file is not UTF-8, or not written as its kind.
    """
    kind = KINDS[task]
    reader = _LABELS.get(kind) if side == "labels" else None
    return (reader or _READERS[kind])(path)


def written(task: str, value: Any) -> str:
    """Return the text of a prediction file for the published script."""
    kind = KINDS[task]
    if kind in ("answers", "rankings"):
        return json.dumps(value, indent=1) + "\n"
    if kind == "tags":
        return "\n".join("".join(f"{tag}\n" for tag in tags) for _, tags in value)
    if kind == "choices":
        return "".join(json.dumps({"label": label}) + "\n" for label in value)
    return "".join(("\t".join(row) if kind == "pairs" else row) + "\n" for row in value)


def classes(value: Any, task: str, path: Path) -> dict[Any, str]:
    """Return the labels or tags of a value of `read`, with the place of the first of each."""
    if KINDS[task] == "labels":
        places = [(name, line) for line, name in enumerate(value, 1)]
    else:
        tagged = value if KINDS[task] == "tags" else []
        places = [(tag, line + i) for line, tags in tagged for i, tag in enumerate(tags)]
    return {name: f"{path}:{line}" for name, line in reversed(places)}


def _text(path: Path) -> str:
    try:
        text = files.decode(files.read_bytes(path, "path"), "utf-8", path)
        files.require_line_feeds(text, path)
        return text
    except DataError as error:
        hint = "write the file as text in UTF-8, with line feeds."
        raise DataError(error.what, where=error.where, hint=hint, details=error.details) from error


def _rows(path: Path) -> list[tuple[int, str]]:
    """Return the numbers and texts of lines, without blank ones at the end."""
    lines = files.split_lines(_text(path))
    rows = [(number, line.strip()) for number, line in enumerate(lines, 1)]
    while rows and not rows[-1][1]:
        rows.pop()
    return rows


def _each(path: Path, fault: Callable[[str], str | None], hint: str) -> list[str]:
    """Return the lines, and raise an error that lists those with a fault."""
    rows = _rows(path)
    faults = [(number, what) for number, row in rows if (what := fault(row))]
    if faults:
        raise DataError(
            f"{len(faults)} of {len(rows)} lines cannot be read",
            where=f"{path}:{faults[0][0]}",
            hint=hint,
            details=[f"{path.name}:{number}: {what}" for number, what in faults],
        )
    return [row for _, row in rows]


def _labels(path: Path) -> list[str]:
    def fault(row: str) -> str | None:
        return (
            f"has {row.count(chr(9)) + 1} columns" if "\t" in row else None if row else "is blank"
        )

    return _each(path, fault, _COLUMNS)


def _indices(path: Path) -> list[str]:
    def fault(row: str) -> str | None:
        return None if re.fullmatch("[0-9]+", row) else f"{bounded(row)} is no index of a sentence"

    return [str(int(row)) for row in _each(path, fault, "write one index on each line.")]


def _choices(path: Path) -> list[int]:
    def fault(row: str) -> str | None:
        return f"{bounded(row)} has no label 0 or 1" if _choice(row) is None else None

    rows = _each(path, fault, 'write one JSON object on each line, such as {"label": 1}.')
    return [label for row in rows if (label := _choice(row)) is not None]


def _choice(row: str) -> int | None:
    try:
        return {"0": 0, "1": 1}.get(json.dumps(json.loads(row)["label"]).strip('"'))
    except (ValueError, TypeError, LookupError):
        return None


def _tags(path: Path) -> list[tuple[int, list[str]]]:
    sentences: list[tuple[int, list[str]]] = []
    inside = False
    for number, row in _rows(path):
        if row and not inside:
            sentences.append((number, []))
        if row:
            sentences[-1][1].append(row.split()[-1])  # Words and other columns come before it.
        inside = bool(row)
    return sentences


def _pairs(path: Path) -> list[tuple[str, ...]]:
    def fault(row: str) -> str | None:
        columns = row.count("\t") + 1
        return None if columns == 2 or not row else f"has {columns} column(s), not 2"

    rows = _each(path, fault, "write two ids on each line, separated by a tab.")
    return [tuple(row.split("\t")) for row in rows if row]


def _document(path: Path) -> Any:
    """Return the value of a JSON file, without a `data` around it."""
    try:
        value = files.load_json(_text(path))
    except (ValueError, RecursionError) as error:
        line = getattr(error, "lineno", None)
        raise DataError(
            f"the file is no JSON: {error}",
            where=f"{path}:{line}" if line else str(path),
            hint="write it with a JSON library, and check that it is not cut off.",
        ) from error
    return unwrapped(value)


def unwrapped(value: Any) -> Any:
    """Return the value of the key `data`, if there is one."""
    return value["data"] if isinstance(value, dict) and "data" in value else value


def _object(path: Path, is_value: Callable[[Any], bool], entry: str) -> dict[str, Any]:
    value, hint = _document(path), _MAP % entry
    if not isinstance(value, dict):
        what = f"the file holds no JSON object, but a {type(value).__name__}"
        raise DataError(what, where=str(path), hint=hint)
    if wrong := [key for key, each in value.items() if not is_value(each)]:
        raise DataError(
            f"{len(wrong)} of {len(value)} values are of another form",
            where=str(path),
            hint=hint,
            details=[f"{path.name}: {key}: {bounded(repr(value[key]))}" for key in wrong],
        )
    return value


def _answers(path: Path) -> dict[str, str]:
    return _object(path, lambda value: isinstance(value, str), '"QUESTION ID": "ANSWER"')


def _rankings(path: Path) -> dict[str, list[str]]:
    def is_ranking(value: Any) -> bool:
        return isinstance(value, list) and all(isinstance(each, str) for each in value)

    return _object(path, is_ranking, '"QUERY ID": ["BEST ID", "SECOND ID"]')


def _right_candidates(path: Path) -> dict[str, list[str]]:
    labels = _rankings(path)
    _require_labels(path, labels, [key for key, right in labels.items() if not any(right)])
    return {key: [each.strip() for each in right] for key, right in labels.items()}


def _true_answers(path: Path) -> dict[str, list[str]]:
    try:
        labels = {
            question["id"]: [answer["text"] for answer in question["answers"]]
            for article in _document(path)
            for paragraph in article["paragraphs"]
            for question in paragraph["qas"]
        }
    except (TypeError, LookupError) as error:
        raise DataError(
            f"the file is not in SQuAD's format: {type(error).__name__}: {error}",
            where=str(path),
            hint="it needs data, paragraphs, qas, id, answers and text.",
        ) from error
    _require_labels(path, labels, [key for key, golds in labels.items() if not any(golds)])
    return labels


def _require_labels(path: Path, labels: Mapping[str, list[str]], empty: list[str]) -> None:
    if empty:
        raise DataError(
            f"{len(empty)} of {len(labels)} examples have no label, the first is {empty[0]}",
            where=str(path),
            hint="this is a copy without labels; take the file with the labels.",
        )


_READERS: dict[str, Callable[[Path], Any]] = {
    "labels": _labels,
    "indices": _indices,
    "choices": _choices,
    "tags": _tags,
    "pairs": _pairs,
    "answers": _answers,
    "rankings": _rankings,
}
_LABELS: dict[str, Callable[[Path], Any]] = {
    "answers": _true_answers,
    "rankings": _right_candidates,
}
