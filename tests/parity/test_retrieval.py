"""Retrieval against PyTorch: loss, gradient and three steps of AdamW."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import jax
import numpy as np
import pytest

from flaxfer.config import Optimizer, Task, Train
from flaxfer.data.loader import TrainPlan, put_rows
from flaxfer.models.names import from_stored, stored_shape
from flaxfer.models.pretrained import checkpoint_arrays, parameter_names, parameter_shapes
from flaxfer.runtime.trees import Params
from flaxfer.tasks.models import model_spec
from flaxfer.training.optimizer import make_optimizer
from flaxfer.training.state import init_state
from flaxfer.training.step import StepSpec, make_train_step
from tests.helpers import encoder_config, mesh_of, random_queries

FIND = Task("find", "retrieval", "map_at_20", pooling="pooler")
TASKS = {
    "pooler": FIND,
    "mean-symmetric": dataclasses.replace(FIND, pooling="mean", symmetric_loss=True),
}
LOSSES = {
    "pooler": (4.146034461943547, 2.232680472698327, 1.898051515159989),
    "mean-symmetric": (4.861194731608917, 2.536272212150143, 1.9779568006937045),
}
"""Losses of the three steps in PyTorch, float64."""

DATA = random_queries(12, 9)
STEPS, SCALE = 3, 20.0
CONFIG = dataclasses.replace(encoder_config(layers=1), layer_norm_eps=1e-12)
TRAIN = Train(batch_size=8, row_length=32, gradient_accumulation_steps=2, max_bucket_sizes=1)
# A large eps, so that Adam amplifies no rounding of small gradients, as in cases.py.
OPTIMIZER = Optimizer(
    learning_rate=1e-2, eps=1e-3, weight_decay=0.1, schedule="constant", warmup=0, clip_norm=0.0
)


@functools.cache
def weights(task_name: str) -> dict[str, np.ndarray]:
    """Random weights by their names in a checkpoint."""
    head = model_spec(CONFIG, TASKS[task_name]).head
    shapes = parameter_shapes(CONFIG, CONFIG.hidden_size, head)
    rng = np.random.default_rng(0)
    arrays = {}
    for name, path, layout in parameter_names(CONFIG, head):
        array = 0.2 * rng.standard_normal(stored_shape(shapes[path], layout))
        arrays[name] = (array + name.endswith("LayerNorm.weight")).astype(np.float32)
    arrays["logit_scale"] = np.full(1, np.log(SCALE), np.float32)
    return arrays


@functools.cache
def ours(task_name: str) -> tuple[tuple[float, ...], dict[str, np.ndarray]]:
    """Losses of flaxfer's steps over packed micro-batches, and the weights after them."""
    from flax import traverse_util

    task, mesh = TASKS[task_name], mesh_of()
    model, arrays = model_spec(CONFIG, task), weights(task_name)
    shapes = parameter_shapes(CONFIG, CONFIG.hidden_size, model.head)
    flat = {
        tuple(path.split("/")): from_stored(arrays[name], layout, shapes[path])
        for name, path, layout in parameter_names(CONFIG, model.head)
    }
    params: Params = traverse_util.unflatten_dict(flat)
    layers = params["encoder"]["layers"]
    params["encoder"]["layers"] = {int(number): layer for number, layer in layers.items()}
    step = make_train_step(StepSpec(model, task, OPTIMIZER, STEPS), mesh)
    state = init_state(params, make_optimizer(OPTIMIZER, STEPS, params), mesh)
    plan, losses = TrainPlan.make(DATA, TRAIN, (3,), 0, 1), []
    for number in range(STEPS):
        batch = put_rows(plan.batch(number), mesh, None)
        state, metrics = step(state, batch, jax.random.key(0, impl="rbg"))
        losses.append(float(metrics["loss"]))
    return tuple(losses), checkpoint_arrays(jax.device_get(state.params), CONFIG, model.head)


