"""A first config for a user's files: what `flaxfer init` guesses, and the Python file it writes."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from flaxfer.config.schema import Train
from flaxfer.data import siblings
from flaxfer.data.meaning import Meaning, interpret
from flaxfer.data.siblings import Sibling
from flaxfer.data.sniffing import Layout, Settings, settings_for, sniff
from flaxfer.errors import DataError
from flaxfer.study.python_text import Code, Section, render

SEEDS = (0, 1, 2, 3, 4)
"""Seeds of the runs: a verdict needs two, and these leave some of the noise."""
MARGIN = 0.01
"""Smallest relevant difference of all metrics that are written here."""
LENGTHS = (64, 128, 256, 384, 512)
"""Values of `train.max_length` to choose from."""
MANY = 8
"""Labels above which they are written as one text."""


@dataclasses.dataclass
class Draft:
    """A stage that was guessed from a file.

    Attributes:
      name: Name of its task.
      meaning: What the file holds.
      shared: Fields that all its sources have in common.
      data: Sources by split.
      evaluate: Sources of other languages.
      notes: The guesses in words.
    """

    name: str
    meaning: Meaning
    shared: Settings
    data: dict[str, Settings]
    evaluate: dict[str, Settings]
    notes: list[str]


def draft(path: Path, task_type: str = "", evaluate: bool = True) -> Draft:
    """Return the stage that a file and those beside it are guessed to be meant for.

    Args:
      path: File to train on.
      task_type: Type of the task; empty to guess it.
      evaluate: Whether files in other languages are evaluated on.

    Raises:
      DataError: If the file cannot be read, or holds no examples of the type.
    """
    first = sniff(path)
    members, layouts, notes = _readable(siblings.family(path), first, evaluate)
    meaning = interpret(layouts, task_type)
    notes = [f"{path}: {first.note}", *meaning.notes, *notes]
    own = next(one for one in members if one.path == path)
    codes = {one.language for one in members}
    named = len(codes) > 1 or not meaning.language or own.language == meaning.language
    language = own.language if own.language and named else meaning.language
    if not meaning.languages:
        by_name = bool(own.language and named)
        what = f"language: {language or 'en'}"
        reason = "by the name of the file" if by_name else "by its most frequent words"
        notes.append(f"{what}, {reason}" if language else f"{what}, the default: not recognised")
    settings = [_settings(layout, meaning) for layout in layouts]
    shared = {k: v for k, v in settings[0].items() if all(s.get(k) == v for s in settings)}
    sources: dict[tuple[str, str], Settings] = {}
    for one, each in zip(members, settings, strict=True):
        code = one.language if named and one.language else language
        rest = {key: value for key, value in each.items() if key not in shared}
        tag = {"language": code} if code and not meaning.languages else {}
        sources.setdefault((one.split, code), {"path": str(one.path), **rest, **tag})
    if meaning.splits or len(meaning.languages) > 1:
        data, others = _by_columns(sources[own.split, language], meaning)
    else:
        data, others = _by_files(sources, own.split, language)
    if not others and "test" not in data and "dev" in data:
        data["test"] = data.pop("dev")
        notes.append("splits: the file of dev serves as the test set, and dev is cut from train")
    if "dev" not in data:
        missing = [split for split in ("dev", "test") if split not in data]
        notes.append(f"splits: {' and '.join(missing)} cut from train by a seed")
    return Draft(path.stem, meaning, shared, data, others if evaluate else {}, notes)


def _readable(
    members: Sequence[Sibling], first: Layout, evaluate: bool
) -> tuple[list[Sibling], list[Layout], list[str]]:
    """Return the files that are built as the first is, with their layouts, and notes."""
    own = next(one for one in members if one.path == first.path)
    files, layouts, notes = [own], [first], []
    for one in members:
        if one is own or (one.language != own.language and not evaluate):
            continue
        try:
            layout = sniff(one.path)
        except DataError as error:
            notes.append(f"{one.path}: not used, {error.what}")
            continue
        if (layout.format, [*layout.columns]) != (first.format, [*first.columns]):
            notes.append(f"{one.path}: not used, as it has other columns than {first.path.name}")
            continue
        files.append(one)
        layouts.append(layout)
        notes.append(f"{one.path}: {' '.join(filter(None, (one.language, one.split)))}")
    return files, layouts, notes


def _settings(layout: Layout, meaning: Meaning) -> Settings:
    """Return the fields of a source but its path and language."""
    columns = {"columns": meaning.columns} if meaning.columns else {}
    return settings_for(layout.path, {"format": layout.format, **layout.settings}) | (
        columns | meaning.source
    )


def _by_files(
    sources: dict[tuple[str, str], Settings], split: str, language: str
) -> tuple[dict[str, Settings], dict[str, Settings]]:
    """Return the sources of a stage whose splits and languages are files."""
    data = {"train": sources[split, language]}
    if split == "train":
        data |= {s: sources[s, language] for s in ("dev", "test") if (s, language) in sources}
    others: dict[str, Settings] = {}
    for wanted in ("test", "dev", "", "train"):
        for (of, code), source in sources.items():
            if of == wanted and code != language:
                others.setdefault(code, source)
    return data, dict(sorted(others.items()))


def _by_columns(
    source: Settings, meaning: Meaning
) -> tuple[dict[str, Settings], dict[str, Settings]]:
    """Return the sources of a stage whose splits or languages are values of columns."""

    def part(split: str, language: str) -> Settings:
        keep: dict[str, Any] = {}
        if split:
            keep[str(meaning.split_column)] = _one_or_all(meaning.splits[split])
        if len(meaning.languages) > 1:
            keep["language"] = language
        return {**source, **({"keep": keep} if keep else {})}

    train, *others = meaning.languages or ("",)
    if "en" in others:  # What most models and intermediate tasks know best.
        others[others.index("en")], train = train, "en"
    splits = meaning.splits
    data = {"train": part("train" if "train" in splits else "", train)}
    if "train" in splits:
        data |= {split: part(split, train) for split in ("dev", "test") if split in splits}
    tested = next((split for split in ("test", "dev", "train") if split in splits), "")
    return data, {re.sub(r"[^\w.-]", "_", code): part(tested, code) for code in others}


def _one_or_all(values: tuple[str, ...]) -> str | tuple[str, ...]:
    return values[0] if len(values) == 1 else values


def config_text(
    name: str, file: Path, target: Draft, intermediate: Draft | None, model: Settings, limit: int
) -> str:
    """Return the source of a config file.

    Args:
      name: Name of the study.
      file: Where it will stand.
      target: Its target stage.
      intermediate: The stage before; None for none.
      model: Fields of `Model`.
      limit: Tokens that the model takes; 0 if unknown.
    """
    constants: list[str] = []
    stages = {"intermediate": intermediate, "target": target}
    sections = {key: _stage(key.upper(), each, constants) for key, each in stages.items() if each}
    drafts = [each for each in stages.values() if each]
    study = Section({"name": name})
    if intermediate:
        study.items["conditions"] = ("direct", "staged")
        study.comments["conditions"] = "The target task alone, and after the intermediate task."
        study.items["margin"] = {target.meaning.task["metric"]: MARGIN}
        study.comments["margin"] = "Smallest difference that matters to you, by metric."
    else:
        study.items["conditions"] = ("direct",)
        study.comments["conditions"] = (
            'Without an intermediate task nothing is compared: add a section "intermediate" like '
            'the target, and "staged" here.'
        )
    study.items["seeds"] = SEEDS
    study.items["model"] = Section(model)
    study.items["train"] = Section(_train(drafts, limit))
    study.comments["train"] = "Both stages; a section of the same name in a stage goes before."
    if not intermediate:
        study.comments["train"] = "Tokens beyond max_length are cut off."
    study.items |= sections
    head = (
        f'"""Study of {target.name}, written by `flaxfer init`: correct what is guessed wrong.\n\n'
    )
    head += f"flaxfer check {file}    says what a run would trip over\n"
    head += f"flaxfer run {file}      trains, and writes runs/{name}/report.html\n"
    head += '"""\n'
    head += "".join(f"\n{each}\n" for each in constants)
    return f"{head}\n\ndef get_config():\n    return {render(study, len('    return '), 4)}\n"


