"""Retrieval: the passages that belong to a query, by one encoder for both."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from flaxfer.config import Source, Stage, Task
from flaxfer.config.findings import Finding, finding
from flaxfer.data.checks import warn_of_sorted
from flaxfer.data.encode import Sequences
from flaxfer.data.examples import Examples, LabelColumn, Texts
from flaxfer.data.labels import Labels
from flaxfer.data.normal_form import normalise
from flaxfer.data.packing import Batch, Layout
from flaxfer.data.tables import Column, Problems
from flaxfer.data.tokenize import Tokenized
from flaxfer.data.values import text_fault, written
from flaxfer.tasks.base import SHARE, Predictions, Scores, TaskType
from flaxfer.tasks.rankings import METRICS, RANKED
from flaxfer.tasks.resampling import Resampled, mean
from flaxfer.tasks.showing import Rankings

if TYPE_CHECKING:
    import jax
    from transformers import PreTrainedTokenizerFast

    from flaxfer.tasks.losses import Arrays, Sum


class _Rankings(Predictions):
    """Rankings of all passages of a set by their cosine with each query."""

    @functools.cached_property
    def _best(self) -> tuple[np.ndarray, np.ndarray]:
        """The numbers of the best passages of each query, and their cosines, (n, k)."""
        from flaxfer.tasks.search import top_k  # Imports JAX.

        n, vectors = len(self.data.id), self._outputs
        unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
        return top_k(unit[:n], unit[n:], min(RANKED, len(unit) - n))

    @functools.cached_property
    def _names(self) -> Mapping[int, str] | Sequence[str]:
        """Names of all passages: the id of the first example of each, and its place there.

        Candidates have names of their own.
        """
        if self.data.candidates:
            return self.data.candidates
        names: dict[int, str] = {}
        for identity, numbers in zip(self.data.id, self.data.reference, strict=True):
            for place, number in enumerate((*numbers.right, *numbers.wrong)):
                names.setdefault(number, f"{identity}/{place}")
        return names

    def scores(self, chosen: np.ndarray) -> Scores:
        rankings = self._best[0].tolist()
        chosen_rankings = [
            (self.data.reference[i].right, rankings[i]) for i in np.flatnonzero(chosen).tolist()
        ]
        return {
            name: float(np.mean([score(*each) for each in chosen_rankings]))
            if chosen_rankings
            else math.nan
            for name, score in METRICS.items()
        }

    def record(self, i: int) -> dict[str, Any]:
        number_k, cosine_k = (each[i].tolist() for each in self._best)
        return {
            "prediction": [self._names[number] for number in number_k],
            "passages": [self._names[number] for number in self.data.reference[i].right],
            "cosines": cosine_k,
        }


class Numbers(NamedTuple):
    """Numbers of the passages of an example among all passages of its set.

    Attributes:
      right: Those that belong to the query, the one to learn first.
      wrong: Hard negatives.
    """

    right: tuple[int, ...]
    wrong: tuple[int, ...]


class _Pool(NamedTuple):
    """The distinct passages of a set, right and wrong ones.

    Attributes:
      texts: Texts of the passages.
      example: First example of each passage.
      numbers: Passages of each example.
    """

    texts: tuple[str, ...]
    example: tuple[int, ...]
    numbers: tuple[Numbers, ...]


class Retrieval(TaskType):
    """The right passages of each query; the loss compares them with those of the batch.

    A dual encoder with shared weights (Gillick et al. 2018, arXiv 1811.08008) embeds queries and
    passages; the logits are cosines times a trained scale. Passages are one if their normal forms
    are equal: a passage is in a batch once, and so is no negative of any of its queries, and in an
    evaluated set once. All right passages and negatives of a set are the candidates of each of its
    queries, unless it has `candidates`.

    An example has the sequence of its query; passages are sequences of their own. The sequences of
    a set are those of all queries, followed by those of all passages.
    """

    name = "retrieval"
    metrics = tuple(METRICS)
    ranges = MappingProxyType(dict.fromkeys(METRICS, SHARE))
    settings = frozenset(
        {"pooling", "similarity_scale", "symmetric_loss", "triplet_margin", "embedding_layer"}
    )
    roles: tuple[str, ...] = ("query", "passage", "negative")
    optional_roles = ("negative",)
    special_formats = ("lareqa", "squad_sentences", "mewslix")
    formats = (*special_formats, *TaskType.formats)
    item = "a query and its passage"
    head = "mean_embedding"
    cluster_text = 1
    contrastive = True
    embeds = True
    gold_key = "passages"
    learning_metric = "accuracy_at_1"
    predictions = _Rankings
    pipeline_tag = "sentence-similarity"
    architecture = "Model"
    showing = Rankings()

    def num_outputs(self, task: Task) -> int:
        """Return 0: embeddings are as wide as the encoder."""
        return 0

    def head_of(self, task: Task) -> str:
        """Return the head with the pooling of a task."""
        return f"{task.pooling}_embedding"

    def check_task(self, at: str, task: Task) -> Iterator[Finding]:
        """Yield contradictions between the loss, the layer and the pooling."""
        yield from super().check_task(at, task)
        if task.triplet_margin and task.similarity_scale != Task.similarity_scale:
            message = "has no effect on the loss of triplets, which compares cosines; leave it out"
            yield finding(message, f"{at}.similarity_scale", f"{at}.triplet_margin")
        if task.triplet_margin > 2:
            margin = task.triplet_margin
            message = f"should be at most 2, the largest difference of cosines; is {margin:g}"
            yield finding(message, f"{at}.triplet_margin")
        if task.embedding_layer is not None and task.pooling != "mean":
            message = f"needs the pooling 'mean'; is {task.pooling!r}"
            yield finding(message, f"{at}.embedding_layer", f"{at}.pooling")

    def label_names(self, task: Task, named: Any) -> tuple[str, ...] | None:
        """Return (): passages have no names."""
        return ()

    def read_texts(
        self, columns: Mapping[str, Column], source: Source, records: Sequence[int]
    ) -> tuple[Texts, Texts | None]:
        """Return the queries, and the first right passage of each."""
        passages, queries = columns["passage"].values, columns["query"].texts(records)
        texts = tuple(_texts(passages[i])[0] for i in records)
        if not source.candidates:  # Their names may well be sorted.
            warn_of_sorted(queries, texts, f"{columns['query'].file}, {columns['passage'].file}")
        return queries, texts

    def text_problems(
        self, columns: Mapping[str, Column], source: Source, records: Sequence[int]
    ) -> Problems:
        """Return the problems of the queries; `read_labels` has those of the passages."""
        return columns["query"].problems(records, text_fault)

    def read_labels(
        self, columns: Mapping[str, Column], source: Source, task: Task, records: Sequence[int]
    ) -> Labels:
        """Return the other right passages of each record, and its negatives."""
        labels = Labels()
        for i in records:
            problems = [*_problems(columns, i)]
            labels.problems.extend((i, each) for each in problems)
            right, wrong = (
                _texts(columns[role].values[i]) if role in columns else ()
                for role in ("passage", "negative")
            )
            if not right:
                finding = f"{columns['passage'].place(i)}: holds no passage"
                labels.add_missing(i, finding, source)
            elif not problems:
                labels.values[i] = (right[1:], wrong)
        return labels

    def label_column(self, values: Sequence[Any]) -> LabelColumn:
        """Return the labels of records as `Examples.label`."""
        return tuple(values)

    def encode(
        self,
        examples: Examples,
        tokenizer: PreTrainedTokenizerFast,
        max_length: int,
        doc_stride: int,
    ) -> Sequences:
        """Encode the queries, and then the distinct passages."""
        pool, n = _pool(examples), len(examples)
        texts = (*examples.text_a, *pool.texts)
        none = ("",) * len(texts)
        single = Examples(self, texts, None, np.zeros(len(texts), np.int32), none, none, none)
        sequences = super().encode(single, tokenizer, max_length, doc_stride)
        width = max(len(each.right) for each in pool.numbers)
        label = np.full((len(texts), width), -1, np.int32)
        for i, numbers in enumerate(pool.numbers):
            label[i, : len(numbers.right)] = numbers.right
        label[n:, 0] = np.arange(len(pool.texts))
        parts = zip(sequences.parts, (*range(n), *pool.example), label, strict=True)
        sequences.parts = [
            (token, types, example, span, row[None])
            for (token, types, _, span, _), example, row in parts
        ]
        return sequences

    def encoded_label_shape(self, sequences: int, tokens: int) -> tuple[int, ...]:
        """Return the shape of the right passage of each query, and the number of each passage."""
        return (sequences, 1)

    def reference(self, examples: Examples) -> tuple[Any, ...]:
        """Return the `Numbers` of the passages of each example."""
        return _pool(examples).numbers

    def train_examples(self, data: Tokenized) -> int:
        """Return the number of queries."""
        return len(data.id)

    def micro_batches(
        self, data: Tokenized, indices: np.ndarray, parts: int
    ) -> Sequence[np.ndarray]:
        """Return the queries of a step and the distinct passages of all of them, in equal parts."""
        of_queries = [data.reference[i] for i in indices.tolist()]
        passages = {number for each in of_queries for number in (each.right[0], *each.wrong)}
        sequence = np.append(indices, len(data.id) + np.array(sorted(passages), np.int64))
        by_length = sequence[np.argsort(-data.lengths[sequence], kind="stable")]
        return [by_length[part::parts] for part in range(parts)]

    def targets(self, data: Tokenized, layout: Layout) -> Batch:
        """Return `query_BE` and `passage_BEP`, see `losses.contrastive_loss`."""
        is_query = layout.sequence < len(data.id)
        return {
            "query_BE": layout.slots(is_query, dtype=np.float32),
            "passage_BEP": layout.slots(data.label[layout.sequence], padding=-1),
        }

    def start_head(self, settings: Stage, data: Tokenized, head: dict[str, Any]) -> dict[str, Any]:
        """Return the parameters of a new head with the scale that the task names.

        Triplets compare cosines, so their scale is 1 and frozen.
        """
        scale = 1.0 if settings.task.triplet_margin else settings.task.similarity_scale
        log_scale = np.full(1, math.log(scale), np.float32)
        return {**head, "log_scale": {"bias": log_scale}}

    def loss(self, task: Task, logits: jax.Array, batch: Arrays, label_smoothing: float) -> Sum:
        """Return the sum of the losses of queries, and their number."""
        from flaxfer.tasks import losses  # Imports JAX.

        return losses.contrastive_loss(logits, batch, task.symmetric_loss, task.triplet_margin)

    def scoring(self, task: Task) -> str:
        """Return what a query is searched in."""
        return "all passages of the set as candidates"

    def resampled(
        self, task: Task, metric: str, language: str, gold: list[Any], predictions: list[list[Any]]
    ) -> Resampled:
        """Return a metric of the rankings."""
        score = METRICS[metric]
        values = [
            [score(right, ranking) for right, ranking in zip(gold, run, strict=True)]
            for run in predictions
        ]
        return mean(np.array(values).T)

    def record_fault(self, gold: Any, prediction: Any) -> str:
        """Return which is no list of passages; empty if both are."""
        for value in (gold, prediction):
            if not isinstance(value, list) or not value:
                return f"{value!r} is no list of passages"
            if not all(isinstance(name, str) for name in value):
                return f"{value!r} is no list of names"
        return ""

    def constant(self, prediction: Sequence[Any], gold: Sequence[Any]) -> str:
        """Return why the first passages of a run count as constant; empty if they do not."""
        return super().constant([each[0] for each in prediction], [each[0] for each in gold])

    def describe(self, task: Task) -> str:
        """Describe an embedding."""
        return "a vector of a query or passage; those that belong together have a large cosine"


def _texts(value: Any) -> tuple[str, ...]:
    """Return the texts of a cell, which holds one or a list of them; none if it is empty."""
    if value is None or value == "":
        return ()
    return tuple(map(written, value)) if isinstance(value, list) else (written(value),)


def _problems(columns: Mapping[str, Column], record: int) -> Iterator[str]:
    """Yield what is wrong with the passages of a record."""
    right: set[str] = set()
    for role in ("passage", "negative"):
        if role not in columns:
            continue
        column = columns[role]
        value = column.values[record]
        if value is None or value == "":
            continue
        texts = dict(enumerate(value)) if isinstance(value, list) else {None: value}
        for item, text in texts.items():
            if fault := text_fault(text):
                yield f"{column.place(record, item)}: {fault}"
            elif role == "passage":
                right.add(_normalised(text))
            elif _normalised(text) in right:
                yield f"{column.place(record, item)}: is a right passage, too"


_normalised = functools.lru_cache(maxsize=1 << 16)(normalise)
"""Normal forms, which take longer than all else: passages occur in many examples."""


@functools.lru_cache(maxsize=1)
def _pool(examples: Examples) -> _Pool:
    """Return the distinct passages of a set; `encode` and `reference` share the last one.

    Candidates are distinct by their names.
    """
    if examples.candidates:
        passages = examples.candidates.texts
        right = tuple(Numbers(tuple(rows), ()) for rows, _ in examples.label)
        return _Pool(passages, (0,) * len(passages), right)
    number_of: dict[str, int] = {}
    known: dict[str, int] = {}
    texts: list[str] = []
    first: list[int] = []

    def number(text: str, example: int) -> int:
        if text not in number_of:
            number_of[text] = known.setdefault(_normalised(text), len(texts))
            if number_of[text] == len(texts):
                texts.append(text)
                first.append(example)
        return number_of[text]

    numbers: list[Numbers] = []
    for i, (passage, label) in enumerate(zip(examples.text_b or (), examples.label, strict=True)):
        others, wrong = label
        found = [number(text, i) for text in (passage, *others)]
        numbers.append(
            Numbers(
                tuple(dict.fromkeys(found)),
                tuple(dict.fromkeys(number(text, i) for text in wrong)),
            )
        )
    return _Pool(tuple(texts), tuple(first), tuple(numbers))
