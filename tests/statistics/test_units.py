"""Units of resampling: clusters of examples, and parallel sets with rows in any order."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from flaxfer.config import Task
from flaxfer.errors import DataError
from flaxfer.evaluation.evaluator import write_predictions
from flaxfer.statistics import sets as set_scores
from flaxfer.statistics.collapse import at_chance
from flaxfer.statistics.comparisons import compare
from flaxfer.statistics.reading import Predicted, read
from flaxfer.statistics.records import Comparison, Evidence
from flaxfer.statistics.scores import GAP, MEAN, ZERO_SHOT, Row
from flaxfer.statistics.units import Units, Usable, find_units
from flaxfer.tasks.resampling import Learning
from tests.helpers import random_tokenized
from tests.statistics.helpers import RunKey, predictions_file, study_record

CLASSES = Task("nli", "classification", "accuracy", labels=("a", "b"))
SCORES = Task("sts", "regression", "pearson")
RUNS: list[RunKey] = [(condition, seed) for condition in ("direct", "staged") for seed in range(3)]
DRAWS = 500
N = 40

Example = dict[str, Any]
"""Id, gold label, by run the prediction, and optionally the cluster."""


def examples(seed: int, n: int = N, ease: float = 0.8) -> list[Example]:
    """Examples whose difficulty the runs share, and more so those of a condition."""
    rng = np.random.default_rng(seed)
    gold = rng.integers(0, 2, n)
    difficulty = rng.standard_normal((n, 1, 1)) + rng.standard_normal((n, 2, 1))
    wrong = (difficulty + 0.5 * rng.standard_normal((n, 2, 3))).reshape(n, -1) > ease
    return [
        {"id": f"q{i}", "label": "ab"[gold[i]], "runs": ["ab"[x] for x in gold[i] ^ wrong[i]]}
        for i in range(n)
    ]


def write(
    workdir: Path,
    sets: Mapping[str, Sequence[Example]],
    task: Task = CLASSES,
    parallel: list[list[str]] | None = None,
    **split: Any,
) -> Path:
    """Write a study with a set for each language, named like it."""
    workdir.mkdir()
    names = [(language, language, len(of)) for language, of in sets.items()]
    record = study_record(workdir.name, task, RUNS, names) | {"parallel": parallel}
    for one in record["data"][1:]:
        cluster = [e.get("cluster", "") for e in sets[one["split"]]]
        one["units"] = cluster.count("") + len({*cluster} - {""})
        one.update(split)
    (workdir / "study.json").write_text(json.dumps(record))
    key = "label" if task is CLASSES else "score"
    for language, of in sets.items():
        for i, run in enumerate(RUNS):
            file = predictions_file(workdir, *run, language)
            file.parent.mkdir(parents=True, exist_ok=True)
            lines = [
                {"id": e["id"], "language": language, key: e["label"], "prediction": e["runs"][i]}
                | ({"cluster": e["cluster"]} if "cluster" in e else {})
                for e in of
            ]
            file.write_text("\n".join(map(json.dumps, lines)))
    return workdir


def by_name(evidence: Evidence) -> dict[str, Comparison]:
    return {one.language: one for one in (*evidence.comparisons, *evidence.means)}


def width(comparison: Comparison) -> float:
    return comparison.all_runs.high - comparison.all_runs.low


def shuffled(of: Sequence[Example], seed: int = 0) -> list[Example]:
    return [of[i] for i in np.random.default_rng(seed).permutation(len(of))]


def repeated(of: Sequence[Example], times: int) -> list[Example]:
    return [{**e, "id": f"{e['id']}-{k}", "cluster": e["id"]} for e in of for k in range(times)]


PARALLEL = {"en": examples(0), "de": examples(0, ease=0.7), "fr": examples(0, ease=0.6)}


def test_the_order_of_rows_changes_nothing(tmp_path: Path) -> None:
    other = {code: shuffled(of, i) if i else of for i, (code, of) in enumerate(PARALLEL.items())}
    expected = by_name(compare([write(tmp_path / "a", PARALLEL)], draws=DRAWS))
    actual = by_name(compare([write(tmp_path / "b", other)], draws=DRAWS))
    for name, one in actual.items():
        assert one.all_runs == expected[name].all_runs
        assert (one.units, one.n) == (N, expected[name].n)


def test_missing_rows_leave_sets_parallel(tmp_path: Path) -> None:
    whole = by_name(compare([write(tmp_path / "a", PARALLEL)], draws=4000))
    fewer = {**PARALLEL, "de": PARALLEL["de"][3:], "fr": PARALLEL["fr"][:-2]}
    some = by_name(compare([write(tmp_path / "b", fewer)], draws=4000))
    renamed = {code: [{**e, "id": f"{code}{e['id']}"} for e in of] for code, of in PARALLEL.items()}
    evidence = compare([write(tmp_path / "c", renamed)], draws=4000)
    none = by_name(evidence)
    assert (some["de"].n, some["de"].units, some[MEAN].units) == (N - 3, N - 3, N)
    assert none[MEAN].units == 3 * N
    # The languages agree on every example, so a mean knows little more than one of them.
    assert width(some[MEAN]) == pytest.approx(width(whole[MEAN]), rel=0.08)
    assert width(none[MEAN]) < 0.8 * width(whole[MEAN])
    (note,) = evidence.notes
    assert "en / en, de / de, fr / fr have 40 examples each but no ids in common" in note


def test_clusters_of_copies_are_as_good_as_one_of_each(tmp_path: Path) -> None:
    once = by_name(compare([write(tmp_path / "a", PARALLEL)], draws=DRAWS))
    thrice = {code: shuffled(repeated(of, 3), i) for i, (code, of) in enumerate(PARALLEL.items())}
    evidence = by_name(compare([write(tmp_path / "b", thrice)], draws=DRAWS))
    for name, one in evidence.items():
        assert (one.n, one.units) == (3 * once[name].n, N)
        for field in ("difference", "direct", "staged"):
            expected, actual = (getattr(x.all_runs, field) for x in (once[name], one))
            assert actual == expected
        # Units are drawn in another order.
        assert width(one) == pytest.approx(width(once[name]), rel=0.2)
    single = {"en": repeated(PARALLEL["en"], 3)}
    one = by_name(compare([write(tmp_path / "c", single)], draws=DRAWS))["en"].all_runs
    alone = by_name(compare([write(tmp_path / "d", {"en": PARALLEL["en"]})], draws=DRAWS))["en"]
    assert one.p_examples == alone.all_runs.p_examples
    independent = [{k: v for k, v in e.items() if k != "cluster"} for e in single["en"]]
    as_if = by_name(compare([write(tmp_path / "e", {"en": independent})], draws=DRAWS))["en"]
    assert as_if.units == 3 * N


@pytest.mark.parametrize("metric", ["accuracy", "macro_f1", "mcc"])
def test_a_resample_by_hand(metric: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Units are documents that two languages divide differently; one language lacks some."""
    rng = np.random.default_rng(5)
    documents = {"en": [0, 0, 1, 2, 2, 2, 3, 4, 5], "de": [0, 1, 1, 2, 4, 4, 5]}
    sets = {
        code: [
            {**e, "id": f"{code}{i}", "cluster": f"document {d}"}
            for i, (e, d) in enumerate(zip(examples(7, 20), of, strict=False))
        ]
        for code, of in documents.items()
    }
    weights = rng.multinomial(6, np.full(6, 1 / 6), 30).astype(np.float32)
    monkeypatch.setattr(set_scores.resampling, "resamples", lambda *_: iter([weights]))
    study = set_scores.StudyRuns(write(tmp_path / "a", sets), metric)
    scored = study.sets(30, 0)
    for row, one in scored.items():
        of = sets[row.language]
        for b, times in enumerate(weights.astype(int)):
            copies = [e for e, d in zip(of, documents[row.language], strict=True)
                      for _ in range(times[d])]  # fmt: skip
            gold = [e["label"] for e in copies]
            for r in range(len(RUNS)):
                expected = reference(metric, gold, [e["runs"][r] for e in copies])
                assert one.resampled[b, r] == pytest.approx(expected, abs=1e-5)


