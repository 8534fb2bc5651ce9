"""Presets `local` and `local_trained`: published data sets in a folder and local checkpoints."""

from __future__ import annotations

from paper_data.films import film_reviews
from paper_data.tasks import (
    DEV_OF_TRAIN,
    GENRES,
    PARAPHRASE,
    PRODUCTS,
    STS,
    STS_LANGUAGES,
    TWEET_LANGUAGES,
    TWEETS,
    ZERO_ONE,
    joined,
    polarity,
)


def local(trained_in: str) -> dict:
    """Return the settings of a preset, sized for two CPU cores."""
    families = (local_reviews, local_sentiment, local_similarity)
    return dict(
        # So short a run does without dropout.
        models=dict(bert=dict(path="BERT", dropout=0.0), xlmr=dict(path="XLMR", dropout=0.0)),
        data_dir="DATA",
        seeds=(0, 1, 2, 3, 4),
        optimizer=dict(learning_rate=1e-4, weight_decay=0.01, warmup=0.1),
        train=dict(
            batch_size=16,
            epochs=4,
            patience=2,
            max_length=96,
            row_length="auto",
            # Each bucket size is compiled.
            max_bucket_sizes=2,
        ),
        **joined(*(family(trained_in) for family in families)),
    )


def shortly(task: dict, train: dict) -> dict:
    """Return an intermediate stage of at most two epochs."""
    return dict(
        task=task,
        data=dict(train=train),
        # At higher rates small encoders forget their pretraining.
        optimizer=dict(learning_rate=5e-5, schedule="constant", warmup=20),
        train=dict(batch_size=32, epochs=2, patience=1),
    )


def local_reviews(trained_in: str) -> dict:
    """Return IMDB (2,013 training reviews) -> product reviews (200); -> book reviews (200)."""

    def products(domain: str, split: str, fraction: float) -> dict:
        return dict(
            path=f"fdu-mtl/{domain}.task.{split}",
            format="tsv",
            header=False,
            columns=dict(label=0, text_a=1),
            labels=ZERO_ONE,
            domain=domain,
            fraction=fraction,
        )

    def pattern(language: str, shop: str, fraction: float, text: int) -> dict:
        return dict(
            path=f"pattern-reviews/polarity-{language}-{shop}.csv",
            header=False,
            columns=dict(text_a=text, label=1 - text),
            labels={"-1": "negative", "1": "positive"},
            language=language,
            fraction=fraction,
        )

    def chinese(file: str, domain: str, fraction: float) -> dict:
        return dict(
            path=f"zh-reviews/{file}.csv",
            columns=dict(text_a="review", label="label"),
            labels=ZERO_ONE,
            drop=dict(text_a=("",)),
            language="zh",
            domain=domain,
            fraction=fraction,
        )

    domain = dict(train=products("apparel", "train", 0.179), split=DEV_OF_TRAIN)
    language = dict(train=products("books", "train", 0.179), split=DEV_OF_TRAIN)
    others = dict(
        en=products("books", "test", 0.75),
        fr=pattern("fr", "amazon", 0.2, 0),
        nl=pattern("nl", "bol.com", 0.1, 1),
        de=pattern("de", "amazon", 1.0, 1),
        zh_hotels=chinese("ChnSentiCorp_htl_all", "hotels", 0.0386),
        zh_takeaway=chinese("waimai_10k", "takeaway", 0.025),
    )
    if trained_in != "en":
        # The French film reviews have no splits; their test split replaces `fr`.
        language = dict(train=others.pop("fr") | dict(fraction=1.0), train_fraction=0.19)
    return dict(
        intermediates=dict(imdb=shortly(polarity("film reviews"), film_reviews("imdb", 0.115))),
        targets={
            "classification-domain": dict(
                task=polarity("product reviews"),
                data=domain,
                evaluate={name: products(name, "test", 0.75) for name in PRODUCTS},
                intermediates=("imdb", "sst2"),
            ),
            "classification-language": dict(
                task=polarity("reviews"),
                data=language,
                evaluate=others,
                intermediates="imdb",
            ),
        },
    )


