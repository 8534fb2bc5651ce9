"""Entities against seqeval, well-formed or not, and by hand."""

from __future__ import annotations

import itertools
import warnings

import pytest
import seqeval.metrics
from hypothesis import example, given, settings
from hypothesis import strategies as st
from seqeval.metrics.sequence_labeling import get_entities
from sklearn.exceptions import UndefinedMetricWarning

from flaxfer.tasks.entities import entities_of, entity_scores, sentence_counts

BIO = ("O", "B-PER", "I-PER", "B-LOC", "I-LOC")
IOBES = (*BIO, "E-PER", "S-PER", "E-LOC", "S-LOC", "B", "I", "E", "S", "B-PER-X", "I-")
# Not of any scheme; some of them begin with a letter that is.
SPEECH = ("NOUN", "VERB", "INTJ", "ADP", "ADV", "X", "SYM", "O", ".", ".-PER", "O-PER", "-")
Sentences = list[list[str]]


@st.composite
def tagged(draw: st.DrawFn, tags: tuple[str, ...]) -> tuple[Sentences, Sentences]:
    """Sentences of random tags, and predictions that are partly right."""
    word = st.tuples(st.sampled_from(tags), st.sampled_from(tags), st.booleans())
    words = draw(
        st.lists(st.lists(word, max_size=9), min_size=1, max_size=5).filter(lambda x: any(x))
    )
    gold = [[tag for tag, _, _ in sentence] for sentence in words]
    return gold, [[t if right else other for t, other, right in sentence] for sentence in words]


def expected_scores(gold: Sentences, predicted: Sentences) -> dict[str, float]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UndefinedMetricWarning)  # A share of no entities.
        warnings.filterwarnings("ignore", ".* seems not to be NE tag", UserWarning)
        return {
            name: getattr(seqeval.metrics, f"{name}_score")(gold, predicted)
            for name in ("f1", "precision", "recall", "accuracy")
        }


@settings(deadline=None)
@given(st.one_of(tagged(BIO), tagged(IOBES), tagged(SPEECH), tagged(IOBES + SPEECH)))
@example(([["O", "I-PER", "I-LOC"]], [["I-PER", "I-PER", "B-LOC"]]))
@example(([["NOUN"], ["X", "NOUN"]], [["O"], ["X", "NOUN"]]))  # A start of the sentence before.
def test_scores_are_those_of_seqeval(data):
    assert entity_scores(*data) == expected_scores(*data)


@settings(deadline=None)
@given(tagged(IOBES))
def test_counts_of_sentences_are_those_of_seqeval(data):
    rows = []
    for gold, predicted in zip(*data, strict=True):
        true, guessed = set(get_entities(gold)), set(get_entities(predicted))
        right = sum(one == other for one, other in zip(gold, predicted, strict=True))
        rows.append([len(true & guessed), len(guessed), len(true), right, len(gold)])
    assert sentence_counts(*data).tolist() == rows


@settings(deadline=None)
@given(tagged(IOBES))
def test_entities_of_a_sentence_are_those_of_seqeval(data):
    for tags in data[0]:
        found = [(type_, first, end - 1) for first, end, type_ in entities_of(tags)]
        assert found == get_entities(tags)


def test_counts_by_hand():
    gold = [["B-PER", "I-PER", "O", "B-LOC"], ["B-LOC", "I-LOC"], ["O", "B-ORG"]]
    predicted = [["B-PER", "I-PER", "O", "B-PER"], ["B-LOC", "B-LOC"], ["O", "B-ORG"]]
    assert sentence_counts(gold, predicted).tolist() == [
        [1, 2, 2, 3, 4], [0, 2, 1, 1, 2], [1, 1, 1, 2, 2],
    ]  # fmt: skip
    assert entity_scores(gold, predicted) == pytest.approx(
        {"f1": 4 / 9, "precision": 2 / 5, "recall": 2 / 4, "accuracy": 6 / 8}
    )


@pytest.mark.parametrize(
    ("tags", "entities"),
    [
        ("B-A I-A O B-A", 2),
        ("O I-A I-A", 1),
        ("B-A I-B I-B", 2),
        ("I-A B-A I-A", 2),
        ("B-A E-A E-A S-A", 3),
        ("B I O", 1),
        ("O O", 0),
    ],
)
def test_entities_by_hand(tags, entities):
    sentence = [tags.split()]
    assert sentence_counts(sentence, sentence)[0, :3].tolist() == [entities] * 3


@settings(deadline=None)
@given(tagged(BIO), st.data())
def test_words_without_a_tag_count_nowhere(data, draw):
    gold, predicted = data
    kept = [[draw.draw(st.sampled_from([True, True, False])) for _ in tags] for tags in gold]
    marked = [
        [tag if keep else None for tag, keep in zip(*x, strict=True)]
        for x in zip(gold, kept, strict=True)
    ]
    only = [[list(itertools.compress(*x)) for x in zip(side, kept, strict=True)] for side in data]
    if any(only[0]):
        assert entity_scores(marked, predicted) == expected_scores(*only)
    assert sentence_counts(marked, predicted).tolist() == sentence_counts(*only).tolist()


@pytest.mark.parametrize(("gold", "predicted"), [([["O"]], []), ([["O", "O"]], [["O"]])])
def test_numbers_of_sentences_and_words_must_agree(gold, predicted):
    for score in (entity_scores, sentence_counts):
        with pytest.raises(ValueError, match="argument 2 is shorter"):
            score(gold, predicted)
