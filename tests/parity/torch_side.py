"""Results of transformers' PyTorch classes and torch's AdamW for a batch."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers

from flaxfer.config import Lora, Optimizer
from tests.parity.cases import CHOICES, OUTPUTS, Batch, Case, weight

CLASSES = {
    "classification": transformers.AutoModelForSequenceClassification,
    "regression": transformers.AutoModelForSequenceClassification,
    "tagging": transformers.AutoModelForTokenClassification,
    "question_answering": transformers.AutoModelForQuestionAnswering,
    "multiple_choice": transformers.AutoModelForMultipleChoice,
}
NUMBER_COLUMNS = ("bert", "ernie")
"""Families whose positions number the columns of a row, including padding."""

NEVER_TRAINED = "transformer.mask_emb"
"""XLNet's mask for words to predict in pretraining, the only array without a gradient."""

Inputs = dict[str, torch.Tensor]


def exact_model(case: Case) -> Any:
    """Return the model of a case in float64.

    Differences from its results are rounding errors of flaxfer; those of PyTorch in float32 are as
    large.
    """
    return tiny_model(case).double()


def tiny_model(case: Case) -> Any:
    """Return the model of a case, with its weights, in float32."""
    settings = dict(case.settings)
    config = transformers.AutoConfig.for_model(
        settings.pop("model_type"), **settings, num_labels=case.outputs
    )
    model = CLASSES[case.task_type].from_config(config, attn_implementation="eager")
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(torch.from_numpy(weight(case, name, tuple(parameter.shape))))
        if case.lora is not None:
            model = with_adapters(model, case.lora)
            for name, parameter in parameters_of(model).items():
                if ".lora_" in name:
                    parameter.copy_(torch.from_numpy(weight(case, name, tuple(parameter.shape))))
    return model.eval()


def with_adapters(model: Any, settings: Lora) -> Any:
    """Return a model of BERT with peft's adapters, which trains these and its head alone."""
    import peft

    maps = {"output": "attention.output.dense", "up": "intermediate.dense", "down": "output.dense"}
    names = [maps.get(name, f"attention.self.{name}") for name in settings.modules]
    layers = range(*(settings.layers or (0, model.config.num_hidden_layers)))
    config = peft.LoraConfig(
        task_type="SEQ_CLS",
        r=settings.rank,
        lora_alpha=settings.alpha,
        target_modules=[f"layer.{layer}.{name}" for layer in layers for name in names],
        modules_to_save=["pooler", "classifier"],
    )
    with warnings.catch_warnings():  # peft calls what this transformers has deprecated.
        warnings.simplefilter("ignore", FutureWarning)
        return peft.get_peft_model(model, config).get_base_model()


