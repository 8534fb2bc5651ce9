"""Schemes of tags: detection, settings, and entities against both modes of seqeval."""

from __future__ import annotations

import itertools
import json
import logging
import warnings
from pathlib import Path

import numpy as np
import pytest
import seqeval.metrics
import seqeval.scheme
import sklearn.metrics
from hypothesis import given, settings
from hypothesis import strategies as st
from seqeval.metrics.sequence_labeling import get_entities
from sklearn.exceptions import UndefinedMetricWarning

from flaxfer.config import Source, Task
from flaxfer.data.sources import read_source
from flaxfer.tasks import task_type
from flaxfer.tasks.entities import scores_of_counts
from flaxfer.tasks.measuring import measure
from flaxfer.tasks.schemes import LETTERS, Scheme, scheme_of

TAGGING = task_type(Task("t", "tagging", "f1"))
CONLL_2003 = ("I-ORG", "O", "I-MISC", "I-PER", "I-LOC", "B-LOC", "B-MISC", "B-ORG")


def tags_of(letters: str, types: tuple[str, ...] = ("PER", "LOC"), spelling: str = "{}-{}"):
    return ("O", *(spelling.format(letter, type_) for letter in letters for type_ in types))


def task(labels: tuple[str, ...], metric: str = "f1", **settings) -> Task:
    return Task("t", "tagging", metric, labels, **settings)


def scheme(labels: tuple[str, ...], **settings) -> Scheme:
    found = scheme_of(task(labels, **settings))
    assert found is not None
    return found


def findings(task: Task) -> list[str]:
    return [text for _, text in TAGGING.check_task("task", task)]


@pytest.mark.parametrize(
    ("labels", "name", "first"),
    [
        (tags_of("BI"), "iob2", ("B", "PER")),
        (CONLL_2003, "iob1", ("I", "ORG")),
        (tags_of("I"), "iob1", ("I", "PER")),
        (tags_of("B"), "iob2", ("B", "PER")),
        (tags_of("IE"), "ioe2", ("I", "PER")),
        (("O", "I-PER", "I-LOC", "E-LOC"), "ioe1", ("I", "PER")),
        (tags_of("BIES"), "iobes", ("B", "PER")),
        (tags_of("BES"), "iobes", ("B", "PER")),
        (tags_of("BILU"), "bilou", ("B", "PER")),
        (tags_of("LU"), "bilou", ("E", "PER")),
        (tags_of("BMES"), "bmes", ("B", "PER")),
        (tags_of("BMEW"), "bmewo", ("B", "PER")),
        (("B", "M", "E", "S"), "bmes", ("B", "")),
        (("B", "I", "O"), "iob2", ("B", "")),
        (("B", "I"), "iob2", ("B", "")),
        (("I", "O"), "iob1", ("I", "")),
        (("B-PER", "I-PER"), "iob2", ("B", "PER")),
        (tags_of("BI", spelling="{}_{}"), "iob2", ("B", "PER")),
        (tags_of("BI", spelling="{}:{}"), "iob2", ("B", "PER")),
        (("O", "PER-B", "PER-I"), "iob2", ("B", "PER")),
        (("O", "PER_S", "PER_E", "PER_B", "PER_I"), "iobes", ("S", "PER")),
        (("O", "B-GPE-NAM", "I-GPE-NAM", "B-GPE_NOM"), "iob2", ("B", "GPE-NAM")),
        (("O", "GPE-NAM-B", "GPE-NAM-I"), "iob2", ("B", "GPE-NAM")),
    ],
)
def test_the_scheme_and_spelling_are_detected(labels, name, first):
    found = scheme(labels)
    assert found.name == name
    assert found.tags[next(label for label in labels if label != "O")] == first
    assert findings(task(labels)) == []
    assert name in TAGGING.scoring(task(labels)) and "default mode" in TAGGING.scoring(task(labels))


