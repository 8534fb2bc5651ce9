"""Weights of Hugging Face folders: read, or refused with all reasons."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import huggingface_hub
import jax
import ml_dtypes
import numpy as np
import pytest

from flaxfer.config import Model
from flaxfer.errors import ConfigError, DataError
from flaxfer.models.pretrained import (
    checkpoint_arrays,
    load_encoder,
    load_encoder_config,
    load_pretrained,
    resolve,
)
from tests.models import tiny
from tests.models.folders import (
    INDEX,
    QUERY,
    WEIGHTS,
    Arrays,
    assert_same,
    change,
    load,
    refusal,
    write_folder,
)


@pytest.mark.parametrize(("family", "head"), tiny.EVERY_HEAD)
def test_arrays_survive_reading_and_writing(family: str, head: str, tmp_path: Path) -> None:
    arrays = write_folder(tmp_path, family, head)
    config = load_encoder_config(tmp_path)
    params = load_pretrained(tmp_path, config, head=head, outputs=tiny.OUTPUTS[head])
    back = checkpoint_arrays(params, config, head)
    if family == "xlnet":
        # Only pretraining reads it, but transformers expects it.
        unread = back.pop("transformer.mask_emb")
        assert unread.shape == (1, 1, 16) and not unread.any()
    assert_same(back, arrays)


def test_xlnet_layouts_are_converted(tmp_path: Path) -> None:
    arrays = write_folder(tmp_path, "xlnet", "sequence")
    params = load(tmp_path)["encoder"]["layers"][1]["attention"]
    prefix = "transformer.layer.1.rel_attn."
    np.testing.assert_array_equal(params["query"]["kernel"], arrays[prefix + "q"])
    want = np.einsum("hnd->ndh", arrays[prefix + "o"])
    np.testing.assert_array_equal(params["output"]["kernel"], want)
    np.testing.assert_array_equal(params["content_bias"]["bias"], arrays[prefix + "r_w_bias"])
    np.testing.assert_array_equal(params["position_bias"]["bias"], arrays[prefix + "r_r_bias"])
    np.testing.assert_array_equal(params["type_bias"]["bias"], arrays[prefix + "r_s_bias"])


HEADS_OF_OTHERS = {
    "bert": ("cls.predictions.bias", "cls.seq_relationship.weight", "qa_outputs.weight"),
    "ernie": ("ernie.pooler.dense.weight", "cls.predictions.bias"),
    "roberta": ("lm_head.dense.weight", "roberta.pooler.dense.weight", "qa_outputs.bias"),
    "data2vec-text": ("lm_head.bias", "data2vec_text.pooler.dense.bias"),
    "xlnet": (
        *("transformer.mask_emb", "lm_loss.weight", "sequence_summary.summary.bias"),
        *("logits_proj.weight", "start_logits.dense.weight", "end_logits.LayerNorm.weight"),
        "answer_class.dense_1.weight",
    ),
}


@pytest.mark.parametrize("family", HEADS_OF_OTHERS)
def test_unused_heads_are_logged(
    family: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_folder(tmp_path, family, "token")
    others = HEADS_OF_OTHERS[family]
    change(tmp_path, lambda a: a | {name: np.ones(2, np.float32) for name in others})
    caplog.set_level(logging.INFO, "flaxfer.models")
    config = load_encoder_config(tmp_path)
    assert load_pretrained(tmp_path, config, head="token", outputs=4)["head"].keys() == {"output"}
    assert f"not used: {', '.join(sorted(others))}" in caplog.text


def test_loading_a_multi_label_head_is_refused(folder: Path) -> None:
    config = tiny.settings("bert") | {"problem_type": "multi_label_classification"}
    (folder / "config.json").write_text(json.dumps(config))
    assert load(folder).keys() == {"encoder", "head"}
    with pytest.raises(ConfigError, match="multi_label_classification") as caught:
        load(folder, 3)
    assert str(folder / "config.json") in str(caught.value)
    for problem in ("single_label_classification", "regression", None):
        (folder / "config.json").write_text(json.dumps(config | {"problem_type": problem}))
        assert load(folder, 3)["head"].keys() == {"pooler", "output"}


def test_heads_are_loaded_as_far_as_present(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "flaxfer.models")
    params = load(folder)
    assert params["head"].keys() == {"pooler"}
    assert "not used: classifier.bias, classifier.weight" in caplog.text
    assert "head/output/bias, head/output/kernel" in caplog.text
    assert load(folder, 3)["head"].keys() == {"pooler", "output"}
    assert_same(load_encoder(folder, load_encoder_config(folder)), params["encoder"])
    change(folder, lambda a: {n: x for n, x in a.items() if "pooler" not in n})
    assert load(folder).keys() == {"encoder"}
    assert refusal(folder, 3).details == (
        "missing: bert.pooler.dense.weight",
        "missing: bert.pooler.dense.bias",
    )


def test_a_classifier_with_other_outputs_is_refused(folder: Path) -> None:
    details = refusal(folder, 2).details
    assert details == (
        "classifier.weight for head/output/kernel: have (3, 16) / want (2, 16)",
        "classifier.bias for head/output/bias: have (3,) / want (2,)",
    )


def test_names_without_prefix_and_old_names_are_read(folder: Path) -> None:
    want = load(folder)

    def rename(arrays: Arrays) -> Arrays:
        for old, new in (
            ("bert.", ""),
            ("LayerNorm.weight", "LayerNorm.gamma"),
            ("LayerNorm.bias", "LayerNorm.beta"),
        ):
            arrays = {name.replace(old, new): x for name, x in arrays.items()}
        return arrays | {"embeddings.position_ids": np.arange(20)[None]}

    change(folder, rename)
    assert_same(load(folder), want)
    change(folder, lambda a: a | {"embeddings.LayerNorm.weight": np.ones(16, np.float32)})
    assert "embeddings.LayerNorm.gamma" in str(refusal(folder))


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16])
def test_half_precision_becomes_float32(folder: Path, dtype: Any) -> None:
    exact = load(folder)
    change(folder, lambda a: {name: x.astype(dtype) for name, x in a.items()})
    params = load(folder)
    assert {x.dtype for x in jax.tree.leaves(params)} == {np.dtype(np.float32)}
    assert_same(params, jax.tree.map(lambda x: x.astype(dtype).astype(np.float32), exact))


@pytest.mark.parametrize("dtype", [np.int8, np.float64])
def test_other_dtypes_are_refused(folder: Path, dtype: Any) -> None:
    change(folder, lambda a: a | {QUERY: a[QUERY].astype(dtype)})
    (detail,) = refusal(folder).details
    assert QUERY in detail and "encoder/layers/0/attention/query/kernel" in detail
    assert {np.int8: "I8", np.float64: "F64"}[dtype] in detail


def test_missing_and_unexpected_arrays_are_listed_together(folder: Path) -> None:
    def damage(arrays: Arrays) -> Arrays:
        del arrays[QUERY], arrays["bert.embeddings.LayerNorm.bias"]
        extra = "bert.encoder.layer.2.output.dense.bias", "bert.encoder.adapter.weight"
        heads = "cls.predictions.bias", "cls.seq_relationship.weight", "lm_head.dense.weight"
        return arrays | {name: np.ones(2, np.float32) for name in extra + heads}

    change(folder, damage)
    assert set(refusal(folder).details) == {
        f"missing: {QUERY}",
        "missing: bert.embeddings.LayerNorm.bias",
        "unexpected: bert.encoder.layer.2.output.dense.bias",
        "unexpected: bert.encoder.adapter.weight",
    }


def test_wrong_shapes_are_all_listed(folder: Path) -> None:
    settings = tiny.settings("bert") | {"vocab_size": 60, "intermediate_size": 32}
    (folder / "config.json").write_text(json.dumps(settings))
    details = refusal(folder).details
    assert len(details) == 1 + 2 * 3
    assert (
        "bert.embeddings.word_embeddings.weight for encoder/embeddings/word/embedding: "
        "have (50, 16) / want (60, 16)"
    ) in details
    assert (
        "bert.encoder.layer.1.output.dense.weight for encoder/layers/1/feed_forward/down/kernel: "
        "have (16, 24) / want (16, 32)"
    ) in details


def test_weights_of_another_family_are_refused(folder: Path) -> None:
    settings = tiny.settings("bert") | {"model_type": "roberta"}
    (folder / "config.json").write_text(json.dumps(settings))
    assert any(detail.startswith("unexpected: bert.") for detail in refusal(folder).details)


@pytest.mark.parametrize("content", [None, b"", b"{", b"[]", b"\xff", b"[" * 100_000])
def test_a_missing_or_malformed_config_json_is_refused(folder: Path, content: bytes | None) -> None:
    path = folder / "config.json"
    path.unlink() if content is None else path.write_bytes(content)
    with pytest.raises(DataError) as caught:
        load_encoder_config(folder)
    assert str(path) in str(caught.value)


def test_config_errors_name_the_file(folder: Path) -> None:
    (folder / "config.json").write_text(json.dumps(tiny.settings("bert") | {"hidden_act": "swish"}))
    with pytest.raises(ConfigError, match="swish") as caught:
        load_encoder_config(folder)
    assert str(folder / "config.json") in str(caught.value)


def test_roberta_loads_a_pooler_only_for_multiple_choice(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    arrays = write_folder(tmp_path, "roberta", "choice")
    caplog.set_level(logging.INFO, "flaxfer.models")
    assert load(tmp_path).keys() == {"encoder"}
    assert "roberta.pooler.dense.bias" in caplog.text
    config = load_encoder_config(tmp_path)
    (pooler,) = load_pretrained(tmp_path, config, head="choice")["head"].values()
    np.testing.assert_array_equal(pooler["kernel"], arrays["roberta.pooler.dense.weight"].T)


def test_local_folders_never_access_the_hub(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        huggingface_hub, "snapshot_download", lambda *_, **__: pytest.fail("network")
    )
    assert resolve(Model(path=str(folder))) == folder
    with pytest.raises(DataError, match="nowhere") as caught:
        resolve(Model(path=str(folder / "nowhere")))
    assert "model.hub" in str(caught.value)
    with pytest.raises(ConfigError):
        resolve(Model())


def test_only_necessary_files_are_downloaded(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    request: dict[str, Any] = {}

    def download(repo: str, *, revision: str, allow_patterns: list[str]) -> str:
        request.update(repo=repo, revision=revision)
        files = ["config.json", WEIGHTS, INDEX, "model-00001-of-00002.safetensors"]
        files += ["tokenizer.json", "tokenizer_config.json", "vocab.txt", "sentencepiece.bpe.model"]
        unneeded = ["pytorch_model.bin", "README.md", "onnx/model.onnx", "tf_model.h5"]
        kept = huggingface_hub.utils.filter_repo_objects(
            files + unneeded, allow_patterns=allow_patterns
        )
        assert list(kept) == files
        return str(folder)

    lookups = []

    def repo_info(
        _: Any, repository: str, *, repo_type: str, revision: str, timeout: float
    ) -> None:
        lookups.append((repository, repo_type, revision))

    monkeypatch.setattr(huggingface_hub.HfApi, "repo_info", repo_info)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    assert resolve(Model(hub="someone/bert", revision="v2")) == folder
    assert request == {"repo": "someone/bert", "revision": "v2"}
    assert lookups == [("someone/bert", "model", "v2")]


@pytest.mark.parametrize(
    "cause",
    [
        huggingface_hub.errors.LocalEntryNotFoundError("no connection"),
        huggingface_hub.errors.OfflineModeIsEnabled("no connection"),
        huggingface_hub.errors.HFValidationError("no connection"),
        ConnectionError("no connection"),
        TimeoutError("no connection"),
    ],
    ids=lambda cause: type(cause).__name__,
)
def test_an_unreachable_hub_is_an_error_with_a_hint(
    cause: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    def download(*_: Any, **__: Any) -> str:
        raise cause

    monkeypatch.setattr(huggingface_hub.HfApi, "repo_info", lambda *_, **__: None)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    with pytest.raises(DataError) as caught:
        resolve(Model(hub="someone/bert"))
    text = str(caught.value)
    assert "someone/bert@main" in text and "no connection" in text and "model.path" in text
