r"""Effect of aligning an early layer across languages before a task, as Targeted Lexical Injection.

Translations -> English semantic textual similarity -> zero-shot similarity in other languages, with
(`staged`) and without (`direct`) the alignment. Ngugi 2025 (arXiv 2506.15415) aligns the output of
an early layer by a triplet loss with the hardest negative of the batch, and trains low-rank
adapters alone. They are merged before the target stage, which trains all parameters.

The layer, the rank, alpha and dropout of the adapters, the margin, the batch size, the epochs and
the learning rate are those of the published code. Ours are the encoder (theirs is a Llama with 8
billion parameters, whose outputs they compare afterwards), the sentences (theirs are 623 pairs of
words in Swahili and English; a file of words is read in the same way), and the target task.

Presets
  local   A folder with Tatoeba, as XTREME distributes it, and stsb-multi-mt, and any local
          multilingual checkpoint: translations in nine languages -> STS-B -> the same languages,
          three seeds. Pairs that the model is trained on here are no test of it on Tatoeba.

Commands
  python -m flaxfer.main --config configs/tli_xling.py \
      --config.data_dir=DATA --config.model.path=MODEL

Expected
  local   Not measured in full. One seed of an encoder with 12 layers and width 384: in 300 steps of
          the alignment, accuracy_at_1 on dev rose from 0.457 (after 150) to 0.489. The nearest
          neighbours of sentences in Swahili, which it was not trained on, were their translations
          more often by layer 2 (0.113 before, 0.226 after), and less often by the last (0.695 and
          0.664).
"""

from __future__ import annotations

from ml_collections import ConfigDict

TATOEBA = dict(
    de="deu", es="spa", fr="fra", it="ita", ja="jpn", nl="nld", pt="por", ru="rus", zh="cmn"
)
"""Codes of languages in the names of Tatoeba's files. XTREME has no Polish."""

LAYER = 2


def get_config(preset: str = "local") -> ConfigDict:
    """Return the config of a preset."""
    if preset != "local":
        raise ValueError(f"there is no preset {preset!r}; there is local")
    config = ConfigDict(local())
    config.name = f"tli_xling-{preset}"
    return config


def local() -> dict:
    """Return settings for published data sets in a folder and a local checkpoint."""

    def sts(language: str, split: str) -> dict:
        return dict(
            path=f"stsb-multi-mt/stsb-{language}-{split}.csv",
            header=False,
            columns=dict(text_a=0, text_b=1, label=2),
            language=language,
        )

    return dict(
        model=dict(path="MODEL"),
        data_dir="DATA",
        seeds=(0, 1, 2),
        intermediate=alignment([translations(*codes) for codes in TATOEBA.items()]),
        target=dict(
            task=dict(name="similarity", type="regression", metric="pearson"),
            data=dict(train=sts("en", "train"), dev=sts("en", "dev")),
            evaluate={language: sts(language, "test") for language in ("en", *TATOEBA)},
            optimizer=dict(learning_rate=5e-5, weight_decay=0.01, warmup=0.1),
            train=dict(batch_size=32, epochs=3, max_length=128, row_length=128),
        ),
    )


def translations(language: str, code: str) -> dict:
    """Return the pairs of sentences of a language and English, which are found by each other."""
    return dict(
        path="tatoeba",
        format="lines",
        aligned=dict(query=f"tatoeba.{code}-eng.{code}", passage=f"tatoeba.{code}-eng.eng"),
        language=language,
    )


def alignment(pairs: list[dict]) -> dict:
    """Return the stage that aligns the output of an early layer."""
    return dict(
        task=dict(
            name="alignment",
            type="retrieval",
            metric="accuracy_at_1",
            triplet_margin=0.4,
            embedding_layer=LAYER,
        ),
        data=dict(train=pairs, split=(0.9, 0.1, 0.0)),
        lora=dict(rank=16, alpha=32.0, dropout=0.05, layers=(0, LAYER)),
        optimizer=dict(learning_rate=2e-4, weight_decay=0.01, warmup=50, clip_norm=0.0),
        train=dict(batch_size=8, epochs=5, max_length=64),
    )
