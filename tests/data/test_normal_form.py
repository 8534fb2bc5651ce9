"""The normal form by which texts are compared."""

from __future__ import annotations

import pytest

from flaxfer.data.normal_form import normalise


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("Don't stop, Mr. X!", "do n't stop , mr . x !", True),
        ("It works.<br /><br />Really.", "it works. really.", True),
        ("Q&amp;A &quot;now&quot;", 'q & a ``now"', True),
        ("ＦＵＬＬ　ｗｉｄｔｈ １２", "full width 12", True),
        ("Straße", "STRASSE", True),
        ("ﬁne", "fine", True),
        ("e\u0301te\u0301", "été", True),
        ("zero\u200bwidth\u00adsoft", "zerowidthsoft", True),
        ("\u2764\ufe0f", "\u2764", True),
        ("我喜欢这家酒店，很好！", "我 喜欢 这 家 酒店 很 好", True),
        ("カタカナ", "ｶﾀｶﾅ", True),
        ("été", "ete", False),
        ("की", "का", False),  # Vowel signs are marks.
        ("good 😀", "good 😞", False),
        ("1 < 2", "1 > 2", False),
        ("Bühne", "Buhne", False),
    ],
)
def test_normal_form(one: str, other: str, same: bool) -> None:
    assert (normalise(one) == normalise(other)) is same
    assert normalise(normalise(one)) == normalise(one) != ""


@pytest.mark.parametrize(
    "texts",
    [
        ("1.5 million", "15 million", "1,5 million", "150 million"),
        ("-5 degrees", "5 degrees", "+5 degrees", "±5 degrees"),
        ("it was -5", "it was 5"),
        ("3:2", "32", "3-2", "3/2", "3.2", "3 2", "3^2", "3*2", "3_2", "3'2"),
        ("1,000,5", "1,0005", "1,000.5", "10005"),
        ("10%", "10", "10‰", "$10", "10$", "€10", "10′", "10″"),
        ("½", "12", "1.2", "1-2"),
        ("1½", "11/2", "112", "11 2"),
        ("10²", "102", "10 2", "10₂x"),
        ("①②", "12"),
        ("C", "C++", "C#"),
        ("2019-20", "201920"),
        ("👍", "👎", "👍🏽", "👍🏿"),
        ("🇩🇪", "🇫🇷"),
        ("🏴\U000e0067\U000e0062\U000e0065\U000e006e\U000e0067\U000e007f",
         "🏴\U000e0067\U000e0062\U000e0073\U000e0063\U000e0074\U000e007f"),
        (":-)", ":-(", ";-)", "?", "??", "…", "«»", "(", "。", "、"),
        ("٪", "%", "٥٪", "٥"),
    ],
)  # fmt: skip
def test_different_numbers_and_signs_are_different_texts(texts: tuple[str, ...]) -> None:
    forms = [normalise(text) for text in texts]
    assert len(set(forms)) == len(texts) and all(forms)
    assert [normalise(form) for form in forms] == forms


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("\u22125 degrees", "-5 degrees"),
        ("\uff0d５", "-5"),
        ("(-5)", "-5"),
        ("it was \u200e-\u200e5", "it was -5"),
        ("1\u200b.\u200b5", "1.5"),
        ("a .260 hitter", "a . 260 hitter"),
        ("3 - 2", "3-2"),
        ("3 \u2013 2", "3-2"),
        ("in 1990 , 15 came", "in 1990, 15 came"),
        ("100 %", "100%"),
        ("$ 5", "$5"),
        ("½", "1/2"),
        ("1½", "1 1/2"),
        ("10²", "10^2"),
        ("m²", "m2"),
        ("１．５", "1.5"),
        ("covid-19", "covid 19"),
        ("#covid", "covid"),
        ("- 5 apples", "5 apples"),
        ("The end. 5 men", "The end 5 men"),
        ("see p.5", "see p. 5"),
        ("?!…", "? ! ..."),
        ("👍\ufe0f!", "👍"),
    ],
)
def test_the_same_numbers_and_signs_are_the_same_text(one: str, other: str) -> None:
    assert normalise(one) == normalise(other) != ""
    assert normalise(normalise(one)) == normalise(one)
