"""The embedded demonstration data have the properties stated in their README."""

from __future__ import annotations

import csv
import itertools
import re
import unicodedata
from collections import Counter
from pathlib import Path

import pytest

DATA = Path(__file__).parents[2] / "flaxfer" / "demo" / "data"
LANGUAGES = ("en", "de", "fr", "es", "zh", "hi")
DOMAINS = {"captions", "news", "forum", "instructions"}
LABELS = {"paraphrase", "different"}

PARAPHRASE_HEADER = ["text_a", "text_b", "label"]
SCORED_HEADER = ["text_a", "text_b", "score", "domain"]
TEST_HEADER = ["id", *SCORED_HEADER]

REVIEW_HEADER = ["text", "label", "domain"]
REVIEW_LANGUAGES = ("en", "de", "fr", "nl", "zh")

PARAPHRASE_FILES = ("paraphrase-train.tsv", "paraphrase-dev.tsv")
TEST_FILES = tuple(f"sts-{language}-test.tsv" for language in LANGUAGES)
REVIEW_TEST_FILES = tuple(f"reviews-{language}-test.tsv" for language in REVIEW_LANGUAGES)
REVIEW_FILES = ("reviews-en-train.tsv", "reviews-en-dev.tsv", *REVIEW_TEST_FILES)
SCORED_FILES = ("sts-en-train.tsv", "sts-en-dev.tsv", *TEST_FILES)
# File name -> (header, smallest number of pairs, number of pairs the README states).
FILES: dict[str, tuple[list[str], int, int]] = {
    "paraphrase-train.tsv": (PARAPHRASE_HEADER, 400, 484),
    "paraphrase-dev.tsv": (PARAPHRASE_HEADER, 80, 80),
    "sts-en-train.tsv": (SCORED_HEADER, 320, 411),
    "sts-en-dev.tsv": (SCORED_HEADER, 80, 81),
    "reviews-en-train.tsv": (REVIEW_HEADER, 48, 48),
    "reviews-en-dev.tsv": (REVIEW_HEADER, 16, 16),
    **{name: (TEST_HEADER, 60, 64) for name in TEST_FILES},
    **{name: (["id", *REVIEW_HEADER], 24, 24) for name in REVIEW_TEST_FILES},
}

# Letters of each script.
HAN = re.compile(r"[\u4e00-\u9fff]")
DEVANAGARI = re.compile(r"[\u0900-\u097f]")
LATIN = re.compile(r"[A-Za-z]")
# A sample of characters that differ between traditional and simplified Chinese.
TRADITIONAL = re.compile(r"[們個這來時會國說學對開關車門長東馬鳥魚買賣體點電話機飛]")
# Letters that show that the spelling of a language was not reduced to ASCII.
ACCENTS = {"de": "äöüß", "fr": "éèàêç", "es": "áéíóúñ¿"}


def _rows(name: str) -> tuple[list[str], list[dict[str, str]]]:
    """Header and rows of one file, read without any quoting; a ragged row is an error."""
    with (DATA / name).open(encoding="utf-8", newline="") as file:
        header, *body = csv.reader(file, delimiter="\t", quoting=csv.QUOTE_NONE, strict=True)
    return header, [dict(zip(header, fields, strict=True)) for fields in body]


def _normalised(text: str) -> str:
    """Lowercase, without punctuation but with Devanagari's vowel signs, which `\\w` excludes."""
    kept = (" " if unicodedata.category(c)[0] in "PSZC" else c for c in text.lower())
    return " ".join("".join(kept).split())


def _texts(*names: str) -> set[str]:
    rows = itertools.chain.from_iterable(_rows(name)[1] for name in names)
    return {_normalised(text) for row in rows for text in _texts_of(row)}


def _texts_of(row: dict[str, str]) -> list[str]:
    """The review, or both texts of the pair."""
    return [row[column] for column in ("text", "text_a", "text_b") if column in row]


def _jaccard(row: dict[str, str]) -> float:
    a, b = (set(_normalised(row[column]).split()) for column in ("text_a", "text_b"))
    return len(a & b) / len(a | b)


def test_the_folder_holds_exactly_the_documented_tables() -> None:
    assert {path.name for path in DATA.glob("*.tsv")} == set(FILES)


@pytest.mark.parametrize("name", FILES)
def test_a_table_has_the_documented_format_and_size(name: str) -> None:
    header, least, stated = FILES[name]
    raw = (DATA / name).read_bytes()
    assert b"\r" not in raw
    assert b'"' not in raw
    assert raw.endswith(b"\n") and not raw.endswith(b"\n\n")
    first_line, rows = _rows(name)
    assert first_line == header
    assert len(rows) >= least
    assert len(rows) == stated
    shown = re.sub(r"-\w\w-test", "-*-test", name)
    readme = (DATA / "README.md").read_text(encoding="utf-8").splitlines()
    counts = [line for line in readme if line.startswith(f"| `{shown}`")]
    assert len(counts) == 1, f"the README has no single line of counts for {shown}"
    assert f"| {stated} |" in counts[0]


