"""Attention within segments: the one place where its implementation is chosen.

`xla` computes everything, everywhere. `cudnn` (GPUs) and `splash` (TPUs) are kernels that never
write the probabilities to memory, and that cannot drop them out. `auto` takes a kernel where it can
and gains.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jax.experimental.pallas.ops.tpu import splash_attention
from jax.sharding import PartitionSpec

from flaxfer.errors import ConfigError
from flaxfer.models.layers import Execution, dropout_scale, dropout_sign

MASKED = -1e30
"""Added to a score that must not count; finite, so that no gradient becomes NaN."""


def attention(
    query_BTHK: jax.Array,
    key_BSHK: jax.Array,
    value_BSHK: jax.Array,
    query_segment_BT: jax.Array,
    key_segment_BS: jax.Array,
    *,
    score_BHTS: jax.Array | None = None,
    dropout_rate: float = 0.0,
    dropout_key: jax.Array | None = None,
    execution: Execution = Execution(),
) -> jax.Array:
    """Scaled dot-product attention (Vaswani et al. 2017) of the tokens of each segment.

    A query attends to the keys of its own segment. Segment 0 is padding, which attends to padding:
    outputs there mean nothing, but they are finite, and so are all gradients.

    Args:
      query_BTHK: float32 or bfloat16; products run in this dtype, the softmax in float32.
      key_BSHK: of the same dtype.
      value_BSHK: of the same dtype.
      query_segment_BT: int32, which example a query belongs to.
      key_segment_BS: int32, which example a key belongs to.
      score_BHTS: of other things than content, added to the products before they are scaled.
      dropout_rate: of the probabilities.
      dropout_key: None for no dropout.
      execution: what computes it. The kernels are for whole rows: the few queries of a last layer
        that is read at its CLS tokens alone are always XLA's.

    Returns:
      out_BTHK, in the dtype of the query.

    Raises:
      ConfigError: the kernel that `execution` names cannot compute this.
    """
    arrays = (query_BTHK, key_BSHK, value_BSHK, query_segment_BT, key_segment_BS)
    if query_BTHK.shape[1] == key_BSHK.shape[1]:
        drops = dropout_key is not None and dropout_rate > 0
        by = _choice(execution, query_BTHK, score_BHTS is not None, drops)
        if by == "cudnn":
            return _cudnn(*arrays, score_BHTS)
        if by == "splash":
            assert execution.mesh is not None  # It told the platform.
            return _splash_sharded(*arrays, execution.mesh)
    return _xla(*arrays, score_BHTS, dropout_rate, dropout_key, execution.platform)


Kernel = Literal["xla", "cudnn", "splash"]

SPLASH_LENGTH = 512
"""Tokens of a row from which on `auto` takes the kernel on a TPU: by the estimates of
`flaxfer.aot.command`, shorter rows are faster without."""


def _choice(execution: Execution, query_BTHK: jax.Array, scored: bool, drops: bool) -> Kernel:
    if execution.attention == "xla":
        return "xla"
    if execution.attention != "auto":
        if found := list(_obstacles(execution.attention, execution, query_BTHK, scored, drops)):
            raise ConfigError(
                f"{execution.attention} cannot compute the attention of this model",
                where="train.attention",
                details=found,
                hint="let train.attention be auto or xla, or mend what is named.",
            )
        return execution.attention
    by: Kernel = "cudnn" if execution.platform == "gpu" else "splash"
    if any(_obstacles(by, execution, query_BTHK, scored, drops)):
        return "xla"
    return "xla" if by == "splash" and query_BTHK.shape[1] < SPLASH_LENGTH else by


def _obstacles(
    by: Kernel, execution: Execution, query_BTHK: jax.Array, scored: bool, drops: bool
) -> Iterator[str]:
    """Why a kernel cannot compute this, a line each."""
    length, width = query_BTHK.shape[1], query_BTHK.shape[3]
    if drops:
        yield "it drops no probabilities: set model.attention_dropout = 0"
    if by == "cudnn":
        if execution.platform != "gpu":
            yield "it runs on NVIDIA GPUs alone"
        if query_BTHK.dtype != jnp.bfloat16:
            yield "it takes bfloat16 alone: set train.compute_dtype"
        if width % 8 or width > 128:
            yield f"its heads have at most 128 dimensions, a multiple of 8, not {width}"
        if length % 2:
            yield f"rows of an even number of tokens, not {length}: set train.row_length"
        return
    if execution.platform != "tpu":
        yield "it runs on TPUs alone"
    if length % 128:
        yield f"rows of a multiple of 128 tokens, not {length}: set train.row_length"
    if scored:
        yield "it knows content alone, not XLNet's distances and types"
    if execution.mesh is not None and "seed" in execution.mesh.axis_names:
        yield "it runs one seed at a time: set batched_seeds = 1"


def _cudnn(
    query_BTHK: jax.Array,
    key_BSHK: jax.Array,
    value_BSHK: jax.Array,
    query_segment_BT: jax.Array,
    key_segment_BS: jax.Array,
    score_BHTS: jax.Array | None,
    implementation: Literal["cudnn", "xla"] = "cudnn",
) -> jax.Array:
    """By cuDNN's flash attention (Dao 2023), which keeps no probabilities."""
    if score_BHTS is not None:
        score_BHTS = (score_BHTS * query_BTHK.shape[-1] ** -0.5).astype(query_BTHK.dtype)
    same_BTS = query_segment_BT[:, :, None] == key_segment_BS[:, None, :]
    return jax.nn.dot_product_attention(
        query_BTHK,
        key_BSHK,
        value_BSHK,
        bias=score_BHTS,
        mask=same_BTS[:, None],
        implementation=implementation,
    )


