"""Attention within segments, and the choice of its implementation.

`xla` supports everything on every device. `cudnn` (GPUs) and `splash` (TPUs) are kernels that never
write the probabilities to memory and do not support dropout of them. The kernel `short_rows` (TPUs)
does, in `flaxfer.models.short_rows`; BERT and RoBERTa call it. `auto` takes a kernel where it is
supported and faster, but never `short_rows`, which has not run on hardware.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

import jax
import jax.numpy as jnp
from jax.experimental.pallas.ops.tpu import splash_attention
from jax.sharding import PartitionSpec

from flaxfer.errors import ConfigError
from flaxfer.models.layers import Execution
from flaxfer.models.ops import MASKED, dropped_softmax, scaled_scores, softmax, weighted_values
from flaxfer.models.short_rows import LONGEST, MULTIPLE, short_rows
from flaxfer.runtime.sharding import ROWS, SEED


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
    """Return scaled dot-product attention (Vaswani et al. 2017) within segments, `out_BTHK`.

    Segment 0 is padding, which attends to padding: outputs there are meaningless, but they and
    their gradients are finite.

    Args:
      query_BTHK: float32 or bfloat16, the dtype of the matmuls and of the output; the softmax is
        float32.
      key_BSHK: of the same dtype.
      value_BSHK: of the same dtype.
      query_segment_BT: int32, segment of each query.
      key_segment_BS: int32, segment of each key.
      score_BHTS: further scores, added to the dot products before scaling.
      dropout_rate: dropout rate of the probabilities.
      dropout_key: None for no dropout.
      execution: names the implementation. Kernels need whole rows: if the last layer computes CLS
        tokens only, XLA does it.

    Raises:
      ConfigError: the kernel that `execution` names does not support this.
    """
    arrays = (query_BTHK, key_BSHK, value_BSHK, query_segment_BT, key_segment_BS)
    if dropout_rate == 0.0:
        dropout_key = None
    if query_BTHK.shape[1] == key_BSHK.shape[1]:
        has_scores, has_dropout = score_BHTS is not None, dropout_key is not None
        kernel = choose_kernel(
            execution, query_BTHK, has_scores=has_scores, has_dropout=has_dropout
        )
        if kernel == "cudnn":
            return cudnn(*arrays, score_BHTS)
        if kernel == "splash":
            assert execution.mesh is not None  # The platform is read from it.
            return splash(*arrays, execution.mesh)
    same_BST = key_segment_BS[:, :, None] == query_segment_BT[:, None, :]
    mask_BST = jnp.where(same_BST, 0.0, MASKED)
    score_BHST = scaled_scores(query_BTHK, key_BSHK, score_BHTS, execution.platform)
    score_BHST += mask_BST[:, None]
    if dropout_key is None:
        probability_BHST = softmax(score_BHST, value_BSHK.dtype)
    else:
        probability_BHST = dropped_softmax(score_BHST, value_BSHK.dtype, dropout_rate, dropout_key)
    return weighted_values(probability_BHST, value_BSHK)


def stacked_attention(
    stacked_BTX: jax.Array,
    bias_X: jax.Array,
    segment_BT: jax.Array,
    *,
    heads: int,
    dropout_rate: float,
    dropout_key: jax.Array | None,
    execution: Execution,
) -> jax.Array:
    """Return `attention` over whole rows by the kernel `short_rows`, `out_BTHK`.

    Args:
      stacked_BTX: float32 or bfloat16, queries, keys and values in the order of `short_rows`,
        without their bias.
      bias_X: float32, their bias.
      segment_BT: int32, segment of each token.
      heads: number of heads (H).
      dropout_rate: dropout rate of the probabilities.
      dropout_key: None for no dropout.
      execution: has the mesh.

    Raises:
      ConfigError: the kernel does not support this.
    """
    rows, length, width = stacked_BTX.shape
    shape = (rows, length, heads, width // (3 * heads))
    query_BTHK = jax.ShapeDtypeStruct(shape, stacked_BTX.dtype)
    choose_kernel(execution, query_BTHK, has_scores=False, has_dropout=dropout_key is not None)
    assert execution.mesh is not None  # The platform is read from it.
    out_BTX = short_rows(
        stacked_BTX,
        bias_X,
        segment_BT,
        execution.mesh,
        heads=heads,
        dropout_rate=dropout_rate,
        dropout_key=dropout_key,
    )
    return out_BTX.reshape(shape)


Kernel = Literal["xla", "cudnn", "splash", "short_rows"]

SPLASH_LENGTH = 512
"""Shortest row for which `auto` takes splash: by the estimates of `flaxfer aot`, XLA is faster for
shorter rows."""


def choose_kernel(
    execution: Execution,
    query_BTHK: jax.Array | jax.ShapeDtypeStruct,
    *,
    has_scores: bool,
    has_dropout: bool,
) -> Kernel:
    """Return the implementation of attention over whole rows.

    Raises:
      ConfigError: the kernel that `execution` names does not support this.
    """
    kernel: Kernel
    if execution.attention == "auto":
        kernel = "cudnn" if execution.platform == "gpu" else "splash"
    else:
        kernel = execution.attention
    obstacles = list(_obstacles(kernel, execution, query_BTHK, has_scores, has_dropout))
    if execution.attention == "auto":
        too_short = kernel == "splash" and query_BTHK.shape[1] < SPLASH_LENGTH
        return "xla" if obstacles or too_short else kernel
    if obstacles:
        raise ConfigError(
            f"{kernel} cannot compute the attention of this model",
            where="train.attention",
            details=obstacles,
            hint="set train.attention to auto or xla, or change the settings listed.",
        )
    return kernel


def _obstacles(
    kernel: Kernel,
    execution: Execution,
    query_BTHK: jax.Array | jax.ShapeDtypeStruct,
    has_scores: bool,
    has_dropout: bool,
) -> Iterator[str]:
    """Yield a line for each reason why a kernel does not support this."""
    length, width = query_BTHK.shape[1], query_BTHK.shape[3]
    if kernel == "xla":
        return
    if has_dropout and kernel != "short_rows":
        yield "no dropout of probabilities: set model.attention_dropout = 0"
    if kernel == "cudnn":
        if not _has_flash_attention(execution.mesh):
            yield "it needs an NVIDIA GPU of compute capability 8.0 or higher"
        if query_BTHK.dtype != jnp.bfloat16:
            yield "it needs bfloat16: set train.compute_dtype"
        if width % 8 or width > 128:
            yield f"heads need a width of at most 128 that is a multiple of 8, not {width}"
        if length % 2:
            yield f"rows need an even number of tokens, not {length}: set train.row_length"
        return
    if execution.platform != "tpu":
        yield "it needs a TPU"
    multiple = 128 if kernel == "splash" else MULTIPLE
    if length % multiple:
        yield f"rows need a multiple of {multiple} tokens, not {length}: set train.row_length"
    if kernel == "short_rows" and length > LONGEST:
        yield f"rows need at most {LONGEST} tokens, not {length}: set train.row_length"
    if has_scores:
        yield "it has no scores of distances and types, as XLNet needs"
    if execution.mesh is not None and SEED in execution.mesh.axis_names:
        yield "it runs one seed at a time: set batched_seeds = 1"


def _has_flash_attention(mesh: jax.sharding.Mesh | None) -> bool:
    """Return whether cuDNN has flash attention for the devices: NVIDIA's GPUs since Ampere."""
    if mesh is None:
        return False
    capability = getattr(mesh.devices.flat[0], "compute_capability", "")
    major = capability.partition(".")[0]
    return major.isdigit() and int(major) >= 8


