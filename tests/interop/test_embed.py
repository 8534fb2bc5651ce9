"""Embeddings do not depend on packing, order or the layers requested; scores equal SciPy's."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from flax import nnx

from flaxfer.config import Model
from flaxfer.data.tokenize import load_tokenizer
from flaxfer.errors import ConfigError, DataError
from flaxfer.interop.embed import retrieval_scores
from flaxfer.interop.embedding import Embedder, make_embed_step
from flaxfer.main import main
from flaxfer.models.encoders import EncoderConfig
from flaxfer.models.families import FAMILIES
from flaxfer.models.layers import Keys
from flaxfer.models.pretrained import load_encoder, load_encoder_config
from flaxfer.training.step import compiled_programs
from tests.helpers import WORDS, mesh_of, tiny_model

FAMILY_NAMES = ("bert", "xlm-roberta", "xlnet")


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("models")
    for name in FAMILY_NAMES:
        spread(tiny_model(root / name, name, vocab_size=700))
    return {name: root / name for name in FAMILY_NAMES}


def spread(folder: Path) -> None:
    """Move all but the special tokens to ids so high that embeddings are cut and ids change."""
    file, fillers = folder / "tokenizer.json", 300
    content = json.loads(file.read_text(encoding="utf-8"))
    special, vocabulary = len(content["added_tokens"]), content["model"]["vocab"]
    if isinstance(vocabulary, dict):
        moved = {piece: i + fillers * (i >= special) for piece, i in vocabulary.items()}
        vocabulary = moved | {f"[unused{i}]": special + i for i in range(fillers)}
    else:
        vocabulary[special:special] = [[f"[unused{i}]", -99.0] for i in range(fillers)]
    content["model"]["vocab"] = vocabulary
    file.write_text(json.dumps(content), encoding="utf-8")


@pytest.fixture(scope="module")
def model(folders: dict[str, Path]) -> Embedder:
    return Embedder(folders["xlm-roberta"], mesh=mesh_of())


@pytest.fixture(scope="module")
def texts() -> list[str]:
    rng = np.random.default_rng(0)
    return [" ".join(rng.choice(WORDS[9:], rng.integers(1, 12))) for _ in range(40)]


def one_by_one(folder: Path, texts: list[str]) -> tuple[np.ndarray, np.ndarray]:
    """Return the mean over the tokens and the CLS token's output, (N + 1, n, D) each, unpacked."""
    config = load_encoder_config(folder)
    params = jax.device_put(load_encoder(folder, config))
    encoder = nnx.merge(encoder_graph(config), params)
    tokenizer = load_tokenizer(Model(path=str(folder)))
    encoded = tokenizer(
        texts,
        padding="max_length",
        padding_side="right",
        max_length=16,
        return_attention_mask=True,
        return_token_type_ids=True,
    )
    names = ("input_ids", "token_type_ids", "attention_mask")
    token_BT, type_BT, mask_BT = (np.array(encoded[name]) for name in names)
    position_BT = np.broadcast_to(np.arange(16), token_BT.shape)
    batch = {"token_BT": token_BT, "type_BT": type_BT, "position_BT": position_BT}
    states = encoder.hidden_states(batch | {"segment_BT": mask_BT})
    x_NBTD = np.stack(states)
    sum_NBD = (x_NBTD * mask_BT[..., None]).sum(axis=2)
    cls_B = (token_BT == tokenizer.cls_token_id).argmax(axis=1)
    return sum_NBD / mask_BT.sum(axis=1)[:, None], x_NBTD[:, np.arange(len(texts)), cls_B]


def encoder_graph(config: EncoderConfig) -> Any:
    encoder = nnx.eval_shape(
        lambda: FAMILIES[config.family].encoder(config, rngs=Keys(jax.random.key(0)))
    )
    return nnx.split(encoder, nnx.Param)[0]


@pytest.mark.parametrize("family", FAMILY_NAMES)
def test_all_layers_equal_those_of_each_text_alone(
    family: str, folders: dict[str, Path], texts: list[str]
) -> None:
    mean_LnD, cls_LnD = one_by_one(folders[family], texts)
    for pooling, wanted_LnD in (("mean", mean_LnD), ("cls", cls_LnD)):
        embedder = Embedder(folders[family], pooling=pooling, mesh=mesh_of())
        vector_LnD = embedder.embed(texts, "all")
        assert vector_LnD.shape == (3, 40, embedder.config.hidden_size)
        assert vector_LnD.dtype == np.float32
        np.testing.assert_allclose(vector_LnD, wanted_LnD, atol=1e-5)


