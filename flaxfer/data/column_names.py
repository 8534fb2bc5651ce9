"""Usual names of columns, and what they hold."""

from __future__ import annotations

import re

NAMES = {
    "text": "text texts sentence sentences review reviews tweet comment content body message "
    "document utterance reviewbody reviewtext headline premise satz rezension kommentar beitrag "
    "texte texto testo tekst phrase frase avis reseña",
    "label": "label labels class category sentiment polarity stars rating target gold goldlabel "
    "score y annotation stance intent topic emotion verdict similarity relatedness "
    "relatednessscore klasse kategorie stimmung bewertung sterne note étiquette etiqueta clase "
    "classe correct quality answer",
    "language": "language lang languages locale sprache langue idioma lingua taal",
    "domain": "domain genre domäne",
    "split": "split partition fold",
    "id": "id idx uid guid key pairid index",
    "question": "question asksfor frage",
    "context": "context passage paragraph kontext",
    "words": "tokens words token form",
    "tags": "tags nertags postags upos labels",
    "answers": "answers answer",
}
"""Names by what a column holds, without blanks, hyphens, underscores and case."""

RETRIEVAL = {
    "query": "query queries question frage anchor source",
    "passage": "passage document answer paragraph context positive text translation target",
    "negative": "negative hardnegative",
}
"""The same for retrieval; some are values of labels, too, so that they tell no header."""

PAIRS = (
    ("sentence1", "sentence2"),
    ("sentencea", "sentenceb"),
    ("texta", "textb"),
    ("text1", "text2"),
    ("premise", "hypothesis"),
    ("question1", "question2"),
    ("question", "sentence"),
    ("question", "passage"),
    ("query", "passage"),
    ("query", "document"),
    ("satz1", "satz2"),
    ("phrase1", "phrase2"),
)
"""Names of the columns of pairs of texts."""

CHOICE = re.compile(r"(choice|ending|option|sol|answer|candidate|c|hyp)(\d|[a-h])")
"""Names of the choices of multiple choice, such as choice1, ending0 and answerA."""

SPLITS = {
    "train": "train training trn",
    "dev": "dev val valid validation development testa",
    "test": "test tst testing testb",
}
"""Names of splits, in columns and in names of files."""

SPLIT_OF = {name: split for split, names in SPLITS.items() for name in names.split()}
"""Split by name."""


def plain(name: object) -> str:
    """Return the name of a column without blanks, hyphens, underscores and case."""
    return re.sub(r"[\W_]+", "", str(name)).casefold()


def is_named(name: object, kind: str) -> bool:
    """Return whether a column has one of the names of a kind."""
    return not isinstance(name, int) and plain(name) in (NAMES | RETRIEVAL)[kind].split()


def is_known(name: str) -> bool:
    """Return whether a text is a usual name of a column."""
    word = plain(name)
    return (
        any(word in names.split() for names in NAMES.values())
        or any(word in pair for pair in PAIRS)
        or bool(CHOICE.fullmatch(word))
    )
