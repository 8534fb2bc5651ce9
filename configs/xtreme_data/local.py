"""Preset `local`: published data sets in a folder and a local checkpoint."""

from __future__ import annotations

from typing import Any

from xtreme_data.tasks import (
    ANSWERS,
    CHOICE,
    COPA,
    COPA_QUESTIONS,
    ENTITIES,
    ISO_639_3,
    LANGUAGES,
    NLI,
    PARAPHRASE,
    SIMILARITY,
    SIQA,
    SOCIAL,
    SPEECH,
    TRANSLATIONS,
    UNTRAINED,
    benchmark,
    parallel,
)

DEV_OF_TRAIN = (0.85, 0.15, 0.0)
"""Fractions of train, dev and test where English is evaluated on the published dev set."""
UDPOS = dict(
    en="dev",
    ja="dev",
    uk="dev",
    wo="dev",
    zh="dev",
    af="test",
    eu="test",
    he="test",
    hu="test",
    kk="test",
    mr="test",
    ta="test",
    te="test",
    th="test",
    tl="test",
    ur="test",
    vi="test",
    yo="test",
)
"""Split of the parts of speech that is there, by language."""
PANX = ("en", "bn", "de", "hi", "sw", "ta", "te", "ur", "yo")
MLQA = ("en", "de", "es", "vi", "zh")
TYDIQA = dict(
    bn="bengali",
    en="english",
    fi="finnish",
    id="indonesian",
    ko="korean",
    sw="swahili",
    te="telugu",
)
WINDOWS = dict(max_length=256, row_length=256, doc_stride=96)


def local() -> dict:
    """Return the settings of the preset, sized for two CPU cores."""
    tasks = (xnli, xcopa, udpos, panx, xquad, tydiqa, tatoeba)
    return dict(
        # So short a run does without dropout.
        models=dict(xlmr=dict(path="XLMR", dropout=0.0)),
        data_dir="DATA",
        seeds=(0, 1, 2),
        optimizer=dict(learning_rate=1e-4, weight_decay=0.01, warmup=0.1),
        train=dict(
            batch_size=16,
            epochs=3,
            max_length=128,
            row_length="auto",
            max_bucket_sizes=2,
        ),
        intermediates=intermediates(),
        targets={task.__name__: task() for task in tasks},
    )


def intermediate(task: dict, train: dict, dev: dict, **train_settings: Any) -> dict:
    """Return an intermediate stage of one epoch."""
    return dict(
        task=task,
        data=dict(train=train, dev=dev),
        # At higher rates small encoders forget their pretraining.
        optimizer=dict(learning_rate=5e-5),
        train=dict(batch_size=32, epochs=1) | train_settings,
    )


def glue(task: str, split: str, fraction: float, **settings: Any) -> dict:
    """Return a part of a sample of GLUE."""
    columns = dict(text_a="text_a", text_b="text_b", label="label")
    path = f"glue-samples/{task}/{split}.tsv"
    return dict(path=path, columns=columns, fraction=fraction, **settings)


def squad_file(path: str, fraction: float) -> dict:
    """Return a part of a file of questions."""
    return dict(path=path, format="squad", fraction=fraction)


def intermediates() -> dict[str, dict]:
    """Return the intermediate stages: 2,000 training examples each, 1,000 questions."""

    def qqp(split: str, fraction: float) -> dict:
        labels = {"0": "different", "1": "paraphrase"}
        return glue("QQP", split, fraction, labels=labels, quotes="csv")

    def siqa(split: str, fraction: float) -> dict:
        return dict(
            path=f"siqa/socialIQa_v1.4_{split}.jsonl",
            columns=SIQA | dict(label="correct"),
            labels=dict(A="0", B="1", C="2"),
            fraction=fraction,
        )

    def stsb(split: str, fraction: float) -> dict:
        return dict(
            path=f"stsb-multi-mt/stsb-en-{split}.csv",
            header=False,
            columns=dict(text_a=0, text_b=1, label=2),
            fraction=fraction,
        )

    return dict(
        mnli=intermediate(NLI, glue("MNLI", "train", 0.2222), glue("MNLI", "dev", 0.2)),
        qqp=intermediate(PARAPHRASE, qqp("train", 0.2222), qqp("dev", 0.2)),
        # There is no training set here: the test set is trained on.
        siqa=intermediate(SOCIAL, siqa("tst", 0.9), siqa("dev", 0.1)),
        squad=dict(
            task=ANSWERS,
            data=dict(
                train=squad_file("squad/train-v1.1.part.json", 0.0936), split=(0.9, 0.1, 0.0)
            ),
            optimizer=dict(learning_rate=5e-5),
            train=dict(batch_size=32, epochs=1, **WINDOWS),
        ),
        stsb=intermediate(SIMILARITY, stsb("train", 0.348), stsb("dev", 0.133)),
    )


def xnli() -> dict:
    """Return MNLI (1,000 pairs) -> the dev sets of XNLI, which are there in all languages."""

    def pairs(code: str, fraction: float) -> dict:
        columns = dict(text_a=0, text_b=1, label=2)
        path = f"xnli/dev-{code}.tsv"
        return dict(path=path, header=False, columns=columns, fraction=fraction)

    tests = {code: pairs(code, 0.04) for code in LANGUAGES["xnli"]}
    return dict(
        task=NLI,
        data=dict(train=glue("MNLI", "train", 0.1111), dev=glue("MNLI", "dev", 0.2)),
        evaluate=benchmark("xnli", tests),
        parallel=(parallel("xnli", tests),),
        intermediates=("qqp", "siqa", "squad", "stsb"),
        train=dict(epochs=2),
    )


