r"""Write the compiler's estimates of flaxfer's steps on TPUs to benchmarks/results.

make gate
.venv-tpu/bin/python -m benchmarks.tpu_estimates --data DATA --vocabulary FILE [--only NAMES]

Each estimate is one `flaxfer aot`, which needs libtpu but no TPU, and takes one to three minutes.
FILE is the vocab.txt of bert-base-uncased, DATA has the folder stsb-multi-mt; only the estimates of
packed rows read them.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks import common

BERT: dict[str, Any] = {
    "model_type": "bert",
    "vocab_size": 30522,
    "hidden_size": 768,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "intermediate_size": 3072,
    "hidden_act": "gelu",
    "hidden_dropout_prob": 0.1,
    "attention_probs_dropout_prob": 0.1,
    "max_position_embeddings": 512,
    "type_vocab_size": 2,
    "layer_norm_eps": 1e-12,
    "pad_token_id": 0,
}
XLM_R = BERT | {
    "model_type": "xlm-roberta",
    "vocab_size": 250_002,
    "max_position_embeddings": 514,
    "type_vocab_size": 1,
    "layer_norm_eps": 1e-5,
    "pad_token_id": 1,
}
"""The encoders of bert-base-uncased and xlm-roberta-base."""

TOKENIZER = {"tokenizer_class": "BertTokenizer", "do_lower_case": True}


def full_rows(chips: int = 1) -> list[str]:
    """Return the options of a step with 64 rows a chip of one example each, without padding."""
    rows = 64 * chips
    words = [f"--topology=v5e:{chips}", f"--rows={rows}", "--examples-per-row=1"]
    return [*words, f"--config.train.batch_size={rows}"]


ESTIMATES = {
    "tpu-flaxfer-bert-base": (BERT, full_rows()),
    "tpu-flaxfer-bert-base-data256": (BERT, [*full_rows(256), "--mesh=data=256"]),
    "tpu-flaxfer-bert-base-data64-fsdp4": (BERT, [*full_rows(256), "--mesh=data=64,fsdp=4"]),
    "tpu-flaxfer-xlm-roberta-base": (XLM_R, full_rows()),
    "tpu-flaxfer-xlm-roberta-base-cut": (XLM_R, [*full_rows(), "--vocabulary=30000"]),
    "variants/12000-rows-of-embedding": (BERT, [*full_rows(), "--vocabulary=12000"]),
    "variants/attention-dropout-0": (BERT, [*full_rows(), "--config.model.attention_dropout=0.0"]),
    "variants/attention-dropout-0-and-splash": (
        BERT,
        [*full_rows(), "--config.model.attention_dropout=0.0", "--config.train.attention=splash"],
    ),
    "variants/clip-norm-0": (BERT, [*full_rows(), "--config.optimizer.clip_norm=0.0"]),
    "variants/short-rows": (BERT, [*full_rows(), "--config.train.attention=short_rows"]),
}
"""Encoder and options by the name of the record."""

PACKED = {f"tpu-flaxfer-bert-base-stsb-{batch}": batch for batch in (64, 256)}
"""Batch sizes of packed rows of STS-B, by the name of the record."""


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--vocabulary", type=Path, required=True)
    parser.add_argument("--only", nargs="+", choices=[*ESTIMATES, *PACKED])
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        models = {}
        for encoder in (BERT, XLM_R):
            folder = models[encoder["model_type"]] = Path(scratch) / encoder["model_type"]
            folder.mkdir()
            (folder / "config.json").write_text(json.dumps(encoder), encoding="utf-8")
        shutil.copyfile(options.vocabulary, models["bert"] / "vocab.txt")
        (models["bert"] / "tokenizer_config.json").write_text(json.dumps(TOKENIZER), "utf-8")
        for name in options.only or [*ESTIMATES, *PACKED]:
            if batch := PACKED.get(name):
                words = [
                    "--topology=v5e:1",
                    f"--config.data_dir={options.data}",
                    f"--config.model.path={models['bert']}",
                    f"--config.train.batch_size={batch}",
                ]
            else:
                encoder, given = ESTIMATES[name]
                words = [f"--model-config={models[encoder['model_type']] / 'config.json'}", *given]
            estimate(name, words)


def estimate(name: str, words: list[str]) -> None:
    """Write the record of one estimate."""
    command = [sys.executable, "-m", "flaxfer.main", "aot"]
    command += ["--config", str(common.ROOT / "configs/sts_english.py:local"), *words]
    file = common.ROOT / common.RECORDS / f"{name}.json"
    print(f"{name}: {' '.join(words)}", flush=True)
    subprocess.run([*command, f"--json={file}"], check=True, cwd=common.ROOT)
    # Records that were written before do not make the commit dirty.
    record = json.loads(file.read_text("utf-8")) | {"git": common.commit()}
    file.write_text(json.dumps(record, indent=1), encoding="utf-8")


if __name__ == "__main__":
    common.guarded(main)
