"""Answers that are spans of a context: extraction from start and end logits, and scores.

The scores are those of three evaluation scripts, called styles here:

- "squad": SQuAD 1.1 (Rajpurkar et al. 2016). English articles and ASCII punctuation are removed,
  whatever the language; XTREME (Hu et al. 2020) scores XQuAD and TyDi QA like this.
- "squad2": SQuAD 2.0 (Rajpurkar et al. 2018). The same, but true answers that are empty after
  normalisation are ignored, and an example without any other has no answer.
- "mlqa": MLQA (Lewis et al. 2020). The articles of the language and all Unicode punctuation are
  removed, and every Chinese character is a word.

The scripts print percentages; all scores here are fractions.
"""

from __future__ import annotations

import functools
import math
import re
import string
import unicodedata
from collections import Counter
from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np

from flaxfer.errors import DataError, DivergedError

Style = Literal["squad", "squad2", "mlqa"]

_ENGLISH = r"\b(a|an|the)\b"
# By language, the articles that MLQA's script removes. In Arabic it removes the letters of the
# article anywhere in a word; Hindi and Chinese have no articles.
_MLQA_ARTICLES = {
    "ar": "ال",
    "de": r"\b(ein|eine|einen|einem|eines|einer|der|die|das|den|dem|des)\b",
    "en": _ENGLISH,
    "es": r"\b(un|una|unos|unas|el|la|los|las)\b",
    "hi": None,
    "vi": r"\b(của|là|cái|chiếc|những)\b",
    "zh": None,
}
_CHINESE = re.compile("([\u4e00-\u9fa5])")
_ASCII_PUNCTUATION = str.maketrans("", "", string.punctuation)


class Window(NamedTuple):
    """A model's outputs for one window of a context.

    Attributes:
      logits_t2: (tokens, 2) float, logits of being an answer's first token, and its last one.
      span_t2: (tokens, 2) int, first character of each token in the context, and the one after
        the last; -1 for tokens outside the context.
      cls: Position of the CLS token, whose logits represent no answer.
    """

    logits_t2: np.ndarray
    span_t2: np.ndarray
    cls: int


class Answer(NamedTuple):
    """A span of the context, or "" for no answer.

    Attributes:
      text: Text of the answer.
      score: Sum of its start and end logit.
      probability: Softmax over the scores of the answers in the same list.
      span: Its first character in the context, and the one after its last; (0, 0) for no answer.
    """

    text: str
    score: float
    probability: float
    span: tuple[int, int]


def normalize(text: str, language: str, style: Style) -> str:
    """Return an answer in lower case, without punctuation, articles and superfluous spaces.

    Args:
      text: An answer.
      language: ISO 639-1 code, only used by "mlqa".
      style: The evaluation script to follow.

    Raises:
      DataError: If the script does not support the language.
    """
    text = text.lower()
    if style != "mlqa":
        return " ".join(re.sub(_ENGLISH, " ", text.translate(_ASCII_PUNCTUATION)).split())
    if language not in _MLQA_ARTICLES:
        raise DataError(
            f"MLQA's evaluation does not know the language {language!r}",
            where="scoring",
            hint=f'use the style "squad", or one of {", ".join(_MLQA_ARTICLES)}',
        )
    text = "".join(character for character in text if not _is_punctuation(character))
    if articles := _MLQA_ARTICLES[language]:
        text = re.sub(articles, " ", text)
    if language == "zh":
        text = _CHINESE.sub(r" \1 ", text)
    return " ".join(text.split())


def exact_match(prediction: str, golds: Sequence[str], language: str, style: Style) -> float:
    """Return 1 if a normalised prediction equals one of the true answers, else 0; see `f1`."""
    answer, keys = _normalized(prediction, golds, language, style)
    return float(answer in (keys or [""]))


def f1(prediction: str, golds: Sequence[str], language: str, style: Style) -> float:
    """Return the largest F1 of the words that a prediction shares with a true answer.

    Without a true answer, it is 1 for an empty prediction and 0 otherwise, as in SQuAD 2.0. If the
    true answer is empty after normalisation, such as "The", it is 0 in "squad" and "mlqa".

    Args:
      prediction: An answer; "" for none.
      golds: The true answers; () if there is none.
      language: As in `normalize`.
      style: As in `normalize`.

    Raises:
      DataError: As `normalize`.
    """
    answer, keys = _normalized(prediction, golds, language, style)
    return max((_overlap(answer, key) for key in keys), default=float(answer == ""))


METRICS = {"f1": f1, "exact_match": exact_match}


