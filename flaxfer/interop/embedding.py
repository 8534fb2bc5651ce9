"""Sentence embeddings of a pretrained encoder, without training."""

from __future__ import annotations

import dataclasses
import functools
import logging
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import tokenizers
from flax import nnx

from flaxfer.config import Model, Train
from flaxfer.data import families
from flaxfer.data.examples import Examples
from flaxfer.data.loader import eval_batches, put_rows
from flaxfer.data.tokenize import Tokenized, load_tokenizer, tokenize
from flaxfer.data.values import text_fault
from flaxfer.errors import ConfigError, DataError
from flaxfer.interop.sentence import POOLINGS, SentenceSettings, read_sentence_settings
from flaxfer.interop.vector_modules import normalised
from flaxfer.models import pretrained
from flaxfer.models.encoders import EncoderConfig
from flaxfer.models.families import FAMILIES
from flaxfer.models.layers import Keys
from flaxfer.runtime import sharding
from flaxfer.runtime.trees import Params
from flaxfer.tasks import TASK_TYPES
from flaxfer.training.vocabulary import Vocabulary

logger = logging.getLogger("flaxfer.interop.embedding")

Batch = dict[str, jax.Array]
Pooling = str
"""Names of `flaxfer.interop.sentence.POOLINGS`, joined by `+` where vectors are concatenated."""

Layers = Sequence[int] | Literal["all"]
"""Layer numbers: 0 is the embeddings; N, or -1, is the output of the last layer."""

MAX_LENGTH = 512
"""Default for the most tokens of a text."""

UNLIMITED = 10**6
"""Lengths above this many tokens mean "no limit", which transformers writes as 1e30."""

STEP_TOKENS = 4096
"""Token slots of a step, in rows that hold the longest text."""