def theirs(task_name: str) -> tuple[tuple[float, ...], dict[str, np.ndarray]]:
    """The same by PyTorch and transformers in float64, on padded texts."""
    import torch
    import transformers

    task = TASKS[task_name]
    encoder = transformers.BertModel(
        transformers.BertConfig(
            vocab_size=CONFIG.vocab_size,
            hidden_size=CONFIG.hidden_size,
            num_hidden_layers=1,
            num_attention_heads=4,
            intermediate_size=CONFIG.intermediate_size,
            max_position_embeddings=32,
            layer_norm_eps=1e-12,
            hidden_dropout_prob=0.0,
            attention_probs_dropout_prob=0.0,
            attn_implementation="eager",
        )
    ).double()
    arrays = {name.removeprefix("bert."): x for name, x in weights(task_name).items()}
    with torch.no_grad():
        for name, parameter in encoder.named_parameters():
            if name in arrays:  # With the mean, BERT's pooler is not trained.
                parameter.copy_(torch.from_numpy(arrays[name]))
    log_scale = torch.nn.Parameter(torch.from_numpy(arrays["logit_scale"]).double())
    named = {n: p for n, p in encoder.named_parameters() if n in arrays}
    named["logit_scale"] = log_scale
    plain = ("bias", "LayerNorm.weight", "logit_scale")
    groups = [
        {
            "params": [p for n, p in named.items() if n.endswith(plain) == exempt],
            "weight_decay": 0.0 if exempt else OPTIMIZER.weight_decay,
        }
        for exempt in (False, True)
    ]
    adamw = torch.optim.AdamW(groups, lr=OPTIMIZER.learning_rate, eps=OPTIMIZER.eps)

    def embed(sequences: list[int]) -> Any:
        parts = [slice(DATA.offset[i], DATA.offset[i + 1]) for i in sequences]
        ids, types = (
            torch.nn.utils.rnn.pad_sequence(
                [torch.from_numpy(x[part].astype(np.int64)) for part in parts], batch_first=True
            )
            for x in (DATA.token, DATA.type)
        )
        lengths = torch.tensor([part.stop - part.start for part in parts])
        mask = (torch.arange(ids.shape[1]) < lengths[:, None]).long()
        output = encoder(input_ids=ids, token_type_ids=types, attention_mask=mask)
        vectors = output.pooler_output
        if task.pooling == "mean":
            total = (output.last_hidden_state * mask[..., None]).sum(dim=1)
            vectors = total / mask.sum(dim=1, keepdim=True)
        return torch.nn.functional.normalize(vectors, p=2, dim=1)

    plan, losses = TrainPlan.make(DATA, TRAIN, (3,), 0, 1), []
    for number in range(STEPS):
        queries = plan.indices(number).tolist()
        numbers = [DATA.reference[i] for i in queries]
        passages = sorted({n for each in numbers for n in (each.right[0], *each.wrong)})
        query, passage = embed(queries), embed([len(DATA.id) + n for n in passages])
        logits = log_scale.exp() * query @ passage.T
        target = torch.tensor([passages.index(each.right[0]) for each in numbers])
        other = torch.tensor([[n in each.right[1:] for n in passages] for each in numbers])
        cross_entropy = torch.nn.functional.cross_entropy
        loss = cross_entropy(logits.masked_fill(other, -torch.inf), target)
        if task.symmetric_loss:
            shared = torch.tensor(
                [
                    [i != j and one.right[0] in another.right for j, another in enumerate(numbers)]
                    for i, one in enumerate(numbers)
                ]
            )
            back = logits.T[target].masked_fill(shared, -torch.inf)
            loss = (loss + cross_entropy(back, torch.arange(len(queries)))) / 2
        adamw.zero_grad()
        loss.backward()
        adamw.step()
        losses.append(loss.item())
    return tuple(losses), {n: p.detach().numpy().copy() for n, p in named.items()}


@pytest.mark.parametrize(
    "task_name", ["pooler", pytest.param("mean-symmetric", marks=pytest.mark.slow)]
)
def test_losses_are_those_of_pytorch(task_name: str) -> None:
    """Also where PyTorch is not installed; after a step, the loss depends on its gradient."""
    np.testing.assert_allclose(ours(task_name)[0], LOSSES[task_name], rtol=1e-5)


@pytest.mark.parity
@pytest.mark.parametrize("task_name", TASKS)
def test_losses_and_weights_equal_those_of_pytorch(task_name: str) -> None:
    losses, stepped = ours(task_name)
    wanted_losses, wanted = theirs(task_name)
    np.testing.assert_allclose(wanted_losses, LOSSES[task_name], rtol=1e-6)
    np.testing.assert_allclose(losses, wanted_losses, rtol=1e-5)
    stepped = {name.removeprefix("bert."): x for name, x in stepped.items()}
    for name, want in wanted.items():
        largest = np.abs(want).max()
        np.testing.assert_allclose(stepped[name], want, atol=1e-5 * largest, err_msg=name)
