"""Tasks and constants shared by several presets."""

from __future__ import annotations

DEV_OF_TRAIN = (0.70, 0.30, 0.0)
"""Fractions of train, dev and test for data with a published test set."""
PRODUCTS = ("apparel", "electronics", "health_personal_care", "kitchen_housewares")
GENRES = dict(captions="main-captions", news="main-news", forums="main-forums")
STS_LANGUAGES = ("en", "de", "es", "fr", "it", "ja", "nl", "pl", "pt", "ru", "zh")
TWEET_LANGUAGES = dict(
    ar="arabic",
    de="german",
    en="english",
    es="spanish",
    fr="french",
    hi="hindi",
    it="italian",
    pt="portuguese",
)

NEGATIVE_POSITIVE = ("negative", "positive")
ZERO_ONE = {"0": "negative", "1": "positive"}
STS = dict(name="similarity", type="regression", metric="pearson", score_range=(0.0, 5.0))
TWEETS = dict(
    name="sentiment of tweets",
    type="classification",
    metric="macro_f1",
    labels=("negative", "neutral", "positive"),
)
PARAPHRASE = dict(
    name="paraphrase", type="classification", metric="accuracy", labels=("different", "paraphrase")
)
NLI = dict(
    name="inference",
    type="classification",
    metric="accuracy",
    labels=("entailment", "neutral", "contradiction"),
)


def polarity(name: str) -> dict:
    """Return a task with two classes."""
    return dict(name=name, type="classification", metric="accuracy", labels=NEGATIVE_POSITIVE)


def joined(*families: dict) -> dict:
    """Return the intermediate and target stages of several families."""
    return {
        key: {name: stage for family in families for name, stage in family[key].items()}
        for key in ("intermediates", "targets")
    }
