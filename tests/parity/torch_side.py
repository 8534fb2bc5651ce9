"""What transformers' PyTorch classes and torch's AdamW make of a batch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers

from flaxfer.config import Optimizer
from tests.parity.cases import CHOICES, OUTPUTS, Batch, Case, weight

CLASSES = {
    "classification": transformers.AutoModelForSequenceClassification,
    "regression": transformers.AutoModelForSequenceClassification,
    "tagging": transformers.AutoModelForTokenClassification,
    "question_answering": transformers.AutoModelForQuestionAnswering,
    "multiple_choice": transformers.AutoModelForMultipleChoice,
}
NUMBER_COLUMNS = ("bert", "ernie")
"""Families whose positions are the numbers of a row's columns, padding or not."""

NEVER_TRAINED = "transformer.mask_emb"
"""XLNet's stand-in for words that pretraining predicts: no other part is without a gradient."""

Inputs = dict[str, torch.Tensor]


def exact_model(case: Case) -> Any:
    """The model of a case in float64.

    What differs from its results is flaxfer's rounding alone; PyTorch's own float32 differs from
    them as much.
    """
    return tiny_model(case).double()


def tiny_model(case: Case) -> Any:
    """The model of a case, with its weights, in float32."""
    settings = dict(case.settings)
    config = transformers.AutoConfig.for_model(
        settings.pop("model_type"), **settings, num_labels=case.outputs
    )
    model = CLASSES[case.kind].from_config(config, attn_implementation="eager")
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(torch.from_numpy(weight(case, name, tuple(parameter.shape))))
    return model.eval()


