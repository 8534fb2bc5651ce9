"""Question answering by a span of a context."""

from __future__ import annotations

import functools
from collections.abc import Collection, Iterator, Mapping, Sequence
from itertools import pairwise
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import tokenizers

from flaxfer.config import Source, Task, Train
from flaxfer.config.findings import Finding
from flaxfer.data.encode import Sequences, Template, chunks, pure_backend
from flaxfer.data.examples import Examples
from flaxfer.data.labels import Labels
from flaxfer.data.packing import Batch, Layout
from flaxfer.data.tables import Column
from flaxfer.data.tokenize import Tokenized
from flaxfer.data.tokenizer import cls_is_last
from flaxfer.data.values import text_fault
from flaxfer.errors import DataError
from flaxfer.tasks import answers, characters
from flaxfer.tasks.base import SHARE, TABLES, Predictions, Scores, TaskType
from flaxfer.tasks.resampling import Resampled, mean
from flaxfer.tasks.showing import Answers

if TYPE_CHECKING:
    import jax
    from transformers import PreTrainedTokenizerFast

    from flaxfer.tasks.losses import Arrays, Sum

SPECIAL_TOKENS = 4
"""Largest number of special tokens that a model family adds to a question and its context."""


class _Answers(Predictions):
    """Answers to questions: the best spans of all windows of their contexts."""

    @functools.cached_property
    def _answers(self) -> list[list[answers.Answer]]:
        data, task = self.data, self.task
        windows = [
            answers.Window(self._outputs[start:stop], data.span[start:stop], cls)
            for (start, stop), cls in zip(pairwise(data.offset), data.cls.tolist(), strict=True)
        ]
        bounds = np.searchsorted(data.example, np.arange(len(data.id) + 1))
        return [
            answers.best_answers(
                windows[first:last],
                context,
                n_best=task.n_best,
                max_answer_tokens=task.max_answer_tokens,
                no_answer=task.no_answer,
            )
            for (first, last), (context, _) in zip(pairwise(bounds), data.reference, strict=True)
        ]

    def _gold(self, i: int) -> Sequence[str]:
        return [text for text, _ in self.data.reference[i][1]]

    def scores(self, chosen: np.ndarray) -> Scores:
        examples = np.flatnonzero(chosen).tolist()
        return answers.answer_scores(
            [self._answers[i][0].text for i in examples],
            [self._gold(i) for i in examples],
            [self.data.language[i] for i in examples],
            self.task.answer_style,
        )

    def record(self, i: int) -> dict[str, Any]:
        best = self._answers[i]
        return {
            "prediction": best[0].text,
            "answers": self._gold(i),
            "n_best": [{"text": a.text, "probability": a.probability} for a in best],
        }

    def places(self, i: int) -> dict[str, Any]:
        start, end = self._answers[i][0].span
        return {"start": start, "end": end}


