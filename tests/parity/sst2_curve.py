"""Loss curves of a small XLNet on SST-2, by flaxfer and by PyTorch.

    python -m tests.parity.sst2_curve

Both start from the same random weights and see the same examples in the same order for an epoch,
without dropout; flaxfer in packed rows, PyTorch in padded ones. Prints the largest difference
between the curves and exits with 1 unless it is below 1e-3. Needs torch, sentencepiece, and the
folder of public data sets and models beside the repository.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
import torch
import transformers

from flaxfer.config import Model, Optimizer, Source, Task, Train
from flaxfer.data.loader import TrainPlan
from flaxfer.data.sources import read_source
from flaxfer.data.tokenize import load_tokenizer, tokenize
from flaxfer.models.pretrained import load_encoder_config, load_pretrained
from flaxfer.models.spec import ModelSpec
from flaxfer.tasks import task_type
from flaxfer.training import state
from flaxfer.training.optimizer import make_optimizer
from flaxfer.training.step import StepSpec, make_train_step
from tests.parity import torch_side

SHARED = Path(__file__).parents[2] / "../shared"
LIMIT = 1e-3

MAX_LENGTH, BATCH_SIZE, SEED = 128, 32, 0
TASK = Task("sst2", "classification", metric="accuracy", labels=("0", "1"))
TRAIN = Train(
    epochs=1, batch_size=BATCH_SIZE, max_length=MAX_LENGTH, row_length=MAX_LENGTH, packing=True
)
OPTIMIZER = Optimizer(
    learning_rate=1e-3, weight_decay=0.01, warmup=20, clip_norm=1.0, schedule="linear"
)


def write_model(folder: Path, shared: Path) -> None:
    """Write a small XLNet with random weights and the real tokenizer."""
    torch.manual_seed(SEED)
    config = transformers.XLNetConfig(d_model=64, n_layer=2, n_head=4, d_inner=128, dropout=0.0)
    config.summary_last_dropout = 0.0
    transformers.XLNetForSequenceClassification(config).save_pretrained(folder)
    shutil.copy(shared / "models" / "tokenizers" / "xlnet-cased" / "spiece.model", folder)


def read_texts(shared: Path) -> Any:
    """Return the training examples of SST-2."""
    path = shared / "data" / "glue-samples" / "SST-2" / "train.tsv"
    columns: dict[str, str | int] = {"text_a": "text", "label": "label"}
    return read_source(Source(path=str(path), columns=columns), TASK, task_type(TASK))


def flaxfer_losses(folder: Path, plan: TrainPlan) -> Iterator[float]:
    """Yield the loss of each step of flaxfer."""
    config = load_encoder_config(folder)
    params = load_pretrained(folder, config, outputs=2)
    mesh = jax.sharding.Mesh(
        np.array(jax.devices()[:1]).reshape(1, 1, 1), ("data", "fsdp", "tensor")
    )
    total = plan.total_steps
    spec = StepSpec(ModelSpec(config, num_outputs=2), TASK, optimizer=OPTIMIZER, total_steps=total)
    train_step = make_train_step(spec, mesh)
    current = state.init_state(params, make_optimizer(OPTIMIZER, total, params), mesh)
    for _, batch in plan.batches(0, mesh):
        current, metrics = train_step(current, batch, jax.random.key(SEED))
        yield float(metrics["loss"])


def torch_losses(folder: Path, plan: TrainPlan, texts: Any) -> Iterator[float]:
    """Yield the loss of each step of transformers and torch."""
    tokenizer = load_tokenizer(Model(path=str(folder)))
    model = transformers.XLNetForSequenceClassification.from_pretrained(folder).train()
    named, adamw, schedule = torch_side.make_optimizer(model, OPTIMIZER, plan.total_steps)
    for step in range(plan.total_steps):
        chosen = plan.indices(step)
        inputs = tokenizer(
            [texts.text_a[i] for i in chosen],
            truncation=True,
            max_length=MAX_LENGTH,
            padding=True,
            return_token_type_ids=True,
            return_tensors="pt",
        )
        loss = model(**inputs, labels=torch.from_numpy(texts.label[chosen]).long()).loss
        adamw.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(named.values(), OPTIMIZER.clip_norm)
        adamw.step()
        schedule.step()
        yield loss.item()


def curves(shared: Path, steps: int | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Return the losses of flaxfer and PyTorch, for the first steps or the whole epoch."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_model(folder, shared)
        texts = read_texts(shared)
        tokenizer = load_tokenizer(Model(path=name))
        tokens = tokenize(texts, tokenizer, MAX_LENGTH, None)
        plan = TrainPlan.make(tokens, TRAIN, (SEED,), tokenizer.pad_token_id, 1)
        count = steps or plan.total_steps
        ours, theirs = flaxfer_losses(folder, plan), torch_losses(folder, plan, texts)
        pairs = [(next(ours), next(theirs)) for _ in range(count)]
    return np.array(pairs)[:, 0], np.array(pairs)[:, 1]


def main() -> int:
    ours, theirs = curves(SHARED.resolve())
    difference = np.abs(ours - theirs)
    worst = int(difference.argmax())
    ends = f"from {theirs[0]:.3f} to {theirs[-1]:.3f}"
    print(f"{len(ours)} steps of {BATCH_SIZE} examples, loss {ends}")
    print(f"largest difference {difference[worst]:.1e}, at step {worst + 1}; limit {LIMIT:.0e}")
    return 0 if difference.max() < LIMIT else 1


if __name__ == "__main__":
    sys.exit(main())
