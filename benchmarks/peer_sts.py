"""The study of configs/sts_english.py with transformers' PyTorch Trainer; a JSON line per seed.

Needs the extra `bench`. Data, batch size, epochs, optimizer, schedule, clipping, float32 and the
choice of the best dev epoch are the same; order, heads and dropout differ, as between seeds.

  python -m benchmarks.peer_sts --model MODEL --data DATA [--seeds 0 1 2 3 4 5]
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path

import torch
import transformers

from benchmarks import common
from benchmarks.peer_trainer import SETTINGS, encode, scores


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--model", required=True)
    parser.add_argument("--data", required=True, type=Path)
    parser.add_argument("--seeds", type=int, nargs="+", default=list(range(6)))
    options = parser.parse_args()
    transformers.logging.set_verbosity_error()
    tokenizer = transformers.AutoTokenizer.from_pretrained(options.model)
    splits = {
        name: encode(
            common.read(options.data / f"stsb-multi-mt/stsb-en-{name}.csv"), tokenizer, length=128
        )
        for name in ("train", "dev", "test")
    }
    for seed in options.seeds:
        print(json.dumps(run(options.model, tokenizer, splits, seed)), flush=True)


def run(model: str, tokenizer: object, splits: dict[str, list[dict]], seed: int) -> dict:
    transformers.set_seed(seed)
    with tempfile.TemporaryDirectory() as folder:
        arguments = transformers.TrainingArguments(
            output_dir=folder,
            seed=seed,
            num_train_epochs=3,
            per_device_train_batch_size=32,
            per_device_eval_batch_size=64,
            eval_strategy="epoch",
            save_strategy="epoch",
            save_total_limit=1,
            load_best_model_at_end=True,
            metric_for_best_model="pearson",
            **SETTINGS,
        )
        trainer = transformers.Trainer(
            model=transformers.AutoModelForSequenceClassification.from_pretrained(
                model, num_labels=1, problem_type="regression"
            ),
            args=arguments,
            train_dataset=splits["train"],
            eval_dataset=splits["dev"],
            data_collator=transformers.DataCollatorWithPadding(tokenizer),
            compute_metrics=scores,
        )
        trainer.remove_callback(transformers.PrinterCallback)
        began = time.monotonic()
        trained = trainer.train()
        test = trainer.predict(splits["test"]).metrics
    return {
        "seed": seed,
        "test_pearson": test["test_pearson"],
        "test_spearman": test["test_spearman"],
        "steps": trained.global_step,
        "warmup_steps": arguments.get_warmup_steps(trained.global_step),
        "seconds": time.monotonic() - began,
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }


if __name__ == "__main__":
    main()
