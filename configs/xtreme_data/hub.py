"""Presets `hub`, `hub_large` and `hub_mbert`: full data sets and models from the hub.

Ids and revisions are in configs/pinned. The cards of the data sets were read; nothing was
downloaded. LAReQA is read from files, since the hub's copy of XQuAD-R lacks the sentence breaks, as
is Mewsli-X, whose copy on the hub holds archives.
"""

from __future__ import annotations

from typing import Any

from pinned import pinned

from xtreme_data.tasks import (
    ANSWER_SENTENCES,
    ANSWERS,
    CHOICE,
    COPA,
    COPA_QUESTIONS,
    ENTITIES,
    ENTITY_LINKS,
    ISO_639_3,
    LANGUAGES,
    NLI,
    PARAPHRASE,
    SIMILARITY,
    SIQA,
    SOCIAL,
    SPEECH,
    SQUAD,
    TRANSLATIONS,
    UNTRAINED,
    benchmark,
    parallel,
)

MODELS = dict(
    hub=dict(xlmr="FacebookAI/xlm-roberta-base"),
    hub_large=dict(xlmr_large="FacebookAI/xlm-roberta-large"),
    hub_mbert=dict(mbert="google-bert/bert-base-multilingual-cased"),
)
LAYERS = dict(hub=7, hub_large=13, hub_mbert=7)
"""Layer for Tatoeba: the official ones of XLM-R large and mBERT; that of XLM-R base is ours."""
PLAIN = dict(weight_decay=0.0, warmup=0)
"""Optimizer of all tasks but question answering."""
SENTENCES = ("xnli", "xcopa", "mnli", "qqp", "siqa", "stsb")
"""Targets and intermediate stages with another learning rate for XLM-R large."""
WINDOWS = dict(epochs=3, max_length=384, row_length=384, doc_stride=128)
UD_LANGUAGES = dict(
    af="Afrikaans",
    ar="Arabic",
    bg="Bulgarian",
    de="German",
    el="Greek",
    en="English",
    es="Spanish",
    et="Estonian",
    eu="Basque",
    fa="Persian",
    fi="Finnish",
    fr="French",
    he="Hebrew",
    hi="Hindi",
    hu="Hungarian",
    id="Indonesian",
    it="Italian",
    ja="Japanese",
    kk="Kazakh",
    ko="Korean",
    mr="Marathi",
    nl="Dutch",
    pt="Portuguese",
    ru="Russian",
    ta="Tamil",
    te="Telugu",
    th="Thai",
    tl="Tagalog",
    tr="Turkish",
    ur="Urdu",
    vi="Vietnamese",
    yo="Yoruba",
    zh="Chinese",
)
"""Languages of UD 2.5 in google/xtreme, which has no lt, pl, uk, wo and ro."""
TYDI_LANGUAGES = dict(
    ar="arabic",
    bn="bengali",
    en="english",
    fi="finnish",
    id="indonesian",
    ko="korean",
    ru="russian",
    sw="swahili",
    te="telugu",
)


def hub(preset: str) -> dict:
    """Return the settings of a preset."""
    models = {name: pinned(hub) for name, hub in MODELS[preset].items()}
    targets = {task.__name__: task() for task in (xnli, xcopa, udpos, panx, xquad, tydiqa)}
    before = intermediates()
    if preset == "hub_large":
        for stages, names in ((targets, SENTENCES[:2]), (before, SENTENCES[2:])):
            for name in names:
                stages[name]["optimizer"] = PLAIN | dict(learning_rate=3e-5)
    return dict(
        models=models,
        seeds=(0, 1, 2, 3, 4),
        optimizer=dict(learning_rate=2e-5),
        train=dict(batch_size=32, max_length=128, row_length=128),
        intermediates=before,
        targets=targets
        | dict(
            tatoeba=tatoeba(LAYERS[preset]), lareqa=lareqa(), mewslix=mewslix(preset == "hub_large")
        ),
        data_dir="DATA",
    )


def stage(task: dict, train: dict, dev: dict, epochs: int, **more: Any) -> dict:
    """Return a stage with the settings of all tasks but question answering."""
    return dict(
        task=task,
        data=dict(train=train, dev=dev),
        optimizer=PLAIN,
        train=dict(epochs=epochs),
        **more,
    )


def answering(data: dict, **more: Any) -> dict:
    """Return a stage with the settings of question answering."""
    return dict(
        task=ANSWERS,
        data=data,
        optimizer=dict(learning_rate=3e-5, weight_decay=1e-4, warmup=500),
        train=WINDOWS,
        **more,
    )