@pytest.mark.parametrize(
    "labels",
    [
        ("PERSON", "ORGANIZATION", "O"),
        ("NOUN", "VERB", "ADJ", "ADP", "X", "SYM", "INTJ"),
        ("O", "B-PER", "I-PER", "LOC"),
        ("O", "B-PER", "I-PER", "LOC-B"),
        ("O", "B-PER", "B_LOC"),
        ("O", "E-PER", "L-LOC"),
        ("O", "B-PER", "B"),
        ("O", "o"),
        ("S", "M"),
        ("S", "M", "L"),
        ("NOUN-M", "VERB-M"),
        ("O", "b-per", "i-per"),
    ],
)
def test_other_tags_are_classes_of_words(labels):
    assert scheme_of(task(labels)) is None
    assert TAGGING.metrics_of(task(labels)) == ("accuracy", "macro_f1", "mcc")
    (finding,) = findings(task(labels))
    assert "counts entities" in finding and "use 'accuracy'" in finding
    assert findings(task(labels, "accuracy")) == []
    assert "classes of words" in TAGGING.scoring(task(labels))


def test_a_tag_that_is_spelled_unlike_the_others_is_named():
    (finding,) = findings(task(("O", "B-PER", "I-PER", "LOC-B")))
    assert "'LOC-B' is not spelled like the others" in finding


@pytest.mark.parametrize(
    ("labels", "metric", "settings", "message"),
    [
        (tags_of("BI"), "mcc", {}, "the labels mark entities (iob2)"),
        (tags_of("BI"), "f1", {"tag_scheme": "none"}, "tag_scheme 'none' excludes"),
        (tags_of("BI"), "f1", {"tag_scheme": "bilou"}, None),
        (tags_of("BIES"), "f1", {"tag_scheme": "bilou"}, "the letters B, I, L, U"),
        (("A", "O"), "accuracy", {"tag_scheme": "iob1"}, "the letters B, I"),
        (("A", "O"), "accuracy", {"strict_entities": True}, "strict_entities: needs labels"),
        (("A", "O"), "f1", {"tag_scheme": "chunks"}, None),
        (("A", "O"), "f1", {"tag_scheme": "chunks", "strict_entities": True}, "strict_entities"),
        (tags_of("BI"), "accuracy", {"tag_scheme": "none"}, None),
        (tags_of("BI"), "f1", {"tag_scheme": "iob1", "strict_entities": True}, None),
    ],
)
def test_settings_that_do_not_fit_the_labels_are_refused(labels, metric, settings, message):
    found = findings(task(labels, metric, **settings))
    assert len(found) == (message is not None)
    assert message is None or message in found[0]


@st.composite
def tagged(draw: st.DrawFn, labels: tuple[str, ...]):
    """Sentences of random tags, legal or not, and predictions that are partly right."""
    word = st.tuples(st.sampled_from(labels), st.sampled_from(labels), st.booleans())
    words = draw(st.lists(st.lists(word, min_size=1, max_size=7), min_size=1, max_size=4))
    gold = [[tag for tag, _, _ in sentence] for sentence in words]
    return gold, [[t if right else other for t, other, right in sentence] for sentence in words]


def of_seqeval(gold, predicted, **settings) -> dict[str, float]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UndefinedMetricWarning)  # A share of no entities.
        return {
            name: getattr(seqeval.metrics, f"{name}_score")(gold, predicted, **settings)
            for name in ("f1", "precision", "recall")
        } | {"accuracy": seqeval.metrics.accuracy_score(gold, predicted)}


STRICT = {
    "iob1": ("BI", seqeval.scheme.IOB1),
    "iob2": ("BI", seqeval.scheme.IOB2),
    "ioe1": ("IE", seqeval.scheme.IOE1),
    "ioe2": ("IE", seqeval.scheme.IOE2),
    "iobes": ("BIES", seqeval.scheme.IOBES),
    "bilou": ("BILU", seqeval.scheme.BILOU),
}


