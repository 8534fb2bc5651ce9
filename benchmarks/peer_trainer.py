r"""Time transformers' PyTorch Trainer and print the JSON line of train_throughput.

python -m benchmarks.peer_trainer --model FOLDER --data FILE --batching group_by_length [--eval]

Needs torch, transformers 5 and accelerate. AdamW is fused; schedule, clipping, batch size and
length are flaxfer's. The batches are drawn from the whole first epoch, since `group_by_length`
sorts every few dozen of them from long to short. `--dtype auto` is bfloat16 autocast where the
device multiplies bfloat16. With `--torch_compile`, more steps come before the clock starts, until
shapes are dynamic; `compile_s` is what they take beyond steps of the usual time, and `--cache`
keeps the programs. `--batching padding_free` concatenates the examples of a batch; on a GPU with
flash attention, no slot is then wasted.
"""

from __future__ import annotations

import argparse
import functools
import importlib.util
import os
import tempfile
import time
import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
import transformers
from scipy.stats import pearsonr, spearmanr

from benchmarks import common, padding_free
from benchmarks.padding_free import PaddingFree
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
    # Looking for NaN would wait for the device in every step.
    "logging_nan_inf_filter": False,
}
"""Arguments of every Trainer, which are those of flaxfer's runs."""

BATCHING = ("dynamic", "group_by_length", "padding_free")
COMPILE_WARMUP = 8
"""Untimed steps and batches with torch.compile: the first shapes are compiled several times."""
WORKERS = 4
"""Processes that build batches for an accelerator; on a CPU they would take cores from the step."""

Batch = tuple[float, int, int, int]
"""Seconds that the loop waited, examples, tokens and slots of a batch."""


class Collator:
    """A padding or concatenating collator that adds `counts`: examples, tokens and slots."""

    def __init__(self, tokenizer: Any, model: torch.nn.Module | None = None):
        self._collate: Any = transformers.DataCollatorWithPadding(tokenizer)
        if isinstance(model, PaddingFree):
            start = padding_free.position_start(model.config)
            self._collate = functools.partial(padding_free.concatenate, position_start=start)

    def __call__(self, features: list[dict[str, Any]]) -> Any:
        tokens = sum(len(record["input_ids"]) for record in features)
        batch = self._collate(features)
        batch["counts"] = (len(features), tokens, batch["input_ids"].numel())
        return batch


class Watched:
    """A data loader that takes `counts` out of its batches and notes how long each took."""

    def __init__(self, loader: Any, batches: list[Batch]):
        self._loader, self._batches = loader, batches

    def __iter__(self) -> Iterator[Any]:
        source = iter(self._loader)
        while True:
            began = time.monotonic()
            batch = next(source, None)
            if batch is None:
                return
            self._batches.append((time.monotonic() - began, *batch.pop("counts")))
            yield batch

    def __len__(self) -> int:
        return len(self._loader)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loader, name)


class Clock(transformers.TrainerCallback):
    """Times of the first step, of the end of the warm-up, and of the last step."""

    def __init__(self, warmup: int) -> None:
        self.start_s = self.first = self.began = self.ended = 0.0
        self._warmup = warmup

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.first = time.monotonic()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        # Between these steps, the device is ahead of the host.
        if state.global_step in (1, self._warmup, state.max_steps):
            wait_for_device()
            self.start_s = self.start_s or common.since_start()
            self.ended = time.monotonic()
        if state.global_step == self._warmup:
            self.began = self.ended

    def on_prediction_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.start_s = self.start_s or common.since_start()


class WatchedTrainer(transformers.Trainer):
    """A Trainer for `Collator`; `batches` has its batches of training and evaluation."""

    def __init__(self, *args: Any, **kwargs: Any):
        self.batches: list[Batch] = []
        super().__init__(*args, **kwargs)

    def get_train_dataloader(self) -> Any:
        return Watched(super().get_train_dataloader(), self.batches)

    def get_eval_dataloader(self, *args: Any, **kwargs: Any) -> Any:
        return Watched(super().get_eval_dataloader(*args, **kwargs), self.batches)

    def get_test_dataloader(self, *args: Any, **kwargs: Any) -> Any:
        return Watched(super().get_test_dataloader(*args, **kwargs), self.batches)


