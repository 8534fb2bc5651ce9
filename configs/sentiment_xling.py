r"""Effect of English film reviews on sentiment analysis of tweets in eight languages.

SST-2 (two classes, English film reviews) -> English tweets (three classes) -> tweets in English
and, zero-shot, Arabic, French, German, Hindi, Italian, Portuguese and Spanish (Barbieri et al.
2022).

Presets
  local   A folder with the published data sets (glue-samples/SST-2, xlm-t-sentiment) and any local
          XLM-R checkpoint.
  base    XLM-R base and the full data sets, from the hub.

Commands
  python -m flaxfer.main --config configs/sentiment_xling.py:local \
      --config.data_dir=DATA --config.model.path=MODEL
  python -m flaxfer.main --config configs/sentiment_xling.py:base

Hub ids and revisions: configs/pinned, which says how they were checked.
Expected: not measured yet.
Time: `local` trains on about 30,000 short texts per seed, which takes less than an hour on two CPU
cores without AMX for a checkpoint with 12 layers and width 384. `base` needs an accelerator.
"""

from __future__ import annotations

from ml_collections import ConfigDict
from pinned import pinned, tweets

CODES = dict(
    english="en",
    arabic="ar",
    french="fr",
    german="de",
    hindi="hi",
    italian="it",
    portuguese="pt",
    spanish="es",
)
FILMS = dict(
    name="film sentiment",
    type="classification",
    metric="accuracy",
    labels=("negative", "positive"),
)
TWEETS = dict(
    name="tweet sentiment",
    type="classification",
    metric="macro_f1",
    labels=("negative", "neutral", "positive"),
)


def get_config(preset: str = "local") -> ConfigDict:
    """Return the config of a preset."""
    presets = {"local": local, "base": base}
    if preset not in presets:
        raise ValueError(f"there is no preset {preset!r}; there are {', '.join(presets)}")
    shared = dict(
        name=f"sentiment_xling-{preset}",
        seeds=(0, 1, 2),
        optimizer=dict(learning_rate=3e-5, weight_decay=0.01, warmup=0.1),
        train=dict(batch_size=32, epochs=3, max_length=128, row_length=128),
    )
    return ConfigDict(shared | presets[preset]())


def local() -> dict:
    """Return settings for published data sets in a folder and a local checkpoint."""

    def films(split: str) -> dict:
        return dict(
            path=f"glue-samples/SST-2/{split}.tsv",
            columns=dict(text_a="text", label="label"),
            labels={"0": "negative", "1": "positive"},
        )

    def local_tweets(language: str, split: str) -> dict:
        return dict(
            path=f"xlm-t-sentiment/{language}",
            format="lines",
            aligned=dict(text_a=f"{split}_text.txt", label=f"{split}_labels.txt"),
            labels={"0": "negative", "1": "neutral", "2": "positive"},
            language=CODES[language],
        )

    return dict(
        model=dict(path="MODEL"),
        data_dir="DATA",
        intermediate=dict(task=FILMS, data=dict(train=films("train"), dev=films("dev"))),
        target=dict(
            task=TWEETS,
            data=dict(train=local_tweets("english", "train"), dev=local_tweets("english", "val")),
            evaluate={code: local_tweets(language, "test") for language, code in CODES.items()},
            train=dict(epochs=5),
        ),
    )


def base() -> dict:
    """Return settings for XLM-R base and data sets from the hub."""

    def films(split: str) -> dict:
        return pinned(
            "stanfordnlp/sst2",
            split=split,
            columns=dict(text_a="sentence", label="label", id="idx"),
        )

    return dict(
        model=pinned("FacebookAI/xlm-roberta-base"),
        intermediate=dict(task=FILMS, data=dict(train=films("train"), dev=films("validation"))),
        target=dict(
            task=TWEETS,
            data=dict(
                train=tweets("english", "train", "en"), dev=tweets("english", "validation", "en")
            ),
            evaluate={code: tweets(language, "test", code) for language, code in CODES.items()},
            train=dict(epochs=10, patience=3),
        ),
    )
