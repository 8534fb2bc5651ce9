"""The configuration schema: frozen dataclasses with a default for every optional setting.

A config file defines `get_config(preset)`, which returns an `ml_collections.ConfigDict` or a dict
with these fields and those of `common` and `data` (see `sections` for more). Defaults are set only
in these modules and in configs/.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import Field

from flaxfer.config import fields
from flaxfer.config.common import Common
from flaxfer.config.data import AnswerStyle, Data, Source

Schedule = Literal["linear", "cosine", "inverse_sqrt", "polynomial", "constant", "wsd"]

BY_MAX_LENGTH = -1
"""Default of the settings that follow from `Train.max_length`."""


@dataclasses.dataclass(frozen=True)
class Task:
    """Task type, labels and metric.

    Attributes:
      name: Name used in reports and directories.
      type: `classification` into `labels`; `regression` of a score in `score_range`; `tagging` of
        words with `labels`; `question_answering` by a span of the context; `multiple_choice`; or
        `retrieval` of passages for queries.
      labels: Names of the classes or tags, in the order of the logits.
      score_range: Smallest and largest valid score.
      metric: Dev metric that selects the best checkpoint.
      no_answer: Whether questions may have no answer in their context, as in SQuAD 2.0.
      max_answer_tokens: Maximum length of a predicted answer.
      n_best: Number of most likely start and end positions that are combined into answers.
      answer_style: Script to compare answers like: `squad` (1.1, XQuAD), `squad2`, or `mlqa`.
      tag_scheme: How tags mark entities, see `fields.TagScheme`.
      strict_entities: Count only entities that the scheme allows (seqeval's strict mode).
      pooling: How the tokens of a text become its embedding: their `mean`; the `cls` token; or the
        `pooler`, a tanh layer after that, which is pretrained in BERT.
      similarity_scale: Factor of the cosines in the loss at the start, which is trained: 100 in
        XTREME-R, 1 / 0.07 in CLIP, 20 is the default of sentence-transformers.
      symmetric_loss: Also learn to find the query of a passage, among those of the batch.
      triplet_margin: If above 0, the loss is that of triplets instead of a softmax: the cosine with
        the passage is to exceed that with the nearest wrong one of the batch by this margin.
      embedding_layer: Layer, from 1, whose output is pooled; the last one by default. Layers above
        it are frozen.
    """

    name: fields.Title
    type: str
    metric: str
    labels: fields.Tuple[fields.Text] = ()
    score_range: tuple[fields.Float, fields.Float] = (0.0, 5.0)
    no_answer: fields.Bool = False
    max_answer_tokens: fields.PositiveInt = 30
    n_best: fields.PositiveInt = 20
    answer_style: AnswerStyle = "squad"
    tag_scheme: fields.TagScheme = "auto"
    strict_entities: fields.Bool = False
    pooling: Literal["mean", "cls", "pooler"] = "mean"
    similarity_scale: fields.Positive = 100.0
    symmetric_loss: fields.Bool = False
    triplet_margin: fields.NonNegative = 0.0
    embedding_layer: fields.PositiveInt | None = None


@dataclasses.dataclass(frozen=True)
class Model:
    """The pretrained encoder: either a Hugging Face folder or a hub id.

    Attributes:
      path: Local folder with config.json, *.safetensors and the tokenizer.
      hub: Model id on the hub, which is contacted only if this is set.
      revision: Revision of the hub model.
      tokenizer: Local folder of another tokenizer; empty for the model's own.
      dropout: If set, replaces all dropout rates in the checkpoint's config.
      attention_dropout: If set, replaces the dropout rate of attention probabilities.
    """

    path: fields.File = ""
    hub: fields.Line = ""
    revision: fields.Title = "main"
    tokenizer: fields.File = ""
    dropout: fields.BelowOne | None = None
    attention_dropout: fields.BelowOne | None = None


@dataclasses.dataclass(frozen=True)
class Optimizer:
    """Optimizer and learning rate schedule. Steps are optimizer updates.

    Attributes:
      learning_rate: Peak of the schedule, at most 1.
      weight_decay: Decoupled weight decay; parameters that match `no_decay` are exempt.
      schedule: Learning rate after the warm-up; `wsd` is warm-up, stable, decay.
      warmup: Warm-up steps, as a fraction of all steps if below 1, otherwise as a number.
      end_factor: Final learning rate as a fraction of the peak.
      power: Exponent of the polynomial schedule.
      decay_fraction: Fraction of all steps in the decay phase of `wsd`.
      clip_norm: Maximum global norm of the gradient; 0 disables clipping.
      layer_decay: Factor on the learning rate from each layer to the one below; 1 for none.
      freeze: Regular expressions, searched in paths like `encoder/layers/0/...`: not trained.
      no_decay: Regular expressions of the parameters without weight decay.
      l2_sp: Strength of L2-SP, decay towards the stage's initial parameters, of which it stores a
        copy; `weight_decay` then applies only to new ones. Never for a start from random weights.
    """

    name: Literal["adamw", "adafactor", "lion"] = "adamw"
    learning_rate: fields.Fraction = 2e-5
    b1: fields.BelowOne = 0.9
    b2: fields.BelowOne = 0.999
    eps: fields.Positive = 1e-8
    weight_decay: fields.NonNegative = 0.01
    schedule: Schedule = "linear"
    warmup: fields.NonNegative = 0.1
    end_factor: fields.UnitInterval = 0.0
    power: fields.Positive = 2.0
    decay_fraction: fields.Fraction = 0.2
    clip_norm: fields.NonNegative = 1.0
    layer_decay: fields.Positive = 1.0
    freeze: fields.Tuple[fields.Regex] = ()
    no_decay: fields.Tuple[fields.Regex] = (r"/bias$", r"norm/scale$")
    l2_sp: fields.NonNegative = 0.0


@dataclasses.dataclass(frozen=True)
class Train:
    """Training loop of a stage.

    Attributes:
      batch_size: Examples per step, over all devices.
      epochs, max_steps: Passes over the training split; or, if not 0, the number of steps instead.
      gradient_accumulation_steps: Micro-batches per step; must divide `batch_size`.
      max_length: Maximum tokens per example, including special tokens. Longer sentences (tagging)
        and contexts (question_answering) are divided, other examples truncated.
      doc_stride: Tokens shared by consecutive windows of a long context; by default 128, or if
        `max_length` is below 256, a third of what it leaves for the context.
      row_length: Tokens per packed row, by default `max_length` rounded up to a multiple of 128;
        `auto` (stored as 0) by `packing.best_row_length`.
      max_bucket_sizes: Maximum number of bucket sizes, each a program that takes time to compile;
        more reduce padding. `auto` (stored as 0) by `packing.affordable_sizes`.
      packing: Pack several examples into a row; if false, each example gets its own row.
      eval_rows: Packed rows per device in an evaluation step; empty rows pad a set's last step.
      eval_every: Steps between evaluations on dev; 0 for once per epoch.
      save_every, save_minutes: Steps or minutes between checkpoints without evaluation; 0 for none.
      patience: Evaluations on dev without improvement before early stopping; 0 disables it.
      log_every: Steps between lines in metrics.jsonl.
      compute_dtype: Dtype of matmuls (`auto`: by platform); parameters are always float32.
      remat: Rematerialisation policy: `none`; `matmuls` stores only the results of matmuls, `full`
        only the inputs of layers, which needs the least memory; the rest is recomputed.
      attention: `xla`, or a fused kernel that stores no attention probabilities: `cudnn` (GPU) and
        `splash` (TPU) without dropout of them, `short_rows` (TPU, up to 256 tokens, not XLNet) with
        it. `auto` uses one where it is faster, but never `short_rows`, which is experimental.
      output_bias: Initial bias of a new regression head: `zero`, or the `mean` training score.
      label_smoothing: Probability mass distributed evenly over all classes.
      max_skipped_steps: Steps to skip for a NaN or infinite loss or gradient; one more is an error.
    """

    batch_size: fields.PositiveInt = 32
    epochs: fields.Float = 3.0
    max_steps: fields.NonNegativeInt = 0
    gradient_accumulation_steps: fields.PositiveInt = 1
    max_length: Annotated[fields.Int, Field(ge=4)] = 128
    doc_stride: fields.NonNegativeInt = BY_MAX_LENGTH
    row_length: fields.AutoCount = BY_MAX_LENGTH
    max_bucket_sizes: fields.AutoCount = 0
    packing: fields.Bool = True
    eval_rows: fields.PositiveInt = 16
    eval_every: fields.NonNegativeInt = 0
    save_every: fields.NonNegativeInt = 0
    save_minutes: fields.NonNegative = 0.0
    patience: fields.NonNegativeInt = 0
    log_every: fields.PositiveInt = 10
    compute_dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    remat: Literal["none", "matmuls", "full"] = "none"
    attention: Literal["auto", "xla", "cudnn", "splash", "short_rows"] = "auto"
    output_bias: Literal["zero", "mean"] = "zero"
    label_smoothing: fields.BelowOne = 0.0
    max_skipped_steps: fields.NonNegativeInt = 0

    def __post_init__(self) -> None:
        if self.doc_stride == BY_MAX_LENGTH:
            # Beside four special tokens and one of the question.
            stride = 128 if self.max_length >= 256 else max(self.max_length - 5, 0) // 3
            object.__setattr__(self, "doc_stride", stride)
        if self.row_length == BY_MAX_LENGTH:
            object.__setattr__(self, "row_length", -(-self.max_length // 128) * 128)


@dataclasses.dataclass(frozen=True)
class Lora:
    """Low-rank adapters, trained in place of the encoder (LoRA, Hu et al. 2021).

    The encoder is frozen; the head and the adapters are trained, and the latter are merged into the
    kernels of every checkpoint. Defaults and forward pass are those of peft's `LoraConfig`.

    Attributes:
      rank: Rank of the update of a kernel.
      alpha: The update is multiplied by `alpha / rank`.
      dropout: Dropout rate of the inputs of the adapters.
      layers: First layer with adapters and the one after the last, as `(0, 6)`; all by default.
      modules: Maps with adapters in each of these layers: `query`, `key`, `value` and `output` of
        attention, `up` and `down` of the feed-forward block.
    """

    rank: fields.PositiveInt = 8
    alpha: fields.Positive = 8.0
    dropout: fields.BelowOne = 0.0
    layers: tuple[fields.NonNegativeInt, fields.PositiveInt] | None = None
    modules: Annotated[
        fields.Distinct[Literal["query", "key", "value", "output", "up", "down"]],
        Field(min_length=1),
    ] = ("query", "value")


@dataclasses.dataclass(frozen=True)
class Stage:
    """One fine-tuning stage.

    `rehearsal_examples`, `wise_ft_alphas` and `evaluate_retention` reduce or measure forgetting in
    the target stage. The latter two do not affect training, so they can be set after a study has
    finished. Each stage has new moments and its own schedule and warm-up (Gupta et al. 2023). To
    go on without re-warming, set `warmup=0` and the previous `learning_rate` times `end_factor`.

    Attributes:
      task, data: Task and data to train on.
      evaluate: Further sets to evaluate zero-shot, by name.
      optimizer, train: Optimizer and training loop.
      lora: Low-rank adapters; without, all parameters are trained that `freeze` does not match.
      rehearsal_examples: Examples of the intermediate task in each batch of `train.batch_size`,
        drawn from its training split and trained with its own head, in the condition `staged`.
        The loss is the mean over both tasks' examples; epochs count only the target's.
      wise_ft_alphas: Weights of the fine-tuned parameters in mixtures with the initial ones, which
        are evaluated too (WiSE-FT, Wortsman et al. 2022): 1 is the fine-tuned model, 0 the initial
        encoder with the new parts of its head. Selects nothing; not in the condition `scratch`.
      evaluate_retention: Evaluate the intermediate task again after this stage, in the condition
        `staged`, with the current encoder and that task's head (as rehearsed, if it was).
      max_restarts: Maximum number of restarts, each with another seed and listed in the report, of
        a run whose dev scores show no learning (`flaxfer.training.restarts`).
      parallel: Groups of sets with the same examples, as in `(("de", "fr"),)`; by default, by ids.
    """

    task: Task
    data: Data
    evaluate: Mapping[fields.Name, Source] = dataclasses.field(default_factory=dict)
    optimizer: Optimizer = Optimizer()
    train: Train = Train()
    lora: Lora | None = None
    rehearsal_examples: fields.NonNegativeInt = 0
    wise_ft_alphas: fields.Distinct[fields.UnitInterval] = ()
    evaluate_retention: fields.Bool = False
    max_restarts: fields.NonNegativeInt = 0
    parallel: tuple[tuple[fields.Name, ...], ...] | None = None

    def task_of(self, name: str) -> Task:
        """Return the task with the settings of a set of `evaluate`, or of another split."""
        style = self.evaluate[name].answer_style if name in self.evaluate else None
        return dataclasses.replace(self.task, answer_style=style) if style else self.task


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(Common):
    """A study: all conditions and seeds for one target task.

    Attributes:
      model: The pretrained encoder.
      target: The stage whose evaluations are compared.
      intermediate: The stage before it in the condition `staged`.
    """

    model: Model
    target: Stage
    intermediate: Stage | None = None
