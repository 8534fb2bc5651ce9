"""A tiny E5S1 file, written from its parts independently of the reader."""

from __future__ import annotations

import struct
from dataclasses import dataclass, field

import numpy as np

HIDDEN, HEADS, FFN, VOCAB, POSITIONS, TYPES, LAYERS = 32, 2, 64, 14, 6, 2, 2
PIECES = ["<s>", "<pad>", "</s>", "<unk>", "▁", "a", "b", "▁ab", "é", "fi", "▁a", "<mask>"]
SCORES = [0.0, 0.0, 0.0, 0.0, -2.0, -3.0, -3.5, -4.0, -4.5, -5.0, -3.25, 0.0]
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


@dataclass
class TinyFile:
    """The parts of an E5S1 file, which a test may change before joining them."""

    magic: bytes = b"E5S1"
    version: int = 1
    sizes: list[int] = field(
        default_factory=lambda: [HIDDEN, LAYERS, HEADS, FFN, VOCAB, POSITIONS, TYPES]
    )
    eps: float = 1e-12
    block: int = 32
    count: int | None = None  # Number of pieces, if not the true one.
    special: list[int] = field(default_factory=lambda: [0, 2, 1, 3])
    pieces: list[bytes] = field(default_factory=lambda: [p.encode() for p in PIECES])
    scores: list[float] = field(default_factory=lambda: list(SCORES))
    offsets: list[int] | None = None
    blob_size: int | None = None
    normalisation: list[tuple[int, list[int]]] = field(
        default_factory=lambda: [(ord(k), [ord(c) for c in v]) for k, v in NORMALISATION.items()]
    )
    norm_count: int | None = None
    norm_size: int | None = None
    tensors: dict[str, tuple[int, int, bytes]] = field(default_factory=dict)  # Kind, values, bytes.
    tensor_count: int | None = None
    shift: int = 0  # Added to every tensor's offset.
    expected: dict[str, np.ndarray] = field(default_factory=dict)

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
        blob, offsets = b"".join(self.pieces), [0]
        for piece in self.pieces:
            offsets.append(offsets[-1] + len(piece))
        offsets = self.offsets or offsets
        norm = b"".join(
            struct.pack(f"<IB{len(out)}I", point, len(out), *out)
            for point, out in self.normalisation
        )
        count = len(self.pieces) if self.count is None else self.count
        head = struct.pack("<4sI7ifi", self.magic, self.version, *self.sizes, self.eps, self.block)
        head += struct.pack("<5i", count, *self.special)
        head += struct.pack("<Q", len(blob) if self.blob_size is None else self.blob_size)
        head += struct.pack(f"<{len(offsets)}I{len(self.scores)}f", *offsets, *self.scores) + blob
        entries = len(self.normalisation) if self.norm_count is None else self.norm_count
        head += struct.pack("<iI", entries, len(norm) if self.norm_size is None else self.norm_size)
        tensors = len(self.tensors) if self.tensor_count is None else self.tensor_count
        head += norm + struct.pack("<i", tensors)
        offset = len(head) + sum(23 + len(name) for name in self.tensors)
        data = b""
        for name, (kind, values, content) in self.tensors.items():
            head += struct.pack("<H", len(name)) + name.encode()
            at = offset + len(data) + self.shift
            head += struct.pack("<BIQQ", kind, values, at, len(content))
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
