"""Schedules and AdamW against transformers and PyTorch, live (make parity)."""

from __future__ import annotations

import dataclasses
import re
from typing import Any

import numpy as np
import pytest

from flaxfer.config import Optimizer
from tests.training.optimizers import FROZEN, PEAK, SHAPES, STEPS, TOTAL, draw, rates, run

pytestmark = pytest.mark.parity


@pytest.mark.parametrize("warmup", [0, 1, 7])
def test_schedules_equal_transformers(warmup: int) -> None:
    import torch
    import transformers

    def theirs(name: str, **settings: Any) -> list[float]:
        unused = torch.optim.SGD([torch.zeros(1)], lr=PEAK)
        make = getattr(transformers, f"get_{name}")
        (schedule,) = make(unused, num_warmup_steps=warmup, **settings).lr_lambdas
        return [PEAK * schedule(int(step)) for step in STEPS]

    base = Optimizer(learning_rate=PEAK, warmup=float(warmup), power=2.0, decay_fraction=0.25)
    total = {"num_training_steps": TOTAL}
    pairs: dict[str, list[float]] = {
        "linear": theirs("linear_schedule_with_warmup", **total),
        "cosine": theirs("cosine_schedule_with_warmup", **total),
        "polynomial": theirs(
            "polynomial_decay_schedule_with_warmup", lr_end=0.0, power=2.0, **total
        ),
        "constant": theirs("constant_schedule_with_warmup"),
        "wsd": theirs("wsd_schedule", num_decay_steps=15, decay_type="linear", **total),
    }
    if warmup:
        pairs["inverse_sqrt"] = theirs("inverse_sqrt_schedule")
    for name, expected in pairs.items():
        ours = rates(dataclasses.replace(base, schedule=name))
        np.testing.assert_allclose(ours, expected, rtol=1e-5, atol=PEAK * 1e-6, err_msg=name)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("freeze", [(), FROZEN])
@pytest.mark.parametrize("eps", [1e-2, 1e-8])
def test_adamw_equals_torch(freeze: tuple[str, ...], eps: float) -> None:
    import torch
    import transformers

    optimizer = Optimizer(
        learning_rate=1e-2, eps=eps, weight_decay=0.3, warmup=2.0, clip_norm=0.5, freeze=freeze
    )
    start, gradients = draw(0), [draw(seed, 0.1 * seed) for seed in range(1, 9)]
    results, _ = run(optimizer, start, gradients)

    params = {
        path: torch.nn.Parameter(
            torch.tensor(value), requires_grad=not any(re.search(f, path) for f in freeze)
        )
        for path, value in start.items()
    }
    trained = {path: p for path, p in params.items() if p.requires_grad}
    plain = [p for path, p in trained.items() if path.endswith(("/bias", "norm/scale"))]
    decayed = [p for path, p in trained.items() if not path.endswith(("/bias", "norm/scale"))]
    torch_adamw = torch.optim.AdamW(
        [{"params": decayed, "weight_decay": 0.3}, {"params": plain, "weight_decay": 0.0}],
        lr=1e-2,
        eps=eps,
    )
    schedule = transformers.get_linear_schedule_with_warmup(torch_adamw, 2, TOTAL)
    for gradient in gradients:
        for path, p in trained.items():
            p.grad = torch.tensor(gradient[path])
        torch.nn.utils.clip_grad_norm_(trained.values(), 0.5)
        torch_adamw.step()
        schedule.step()
    for path in SHAPES:
        # PyTorch adds 1e-6 to the norm that it divides by when it clips.
        np.testing.assert_allclose(
            results[path], params[path].detach().numpy(), rtol=1e-6, atol=1e-8, err_msg=path
        )