class QuestionAnswering(TaskType):
    """A span of the context per question; the loss is the mean cross-entropy of its two ends."""

    name = "question_answering"
    metrics = ("f1", "exact_match")
    ranges = MappingProxyType({"f1": SHARE, "exact_match": SHARE})
    settings = frozenset({"no_answer", "max_answer_tokens", "n_best", "answer_style", "doc_stride"})
    roles = ("text_a", "answers", "text_b")
    optional_roles = ()
    list_roles = ("answers",)
    label_role = "answers"
    item = "a question and its context"
    special_formats = ("squad",)
    formats = (*special_formats, *TABLES)
    head = "span"
    per_token = True
    cluster_text = 1
    gold_key = "answers"
    learning_metric = "f1"
    predictions = _Answers
    pipeline_tag = "question-answering"
    architecture = "ForQuestionAnswering"
    showing = Answers()

    def num_outputs(self, task: Task) -> int:
        """Return 2: logits of being the first and the last token of an answer."""
        return 2

    def check_train(self, at: str, train: Train, task_at: str) -> Iterator[Finding]:
        """Yield every error in the settings of a stage's training."""
        yield from super().check_train(at, train, task_at)
        room = train.max_length - SPECIAL_TOKENS - 1  # For a context, after a one-token question.
        if train.doc_stride >= room:
            yield (
                (f"{at}.doc_stride", f"{at}.max_length", f"{task_at}.type"),
                f"{at}.doc_stride: windows that share {train.doc_stride} tokens need a larger "
                f"max_length than {train.max_length}; 384 tokens that share 128 are usual",
            )

    def label_names(self, task: Task, named: Collection[str]) -> tuple[str, ...] | None:
        """Return (): answers cannot be mapped."""
        return ()

    def read_labels(
        self, columns: Mapping[str, Column], source: Source, task: Task, records: Sequence[int]
    ) -> Labels:
        """Return the answers of each question with their first characters in the context.

        Raises:
          DataError: If the style of the answers does not support a language.
        """
        language = columns.get("language")
        for code in {source.language} if language is None else set(language.texts(records)):
            # Fails before training, not after.
            answers.normalize("", code, source.answer_style or task.answer_style)
        contexts, column = columns["text_b"], columns["answers"]
        labels = Labels()
        for i in records:
            pairs = _pairs(column.values[i])
            if column.values[i] is None:
                labels.add_missing(i, f"{column.place(i)}: {pairs}", source)
                continue
            if isinstance(pairs, str):
                labels.problems.append((i, f"{column.place(i)}: {pairs}"))
                continue
            context = contexts.values[i]
            for item, (text, start) in enumerate(pairs):
                fault = _answer_fault(text, start, context) if isinstance(context, str) else ""
                if fault:
                    labels.problems.append((i, f"{column.place(i, item)}: {fault}"))
            if pairs or task.no_answer:
                labels.values[i] = tuple(pairs)
            else:
                finding = f"{column.place(i)}: holds no answer; is that right, set task.no_answer"
                labels.add_missing(i, finding, source)
        return labels

    def fields_of(self, item: Any) -> dict[str, Any]:
        """Return a question and its context."""
        if isinstance(item, str):
            raise ValueError("it is one text")
        return super().fields_of(item)

    def encode(
        self,
        examples: Examples,
        tokenizer: PreTrainedTokenizerFast,
        max_length: int,
        doc_stride: int,
    ) -> Sequences:
        """Encode each question with windows of its context that share `doc_stride` tokens.

        The windows are those of `return_overflowing_tokens` in transformers' run_qa.

        Raises:
          DataError: If a question leaves no room for its context.
        """
        sequences = Sequences()
        backend = pure_backend(tokenizer, words=False)
        template = Template.of(backend, pair=True)
        last = cls_is_last(tokenizer)
        contexts = _contexts(backend, examples.text_b or ())
        faults: list[str] = []
        for part in chunks(len(examples)):
            questions = backend.encode_batch(list(examples.text_a[part]), add_special_tokens=False)
            for i, encoding in enumerate(questions, part.start):
                question = np.array(encoding.ids, np.int32)
                ids, inside, span = contexts[examples.text_b[i]]  # type: ignore[index]
                room = max_length - template.size - len(question)
                if room < min(len(ids), doc_stride + 1):
                    faults.append(f"{examples.id[i]}: {len(question)} tokens leave {max(room, 0)}")
                    continue
                answer = _answer_tokens(inside, examples.label[i])
                contained = not examples.label[i]
                for first in range(0, max(len(ids), 1), max(room - doc_stride, 1)):
                    token, types, start = template.fill([question, ids[first : first + room]])
                    size = len(span[first : first + room])
                    spans = np.full((len(token), 2), -1, np.int32)
                    spans[start : start + size] = span[first : first + room]
                    label = np.full(2, len(token) - 1 if last else 0, np.int32)
                    if answer is not None and first <= answer[0] and answer[1] < first + size:
                        label[:] = answer[0] - first + start, answer[1] - first + start
                        contained = True
                    sequences.append(token, types, i, spans, label[None])
                    if first + room >= len(ids):
                        break
                sequences.lost += not contained
        if faults:
            raise DataError(
                f"{len(faults)} question(s) leave no room for their context in {max_length} tokens "
                f"if windows share {doc_stride}",
                hint="raise train.max_length, or lower train.doc_stride, or leave them out with "
                "`drop`.",
                details=faults,
            )
        return sequences

    def encoding_settings(self, tokenizer: PreTrainedTokenizerFast, doc_stride: int) -> list[Any]:
        """Return the overlap of windows, and the rules for the characters of tokens."""
        return [doc_stride, characters.VERSION]

    def encoded_label_shape(self, sequences: int, tokens: int) -> tuple[int, ...]:
        """Return the shape of a first and last token per sequence."""
        return (sequences, 2)

    def reference(self, examples: Examples) -> tuple[Any, ...]:
        """Return the context and the answers of each question."""
        return tuple(zip(examples.text_b or (), examples.label, strict=True))

    def targets(self, data: Tokenized, layout: Layout) -> Batch:
        """Return `start_BE` and `end_BE`, int32 positions in the row."""
        first, last = (layout.start[:, None] + data.label[layout.sequence]).T
        return {"start_BE": layout.slots(first), "end_BE": layout.slots(last)}

    def loss(self, task: Task, logits: jax.Array, batch: Arrays, label_smoothing: float) -> Sum:
        """Return the sum of the losses, and the number of windows."""
        from flaxfer.tasks import losses  # Imports JAX.

        return losses.span_loss(logits, batch)

    def scoring(self, task: Task) -> str:
        """Return the script whose normal form of answers is compared."""
        return f"answers as in the script of {task.answer_style}"

    def resampled(
        self, task: Task, metric: str, language: str, gold: list[Any], predictions: list[list[Any]]
    ) -> Resampled:
        """Return a metric of the predicted answers."""
        score = answers.METRICS[metric]
        values = [
            [
                score(text, golds, language, task.answer_style)
                for text, golds in zip(run, gold, strict=True)
            ]
            for run in predictions
        ]
        return mean(np.array(values).T)

    def record_fault(self, gold: Any, prediction: Any) -> str:
        """Return which is no answer; empty if all are."""
        if not isinstance(gold, list):
            return f"{gold!r} is no list of answers"
        texts = (*gold, prediction)
        return next((f"{text!r} is no text" for text in texts if not isinstance(text, str)), "")

    def constant(self, prediction: Sequence[Any], gold: Sequence[Any]) -> str:
        """Return why the answers of a run count as constant; empty if they do not."""
        return super().constant(prediction, [golds[0] if golds else "" for golds in gold])

    def describe(self, task: Task) -> str:
        """Describe an answer."""
        none = ", or that there is none" if task.no_answer else ""
        return f"the part of a context that answers a question{none}"


