"""Tagging of every word of a sentence."""

from __future__ import annotations

import dataclasses
import functools
import logging
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from flaxfer.config import Source, Task
from flaxfer.config.findings import Finding
from flaxfer.data.encode import Sequences, Template, chunks, pure_backend, word_splitter
from flaxfer.data.examples import Examples, LabelColumn, Texts
from flaxfer.data.labels import MISSPELT, Labels, label_index, stands_for_none, unknown_label
from flaxfer.data.packing import Batch, Layout
from flaxfer.data.tables import Column, Problems
from flaxfer.data.tokenize import Tokenized
from flaxfer.data.values import list_fault, text_fault, written
from flaxfer.errors import DataError
from flaxfer.tasks import entities
from flaxfer.tasks.base import CORRELATION, SHARE, TABLES, Predictions, Scores, TaskType
from flaxfer.tasks.resampling import WORD_METRICS, Resampled, entity_metric, word_metric
from flaxfer.tasks.schemes import CHUNKS, LETTERS, scheme_of, spelling_fault
from flaxfer.tasks.showing import WordTags

if TYPE_CHECKING:
    import jax
    from transformers import PreTrainedTokenizerFast

    from flaxfer.tasks.losses import Arrays, Sum

logger = logging.getLogger("flaxfer.tasks")


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
        gold, predicted = [self._gold(i) for i in examples], [self._tags[i] for i in examples]
        if scheme := scheme_of(self.task):
            return entities.scores_of_counts(scheme.counts(gold, predicted))
        labels = self.task.labels
        return {
            name: float(word_metric(name, labels, gold, [predicted]).observed()[0])
            for name in WORD_METRICS
        }

    def record(self, i: int) -> dict[str, Any]:
        return {"prediction": self._tags[i], "label": self._gold(i)}

    def places(self, i: int) -> dict[str, Any]:
        if (scheme := Tagging.showing.scheme(self.task)) is None:
            return {}
        found = scheme.entities(self._tags[i])
        return {"entities": [{"type": t, "start": first, "end": end} for first, end, t in found]}