def reference(metric: str, gold: list[str], predicted: list[str]) -> float:
    from sklearn import metrics

    if len({*gold, *predicted}) == 1:
        return float(metric != "mcc")
    if metric == "accuracy":
        return float(metrics.accuracy_score(gold, predicted))
    if metric == "macro_f1":
        return float(metrics.f1_score(gold, predicted, average="macro"))
    return float(metrics.matthews_corrcoef(gold, predicted))


def predicted(ids: Sequence[str], cluster: Sequence[str] = ()) -> Predicted:
    return Predicted(Path("file"), list(ids), list(cluster) or [""] * len(ids))


def units(
    sets: Mapping[str, Predicted], parallel: list[list[str]] | None = None
) -> tuple[dict[str, Units], list[str]]:
    rows = {Row(name[:2], name, len(of.ids)): of for name, of in sets.items()}
    found, notes = find_units(rows, parallel, "study")
    return {row.set: of for row, of in found.items()}, notes


def test_units_join_what_ids_or_clusters_connect() -> None:
    found, notes = units({
        "en": predicted("abcdef", ["1", "1", "", "", "2", "2"]),
        "de": predicted("fdcb", ["", "x", "x", ""]),
    })  # fmt: skip
    # a and b by the document 1, c and d by x, e and f by 2.
    assert found["en"].unit_n.tolist() == [0, 0, 1, 1, 2, 2]
    assert found["de"].unit_n.tolist() == [2, 1, 1, 0]
    assert (found["en"].total, found["de"].own, notes) == (3, 3, [])


