"""Self-attention of short rows in one Pallas kernel for TPUs, with dropout of the probabilities.

The scores of a row and a head fit into the chip's vector memory, so the kernel reads queries, keys
and values, and writes outputs: no scores, probabilities or dropout masks reach the main memory. The
backward pass computes them again. Never run on hardware so far; see `flaxfer aot` for estimates.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
from jax.sharding import PartitionSpec

from flaxfer.models.ops import MASKED, true_dropout_rate
from flaxfer.runtime.prng import hashed
from flaxfer.runtime.sharding import ROWS

LONGEST = 256
"""Longest row, in tokens: the scores of a head fill the vector registers several times over."""

MULTIPLE = 32
"""Rows are a multiple of as many tokens: four bytes of a random word, times eight sublanes."""

BLOCK_BYTES = 6 * 2**20
"""Bytes of the rows that are in vector memory at once; the next ones are copied beside them."""

MEMORY_BYTES = 32 * 2**20
"""Vector memory that the kernel may use."""

LANES = 128
"""Width of a vector register, and of a matmul that takes no less time if it is narrower."""

Residuals = tuple[jax.Array, jax.Array, jax.Array]


@dataclasses.dataclass(frozen=True)
class _Settings:
    """Constants of the kernels.

    Attributes:
      width: width of a head (K).
      rate: dropout rate of the probabilities, a multiple of 1/256.
      interpret: whether JAX interprets the kernels, on any device.
    """

    width: int
    rate: float
    interpret: bool


def group_size(heads: int, width: int) -> int:
    """Return how many heads of a width (K) form a group, which fills whole vector registers."""
    return math.gcd(heads, max(1, LANES // width))


def short_rows(
    stacked_BTX: jax.Array,
    bias_X: jax.Array,
    segment_BT: jax.Array,
    mesh: jax.sharding.Mesh,
    *,
    heads: int,
    dropout_rate: float = 0.0,
    dropout_key: jax.Array | None = None,
    interpret: bool = False,
) -> jax.Array:
    """Return `flaxfer.models.attention.attention` over whole rows, with joined heads: `out_BTD`.

    Each device computes its rows and heads: XLA does not split kernels. The dropout of a score is
    decided by a byte, as in `flaxfer.models.ops.dropout`. It is a function of the dropout key, row,
    head, key and query alone: for each row and head, the key gives 64 random bits, from which
    `flaxfer.runtime.prng.hashed` computes the bytes, in both passes and in any interpretation.

    Args:
      stacked_BTX: float32 or bfloat16, queries, keys and values before their bias: for each group
        of `group_size` heads, the queries of all its heads, then the keys, then the values.
      bias_X: float32, their bias, in this order.
      segment_BT: int32, segment of each token.
      mesh: rows are split over `data` and `fsdp`, groups over `tensor` if it divides them.
      heads: number of heads (H).
      dropout_rate: dropout rate of the probabilities.
      dropout_key: None for no dropout.
      interpret: interpret the kernel, on any device.
    """
    rate = 0.0 if dropout_key is None else true_dropout_rate(dropout_rate)
    width = stacked_BTX.shape[2] // (3 * heads)
    groups = heads // group_size(heads, width)
    split = "tensor" if groups % mesh.shape["tensor"] == 0 else None
    settings = _Settings(width, rate, interpret)
    word_BHX = jnp.zeros((segment_BT.shape[0], heads, 2), jnp.uint32)
    if rate and dropout_key is not None:
        word_BHX = jax.random.bits(dropout_key, word_BHX.shape, jnp.uint32)
    array = PartitionSpec(*ROWS, None, split)
    out_BTD: jax.Array = jax.shard_map(
        functools.partial(_attend, settings),
        mesh=mesh,
        in_specs=(array, PartitionSpec(split), ROWS, PartitionSpec(*ROWS, split)),
        out_specs=array,
        check_vma=False,
    )(stacked_BTX, bias_X, segment_BT, word_BHX)
    return out_BTD


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _attend(
    settings: _Settings,
    stacked_BTX: jax.Array,
    bias_X: jax.Array,
    segment_BT: jax.Array,
    word_BHX: jax.Array,
) -> jax.Array:
    return _attend_forward(settings, stacked_BTX, bias_X, segment_BT, word_BHX)[0]


def _attend_forward(
    settings: _Settings,
    stacked_BTX: jax.Array,
    bias_X: jax.Array,
    segment_BT: jax.Array,
    word_BHX: jax.Array,
) -> tuple[jax.Array, Residuals]:
    # Added here, where XLA fuses it into the matmul.
    stacked_BTX += bias_X.astype(stacked_BTX.dtype)
    residuals = (stacked_BTX, segment_BT, word_BHX)
    rows, length, width = stacked_BTX.shape
    out = jax.ShapeDtypeStruct((rows, length, width // 3), stacked_BTX.dtype)
    return _call(_forward_kernel, settings, residuals, (), (out,), ())[0], residuals


def _attend_backward(
    settings: _Settings, residuals: Residuals, cotangent_BTD: jax.Array
) -> tuple[jax.Array, jax.Array, None, None]:
    stacked_BTX = residuals[0]
    gradient = jax.ShapeDtypeStruct(stacked_BTX.shape, stacked_BTX.dtype)
    bias = jax.ShapeDtypeStruct((1, stacked_BTX.shape[2]), jnp.float32)
    gradient_BTX, bias_1X = _call(
        _backward_kernel, settings, residuals, (cotangent_BTD,), (gradient,), (bias,)
    )
    return gradient_BTX, bias_1X[0], None, None


_attend.defvjp(_attend_forward, _attend_backward)


def _call(
    kernel: Any,
    settings: _Settings,
    residuals: Residuals,
    inputs: tuple[jax.Array, ...],
    by_row: tuple[jax.ShapeDtypeStruct, ...],
    whole: tuple[jax.ShapeDtypeStruct, ...],
) -> list[jax.Array]:
    """Run a kernel over blocks of rows.

    Args:
      kernel: function of settings, number of rows, references to words, segments, stacked arrays,
        inputs and outputs.
      settings: constants.
      residuals: stacked arrays, segments and random words.
      inputs: further inputs by row.
      by_row: outputs by row.
      whole: outputs that the blocks of rows add to.
    """
    stacked_BTX, segment_BT, word_BHX = residuals
    rows, length, width = stacked_BTX.shape
    arrays = (segment_BT[:, None], stacked_BTX, *inputs)
    item = stacked_BTX.dtype.itemsize
    block = max(1, min(rows, BLOCK_BYTES // (length * width // 3 * 7 * item)))

    def block_spec(array: jax.Array | jax.ShapeDtypeStruct) -> pl.BlockSpec:
        return pl.BlockSpec((block, *array.shape[1:]), lambda i, _: (i, 0, 0))

    operands: list[Any] = [*arrays, *by_row, *whole]
    scores, matmuls = rows * word_BHX.shape[1] * length**2, 5 if whole else 2
    moved = sum(math.prod(x.shape) * jnp.dtype(x.dtype).itemsize for x in operands)
    outputs: list[jax.Array] = pl.pallas_call(
        functools.partial(kernel, settings, rows),
        grid_spec=pltpu.PrefetchScalarGridSpec(
            num_scalar_prefetch=1,
            grid=(pl.cdiv(rows, block),),
            in_specs=[block_spec(x) for x in arrays],
            out_specs=[block_spec(x) for x in by_row]
            + [pl.BlockSpec(x.shape, lambda i, _: (0, 0)) for x in whole],
        ),
        out_shape=[*by_row, *whole],
        compiler_params=pltpu.CompilerParams(vmem_limit_bytes=MEMORY_BYTES),
        cost_estimate=pl.CostEstimate(
            flops=2 * matmuls * scores * max(settings.width, LANES),
            transcendentals=scores,
            bytes_accessed=moved,
        ),
        interpret=settings.interpret,
        name="short_rows_backward" if whole else "short_rows_forward",
    )(word_BHX.reshape(-1), *arrays)
    return outputs


def _forward_kernel(
    settings: _Settings, rows: int, word_ref: Any, segment_ref: Any, stacked_ref: Any, out_ref: Any
) -> None:
    def attend(row: jax.Array, mask_ST: jax.Array, group: _Group) -> None:
        query_TX, key_SX, value_SX = (stacked_ref[row, :, group.part(i)] for i in range(3))
        outs = []
        for head in range(group.heads):
            exponential_ST, total_1T = _exponentials(group, query_TX, key_SX, mask_ST, head)
            probability_ST = exponential_ST * (1 / ((1 - settings.rate) * total_1T))
            if settings.rate:
                keep_ST = _keep(settings, word_ref, group.word + 2 * head, mask_ST.shape)
                probability_ST = jnp.where(keep_ST, probability_ST, 0.0)
            outs.append(_matmul(probability_ST.astype(value_SX.dtype), value_SX, (0, 0)))
        out_ref[row, :, group.place] = group.join(outs).astype(out_ref.dtype)

    _each_group(settings, rows, stacked_ref, segment_ref, attend)


def _backward_kernel(
    settings: _Settings,
    rows: int,
    word_ref: Any,
    segment_ref: Any,
    stacked_ref: Any,
    cotangent_ref: Any,
    gradient_ref: Any,
    bias_ref: Any,
) -> None:
    @pl.when(pl.program_id(0) == 0)
    def _() -> None:
        bias_ref[...] = jnp.zeros_like(bias_ref)

    def attend(row: jax.Array, mask_ST: jax.Array, group: _Group) -> None:
        query_TX, key_SX, value_SX = (stacked_ref[row, :, group.part(i)] for i in range(3))
        cotangent_TX, dtype = cotangent_ref[row, :, group.place], query_TX.dtype
        gradients: tuple[list[jax.Array], ...] = ([], [], [])
        for head in range(group.heads):
            exponential_ST, total_1T = _exponentials(group, query_TX, key_SX, mask_ST, head)
            # The probabilities, scaled up as those that dropout keeps.
            probability_ST = exponential_ST * (1 / ((1 - settings.rate) * total_1T))
            kept_ST = probability_ST
            if settings.rate:
                keep_ST = _keep(settings, word_ref, group.word + 2 * head, mask_ST.shape)
                kept_ST = jnp.where(keep_ST, probability_ST, 0.0)
            weighted_ST = kept_ST * _matmul(group.only(value_SX, head), cotangent_TX, (1, 1))
            along_1T = weighted_ST.sum(axis=0, keepdims=True) * (1 - settings.rate)
            score_ST = (weighted_ST - probability_ST * along_1T) * settings.width**-0.5
            score_ST = score_ST.astype(dtype)
            gradients[0].append(_matmul(score_ST, key_SX, (0, 0)))
            gradients[1].append(_matmul(score_ST, query_TX, (1, 0)))
            gradients[2].append(_matmul(kept_ST.astype(dtype), cotangent_TX, (1, 0)))
        for i in range(3):
            gradient_TX = group.join(gradients[i])
            gradient_ref[row, :, group.part(i)] = gradient_TX.astype(dtype)
            bias_ref[:, group.part(i)] += gradient_TX.sum(axis=0, keepdims=True)

    _each_group(settings, rows, stacked_ref, segment_ref, attend)


class _Group(NamedTuple):
    """The heads of a row that share vector registers.

    A matmul over all lanes of a group takes as long as one over those of a head. So nothing is
    moved between lanes: the others are set to zero in one operand, or ignored in the result.

    Attributes:
      number: number of the group.
      heads: heads in it.
      width: width of a head.
      word: place of its first random word.
    """

    number: int
    heads: int
    width: int
    word: jax.Array

    @property
    def place(self) -> slice:
        """Lanes of the group among those of all groups."""
        size = self.heads * self.width
        return slice(self.number * size, (self.number + 1) * size)

    def part(self, i: int) -> slice:
        """Return the lanes of queries, keys or values in a stacked array."""
        size = self.heads * self.width
        return slice((3 * self.number + i) * size, (3 * self.number + i + 1) * size)

    def only(self, x_TX: jax.Array, head: int) -> jax.Array:
        """Return an array with zeros in the lanes of other heads."""
        return x_TX if self.heads == 1 else jnp.where(self._inside(x_TX, head), x_TX, 0)

    def join(self, results: list[jax.Array]) -> jax.Array:
        """Return the lanes of each head from its own result."""
        joined_TX = results[0]
        for head, result_TX in enumerate(results[1:], start=1):
            joined_TX = jnp.where(self._inside(result_TX, head), result_TX, joined_TX)
        return joined_TX

    def _inside(self, x_TX: jax.Array, head: int) -> jax.Array:
        lane_TX = jax.lax.broadcasted_iota(jnp.int32, x_TX.shape, 1)
        return (lane_TX >= head * self.width) & (lane_TX < (head + 1) * self.width)


def _each_group(
    settings: _Settings, rows: int, stacked_ref: Any, segment_ref: Any, attend: Any
) -> None:
    """Call `attend` with each row of the block and each group: row, mask and group."""
    block, _, all_lanes = stacked_ref.shape
    all_heads = all_lanes // (3 * settings.width)
    heads = group_size(all_heads, settings.width)
    first = pl.program_id(0) * block

    def body(row: jax.Array, carry: None) -> None:
        mask_ST, word = _mask(segment_ref[row]), (first + row) * (2 * all_heads)
        for number in range(all_heads // heads):
            attend(row, mask_ST, _Group(number, heads, settings.width, word + 2 * heads * number))

    # The last block may have fewer rows.
    count = jnp.minimum(block, rows - first) if rows % block else block
    jax.lax.fori_loop(0, count, body, None)


def _mask(segment_1T: jax.Array) -> jax.Array:
    """Return what is added to the scores: 0 within segments, else `MASKED`."""
    length = segment_1T.shape[1]
    query_ST = jnp.broadcast_to(segment_1T, (length, length))
    return jnp.where(query_ST == query_ST.T, 0.0, MASKED)


def _exponentials(
    group: _Group, query_TX: jax.Array, key_SX: jax.Array, mask_ST: jax.Array, head: int
) -> tuple[jax.Array, jax.Array]:
    """Return probabilities that are not normalised, and their sums over keys, both float32.

    Keys are first, so that sums over them add whole vectors.
    """
    score_ST = _matmul(group.only(key_SX, head), query_TX, (1, 1))
    score_ST = score_ST * group.width**-0.5 + mask_ST
    exponential_ST = jnp.exp(score_ST - score_ST.max(axis=0, keepdims=True))
    return exponential_ST, exponential_ST.sum(axis=0, keepdims=True)


def _keep(
    settings: _Settings, word_ref: Any, place: jax.Array, shape: tuple[int, ...]
) -> jax.Array:
    """Return whether dropout keeps each score of a head.

    A word decides for four keys: with a quarter of the keys in each of its bytes.
    """
    count_XT = jax.lax.broadcasted_iota(jnp.uint32, (shape[0] // 4, shape[1]), 0)
    count_XT = count_XT * np.uint32(shape[1]) + jax.lax.broadcasted_iota(
        jnp.uint32, count_XT.shape, 1
    )
    random_XT = hashed((word_ref[place], word_ref[place + 1]), count_XT)
    quarters = [random_XT << np.uint32(8 * byte) for byte in range(4)]
    random_ST = jax.lax.bitcast_convert_type(jnp.concatenate(quarters, axis=0), jnp.int32)
    # The lowest bytes are dropped, and the lowest signed number is that of the byte 128.
    return random_ST >= np.int32((round(settings.rate * 256) << 24) - 2**31)


def _matmul(x: jax.Array, y: jax.Array, axes: tuple[int, int]) -> jax.Array:
    """Return the float32 matmul over an axis of each."""
    return jax.lax.dot_general(
        x, y, ((axes[:1], axes[1:]), ((), ())), preferred_element_type=jnp.float32
    )
