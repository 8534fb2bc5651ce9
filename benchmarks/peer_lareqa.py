r"""Train the dual encoder of configs/lareqa.py in PyTorch, score it, and print a JSON line.

python -m benchmarks.peer_lareqa --model MODEL --data DATA [--seed 0] [--before]

Needs torch and transformers. Examples and settings are those that flaxfer reads from the config.
Encoding, loss, optimizer, schedule, embeddings and scores are written here with PyTorch and NumPy:
a batch is a part of a random permutation, padded to its longest text.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers

from benchmarks import common
from flaxfer.config import Config, loading
from flaxfer.data.examples import Examples
from flaxfer.data.sources import Pool
from flaxfer.errors import ConfigError
from flaxfer.tasks import TASK_TYPES, task_type

CONFIG = common.ROOT / "configs" / "lareqa.py"
PACKAGES = ("torch", "transformers", "numpy")
EVAL_BATCH = 32
RANKED = 20


class DualEncoder(torch.nn.Module):
    """One encoder for both sides: the CLS token, scaled to length 1, and the trained scale."""

    def __init__(self, options: argparse.Namespace, config: Config):
        super().__init__()
        self.encoder = transformers.AutoModel.from_pretrained(
            options.model, dtype=torch.float32, add_pooling_layer=False
        )
        self.tokenizer = transformers.AutoTokenizer.from_pretrained(options.model)
        scale = config.target.task.similarity_scale
        self.log_scale = torch.nn.Parameter(torch.tensor(math.log(scale)))
        self._length = config.target.train.max_length
        bfloat16 = options.dtype == "bfloat16"
        self._autocast: Any = torch.autocast("cpu", torch.bfloat16, enabled=bfloat16)

    def forward(self, texts: Sequence[str]) -> torch.Tensor:
        """Return the embeddings of texts, (n, width) in float32."""
        settings = dict(truncation=True, max_length=self._length, padding=True)
        batch = self.tokenizer(list(texts), return_tensors="pt", **settings)
        with self._autocast:
            hidden = self.encoder(**batch).last_hidden_state
        return torch.nn.functional.normalize(hidden[:, 0].float(), dim=-1)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--model", required=True)
    parser.add_argument("--data", required=True, type=Path)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default=common.torch_dtype())
    parser.add_argument("--before", action="store_true", help="score the checkpoint itself, too")
    options = parser.parse_args()
    transformers.logging.set_verbosity_error()
    places = {"data_dir": str(options.data.absolute()), "model.path": options.model}
    config = loading.load(CONFIG, TASK_TYPES, list(places.items()))
    pool = Pool.read(config.target, task_type(config.target.task), config.data_dir)
    splits = pool.splits(options.seed)
    sets = {name: splits[name] for name in config.target.evaluate}
    transformers.set_seed(options.seed)
    model = DualEncoder(options, config)
    line: dict[str, Any] = {"seed": options.seed, "dtype": options.dtype}
    if options.before:
        line["before"] = {name: score(model, examples) for name, examples in sets.items()}
    began = time.monotonic()
    train(model, config, splits["train"], options.seed)
    line |= {
        "train_s": time.monotonic() - began,
        "scores": {name: score(model, examples) for name, examples in sets.items()},
        "versions": common.versions(*PACKAGES),
    }
    print(json.dumps(line), flush=True)


def train(model: DualEncoder, config: Config, examples: Examples, seed: int) -> None:
    """Train for the steps of the config.

    Raises:
      ConfigError: The config has a setting that is not done here.
    """
    stage, optimizer = config.target, config.target.optimizer
    steps = stage.train.max_steps
    plain = optimizer.schedule == "linear" and not (optimizer.warmup or optimizer.end_factor)
    if not (plain and steps and stage.task.pooling == "cls" and optimizer.name == "adamw"):
        raise ConfigError(
            "the config has another pooling, optimizer or schedule than this script",
            where=str(CONFIG),
            hint="change the script with the config.",
        )
    model.train()
    adamw = torch.optim.AdamW(
        model.parameters(),
        lr=optimizer.learning_rate,
        betas=(optimizer.b1, optimizer.b2),
        eps=optimizer.eps,
        weight_decay=optimizer.weight_decay,
    )
    schedule = torch.optim.lr_scheduler.LambdaLR(adamw, lambda step: 1 - step / steps)
    passages = examples.text_b or ()
    batches = batch_numbers(len(examples), stage.train.batch_size, seed)
    for _ in range(steps):
        chosen = next(batches)
        # A passage that answers two questions of the batch is in it once.
        distinct = list(dict.fromkeys(passages[i] for i in chosen))
        right = torch.tensor([distinct.index(passages[i]) for i in chosen])
        query = model([examples.text_a[i] for i in chosen])
        logits = query @ model(distinct).T * model.log_scale.exp()
        torch.nn.functional.cross_entropy(logits, right).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), optimizer.clip_norm)
        adamw.step()
        schedule.step()
        adamw.zero_grad()


def batch_numbers(n: int, size: int, seed: int) -> Iterator[list[int]]:
    """Yield whole batches of examples, from one permutation after another."""
    rng, left = np.random.default_rng(seed), []
    while True:
        while len(left) < size:
            left += rng.permutation(n).tolist()
        yield left[:size]
        left = left[size:]


@torch.inference_mode()
def score(model: DualEncoder, examples: Examples) -> float:
    """Return mAP@20 over all passages of a set."""
    model.eval()
    right = [
        {passage, *others}
        for passage, (others, _) in zip(examples.text_b or (), examples.label, strict=True)
    ]
    candidates = {text for texts in right for text in texts}
    candidates |= {text for _, wrong in examples.label for text in wrong}
    ordered = sorted(candidates)
    similarity = embed(model, examples.text_a) @ embed(model, ordered).T
    best = np.argsort(-similarity, axis=1, kind="stable")[:, :RANKED]
    precision = []
    for texts, row in zip(right, best, strict=True):
        hits = np.array([ordered[i] in texts for i in row])
        at_rank = hits.cumsum() / np.arange(1, len(hits) + 1)
        precision.append((at_rank * hits).sum() / min(len(texts), RANKED))
    return float(np.mean(precision))


def embed(model: DualEncoder, texts: Sequence[str]) -> np.ndarray:
    """Return the embeddings of texts; batches have texts of similar length."""
    order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
    parts = [order[i : i + EVAL_BATCH] for i in range(0, len(order), EVAL_BATCH)]
    vectors = np.concatenate([model([texts[i] for i in part]).numpy() for part in parts])
    return vectors[np.argsort(order)]


if __name__ == "__main__":
    common.guarded(main)