def test_sets_without_ids_are_matched_by_record() -> None:
    sets = {
        "en": predicted([f"en.test:{i}" for i in range(1, 6)]),
        "de": predicted([f"de.test:{i}" for i in range(1, 6)]),
        "fr": predicted([f"fr.test:{i}" for i in (2, 5, 3)]),  # Some are left out by `drop`.
        "it": predicted([f"it.test:{i}" for i in range(1, 4)]),
        "en2": predicted([f"news:{i}" for i in range(1, 8)]),
    }
    found, notes = units(sets)
    assert found["en"].unit_n.tolist() == found["de"].unit_n.tolist() == [0, 1, 2, 3, 4]
    assert found["fr"].unit_n.tolist() == [1, 4, 2]
    assert len({found[name].group for name in ("en", "de", "fr", "it")}) == 1
    assert found["en2"].group != found["en"].group and not notes
    # One file with all languages says nothing of which records are the same.
    one_file = {code: predicted([f"all:{10 * k + i}" for i in range(1, 6)])
                for k, code in enumerate(("en", "de"))}  # fmt: skip
    found, (note,) = units(one_file)
    assert found["en"].group != found["de"].group
    assert "5 examples each but no ids in common" in note
    found, notes = units(one_file, [["en", "de"]])
    assert found["en"].unit_n.tolist() == found["de"].unit_n.tolist() and not notes


def test_declared_sets_are_parallel_and_no_others() -> None:
    sets = {name: predicted("abc") for name in ("en", "de", "fr")} | {"it": predicted("xyz")}
    groups = {name: of.group for name, of in units(sets)[0].items()}
    assert groups["en"] == groups["de"] == groups["fr"] != groups["it"]
    found, notes = units(sets, [["en", "fr"]])
    groups = {name: of.group for name, of in found.items()}
    assert groups["en"] == groups["fr"] and len(set(groups.values())) == 3 and not notes
    assert len({of.group for of in units(sets, [])[0].values()}) == 4
    with pytest.raises(DataError, match="declares en / en, it / it parallel, but not all of them"):
        units(sets, [["en", "it"]])


def test_equal_ids_of_sets_that_are_not_parallel() -> None:
    ids = [str(i) for i in range(12)]
    sets = {
        "en": predicted(ids, [f"e{i // 3}" for i in range(12)]),
        "de": predicted(ids, [f"d{(i + 1) // 3}" for i in range(12)]),
    }
    found, notes = units(sets)
    assert found["en"].own == 1
    assert len(notes) == 2 and "its 4 units are only 1 together with those of de / de" in notes[0]
    assert [of.own for of in units(sets, [])[0].values()] == [4, 5]


def test_undefined_resamples_are_drawn_again(tmp_path: Path) -> None:
    """Only two of nine scores differ from the others: a tenth of the resamples has neither."""
    rng = np.random.default_rng(0)
    gold = [0.0] * 7 + [4.0, 5.0]
    of = [
        {"id": f"q{i}", "label": g, "runs": [g + x for x in rng.normal(0, 0.1, len(RUNS))]}
        for i, g in enumerate(gold)
    ]
    parallel = {"en": of, "de": shuffled(of[3:])}
    (en, de) = (
        set_scores.StudyRuns(write(tmp_path / "a", parallel, SCORES), "").sets(500, 0).values()
    )
    for one in (en, de):
        assert (one.resampled > 0.5).all()
    usable = Usable.of(Units(0, 9, np.arange(9)), gold, needs_two_labels=True)
    assert usable is not None
    weights = np.zeros((3, 9), np.float32)
    weights[0, :7], weights[1, 3:8], weights[2, 8] = 1, 1, 9
    assert usable(weights).tolist() == [False, True, False]
    sparse = Usable.of(Units(0, 9, np.array([2, 4])), [1.0, 2.0], needs_two_labels=False)
    assert sparse is not None and sparse(weights).tolist() == [True, True, False]
    assert Usable.of(Units(0, 2, np.array([0, 1, 1])), [0, 0, 0], False) is None


def test_sets_of_one_cluster_are_skipped(tmp_path: Path) -> None:
    of = [{**e, "cluster": "the only document"} for e in examples(0)]
    others = [{**e, "id": f"other {i}"} for i, e in enumerate(of)]
    for e in others:
        del e["cluster"]
    evidence = compare([write(tmp_path / "a", {"en": of, "de": others})], draws=DRAWS)
    assert [one.language for one in evidence.comparisons] == ["de"]
    assert "en in en: all 40 examples are one cluster" in evidence.skipped[0]


