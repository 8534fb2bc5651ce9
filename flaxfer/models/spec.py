"""An encoder with the head of a task over packed rows: as a module, and as a value."""

from __future__ import annotations

import dataclasses
import functools

import jax
from flax import nnx

from flaxfer.config import Lora
from flaxfer.models import lora
from flaxfer.models.embedding import sequence_means
from flaxfer.models.encoders import Batch, EncoderConfig
from flaxfer.models.families import FAMILIES
from flaxfer.models.layers import Execution, Keys
from flaxfer.models.ops import dropout_site
from flaxfer.runtime.trees import Params


class EncoderModel(nnx.Module):
    """Encoder and head of the family that the config names.

    All state is `nnx.Param`, float32.

    Args:
      config: config of the encoder.
      head: `sequence` scores the classes of each example, `choice` each example as one of several
        answers, `token` the tags of each token, `span` each token as first and last of an answer;
        `cls_embedding`, `pooler_embedding` and `mean_embedding` embed each example.
      num_outputs: outputs of the head: one for regression and `choice`, two for `span`, the width
        of the encoder for embeddings.
      layer: layer, from 1, whose output a head that reads every token gets; None for the encoder's.
      rngs: for new parameters.
    """

    def __init__(
        self,
        config: EncoderConfig,
        head: str,
        num_outputs: int,
        layer: int | None = None,
        *,
        rngs: Keys,
    ):
        family = FAMILIES[config.family]
        self.encoder = family.encoder(config, rngs=rngs)
        self.head = family.heads[head].module(config, num_outputs, rngs=rngs)
        self.reads_every_token = family.heads[head].reads_every_token
        self.reads_means = family.heads[head].reads_means
        self.layer = layer

    def __call__(
        self,
        batch: Batch,
        *,
        dropout_key: jax.Array | None = None,
        execution: Execution = Execution(),
    ) -> jax.Array:
        """Return logits, float32: (B, E, C) for each CLS token, or (B, T, C) for each token.

        Args:
          batch: packed rows, and for heads of CLS tokens `cls_BE`, int32: the place of each
            example's CLS token in its row; any for slots without an example. The logits of such
            slots, and of padding, are meaningless.
          dropout_key: dropout key of the step; None for no dropout.
          execution: how the layers compute; the head computes in float32.
        """
        options = {"dropout_key": dropout_site(dropout_key, 0), "execution": execution}
        if self.layer is not None:
            # The compiler drops the layers above it, whose outputs nothing reads.
            x_BXD = self.encoder.hidden_states(batch, **options)[self.layer]
        else:
            cls_BE = None if self.reads_every_token else batch["cls_BE"]
            x_BXD = self.encoder(batch, cls_BE=cls_BE, **options)
        if self.reads_means:
            x_BXD = sequence_means(x_BXD, batch["segment_BT"], batch["cls_BE"].shape[1])
        return self.head(x_BXD, dropout_site(dropout_key, 1))


@dataclasses.dataclass(frozen=True)
class ModelSpec:
    """An encoder with a head as a value, which determines the parameters.

    Attributes:
      encoder: config of the encoder; its vocabulary may be cut to the ids in use.
      head: name of the head, see `EncoderModel`.
      num_outputs: outputs of the head, C.
      lora: adapters of the encoder; None for none.
      layer: layer that the head reads, see `EncoderModel`.
    """

    encoder: EncoderConfig
    head: str = "sequence"
    num_outputs: int = 1
    lora: Lora | None = None
    layer: int | None = None

    def with_vocabulary(self, size: int) -> ModelSpec:
        """Return the model with an embedding of `size` rows."""
        return dataclasses.replace(self, encoder=dataclasses.replace(self.encoder, vocab_size=size))

    @property
    def has_dropout(self) -> bool:
        """Return whether any dropout rate of the encoder or its adapters is above zero."""
        adapters_have = self.lora is not None and self.lora.dropout > 0
        return adapters_have or self.encoder != self.encoder.with_dropout(0.0)

    def graph(self) -> nnx.GraphDef[EncoderModel]:
        """Return the model without its arrays: hashable, and merged with parameters when jitted."""
        return self._abstract()[0]

    def param_shapes(self) -> Params:
        """Return the parameters as `ShapeDtypeStruct`, float32."""
        shapes: Params = jax.tree.map(lambda shape: shape, self._abstract()[1])  # A copy.
        return shapes

    def random_params(self, seed: int) -> Params:
        """Return freshly initialised parameters, float32, on the default device.

        Not jitted: layers share their shapes, so single operations compile several times faster
        than one program of all layers.
        """
        return _params(self._module(Keys(jax.random.key(seed))))

    def random_head(self, seed: int) -> Params:
        """Return the head of `random_params`, without initialising an encoder."""
        return _params(self._head_module(Keys(jax.random.key(seed), self._abstract()[2])))

    def random_adapters(self, seed: int) -> Params:
        """Return the adapters of `random_params` at their paths, none without `lora`."""
        module = nnx.eval_shape(lambda: self._plain_module(Keys(jax.random.key(0))))
        self._add_adapters(module, jax.random.key(seed))
        return lora.adapters(_params(module))

    def apply(
        self,
        params: Params,
        batch: Batch,
        dropout_key: jax.Array | None = None,
        execution: Execution = Execution(),
    ) -> jax.Array:
        """Return the logits of packed rows; deterministic without a dropout key.

        Returns:
          float32 (B, E, C), or (B, T, C) from heads for every token.
        """
        model = nnx.merge(self.graph(), params)
        logits: jax.Array = model(batch, dropout_key=dropout_key, execution=execution)
        return logits

    @functools.cache  # noqa: B019 - equal specs share a graph, and there are few.
    def _abstract(self) -> tuple[nnx.GraphDef[EncoderModel], Params, int]:
        """Return graph, shapes of the parameters, and the number of keys that the encoder draws."""
        every, of_head = Keys(jax.random.key(0)), Keys(jax.random.key(0))
        module = nnx.eval_shape(lambda: self._module(every))
        nnx.eval_shape(lambda: self._head_module(of_head))
        return nnx.graphdef(module), _params(module), every.drawn - of_head.drawn

    def _module(self, rngs: Keys) -> EncoderModel:
        module = self._plain_module(rngs)
        self._add_adapters(module, rngs.key)
        return module

    def _plain_module(self, rngs: Keys) -> EncoderModel:
        return EncoderModel(self.encoder, self.head, self.num_outputs, self.layer, rngs=rngs)

    def _add_adapters(self, module: EncoderModel, key: jax.Array) -> None:
        if self.lora is not None:
            rngs = Keys(jax.random.fold_in(key, lora.FIRST_KEY))
            lora.add_adapters(module.encoder, self.lora, rngs)

    def _head_module(self, rngs: Keys) -> nnx.Module:
        head: nnx.Module = (
            FAMILIES[self.encoder.family]
            .heads[self.head]
            .module(self.encoder, self.num_outputs, rngs=rngs)
        )
        return head


def _params(module: nnx.Module) -> Params:
    params: Params = nnx.to_pure_dict(nnx.split(module, nnx.Param)[1])
    return params