def test_single_layers_equal_those_of_one_pass(model: Embedder, texts: list[str]) -> None:
    vector_LnD = model.embed(texts, "all")
    for layer in (0, 1, -1):
        (vector_nD,) = model.embed(texts, (layer,))
        np.testing.assert_allclose(vector_nD, vector_LnD[layer], atol=1e-6)
    np.testing.assert_allclose(model.embed(texts, [2, 0]), vector_LnD[[2, 0]], atol=1e-6)


def test_a_vector_depends_on_its_text_alone(model: Embedder, texts: list[str]) -> None:
    (vector_nD,) = model.embed(texts)
    assert len(np.unique(vector_nD.round(4), axis=0)) == len(set(texts)), (
        "different texts have different vectors"
    )
    order = np.random.default_rng(1).permutation(len(texts))
    (shuffled_nD,) = model.embed([texts[i] for i in order])
    np.testing.assert_allclose(shuffled_nD, vector_nD[order], atol=1e-5)
    (few_nD,) = model.embed([texts[3], texts[1], texts[3]])
    np.testing.assert_allclose(few_nD, vector_nD[[3, 1, 3]], atol=1e-5)
    np.testing.assert_array_equal(few_nD[0], few_nD[2])


def test_a_mesh_of_many_devices_gives_the_same_vectors(
    model: Embedder, folders: dict[str, Path], texts: list[str]
) -> None:
    many = Embedder(folders["xlm-roberta"], mesh=mesh_of(2, 2, 2))
    np.testing.assert_allclose(many.embed(texts), model.embed(texts), atol=1e-5)


def test_calls_share_a_program_that_holds_only_rows_in_use(
    folders: dict[str, Path], texts: list[str]
) -> None:
    embedder = Embedder(folders["bert"], mesh=mesh_of())
    for part in (texts, texts[::-1], [text.replace("plays", "man") for text in texts]):
        embedder.embed(part, (1,))
    cut = dataclasses.replace(embedder.config, vocab_size=128)
    assert compiled_programs(make_embed_step(encoder_graph(cut), (1,), "mean")) == 1


def test_matmuls_are_float32_on_any_device(folders: dict[str, Path]) -> None:
    params = load_encoder(folders["bert"], config := load_encoder_config(folders["bert"]))
    batch = {f"{k}_BT": jnp.zeros((1, 8), jnp.int32) for k in ("token", "type", "position")}
    batch |= {"segment_BT": jnp.ones((1, 8), jnp.int32), "cls_BE": jnp.zeros((1, 2), jnp.int32)}
    lowered = make_embed_step(encoder_graph(config), (-1,), "mean").lower(params, batch)
    matmuls = [line for line in lowered.as_text().splitlines() if "stablehlo.dot_general" in line]
    # Of both layers: query, key and value in one, scores, values, output, up, down; and pooling.
    assert len(matmuls) == 2 * 6 + 1
    assert all("precision = [HIGHEST, HIGHEST]" in line for line in matmuls)


def test_normalised_vectors_have_length_1(
    folders: dict[str, Path], model: Embedder, texts: list[str]
) -> None:
    unit = Embedder(folders["xlm-roberta"], normalise=True, mesh=mesh_of())
    vector_LnD, plain_LnD = unit.embed(texts, "all"), model.embed(texts, "all")
    lengths_Ln1 = np.linalg.norm(plain_LnD, axis=-1, keepdims=True)
    assert abs(lengths_Ln1 - 1).max() > 0.01
    np.testing.assert_allclose(vector_LnD, plain_LnD / lengths_Ln1, atol=1e-6)


def test_the_prefix_is_put_before_every_text(
    folders: dict[str, Path], model: Embedder, texts: list[str]
) -> None:
    prefixed = Embedder(folders["xlm-roberta"], prefix="the man ", mesh=mesh_of())
    wanted = model.embed([f"the man {text}" for text in texts])
    np.testing.assert_allclose(prefixed.embed(texts), wanted, atol=1e-6)
    assert abs(wanted - model.embed(texts)).max() > 0.01


