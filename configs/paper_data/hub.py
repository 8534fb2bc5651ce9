"""Presets `hub` and `hub_trained`: base-size models and full data sets from the hub.

Ids and revisions are in configs/pinned. The cards of the data sets were read; nothing was
downloaded.
"""

from __future__ import annotations

from pinned import pinned, tweets

from paper_data.tasks import (
    DEV_OF_TRAIN,
    GENRES,
    NLI,
    PARAPHRASE,
    STS,
    STS_LANGUAGES,
    TWEET_LANGUAGES,
    TWEETS,
    ZERO_ONE,
    joined,
    polarity,
)


def hub(trained_in: str) -> dict:
    """Return the settings of a preset."""
    families = (hub_reviews, hub_sentiment, hub_similarity)
    return dict(
        models=dict(
            bert=pinned("google-bert/bert-base-uncased"),
            roberta=pinned("FacebookAI/roberta-base"),
            xlnet=pinned("xlnet/xlnet-base-cased"),
            xlmr=pinned("FacebookAI/xlm-roberta-base"),
        ),
        seeds=(0, 1, 2, 3, 4),
        optimizer=dict(learning_rate=2e-5, weight_decay=0.01, warmup=0.06),
        train=dict(batch_size=32, epochs=10, patience=3, max_length=128, row_length=128),
        **joined(*(family(trained_in) for family in families)),
    )


def to_the_end(task: dict, train: dict, **more: int) -> dict:
    """Return an intermediate stage of at most a hundred epochs."""
    return dict(
        task=task,
        data=dict(train=train),
        optimizer=dict(schedule="constant", warmup=500),
        train=dict(epochs=100, patience=3, **more),
    )


def hub_reviews(trained_in: str) -> dict:
    """Return IMDB -> Amazon product reviews; -> reviews in other languages."""
    long = dict(max_length=512, row_length=512)
    films = pinned(
        "stanfordnlp/imdb",
        columns=dict(text_a="text", label="label"),
        labels=dict(neg="negative", pos="positive"),
    )

    def products(split: str, fraction: float) -> dict:
        return pinned(
            "fancyzhx/amazon_polarity",
            split=split,
            columns=dict(text_a="content", label="label"),
            fraction=fraction,
            domain="products",
        )

    def stars(language: str, split: str, fraction: float = 1.0) -> dict:
        # One to five stars, counted from 0; three stars are neutral.
        return pinned(
            "mteb/AmazonReviewsClassification",
            subset=language,
            split=split,
            columns=dict(text_a="text", label="label"),
            labels={"0": "negative", "1": "negative", "3": "positive", "4": "positive"},
            drop=dict(label=("2",)),
            language=language,
            fraction=fraction,
        )

    dutch = pinned(
        "mteb/DutchBookReviewSentimentClassification",
        split="test",
        columns=dict(text_a="text", label="label"),
        labels=ZERO_ONE,
        language="nl",
    )
    # IMDB has 17,500 training examples, so a target may have 1,750.
    domain = dict(train=products("train", 0.00068), split=DEV_OF_TRAIN)
    language = dict(train=stars(trained_in, "train", 0.0155), split=DEV_OF_TRAIN)
    other = {name: stars(name, "test") for name in ("en", "de", "fr", "zh")}
    return dict(
        intermediates=dict(imdb=to_the_end(polarity("film reviews"), films, **long)),
        targets={
            "classification-domain": dict(
                task=polarity("product reviews"),
                data=domain,
                evaluate=dict(products=products("test", 0.01)),
                intermediates="imdb",
                train=long,
            ),
            "classification-language": dict(
                task=polarity("product reviews"),
                data=language,
                evaluate=other | dict(nl=dutch),
                intermediates="imdb",
                train=long,
            ),
        },
    )


def hub_sentiment(trained_in: str) -> dict:
    """Return SST-2 -> customer reviews; -> tweets."""
    films = pinned("stanfordnlp/sst2", columns=dict(text_a="sentence", label="label"))

    def customers(split: str) -> dict:
        return pinned(
            "SetFit/CR",
            split=split,
            columns=dict(text_a="text", label="label"),
            labels=ZERO_ONE,
            domain="customer reviews",
        )

    return dict(
        intermediates=dict(sst2=to_the_end(polarity("film sentences"), films)),
        targets={
            "sentiment-domain": dict(
                task=polarity("customer reviews"),
                data=dict(train=customers("train"), split=DEV_OF_TRAIN),
                evaluate=dict(customers=customers("test")),
                intermediates="sst2",
            ),
            "sentiment-language": dict(
                task=TWEETS,
                data=dict(
                    train=tweets(TWEET_LANGUAGES[trained_in], "train", trained_in),
                    dev=tweets(TWEET_LANGUAGES[trained_in], "validation", trained_in),
                ),
                evaluate={
                    code: tweets(language, "test", code)
                    for code, language in TWEET_LANGUAGES.items()
                },
                intermediates="sst2",
            ),
        },
    )


def hub_similarity(trained_in: str) -> dict:
    """Return QQP or MNLI -> captions, also scored in other domains; -> STS in other languages."""
    qqp = pinned(
        "nyu-mll/glue",
        subset="qqp",
        columns=dict(text_a="question1", text_b="question2", label="label"),
        labels=dict(not_duplicate="different", duplicate="paraphrase"),
        # A few records have an empty question.
        drop=dict(text_a=("",), text_b=("",)),
    )
    mnli = pinned(
        "nyu-mll/glue",
        subset="mnli",
        columns=dict(text_a="premise", text_b="hypothesis", label="label"),
    )
    pair = dict(text_a="sentence1", text_b="sentence2")

    def genre(split: str, name: str) -> dict:
        return pinned(
            "mteb/stsbenchmark-sts",
            split=split,
            columns=dict(**pair, label="score", domain="genre"),
            keep=dict(domain=(GENRES[name],)),
        )

    def sts(language: str, split: str) -> dict:
        return pinned(
            "PhilipMay/stsb_multi_mt",
            subset=language,
            split=split,
            columns=dict(**pair, label="similarity_score"),
            language=language,
        )

    # Scores are from 0 to 4, which does not affect correlations.
    medical = pinned(
        "mteb/biosses-sts",
        split="test",
        columns=dict(**pair, label="score"),
        domain="medical",
    )
    return dict(
        intermediates=dict(
            qqp=to_the_end(PARAPHRASE | dict(metric="macro_f1"), qqp), mnli=to_the_end(NLI, mnli)
        ),
        targets={
            "similarity-domain": dict(
                task=STS,
                data=dict(train=genre("train", "captions"), dev=genre("validation", "captions")),
                evaluate={name: genre("test", name) for name in GENRES} | dict(medical=medical),
                intermediates=("qqp", "mnli"),
            ),
            "similarity-language": dict(
                task=STS,
                data=dict(train=sts(trained_in, "train"), dev=sts(trained_in, "validation")),
                evaluate={language: sts(language, "test") for language in STS_LANGUAGES},
                intermediates=("qqp", "mnli"),
            ),
        },
    )
