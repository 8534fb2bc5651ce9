r"""Time transformers' Flax classes as its run_flax_glue drives them; print a JSON line.

python -m benchmarks.peer_flax --model FOLDER --data FILE [--eval]
python -m benchmarks.peer_flax --tpu v5e [--shape xlm-roberta-base]

Needs transformers 4.57, the last release with these classes. Every example is padded to
`--length`; the step is a `jax.pmap` with optax's AdamW without clipping, in float32; metrics are
read where that script reads them. With --tpu nothing runs: the step is compiled for one chip, and
the JSON line has the compiler's estimate of its cycles (needs libtpu).
"""

from __future__ import annotations

import argparse
import functools
import os
import re
import sys
import time
import warnings
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import transformers
from flax import struct, traverse_util
from flax.jax_utils import replicate
from flax.training import train_state
from flax.training.common_utils import onehot, shard

from benchmarks import common

PACKAGES = ("jax", "jaxlib", "flax", "optax", "transformers", "numpy")
SHAPES = {
    "bert-base": ("bert", {"vocab_size": 30522}),
    "xlm-roberta-base": (
        "xlm-roberta",
        {"vocab_size": 250_002, "max_position_embeddings": 514, "type_vocab_size": 1},
    ),
}
TOPOLOGIES = {"v5e": ("v5litepod-8", "v5e:2x2"), "v6e": ("v6e-8", "v6e:2x2")}
TPU_BATCH, TPU_LENGTH, LAYERS = 64, 128, 12
LEARNING_RATE, WEIGHT_DECAY, EPOCHS = 5e-5, 0.01, 3


class State(train_state.TrainState):
    """Flax's train state with the functions that the step needs."""

    logits_fn: Callable[..., Any] = struct.field(pytree_node=False)
    loss_fn: Callable[..., Any] = struct.field(pytree_node=False)


def main() -> None:
    if "--tpu" in sys.argv:
        return estimate()
    parser = common.parser(__doc__)
    parser.add_argument("--eval", action="store_true", help="time the evaluation instead")
    options = parser.parse_args()
    options.cache_state = common.cache_state(options.cache)
    if options.cache:
        jax.config.update("jax_compilation_cache_dir", str(options.cache))
    transformers.logging.set_verbosity_error()
    # transformers deprecates these classes, and jax this use of pmap.
    warnings.filterwarnings("ignore", category=FutureWarning)
    warnings.filterwarnings("ignore", category=DeprecationWarning)
    options.dtype = "float32"
    measured = run(options)
    figures = measured.result() | {"step_s": measured.seconds / measured.steps}
    figures["devices"] = f"{jax.device_count()} x {jax.devices()[0].device_kind}"
    what = "eval" if options.eval else "train"
    common.emit("transformers Flax", what, options, figures, PACKAGES)


