"""Families and scripts of languages: the 50 of XTREME-R (Ruder et al. 2021).

Families, and branches of Indo-European ("IE"), follow the tables of languages in XTREME (Hu et al.
2020) and XTREME-R, which are based on WALS and Glottolog. Scripts are those of these benchmarks'
data.
"""

from __future__ import annotations

import re
from typing import NamedTuple

UNKNOWN = "unknown"

_TABLE = """
Afro-Asiatic; Arabic; ar ara Arabic
Afro-Asiatic; Hebrew; he heb Hebrew
Austro-Asiatic; Latin; vi vie Vietnamese
Austronesian; Latin; id ind Indonesian; jv jav Javanese; ms msa Malay; tl tgl Tagalog
Basque; Latin; eu eus Basque
Creole; Latin; ht hat Haitian Creole
Dravidian; Malayalam; ml mal Malayalam
Dravidian; Tamil; ta tam Tamil
Dravidian; Telugu; te tel Telugu
IE: Baltic; Latin; lt lit Lithuanian
IE: Germanic; Latin; af afr Afrikaans; de deu German; en eng English; nl nld Dutch
IE: Greek; Greek; el ell Greek
IE: Indo-Aryan; Arabic; ur urd Urdu
IE: Indo-Aryan; Bengali; bn ben Bengali
IE: Indo-Aryan; Devanagari; hi hin Hindi; mr mar Marathi
IE: Indo-Aryan; Gujarati; gu guj Gujarati
IE: Indo-Aryan; Gurmukhi; pa pan Punjabi
IE: Iranian; Arabic; fa pes Persian
IE: Romance; Latin; es spa Spanish; fr fra French; it ita Italian; pt por Portuguese
IE: Romance; Latin; ro ron Romanian
IE: Slavic; Cyrillic; bg bul Bulgarian; ru rus Russian; uk ukr Ukrainian
IE: Slavic; Latin; pl pol Polish
Japonic; Japanese; ja jpn Japanese
Kartvelian; Georgian; ka kat Georgian
Koreanic; Hangul; ko kor Korean
Kra-Dai; Thai; th tha Thai
Niger-Congo; Latin; sw swh Swahili; wo wol Wolof; yo yor Yoruba
Quechuan; Latin; qu que Quechua
Sino-Tibetan; Burmese; my mya Burmese
Sino-Tibetan; Chinese; zh cmn Chinese
Turkic; Cyrillic; kk kaz Kazakh
Turkic; Latin; az aze Azerbaijani; tr tur Turkish
Uralic; Latin; et est Estonian; fi fin Finnish; hu hun Hungarian
"""


class Language(NamedTuple):
    """A language; `family` and `script` are `UNKNOWN` outside the table."""

    name: str
    family: str
    script: str


LANGUAGES: dict[str, Language] = {}
"""Languages by ISO 639-1 code."""

_SHORT: dict[str, str] = {"zho": "zh", "fas": "fa", "swa": "sw", "fil": "tl"}
"""ISO 639-3 to ISO 639-1 codes, including Tatoeba's and those of macrolanguages."""

for _line in _TABLE.strip().splitlines():
    _family, _script, *_languages = _line.split("; ")
    for _short, _long, _name in (entry.split(" ", 2) for entry in _languages):
        LANGUAGES[_short] = Language(_name, _family, _script)
        _SHORT[_long] = _short


def language(code: str) -> Language:
    """Return the language of an ISO 639-1 or 639-3 code, ignoring case and a `-BR` suffix."""
    short = re.split("[-_]", code.lower())[0]
    return LANGUAGES.get(_SHORT.get(short, short), Language(code, UNKNOWN, UNKNOWN))
