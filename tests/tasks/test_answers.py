"""Answers: the evaluation scripts by hand, and the search for the best against plain loops."""

from __future__ import annotations

import dataclasses
import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flaxfer.config import Source, Task
from flaxfer.data.sources import read_source
from flaxfer.errors import DataError, DivergedError
from flaxfer.tasks import task_type
from flaxfer.tasks.answers import (
    Answer,
    Window,
    answer_scores,
    best_answers,
    exact_match,
    f1,
    normalize,
)


@pytest.mark.parametrize(
    ("language", "style", "text", "expected"),
    [
        ("en", "squad", "The U.S.-led  (a) force!", "usled force"),
        ("en", "squad", "theatre an\tanswer\u00a0A", "theatre answer"),
        ("en", "squad", "“quoted” – ½ $5", "“quoted” – ½ 5"),
        ("de", "squad", "Die Hälfte, the half", "die hälfte half"),
        ("xx", "squad2", "An end.", "end"),
        ("en", "mlqa", "The “quoted” – ½ $5 €6", "quoted ½ 5 €6"),
        ("es", "mlqa", "¿La Casa de los Espíritus? Un día, unas", "casa de espíritus día"),
        ("de", "mlqa", "Die Hälfte des Tages: einem „Dem“, derb", "hälfte tages derb"),
        ("vi", "mlqa", "Những chiếc lá của cây là cái gì", "lá cây gì"),
        ("hi", "mlqa", "एक  लड़का। (a)", "एक लड़का a"),
        ("ar", "mlqa", "الكتاب، في المدينة؟", "كتاب في مدينة"),
        ("ar", "mlqa", "قال", "ق"),
        ("zh", "mlqa", "在1990年，北京 ABC def。", "在 1990 年 北 京 abc def"),
        # The script's Chinese characters are U+4E00 to U+9FA5: neither of another block, nor kana.
        ("zh", "mlqa", "㐀一龥龦か", "㐀 一 龥 龦か"),
        ("zh", "mlqa", "the 。！", "the"),
    ],
)
def test_what_is_compared(language, style, text, expected):
    assert normalize(text, language, style) == expected


@pytest.mark.parametrize(
    ("language", "style", "prediction", "golds", "expected"),
    [
        ("en", "squad", "the cat sat", ["a cat sat down"], (0.8, 0)),
        ("en", "squad", "b b c", ["b c c"], (2 / 3, 0)),
        ("en", "squad", "c b", ["b c"], (1, 0)),
        ("en", "squad", "The Cat.", ["dog", "cat"], (1, 1)),
        ("en", "squad", "cat", ["dog", "cat cat cat"], (0.5, 0)),
        ("en", "squad", "", ["dog"], (0, 0)),
        ("de", "squad", "Der Hund", ["Hund"], (2 / 3, 0)),
        ("de", "mlqa", "Der Hund", ["Hund"], (1, 1)),
        ("zh", "mlqa", "北京市", ["北京"], (0.8, 0)),
        ("zh", "squad", "北京市", ["北京"], (0, 0)),
        # No answer.
        ("en", "squad", "", [], (1, 1)),
        ("en", "squad2", "the", [], (1, 1)),
        ("de", "mlqa", "ein Hund", [], (0, 0)),
        ("en", "squad2", "", ["dog"], (0, 0)),
        # Of the true answer nothing is left: the scripts differ.
        ("en", "squad", "The", ["the"], (0, 1)),
        ("en", "mlqa", "The", ["the"], (0, 1)),
        ("en", "squad2", "The", ["the"], (1, 1)),
        ("en", "squad", "", ["the", "dog"], (0, 1)),
        ("en", "squad2", "", ["the", "dog"], (0, 0)),
    ],
)
def test_scores_of_an_answer(language, style, prediction, golds, expected):
    assert f1(prediction, golds, language, style) == pytest.approx(expected[0])
    assert exact_match(prediction, golds, language, style) == expected[1]


words = st.lists(st.sampled_from(["red", "green", "blue", "Red,", "a", "the", "!"]), max_size=8)


@given(words, st.lists(words, min_size=1, max_size=3))
def test_f1_is_twice_the_shared_words_over_all(prediction, golds):
    def left(texts):
        return [x.lower().rstrip(",") for x in texts if x not in ("a", "the", "!")]

    a, keys = left(prediction), [left(gold) for gold in golds]
    shared = [sum(min(a.count(x), key.count(x)) for x in {*a}) for key in keys]
    expected = [2 * n / (len(a) + len(b)) if n else 0 for n, b in zip(shared, keys, strict=True)]
    texts = [" ".join(gold) for gold in golds]
    assert f1(" ".join(prediction), texts, "en", "squad") == pytest.approx(max(expected))
    assert exact_match(" ".join(prediction), texts, "en", "squad") == (a in keys)


