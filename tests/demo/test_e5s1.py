"""The reader of E5S1 files: values, and errors for damaged files."""

from __future__ import annotations

import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from flaxfer.demo import e5s1
from flaxfer.errors import DataError
from tests.demo.helpers import PIECES, TinyFile, q4_0_values

WHERE = Path("tiny.bin")
Change = Callable[[TinyFile], None]


def test_dequantisation_equals_the_reference_value_by_value() -> None:
    rng = np.random.default_rng(0)
    blocks = rng.integers(0, 256, (400, 18), np.uint8)
    blocks[:, 1] &= 0xBB  # Any sign, and subnormals, but no infinity.
    expected = [q4_0_values(block.tobytes()) for block in blocks]
    assert (blocks[:, :2].copy().view("<f2") < 0).any()
    np.testing.assert_array_equal(e5s1.dequantize_q4_0(blocks), np.array(expected, np.float32))


def test_a_file_is_read_as_written(tiny: TinyFile) -> None:
    file = e5s1.read(tiny.join(), WHERE)
    assert file.header == e5s1.Header(32, 2, 2, 64, 14, 6, 2, np.float32(1e-12), 32)
    assert file.pieces == PIECES
    np.testing.assert_array_equal(file.scores, np.array(tiny.scores, np.float32))
    assert file.normalisation == {"\t": " ", "\u200b": " ", "\x07": "", "ﬁ": "fi"}
    assert file.tensors.keys() == tiny.expected.keys()
    for name, expected in tiny.expected.items():
        assert file.tensors[name].dtype == np.float32
        np.testing.assert_array_equal(file.tensors[name], expected, err_msg=name)


def tensor(name: str, kind: int, values: int, size: int) -> Change:
    def change(file: TinyFile) -> None:
        file.tensors[name] = (kind, values, bytes(size))

    return change


def setting(**parts: object) -> Change:
    def change(file: TinyFile) -> None:
        for name, value in parts.items():
            setattr(file, name, value)

    return change


def renamed(old: str, new: str) -> Change:
    def change(file: TinyFile) -> None:
        file.tensors = {new if k == old else k: v for k, v in file.tensors.items()}

    return change


BIG = 2**31 - 1
NAMES = [piece.encode() for piece in PIECES]
DAMAGE = [
    (setting(magic=b"E5S2"), "magic"),
    (setting(version=2), "version 2"),
    (setting(sizes=[-32, 2, 2, 64, 14, 6, 2]), "impossible sizes"),
    (setting(sizes=[32, 2, 0, 64, 14, 6, 2]), "impossible sizes"),
    (setting(sizes=[32, 2, 3, 64, 14, 6, 2]), "among the heads"),
    (setting(sizes=[32, 2, 2, 65, 14, 6, 2]), "blocks of 32"),
    (setting(sizes=[32, BIG, 2, 64, 14, 6, 2]), "layers need"),
    (setting(sizes=[32, 2, 2, 64, BIG, 6, 2]), r"emb.word has 448 values"),
    (setting(sizes=[2**30, 2, 2, 2**30, BIG, BIG, BIG]), "emb.word has 448 values"),
    (setting(block=16), "blocks of 32"),
    (setting(eps=float("nan")), "impossible sizes"),
    (setting(count=-1), "negative"),
    (setting(count=3), "3 pieces for a vocabulary of 14"),
    (setting(count=BIG, sizes=[32, 2, 2, 64, BIG, 6, 2]), "offsets of the pieces: 8589934592"),
    (setting(count=15), "15 pieces for a vocabulary of 14"),
    (setting(blob_size=2**63), "text of the pieces: 9223372036854775808 bytes announced"),
    (setting(blob_size=3), "do not divide their text"),
    (setting(offsets=[0, 3, 8, 12, 17, 21, 20, 22, 27, 29, 31, 35, 41]), "not divide their"),
    (setting(special=[0, 1, 2, 3]), "the first pieces"),
    (setting(pieces=[b"<cls>", *NAMES[1:]]), "the first pieces"),
    (setting(pieces=[*NAMES[:5], b"\xff", *NAMES[6:]]), "not UTF-8"),
    (setting(pieces=[*NAMES[:5], b"b", *NAMES[6:]]), "twice"),
    (setting(scores=[float("nan")] * 12), "score"),
    (setting(norm_count=BIG), "normalisation entr"),
    (setting(norm_count=3), "do not fill"),
    (setting(norm_size=2**32 - 1), "normalisation map: 4294967295"),
    (setting(normalisation=[(0xD800, [32])]), "invalid code points"),
    (setting(normalisation=[(9, [0])]), "invalid code points"),
    (setting(tensor_count=BIG), "tensors listed"),
    (setting(tensor_count=16 * 10**7 + 5, sizes=[32, 10**7, 2, 64, 14, 6, 2]), "list of 160000005"),
    (setting(tensor_count=10), "10 tensors listed, 2 layers need 37"),
    (setting(shift=2**62), r"emb.word ends at byte 461168601842738"),
    (renamed("l1.q.w", "l2.q.w"), "'l2.q.w' is listed twice or does not belong"),
    (tensor("emb.word", 2, 448, 252), "kind 2"),
    (tensor("emb.word", 1, 448, 251), "has 251 bytes"),
    (tensor("emb.pos", 0, 191, 4 * 191), "emb.pos has 191 values"),
    (tensor("emb.pos", 0, 192, 4 * 191), "has 764 bytes"),
]


@pytest.mark.parametrize(("change", "message"), DAMAGE, ids=[message for _, message in DAMAGE])
def test_a_malformed_file_is_refused_quickly(tiny: TinyFile, change: Change, message: str) -> None:
    change(tiny)
    data = tiny.join()
    tracemalloc.start()
    start = time.perf_counter()
    try:
        with pytest.raises(DataError, match=message) as caught:
            e5s1.read(data, WHERE)
        assert time.perf_counter() - start < 1
        assert tracemalloc.get_traced_memory()[1] < 2_000_000
    finally:
        tracemalloc.stop()
    assert caught.value.where is not None and caught.value.where.startswith("tiny.bin, byte ")
    assert caught.value.hint


def test_infinite_values_are_refused(tiny: TinyFile) -> None:
    tiny.tensors["emb.ln.w"] = (0, 32, np.full(32, np.inf, "<f4").tobytes())
    with pytest.raises(DataError, match=r"emb.ln.w has values"):
        e5s1.read(tiny.join(), WHERE)
    blocks = np.zeros((14, 18), np.uint8)
    blocks[3, :2] = 0xFF
    tiny.tensors["emb.word"] = (1, 448, blocks.tobytes())
    with pytest.raises(DataError, match=r"emb.word has values"):
        e5s1.read(tiny.join(), WHERE)


def test_every_truncation_is_refused(tiny: TinyFile) -> None:
    data = tiny.join()
    for size in [*range(0, 1600, 3), *range(1600, len(data), 97), len(data) - 1]:
        with pytest.raises(DataError):
            e5s1.read(data[:size], WHERE)


def test_a_flipped_bit_raises_no_other_exception(tiny: TinyFile) -> None:
    data = tiny.join()
    rng = np.random.default_rng(3)
    refused = 0
    for _ in range(600):
        damaged = bytearray(data)
        damaged[rng.integers(0, 1600)] ^= 1 << rng.integers(0, 8)
        try:
            e5s1.read(bytes(damaged), WHERE)
        except DataError:
            refused += 1
    assert refused > 300
