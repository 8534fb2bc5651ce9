r"""Effect of an intermediate task on semantic similarity in unseen languages.

English intermediate task -> English semantic textual similarity -> zero-shot similarity in other
languages, with (`staged`) and without (`direct`) the intermediate stage.

Presets
  demo    Embedded data and weights: similarity of captions, forum posts and news -> similarity of
          a few instructions -> all four domains in six languages, three seeds. Needs no network
          and no accelerator. Only the highest third of the layers is trained, in batches of one
          shape, for at most 1e13 floating-point operations. For a control that starts from random
          weights, add --config.conditions='("direct", "staged", "scratch")'.
  local   A folder with the published data sets (stsb-multi-mt, glue-samples/MNLI) and any local
          XLM-R checkpoint: MNLI sample -> STS-B -> ten other languages, three seeds.
  base    XLM-R base from the hub: MNLI -> STS-B -> ten other languages.
  large   XLM-R large from the hub: QQP -> STS-B -> ten other languages.

Commands
  python -m flaxfer.main --config configs/sts_xling.py
  python -m flaxfer.main --config configs/sts_xling.py:local \
      --config.data_dir=DATA --config.model.path=MODEL
  python -m flaxfer.main --config configs/sts_xling.py:base

Expected
  demo    Zero-shot mean Pearson over five languages: 0.07 ± 0.06 direct, 0.52 ± 0.09 staged over
          three seeds; staged minus direct +0.455 [+0.223, +0.683], helps (bfloat16, a CPU with
          AVX-512 BF16), or +0.456 [+0.224, +0.683] (float32, a CPU with AVX2). So few steps on
          instructions teach the pretrained encoder next to nothing, so the report lists the direct
          runs as collapsed. With three epochs of the intermediate task: +0.388 in float32 and
          +0.387 in bfloat16 on the same CPU. Takes 4 minutes 36 seconds on two CPU cores with
          AVX2, without installation.
  local   Not measured in full. One seed of an encoder with 12 layers and width 384, stopped early
          by --config.intermediate.train.max_steps=141 --config.target.train.max_steps=90, took ten
          minutes on two CPU cores and learned little: zero-shot mean 0.02 direct, 0.13 staged.
  base    Not measured.
  large   Not measured.
Hub ids and revisions: configs/pinned, which says how they were checked.
"""

from __future__ import annotations

import json
from pathlib import Path

from ml_collections import ConfigDict
from pinned import pinned

from flaxfer.demo import weights
from flaxfer.errors import DataError

DEMO = Path(weights.__file__).parent / "data"
LANGUAGES = ("de", "es", "fr", "it", "ja", "nl", "pl", "pt", "ru", "zh")
STS = dict(name="similarity", type="regression", metric="pearson", score_range=(0.0, 5.0))
NLI = dict(
    name="inference",
    type="classification",
    metric="accuracy",
    labels=("entailment", "neutral", "contradiction"),
)
PARAPHRASE = dict(
    name="paraphrase",
    type="classification",
    metric="accuracy",
    labels=("different", "paraphrase"),
)


def get_config(preset: str = "demo") -> ConfigDict:
    """Return the config of a preset."""
    presets = {"demo": demo, "local": local, "base": base, "large": large}
    if preset not in presets:
        raise ValueError(f"there is no preset {preset!r}; there are {', '.join(presets)}")
    config = ConfigDict(presets[preset]())
    config.name = f"sts_xling-{preset}"
    return config


def demo() -> dict:
    """Return settings for embedded data and weights from an installed package."""
    model = weights.model_path()
    if not Path(model, "config.json").exists():
        raise DataError(
            "the demo's weights do not exist yet",
            where=model,
            hint="run `python -m flaxfer.demo.weights` once; `make demo` does.",
        )

    def pairs(name: str, language: str = "en", **columns: str) -> dict:
        columns |= dict(text_a="text_a", text_b="text_b", label="score", domain="domain")
        return dict(path=str(DEMO / name), columns=columns, language=language)

    # Three domains first; of the fourth, few pairs.
    several = dict(keep=dict(domain=("captions", "forum", "news")))
    single = dict(keep=dict(domain=("instructions",)))
    return dict(
        # So short a run does without dropout and starts from the mean score.
        model=dict(path=model, dropout=0.0),
        seeds=(0, 1, 2),
        optimizer=dict(
            learning_rate=1e-4, weight_decay=0.01, warmup=0.1, freeze=lowest_layers(model)
        ),
        # Each bucket size is compiled; so short a run affords only one.
        train=dict(
            batch_size=8,
            max_length=64,
            row_length=64,
            log_every=5,
            max_bucket_sizes=1,
            output_bias="mean",
        ),
        intermediate=dict(
            task=STS | dict(name="similarity in other domains"),
            data=dict(
                train=pairs("sts-en-train.tsv") | several, dev=pairs("sts-en-dev.tsv") | several
            ),
            train=dict(epochs=2),
        ),
        target=dict(
            task=STS,
            data=dict(
                train=pairs("sts-en-train.tsv") | single, dev=pairs("sts-en-dev.tsv") | single
            ),
            evaluate={
                language: pairs(f"sts-{language}-test.tsv", language, id="id")
                for language in ("en", "de", "fr", "es", "zh", "hi")
            },
            # A few steps at a low rate: they keep what was learned before, and teach little.
            optimizer=dict(learning_rate=2e-5),
            train=dict(epochs=1),
        ),
    )


