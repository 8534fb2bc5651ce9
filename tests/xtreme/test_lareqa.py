"""An encoder on LAReQA, against scikit-learn on the embeddings of its questions and candidates."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import average_precision_score

from flaxfer.data.lareqa import read_pool
from flaxfer.interop.embedding import Embedder
from flaxfer.main import main
from tests.data.test_lareqa import SENTENCES, passages, write
from tests.helpers import tiny_model

RIGHT = {"de q1?": (1, 1), "de q2?": (0, 2), "de q3?": (0, None), "en q1?": (1, 1)}
RIGHT["en q2?"] = RIGHT["de q2?"]
"""Numbers of the right German and English sentences of each question."""


def test_the_pool_has_the_passages_of_each_language_once(tmp_path: Path) -> None:
    pool = read_pool(write(tmp_path))
    assert pool.candidates == [*passages("de"), *passages("en")]
    assert pool.candidate_languages == ["de"] * 3 + ["en"] * 3
    assert pool.questions == [*RIGHT] and pool.question_languages == ["de"] * 3 + ["en"] * 2
    rows = [[de] if en is None else [de, 3 + en] for de, en in RIGHT.values()]
    assert pool.relevant == rows


def test_scores_are_those_of_the_embeddings(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, output = write(tmp_path), tmp_path / "pools.csv"
    model = tiny_model(tmp_path / "model", layers=1, deviation=0.5)
    words = ["xtreme", "lareqa", str(model), str(folder), "--output", str(output)]
    assert main(words) == 0
    printed = capsys.readouterr().out
    candidates = [*passages("de"), *passages("en")]
    vectors = Embedder(model, normalise=True)([*RIGHT, *candidates])
    cosine = vectors[:5] @ vectors[5:].T

    def score(asked: str, languages: str) -> float:
        precisions = []
        for row, (question, (de, en)) in zip(cosine, RIGHT.items(), strict=True):
            right = np.arange(6) == de
            right |= en is not None and np.arange(6) == 3 + (en or 0)
            kept = np.array([code in languages for code in ["de"] * 3 + ["en"] * 3])
            if question.startswith(asked) and right[kept].any():
                precisions.append(average_precision_score(right[kept], row[kept]))
        return float(np.mean(precisions))

    with output.open(encoding="utf-8", newline="") as file:
        rows = [*csv.DictReader(file)]
    found = {(r["pool"], r["query_language"], r["candidate_language"]): r for r in rows}
    assert len(found) == len(rows) == 2 + 4 + 4
    for asked in SENTENCES:
        whole = score(asked, "de en")
        assert float(found["all", asked, ""]["map_at_20"]) == pytest.approx(whole)
        for language in SENTENCES:
            of_pair = float(found["pair", asked, language]["map_at_20"])
            assert of_pair == pytest.approx(score(asked, language))
        (line,) = [line for line in printed.splitlines() if line.startswith(asked)]
        other = "en" if asked == "de" else "de"
        expected = [whole, score(asked, asked), score(asked, other)]
        assert line.split()[1:4] == [f"{100 * each:.2f}" for each in expected]
