"""The grid of configs/xtreme_r.py: its tasks, languages, settings and sizes."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest

from flaxfer.config import Source, Stage, grids, loading
from flaxfer.config.grids import Grid
from flaxfer.data import sources
from flaxfer.tasks import TASK_TYPES, task_type
from flaxfer.xtreme.benchmarks import BENCHMARKS

CONFIG = Path(__file__).parents[2] / "configs" / "xtreme_r.py"
HUB = ("hub", "hub_large", "hub_mbert")
INTERMEDIATES = {"mnli", "qqp", "siqa", "squad", "stsb"}
# Target -> epochs, learning rate with XLM-R large and with others, tokens (shared facts of the
# published scripts: train_xnli.sh, train_panx.sh, train_udpos.sh, train_qa.sh).
OFFICIAL = {
    "xnli": (5, 3e-5, 2e-5, 128),
    "xcopa": (5, 3e-5, 2e-5, 128),
    "udpos": (10, 2e-5, 2e-5, 128),
    "panx": (10, 2e-5, 2e-5, 128),
    "xquad": (3, 3e-5, 3e-5, 384),
    "tydiqa": (3, 3e-5, 3e-5, 384),
}
# Languages that a preset has no test set in.
ABSENT = {"hub": {"udpos": {"lt", "pl", "uk", "wo", "ro"}}}
LOCAL = {
    "xnli": 15,
    "xcopa": 11,
    "udpos": 19,
    "panx": 9,
    "xquad": 12,
    "mlqa": 5,
    "tydiqa": 7,
    "tatoeba": 36,
}


# Training examples; of the others, `flaxfer check` says as much.
SIZES = {"siqa": 2002, "stsb": 2001, "xcopa": 400}


def grid(preset: str, data_dir: str = "DATA") -> Grid:
    local = [("data_dir", data_dir)] if preset == "local" else []
    built = loading.load_any(f"{CONFIG}:{preset}", TASK_TYPES, local)
    assert isinstance(built, Grid)
    return built


def languages(built: Grid) -> dict[str, set[str]]:
    """Languages of the evaluated sets by task of the benchmark."""
    found: dict[str, set[str]] = {}
    for target in built.targets.values():
        for name, source in target.evaluate.items():
            benchmark, task = str(source.benchmark).split("/")
            if task in ("lareqa", "mewslix"):  # One set has all languages.
                found[task] = set(BENCHMARKS["xtreme-r"][task])
                continue
            assert benchmark == "xtreme-r" and name == f"{task}-{source.language}"
            assert source.answer_style == ("mlqa" if task == "mlqa" else None)
            found.setdefault(task, set()).add(source.language)
    return found


@pytest.mark.parametrize("preset", HUB)
def test_hub_presets_have_the_official_settings(preset: str) -> None:
    built = grid(preset)
    large = preset == "hub_large"
    tatoeba = built.targets["tatoeba"]
    assert tatoeba.task.pooling == "mean" and tatoeba.train.max_steps == 1
    assert tatoeba.optimizer.freeze == ("^encoder/",) and tatoeba.task.embedding_layer == (
        13 if large else 7
    )
    for source in tatoeba.evaluate.values():
        # As in the published code, English sentences are the queries.
        assert source.columns == {"query": "sentence2", "passage": "sentence1"}
    lareqa = built.targets["lareqa"]
    assert lareqa.task.pooling == "pooler" and lareqa.task.similarity_scale == 100
    # train_lareqa.sh: batches of 4 in 4 steps of accumulation, answers of 256 tokens.
    train, optimizer = lareqa.train, lareqa.optimizer
    assert (train.batch_size, train.epochs, train.max_length) == (16, 3, 256)
    assert (optimizer.learning_rate, optimizer.warmup, optimizer.weight_decay) == (2e-5, 0, 0)
    assert lareqa.evaluate["lareqa"].benchmark == "xtreme-r/lareqa"
    mewslix = built.targets["mewslix"]
    assert mewslix.task.pooling == "pooler" and mewslix.task.similarity_scale == 100
    # train_mewslix.sh: batches of 64 or 8 in 4 steps of accumulation.
    train, optimizer = mewslix.train, mewslix.optimizer
    size, rate = (32, 1e-5) if large else (256, 2e-5)
    assert (train.batch_size, train.epochs, train.max_length) == (size, 2, 64)
    assert (optimizer.learning_rate, optimizer.warmup, optimizer.weight_decay) == (rate, 0, 0)
    assert mewslix.evaluate["mewslix"].benchmark == "xtreme-r/mewslix"
    assert mewslix.evaluate["mewslix"].candidates == "mewslix/candidate_set_entities.jsonl"
    assert set(mewslix.intermediates) == INTERMEDIATES
    for name, target in built.targets.items():
        if name not in OFFICIAL:
            continue
        epochs, rate_of_large, rate, length = OFFICIAL[name]
        train, optimizer = target.train, target.optimizer
        assert (train.epochs, train.max_length, train.batch_size) == (epochs, length, 32), name
        assert optimizer.learning_rate == (rate_of_large if large else rate), name
        assert optimizer.schedule == "linear" and train.patience == 0
        questions = target.task.type == "question_answering"
        assert (optimizer.warmup, optimizer.weight_decay) == ((500, 1e-4) if questions else (0, 0))
        if questions:
            assert (train.doc_stride, target.task.max_answer_tokens) == (128, 30)
        # A target is not preceded by its own training data.
        own = {"xnli": "mnli", "xquad": "squad"}.get(name)
        assert set(target.intermediates) == INTERMEDIATES - {own}
    assert set(lareqa.intermediates) == INTERMEDIATES - {"squad"}
    assert built.intermediates.keys() == INTERMEDIATES and len(built.run_seeds) == 5
    spoken = languages(built)
    for task, codes in spoken.items():
        absent = ABSENT["hub"].get(task, set())
        assert codes == set(BENCHMARKS["xtreme-r"][task]) - absent, task
    assert spoken.keys() == BENCHMARKS["xtreme-r"].keys()


def test_the_local_preset_has_what_the_folder_has() -> None:
    built = grid("local")
    assert {task: len(codes) for task, codes in languages(built).items()} == LOCAL
    assert len(grids.cells(built)) == sum(len(t.intermediates) for t in built.targets.values())


def test_local_sources_are_read(shared: Path) -> None:
    """Sizes follow from the fractions; labels are those of the files."""
    folder = shared / "data"
    built = grid("local", str(folder))
    for name, size in SIZES.items():
        one: Stage = {**built.intermediates, **built.targets}[name]
        pool = sources.Pool.read(Stage(one.task, one.data), task_type(one.task), str(folder))
        assert len(pool.splits(0)["train"]) == size, name
    for name, written in {"xcopa-qu": "xcopa/qu/test.qu.jsonl"}.items():
        source = built.targets["xcopa"].evaluate[name]
        whole = Source(**{**vars(source), "fraction": 1.0})
        task = built.targets["xcopa"].task
        examples = sources.read_source(whole, task, task_type(task), str(folder))
        lines = (folder / written).read_text(encoding="utf-8").splitlines()
        assert Counter(examples.label) == Counter(json.loads(line)["label"] for line in lines)


def test_the_demo_has_a_set_of_every_task_that_is_trained() -> None:
    built = grid("demo")
    assert {task: len(codes) for task, codes in languages(built).items()} == {
        "xnli": 2,
        "xcopa": 1,
        "udpos": 2,
        "panx": 2,
        "xquad": 2,
        "mlqa": 2,
        "tydiqa": 2,
    }
    for target in built.targets.values():
        form = task_type(target.task)
        pool = sources.Pool.read(target, form, "")
        sizes = {len(pool.evaluated[name]) for name in target.evaluate}
        assert len(sizes) == 1 and len(pool.splits(0)["train"]) > max(sizes)
