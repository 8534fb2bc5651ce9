"""Preset `demo`: embedded data, and weights from an installed package."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from flaxfer.demo import weights
from flaxfer.errors import DataError
from xtreme_data.tasks import (
    ANSWERS,
    CHOICE,
    COPA,
    COPA_QUESTIONS,
    ENTITIES,
    NLI,
    PARAPHRASE,
    SPEECH,
    benchmark,
)

DEMO = Path(weights.__file__).parent / "data"
LOWER = (r"^encoder/embeddings/", r"^encoder/layers/[0-5]/")
"""Parameters that the few steps leave as they are, to save time."""


def demo() -> dict:
    """Return the settings of the preset."""
    model = weights.model_path()
    if not Path(model, "config.json").exists():
        raise DataError(
            "the demo's weights do not exist yet",
            where=model,
            hint="run `python -m flaxfer.demo.weights` once; `make demo` does.",
        )
    questions = dict(format="squad")
    tags = dict(format="conll", columns=dict(words=0, tags=1))
    pair = dict(header=False, columns=dict(text_a=0, text_b=1, label=2))
    copa = dict(columns=COPA, questions=COPA_QUESTIONS)
    paraphrase = dict(columns=dict(text_a="text_a", text_b="text_b", label="label"))
    squad = target(ANSWERS, "squad", "json", questions)
    squad["evaluate"] = {
        **tests("xquad", "json", questions, ("en", "de")),
        **tests("mlqa", "json", questions, ("en", "de"), answer_style="mlqa"),
    }
    # English TyDiQA is evaluated on its dev set.
    tydiqa = dict(
        task=ANSWERS,
        data=dict(train=file("tydiqa-train-en.json", questions), split=(0.8, 0.2, 0.0)),
        evaluate=tests("tydiqa", "json", questions, ("en", "id")),
        intermediates="paraphrase",
    )
    return dict(
        models=dict(demo=dict(path=model, dropout=0.0)),
        seeds=(0, 1),
        optimizer=dict(learning_rate=1e-4, weight_decay=0.01, warmup=0.1, freeze=LOWER),
        train=dict(
            batch_size=16,
            max_steps=12,
            # A single checkpoint.
            eval_every=12,
            max_length=64,
            row_length=64,
            log_every=4,
            max_bucket_sizes=1,
        ),
        intermediates=dict(
            paraphrase=dict(
                task=PARAPHRASE,
                data=dict(
                    train=dict(path=str(DEMO / "paraphrase-train.tsv"), **paraphrase),
                    dev=dict(path=str(DEMO / "paraphrase-dev.tsv"), **paraphrase),
                ),
                optimizer=dict(learning_rate=5e-5),
            )
        ),
        targets=dict(
            xnli=target(NLI, "xnli", "tsv", pair, ("en", "de")),
            xcopa=target(CHOICE, "xcopa", "jsonl", copa, ("it",)),
            udpos=target(SPEECH, "udpos", "tsv", tags, ("en", "de")),
            panx=target(ENTITIES, "panx", "tsv", tags, ("en", "de")),
            xquad=squad,
            tydiqa=tydiqa,
        ),
    )


def file(name: str, settings: dict) -> dict:
    """Return the source of an embedded file."""
    return dict(path=str(DEMO / "xtreme-r" / name), **settings)


def tests(
    task: str, suffix: str, settings: dict, languages: tuple[str, ...], **more: Any
) -> dict[str, dict]:
    """Return the evaluated sets of a task."""
    files = {code: file(f"{task}-test-{code}.{suffix}", settings) for code in languages}
    return benchmark(task, files, **more)


def target(
    task: dict, name: str, suffix: str, settings: dict, languages: tuple[str, ...] = ()
) -> dict:
    """Return a target with its English data."""
    return dict(
        task=task,
        data=dict(
            train=file(f"{name}-train-en.{suffix}", settings),
            dev=file(f"{name}-dev-en.{suffix}", settings),
        ),
        evaluate=tests(name, suffix, settings, languages) if languages else {},
        intermediates="paraphrase",
    )
