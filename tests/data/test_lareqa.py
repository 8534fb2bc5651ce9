"""XQuAD-R: sentences of all languages that answer a question."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from flaxfer.config import Source, Task
from flaxfer.data.sentence_breaks import sentence_breaks
from flaxfer.errors import DataError
from tests.data.helpers import read

FIND = Task("lareqa", "retrieval", "map_at_20")
SENTENCES = {
    "en": ["It rained.", "The dog slept.", "A cat ran 3 miles."],
    "de": ["Es regnete.", "Der Hund schlief.", "Eine Katze lief 3 Meilen."],
}
ANSWERS = {
    "en": {"q1": "dog", "q2": "3 miles", "q3": " The dog"},
    "de": {"q1": "Hund schlief", "q2": "regnete. Der", "q3": "Es"},
}


def document(language: str) -> dict[str, Any]:
    context = " ".join(SENTENCES[language])
    starts = [context.index(each) for each in SENTENCES[language]]
    ends = [start + len(each) for start, each in zip(starts, SENTENCES[language], strict=True)]
    asked = [
        {
            "id": identity,
            "question": f"{language} {identity}?",
            "answers": [{"text": text, "answer_start": context.index(text)}],
        }
        for identity, text in ANSWERS[language].items()
    ]
    paragraph = {
        "context": context,
        "sentences": SENTENCES[language],
        "sentence_breaks": [list(pair) for pair in zip(starts, ends, strict=True)],
        "qas": asked,
    }
    return {"data": [{"title": "t", "paragraphs": [paragraph]}], "version": "1.1"}


def write(folder: Path, **changed: Any) -> Path:
    (folder / "xquad-r").mkdir()
    for language in SENTENCES:
        content = document(language)
        content["data"][0]["paragraphs"][0] |= changed
        path = folder / "xquad-r" / f"{language}.json"
        path.write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")
    return folder / "xquad-r"


def passages(language: str) -> list[str]:
    """Return each sentence, followed by the paragraph."""
    return [sentence + " ".join(SENTENCES[language]) for sentence in SENTENCES[language]]


def test_right_passages_are_those_of_all_languages(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Two answers go over the end of the sentence that they begin in, and one between two."""
    folder = write(tmp_path)
    with caplog.at_level("INFO", logger="flaxfer.data"):
        examples = read(Source(str(folder), format="lareqa"), FIND)
    assert "1 questions whose answer begins in no sentence skipped" in caplog.text
    assert examples.id == ("de/q1", "de/q2", "de/q3", "en/q1", "en/q2")
    assert examples.text_a == ("de q1?", "de q2?", "de q3?", "en q1?", "en q2?")
    assert examples.language == ("de", "de", "de", "en", "en")
    assert examples.cluster == ("q1", "q2", "q3", "q1", "q2")
    de, en = passages("de"), passages("en")
    assert examples.text_b == (de[1], de[0], de[0], en[1], en[2])
    assert examples.label == (
        ((en[1],), (de[0], de[2])),
        ((en[2],), (de[1], de[2])),
        ((), (de[1], de[2])),
        ((de[1],), (en[0], en[2])),
        ((de[0],), (en[0], en[1])),
    )
    one = read(Source(str(folder / "en.json"), format="lareqa"), FIND)
    assert one.id == ("en/q1", "en/q2") and one.label[0] == ((), (en[0], en[2]))