@pytest.mark.parametrize("name", STRICT)
@settings(deadline=None, max_examples=60)
@given(data=st.data())
def test_strict_entities_are_those_of_seqeval(name, data):
    letters, theirs = STRICT[name]
    labels = tags_of(letters)
    gold, predicted = data.draw(tagged(labels))
    ours = scheme(labels, tag_scheme=name, strict_entities=True)
    actual = scores_of_counts(ours.counts(gold, predicted))
    assert actual == pytest.approx(of_seqeval(gold, predicted, mode="strict", scheme=theirs))
    for tags in gold:
        found = [
            (one.start, one.end, one.tag) for one in seqeval.scheme.Tokens(tags, theirs).entities
        ]
        assert ours.entities(tags) == sorted(found)


@pytest.mark.parametrize("letters", ["BI", "IE", "BIES"])
@pytest.mark.parametrize(
    ("spelling", "suffix"), [("{}-{}", False), ("{}_{}", False), ("{1}-{0}", True)]
)
@settings(deadline=None, max_examples=30)
@given(data=st.data())
def test_default_entities_are_those_of_seqeval_in_every_spelling(letters, spelling, suffix, data):
    gold, predicted = data.draw(tagged(tags_of(letters)))
    respelled = dict(zip(tags_of(letters), tags_of(letters, spelling=spelling), strict=True))
    labels = tags_of(letters, spelling=spelling)
    ours = [[[respelled[tag] for tag in tags] for tags in side] for side in (gold, predicted)]
    actual = scores_of_counts(scheme(labels).counts(*ours))
    theirs = ours if suffix else (gold, predicted)
    assert actual == of_seqeval(*theirs, suffix=suffix)
    for spelled, tags in zip(ours[0], gold, strict=True):
        found = [(type_, first, end - 1) for first, end, type_ in scheme(labels).entities(spelled)]
        assert found == get_entities(tags)


@pytest.mark.parametrize("letters", ["BILU", "BMES", "BMEW"])
def test_legal_sequences_have_the_same_entities_in_all_schemes(letters):
    iobes = [["B-A", "I-A", "E-A", "S-A", "S-A", "O", "B-B", "E-B"], ["S-B", "B-B", "E-B"]]
    wrong = [["B-A", "E-A", "O", "S-A", "S-A", "O", "B-B", "E-B"], ["S-A", "B-B", "E-B"]]
    written = dict(zip("BIESO", f"{letters}O", strict=True))
    if letters == "BILU":
        written |= {"E": "L", "S": "U"}
    gold, predicted = (
        [[written[tag[0]] + tag[1:] for tag in tags] for tags in side] for side in (iobes, wrong)
    )
    labels = tags_of(letters, ("A", "B"))
    for strict in (False, True):
        actual = scores_of_counts(scheme(labels, strict_entities=strict).counts(gold, predicted))
        assert actual == pytest.approx(of_seqeval(iobes, wrong))
        assert actual["f1"] == pytest.approx(2 * 4 / 12)


def test_entities_of_plain_letters():
    gold, predicted = [["B", "I", "O", "B", "B"]], [["B", "I", "O", "B", "I"]]
    assert scheme(("B", "I", "O")).counts(gold, predicted).tolist() == [[1, 2, 3, 4, 5]]
    assert of_seqeval(gold, predicted)["f1"] == pytest.approx(2 / 5)


def test_neighbours_of_iob1_are_told_apart_by_b():
    tags = [["I-PER", "I-PER", "B-PER", "I-LOC", "I-PER"]]
    assert scheme((*CONLL_2003, "B-PER")).counts(tags, tags)[0, 2] == 4
    ours = scheme((*CONLL_2003, "B-PER"), tag_scheme="iob1", strict_entities=True)
    assert ours.strict_entities(tags[0]) == {
        (0, 2, "PER"), (2, 3, "PER"), (3, 4, "LOC"), (4, 5, "PER"),
    }  # fmt: skip


@pytest.mark.parametrize("strict", [False, True])
def test_words_without_a_tag_are_skipped(strict):
    gold = [["B-PER", None, "I-PER", "O"], ["O", "O", None]]
    predicted = [["B-PER", "O", "I-PER", "O"], ["O", "B-LOC", "B-LOC"]]
    counts = scheme(tags_of("BI"), strict_entities=strict).counts(gold, predicted)
    assert counts.tolist() == [[1, 1, 1, 3, 3], [0, 1, 0, 1, 2]]


