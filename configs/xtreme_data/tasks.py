"""Tasks of XTREME-R and of the intermediate stages, with the official settings."""

from __future__ import annotations

from typing import Any

from flaxfer.xtreme.benchmarks import BENCHMARKS

LANGUAGES = BENCHMARKS["xtreme-r"]
"""Languages by task."""

UPOS = (
    "ADJ",
    "ADP",
    "ADV",
    "AUX",
    "CCONJ",
    "DET",
    "INTJ",
    "NOUN",
    "NUM",
    "PART",
    "PRON",
    "PROPN",
    "PUNCT",
    "SCONJ",
    "SYM",
    "VERB",
    "X",
)
NLI = dict(
    name="inference",
    type="classification",
    metric="accuracy",
    labels=("entailment", "neutral", "contradiction"),
)
CHOICE = dict(name="causal choice", type="multiple_choice", metric="accuracy")
SOCIAL = dict(name="social choice", type="multiple_choice", metric="accuracy")
SPEECH = dict(name="parts of speech", type="tagging", metric="accuracy", labels=UPOS)
ENTITIES = dict(
    name="entities",
    type="tagging",
    metric="f1",
    labels=("O", "B-PER", "I-PER", "B-ORG", "I-ORG", "B-LOC", "I-LOC"),
)
ANSWERS = dict(name="answers", type="question_answering", metric="f1")
PARAPHRASE = dict(
    name="paraphrase", type="classification", metric="accuracy", labels=("different", "paraphrase")
)
SIMILARITY = dict(name="similarity", type="regression", metric="pearson", score_range=(0.0, 5.0))

TRANSLATIONS = dict(name="translations", type="retrieval", metric="accuracy_at_1", pooling="mean")
ANSWER_SENTENCES = dict(
    name="answer sentences", type="retrieval", metric="map_at_20", pooling="pooler"
)
"""LAReQA: cosines of pooled outputs times a trained scale that starts at 100, the default."""
ENTITY_LINKS = dict(name="entity links", type="retrieval", metric="map_at_20", pooling="pooler")
"""Mewsli-X: the same with mentions and descriptions of entities."""
UNTRAINED = dict(
    # Nothing but the scale of the cosines is trained, on which no ranking depends.
    optimizer=dict(freeze=(r"^encoder/",), weight_decay=0.0, warmup=0),
    train=dict(max_steps=1),
)
"""Settings of a stage that evaluates the encoder as it is."""

COPA = dict(
    text_a="premise", choice_1="choice1", choice_2="choice2", question="question", label="label"
)
COPA_QUESTIONS = dict(cause="What was the cause?", effect="What happened as a result?")
SIQA = dict(
    text_a="context",
    choice_1="answerA",
    choice_2="answerB",
    choice_3="answerC",
    question="question",
)
SQUAD = dict(text_a="question", text_b="context", answers="answers", id="id")


def benchmark(task: str, sources: dict[str, dict], **settings: Any) -> dict[str, dict]:
    """Return the evaluated sets of a task of XTREME-R by name, from their sources by language."""
    return {
        f"{task}-{code}": source | dict(benchmark=f"xtreme-r/{task}", language=code, **settings)
        for code, source in sources.items()
    }


def parallel(task: str, sources: dict[str, dict]) -> tuple[str, ...]:
    """Return the names of the evaluated sets of a task whose examples are translations."""
    return tuple(f"{task}-{code}" for code in sources)


ISO_639_3 = dict(
    af="afr",
    ar="ara",
    az="aze",
    bg="bul",
    bn="ben",
    de="deu",
    el="ell",
    es="spa",
    et="est",
    eu="eus",
    fa="pes",
    fi="fin",
    fr="fra",
    he="heb",
    hi="hin",
    hu="hun",
    id="ind",
    it="ita",
    ja="jpn",
    jv="jav",
    ka="kat",
    kk="kaz",
    ko="kor",
    lt="lit",
    ml="mal",
    mr="mar",
    nl="nld",
    pl="pol",
    pt="por",
    ro="ron",
    ru="rus",
    sw="swh",
    ta="tam",
    te="tel",
    th="tha",
    tl="tgl",
    tr="tur",
    uk="ukr",
    ur="urd",
    vi="vie",
    zh="cmn",
)
"""Codes in the names of Tatoeba's files."""
