r"""Time sentence-transformers' CrossEncoder and print the JSON line of train_throughput.

python -m benchmarks.peer_sentence --model FOLDER --data FILE [--eval]

Needs sentence-transformers 5.6.1 or later. The CrossEncoder reads both sentences at once, with the
task, loss, optimizer, schedule and batch size of flaxfer's run; it has scores only. Its trainer
pads random batches, and `predict` sorts by length. Both tokenize on the way, which the other
trainers did before the clock started, so the time of tokenizing is taken off (`tokenize_s`).
It concatenates inputs without padding only for models without a classifier, with flash attention.
"""

from __future__ import annotations

import argparse
import contextlib
import math
import tempfile
import time
from typing import Any

import datasets
import sentence_transformers
import torch
import transformers
from scipy.stats import pearsonr, spearmanr
from sentence_transformers.cross_encoder import losses

from benchmarks import common, peer_trainer
from flaxfer.errors import ConfigError

PACKAGES = ("torch", "transformers", "sentence-transformers", "accelerate", "numpy")


class Encoder(sentence_transformers.CrossEncoder):
    """A CrossEncoder that notes the seconds of tokenizing, and the contents of its batches."""

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.batches: list[peer_trainer.Batch] = []

    def preprocess(self, *args: Any, **kwargs: Any) -> Any:
        began = time.monotonic()
        batch = super().preprocess(*args, **kwargs)
        mask = batch["attention_mask"]
        counts = len(mask), int(mask.sum()), mask.numel()
        self.batches.append((time.monotonic() - began, *counts))
        return batch


class Dev(transformers.TrainerCallback):
    """Scores of dev after every epoch; `best` are the parameters of the best epoch."""

    def __init__(
        self, options: argparse.Namespace, model: Encoder, texts: common.Texts, batch: int
    ):
        self._arguments, self._score = (options, model, texts, batch), -math.inf
        self.best: dict[str, torch.Tensor] = {}

    def on_epoch_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        model = self._arguments[1]
        score = predict(*self._arguments)["pearson"]
        model.train()
        if score > self._score:
            self._score = score
            self.best = {name: value.clone() for name, value in model.state_dict().items()}


def main() -> None:
    parser = common.parser(__doc__)
    peer_trainer.add_options(parser, ("dynamic",))
    parser.add_argument("--eval", action="store_true", help="time the evaluation instead")
    options = parser.parse_args()
    peer_trainer.prepare(options)
    texts = common.read(options.data, options.columns, options.task)
    if texts.layout.task_type != "regression" or texts.text_b is None:
        raise ConfigError("this peer takes pairs with scores", hint="pass another file as --data.")
    with tempfile.TemporaryDirectory() as folder:
        measured = evaluate(options, texts) if options.eval else train(options, texts, folder)
    figures = measured.result() | {"step_s": measured.seconds / measured.steps}
    figures |= peer_trainer.device_facts(options)
    what = "eval" if options.eval else "train"
    common.emit("sentence-transformers", what, options, figures, PACKAGES)


def load(options: argparse.Namespace, length: int) -> Encoder:
    """Return the model with a head for one score."""
    return Encoder(
        options.model,
        num_labels=1,
        max_length=length,
        device=options.device,
        local_files_only=True,
        # A score has any size; the default is a sigmoid.
        activation_fn=torch.nn.Identity(),
        model_kwargs={"dtype": torch.float32, "attn_implementation": options.attention},
    )


def trainer_of(
    options: argparse.Namespace,
    texts: common.Texts,
    model: Encoder,
    folder: str,
    **settings: Any,
) -> sentence_transformers.CrossEncoderTrainer:
    """Return a trainer with flaxfer's settings; `settings` are more of its arguments."""
    arguments = peer_trainer.common_arguments(options, folder) | settings
    del arguments["train_sampling_strategy"]  # It has samplers of its own, none by length.
    return sentence_transformers.CrossEncoderTrainer(
        model=model,
        args=sentence_transformers.CrossEncoderTrainingArguments(**arguments),
        train_dataset=datasets.Dataset.from_dict(
            {"a": texts.text_a, "b": texts.text_b, "label": texts.targets()}
        ),
        loss=losses.MSELoss(model),
    )


def train(options: argparse.Namespace, texts: common.Texts, folder: str) -> common.Measured:
    """Train for some steps of the first epoch, and measure those after the first."""
    model, clock = load(options, options.length), peer_trainer.Clock(peer_trainer.warmup(options))
    last = peer_trainer.warmup(options) + options.steps
    trainer = trainer_of(
        options,
        texts,
        model,
        folder,
        max_steps=last,
        per_device_train_batch_size=options.batch,
        save_strategy="no",
        logging_steps=10,
    )
    trainer.add_callback(clock)
    trainer.train()
    batches = model.batches[-options.steps :]
    return without_tokenizing(batches, clock.ended - clock.began, clock.start_s)


def evaluate(options: argparse.Namespace, texts: common.Texts) -> common.Measured:
    """Score a few batches to warm up, then time all examples."""
    model = load(options, options.length)
    texts = texts.first(options.steps * options.batch)
    warm = texts.first(peer_trainer.warmup(options) * options.batch)
    predict(options, model, warm, options.batch)
    start_s = common.since_start()
    model.batches.clear()
    began = time.monotonic()
    predict(options, model, texts, options.batch)
    return without_tokenizing(model.batches, time.monotonic() - began, start_s)


def without_tokenizing(
    batches: list[peer_trainer.Batch], seconds: float, start_s: float
) -> common.Measured:
    """Return the figures of the timed batches, less the time of tokenizing them."""
    measured = peer_trainer.totals(batches, seconds, start_s)
    measured.more["tokenize_s"] = measured.stall_seconds
    measured.seconds -= measured.stall_seconds
    measured.stall_seconds = 0.0
    return measured


def predict(
    options: argparse.Namespace, model: Encoder, texts: common.Texts, batch: int
) -> dict[str, float]:
    """Score texts; return Pearson's and Spearman's correlation."""
    autocast = (
        torch.autocast(options.device, torch.bfloat16)
        if options.dtype == "bfloat16"
        else contextlib.nullcontext()
    )
    assert texts.text_b is not None
    with autocast:
        predicted = model.predict(
            list(zip(texts.text_a, texts.text_b, strict=True)), batch_size=batch
        )
    score = texts.targets()
    return {
        "pearson": float(pearsonr(predicted, score)[0]),
        "spearman": float(spearmanr(predicted, score)[0]),
    }


def train_and_score(
    options: argparse.Namespace, texts: dict[str, common.Texts], folder: str
) -> dict[str, Any]:
    """Train, evaluate dev after every epoch, and score test with the best epoch.

    The best parameters stay in memory, and nothing is saved: that is faster than with files.
    """
    from benchmarks import peer_sts

    model = load(options, peer_sts.LENGTH)
    trainer = trainer_of(
        options,
        texts["train"],
        model,
        folder,
        num_train_epochs=options.epochs,
        per_device_train_batch_size=peer_sts.BATCH,
        save_strategy="no",
    )
    dev = Dev(options, model, texts["dev"], peer_sts.EVAL_BATCH)
    trainer.add_callback(dev)
    trained = trainer.train()
    model.load_state_dict(dev.best)
    test = predict(options, model, texts["test"], peer_sts.EVAL_BATCH)
    steps = math.ceil(len(texts["train"].text_a) / peer_sts.BATCH) * options.epochs
    assert trained.global_step == steps
    return {
        "test_pearson": test["pearson"],
        "test_spearman": test["spearman"],
        "steps": trained.global_step,
    }


if __name__ == "__main__":
    common.guarded(main)
