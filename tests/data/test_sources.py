from __future__ import annotations

import dataclasses
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from flaxfer.config import Data, Source, Stage, Task
from flaxfer.data.examples import Examples
from flaxfer.data.sources import Pool
from flaxfer.errors import DataError
from flaxfer.tasks import TASK_TYPES, task_type
from tests.data.helpers import (
    NLI,
    PAIRS,
    ROWS,
    STS,
    many,
    read,
    read_splits,
    refusal,
    text_file,
    write_csv,
)


def test_keep_and_drop_by_column_and_role(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    rows = [
        f"t{i}\t{'NS' if i % 3 == 0 else 'ok'}\tneutral\t{'de' if i < 5 else 'fr'}\t{i}"
        for i in range(9)
    ]
    path = text_file(tmp_path, "a\tb\ty\tlang\tn\n" + "\n".join(rows))
    source = Source(
        path,
        columns=PAIRS | {"language": "lang"},
        keep={"language": ("fr",)},
        drop={"text_b": ("NS",), "n": ("8",)},
    )
    with caplog.at_level(logging.INFO, "flaxfer.data"):
        examples = read(source, NLI)
    assert examples.text_a == ("t5", "t7") and examples.id == ("data:6", "data:8")
    assert "9 records read, 7 left out by keep and drop, 0 without a label, 2 used; fr 2" in (
        caplog.text
    )
    begins = dataclasses.replace(source, keep={}, keep_prefix={"a": ("t1", "t5"), "lang": ("f",)})
    assert read(begins, NLI).text_a == ("t5",)
    by_number = Source(path, header=False, columns={"text_a": 0, "label": 2}, drop={"2": ("y",)})
    assert len(read(by_number, NLI)) == 9


def test_another_number_of_rows_is_refused(tmp_path: Path) -> None:
    source = Source(str(write_csv(tmp_path / "data.csv")), columns=PAIRS, num_records=4)
    assert "holds 3 records, not 4" in str(refusal(source))
    # Counted before anything is left out.
    source = dataclasses.replace(source, num_records=3, drop={"text_a": (ROWS[0][0],)})
    assert len(read(source, NLI)) == 2


@pytest.mark.parametrize("written", ["", "-1"])
def test_examples_without_a_label_are_left_out_or_refused(
    written: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = text_file(tmp_path, f"a\ty\nx\tneutral\ny\t{written}\nz\tentailment\n")
    source = Source(path, columns={"text_a": "a", "label": "y"}, drop_unlabeled=True)
    with caplog.at_level(logging.INFO, "flaxfer.data"):
        assert read(source, NLI).text_a == ("x", "z")
    assert "1 without a label, 2 used" in caplog.text
    error = refusal(dataclasses.replace(source, drop_unlabeled=False))
    assert error.details == (f"data.tsv:3: column 'y': '{written}' stands for no label",)
    error = refusal(dataclasses.replace(source, drop_unlabeled=False), STS)
    assert f"data.tsv:3: column 'y': '{written}' stands for no label" in error.details


def test_a_null_label_is_refused(tmp_path: Path) -> None:
    path = text_file(tmp_path, '{"a": "x", "y": null}\n{"a": "x", "y": 2}\n', "data.jsonl")
    source = Source(path, columns={"text_a": "a", "label": "y"}, labels={"2": "neutral"})
    assert refusal(source).details == ("data.jsonl:1: column 'y': '' stands for no label",)
    assert len(read(dataclasses.replace(source, drop_unlabeled=True), NLI)) == 1


def test_labels_that_are_not_text(tmp_path: Path) -> None:
    records = '[{"a": "x", "y": true}, {"a": "x", "y": 2}, {"a": "x", "y": 1.0}]'
    source = Source(
        text_file(tmp_path, records, "data.json"),
        columns={"text_a": "a", "label": "y"},
        labels={"true": "neutral", "2": "contradiction", "1.0": "entailment"},
    )
    assert read(source, NLI).label.tolist() == [1, 2, 0]


def test_minus_one_may_be_a_label_or_a_score(tmp_path: Path) -> None:
    path = text_file(tmp_path, "a\ty\nx\t-1\ny\t1\n")
    source = Source(
        path, columns={"text_a": "a", "label": "y"}, labels={"-1": "neutral", "1": "entailment"}
    )
    assert read(source, NLI).label.tolist() == [1, 0]
    polarity = dataclasses.replace(STS, score_range=(-1.0, 1.0))
    examples = read(dataclasses.replace(source, labels={}, drop_unlabeled=True), polarity)
    assert examples.label.tolist() == [-1, 1] and examples.label.dtype == np.float32


def test_scores_out_of_range_are_refused(tmp_path: Path) -> None:
    good = ["0", "5", "4.75", "1e0", " 2.5 ", "+.5", "3."]
    path = text_file(tmp_path, "a\ty\n" + "".join(f"x\t{s}\n" for s in good))
    source = Source(path, columns={"text_a": "a", "label": "y"})
    assert read(source, STS).label.tolist() == [float(s) for s in good]
    bad = ["5.01", "-0.1", "inf", "1e999", "4,5", "1_0", "٣", "high", "0x1", "-inf"]
    text_file(tmp_path, "a\ty\n" + "".join(f"x\t{s}\n" for s in bad))
    error = refusal(dataclasses.replace(source, drop_unlabeled=True), STS)
    outside, none = "is outside 0 to 5", "is not a number"
    comma = f"{none}: its decimal mark is a comma; write a point"
    faults = [outside, outside, none, outside, comma, none, none, none, none, none]
    assert error.details == tuple(
        f"data.tsv:{i}: column 'y': {score!r} {fault}"
        for i, (score, fault) in enumerate(zip(bad, faults, strict=True), 2)
    )
    numbers = '[{"a": "x", "y": NaN}, {"a": "x", "y": true}, {"a": "x", "y": 1%s}]' % ("0" * 400)
    error = refusal(Source(text_file(tmp_path, numbers, "data.json"), columns=source.columns), STS)
    missing = "stands for no label"
    assert [detail.rpartition("' ")[2] for detail in error.details] == [missing, none, outside]


def test_labels_map_by_name(tmp_path: Path) -> None:
    path = str(write_csv(tmp_path / "data.csv"))
    source = Source(path, columns=PAIRS)
    other = dataclasses.replace(NLI, labels=("contradiction", "entailment", "neutral"))
    for task in (NLI, other):
        names = [task.labels[i] for i in read(source, task).label]
        assert names == [row[2] for row in ROWS]
    numbers = text_file(tmp_path, "a\ty\nx\t0\nx\t2\n")
    mapped = Source(
        numbers,
        columns={"text_a": "a", "label": "y"},
        labels={"0": "contradiction", "1": "neutral", "2": "entailment"},
    )
    assert read(mapped, NLI).label.tolist() == [2, 0]
    assert read(mapped, other).label.tolist() == [0, 1]
    # Without a mapping a number is no label, even where it could be an index.
    assert len(refusal(dataclasses.replace(mapped, labels={})).details) == 2


def test_ids(tmp_path: Path) -> None:
    path = text_file(tmp_path, "a\ty\tn\nx\tneutral\t1\ny\tneutral\t2\nz\tneutral\t1\n")
    source = Source(path, columns={"text_a": "a", "label": "y", "id": "n"})
    assert refusal(source).details == (
        "data.tsv:4: column 'n': '1' is also data.tsv:2: column 'n'",
    )
    assert read(dataclasses.replace(source, drop={"a": ("z",)}), NLI).id == ("1", "2")


def test_fraction_is_seeded_and_keeps_order(tmp_path: Path) -> None:
    whole = many(tmp_path, 400)
    part = dataclasses.replace(whole, fraction=0.25)
    first, again, other = (read(part, NLI, seed=seed) for seed in (1, 1, 2))
    assert len(first) == 100 and first.id == again.id and first.id != other.id
    numbers = [int(name.partition(":")[2]) for name in first.id]
    assert numbers == sorted(numbers) and len(set(numbers)) == 100
    everything = read(whole, NLI)
    assert all(everything.text_a[n - 1] == t for n, t in zip(numbers, first.text_a, strict=True))


def test_splits_of_one_set(tmp_path: Path) -> None:
    data = Data(train=(many(tmp_path, 200),))
    splits = read_splits(data, NLI)
    assert {name: len(part) for name, part in splits.items()} == {
        "train": 140,
        "dev": 30,
        "test": 30,
    }
    ids = [name for part in splits.values() for name in part.id]
    whole = read(data.train[0], NLI).id
    assert sorted(ids) == sorted(whole)
    for part in splits.values():
        assert list(part.id) == sorted(part.id, key=whole.index)
    again = read_splits(data, NLI)
    assert all(again[name].fingerprint == part.fingerprint for name, part in splits.items())
    other = read_splits(dataclasses.replace(data, split_seed=1), NLI)
    assert other["dev"].id != splits["dev"].id
    no_test = read_splits(dataclasses.replace(data, split=(0.9, 0.1, 0.0)), NLI)
    assert {name: len(part) for name, part in no_test.items()} == {"train": 180, "dev": 20}


def test_splits_with_test_or_dev_given(tmp_path: Path) -> None:
    train, test = many(tmp_path, 170), many(tmp_path, 40, "test.tsv")
    splits = read_splits(Data(train=(train,), test=(test,)), NLI)
    assert {name: len(part) for name, part in splits.items()} == {
        "train": 140,
        "dev": 30,
        "test": 40,
    }
    splits = read_splits(Data(train=(train,), dev=(test,)), NLI)
    assert {name: len(part) for name, part in splits.items()} == {"train": 170, "dev": 40}
    splits = read_splits(Data(train=(train, many(tmp_path, 5, "more.tsv")), dev=(test,)), NLI)
    assert splits["train"].id[168:172] == ("data:169", "data:170", "more:1", "more:2")


def test_a_seed_draws_train_and_dev_by_its_number_and_evaluated_sets_by_0(tmp_path: Path) -> None:
    def half(n: int, name: str) -> Source:
        return dataclasses.replace(many(tmp_path, n, name), fraction=0.5)

    train, dev, test = (half(80, "train.tsv"), half(20, "dev.tsv"), half(30, "test.tsv"))
    for data in (
        Data((train,), (dev,), (test,), split_seed="seed"),
        Data((train, dev), (), (test,), split_seed="seed", train_fraction=0.5),
        Data((train,), split=(0.7, 0.3, 0.0), split_seed="seed"),
    ):
        zero = read_splits(dataclasses.replace(data, split_seed=0), NLI)
        drawn = {seed: read_splits(data, NLI, seed=seed) for seed in (0, 1, 7)}
        for seed, splits in drawn.items():
            number = read_splits(dataclasses.replace(data, split_seed=seed), NLI, seed=99)
            for name in ("train", "dev"):
                assert splits[name].fingerprint == number[name].fingerprint
                assert seed == 0 or splits[name].id != drawn[0][name].id
            if "test" in splits:
                assert splits["test"].fingerprint == zero["test"].fingerprint
    pool = Pool.read(Stage(NLI, data, {"more": test}), task_type(NLI))
    assert pool.splits(1)["more"] is pool.splits(7)["more"]
    assert pool.splits(1)["more"].id == read(test, NLI, seed=0).id


def test_too_few_examples_to_split_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="3 examples are too few to be divided: train 3, dev 0"):
        read_splits(Data(train=(many(tmp_path, 3),)), NLI)


def test_pairs_and_single_texts_do_not_mix(tmp_path: Path) -> None:
    pairs = Source(str(write_csv(tmp_path / "data.csv")), columns=PAIRS)
    single = many(tmp_path, 9)
    with pytest.raises(DataError, match="cannot be joined"):
        read_splits(Data(train=(pairs, single), dev=(pairs,)), NLI)
    with pytest.raises(DataError, match="some splits hold pairs"):
        read_splits(Data(train=(pairs,), dev=(single,)), NLI)


def test_plain_texts_have_the_fingerprint_of_any_values() -> None:
    """A class of its own keeps a column from being hashed as one of plain texts."""

    class Text(str):
        pass

    texts = ("ab", "", "ü𝄞")
    plain = Examples(
        TASK_TYPES["regression"], texts, None, np.zeros(3, np.float32), texts, texts, texts
    )
    other = tuple(map(Text, texts))
    columns = {name: other for name in ("text_a", "id", "language", "domain")}
    assert dataclasses.replace(plain, **columns).fingerprint == plain.fingerprint


def test_fingerprint_covers_everything() -> None:
    base = Examples(
        TASK_TYPES["classification"],
        ("ab", "c"),
        ("d", "e"),
        np.array([0, 1], np.int32),
        ("1", "2"),
        ("en", "de"),
        ("", "x"),
    )
    changed = [
        dataclasses.replace(base, text_a=("a", "bc")),
        dataclasses.replace(base, text_b=None),
        dataclasses.replace(base, text_b=("d", "f")),
        dataclasses.replace(base, label=np.array([1, 1], np.int32)),
        dataclasses.replace(base, label=np.array([0, 0], np.int32)),
        dataclasses.replace(
            base, task_type=TASK_TYPES["regression"], label=np.array([0, 0], np.float32)
        ),
        dataclasses.replace(base, id=("1", "3")),
        dataclasses.replace(base, language=("en", "en")),
        dataclasses.replace(base, domain=("x", "")),
        base.take([1, 0]),
    ]
    assert len({each.fingerprint for each in (base, *changed)}) == 1 + len(changed)
    assert base.take([1, 0]).take([1, 0]).fingerprint == base.fingerprint
    assert Examples.join([base.take([0]), base.take([1])]).fingerprint == base.fingerprint


def test_hub_classes_map_by_name(hub: dict[str, Any]) -> None:
    import datasets

    names = ["contradiction", "entailment", "neutral"]
    features = datasets.Features(
        {
            "premise": datasets.Value("string"),
            "label": datasets.ClassLabel(names=names),
            "lang": datasets.Value("string"),
        }
    )
    hub["dataset"] = datasets.Dataset.from_dict(
        {"premise": ["x", "y", "z"], "label": [2, -1, 0], "lang": ["de", "fr", "de"]}, features
    )
    source = Source(
        hub="owner/nli",
        subset="all",
        split="validation",
        revision="v2",
        columns={"text_a": "premise", "label": "label", "language": "lang"},
        drop_unlabeled=True,
    )
    examples = read(source, NLI)
    assert examples.label.tolist() == [1, 2] and examples.language == ("de", "de")
    assert examples.id == ("nli-validation:1", "nli-validation:3")
    del hub["dataset"]
    assert hub == {"path": "owner/nli", "name": "all", "split": "validation", "revision": "v2"}


def test_hub_errors(hub: dict[str, Any]) -> None:
    import datasets

    hub["dataset"] = datasets.Dataset.from_dict({"text": ["x", ""], "stars": [3.5, 7.0]})
    source = Source(hub="owner/reviews", columns={"text_a": "text", "label": "stars"})
    assert refusal(source, STS).details == (
        "owner/reviews[train]: record 2: column 'stars': '7.0' is outside 0 to 5",
        "owner/reviews[train]: record 2: column 'text': is empty",
    )
    wrong = dataclasses.replace(source, columns={"text_a": "txt", "label": "stars"})
    assert "did you mean 'text'" in str(refusal(wrong, STS))
    del hub["dataset"]
    assert "cannot be loaded: KeyError" in str(refusal(source, STS))


def test_unreachable_hub_fails_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    def repo_info(*args: Any, **kwargs: Any) -> None:
        assert 0 < kwargs["timeout"] < 5
        raise OSError("no route")

    monkeypatch.setattr(huggingface_hub.HfApi, "repo_info", repo_info)
    error = refusal(Source(hub="owner/nli", columns={"text_a": "a", "label": "y"}))
    assert "no route" in error.what and "HF_HUB_OFFLINE=1" in str(error.hint)


def test_a_fraction_of_train_leaves_dev_and_test_as_they_are(tmp_path: Path) -> None:
    lines = "".join(f"text {i}\t{i % 5}.0\n" for i in range(200))
    (tmp_path / "all.tsv").write_text(lines)
    source = Source(path="all.tsv", header=False, columns={"text_a": 0, "label": 1})
    task = Task("score", "regression", "pearson")
    parts = {
        share: read_splits(Data((source,), train_fraction=share), task, str(tmp_path))
        for share in (1.0, 0.5, 0.1)
    }
    for name in ("dev", "test"):
        assert parts[0.1][name].id == parts[0.5][name].id == parts[1.0][name].id
    whole, half, tenth = (parts[share]["train"].id for share in (1.0, 0.5, 0.1))
    assert (len(whole), len(half), len(tenth)) == (140, 70, 14)
    assert {*tenth} < {*half} < {*whole}
    assert [*tenth] == [name for name in whole if name in {*tenth}], "in their order"
    assert tenth != whole[:14]
    with pytest.raises(DataError, match=r"of 140 examples to train on, 0\.001 are none"):
        read_splits(Data((source,), train_fraction=0.001), task, str(tmp_path))