def _pairs(value: Any) -> list[tuple[Any, Any]] | str:
    """Return (text, start) of each answer, or what is wrong with their form.

    Args:
      value: `{"text": [...], "answer_start": [...]}`, or a list of `{"text", "answer_start"}`.
    """
    fields = ("text", "answer_start")
    if isinstance(value, dict) and all(isinstance(value.get(name), list) for name in fields):
        texts, starts = (value[name] for name in fields)
        if len(texts) != len(starts):
            return f"holds {len(texts)} text(s) and {len(starts)} answer_start(s)"
        return list(zip(texts, starts, strict=True))
    if isinstance(value, list) and all(isinstance(each, dict) for each in value):
        return [(each.get("text"), each.get("answer_start")) for each in value]
    if value is None:
        return "is missing"
    return "is not of the form {'text': [...], 'answer_start': [...]}"


def _answer_fault(text: Any, start: Any, context: str) -> str:
    """Return what is wrong with an answer; empty if nothing is."""
    if fault := text_fault(text):
        return f"text {fault}"
    if type(start) is not int:
        return f"answer_start {start!r} is no whole number"
    there = context[start : start + len(text)] if start >= 0 else ""
    if there == text:
        return ""
    places = [at for at in range(len(context)) if context.startswith(text, at)][:3]
    at = f"it stands at {', '.join(map(str, places))}" if places else "it stands nowhere in it"
    return f"{text!r} does not stand at character {start} of the context, {there!r} does; {at}"


class _Context(NamedTuple):
    """The tokens of a context of k tokens.

    Attributes:
      id_k: int32 ids.
      inside_k2: int32, the first character of each token and the one after its last, without
        blanks at the edges.
      span_k2: int32, the same with whole characters as readers see them.
    """

    id_k: np.ndarray
    inside_k2: np.ndarray
    span_k2: np.ndarray


def _contexts(backend: tokenizers.Tokenizer, contexts: Sequence[Any]) -> dict[str, _Context]:
    """Return the tokens of each context.

    Byte-level BPE and Unigram include whitespace at the edges of a token, and tokenizers drop or
    replace some characters: see `characters.blank` and `characters.joined`.
    """
    unique = list(dict.fromkeys(contexts))
    encodings = {}
    for part in chunks(len(unique)):
        encoded = backend.encode_batch(unique[part], add_special_tokens=False)
        for text, encoding in zip(unique[part], encoded, strict=True):
            start, end = np.array(encoding.offsets, np.int32).reshape(-1, 2).T
            blank_t, joined_t = characters.blank(text), characters.joined(text)
            filled = np.flatnonzero(~blank_t)
            # The first filled character from `start` on, and the one after the last before `end`.
            left = np.append(filled, len(text))[np.searchsorted(filled, start)]
            right = np.append(0, filled + 1)[np.searchsorted(filled, end)]
            start = np.minimum(left, end)
            end = np.maximum(right, start)
            whole = np.flatnonzero(~joined_t)
            first = np.append(whole, len(text))[np.searchsorted(whole, start, side="right") - 1]
            last = np.append(whole, len(text))[np.searchsorted(whole, end)]
            inside, empty = np.stack([start, end], axis=1), (start == end)[:, None]
            span = np.where(empty, inside, np.stack([first, last], axis=1))
            ids = np.array(encoding.ids, np.int32)
            encodings[text] = _Context(ids, inside.astype(np.int32), span.astype(np.int32))
    return encodings


def _answer_tokens(span: np.ndarray, labels: Sequence[tuple[str, int]]) -> tuple[int, int] | None:
    """Return the first and last token with a character of the first answer; None without one."""
    if not labels:
        return None
    text, start = labels[0]
    touched = np.flatnonzero(
        (span[:, 1] > start) & (span[:, 0] < start + len(text)) & (span[:, 0] < span[:, 1])
    )
    return (int(touched[0]), int(touched[-1])) if len(touched) else None
