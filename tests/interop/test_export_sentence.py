"""Exports as sentence-transformers reads them: embeddings by the encoder, scores of pairs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from flaxfer.config import Model, Task
from flaxfer.data.tokenize import load_tokenizer
from flaxfer.errors import ConfigError
from flaxfer.interop.card import Publication
from flaxfer.interop.embedding import Embedder
from flaxfer.interop.export import export
from flaxfer.interop.predictor import Predictor
from flaxfer.interop.sentence import read_sentence_settings
from flaxfer.models.pretrained import load_encoder_config
from tests.helpers import mesh_of
from tests.interop.helpers import read_json
from tests.interop.test_export_task_types import TASKS, flaxfer_logits, stage_without_training

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


def exported_retrieval(folder: Path, family: Any, pooling: str) -> tuple[Path, np.ndarray]:
    """Export a random retrieval model; return its folder and its own embeddings of `TEXTS`."""
    task = Task("find", "retrieval", "map_at_20", pooling=pooling)
    stage, params = stage_without_training(folder, family, task, max_length=32)
    out = export(stage, folder / "out")
    encoded = load_tokenizer(Model(path=str(out)))(TEXTS)
    config = load_encoder_config(out)
    vectors = flaxfer_logits(params, config, task, dict(encoded), last=family == "xlnet")[:, 0]
    return out, vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


@pytest.mark.parametrize(
    ("family", "pooling"), [("bert", "pooler"), ("bert", "mean"), ("xlnet", "cls")]
)
def test_an_export_of_retrieval_embeds_as_it_was_trained(
    family: str, pooling: str, tmp_path: Path
) -> None:
    out, wanted = exported_retrieval(tmp_path, family, pooling)
    assert "flaxfer predict" not in (out / "README.md").read_text()
    vector_nD = Embedder(out, normalise=True, mesh=mesh_of())(TEXTS)
    np.testing.assert_allclose(vector_nD, wanted, atol=2e-6)
    with pytest.raises(ConfigError, match="predicts nothing of one alone"):
        Predictor(out)
    stage = next((tmp_path / "work" / "stages").iterdir())
    with pytest.raises(ConfigError, match=f"were trained with the pooling '{pooling}'"):
        export(stage, tmp_path / "other", publication=Publication(pooling="max"))


@pytest.mark.parity
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize(("family", "pooling"), [("bert", "pooler"), ("xlm-roberta", "cls")])
def test_sentence_transformers_embeds_as_retrieval_was_trained(
    family: str, pooling: str, tmp_path: Path
) -> None:
    from sentence_transformers import SentenceTransformer

    out, wanted = exported_retrieval(tmp_path, family, pooling)
    model = SentenceTransformer(str(out), device="cpu")
    vector_nD = model.encode(TEXTS, normalize_embeddings=True)
    np.testing.assert_allclose(vector_nD, wanted, atol=1e-5)


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


def test_an_export_of_an_early_layer_declares_no_pooling(tmp_path: Path) -> None:
    task = Task("align", "retrieval", "accuracy_at_1", triplet_margin=0.4, embedding_layer=1)
    stage, _ = stage_without_training(tmp_path, "bert", task)
    out = export(stage, tmp_path / "out")
    assert not (out / "modules.json").exists()
    assert "sentence-transformers" not in (out / "README.md").read_text(encoding="utf-8")
    pooled = export(stage, tmp_path / "pooled", publication=Publication(pooling="mean"))
    assert read_sentence_settings(pooled).pooling == "mean"
