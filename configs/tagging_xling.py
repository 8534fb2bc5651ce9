r"""Effect of part-of-speech tagging on named entity recognition in unseen languages.

Parts of speech (English Universal Dependencies) -> named entities (English PAN-X, Pan et al. 2017)
-> named entities in other languages, zero-shot. The metric is seqeval's entity F1.

Presets
  local   A folder with the published data sets (panx, ud-en-ewt) and any local XLM-R checkpoint.
          Only the dev file of Universal Dependencies is used, and split.
  base    XLM-R base and the full data sets, from the hub.

Commands
  python -m flaxfer.main --config configs/tagging_xling.py:local \
      --config.data_dir=DATA --config.model.path=MODEL
  python -m flaxfer.main --config configs/tagging_xling.py:base

Hub ids and revisions: configs/pinned, which says how they were checked.
Expected: not measured yet.
Time: not measured yet; `base` needs an accelerator.
"""

from __future__ import annotations

from ml_collections import ConfigDict
from pinned import pinned

LOCAL_LANGUAGES = ("bn", "de", "hi", "sw", "ta", "te", "ur", "yo")
HUB_LANGUAGES = ("ar", "bg", "de", "el", "en", "es", "fr", "hi", "ru", "sw", "th", "tr", "ur", "zh")
ENTITIES = dict(
    name="entities",
    type="tagging",
    metric="f1",
    labels=("O", "B-PER", "I-PER", "B-ORG", "I-ORG", "B-LOC", "I-LOC"),
)
SPEECH = dict(
    name="parts of speech",
    type="tagging",
    metric="accuracy",
    labels=(
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
    ),
)


def get_config(preset: str = "local") -> ConfigDict:
    """Return the config of a preset."""
    presets = {"local": local, "base": base}
    if preset not in presets:
        raise ValueError(f"there is no preset {preset!r}; there are {', '.join(presets)}")
    shared = dict(
        name=f"tagging_xling-{preset}",
        seeds=(0, 1, 2),
        optimizer=dict(learning_rate=5e-5, weight_decay=0.01, warmup=0.1),
        train=dict(batch_size=32, epochs=3, max_length=128, row_length=128),
    )
    return ConfigDict(shared | presets[preset]())


def local() -> dict:
    """Return settings for published data sets in a folder and a local checkpoint."""

    def entities(split: str, language: str) -> dict:
        return dict(
            path=f"panx/{split}-{language}.tsv",
            format="conll",
            columns=dict(words=0, tags=1),
            language=language,
        )

    speech = dict(path="ud-en-ewt/en_ewt-ud-dev.conllu", format="conllu")
    return dict(
        model=dict(path="MODEL"),
        data_dir="DATA",
        intermediate=dict(task=SPEECH, data=dict(train=speech)),
        target=dict(
            task=ENTITIES,
            data=dict(train=entities("train", "en"), dev=entities("dev", "en")),
            evaluate={language: entities("dev", language) for language in LOCAL_LANGUAGES},
        ),
    )


def base() -> dict:
    """Return settings for XLM-R base and data sets from the hub."""

    def entities(split: str, language: str) -> dict:
        return pinned(
            "unimelb-nlp/wikiann",
            subset=language,
            split=split,
            columns=dict(words="tokens", tags="ner_tags"),
            language=language,
        )

    def speech(split: str) -> dict:
        # All English treebanks of UD 2.5, as in XTREME.
        return pinned(
            "google/xtreme",
            subset="udpos.English",
            split=split,
            columns=dict(words="tokens", tags="pos_tags"),
        )

    return dict(
        model=pinned("FacebookAI/xlm-roberta-base"),
        intermediate=dict(task=SPEECH, data=dict(train=speech("train"), dev=speech("validation"))),
        target=dict(
            task=ENTITIES,
            data=dict(train=entities("train", "en"), dev=entities("validation", "en")),
            evaluate={language: entities("test", language) for language in HUB_LANGUAGES},
        ),
    )