def local_sentiment(trained_in: str) -> dict:
    """Return SST-2 (2,502 training sentences) -> customer reviews (250); -> tweets (250)."""
    films = dict(
        path="glue-samples/SST-2/train.tsv",
        columns=dict(text_a="text", label="label"),
        labels=ZERO_ONE,
        fraction=0.574,
    )
    customers = dict(
        path="senteval-style/custrev.all",
        format="tsv",
        delimiter=" ",
        max_columns=2,
        header=False,
        columns=dict(label=0, text_a=1),
        labels=ZERO_ONE,
        drop=dict(text_a=("",)),
        fraction=0.6,
        domain="customer reviews",
    )

    def tweets(language: str, split: str, fraction: float = 1.0) -> dict:
        return dict(
            path=f"xlm-t-sentiment/{TWEET_LANGUAGES[language]}",
            format="lines",
            aligned=dict(text_a=f"{split}_text.txt", label=f"{split}_labels.txt"),
            labels={"0": "negative", "1": "neutral", "2": "positive"},
            language=language,
            fraction=fraction,
        )

    return dict(
        intermediates=dict(sst2=shortly(polarity("film sentences"), films)),
        targets={
            "sentiment-domain": dict(
                task=polarity("customer reviews"),
                data=dict(train=customers, train_fraction=0.158),
                intermediates=("sst2", "imdb"),
            ),
            "sentiment-language": dict(
                task=TWEETS,
                data=dict(train=tweets(trained_in, "train", 0.136), dev=tweets(trained_in, "val")),
                evaluate={name: tweets(name, "test", 0.345) for name in TWEET_LANGUAGES},
                intermediates="sst2",
            ),
        },
    )


def local_similarity(trained_in: str) -> dict:
    """Return QQP (2,502 training pairs) -> captions (250); -> STS (250)."""
    qqp = dict(
        path="glue-samples/QQP/train.tsv",
        columns=dict(text_a="text_a", text_b="text_b", label="label"),
        labels={"0": "different", "1": "paraphrase"},
        quotes="csv",
        fraction=0.3972,
    )

    def genre(split: str, name: str, fraction: float) -> dict:
        return dict(
            path=f"stsbenchmark-en/sts-{split}.csv",
            format="tsv",
            header=False,
            columns=dict(text_a=5, text_b=6, label=4, domain=0),
            keep=dict(domain=(GENRES[name],)),
            fraction=fraction,
        )

    def sts(language: str, split: str, fraction: float) -> dict:
        return dict(
            path=f"stsb-multi-mt/stsb-{language}-{split}.csv",
            header=False,
            columns=dict(text_a=0, text_b=1, label=2),
            language=language,
            fraction=fraction,
        )

    # Relatedness from 1 to 5 of sentences derived from captions.
    sick = dict(
        path="sick/SICK_test_annotated.txt",
        format="tsv",
        columns=dict(text_a="sentence_A", text_b="sentence_B", label="relatedness_score"),
        domain="sick",
        fraction=0.0609,
    )
    mean = dict(output_bias="mean")
    return dict(
        intermediates=dict(qqp=shortly(PARAPHRASE, qqp)),
        targets={
            "similarity-domain": dict(
                task=STS,
                data=dict(
                    train=genre("train", "captions", 0.125), dev=genre("dev", "captions", 0.24)
                ),
                evaluate=dict(
                    captions=genre("test", "captions", 0.48),
                    news=genre("test", "news", 0.6),
                    forums=genre("test", "forums", 1.0),
                    sick=sick,
                ),
                intermediates="qqp",
                train=mean,
            ),
            "similarity-language": dict(
                task=STS,
                data=dict(train=sts(trained_in, "train", 0.0435), dev=sts(trained_in, "dev", 0.1)),
                evaluate={name: sts(name, "test", 0.2176) for name in STS_LANGUAGES},
                intermediates="qqp",
                train=mean,
            ),
        },
    )
