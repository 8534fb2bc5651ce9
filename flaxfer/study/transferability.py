"""Scores of the starts of a target stage, from frozen features before it is trained.

The starts are the pretrained encoder and the encoder after the intermediate stage. The features of
an example are the mean over the tokens of its sequence (of both texts of a pair) in the last layer,
since the CLS token of a merely pretrained encoder says little (Reimers & Gurevych 2019).
"""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import numpy as np

from flaxfer.config import Task
from flaxfer.data.tokenize import Tokenized
from flaxfer.evaluation.evaluator import finite
from flaxfer.evaluation.transferability import NEIGHBOURS, knn_score, logme
from flaxfer.interop.embedding import embed_tokenized
from flaxfer.models.encoders import EncoderConfig
from flaxfer.runtime import sharding
from flaxfer.runtime.trees import Params
from flaxfer.tasks import task_type
from flaxfer.training.stage import StageSpec

FEATURES = "mean over tokens, last layer"


def applies(task: Task, start: StageSpec | str) -> bool:
    """Return whether a start can be scored: it is not random, and examples have one label."""
    return start != "random" and task_type(task).single_label


def score(
    encoder: EncoderConfig, params: Params, data: Tokenized, examples: int, mesh: jax.sharding.Mesh
) -> dict[str, Any]:
    """Score a start by the training split of the target.

    Args:
      encoder: Config of the encoder, of any vocabulary.
      params: Parameters of the start.
      data: The training split.
      examples: Maximum number of examples, sampled in the same way for every start.
      mesh: Mesh of the devices.

    Returns:
      `logme` and `knn` (accuracy or Pearson's correlation), None where undefined; `neighbours`,
      `examples` and `features`, the settings of the scores.
    """
    data = sample(data, examples)
    feature_nD = features(encoder, params["encoder"], data, mesh)
    scores = {"logme": logme(feature_nD, data.label), "knn": knn_score(feature_nD, data.label)}
    about = {"neighbours": NEIGHBOURS, "examples": len(data), "features": FEATURES}
    return {**finite(scores), **about}


def features(
    encoder: EncoderConfig, params: Params, data: Tokenized, mesh: jax.sharding.Mesh
) -> np.ndarray:
    """Return the features of each example, float32 (n, D).

    The ids in `data` number the rows of the word embedding in `params`, the encoder's parameters.
    """
    rows = len(params["embeddings"]["word"]["embedding"])
    encoder = dataclasses.replace(encoder, vocab_size=rows)
    placed = jax.device_put(params, sharding.tree_shardings(params, mesh))
    return embed_tokenized(encoder, placed, data, (encoder.num_layers,), "mean", mesh)[0]


def sample(data: Tokenized, examples: int) -> Tokenized:
    """Return a random sample of at most `examples` examples, in their original order.

    Duplicates are used once, as each would be the other's nearest neighbour.
    """
    chosen: dict[bytes, int] = {}
    for i in np.random.default_rng(0).permutation(len(data)).tolist():
        if len(chosen) == examples:
            break
        chosen.setdefault(data.token[data.offset[i] : data.offset[i + 1]].tobytes(), i)
    rows = sorted(chosen.values())
    place = np.concatenate([np.arange(data.offset[i], data.offset[i + 1]) for i in rows])
    return dataclasses.replace(
        data,
        token=data.token[place],
        type=data.type[place],
        offset=np.concatenate([[0], np.cumsum(data.lengths[rows])]),
        cls=data.cls[rows],
        label=data.label[rows],
        id=tuple(data.id[i] for i in rows),
        language=tuple(data.language[i] for i in rows),
        domain=tuple(data.domain[i] for i in rows),
        cluster=(),
        example=np.arange(len(rows), dtype=np.int32),
    )