def test_a_tag_that_is_no_label_is_an_error():
    for gold, predicted in (([["B-X"]], [["O"]]), ([["O"]], [["B-X"]])):
        with pytest.raises(ValueError, match=r"'B-X' is none of the tags O, B-PER"):
            scheme(tags_of("BI")).counts(gold, predicted)


def test_chunks_of_any_tags_are_those_of_seqeval():
    gold, predicted = [["NOUN", "NOUN", "VERB"]], [["NOUN", "VERB", "VERB"]]
    with pytest.warns(UserWarning, match="not to be NE tag"):
        expected = seqeval.metrics.f1_score(gold, predicted)
    found = scheme(("NOUN", "VERB"), tag_scheme="chunks")
    assert scores_of_counts(found.counts(gold, predicted))["f1"] == expected


@settings(deadline=None, max_examples=40)
@given(tagged(("NOUN", "VERB", "O", "X")), st.sampled_from(["accuracy", "macro_f1", "mcc"]))
def test_metrics_of_words_are_those_of_scikit_learn(data, metric):
    gold, predicted = data
    tags = task(("O", "X", "VERB", "NOUN", "ADP"), "accuracy")
    ours = TAGGING.resampled(tags, metric, "en", gold, [predicted, gold])
    y, z = (list(itertools.chain(*side)) for side in data)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # One class alone.
        expected = {
            "accuracy": sklearn.metrics.accuracy_score,
            "macro_f1": lambda y, z: sklearn.metrics.f1_score(
                y, z, average="macro", zero_division=0
            ),
            "mcc": sklearn.metrics.matthews_corrcoef,
        }[metric]
        assert ours.observed() == pytest.approx([expected(y, z), expected(y, y)], abs=1e-12)
        weights = np.arange(len(gold))[None] + 1.0
        repeated = [
            list(itertools.chain(*(tags * (i + 1) for i, tags in enumerate(side)))) for side in data
        ]
        assert ours.values(weights)[0, 0] == pytest.approx(expected(*repeated), abs=1e-12)


def test_tags_without_prefixes_have_no_entity_f1(tmp_path):
    # At an accuracy of one half, every entity of the same words seemed right.
    labels = ("PERSON", "ORGANIZATION", "O")
    tags = task(labels, "accuracy")
    with pytest.raises(ValueError, match="f1 is not defined for the tags PERSON"):
        TAGGING.resampled(tags, "f1", "en", [["PERSON"]], [[["O"]]])
    _, learning = measure(tags, "accuracy", "en", [["PERSON", "O"]], [[["O", "O"]]])
    assert [(one.name, one.score) for one in learning] == [("mcc", 0.0)]
    assert TAGGING.learning_score({"accuracy": 0.5, "mcc": 0.25}, 0) == ("mcc", 0.25)
    assert TAGGING.learning_score({"accuracy": 0.5, "f1": 0.75}, 0) == ("f1", 0.75)


def test_true_entities_that_strict_scoring_ignores_are_counted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    file = tmp_path / "data.jsonl"
    tags = [["I-PER", "O"], ["B-PER", "I-PER"]]
    file.write_text("\n".join(json.dumps({"w": ["a", "b"], "t": each}) for each in tags))
    source = Source(str(file), columns={"words": "w", "tags": "t"})
    caplog.set_level(logging.WARNING)
    labels = tags_of("BI")
    read_source(source, task(labels, tag_scheme="iob1", strict_entities=True), TAGGING)
    read_source(source, task(labels), TAGGING)
    assert caplog.text == ""
    read_source(source, task(labels, tag_scheme="iob2", strict_entities=True), TAGGING)
    assert "iob2 allows 1 entities, but the tags hold 2" in caplog.text


def test_every_scheme_can_be_set():
    from typing import get_args

    from flaxfer.config.fields import TagScheme

    assert set(get_args(TagScheme)) == {*LETTERS, "auto", "chunks", "none"}
