"""Predictions do not depend on how a set is batched, and scores are those of the plain list."""

from __future__ import annotations

import dataclasses
import functools
import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
import scipy.stats
import sklearn.metrics

from flaxfer.config import Task, Train
from flaxfer.data.loader import put_rows
from flaxfer.data.packing import build_rows
from flaxfer.data.tokenize import Tokenized
from flaxfer.evaluation.evaluator import Evaluator, write_predictions
from flaxfer.evaluation.step import EvalSpec, make_eval_step
from flaxfer.models.spec import ModelSpec
from flaxfer.training.step import compiled_programs
from tests.helpers import encoder_config, mesh_of, random_tokenized

SCORE = Task("score", "regression", "pearson")
TOPIC = Task("topic", "classification", "accuracy", ("low", "mid", "high"))
TRAIN = Train(row_length=32, eval_rows=4)
ENCODER = encoder_config(layers=1, dropout=0.3)


def evaluator(task: Task, mesh: Any = None, **train: Any) -> Evaluator:
    return Evaluator(
        model=ModelSpec(ENCODER, num_outputs=max(len(task.labels), 1)),
        task=task,
        train=dataclasses.replace(TRAIN, **train),
        dtype=jnp.dtype("float32"),
        mesh=mesh or mesh_of(),
    )


@functools.cache
def params_of(task: Task) -> dict[str, Any]:
    return ModelSpec(ENCODER, num_outputs=max(len(task.labels), 1)).random_params(0)


def one_by_one(task: Task, data: Tokenized) -> np.ndarray:
    """Logits of every example in a row of its own, without an evaluator."""
    everything = np.arange(len(data))
    batch = build_rows(data, everything, [[i] for i in everything], len(data), 32, 1, pad_id=0)
    batch = put_rows(batch, mesh_of())
    logits_BEC = evaluator(task).model.apply(params_of(task), batch, None)
    return np.asarray(logits_BEC)[:, 0]


@pytest.mark.parametrize("task", [SCORE, TOPIC], ids=lambda task: task.name)
def test_any_size_of_set_and_batch_gives_the_same(task: Task) -> None:
    whole = random_tokenized(33, len(task.labels), longest=30)
    wanted_nC = one_by_one(task, whole)
    for n in (1, 3, 4, 5, 13, 33):
        data = dataclasses.replace(
            whole,
            token=whole.token[: whole.offset[n]],
            type=whole.type[: whole.offset[n]],
            offset=whole.offset[: n + 1],
            cls=whole.cls[:n],
            label=whole.label[:n],
            example=whole.example[:n],
            id=whole.id[:n],
            language=whole.language[:n],
            domain=whole.domain[:n],
        )
        for settings in ({}, {"packing": False}) if task is SCORE else ({},):
            logits_nC, scores = evaluator(task, **settings).predict(params_of(task), data)
            np.testing.assert_allclose(logits_nC, wanted_nC[:n], atol=1e-5)
            if n > 1:
                assert_scores(task, scores, logits_nC, data.label)


def assert_scores(
    task: Task, scores: dict[str, float | None], logits_nC: np.ndarray, label_n: np.ndarray
) -> None:
    if task.type == "regression":
        wanted = {
            "pearson": scipy.stats.pearsonr(logits_nC[:, 0].astype(float), label_n).statistic,
            "spearman": scipy.stats.spearmanr(logits_nC[:, 0], label_n).statistic,
            "mse": sklearn.metrics.mean_squared_error(label_n, logits_nC[:, 0]),
        }
    else:
        guess_n = logits_nC.argmax(axis=1)
        wanted = {
            "accuracy": sklearn.metrics.accuracy_score(label_n, guess_n),
            "macro_f1": sklearn.metrics.f1_score(
                label_n, guess_n, labels=np.unique([label_n, guess_n]), average="macro"
            ),
            "mcc": sklearn.metrics.matthews_corrcoef(label_n, guess_n),
        }
    assert scores == pytest.approx(wanted, abs=1e-5)


