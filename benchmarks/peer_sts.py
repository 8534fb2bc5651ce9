"""The study of configs/sts_english.py with transformers' PyTorch Trainer; a JSON line per seed.

Needs the extra `bench`. Data, batch size, epochs, optimizer, schedule, clipping, float32 and the
choice of the best dev epoch are the same; order, heads and dropout differ, as between seeds.

  python -m benchmarks.peer_sts --model MODEL --data DATA [--seeds 0 1 2 3 4 5]

`--dtype`, `--batching`, `--torch_compile` and `--cache` are as in benchmarks/peer_trainer.py;
`--sentence_transformers` trains the CrossEncoder of that library instead. `score_s` are the seconds
from the start of the process to the score of the first seed.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
import transformers

from benchmarks import common, peer_trainer

SPLITS = ("train", "dev", "test")
BATCH, EVAL_BATCH, LENGTH = 32, 64, 128


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--model", required=True)
    parser.add_argument("--data", required=True, type=Path)
    parser.add_argument("--seeds", type=int, nargs="+", default=list(range(6)))
    parser.add_argument("--epochs", type=common.count, default=3)
    parser.add_argument("--cache", type=Path, help="folder for compiled programs")
    peer_trainer.add_options(parser)
    parser.add_argument("--sentence_transformers", action="store_true")
    options = parser.parse_args()
    imports_s = common.since_start()
    peer_trainer.prepare(options)
    texts = {
        name: common.read(options.data / f"stsb-multi-mt/stsb-en-{name}.csv", task="regression")
        for name in SPLITS
    }
    train, packages = run, peer_trainer.PACKAGES
    if options.sentence_transformers:
        from benchmarks import peer_sentence

        train, packages = peer_sentence.train_and_score, peer_sentence.PACKAGES
    for seed in options.seeds:
        options.seed = seed
        began = time.monotonic()
        with tempfile.TemporaryDirectory() as folder:
            line = train(options, texts, folder)
        line |= {
            "seed": seed,
            "seconds": time.monotonic() - began,
            "dtype": options.dtype,
            "torch": torch.__version__,
            "transformers": transformers.__version__,
            "versions": common.versions(*packages),
        }
        if seed == options.seeds[0]:
            line |= {"imports_s": imports_s, "score_s": common.since_start()}
        print(json.dumps(line), flush=True)


def run(options: argparse.Namespace, texts: dict[str, common.Texts], folder: str) -> dict[str, Any]:
    """Train, evaluate dev after every epoch, and score test with the best epoch."""
    transformers.set_seed(options.seed)
    tokenizer = transformers.AutoTokenizer.from_pretrained(options.model)
    splits = {name: peer_trainer.encode(texts[name], tokenizer, LENGTH) for name in SPLITS}
    model = peer_trainer.load(options, texts["train"].layout)
    arguments = transformers.TrainingArguments(
        num_train_epochs=options.epochs,
        per_device_train_batch_size=BATCH,
        per_device_eval_batch_size=EVAL_BATCH,
        eval_strategy="epoch",
        save_strategy="epoch",
        save_total_limit=1,
        load_best_model_at_end=True,
        metric_for_best_model="pearson",
        **peer_trainer.common_arguments(options, folder),
    )
    trainer = peer_trainer.WatchedTrainer(
        model=model,
        args=arguments,
        train_dataset=splits["train"],
        eval_dataset=splits["dev"],
        data_collator=peer_trainer.Collator(tokenizer, model),
        processing_class=tokenizer,
        compute_metrics=peer_trainer.scores,
    )
    trainer.remove_callback(transformers.PrinterCallback)
    trained = trainer.train()
    test = trainer.predict(splits["test"]).metrics
    return {
        "test_pearson": test["test_pearson"],
        "test_spearman": test["test_spearman"],
        "steps": trained.global_step,
        "warmup_steps": arguments.get_warmup_steps(trained.global_step),
    }


if __name__ == "__main__":
    common.guarded(main)