class Embedder:
    """A pretrained encoder that maps texts to vectors.

    Attributes:
      config: the encoder's config.
      declared: what the folder declares about its embeddings, see `SentenceSettings`.
      pooling: how the vectors of a text's tokens become one.
      prefix: text that is put before every text.
      max_length: tokens to which texts are cut.
      truncated: number of texts cut to `max_length` so far; equal texts of a call count once.
    """

    def __init__(
        self,
        model: str | Path | Model,
        *,
        pooling: Pooling | None = None,
        normalise: bool = False,
        prefix: str | None = None,
        prompt: str | None = None,
        max_length: int = 0,
        plain: bool = False,
        mesh: jax.sharding.Mesh | None = None,
    ):
        """Load the weights, and place all but the word embeddings on the devices.

        Args:
          model: folder with config.json, *.safetensors and the tokenizer, or a `Model`. Files of
            sentence-transformers (Reimers & Gurevych 2019) beside them say how to embed, unless
            other arguments do.
          pooling: names of `POOLINGS` joined by `+`; None for what the folder declares, or
            `mean`. All count special tokens; `cls` is the CLS token.
          normalise: whether to scale vectors to length 1 at the end.
          prefix: put before every text; E5 models were trained with "query: ".
          prompt: name of the folder's prompt that is put before every text instead of a prefix;
            None for its default prompt, if it declares one.
          max_length: tokens of a text, special tokens included, to which longer ones are cut;
            0 for the model's maximum, or less if the folder declares it; models without files of
            sentence-transformers also have a default of 512.
          plain: whether files of sentence-transformers are ignored.
          mesh: devices over which rows are split; None for all devices.

        Raises:
          DataError, ConfigError, CheckpointError: the model cannot be used.
        """
        settings = model if isinstance(model, Model) else Model(path=str(model))
        folder = pretrained.resolve(settings)
        declared = SentenceSettings(folder) if plain else read_sentence_settings(folder)
        folder = declared.encoder
        self.config = pretrained.load_encoder_config(folder)
        self.declared, self.truncated, self._normalise = declared, 0, normalise
        self.pooling = check_pooling(declared, pooling, self.config)
        self.prefix = choose_prefix(declared, prefix, prompt)
        self._tokenizer = load_tokenizer(dataclasses.replace(settings, path=str(folder)))
        if declared.lower_case:
            lower_case(self._tokenizer.backend_tokenizer)
        longest = self._tokenizer.model_max_length
        bounded = declared.declared and longest < UNLIMITED
        default = declared.max_length or (longest if bounded else MAX_LENGTH)
        self.max_length = max_length or min(longest, default)
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
          float32 (L, n, D), in the order of `texts`; D is wider than the model where vectors are
          concatenated, or what a dense module of the folder returns.

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
            logger.warning("%d texts are cut to %d tokens", data.truncated, self.max_length)
        vocabulary = Vocabulary.used([data], self.config.vocab_size, self.config.pad_token_id)
        config, params = self._cut(vocabulary)
        vector_LnD = embed_tokenized(
            config, params, vocabulary.cut(data), numbers, self.pooling, self._mesh
        )
        for module in self.declared.modules:
            vector_LnD = module.apply(vector_LnD)
        if self._normalise:
            vector_LnD = normalised(vector_LnD)
        return vector_LnD[:, [position[text] for text in texts]]

    def __call__(self, texts: Iterable[str]) -> np.ndarray:
        """Embed texts by the last layer; return float32 (n, D), see `embed`."""
        vectors: np.ndarray = self.embed(texts if isinstance(texts, str) else list(texts))[0]
        return vectors

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
            text_a=tuple(self.prefix + text for text in texts),
            text_b=None,
            label=np.zeros(n, np.float32),
            id=tuple(map(str, range(n))),
            language=("",) * n,
            domain=("",) * n,
        )
        return tokenize(examples, self._tokenizer, self.max_length, None)

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
    encoder = nnx.eval_shape(
        lambda: FAMILIES[config.family].encoder(config, rngs=Keys(jax.random.key(0)))
    )
    embed_step = make_embed_step(nnx.split(encoder, nnx.Param)[0], layers, pooling)
    row_length = max(128, 1 << (int(data.lengths.max()) - 1).bit_length())
    rows = min(max(STEP_TOKENS // row_length, 1), 1 << (len(data) - 1).bit_length())
    batching = Train(row_length=row_length, eval_rows=rows)
    width = config.hidden_size * len(pooling.split("+"))
    vector_LnD = np.full((len(layers), len(data), width), np.nan, np.float32)
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
        # By default TPUs and GPUs multiply float32 in lower precision.
        with jax.default_matmul_precision("highest"):
            states = encoder.hidden_states(batch)
            return jnp.stack([pool(states[layer], batch, pooling) for layer in layers])

    return jax.jit(embed_step)


def pool(x_BTD: jax.Array, batch: Batch, pooling: Pooling) -> jax.Array:
    """Return a vector for each sequence of packed rows, float32 (B, E, D).

    The definitions are those of sentence-transformers. Vectors of slots without a text are
    meaningless.
    """
    slots = batch["cls_BE"].shape[1]
    member_BET = batch["segment_BT"][:, None] == 1 + jnp.arange(slots)[:, None]

    def average(weight_BET: jax.Array, power: float = 1.0) -> jax.Array:
        total_BE1 = jnp.maximum(weight_BET.sum(axis=-1, keepdims=True), 1.0)
        return jnp.einsum("BET,BTD->BED", weight_BET / total_BE1**power, x_BTD)

    def at_place(place_BE: jax.Array) -> jax.Array:
        return jnp.take_along_axis(x_BTD, place_BE[..., None], axis=1)

    def one(name: str) -> jax.Array:
        match name:
            case "mean":
                return average(member_BET.astype(jnp.float32))
            case "mean_sqrt_len_tokens":
                return average(member_BET.astype(jnp.float32), 0.5)
            case "weightedmean":
                number_B1T = 1.0 + batch["position_BT"][:, None]
                return average(jnp.where(member_BET, number_B1T, 0.0))
            case "max":
                largest = jax.vmap(functools.partial(jax.ops.segment_max, num_segments=slots + 1))
                return largest(x_BTD, batch["segment_BT"])[:, 1:]  # Segment 0 is padding.
            case "lasttoken":
                return at_place(jnp.where(member_BET, jnp.arange(x_BTD.shape[1]), 0).max(axis=-1))
        return at_place(batch["cls_BE"])

    vectors = [one(name) for name in pooling.split("+")]
    return vectors[0] if len(vectors) == 1 else jnp.concatenate(vectors, axis=-1)


def check_pooling(
    declared: SentenceSettings, pooling: Pooling | None, config: EncoderConfig
) -> Pooling:
    """Return the pooling to use, for which the folder's modules fit.

    Raises:
      ConfigError: there is no such pooling, or it does not fit the encoder or the modules.
    """
    chosen = declared.pooling if pooling is None else pooling
    names = chosen.split("+")
    if unknown := [name for name in names if name not in POOLINGS]:
        raise ConfigError(
            f"there is no pooling {unknown[0]!r}",
            where="pooling",
            hint=f"there are {', '.join(POOLINGS)}, and several joined by +.",
        )
    what = ""
    if pooling is None and "cls" in names and families.FAMILIES[config.family].cls_last:
        what = (
            "sentence-transformers pools the first token of a text by `cls`, but the CLS token of "
            f"{config.family} is the last one"
        )
    elif declared.pooled_width not in (0, config.hidden_size):
        what = (
            f"the pooling was made for vectors of width {declared.pooled_width}, but hidden_size "
            f"is {config.hidden_size}"
        )
    width = config.hidden_size * len(names)
    for module in declared.modules:
        if module.inputs not in (0, width):
            what = what or f"{module.kind} takes vectors of width {module.inputs}, not {width}"
        width = module.outputs or width
    if what:
        raise ConfigError(
            what,
            where=str(declared.encoder),
            hint="set the pooling with --pooling, or leave out the files of sentence-transformers "
            "with --plain.",
        )
    return chosen


def choose_prefix(declared: SentenceSettings, prefix: str | None, prompt: str | None) -> str:
    """Return the text that is put before every text.

    Raises:
      ConfigError: there is no such prompt, both are given, or the folder leaves prompts out of its
        pooling.
    """
    if prefix is not None and prompt is not None:
        raise ConfigError(
            "a prefix and a prompt exclude each other", where="prompt", hint="give one of them."
        )
    text = declared.prompt(prompt) if prefix is None else prefix
    if text and not declared.include_prompt:
        raise ConfigError(
            "include_prompt is false, and leaving a prompt out of the pooling is not implemented",
            where=str(declared.encoder),
            hint="use no prompt (--prefix '').",
        )
    if declared.prompts and not text and prefix is None and prompt is None:
        names = ", ".join(map(repr, declared.prompts))
        logger.info("the model has the prompts %s; none is used by default", names)
    return text


def lower_case(tokenizer: tokenizers.Tokenizer) -> None:
    """Make a tokenizer lower-case texts before its own normalisation."""
    lower = tokenizers.normalizers.Lowercase()
    own = tokenizer.normalizer
    tokenizer.normalizer = tokenizers.normalizers.Sequence([lower, own]) if own else lower


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
            f"{len(problems)} of {len(texts)} texts cannot be used",
            where=where,
            hint="leave them out, with their scores or translations.",
            details=problems,
        )
