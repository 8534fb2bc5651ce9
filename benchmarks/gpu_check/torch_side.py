"""Time transformers' PyTorch Trainer in the cells of a part.

bfloat16 autocast, fused AdamW, SDPA, rows padded to a multiple of 8, batches built ahead by two
workers; schedule, clipping, data and sizes are flaxfer's.
"""

from __future__ import annotations

import tempfile
import time
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import transformers
from scipy.stats import pearsonr

from benchmarks import common
from benchmarks.gpu_check import peaks, plan, shapes
from benchmarks.gpu_check.records import Child

PACKAGES = ("torch", "transformers", "accelerate", "numpy")
WARMUP, COMPILED_WARMUP = 3, 12
"""Untimed steps; `torch.compile` compiles again when shapes first differ."""

COMPILE_LIMIT = 45.0
"""Seconds that the untimed steps of a compiled model may take."""

GPU = torch.cuda.is_available()

Features = list[dict[str, Any]]


class TooSlow(Exception):
    """Compiling takes longer than `COMPILE_LIMIT`."""


def main(arguments: Sequence[str] | None = None) -> None:
    child = Child.parse(__doc__, arguments)
    transformers.logging.set_verbosity_error()
    warnings.filterwarnings("ignore", message=".*pin_memory.*")

    def figures(cell: plan.Cell) -> dict[str, Any]:
        if GPU:
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
        with tempfile.TemporaryDirectory() as folder:
            measured = measure(cell, child.tiny, folder)
        peak = torch.cuda.max_memory_allocated() if GPU else None
        about = {"device": device_name(), "versions": common.versions(*PACKAGES)}
        return measured | {"peak_device_bytes": peak} | about

    # Without its package, flash attention is an ImportError.
    child.run_cells(figures, "torch", (torch.OutOfMemoryError, TooSlow, ImportError))


def device_name() -> str:
    """Return the device's name."""
    return torch.cuda.get_device_name() if GPU else "cpu"


class Clock(transformers.TrainerCallback):
    """Stop the warm-up if it takes too long, and time the steps behind it."""

    def __init__(self, warmup: int, limit: float) -> None:
        self.warmup, self.limit, self.created = warmup, limit, time.monotonic()
        self.began = self.ended = self.warmup_s = 0.0

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step < self.warmup:
            if time.monotonic() - self.created > self.limit:
                raise TooSlow(
                    f"{state.global_step} of {self.warmup} warm-up steps took {self.limit:.0f} s"
                )
        elif state.global_step == self.warmup:
            synchronize()
            self.began = time.monotonic()
            self.warmup_s = self.began - self.created
        elif state.global_step == state.max_steps:
            synchronize()
            self.ended = time.monotonic()


class DrawingTrainer(transformers.Trainer):
    """A Trainer that takes `max_steps` random batches of the first epoch, and times its input."""

    def __init__(self, **arguments: Any) -> None:
        super().__init__(**arguments)
        self.order: list[int] = []
        self.waits: list[float] = []

    def _get_train_sampler(self, *args: Any, **kwargs: Any) -> Any:
        order = list(super()._get_train_sampler(*args, **kwargs))
        size, steps = self.args.per_device_train_batch_size, self.args.max_steps
        whole = [order[i : i + size] for i in range(0, len(order) - size + 1, size)]
        assert len(whole) >= steps, f"an epoch has {len(whole)} whole batches, not {steps}"
        chosen = np.random.default_rng(self.args.seed).choice(len(whole), steps, replace=False)
        self.order = [i for batch in chosen for i in whole[batch]]
        return self.order

    def get_batch_samples(self, *args: Any, **kwargs: Any) -> Any:
        began = time.monotonic()
        samples = super().get_batch_samples(*args, **kwargs)
        self.waits.append(time.monotonic() - began)
        return samples


