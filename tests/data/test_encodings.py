"""Recognition of encodings and languages."""

from __future__ import annotations

import pytest

from flaxfer.data import encodings, languages


@pytest.mark.parametrize(
    ("text", "encoding"),
    [
        ("Die Größe " * 20, "cp1252"),
        ("“Déjà vu” – 5 €, naïve café", "cp1252"),
        ("plain", "utf-8"),
        ("Größe", "utf-8"),
        ("Größe " * 20, "utf-16"),
        ("Größe " * 20, "utf-16-le"),
        ("Größe " * 20, "utf-16-be"),
    ],
)
def test_encodings_are_recognised(text: str, encoding: str) -> None:
    assert encodings.guess(text.encode(encoding)) == encoding


@pytest.mark.parametrize(
    ("text", "encoding"),
    [
        ("Это очень хорошая книга", "cp1251"),
        ("Она дома и все книги", "cp1251"),
        ("To jest bardzo dobra książka i się nie nudziłem, żółw że ćma źle ość są", "cp1250"),
        ("şığ bir kitap, çok güzel değil mi", "cp1254"),
        ("これは良い本です", "shift_jis"),
        ("这本书很好", "gb18030"),
        ("αυτό είναι ένα βιβλίο", "cp1253"),
    ],
)
def test_other_encodings_are_not_taken_for_western(text: str, encoding: str) -> None:
    assert encodings.guess((text * 5).encode(encoding)) == ""


def test_damaged_utf_8_is_no_western_text() -> None:
    assert encodings.guess("Größe und Übermut für Schön".encode() * 5 + b"\xc3") == ""
    assert encodings.guess(b"x" * 2**21 + "Größe für alle".encode("cp1252")) == "cp1252"


LANGUAGES = {
    "en": "The film is not as good as it was in the book, and that is why I left.",
    "de": "Der Film ist nicht so gut wie das Buch, und ich habe es mir nur für dich angesehen.",
    "fr": "Le film est une catastrophe, et je ne sais pas pour qui il est fait.",
    "es": "La película es muy buena, pero el final no me gusta y es una pena.",
    "zh": "这部电影很好看",
    "ja": "この映画はとても良いです",
    "ru": "Это очень хороший фильм",
    "ar": "هذا الفيلم جيد جدا",
    "": "xyzzy plugh",
}


@pytest.mark.parametrize("code", LANGUAGES)
def test_languages_are_recognised(code: str) -> None:
    assert languages.guess([LANGUAGES[code]] * 5) == code
