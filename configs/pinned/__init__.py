"""Revisions of the hub's data sets and models that the presets read.

`datasets` 4 and later refuses data sets that are loading scripts, so every data set here is a plain
file (csv, json lines, parquet) at its revision. How each was checked: subsets, splits, columns and
label names in the data set's card (xcopa, xtreme, the tweets), or in public code that reads the
set; the revision in public code that loads it (for `mteb/...` and `google/xquad` the benchmark
mteb, for the models and the others several projects). Nothing was downloaded. For the sets at
`PARQUET` no commit was found: that branch holds the hub's own conversion to parquet, one folder per
subset and split, where the split `dev` is called `validation`. A preset reads them as they are on
the day; note the commit before publishing results.
"""

from __future__ import annotations

from typing import Any

PARQUET = "refs/convert/parquet"
REVISIONS = {
    # Models. xlnet-base-cased has only pytorch_model.bin at this revision (see configs/paper.py).
    "FacebookAI/roberta-base": "e2da8e2f811d1448a5b465c236feacd80ffbac7b",
    "FacebookAI/xlm-roberta-base": "e73636d4f797dec63c3081bb6ed5c7b0bb3f2089",
    "FacebookAI/xlm-roberta-large": "c23d21b0620b635a76227c604d44e43a9f0ee389",
    "google-bert/bert-base-multilingual-cased": "3f076fdb1ab68d5b2880cb87a0886f315b8146f8",
    "google-bert/bert-base-uncased": "86b5e0934494bd15c9632b12f734a8a67f723594",
    "xlnet/xlnet-base-cased": "ceaa69c7bc5e512b5007106a7ccbb7daf24b2c79",
    # Data sets.
    "PhilipMay/stsb_multi_mt": PARQUET,
    "SetFit/CR": PARQUET,
    "allenai/social_i_qa": PARQUET,
    "aps/super_glue": "3de24cf8022e94f4ee4b9d55a6f539891524d646",
    "cambridgeltl/xcopa": "042f78955ba48e6404616762fa6e05e839c3907a",
    "facebook/xnli": "b8dd5d7af51114dbda02c0e3f6133f332186418e",
    "fancyzhx/amazon_polarity": "9d9c45c18f8c3cf1b23a3c27917b60cbf28f3289",
    "google-research-datasets/tydiqa": PARQUET,
    "google/xquad": "51adfef1c1287aab1d2d91b5bead9bcfb9c68583",
    "google/xtreme": PARQUET,
    "mteb/AmazonReviewsClassification": "6b5d328eaae8ef408dd7d775040245cf86f92e9d",
    "mteb/DutchBookReviewSentimentClassification": "1c2815ad38cf4794eb8d678fb08f569ea79392f6",
    "mteb/biosses-sts": "d3fb88f8f02e40887cd149695127462bbcf29b4a",
    "mteb/stsbenchmark-sts": "b0fddb56ed78048fa8b90373c8a3cfc37b684831",
    "mteb/tatoeba-bitext-mining": PARQUET,
    "mteb/tweet_sentiment_multilingual": "d522bb117c32f5e0207344f69f7075fc9941168b",
    "nyu-mll/glue": "bcdcba79d07bc864c1c254ccfcedcce55bcc9a8c",
    "rajpurkar/squad": "7b6d24c440a36b6815f21b70d25016731768db1f",
    "stanfordnlp/imdb": "e6281661ce1c48d982bc483cf8a173c1bbeb5d31",
    "stanfordnlp/sst2": "8d51e7e4887a4caaa95b3fbebbf53c0490b58bbb",
    "unimelb-nlp/wikiann": "f0a3be6dc5564c0cc4150bb660144800a1f539d4",
}
"""Commit, or branch of the hub, by id."""


def pinned(hub: str, **settings: Any) -> dict[str, Any]:
    """Return the settings of a data set or model on the hub at its revision."""
    return dict(hub=hub, revision=REVISIONS[hub], **settings)


def tweets(language: str, split: str, code: str) -> dict[str, Any]:
    """Return tweets with three labels in one of eight languages (Barbieri et al. 2022).

    The authors' set on the hub, cardiffnlp/tweet_sentiment_multilingual, is a loading script. This
    copy of it has all languages in one subset.

    Args:
      language: English name of the language, in lower case.
      split: `train`, `validation` or `test`.
      code: Code of the language in reports.
    """
    names = ("negative", "neutral", "positive")
    return pinned(
        "mteb/tweet_sentiment_multilingual",
        split=split,
        columns=dict(text_a="text", label="label"),
        # The labels are numbers; a set with class labels would give their names.
        labels={str(i): name for i, name in enumerate(names)} | {name: name for name in names},
        keep=dict(lang=(language,)),
        language=code,
    )