def run(options: argparse.Namespace) -> common.Measured:
    """Train or evaluate, and measure."""
    texts = common.read(options.data, options.columns, options.task)
    tokenizer = transformers.AutoTokenizer.from_pretrained(options.model)
    if options.eval:
        texts = texts.first(options.steps * options.batch)
    encoded = texts.encode(tokenizer, padding="max_length", max_length=options.length)
    data = {key: np.array(encoded[key]) for key in encoded}
    regression = texts.layout.task_type == "regression"
    data["labels"] = np.array(texts.targets())
    outputs = 1 if regression else len(texts.layout.labels)
    model = transformers.FlaxAutoModelForSequenceClassification.from_pretrained(
        options.model, num_labels=outputs, seed=options.seed
    )
    total = EPOCHS * (len(data["labels"]) // options.batch)
    params = model.to_fp32(model.params)  # Checkpoints may have half precision.
    state = replicate(new_state(model, params, total, regression, outputs))
    loop = evaluate if options.eval else train
    return loop(state, data, options)


def train(state: Any, data: dict[str, np.ndarray], options: argparse.Namespace) -> common.Measured:
    """Run the loop of run_flax_glue; the first steps compile and warm up."""
    order = np.random.default_rng(options.seed).permutation(len(data["labels"]))
    step_fn = jax.pmap(functools.partial(train_step, axis="batch"), "batch", donate_argnums=0)
    keys = jax.random.split(jax.random.key(options.seed), jax.local_device_count())
    measured = common.Measured()
    began = 0.0
    for step in range(1 + common.WARMUP + options.steps):
        called = time.monotonic()
        batch = batch_of(data, order, step, options.batch)
        waited, size = time.monotonic() - called, sizes(batch)
        state, metrics, keys = step_fn(state, shard(batch), keys)
        if step == 0:
            jax.block_until_ready(metrics)
            measured.compile_s = time.monotonic() - called
            measured.start_s = common.since_start()
        elif step == common.WARMUP:
            jax.block_until_ready(metrics)
            began = time.monotonic()
        elif step > common.WARMUP:
            measured.stall_seconds += waited
            measured.steps += 1
            measured.count(*size)
    jax.block_until_ready(state.params)
    measured.seconds = time.monotonic() - began
    return measured


def evaluate(
    state: Any, data: dict[str, np.ndarray], options: argparse.Namespace
) -> common.Measured:
    """Run the evaluation of run_flax_glue, which copies predictions to the host every batch."""
    step_fn = jax.pmap(eval_step, "batch")
    n = len(data["labels"])
    measured, predictions = common.Measured(), []
    began = 0.0
    for step in range(-common.WARMUP, -(-n // options.batch)):
        if step == 0:
            began = time.monotonic()
        called = time.monotonic()
        batch = batch_of(data, np.arange(n), max(step, 0), options.batch, wrap=False)
        waited, size = time.monotonic() - called, sizes(batch)
        del batch["labels"]
        predictions.append(np.asarray(step_fn(state, shard(batch))).ravel())
        if step == -common.WARMUP:
            measured.compile_s = time.monotonic() - called
            measured.start_s = common.since_start()
        elif step >= 0:
            measured.stall_seconds += waited
            measured.steps += 1
            measured.count(*size)
    measured.seconds = time.monotonic() - began
    assert len(np.concatenate(predictions)) >= n
    return measured


def batch_of(
    data: dict[str, np.ndarray], order: np.ndarray, step: int, size: int, wrap: bool = True
) -> dict[str, np.ndarray]:
    """Return the arrays of a step; with `wrap`, a new epoch follows the last example."""
    places = np.arange(step * size, (step + 1) * size)
    chosen = order[places % len(order)] if wrap else order[places[places < len(order)]]
    return {key: array[chosen] for key, array in data.items()}


def sizes(batch: dict[str, np.ndarray]) -> tuple[int, int, int]:
    """Return the numbers of examples, tokens and slots."""
    mask = batch["attention_mask"]
    return len(mask), int(mask.sum()), mask.size


def new_state(model: Any, params: Any, total: int, regression: bool, outputs: int) -> State:
    """Return the state of run_flax_glue: AdamW with its decay mask, and a linear schedule."""
    warmup = max(total // 10, 1)
    schedule = optax.join_schedules(
        [
            optax.linear_schedule(0.0, LEARNING_RATE, warmup),
            optax.linear_schedule(LEARNING_RATE, 0.0, max(total - warmup, 1)),
        ],
        [warmup],
    )

    def decayed(params: Any) -> Any:
        flat = traverse_util.flatten_dict(params)
        norms = ("layernorm", "layer_norm", "ln")
        mask = {
            path: path[-1] != "bias" and not any(n in "".join(path[-2:]).lower() for n in norms)
            for path in flat
        }
        return traverse_util.unflatten_dict(mask)

    def loss_fn(logits: jax.Array, labels: jax.Array) -> jax.Array:
        if regression:
            return jnp.mean((logits[..., 0] - labels) ** 2)
        return jnp.mean(optax.softmax_cross_entropy(logits, onehot(labels, outputs)))

    return State.create(
        apply_fn=model.__call__,
        params=params,
        tx=optax.adamw(schedule, eps=1e-8, weight_decay=WEIGHT_DECAY, mask=decayed),
        logits_fn=lambda logits: logits[..., 0] if regression else logits.argmax(-1),
        loss_fn=loss_fn,
    )


def train_step(
    state: Any, batch: dict[str, jax.Array], key: jax.Array, axis: str = ""
) -> tuple[Any, dict[str, jax.Array], jax.Array]:
    """Take a step; gradients are averaged over the axis of devices, if there is one."""
    dropout_key, new_key = jax.random.split(key)
    targets = batch.pop("labels")

    def loss_of(params: Any) -> jax.Array:
        logits = state.apply_fn(**batch, params=params, dropout_rng=dropout_key, train=True)[0]
        return state.loss_fn(logits, targets)

    loss, gradient = jax.value_and_grad(loss_of)(state.params)
    if axis:
        gradient, loss = jax.lax.pmean(gradient, axis), jax.lax.pmean(loss, axis)
    return state.apply_gradients(grads=gradient), {"loss": loss}, new_key


def eval_step(state: Any, batch: dict[str, jax.Array]) -> jax.Array:
    logits = state.apply_fn(**batch, params=state.params, train=False)[0]
    return state.logits_fn(logits)


def estimate() -> None:
    """Compile the train step for one TPU chip and print the estimated cycles."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--tpu", choices=TOPOLOGIES, required=True)
    parser.add_argument("--shape", choices=SHAPES, default="bert-base")
    parser.add_argument("--layers", type=int, default=LAYERS, help="fewer for a quick look")
    options = parser.parse_args()
    accelerator, topology = TOPOLOGIES[options.tpu]
    os.environ |= {
        "TPU_SKIP_MDS_QUERY": "1",
        "TPU_WORKER_HOSTNAMES": "localhost",
        "TPU_ACCELERATOR_TYPE": accelerator,
    }
    from jax.experimental import topologies

    device = topologies.get_topology_desc(platform="tpu", topology_name=topology).devices[0]
    began = time.monotonic()
    compiled = compile_for(device, options.shape, options.layers)
    common.print_line(
        {
            "side": "transformers Flax",
            "what": "tpu",
            "model": options.shape + ("" if options.layers == LAYERS else f"/{options.layers}"),
            "vocabulary": SHAPES[options.shape][1]["vocab_size"],
            "chip": options.tpu,
            "batch": TPU_BATCH,
            "length": TPU_LENGTH,
            "dtype": "bfloat16",
            "estimated_cycles": estimated_cycles(compiled.as_text()),
            "compile_s": time.monotonic() - began,
            "versions": common.versions(*PACKAGES, "libtpu"),
        }
    )


def compile_for(device: jax.Device, shape: str, layers: int) -> Any:
    """Compile the train step of a model without weights for a chip."""
    family, changes = SHAPES[shape]
    config = transformers.AutoConfig.for_model(
        family, **changes, num_labels=2, num_hidden_layers=layers
    )
    model = transformers.FlaxAutoModelForSequenceClassification.from_config(
        config, dtype=jnp.bfloat16, _do_init=False
    )
    key = jax.random.key(0)
    params = jax.eval_shape(lambda: model.init_weights(key, (1, TPU_LENGTH)))
    state = jax.eval_shape(lambda p: new_state(model, p, 1000, False, 2), params)
    whole = jax.sharding.SingleDeviceSharding(device)
    ids = jax.ShapeDtypeStruct((TPU_BATCH, TPU_LENGTH), jnp.int32)
    batch = {name: ids for name in ("input_ids", "attention_mask", "token_type_ids")}
    batch["labels"] = jax.ShapeDtypeStruct((TPU_BATCH,), jnp.int32)
    arguments = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=whole),
        (state, batch, jax.eval_shape(lambda: jax.random.key(0))),
    )
    return jax.jit(train_step, donate_argnums=0).lower(*arguments).compile()


def estimated_cycles(text: str) -> int:
    """Sum the compiler's estimates over the ENTRY computation of a compiled program."""
    entry = re.search(r"^ENTRY .*?^}", text, re.MULTILINE | re.DOTALL)
    assert entry is not None, "the program has no ENTRY computation"
    return sum(int(n) for n in re.findall(r'"estimated_cycles":"(\d+)"', entry.group()))


if __name__ == "__main__":
    common.guarded(main)
