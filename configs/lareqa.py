r"""LAReQA: a dual encoder trained on English SQuAD finds answers in English and German.

The dual encoder of XTREME-R's LAReQA on a sample: questions of SQuAD 1.1 and the sentences that
answer them, each followed by its paragraph (`format="squad_sentences"`), in batches of 16 with the
other passages of the batch as wrong ones; cosines times 100 at the start, linear decay without
warm-up, no weight decay. Evaluated by mAP@20 on the English and the German part of XQuAD-R, each
with the sentences of its own language as candidates. benchmarks/peer_lareqa.py trains the same in
PyTorch.

The full benchmark, three epochs on all of SQuAD and one pool of all eleven languages, is the target
`lareqa` of the hub presets of configs/xtreme_r.py.

Preset
  local   A folder with squad/train-v1.1.part.json (a part of SQuAD's training set, or all of it)
          and lareqa-xquad-r/{en,de}.json, and any local checkpoint. 24 steps on 385 pairs, with
          a learning rate of 5e-5 (2e-5 officially) to learn in so few, and 128 tokens of a sentence
          with its paragraph (256 officially); evaluated on the 115 questions whose id begins with
          5727 and the sentences of their paragraphs. The embedding is the CLS token (officially
          after the pooler): not every checkpoint has a pooler.

Commands
  python -m flaxfer.main --config configs/lareqa.py \
      --config.data_dir=DATA --config.model.path=MODEL
  python -m benchmarks.lareqa --model=MODEL --data=DATA > benchmarks/results/lareqa.json

Expected: BENCHMARKS.md has the scores of three seeds, beside those of PyTorch.
Time: about a minute per seed on two CPU cores.
"""

from __future__ import annotations

from ml_collections import ConfigDict


def get_config(preset: str = "local") -> ConfigDict:
    """Return the config; `local` is the only preset."""
    if preset != "local":
        raise ValueError(f"there is no preset {preset!r}; there is local")

    def answers(code: str) -> dict:
        return dict(
            path=f"lareqa-xquad-r/{code}.json",
            format="lareqa",
            keep_prefix=dict(id=(f"{code}/5727",)),
        )

    train = dict(path="squad/train-v1.1.part.json", format="squad_sentences", fraction=0.036)
    return ConfigDict(
        dict(
            name="lareqa",
            model=dict(path="MODEL"),
            data_dir="DATA",
            conditions=("direct",),
            seeds=(0, 1, 2),
            optimizer=dict(learning_rate=5e-5, weight_decay=0.0, warmup=0),
            train=dict(batch_size=16, max_steps=24, eval_every=24, max_length=128),
            target=dict(
                task=dict(name="answers", type="retrieval", metric="map_at_20", pooling="cls"),
                data=dict(train=train, split=(0.9, 0.1, 0.0)),
                evaluate=dict(en=answers("en"), de=answers("de")),
            ),
        )
    )
