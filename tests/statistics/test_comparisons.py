from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from flaxfer.config import Task
from flaxfer.data.tokenize import Tokenized
from flaxfer.errors import DataError
from flaxfer.evaluation.evaluator import write_predictions
from flaxfer.statistics import inference
from flaxfer.statistics.comparisons import compare
from flaxfer.statistics.records import Comparison, Estimate
from flaxfer.statistics.scores import GAP, MEAN, ZERO_SHOT
from flaxfer.tasks import TASK_TYPES, answers, entities, task_type
from tests.helpers import random_tokenized

N = 120  # Half of them en, half de.
DRAWS = 400
SCORES = Task("sts", "regression", "pearson")
CLASSES = Task("nli", "classification", "accuracy", labels=("a", "b", "c"))
DATA = random_tokenized(N)
CLASS_DATA = random_tokenized(N, classes=3)

Files = dict[tuple[str, int], np.ndarray]


def outputs(task: Task, data: Tokenized, noise: float, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    if task.type == "regression":
        return (data.label + noise * rng.standard_normal(N))[:, None].astype(np.float32)
    return (np.eye(3)[data.label] + noise * rng.standard_normal((N, 3))).astype(np.float32)


def write_study(
    workdir: Path, task: Task, runs: Sequence[tuple[str, int]], sets: Sequence[str] = ("test",)
) -> Path:
    """study.json with the sets in en, which is trained on, and de."""
    workdir.mkdir(exist_ok=True)
    evaluated = [
        {"set": name, "language": code, "n": N // 2, "metrics": {task.metric: 0.5}}
        for name in sets
        for code in ("de", "en")
    ]
    split = {"stage": "target", "tokens": 1, "truncated": 0, "examples": N}
    data = [
        {"split": "train", "languages": {"en": N}, **split},
        *({"split": s, "languages": {}, "fingerprint": "f" * 64, **split} for s in sets),
    ]
    record = {
        "name": workdir.name,
        "metric": task.metric,
        "metrics": task_type(task).metrics,
        "larger_is_better": task_type(task).larger_is_better(task.metric),
        "task": dataclasses.asdict(task),
        "conditions": ["direct", "staged"],
        "seeds": sorted({seed for _, seed in runs}),
        "model": {"source": "model", "family": "bert", "parameters": 1},
        "data": data,
        "runs": [
            {
                "condition": path, "seed": seed, "stage": "target", "id": f"{path}{seed}",
                "dir": f"stages/{path}{seed}", "steps": 1, "dev": {}, "evaluations": evaluated,
            }
            for path, seed in runs
        ],
    }  # fmt: skip
    (workdir / "study.json").write_text(json.dumps(record))
    return workdir


def predictions(workdir: Path, path: str, seed: int, name: str = "test") -> Path:
    return workdir / f"stages/{path}{seed}/predictions/{name}-{'f' * 12}.jsonl"


def study(workdir: Path, task: Task, files: Files, data: Tokenized) -> Path:
    write_study(workdir, task, list(files))
    for (path, seed), made in files.items():
        write_predictions(predictions(workdir, path, seed), task, data, made)
    return workdir


def noisy(task: Task, data: Tokenized, noise: dict[str, float], seeds: int) -> Files:
    return {
        (path, seed): outputs(task, data, noise[path], 10 * seed + (path == "staged"))
        for path in noise
        for seed in range(seeds)
    }


def write_lines(
    workdir: Path, task: Task, lines: dict[tuple[str, int], list[dict[str, Any]]]
) -> Path:
    write_study(workdir, task, list(lines))
    for (path, seed), records in lines.items():
        file = predictions(workdir, path, seed)
        file.parent.mkdir(parents=True)
        text = [
            json.dumps({"id": str(i), "language": ("en", "de")[i % 2], **record})
            for i, record in enumerate(records)
        ]
        file.write_text("\n".join(text))
    return workdir


def of(found: Sequence[Comparison], language: str) -> Comparison:
    (one,) = [one for one in found if one.language == language]
    return one


@pytest.mark.parametrize("kind", ["classification", "regression"])
def test_scores_are_those_of_the_evaluation(tmp_path: Path, kind: str) -> None:
    task, data = (SCORES, DATA) if kind == "regression" else (CLASSES, CLASS_DATA)
    files = noisy(task, data, {"direct": 1.0, "staged": 0.7}, 2)
    workdir = study(tmp_path / "a", task, files, data)
    for metric in TASK_TYPES[kind].metrics:
        made = compare([workdir], metric=metric, draws=DRAWS)
        assert [(one.language, one.set, one.n) for one in made.comparisons] == [
            ("en", "test", N // 2), ("de", "test", N // 2),
        ]  # fmt: skip
        for one in made.comparisons:
            chosen = np.array(data.language) == one.language
            for path, scores in (("direct", one.all_runs.direct), ("staged", one.all_runs.staged)):
                expected = [
                    task_type(task)
                    .predictions(task, data, files[path, seed])
                    .scores(chosen)[metric]
                    for seed in scores.seeds
                ]
                assert scores.scores == pytest.approx(expected, rel=1e-5)
                assert scores.mean == pytest.approx(np.mean(expected))
                assert scores.sd == pytest.approx(np.std(expected, ddof=1), rel=1e-4)


def test_verdicts_of_a_family(tmp_path: Path) -> None:
    better = noisy(SCORES, DATA, {"direct": 3.0, "staged": 0.3}, 5)
    same = noisy(SCORES, DATA, {"direct": 1.0, "staged": 1.0}, 5)
    other = {"direct": "staged", "staged": "direct"}
    worse = {(path, seed): better[other[path], seed] for path, seed in better}
    workdirs = [
        study(tmp_path / name, SCORES, files, DATA)
        for name, files in (("better", better), ("same", same), ("worse", worse))
    ]
    made = compare(workdirs, draws=DRAWS)
    verdicts = [one.all_runs.verdict for one in made.comparisons]
    assert verdicts == ["helps"] * 2 + ["no evidence"] * 2 + ["hurts"] * 2
    p = [one.all_runs.p for one in made.comparisons]
    assert [one.all_runs.p_holm for one in made.comparisons] == inference.holm(p)
    for one in made.comparisons:
        inside = one.all_runs.low <= 0 <= one.all_runs.high
        assert inside == (one.all_runs.verdict == "no evidence")
    # Smaller is better: the same runs, the other sign, the same verdict.
    errors = compare(workdirs[:1], metric="mse", draws=DRAWS).comparisons
    assert all(one.all_runs.difference < 0 and one.all_runs.verdict == "helps" for one in errors)
    assert json.loads(json.dumps(dataclasses.asdict(made)))["comparisons"][0]["study"] == "better"


def test_tests_beside_the_interval(tmp_path: Path) -> None:
    files = noisy(SCORES, DATA, {"direct": 3.0, "staged": 0.3}, 3)
    (one, _) = compare([study(tmp_path / "a", SCORES, files, DATA)], draws=DRAWS).comparisons
    made = one.all_runs
    assert (made.p_seeds, made.p_seeds_least) == (0.1, 0.1)
    assert made.p_examples == pytest.approx(1 / (DRAWS + 1))
    direct, staged = (np.array(path.scores) for path in (made.direct, made.staged))
    assert made.effect_size == inference.hedges_g(direct, staged)
    assert made.needed_seeds == 2
    same = {key: files["direct", key[1]] for key in files}
    (one, _) = compare([study(tmp_path / "b", SCORES, same, DATA)], draws=DRAWS).comparisons
    assert one.all_runs.p_examples == 1 and one.all_runs.needed_seeds is None
    assert one.all_runs.p == pytest.approx(1, abs=0.1)
    assert one.all_runs.difference == pytest.approx(0, abs=1e-12)


def test_numbers_do_not_depend_on_other_studies(tmp_path: Path) -> None:
    a = study(tmp_path / "a", SCORES, noisy(SCORES, DATA, {"direct": 1, "staged": 0.9}, 3), DATA)
    b = study(tmp_path / "b", SCORES, noisy(SCORES, DATA, {"direct": 1, "staged": 0.5}, 3), DATA)
    alone, both = compare([b], draws=DRAWS), compare([a, b], draws=DRAWS)
    for first, second in zip(alone.comparisons, both.comparisons[2:], strict=True):
        forget = {"p_holm": None, "verdict": "no evidence"}
        assert dataclasses.replace(first.all_runs, **forget) == dataclasses.replace(
            second.all_runs, **forget
        )


def test_a_single_seed_is_no_evidence(tmp_path: Path) -> None:
    files = noisy(SCORES, DATA, {"direct": 3.0, "staged": 0.1}, 1)
    made = compare([study(tmp_path / "a", SCORES, files, DATA)], draws=DRAWS)
    for one in made.comparisons + made.means:
        found = one.all_runs
        assert found.over == "examples alone" and found.verdict == "no evidence"
        assert one.language == GAP or (found.low > 0 and found.p < 0.01)  # Of these very runs.
        assert found.p_holm is found.direct.sd is found.pooled_sd is found.effect_size is None


def test_collapsed_runs_are_listed_and_kept(tmp_path: Path) -> None:
    files = noisy(SCORES, DATA, {"direct": 0.5, "staged": 0.5}, 3)
    rng = np.random.default_rng(0)
    files["direct", 1] = np.full((N, 1), 2.5, np.float32) + 1e-3 * rng.random((N, 1), np.float32)
    files["staged", 2] = rng.permutation(files["staged", 2])
    workdir = study(tmp_path / "a", SCORES, files, DATA)
    for one in compare([workdir], draws=DRAWS).comparisons:
        assert [(run.condition, run.seed, run.stage_id) for run in one.collapsed] == [
            ("direct", 1, "direct1"), ("staged", 2, "staged2"),
        ]  # fmt: skip
        assert "standard deviation" in one.collapsed[0].why
        assert "is chance, while another run reaches 0.9" in one.collapsed[1].why
        assert one.all_runs.direct.seeds == one.all_runs.staged.seeds == (0, 1, 2)
        without = one.without_collapsed
        assert without is not None
        assert (without.direct.seeds, without.staged.seeds) == ((0, 2), (0, 1))
        assert without.pooled_sd is not None and one.all_runs.pooled_sd is not None
        assert without.pooled_sd < 0.1 < one.all_runs.pooled_sd


def test_classes_collapse_to_one_of_them(tmp_path: Path) -> None:
    files = noisy(CLASSES, CLASS_DATA, {"direct": 0.3, "staged": 0.3}, 2)
    files["direct", 0][:, 1] += 100
    made = compare([study(tmp_path / "a", CLASSES, files, CLASS_DATA)], draws=DRAWS)
    for one in made.comparisons:
        (run,) = one.collapsed
        assert (run.condition, run.seed) == ("direct", 0)
        assert run.why == "one prediction for 100.0% of the examples"
    # All of a path: the runs that are left are of the other one alone.
    files["direct", 1][:, 1] += 100
    made = compare([study(tmp_path / "b", CLASSES, files, CLASS_DATA)], draws=DRAWS)
    assert all(len(one.collapsed) == 2 for one in made.comparisons)
    assert all(one.without_collapsed is None for one in made.comparisons)


def test_what_transfers_nothing_has_not_collapsed(tmp_path: Path) -> None:
    """The study is trained in en: what a run makes of de is a result, whatever it is."""
    german = np.array(DATA.language) == "de"
    files = noisy(SCORES, DATA, {"direct": 0.5, "staged": 0.5}, 3)
    files["direct", 1][german] = 2.5
    files["staged", 0][~german] = 2.5
    found = compare([study(tmp_path / "a", SCORES, files, DATA)], draws=DRAWS)
    by_language = {one.language: one for one in (*found.comparisons, *found.means)}
    for one in by_language.values():
        assert [(run.condition, run.seed) for run in one.collapsed] == [("staged", 0)]
        assert one.without_collapsed is not None
        assert one.without_collapsed.direct.seeds == (0, 1, 2)
        assert one.without_collapsed.staged.seeds == (1, 2)
    nothing = {
        name: [(run.condition, run.seed) for run in one.not_transferred]
        for name, one in by_language.items()
    }
    assert nothing == {"en": []} | {name: [("direct", 1)] for name in ("de", MEAN, GAP)}
    assert by_language["de"].not_transferred[0].why.startswith("predictions have a standard dev")
    (run,) = by_language["de"].collapsed
    assert run.why == "it learned nothing in the languages of its training"


def test_where_nobody_learns_nobody_has_collapsed(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    chance = {
        key: rng.normal(size=(N, 1)) for key in noisy(SCORES, DATA, {"direct": 1, "staged": 1}, 2)
    }
    made = compare([study(tmp_path / "a", SCORES, chance, DATA)], draws=DRAWS)
    assert not any(one.collapsed for one in made.comparisons)


def test_means_over_languages(tmp_path: Path) -> None:
    files = noisy(SCORES, DATA, {"direct": 2.0, "staged": 1.0}, 3)
    workdir = write_study(tmp_path / "a", SCORES, list(files), ["one", "two"])
    for (path, seed), made in files.items():
        for name, sign in (("one", 1), ("two", -1)):
            file = predictions(workdir, path, seed, name)
            write_predictions(
                file, SCORES, DATA, made[::1] if sign > 0 else made + DATA.label[:, None]
            )
    found = compare([workdir], draws=DRAWS)
    sets = {(one.language, one.set): one.all_runs.difference for one in found.comparisons}
    en, de = (np.mean([sets[code, name] for name in ("one", "two")]) for code in ("en", "de"))
    means = {one.language: one for one in found.means}
    # Two languages, one of them zero-shot with two sets.
    assert means[MEAN].all_runs.difference == pytest.approx((en + de) / 2)
    assert means[ZERO_SHOT].all_runs.difference == pytest.approx(de)
    assert means[GAP].all_runs.difference == pytest.approx(en - de)
    assert (means[MEAN].n, means[ZERO_SHOT].n, means[MEAN].set) == (2 * N, N, "")
    assert (means[MEAN].larger_is_better, means[GAP].larger_is_better) == (True, False)
    width = {name: one.all_runs.high - one.all_runs.low for name, one in means.items()}
    assert 0 < width[MEAN] < max(one.all_runs.high - one.all_runs.low for one in found.comparisons)


def test_tags(tmp_path: Path) -> None:
    tags = ("O", "B-A", "I-A")
    task = Task("ner", "tagging", "f1", labels=tags)
    rng = np.random.default_rng(0)
    gold = [[None if i % 7 == 0 else tags[t] for t in rng.integers(0, 3, 5)] for i in range(40)]
    runs = {(path, seed): [[tags[t] for t in rng.integers(0, 3, 5)] for _ in gold]
            for path in ("direct", "staged") for seed in (0, 1)}  # fmt: skip
    runs["direct", 1] = [["O"] * 5 for _ in gold]
    lines = {
        key: [{"prediction": p, "label": g} for p, g in zip(made, gold, strict=True)]
        for key, made in runs.items()
    }
    workdir = write_lines(tmp_path / "a", task, lines)
    for metric in TASK_TYPES["tagging"].metrics:
        for one in compare([workdir], metric=metric, draws=DRAWS).comparisons:
            own = slice(0 if one.language == "en" else 1, None, 2)
            for path in ("direct", "staged"):
                expected = [
                    entities.entity_scores(gold[own], runs[path, seed][own])[metric]
                    for seed in (0, 1)
                ]
                assert getattr(one.all_runs, path).scores == pytest.approx(expected)
            assert [run.why for run in one.collapsed] == [
                "one prediction for 100.0% of the examples"
            ]


def test_answers_and_choices(tmp_path: Path) -> None:
    task = Task("qa", "question_answering", "f1")
    golds = [[f"the {i} tower", f"tower {i}"] for i in range(40)]
    texts = {"direct": "big tower", "staged": "tower {}"}
    lines = {
        (path, seed): [
            {"prediction": text.format(i) if i % 3 else f"{i}", "answers": golds[i]}
            for i in range(40)
        ]
        for path, text in texts.items()
        for seed in (0, 1)
    }
    workdir = write_lines(tmp_path / "qa", task, lines)
    for metric in TASK_TYPES["question_answering"].metrics:
        one = of(compare([workdir], metric=metric, draws=DRAWS).comparisons, "de")
        for path in texts:
            made = [record["prediction"] for record in lines[path, 0]][1::2]
            expected = answers.answer_scores(made, golds[1::2])[metric]
            assert getattr(one.all_runs, path).scores == pytest.approx([expected] * 2)
    choice = Task("copa", "multiple_choice", "accuracy")
    lines = {
        (path, seed): [
            {"prediction": i // 3 % 2 if i % 5 else 1, "label": i // 3 % 2} for i in range(40)
        ]
        for path in texts
        for seed in (0, 1)
    }
    one = of(compare([write_lines(tmp_path / "c", choice, lines)], draws=DRAWS).comparisons, "en")
    right = np.mean([i % 5 != 0 or i // 3 % 2 == 1 for i in range(0, 40, 2)])
    assert one.all_runs.staged.scores == pytest.approx([right] * 2)


def test_what_can_not_be_compared_is_named(tmp_path: Path) -> None:
    files = noisy(SCORES, DATA, {"direct": 1, "staged": 1}, 2)
    gone = study(tmp_path / "gone", SCORES, files, DATA)
    predictions(gone, "staged", 1).unlink()
    direct = study(
        tmp_path / "direct", SCORES, {k: v for k, v in files.items() if "direct" in k}, DATA
    )
    level = dataclasses.replace(DATA, label=np.full(N, 2.0, np.float32))
    same = study(tmp_path / "level", SCORES, files, level)
    made = compare([gone, direct, same], draws=DRAWS)
    assert not made.comparisons and not made.means
    text = "\n".join(made.skipped)
    assert f"test has no predictions in {predictions(gone, 'staged', 1)}" in text
    assert "direct" in text and "no finished runs of both direct and staged" in text
    assert text.count("all labels are the same") == 2
    assert "mean over all languages: no comparison of test" in text
    assert "no metric mcc" in compare([gone], metric="mcc", draws=DRAWS).skipped[0]


def test_different_examples_are_an_error(tmp_path: Path) -> None:
    files = noisy(SCORES, DATA, {"direct": 1, "staged": 1}, 2)
    workdir = study(tmp_path / "a", SCORES, files, DATA)
    other = dataclasses.replace(DATA, label=DATA.label[::-1].copy())
    write_predictions(predictions(workdir, "staged", 0), SCORES, other, files["staged", 0])
    with pytest.raises(DataError, match="are not those of"):
        compare([workdir], draws=DRAWS)
    predictions(workdir, "staged", 0).write_text('{"id": "1"}\n')
    with pytest.raises(DataError, match="no file of predictions of a regression"):
        compare([workdir], draws=DRAWS)


def test_a_record_is_whole() -> None:
    names = {field.name for field in dataclasses.fields(Estimate)}
    assert {field.name for field in dataclasses.fields(inference.Interval)} <= names
