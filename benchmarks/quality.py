r"""Writes BENCHMARKS.md: what flaxfer and transformers' Trainer reach with the same settings.

python -m flaxfer.main --config configs/sts_english.py --config.data_dir=DATA \
    --config.model.path=MODEL
python benchmarks/peer_sts.py --model MODEL --data DATA > runs/peer_sts.jsonl
python benchmarks/quality.py --study runs/sts_english --peer runs/peer_sts.jsonl \
    --model NAME
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Sequence
from pathlib import Path

from scipy.stats import ttest_ind

PAGE = """# Benchmarks

Every number here is written by a command in benchmarks/.

## Quality: STS-B English, {model}
Three epochs of batch 32 with the settings of configs/sts_english.py, float32; test scores of the
best dev epoch, mean ± standard deviation over the seeds. Written by benchmarks/quality.py.

| trainer | seeds | test Pearson | test Spearman |
| --- | --- | ---: | ---: |
| flaxfer {flaxfer} at {git} (jax {jax}) | {seeds} | {pearson} | {spearman} |
| transformers {transformers} Trainer (torch {torch}) | {peer_seeds} | {peer_pearson} \
| {peer_spearman} |

Difference of the mean Pearson, flaxfer minus Trainer: {difference:+.4f}, 95 % interval \
{low:+.4f} to {high:+.4f} (Welch's t). Test Pearson by seed: flaxfer {own}; Trainer {other}.

Machine: {cpu}, {cores} cores, {memory_gib} GiB; Python {python}; {date}.
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--study", required=True, type=Path)
    parser.add_argument("--peer", required=True, type=Path)
    parser.add_argument("--model", required=True, help="what the page calls the checkpoint")
    parser.add_argument("--out", default=Path("BENCHMARKS.md"), type=Path)
    options = parser.parse_args()
    study = json.loads((options.study / "study.json").read_text())
    peer = [json.loads(line) for line in options.peer.read_text().splitlines()]
    tests = [
        next(e["metrics"] for e in run["evaluations"] if e["set"] == "test")
        for run in study["runs"]
    ]
    own = [scores["pearson"] for scores in tests]
    other = [run["test_pearson"] for run in peer]
    interval = ttest_ind(own, other, equal_var=False).confidence_interval()
    page = PAGE.format(
        **study["versions"],
        git=study["git"],
        **{k: study["machine"][k] for k in ("cpu", "cores", "memory_gib")},
        model=options.model,
        date=study["date"][:10],
        seeds=len(own),
        pearson=spread(own),
        spearman=spread([scores["spearman"] for scores in tests]),
        torch=peer[0]["torch"],
        peer_seeds=len(peer),
        peer_pearson=spread(other),
        peer_spearman=spread([run["test_spearman"] for run in peer]),
        difference=statistics.mean(own) - statistics.mean(other),
        low=interval.low,
        high=interval.high,
        own=", ".join(f"{value:.4f}" for value in own),
        other=", ".join(f"{value:.4f}" for value in other),
    )
    options.out.write_text(page, encoding="utf-8")
    print(page)


def spread(values: Sequence[float]) -> str:
    return f"{statistics.mean(values):.4f} ± {statistics.stdev(values):.4f}"


if __name__ == "__main__":
    main()
