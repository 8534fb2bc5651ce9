r"""Time transformers' PyTorch Trainer and print the JSON line of train_throughput.

python -m benchmarks.peer_trainer --model FOLDER --data FILE --batching group_by_length [--eval]

Needs torch, transformers 5 and accelerate. AdamW is fused; schedule, clipping, batch size and
length are flaxfer's. The batches are drawn from the whole first epoch, since `group_by_length`
sorts every few dozen of them from long to short.
"""

from __future__ import annotations

import argparse
import tempfile
import time
import warnings
from typing import Any

import numpy as np
import torch
import transformers
from scipy.stats import pearsonr, spearmanr

from benchmarks import common
from flaxfer.errors import ConfigError

PACKAGES = ("torch", "transformers", "accelerate", "numpy")
SETTINGS = {
    "use_cpu": True,
    "learning_rate": 5e-5,
    "weight_decay": 0.01,
    "warmup_steps": 0.1,
    "lr_scheduler_type": "linear",
    "max_grad_norm": 1.0,
    "report_to": "none",
    "disable_tqdm": True,
}
"""Arguments of every Trainer, which are those of flaxfer's runs."""


class Collator:
    """A padding collator that records seconds, examples, tokens and slots of every batch."""

    def __init__(self, tokenizer: Any):
        self._pad = transformers.DataCollatorWithPadding(tokenizer)
        self.batches: list[tuple[float, int, int, int]] = []

    def __call__(self, features: list[dict[str, Any]]) -> Any:
        began = time.monotonic()
        batch = self._pad(features)
        mask = batch["attention_mask"]
        seconds = time.monotonic() - began
        self.batches.append((seconds, len(mask), int(mask.sum()), mask.numel()))
        return batch


class Clock(transformers.TrainerCallback):
    """Times of the first step, of the end of the warm-up, and of the last step."""

    def __init__(self) -> None:
        self.start_s = self.began = self.ended = 0.0

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.start_s = self.start_s or common.since_start()
        self.ended = time.monotonic()
        if state.global_step == common.WARMUP:
            self.began = self.ended

    def on_prediction_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.start_s = self.start_s or common.since_start()


class DrawingTrainer(transformers.Trainer):
    """A Trainer that takes `max_steps` random batches of the first epoch."""

    def _get_train_sampler(self, *args: Any, **kwargs: Any) -> Any:
        order = list(super()._get_train_sampler(*args, **kwargs))
        size, steps = self.args.per_device_train_batch_size, self.args.max_steps
        whole = [order[i : i + size] for i in range(0, len(order) - size + 1, size)]
        if len(whole) < steps:
            raise ConfigError(
                f"an epoch has {len(whole)} whole batches, fewer than {steps}",
                hint=f"pass --steps {max(len(whole) - common.WARMUP, 1)}, or more data.",
            )
        chosen = np.random.default_rng(self.args.seed).choice(len(whole), steps, replace=False)
        return [i for batch in chosen for i in whole[batch]]


def main() -> None:
    parser = common.parser(__doc__)
    parser.add_argument("--batching", choices=("dynamic", "group_by_length"), default="dynamic")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--eval", action="store_true", help="time the evaluation instead")
    options = parser.parse_args()
    transformers.logging.set_verbosity_error()
    warnings.filterwarnings("ignore", message=".*pin_memory.*")  # There is no accelerator.
    with tempfile.TemporaryDirectory() as folder:
        measured = run(options, folder)
    figures = measured.result() | {"step_s": measured.seconds / measured.steps}
    figures["devices"] = f"{torch.get_num_threads()} threads"
    what = "eval" if options.eval else "train"
    common.emit("transformers Trainer", what, options, figures, PACKAGES)


def run(options: argparse.Namespace, folder: str) -> common.Measured:
    """Train or evaluate, and measure; the Trainer writes to `folder`."""
    texts = common.read(options.data, options.columns, options.task)
    tokenizer = transformers.AutoTokenizer.from_pretrained(options.model)
    features = encode(texts, tokenizer, options.length)
    collator, clock = Collator(tokenizer), Clock()
    regression = texts.layout.task_type == "regression"
    model = transformers.AutoModelForSequenceClassification.from_pretrained(
        options.model,
        num_labels=1 if regression else len(texts.layout.labels),
        problem_type="regression" if regression else "single_label_classification",
        dtype=torch.float32,  # The default is that of the checkpoint.
    )
    trainer = DrawingTrainer(
        model=model,
        args=arguments(options, folder),
        train_dataset=features,
        data_collator=collator,
        processing_class=tokenizer,
        callbacks=[clock],
        compute_metrics=scores if regression else accuracy,
    )
    trainer.remove_callback(transformers.PrinterCallback)
    if options.eval:
        return evaluate(trainer, features[: options.steps * options.batch], collator, clock)
    trainer.train()
    return totals(collator.batches[common.WARMUP :], clock.ended - clock.began, clock)


def encode(texts: common.Texts, tokenizer: Any, length: int) -> list[dict[str, Any]]:
    """Return one record per example, tokenized and not padded."""
    encoded = texts.encode(tokenizer, max_length=length)
    return [
        {**{key: encoded[key][i] for key in encoded}, "labels": target}
        for i, target in enumerate(texts.targets())
    ]


def arguments(options: argparse.Namespace, folder: str) -> transformers.TrainingArguments:
    """Return the settings of flaxfer's run."""
    grouped = options.batching == "group_by_length"
    return transformers.TrainingArguments(
        output_dir=folder,
        seed=options.seed,
        bf16=options.dtype == "bfloat16",
        optim="adamw_torch_fused",
        train_sampling_strategy="group_by_length" if grouped else "random",
        max_steps=common.WARMUP + options.steps,
        per_device_train_batch_size=options.batch,
        per_device_eval_batch_size=options.batch,
        logging_steps=10,
        eval_strategy="no",
        save_strategy="no",
        **SETTINGS,
    )


def evaluate(
    trainer: transformers.Trainer, features: list[dict[str, Any]], collator: Collator, clock: Clock
) -> common.Measured:
    """Score a few batches to warm up, then time all examples."""
    trainer.evaluate(features[: common.WARMUP * trainer.args.per_device_eval_batch_size])
    collator.batches.clear()
    began = time.monotonic()
    trainer.evaluate(features)
    return totals(collator.batches, time.monotonic() - began, clock)


def totals(
    batches: list[tuple[float, int, int, int]], seconds: float, clock: Clock
) -> common.Measured:
    """Return the figures of the timed batches."""
    stall, examples, tokens, slots = (sum(column) for column in zip(*batches, strict=True))
    return common.Measured(
        examples=examples,
        tokens=tokens,
        slots=slots,
        steps=len(batches),
        seconds=seconds,
        stall_seconds=stall,
        start_s=clock.start_s,
    )


def scores(prediction: transformers.EvalPrediction) -> dict[str, float]:
    """Return Pearson's and Spearman's correlation."""
    predicted, score = np.squeeze(prediction.predictions), prediction.label_ids
    return {"pearson": pearsonr(predicted, score)[0], "spearman": spearmanr(predicted, score)[0]}


def accuracy(prediction: transformers.EvalPrediction) -> dict[str, float]:
    """Return the fraction of correct classes."""
    return {"accuracy": float(np.mean(prediction.predictions.argmax(-1) == prediction.label_ids))}


if __name__ == "__main__":
    common.guarded(main)