def test_clusters_must_be_known(tmp_path: Path) -> None:
    old = write(tmp_path / "old", PARALLEL, units=None)
    with pytest.raises(DataError, match="earlier version") as info:
        compare([old], draws=DRAWS)
    assert "only evaluates again" in str(info.value)
    record = json.loads((old / "study.json").read_text())
    within = {"between": "within", "examples": N, "pairs": None, "short": 0, "share": 0.0,
              "same_label": 0}  # fmt: skip
    for texts, fine in ((0, True), (1, False)):
        record["overlap"] = [
            {**within, "a": f"target/{code}", "b": f"target/{code}", "texts": texts}
            for code in PARALLEL
        ]
        (old / "study.json").write_text(json.dumps(record))
        if fine:
            assert len(compare([old], draws=DRAWS).comparisons) == 3
        else:
            with pytest.raises(DataError, match="earlier version"):
                compare([old], draws=DRAWS)
    lost = write(tmp_path / "lost", PARALLEL, units=N - 1)
    with pytest.raises(DataError, match="its 40 examples are 40 clusters, not 39"):
        compare([lost], draws=DRAWS)


def test_means_without_sets_at_chance(tmp_path: Path) -> None:
    sets = {"en": examples(0, 400), "de": examples(1, 400), "fr": examples(2, 400, ease=0.0)}
    evidence = by_name(compare([write(tmp_path / "a", sets)], draws=DRAWS))
    assert {name for name, one in evidence.items() if one.at_chance} == {"fr"}
    without = "mean over all languages without sets at chance"
    assert set(evidence) == {
        "en",
        "de",
        "fr",
        MEAN,
        ZERO_SHOT,
        GAP,
        without,
        f"{GAP} without sets at chance",
    }
    differences = [evidence[code].all_runs.difference for code in ("en", "de")]
    assert evidence[without].all_runs.difference == pytest.approx(np.mean(differences))
    assert evidence[without].n == 800
    everywhere = {code: examples(i, 400, ease=0.0) for i, code in enumerate(sets)}
    evidence = by_name(compare([write(tmp_path / "b", everywhere)], draws=DRAWS))
    assert set(evidence) == {"en", "de", "fr", MEAN, ZERO_SHOT, GAP}
    assert all(one.at_chance for one in evidence.values())


def test_independent_sets_of_equal_size_do_not_move_together(tmp_path: Path) -> None:
    """They share their draws, which must not show in the means."""
    same = examples(0, 200)
    sets = {code: [{**e, "id": f"{code}{e['id']}"} for e in same] for code in ("en", "de")}
    study = set_scores.StudyRuns(write(tmp_path / "a", sets), "")
    scored = study.sets(4000, 0)
    mean = study.means(scored)[0]
    (en, de) = scored.values()
    np.testing.assert_array_equal(en.resampled, de.resampled)
    variance = mean.resampled[:, 0].var() / en.resampled[:, 0].var()
    assert variance == pytest.approx(0.5, abs=0.05)
    assert mean.exchanged[:, 0].var() / en.exchanged[:, 0].var() == pytest.approx(0.5, abs=0.05)
    assert mean.units == 400


def test_a_set_is_at_chance_only_if_no_condition_learns_there() -> None:
    def judged(scores: Sequence[float], classes: float = 2.0) -> bool:
        runs = [Learning("mcc", score, "", classes) for score in scores]
        return at_chance(runs, ["direct", "direct", "staged", "staged"], 100)

    assert judged([0.3, -0.1, 0.0, 0.1])  # The level is 0.2, the means are 0.1 and 0.05.
    assert not judged([0.0, 0.0, 0.3, 0.2]) and not judged([0.3, 0.2, 0.0, 0.0])
    assert judged([0.15] * 4) and not judged([0.15] * 4, classes=5.0)


def test_predictions_name_the_clusters_that_there_are(tmp_path: Path) -> None:
    data = dataclasses.replace(random_tokenized(6, 2), cluster=("x", "", "x", "", "", "y"))
    write_predictions(tmp_path / "file", CLASSES, data, np.zeros((6, 2), np.float32))
    lines = [json.loads(line) for line in (tmp_path / "file").read_text().splitlines()]
    assert ["cluster" in line for line in lines] == [True, False, True, False, False, True]
    by_language = read(tmp_path / "file", CLASSES)
    assert by_language["en"].cluster == ["x", "x", ""] and by_language["de"].cluster == [
        "",
        "",
        "y",
    ]
    (tmp_path / "file").write_text(json.dumps(lines[0] | {"cluster": 3}))
    with pytest.raises(DataError, match="cluster 3 is no text"):
        read(tmp_path / "file", CLASSES)
