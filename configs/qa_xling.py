r"""Effect of natural language inference on question answering in unseen languages.

English inference -> extractive question answering (English SQuAD) -> XQuAD (Artetxe et al. 2020) in
other languages, zero-shot. F1 and exact match follow SQuAD's script, as in XTREME.

Presets
  local   A folder with glue-samples/MNLI and xquad/xquad.{en,de,es}.json, and any local XLM-R
          checkpoint. The folder has no SQuAD, so the English XQuAD is split instead. Questions
          about the same paragraph occur in train, dev and test, and German and Spanish are
          translations of them. Scores therefore show only whether answers transfer between
          languages, not how well new questions are answered.
  base    XLM-R base, MNLI, SQuAD and XQuAD from the hub.

Commands
  python -m flaxfer.main --config configs/qa_xling.py:local \
      --config.data_dir=DATA --config.model.path=MODEL
  python -m flaxfer.main --config configs/qa_xling.py:base

Hub ids and revisions: configs/pinned, which says how they were checked.
Expected: not measured yet.
"""

from __future__ import annotations

from ml_collections import ConfigDict
from pinned import pinned

HUB_LANGUAGES = ("ar", "de", "el", "en", "es", "hi", "ru", "th", "tr", "vi", "zh")
NLI = dict(
    name="inference",
    type="classification",
    metric="accuracy",
    labels=("entailment", "neutral", "contradiction"),
)
ANSWERS = dict(name="answers", type="question_answering", metric="f1")
WINDOWS = dict(batch_size=16, max_length=384, row_length=384, doc_stride=128)


def get_config(preset: str = "local") -> ConfigDict:
    """Return the config of a preset."""
    presets = {"local": local, "base": base}
    if preset not in presets:
        raise ValueError(f"there is no preset {preset!r}; there are {', '.join(presets)}")
    shared = dict(
        name=f"qa_xling-{preset}",
        seeds=(0, 1, 2),
        optimizer=dict(learning_rate=3e-5, weight_decay=0.01, warmup=0.1),
        train=dict(batch_size=32, epochs=2, max_length=128, row_length=128),
    )
    return ConfigDict(shared | presets[preset]())


def local() -> dict:
    """Return settings for published data sets in a folder and a local checkpoint."""

    def nli(split: str) -> dict:
        return dict(
            path=f"glue-samples/MNLI/{split}.tsv",
            columns=dict(text_a="text_a", text_b="text_b", label="label"),
        )

    def xquad(language: str) -> dict:
        return dict(path=f"xquad/xquad.{language}.json", format="squad", language=language)

    return dict(
        model=dict(path="MODEL"),
        data_dir="DATA",
        intermediate=dict(task=NLI, data=dict(train=nli("train"), dev=nli("dev"))),
        target=dict(
            task=ANSWERS,
            data=dict(train=xquad("en")),
            evaluate={language: xquad(language) for language in ("de", "es")},
            train=dict(epochs=10, patience=3, **WINDOWS),
        ),
    )


def base() -> dict:
    """Return settings for XLM-R base and data sets from the hub."""

    def nli(split: str) -> dict:
        return pinned(
            "nyu-mll/glue",
            subset="mnli",
            split=split,
            columns=dict(text_a="premise", text_b="hypothesis", label="label"),
        )

    squad = dict(text_a="question", text_b="context", answers="answers", id="id")
    return dict(
        model=pinned("FacebookAI/xlm-roberta-base"),
        intermediate=dict(task=NLI, data=dict(train=nli("train"), dev=nli("validation_matched"))),
        target=dict(
            task=ANSWERS,
            data=dict(
                train=pinned("rajpurkar/squad", split="train", columns=squad),
                dev=pinned("rajpurkar/squad", split="validation", columns=squad),
            ),
            evaluate={
                language: pinned(
                    "google/xquad",
                    subset=f"xquad.{language}",
                    split="validation",
                    columns=squad,
                    language=language,
                )
                for language in HUB_LANGUAGES
            },
            train=WINDOWS,
        ),
    )
