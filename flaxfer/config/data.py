"""The part of the schema that says where the data of a task is, and how it is read."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import PurePath
from typing import Annotated, Literal

from pydantic import Field

from flaxfer.config import fields

AnswerStyle = Literal["squad", "squad2", "mlqa"]

BenchmarkTask = Literal[
    "xtreme-r/xnli",
    "xtreme-r/xcopa",
    "xtreme-r/udpos",
    "xtreme-r/panx",
    "xtreme-r/xquad",
    "xtreme-r/mlqa",
    "xtreme-r/tydiqa",
    "xtreme-r/tatoeba",
    "xtreme-r/mewslix",
    "xtreme-r/lareqa",
]
"""Benchmark and task of it; `flaxfer.xtreme.benchmarks` has their languages."""

FORMAT_OF_SUFFIX: Mapping[str, str] = {".ndjson": "jsonl"} | {
    f".{name}": name for name in ("csv", "tsv", "jsonl", "json", "parquet", "conll", "conllu")
}
"""File format by suffix; .gz may follow."""

ROLES_OF_FORMAT: Mapping[str, Mapping[str, str]] = {
    "conllu": {"words": "FORM", "tags": "UPOS"},
    "squad": {"text_a": "question", "text_b": "context", "answers": "answers", "id": "id"},
    "lareqa": {
        role: role for role in ("query", "passage", "negative", "id", "language", "cluster")
    },
    "squad_sentences": {role: role for role in ("query", "passage", "id", "cluster")},
    "mewslix": {role: role for role in ("query", "passage", "id", "language", "cluster")},
}
"""Default columns of the formats that fix them."""


@dataclasses.dataclass(frozen=True)
class Source:
    """One data set, on disk or on the hub, and how its columns map to roles.

    Roles by task type; every type also accepts `id`, `language`, `domain` and `cluster`, such as a
    document: examples of a cluster are resampled together (`flaxfer.statistics.units`).

    - classification, regression: `text_a`, optionally `text_b`, and `label` (class or score);
    - tagging: `words` and `tags`: columns of a conll file, or columns that hold lists;
    - question_answering: `text_a` (question), `text_b` (context), `answers` (`{"text": [...],
      "answer_start": [...]}`); a squad file needs no columns;
    - multiple_choice: `text_a`, `choice_1`, `choice_2` and so on, `label` (zero-based index of the
      correct choice), optionally `question` (see `questions`);
    - retrieval: `query`, `passage` (a text, or in jsonl, json and parquet files a list of right
      ones, the one to learn first) and optionally `negative` (a wrong one, or a list of them).

    Attributes:
      path: File, or with `format="lines"` the folder of the `aligned` ones; relative to `data_dir`.
      hub: Data set id on the Hugging Face hub, which is contacted only if this is set.
      subset, split, revision: Part of the hub data set to read.
      format: File format; `auto` infers it from the suffix. `conll`: a word and its tag per line, a
        blank line between sentences. `conllu`: Universal Dependencies, by default `words` from FORM
        and `tags` from UPOS; `id="sent_id"` reads a comment. `lines`: aligned line by line.
        `lareqa`: a file of XQuAD-R, or the folder of its languages, without columns;
        `squad_sentences`: a file of SQuAD as the questions and sentences that LAReQA trains on;
        `mewslix`: a file of Mewsli-X, without columns.
      header: Whether the first line of a csv or tsv file names the columns.
      delimiter: Column separator; empty for the format's own. In conll, " " means any blanks.
      quotes: `csv` if fields may be quoted, `csv_spaced` if blanks after a delimiter are skipped
        too, `literal` if quotes are characters; `auto`: `csv` for csv files, `literal` for tsv.
      comment: Beginnings of lines to skip and count in csv, tsv and conll files, such as `# id`.
      field: Field of a json document that holds the list of records; empty if it is the list.
      encoding: Text encoding; a byte order mark is removed.
      max_columns: If not 0, maximum number of columns; the last one holds the rest of the line.
      columns: Role to column name or zero-based column number.
      candidates: File of the passages in which an evaluated set of retrieval is searched, relative
        to `data_dir`: with the columns `id` and `passage`, or with `format="mewslix"` the entities
        of Mewsli-X. `passage` of the set then names the right ones by their ids.
      aligned: Role to a text file, in the folder of `path`, whose line n belongs to record n.
      labels: Label in the file to label of the task, or to a choice, "0" or "1"; empty if equal.
        Here, in `questions`, `keep` and `drop`, 1 is the same as "1".
      questions: Value in the column `question` to the question text that is appended to `text_a`.
      word_prefix: Prefix to remove from every word of a conll file, such as `en:`.
      keep: Column or role to values, lists joined by spaces; records without one are excluded.
      keep_prefix: Column or role to beginnings of values, such as of ids in a language; records
        whose value begins with none of them are excluded.
      drop: Column or role to values; records with one of the values are excluded and counted.
      drop_unlabeled: Exclude and count records without a label, such as -1, `-` or NaN, instead of
        raising an error. Words without a tag in a sentence with tags are kept but not scored.
      language, domain: Of all records, unless `columns` or `aligned` has the role.
      fraction: Fraction of the records to use, sampled with `Data.split_seed`.
      num_records: Number of records that must be there; 0 if unknown.
      benchmark: Task of a benchmark that an evaluated set belongs to: its score in `language` is
        that of the report's table of the benchmark.
      answer_style: Of an evaluated set, if it is not that of the task (`Task.answer_style`).
    """

    path: fields.File = ""
    hub: fields.Line = ""
    subset: fields.Line = ""
    split: fields.Title = "train"
    revision: fields.Title = "main"
    format: Literal[
        "auto",
        "csv",
        "tsv",
        "jsonl",
        "json",
        "parquet",
        "lines",
        "conll",
        "conllu",
        "squad",
        "squad_sentences",
        "lareqa",
        "mewslix",
    ] = "auto"
    header: fields.Bool = True
    delimiter: Annotated[str, Field(max_length=1)] = ""
    quotes: Literal["auto", "csv", "csv_spaced", "literal"] = "auto"
    comment: fields.Tuple[Annotated[str, Field(min_length=1)]] = ()
    field: str = ""
    encoding: fields.Encoding = "utf-8"
    max_columns: fields.NonNegativeInt = 0
    columns: Mapping[str, str | fields.NonNegativeInt] = dataclasses.field(default_factory=dict)
    candidates: fields.File = ""
    aligned: Mapping[str, fields.File] = dataclasses.field(default_factory=dict)
    labels: Mapping[fields.Text, fields.Text] = dataclasses.field(default_factory=dict)
    questions: Mapping[fields.Text, str] = dataclasses.field(default_factory=dict)
    word_prefix: str = ""
    keep: Mapping[str, fields.Tuple[fields.Text]] = dataclasses.field(default_factory=dict)
    keep_prefix: Mapping[str, fields.Tuple[fields.Text]] = dataclasses.field(default_factory=dict)
    drop: Mapping[str, fields.Tuple[fields.Text]] = dataclasses.field(default_factory=dict)
    drop_unlabeled: fields.Bool = False
    language: fields.Language = "en"
    domain: fields.Line = ""
    fraction: fields.Fraction = 1.0
    num_records: fields.NonNegativeInt = 0
    benchmark: BenchmarkTask | None = None
    answer_style: AnswerStyle | None = None

    @property
    def file_format(self) -> str:
        """File format with `auto` resolved by the suffix; empty if unknown or on the hub."""
        if self.hub:
            return ""
        suffix = PurePath(self.path.lower().removesuffix(".gz")).suffix
        return FORMAT_OF_SUFFIX.get(suffix, "") if self.format == "auto" else self.format

    @property
    def roles(self) -> dict[str, str | int]:
        """Columns by role, including the default columns of the format."""
        defaults = ROLES_OF_FORMAT.get(self.file_format, {})
        free = {role: key for role, key in defaults.items() if role not in self.aligned}
        return {**free, **self.columns}


@dataclasses.dataclass(frozen=True)
class Data:
    """The splits of one task. Several sources of a split are concatenated in order.

    Attributes:
      train, dev, test: Sources of each split. If `dev` and `test` are empty, `train` is divided
        according to `split`; if only `dev` is empty, train is divided in the ratio train : dev.
      split: Fractions of train, dev and test.
      split_seed: Seed for dividing and sampling, the same for all seeds of a study; or `seed`: each
        seed draws its own train and dev, and evaluated sets are sampled with seed 0.
      train_fraction: Fraction of the training split to use; smaller are subsets of larger ones.
    """

    train: Annotated[fields.Tuple[Source], Field(min_length=1)]
    dev: fields.Tuple[Source] = ()
    test: fields.Tuple[Source] = ()
    split: tuple[fields.Float, fields.Float, fields.Float] = (0.70, 0.15, 0.15)
    split_seed: fields.NonNegativeInt | Literal["seed"] = 0
    train_fraction: fields.Fraction = 1.0