def mnli(split: str) -> dict:
    """Return a split of MNLI."""
    columns = dict(text_a="premise", text_b="hypothesis", label="label")
    return pinned("nyu-mll/glue", subset="mnli", split=split, columns=columns)


def squad_v1(split: str) -> dict:
    """Return a split of SQuAD 1.1."""
    return pinned("rajpurkar/squad", split=split, columns=SQUAD)


def intermediates() -> dict[str, dict]:
    """Return the intermediate stages: three epochs each."""

    def qqp(split: str) -> dict:
        return pinned(
            "nyu-mll/glue",
            subset="qqp",
            split=split,
            columns=dict(text_a="question1", text_b="question2", label="label"),
            labels=dict(not_duplicate="different", duplicate="paraphrase"),
        )

    def siqa(split: str) -> dict:
        return pinned(
            "allenai/social_i_qa",
            split=split,
            columns=SIQA | dict(label="label"),
            labels={"1": "0", "2": "1", "3": "2"},
        )

    def stsb(split: str) -> dict:
        columns = dict(text_a="sentence1", text_b="sentence2", label="score")
        return pinned("mteb/stsbenchmark-sts", split=split, columns=columns)

    return dict(
        mnli=stage(NLI, mnli("train"), mnli("validation_matched"), 3),
        qqp=stage(PARAPHRASE, qqp("train"), qqp("validation"), 3),
        siqa=stage(SOCIAL, siqa("train"), siqa("validation"), 5),
        squad=answering(dict(train=squad_v1("train"), dev=squad_v1("validation"))),
        stsb=stage(SIMILARITY, stsb("train"), stsb("validation"), 3),
    )


def xnli() -> dict:
    """Return MNLI -> XNLI."""
    columns = dict(text_a="premise", text_b="hypothesis", label="label")
    tests = {
        code: pinned("facebook/xnli", subset=code, split="test", columns=columns)
        for code in LANGUAGES["xnli"]
    }
    dev = pinned("facebook/xnli", subset="en", split="validation", columns=columns)
    return stage(
        NLI,
        mnli("train"),
        dev,
        5,
        evaluate=benchmark("xnli", tests),
        parallel=(parallel("xnli", tests),),
        intermediates=("qqp", "siqa", "squad", "stsb"),
    )


def xcopa() -> dict:
    """Return English COPA -> XCOPA; the official model has learned SIQA before."""

    def copa(split: str) -> dict:
        return pinned(
            "aps/super_glue",
            subset="copa",
            split=split,
            columns=COPA,
            labels=dict(choice1="0", choice2="1"),
            questions=COPA_QUESTIONS,
        )

    tests = {
        code: pinned(
            "cambridgeltl/xcopa",
            subset=code,
            split="test",
            columns=COPA,
            questions=COPA_QUESTIONS,
        )
        for code in LANGUAGES["xcopa"]
    }
    return stage(
        CHOICE,
        copa("train"),
        copa("validation"),
        5,
        evaluate=benchmark("xcopa", tests),
        parallel=(parallel("xcopa", tests),),
        intermediates=("siqa", "mnli", "qqp", "squad", "stsb"),
    )


def udpos() -> dict:
    """Return English parts of speech -> 33 languages."""

    def speech(code: str, split: str) -> dict:
        return pinned(
            "google/xtreme",
            subset=f"udpos.{UD_LANGUAGES[code]}",
            split=split,
            columns=dict(words="tokens", tags="pos_tags"),
        )

    tests = {code: speech(code, "test") for code in UD_LANGUAGES}
    return stage(
        SPEECH,
        speech("en", "train"),
        speech("en", "validation"),
        10,
        evaluate=benchmark("udpos", tests),
        intermediates=("mnli", "qqp", "siqa", "squad", "stsb"),
    )


def panx() -> dict:
    """Return English WikiANN -> 48 languages."""

    def entities(code: str, split: str) -> dict:
        columns = dict(words="tokens", tags="ner_tags")
        return pinned("unimelb-nlp/wikiann", subset=code, split=split, columns=columns)

    tests = {code: entities(code, "test") for code in LANGUAGES["panx"]}
    return stage(
        ENTITIES,
        entities("en", "train"),
        entities("en", "validation"),
        10,
        evaluate=benchmark("panx", tests),
        intermediates=("mnli", "qqp", "siqa", "squad", "stsb"),
    )