def xcopa() -> dict:
    """Return English COPA (400 examples) -> XCOPA."""

    def copa(path: str, fraction: float = 1.0) -> dict:
        return dict(path=path, columns=COPA, questions=COPA_QUESTIONS, fraction=fraction)

    tests = {code: copa(f"xcopa/{code}/test.{code}.jsonl", 0.2) for code in LANGUAGES["xcopa"]}
    return dict(
        task=CHOICE,
        data=dict(train=copa("copa/train-en.jsonl"), dev=copa("copa/val-en.jsonl")),
        evaluate=benchmark("xcopa", tests),
        parallel=(parallel("xcopa", tests),),
        intermediates=("siqa", "mnli", "qqp", "squad", "stsb"),
    )


def udpos() -> dict:
    """Return English parts of speech (1,000 sentences) -> 18 other languages."""

    def speech(code: str, split: str, fraction: float) -> dict:
        return dict(
            path=f"udpos/{split}-{code}.tsv",
            format="conll",
            columns=dict(words=0, tags=1),
            fraction=fraction,
        )

    sizes = dict(
        en=3974, ja=501, uk=672, wo=449, zh=1000, af=425, eu=1799, he=491, hu=449, kk=1047, mr=47,
        ta=654, te=146, th=1000, tl=222, ur=535, vi=800, yo=318,
    )  # fmt: skip
    tests = {
        code: speech(code, split, min(1.0, 100 / sizes[code])) for code, split in UDPOS.items()
    }
    # One of the German treebanks.
    german = dict(path="ud-pud/de_pud-ud-test.conllu", format="conllu", fraction=0.1)
    return dict(
        task=SPEECH,
        data=dict(train=speech("en", "train", 0.054), split=DEV_OF_TRAIN),
        evaluate=benchmark("udpos", tests | dict(de=german)),
        intermediates=("mnli", "qqp", "siqa", "squad", "stsb"),
    )


def panx() -> dict:
    """Return English WikiANN (1,000 sentences) -> 8 other languages."""

    def entities(code: str, split: str, fraction: float) -> dict:
        return dict(
            path=f"panx/{split}-{code}.tsv",
            format="conll",
            columns=dict(words=0, tags=1),
            fraction=fraction,
        )

    sizes = dict.fromkeys(PANX, 1000) | dict(en=10_000, de=10_000, yo=100)
    tests = {code: entities(code, "dev", min(1.0, 150 / sizes[code])) for code in PANX}
    return dict(
        task=ENTITIES,
        data=dict(train=entities("en", "train", 0.0588), split=DEV_OF_TRAIN),
        evaluate=benchmark("panx", tests),
        intermediates=("mnli", "qqp", "siqa", "squad", "stsb"),
    )


def xquad() -> dict:
    """Return SQuAD 1.1 (400 questions) -> XQuAD and the dev sets of MLQA."""
    tests = {code: squad_file(f"xquad/xquad.{code}.json", 0.04) for code in LANGUAGES["xquad"]}
    sizes = dict(en=1148, de=512, es=500, vi=511, zh=504)
    mlqa = {
        code: squad_file(
            f"mlqa/dev/dev-context-{code}-question-{code}.json", round(40 / sizes[code], 4)
        )
        for code in MLQA
    }
    return dict(
        task=ANSWERS,
        data=dict(train=squad_file("squad/train-v1.1.part.json", 0.04), split=DEV_OF_TRAIN),
        evaluate=benchmark("xquad", tests) | benchmark("mlqa", mlqa, answer_style="mlqa"),
        intermediates=("mnli", "qqp", "siqa", "stsb"),
        train=dict(epochs=2, **WINDOWS),
    )


def tydiqa() -> dict:
    """Return English TyDiQA-GoldP (400 questions) -> 6 other languages."""
    sizes = dict(bn=113, en=440, fi=782, id=565, ko=276, sw=499, te=669)
    tests = {
        code: squad_file(f"tydiqa-goldp/{name}_tydiqa_dev.json", round(50 / sizes[code], 4))
        for code, name in TYDIQA.items()
    }
    return dict(
        task=ANSWERS,
        data=dict(
            train=squad_file("tydiqa-goldp/english_tydiqa_train.json", 0.1286), split=DEV_OF_TRAIN
        ),
        evaluate=benchmark("tydiqa", tests),
        intermediates=("mnli", "qqp", "siqa", "squad", "stsb"),
        train=dict(epochs=2, **WINDOWS),
    )


def tatoeba() -> dict:
    """Return Tatoeba by the encoder as it is: from 150 English sentences to their translations."""
    absent = ("az", "lt", "pl", "ro", "uk")
    sizes = dict.fromkeys(LANGUAGES["tatoeba"], 1000)
    sizes |= dict(jv=205, ka=746, kk=575, ml=687, sw=390, ta=307, te=234, th=548)
    tests = {
        code: dict(
            path="tatoeba",
            format="lines",
            aligned=dict(
                query=f"tatoeba.{ISO_639_3[code]}-eng.eng",
                passage=f"tatoeba.{ISO_639_3[code]}-eng.{ISO_639_3[code]}",
            ),
            fraction=round(150 / sizes[code], 4),
        )
        for code in LANGUAGES["tatoeba"]
        if code not in absent
    }

    def duplicates(split: str, fraction: float) -> dict:
        """Return pairs of questions, which a stage that trains nothing needs, too."""
        columns = dict(query="text_a", passage="text_b")
        return glue("QQP", split, fraction, quotes="csv", keep=dict(label=("1",))) | dict(
            columns=columns
        )

    return dict(
        task=TRANSLATIONS,
        data=dict(train=duplicates("train", 0.02), dev=duplicates("dev", 0.2)),
        evaluate=benchmark("tatoeba", tests),
        intermediates=("mnli", "qqp", "siqa", "squad", "stsb"),
        **UNTRAINED,
    )
