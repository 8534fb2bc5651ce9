"""Files of sentence-transformers: honoured by value, or refused by name."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from flaxfer.errors import CheckpointError, ConfigError, FlaxferError
from flaxfer.interop.embedding import Embedder
from flaxfer.interop.sentence import read_sentence_settings
from flaxfer.main import main
from tests.helpers import mesh_of, tiny_model
from tests.interop.sentence_folders import (
    CASES,
    PROMPTS,
    REFERENCE,
    SHOWN,
    TEXTS,
    WIDTH,
    add_module,
    write_folder,
)


def embed(folder: Path, **options: Any) -> np.ndarray:
    vector_nD: np.ndarray = Embedder(folder, mesh=mesh_of(), **options).embed(TEXTS)[0]
    return vector_nD


@pytest.mark.parametrize("name", CASES)
def test_vectors_equal_those_of_sentence_transformers(name: str, tmp_path: Path) -> None:
    wanted = np.array(json.loads(REFERENCE.read_text())[name])
    vector_nD = embed(write_folder(tmp_path, **CASES[name]))
    np.testing.assert_allclose(vector_nD[:, -SHOWN:], wanted, atol=2e-6)
    if name == "modules":
        np.testing.assert_allclose(np.linalg.norm(vector_nD, axis=1), 1, atol=1e-6)
        assert vector_nD.shape == (4, WIDTH // 2)


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model(tmp_path_factory.mktemp("plain"), "bert")


def test_options_replace_what_the_folder_declares(tmp_path: Path, plain: Path) -> None:
    limits = {"max_seq_length": 5, "do_lower_case": False}
    folder = write_folder(tmp_path / "a", "cls", (), PROMPTS, limits)
    declared = Embedder(folder, mesh=mesh_of())
    assert (declared.pooling, declared.prefix, declared.max_length) == ("cls", "the man ", 5)
    options = {"pooling": "mean", "prefix": "", "max_length": 64}
    np.testing.assert_array_equal(embed(folder, **options), embed(plain))
    np.testing.assert_array_equal(embed(folder, plain=True), embed(plain))
    chosen = embed(folder, prompt="passage", max_length=64)
    np.testing.assert_array_equal(chosen, embed(plain, pooling="cls"))
    assert abs(chosen - embed(folder)).max() > 0.01


def test_a_pooling_without_modules_json_is_honoured(tmp_path: Path, plain: Path) -> None:
    folder = Path(shutil.copytree(plain, tmp_path / "model"))
    (folder / "1_Pooling").mkdir()
    config = {"word_embedding_dimension": WIDTH, "pooling_mode_cls_token": True}
    config["pooling_mode_mean_tokens"] = False
    (folder / "1_Pooling" / "config.json").write_text(json.dumps(config))
    np.testing.assert_array_equal(embed(folder), embed(plain, pooling="cls"))


def test_an_encoder_in_a_sub_folder_is_found(tmp_path: Path, plain: Path) -> None:
    shutil.copytree(plain, tmp_path / "0_Transformer")
    config = {"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": True}
    (tmp_path / "1_Pooling").mkdir()
    (tmp_path / "1_Pooling" / "config.json").write_text(json.dumps(config))
    (tmp_path / "0_Transformer" / "sentence_bert_config.json").write_text('{"max_seq_length": 7}')
    embedder = Embedder(tmp_path, mesh=mesh_of())
    assert (embedder.pooling, embedder.max_length) == ("cls+mean", 7)


def edit(name: str, **changes: Any) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        file = folder / name
        content = json.loads(file.read_text()) if file.exists() else {}
        file.write_text(json.dumps(content | changes))

    return change


def module(kind: str) -> Callable[[Path], None]:
    return lambda folder: add_module(folder, 3, kind, {})


def modules(*entries: dict[str, Any]) -> Callable[[Path], None]:
    return lambda folder: (folder / "modules.json").write_text(json.dumps(entries)) and None


TRANSFORMER = {"path": "", "type": "sentence_transformers.models.Transformer"}
POOLING = {"path": "1_Pooling", "type": "sentence_transformers.models.Pooling"}
DENSE = "2_Dense/config.json"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (module("CNN"), "module 'sentence_transformers.models.CNN' is not implemented"),
        (module("Pooling"), "Pooling has to be the second module"),
        (module("Transformer"), "module 3 is Transformer"),
        (modules(TRANSFORMER), "there is no Pooling"),
        (modules(POOLING), "module 0 is Pooling"),
        (modules(TRANSFORMER, POOLING | {"type": "code.Pooling"}), "'code.Pooling' is not implem"),
        (modules(TRANSFORMER, POOLING | {"path": "../x"}), "leads out of the folder"),
        (modules(TRANSFORMER | {"kwargs": ["task"]}, POOLING), "kwargs"),
        (modules({"type": 3}), "does not list modules"),
        (edit("1_Pooling/config.json", pooling_mode="median"), "'median'"),
        (edit("1_Pooling/config.json", pooling_mode=[]), "is none of cls, max"),
        (edit("1_Pooling/config.json", shrink=2), "not implemented: shrink"),
        (edit("1_Pooling/config.json", embedding_dimension=9), "made for vectors of width 9"),
        (edit("sentence_bert_config.json", max_seq_length="9"), "max_seq_length has to be"),
        (edit("sentence_bert_config.json", do_lower_case="yes"), "do_lower_case has to be"),
        (edit("sentence_bert_config.json", model_args={"x": 1}), "not implemented: model_args"),
        (edit("sentence_bert_config.json", transformer_task="fill-mask"), "transformer_task"),
        (edit("config_sentence_transformers.json", prompts=["a"]), "prompts has to map"),
        (edit("config_sentence_transformers.json", default_prompt_name="x"), "none of the prompts"),
        (edit("config_sentence_transformers.json", similarity_fn_name="l7"), "l7"),
        (edit("config_sentence_transformers.json", truncate_dim=8), "truncate_dim"),
        (edit("config_sentence_transformers.json", model_type="SparseEncoder"), "SparseEncoder"),
        (edit(DENSE, in_features=64), "have (16, 32) / want (16, 64)"),
        (edit(DENSE, activation_function="torch.nn.Softshrink"), "activation_function"),
        (edit(DENSE, activation_function="code.Tanh"), "activation_function"),
        (edit(DENSE, bias=False), "unexpected: linear.bias"),
        (edit(DENSE, use_residual=True), "use_residual"),
        (edit(DENSE, module_input_name="token_embeddings"), "module_input_name"),
        (lambda folder: (folder / "2_Dense/model.safetensors").unlink(), "no model.safetensors of"),
    ],
)
def test_what_is_not_implemented_is_refused_by_name(
    change: Callable[[Path], None], words: str, tmp_path: Path
) -> None:
    folder = write_folder(tmp_path, "mean", ("Dense",))
    change(folder)
    with pytest.raises(FlaxferError) as caught:
        Embedder(folder, mesh=mesh_of())
    assert words in str(caught.value) and caught.value.hint
    assert str(folder) in str(caught.value.where)


def test_values_of_a_module_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    file = write_folder(tmp_path, "mean", ("Dense",)) / "2_Dense" / "model.safetensors"
    arrays = load_file(file)
    arrays["linear.bias"][1] = np.nan
    save_file(arrays, file)
    with pytest.raises(CheckpointError, match=r"linear\.bias: 1 of 16 values"):
        read_sentence_settings(tmp_path)


def test_prompts_and_poolings_are_checked(tmp_path: Path, plain: Path) -> None:
    folder = write_folder(tmp_path, "mean", ("Dense",), PROMPTS)
    edit("1_Pooling/config.json", include_prompt=False)(folder)
    for options, words in (
        ({}, "include_prompt is false"),
        ({"prompt": "title"}, "there is no prompt 'title'"),
        ({"prompt": "query", "prefix": ""}, "exclude each other"),
        ({"prefix": "", "pooling": "middle"}, "there is no pooling 'middle'"),
        ({"prefix": "", "pooling": "cls+max"}, "Dense takes vectors of width 32, not 64"),
    ):
        with pytest.raises(ConfigError, match=words):
            embed(folder, **options)
    with pytest.raises(ConfigError, match="its prompts are none"):
        embed(plain, prompt="query")
    assert embed(folder, prefix="").shape == (4, 16)


def test_cls_pooling_of_xlnet_is_refused_if_the_folder_declares_it(tmp_path: Path) -> None:
    tiny_model(tmp_path, "xlnet")
    add_module(tmp_path, 1, "Pooling", {"pooling_mode_cls_token": True})
    with pytest.raises(ConfigError, match="the CLS token of xlnet is the last one"):
        embed(tmp_path)
    assert Embedder(tmp_path, pooling="cls", mesh=mesh_of()).pooling == "cls"


def test_scores_of_another_similarity_must_be_asked_for(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = write_folder(tmp_path / "model", settings={"similarity_fn_name": "dot"})
    pairs = tmp_path / "pairs.csv"
    pairs.write_text("a man,a dog,1\na cat,the cat,3\na piano,red,2\n")
    words = ["embed", "sts", "--model", str(folder), "--data", str(pairs), "--json"]
    assert main(words) == 2
    assert "declares the similarity 'dot'" in capsys.readouterr().err
    assert main([*words, "--similarity", "cosine"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert (result["pooling"], result["prefix"], result["max_length"]) == ("mean", "", 64)


def test_do_lower_case_applies_to_a_cased_tokenizer(tmp_path: Path) -> None:
    tiny_model(tmp_path, "xlm-roberta")
    texts = ["The Man PLAYS", "the man plays"]
    for declared in (False, True):
        edit("sentence_bert_config.json", do_lower_case=declared)(tmp_path)
        one_D, other_D = Embedder(tmp_path, mesh=mesh_of()).embed(texts)[0]
        assert np.allclose(one_D, other_D, atol=1e-6) == declared
