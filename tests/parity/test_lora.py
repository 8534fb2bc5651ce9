"""Training with adapters against peft and PyTorch, live (make parity)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flaxfer.config import Data, Lora, Optimizer, Stage, Task
from flaxfer.interop.adapter import PREFIX, adapter_arrays, adapter_config
from flaxfer.models.names import from_stored
from flaxfer.models.pretrained import load_encoder_config, load_pretrained, parameter_names
from flaxfer.models.spec import ModelSpec
from flaxfer.runtime.trees import Params, leaves_by_name, map_names
from flaxfer.tasks import task_type
from flaxfer.training.optimizer import make_optimizer, with_frozen_parts
from flaxfer.training.state import init_state
from flaxfer.training.step import StepSpec, make_train_step
from tests.helpers import mesh_of
from tests.parity.flax_side import adapter_names

pytestmark = [
    pytest.mark.parity,
    pytest.mark.filterwarnings("ignore::FutureWarning"),
]

TASK = Task("topic", "classification", "accuracy", ("a", "b", "c"))
SETTINGS = Lora(3, 12.0, layers=(1, 2), modules=("query", "value", "output", "up", "down"))
OPTIMIZER = Optimizer(
    learning_rate=1e-2, eps=1e-3, weight_decay=0.3, schedule="constant", warmup=0, clip_norm=0.0
)
B, T, STEPS = 4, 8, 3


def adapted_torch_model(folder: Path) -> Any:
    """Write a random base model, and return it with random adapters, in evaluation mode."""
    import torch
    import transformers

    peft = pytest.importorskip("peft", reason="needs the extra parity")

    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=50, hidden_size=16, num_hidden_layers=2, num_attention_heads=4,
        intermediate_size=24, max_position_embeddings=T, num_labels=3, initializer_range=0.3,
    )  # fmt: skip
    base = transformers.BertForSequenceClassification(config)
    base.save_pretrained(folder)
    encoder = load_encoder_config(folder)
    content = adapter_config(SETTINGS, encoder, "sequence") | {"inference_mode": False}
    content.pop("peft_type")
    model = peft.get_peft_model(base, peft.LoraConfig(task_type="SEQ_CLS", **content))
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.3)
    return model.eval()


def arrays_of(model: Any, attribute: str = "data") -> dict[str, np.ndarray]:
    """Return the trained parameters of peft's model, or their gradients, by name in its files."""
    return {
        name.replace(".default", "").replace(".modules_to_save", ""): getattr(parameter, attribute)
        .numpy()
        .copy()
        for name, parameter in model.named_parameters()
        if parameter.requires_grad
    }


def params_of(folder: Path, arrays: dict[str, np.ndarray], spec: ModelSpec) -> Params:
    """Return the parameters of the base with the trained ones of peft's model."""
    shapes = leaves_by_name(spec.param_shapes())
    trained = {
        path: from_stored(arrays[PREFIX + name], layout, shapes[path].shape)
        for name, path, layout in parameter_names(spec.encoder)
        if path.startswith("head/")
    }
    for name, path in adapter_names(spec):
        trained[path] = arrays[PREFIX + name].T.reshape(shapes[path].shape)
    base = load_pretrained(folder, spec.encoder)
    leaves = leaves_by_name(base) | trained
    params: Params = map_names(lambda path: jnp.asarray(leaves[path]), spec.param_shapes())
    return params


def test_loss_gradient_and_three_steps_of_adamw_equal_those_of_peft(tmp_path: Path) -> None:
    import torch

    torch_model = adapted_torch_model(tmp_path)
    encoder = load_encoder_config(tmp_path).with_dropout(0.0)
    spec = ModelSpec(encoder, num_outputs=3, lora=SETTINGS)
    params = params_of(tmp_path, arrays_of(torch_model), spec)
    rng = np.random.default_rng(0)
    tokens, labels = rng.integers(1, 50, (STEPS, B, T)), rng.integers(0, 3, (STEPS, B))
    batches = [
        {
            "token_BT": np.int32(token_BT)[None],
            "type_BT": np.zeros((1, B, T), np.int32),
            "position_BT": np.int32(np.broadcast_to(np.arange(T), (1, B, T))),
            "segment_BT": np.ones((1, B, T), np.int32),
            "cls_BE": np.zeros((1, B, 1), np.int32),
            "mask_BE": np.ones((1, B, 1), np.float32),
            "label_BE": np.int32(label_B).reshape(1, B, 1),
        }
        for token_BT, label_B in zip(tokens, labels, strict=True)
    ]

    settings = with_frozen_parts(Stage(TASK, Data(()), optimizer=OPTIMIZER, lora=SETTINGS), 2)
    step_spec = StepSpec(spec, TASK, settings.optimizer, STEPS)
    state = init_state(params, make_optimizer(settings.optimizer, STEPS, params), mesh_of())
    step = make_train_step(step_spec, mesh_of())

    def loss_of(params: Params) -> jax.Array:
        micro = {name: x[0] for name, x in batches[0].items()}
        total, count = task_type(TASK).loss(TASK, spec.apply(params, micro), micro, 0.0)
        return total / count

    gradient = jax.jit(jax.grad(loss_of))(params)

    trained = {n: p for n, p in torch_model.named_parameters() if p.requires_grad}
    groups = [
        {
            "params": [p for n, p in trained.items() if n.endswith("bias") == plain],
            "weight_decay": 0.0 if plain else 0.3,
        }
        for plain in (True, False)
    ]
    optimizer = torch.optim.AdamW(groups, lr=1e-2, eps=1e-3)
    for number, batch in enumerate(batches):
        optimizer.zero_grad()
        loss = torch_model(
            input_ids=torch.tensor(tokens[number]), labels=torch.tensor(labels[number])
        ).loss
        loss.backward()
        if number == 0:
            theirs = arrays_of(torch_model, "grad")
            ours = adapter_arrays(jax.device_get(gradient), encoder, "sequence")
            assert theirs.keys() == ours.keys()
            for name, value in theirs.items():
                np.testing.assert_allclose(ours[name], value, rtol=0, atol=1e-5, err_msg=name)
        norm = torch.nn.utils.get_total_norm([p.grad for p in trained.values()])
        optimizer.step()
        state, metrics = step(state, batch, jax.random.key(0))
        assert float(metrics["loss"]) == pytest.approx(float(loss.detach()), abs=1e-5)
        assert float(metrics["gradient_norm"]) == pytest.approx(float(norm), rel=1e-5)
    wanted = leaves_by_name(params_of(tmp_path, arrays_of(torch_model), spec))
    start = leaves_by_name(params)
    for name, value in leaves_by_name(state.params).items():
        np.testing.assert_allclose(value, wanted[name], rtol=0, atol=1e-5, err_msg=name)
        moved = np.abs(value - start[name]).max()
        assert moved > 1e-3 if name.startswith("head/") or "/lora/" in name else moved == 0, name
