"""Tokenizers of the `tokenizers` library, from a tokenizer.json or from vocabulary files."""

from __future__ import annotations

import importlib
import json
from collections.abc import Callable
from pathlib import Path

import tokenizers

from flaxfer.data import xlnet_pieces
from flaxfer.data.families import (
    GENERIC,
    TOKENIZERS,
    WORD_PIECES,
    WORD_SPLITTERS,
    Family,
    TokenizerClass,
)
from flaxfer.data.json_files import read_json
from flaxfer.data.tokenizer_check import vocabulary_lines
from flaxfer.data.tokenizer_files import BACKEND, CONFIG, SKELETON, Files
from flaxfer.errors import DataError
from flaxfer.runtime.host import install_hint

Built = tuple[tokenizers.Tokenizer, dict[str, str]]
"""A tokenizer, and its special tokens by role."""

Convert = Callable[[Path, str], Built]

SENTENCEPIECE = ("sentencepiece", "google.protobuf")
"""Packages that SentencePiece models are read with."""

PIECES = {"spiece.model", "sentencepiece.bpe.model"}

MAKE_ONE = (
    f"put a {BACKEND} there: `transformers.AutoTokenizer.from_pretrained(FOLDER)"
    ".save_pretrained(FOLDER)` writes one."
)


def build(files: Files, family: Family, declared: str, convert: Convert) -> Built:
    """Return the tokenizer of a folder, and its special tokens by role.

    Args:
      files: Files of the folder.
      family: Family of the model.
      declared: Class that the model's config.json names; empty if it names none.
      convert: Reads the vocabulary files of a folder as a class of transformers does.

    Raises:
      DataError: If files are missing or damaged, or are for another program.
    """
    name = files.class_name or declared.removesuffix("Fast") or family.tokenizer
    _refuse_word_splitters(files, name)
    named = {role: token for role, (token, _) in files.roles().items()}
    if files.backend:
        backend = _from_file(files, family)
        tokens = TOKENIZERS.get(name, TOKENIZERS[family.tokenizer]).tokens
        padding = (files.padding or {}).get("pad_token")
        usual = {**tokens, **({"pad_token": padding} if isinstance(padding, str) else {})}
        return backend, {
            role: token
            for role, token in (usual | named).items()
            if backend.token_to_id(token) is not None
        }
    source = _check_vocabulary_files(files, name)
    try:
        if name == "XLNetTokenizer":
            backend = xlnet_pieces.from_pieces(
                files.folder / source.files[0],
                keep_accents=bool(files.config.get("keep_accents")),
                lower=bool(files.config.get("do_lower_case")),
            )
            return backend, {**source.tokens, **named}
        return convert(files.folder, "BertTokenizer" if source is WORD_PIECES else name)
    # The libraries below raise a dozen types, some of them bare `Exception`.
    except Exception as error:
        raise DataError(
            f"the tokenizer cannot be made from {' and '.join(source.files)}: "
            f"{type(error).__name__}: {error}",
            where=str(files.folder.absolute()),
            hint=f"copy the files again from where the model is published, or put its {BACKEND} "
            "there.",
        ) from error


def _from_file(files: Files, family: Family) -> tokenizers.Tokenizer:
    """Return the tokenizer that tokenizer.json describes, or XLNet's own if it is a conversion."""
    if family.tokenizer == "XLNetTokenizer" and xlnet_pieces.is_conversion(files.backend):
        return xlnet_pieces.from_conversion(files.backend)
    try:
        backend = tokenizers.Tokenizer.from_file(files.path(BACKEND))
    except BaseException as error:
        _raise_interrupt(error)
        field, fault = _faulty_field(files) or ("the fields do not fit together", str(error))
        raise DataError(
            f"the tokenizer cannot be loaded: {field}: {fault}",
            where=files.path(BACKEND),
            hint="copy the file again from where the model is published; if it is intact, "
            "install a newer version of `tokenizers`.",
        ) from error
    backend.no_truncation()
    backend.no_padding()
    backend.encode_special_tokens = bool(files.config.get("split_special_tokens"))
    return backend


def _faulty_field(files: Files) -> tuple[str, str] | None:
    """Return the first field of a tokenizer.json that cannot be read, and the error."""
    for field in SKELETON:
        value = {field: files.backend.get(field, SKELETON[field])}
        try:
            tokenizers.Tokenizer.from_str(json.dumps({**SKELETON, **value}))
        except BaseException as error:
            _raise_interrupt(error)
            return field, str(error)
    return None


