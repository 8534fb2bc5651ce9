"""Optimizers and schedules by name, as optax chains over a nested dict of parameters."""

from __future__ import annotations

import dataclasses
import functools
import math
import re
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from flaxfer.config import Optimizer, Stage
from flaxfer.config.validation import warmup_steps
from flaxfer.errors import ConfigError
from flaxfer.runtime.trees import Params, leaves_by_name, map_names, path_name

BASE = r"^encoder/(?!.*/lora/)"
"""Parameters of the encoder that are not in an adapter."""


SCALE = r"^head/log_scale/"
"""Scale of the cosines of embeddings."""


def with_frozen_parts(settings: Stage, num_layers: int) -> Stage:
    """Return the settings of a stage whose optimizer freezes all that the stage does not train.

    The encoder if it has adapters; the layers above the one that is embedded, which have no
    gradient and would decay; the scale of embeddings that are compared by their cosine.
    """
    parts = [BASE] if settings.lora else []
    if above := range(settings.task.embedding_layer or num_layers, num_layers):
        parts.append(rf"^encoder/layers/({'|'.join(map(str, above))})/")
    if settings.task.triplet_margin:
        parts.append(SCALE)
    if not parts:
        return settings
    freeze = tuple(dict.fromkeys((*settings.optimizer.freeze, *parts)))
    return dataclasses.replace(
        settings, optimizer=dataclasses.replace(settings.optimizer, freeze=freeze)
    )


def make_optimizer(
    optimizer: Optimizer, total_steps: int, params: Params, fresh: tuple[str, ...] = ()
) -> optax.GradientTransformation:
    """Return the chain: clipping, preconditioner, decay and L2-SP, layer-wise rate, schedule.

    AdamW (Loshchilov & Hutter 2019) equals `torch.optim.AdamW`; Adafactor (Shazeer & Stern 2018)
    equals `optax.adafactor`, whose learning rate is relative to the root mean square of a
    parameter; Lion follows Chen et al. 2023. Frozen parameters have no moments and do not count in
    the clipped norm, like parameters without `requires_grad` in PyTorch.

    L2-SP (Xuhong Li et al. 2018) is decoupled like the decay of AdamW, as in RecAdam (Sanyuan Chen
    et al. 2020): a parameter with a start value moves towards it by the learning rate times `l2_sp`
    times the distance, instead of decaying; new parameters decay, the paper's other term. A
    parameter without gradients stays bit-identical. The optimizer state includes the start values.

    Args:
      optimizer: settings.
      total_steps: optimizer updates of the stage, for the schedule.
      params: nested dict of arrays or `ShapeDtypeStruct`; only paths are read.
      fresh: regular expressions for paths of parameters without a start value.

    Raises:
      ConfigError: a pattern of `freeze` matches no parameter.
    """
    pulled = map_names(lambda path: bool(optimizer.l2_sp) and not _matches(fresh, path), params)
    free = map_names(lambda path: not _matches(optimizer.no_decay, path), params)
    decayed = jax.tree.map(lambda decays, pulls: decays and not pulls, free, pulled)
    chain = [
        optax.clip_by_global_norm(optimizer.clip_norm) if optimizer.clip_norm else None,
        *_precondition(optimizer),
        optax.add_decayed_weights(optimizer.weight_decay, decayed)
        if optimizer.weight_decay
        else None,
        optax.masked(_pull_to_start(optimizer.l2_sp), pulled) if optimizer.l2_sp else None,
        _scale_by_layer(optimizer.layer_decay, params) if optimizer.layer_decay != 1 else None,
        optax.scale_by_learning_rate(make_schedule(optimizer, total_steps)),
    ]
    transform = optax.chain(*[link for link in chain if link is not None])
    if not optimizer.freeze:
        return transform
    labels = map_names(
        lambda path: "frozen" if _matches(optimizer.freeze, path) else "trained", params
    )
    for pattern in optimizer.freeze:
        if not any(jax.tree.leaves(map_names(functools.partial(_matches, (pattern,)), params))):
            raise ConfigError(
                f"{pattern!r} matches no parameter",
                where="optimizer.freeze",
                hint="parameters are named like encoder/layers/0/attention/query/kernel.",
            )
    return optax.partition({"trained": transform, "frozen": optax.set_to_zero()}, labels)


def trained_part(optimizer: Optimizer, tree: Params) -> list[jax.Array]:
    """Return the arrays of the parameters that are not frozen."""
    leaves = leaves_by_name(tree).items()
    return [leaf for name, leaf in leaves if not _matches(optimizer.freeze, name)]


