from __future__ import annotations

from pathlib import Path

import numpy as np
import pydantic
import pytest

from flaxfer.errors import DataError
from flaxfer.evaluation.records import Study
from flaxfer.statistics.aggregates import aggregate, scores_of
from flaxfer.statistics.languages import LANGUAGES, UNKNOWN, language
from tests.report.test_report import SEEDS, study_record, value

VALUES = {
    "xnli": {"en": np.array([0.9, 0.7]), "de": np.array([0.8, 0.6]), "sw": np.array([0.4, 0.5])},
    "xcopa": {"sw": np.array([0.5, 0.6]), "zh": np.array([0.7, 0.8])},
    "paws": {"de": np.array([0.2, 0.2]), "en": np.array([0.3, 0.5]), "zh": np.array([0.1, 0.4])},
}


def test_means_by_hand() -> None:
    made = aggregate(VALUES)
    np.testing.assert_allclose(made.tasks["xnli"], [0.7, 0.6])
    np.testing.assert_allclose(made.tasks["xcopa"], [0.6, 0.7])
    np.testing.assert_allclose(made.mean, [(0.7 + 0.6 + 0.2) / 3, (0.6 + 0.7 + 1.1 / 3) / 3])
    # English minus the mean of the others; xcopa has no English and no gap.
    assert list(made.gaps) == ["xnli", "paws"]
    np.testing.assert_allclose(made.gaps["xnli"], [0.9 - 0.6, 0.7 - 0.55])
    np.testing.assert_allclose(made.gaps["paws"], [0.3 - 0.15, 0.5 - 0.3])
    np.testing.assert_allclose(made.gap, [0.225, 0.175])


def test_groups_by_hand() -> None:
    made = aggregate(VALUES)
    assert list(made.families) == ["IE: Germanic", "Niger-Congo", "Sino-Tibetan"]
    # Of each task that has the family the mean over its languages, then the mean over tasks.
    germanic = [(0.85 + 0.25) / 2, (0.65 + 0.35) / 2]
    np.testing.assert_allclose(made.families["IE: Germanic"], germanic)
    np.testing.assert_allclose(made.families["Niger-Congo"], [0.45, 0.55])
    assert list(made.scripts) == ["Chinese", "Latin"]
    np.testing.assert_allclose(made.scripts["Chinese"], [0.4, 0.6])
    np.testing.assert_allclose(
        made.scripts["Latin"], [(0.7 + 0.5 + 0.25) / 3, (0.6 + 0.6 + 0.35) / 3]
    )


def test_single_numbers_and_tasks_without_the_source() -> None:
    made = aggregate({"t": {"de": np.array(0.5), "tlh": np.array(0.25)}})
    assert made.gap is None and made.gaps == {}
    assert float(made.mean) == 0.375
    assert {name: float(value) for name, value in made.families.items()} == {
        "IE: Germanic": 0.5, UNKNOWN: 0.25,
    }  # fmt: skip


def test_undefined_scores_spread() -> None:
    made = aggregate({"a": {"en": np.array(np.nan), "de": np.array(1.0)}})
    assert np.isnan(made.mean) and np.isnan(made.gaps["a"])


def test_nothing_to_take_a_mean_of() -> None:
    for values in ({}, {"t": {}}):
        with pytest.raises(DataError, match="nothing to take a mean of"):
            aggregate(values)


def test_scores_of_studies() -> None:
    record = study_record()
    studies = [
        pydantic.TypeAdapter(Study).validate_python(record | {"name": name}) for name in "ab"
    ]
    made = scores_of(studies, "staged", "spearman")
    assert list(made) == ["a", "b"] and list(made["a"]) == ["en", "de", "fr", "ja"]
    expected = [value("staged", seed, "fr", "spearman") for seed in SEEDS]
    np.testing.assert_allclose(made["b"]["fr"], expected)
    assert aggregate(made).mean.shape == (len(SEEDS),)
    with pytest.raises(DataError, match="two studies are called a"):
        scores_of([studies[0], studies[0]], "direct")


def test_languages() -> None:
    assert len(LANGUAGES) == 50
    assert language("pt-BR") == language("por") == ("Portuguese", "IE: Romance", "Latin")
    assert language("cmn") == language("zh_CN") == language("zho") == LANGUAGES["zh"]
    assert language("tlh") == ("tlh", UNKNOWN, UNKNOWN)
    # XTREME-R counts 14 families, beside the isolate and the creole.
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
