"""Answers that are a part of a context: finding them in start and end logits, and scoring them.

The scores are those of three evaluation scripts, called styles here:

- "squad": SQuAD 1.1 (Rajpurkar et al. 2016). English articles and ASCII punctuation are dropped,
  whatever the language; XTREME (Hu et al. 2020) scores XQuAD and TyDi QA so.
- "squad2": SQuAD 2.0 (Rajpurkar et al. 2018). The same, but true answers of which nothing is left
  do not count, and an example without any other asks for no answer.
- "mlqa": MLQA (Lewis et al. 2020). The articles of the language and all Unicode punctuation are
  dropped, and every Chinese character is a word.

The scripts print percentages; all scores here are fractions.
"""

from __future__ import annotations

import functools
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
# By language, what MLQA's script drops as articles. In Arabic that is the letters of the article
# anywhere in a word; Hindi and Chinese have none.
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
    """What a model says of one window of a context.

    Attributes:
      start_t: (tokens,) float, logits of being an answer's first token.
      end_t: (tokens,) float, logits of being its last.
      span_t2: (tokens, 2) int, the characters of the context that a token stands for, first and
        one after the last; -1 for tokens outside the context.
      cls: place of the CLS token, whose logits stand for no answer.
    """

    start_t: np.ndarray
    end_t: np.ndarray
    span_t2: np.ndarray
    cls: int


class Answer(NamedTuple):
    """A part of the context, or "" for no answer.

    Attributes:
      text: of the answer.
      score: start logit and end logit, added.
      probability: softmax of the scores of the answers that it is listed with.
    """

    text: str
    score: float
    probability: float


def normalize(text: str, language: str = "en", style: Style = "squad") -> str:
    """What of an answer is compared: lower case, without punctuation, articles and extra spaces.

    Args:
      text: an answer.
      language: ISO 639-1 code; read by "mlqa" alone.
      style: the evaluation script to follow.

    Returns:
      Words, one space between them.

    Raises:
      DataError: the script of the style knows no such language.
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


def exact_match(
    prediction: str, golds: Sequence[str], language: str = "en", style: Style = "squad"
) -> float:
    """1 if a prediction is, once normalised, one of the true answers, else 0.

    Args, and errors raised, as `f1`.
    """
    answer, keys = _normalized(prediction, golds, language, style)
    return float(answer in (keys or [""]))


def f1(
    prediction: str, golds: Sequence[str], language: str = "en", style: Style = "squad"
) -> float:
    """F1 of the words that a prediction and a true answer share, the largest of all true answers.

    Without a true answer it is 1 for an empty prediction and else 0, as in SQuAD 2.0. Where there
    is one and nothing is left of it, as of "The", no prediction scores in "squad" and "mlqa".

    Args:
      prediction: an answer; "" for none.
      golds: the true answers; () if there is none.
      language: as in `normalize`.
      style: as in `normalize`.

    Returns:
      A fraction.

    Raises:
      DataError: as `normalize`.
    """
    answer, keys = _normalized(prediction, golds, language, style)
    return max((_overlap(answer, key) for key in keys), default=float(answer == ""))


def answer_scores(
    predictions: Sequence[str],
    golds: Sequence[Sequence[str]],
    language: str | Sequence[str] = "en",
    style: Style = "squad",
) -> dict[str, float]:
    """Means of F1 and exact match over a set, NaN if it is empty.

    Args:
      predictions: one an example, "" for no answer.
      golds: the true answers of each example, () for no answer.
      language: of all examples, or of each.
      style: as in `normalize`.

    Returns:
      "f1" and "exact_match", fractions.

    Raises:
      DataError: as `normalize`, or if the numbers of examples differ.
    """
    languages = [language] * len(golds) if isinstance(language, str) else language
    if not len(predictions) == len(golds) == len(languages):
        raise DataError(
            f"{len(golds)} questions have {len(predictions)} predictions and {len(languages)}"
            " languages",
            where="scoring",
        )
    examples = list(zip(predictions, golds, languages, strict=True))
    sums = {
        "f1": sum(f1(*example, style) for example in examples),
        "exact_match": sum(exact_match(*example, style) for example in examples),
    }
    return {name: total / len(examples) if examples else np.nan for name, total in sums.items()}


def best_answers(
    windows: Sequence[Window],
    context: str,
    *,
    n_best: int = 20,
    max_answer_tokens: int = 30,
    no_answer: bool = False,
    null_threshold: float = 0.0,
) -> list[Answer]:
    """The best answers to one question from all windows of its context.

    As `postprocess_qa_predictions` in the question answering example of transformers: in every
    window, the `n_best` largest start logits of all tokens meet the `n_best` largest end logits;
    what lies in the context, ends no earlier than it starts and is not too long is an answer, and
    its score is the sum of its two logits. The `n_best` best of all windows are kept; one found in
    two windows is listed twice. With `no_answer`, "" is another answer; its score is the smallest
    that the CLS token of any window has, and it is listed even if it is not among the `n_best`.

    Of equal logits the earlier token's comes first; of equal scores the earlier window's, then
    that with the earlier start, then the shorter, and "" last. Scores are added in float64.

    Args:
      windows: of one example, one or more.
      context: what the spans of the windows count characters of.
      n_best: how many starts, ends and answers are looked at.
      max_answer_tokens: the longest answer.
      no_answer: whether the question may have none.
      null_threshold: by how much "" must be better than the best other answer to be chosen.

    Returns:
      The answer to give, then the others from the best score down; never empty. If no answer is
      found in any window it is "" alone, with score 0 unless `no_answer` gives it another;
      transformers puts the word "empty" there.

    Raises:
      DivergedError: a logit is not finite.
    """
    found = [_candidates(window, n_best, max_answer_tokens) for window in windows]
    score = np.concatenate([scores for scores, _ in found])
    span = np.concatenate([spans for _, spans in found])
    # Candidates stand in the order in which ties are broken.
    best = np.argsort(-score, kind="stable")[:n_best]
    texts = [context[begin:end] for begin, end in span[best].tolist()]
    scores = score[best].tolist()
    if no_answer:
        null = min(float(w.start_t[w.cls]) + float(w.end_t[w.cls]) for w in windows)
        place = sum(each >= null for each in scores)
        if place < n_best:
            del texts[n_best - 1 :], scores[n_best - 1 :]
        texts.insert(place, "")
        scores.insert(place, null)
    elif not texts:
        texts, scores = [""], [0.0]
    weights = np.exp(np.array(scores) - max(scores))
    answers = list(map(Answer, texts, scores, (weights / weights.sum()).tolist()))
    if no_answer:
        other = next((i for i, text in enumerate(texts) if text), place)
        chosen = place if null - scores[other] > null_threshold else other
        answers.insert(0, answers.pop(chosen))
    return answers


def _candidates(
    window: Window, n_best: int, max_answer_tokens: int
) -> tuple[np.ndarray, np.ndarray]:
    """Scores (k,) and characters (k, 2) of a window's answers, in the order of the tokens."""
    start_t, end_t = (np.asarray(x, np.float64) for x in (window.start_t, window.end_t))
    if not (np.isfinite(start_t).all() and np.isfinite(end_t).all()):
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
