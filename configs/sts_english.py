r"""English semantic similarity alone, for comparison with other trainers.

STS-B English, all weights updated, 3 epochs with batch size 32, six seeds; test Pearson of the
epoch with the best dev score. benchmarks/peer_sts.py does the same with the PyTorch Trainer of
transformers.

Preset
  local   A folder with stsb-multi-mt/stsb-en-{train,dev,test}.csv and any local checkpoint.

Commands
  python -m flaxfer.main --config configs/sts_english.py \
      --config.data_dir=DATA --config.model.path=MODEL
  python -m benchmarks.peer_sts --model MODEL --data DATA

Expected: BENCHMARKS.md has the scores of all-MiniLM-L6-v2 with their spread.
Time: about three minutes per seed on two CPU cores.
"""

from __future__ import annotations

from ml_collections import ConfigDict


def get_config(preset: str = "local") -> ConfigDict:
    """Return the config; `local` is the only preset."""
    if preset != "local":
        raise ValueError(f"there is no preset {preset!r}; there is local")

    def sts(split: str) -> dict:
        return dict(
            path=f"stsb-multi-mt/stsb-en-{split}.csv",
            header=False,
            columns=dict(text_a=0, text_b=1, label=2),
        )

    return ConfigDict(
        dict(
            name="sts_english",
            model=dict(path="MODEL"),
            data_dir="DATA",
            conditions=("direct",),
            seeds=(0, 1, 2, 3, 4, 5),
            optimizer=dict(learning_rate=5e-5, weight_decay=0.01, warmup=0.1),
            train=dict(batch_size=32, epochs=3, max_length=128, row_length=128),
            target=dict(
                task=dict(
                    name="similarity",
                    type="regression",
                    metric="pearson",
                    score_range=(0.0, 5.0),
                ),
                data=dict(train=sts("train"), dev=sts("dev"), test=sts("test")),
            ),
        )
    )
