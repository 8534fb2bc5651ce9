"""Seeds that train as one program give what they give one by one, whatever comes between."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flaxfer.training.stage_run import StageRun
from jax.sharding import PartitionSpec

from flaxfer.config import Data, Optimizer, Stage, Task, Train
from flaxfer.data.loader import TrainPlan
from flaxfer.errors import DivergedError
from flaxfer.evaluation.evaluator import Evaluator
from flaxfer.models.encoders import EncoderConfig
from flaxfer.models.families import read_config
from flaxfer.models.layers import dropout
from flaxfer.models.spec import ModelSpec
from flaxfer.runtime.prng import dropout_key
from flaxfer.runtime.sharding import row_shards, seed_mesh
from flaxfer.tasks.models import model_spec
from flaxfer.training import loop, state, step
from flaxfer.training.checkpoints import CheckpointStore
from flaxfer.training.optimizer import make_optimizer
from flaxfer.training.vocabulary import Vocabulary
from tests.helpers import encoder_config, mesh_of, random_tokenized

pytestmark = pytest.mark.usefixtures("plain_code")

SCORE = Task("score", "regression", "pearson")
TOPIC = Task("topic", "classification", "accuracy", ("a", "b", "c"))
BERT = encoder_config(layers=1, dropout=0.1)
XLNET_SIZES = {"d_model": 16, "n_layer": 1, "n_head": 4, "d_inner": 32, "vocab_size": 48}
XLNET = read_config({"model_type": "xlnet", "pad_token_id": 0, **XLNET_SIZES}).with_dropout(0.1)
# A large eps: what is rounding in a gradient that is zero must not become a step.
OPTIMIZER = Optimizer(learning_rate=1e-2, eps=1e-3)
# Fourteen examples: an epoch ends in the middle of the fourth step.
TRAIN = Train(
    batch_size=4,
    gradient_accumulation_steps=2,
    max_steps=7,
    eval_every=2,
    row_length=32,
    max_bucket_sizes=1,
    eval_rows=4,
    log_every=1,
)
EVALUATIONS = [2, 4, 6, 7]
SEEDS = (0, 1, 5)
Saves = dict[tuple[str, int], Any]


class Killed(Exception):
    """Stands for a kill: nothing catches it."""


def run_of(
    folder: Path,
    seed: int,
    task: Task = SCORE,
    encoder: EncoderConfig = BERT,
    mesh: jax.sharding.Mesh | None = None,
    **train: Any,
) -> StageRun:
    settings, classes = dataclasses.replace(TRAIN, **train), len(task.labels)
    return StageRun(
        name="direct/target",
        folder=folder / f"seed-{seed}",
        settings=Stage(task, Data(()), {}, OPTIMIZER, settings),
        seed=seed,
        train=random_tokenized(14, classes),
        dev=random_tokenized(9, classes, seed=1),
        evaluator=Evaluator(
            model_spec(encoder, task),
            task,
            settings,
            jnp.dtype("float32"),
            mesh or mesh_of(),
        ),
        vocabulary=Vocabulary.whole(encoder.vocab_size),
        start="random",
    )


def start_of(run: StageRun, encoder: EncoderConfig = BERT) -> Callable[[], Any]:
    return lambda: model_spec(encoder, run.settings.task).random_params(run.seed)


def together(runs: Sequence[StageRun], encoder: EncoderConfig = BERT) -> None:
    loop.train([(run, start_of(run, encoder)) for run in runs])


def one_by_one(runs: Sequence[StageRun], encoder: EncoderConfig = BERT) -> None:
    for run in runs:
        together([run], encoder)


@pytest.fixture
def saved(monkeypatch: pytest.MonkeyPatch) -> Saves:
    """What is saved, by the stage's folder and step."""
    found: Saves = {}
    real = CheckpointStore.save

    def save(self: CheckpointStore, step: int, items: Any, *rest: Any) -> None:
        found[str(self.folder.parent), step] = jax.tree.map(np.array, items)
        real(self, step, items, *rest)

    monkeypatch.setattr(CheckpointStore, "save", save)
    return found


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    lines: list[str] = []
    monkeypatch.setattr(loop, "say", lines.append)
    return lines


def log_of(run: StageRun, kind: str) -> list[dict[str, Any]]:
    lines = (run.folder / "metrics.jsonl").read_text().splitlines()
    return [record for record in map(json.loads, lines) if record["kind"] == kind]


def done_of(run: StageRun) -> dict[str, Any]:
    assert run.done is not None
    return run.done


def assert_close(one: Any, other: Any) -> None:
    assert jax.tree.structure(one) == jax.tree.structure(other)
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)