def test_devices_change_nothing() -> None:
    data = random_tokenized(10)
    one, scores_of_one = evaluator(SCORE).predict(params_of(SCORE), data)
    mesh = mesh_of(2, 2, 2)
    many, scores = evaluator(SCORE, mesh, eval_rows=3).predict(params_of(SCORE), data)
    np.testing.assert_allclose(many, one, atol=1e-5)
    assert scores == pytest.approx(scores_of_one, abs=1e-5)


def test_evaluating_again_gives_the_same_with_the_same_program() -> None:
    data, own = random_tokenized(33), evaluator(SCORE)
    first, scores = own.predict(params_of(SCORE), data)
    function = make_eval_step(EvalSpec(own.model, own.dtype), own.mesh)
    before = compiled_programs(function)
    second, again = own.predict(params_of(SCORE), data)
    np.testing.assert_array_equal(first, second)
    assert scores == again
    assert compiled_programs(function) == before


@pytest.mark.parametrize("task", [SCORE, TOPIC], ids=lambda task: task.name)
def test_outputs_that_are_not_finite_have_no_score(task: Task) -> None:
    params = jax.tree.map(lambda x: x * jnp.nan, params_of(task))
    _, scores = evaluator(task).predict(params, random_tokenized(5, len(task.labels)))
    assert len(scores) == 3 and np.isnan(list(scores.values())).all()


@pytest.mark.parametrize("task", [SCORE, TOPIC], ids=lambda task: task.name)
def test_report_by_language_and_domain(task: Task) -> None:
    data = random_tokenized(30, len(task.labels))
    rng = np.random.default_rng(0)
    logits_nC = rng.normal(size=(30, max(len(task.labels), 1))).astype(np.float32)
    german, english = evaluator(task).report("mixed", data, logits_nC)
    for entry, code in ((german, "de"), (english, "en")):
        chosen = [i for i in range(30) if data.language[i] == code]
        assert (entry["set"], entry["language"], entry["n"]) == ("mixed", code, 15)
        assert_scores(task, entry["metrics"], logits_nC[chosen], data.label[chosen])
        assert list(entry["domains"]) == ["films", "news"], "examples without a domain are in none"
        for domain, part in entry["domains"].items():
            within = [i for i in chosen if data.domain[i] == domain]
            assert part["n"] == len(within) == 5
            assert_scores(task, part["metrics"], logits_nC[within], data.label[within])


def test_an_undefined_score_is_null_in_json() -> None:
    data = random_tokenized(4)
    (german, _) = evaluator(SCORE).report("x", data, np.ones((4, 1), np.float32))
    assert german["metrics"]["pearson"] is None and german["metrics"]["spearman"] is None
    assert german["metrics"]["mse"] > 0
    json.dumps(german, allow_nan=False)


@pytest.mark.parametrize("task", [SCORE, TOPIC], ids=lambda task: task.name)
def test_predictions_file(task: Task, tmp_path: Path) -> None:
    data = random_tokenized(5, len(task.labels))
    data = dataclasses.replace(data, id=("naïve\n", *data.id[1:]))
    rng = np.random.default_rng(0)
    logits_nC = 50 * rng.normal(size=(5, max(len(task.labels), 1))).astype(np.float32)
    path = tmp_path / "predictions" / "test.jsonl"
    write_predictions(path, task, data, logits_nC)
    records = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    assert [record["id"] for record in records] == list(data.id)
    assert [record["language"] for record in records] == list(data.language)
    assert [record.get("domain", "") for record in records] == list(data.domain)
    if task.type == "regression":
        assert [record["prediction"] for record in records] == logits_nC[:, 0].tolist()
        assert [record["score"] for record in records] == data.label.tolist()
        return
    probability_nC = scipy.special.softmax(logits_nC.astype(float), axis=1)
    for record, row, label in zip(records, probability_nC, data.label, strict=True):
        assert record["label"] == task.labels[label]
        assert record["prediction"] == task.labels[row.argmax()]
        assert list(record["probabilities"]) == list(task.labels)
        np.testing.assert_allclose(list(record["probabilities"].values()), row, atol=1e-6)
