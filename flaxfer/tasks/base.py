"""Interface of task types.

Configs are checked before JAX is imported, so modules of task types import JAX and the modules
that use it (`losses`, `metrics`) only within the methods that need them.
"""

from __future__ import annotations

import abc
import math
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np

from flaxfer.config import Source, Stage, Task, Train
from flaxfer.config.findings import Finding
from flaxfer.data.encode import Sequences, encode_texts
from flaxfer.data.examples import Examples, LabelColumn, Texts
from flaxfer.data.labels import Labels
from flaxfer.data.packing import Batch, Layout
from flaxfer.data.tables import Column, Problems
from flaxfer.data.tokenize import Tokenized
from flaxfer.data.values import text_fault
from flaxfer.errors import ConfigError
from flaxfer.tasks import custom
from flaxfer.tasks.custom import Metric
from flaxfer.tasks.predictions import Predictions, Scores
from flaxfer.tasks.resampling import Resampled
from flaxfer.tasks.showing import Names

if TYPE_CHECKING:
    import jax
    from transformers import PreTrainedTokenizerFast

    from flaxfer.tasks.losses import Arrays, Sum
    from flaxfer.tasks.metrics import DeviceMetrics

CONSTANT_SHARE = 0.99

SHARE, CORRELATION = (0.0, 1.0), (-1.0, 1.0)
"""Ranges of metrics."""

TABLES = ("jsonl", "json", "parquet")
"""File formats that hold records with values of any type."""