def _train(drafts: Sequence[Draft], limit: int) -> Settings:
    """Return the settings of the training loop that differ from the defaults or matter most."""
    answers = any(each.meaning.task["type"] == "question_answering" for each in drafts)
    # A token has about four letters, in Chinese and Japanese about one.
    tokens = max(
        each.meaning.length // (1 if each.meaning.language in ("zh", "ja") else 4) + 2
        for each in drafts
    )
    length = 384 if answers else next((n for n in LENGTHS if n >= tokens), LENGTHS[-1])
    length = max(length, 128) if not limit else min(max(length, 128), limit)
    return {
        "batch_size": 16 if length > 256 else 32,
        "epochs": Train.epochs,
        "max_length": length,
    }


def _stage(constant: str, each: Draft, constants: list[str]) -> Section:
    """Return the section of a stage; what its sources share goes to the constants."""
    task: Settings = {"name": each.name, **each.meaning.task}
    labels = task.get("labels", ())
    if len(labels) > MANY and not any(re.search(r"\s", label) for label in labels):
        lines = _filled(labels)
        constants.append(f'{constant}_LABELS = """\n{lines}\n""".split()')
        task["labels"] = Code(f"{constant}_LABELS")
    sources = [*each.data.values(), *each.evaluate.values()]
    alike = {
        key: value
        for key, value in sources[0].items()
        if sources[1:] and all(one.get(key) == value for one in sources)
    }
    data, evaluate = (
        {name: {k: v for k, v in one.items() if k not in alike} for name, one in of.items()}
        for of in (each.data, each.evaluate)
    )
    shared = Section(alike | each.shared)
    spread = ""
    if shared.items:
        spread = f"{constant}_FILES"
        constants.append(f"{spread} = {render(shared, len(spread) + 3)}")
    splits = Section({split: Section(source, spread=spread) for split, source in data.items()})
    if len(data) == 1:
        splits.comments["train"] = "Divided into train, dev and test (split=(0.7, 0.15, 0.15))."
    stage = Section({"task": Section(task), "data": splits})
    if evaluate:
        stage.items["evaluate"] = {
            code: Section(source, spread=spread) for code, source in evaluate.items()
        }
        stage.comments["evaluate"] = "Never trained on: zero-shot."
    return stage


def _filled(words: Sequence[str]) -> str:
    lines = [""]
    for word in words:
        if lines[-1] and len(lines[-1]) + len(word) + 1 > 96:
            lines.append("")
        lines[-1] += f"{' ' * bool(lines[-1])}{word}"
    return "\n".join(f"    {line}" for line in lines)
