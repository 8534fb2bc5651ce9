"""The configuration: frozen dataclasses, built from a config file with all errors reported at once.

A config file defines `get_config(preset) -> ml_collections.ConfigDict`. `config_build.load`
runs it, applies the overrides of the command line, fills each stage's `optimizer` and `train` from
the sections of the same name at the top, and builds `Config`. This file and the files in configs/
are the only places with defaults.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Annotated, Literal, TypeAlias

import pydantic

Condition = Literal["direct", "staged", "scratch"]

ENDINGS: Mapping[str, str] = {
    ".csv": "csv",
    ".tsv": "tsv",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "json",
    ".parquet": "parquet",
    ".conll": "conll",
    ".conllu": "conllu",
}
"""How a file is written, by the ending of its name, after which .gz may follow."""

ROLES_OF_FORMAT: Mapping[str, Mapping[str, str]] = {
    "conllu": {"words": "FORM", "tags": "UPOS"},
    "squad": {"text_a": "question", "text_b": "context", "answers": "answers", "id": "id"},
}
"""The columns of roles that a format settles by itself."""


@dataclasses.dataclass(frozen=True)
class Source:
    """One data set on disk or on the hub, with the mapping of its columns.

    Roles of columns, by the kind of task; `id`, `language` and `domain` go with every kind:

    - classification, regression: `text_a`, `text_b` (pairs), `label` (class or score);
    - tagging: `words` and `tags`, a column of a conll file, elsewhere a list in every record;
    - question_answering: `text_a` (question), `text_b` (context), `answers` (`{"text": [...],
      "answer_start": [...]}`); a squad file needs no columns;
    - multiple_choice: `text_a`, `choice_1`, `choice_2` and so on, `label` (number of the right
      choice, counted from 0), `question` (see `questions`).

    Attributes:
      path: local file; with `format="lines"` the folder of the files named in `aligned`.
        Relative paths start at `Config.data_dir`.
      hub: id of a data set on the Hugging Face hub; the hub is contacted only when this is set.
      subset, split, revision: which part of the hub's data set.
      format: how the file is written; `auto` goes by its ending. `conll`: a word a line, with its
        tag in another column, a blank line between sentences. `conllu`: Universal Dependencies;
        columns by number or name (FORM, UPOS, XPOS), `words` FORM and `tags` UPOS unless named;
        `id="sent_id"` takes a sentence's id from the comment of that name. `squad`: the JSON of
        SQuAD 1.1 and 2.0.
      header: whether the first line of a csv or tsv file names the columns.
      delimiter: one character; empty for the format's own. For conll files the default is a tab,
        and a space stands for any white space.
      quotes: `csv` for quoted fields, `literal` where a quote is a character like any other;
        `auto` is `csv` for csv files and `literal` for tsv files.
      encoding: of the file; a byte order mark is dropped.
      max_columns: if not 0, a line is split into so many columns, and the last one takes the rest.
      columns: role -> name of the column, or its zero-based number.
      aligned: role -> text file whose line n belongs to record n; its name starts at the folder
        of `path`.
      labels: label, or tag, as written -> label name of the task; empty if they are the same. For
        multiple choice: as written -> number of the choice, counted from 0, such as "0".
      questions: as written in the column of the role `question` -> the question, which `text_a` is
        followed by.
      word_prefix: what every word of a conll file begins with and is to be freed of, such as `en:`.
      keep: column or role -> values; only records with one of these values are used. The value of a
        list is its items with spaces between.
      drop: column or role -> values; records with one of these values are left out, and counted.
      drop_unlabeled: leave out, and count, records without a label instead of refusing them. A word
        without a tag stays, and does not count, if others of its sentence have one.
      language: of every record, unless `columns` or `aligned` names the role.
      domain: of every record, likewise.
      fraction: share of the records to use, drawn by seed.
      rows: number of records that the file must hold; 0 if not known.
    """

    path: str = ""
    hub: str = ""
    subset: str = ""
    split: str = "train"
    revision: str = "main"
    format: Literal[
        "auto", "csv", "tsv", "jsonl", "json", "parquet", "lines", "conll", "conllu", "squad"
    ] = "auto"
    header: bool = True
    delimiter: str = ""
    quotes: Literal["auto", "csv", "literal"] = "auto"
    encoding: str = "utf-8"
    max_columns: int = 0
    columns: Mapping[str, str | int] = dataclasses.field(default_factory=dict)
    aligned: Mapping[str, str] = dataclasses.field(default_factory=dict)
    labels: Mapping[str, str] = dataclasses.field(default_factory=dict)
    questions: Mapping[str, str] = dataclasses.field(default_factory=dict)
    word_prefix: str = ""
    keep: Mapping[str, tuple[str, ...]] = dataclasses.field(default_factory=dict)
    drop: Mapping[str, tuple[str, ...]] = dataclasses.field(default_factory=dict)
    drop_unlabeled: bool = False
    language: str = "en"
    domain: str = ""
    fraction: float = 1.0
    rows: int = 0

    @property
    def written_as(self) -> str:
        """The format, which for `auto` is that of the ending; empty if that tells nothing."""
        if self.format != "auto":
            return self.format
        name = self.path.lower().removesuffix(".gz")
        return next((kind for end, kind in ENDINGS.items() if name.endswith(end)), "")

    @property
    def roles(self) -> dict[str, str | int]:
        """Role -> column, with those that the format settles."""
        settled = ROLES_OF_FORMAT.get("" if self.hub else self.written_as, {})
        free = {role: key for role, key in settled.items() if role not in self.aligned}
        return {**free, **self.columns}


@dataclasses.dataclass(frozen=True)
class Data:
    """The splits of one task. Sources of one split are joined in their order.

    Attributes:
      train, dev, test: sources. Where `dev` and `test` are both empty, `train` is divided by
        `split`; where `dev` alone is empty, dev is cut from train in the proportion train : dev.
      split: shares of train, dev and test.
      split_seed: of the division and of the fractions; the same for every seed of a study.
      train_fraction: share of the train split to use, drawn by seed after the division, which dev
        and test are left as they are by; a smaller share is part of a larger one.
    """

    train: tuple[Source, ...]
    dev: tuple[Source, ...] = ()
    test: tuple[Source, ...] = ()
    split: tuple[float, float, float] = (0.70, 0.15, 0.15)
    split_seed: int = 0
    train_fraction: float = 1.0


@dataclasses.dataclass(frozen=True)
class Task:
    """What one input and one prediction is.

    Attributes:
      name: appears in reports and directories.
      type: `classification` over `labels`; `regression` of a score within `score_range`; `tagging`
        of every word with one of `labels`; `question_answering` by a span of the context;
        `multiple_choice` of the best of several continuations; see `flaxfer.tasks`.
      labels: names of the classes, or tags, in the order of the logits.
      score_range: smallest and largest valid score.
      metric: the dev metric that chooses the best checkpoint.
      no_answer: whether a question may have no answer in its context, as in SQuAD 2.0.
      max_answer_tokens: most tokens of a predicted answer.
      n_best: start and end positions that are combined to predict an answer, the likeliest ones.
      answer_style: whose script answers are compared by: SQuAD 1.1's, which is XQuAD's too
        (`squad`), SQuAD 2.0's (`squad2`), or MLQA's, which normalises by language (`mlqa`).
    """

    name: str
    type: str
    metric: str
    labels: tuple[str, ...] = ()
    score_range: tuple[float, float] = (0.0, 5.0)
    no_answer: bool = False
    max_answer_tokens: int = 30
    n_best: int = 20
    answer_style: Literal["squad", "squad2", "mlqa"] = "squad"


@dataclasses.dataclass(frozen=True)
class Model:
    """The pretrained encoder: a Hugging Face folder or a hub id, not both.

    Attributes:
      path: local folder with config.json, *.safetensors and the tokenizer.
      hub: model id on the hub; the hub is contacted only when this is set.
      revision: of the hub's model.
      tokenizer: local folder of another tokenizer; empty for the model's own.
      dropout: replaces every dropout rate of the checkpoint's config, if given.
      attention_dropout: replaces that of the probabilities, if given.
    """

    path: str = ""
    hub: str = ""
    revision: str = "main"
    tokenizer: str = ""
    dropout: float | None = None
    attention_dropout: float | None = None


@dataclasses.dataclass(frozen=True)
class Optimizer:
    """Optimiser and schedule; steps are optimiser updates.

    Attributes:
      weight_decay: decoupled; not applied to parameters that match `no_decay`.
      schedule: shape after the warm-up; `wsd` is warm-up, stable, decay.
      warmup: share of all steps if below 1, else a number of steps.
      end_factor: last learning rate over the largest.
      power: of the polynomial schedule.
      decay_share: share of all steps that the decay of `wsd` takes.
      clip_norm: largest global norm of the gradient; 0 for no clipping.
      layer_decay: factor on the learning rate from one layer to the layer below; 1 for none.
      freeze: regular expressions, searched in parameter paths such as `encoder/layers/0/...`.
      no_decay: likewise.
      l2_sp: strength of the pull towards where the stage began (L2-SP), decoupled like
        `weight_decay` and in its place: only what is new in a head is decayed then. Takes memory
        for the parameters once more. 0 for none; a start from random weights has none.
    """

    name: Literal["adamw", "adafactor", "lion"] = "adamw"
    learning_rate: float = 2e-5
    b1: float = 0.9
    b2: float = 0.999
    eps: float = 1e-8
    weight_decay: float = 0.01
    schedule: Literal["linear", "cosine", "inverse_sqrt", "polynomial", "constant", "wsd"] = (
        "linear"
    )
    warmup: float = 0.1
    end_factor: float = 0.0
    power: float = 2.0
    decay_share: float = 0.2
    clip_norm: float = 1.0
    layer_decay: float = 1.0
    freeze: tuple[str, ...] = ()
    no_decay: tuple[str, ...] = (r"/bias$", r"norm/scale$")
    l2_sp: float = 0.0


RowLength: TypeAlias = Annotated[
    int, pydantic.BeforeValidator(lambda given: 0 if given == "auto" else given)
]
"""Tokens of a row; `auto` is kept as 0."""


@dataclasses.dataclass(frozen=True)
class Train:
    """The fine-tuning loop of a stage.

    Attributes:
      batch_size: examples a step, over all devices.
      epochs: passes over the train split.
      max_steps: if not 0, the number of steps instead of `epochs`.
      gradient_accumulation_steps: micro-batches a step; must divide `batch_size`.
      max_length: tokens of an example, special tokens included; longer ones are truncated, and
        longer sentences (tagging) and contexts (question_answering) are divided.
      doc_stride: tokens that two windows of a long context share.
      row_length: tokens of a packed row; `auto` (kept as 0) for the multiple of 64 that costs least
        with the lengths of the train split, see `packing.best_row_length`.
      max_bucket_sizes: row counts of packed batches, each compiled once; more of them pad less.
      packing: several examples in a row; without it every example has a row of its own.
      eval_rows: packed rows that each device takes in a step of evaluation. The last step of a set
        is filled up with empty rows, so many of them cost time.
      eval_every: steps between evaluations on dev; 0 for every epoch.
      patience: evaluations without a better dev metric before the stage stops; 0 for never.
      log_every: steps between lines in metrics.jsonl.
      compute_dtype: of the matrix products; parameters stay float32. `auto` goes by platform.
      keep: what a layer keeps for its backward pass: `all`; `products` with its kernels, the rest
        being computed again; its `inputs` alone, for the least memory.
      attention: `xla`; a kernel that keeps no probabilities and drops none out, `cudnn` on a GPU or
        `splash` on a TPU; `auto` for a kernel where it can compute what is asked for and gains.
      output_bias: where the bias of a new regression head starts: `zero`, as transformers has it,
        or the `mean` score of train, which a short training need not find first.
      label_smoothing: share of the target's probability spread over all classes.
    """

    batch_size: int = 32
    epochs: float = 3.0
    max_steps: int = 0
    gradient_accumulation_steps: int = 1
    max_length: int = 128
    doc_stride: int = 128
    row_length: RowLength = 128
    max_bucket_sizes: int = 6
    packing: bool = True
    eval_rows: int = 16
    eval_every: int = 0
    patience: int = 0
    log_every: int = 10
    compute_dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    remat: Literal["none", "matmuls", "full"] = "none"
    attention: Literal["auto", "xla", "cudnn", "splash"] = "auto"
    output_bias: Literal["zero", "mean"] = "zero"
    label_smoothing: float = 0.0


@dataclasses.dataclass(frozen=True)
class Stage:
    """One fine-tuning.

    `rehearse`, `wise` and `retained` are of the target stage, against forgetting or to measure it.
    `retained` and `wise` train nothing, so they may be set after a study too. Every stage starts
    its schedule and its moments anew, re-warmed by the `warmup` of its own section `optimizer`
    (Gupta et al. 2023): for a target that is not re-warmed set `warmup=0` and the `learning_rate`
    that the intermediate stage ends with, its `learning_rate` times `end_factor`.

    Attributes:
      task, data: what is learnt, from what.
      evaluate: sets to score without training, by name.
      optimizer, train: how.
      rehearse: examples of each batch of `train.batch_size` that are of the intermediate task, out
        of its train split and with its own head, on the path `staged`; the loss is the mean of both
        tasks' by their shares. An epoch counts the target's examples. 0 for none.
      wise: shares of the result in a mixture with the start of the stage that is scored as the
        result itself is (WiSE-FT, Wortsman et al. 2022): 1 is the result, 0 the start with the new
        parts of the result's head. Nothing is chosen by these scores. Not on the path `scratch`.
      retained: whether the intermediate task is scored again after this stage on the path `staged`,
        with the encoder of now and its own head: as it was, or as it is if it was rehearsed.
      restarts: how often a run that has not learned, by its own dev scores, is trained anew from
        another draw, see `flaxfer.training.restarts`. Each is in the report.
    """

    task: Task
    data: Data
    evaluate: Mapping[str, Source] = dataclasses.field(default_factory=dict)
    optimizer: Optimizer = Optimizer()
    train: Train = Train()
    rehearse: int = 0
    wise: tuple[float, ...] = ()
    retained: bool = False
    restarts: int = 0


@dataclasses.dataclass(frozen=True)
class Mesh:
    """Devices along the axes; -1 for all that the others leave. A data set's rows are split over
    `data` and `fsdp`, parameters over `fsdp` and `tensor`.
    """

    data: int = -1
    fsdp: int = 1
    tensor: int = 1

    @property
    def sizes(self) -> tuple[int, int, int]:
        """Sizes of the axes data, fsdp and tensor."""
        return self.data, self.fsdp, self.tensor


@dataclasses.dataclass(frozen=True, kw_only=True)
class Common:
    """What a study and a grid of studies have in common.

    Attributes:
      name: of the study or grid, for the report.
      conditions: `direct` trains the target from the pretrained encoder, `staged` after the
        intermediate stage, `scratch` from random encoder weights, as a control.
      seeds: one run of every path each: order of the data, heads, dropout.
      seeds_at_once: seeds that train as one program, with the results that they have one by one. 1
        for one by one; 0 for eight where steps are so small that this is faster, else one.
      workdir: everything that is written; the same command continues what lies there. Empty for
        `runs/<name>`.
      store: where stages lie, which several studies and grids may share; empty for WORKDIR/stages.
      data_dir: where relative paths of sources start; empty for the current directory.
      cache: tokenised data and compiled programs; empty for the user's cache directory.
      compiler_options: XLA options by name; they override those of `flaxfer.runtime.platform`.
      trackers: further sinks of the metrics.
      overlap: what is done about train examples that stand in a set that is evaluated on, by
        `flaxfer.data.overlap`: `report` counts them; `remove` leaves them out, of the target's
        train split if they stand in the target's own sets, of that of the intermediate stage if
        they stand in any; `forbid` is an error where `remove` would leave some out.
      transferability: examples of the target's train split used to score beforehand which start
        suits it (`flaxfer.study.transferability`); 0 for no such scores.
    """

    name: str
    conditions: tuple[Condition, ...] = ("direct", "staged")
    seeds: tuple[int, ...] = (0,)
    seeds_at_once: int = 0
    mesh: Mesh = Mesh()
    workdir: str = ""
    store: str = ""
    data_dir: str = ""
    cache: str = ""
    compiler_options: Mapping[str, bool | int | str] = dataclasses.field(default_factory=dict)
    trackers: tuple[Literal["tensorboard", "wandb"], ...] = ()
    overlap: Literal["report", "remove", "forbid"] = "report"
    transferability: int = 500

    @property
    def stages(self) -> str:
        """The folder that stages lie in."""
        return self.store or f"{self.workdir}/stages"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(Common):
    """A study: every path, every seed.

    Attributes:
      target: the stage whose evaluations are compared.
      intermediate: the stage before it on the path `staged`.
    """

    model: Model
    target: Stage
    intermediate: Stage | None = None