def test_means_are_fractions():
    predictions = ["the cat", "a cat sat", "", "Der Hund"]
    golds = [["cat"], ["cat", "dog"], [], ["Hund"]]
    languages = ["en", "en", "en", "de"]
    scores = answer_scores(predictions, golds, languages, "squad")
    assert scores == pytest.approx({"f1": (1 + 2 / 3 + 1 + 2 / 3) / 4, "exact_match": 2 / 4})
    scores = answer_scores(predictions, golds, languages, "mlqa")
    assert scores == pytest.approx({"f1": (1 + 2 / 3 + 1 + 1) / 4, "exact_match": 3 / 4})


@pytest.mark.parametrize("columns", [{}, {"language": "code"}])
def test_a_language_that_a_script_does_not_know_is_refused_with_the_data(tmp_path, columns):
    path = tmp_path / "data.jsonl"
    answers = [{"text": "Oslo", "answer_start": 0}]
    record = {"q": "where", "answers": answers, "c": "Oslo", "code": "ru"}
    path.write_text(json.dumps(record | {"code": "de"}) + "\n" + json.dumps(record) + "\n")
    columns |= {"text_a": "q", "answers": "answers", "text_b": "c"}
    source = Source(path=str(path), columns=columns, language="ru")
    task = Task("answers", "question_answering", "f1", answer_style="mlqa")
    with pytest.raises(DataError, match=r"language 'ru'(?s:.)*use the style \"squad\""):
        read_source(source, task, task_type(task))
    task = dataclasses.replace(task, answer_style="squad")
    assert len(read_source(source, task, task_type(task))) == 2


@pytest.mark.parametrize("language", ["en", "de", "es"])
@pytest.mark.parametrize("style", ["squad", "squad2", "mlqa"])
def test_true_answers_score_one(shared, language, style):
    data = json.loads((shared / f"data/xquad/xquad.{language}.json").read_text("utf-8"))["data"]
    golds = [
        [answer["text"] for answer in question["answers"]]
        for article in data
        for paragraph in article["paragraphs"]
        for question in paragraph["qas"]
    ]
    assert len(golds) == 1190
    languages = [language] * len(golds)
    scores = answer_scores([gold[0] for gold in golds], golds, languages, style)
    assert scores == {"f1": 1, "exact_match": 1}
    others = [gold[0] for gold in golds[1:] + golds[:1]]
    assert answer_scores(others, golds, languages, style)["f1"] < 0.2


def window(rng: np.random.Generator, context: str, tied: bool) -> Window:
    """Question, context and separators, with logits of few values or of many."""
    tokens = int(rng.integers(4, 25))
    begin = int(rng.integers(1, tokens - 1))
    end = int(rng.integers(begin + 1, tokens))
    cuts = np.sort(rng.choice(len(context) + 1, size=end - begin + 1, replace=False))
    span = np.full((tokens, 2), -1, np.int32)
    span[begin:end] = np.stack([cuts[:-1], cuts[1:]], axis=1)
    logits = rng.integers(0, 3, (tokens, 2)) if tied else rng.normal(size=(tokens, 2)) * 3
    cls = int(rng.choice([0, tokens - 1]))
    logits[cls] += int(rng.integers(0, 3))
    return Window(logits.astype(np.float32), span, cls)


def plain_loops(
    windows: list[Window], context: str, n_best: int, longest: int, no_answer: bool
) -> tuple[str, list[Answer]]:
    """The answer to give and the list from the best score down, one candidate at a time."""
    found: list[tuple[float, int, int, int, str, tuple[int, int]]] = []
    nulls = []
    for number, (logits, span, cls) in enumerate(windows):
        start, end = logits.T
        nulls.append(float(start[cls]) + float(end[cls]))
        starts, ends = (
            sorted(range(len(x)), key=lambda i, x=x: (-x[i], i))[:n_best] for x in (start, end)
        )
        for first in starts:
            for last in ends:
                outside = span[first][0] == -1 or span[last][0] == -1
                if outside or last < first or last - first + 1 > longest:
                    continue
                score = float(start[first]) + float(end[last])
                place = int(span[first][0]), int(span[last][1])
                text = context[place[0] : place[1]]
                found.append((-score, number, first, last, text, place))
    if no_answer:
        found.append((-min(nulls), len(windows), 0, 0, "", (0, 0)))
    found.sort()
    kept = found[:n_best]
    kept += [x for x in found[n_best:] if x[4] == ""]
    scores = [-x[0] for x in kept]
    total = sum(math.exp(score - scores[0]) for score in scores)
    answers = [
        Answer(x[4], score, math.exp(score - scores[0]) / total, x[5])
        for x, score in zip(kept, scores, strict=True)
    ]
    if not answers:
        return "", [Answer("", 0.0, 1.0, (0, 0))]
    full = [answer for answer in answers if answer.text]
    if no_answer and (not full or min(nulls) > full[0].score):
        return "", answers
    return full[0].text, answers