class TaskType(abc.ABC):
    """Everything that depends on the type of a task.

    Instances have no state. By default, examples are texts or pairs with one label each.

    Attributes:
      name: Value of `Task.type`.
      metrics: Names of the metrics, the usual one first; see `metrics_of` and `tasks.custom`.
      ranges: Smallest and largest possible value of the metrics that are bounded.
      smaller_is_better: Metrics of which smaller values are better.
      settings: Settings of `Task` and `Train` that the type reads, of those in
        `flaxfer.config.effects.TASK_SETTINGS` and `TRAIN_SETTINGS`.
      roles: Roles of columns, the one of the first text first.
      optional_roles: Roles that a source need not have.
      list_roles: Roles whose values are lists.
      label_role: Role of the label, which examples that are only predicted do not have.
      item: What an example without label is in Python, for messages; see `fields_of`.
      formats: File formats that can hold such examples.
      special_formats: File formats that hold only such examples.
      head: Model head, a key of `flaxfer.models.families.Family.heads`; see `head_of`.
      per_token: Whether outputs, and rows of `Tokenized.span`, are of tokens instead of sequences.
        Examples may then be divided into several sequences, and their labels are tuples.
      cluster_text: Which text, the first (0) or second, the examples of a default cluster share.
      single_label: Whether every example is a text or pair with one class or score.
      contrastive: Whether the loss compares all sequences of a step with each other, so that it is
        no sum over micro-batches; see `flaxfer.training.step`.
      embeds: Whether outputs are embeddings of texts, pooled as `Task.pooling` says, instead of
        predictions of single examples (`flaxfer predict`).
      label_dtype: Type of the labels on the device.
      gold_key: Key of the true label in the records of predictions.
      learning_metric: Metric with expectation 0 under chance, which shows if a run has learned.
      predictions: Class of the predictions.
      pipeline_tag: Name of the task on the Hugging Face hub.
      architecture: Suffix of the model classes in transformers.
      problem_type: `problem_type` in transformers' config.json; empty if it is not set.
      showing: How single predictions are judged and shown in a report.
    """

    name: str
    metrics: tuple[str, ...]
    ranges: Mapping[str, tuple[float, float]] = MappingProxyType({})
    smaller_is_better: tuple[str, ...] = ()
    settings: frozenset[str] = frozenset()
    roles: tuple[str, ...] = ("text_a", "label", "text_b")
    optional_roles: tuple[str, ...] = ("text_b",)
    list_roles: tuple[str, ...] = ()
    label_role: str = "label"
    item: str = "a text, or a pair of texts"
    special_formats: tuple[str, ...] = ()
    formats: tuple[str, ...] = ("csv", "tsv", *TABLES, "lines")
    head: str = "sequence"
    per_token: bool = False
    cluster_text: int = 0
    single_label: bool = False
    contrastive: bool = False
    embeds: bool = False
    label_dtype: type[np.generic] = np.int32
    gold_key: str = "label"
    learning_metric: str
    predictions: type[Predictions]
    pipeline_tag: str
    architecture: str = "ForSequenceClassification"
    problem_type: str = ""
    showing: Names = Names()

    # Configuration.

    def num_outputs(self, task: Task) -> int:
        """Return the number of outputs of the model's head per sequence or token.

        0 stands for the width of the encoder.
        """
        return len(task.labels) if "labels" in self.settings else 1

    def head_of(self, task: Task) -> str:
        """Return the model head of a task, by default `head`."""
        return self.head

    def check_task(self, at: str, task: Task) -> Iterator[Finding]:
        """Yield every error in the settings of a task at a dotted key, except its metric."""
        keys = (f"{at}.labels", f"{at}.type")
        if "labels" in self.settings:
            if len(task.labels) < 2:
                yield keys, f"{at}.labels: {self.name} needs at least two"
            if len(set(task.labels)) < len(task.labels):
                yield keys[:1], f"{at}.labels: holds a label twice: {task.labels}"

    def check_train(self, at: str, train: Train, task_at: str) -> Iterator[Finding]:
        """Yield every error in the settings of a stage's training that depends on the type."""
        yield from ()

    def has_role(self, role: str) -> bool:
        """Return whether columns may have this role."""
        return role in self.roles

    def required_roles(self, named: Collection[str]) -> list[str]:
        """Return the roles that a source with the roles `named` needs."""
        return [role for role in self.roles if role not in self.optional_roles]

    def label_names(self, task: Task, named: Collection[str]) -> tuple[str, ...] | None:
        """Return the labels that a source with the roles `named` may map to; None for any."""
        return task.labels or None

    # Examples.

    def read_texts(
        self, columns: Mapping[str, Column], source: Source, records: Sequence[int]
    ) -> tuple[Texts, Texts | None]:
        """Return `text_a` and `text_b` of `Examples` for the records of a source.

        Args:
          columns: Columns by role.
          source: Their source.
          records: Indices of the records to use.
        """
        second = columns["text_b"].texts(records) if "text_b" in columns else None
        return columns["text_a"].texts(records), second

    def text_problems(
        self, columns: Mapping[str, Column], source: Source, records: Sequence[int]
    ) -> Problems:
        """Return the problems of the texts that `read_texts` would return."""
        texts = [columns[role] for role in ("text_a", "text_b") if role in columns]
        return [each for column in texts for each in column.problems(records, text_fault)]

    @abc.abstractmethod
    def read_labels(
        self, columns: Mapping[str, Column], source: Source, task: Task, records: Sequence[int]
    ) -> Labels:
        """Return the labels of the records of a source."""

    def label_column(self, values: Sequence[Any]) -> LabelColumn:
        """Return the labels of records as `Examples.label`."""
        return tuple(values) if self.per_token else np.array(values, self.label_dtype)

    def no_labels(self, text_a: Texts) -> LabelColumn:
        """Return stand-ins for the labels of examples that are only predicted."""
        return self.label_column([()] * len(text_a) if self.per_token else [0] * len(text_a))

    def fields_of(self, item: Any) -> dict[str, Any]:
        """Return the values by role of an example in Python, which is `TaskType.item`.

        Raises:
          ValueError: If it is not.
        """
        parts = (item,) if isinstance(item, str) else tuple(item)
        if len(parts) not in (1, 2):
            raise ValueError(f"it has {len(parts)} parts")
        return dict(zip(("text_a", "text_b"), parts, strict=False))

    # Sequences and batches.

    def encode(
        self,
        examples: Examples,
        tokenizer: PreTrainedTokenizerFast,
        max_length: int,
        doc_stride: int,
    ) -> Sequences:
        """Return the token sequences of examples, by default one per text, pair or choice.

        The longer text of a pair is cut first.

        Raises:
          DataError: If an example cannot be encoded.
        """
        return encode_texts(examples, tokenizer, max_length)

    def encoding_settings(self, tokenizer: PreTrainedTokenizerFast, doc_stride: int) -> list[Any]:
        """Return settings that `encode` depends on, besides the tokenizer and `max_length`."""
        return []

    def encoded_label_shape(self, sequences: int, tokens: int) -> tuple[int, ...]:
        """Return the shape of the labels that `encode` returns; (0,) if it returns none."""
        return (0,)

    def reference(self, examples: Examples) -> tuple[Any, ...]:
        """Return what predictions are compared with, one item per example; () if the label is."""
        return ()

    def train_examples(self, data: Tokenized) -> int:
        """Return the number of examples of an epoch.

        An example to train on is a sequence, or the sequences of all choices.
        """
        return len(data) // data.choices

    def micro_batches(
        self, data: Tokenized, indices: np.ndarray, parts: int
    ) -> Sequence[np.ndarray]:
        """Return the sequences of each micro-batch of a step.

        Args:
          data: The training split.
          indices: (n,) int64, examples of the step, from 0 to `train_examples` - 1.
          parts: Number of micro-batches, a divisor of n.
        """
        sequence = indices[:, None] * data.choices + np.arange(data.choices)
        return list(sequence.reshape(parts, -1))

    def targets(self, data: Tokenized, layout: Layout) -> Batch:
        """Return the targets of the sequences of a packed batch, by default `label_BE`."""
        values = data.label[layout.sequence]
        return {"label_BE": layout.slots(values, dtype=values.dtype)}

    # Loss and metrics.

    def start_head(self, settings: Stage, data: Tokenized, head: dict[str, Any]) -> dict[str, Any]:
        """Return the parameters of a new head, which start as the settings say.

        Args:
          settings: Settings of the stage.
          data: The training split.
          head: Random parameters, a nested dict.
        """
        return head

    @abc.abstractmethod
    def loss(self, task: Task, logits: jax.Array, batch: Arrays, label_smoothing: float) -> Sum:
        """Return the sum of the losses of a batch and their number, both () float32.

        A sum and a number, so that micro-batches add up to the batch.

        Args:
          task: The task.
          logits: float32 (B, E, C), or (B, T, C) if outputs are per token. If the type is
            `contrastive`, there may be leading axes, of micro-batches, before them.
          batch: Arrays of `flaxfer.data.packing.build_rows`, with the same leading axes.
          label_smoothing: Share of the target's probability that is spread over all classes.
        """

    def device_metrics(self, task: Task) -> DeviceMetrics | None:
        """Return the metrics that are accumulated on the device, without examples, if any are."""
        return None

    def metrics_of(self, task: Task) -> tuple[str, ...]:
        """Return the metrics of a task: the type's own, and the custom one that it names."""
        return (
            *self.defined_metrics(task),
            *([task.metric] if self.custom_metric(task.metric) else ()),
        )

    def defined_metrics(self, task: Task) -> tuple[str, ...]:
        """Return those of `metrics` that are defined for a task."""
        return self.metrics

    def has_metric(self, name: str) -> bool:
        """Return whether there is a metric of this name, among `metrics` or a custom one."""
        return name in self.metrics or self.custom_metric(name) is not None

    def custom_metric(self, name: str) -> Metric | None:
        """Return the metric of another package with this name, unless the type has its own."""
        return None if name in self.metrics else custom.find(self.name, name)

    def scores(self, predictions: Predictions, chosen: np.ndarray) -> Scores:
        """Return the metrics of a task over examples, with the custom one that it names.

        Args:
          predictions: Predictions of the task.
          chosen: Which examples count, (n,) bool.
        """
        scores, name = predictions.scores(chosen), predictions.task.metric
        if not (own := self.custom_metric(name)):
            return scores
        records = [predictions.record(i) for i in np.flatnonzero(chosen).tolist()]
        gold, predicted = ([record[k] for record in records] for k in (self.gold_key, "prediction"))
        return scores | {name: own.score(gold, predicted)}

    def larger_is_better(self, metric: str) -> bool:
        """Return whether larger values of a metric are better.

        Raises:
          ConfigError: There is no such metric; a package that defines it may be missing.
        """
        if own := self.custom_metric(metric):
            return own.larger_is_better
        if metric not in self.metrics:
            raise ConfigError(
                f"{metric!r} is no metric of {self.name}",
                where="task.metric",
                hint="if it is a custom one, install the package with its entry point, or call "
                "flaxfer.register_metric.",
            )
        return metric not in self.smaller_is_better

    def metric_range(self, metric: str) -> tuple[float, float]:
        """Return the smallest and the largest possible value of one of `metrics`."""
        if own := self.custom_metric(metric):
            return own.range
        return self.ranges.get(metric, (-math.inf, math.inf))

    def scoring(self, task: Task) -> str:
        """Return what the metrics count, where labels leave it open; empty where they do not."""
        return ""

    # Statistics.

    @abc.abstractmethod
    def resampled(
        self, task: Task, metric: str, language: str, gold: list[Any], predictions: list[list[Any]]
    ) -> Resampled:
        """Return one of `metrics`, or `learning_metric`, of R runs, see `measuring.measure`."""

    def learning_metric_of(self, task: Task) -> str:
        """Return the `learning_metric` of a task."""
        return self.learning_metric

    def effective_classes(self, labels: Sequence[Any]) -> float:
        """Return the effective number of classes behind the learning score, see `resampling`."""
        return 2.0

    def record_fault(self, gold: Any, prediction: Any) -> str:
        """Return why the label or prediction of a record is not of this type; empty if it is."""
        return ""

    def constant(self, prediction: Sequence[Any], gold: Sequence[Any]) -> str:
        """Return why the predictions of a run count as constant; empty if they do not."""
        share, majority = (max(Counter(x).values()) / len(x) for x in (prediction, gold))
        if share >= CONSTANT_SHARE > majority:
            return f"one prediction for {share:.1%} of the examples"
        return ""

    def undefined(self, metric: str, gold: Sequence[Any]) -> bool:
        """Return whether a metric is undefined for such labels, whatever is predicted."""
        return False

    def learning_score(self, dev: Mapping[str, float], choices: int) -> tuple[str, float]:
        """Return the name and value of a dev score with expectation 0 under chance.

        Args:
          dev: Dev metrics by name; NaN if undefined.
          choices: Number of choices of each example in multiple choice.
        """
        # A correlation with a constant is undefined: there is no association.
        return self.learning_metric, float(np.nan_to_num(dev[self.learning_metric]))

    # Hugging Face names and descriptions.

    def exported_labels(self, task: Task) -> tuple[str, ...]:
        """Return the names of the outputs in transformers' config.json; () for none."""
        return task.labels

    @abc.abstractmethod
    def describe(self, task: Task) -> str:
        """Return a noun phrase that describes a prediction, for model cards."""
