"""Agreement of a tokenizer with all files of its folder, and with the model's config.json."""

from __future__ import annotations

import logging
import unicodedata
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import tokenizers

from flaxfer.data.families import FAMILIES, GENERIC, TOKENIZERS, Family
from flaxfer.data.json_files import read_json
from flaxfer.data.tokenizer_files import BACKEND, CONFIG, Files
from flaxfer.errors import DataError

logger = logging.getLogger("flaxfer.data")

NEEDED = ("pad_token", "cls_token", "sep_token", "unk_token")
"""Roles of special tokens that are of no use outside the vocabulary."""

MOST = 10
"""Findings of a kind that are listed."""


def check_files(backend: tokenizers.Tokenizer, files: Files, family: Family) -> None:
    """Check a tokenizer against the files of its folder.

    Raises:
      DataError: If they contradict each other; names the files and the setting.
    """
    problems = [*_added_problems(backend, files), *_role_problems(backend, files)]
    problems += [*_template_problems(backend)]
    if files.backend:
        problems += [*_vocabulary_problems(files), *_setting_problems(backend, files, family)]
    if problems:
        listed = problems[:MOST]
        if more := len(problems) - len(listed):
            listed.append(f"and {more} more")
        raise DataError(
            problems[0] if len(problems) == 1 else "the files of the tokenizer do not agree",
            where=str(files.folder.absolute()),
            details=listed if len(problems) > 1 else (),
            hint="correct the file that is wrong, or copy all files of the tokenizer again from "
            "where it is published.",
        )


def check_ids(
    backend: tokenizers.Tokenizer,
    roles: Mapping[str, str],
    config: Mapping[str, Any],
    where: str,
    model: str,
) -> None:
    """Check the ids of a tokenizer against a model's config.json.

    Args:
      backend: The tokenizer.
      roles: Special tokens by role.
      config: Settings of the model, with `vocab_size` and `pad_token_id`.
      where: Folder of the tokenizer.
      model: Folder of the model.

    Raises:
      DataError: If they disagree.
    """
    token, largest = max(backend.get_vocab().items(), key=lambda item: item[1])
    if largest >= config["vocab_size"]:
        hint = (
            "use the tokenizer that belongs to the model: set model.tokenizer, or leave it empty "
            "for the model's own."
        )
        if largest in backend.get_added_tokens_decoder():
            hint = (
                "the token was added to the tokenizer: use a model whose embeddings were resized "
                "after that (`resize_token_embeddings` in transformers), or remove the token."
            )
        raise DataError(
            f"the tokenizer's largest id is {largest} ({token!r}), but the embedding table of "
            f"{model} has {config['vocab_size']} rows",
            where=where,
            hint=hint,
        )
    after_padding = FAMILIES[config["model_type"]].positions == "after_padding"
    for role, token in roles.items():
        stated, own = config.get(f"{role}_id"), backend.token_to_id(token)
        if type(stated) is not int or stated == own:
            continue
        what = (
            f"{role}_id is {stated} in {Path(model) / 'config.json'}, but the tokenizer's "
            f"{token!r} has id {own}"
        )
        if role == "pad_token" and not after_padding:
            # Padding is masked, and no position depends on its id.
            logger.warning("%s: %s", where, what)
            continue
        raise DataError(
            what,
            where=where,
            hint=f"use the tokenizer that belongs to the model, or correct {role}_id in "
            "config.json to the id that the model was trained with.",
        )


def vocabulary_lines(file: Path) -> dict[str, int]:
    """Return the ids of the tokens in a vocab.txt.

    Raises:
      DataError: If a line is blank, or the file is no plain UTF-8.
    """
    lines = _lines(file)
    blank = [i for i, line in enumerate(lines, 1) if not line]
    if blank:
        at = ", ".join(map(str, blank[:MOST])) + (", ..." if len(blank) > MOST else "")
        raise DataError(
            f"blank line in vocab.txt: line {at} of {len(lines)}",
            where=str(file.absolute()),
            hint="delete blank lines at the end. One in between moves the ids of all tokens "
            "behind it: copy the file again, or write a name such as [blank] there if the model "
            "was trained so.",
        )
    if lines[0].startswith("\ufeff"):
        raise DataError(
            "vocab.txt begins with a byte order mark, which would become part of its first token",
            where=str(file.absolute()),
            hint="save it as UTF-8 without a byte order mark.",
        )
    ids = {line: i for i, line in enumerate(lines)}
    if repeated := len(lines) - len(ids):
        logger.warning(
            "%s: %d lines repeat an earlier token; its id is that of its last line", file, repeated
        )
    return ids