def assert_same(run: StageRun, wanted: StageRun, saved: Saves) -> None:
    """Every loss, dev score, saved array, note and prediction; and the files."""
    logs = [log_of(r, "train") for r in (run, wanted)]
    assert [r["step"] for r in logs[0]] == [r["step"] for r in logs[1]]
    assert len({record["loss"] for record in logs[1]}) == len(logs[1])
    for name in ("loss", "gradient_norm", "learning_rate"):
        values, want = ([record[name] for record in log] for log in logs)
        np.testing.assert_allclose(values, want, atol=1e-5, rtol=1e-5)
    devs = [log_of(r, "dev") for r in (run, wanted)]
    for dev, want in zip(*devs, strict=True):
        assert (dev["step"], dev["best"]) == (want["step"], want["best"])
        assert dev["metrics"] == pytest.approx(want["metrics"], abs=1e-5)
    steps = [[s for folder, s in saved if folder == str(r.folder)] for r in (run, wanted)]
    assert set(steps[0]) == set(steps[1]) == {record["step"] for record in devs[1]}
    for number in steps[1]:
        assert_close(saved[str(run.folder), number], saved[str(wanted.folder), number])
    done, want = done_of(run), done_of(wanted)
    assert done.keys() == want.keys()
    for name in ("steps", "total_steps", "best_step", "stopped_early"):
        assert done[name] == want[name]
    assert done["dev"] == pytest.approx(want["dev"], abs=1e-5)
    outputs = [r.evaluator.predict(r.best_params(), r.dev)[0] for r in (run, wanted)]
    np.testing.assert_allclose(*outputs, atol=1e-5)
    files = [{p.relative_to(r.folder) for p in r.folder.glob("*")} for r in (run, wanted)]
    assert files[0] == files[1]
    checkpoints = [
        sorted(p.name for p in (r.folder / "checkpoints").iterdir()) for r in (run, wanted)
    ]
    assert checkpoints == [[f"{want['best_step']:08d}"]] * 2


@pytest.mark.parametrize(
    ("task", "encoder", "train"),
    [
        pytest.param(SCORE, BERT, {}, id="bert-regression-accumulated"),
        pytest.param(TOPIC, XLNET, {"gradient_accumulation_steps": 1}, id="xlnet-classification"),
        pytest.param(
            SCORE, BERT, {"gradient_accumulation_steps": 1, "packing": False}, id="unpacked"
        ),
    ],
)
def test_a_group_equals_its_seeds_one_by_one(
    task: Task, encoder: EncoderConfig, train: dict[str, Any], tmp_path: Path, saved: Saves
) -> None:
    seeds = SEEDS if train == {} else SEEDS[:2]
    apart = [run_of(tmp_path / "apart", seed, task, encoder, **train) for seed in seeds]
    group = [run_of(tmp_path / "group", seed, task, encoder, **train) for seed in seeds]
    one_by_one(apart, encoder)
    together(group, encoder)
    for run, wanted in zip(group, apart, strict=True):
        assert_same(run, wanted, saved)
    losses = [log_of(run, "train")[0]["loss"] for run in group]
    assert len(set(losses)) == len(seeds)
    shares = [done_of(run)["examples_per_s"] for run in group]
    assert shares == pytest.approx([shares[0]] * len(seeds)), "each has its share of the time"


@pytest.fixture(scope="module")
def apart(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[StageRun], Saves]:
    """The seeds one by one, undisturbed."""
    found: Saves = {}
    real = CheckpointStore.save

    def save(self: CheckpointStore, step: int, items: Any, *rest: Any) -> None:
        found[str(self.folder.parent), step] = jax.tree.map(np.array, items)
        real(self, step, items, *rest)

    folder = tmp_path_factory.mktemp("apart")
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(CheckpointStore, "save", save)
        runs = [run_of(folder, seed) for seed in SEEDS[:2]]
        one_by_one(runs)
    return runs, found


@pytest.mark.parametrize(
    ("when", "line"),
    [
        pytest.param(3, [], id="both-after-step-2"),
        pytest.param(4, ["seed 0 after step 4; seed 1 after step 2"], id="between-two-saves"),
        pytest.param(9, [], id="after-the-last-save"),
    ],
)
def test_a_group_that_is_killed_goes_on(
    when: int, line: list[str], apart: Any, tmp_path: Path, saved: Saves, said: list[str]
) -> None:
    """The `when`-th save does not come about, or the note of the end."""
    group = [run_of(tmp_path, seed) for seed in SEEDS[:2]]
    with pytest.MonkeyPatch.context() as monkeypatch:
        real, calls = CheckpointStore.save, iter(range(1, 9))

        def save(self: CheckpointStore, *rest: Any) -> None:
            if next(calls) == when:
                raise Killed
            real(self, *rest)

        def finish(self: CheckpointStore) -> None:
            raise Killed

        monkeypatch.setattr(CheckpointStore, "save", save)
        monkeypatch.setattr(CheckpointStore, "finish", finish)
        with pytest.raises(Killed):
            together(group)
    loop.train([(run, no_start) for run in group])
    runs, wanted = apart
    for run, want in zip(group, runs, strict=True):
        assert_same(run, want, saved | wanted)
    apart_lines = [text for text in said if "continues apart" in text]
    assert [text.partition("steps: ")[2] for text in apart_lines] == line