class Tagging(TaskType):
    """One of `Task.labels` per word, predicted at its first token; the loss is the cross-entropy.

    F1, precision and recall count whole entities, and need tags that mark them. Otherwise tags are
    classes of words, such as parts of speech, with `WORD_METRICS`.
    """

    name = "tagging"
    metrics = ("f1", "precision", "recall", "accuracy", "macro_f1", "mcc")
    ranges = MappingProxyType(dict.fromkeys(metrics, SHARE) | {"mcc": CORRELATION})
    settings = frozenset({"labels", "label_smoothing", "tag_scheme", "strict_entities"})
    roles = ("words", "tags")
    optional_roles = ()
    list_roles = ("words", "tags")
    label_role = "tags"
    item = "a list of words"
    special_formats = ("conll", "conllu")
    formats = (*special_formats, *TABLES)
    head = "token"
    per_token = True
    learning_metric = "f1"
    predictions = _Tags
    pipeline_tag = "token-classification"
    architecture = "ForTokenClassification"
    showing = WordTags()

    def check_task(self, at: str, task: Task) -> Iterator[Finding]:
        """Yield every error in the settings of a task; entities need labels such as B-PER."""
        yield from super().check_task(at, task)
        keys = (f"{at}.metric", f"{at}.type", f"{at}.labels", f"{at}.tag_scheme")
        scheme = scheme_of(task)
        if task.tag_scheme not in ("auto", "none") and scheme is None:
            yield keys[1:], f"{at}.tag_scheme: {spelling_fault(task.labels, task.tag_scheme)}"
        elif task.metric in self.metrics and task.metric not in self.metrics_of(task):
            text = f"{at}.metric: {task.metric!r} counts "
            if scheme:
                text += f"classes of words, but the labels mark entities ({scheme.name}); use 'f1' "
                text += "or 'accuracy', or set tag_scheme='none'"
            elif task.tag_scheme == "none":
                text += "entities, which tag_scheme 'none' excludes; use 'accuracy'"
            else:
                text += f"entities, but {spelling_fault(task.labels)}; use 'accuracy'"
            yield keys, text
        if task.strict_entities and (scheme is None or scheme.name == CHUNKS):
            yield (
                (f"{at}.strict_entities", *keys[1:]),
                f"{at}.strict_entities: needs labels that mark entities by one of "
                f"{', '.join(LETTERS)}",
            )

    def defined_metrics(self, task: Task) -> tuple[str, ...]:
        """Return the metrics of entities if the labels mark them, else those of words."""
        return WORD_METRICS if scheme_of(task) is None else self.metrics[:4]

    def scoring(self, task: Task) -> str:
        """Return the scheme of the tags, and the rules that entities follow."""
        if (scheme := scheme_of(task)) is None:
            return "tags are classes of words"
        rules = "strict" if task.strict_entities else "default"
        return f"tags are read as {scheme.name}; entities as in seqeval's {rules} mode"

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
        _warn_of_illegal(task, labels, column.file)
        return labels

    def no_labels(self, text_a: Texts) -> LabelColumn:
        """Return a missing tag for every word."""
        return tuple((-1,) * len(words) for words in text_a)

    def fields_of(self, item: Any) -> dict[str, Any]:
        """Return the words of a sentence."""
        if isinstance(item, str):
            raise ValueError("it is a text; divide it into words")
        return {"words": list(item)}

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

    def loss(self, task: Task, logits: jax.Array, batch: Arrays, label_smoothing: float) -> Sum:
        """Return the sum of the cross-entropies, and the number of tagged words."""
        from flaxfer.tasks import losses  # Imports JAX.

        return losses.tag_loss(logits, batch, label_smoothing)

    def learning_metric_of(self, task: Task) -> str:
        """Return F1 of entities, or Matthews' correlation of words."""
        return self.learning_metric if scheme_of(task) else "mcc"

    def learning_score(self, dev: Mapping[str, float], choices: int) -> tuple[str, float]:
        """Return the name and value of a dev score with expectation 0 under chance."""
        name = self.learning_metric if self.learning_metric in dev else "mcc"
        return name, float(np.nan_to_num(dev[name]))

    def resampled(
        self, task: Task, metric: str, language: str, gold: list[Any], predictions: list[list[Any]]
    ) -> Resampled:
        """Return a metric of the predicted tags."""
        if metric not in self.metrics_of(task):
            raise ValueError(f"{metric} is not defined for the tags {', '.join(task.labels)}")
        if (scheme := scheme_of(task)) is None:
            return word_metric(metric, task.labels, gold, predictions)
        counts = np.stack([scheme.counts(gold, tags) for tags in predictions], axis=1)
        return entity_metric(metric, counts)

    def record_fault(self, gold: Any, prediction: Any) -> str:
        """Return what is wrong with the tags of a sentence; empty if nothing is."""
        if not (isinstance(gold, list) and isinstance(prediction, list)):
            return f"{gold if isinstance(prediction, list) else prediction!r} is no list of tags"
        if len(gold) != len(prediction):
            return f"{len(prediction)} tags are predicted for {len(gold)} words"
        tags = [tag for tag in gold if tag is not None]
        tags += prediction
        return next((f"{tag!r} is no tag" for tag in tags if not isinstance(tag, str)), "")

    def constant(self, prediction: Sequence[Any], gold: Sequence[Any]) -> str:
        """Return why the predicted tags of a run count as constant; empty if they do not."""
        words = zip(chain.from_iterable(prediction), chain.from_iterable(gold), strict=True)
        tags, true = zip(*[word for word in words if word[1] is not None], strict=True)
        return super().constant(tags, true)

    def describe(self, task: Task) -> str:
        """Name the tags."""
        return f"a tag for every word, at its first piece: {', '.join(task.labels)}"


def _warn_of_illegal(task: Task, labels: Labels, file: str) -> None:
    """Log how many true entities the strict mode ignores."""
    scheme = scheme_of(task)
    if scheme is None or not scheme.strict:
        return
    gold = [[task.labels[n] for n in tags if n >= 0] for tags in labels.values.values()]
    every = dataclasses.replace(scheme, strict=False)
    allowed, number = (int(one.counts(gold, gold)[:, 2].sum()) for one in (scheme, every))
    if allowed != number:
        logger.warning(
            "%s: %s allows %d entities, but the tags hold %d in seqeval's default mode; with "
            "strict_entities the others count nowhere",
            file, scheme.name, allowed, number,
        )  # fmt: skip


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
