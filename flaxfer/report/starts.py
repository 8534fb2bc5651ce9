"""Scores of starts, computed before the target was trained, beside what came out."""

from __future__ import annotations

import dataclasses
import math
from collections import defaultdict

import numpy as np

from flaxfer.evaluation.transferability import Selection, selection
from flaxfer.report.document import Block, Heading, Table, Text
from flaxfer.report.material import Entry, Material
from flaxfer.report.wording import DASH, join, spread
from flaxfer.statistics.scores import number

SCORES = {"logme": "LogME", "knn": "nearest neighbours"}
PRETRAINED = "no intermediate task"


@dataclasses.dataclass(frozen=True)
class Start:
    """Where a target can begin: its scores, (seeds,) by name, and the outcome."""

    scores: dict[str, np.ndarray]
    outcome: float


def start_blocks(material: Material) -> list[Block]:
    """Scores and outcomes of every start of a target, and the regret of choosing by the scores."""
    targets: dict[tuple[str, str], dict[str, Start]] = defaultdict(dict)
    entries: dict[tuple[str, str], Entry] = {}
    for entry in material.entries:
        if entry.study.transferability and entry.headline is not None:
            own = (entry.model, entry.target)
            targets[own] |= _starts(entry)
            entries[own] = entry
    if not targets:
        return []
    rows = [
        [target, model, name, *(spread("", of) for of in one.scores.values()), f"{one.outcome:.3f}"]
        for (model, target), starts in targets.items()
        for name, one in starts.items()
    ]
    header = ["target", "model", "start", *SCORES.values(), "outcome"]
    caption = "Scores of frozen features of the start, and what training from it gave."
    notes = [
        "Larger scores promise more. Outcome: the score that the verdict is of, mean over seeds."
    ]
    table = Table(caption, header, rows, "lllrrr", notes)
    return [Heading("Choice of the intermediate task"), table, _regret(targets, entries)]


def _starts(entry: Entry) -> dict[str, Start]:
    """The starts of a study."""
    assert entry.headline is not None
    found: dict[str, Start] = {}
    conditions = (("direct", PRETRAINED), ("staged", entry.intermediate))
    for condition, name in conditions:
        own = [scores for scores in entry.study.transferability if scores.condition == condition]
        outcome = getattr(entry.headline.all_runs, condition).mean
        if own:
            scores = {key: np.array([number(getattr(one, key)) for one in own]) for key in SCORES}
            found[name] = Start(scores, outcome)
    return found


def _regret(
    targets: dict[tuple[str, str], dict[str, Start]], entries: dict[tuple[str, str], Entry]
) -> Block:
    rows, left_out = [], []
    for place, starts in targets.items():
        headline = entries[place].headline
        assert headline is not None
        outcomes = {start: one.outcome for start, one in starts.items()}
        for key, name in SCORES.items():
            scores = {start: float(one.scores[key].mean()) for start, one in starts.items()}
            if len(scores) < 2 or not all(map(math.isfinite, scores.values())):
                left_out.append(f"{place[1]} with {place[0]} by {name}")
                continue
            made = selection(scores, outcomes, larger_is_better=headline.larger_is_better)
            rows.append([place[1], place[0], name, *_told(made)])
    if not rows:
        return Text(f"A single start, or an undefined score: {join(left_out)}.")
    header = [
        "target", "model", "chosen by", "chosen", "best", "regret", "relative", "rank correlation"
    ]  # fmt: skip
    notes = ["Regret: the best outcome minus that of the start with the largest score."]
    if left_out:
        notes.append(f"A single start, or an undefined score: {join(left_out)}.")
    return Table("Regret of choosing by a score.", header, rows, "lllllrrr", notes)


def _told(made: Selection) -> list[str]:
    relative, rank = made.relative_regret, made.rank_correlation
    return [
        join(made.chosen),
        made.best,
        f"{made.regret:.3f}",
        DASH if math.isnan(relative) else f"{relative:.1%}",
        DASH if math.isnan(rank) else f"{rank:+.2f}",
    ]
