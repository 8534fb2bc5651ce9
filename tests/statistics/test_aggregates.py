from __future__ import annotations

from pathlib import Path

import numpy as np
import pydantic
import pytest

from flaxfer.config import Task
from flaxfer.errors import DataError
from flaxfer.evaluation.records import Study
from flaxfer.statistics.aggregates import aggregate, scores_of
from flaxfer.statistics.languages import LANGUAGES, UNKNOWN, language
from tests.statistics.helpers import study_record

VALUES = {
    "xnli": {"en": np.array([0.9, 0.7]), "de": np.array([0.8, 0.6]), "sw": np.array([0.4, 0.5])},
    "xcopa": {"sw": np.array([0.5, 0.6]), "zh": np.array([0.7, 0.8])},
    "paws": {"de": np.array([0.2, 0.2]), "en": np.array([0.3, 0.5]), "zh": np.array([0.1, 0.4])},
}


def test_means_by_hand() -> None:
    means = aggregate(VALUES)
    np.testing.assert_allclose(means.tasks["xnli"], [0.7, 0.6])
    np.testing.assert_allclose(means.tasks["xcopa"], [0.6, 0.7])
    np.testing.assert_allclose(means.mean, [(0.7 + 0.6 + 0.2) / 3, (0.6 + 0.7 + 1.1 / 3) / 3])
    # English minus the mean of the others; xcopa has no English and no gap.
    assert list(means.gaps) == ["xnli", "paws"]
    np.testing.assert_allclose(means.gaps["xnli"], [0.9 - 0.6, 0.7 - 0.55])
    np.testing.assert_allclose(means.gaps["paws"], [0.3 - 0.15, 0.5 - 0.3])
    np.testing.assert_allclose(means.gap, [0.225, 0.175])


def test_means_of_groups_by_hand() -> None:
    means = aggregate(VALUES)
    assert list(means.families) == ["IE: Germanic", "Niger-Congo", "Sino-Tibetan"]
    # The mean over a task's languages of the family, then over the tasks that have it.
    germanic = [(0.85 + 0.25) / 2, (0.65 + 0.35) / 2]
    np.testing.assert_allclose(means.families["IE: Germanic"], germanic)
    np.testing.assert_allclose(means.families["Niger-Congo"], [0.45, 0.55])
    assert list(means.scripts) == ["Chinese", "Latin"]
    np.testing.assert_allclose(means.scripts["Chinese"], [0.4, 0.6])
    np.testing.assert_allclose(
        means.scripts["Latin"], [(0.7 + 0.5 + 0.25) / 3, (0.6 + 0.6 + 0.35) / 3]
    )


def test_single_numbers_and_tasks_without_the_source() -> None:
    means = aggregate({"t": {"de": np.array(0.5), "tlh": np.array(0.25)}})
    assert means.gap is None and means.gaps == {}
    assert float(means.mean) == 0.375
    assert {name: float(value) for name, value in means.families.items()} == {
        "IE: Germanic": 0.5, UNKNOWN: 0.25,
    }  # fmt: skip


def test_undefined_scores_propagate() -> None:
    means = aggregate({"a": {"en": np.array(np.nan), "de": np.array(1.0)}})
    assert np.isnan(means.mean) and np.isnan(means.gaps["a"])


def test_a_task_of_several_studies_counts_once() -> None:
    studies = {f"{task}-{i}": scores for task, scores in VALUES.items() for i in (0, 1)}
    studies["paws-1"] = {"de": np.array([0.6, 0.4]), "fr": np.array([0.9, 0.1])}
    means = aggregate(studies, task_of={name: name.partition("-")[0] for name in studies})
    # Languages are averaged over the studies that have them, and only then over the task.
    paws = [(0.4 + 0.3 + 0.1 + 0.9) / 4, (0.3 + 0.5 + 0.4 + 0.1) / 4]
    np.testing.assert_allclose(means.tasks["paws"], paws)
    np.testing.assert_allclose(means.mean, [(0.7 + 0.6 + paws[0]) / 3, (0.6 + 0.7 + paws[1]) / 3])
    assert list(means.gaps) == ["xnli", "paws"]
    np.testing.assert_allclose(means.families["Niger-Congo"], [0.45, 0.55])


def test_nothing_to_average() -> None:
    for values in ({}, {"t": {}}):
        with pytest.raises(DataError, match="nothing to average"):
            aggregate(values)


def test_scores_of_studies_by_language() -> None:
    task = Task("sts", "regression", "pearson")
    runs = [(condition, seed) for condition in ("direct", "staged") for seed in range(3)]
    sets = [("one", "en", 8), ("one", "de", 8), ("two", "fr", 4), ("mix", "mixed", 4)]
    expected = {language: np.array([0.1, 0.2, 0.4]) + i for i, (_, language, _) in enumerate(sets)}
    scores = {
        (("staged", seed), language): float(value)
        for language, by_seed in expected.items()
        for seed, value in enumerate(by_seed)
    }
    record = study_record("", task, runs, sets, scores)
    studies = [
        pydantic.TypeAdapter(Study).validate_python(record | {"name": name}) for name in "ab"
    ]
    values = scores_of(studies, "staged")
    assert list(values) == ["a", "b"] and list(values["a"]) == ["en", "de", "fr"]
    np.testing.assert_array_equal(values["b"]["fr"], expected["fr"])
    np.testing.assert_allclose(aggregate(values).mean, expected["de"])
    assert np.isnan(scores_of(studies, "staged", "mse")["a"]["de"]).all()
    with pytest.raises(DataError, match="two studies are called a"):
        scores_of([studies[0], studies[0]], "direct")


def test_languages_of_codes_families_and_scripts() -> None:
    assert len(LANGUAGES) == 50
    portuguese = ("Portuguese", "IE: Romance", "Latin", "4, underdogs")
    assert language("pt-BR") == language("por") == portuguese
    assert language("cmn") == language("zh_CN") == language("zho") == LANGUAGES["zh"]
    assert language("tlh") == ("tlh", UNKNOWN, UNKNOWN, UNKNOWN)
    # All seven languages with the most resources (Joshi et al. 2020, table 1) are among them.
    winners = {code for code, one in LANGUAGES.items() if one.resources[0] == "5"}
    assert winners == {"ar", "de", "en", "es", "fr", "ja", "zh"}
    assert {one.resources[0] for one in LANGUAGES.values()} == {*"12345"}
    # XTREME-R counts 14 families, besides an isolate and a creole.
    families = {one.family.split(":")[0] for one in LANGUAGES.values()} - {"Basque", "Creole"}
    assert len(families) == 14
    assert {one.script for one in LANGUAGES.values()} == {
        "Arabic", "Bengali", "Burmese", "Chinese", "Cyrillic", "Devanagari", "Georgian", "Greek",
        "Gujarati", "Gurmukhi", "Hangul", "Hebrew", "Japanese", "Latin", "Malayalam", "Tamil",
        "Telugu", "Thai",
    }  # fmt: skip


def test_languages_of_the_public_data_sets_are_known(shared: Path) -> None:
    data = shared / "data"
    codes = {path.name.split("-")[1] for path in (data / "stsb-multi-mt").glob("stsb-*-dev.csv")}
    codes |= {path.stem.split("-")[1] for path in data.glob("*/dev-*.tsv")}
    codes |= {path.name for path in (data / "xcopa").iterdir() if path.is_dir()}
    codes |= {path.name.rsplit(".")[-1] for path in (data / "tatoeba").iterdir()}
    assert len(codes) > 60
    assert not [code for code in codes if language(code).family == UNKNOWN]