def measure(cell: plan.Cell, tiny: bool, folder: str) -> dict[str, Any]:
    """Return the figures of a cell; the Trainer writes to `folder`."""
    corpus = shapes.corpus(cell.model, cell.data, tiny)
    compiled = "compile" in cell.how
    warmup = COMPILED_WARMUP if compiled and not tiny else WARMUP
    batch = max(cell.batch // 8, 4) if tiny else cell.batch
    steps = min(shapes.steps(cell.batch, tiny), len(corpus.ids) // batch - warmup)
    clock = Clock(warmup, COMPILE_LIMIT if compiled else float("inf"))
    trainer = DrawingTrainer(
        model=model_of(cell, tiny),
        args=arguments(cell, folder, batch, warmup + steps, "eager" if tiny else "inductor"),
        train_dataset=features(corpus),
        data_collator=Collator(shapes.settings(cell.model, tiny)["pad_token_id"]),
        callbacks=[clock],
        compute_metrics=scores,
    )
    trainer.remove_callback(transformers.PrinterCallback)
    if cell.what == "eval":
        return evaluate(trainer, corpus, batch, "grouped" in cell.how)
    trainer.train()
    lengths = corpus.lengths[np.array(trainer.order[warmup * batch :])].reshape(steps, batch)
    seconds = clock.ended - clock.began
    return figures(lengths, seconds) | {
        "input_stall_share": sum(trainer.waits[warmup : warmup + steps]) / seconds,
        "warmup_s": clock.warmup_s,
    }


def model_of(cell: plan.Cell, tiny: bool) -> Any:
    """Return the model with random weights, float32, for scores."""
    settings = dict(shapes.settings(cell.model, tiny))
    if plan.NO_DROPOUT in cell.how:
        settings["attention_probs_dropout_prob"] = 0.0
    flash = "flash_attention_2" in cell.how
    config = transformers.AutoConfig.for_model(
        settings.pop("model_type"), **settings, num_labels=1, problem_type="regression"
    )
    return transformers.AutoModelForSequenceClassification.from_config(
        config, attn_implementation="flash_attention_2" if flash else "sdpa", dtype=torch.float32
    )


def arguments(
    cell: plan.Cell, folder: str, batch: int, steps: int, backend: str
) -> transformers.TrainingArguments:
    """Return the settings of a run; `backend` is that of `torch.compile`."""
    grouped = "grouped" in cell.how and cell.what == "train"
    return transformers.TrainingArguments(
        output_dir=folder,
        use_cpu=not GPU,
        bf16=True,
        optim="adamw_torch_fused",
        torch_compile="compile" in cell.how,
        torch_compile_backend=backend if "compile" in cell.how else None,
        train_sampling_strategy="group_by_length" if grouped else "random",
        max_steps=steps,
        per_device_train_batch_size=batch,
        per_device_eval_batch_size=batch,
        learning_rate=5e-5,
        weight_decay=0.01,
        warmup_steps=0.1,
        lr_scheduler_type="linear",
        max_grad_norm=1.0,
        dataloader_num_workers=2 if GPU else 0,
        dataloader_persistent_workers=GPU,
        logging_steps=500,  # The default: logging waits for the GPU.
        eval_strategy="no",
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
    )


def features(corpus: shapes.Corpus) -> Features:
    """Return the examples as a tokenizer gives them."""
    pairs = zip(corpus.ids, corpus.label, strict=True)
    return [{"input_ids": ids.tolist(), "labels": float(label)} for ids, label in pairs]


class Collator:
    """Pad to the longest example, and on to a multiple of 8."""

    def __init__(self, pad: int) -> None:
        self.pad = pad

    def __call__(self, batch: Features) -> dict[str, torch.Tensor]:
        width = padded(max(len(example["input_ids"]) for example in batch))
        ids = torch.full((len(batch), width), self.pad, dtype=torch.long)
        for row, example in enumerate(batch):
            ids[row, : len(example["input_ids"])] = torch.tensor(example["input_ids"])
        labels = torch.tensor([example["labels"] for example in batch])
        return {"input_ids": ids, "attention_mask": (ids != self.pad).long(), "labels": labels}


def padded(length: int) -> int:
    """Return the next multiple of 8."""
    return -(-length // 8) * 8


def evaluate(
    trainer: DrawingTrainer, corpus: shapes.Corpus, batch: int, grouped: bool
) -> dict[str, Any]:
    """Score all examples twice, and time the second time; `grouped` sorts them by length."""
    order = np.argsort(-corpus.lengths, kind="stable") if grouped else np.arange(len(corpus.ids))
    examples = [trainer.train_dataset[i] for i in order]
    trainer.evaluate(examples[: 4 * batch])
    trainer.evaluate(examples[-4 * batch :])
    synchronize()
    began = time.monotonic()
    trainer.evaluate(examples)
    synchronize()
    seconds = time.monotonic() - began
    lengths = corpus.lengths[order]
    ends = range(0, len(lengths), batch)
    return figures([lengths[i : i + batch] for i in ends], seconds)


def figures(batches: Sequence[np.ndarray], seconds: float) -> dict[str, Any]:
    """Return rates for batches of lengths, under flaxfer's names."""
    examples, tokens = sum(map(len, batches)), int(sum(map(np.sum, batches)))
    slots = sum(len(lengths) * padded(int(lengths.max())) for lengths in batches)
    return {
        "examples_per_s": examples / seconds,
        "useful_tokens_per_s": tokens / seconds,
        "padding_share": 1 - tokens / slots,
        "examples": examples,
        "tokens": tokens,
        "pairs": float(sum(np.sum(lengths.astype(float) ** 2) for lengths in batches)),
        "steps": len(batches),
        "seconds": seconds,
        "peak_flops_per_s": peaks.peak(device_name()),
    }


def synchronize() -> None:
    """Wait for the GPU."""
    if GPU:
        torch.cuda.synchronize()


def scores(prediction: transformers.EvalPrediction) -> dict[str, float]:
    """Return Pearson's correlation."""
    return {"pearson": pearsonr(np.squeeze(prediction.predictions), prediction.label_ids)[0]}


if __name__ == "__main__":
    common.guarded(main)