def lowest_layers(model: str) -> tuple[str, str]:
    """Return patterns of the parameters of the embeddings and of the lowest two thirds of layers.

    Their gradients are not needed, nor computed.
    """
    layers = json.loads(Path(model, "config.json").read_text("utf-8"))["num_hidden_layers"]
    numbers = "|".join(map(str, range(layers * 2 // 3)))
    return "^encoder/embeddings/", f"^encoder/layers/({numbers})/"


def local() -> dict:
    """Return settings for published data sets in a folder and a local checkpoint."""

    def sts(language: str, split: str) -> dict:
        return dict(
            path=f"stsb-multi-mt/stsb-{language}-{split}.csv",
            header=False,
            columns=dict(text_a=0, text_b=1, label=2),
            language=language,
        )

    def nli(split: str) -> dict:
        return dict(
            path=f"glue-samples/MNLI/{split}.tsv",
            columns=dict(text_a="text_a", text_b="text_b", label="label"),
        )

    return dict(
        model=dict(path="MODEL"),
        data_dir="DATA",
        seeds=(0, 1, 2),
        optimizer=dict(learning_rate=5e-5, weight_decay=0.01, warmup=0.1),
        train=dict(batch_size=32, epochs=3, max_length=128, row_length=128),
        intermediate=dict(task=NLI, data=dict(train=nli("train"), dev=nli("dev"))),
        target=dict(
            task=STS,
            data=dict(train=sts("en", "train"), dev=sts("en", "dev")),
            evaluate={language: sts(language, "test") for language in ("en", *LANGUAGES)},
        ),
    )


def base() -> dict:
    """Return settings for XLM-R base with MNLI as the intermediate task."""
    glue = pinned("nyu-mll/glue", subset="mnli")
    columns = dict(text_a="premise", text_b="hypothesis", label="label")
    return hub(
        "FacebookAI/xlm-roberta-base",
        dict(
            task=NLI,
            data=dict(
                train=dict(**glue, split="train", columns=columns),
                dev=dict(**glue, split="validation_matched", columns=columns),
            ),
        ),
    )


def large() -> dict:
    """Return settings for XLM-R large with QQP as the intermediate task."""
    glue = pinned("nyu-mll/glue", subset="qqp")
    columns = dict(text_a="question1", text_b="question2", label="label")
    labels = dict(not_duplicate="different", duplicate="paraphrase")
    # A few QQP records have an empty question.
    drop = dict(text_a=("",), text_b=("",))
    config = hub(
        "FacebookAI/xlm-roberta-large",
        dict(
            task=PARAPHRASE | dict(metric="macro_f1"),
            data=dict(
                train=dict(**glue, split="train", columns=columns, labels=labels, drop=drop),
                dev=dict(**glue, split="validation", columns=columns, labels=labels, drop=drop),
            ),
        ),
    )
    # Large encoders collapse at higher rates (Mosbach et al. 2021).
    config["optimizer"]["learning_rate"] = 1e-5
    return config


def hub(model: str, intermediate: dict) -> dict:
    """Return settings for STS-B in eleven languages from the hub."""

    def sts(language: str, split: str) -> dict:
        return pinned(
            "PhilipMay/stsb_multi_mt",
            subset=language,
            split=split,
            columns=dict(text_a="sentence1", text_b="sentence2", label="similarity_score"),
            language=language,
        )

    return dict(
        model=pinned(model),
        seeds=(0, 1, 2, 3, 4),
        optimizer=dict(learning_rate=2e-5, weight_decay=0.01, warmup=0.06),
        train=dict(batch_size=32, epochs=3, max_length=128, row_length=128),
        intermediate=intermediate | dict(train=dict(eval_every=2000)),
        target=dict(
            task=STS,
            data=dict(train=sts("en", "train"), dev=sts("en", "validation")),
            evaluate={language: sts(language, "test") for language in ("en", *LANGUAGES)},
            train=dict(epochs=10, patience=3),
        ),
    )
