r"""Effect of training on film reviews on classifying reviews of other products.

IMDB film reviews -> reviews of products. The encoder and the language stay the same; the domain
changes. IMDB is the intermediate task of Mohapatra & Mohapatra (2022); the target and its domains
are our choice.

Presets
  local   A folder with the published data sets (fdu-mtl) and any local checkpoint. The film
          reviews are the 1,600 in fdu-mtl. The target is book reviews; reviews of clothing,
          electronics, health and kitchen products are evaluated zero-shot.
  hub     BERT base, all 25,000 IMDB reviews and Amazon reviews of all kinds of products from the
          hub.

Commands
  python -m flaxfer.main --config configs/classification_domain.py:local \
      --config.data_dir=DATA --config.model.path=MODEL
  python -m flaxfer.main --config configs/classification_domain.py:hub

Hub ids and revisions: configs/pinned, which says how they were checked.
Expected: not measured yet.
Time: `local` trains on about 3,600 texts of up to 256 tokens per epoch, which takes minutes on two
CPU cores without AMX for a checkpoint with 6 layers and width 384. `hub` needs an accelerator.
"""

from __future__ import annotations

from ml_collections import ConfigDict
from pinned import pinned

DOMAINS = ("apparel", "electronics", "health_personal_care", "kitchen_housewares")


def sentiment(name: str) -> dict:
    """Return a task with two classes."""
    return dict(
        name=name, type="classification", metric="accuracy", labels=("negative", "positive")
    )


def get_config(preset: str = "local") -> ConfigDict:
    """Return the config of a preset."""
    presets = {"local": local, "hub": hub}
    if preset not in presets:
        raise ValueError(f"there is no preset {preset!r}; there are {', '.join(presets)}")
    shared = dict(name=f"classification_domain-{preset}", seeds=(0, 1, 2))
    return ConfigDict(shared | presets[preset]())


def local() -> dict:
    """Return settings for published data sets in a folder and a local checkpoint."""

    def reviews(domain: str, split: str) -> dict:
        return dict(
            path=f"fdu-mtl/{domain}.task.{split}",
            format="tsv",
            header=False,
            columns=dict(label=0, text_a=1),
            labels={"0": "negative", "1": "positive"},
            domain=domain,
        )

    return dict(
        model=dict(path="MODEL"),
        data_dir="DATA",
        optimizer=dict(learning_rate=5e-5),
        train=dict(batch_size=16, epochs=3, max_length=256, row_length=256),
        intermediate=dict(
            task=sentiment("film reviews"),
            data=dict(train=reviews("imdb", "train"), dev=reviews("imdb", "test")),
        ),
        target=dict(
            task=sentiment("product reviews"),
            # Dev is 15/85 of train; the published test set is the test set.
            data=dict(train=reviews("books", "train"), test=reviews("books", "test")),
            evaluate={domain: reviews(domain, "test") for domain in DOMAINS},
        ),
    )


def hub() -> dict:
    """Return settings for BERT base, with IMDB and Amazon reviews from the hub."""
    labels = dict(neg="negative", pos="positive")

    def films(split: str) -> dict:
        return pinned(
            "stanfordnlp/imdb",
            split=split,
            columns=dict(text_a="text", label="label"),
            labels=labels,
        )

    def products(split: str, fraction: float) -> dict:
        return pinned(
            "fancyzhx/amazon_polarity",
            split=split,
            columns=dict(text_a="content", label="label"),
            fraction=fraction,
            domain="products",
        )

    return dict(
        model=pinned("google-bert/bert-base-uncased"),
        optimizer=dict(learning_rate=2e-5),
        train=dict(batch_size=32, epochs=3, max_length=512, row_length=512),
        intermediate=dict(
            task=sentiment("film reviews"),
            data=dict(train=films("train"), dev=films("test")),
        ),
        target=dict(
            task=sentiment("product reviews"),
            # A tenth of the intermediate set, as in the paper's design.
            data=dict(train=products("train", 0.0007), test=products("test", 0.01)),
        ),
    )
