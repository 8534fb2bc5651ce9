"""Sentence embeddings of a pretrained encoder, without training."""

from __future__ import annotations

import dataclasses
import functools
import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from flaxfer.config import Model, Train
from flaxfer.data.examples import Examples
from flaxfer.data.loader import eval_batches, put_rows
from flaxfer.data.tokenize import Tokenized, load_tokenizer, tokenize
from flaxfer.data.values import text_fault
from flaxfer.errors import ConfigError, DataError
from flaxfer.models import pretrained
from flaxfer.models.encoders import EncoderConfig
from flaxfer.models.families import FAMILIES
from flaxfer.runtime import sharding
from flaxfer.runtime.trees import Params
from flaxfer.tasks import TASK_TYPES
from flaxfer.training.vocabulary import Vocabulary

logger = logging.getLogger("flaxfer.interop.embedding")

Batch = dict[str, jax.Array]
Pooling = Literal["mean", "cls"]
Layers = Sequence[int] | Literal["all"]
"""Layer numbers: 0 is the embeddings; N, or -1, is the output of the last layer."""

MAX_LENGTH = 512
"""Default for the most tokens of a text."""

STEP_TOKENS = 4096
"""Token slots of a step, in rows that hold the longest text."""


class Embedder:
    """A pretrained encoder that maps texts to vectors.

    Attributes:
      config: the encoder's config.
      truncated: number of texts cut to `max_length` so far; equal texts of a call count once.
    """

    def __init__(
        self,
        model: str | Path | Model,
        *,
        pooling: Pooling = "mean",
        normalise: bool = False,
        prefix: str = "",
        max_length: int = 0,
        mesh: jax.sharding.Mesh | None = None,
    ):
        """Load the weights, and place all but the word embeddings on the devices.

        Args:
          model: folder with config.json, *.safetensors and the tokenizer, or a `Model`.
          pooling: `mean` over all tokens of a text, special tokens included, as in
            sentence-transformers (Reimers & Gurevych 2019); `cls` for the CLS token's output.
          normalise: whether to scale vectors to length 1.
          prefix: put before every text; E5 models were trained with "query: ".
          max_length: tokens of a text, special tokens included, to which longer ones are cut;
            0 for the model's maximum, or 512 if that is less.
          mesh: devices over which rows are split; None for all devices.

        Raises:
          DataError, ConfigError, CheckpointError: the model cannot be used.
        """
        settings = model if isinstance(model, Model) else Model(path=str(model))
        folder = pretrained.resolve(settings)
        self.config = pretrained.load_encoder_config(folder)
        self.truncated = 0
        self._pooling, self._normalise, self._prefix = pooling, normalise, prefix
        self._tokenizer = load_tokenizer(dataclasses.replace(settings, path=str(folder)))
        self._max_length = max_length or min(self._tokenizer.model_max_length, MAX_LENGTH)
        self._mesh = mesh or sharding.make_mesh()
        params = pretrained.load_encoder(folder, self.config)
        self._table = params["embeddings"]["word"].pop("embedding")
        self._rest = jax.device_put(params, sharding.tree_shardings(params, self._mesh))

    def embed(self, texts: Sequence[str], layers: Layers = (-1,)) -> np.ndarray:
        """Embed texts: each distinct text once, all layers in one pass.

        Args:
          texts: n texts, at least one.
          layers: L layers in the order of the result; `all` for the N + 1 from the embeddings on.

        Returns:
          float32 (L, n, D), in the order of `texts`.

        Raises:
          ConfigError: the model has no such layer.
          DataError: there are no texts, or one is empty.
        """
        numbers = self.layer_numbers(layers)
        check_texts(texts)
        position = {text: i for i, text in enumerate(dict.fromkeys(texts))}
        data = self._tokenize(list(position))
        if data.truncated:
            self.truncated += data.truncated
            logger.warning("%d texts are cut to %d tokens", data.truncated, self._max_length)
        vocabulary = Vocabulary.used([data], self.config.vocab_size, self.config.pad_token_id)
        config, params = self._cut(vocabulary)
        vector_LnD = embed_tokenized(
            config, params, vocabulary.cut(data), numbers, self._pooling, self._mesh
        )
        if self._normalise:
            vector_LnD /= np.linalg.norm(vector_LnD, axis=-1, keepdims=True)
        return vector_LnD[:, [position[text] for text in texts]]

    def layer_numbers(self, layers: Layers) -> tuple[int, ...]:
        """Return layers as numbers from 0.

        Raises:
          ConfigError: the model has no such layer, or `layers` is empty.
        """
        last = self.config.num_layers
        if layers == "all":
            return tuple(range(last + 1))
        unknown = [str(layer) for layer in layers if not -last - 1 <= layer <= last]
        if unknown or not layers:
            raise ConfigError(
                f"there is no layer {', '.join(unknown)}" if unknown else "no layer is named",
                where="layers",
                hint=f"the layers are 0 (the embeddings) to {last}, or -1 (the last) and down.",
            )
        return tuple(int(layer) % (last + 1) for layer in layers)

    def _tokenize(self, texts: Sequence[str]) -> Tokenized:
        n = len(texts)
        examples = Examples(
            task_type=TASK_TYPES["regression"],
            text_a=tuple(self._prefix + text for text in texts),
            text_b=None,
            label=np.zeros(n, np.float32),
            id=tuple(map(str, range(n))),
            language=("",) * n,
            domain=("",) * n,
        )
        return tokenize(examples, self._tokenizer, self._max_length, None)

    def _cut(self, vocabulary: Vocabulary) -> tuple[EncoderConfig, Params]:
        """Return the encoder with only the rows of `vocabulary`, on the devices.

        The number of rows is a power of two, so that calls with different texts share a program.
        """
        rows = min(1 << (len(vocabulary) - 1).bit_length(), len(self._table))
        table = np.zeros((rows, self._table.shape[1]), np.float32)
        table[: len(vocabulary)] = self._table[vocabulary.ids]
        embeddings = self._rest["embeddings"]
        params = {**self._rest, "embeddings": {**embeddings, "word": {"embedding": table}}}
        placed = jax.device_put(params, sharding.tree_shardings(params, self._mesh))
        return dataclasses.replace(self.config, vocab_size=rows), placed


