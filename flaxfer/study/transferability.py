"""Which start suits a target, told from frozen features before the target is trained.

The starts are the pretrained encoder and the encoder after the intermediate stage. The features of
an example are the mean over its tokens in the last layer, of a pair as the one sequence that the
model reads, so that its texts have seen each other. It is the mean because the CLS token of an
encoder that is merely pretrained says little of the text (Reimers & Gurevych 2019).
"""

from __future__ import annotations

import dataclasses
import itertools
from pathlib import Path
from typing import Any

import jax
import numpy as np

from flaxfer.data.tokenize import Tokenized
from flaxfer.evaluation.evaluator import finite
from flaxfer.evaluation.transferability import NEIGHBOURS, knn_score, logme
from flaxfer.interop.embed import embed_tokenized
from flaxfer.models.encoders import EncoderConfig
from flaxfer.runtime import sharding
from flaxfer.runtime.trees import Params
from flaxfer.tasks import task_type
from flaxfer.training.stage_run import StageRun

FEATURES = "mean over tokens, last layer"


def file_of(run: StageRun, examples: int) -> Path | None:
    """Where the scores of a target's start are kept, with its stage; None if it has none: at random
    it is no start to choose, and other task types have more than one label an example.
    """
    single_label = task_type(run.settings.task).single_label
    if not examples or run.start == "random" or not single_label:
        return None
    return run.folder / f"transferability-{examples}.json"


def score(run: StageRun, params: Params, encoder: EncoderConfig, examples: int) -> dict[str, Any]:
    """Scores a start by the train split of the target.

    Args:
      run: the target stage.
      params: what it starts from.
      encoder: its config, of whatever vocabulary.
      examples: most of the train split that are used, drawn at random, the same for every start.

    Returns:
      `logme`; `knn`, accuracy or Pearson's correlation; both None where undefined; `neighbours`,
      `examples` and `features`, what they were computed from.
    """
    data = sample(run.train, examples)
    feature_nD = features(encoder, params["encoder"], data, run.evaluator.mesh)
    scores = {"logme": logme(feature_nD, data.label), "knn": knn_score(feature_nD, data.label)}
    about = {"neighbours": NEIGHBOURS, "examples": len(data), "features": FEATURES}
    return {**finite(scores), **about}


def features(
    encoder: EncoderConfig, params: Params, data: Tokenized, mesh: jax.sharding.Mesh
) -> np.ndarray:
    """The features of each example, float32 (n, D).

    Args:
      encoder: its config; the size of the vocabulary is that of `params`.
      params: of the encoder.
      data: ids are rows of its table.
      mesh: over which rows are split.
    """
    rows = len(params["embeddings"]["word"]["embedding"])
    own = dataclasses.replace(encoder, vocab_size=rows)
    placed = jax.device_put(params, sharding.tree_shardings(params, mesh))
    return embed_tokenized(own, placed, data, (own.num_layers,), "mean", mesh)[0]


def sample(data: Tokenized, examples: int) -> Tokenized:
    """At most so many examples of `data`, drawn at random, in their order.

    Equal ones are taken once: each would be the other's neighbour, and known by heart.

    Args:
      data: Of a task type with a single label per example.
      examples: how many.
    """
    chosen: dict[bytes, int] = {}
    for i in np.random.default_rng(0).permutation(len(data)).tolist():
        if len(chosen) == examples:
            break
        chosen.setdefault(data.token[data.offset[i] : data.offset[i + 1]].tobytes(), i)
    rows = np.sort(np.fromiter(chosen.values(), np.int64))
    lengths = data.lengths[rows]
    starts = data.offset[rows] - np.concatenate([[0], np.cumsum(lengths)[:-1]])
    place = np.arange(lengths.sum()) + np.repeat(starts, lengths)

    def pick(values: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(values[i] for i in rows.tolist())

    return dataclasses.replace(
        data,
        token=data.token[place],
        type=data.type[place],
        offset=np.array([0, *itertools.accumulate(lengths.tolist())], np.int64),
        cls=data.cls[rows],
        label=data.label[rows],
        id=pick(data.id),
        language=pick(data.language),
        domain=pick(data.domain),
        example=np.arange(len(rows), dtype=np.int32),
    )