def test_too_long_texts_are_cut_and_counted(
    folders: dict[str, Path], caplog: pytest.LogCaptureFixture
) -> None:
    short = Embedder(folders["bert"], max_length=5, mesh=mesh_of())
    texts = ["a man plays the guitar", "a man plays", "a man plays piano", "a man plays piano"]
    (vector_nD,) = short.embed(texts)
    np.testing.assert_allclose(vector_nD, vector_nD[[1, 1, 1, 1]], atol=1e-6)
    assert short.truncated == 2, "equal texts count once"
    assert "2 texts are cut to 5 tokens" in caplog.text
    short.embed(["a man", texts[0]])
    assert short.truncated == 3
    # The tiny model has 64 positions.
    whole = Embedder(folders["bert"], mesh=mesh_of())
    whole.embed(["man " * 62, "man " * 63])
    assert whole.truncated == 1


@pytest.mark.parametrize(
    ("texts", "wanted"),
    [
        ([], "there are no texts"),
        (["a", "", "b", " \n"], "2 of 4 texts"),
        (["a", None], "text 2 is missing"),
        (["a\ud800"], "half of a surrogate pair"),
        ("a man", "not a sequence of texts"),
    ],
)
def test_texts_without_an_embedding_are_refused(model: Embedder, texts: Any, wanted: str) -> None:
    with pytest.raises(DataError) as caught:
        model.embed(texts)
    assert wanted in str(caught.value)
    if "" in texts and len(texts) == 4:
        assert "text 2 is empty" in str(caught.value) and "text 4 is empty" in str(caught.value)


def test_layers_are_counted_from_either_end(model: Embedder) -> None:
    assert model.layer_numbers("all") == (0, 1, 2)
    assert model.layer_numbers((-1, 0, 2, -3)) == (2, 0, 2, 0)
    for layers in ((3,), (-4,), ()):
        with pytest.raises(ConfigError, match="layer"):
            model.layer_numbers(layers)


@pytest.fixture
def pairs(tmp_path: Path, texts: list[str]) -> Path:
    score_n = np.random.default_rng(2).uniform(-3, 9, 20).round(2)
    rows = [f"{texts[i]},{texts[20 + i]},{score_n[i]}\n" for i in range(20)]
    path = tmp_path / "pairs.csv"
    path.write_text("".join(rows))
    return path


def run(capsys: pytest.CaptureFixture[str], *words: object) -> tuple[int, str, str]:
    code = main(["embed", *map(str, words)])
    return code, *capsys.readouterr()


