"""XQuAD-R: sentences of all languages that answer a question."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from flaxfer.config import Source, Task
from flaxfer.errors import DataError
from tests.data.helpers import read

FIND = Task("lareqa", "retrieval", "map_at_20")
SENTENCES = {
    "en": ["It rained.", "The dog slept.", "A cat ran 3 miles."],
    "de": ["Es regnete.", "Der Hund schlief.", "Eine Katze lief 3 Meilen."],
}
ANSWERS = {
    "en": {"q1": "dog", "q2": "3 miles", "q3": "rained. The"},
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


def test_right_sentences_are_those_of_all_languages(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Two answers go over the end of a sentence."""
    folder = write(tmp_path)
    with caplog.at_level("INFO", logger="flaxfer.data"):
        examples = read(Source(str(folder), format="lareqa"), FIND)
    assert "2 questions whose answer lies in no single sentence skipped" in caplog.text
    assert examples.id == ("de/q1", "de/q3", "en/q1", "en/q2")
    assert examples.text_a == ("de q1?", "de q3?", "en q1?", "en q2?")
    assert examples.language == ("de", "de", "en", "en")
    assert examples.cluster == ("q1", "q3", "q1", "q2")
    de, en = SENTENCES["de"], SENTENCES["en"]
    assert examples.text_b == (de[1], de[0], en[1], en[2])
    assert examples.label == (
        ((en[1],), (de[0], de[2])),
        ((), (de[1], de[2])),
        ((de[1],), (en[0], en[2])),
        ((), (en[0], en[1])),
    )
    one = read(Source(str(folder / "en.json"), format="lareqa"), FIND)
    assert one.id == ("en/q1", "en/q2") and one.label[0] == ((), (en[0], en[2]))


@pytest.mark.parametrize(
    ("changed", "fault"),
    [
        ({"sentences": None}, "its paragraph has no list of sentences"),
        ({"sentence_breaks": [[0, 1]]}, "not as many sentence_breaks as sentences"),
        ({"qas": [{"id": "a", "answers": []}]}, "has no answer"),
        ({"qas": [{"answers": [{}]}]}, "has no id"),
        ({"qas": [{"id": "a", "answers": [{"text": "a"}]}]}, "no text or no answer_start"),
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
