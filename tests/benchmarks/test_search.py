"""The benchmark of the exact search, small, with the searches that need no other environment."""

from __future__ import annotations

import json

import numpy as np
import pytest

from benchmarks import search
from benchmarks.search import main, section


def test_each_search_is_a_process_and_a_row(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("torch", "faiss"):
        monkeypatch.delitem(search.SIDES, name)
    main(["--candidates=3000", "--width=16", "--queries=20", "--k=5", "--rounds=2"])
    record = json.loads(capsys.readouterr().out)
    assert record["same"] == {"flaxfer": 1.0, "numpy": 1.0}
    assert {side: len(of) for side, of in record["seconds"].items()} == {"flaxfer": 2, "numpy": 2}
    page = section(record)
    assert "The 5 nearest of 3,000 candidates of width 16 for each of 20 queries" in page
    assert page.count("100.0000%") == 2


def test_a_search_in_blocks_is_one_of_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(search, "BLOCK", 64)
    rng = np.random.default_rng(1)
    query, candidate = (rng.standard_normal((n, 8), np.float32) for n in (9, 300))
    by_numpy = search._numpy(candidate, 7)
    expected = np.argsort(-(query @ candidate.T), axis=1, kind="stable")[:, :7]
    np.testing.assert_array_equal(by_numpy(query), expected)


def test_the_section_has_the_ratio_of_each_round() -> None:
    record = {
        **{"candidates": 1000, "width": 10, "queries": 10, "k": 2, "device_bytes": 2**29},
        "seconds": {"flaxfer": [1.0, 2.0, 4.0], "faiss": [2.0, 2.0, 2.0]},
        **{"gib": {"flaxfer": 1.0, "faiss": 2.0}, "same": {"flaxfer": 1.0, "faiss": 0.99995}},
        **{"versions": {"jax": "1"}, "git": "g", "date": "2026-11-29"},
        "machine": {"cpu": "c", "features": ["avx2"], "cores": 2, "memory_gib": 8.0},
    }
    lines = section(record).splitlines()
    assert "| flaxfer | 2.00 (1.00–4.00) | – | 0 | 1.0 | 100.0000% |" in lines
    assert "| faiss | 2.00 (2.00–2.00) | 1.00 (0.50–2.00) | 0 | 2.0 | 99.9950% |" in lines
    assert "was stated before as 0.50 GiB" in section(record)
