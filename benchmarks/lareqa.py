r"""Train the dual encoder of configs/lareqa.py with flaxfer and with PyTorch, and compare scores.

python -m benchmarks.lareqa --model=MODEL --data=DATA > benchmarks/results/lareqa.json

Needs the environment of `make bench-setup` for PyTorch. Both sides read the same examples and
settings from the config; benchmarks/peer_lareqa.py is the PyTorch side. Each trains every seed on
an order of its own, as between seeds, and is scored by mAP@20 on XQuAD-R in English and German.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks import common, run, summary

CONFIG = common.ROOT / "configs" / "lareqa.py"
PACKAGES = ("flaxfer", "jax", "numpy")
METRIC = "map_at_20"
LEVEL = 0.05

Scores = Mapping[str, list[float]]
"""Scores by seed of each evaluated set."""


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--model", required=True, type=Path, help="folder of a checkpoint")
    parser.add_argument("--data", required=True, type=Path, help="data_dir of the config")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default=common.torch_dtype())
    torch = str(common.ROOT / ".venv-bench-torch" / "bin" / "python")
    parser.add_argument("--python_torch", default=torch, help="interpreter with PyTorch")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        own = flaxfer_scores(options, Path(folder))
    peer = [peer_line(options, seed) for seed in options.seeds]
    by_set = {name: [line["scores"][name] for line in peer] for name in own}
    common.print_line(
        {
            **{"model": options.model.name, "seeds": options.seeds, "dtype": options.dtype},
            "flaxfer": own,
            "torch": by_set,
            "before": peer[0]["before"],
            "comparisons": {name: compared(own[name], by_set[name]) for name in own},
            "peer_train_s": [line["train_s"] for line in peer],
            "versions": peer[0]["versions"] | common.versions(*PACKAGES),
            "machine": common.machine(),
        }
    )


def flaxfer_scores(options: argparse.Namespace, folder: Path) -> dict[str, list[float]]:
    """Run the study in a folder, and return its scores by seed of each evaluated set.

    Raises:
      FlaxferError: It failed.
    """
    settings = {
        "data_dir": options.data.absolute(),
        "model.path": options.model.absolute(),
        "workdir": folder / "study",
        "seeds": f"({', '.join(map(str, options.seeds))},)",
        "train.compute_dtype": options.dtype,
    }
    words = [sys.executable, "-m", "flaxfer.main", "run", "--config", str(CONFIG)]
    run.output([*words, *(f"--config.{key}={value}" for key, value in settings.items())])
    study = json.loads((folder / "study" / "study.json").read_text(encoding="utf-8"))
    runs = {one["seed"]: one["evaluations"] for one in study["runs"]}
    names = sorted({each["set"] for each in runs[options.seeds[0]]}, reverse=True)
    return {
        name: [
            next(each["metrics"][METRIC] for each in runs[seed] if each["set"] == name)
            for seed in options.seeds
        ]
        for name in names
    }


def peer_line(options: argparse.Namespace, seed: int) -> dict[str, Any]:
    """Train a seed in PyTorch, and return its JSON line."""
    command = [options.python_torch, "-m", "benchmarks.peer_lareqa", f"--model={options.model}"]
    command += [f"--data={options.data}", f"--seed={seed}", f"--dtype={options.dtype}"]
    command += ["--before"] if seed == options.seeds[0] else []
    line = run.measure(command)
    print(f"PyTorch, seed {seed}: {line['scores']}, {line['train_s']:.0f} s", file=sys.stderr)
    return line


def compared(own: Sequence[float], peer: Sequence[float]) -> dict[str, float]:
    """Return the difference of the means, its 95 % interval and p value by Welch's t test."""
    from scipy.stats import ttest_ind

    test = ttest_ind(own, peer, equal_var=False)
    interval = test.confidence_interval()
    return {
        "difference": statistics.mean(own) - statistics.mean(peer),
        **{"low": float(interval.low), "high": float(interval.high), "p": float(test.pvalue)},
    }


def section(record: Mapping[str, Any]) -> str:
    """Return the section of BENCHMARKS.md."""
    columns = ["candidates and questions", "trainer", "before", "by seed", "mean ± sd"]
    rows, findings = [], []
    for name, comparison in record["comparisons"].items():
        for side in ("flaxfer", "torch"):
            scores = record[side][name]
            rows.append(
                [
                    name,
                    "PyTorch" if side == "torch" else side,
                    f"{record['before'][name]:.4f}",
                    ", ".join(f"{score:.4f}" for score in scores),
                    f"{statistics.mean(scores):.4f} ± {statistics.stdev(scores):.4f}",
                ]
            )
        verdict = "differ" if comparison["p"] <= LEVEL else "do not differ beyond their spread"
        findings.append(
            f"{name}: flaxfer minus PyTorch {comparison['difference']:+.4f}, 95 % interval "
            f"{comparison['low']:+.4f} to {comparison['high']:+.4f}, p = {comparison['p']:.2f}: "
            f"they {verdict}."
        )
    return (
        f"## Quality: LAReQA, {record['model']}\n"
        "mAP@20 on a tenth of XQuAD-R in each language after 24 steps of a dual encoder on "
        "English SQuAD, with the settings of configs/lareqa.py, "
        f"{record['dtype']}, by benchmarks/lareqa.py; before: of the checkpoint itself. Both "
        "sides read the same examples; encoding, batches, loss, optimizer and scores of the "
        "peer are its own (benchmarks/peer_lareqa.py, PyTorch and transformers). Welch's t test "
        f"over seeds. {summary.machine([dict(record)])}\n\n{summary.table(columns, rows)}\n"
        + " ".join(findings)
    )


if __name__ == "__main__":
    common.guarded(main)
