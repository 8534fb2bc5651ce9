r"""Store the scores of flaxfer and transformers' Trainer with the same settings.

flaxfer run --config configs/sts_english.py --config.data_dir=DATA \
    --config.model.path=MODEL
python -m benchmarks.peer_sts --model MODEL --data DATA > runs/peer_sts.jsonl
python -m benchmarks.quality --study runs/sts_english --peer runs/peer_sts.jsonl --model NAME
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks import common

STORED = Path(__file__).parent / "results" / "quality.json"

SECTION = """## Quality: STS-B English, {model}
Three epochs of batch 32 with the settings of configs/sts_english.py, float32; test scores of the
best dev epoch, mean ± standard deviation over seeds. Measured by benchmarks/quality.py.

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
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--study", required=True, type=Path)
    parser.add_argument("--peer", required=True, type=Path)
    parser.add_argument("--model", required=True, help="name of the checkpoint on the page")
    parser.add_argument("--out", default=STORED, type=Path)
    options = parser.parse_args()
    study = json.loads((options.study / "study.json").read_text())
    peer = [json.loads(line) for line in options.peer.read_text().splitlines()]
    record = summary(study, peer) | {"model": options.model}
    options.out.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


def summary(study: dict[str, Any], peer: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return the record for `section`, from a study.json and the lines of peer_sts.py."""
    from scipy.stats import ttest_ind

    tests = [
        next(e["metrics"] for e in run["evaluations"] if e["set"] == "test")
        for run in study["runs"]
    ]
    own = [scores["pearson"] for scores in tests]
    other = [run["test_pearson"] for run in peer]
    interval = ttest_ind(own, other, equal_var=False).confidence_interval()
    return {
        **{name: study["versions"][name] for name in ("python", "flaxfer", "jax")},
        **{name: study["machine"][name] for name in ("cpu", "cores", "memory_gib")},
        "git": study["git"],
        "date": study["date"][:10],
        "torch": peer[0]["torch"],
        "transformers": peer[0]["transformers"],
        "own": own,
        "other": other,
        "pearson": spread(own),
        "spearman": spread([scores["spearman"] for scores in tests]),
        "peer_pearson": spread(other),
        "peer_spearman": spread([run["test_spearman"] for run in peer]),
        "difference": statistics.mean(own) - statistics.mean(other),
        "low": interval.low,
        "high": interval.high,
    }


def section(record: dict[str, Any]) -> str:
    """Return the section of BENCHMARKS.md."""
    values = dict(record)
    for name in ("own", "other"):
        values[name] = ", ".join(f"{value:.4f}" for value in record[name])
    for name in ("pearson", "spearman", "peer_pearson", "peer_spearman"):
        values[name] = "{:.4f} ± {:.4f}".format(*record[name])
    return SECTION.format(seeds=len(record["own"]), peer_seeds=len(record["other"]), **values)


def spread(values: Sequence[float]) -> list[float]:
    """Return mean and standard deviation."""
    return [statistics.mean(values), statistics.stdev(values)]


if __name__ == "__main__":
    common.guarded(main)