def test_sts_scores_equal_those_of_scipy(
    pairs: Path, folders: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    folder = folders["xlm-roberta"]
    code, out, _ = run(
        capsys, "sts", "--model", folder, "--data", pairs, "--layers", "all", "--json"
    )
    result = json.loads(out)
    assert code == 0
    assert (result["n"], result["truncated"], result["model"]) == (20, 0, str(folder))
    rows = [line.split(",") for line in pairs.read_text().splitlines()]
    mean_LnD, _ = one_by_one(folder, [row[0] for row in rows] + [row[1] for row in rows])
    gold_n = [float(row[2]) for row in rows]
    for layer, vector_nD in enumerate(mean_LnD.astype(float)):
        vector_nD /= np.linalg.norm(vector_nD, axis=1, keepdims=True)
        cosine_n = (vector_nD[:20] * vector_nD[20:]).sum(axis=1)
        assert result["scores"][layer] == {
            "layer": layer,
            "pearson": pytest.approx(scipy.stats.pearsonr(cosine_n, gold_n).statistic, abs=1e-3),
            "spearman": pytest.approx(scipy.stats.spearmanr(cosine_n, gold_n).statistic, abs=1e-3),
        }
    code, out, _ = run(capsys, "sts", "--model", folder, "--data", pairs, "--layers", "-1")
    header, line = out.splitlines()
    assert code == 0 and header.split() == ["layer", "pearson", "spearman"]
    assert line.split() == [f"{v:.4f}" if k != "layer" else "2" for k, v in last(result).items()]
    with_header = pairs.with_name("named.csv")
    with_header.write_text("gold,x,y\n" + "".join(f"{c},{a},{b}\n" for a, b, c in rows))
    code, out, _ = run(
        capsys, "sts", "--model", folder, "--data", with_header, "--columns", "x,y,gold", "--json"
    )
    assert code == 0 and json.loads(out)["scores"] == [pytest.approx(last(result), abs=1e-5)]


def last(result: dict[str, Any]) -> dict[str, float]:
    scores: dict[str, float] = result["scores"][-1]
    return scores


def test_retrieval_counts_right_neighbours_in_both_directions(
    folders: dict[str, Path], texts: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = folders["bert"]
    source = sorted(set(texts), key=texts.index)[:12]
    # Two pairs of targets are swapped: four wrong neighbours of 12 in either direction.
    target = [*source[:8], source[9], source[8], source[11], source[10]]
    for name, lines in (("a.txt", source), ("b.txt", target)):
        (tmp_path / name).write_text("".join(f"{line}\n" for line in lines))
    words = ("retrieval", "--model", folder, "--source", tmp_path / "a.txt")
    code, out, _ = run(capsys, *words, "--target", tmp_path / "b.txt", "--json")
    result = json.loads(out)
    assert code == 0 and result["n"] == 12
    assert result["scores"] == [
        {"layer": 2, "source_to_target": 8 / 12, "target_to_source": 8 / 12}
    ]
    # The directions differ for texts that are no translations.
    unrelated = texts[10:22]
    a_nD, b_nD = one_by_one(folder, source)[0][-1], one_by_one(folder, unrelated)[0][-1]
    a_nD, b_nD = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (a_nD, b_nD))
    right = np.arange(12)
    wanted = {
        "layer": 2,
        "source_to_target": ((a_nD @ b_nD.T).argmax(axis=1) == right).mean(),
        "target_to_source": ((a_nD @ b_nD.T).argmax(axis=0) == right).mean(),
    }
    assert wanted["source_to_target"] != wanted["target_to_source"]
    embedder = Embedder(folder, mesh=mesh_of())
    assert retrieval_scores(embedder, source, unrelated) == [wanted]


@pytest.mark.parametrize(
    ("words", "code", "wanted"),
    [
        ((), 2, "SUBCOMMAND"),
        (("sts", "--model", "M"), 2, "--data"),
        (("sts", "--model", "M", "--data", "no.csv", "--layers", "x"), 2, "--layers"),
        (("sts", "--model", "M", "--data", "no.csv", "--columns", "a,b"), 2, "--columns"),
        (("sts", "--model", "M", "--data", "no.csv"), 3, "no.csv: there is no such file"),
        (("sts", "--model", "M", "--data", "P", "--columns", "a,b,c"), 3, "'a'"),
        (("sts", "--model", "none", "--data", "P"), 3, "none: there is no such folder"),
        (("sts", "--model", "M", "--data", "P", "--layers", "3"), 2, "there is no layer 3"),
        (("sts", "--model", "M", "--data", "P", "--max-length", "99"), 2, "more than the model's"),
        (("retrieval", "--model", "M", "--source", "P", "--target", "S"), 3, "20 and 2 texts"),
        (("retrieval", "--model", "M", "--source", "P", "--target", "E"), 3, "text 2 is empty"),
    ],
)
def test_a_wrong_command_is_refused(
    words: tuple[str, ...],
    code: int,
    wanted: str,
    pairs: Path,
    folders: dict[str, Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "short.txt").write_text("a\nb\n")
    (tmp_path / "blank.txt").write_text("a\n\n")
    values = {
        "M": folders["bert"],
        "P": pairs,
        "S": tmp_path / "short.txt",
        "E": tmp_path / "blank.txt",
    }
    returned, out, err = run(capsys, *(values.get(word, word) for word in words))
    assert (returned, out) == (code, "")
    assert err.startswith("error: ") and wanted in err


def test_a_call_gives_the_last_layer(model: Embedder, texts: list[str]) -> None:
    vector_nD = model(text for text in texts[:5])
    np.testing.assert_array_equal(vector_nD, model.embed(texts[:5])[0])
    with pytest.raises(DataError, match="one text, not a sequence"):
        model("a text")
