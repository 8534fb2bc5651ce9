"""Entities against seqeval, well-formed or not, and by hand."""

from __future__ import annotations

import math
import warnings

import pytest
import seqeval.metrics
from hypothesis import example, given, settings
from hypothesis import strategies as st
from seqeval.metrics.sequence_labeling import get_entities
from sklearn.exceptions import UndefinedMetricWarning

from flaxfer.errors import DataError
from flaxfer.tasks.entities import Counts, entity_counts, entity_scores, entity_spans, is_bio

BIO = ("O", "B-PER", "I-PER", "B-LOC", "I-LOC")
IOBES = (*BIO, "E-PER", "S-PER", "E-LOC", "S-LOC", "B", "I", "E", "S", "B-PER-X", "I-")
# Not of any scheme; some of them begin with a letter that is.
SPEECH = ("NOUN", "VERB", "INTJ", "ADP", "ADV", "X", "SYM", "O", ".", ".-PER", "O-PER", "-")
Sentences = list[list[str]]


@st.composite
def tagged(draw: st.DrawFn, tags: tuple[str, ...]) -> tuple[Sentences, Sentences]:
    """Sentences of tags in any order, and predictions of which some are right."""
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
@given(st.lists(st.sampled_from(IOBES + SPEECH), max_size=12))
def test_spans_are_those_of_seqeval(tags):
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".* seems not to be NE tag", UserWarning)
        assert entity_spans(tags) == get_entities(tags)


@settings(deadline=None)
@given(tagged(IOBES))
def test_counts_of_each_type_are_those_of_seqeval(data):
    counts = entity_counts(*data)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UndefinedMetricWarning)
        precision, recall, f1, support = (
            seqeval.metrics.sequence_labeling.precision_recall_fscore_support(*data)
        )
    each = counts.values()
    assert [x.precision for x in each] == precision.tolist()
    assert [x.recall for x in each] == recall.tolist()
    assert [x.f1 for x in each] == f1.tolist()
    assert [x.gold for x in each] == support.tolist()
    spans = [(kind, i) for i, tags in enumerate(data[1]) for kind, _, _ in entity_spans(tags)]
    assert {name: x.predicted for name, x in counts.items() if x.predicted} == {
        name: sum(kind == name for kind, _ in spans) for name, _ in spans
    }
    assert list(counts) == sorted(counts)


def test_counts_by_hand():
    gold = [["B-PER", "I-PER", "O", "B-LOC"], ["B-LOC", "I-LOC"], ["O", "B-ORG"]]
    predicted = [["B-PER", "I-PER", "O", "B-PER"], ["B-LOC", "B-LOC"], ["O", "B-ORG"]]
    assert entity_counts(gold, predicted) == {
        "LOC": Counts(correct=0, predicted=2, gold=2),
        "ORG": Counts(correct=1, predicted=1, gold=1),
        "PER": Counts(correct=1, predicted=2, gold=1),
    }
    assert entity_scores(gold, predicted) == pytest.approx(
        {"f1": 4 / 9, "precision": 2 / 5, "recall": 2 / 4, "accuracy": 6 / 8}
    )


@pytest.mark.parametrize(
    ("tags", "spans"),
    [
        ("B-A I-A O B-A", [("A", 0, 1), ("A", 3, 3)]),
        ("O I-A I-A", [("A", 1, 2)]),
        ("B-A I-B I-B", [("A", 0, 0), ("B", 1, 2)]),
        ("I-A B-A I-A", [("A", 0, 0), ("A", 1, 2)]),
        ("B-A E-A E-A S-A", [("A", 0, 1), ("A", 2, 2), ("A", 3, 3)]),
        ("B I O", [("_", 0, 1)]),
        ("O O", []),
        ("", []),
    ],
)
def test_spans_by_hand(tags, spans):
    assert entity_spans(tags.split()) == spans


@settings(deadline=None)
@given(tagged(BIO), st.data())
def test_words_without_a_tag_count_nowhere(data, draw):
    gold, predicted = data
    kept = [[draw.draw(st.sampled_from([True, True, None, -1])) for _ in tags] for tags in gold]
    marked = [
        [tag if keep is True else keep for tag, keep in zip(*x, strict=True)]
        for x in zip(gold, kept, strict=True)
    ]
    only = [
        [
            [tag for tag, keep in zip(*x, strict=True) if keep is True]
            for x in zip(side, kept, strict=True)
        ]
        for side in data
    ]
    unread = [
        [tag if keep is True else None for tag, keep in zip(*x, strict=True)]
        for x in zip(predicted, kept, strict=True)
    ]
    if any(only[0]):
        assert entity_scores(marked, predicted) == expected_scores(*only)
        assert entity_scores(marked, unread) == expected_scores(*only)
    assert entity_counts(marked, predicted) == entity_counts(*only)


@pytest.mark.parametrize("gold", [[], [[]], [[None, -1], []]])
def test_no_word_is_undefined(gold):
    scores = entity_scores(gold, [["O"] * len(tags) for tags in gold])
    assert list(scores) == ["f1", "precision", "recall", "accuracy"]
    assert all(math.isnan(value) for value in scores.values())
    assert entity_counts(gold, [["O"] * len(tags) for tags in gold]) == {}


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        (BIO, True),
        (IOBES[:9], True),
        (("I-PER", "O"), True),
        (("O", "B", "I"), True),
        (("O",), False),
        ((), False),
        (("NOUN", "VERB", "INTJ", "X"), False),
        ((*BIO, "L-PER", "U-PER"), False),
        ((*BIO, ""), False),
        ((*BIO, "B-"), False),
        (("B_PER", "O"), False),
        (("O-PER", "B-PER"), False),
    ],
)
def test_which_labels_mark_entities(labels, expected):
    assert is_bio(labels) is expected


@pytest.mark.parametrize(
    ("gold", "predicted", "match"),
    [
        ([["O"]], [], "1 tagged sentences have 0 predictions"),
        ([["O"], ["O", "O"]], [["O"], ["O"]], "sentence 1 has 2 words and 1 predicted"),
        ([["O", "B-A"]], [["O", None]], "None in the place of a tag"),
        ([["O", "B-A"]], [["O", ""]], "'' in the place of a tag"),
        ([["O", 3]], [["O", "O"]], "3 in the place of a tag"),
    ],
)
def test_what_cannot_be_scored_is_an_error(gold, predicted, match):
    for score in (entity_scores, entity_counts):
        with pytest.raises(DataError, match=match):
            score(gold, predicted)


def test_a_tag_without_letters_has_no_span():
    with pytest.raises(DataError, match="in the place of a tag"):
        entity_spans(["O", ""])