def embed_tokenized(
    config: EncoderConfig,
    params: Params,
    data: Tokenized,
    layers: tuple[int, ...],
    pooling: Pooling,
    mesh: jax.sharding.Mesh,
) -> np.ndarray:
    """Embed tokenised texts in packed rows; return float32 (L, n, D) in their order.

    Args:
      config: the encoder's config.
      params: the encoder's parameters, placed on `mesh`.
      data: texts as rows of the encoder's word embedding.
      layers: layer numbers, counted from 0, the embeddings.
      pooling: as in `Embedder`.
      mesh: devices over which rows are split.
    """
    encoder = nnx.eval_shape(lambda: FAMILIES[config.family].encoder(config, rngs=nnx.Rngs(0)))
    embed_step = make_embed_step(nnx.split(encoder, nnx.Param)[0], layers, pooling)
    row_length = max(128, 1 << (int(data.lengths.max()) - 1).bit_length())
    rows = min(max(STEP_TOKENS // row_length, 1), 1 << (len(data) - 1).bit_length())
    batching = Train(row_length=row_length, eval_rows=rows)
    vector_LnD = np.full((len(layers), len(data), config.hidden_size), np.nan, np.float32)
    pending: list[tuple[np.ndarray, jax.Array]] = []

    def fetch(index_BE: np.ndarray, vector_LBED: jax.Array) -> None:
        filled = index_BE >= 0
        vector_LnD[:, index_BE[filled]] = np.asarray(vector_LBED)[:, filled]

    for batch in eval_batches(data, batching, config.pad_token_id, sharding.row_shards(mesh)):
        pending.append((batch["index_BE"], embed_step(params, put_rows(batch, mesh))))
        if len(pending) > 1:  # One batch late, so that the device never waits for the host.
            fetch(*pending.pop(0))
    fetch(*pending.pop())
    return vector_LnD


@functools.cache
def make_embed_step(
    graph: nnx.GraphDef[Any], layers: tuple[int, ...], pooling: Pooling
) -> Callable[[Params, Batch], jax.Array]:
    """Return a jitted `(params, batch) -> vector_LBED`, the float32 embeddings of packed texts.

    Vectors of slots without a text are meaningless.

    Args:
      graph: graph definition of an encoder.
      layers: indices into `hidden_states`; layers above the highest are not computed.
      pooling: as in `Embedder`.
    """

    def embed_step(params: Params, batch: Batch) -> jax.Array:
        encoder = nnx.merge(graph, params)
        slot_E = 1 + jnp.arange(batch["cls_BE"].shape[1])
        member_BET = (batch["segment_BT"][:, None] == slot_E[:, None]).astype(jnp.float32)
        weight_BET = member_BET / jnp.maximum(member_BET.sum(axis=-1, keepdims=True), 1.0)

        def pool(x_BTD: jax.Array) -> jax.Array:
            if pooling == "mean":
                return jnp.einsum("BET,BTD->BED", weight_BET, x_BTD)
            return jnp.take_along_axis(x_BTD, batch["cls_BE"][..., None], axis=1)

        # By default TPUs and GPUs multiply float32 in lower precision.
        with jax.default_matmul_precision("highest"):
            states = encoder.hidden_states(batch)
            return jnp.stack([pool(states[layer]) for layer in layers])

    return jax.jit(embed_step)


def check_texts(texts: Sequence[str], where: str = "texts") -> None:
    """Check that there are texts and that none is empty.

    Raises:
      DataError: all texts without an embedding are listed.
    """
    if not texts or isinstance(texts, str):
        raise DataError(
            "there are no texts" if not texts else "is one text, not a sequence of texts",
            where=where,
            hint="pass at least one text, in a list.",
        )
    faults = enumerate(map(text_fault, texts), start=1)
    if problems := [f"text {number} {fault}" for number, fault in faults if fault]:
        raise DataError(
            f"{len(problems)} of {len(texts)} texts cannot be embedded",
            where=where,
            hint="leave them out, with their scores or translations.",
            details=problems,
        )
