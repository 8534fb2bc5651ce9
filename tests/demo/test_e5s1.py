"""The reader of E5S1 files: values."""

from __future__ import annotations

import numpy as np

from flaxfer.demo import e5s1
from tests.demo.helpers import NORMALISATION, PIECES, SCORES, TinyFile, q4_0_values


def test_dequantisation_equals_the_reference_value_by_value() -> None:
    rng = np.random.default_rng(0)
    blocks = rng.integers(0, 256, (400, 18), np.uint8)
    blocks[:, 1] &= 0xBB  # Any sign, and subnormals, but no infinity.
    expected = [q4_0_values(block.tobytes()) for block in blocks]
    assert (blocks[:, :2].copy().view("<f2") < 0).any()
    np.testing.assert_array_equal(e5s1.dequantize_q4_0(blocks), np.array(expected, np.float32))


def test_a_file_is_read_as_written(tiny: TinyFile) -> None:
    file = e5s1.read(tiny.join())
    assert file.header == e5s1.Header(32, 2, 2, 64, 14, 6, 2, np.float32(1e-12), 32)
    assert file.pieces == PIECES
    np.testing.assert_array_equal(file.scores, np.array(SCORES, np.float32))
    assert file.normalisation == NORMALISATION
    assert file.tensors.keys() == tiny.expected.keys()
    for name, expected in tiny.expected.items():
        assert file.tensors[name].dtype == np.float32
        np.testing.assert_array_equal(file.tensors[name], expected, err_msg=name)
