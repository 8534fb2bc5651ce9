"""Checkpoints come back bit for bit, or are refused by name; best and newest survive."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flaxfer.config import Optimizer
from flaxfer.errors import CheckpointError
from flaxfer.training import checkpoints as checkpoints
from flaxfer.training.checkpoints import MANIFEST, CheckpointStore, restore
from flaxfer.training.optimizer import make_optimizer
from flaxfer.training.record import placed
from flaxfer.training.state import TrainState, init_state
from tests.helpers import mesh_of

NAN = float("nan")


def params_of(seed: int) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    return {
        "encoder": {
            "layers": {i: {"kernel": rng.normal(size=(4, 6)).astype(np.float32)} for i in (0, 10)}
        },
        "head": {"bias": rng.normal(size=3).astype(np.float32)},
    }


def state_of(seed: int) -> TrainState:
    optimizer = make_optimizer(Optimizer(freeze=("layers/10",)), 10, params_of(seed))
    state = init_state(params_of(seed), optimizer, mesh_of())
    return jax.tree.map(lambda x: x + 1 if x.dtype == jnp.int32 else x * 1.1 + 0.3, state)


def items_of(state: TrainState) -> dict[str, Any]:
    return {"params": state.params, "opt_state": state.opt_state}


def wanted(state: TrainState) -> dict[str, Any]:
    shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), items_of(state))
    return {name: placed(tree, mesh_of()) for name, tree in shapes.items()}


@pytest.fixture
def store(tmp_path: Path) -> CheckpointStore:
    return CheckpointStore(tmp_path / "checkpoints", larger_is_better=True)


def save(store: CheckpointStore, *scores: float, first: int = 10, keep: bool = False) -> None:
    """Saves checkpoints of steps 10, 20, ... with these scores."""
    for i, score in enumerate(scores):
        step = first + 10 * i
        if keep:
            store._prune = lambda *_: None
        store.save(step, items_of(state_of(step)), score, {"at": step})


def assert_equal(one: Any, other: Any) -> None:
    assert jax.tree.structure(one) == jax.tree.structure(other)
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_array_equal(a, b)


def test_round_trip_is_bitwise(store: CheckpointStore) -> None:
    save(store, 0.5)
    state = state_of(10)
    found = store.restore_newest(wanted(state))
    assert found is not None
    checkpoint, items = found
    assert (checkpoint.step, checkpoint.score, checkpoint.notes) == (10, 0.5, {"at": 10})
    assert_equal(items, items_of(state))
    leaf = items["params"]["encoder"]["layers"][0]["kernel"]
    assert leaf.sharding.mesh.shape == mesh_of().shape


def test_saved_on_one_device_restored_split_on_four(store: CheckpointStore) -> None:
    mesh = mesh_of(1, 2, 2)
    shapes = {"x": {"query": {"kernel": jax.ShapeDtypeStruct((8, 4, 2), jnp.float32)}}}
    array = np.random.default_rng(0).normal(size=(8, 4, 2)).astype(np.float32)
    store.save(1, {"params": {"x": {"query": {"kernel": array}}}}, 0.0, {})
    newest = store.newest()
    assert newest is not None
    tree = restore(newest, {"params": placed(shapes, mesh)})["params"]
    leaf = tree["x"]["query"]["kernel"]
    np.testing.assert_array_equal(leaf, array)
    assert {shard.data.shape for shard in leaf.addressable_shards} == {(4, 2, 2)}


@pytest.mark.parametrize(
    ("larger", "scores", "best", "kept"),
    [
        pytest.param(True, [0.9, 0.8, 0.7, 0.6], 10, [10, 40], id="worsens"),
        pytest.param(True, [0.1, 0.2, 0.3], 30, [30], id="improves"),
        pytest.param(True, [0.5, 0.5, 0.5], 10, [10, 30], id="earlier-of-equals"),
        pytest.param(False, [0.9, 0.2, 0.5], 20, [20, 30], id="lower-is-better"),
        pytest.param(True, [NAN, -0.4, -0.6], 20, [20, 30], id="undefined-first"),
        pytest.param(False, [0.4, NAN, 0.3, NAN], 30, [30, 40], id="undefined-later"),
    ],
)
def test_best_and_newest_are_kept(
    store: CheckpointStore, larger: bool, scores: list[float], best: int, kept: list[int]
) -> None:
    store = CheckpointStore(store.folder, larger)
    tiny = {"params": {"x": np.zeros(1, np.float32)}}
    for i, score in enumerate(scores):
        store.save(10 * (i + 1), tiny, score, {})
    chosen, newest = store.best(), store.newest()
    assert chosen is not None and newest is not None
    assert chosen.step == best
    assert newest.step == 10 * len(scores)
    assert [checkpoint.step for checkpoint in store.all()] == kept
    assert sorted(path.name for path in store.folder.iterdir()) == [f"{s:08d}" for s in kept]


def test_of_undefined_scores_the_newest_is_best(store: CheckpointStore) -> None:
    for step in (1, 2):
        store.save(step, {"params": {"x": np.zeros(1, np.float32)}}, NAN, {})
    (left,) = store.all()
    best = store.best()
    assert best is not None and best.step == left.step == 2 and np.isnan(left.score)
    assert store.improves(-1e9) and not store.improves(NAN)


def test_what_was_not_committed_is_not_chosen(
    store: CheckpointStore, caplog: pytest.LogCaptureFixture
) -> None:
    save(store, 0.1, 0.2, keep=True)
    (store.folder / "00000099").mkdir()
    (store.folder / "00000098" / "params").mkdir(parents=True)
    (store.folder / "00000020.orbax-checkpoint-tmp-1").mkdir()
    (store.folder / "77").write_text("a file")
    shutil.copytree(store.folder / "00000010", store.folder / "00000097")
    assert [checkpoint.step for checkpoint in store.all()] == [10, 20]
    assert "00000097" in caplog.text
    (store.folder / "00000020" / MANIFEST).unlink()
    found = store.restore_newest(wanted(state_of(10)))
    assert found is not None and found[0].step == 10
    assert_equal(found[1], items_of(state_of(10)))
    # The step whose commit is gone is saved again over its remains.
    (store.folder / "00000020" / "remains").write_text("of a killed run")
    save(store, 0.3, first=20)
    assert not (store.folder / "00000020" / "remains").exists()
    found = store.restore_newest(wanted(state_of(20)))
    assert found is not None and found[0].step == 20


def data_files(folder: Path) -> list[Path]:
    return sorted(p for p in folder.rglob("*") if p.is_file() and p.stat().st_size)


@pytest.fixture(scope="module")
def two_checkpoints(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("two") / "checkpoints"
    save(CheckpointStore(folder, True), 0.1, 0.2, keep=True)
    return folder


def flip_a_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def empty(path: Path) -> None:
    path.write_bytes(b"")


@pytest.mark.parametrize("damage", [flip_a_bit, truncate, empty, Path.unlink])
def test_damage_in_any_file_is_found_and_named(
    two_checkpoints: Path, damage: Any, caplog: pytest.LogCaptureFixture
) -> None:
    newest = CheckpointStore(two_checkpoints, True).newest()
    assert newest is not None and newest.step == 20
    files, items = data_files(newest.path), wanted(state_of(20))
    assert any("opt_state" in str(file) for file in files) and len(files) > 6
    for file in files:
        content = file.read_bytes()
        damage(file)
        if file.name != MANIFEST:
            with pytest.raises(CheckpointError, match="step 20 is damaged") as error:
                restore(newest, items)
            name = file.relative_to(newest.path).as_posix()
            assert [detail.split(":")[0] for detail in error.value.details] == [name]
        else:
            caplog.clear()
            left = CheckpointStore(two_checkpoints, True).all()
            assert [checkpoint.step for checkpoint in left] == [10]
            assert damage is Path.unlink or f"{file} is damaged" in caplog.text
        file.write_bytes(content)
    restore(newest, items)


def test_a_damaged_checkpoint_is_put_aside_for_the_one_before(
    store: CheckpointStore, caplog: pytest.LogCaptureFixture
) -> None:
    save(store, 0.1, 0.2, keep=True)
    damaged = next((store.folder / "00000020" / "params").rglob("_METADATA"))
    flip_a_bit(damaged)
    found = store.restore_newest(wanted(state_of(10)))
    assert found is not None and found[0].step == 10
    assert_equal(found[1], items_of(state_of(10)))
    assert "step 20 is damaged" in caplog.text and "_METADATA" in caplog.text
    assert "Falling back" in caplog.text
    assert [checkpoint.step for checkpoint in store.all()] == [10]
    store.save(20, items_of(state_of(20)), 0.2, {"at": 20})
    found = store.restore_newest(wanted(state_of(20)))
    assert found is not None and found[0].step == 20


def test_a_manifest_that_was_changed_does_not_count(store: CheckpointStore) -> None:
    save(store, 0.1)
    path = store.folder / "00000010" / MANIFEST
    for key, value in (("step", 11), ("score", 0.9), ("notes", {}), ("files", {})):
        content = json.loads(path.read_text())
        path.write_text(json.dumps({**content, key: value}))
        assert store.all() == [], key
        path.write_text(json.dumps(content))
        assert len(store.all()) == 1
    path.write_bytes(b"\xff" + path.read_bytes())
    assert store.all() == []


def test_every_difference_is_listed(store: CheckpointStore) -> None:
    save(store, 0.1)
    newest = store.newest()
    assert newest is not None
    shapes = wanted(state_of(10))["params"]
    shapes["encoder"]["layers"][0]["kernel"] = jax.ShapeDtypeStruct((4, 7), jnp.float32)
    shapes["head"]["bias"] = jax.ShapeDtypeStruct((3,), jnp.bfloat16)
    shapes["head"]["kernel"] = jax.ShapeDtypeStruct((4, 3), jnp.float32)
    del shapes["encoder"]["layers"][10]
    with pytest.raises(CheckpointError, match="does not fit the model") as error:
        restore(newest, {"params": shapes})
    assert set(error.value.details) == {
        "head/kernel: have none",
        "encoder/layers/10/kernel: not wanted",
        "encoder/layers/0/kernel: have float32[4, 6], want float32[4, 7]",
        "head/bias: have float32[3], want bfloat16[3]",
    }
    # It is whole: nothing is put aside, and nothing older is taken in its place.
    with pytest.raises(CheckpointError, match="does not fit the model"):
        store.restore_newest({"params": shapes})
    assert len(store.all()) == 1


@pytest.mark.parametrize("step", [5, 10])
def test_an_old_step_is_not_saved(store: CheckpointStore, step: int) -> None:
    save(store, 0.1)
    before = (store.folder / "00000010" / MANIFEST).read_bytes()
    with pytest.raises(CheckpointError, match="not after the newest checkpoint, step 10"):
        store.save(step, items_of(state_of(1)), 0.9, {})
    assert (store.folder / "00000010" / MANIFEST).read_bytes() == before
    assert [path.name for path in store.folder.iterdir()] == ["00000010"]


def test_finish_keeps_the_best_parameters_only(store: CheckpointStore) -> None:
    save(store, 0.5, 0.3)
    for _ in range(2):
        store.finish()
        (left,) = store.all()
        assert left.step == 10
        assert {path.name for path in left.path.iterdir()} == {"params", MANIFEST}
        params = restore(left, {"params": wanted(state_of(10))["params"]})["params"]
        assert_equal(params, state_of(10).params)
    with pytest.raises(CheckpointError, match="does not fit") as error:
        restore(left, wanted(state_of(10)))
    assert all("have none" in detail for detail in error.value.details)
    next((left.path / "params").rglob("manifest.ocdbt")).unlink()
    with pytest.raises(CheckpointError, match="damaged"):
        restore(left, {"params": wanted(state_of(10))["params"]})


def test_finish_after_a_kill_in_the_middle_of_it(
    store: CheckpointStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(store, 0.5)
    with monkeypatch.context() as patch:
        patch.setattr(checkpoints.shutil, "rmtree", lambda path: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            store.finish()
    (left,) = store.all()
    restore(left, {"params": wanted(state_of(10))["params"]})
    store.finish()
    assert not (left.path / "opt_state").exists()


def test_an_empty_store_has_nothing(store: CheckpointStore) -> None:
    assert store.all() == [] and store.newest() is None and store.best() is None
    assert store.restore_newest({}) is None
    store.finish()