class DrawingTrainer(WatchedTrainer):
    """A Trainer that takes `max_steps` random batches of the first epoch."""

    def _get_train_sampler(self, *args: Any, **kwargs: Any) -> Any:
        order = list(super()._get_train_sampler(*args, **kwargs))
        size, steps = self.args.per_device_train_batch_size, self.args.max_steps
        return drawn(order, size, steps, self.args.seed)


def drawn(order: list[int], size: int, steps: int, seed: int) -> list[int]:
    """Return `steps` random whole batches of an epoch's order.

    Raises:
      ConfigError: the epoch is shorter.
    """
    whole = [order[i : i + size] for i in range(0, len(order) - size + 1, size)]
    if len(whole) < steps:
        raise ConfigError(
            f"an epoch has {len(whole)} whole batches, fewer than {steps} with those before the "
            "clock starts",
            hint=f"lower --steps by {steps - len(whole)}, or pass more data.",
        )
    chosen = np.random.default_rng(seed).choice(len(whole), steps, replace=False)
    return [i for batch in chosen for i in whole[batch]]


def main() -> None:
    parser = common.parser(__doc__)
    add_options(parser)
    parser.add_argument("--eval", action="store_true", help="time the evaluation instead")
    options = parser.parse_args()
    prepare(options)
    with tempfile.TemporaryDirectory() as folder:
        measured = run(options, folder)
    figures = measured.result() | {"step_s": measured.seconds / measured.steps}
    what = "eval" if options.eval else "train"
    common.emit("transformers Trainer", what, options, figures | device_facts(options), PACKAGES)


def add_options(parser: argparse.ArgumentParser, batching: tuple[str, ...] = BATCHING) -> None:
    """Add the options of every script that uses PyTorch."""
    parser.add_argument("--batching", choices=batching, default="dynamic")
    parser.add_argument("--dtype", choices=("auto", "float32", "bfloat16"), default="float32")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--torch_compile", action="store_true", help="compile with inductor")
    parser.add_argument(
        "--attention",
        choices=("auto", "eager", "sdpa", "flash_attention_2"),
        default="auto",
        help="auto: flash attention in bfloat16 on a GPU where it is installed, else sdpa",
    )


def prepare(options: argparse.Namespace) -> None:
    """Resolve `auto` settings in place, and set what the whole process needs.

    Raises:
      ConfigError: there is no GPU, or flash attention is asked for where it cannot run.
    """
    transformers.logging.set_verbosity_error()
    if options.device == "cuda":
        if not torch.cuda.is_available():
            raise ConfigError(
                "--device cuda: PyTorch finds no GPU", hint="pass --device cpu, or install CUDA."
            )
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
    else:
        # There may be no accelerator.
        warnings.filterwarnings("ignore", message=".*pin_memory.*")
    if options.dtype == "auto":
        options.dtype = common.torch_dtype(options.device)
    can_flash = options.device == "cuda" and options.dtype == "bfloat16"
    installed = importlib.util.find_spec("flash_attn") is not None
    if options.attention == "auto":
        options.attention = "flash_attention_2" if can_flash and installed else "sdpa"
    if options.attention == "flash_attention_2" and not (can_flash and installed):
        raise ConfigError(
            "--attention flash_attention_2 needs the package flash-attn, a GPU and bfloat16",
            hint="pass --attention sdpa.",
        )
    cache = getattr(options, "cache", None)
    options.cache_state = common.cache_state(cache)
    if cache:  # Inductor reads this when it first compiles.
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(cache.absolute())


def device_facts(options: argparse.Namespace) -> dict[str, str]:
    """Return the device as an entry of the JSON line."""
    if options.device == "cuda":
        return {"devices": f"1 x {torch.cuda.get_device_name()}"}
    return {"devices": f"{torch.get_num_threads()} threads"}


def wait_for_device() -> None:
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()