def _lines(file: Path) -> list[str]:
    try:
        text = file.read_bytes().decode("utf-8")
    except (OSError, ValueError) as error:
        raise DataError(
            f"the file cannot be read: {error}",
            where=str(file.absolute()),
            hint="copy it again from where the model is published.",
        ) from error
    return [line.rstrip() for line in text.removesuffix("\n").split("\n")]


def _added_problems(backend: tokenizers.Tokenizer, files: Files) -> Iterator[str]:
    """Yield added tokens that are missing or have another id."""
    for name, token, number in files.added_ids():
        own = backend.token_to_id(token)
        if own is None:
            yield f"{name}: {token!r} has id {number}, but is no token of {files.source}"
        elif own != number:
            what = f"{name}: {token!r} has id {number}, but {own} in {files.source}"
            if name == BACKEND and backend.model.token_to_id(token) is not None:
                # The file's own vocabulary counts, as in the library.
                logger.warning("%s: %s", files.folder, what)
            else:
                yield what
    for name, key, token in files.listed():
        own = backend.token_to_id(token)
        if own is None or own not in backend.encode(token, add_special_tokens=False).ids:
            yield f"{name}: {key}: {token!r} is no added token of {files.source}"


def _role_problems(backend: tokenizers.Tokenizer, files: Files) -> Iterator[str]:
    for role, (token, name) in files.roles().items():
        if role in NEEDED and backend.token_to_id(token) is None:
            yield f"{name}: {role}: {token!r} is no token of {files.source}"


def _template_problems(backend: tokenizers.Tokenizer) -> Iterator[str]:
    """Yield special tokens that the post-processor adds with the id of another token."""
    probe = backend.encode("a", "a")
    for token, number in sorted(set(zip(probe.tokens, probe.ids, strict=True))):
        own = backend.token_to_id(token)
        if own is not None and own != number:
            where = f"{BACKEND}: post_processor"
            yield f"{where}: {token!r} has id {number}, but {own} in the vocabulary"


def _vocabulary_problems(files: Files) -> Iterator[str]:
    """Yield the first token that differs between tokenizer.json and a vocabulary file."""
    model = files.backend["model"]
    # Old files do not name the type.
    if model.get("type", "WordPiece") == "WordPiece" and "max_input_chars_per_word" in model:
        name = "vocab.txt"
    elif model.get("type", "BPE") == "BPE" and "merges" in model:
        name = "vocab.json"
    else:
        return
    file = files.folder / name
    if not file.exists():
        return
    if name == "vocab.txt":
        ids: dict[str, Any] = {line: i for i, line in enumerate(_lines(file)) if line}
    else:
        ids = read_json(file, DataError)
    own = model["vocab"]
    different = [token for token in ids if own.get(token) != ids[token]]
    different += [token for token in own if token not in ids]
    if different:
        token = different[0]
        yield (
            f"{name} is the vocabulary of another tokenizer than {BACKEND}: {len(different)} "
            f"tokens differ, such as {token!r}, with id {ids.get(token)} in {name} and "
            f"{own.get(token)} in {BACKEND}; delete the file that does not belong to the model"
        )


def _setting_problems(backend: tokenizers.Tokenizer, files: Files, family: Family) -> Iterator[str]:
    """Yield settings of tokenizer_config.json that tokenizer.json contradicts."""
    name = files.class_name or family.tokenizer
    known = TOKENIZERS.get(name)
    for key, actual in _behaviour(backend).items():
        wanted = files.config.get(key)
        if wanted is None or wanted == actual:
            continue
        what = f"{key} is {str(wanted).lower()} in {CONFIG}, but {str(actual).lower()} in {BACKEND}"
        if name in GENERIC or (known and key not in known.reads):
            logger.warning("%s: %s; %s does not read it", files.folder, what, name)
        else:
            yield f"{what}: delete {key} from {CONFIG}, or the file that is wrong"


def _behaviour(backend: tokenizers.Tokenizer) -> dict[str, bool]:
    """Return settings of tokenizer_config.json as a tokenizer behaves."""

    def normal(text: str) -> str:
        normalised = text if backend.normalizer is None else backend.normalizer.normalize_str(text)
        return unicodedata.normalize("NFC", normalised)

    accents = "e\N{COMBINING ACUTE ACCENT}"
    keeps = unicodedata.normalize("NFC", accents) in normal(accents)
    found = {
        "do_lower_case": "a" in normal("A"),
        "strip_accents": not keeps,
        "keep_accents": keeps,
        "tokenize_chinese_chars": " " in normal("犬犬").strip(),
    }
    splitter = backend.pre_tokenizer
    if isinstance(splitter, tokenizers.pre_tokenizers.PreTokenizer):
        found["add_prefix_space"] = splitter.pre_tokenize_str("a")[0][0] != "a"
    return found
