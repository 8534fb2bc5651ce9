"""What transformers' PyTorch classes and torch's AdamW make of a batch."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import transformers
from transformers import AutoModelForSequenceClassification

from flaxfer.config import Optimizer
from tests.parity.cases import Case, weight


def tiny_model(case: Case) -> torch.nn.Module:
    """The model of a case, with its weights."""
    settings = dict(case.settings)
    config = transformers.AutoConfig.for_model(
        settings.pop("model_type"), **settings, num_labels=case.num_outputs
    )
    model = AutoModelForSequenceClassification.from_config(config, attn_implementation="eager")
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(torch.from_numpy(weight(case, name, tuple(parameter.shape))))
    return model.eval()


def results(
    model: Any, batch: dict[str, np.ndarray], optimizer: Optimizer, steps: int, total_steps: int
) -> dict[str, np.ndarray]:
    """Hidden states of the tokens that are not padding, logits, loss, gradients, stepped weights.

    The model decides on positions and on the loss; `batch` is one of unpacked rows.
    """
    inputs = {
        "input_ids": torch.from_numpy(batch["token_BT"]).long(),
        "attention_mask": torch.from_numpy(batch["segment_BT"]).long(),
        "token_type_ids": torch.from_numpy(batch["type_BT"]).long(),
        "labels": torch.from_numpy(batch["label_BE"][:, 0]),
    }
    if model.config.num_labels > 1:
        inputs["labels"] = inputs["labels"].long()
    output = model(**inputs, output_hidden_states=True)
    model.zero_grad()
    output.loss.backward()
    valid = batch["segment_BT"] > 0
    found = {
        **{f"hidden/{n}": x.detach().numpy()[valid] for n, x in enumerate(output.hidden_states)},
        "logits": output.logits.detach().numpy(),
        "loss": output.loss.detach().numpy(),
        **{f"gradient/{n}": p.grad.numpy().copy() for n, p in model.named_parameters()},
    }
    _train(model, inputs, optimizer, steps, total_steps)
    return found | {f"stepped/{n}": p.detach().numpy() for n, p in model.named_parameters()}


def _train(
    model: Any, inputs: dict[str, torch.Tensor], optimizer: Optimizer, steps: int, total_steps: int
) -> None:
    named = list(model.named_parameters())
    plain = [p for name, p in named if name.endswith(("bias", "LayerNorm.weight"))]
    decayed = [p for name, p in named if not name.endswith(("bias", "LayerNorm.weight"))]
    adamw = torch.optim.AdamW(
        [
            {"params": decayed, "weight_decay": optimizer.weight_decay},
            {"params": plain, "weight_decay": 0.0},
        ],
        lr=optimizer.learning_rate,
        betas=(optimizer.b1, optimizer.b2),
        eps=optimizer.eps,
    )
    schedule = transformers.get_linear_schedule_with_warmup(
        adamw, int(optimizer.warmup), total_steps
    )
    for _ in range(steps):
        adamw.zero_grad()
        model(**inputs).loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), optimizer.clip_norm)
        assert norm > optimizer.clip_norm, "the gradients are too small for clipping to be tested"
        adamw.step()
        schedule.step()
