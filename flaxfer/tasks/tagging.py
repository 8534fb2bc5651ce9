"""Tagging of every word of a sentence."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from flaxfer.config import Source, Task
from flaxfer.config.findings import Finding
from flaxfer.data.encode import Sequences, Template, chunks, pure_backend, word_splitter
from flaxfer.data.examples import Examples, Texts
from flaxfer.data.labels import MISSPELT, Labels, label_index, stands_for_none, unknown_label
from flaxfer.data.packing import Batch, Layout
from flaxfer.data.tables import Column, Problems
from flaxfer.data.tokenize import Tokenized
from flaxfer.data.values import list_fault, text_fault, written
from flaxfer.errors import DataError
from flaxfer.tasks import entities
from flaxfer.tasks.base import TABLES, Predictions, Scores, TaskType
from flaxfer.tasks.resampling import Resampled, entity_metric

if TYPE_CHECKING:
    import jax
    from transformers import PreTrainedTokenizerFast

    from flaxfer.tasks.losses import Arrays, Sum


class _Tags(Predictions):
    """Tags of all words: those with the largest logit at the first token of each."""

    @functools.cached_property
    def _tags(self) -> list[list[str]]:
        data = self.data
        first = np.flatnonzero(data.span[:, 0] >= 0)
        # The words of an example are in the order of its tokens, and examples in that of the data.
        best = self._outputs[first].argmax(axis=1)
        ends = np.cumsum([len(tags) for tags in data.reference])
        return [[self.task.labels[tag] for tag in part] for part in np.split(best, ends[:-1])]

    def _gold(self, i: int) -> list[str | None]:
        return [None if tag < 0 else self.task.labels[tag] for tag in self.data.reference[i]]

    def scores(self, chosen: np.ndarray) -> Scores:
        examples = np.flatnonzero(chosen).tolist()
        gold = [self._gold(i) for i in examples]
        return entities.entity_scores(gold, [self._tags[i] for i in examples])

    def record(self, i: int) -> dict[str, Any]:
        return {"prediction": self._tags[i], "label": self._gold(i)}


class Tagging(TaskType):
    """One of `Task.labels` per word, predicted at its first token; the loss is the cross-entropy.

    The metrics count whole entities, except accuracy.
    """

    name = "tagging"
    metrics = ("f1", "precision", "recall", "accuracy")
    settings = frozenset({"labels", "label_smoothing"})
    roles = ("words", "tags")
    optional_roles = ()
    list_roles = ("words", "tags")
    special_formats = ("conll", "conllu")
    formats = (*special_formats, *TABLES)
    head = "token"
    per_token = True
    learning_metric = "f1"
    predictions = _Tags
    pipeline_tag = "token-classification"
    architecture = "ForTokenClassification"

    def check_task(self, at: str, task: Task) -> Iterator[Finding]:
        """Yield every error in the settings of a task; entities need labels such as B-PER."""
        yield from super().check_task(at, task)
        if task.metric in self.metrics and task.metric != "accuracy":
            other = [label for label in task.labels if not re.fullmatch("O|[BI]-.+", label)]
            if other or not any(label.startswith("B-") for label in task.labels):
                yield (
                    (f"{at}.metric", f"{at}.type", f"{at}.labels"),
                    f"{at}.metric: {task.metric!r} counts entities, which needs labels such as "
                    f"B-PER, I-PER and O, are {task.labels}; use 'accuracy'",
                )

    def read_texts(
        self, columns: Mapping[str, Column], source: Source, records: Sequence[int]
    ) -> tuple[Texts, Texts | None]:
        """Return the words of each sentence."""
        return tuple(tuple(columns["words"].values[i]) for i in records), None

    def text_problems(
        self, columns: Mapping[str, Column], source: Source, records: Sequence[int]
    ) -> Problems:
        """Return the problems of the words."""
        column = columns["words"]
        return column.problems(records, list_fault) + [
            (i, f"{column.place(i, item)}: {fault}")
            for i in records
            if isinstance(column.values[i], list)
            for item, word in enumerate(column.values[i])
            if (fault := text_fault(word))
        ]

    def read_labels(
        self, columns: Mapping[str, Column], source: Source, task: Task, records: Sequence[int]
    ) -> Labels:
        """Return the tags of each sentence; -1 for a word without one if `drop_unlabeled`."""
        words, column = columns["words"], columns["tags"]
        labels = Labels()
        index = label_index(source, task.labels)
        unknown = functools.cache(lambda name: unknown_label(name, index))
        for i in records:
            tags, sentence = column.values[i], words.values[i]
            fault = list_fault(tags)
            if not fault and isinstance(sentence, list) and len(sentence) != len(tags):
                fault = f"holds {len(tags)} tags for {len(sentence)} words"
            if tags is None:
                labels.add_missing(i, f"{column.place(i)}: {fault}", source)
            elif fault:
                labels.problems.append((i, f"{column.place(i)}: {fault}"))
            if fault:
                continue
            names = [written(tag) for tag in tags]
            numbers = tuple(index.get(name, -1) for name in names)
            for item, (name, number) in enumerate(zip(names, numbers, strict=True)):
                if number < 0:
                    fault = unknown(name)
                    finding = f"{column.place(i, item)}: {name!r}"
                    if fault.startswith(MISSPELT) or not stands_for_none(name):
                        labels.problems.append((i, f"{finding} {fault}"))
                    elif not source.drop_unlabeled:
                        labels.add_missing(i, f"{finding} stands for no label", source)
            if source.drop_unlabeled and max(numbers) < 0:
                labels.missing.add(i)
            else:
                labels.values[i] = numbers
        return labels

    def encode(
        self,
        examples: Examples,
        tokenizer: PreTrainedTokenizerFast,
        max_length: int,
        doc_stride: int,
    ) -> Sequences:
        """Encode whole words, as many per sequence as fit; tags are at first tokens of words.

        A word longer than a sequence keeps its first tokens; a word without tokens becomes the
        unknown token.

        Raises:
          DataError: If a word has no token and the tokenizer no unknown token.
        """
        sequences = Sequences()
        backend = pure_backend(tokenizer, words=True)
        template = Template.of(backend, pair=False)
        room = max_length - template.size
        for part in chunks(len(examples)):
            sentences = examples.text_a[part]
            encoded = backend.encode_batch(
                sentences, is_pretokenized=True, add_special_tokens=False
            )
            for i, (words, encoding) in enumerate(zip(sentences, encoded, strict=True), part.start):
                pieces: list[list[int]] = [[] for _ in words]
                for piece, word in zip(encoding.ids, encoding.word_ids, strict=True):
                    pieces[cast(int, word)].append(piece)
                pieces = [each or [_unknown(tokenizer, examples.id[i])] for each in pieces]
                sequences.truncated += any(len(each) > room for each in pieces)
                pieces = [each[:room] for each in pieces]
                for first, last in _groups([len(each) for each in pieces], room):
                    counts = [len(each) for each in pieces[first:last]]
                    token, types, start = template.fill([np.concatenate(pieces[first:last])])
                    heads = start + np.cumsum([0, *counts[:-1]])
                    span = np.full((len(token), 2), -1, np.int32)
                    span[heads] = np.arange(first, last)[:, None] + [0, 1]
                    label = np.full(len(token), -1, np.int32)
                    label[heads] = examples.label[i][first:last]
                    sequences.append(token, types, i, span, label)
        return sequences

    def encoding_settings(self, tokenizer: PreTrainedTokenizerFast, doc_stride: int) -> list[Any]:
        """Return how the tokenizer splits texts that are given as words."""
        return [word_splitter(tokenizer)]

    def encoded_label_shape(self, sequences: int, tokens: int) -> tuple[int, ...]:
        """Return the shape of a tag per token."""
        return (tokens,)

    def reference(self, examples: Examples) -> tuple[Any, ...]:
        """Return the tags of all words of each sentence."""
        return tuple(examples.label)

    def targets(self, data: Tokenized, layout: Layout) -> Batch:
        """Return `label_BT`, int32, -1 for tokens that do not count."""
        return {"label_BT": layout.tokens(data.label[layout.token], padding=-1)}

    def loss(self, logits: jax.Array, batch: Arrays, label_smoothing: float) -> Sum:
        """Return the sum of the cross-entropies, and the number of tagged words."""
        from flaxfer.tasks import losses  # Imports JAX.

        return losses.tag_loss(logits, batch, label_smoothing)

    def resampled(
        self, task: Task, metric: str, language: str, gold: list[Any], predictions: list[list[Any]]
    ) -> Resampled:
        """Return a metric of the predicted tags."""
        counts = np.stack([entities.sentence_counts(gold, tags) for tags in predictions], axis=1)
        return entity_metric(metric, counts)

    def constant(self, prediction: Sequence[Any], gold: Sequence[Any]) -> str:
        """Return why the predicted tags of a run count as constant; empty if they do not."""
        words = zip(chain.from_iterable(prediction), chain.from_iterable(gold), strict=True)
        tags, true = zip(*[word for word in words if word[1] is not None], strict=True)
        return super().constant(tags, true)

    def describe(self, task: Task) -> str:
        """Name the tags."""
        return f"a tag for every word, at its first piece: {', '.join(task.labels)}"


def _groups(counts: Sequence[int], room: int) -> Iterator[tuple[int, int]]:
    """Yield the first word and the one after the last of each sequence.

    Args:
      counts: Number of tokens of each word, each at most `room`.
      room: Number of tokens of a sequence.
    """
    first = used = 0
    for word, count in enumerate(counts):
        if used + count > room:
            yield first, word
            first, used = word, 0
        used += count
    yield first, len(counts)


def _unknown(tokenizer: PreTrainedTokenizerFast, name: str) -> int:
    if tokenizer.unk_token_id is None:
        raise DataError(
            "a word has no token, and the tokenizer has none for unknown words",
            where=name,
            hint="set unk_token in tokenizer_config.json, or leave the record out with `drop`.",
        )
    return int(tokenizer.unk_token_id)
