"""Language codes, and a guess at the language of texts."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable

CODES = frozenset(
    [
        "af",
        "am",
        "ar",
        "as",
        "az",
        "be",
        "bg",
        "bn",
        "br",
        "bs",
        "ca",
        "cs",
        "cy",
        "da",
        "de",
        "el",
        "en",
        "eo",
        "es",
        "et",
        "eu",
        "fa",
        "fi",
        "fr",
        "fy",
        "ga",
        "gd",
        "gl",
        "gu",
        "ha",
        "he",
        "hi",
        "hr",
        "ht",
        "hu",
        "hy",
        "id",
        "ig",
        "is",
        "it",
        "ja",
        "jv",
        "ka",
        "kk",
        "km",
        "kn",
        "ko",
        "ku",
        "ky",
        "la",
        "lb",
        "lo",
        "lt",
        "lv",
        "mg",
        "mi",
        "mk",
        "ml",
        "mn",
        "mr",
        "ms",
        "mt",
        "my",
        "nb",
        "ne",
        "nl",
        "nn",
        "no",
        "om",
        "or",
        "pa",
        "pl",
        "ps",
        "pt",
        "qu",
        "ro",
        "ru",
        "rw",
        "sa",
        "sd",
        "si",
        "sk",
        "sl",
        "sn",
        "so",
        "sq",
        "sr",
        "su",
        "sv",
        "sw",
        "ta",
        "te",
        "tg",
        "th",
        "ti",
        "tk",
        "tl",
        "tn",
        "tr",
        "tt",
        "ug",
        "uk",
        "ur",
        "uz",
        "vi",
        "wo",
        "xh",
        "yi",
        "yo",
        "zh",
        "zu",
    ]
)
"""Codes of ISO 639-1 that names of files and values of columns are compared with."""

_WORDS = {
    "en": "the and of to is was that it for with you this not are be",
    "de": "der die das und ist nicht ich ein eine mit den zu auf es für",
    "fr": "le la les et des est une pas que je il pour dans ce du",
    "es": "el la los que y es una no por con se para muy pero del",
    "it": "il che di è non un una per sono con della ma le gli anche",
    "pt": "o que não uma é um os para com do da em mas por muito",
    "nl": "de het een en van is niet ik dat te op zijn voor met er",
    "pl": "się nie jest na że do i w z to jak ale co po od",
    "sv": "och att det är som en inte jag på med för av ett den har",
    "da": "og det at er en ikke jeg på med til som for af den har",
    "tr": "bir ve bu da çok için ile ne ama gibi daha var değil olarak kadar",
    "id": "yang dan di ini itu tidak dengan untuk saya ada dari ke akan bisa juga",
    "fi": "ja on ei se että oli hän mutta kun niin ovat myös kuin joka olen",
}
"""The most frequent words of languages in Latin letters."""

_SCRIPTS = {
    "ARABIC": "ar", "ARMENIAN": "hy", "BENGALI": "bn", "CYRILLIC": "ru", "DEVANAGARI": "hi",
    "GEORGIAN": "ka", "GREEK": "el", "GUJARATI": "gu", "HANGUL": "ko", "HEBREW": "he",
    "HIRAGANA": "ja", "KATAKANA": "ja", "KANNADA": "kn", "MALAYALAM": "ml", "TAMIL": "ta",
    "TELUGU": "te", "THAI": "th", "CJK": "zh",
}  # fmt: skip
"""The language with the most speakers that is written in a script."""

_SAMPLE = 100_000
"""Characters that a guess looks at."""


def guess(texts: Iterable[str]) -> str:
    """Return the code of the language that most of the texts seem to have; empty if unclear.

    In Latin letters, the language whose most frequent words are the most frequent here, by a
    margin; otherwise the largest language of the script, which another one may share.
    """
    sample = " ".join(texts)[:_SAMPLE].lower()
    letters = Counter(
        unicodedata.name(character, "").partition(" ")[0]
        for character in sample[: _SAMPLE // 10]
        if character.isalpha()
    )
    if not letters:
        return ""
    if letters["HIRAGANA"] + letters["KATAKANA"] > 0.1 * letters.total():
        return "ja"  # Most of the letters may be Chinese ones.
    script = letters.most_common(1)[0][0].removesuffix("-COMPATIBILITY")
    if script != "LATIN":
        return _SCRIPTS.get(script, "")
    counts = Counter(re.findall(r"[^\W\d_]+", sample))
    scores = {code: sum(counts[word] for word in words.split()) for code, words in _WORDS.items()}
    best, second = sorted(scores, key=scores.__getitem__, reverse=True)[:2]
    is_clear = scores[best] >= 0.05 * counts.total() and scores[best] > 1.3 * scores[second]
    return best if is_clear else ""
