"""Transferability scores of starts, computed before target training, beside the outcomes."""

from __future__ import annotations

import dataclasses
import math
from collections import defaultdict

import numpy as np

from flaxfer.evaluation.transferability import selection
from flaxfer.report.data import Entry, ReportData
from flaxfer.report.document import Block, Heading, Text, table_of
from flaxfer.report.formatting import DASH, join, spread
from flaxfer.statistics.records import Comparison
from flaxfer.statistics.scores import number

SCORES = {"logme": "LogME", "knn": "nearest neighbours"}
PRETRAINED = "no intermediate task"


@dataclasses.dataclass(frozen=True)
class Start:
    """Weights that target training can start from: scores by name, (seeds,), and the outcome."""

    scores: dict[str, np.ndarray]
    outcome: float


Place = tuple[str, str]
"""A target and a model."""


def start_blocks(data: ReportData) -> list[Block]:
    """Return scores and outcomes of all starts, and the regret of choosing by the scores."""
    starts: dict[Place, dict[str, Start]] = defaultdict(dict)
    larger_is_better: dict[Place, bool] = {}
    for entry in data.entries:
        if entry.study.transferability and entry.headline is not None:
            place = entry.target, entry.model
            starts[place] |= _starts(entry, entry.headline)
            larger_is_better[place] = entry.headline.larger_is_better
    if not starts:
        return []
    records = [
        {
            "target": target, "model": model, "start": name,
            **{title: spread("", start.scores[score]) for score, title in SCORES.items()},
            "outcome": f"{start.outcome:.3f}",
        }
        for (target, model), by_name in starts.items()
        for name, start in by_name.items()
    ]  # fmt: skip
    caption = "Scores of frozen features of each start, and the outcome of training from it."
    notes = ["Larger scores promise more. Outcome: the score behind the verdict, mean over seeds."]
    table = table_of(caption, records, "lllrrr", notes)
    return [Heading("Choice of the intermediate task"), table, _regret(starts, larger_is_better)]


def _starts(entry: Entry, headline: Comparison) -> dict[str, Start]:
    starts = {}
    for condition, name in (("direct", PRETRAINED), ("staged", entry.intermediate)):
        seeds = [one for one in entry.study.transferability if one.condition == condition]
        if seeds:
            scores = {key: np.array([number(getattr(one, key)) for one in seeds]) for key in SCORES}
            starts[name] = Start(scores, getattr(headline.all_runs, condition).mean)
    return starts


def _regret(starts: dict[Place, dict[str, Start]], larger_is_better: dict[Place, bool]) -> Block:
    records, left_out = [], []
    for (target, model), by_name in starts.items():
        outcomes = {name: start.outcome for name, start in by_name.items()}
        for key, title in SCORES.items():
            scores = {name: float(start.scores[key].mean()) for name, start in by_name.items()}
            if len(scores) < 2 or not all(map(math.isfinite, scores.values())):
                left_out.append(f"{target} with {model} by {title}")
                continue
            choice = selection(scores, outcomes, larger_is_better=larger_is_better[target, model])
            relative, rank = choice.relative_regret, choice.rank_correlation
            records.append({
                "target": target, "model": model, "chosen by": title,
                "chosen": join(choice.chosen), "best": choice.best,
                "regret": f"{choice.regret:.3f}",
                "relative": DASH if math.isnan(relative) else f"{relative:.1%}",
                "rank correlation": DASH if math.isnan(rank) else f"{rank:+.2f}",
            })  # fmt: skip
    note = f"A single start, or an undefined score: {join(left_out)}."
    if not records:
        return Text(note)
    notes = ["Regret: the best outcome minus the outcome of the start with the largest score."]
    if left_out:
        notes.append(note)
    return table_of("Regret of choosing by a score.", records, "lllllrrr", notes)