def _raise_interrupt(error: BaseException) -> None:
    """Raise again what is no error of `tokenizers`: bare `Exception`, or a panic of Rust."""
    if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
        raise error


def _refuse_word_splitters(files: Files, name: str) -> None:
    """Raise an error if words come from a program outside the tokenizer's files."""
    program = WORD_SPLITTERS.get(name, "")
    kind = files.config.get("word_tokenizer_type")
    key, value = "tokenizer_class", files.class_name or name
    if not program and kind not in (None, "basic", "wordpiece"):
        key, value, program = "word_tokenizer_type", kind, str(kind)
    if program:
        raise DataError(
            f"{key} {value!r} splits words with {program}, which is not supported",
            where=files.path(CONFIG),
            hint="choose a model whose tokenizer is described by its files alone. If texts are "
            f"split beforehand and {BACKEND} does the rest, set tokenizer_class to "
            '"PreTrainedTokenizerFast" and remove word_tokenizer_type.',
        )


def _check_vocabulary_files(files: Files, name: str) -> TokenizerClass:
    """Return how the class reads its vocabulary files, after checking them.

    Raises:
      DataError: If the class is unknown, or files are missing, damaged or without settings.
    """
    there = {path.name for path in files.folder.iterdir()}
    vocabularies = {file for each in TOKENIZERS.values() for file in each.files}
    source = TOKENIZERS.get(name)
    what = hint = ""
    if not there & vocabularies:
        what = f"the folder holds no tokenizer: {BACKEND} is missing"
        hint = f"copy {BACKEND} and {CONFIG} of the model there."
    elif source is None or "auto_map" in files.config:
        code = " in code of its own" if "auto_map" in files.config else ""
        what = f"{BACKEND} is missing, and tokenizer_class {name!r}{code} cannot be converted"
        hint = "" if name in GENERIC else MAKE_ONE
        hint = hint or "copy it from the model, or set tokenizer_class to the class of the files."
    elif (pieces := there & PIECES) and (absent := [p for p in SENTENCEPIECE if not _installed(p)]):
        what = f"reading {min(pieces)} takes packages that are not installed: {', '.join(absent)}"
        hint = f"{install_hint('sentencepiece')}, or put the model's tokenizer.json there."
    elif missing := [file for file in source.files if file not in there]:
        what = f"{' and '.join(missing)} is missing, which {name} reads without a {BACKEND}"
        hint = f"copy it from the model, or correct tokenizer_class in {CONFIG}."
    elif source is WORD_PIECES and "do_lower_case" not in files.config:
        lacking = "does not say" if files.config else "is missing: vocab.txt does not say"
        what = f"{CONFIG} {lacking} whether to lowercase"
        hint = (
            'write one, such as {"tokenizer_class": "BertTokenizer", "do_lower_case": false} '
            "for a cased model, or put the model's tokenizer.json there."
        )
    if what or source is None:
        raise DataError(what, where=str(files.folder.absolute()), hint=hint)
    _check_vocabulary(files, source)
    return source


def _check_vocabulary(files: Files, source: TokenizerClass) -> None:
    """Raise an error if a special token is missing, which transformers would invent."""
    name = source.files[0]
    if name == "vocab.txt":
        known = set(vocabulary_lines(files.folder / name))
    elif name == "vocab.json":
        ids = read_json(files.folder / name, DataError)
        if bad := [token for token, number in ids.items() if type(number) is not int]:
            raise DataError(
                f"{bad[0]!r} has no id, but {ids[bad[0]]!r}",
                where=str((files.folder / name).absolute()),
                hint="copy the file again from where the model is published.",
            )
        known = set(ids)
    else:
        return
    known.update(token for _, token, _ in files.added_ids())
    usual = {role: (token, name) for role, token in source.tokens.items()}
    for role, (token, where) in (usual | files.roles()).items():
        if token not in known and role != "mask_token":
            raise DataError(
                f"{role} is {token!r}, which is not in {name}",
                where=files.path(where if where != name else name),
                hint=f"name the {role} of the vocabulary in {CONFIG}, or copy the file again.",
            )


def _installed(package: str) -> bool:
    try:
        importlib.import_module(package)
    except ImportError:
        return False
    return True