def no_start() -> Any:
    raise AssertionError("it has a checkpoint to continue from")


def test_seeds_that_are_finished_are_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    group = [run_of(tmp_path, seed, max_steps=2) for seed in SEEDS]
    together(group[1:2])
    noted = (group[1].folder / "done.json").read_bytes()
    asked: list[int] = []
    real = Evaluator.predict_seeds

    def predict(self: Evaluator, params: Any, data: Any, seeds: int) -> Any:
        asked.append(seeds)
        return real(self, params, data, seeds)

    monkeypatch.setattr(Evaluator, "predict_seeds", predict)
    loop.train([(run, start_of(run) if run is not group[1] else no_start) for run in group])
    assert asked == [2]
    assert [done_of(run)["steps"] for run in group] == [2, 2, 2]
    assert (group[1].folder / "done.json").read_bytes() == noted


def test_one_seed_stops_early_and_the_other_goes_on(
    apart: Any, tmp_path: Path, saved: Saves, monkeypatch: pytest.MonkeyPatch
) -> None:
    scripts = [[0.5, 0.4, 0.3, 0.9], [0.1, 0.2, 0.1, 0.3]]
    columns = iter(zip(*scripts, strict=True))

    def predict(self: Evaluator, params: Any, data: Any, seeds: int) -> Any:
        zeros = np.zeros((len(data), 1))
        return [(zeros, {"pearson": s, "spearman": s, "mse": 1.0}) for s in next(columns)]

    monkeypatch.setattr(Evaluator, "predict_seeds", predict)
    group = [run_of(tmp_path, seed, patience=2) for seed in SEEDS[:2]]
    first = group[0].folder / "done.json"
    there: dict[int, bool] = {}
    real = CheckpointStore.save

    def save(self: CheckpointStore, step: int, *rest: Any) -> None:
        there[step] = first.exists()
        real(self, step, *rest)

    monkeypatch.setattr(CheckpointStore, "save", save)
    together(group)
    stopped, whole = map(done_of, group)
    assert (stopped["steps"], stopped["best_step"], stopped["stopped_early"]) == (6, 2, True)
    assert (whole["steps"], whole["best_step"], whole["stopped_early"]) == (7, 7, False)
    assert there == {2: False, 4: False, 6: False, 7: True}, "it is finished while the other is not"
    assert [r["step"] for r in log_of(group[0], "train")] == [1, 2, 3, 4, 5, 6]
    assert [r["step"] for r in log_of(group[0], "dev")] == [2, 4, 6]
    runs, wanted = apart
    for run, want, number in zip(group, runs, (6, 7), strict=True):
        steps = [s for folder, s in saved if folder == str(run.folder)]
        assert steps == [s for s in EVALUATIONS if s <= number]
        assert_close(saved[str(run.folder), number], wanted[str(want.folder), number])


def test_one_seed_diverges_and_the_other_comes_to_its_end(
    apart: Any, tmp_path: Path, saved: Saves, said: list[str]
) -> None:
    group = [run_of(tmp_path, seed) for seed in SEEDS[:2]]
    spoilt = start_of(group[0])()
    spoilt["head"]["output"]["kernel"] *= 1e30  # As a step of an absurd learning rate leaves it.
    jobs = [(group[0], lambda: spoilt), (group[1], start_of(group[1]))]
    with pytest.raises(DivergedError, match=r"the loss of step 1 is (inf|nan)") as caught:
        loop.train(jobs)
    assert caught.value.where == "direct/target seed 0" and caught.value.details == ()
    assert group[0].done is None and group[0].store.newest() is None
    assert log_of(group[0], "train") == []
    runs, wanted = apart
    assert_same(group[1], runs[1], saved | wanted)
    assert any("seed 0" in line and "the other seeds go on" in line for line in said)


def test_all_seeds_diverge(tmp_path: Path, saved: Saves) -> None:
    group = [run_of(tmp_path, seed) for seed in SEEDS[:2]]
    spoilt = start_of(group[0])()
    spoilt["head"]["output"]["kernel"] *= 1e30
    with pytest.raises(DivergedError) as caught:
        loop.train([(run, lambda: spoilt) for run in group])
    assert caught.value.where == "direct/target seed 0"
    assert [detail[:20] for detail in caught.value.details] == ["direct/target seed 1"]
    assert saved == {}


