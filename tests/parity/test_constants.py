"""Changing any constant of a model makes the comparison with PyTorch fail."""

from __future__ import annotations
import __future__

import dataclasses
import functools
import inspect
import textwrap
from collections.abc import Callable
from pathlib import Path
from types import FunctionType
from typing import Any

import pytest

from flaxfer.config import Optimizer
from flaxfer.models import attention, bert, encoders, layers, ops, roberta, xlnet
from flaxfer.tasks import losses
from tests.parity import cases, compare, flax_side, reference


@pytest.fixture(autouse=True)
def untraced_layers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let layers run the code as it is, not as it was when a layer like them was traced."""
    monkeypatch.setattr(layers, "_inlined", layers._run_layer)
    monkeypatch.setattr(layers, "_called", layers._run_layer)


@pytest.fixture(scope="module")
def compared(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., None]:
    """Return a function that compares the forward pass of a changed case with PyTorch."""

    @functools.cache
    def folder_of(name: str) -> Path:
        folder = tmp_path_factory.mktemp("case")
        flax_side.write_folder(cases.named(name), folder)
        return folder

    def compare_case(name: str, **changes: Any) -> None:
        case = cases.named(name)
        model = flax_side.load(folder_of(name), case.task, **changes)
        # Not jitted: single operations are compiled once for all tests.
        arrays = model.forward(cases.batches(case)[0])
        expected = reference.read(case)
        compare.check(arrays, {name: expected[name] for name in arrays})

    return compare_case


def fails() -> Any:
    return pytest.raises(AssertionError, match="differs by")


SETTINGS = (
    ("bert", {"layer_norm_eps": 1e-5}),
    ("bert-gelu-new", {"layer_norm_eps": 1.01e-2}),
    ("xlm-roberta", {"layer_norm_eps": 3.03e-2}),
    ("xlnet-clamped", {"layer_norm_eps": 1.01e-2}),
    ("bert", {"hidden_act": "gelu_new"}),
    ("bert-gelu-new", {"hidden_act": "gelu"}),
    ("roberta", {"hidden_act": "gelu_new"}),
    ("xlm-roberta", {"hidden_act": "gelu"}),
    ("xlnet", {"ff_activation": "gelu_new"}),
    ("bert", {"num_attention_heads": 2}),
    ("xlnet-clamped", {"clamp_len": 5}),
    ("xlnet-clamped", {"clamp_len": -1}),
    ("xlnet", {"clamp_len": 14}),
)


RELATIVE = xlnet.RelativeAttention.__call__
TYPES = xlnet.RelativeAttention._type_scores
SOURCE: tuple[tuple[str, Any, str, str], ...] = (
    ("bert", ops.scaled_scores, "** -0.5", "** -0.5 * 1.001"),
    ("xlnet", ops.scaled_scores, "** -0.5", "** -0.5 * 1.001"),
    ("bert", attention.attention, "0.0, MASKED", "0.0, -1.0"),
    ("bert", attention.attention, "same_BST, 0.0", "key_segment_BS[:, :, None] > 0, 0.0"),
    ("xlnet", ops.scaled_scores, "+= score_BHTS.mT", "+= score_BHTS.mT / scale"),
    ("bert-gelu-new", ops._normalise_forward, "variance + eps", "variance"),
    ("bert", ops._normalise_forward, "jnp.square(centred)", "jnp.square(centred) * 1.001"),
    ("bert", ops._normal_cdf, "0.5 + 0.5", "0.5 + 0.5001"),
    ("roberta", encoders.read_absolute, '["pad_token_id"] + 1', '["pad_token_id"]'),
    ("xlm-roberta", encoders.read_absolute, '["pad_token_id"] + 1', '["pad_token_id"] - 1'),
    ("bert", bert.PoolerHead.__call__, "jnp.tanh", "jnp.sin"),
    ("roberta", roberta.DenseHead.__call__, "jnp.tanh", "jnp.sin"),
    ("xlnet", xlnet.SummaryHead.__call__, "jnp.tanh", "jnp.sin"),
    ("xlnet", xlnet.distance_encoding, "tokens - jnp", "1 + tokens - jnp"),
    ("xlnet", xlnet.distance_encoding, "distance_R[:, None]", "-distance_R[:, None]"),
    ("xlnet", xlnet.distance_encoding, "10000", "10010"),
    ("xlnet", xlnet.distance_encoding, "exponent_F = ", "exponent_F = 1 / width + "),
    ("xlnet", xlnet.distance_encoding, "jnp.cos(angle_RF)", "-jnp.cos(angle_RF)"),
    ("xlnet-clamped", xlnet.distance_encoding, "-clamp_len, clamp", "0, clamp"),
    ("xlnet", TYPES, "other_HK - same_HK", "same_HK - other_HK"),
    ("xlnet", TYPES, "self.type_bias(query_BTHK)", "query_BTHK"),
    ("xlnet", TYPES, "!=", "=="),
    ("xlnet", RELATIVE, "self.position_bias(query_BTHK)", "query_BTHK"),
    ("xlnet", RELATIVE, "self.content_bias(query_BTHK)", "query_BTHK"),
    ("bert-token", losses.tag_loss, "label_BT >= 0", "label_BT > 0"),
    ("bert-span", losses.span_loss, "last_BE) / 2", "last_BE) / 2.001"),
    ("bert-span", losses.span_loss, "jnp.where(inside_BET", "jnp.where(inside_BET | True"),
    ("bert-choice", losses.choice_loss, "jnp.exp(below)", "jnp.where(right, 0, jnp.exp(below))"),
    ("bert-gelu-new", losses.score_loss, "jnp.square(", "1.001 * jnp.square("),
)


@pytest.mark.parametrize("name", sorted({str(changed[0]) for changed in (*SETTINGS, *SOURCE)}))
def test_unchanged_models_agree(name: str, compared: Callable[..., None]) -> None:
    compared(name)


@pytest.mark.parametrize(("name", "changes"), SETTINGS, ids=str)
def test_changed_settings_disagree(
    name: str, changes: dict[str, Any], compared: Callable[..., None]
) -> None:
    with fails():
        compared(name, **changes)


@pytest.mark.parametrize(
    ("name", "function", "old", "new"),
    SOURCE,
    ids=[f"{name}: {function.__qualname__}: {new}" for name, function, _, new in SOURCE],
)
def test_changed_source_disagrees(
    name: str,
    function: FunctionType,
    old: str,
    new: str,
    compared: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """One expression in the source of a function is replaced, wherever it is called."""
    source = textwrap.dedent(inspect.getsource(function))
    assert source.count(old) == 1, f"{old} does not occur once in {function.__qualname__}"
    scope = dict(function.__globals__)
    flags = __future__.annotations.compiler_flag
    exec(compile(source.replace(old, new), "changed", "exec", flags), scope)
    monkeypatch.setattr(function, "__code__", scope[function.__name__].__code__)
    with fails():
        compared(name)


@pytest.mark.parametrize("activation", ["gelu", "gelu_new", "relu"])
def test_changed_activations_disagree(
    activation: str, compared: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    name = {"gelu": "bert", "gelu_new": "bert-gelu-new", "relu": "xlm-roberta"}[activation]
    function = encoders.ACTIVATIONS[activation]
    monkeypatch.setitem(encoders.ACTIVATIONS, activation, lambda x: 1.001 * function(x))
    with fails():
        compared(name)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Optimizer], None]:
    """Return a function that compares losses and weights of ten steps with PyTorch."""
    case = cases.named("xlnet-token")
    model = flax_side.tiny_model(case, tmp_path_factory.mktemp("case"))

    def compare_steps(optimizer: Optimizer) -> None:
        arrays = model.train(cases.batches(case), optimizer, cases.TOTAL_STEPS)
        expected = reference.read(case)
        compare.check(arrays, {name: expected[name] for name in arrays})

    return compare_steps


CHANGES: tuple[dict[str, Any], ...] = (
    {"b1": 0.901},
    {"b2": 0.99},
    {"eps": 1.1e-3},
    {"learning_rate": 1.01e-2},
    {"weight_decay": 0.11},
    {"no_decay": ("bias$",)},
    {"no_decay": ("norm/scale$",)},
    {"clip_norm": 0.21},
    {"warmup": 1.0},
    {"end_factor": 0.01},
    {"schedule": "cosine"},
)


def test_the_unchanged_optimizer_agrees(trained: Callable[[Optimizer], None]) -> None:
    trained(cases.OPTIMIZER)


@pytest.mark.parametrize("changes", CHANGES, ids=str)
def test_a_changed_optimizer_disagrees(
    changes: dict[str, Any], trained: Callable[[Optimizer], None]
) -> None:
    with fails():
        trained(dataclasses.replace(cases.OPTIMIZER, **changes))