@pytest.mark.parametrize("name", FILES)
def test_texts_are_clean_and_records_unique(name: str) -> None:
    rows = _rows(name)[1]
    for row in rows:
        for text in _texts_of(row):
            assert _normalised(text), f"empty text in {row}"
            assert text == text.strip() and "  " not in text, row
        assert len(set(map(_normalised, _texts_of(row)))) == len(_texts_of(row)), row
    records = Counter(frozenset(map(_normalised, _texts_of(row))) for row in rows)
    assert [record for record, count in records.items() if count > 1] == []


@pytest.mark.parametrize("name", PARAPHRASE_FILES)
def test_paraphrase_labels_are_known_and_balanced(name: str) -> None:
    labels = Counter(row["label"] for row in _rows(name)[1])
    assert set(labels) == LABELS
    assert labels["paraphrase"] == labels["different"]


@pytest.mark.parametrize("name", REVIEW_FILES)
def test_reviews_are_balanced_within_every_domain(name: str) -> None:
    counts = Counter((row["domain"], row["label"]) for row in _rows(name)[1])
    domains, labels = {"kitchen", "clothing", "electronics"}, {"positive", "negative"}
    assert set(counts) == set(itertools.product(domains, labels))
    assert all(counts[domain, "positive"] == counts[domain, "negative"] for domain in domains)


@pytest.mark.parametrize("name", SCORED_FILES)
def test_scores_are_spread_over_the_scale(name: str) -> None:
    rows = _rows(name)[1]
    scores = [float(row["score"]) for row in rows]
    assert all(0.0 <= score <= 5.0 and score * 2 == int(score * 2) for score in scores)
    # Bins [0, 1), [1, 2), [2, 3), [3, 4), [4, 5]: an even spread gives each a fifth.
    bins = Counter(min(int(score), 4) for score in scores)
    assert set(bins) == set(range(5))
    assert min(bins.values()) >= 0.08 * len(rows)
    assert max(bins.values()) <= 0.40 * len(rows)
    assert {int(score) for score in scores} == set(range(6))
    domains = Counter(row["domain"] for row in rows)
    assert set(domains) == DOMAINS
    assert min(domains.values()) >= 0.2 * len(rows)


@pytest.mark.parametrize(("names", "value"), [(TEST_FILES, "score"), (REVIEW_TEST_FILES, "label")])
def test_the_test_records_are_the_same_in_every_language(
    names: tuple[str, ...], value: str
) -> None:
    columns = ("id", value, "domain")
    english = [tuple(row[c] for c in columns) for row in _rows(names[0])[1]]
    assert len({key[0] for key in english}) == len(english)
    for name in names:
        assert [tuple(row[c] for c in columns) for row in _rows(name)[1]] == english, name


@pytest.mark.parametrize(
    ("table", "language"),
    [*(("sts", each) for each in LANGUAGES), *(("reviews", each) for each in REVIEW_LANGUAGES)],
)
def test_every_text_is_in_its_language(table: str, language: str) -> None:
    rows = _rows(f"{table}-{language}-test.tsv")[1]
    english = _texts(f"{table}-en-test.tsv")
    texts = [text for row in rows for text in _texts_of(row)]
    for text in texts:
        if language != "en":
            assert _normalised(text) not in english, text
        if language == "zh":
            assert HAN.search(text) and not LATIN.search(text), text
            assert not TRADITIONAL.search(text), text
        elif language == "hi":
            assert DEVANAGARI.search(text) and not LATIN.search(text), text
        else:
            assert LATIN.search(text), text
            assert not HAN.search(text) and not DEVANAGARI.search(text), text
    for letter in ACCENTS.get(language, ""):
        assert any(letter in text.lower() for text in texts), f"no {letter} in {language}"


def test_no_text_is_shared_between_splits() -> None:
    """Holds across the two tasks too: the intermediate task must not leak the target's test."""
    splits = {
        "train": _texts("paraphrase-train.tsv", "sts-en-train.tsv", "reviews-en-train.tsv"),
        "dev": _texts("paraphrase-dev.tsv", "sts-en-dev.tsv", "reviews-en-dev.tsv"),
        "test": _texts(*TEST_FILES, *REVIEW_TEST_FILES),
    }
    for one, other in itertools.combinations(splits, 2):
        assert splits[one] & splits[other] == set(), f"{one} and {other} share texts"


@pytest.mark.parametrize("name", PARAPHRASE_FILES)
def test_word_overlap_does_not_reveal_the_label(name: str) -> None:
    """No threshold on the Jaccard overlap, in either direction, is a good classifier."""
    scored = [(_jaccard(row), row["label"] == "paraphrase") for row in _rows(name)[1]]
    accuracies = []
    for threshold in sorted({overlap for overlap, _ in scored}):
        above = sum((overlap >= threshold) == label for overlap, label in scored) / len(scored)
        accuracies += [above, 1.0 - above]
    assert max(accuracies) < 0.85


def test_the_test_pairs_include_hard_cases() -> None:
    """Some equivalent pairs share few words, and some different ones share most of them."""
    rows = _rows("sts-en-test.tsv")[1]
    assert sum(_jaccard(row) < 0.3 and float(row["score"]) >= 4 for row in rows) >= 5
    assert sum(_jaccard(row) > 0.5 and float(row["score"]) <= 2.5 for row in rows) >= 5
