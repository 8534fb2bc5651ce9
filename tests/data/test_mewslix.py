"""Mewsli-X: mentions between braces, entities, and the candidates that sets are searched in."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from flaxfer.config import Source, Task
from flaxfer.errors import DataError
from tests.data.helpers import read, refusal, text_file

LINK = Task("link", "retrieval", "map_at_20")
TEXT = "Old {one}. In {Rome} Rome\nslept;  {a} }{b. Last."
SENTENCES = ("Old {one}.", "In {Rome} Rome\nslept;  {a} }{b.", "Last.")
SPANS = [{"start": TEXT.index(one), "end": TEXT.index(one) + len(one)} for one in SENTENCES]
ROME, LAST = ((at, at + 4) for at in (TEXT.index("} Rome") + 2, TEXT.index("Last")))
ENTITY = {
    "entity_id": "Q220",
    "title": "Rome",
    "description": "Rome is a city.\nIt is old.  No.",
    "description_language": "en",
    "sentence_spans": [{"start": 0, "end": 15}, {"start": 16, "end": 26}],
}


def mention(place: tuple[int, int], entity: str = "Q220", name: str = "m1") -> dict[str, Any]:
    start, end = place
    span = {"start": start, "end": end, "text": TEXT[start:end]}
    return {"example_id": name, "mention_span": span, "entity_id": entity}


def article(*mentions: dict[str, Any], **changed: Any) -> dict[str, Any]:
    context = {"document_id": "a", "language": "en", "text": TEXT, "sentence_spans": SPANS}
    return {"context": context | changed, "mentions": list(mentions)}


def pair(**changed: Any) -> dict[str, Any]:
    context = article()["context"]
    contextual = {"context": context, "mention": mention(ROME)}
    return {"contextual_mention": contextual, "entity": ENTITY} | changed


def lines(folder: Path, name: str, *values: Any) -> str:
    return text_file(folder, "".join(json.dumps(value) + "\n" for value in values), name)


def source(folder: Path, *articles: Any, entities: Any = (ENTITY,)) -> Source:
    found = lines(folder, "entities.jsonl", *entities)
    mentions = lines(folder, "mentions.jsonl", *articles)
    return Source(mentions, format="mewslix", candidates=found)


# preprocess_mention and preprocess_entity_description of third_party/utils_mewslix.py in XTREME.
QUERY = "Rome: In (Rome) { Rome } slept; (a) }{b."
PASSAGE = "Rome is a city. It is old."


def test_pairs_are_a_marked_mention_and_a_description(tmp_path: Path) -> None:
    path = lines(tmp_path, "pairs.jsonl", pair())
    examples = read(Source(path, format="mewslix"), LINK)
    assert (examples.text_a, examples.text_b, examples.label) == ((QUERY,), (PASSAGE,), (((), ()),))
    assert (examples.id, examples.language, examples.cluster) == (("m1",), ("en",), ("a",))
    found = lines(tmp_path, "entities.jsonl", ENTITY | {"entity_id": "Q1"}, ENTITY)
    among = read(Source(path, format="mewslix", candidates=found), LINK)
    assert (among.text_b, among.label) == ((PASSAGE,), (((1,), ()),))


def test_mentions_name_candidates(tmp_path: Path) -> None:
    other = ENTITY | {"entity_id": "Q1", "description": "Rome is a city. It is old!"}
    data = source(
        tmp_path,
        article(mention(ROME), mention(LAST, "Q1", "m2")),
        article(mention(LAST, name="m3"), language="de", document_id="b"),
        entities=(ENTITY | {"entity_id": "Q9", "sentence_spans": []}, other, ENTITY),
    )
    examples = read(data, LINK)
    assert examples.text_a == (QUERY, "Last: { Last } .", "Last: { Last } .")
    assert examples.text_b == (PASSAGE, f"{PASSAGE[:-1]}!", PASSAGE)
    assert examples.label == (((2,), ()), ((1,), ()), ((2,), ()))
    assert examples.candidates is not None
    assert examples.candidates.names == ("Q9", "Q1", "Q220")
    assert examples.candidates.texts == ("", f"{PASSAGE[:-1]}!", PASSAGE)
    assert (examples.language, examples.cluster) == (("en", "en", "de"), ("a", "a", "b"))
    some = examples.take([2])
    assert some.candidates is examples.candidates and some.label == (((2,), ()),)
    assert len({each.fingerprint for each in (examples, some)}) == 2
    lines(tmp_path, "entities.jsonl", ENTITY | {"entity_id": "Q9"}, other, ENTITY)
    changed = read(data, LINK)
    assert changed.label == examples.label and changed.fingerprint != examples.fingerprint


def test_candidates_of_other_formats(tmp_path: Path) -> None:
    """Columns `id` and `passage`; a query may have several right ones."""
    table = text_file(tmp_path, "id\tpassage\nd1\ta man\nd2\tA man.\nd3\ta dog\n", "docs.tsv")
    rows = [{"q": "who", "p": ["d3", "d2", "d3"]}, {"q": "what", "p": "d1"}]
    data = Source(
        lines(tmp_path, "queries.jsonl", *rows),
        columns={"query": "q", "passage": "p"},
        candidates=table,
    )
    examples = read(data, LINK)
    assert examples.text_b == ("a dog", "a man") and examples.label == (((2, 1), ()), ((0,), ()))
    text_file(tmp_path, "id\tpassage\nd1\ta man\nd1\tA man.\n", "docs.tsv")
    assert refusal(data, LINK).details == ("docs.tsv:3: the id 'd1' is also at docs.tsv:2",)
    text_file(tmp_path, "id\tpassage\nd1\ta man\nd3\ta dog\n", "docs.tsv")
    error = refusal(data, LINK)
    assert error.details == ("queries.jsonl:1: column 'p': 'd2' is no candidate",)
    assert "1 passages are not among the 2 candidates" in error.what


def broken(**span: Any) -> dict[str, Any]:
    one = mention(ROME)
    return one | {"mention_span": one["mention_span"] | span}


@pytest.mark.parametrize(
    ("value", "fault"),
    [
        (article(broken(text="Roma")), "mention 1: mention_span says 'Roma', where the text has "),
        (article(broken(end=99)), f"mention_span is {ROME[0]} to 99 in a text of 48 characters"),
        (article(broken(start=5, text=TEXT[5 : ROME[1]])), "lies in no single sentence"),
        (article("m"), "mention 1: is no object"),
        (article(sentence_spans=[{"start": 3, "end": 99}]), "sentence 1 is 3 to 99 of 48 charact"),
        (article(text=None), "text is a NoneType, no str"),
        ({"context": article()["context"]}, "there is no mentions"),
        ([1], "is a list, no object"),
        (pair(entity=ENTITY | {"entity_id": "Q1"}), "entity_id is not that of the entity, 'Q1'"),
        (pair(entity={}), "there is no entity_id"),
    ],
)
def test_other_lines_are_refused(value: Any, fault: str, tmp_path: Path) -> None:
    error = refusal(source(tmp_path, value), LINK)
    assert "not built as those of Mewsli-X" in error.what
    assert error.details[0].startswith("mentions.jsonl:1: ") and fault in error.details[0]


def test_files_without_texts_entities_or_candidates_are_refused(tmp_path: Path) -> None:
    assert "no_text" not in refusal(source(tmp_path, article(text="")), LINK).what
    error = refusal(source(tmp_path, article(mention(ROME), text="")), LINK)
    assert "texts of the articles are not in this file" in error.what and "get-mewsli" in error.hint
    error = refusal(source(tmp_path, article(mention(ROME, ""))), LINK)
    assert "labels are not in this file: no mention has an entity_id" in error.what
    without = Source(lines(tmp_path, "mentions.jsonl", article()), format="mewslix")
    assert "candidate_set_entities.jsonl" in refusal(without, LINK).hint
    error = refusal(source(tmp_path, article(mention(ROME)), entities=(ENTITY, ENTITY)), LINK)
    assert error.details == ("entities.jsonl:2: the id 'Q220' is also at entities.jsonl:1",)
    error = refusal(source(tmp_path, article(mention(ROME), mention(LAST))), LINK)
    assert "'m1' is also mentions.jsonl:1: column 'id'" in error.details[0]
    error = refusal(source(tmp_path, article(mention(ROME)), entities=(ENTITY, {})), LINK)
    assert error.details == ("entities.jsonl:2: there is no entity_id",)
    for content, what in (
        ("", "the file is empty"),
        ('{"a": 1', "no JSON"),
        (b"\xff", "not in utf"),
    ):
        text_file(tmp_path, content, "entities.jsonl")
        data = source(tmp_path, article(mention(ROME)))
        text_file(tmp_path, content, "entities.jsonl")
        error = refusal(data, LINK)
        assert what in str([error.what, *error.details])


def test_the_published_sample(shared: Path, tmp_path: Path) -> None:
    """Every mention stands between braces in its sentence."""
    folder = shared / "data/mewsli-x"
    path = folder / "example_mentions.jsonl"
    articles = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    mentions = [(one["context"], each) for one in articles for each in one["mentions"]]
    names = [mention["entity_id"] for _, mention in mentions]
    found = lines(tmp_path, "e.jsonl", *(ENTITY | {"entity_id": name} for name in names))
    examples = read(Source(str(path), format="mewslix", candidates=found), LINK)
    assert examples.id == tuple(mention["example_id"] for _, mention in mentions)
    assert [rows for rows, _ in examples.label] == [(0,), (1,), (2,)]
    for query, (context, mention) in zip(examples.text_a, mentions, strict=True):
        name = mention["mention_span"]["text"]
        left, right = query.removeprefix(f"{name}: ").split(f" {{ {name} }} ")
        start, end = (mention["mention_span"][key] for key in ("start", "end"))
        assert left and context["text"][:start].rstrip().endswith(left)
        assert right and context["text"][end:].lstrip().startswith(right)
    with pytest.raises(DataError, match="texts of the articles are not in this file"):
        without = folder / "example_mentions_no_text.jsonl"
        read(Source(str(without), format="mewslix", candidates=found), LINK)