def real_model(folder: Path, kind: str) -> Any:
    """The model of a folder in float32; what it does not hold has fixed random weights."""
    torch.manual_seed(0)
    model = CLASSES[kind].from_pretrained(
        folder, num_labels=OUTPUTS[kind], dtype=torch.float32, attn_implementation="eager"
    )
    rng = np.random.default_rng(0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if not name.startswith(f"{model.base_model_prefix}."):
                noise = 0.05 * rng.standard_normal(tuple(parameter.shape))
                parameter.copy_(torch.from_numpy(noise))
    return model.eval()


def measure(model: Any, kind: str, batch: Batch, *, alone: bool = False) -> Batch:
    """Hidden states of the tokens that are not padding, pooled output, logits, loss, gradients.

    The model decides on the loss, and on positions where it can. Packed examples get rows of their
    own, in which they stay in their places.

    Args:
      model: of transformers, in float32 or float64.
      kind: of the task.
      batch: as for flaxfer.
      alone: compute each example by itself, without any padding, instead of the padded rows.
    """
    found, loss = forward(model, kind, batch, alone=alone)
    model.zero_grad()
    loss.backward()
    parts = _parts(own_rows(model, kind, batch), kind, alone)
    return {
        **_joined([hidden_states(model, part) for part in parts]),
        **found,
        "loss": loss.detach().numpy(),
        **{f"gradient/{n}": p.grad.numpy().copy() for n, p in parameters_of(model).items()},
    }


def train(
    model: Any, kind: str, batches: list[Batch], optimizer: Optimizer, total_steps: int
) -> Batch:
    """The loss of every step, and the weights after the last; one batch a step."""
    parameters, adamw, schedule = make_optimizer(model, optimizer, total_steps)
    losses = []
    for batch in batches:
        adamw.zero_grad()
        loss = forward(model, kind, batch)[1]
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(parameters.values(), optimizer.clip_norm)
        assert norm > optimizer.clip_norm, "the gradients are too small for clipping to be tested"
        adamw.step()
        schedule.step()
        losses.append(loss.detach().numpy())
    return {
        "losses": np.stack(losses),
        **{f"stepped/{n}": p.detach().numpy().copy() for n, p in parameters.items()},
    }


def make_optimizer(model: Any, optimizer: Optimizer, total_steps: int) -> tuple[Any, Any, Any]:
    """The parameters by name, AdamW with its mask of weight decay, and the linear schedule."""
    named = parameters_of(model)
    plain = [p for n, p in named.items() if n.lower().endswith(("bias", "norm.weight"))]
    decayed = [p for n, p in named.items() if not n.lower().endswith(("bias", "norm.weight"))]
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
    return named, adamw, schedule


def parameters_of(model: Any) -> dict[str, torch.nn.Parameter]:
    """The parameters that fine-tuning trains, by name."""
    return {n: p for n, p in model.named_parameters() if n != NEVER_TRAINED}


def forward(
    model: Any, kind: str, batch: Batch, *, alone: bool = False
) -> tuple[Batch, torch.Tensor]:
    """Pooled output, logits, and the loss."""
    rows = own_rows(model, kind, batch)
    outputs = [predict(model, kind, part) for part in _parts(rows, kind, alone)]
    found = _joined([output[0] for output in outputs])
    # transformers' softmax over first and last tokens runs over padding too, which flaxfer's does
    # not: without padding the two losses are the same.
    if kind == "question_answering" and not alone:
        outputs = [predict(model, kind, part) for part in _parts(rows, kind, alone=True)]
    total = sum(loss * count for _, loss, count in outputs)
    return found, total / sum(count for _, _, count in outputs)


def _parts(rows: Inputs, kind: str, alone: bool) -> list[Inputs]:
    """All rows at once; or each example, or the choices of one, without padding."""
    if not alone:
        return [rows]
    size = CHOICES if kind == "multiple_choice" else 1
    units = np.arange(len(rows["input_ids"])).reshape(-1, size)
    return [without_padding(rows, unit) for unit in units]


def own_rows(model: Any, kind: str, batch: Batch) -> Inputs:
    """The inputs of transformers' classes: each example in a row of its own, in its place."""
    row, slot = np.nonzero(batch["mask_BE"])
    mask = batch["segment_BT"][row] == slot[:, None] + 1
    found = {
        "input_ids": np.where(mask, batch["token_BT"][row], model.config.pad_token_id),
        "attention_mask": mask.astype(np.int64),
        "token_type_ids": np.where(mask, batch["type_BT"][row], 0),
        "position_ids": np.where(mask, batch["position_BT"][row], 0),
    }
    if kind == "tagging":
        label = np.where(mask, batch["label_BT"][row], -1)
        found["labels"] = np.where(label < 0, -100, label)
    elif kind == "question_answering":
        found["start_positions"] = batch["start_BE"][row, slot]
        found["end_positions"] = batch["end_BE"][row, slot]
    else:
        found["labels"] = batch["label_BE"][row, slot]
    if kind == "multiple_choice":
        assert (batch["unit_BE"][row, slot] == np.arange(len(row)) // CHOICES).all()
    dtype = model.dtype if kind == "regression" else torch.int64
    return {
        name: torch.from_numpy(x).to(dtype if name == "labels" else torch.int64)
        for name, x in found.items()
    }


def without_padding(inputs: Inputs, rows: np.ndarray) -> Inputs:
    """Some rows of the inputs, and of these the columns that are not padding in all of them."""
    given = {name: x[rows] for name, x in inputs.items()}
    columns = torch.nonzero(given["attention_mask"].any(dim=0))[:, 0]
    for name, x in given.items():
        if x.ndim == 2:
            given[name] = x[:, columns]
        elif name.endswith("_positions"):
            given[name] = x - columns[0]
    return given


def hidden_states(model: Any, inputs: Inputs) -> Batch:
    """The embeddings and every layer's output, of the tokens that are not padding."""
    # RoBERTa finds its positions by the padding token and XLNet has none. The others number the
    # columns whatever they hold, so they have to be told where padding on the left ends.
    positions = ("position_ids",) if model.config.model_type in NUMBER_COLUMNS else ()
    names = ("input_ids", "attention_mask", "token_type_ids", *positions)
    with torch.no_grad():
        output = model.base_model(**{n: inputs[n] for n in names}, output_hidden_states=True)
    valid = inputs["attention_mask"].bool()
    return {f"hidden/{n}": x[valid].numpy() for n, x in enumerate(output.hidden_states)}


def predict(model: Any, kind: str, inputs: Inputs) -> tuple[Batch, torch.Tensor, int]:
    """Pooled output and logits, the loss, and how many losses it is the mean of."""
    every_token = kind in ("tagging", "question_answering")
    last = model.config.model_type == "xlnet"
    given = dict(inputs) if every_token else _aligned(inputs, last)
    valid = given["attention_mask"].bool()
    if model.config.model_type not in NUMBER_COLUMNS or not every_token:
        del given["position_ids"]
    rows = len(valid)
    count = int((given["labels"] >= 0).sum()) if kind == "tagging" else rows
    if kind == "multiple_choice":
        given = {name: x.reshape(-1, CHOICES, *x.shape[1:]) for name, x in given.items()}
        given["labels"], count = given["labels"].argmax(dim=1), rows // CHOICES
    pooled: list[torch.Tensor] = []
    hook = _projection(model).register_forward_pre_hook(lambda _, args: pooled.append(args[0]))
    output = model(**given)
    hook.remove()
    if kind == "question_answering":
        logits = torch.stack([output.start_logits, output.end_logits], dim=-1)[valid]
        found = {"logits": logits}
    elif kind == "tagging":
        found = {"logits": output.logits[valid]}
    else:
        found = {"pooled": pooled[0], "logits": output.logits.reshape(rows, -1)}
    return {name: x.detach().numpy() for name, x in found.items()}, output.loss, count


def classify(model: Any, inputs: Batch, label: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Logits and loss for what transformers' tokenizer gives."""
    given = {name: torch.from_numpy(x) for name, x in inputs.items()}
    with torch.no_grad():
        output = model(**given, labels=torch.from_numpy(label).long())
    return output.logits.numpy(), output.loss.numpy()


def _aligned(inputs: Inputs, last: bool) -> Inputs:
    """The rows, turned so that the CLS token is where transformers' classes look for it.

    They read the first token of a row, XLNet's the last one, padding or not.
    """
    mask = inputs["attention_mask"]
    shift = mask.flip(1).argmax(dim=1) if last else -mask.argmax(dim=1)
    return {
        name: torch.stack([row.roll(int(n)) for row, n in zip(x, shift, strict=True)])
        if x.ndim == 2
        else x
        for name, x in inputs.items()
    }


def _projection(model: Any) -> torch.nn.Module:
    """The last linear map, to the logits."""
    name = next(n for n in ("logits_proj", "qa_outputs", "classifier") if hasattr(model, n))
    return getattr(getattr(model, name), "out_proj", getattr(model, name))


def _joined(parts: list[Batch]) -> Batch:
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