def cudnn(
    query_BTHK: jax.Array,
    key_BSHK: jax.Array,
    value_BSHK: jax.Array,
    query_segment_BT: jax.Array,
    key_segment_BS: jax.Array,
    score_BHTS: jax.Array | None,
    implementation: Literal["cudnn", "xla"] = "cudnn",
) -> jax.Array:
    """Return attention by cuDNN's flash attention (Dao 2023)."""
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


def splash(
    query_BTHK: jax.Array,
    key_BSHK: jax.Array,
    value_BSHK: jax.Array,
    query_segment_BT: jax.Array,
    key_segment_BS: jax.Array,
    mesh: jax.sharding.Mesh,
    *,
    interpret: bool = False,
) -> jax.Array:
    """Return attention by JAX's kernel for TPUs.

    Each device computes its rows and heads: XLA does not split kernels.
    """
    length, all_heads, width = query_BTHK.shape[1:]
    block = next(size for size in (512, 384, 256, 128) if length % size == 0)
    blocks = splash_attention.BlockSizes(
        block_q=block,
        block_kv=block,
        block_q_dkv=block,
        block_kv_dkv=block,
        use_fused_bwd_kernel=True,
    )

    def local(
        query_BTHK: jax.Array, key_BSHK: jax.Array, value_BSHK: jax.Array, *segments: jax.Array
    ) -> jax.Array:
        mask = splash_attention.FullMask((length, length))
        kernel = splash_attention.make_splash_mha(
            splash_attention.MultiHeadMask([mask] * query_BTHK.shape[2]),
            block_sizes=blocks,
            head_shards=1,
            q_seq_shards=1,
            interpret=interpret,
        )
        scaled_BTHK = query_BTHK * jnp.asarray(width**-0.5, query_BTHK.dtype)
        out_BHTK: jax.Array = jax.vmap(kernel)(
            scaled_BTHK.swapaxes(1, 2),
            key_BSHK.swapaxes(1, 2),
            value_BSHK.swapaxes(1, 2),
            splash_attention.SegmentIds(*segments),
        )
        return out_BHTK.swapaxes(1, 2)

    heads = "tensor" if all_heads % mesh.shape["tensor"] == 0 else None
    array = PartitionSpec(*ROWS, None, heads, None)
    sharded = jax.shard_map(
        local,
        mesh=mesh,
        in_specs=(array, array, array, ROWS, ROWS),
        out_specs=array,
        check_vma=False,
    )
    out_BTHK: jax.Array = sharded(
        query_BTHK, key_BSHK, value_BSHK, query_segment_BT, key_segment_BS
    )
    return out_BTHK
