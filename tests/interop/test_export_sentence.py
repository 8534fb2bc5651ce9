"""Exports as sentence-transformers reads them: embeddings by the encoder, scores of pairs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from flaxfer.errors import ConfigError
from flaxfer.interop.card import Publication
from flaxfer.interop.embedding import Embedder
from flaxfer.interop.export import export
from flaxfer.interop.predictor import Predictor
from flaxfer.interop.sentence import read_sentence_settings
from tests.helpers import mesh_of
from tests.interop.helpers import read_json
from tests.interop.test_export_task_types import TASKS, stage_without_training

TEXTS = ["a man plays the guitar", "The Dog", "a woman eats red big piano not a cat runs", "man"]
PAIRS = [("a man plays", "the red dog"), ("cats", "cats eat"), ("a dog", "not a dog is not")]


def exported(folder: Path, family: Any, pooling: str, length: int = 8) -> Path:
    """Export a random model of scores whose texts have up to `length` tokens."""
    stage, _ = stage_without_training(folder, family, TASKS["regression"], max_length=length)
    return export(stage, folder / "out", publication=Publication(pooling=pooling))


def test_the_folder_declares_pooling_and_length(tmp_path: Path) -> None:
    out = exported(tmp_path, "bert", "cls")
    declared = read_sentence_settings(out)
    assert (declared.pooling, declared.max_length, declared.pooled_width) == ("cls", 8, 16)
    assert (declared.prompts, declared.modules, declared.lower_case) == ({}, (), False)
    embedder = Embedder(out, mesh=mesh_of())
    wanted = Embedder(out, plain=True, pooling="cls", max_length=8, mesh=mesh_of())(TEXTS)
    np.testing.assert_array_equal(embedder(TEXTS), wanted)
    assert embedder.truncated == 1
    plain = export(next((tmp_path / "work" / "stages").iterdir()), tmp_path / "plain")
    assert not (plain / "modules.json").exists()
    assert read_json(plain / "config.json") == read_json(out / "config.json")


def test_a_pooling_that_the_encoder_does_not_have_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="the CLS token of xlnet is the last one"):
        exported(tmp_path, "xlnet", "cls")
    assert not (tmp_path / "out").exists()


@pytest.mark.parity
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize("family", ["bert", "xlm-roberta"])
def test_sentence_transformers_gives_the_same_vectors_and_scores(
    tmp_path: Path, family: Any
) -> None:
    from sentence_transformers import CrossEncoder, SentenceTransformer

    for pooling in ("mean", "cls", "max"):
        folder = tmp_path / pooling
        out = exported(folder, family, pooling)
        vector_nD = SentenceTransformer(str(out), device="cpu").encode(TEXTS)
        assert np.abs(vector_nD).max() > 0.1
        np.testing.assert_allclose(Embedder(out)(TEXTS), vector_nD, atol=1e-5)
    out = exported(tmp_path / "pairs", family, "", length=32)
    scores = CrossEncoder(str(out), device="cpu").predict(PAIRS)
    records = Predictor(out)(PAIRS)
    np.testing.assert_allclose([record["prediction"] for record in records], scores, atol=1e-5)
    assert np.abs(scores).max() > 0.01