@pytest.mark.parametrize(
    ("sizes", "shape", "number"),
    [((2, 1, 1), (2, 1, 1, 1), 2), ((2, 1, 1), (1, 2, 1, 1), 3), ((4, 1, 2), (2, 2, 1, 2), 2)],
    ids=str,
)
def test_a_group_on_a_mesh(
    sizes: tuple[int, int, int],
    shape: tuple[int, ...],
    number: int,
    apart: Any,
    tmp_path: Path,
    saved: Saves,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    functions: list[Any] = []
    specs: list[Any] = []
    real = loop.make_train_step

    def make(*args: Any, **rest: Any) -> Any:
        function = real(*args, **rest)

        def spied(own: Any, batch: Any, key: Any) -> Any:
            new = function(own, batch, key)
            kernel = new[0].params["encoder"]["layers"][0]["feed_forward"]["up"]["kernel"]
            specs.append((kernel.sharding.spec, batch["token_BT"].sharding.spec))
            assert jax.tree.leaves(own)[0].is_deleted(), "the old state is donated"
            return new

        functions.append(function)
        spied._cache_size = function._cache_size  # type: ignore[attr-defined]
        return spied

    monkeypatch.setattr(loop, "make_train_step", make)
    mesh = mesh_of(*sizes)
    own = seed_mesh(mesh, number)
    assert own.devices.shape == shape and row_shards(own) == shape[1]
    assert own.devices.ravel().tolist() == mesh.devices.ravel().tolist()
    group = [run_of(tmp_path, seed, mesh=mesh) for seed in SEEDS[:number]]
    together(group)
    assert step.compiled_programs(functions[0]) == 1, "the state comes out where it goes in"
    (kernel, rows), *others = specs
    assert {*others} == {(kernel, rows)}
    tensor = "tensor" if sizes[2] > 1 else None
    assert (*kernel, None, None, None)[:3] == ("seed" if shape[0] > 1 else None, None, tensor)
    assert rows == PartitionSpec("seed", None, ("data", "fsdp"))
    runs, wanted = apart
    for run, want in zip(group, runs, strict=False):
        assert_same(run, want, saved | wanted)


def test_batches_of_a_group_are_those_of_its_seeds() -> None:
    data, train = (
        random_tokenized(23),
        dataclasses.replace(TRAIN, max_bucket_sizes=3, gradient_accumulation_steps=1),
    )
    group = TrainPlan.make(data, train, SEEDS, 0, 1)
    alone = [TrainPlan.make(data, train, (seed,), 0, 1) for seed in SEEDS]
    for number in range(6):
        batch = group.batch(number)
        assert batch["token_BT"].shape[:2] == (3, 1)
        own = [plan.batch(number) for plan in alone]
        rows = [np.any(one["segment_BT"][0] > 0, axis=-1).sum() for one in own]
        assert batch["token_BT"].shape[2] in group.bucket_sizes
        assert batch["token_BT"].shape[2] >= max(rows)
        for i, (one, filled) in enumerate(zip(own, rows, strict=True)):
            for name, array in one.items():
                np.testing.assert_array_equal(batch[name][i, 0, :filled], array[0, :filled])
            assert not batch["mask_BE"][i, 0, filled:].any()


def test_optimiser_state_is_stacked_and_taken_apart_again() -> None:
    mesh = mesh_of(2)
    states = []
    for seed in SEEDS[:2]:
        params = ModelSpec(BERT, num_outputs=1).random_params(seed)
        optimizer = make_optimizer(OPTIMIZER, 10, params)
        states.append(state.init_state(params, optimizer, mesh))
    stacked = state.stack(states, seed_mesh(mesh, 2))
    for i, own in enumerate(states):
        again = state.unstack(stacked, i, mesh)
        for one, other in zip(*map(jax.tree.leaves, (again, own)), strict=True):
            np.testing.assert_array_equal(one, other)
            assert one.sharding == other.sharding


def test_dropout_of_a_seed_is_that_of_its_key() -> None:
    keys = [dropout_key(seed, jax.default_backend(), jax.device_count()) for seed in SEEDS]
    x = jnp.ones((4, 64))
    mapped = jax.vmap(lambda key: dropout(x, 0.5, key))(jnp.stack(keys))
    for own, key in zip(mapped, keys, strict=True):
        np.testing.assert_array_equal(own, dropout(x, 0.5, key))
    assert len({own.tobytes() for own in map(np.asarray, mapped)}) == len(SEEDS)
