"""Transferability scores of starts, computed before target training, beside the outcomes."""

from __future__ import annotations

import dataclasses
import math
from collections import defaultdict

import numpy as np

from flaxfer.evaluation.transferability import selection
from flaxfer.report.data import ReportData
from flaxfer.report.document import Block, Table, Text
from flaxfer.report.formatting import DASH, join, spread
from flaxfer.statistics.scores import number

SCORES = {"logme": "LogME", "knn": "nearest neighbours"}
PRETRAINED = "no intermediate task"


@dataclasses.dataclass(frozen=True)
class Start:
    """Weights that target training can start from: scores by name, (seeds,), and the outcome."""

    scores: dict[str, np.ndarray]
    outcome: float
    larger_is_better: bool


Starts = dict[tuple[str, str], dict[str, Start]]
"""Starts by target and model, then by intermediate task."""


def start_blocks(data: ReportData) -> list[Block]:
    """Return scores and outcomes of all starts, and the regret of choosing by the scores."""
    starts: Starts = defaultdict(dict)
    for entry in data.entries:
        if entry.headline is not None:
            for condition, name in (("direct", PRETRAINED), ("staged", entry.intermediate)):
                seeds = [s for s in entry.study.transferability if s.condition == condition]
                if seeds:
                    starts[entry.target, entry.model][name] = Start(
                        {key: np.array([number(getattr(s, key)) for s in seeds]) for key in SCORES},
                        getattr(entry.headline.all_runs, condition).mean,
                        entry.headline.larger_is_better,
                    )
    if not starts:
        return []
    records = [
        {
            "target": target, "model": model, "start": name,
            **{title: spread(start.scores[key]) for key, title in SCORES.items()},
            "outcome": f"{start.outcome:.3f}",
        }
        for (target, model), by_name in starts.items()
        for name, start in by_name.items()
    ]  # fmt: skip
    caption = "Scores of frozen features of each start, and the outcome of training from it."
    note = "Larger scores promise more. Outcome: the score behind the verdict, mean over seeds."
    table = Table(caption, records, "lll", [note])
    return [table, _regret(starts)]


def _regret(starts: Starts) -> Block:
    records, left_out = [], []
    for (target, model), by_name in starts.items():
        outcomes = {name: start.outcome for name, start in by_name.items()}
        larger_is_better = all(start.larger_is_better for start in by_name.values())
        for key, title in SCORES.items():
            scores = {name: float(start.scores[key].mean()) for name, start in by_name.items()}
            if len(scores) < 2 or not all(map(math.isfinite, scores.values())):
                left_out.append(f"{target} with {model} by {title}")
                continue
            choice = selection(scores, outcomes, larger_is_better=larger_is_better)
            relative, rank = choice.relative_regret, choice.rank_correlation
            records.append({
                "target": target, "model": model, "chosen by": title,
                "chosen": choice.chosen, "best": choice.best,
                "regret": f"{choice.regret:.3f}",
                "relative": DASH if math.isnan(relative) else f"{relative:.1%}",
                "rank correlation": DASH if math.isnan(rank) else f"{rank:+.2f}",
            })  # fmt: skip
    left_out_note = f"A single start, or an undefined score: {join(left_out)}."
    if not records:
        return Text(left_out_note)
    notes = ["Regret: the best outcome minus the outcome of the start with the largest score."]
    notes += [left_out_note] if left_out else []
    return Table("Regret of choosing by a score.", records, "lllll", notes)