def answer_scores(
    predictions: Sequence[str],
    golds: Sequence[Sequence[str]],
    languages: Sequence[str],
    style: Style,
) -> dict[str, float]:
    """Return the mean of each of `METRICS` over examples, NaN without any; see `f1`."""
    examples = list(zip(predictions, golds, languages, strict=True))
    if not examples:
        return dict.fromkeys(METRICS, math.nan)
    return {
        name: sum(metric(*example, style) for example in examples) / len(examples)
        for name, metric in METRICS.items()
    }


def best_answers(
    windows: Sequence[Window],
    context: str,
    *,
    n_best: int,
    max_answer_tokens: int,
    no_answer: bool,
) -> list[Answer]:
    """Return the best answers to one question from all windows of its context.

    Follows `postprocess_qa_predictions` in transformers' question answering example: in every
    window, each of the `n_best` largest start logits is combined with each of the `n_best` largest
    end logits; combinations that lie in the context, do not end before their start, and are not
    too long are candidates, whose score is the sum of both logits. The `n_best` best candidates of
    all windows are kept; one that occurs in two windows is listed twice. With `no_answer`, "" is
    added; its score is the smallest one of the CLS tokens of all windows, and it is listed even if
    it is not among the `n_best`.

    Ties between logits are resolved in favour of the earlier token; ties between scores in favour
    of the earlier window, then the earlier start, then the shorter answer, and "" comes last.
    Scores are added in float64.

    Args:
      windows: One or more windows of one example.
      context: The text whose characters the spans of the windows count.
      n_best: Number of starts, ends and answers to consider.
      max_answer_tokens: Maximum length of an answer.
      no_answer: Whether the question may have no answer.

    Returns:
      The chosen answer, then the others by descending score; never empty. Without any candidate it
      is only "", with score 0 unless `no_answer` gives it another; transformers has the word
      "empty" there.

    Raises:
      DivergedError: If a logit is not finite.
    """
    candidates = [_candidates(window, n_best, max_answer_tokens) for window in windows]
    score = np.concatenate([scores for scores, _ in candidates])
    span = np.concatenate([spans for _, spans in candidates])
    null = len(score)
    if no_answer or not null:
        nulls = [each.logits_t2[each.cls].sum(dtype=np.float64) for each in windows]
        score = np.append(score, min(nulls) if no_answer else 0.0)
        span = np.append(span, [[0, 0]], axis=0)
    # Candidates are in the order in which ties are resolved.
    best = np.argsort(-score, kind="stable")[:n_best].tolist()
    if no_answer and null not in best:
        best.append(null)
    weights = np.exp(score[best] - score[best[0]])
    places = [(begin, end) for begin, end in span[best].tolist()]
    texts = [context[begin:end] for begin, end in places]
    shares = (weights / weights.sum()).tolist()
    answers = list(map(Answer, texts, score[best].tolist(), shares, places))
    if no_answer:  # A span of whitespace is not chosen.
        chosen = next(i for i, text in enumerate(texts) if text or best[i] == null)
        answers.insert(0, answers.pop(chosen))
    return answers


def _candidates(
    window: Window, n_best: int, max_answer_tokens: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return scores (k,) and characters (k, 2) of a window's answers, in the order of tokens."""
    start_t, end_t = window.logits_t2.astype(np.float64).T
    if not np.isfinite(window.logits_t2).all():
        raise DivergedError(
            "the logits of an answer's start or end are not all finite numbers",
            where="scoring",
            hint="train again with a smaller learning rate",
        )
    first, last = (np.sort(np.argsort(-x, kind="stable")[:n_best]) for x in (start_t, end_t))
    in_context = window.span_t2[:, 0] >= 0
    first, last = first[in_context[first]], last[in_context[last]]
    length = last[None, :] - first[:, None] + 1
    i, j = ((length >= 1) & (length <= max_answer_tokens)).nonzero()
    first, last = first[i], last[j]
    span = np.stack([window.span_t2[first, 0], window.span_t2[last, 1]], axis=1)
    return start_t[first] + end_t[last], span


def _normalized(
    prediction: str, golds: Sequence[str], language: str, style: Style
) -> tuple[str, list[str]]:
    keys = [normalize(gold, language, style) for gold in golds]
    if style == "squad2":
        keys = [key for key in keys if key]
    return normalize(prediction, language, style), keys


def _overlap(answer: str, key: str) -> float:
    words, key_words = answer.split(), key.split()
    shared = (Counter(words) & Counter(key_words)).total()
    if shared == 0:
        return 0.0
    precision, recall = shared / len(words), shared / len(key_words)
    return 2 * precision * recall / (precision + recall)


@functools.cache
def _is_punctuation(character: str) -> bool:
    return unicodedata.category(character).startswith("P") or character in string.punctuation