def _splash_sharded(
    query_BTHK: jax.Array,
    key_BSHK: jax.Array,
    value_BSHK: jax.Array,
    query_segment_BT: jax.Array,
    key_segment_BS: jax.Array,
    mesh: jax.sharding.Mesh,
    *,
    interpret: bool = False,
) -> jax.Array:
    """The kernel on each device's rows and heads: XLA cannot split a kernel by itself."""
    heads = "tensor" if query_BTHK.shape[2] % mesh.shape["tensor"] == 0 else None
    rows = ("data", "fsdp")
    array, segments = PartitionSpec(rows, None, heads, None), PartitionSpec(rows, None)
    sharded = jax.shard_map(
        functools.partial(_splash, interpret=interpret),
        mesh=mesh,
        in_specs=(array, array, array, segments, segments),
        out_specs=array,
        check_vma=False,
    )
    out_BTHK: jax.Array = sharded(
        query_BTHK, key_BSHK, value_BSHK, query_segment_BT, key_segment_BS
    )
    return out_BTHK


def _splash(
    query_BTHK: jax.Array,
    key_BSHK: jax.Array,
    value_BSHK: jax.Array,
    query_segment_BT: jax.Array,
    key_segment_BS: jax.Array,
    *,
    interpret: bool = False,
) -> jax.Array:
    """By JAX's kernel for TPUs, which keeps no probabilities."""
    length, heads, width = query_BTHK.shape[1:]
    block = next(size for size in (512, 384, 256, 128) if length % size == 0)
    blocks = splash_attention.BlockSizes(
        block_q=block,
        block_kv=block,
        block_q_dkv=block,
        block_kv_dkv=block,
        use_fused_bwd_kernel=True,
    )
    kernel = splash_attention.make_splash_mha(
        splash_attention.MultiHeadMask([splash_attention.FullMask((length, length))] * heads),
        block_sizes=blocks,
        head_shards=1,
        q_seq_shards=1,
        interpret=interpret,
    )
    scaled_BTHK = query_BTHK * jnp.asarray(width**-0.5, query_BTHK.dtype)
    out_BHTK = jax.vmap(kernel)(
        scaled_BTHK.swapaxes(1, 2),
        key_BSHK.swapaxes(1, 2),
        value_BSHK.swapaxes(1, 2),
        splash_attention.SegmentIds(query_segment_BT, key_segment_BS),
    )
    out_BTHK: jax.Array = out_BHTK.swapaxes(1, 2)
    return out_BTHK


def _xla(
    query_BTHK: jax.Array,
    key_BSHK: jax.Array,
    value_BSHK: jax.Array,
    query_segment_BT: jax.Array,
    key_segment_BS: jax.Array,
    score_BHTS: jax.Array | None,
    dropout_rate: float,
    dropout_key: jax.Array | None,
    platform: str,
) -> jax.Array:
    """By products, softmax and dropout that XLA fuses as it likes."""
    dtype = query_BTHK.dtype
    scale = query_BTHK.shape[-1] ** -0.5
    if platform == "cpu" and score_BHTS is None:
        # Else its compiler writes the scale out for every score, which takes as long as a softmax.
        query_BTHK = (query_BTHK.astype(jnp.float32) * scale).astype(dtype)
        scale = 1.0
    same_BST = key_segment_BS[:, :, None] == query_segment_BT[:, None, :]
    mask_BST = jnp.where(same_BST, 0.0, MASKED)
    product_BHST = _scores(query_BTHK, key_BSHK).astype(jnp.float32)
    if score_BHTS is not None:
        product_BHST += score_BHTS.mT
    score_BHST = product_BHST * scale + mask_BST[:, None]
    if dropout_key is None or dropout_rate == 0.0:
        probability_BHST = _softmax(score_BHST, dtype)
    else:
        probability_BHST = _dropped_softmax(score_BHST, dtype, dropout_rate, dropout_key)
    return _gathered(probability_BHST, value_BSHK)


