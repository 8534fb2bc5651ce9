"""A model as a value: encoder, head and outputs, which determine its parameters."""

from __future__ import annotations

import dataclasses
import functools

import jax
from flax import nnx

from flaxfer.models.encoders import Batch, EncoderConfig
from flaxfer.models.heads import EncoderModel
from flaxfer.models.layers import Execution
from flaxfer.runtime.trees import Params


@dataclasses.dataclass(frozen=True)
class ModelSpec:
    """An encoder with a head.

    Attributes:
      encoder: config of the encoder; its vocabulary may be cut to the ids in use.
      head: `sequence`, `token`, `span` or `choice`, see `flaxfer.models.heads.EncoderModel`.
      num_outputs: outputs of the head, C.
    """

    encoder: EncoderConfig
    head: str = "sequence"
    num_outputs: int = 1

    def with_vocabulary(self, size: int) -> ModelSpec:
        """Return the model with an embedding of `size` rows."""
        return dataclasses.replace(self, encoder=dataclasses.replace(self.encoder, vocab_size=size))

    @property
    def has_dropout(self) -> bool:
        """Whether any dropout rate of the encoder is above zero."""
        return self.encoder != self.encoder.with_dropout(0.0)

    def graph(self) -> nnx.GraphDef[EncoderModel]:
        """Return the model without its arrays: hashable, and merged with parameters when jitted."""
        return _graph(self)

    def param_shapes(self) -> Params:
        """Return the parameters as `ShapeDtypeStruct`, float32."""
        shapes: Params = jax.eval_shape(lambda: self.random_params(0))
        return shapes

    def random_params(self, seed: int) -> Params:
        """Return freshly initialised parameters, float32, on the default device.

        Not jitted: layers share their shapes, so single operations compile several times faster
        than one program of all layers.
        """
        model = EncoderModel(
            self.encoder, self.head, self.num_outputs, rngs=nnx.Rngs(jax.random.key(seed))
        )
        params: Params = nnx.to_pure_dict(nnx.split(model, nnx.Param)[1])
        return params

    def apply(
        self,
        params: Params,
        batch: Batch,
        dropout_key: jax.Array | None = None,
        execution: Execution = Execution(),
    ) -> jax.Array:
        """Return the logits of packed rows; deterministic without a dropout key.

        Returns:
          float32 (B, E, C), or (B, T, C) from heads that read every token.
        """
        model = nnx.merge(self.graph(), params)
        logits: jax.Array = model(batch, dropout_key=dropout_key, execution=execution)
        return logits


@functools.cache
def _graph(spec: ModelSpec) -> nnx.GraphDef[EncoderModel]:
    """Return the model without its arrays."""
    model = nnx.eval_shape(
        lambda: EncoderModel(spec.encoder, spec.head, spec.num_outputs, rngs=nnx.Rngs(0))
    )
    return nnx.split(model, nnx.Param)[0]