def run(options: argparse.Namespace, folder: str) -> common.Measured:
    """Train or evaluate, and measure; the Trainer writes to `folder`."""
    texts = common.read(options.data, options.columns, options.task)
    tokenizer = transformers.AutoTokenizer.from_pretrained(options.model)
    features = encode(texts, tokenizer, options.length)
    clock = Clock(warmup(options))
    model = load(options, texts.layout)
    trainer = DrawingTrainer(
        model=model,
        args=arguments(options, folder),
        train_dataset=features,
        data_collator=Collator(tokenizer, model),
        processing_class=tokenizer,
        callbacks=[clock],
        compute_metrics=scores if texts.layout.task_type == "regression" else accuracy,
    )
    trainer.remove_callback(transformers.PrinterCallback)
    if options.eval:
        return evaluate(trainer, features[: options.steps * options.batch], clock, options)
    trainer.train()
    measured = totals(trainer.batches[warmup(options) :], clock.ended - clock.began, clock.start_s)
    if options.torch_compile:
        usual = measured.seconds / measured.steps * warmup(options)
        measured.compile_s = max(clock.began - clock.first - usual, 0.0)
    return measured


def warmup(options: argparse.Namespace) -> int:
    """Return the number of steps before the clock starts."""
    return COMPILE_WARMUP if options.torch_compile else common.WARMUP


def load(options: argparse.Namespace, layout: common.Layout) -> torch.nn.Module:
    """Return the model with a head for the task, in float32."""
    regression = layout.task_type == "regression"
    model = transformers.AutoModelForSequenceClassification.from_pretrained(
        options.model,
        num_labels=1 if regression else len(layout.labels),
        problem_type="regression" if regression else "single_label_classification",
        dtype=torch.float32,  # The default is that of the checkpoint.
        attn_implementation=options.attention,
    )
    return PaddingFree(model) if options.batching == "padding_free" else model


def encode(texts: common.Texts, tokenizer: Any, length: int) -> list[dict[str, Any]]:
    """Return one record per example, tokenized and not padded."""
    encoded = texts.encode(tokenizer, max_length=length)
    return [
        {**{key: encoded[key][i] for key in encoded}, "labels": target}
        for i, target in enumerate(texts.targets())
    ]


def arguments(options: argparse.Namespace, folder: str) -> transformers.TrainingArguments:
    """Return the settings of flaxfer's run."""
    return transformers.TrainingArguments(
        max_steps=warmup(options) + options.steps,
        per_device_train_batch_size=options.batch,
        per_device_eval_batch_size=options.batch,
        logging_steps=10,
        eval_strategy="no",
        save_strategy="no",
        **common_arguments(options, folder),
    )


def common_arguments(options: argparse.Namespace, folder: str) -> dict[str, Any]:
    """Return the arguments that are the best for a device, and those in `SETTINGS`."""
    grouped = options.batching == "group_by_length"
    is_cpu = options.device == "cpu"
    workers: dict[str, Any] = {} if is_cpu else {"dataloader_num_workers": WORKERS}
    return {
        "output_dir": folder,
        "seed": options.seed,
        "bf16": options.dtype == "bfloat16",
        "optim": "adamw_torch_fused",
        "train_sampling_strategy": "group_by_length" if grouped else "random",
        "torch_compile": options.torch_compile,
        **SETTINGS,
        **workers,
        "use_cpu": is_cpu,
    }


def evaluate(
    trainer: DrawingTrainer,
    features: list[dict[str, Any]],
    clock: Clock,
    options: argparse.Namespace,
) -> common.Measured:
    """Score a few batches to warm up, then time all examples."""
    if options.torch_compile:  # A smaller last batch would be compiled again.
        features = features[: len(features) // options.batch * options.batch]
    spread = np.linspace(0, len(features) - 1, warmup(options) * options.batch).astype(int)
    began = time.monotonic()
    trainer.evaluate([features[i] for i in spread])
    warm_s = time.monotonic() - began
    trainer.batches.clear()
    began = time.monotonic()
    trainer.evaluate(features)
    measured = totals(trainer.batches, time.monotonic() - began, clock.start_s)
    if options.torch_compile:
        usual = measured.seconds / measured.examples * len(spread)
        measured.compile_s = max(warm_s - usual, 0.0)
    return measured


def totals(batches: list[Batch], seconds: float, start_s: float) -> common.Measured:
    """Return the figures of the timed batches."""
    stall, examples, tokens, slots = (sum(column) for column in zip(*batches, strict=True))
    return common.Measured(
        examples=int(examples),
        tokens=int(tokens),
        slots=int(slots),
        steps=len(batches),
        seconds=seconds,
        stall_seconds=stall,
        start_s=start_s,
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