@jax.custom_vjp
def _scores(query_BTHK: jax.Array, key_BSHK: jax.Array) -> jax.Array:
    """The product of every query with every key, (B, H, S, T).

    Queries are last: a TPU's compiler sums over keys by whole vectors. The slopes of this product
    and of `_gathered` are asked for in forms that XLA's library for CPUs takes. It does not take
    those that JAX derives, some of which need ten times as long in bfloat16.
    """
    return jnp.einsum("BTHK,BSHK->BHST", query_BTHK, key_BSHK)


@jax.custom_vjp
def _gathered(weight_BHST: jax.Array, value_BSHK: jax.Array) -> jax.Array:
    """The sum of the values for each query, weighted, (B, T, H, K)."""
    return jnp.einsum("BHST,BSHK->BTHK", weight_BHST, value_BSHK)


def _spread(weight_BHST: jax.Array, value_BTHK: jax.Array) -> jax.Array:
    """The sum of what the queries have for each key, weighted, (B, S, H, K)."""
    return jnp.einsum("BHST,BTHK->BSHK", weight_BHST, value_BTHK)


_Pair = tuple[jax.Array, jax.Array]


def _scores_backward(kept: _Pair, slope_BHST: jax.Array) -> _Pair:
    query_BTHK, key_BSHK = kept
    return _gathered(slope_BHST, key_BSHK), _spread(slope_BHST, query_BTHK)


def _gathered_backward(kept: _Pair, slope_BTHK: jax.Array) -> _Pair:
    weight_BHST, value_BSHK = kept
    return _scores(slope_BTHK, value_BSHK), _spread(weight_BHST, slope_BTHK)


_scores.defvjp(lambda *arrays: (_scores(*arrays), arrays), _scores_backward)
_gathered.defvjp(lambda *arrays: (_gathered(*arrays), arrays), _gathered_backward)


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def _softmax(score_BHST: jax.Array, dtype: Any) -> jax.Array:
    """Probabilities over S in `dtype`, which are all that is kept for the backward pass."""
    return jax.nn.softmax(score_BHST, axis=-2).astype(dtype)


def _softmax_forward(score_BHST: jax.Array, dtype: Any) -> tuple[jax.Array, jax.Array]:
    probability_BHST = _softmax(score_BHST, dtype)
    return probability_BHST, probability_BHST


def _softmax_backward(
    dtype: Any, probability_BHST: jax.Array, slope_BHST: jax.Array
) -> tuple[jax.Array]:
    probability_BHST = probability_BHST.astype(jnp.float32)
    weighted_BHST = probability_BHST * slope_BHST
    return (weighted_BHST - probability_BHST * weighted_BHST.sum(axis=-2, keepdims=True),)


_softmax.defvjp(_softmax_forward, _softmax_backward)


@functools.partial(jax.custom_vjp, nondiff_argnums=(1, 2))
def _dropped_softmax(score_BHST: jax.Array, dtype: Any, rate: float, key: jax.Array) -> jax.Array:
    """Probabilities over S in `dtype` after dropout.

    For the backward pass it keeps one array: the probabilities, those that are dropped with a minus
    sign. Left to itself XLA keeps the mask, too.
    """
    return _dropped_softmax_forward(score_BHST, dtype, rate, key)[0]


def _dropped_softmax_forward(
    score_BHST: jax.Array, dtype: Any, rate: float, key: jax.Array
) -> tuple[jax.Array, jax.Array]:
    probability_BHST = jax.nn.softmax(score_BHST, axis=-2).astype(dtype)
    sign_BHST = dropout_sign(score_BHST.shape, rate, key)
    signed_BHST = jnp.where(sign_BHST > 0, probability_BHST, -probability_BHST)
    return jnp.maximum(signed_BHST, 0) * dropout_scale(rate, dtype), signed_BHST


def _dropped_softmax_backward(
    dtype: Any, rate: float, signed_BHST: jax.Array, slope_BHST: jax.Array
) -> tuple[jax.Array, None]:
    scaled_BHST = slope_BHST * dropout_scale(rate, dtype)
    slope_BHST = jnp.where(signed_BHST > 0, scaled_BHST, jnp.zeros((), dtype))
    return *_softmax_backward(dtype, jnp.abs(signed_BHST), slope_BHST), None


_dropped_softmax.defvjp(_dropped_softmax_forward, _dropped_softmax_backward)
