"""Preset `demo`: embedded data; film reviews and weights from installed packages."""

from __future__ import annotations

from pathlib import Path

from flaxfer.demo import weights
from flaxfer.errors import DataError
from paper_data.films import film_reviews
from paper_data.tasks import PARAPHRASE, STS, joined, polarity

DEMO = Path(weights.__file__).parent / "data"


def demo() -> dict:
    """Return the settings of the preset."""
    model = weights.model_path()
    if not Path(model, "config.json").exists():
        raise DataError(
            "the demo's weights do not exist yet",
            where=model,
            hint="run `python -m flaxfer.demo.weights` once; `make demo` does.",
        )
    return dict(
        models=dict(demo=dict(path=model, dropout=0.0)),
        optimizer=dict(learning_rate=1e-4, weight_decay=0.01, warmup=0.1),
        train=dict(
            batch_size=16,
            epochs=4,
            patience=2,
            max_length=64,
            row_length=64,
            log_every=5,
            max_bucket_sizes=1,
        ),
        **joined(demo_reviews(), demo_similarity()),
    )


def file(name: str, language: str = "en", **columns: str) -> dict:
    """Return the source of an embedded table."""
    return dict(path=str(DEMO / name), columns=columns, language=language)


def demo_reviews() -> dict:
    """Return film reviews or film sentences -> product reviews (48) in five languages."""
    columns = dict(text_a="text", label="label", domain="domain")
    tests = {
        language: file(f"reviews-{language}-test.tsv", language, id="id", **columns)
        for language in ("en", "de", "fr", "nl", "zh")
    }
    target = dict(
        task=polarity("product reviews"),
        data=dict(
            train=file("reviews-en-train.tsv", **columns), dev=file("reviews-en-dev.tsv", **columns)
        ),
    )
    targets = {}
    for family, intermediate in (("classification", "imdb"), ("sentiment", "sentences")):
        ends = dict(target, intermediates=intermediate)
        targets[f"{family}-domain"] = ends | dict(evaluate=dict(en=tests["en"]))
        targets[f"{family}-language"] = ends | dict(evaluate=tests)
    return dict(
        intermediates=dict(
            imdb=briefly(polarity("film reviews"), film_reviews("imdb", 0.03)),
            sentences=briefly(polarity("film sentences"), film_reviews("rotten_tomatoes", 0.09)),
        ),
        targets=targets,
    )


def briefly(task: dict, train: dict, **data: dict) -> dict:
    """Return an intermediate stage of at most two epochs."""
    return dict(
        task=task,
        data=dict(train=train, **data),
        optimizer=dict(learning_rate=5e-5, schedule="constant", warmup=5),
        train=dict(epochs=2, patience=1),
    )


def demo_similarity() -> dict:
    """Return paraphrase (484 pairs) -> similarity (411), by domain and in six languages."""
    pair = dict(text_a="text_a", text_b="text_b")
    scored = pair | dict(label="score", domain="domain")
    tests = {
        language: file(f"sts-{language}-test.tsv", language, id="id", **scored)
        for language in ("en", "de", "fr", "es", "zh", "hi")
    }
    target = dict(
        task=STS,
        data=dict(train=file("sts-en-train.tsv", **scored), dev=file("sts-en-dev.tsv", **scored)),
        intermediates="paraphrase",
        train=dict(output_bias="mean"),
    )
    return dict(
        intermediates=dict(
            paraphrase=briefly(
                PARAPHRASE,
                file("paraphrase-train.tsv", **pair, label="label"),
                dev=file("paraphrase-dev.tsv", **pair, label="label"),
            )
        ),
        targets={
            "similarity-domain": target | dict(evaluate=dict(en=tests["en"])),
            "similarity-language": target | dict(evaluate=tests),
        },
    )
