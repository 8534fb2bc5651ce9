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