def make_schedule(optimizer: Optimizer, total_steps: int) -> optax.Schedule:
    """Return the learning rate by step: linear warm-up from 0, then the named schedule.

    `linear`, `cosine` and `polynomial` reach `end_factor` times the peak at `total_steps`;
    `inverse_sqrt` is the peak times sqrt(warm-up / step) (Vaswani et al. 2017); `wsd` is constant
    until it decays linearly over the last `decay_fraction` of the steps (Hu et al. 2024).
    """
    peak, end = optimizer.learning_rate, optimizer.learning_rate * optimizer.end_factor
    warmup = warmup_steps(optimizer, total_steps)
    rest = max(total_steps - warmup, 1)
    match optimizer.schedule:
        case "linear":
            after = optax.linear_schedule(peak, end, rest)
        case "cosine":
            after = optax.cosine_decay_schedule(peak, rest, alpha=optimizer.end_factor)
        case "polynomial":

            def after(count: jax.typing.ArrayLike) -> jax.Array:
                # Compiled, the last step may round to below 0, which has no root.
                left = jnp.clip(1 - jnp.asarray(count, jnp.float32) / rest, 0, 1)
                return end + (peak - end) * left**optimizer.power

        case "constant":
            after = optax.constant_schedule(peak)
        case "inverse_sqrt":

            def after(count: jax.typing.ArrayLike) -> jax.Array:
                return peak * jnp.sqrt(warmup / (warmup + jnp.asarray(count, jnp.float32)))

        case "wsd":
            decay = min(max(round(optimizer.decay_fraction * total_steps), 1), rest)
            after = optax.linear_schedule(peak, end, decay, transition_begin=rest - decay)
    if not warmup:
        return after
    return optax.join_schedules([optax.linear_schedule(0.0, peak, warmup), after], [warmup])


def _precondition(optimizer: Optimizer) -> list[optax.GradientTransformation]:
    match optimizer.name:
        case "adamw":
            return [_scale_by_adam(optimizer.b1, optimizer.b2, optimizer.eps)]
        case "lion":
            return [optax.scale_by_lion(optimizer.b1, optimizer.b2)]
        case "adafactor":
            return [
                optax.scale_by_factored_rms(),
                optax.clip_by_block_rms(1.0),
                optax.scale_by_param_block_rms(),
            ]


def _scale_by_adam(b1: float, b2: float, eps: float) -> optax.GradientTransformation:
    """Return Adam (Kingma & Ba 2015) like `optax.scale_by_adam`, with exact bias corrections.

    optax computes 1 - b2**t in float32, with a relative error of 2e-5; PyTorch uses float64.
    """

    def correction(decay: float, count: jax.Array) -> jax.Array:
        return -jnp.expm1(count * math.log(decay)) if decay else jnp.ones(())

    def update(
        gradient: optax.Updates, state: optax.OptState, params: optax.Params | None = None
    ) -> tuple[optax.Updates, optax.OptState]:
        del params
        assert isinstance(state, optax.ScaleByAdamState)
        count = state.count + 1
        mu = optax.tree.update_moment(gradient, state.mu, b1, 1)
        nu = optax.tree.update_moment(gradient, state.nu, b2, 2)
        first, second = correction(b1, count), correction(b2, count)
        step = jax.tree.map(lambda m, n: (m / first) / (jnp.sqrt(n / second) + eps), mu, nu)
        return step, optax.ScaleByAdamState(count=count, mu=mu, nu=nu)

    return optax.GradientTransformation(optax.scale_by_adam(b1, b2, eps).init, update)


class StartState(NamedTuple):
    """The parameters at step 0."""

    start: optax.Params


def _pull_to_start(coefficient: float) -> optax.GradientTransformation:
    """Return L2-SP: add `coefficient` times the distance from the start."""

    def init(params: optax.Params) -> StartState:
        return StartState(jax.tree.map(jnp.copy, params))

    def update(
        updates: optax.Updates, state: optax.OptState, params: optax.Params | None = None
    ) -> tuple[optax.Updates, optax.OptState]:
        assert isinstance(state, StartState)

        def pull(update: jax.Array, param: jax.Array, start: jax.Array) -> jax.Array:
            return update + coefficient * (param - start)

        return jax.tree.map(pull, updates, params, state.start), state

    return optax.GradientTransformation(init, update)


def _matches(patterns: tuple[str, ...], path: str) -> bool:
    return any(re.search(pattern, path) for pattern in patterns)


def _scale_by_layer(decay: float, params: Params) -> optax.GradientTransformation:
    """Return layer-wise rates: decay ** (distance from the head), as in ULMFiT and BEiT."""

    def layer(path: str) -> int | None:
        match = re.search(r"/layers/(\d+)/", path)
        return int(match.group(1)) if match else None

    paths = jax.tree.leaves(map_names(lambda path: path, params))
    top = 1 + max((number for path in paths if (number := layer(path)) is not None), default=-1)

    def factor(path: str) -> float:
        number = layer(path)
        if number is None:
            return decay ** (top + 1) if "embeddings/" in path else 1.0
        return float(decay ** (top - number))

    return optax.stateless(
        lambda updates, _: jax.tree.map_with_path(
            lambda path, update: update * factor(path_name(path)), updates
        )
    )
