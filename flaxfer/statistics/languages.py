"""Families, scripts and resources of languages: the 50 of XTREME-R (Ruder et al. 2021).

Families, and branches of Indo-European ("IE"), follow the tables of languages in XTREME (Hu et al.
2020) and XTREME-R, which are based on WALS and Glottolog. Scripts are those of these benchmarks'
data. Resources are the classes of Joshi et al. (2020, arXiv 2004.09095; lang2tax.txt beside it), by
how many labelled and unlabelled texts there are.
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


_RESOURCES = {
    "1, scraping-bys": "az gu jv ml my qu te",
    "2, hopefuls": "ht mr pa sw wo yo",
    "3, rising stars": "af bg bn el et he id ka kk lt ms ro ta th tl uk ur",
    "4, underdogs": "eu fa fi hi hu it ko nl pl pt ru tr vi",
    "5, winners": "ar de en es fr ja zh",
}


class Language(NamedTuple):
    """A language; all but the name is `UNKNOWN` outside the tables."""

    name: str
    family: str
    script: str
    resources: str = UNKNOWN


LANGUAGES: dict[str, Language] = {}
"""Languages by ISO 639-1 code."""

_SHORT: dict[str, str] = {"zho": "zh", "fas": "fa", "swa": "sw", "fil": "tl"}
"""ISO 639-3 to ISO 639-1 codes, including Tatoeba's and those of macrolanguages."""

_CLASS = {code: name for name, codes in _RESOURCES.items() for code in codes.split()}
for _line in _TABLE.strip().splitlines():
    _family, _script, *_languages = _line.split("; ")
    for _short, _long, _name in (entry.split(" ", 2) for entry in _languages):
        LANGUAGES[_short] = Language(_name, _family, _script, _CLASS[_short])
        _SHORT[_long] = _short


def language(code: str) -> Language:
    """Return the language of an ISO 639-1 or 639-3 code, ignoring case and a `-BR` suffix."""
    short = re.split("[-_]", code.lower())[0]
    return LANGUAGES.get(_SHORT.get(short, short), Language(code, UNKNOWN, UNKNOWN))
