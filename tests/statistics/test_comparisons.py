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
from flaxfer.statistics import inference, power
from flaxfer.statistics.comparisons import compare
from flaxfer.statistics.inference import Components
from flaxfer.statistics.multiplicity import P, adjust, levels
from flaxfer.statistics.records import Comparison, Estimate
from flaxfer.statistics.scores import GAP, MEAN, ZERO_SHOT
from flaxfer.tasks import TASK_TYPES, answers, entities, task_type
from tests.helpers import random_tokenized
from tests.statistics.helpers import (
    RunKey,
    predictions_file,
    write_lines,
    write_record,
    write_study,
)

N = 120  # Half of them English, half German.
DRAWS = 400
CONDITIONS = ("direct", "staged")
SCORES = Task("sts", "regression", "pearson")
CLASSES = Task("nli", "classification", "accuracy", labels=("a", "b", "c"))
CORRECTED: dict[str, Any] = {
    field.name: field.default
    for field in dataclasses.fields(Estimate)
    if field.default is not dataclasses.MISSING
}
"""What the other comparisons of the family change, before the correction."""
DATA = random_tokenized(N)
CLASS_DATA = random_tokenized(N, classes=3)


def outputs(task: Task, data: Tokenized, noise: float, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    if task.type == "regression":
        return (data.label + noise * rng.standard_normal(N))[:, None].astype(np.float32)
    return (np.eye(3)[data.label] + noise * rng.standard_normal((N, 3))).astype(np.float32)


def noisy(
    direct: float, staged: float, seeds: int, task: Task = SCORES
) -> dict[RunKey, np.ndarray]:
    """Labels with noise of these scales."""
    data = DATA if task is SCORES else CLASS_DATA
    return {
        (condition, seed): outputs(task, data, noise, 10 * seed + (condition == "staged"))
        for condition, noise in zip(CONDITIONS, (direct, staged), strict=True)
        for seed in range(seeds)
    }


def of_language(comparisons: Sequence[Comparison], language: str) -> Comparison:
    (comparison,) = [one for one in comparisons if one.language == language]
    return comparison


def runs_of(comparison: Comparison) -> list[RunKey]:
    return [(run.condition, run.seed) for run in comparison.collapsed]


@pytest.mark.parametrize("kind", ["classification", "regression"])
def test_scores_equal_those_of_the_evaluation(tmp_path: Path, kind: str) -> None:
    task, data = (SCORES, DATA) if kind == "regression" else (CLASSES, CLASS_DATA)
    runs = noisy(1.0, 0.7, 2, task)
    workdir = write_study(tmp_path / "a", task, runs, data)
    for metric in TASK_TYPES[kind].metrics:
        comparisons = compare([workdir], metric=metric, draws=DRAWS).comparisons
        assert [(one.language, one.set, one.n) for one in comparisons] == [
            ("en", "test", N // 2), ("de", "test", N // 2),
        ]  # fmt: skip
        for one in comparisons:
            chosen = np.array(data.language) == one.language
            for condition in CONDITIONS:
                scores = getattr(one.all_runs, condition)
                expected = [
                    task_type(task)
                    .predictions(task, data, runs[condition, seed])
                    .scores(chosen)[metric]
                    for seed in scores.seeds
                ]
                assert scores.scores == pytest.approx(expected, rel=1e-5)
                assert scores.mean == pytest.approx(np.mean(expected))
                assert scores.sd == pytest.approx(np.std(expected, ddof=1), rel=1e-4)


def test_verdicts_follow_the_correction_within_their_family(tmp_path: Path) -> None:
    better = noisy(3.0, 0.3, 5)
    swapped = {"direct": "staged", "staged": "direct"}
    worse = {(condition, seed): better[swapped[condition], seed] for condition, seed in better}
    studies = {"better": better, "same": noisy(1.0, 1.0, 5), "worse": worse}
    workdirs = [write_study(tmp_path / name, SCORES, of, DATA) for name, of in studies.items()]
    evidence = compare(workdirs, draws=DRAWS)
    every = [*evidence.comparisons, *evidence.means]
    # The only zero-shot language is German, which decides; all else is secondary.
    primary = [one for one in every if one.family == "primary"]
    assert [(one.language, one.set) for one in primary] == [("de", "test")] * 3
    assert [one.all_runs.verdict for one in primary] == ["helps", "undecided", "hurts"]
    for family in ("primary", "secondary"):
        estimates = [one.all_runs for one in every if one.family == family]
        p = [P(one.p) for one in estimates]
        assert [one.p_holm for one in estimates] == [one.difference for one in adjust(p)]
        assert [one.alpha_holm for one in estimates] == levels(p, 0.05)
        assert {one.level_simultaneous for one in estimates} == {1 - 0.05 / len(p)}
        for one in estimates:
            assert one.low_simultaneous is not None and one.high_simultaneous is not None
            assert one.low_simultaneous <= one.low <= one.high <= one.high_simultaneous
            inside = one.low_simultaneous <= 0 <= one.high_simultaneous
            assert inside == (one.p > 0.05 / len(p))
            assert inside or one.verdict != "undecided"
    gaps = [one for one in every if one.language == GAP]
    assert {one.all_runs.verdict for one in gaps} <= {"narrower", "wider", "undecided"}
    # Smaller is better: the same runs, the opposite sign, the same verdict.
    errors = compare(workdirs[:1], metric="mse", draws=DRAWS).comparisons
    assert all(one.all_runs.difference < 0 and one.all_runs.verdict == "helps" for one in errors)
    record = json.loads(json.dumps(dataclasses.asdict(evidence)))
    assert record["comparisons"][0]["study"] == "better"


def test_estimates_beside_the_interval(tmp_path: Path) -> None:
    runs = noisy(3.0, 0.3, 3)
    workdir = write_study(tmp_path / "a", SCORES, runs, DATA)
    one = compare([workdir], draws=DRAWS).comparisons[0].all_runs
    assert (one.p_seeds, one.p_seeds_least) == (0.1, 0.1)
    assert one.p_examples == pytest.approx(1 / (DRAWS + 1))
    direct, staged = np.array(one.direct.scores), np.array(one.staged.scores)
    assert one.effect_size == inference.hedges_g(direct, staged)
    assert (one.alpha_holm, one.needed_seeds) == (0.05 / 3, 3)
    assert one.variance_examples is not None and one.variance_seeds is not None
    sds = [scores.sd for scores in (one.direct, one.staged)]
    assert one.variance_seeds == pytest.approx(sum(sd**2 for sd in sds if sd is not None))
    total = one.variance_examples + one.variance_seeds / 3
    assert one.examples_share == pytest.approx(one.variance_examples / total)
    same = {(condition, seed): runs["direct", seed] for condition, seed in runs}
    workdir = write_study(tmp_path / "b", SCORES, same, DATA)
    one = compare([workdir], draws=DRAWS).comparisons[0].all_runs
    assert one.p_examples == 1 and one.needed_seeds is None
    assert one.p == pytest.approx(1, abs=0.1)
    assert one.difference == pytest.approx(0, abs=1e-12)


def test_estimates_do_not_depend_on_other_studies(tmp_path: Path) -> None:
    a = write_study(tmp_path / "a", SCORES, noisy(1, 0.9, 3), DATA)
    b = write_study(tmp_path / "b", SCORES, noisy(1, 0.5, 3), DATA)
    alone, both = compare([b], draws=DRAWS), compare([a, b], draws=DRAWS)
    for first, second in zip(alone.comparisons, both.comparisons[2:], strict=True):
        assert dataclasses.replace(first.all_runs, **CORRECTED) == dataclasses.replace(
            second.all_runs, **CORRECTED
        )


def test_a_single_seed_decides_nothing(tmp_path: Path) -> None:
    evidence = compare([write_study(tmp_path / "a", SCORES, noisy(3.0, 0.1, 1), DATA)], draws=DRAWS)
    for comparison in evidence.comparisons + evidence.means:
        one = comparison.all_runs
        assert one.over == "examples alone" and one.verdict == "undecided"
        # Conditional on these runs, the difference is significant.
        assert comparison.language == GAP or (one.low > 0 and one.p < 0.01)
        assert one.low_simultaneous is one.needed_seeds is one.variance_examples is None
        assert one.p_holm is one.direct.sd is one.pooled_sd is one.effect_size is None


def test_collapsed_runs_are_listed_and_kept(tmp_path: Path) -> None:
    runs = noisy(0.5, 0.5, 3)
    rng = np.random.default_rng(0)
    runs["direct", 1] = np.full((N, 1), 2.5, np.float32) + 1e-3 * rng.random((N, 1), np.float32)
    runs["staged", 2] = rng.permutation(runs["staged", 2])
    workdir = write_study(tmp_path / "a", SCORES, runs, DATA)
    for one in compare([workdir], draws=DRAWS).comparisons:
        assert runs_of(one) == [("direct", 1), ("staged", 2)]
        assert [run.stage_id for run in one.collapsed] == ["direct1", "staged2"]
        assert "standard deviation" in one.collapsed[0].why
        assert "is chance, while another run reaches 0.9" in one.collapsed[1].why
        assert one.all_runs.direct.seeds == one.all_runs.staged.seeds == (0, 1, 2)
        without = one.without_collapsed
        assert without is not None
        assert (without.direct.seeds, without.staged.seeds) == ((0, 2), (0, 1))
        assert without.pooled_sd is not None and one.all_runs.pooled_sd is not None
        assert without.pooled_sd < 0.1 < one.all_runs.pooled_sd


def test_a_run_that_predicts_one_class_has_collapsed(tmp_path: Path) -> None:
    runs = noisy(0.3, 0.3, 2, CLASSES)
    runs["direct", 0][:, 1] += 100
    workdir = write_study(tmp_path / "a", CLASSES, runs, CLASS_DATA)
    for one in compare([workdir], draws=DRAWS).comparisons:
        assert runs_of(one) == [("direct", 0)]
        assert one.collapsed[0].why == "one prediction for 100.0% of the examples"
    # With all runs of a condition collapsed, nothing remains to be compared.
    runs["direct", 1][:, 1] += 100
    workdir = write_study(tmp_path / "b", CLASSES, runs, CLASS_DATA)
    for one in compare([workdir], draws=DRAWS).comparisons:
        assert len(one.collapsed) == 2 and one.without_collapsed is None


def test_a_lack_of_transfer_is_no_collapse(tmp_path: Path) -> None:
    """The study is trained on English, so any result on German is a result."""
    german = np.array(DATA.language) == "de"
    runs = noisy(0.5, 0.5, 3)
    runs["direct", 1][german] = 2.5
    runs["staged", 0][~german] = 2.5
    evidence = compare([write_study(tmp_path / "a", SCORES, runs, DATA)], draws=DRAWS)
    by_language = {one.language: one for one in (*evidence.comparisons, *evidence.means)}
    for one in by_language.values():
        assert runs_of(one) == [("staged", 0)]
        assert one.without_collapsed is not None
        assert one.without_collapsed.direct.seeds == (0, 1, 2)
        assert one.without_collapsed.staged.seeds == (1, 2)
    not_transferred = {
        name: [(run.condition, run.seed) for run in one.not_transferred]
        for name, one in by_language.items()
    }
    assert not_transferred == {"en": []} | {name: [("direct", 1)] for name in ("de", MEAN, GAP)}
    assert by_language["de"].not_transferred[0].why.startswith("predictions have a standard dev")
    (run,) = by_language["de"].collapsed
    assert run.why == "it learned nothing in the languages of its training"


def test_no_run_has_collapsed_if_none_learned(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    runs = {run: rng.normal(size=(N, 1)) for run in noisy(1, 1, 2)}
    evidence = compare([write_study(tmp_path / "a", SCORES, runs, DATA)], draws=DRAWS)
    assert not any(one.collapsed for one in evidence.comparisons)


def test_means_over_languages(tmp_path: Path) -> None:
    runs = noisy(2.0, 1.0, 3)
    workdir = write_record(tmp_path / "a", SCORES, list(runs), N // 2, ["one", "two"])
    for (condition, seed), output in runs.items():
        for name, scale in (("one", 0), ("two", 1)):
            file = predictions_file(workdir, condition, seed, name)
            write_predictions(file, SCORES, DATA, output + scale * DATA.label[:, None])
    evidence = compare([workdir], draws=DRAWS)
    sets = {(one.language, one.set): one.all_runs.difference for one in evidence.comparisons}
    en, de = (np.mean([sets[code, name] for name in ("one", "two")]) for code in ("en", "de"))
    means = {one.language: one for one in evidence.means}
    # Two languages with two sets each, one of them zero-shot.
    assert means[MEAN].all_runs.difference == pytest.approx((en + de) / 2)
    assert means[ZERO_SHOT].all_runs.difference == pytest.approx(de)
    assert means[GAP].all_runs.difference == pytest.approx(en - de)
    assert (means[MEAN].n, means[ZERO_SHOT].n, means[MEAN].set) == (2 * N, N, "")
    assert (means[MEAN].larger_is_better, means[GAP].larger_is_better) == (True, False)
    mean_width = means[MEAN].all_runs.high - means[MEAN].all_runs.low
    widths = [one.all_runs.high - one.all_runs.low for one in evidence.comparisons]
    assert 0 < mean_width < max(widths)


def test_tags(tmp_path: Path) -> None:
    tags = ("O", "B-A", "I-A")
    task = Task("ner", "tagging", "f1", labels=tags)
    rng = np.random.default_rng(0)
    gold = [[None if i % 7 == 0 else tags[t] for t in rng.integers(0, 3, 5)] for i in range(40)]
    runs = {
        (condition, seed): [[tags[t] for t in rng.integers(0, 3, 5)] for _ in gold]
        for condition in CONDITIONS
        for seed in (0, 1)
    }
    runs["direct", 1] = [["O"] * 5 for _ in gold]
    lines = {
        run: [{"prediction": p, "label": g} for p, g in zip(tagged, gold, strict=True)]
        for run, tagged in runs.items()
    }
    workdir = write_lines(tmp_path / "a", task, lines)
    for metric in TASK_TYPES["tagging"].metrics_of(task):
        for one in compare([workdir], metric=metric, draws=DRAWS).comparisons:
            examples = slice(0 if one.language == "en" else 1, None, 2)
            for condition in CONDITIONS:
                expected = [
                    entities.entity_scores(gold[examples], runs[condition, seed][examples])[metric]
                    for seed in (0, 1)
                ]
                assert getattr(one.all_runs, condition).scores == pytest.approx(expected)
            assert [run.why for run in one.collapsed] == [
                "one prediction for 100.0% of the examples"
            ]


def test_answers(tmp_path: Path) -> None:
    golds = [[f"the {i} tower", f"tower {i}"] for i in range(40)]
    texts = {"direct": "big tower", "staged": "tower {}"}
    lines = {
        (condition, seed): [
            {"prediction": text.format(i) if i % 3 else f"{i}", "answers": golds[i]}
            for i in range(40)
        ]
        for condition, text in texts.items()
        for seed in (0, 1)
    }
    workdir = write_lines(tmp_path / "qa", Task("qa", "question_answering", "f1"), lines)
    for metric in TASK_TYPES["question_answering"].metrics:
        one = of_language(compare([workdir], metric=metric, draws=DRAWS).comparisons, "de")
        for condition in CONDITIONS:
            predicted = [record["prediction"] for record in lines[condition, 0]][1::2]
            expected = answers.answer_scores(predicted, golds[1::2], ["de"] * 20, "squad")[metric]
            assert getattr(one.all_runs, condition).scores == pytest.approx([expected] * 2)


def test_choices(tmp_path: Path) -> None:
    records = [{"prediction": i // 3 % 2 if i % 5 else 1, "label": i // 3 % 2} for i in range(40)]
    lines = {(condition, seed): records for condition in CONDITIONS for seed in (0, 1)}
    workdir = write_lines(tmp_path / "copa", Task("copa", "multiple_choice", "accuracy"), lines)
    one = of_language(compare([workdir], draws=DRAWS).comparisons, "en")
    right = np.mean([record["prediction"] == record["label"] for record in records[::2]])
    assert one.all_runs.staged.scores == pytest.approx([right] * 2)


def test_reasons_for_skipping_sets_means_and_studies(tmp_path: Path) -> None:
    runs = noisy(1, 1, 2)
    incomplete = write_study(tmp_path / "incomplete", SCORES, runs, DATA)
    missing = predictions_file(incomplete, "staged", 1)
    missing.unlink()
    only_direct = {run: output for run, output in runs.items() if "direct" in run}
    direct = write_study(tmp_path / "direct", SCORES, only_direct, DATA)
    constant = dataclasses.replace(DATA, label=np.full(N, 2.0, np.float32))
    same = write_study(tmp_path / "same", SCORES, runs, constant)
    evidence = compare([incomplete, direct, same], draws=DRAWS)
    assert not evidence.comparisons and not evidence.means
    text = "\n".join(evidence.skipped)
    assert f"test has no predictions in {missing}" in text
    assert f"direct ({direct}): it has no finished runs of both direct and staged." in text
    assert text.count("all labels are the same") == 2
    assert "mean over all languages: no comparison of test" in text
    assert "no metric mcc" in compare([incomplete], metric="mcc", draws=DRAWS).skipped[0]


def test_different_examples_are_an_error(tmp_path: Path) -> None:
    runs = noisy(1, 1, 2)
    workdir = write_study(tmp_path / "a", SCORES, runs, DATA)
    file = predictions_file(workdir, "staged", 0)
    other = dataclasses.replace(DATA, label=DATA.label[::-1].copy())
    write_predictions(file, SCORES, other, runs["staged", 0])
    with pytest.raises(DataError, match="are not those of"):
        compare([workdir], draws=DRAWS)
    file.write_text('{"id": "1"}\n')
    with pytest.raises(
        DataError, match="no language, score, prediction; a prediction of regression"
    ):
        compare([workdir], draws=DRAWS)


def test_needed_designs_hold_at_the_level_after_correction(tmp_path: Path) -> None:
    studies = {f"study{i}": noisy(1.0, 0.9, 3 + i) for i in range(3)}
    workdirs = [write_study(tmp_path / name, SCORES, of, DATA) for name, of in studies.items()]
    evidence = compare(workdirs, draws=DRAWS)
    for comparison in (*evidence.comparisons, *evidence.means):
        one, runs = comparison.all_runs, int(comparison.study[-1]) + 3
        assert one.variance_examples is not None and one.variance_seeds is not None
        assert one.variance_interaction is not None and one.alpha_holm is not None
        components = Components(one.variance_examples, one.variance_seeds, one.variance_interaction,
                                total=1.0)  # fmt: skip
        needed = power.needed(one.difference, components, runs, comparison.n, one.alpha_holm)
        found = power.Needed(one.needed_seeds, one.needed_examples, one.needed_both)
        assert found == needed
        assert one.alpha_holm < 0.05
