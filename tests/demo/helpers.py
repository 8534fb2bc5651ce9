"""A tiny E5S1 file, written from its parts independently of the reader."""

from __future__ import annotations

import itertools
import struct

import numpy as np

HIDDEN, HEADS, FFN, VOCAB, POSITIONS, TYPES, LAYERS = 32, 2, 64, 14, 6, 2, 2
PIECES = ["<s>", "<pad>", "</s>", "<unk>", "▁", "a", "b", "▁ab", "é", "fi", "▁a", "<mask>"]
SCORES = [0.0, 0.0, 0.0, 0.0, -2.0, -3.0, -3.5, -4.0, -4.5, -5.0, -3.25, 0.0]
HF_FILES = ["config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"]
NORMALISATION = {"\t": " ", "\u200b": " ", "\x07": "", "ﬁ": "fi"}


def q4_0_values(block: bytes) -> list[float]:
    """Decode a Q4_0 block value by value."""
    (scale,) = struct.unpack("<e", block[:2])
    low = [(byte % 16 - 8) * scale for byte in block[2:]]
    high = [(byte // 16 - 8) * scale for byte in block[2:]]
    return low + high


def random_blocks(rng: np.random.Generator, count: int) -> bytes:
    scales = rng.normal(0, 0.05, count).astype("<f2").view(np.uint8).reshape(count, 2)
    nibbles = rng.integers(0, 256, (count, 16), np.uint8)
    return np.concatenate([scales, nibbles], axis=1).tobytes()


class TinyFile:
    """The tensors of an E5S1 file: kind, number of values and bytes, and the values."""

    def __init__(self) -> None:
        self.tensors: dict[str, tuple[int, int, bytes]] = {}
        self.expected: dict[str, np.ndarray] = {}

    def add(self, rng: np.random.Generator, name: str, *shape: int, q4: bool = False) -> None:
        values = int(np.prod(shape))
        if q4:
            data = random_blocks(rng, values // 32)
            flat = [v for i in range(0, len(data), 18) for v in q4_0_values(data[i : i + 18])]
        else:
            flat = rng.normal(size=values).astype("<f4").tolist()
            data = struct.pack(f"<{values}f", *flat)
        self.tensors[name] = (int(q4), values, data)
        self.expected[name] = np.array(flat, np.float32).reshape(shape)

    def join(self) -> bytes:
        pieces = [piece.encode() for piece in PIECES]
        blob, count = b"".join(pieces), len(pieces)
        offsets = itertools.accumulate(map(len, pieces), initial=0)
        norm = b"".join(
            struct.pack(f"<IB{len(out)}I", ord(key), len(out), *map(ord, out))
            for key, out in NORMALISATION.items()
        )
        sizes = (HIDDEN, LAYERS, HEADS, FFN, VOCAB, POSITIONS, TYPES)
        head = struct.pack("<4sI7ifi", b"E5S1", 1, *sizes, 1e-12, 32)
        head += struct.pack("<5iQ", count, 0, 2, 1, 3, len(blob))
        head += struct.pack(f"<{count + 1}I{count}f", *offsets, *SCORES) + blob
        head += struct.pack("<iI", len(NORMALISATION), len(norm)) + norm
        head += struct.pack("<i", len(self.tensors))
        offset = len(head) + sum(23 + len(name) for name in self.tensors)
        data = b""
        for name, (kind, values, content) in self.tensors.items():
            head += struct.pack("<H", len(name)) + name.encode()
            head += struct.pack("<BIQQ", kind, values, offset + len(data), len(content))
            data += content
        return head + data


def tiny_file() -> TinyFile:
    rng, file = np.random.default_rng(7), TinyFile()
    file.add(rng, "emb.word", VOCAB, HIDDEN, q4=True)
    file.add(rng, "emb.pos", POSITIONS, HIDDEN)
    file.add(rng, "emb.type", TYPES, HIDDEN)
    file.add(rng, "emb.ln.w", HIDDEN)
    file.add(rng, "emb.ln.b", HIDDEN)
    for layer in range(LAYERS):
        for name, out, width in [
            ("q", HIDDEN, HIDDEN),
            ("k", HIDDEN, HIDDEN),
            ("v", HIDDEN, HIDDEN),
            ("ao", HIDDEN, HIDDEN),
            ("fi", FFN, HIDDEN),
            ("fo", HIDDEN, FFN),
        ]:
            file.add(rng, f"l{layer}.{name}.w", out, width, q4=True)
            file.add(rng, f"l{layer}.{name}.b", out)
        for name in ("aln", "oln"):
            file.add(rng, f"l{layer}.{name}.w", HIDDEN)
            file.add(rng, f"l{layer}.{name}.b", HIDDEN)
    return file
