r"""Effect of natural language inference on causal reasoning in unseen languages.

English inference -> choice of the more plausible cause or effect -> XCOPA (Ponti et al. 2020) in
eleven languages. The metric is accuracy; chance is 0.5.

Presets
  local   A folder with glue-samples/MNLI and xcopa/, and a local XLM-R checkpoint. The folder has
          no English COPA, so the model trains on the validation sets of ten languages (1,000
          examples, the same hundred in each), dev is the validation set of Vietnamese, and test is
          the XCOPA test set in all languages.
  base    XLM-R base, MNLI, COPA (English) and XCOPA from the hub.

Commands
  python -m flaxfer.main --config configs/choice_xling.py:local \
      --config.data_dir=DATA --config.model.path=MODEL
  python -m flaxfer.main --config configs/choice_xling.py:base

Hub ids and revisions: configs/pinned, which says how they were checked.
Expected: not measured yet.
"""

from __future__ import annotations

from ml_collections import ConfigDict
from pinned import pinned

LANGUAGES = ("et", "ht", "id", "it", "qu", "sw", "ta", "th", "tr", "vi", "zh")
NLI = dict(
    name="inference",
    type="classification",
    metric="accuracy",
    labels=("entailment", "neutral", "contradiction"),
)
CHOICE = dict(name="causal choice", type="multiple_choice", metric="accuracy")
ROLES = dict(
    text_a="premise", choice_1="choice1", choice_2="choice2", question="question", label="label"
)
QUESTIONS = dict(cause="What was the cause?", effect="What happened as a result?")


def get_config(preset: str = "local") -> ConfigDict:
    """Return the config of a preset."""
    presets = {"local": local, "base": base}
    if preset not in presets:
        raise ValueError(f"there is no preset {preset!r}; there are {', '.join(presets)}")
    shared = dict(
        name=f"choice_xling-{preset}",
        seeds=(0, 1, 2),
        optimizer=dict(learning_rate=2e-5, weight_decay=0.01, warmup=0.1),
        train=dict(batch_size=32, epochs=3, max_length=128, row_length=128),
    )
    return ConfigDict(shared | presets[preset]())


def local() -> dict:
    """Return settings for published data sets in a folder and a local checkpoint."""

    def nli(split: str) -> dict:
        return dict(
            path=f"glue-samples/MNLI/{split}.tsv",
            columns=dict(text_a="text_a", text_b="text_b", label="label"),
        )

    def xcopa(language: str, split: str) -> dict:
        return dict(
            path=f"xcopa/{language}/{split}.{language}.jsonl",
            columns=ROLES,
            questions=QUESTIONS,
            language=language,
        )

    return dict(
        model=dict(path="MODEL"),
        data_dir="DATA",
        intermediate=dict(task=NLI, data=dict(train=nli("train"), dev=nli("dev"))),
        target=dict(
            task=CHOICE,
            data=dict(
                train=tuple(xcopa(language, "val") for language in LANGUAGES if language != "vi"),
                dev=xcopa("vi", "val"),
            ),
            evaluate={language: xcopa(language, "test") for language in LANGUAGES},
            train=dict(batch_size=16, epochs=10, patience=3),
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

    def copa(split: str) -> dict:
        return pinned(
            "aps/super_glue",
            subset="copa",
            split=split,
            columns=ROLES,
            labels=dict(choice1="0", choice2="1"),
            questions=QUESTIONS,
        )

    return dict(
        model=pinned("FacebookAI/xlm-roberta-base"),
        intermediate=dict(task=NLI, data=dict(train=nli("train"), dev=nli("validation_matched"))),
        target=dict(
            task=CHOICE,
            data=dict(train=copa("train"), dev=copa("validation")),
            evaluate={
                language: pinned(
                    "cambridgeltl/xcopa",
                    subset=language,
                    split="test",
                    columns=ROLES,
                    questions=QUESTIONS,
                    language=language,
                )
                for language in LANGUAGES
            },
            train=dict(batch_size=16, epochs=10, patience=3),
        ),
    )
