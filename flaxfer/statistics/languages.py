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
af afr Afrikaans; IE: Germanic; Latin
ar ara Arabic; Afro-Asiatic; Arabic
az aze Azerbaijani; Turkic; Latin
bg bul Bulgarian; IE: Slavic; Cyrillic
bn ben Bengali; IE: Indo-Aryan; Bengali
de deu German; IE: Germanic; Latin
el ell Greek; IE: Greek; Greek
en eng English; IE: Germanic; Latin
es spa Spanish; IE: Romance; Latin
et est Estonian; Uralic; Latin
eu eus Basque; Basque; Latin
fa pes Persian; IE: Iranian; Arabic
fi fin Finnish; Uralic; Latin
fr fra French; IE: Romance; Latin
gu guj Gujarati; IE: Indo-Aryan; Gujarati
he heb Hebrew; Afro-Asiatic; Hebrew
hi hin Hindi; IE: Indo-Aryan; Devanagari
ht hat Haitian Creole; Creole; Latin
hu hun Hungarian; Uralic; Latin
id ind Indonesian; Austronesian; Latin
it ita Italian; IE: Romance; Latin
ja jpn Japanese; Japonic; Japanese
jv jav Javanese; Austronesian; Latin
ka kat Georgian; Kartvelian; Georgian
kk kaz Kazakh; Turkic; Cyrillic
ko kor Korean; Koreanic; Hangul
lt lit Lithuanian; IE: Baltic; Latin
ml mal Malayalam; Dravidian; Malayalam
mr mar Marathi; IE: Indo-Aryan; Devanagari
ms msa Malay; Austronesian; Latin
my mya Burmese; Sino-Tibetan; Burmese
nl nld Dutch; IE: Germanic; Latin
pa pan Punjabi; IE: Indo-Aryan; Gurmukhi
pl pol Polish; IE: Slavic; Latin
pt por Portuguese; IE: Romance; Latin
qu que Quechua; Quechuan; Latin
ro ron Romanian; IE: Romance; Latin
ru rus Russian; IE: Slavic; Cyrillic
sw swh Swahili; Niger-Congo; Latin
ta tam Tamil; Dravidian; Tamil
te tel Telugu; Dravidian; Telugu
th tha Thai; Kra-Dai; Thai
tl tgl Tagalog; Austronesian; Latin
tr tur Turkish; Turkic; Latin
uk ukr Ukrainian; IE: Slavic; Cyrillic
ur urd Urdu; IE: Indo-Aryan; Arabic
vi vie Vietnamese; Austro-Asiatic; Latin
wo wol Wolof; Niger-Congo; Latin
yo yor Yoruba; Niger-Congo; Latin
zh cmn Chinese; Sino-Tibetan; Chinese
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
    _short, _long, _rest = _line.split(" ", 2)
    LANGUAGES[_short] = Language(*_rest.split("; "))
    _SHORT[_long] = _short


def language(code: str) -> Language:
    """Return the language of an ISO 639-1 or 639-3 code, ignoring case and a `-BR` suffix."""
    short = re.split("[-_]", code.lower())[0]
    return LANGUAGES.get(_SHORT.get(short, short), Language(code, UNKNOWN, UNKNOWN))