def xquad() -> dict:
    """Return SQuAD 1.1 -> XQuAD and MLQA."""
    tests = {
        code: pinned("google/xquad", subset=f"xquad.{code}", split="validation", columns=SQUAD)
        for code in LANGUAGES["xquad"]
    }
    mlqa = {
        code: pinned("google/xtreme", subset=f"MLQA.{code}.{code}", split="test", columns=SQUAD)
        for code in LANGUAGES["mlqa"]
    }
    return answering(
        dict(train=squad_v1("train"), dev=squad_v1("validation")),
        evaluate=benchmark("xquad", tests) | benchmark("mlqa", mlqa, answer_style="mlqa"),
        intermediates=("mnli", "qqp", "siqa", "stsb"),
    )


def tydiqa() -> dict:
    """Return English TyDiQA-GoldP -> nine languages."""

    def goldp(code: str, split: str) -> dict:
        return pinned(
            "google-research-datasets/tydiqa",
            subset="secondary_task",
            split=split,
            columns=SQUAD,
            keep_prefix=dict(id=(f"{TYDI_LANGUAGES[code]}-",)),
        )

    tests = {code: goldp(code, "validation") for code in LANGUAGES["tydiqa"]}
    return answering(
        # XTREME selects by the English dev set, which is evaluated too.
        dict(train=goldp("en", "train"), split=(0.9, 0.1, 0.0)),
        evaluate=benchmark("tydiqa", tests),
        intermediates=("mnli", "qqp", "siqa", "squad", "stsb"),
    )


def tatoeba(layer: int) -> dict:
    """Return Tatoeba by a layer of the encoder as it is: from English to the translations."""

    def duplicates(split: str) -> dict:
        """Return pairs of questions, which a stage that trains nothing needs, too."""
        return pinned(
            "nyu-mll/glue",
            subset="qqp",
            split=split,
            columns=dict(query="question1", passage="question2"),
            keep=dict(label=("duplicate",)),
            fraction=0.01,
        )

    columns = dict(query="sentence2", passage="sentence1")
    tests = {
        code: pinned(
            "mteb/tatoeba-bitext-mining",
            subset=f"{ISO_639_3[code]}-eng",
            split="test",
            columns=columns,
        )
        for code in LANGUAGES["tatoeba"]
    }
    return dict(
        task=TRANSLATIONS | dict(embedding_layer=layer),
        data=dict(train=duplicates("train"), dev=duplicates("validation")),
        evaluate=benchmark("tatoeba", tests),
        intermediates=("mnli", "qqp", "siqa", "squad", "stsb"),
        **UNTRAINED,
    )


def lareqa() -> dict:
    """Return SQuAD 1.1 -> LAReQA, from files: a dual encoder, and one pool of 11 languages."""

    def sentences(split: str) -> dict:
        return dict(path=f"squad/{split}-v1.1.json", format="squad_sentences")

    pool = dict(path="lareqa/xquad-r", format="lareqa", benchmark="xtreme-r/lareqa")
    return dict(
        task=ANSWER_SENTENCES,
        data=dict(train=sentences("train"), dev=sentences("dev")),
        evaluate=dict(lareqa=pool),
        intermediates=("mnli", "qqp", "siqa", "stsb"),
        optimizer=PLAIN,
        train=dict(batch_size=16, epochs=3, max_length=256, row_length=256),
    )


def mewslix(large: bool) -> dict:
    """Return Wikipedia's mentions -> Mewsli-X, from files: among 1,003,893 entities.

    The official ones of mBERT and XLM-R large; XLM-R base has those of mBERT.
    """

    def file(name: str, **settings: Any) -> dict:
        return dict(path=f"mewslix/{name}.jsonl", format="mewslix", **settings)

    test = file(
        "wikinews_mentions-test",
        candidates="mewslix/candidate_set_entities.jsonl",
        benchmark="xtreme-r/mewslix",
    )
    return dict(
        task=ENTITY_LINKS,
        data=dict(train=file("wikipedia_pairs-train"), dev=file("wikipedia_pairs-dev")),
        evaluate=dict(mewslix=test),
        intermediates=("mnli", "qqp", "siqa", "squad", "stsb"),
        optimizer=PLAIN | dict(learning_rate=1e-5 if large else 2e-5),
        train=dict(batch_size=32 if large else 256, epochs=2, max_length=64, row_length=64),
    )