CONTEXT = "Panthers' defence, ranked sixth of 32, gave up just 308 points to them."


@settings(deadline=None, max_examples=300)
@given(
    seed=st.integers(0, 2**32 - 1),
    tied=st.booleans(),
    n_best=st.integers(1, 9),
    longest=st.integers(1, 9),
    no_answer=st.booleans(),
)
def test_best_answers_are_those_of_plain_loops(seed, tied, n_best, longest, no_answer):
    rng = np.random.default_rng(seed)
    windows = [window(rng, CONTEXT, tied) for _ in range(rng.integers(1, 4))]
    given_answer, answers = plain_loops(windows, CONTEXT, n_best, longest, no_answer)
    actual = best_answers(
        windows, CONTEXT, n_best=n_best, max_answer_tokens=longest, no_answer=no_answer
    )
    chosen = next(i for i, answer in enumerate(answers) if answer.text == given_answer)
    expected = [answers[chosen], *answers[:chosen], *answers[chosen + 1 :]]
    assert [x.text for x in actual] == [x.text for x in expected]
    assert [x.score for x in actual] == [x.score for x in expected]
    np.testing.assert_allclose(
        [x.probability for x in actual], [x.probability for x in expected], rtol=1e-12
    )


def hand_window(start: list[float], end: list[float], first: int = 0) -> Window:
    """A CLS token, then the words of "one two six" from `first` on."""
    spans = [[-1, -1], *[[0, 3], [4, 7], [8, 11]][first:]]
    return Window(np.array([start, end], np.float32).T, np.array(spans), 0)


def best(
    *windows: Window, n_best: int = 2, longest: int = 9, no_answer: bool = False
) -> list[Answer]:
    return best_answers(
        windows, "one two six", n_best=n_best, max_answer_tokens=longest, no_answer=no_answer
    )


def test_best_answers_by_hand():
    one = hand_window([9, 3, 1, 0], [9, 0, 2, 1])
    two = hand_window([6, 2, 0], [0, 4, 1], first=1)
    answers = best(one, two, n_best=3, longest=2)
    weights = [math.exp(x - 6) for x in (6, 5, 3)]
    assert [x.text for x in answers] == ["two", "one two", "two"]
    assert [x.score for x in answers] == [6, 5, 3]
    assert [x.probability for x in answers] == pytest.approx([x / sum(weights) for x in weights])


@pytest.mark.parametrize(
    ("null", "expected"), [(6.5, ["", "two", "one two"]), (6, ["two", "", "one two"])]
)
def test_no_answer_wins_if_it_is_better_than_the_best_answer(null, expected):
    one = hand_window([9, 3, 1, 0], [9, 0, 2, 1])
    two = hand_window([null, 2, 0], [0, 4, 1], first=1)
    answers = best(one, two, n_best=3, longest=2, no_answer=True)
    assert [x.text for x in answers] == expected
    assert {x.text: x.score for x in answers} == {"": null, "two": 6, "one two": 5}


@pytest.mark.parametrize(("no_answer", "expected"), [(True, ["two", "", ""]), (False, ["", "two"])])
def test_a_span_of_whitespace_is_not_chosen_instead_of_an_answer(no_answer, expected):
    logits, spans = [[0, 0], [5, 5], [4, 4]], [[-1, -1], [4, 4], [4, 7]]
    window = Window(np.array(logits, np.float32), np.array(spans), 0)
    answers = best(window, longest=1, no_answer=no_answer)
    assert [x.text for x in answers] == expected
    assert [x.score for x in answers] == ([8, 10, 0] if no_answer else [10, 8])


def test_no_answer_is_listed_also_when_it_is_not_among_the_best():
    answers = best(hand_window([0, 3, 1, 0], [0, 4, 2, 1]), no_answer=True)
    assert [(x.text, x.score) for x in answers] == [("one", 7), ("one two", 5), ("", 0)]


def test_without_a_span_there_is_an_empty_answer():
    window = hand_window([9, 0, 0, 5], [8, 5, 0, 0])
    assert best(window) == [Answer("", 0.0, 1.0, (0, 0))]
    assert best(window, no_answer=True) == [Answer("", 17.0, 1.0, (0, 0))]


def test_large_logits_have_probabilities():
    answers = best(hand_window([0, 3e4, 0, 0], [0, 3e4, 3e4, 0]))
    assert [x.probability for x in answers] == [0.5, 0.5]


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_logits_that_are_not_finite_are_an_error(value):
    for place in (0, 1):
        logits = [[0.0, 1, 2, 3], [0.0, 1, 2, 3]]
        logits[place][2] = value
        with pytest.raises(DivergedError, match="not all finite"):
            best(hand_window(*logits))