def real_model(folder: Path, task_type: str) -> Any:
    """Return the model of a folder in float32; missing weights are fixed and random."""
    torch.manual_seed(0)
    model = CLASSES[task_type].from_pretrained(
        folder, num_labels=OUTPUTS[task_type], dtype=torch.float32, attn_implementation="eager"
    )
    rng = np.random.default_rng(0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if not name.startswith(f"{model.base_model_prefix}."):
                noise = 0.05 * rng.standard_normal(tuple(parameter.shape))
                parameter.copy_(torch.from_numpy(noise))
    return model.eval()


def measure(model: Any, task_type: str, batch: Batch, *, alone: bool = False) -> Batch:
    """Return hidden states of tokens, pooled output, logits, loss and gradients.

    The model determines the loss, and the positions where it can. Packed examples get separate
    rows, in which they keep their places.

    Args:
      model: a model of transformers, in float32 or float64.
      task_type: type of the task.
      batch: as for flaxfer.
      alone: compute single examples without padding instead of padded rows.
    """
    arrays, loss = forward(model, task_type, batch, alone=alone)
    model.zero_grad()
    loss.backward()
    parts = _parts(own_rows(model, task_type, batch), task_type, alone)
    return {
        **_joined([hidden_states(model, part) for part in parts]),
        **arrays,
        "loss": loss.detach().numpy(),
        **{f"gradient/{n}": p.grad.numpy().copy() for n, p in parameters_of(model).items()},
    }


def train(
    model: Any, task_type: str, batches: list[Batch], optimizer: Optimizer, total_steps: int
) -> Batch:
    """Return the loss of every step and the final weights; one batch per step."""
    parameters, adamw, schedule = make_optimizer(model, optimizer, total_steps)
    losses = []
    for batch in batches:
        adamw.zero_grad()
        loss = forward(model, task_type, batch)[1]
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
    """Return the parameters by name, AdamW with its decay mask, and the linear schedule."""
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
    """Return the parameters that fine-tuning trains, by name in a checkpoint or adapter."""
    return {
        name.replace(".default", "").replace(".modules_to_save", ""): parameter
        for name, parameter in model.named_parameters()
        if parameter.requires_grad and name != NEVER_TRAINED
    }


def forward(
    model: Any, task_type: str, batch: Batch, *, alone: bool = False
) -> tuple[Batch, torch.Tensor]:
    """Return pooled output and logits, and the loss."""
    rows = own_rows(model, task_type, batch)
    outputs = [predict(model, task_type, part) for part in _parts(rows, task_type, alone)]
    arrays = _joined([output[0] for output in outputs])
    # Only transformers includes padding in the softmax over first and last tokens: without padding
    # the losses are equal.
    if task_type == "question_answering" and not alone:
        outputs = [predict(model, task_type, part) for part in _parts(rows, task_type, alone=True)]
    total = sum(loss * count for _, loss, count in outputs)
    return arrays, total / sum(count for _, _, count in outputs)


def _parts(rows: Inputs, task_type: str, alone: bool) -> list[Inputs]:
    """Return all rows at once, or single examples (or their choices) without padding."""
    if not alone:
        return [rows]
    size = CHOICES if task_type == "multiple_choice" else 1
    units = np.arange(len(rows["input_ids"])).reshape(-1, size)
    return [without_padding(rows, unit) for unit in units]


def own_rows(model: Any, task_type: str, batch: Batch) -> Inputs:
    """Return the inputs of transformers' classes: one example per row, in its place."""
    row, slot = np.nonzero(batch["mask_BE"])
    mask = batch["segment_BT"][row] == slot[:, None] + 1
    arrays = {
        "input_ids": np.where(mask, batch["token_BT"][row], model.config.pad_token_id),
        "attention_mask": mask.astype(np.int64),
        "token_type_ids": np.where(mask, batch["type_BT"][row], 0),
        "position_ids": np.where(mask, batch["position_BT"][row], 0),
    }
    if task_type == "tagging":
        label = np.where(mask, batch["label_BT"][row], -1)
        arrays["labels"] = np.where(label < 0, -100, label)
    elif task_type == "question_answering":
        arrays["start_positions"] = batch["start_BE"][row, slot]
        arrays["end_positions"] = batch["end_BE"][row, slot]
    else:
        arrays["labels"] = batch["label_BE"][row, slot]
    if task_type == "multiple_choice":
        assert (batch["unit_BE"][row, slot] == np.arange(len(row)) // CHOICES).all()
    dtype = model.dtype if task_type == "regression" else torch.int64
    return {
        name: torch.from_numpy(x).to(dtype if name == "labels" else torch.int64)
        for name, x in arrays.items()
    }


def without_padding(inputs: Inputs, rows: np.ndarray) -> Inputs:
    """Return rows of the inputs without the columns in which all of them are padding."""
    model_inputs = {name: x[rows] for name, x in inputs.items()}
    columns = torch.nonzero(model_inputs["attention_mask"].any(dim=0))[:, 0]
    for name, x in model_inputs.items():
        if x.ndim == 2:
            model_inputs[name] = x[:, columns]
        elif name.endswith("_positions"):
            model_inputs[name] = x - columns[0]
    return model_inputs


def hidden_states(model: Any, inputs: Inputs) -> Batch:
    """Return the embeddings and every layer's output, without padding."""
    # RoBERTa derives positions from the padding token and XLNet has none. The others number all
    # columns, so padding on the left needs explicit positions.
    positions = ("position_ids",) if model.config.model_type in NUMBER_COLUMNS else ()
    names = ("input_ids", "attention_mask", "token_type_ids", *positions)
    with torch.no_grad():
        output = model.base_model(**{n: inputs[n] for n in names}, output_hidden_states=True)
    valid = inputs["attention_mask"].bool()
    return {f"hidden/{n}": x[valid].numpy() for n, x in enumerate(output.hidden_states)}


def predict(model: Any, task_type: str, inputs: Inputs) -> tuple[Batch, torch.Tensor, int]:
    """Return pooled output and logits, the loss, and the number of losses in the mean."""
    every_token = task_type in ("tagging", "question_answering")
    last = model.config.model_type == "xlnet"
    model_inputs = dict(inputs) if every_token else _aligned(inputs, last)
    valid = model_inputs["attention_mask"].bool()
    if model.config.model_type not in NUMBER_COLUMNS or not every_token:
        del model_inputs["position_ids"]
    rows = len(valid)
    count = int((model_inputs["labels"] >= 0).sum()) if task_type == "tagging" else rows
    if task_type == "multiple_choice":
        model_inputs = {
            name: x.reshape(-1, CHOICES, *x.shape[1:]) for name, x in model_inputs.items()
        }
        model_inputs["labels"], count = model_inputs["labels"].argmax(dim=1), rows // CHOICES
    pooled: list[torch.Tensor] = []
    hook = _projection(model).register_forward_pre_hook(lambda _, args: pooled.append(args[0]))
    output = model(**model_inputs)
    hook.remove()
    if task_type == "question_answering":
        logits = torch.stack([output.start_logits, output.end_logits], dim=-1)[valid]
        arrays = {"logits": logits}
    elif task_type == "tagging":
        arrays = {"logits": output.logits[valid]}
    else:
        arrays = {"pooled": pooled[0], "logits": output.logits.reshape(rows, -1)}
    return {name: x.detach().numpy() for name, x in arrays.items()}, output.loss, count


def classify(model: Any, inputs: Batch, label: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return logits and loss for the output of transformers' tokenizer."""
    model_inputs = {name: torch.from_numpy(x) for name, x in inputs.items()}
    with torch.no_grad():
        output = model(**model_inputs, labels=torch.from_numpy(label).long())
    return output.logits.numpy(), output.loss.numpy()


def _aligned(inputs: Inputs, last: bool) -> Inputs:
    """Return the rows, rolled so that the CLS token is where transformers' classes read it.

    They read the first token of a row, or in XLNet the last one, padding or not.
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
    """Return the last linear map, to the logits."""
    name = next(n for n in ("logits_proj", "qa_outputs", "classifier") if hasattr(model, n))
    return getattr(getattr(model, name), "out_proj", getattr(model, name))


def _joined(parts: list[Batch]) -> Batch:
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