def test_squad_is_read_as_questions_and_sentences(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The sentences are found; line feeds are left out, as in the published code."""
    content = document("en")
    paragraph = content["data"][0]["paragraphs"][0]
    del paragraph["sentence_breaks"], paragraph["sentences"]
    paragraph["context"] = paragraph["context"].replace("slept. ", "slept.\n")
    paragraph["qas"] += [{"id": "q4", "question": "?", "answers": [], "is_impossible": True}]
    path = tmp_path / "train-v2.0.json"
    path.write_text(json.dumps(content), encoding="utf-8")
    with caplog.at_level("INFO", logger="flaxfer.data"):
        examples = read(Source(str(path), format="squad_sentences"), FIND)
    assert "2 questions whose answer begins in no sentence skipped" in caplog.text
    assert examples.id == ("q1", "q2") and examples.label == (((), ()), ((), ()))
    whole = "It rained. The dog slept.A cat ran 3 miles."
    assert examples.text_b == (f"The dog slept.{whole}", f"A cat ran 3 miles.{whole}")
    assert examples.cluster == ("data[0].paragraphs[0]",) * 2
    # Breaks that the file has are kept.
    paragraph["sentence_breaks"] = [[0, 25], [26, 43]]
    path.write_text(json.dumps(content), encoding="utf-8")
    examples = read(Source(str(path), format="squad_sentences"), FIND)
    assert examples.id == ("q1", "q2", "q3") and examples.text_b is not None
    assert examples.text_b[0] == f"It rained. The dog slept.{whole}"


@pytest.mark.parametrize(
    "sentences",
    [
        ["It was over.", 'He said "no."', "Was it?", "Yes!", "3 went (all of them.)", "5 did not."],
        [
            "It grew to 3.5 million in approx. 1990 (cf. Smith et al. 1992, Vol. 3).",
            "Then it fell.",
        ],
        ["Dr. J. R. R. Smith, e.g. of St. Louis, met Lt. Gen. Jones on Aug. 3 at 5 p.m. in No. 7."],
        ["He moved to the U.S. 2000 years ago?", "Mr. A. Bell did.", "In Jan. 1900 Fr. Ed died."],
        ["It is old.[citation needed]", "A new one", "[...]", "But this was in 1990 (c. 1991)."],
        ["The prof.", "This one is by Dr.", "It is in the U.S. Congress, i.e. there.", "In it."],
        ["\u201cYes.\u201d", "\u201cNo?\u201d", "There are two:", "\u2022 One", "\u2022 Two."],
    ],
)
def test_sentences_end_where_those_of_the_published_code_do(sentences: list[str]) -> None:
    """The expected breaks are those of sb_sed.py in XTREME's repository at 838c13b."""
    text = " ".join(sentences)
    assert [text[start:end] for start, end in sentence_breaks(text)] == sentences
    spaced = "  " + "\n".join(sentences) + " "
    assert [spaced[start:end] for start, end in sentence_breaks(spaced)] == sentences


@pytest.mark.slow
def test_sample_of_squad(shared: Path) -> None:
    """XQuAD-R has the numbers of candidates that its authors count; no question is left out."""
    folder = shared / "data"
    squad = read(Source(str(folder / "squad/train-v1.1.part.json"), format="squad_sentences"), FIND)
    assert len(squad) == 11_877 and all(map(str.endswith, squad.text_b or (), _contexts(folder)))
    for language, count in (("en", 1180), ("de", 1276)):
        source = Source(str(folder / f"lareqa-xquad-r/{language}.json"), format="lareqa")
        examples = read(source, FIND)
        pool = {*(examples.text_b or ())}
        pool |= {text for _, wrong in examples.label for text in wrong}
        assert (len(examples), len(pool)) == (1190, count)


def _contexts(folder: Path) -> Iterator[str]:
    """Yield the paragraph of every question of the sample of SQuAD."""
    content = json.loads((folder / "squad/train-v1.1.part.json").read_text(encoding="utf-8"))
    for article in content["data"]:
        for paragraph in article["paragraphs"]:
            yield from [paragraph["context"].replace("\n", "")] * len(paragraph["qas"])


@pytest.mark.parametrize(
    ("changed", "fault"),
    [
        ({"context": None}, "its paragraph has no context"),
        ({"sentence_breaks": None}, "its paragraph has no list of sentence_breaks"),
        ({"sentence_breaks": [[0]]}, "its paragraph has no list of sentence_breaks"),
        ({"qas": [{"id": "a"}]}, "has no question"),
        ({"qas": [{"id": "a", "question": "?", "answers": []}]}, "has no answer"),
        ({"qas": [{"answers": [{}]}]}, "has no id"),
        (
            {"qas": [{"id": "a", "question": "?", "answers": [{"text": "a"}]}]},
            "its first answer has no answer_start",
        ),
        ({"qas": None}, "qas: is no list"),
    ],
)
def test_other_files_are_refused(changed: dict[str, Any], fault: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="not built as those of XQuAD-R") as caught:
        read(Source(str(write(tmp_path, **changed)), format="lareqa"), FIND)
    assert fault in caught.value.details[0] and "de.json: data[0].paragraphs[0]" in str(
        caught.value.details[0]
    )


def test_a_folder_without_files_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="there are no json files"):
        read(Source(str(tmp_path), format="lareqa"), FIND)
