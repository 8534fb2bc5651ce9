"""Scores of one file, as the published functions compute them, and corrected.

The published functions are those of github.com/google-research/xtreme at 838c13b (evaluate.py,
third_party/evaluate_squad.py, evaluate_mlqa.py, utils_mewslix.py). Both modes give percentages.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from flaxfer.errors import DataError
from flaxfer.tasks import answers, entities
from flaxfer.tasks.rankings import average_precision
from flaxfer.xtreme import files
from flaxfer.xtreme.benchmarks import KINDS, total

K = 20
"""Candidates of a ranking that count."""

NEWER = "f1_seqeval_1.2.2"
"""The metric of UD-POS that the published function gives with today's seqeval."""


def official(gold_path: Path, predicted_path: Path, task: str, language: str) -> dict[str, float]:
    """Return what the published functions give for two files, with their faults.

    Precision, recall and F1 of tags are those of seqeval 0.0.12, which gave the published values
    of the repository's own test; for parts of speech those of newer releases differ, see `NEWER`.
    As with newer releases, sentences with another number of tags have no scores.

    Raises:
      DataError: If the published functions stop at these files.
    """
    try:
        gold, predicted = (_published(path, KINDS[task]) for path in (gold_path, predicted_path))
        return _official(gold, predicted, task, language)
    except (OSError, ValueError, LookupError, TypeError, AttributeError, ArithmeticError) as error:
        raise DataError(
            f"the published script stops: {type(error).__name__}: {error}",
            where=str(predicted_path),
            hint="--mode corrected says what is wrong; --output writes what the script reads.",
        ) from error


def _published(path: Path, kind: str) -> Any:
    """Return the content of a file as the published readers do."""
    with path.open(encoding="utf-8") as file:
        if kind in ("answers", "rankings"):
            value = json.load(file)
            return files.unwrapped(value)
        if kind == "choices":
            return [json.loads(line)["label"] for line in file]
        lines = [line.strip() for line in file]
    if kind != "tags":
        return lines
    sentences: list[list[str]] = [[]]
    for line in lines:  # Each blank line ends a sentence, which may be empty.
        if line:
            sentences[-1].append(line)
        else:
            sentences.append([])
    return sentences if sentences[-1] else sentences[:-1]


def _official(gold: Any, predicted: Any, task: str, language: str) -> dict[str, float]:
    kind = KINDS[task]
    if kind == "answers":
        questions = [
            (question["id"], [answer["text"] for answer in question["answers"]])
            for article in gold
            for paragraph in article["paragraphs"]
            for question in paragraph["qas"]
        ]
        return answer_scores(questions, predicted, task, language)
    if kind == "rankings":
        ranks = [_reciprocal_rank(right[0].strip(), predicted, key) for key, right in gold.items()]
        return {"map@20": (total(ranks) / len(ranks) if ranks else 0.0) * 100}
    if kind == "pairs":
        return pair_scores(
            *([tuple(row.split("\t")) for row in rows] for rows in (gold, predicted))
        )
    if len(gold) != len(predicted):
        raise ValueError(f"{len(predicted)} predictions for {len(gold)} labels")
    if kind != "tags":
        right = sum(one == other for one, other in zip(gold, predicted, strict=True))
        return {"accuracy": right / len(predicted) * 100}
    for i, (one, other) in enumerate(zip(gold, predicted, strict=True), 1):
        if len(one) != len(other):  # Newer releases of seqeval stop, older ones shift all others.
            raise ValueError(f"sentence {i} has {len(other)} tags, and {len(one)} in the labels")
    older = [[[_as_in_seqeval_0(tag) for tag in s] for s in side] for side in (gold, predicted)]
    scores = tag_scores(*older)
    if task == "udpos":
        scores[NEWER] = tag_scores(gold, predicted)["f1"]
    return scores


def _reciprocal_rank(right: str, rankings: Mapping[str, Sequence[str]], key: str) -> float:
    ranking = rankings.get(key, [])[:K]
    return next((1 / rank for rank, each in enumerate(ranking, 1) if each == right), 0.0)


def _as_in_seqeval_0(tag: str) -> str:
    """Return the tag that has today the letter and type that it had in seqeval 0.0.12.

    There the type of a tag without a hyphen was the whole tag, also of the O that is added after
    each sentence. Today it is all but the first letter, and "_" for that O.
    """
    type_ = tag.split("-")[-1]
    return f"{tag[0]}-{'_' if type_ == 'O' else f'={type_}'}"


def corrected(gold: Any, predicted: Any, task: str, language: str) -> dict[str, float]:
    """Return the scores of values that `files.read` gave and that are aligned.

    They differ from the published ones in three tasks: UD-POS has accuracy, as in the papers,
    LAReQA has a score, and rankings count all right candidates, each once.
    """
    kind = KINDS[task]
    if kind == "answers":
        return answer_scores([*gold.items()], predicted, task, language)
    if kind == "rankings":
        precisions = [
            average_precision(right, predicted.get(q, []), K) for q, right in gold.items()
        ]
        return {"map@20": 100 * total(precisions) / len(precisions)}
    if kind == "pairs":
        return pair_scores(gold, predicted)
    if kind != "tags":
        right = sum(one == other for one, other in zip(gold, predicted, strict=True))
        return {"accuracy": 100 * right / len(gold)}
    sentences = [[tags for _, tags in side] for side in (gold, predicted)]
    if task == "udpos":
        return {"accuracy": 100 * entities.entity_scores(*sentences)["accuracy"]}
    return tag_scores(*sentences)


def answer_scores(
    questions: Sequence[tuple[str, Sequence[str]]],
    predicted: Mapping[str, str],
    task: str,
    language: str,
) -> dict[str, float]:
    """Return exact match and F1 of answers; a question without a prediction counts 0.

    Args:
      questions: Id and true answers of each question.
      predicted: Answers by id.
      task: "mlqa", which has rules of its own, or another one.
      language: ISO 639-1 code.

    Raises:
      ValueError: If a question has a prediction, but no true answer.
    """
    style: answers.Style = "mlqa" if task == "mlqa" else "squad"
    both = [(predicted[key], golds) for key, golds in questions if key in predicted]
    if not all(golds for _, golds in both):
        raise ValueError("a question has no true answer")
    return {
        name: 100.0 * total(metric(*one, language, style) for one in both) / len(questions)
        for name, metric in (("exact_match", answers.exact_match), ("f1", answers.f1))
    }


def tag_scores(gold: Sequence[list[str]], predicted: Sequence[list[str]]) -> dict[str, float]:
    """Return F1, precision and recall of entities, see `entities.entity_scores`."""
    scores = entities.entity_scores(gold or [["O"]], predicted or [["O"]])
    return {name: scores[name] * 100 for name in ("f1", "precision", "recall")}


def pair_scores(
    gold: Sequence[tuple[str, ...]], predicted: Sequence[tuple[str, ...]]
) -> dict[str, float]:
    """Return F1, precision and recall of the distinct pairs."""
    right = len({*gold} & {*predicted})
    if not right:
        return {"f1": 0.0, "precision": 0.0, "recall": 0.0}
    precision, recall = right / len({*predicted}), right / len({*gold})
    f1 = 2 * precision * recall / (precision + recall)
    return {"f1": f1 * 100, "precision": precision * 100, "recall": recall * 100}
