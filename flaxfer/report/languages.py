"""Scores of the conditions and their difference, by language and by domain."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np

from flaxfer.evaluation.records import MIXED
from flaxfer.report import plots
from flaxfer.report.data import Entry, ReportData
from flaxfer.report.document import Block, Figure, Folded, Heading, Table, Text
from flaxfer.report.formatting import (
    amount,
    interval,
    join,
    label,
    p_value,
    share,
    signed,
    simultaneous_interval,
    spread_note,
    spreads,
)
from flaxfer.statistics.records import Comparison
from flaxfer.statistics.scores import DIFFERENCE, GAP, MEAN, ZERO_SHOT, Row, Scores

CORRELATION_NOTE = (
    "Seed correlation: of the scores of both conditions over the seeds that they share, empty for "
    "fewer than three; with few seeds it is uncertain. A paired analysis, declared before "
    "training, has shorter intervals where it is high, and longer ones where it is about 0."
)
"""Note on a column of the tables of comparisons."""


def language_blocks(data: ReportData) -> list[Block]:
    """Return scores and differences by language of every study."""
    return data.by_study(lambda entry: _study_blocks(data, entry))


def _study_blocks(data: ReportData, entry: Entry) -> list[Block]:
    """Return the scores of a study by language, with plots, other metrics, and domains."""
    study, scores, metric = entry.study, entry.scores, entry.study.metric
    better = "larger is better" if study.larger_is_better else "smaller is better"
    blocks = list[Block]()
    # The opening of the report already has the verdict, or the means of a single study.
    if not data.single and entry.headline is None:
        blocks.append(Text(mean_sentence(entry)))
    if missing := scores.missing_runs():
        blocks.append(Text(
            f"No finished run of the target: {join(missing)}; means over seeds are undefined there."
        ))  # fmt: skip
    caption, notes = f"{metric} by language, {better}.", _mean_notes(scores)
    blocks.append(_score_table(scores, metric, caption, scores.rows, notes))
    if scores.rows:
        by_row = {condition: scores.by_row(condition, metric) for condition in scores.conditions}
        series: dict[str, np.ndarray] = {
            condition: np.array([*values.values()]) for condition, values in by_row.items()
        }
        dots = "; a dot is one seed" if len(scores.seeds) > 1 else ""
        plot = plots.bars(entry.plot_name("languages"), row_names(scores.rows), series, metric)
        blocks.append(plot.figure(f"{metric} by language{dots}."))
    if entry.comparisons:
        level = data.evidence.level
        blocks += [_difference_plot(entry, level), *_difference_tables(data, entry, level)]
    others = [name for name in study.metrics if name != metric]
    if others and data.single:  # results.csv has them, and a page of many studies stays small.
        tables = [
            _score_table(scores, name, f"{name} by language.", scores.rows) for name in others
        ]
        blocks.append(Folded(f"Other metrics: {join(others)}", tables))
    if scores.domain_rows:
        caption = f"{metric} by domain, for sets with more than one domain."
        table = _score_table(scores, metric, caption, scores.domain_rows)
        blocks += [Heading("Scores by domain", 3), table]
    return blocks


def row_names(rows: Sequence[Row | Comparison]) -> list[str]:
    """Return the languages, with the set where a language has several."""
    counts = Counter(row.language for row in rows)
    return [
        row.language if counts[row.language] == 1 else f"{row.language} / {row.set}" for row in rows
    ]


def _difference_plot(entry: Entry, level: float) -> Figure:
    """Return staged minus direct of every set and mean, with intervals."""
    rows = [*entry.comparisons, *(one for one in entry.means if one.language != GAP)]
    quantity = f"{entry.study.metric}, {DIFFERENCE}"
    plot = plots.intervals(entry.plot_name("differences"), row_names(rows), rows, quantity)
    return plot.figure(interval_caption(quantity, level, rows))


def interval_caption(quantity: str, level: float, comparisons: Sequence[Comparison]) -> str:
    """Return the caption of `plots.intervals`."""
    band = ""
    if any(one.margin is not None for one in comparisons):
        band = " The grey band holds the differences within the margin."
    return f"{quantity} with its {level:.0%} interval; a full point has a verdict.{band}"


def _difference_tables(data: ReportData, entry: Entry, level: float) -> list[Block]:
    """Return the comparisons of every set and mean, over all runs; their statistics are folded."""
    at_chance = any(one.at_chance for one in entry.comparisons)
    rows = (*entry.comparisons, *entry.means)
    records = [
        {
            "language": one.language, "set": one.set, "n": one.n, "units": one.units,
            DIFFERENCE: signed(one.all_runs.difference),
            f"{level:.0%} interval": interval(one.all_runs), "verdict": label(one.all_runs),
            "p after Holm": p_value(one.all_runs.p_holm), "family": one.family,
            "collapsed runs": len(one.collapsed) or None,
            **({"at chance": "yes" if one.at_chance else None} if at_chance else {}),
        }
        for one in rows
    ]  # fmt: skip
    caption = f"{entry.study.metric}: {DIFFERENCE} by language, over all runs."
    notes = [
        "The primary comparison decides about the study; the secondary ones are corrected among "
        "themselves.",
        "A transfer gap becomes narrower or wider; neither is a gain or a loss in score.",
        "Units are what is resampled: fewer than the examples where these belong to clusters, such "
        "as questions about one text, or to parallel sets.",
    ]
    if at_chance:
        notes.append("At chance: no condition scores above chance, so there is nothing to compare.")
    main = Table(caption, records, "llrrrrlrlrl", notes, foot=len(entry.means))
    if not data.single:  # comparisons.csv has the rest, and a page of many studies stays small.
        return [main]
    records = [
        {
            "language": one.language, "set": one.set,
            "simultaneous interval": simultaneous_interval(one.all_runs),
            "p": p_value(one.all_runs.p), "p after Holm": p_value(one.all_runs.p_holm),
            "p of margin after Holm": p_value(one.all_runs.p_equivalence_holm),
            "effect size": amount(one.all_runs.effect_size, 2),
            "seed correlation": amount(one.all_runs.seed_correlation, 2),
            "variance of examples": share(one.all_runs.examples_share),
            "needed seeds": one.all_runs.needed_seeds,
            "needed examples": one.all_runs.needed_examples,
        }
        for one in rows
    ]  # fmt: skip
    notes = ["A family's simultaneous intervals all hold at once.", CORRELATION_NOTE]
    caption = f"{entry.study.metric}: statistics of the differences."
    details = Table(caption, records, "ll", notes, foot=len(entry.means))
    summary = "Intervals of all languages at once, p values, effect sizes, needed sizes"
    return [main, Folded(summary, [details])]


def mean_sentence(entry: Entry) -> str:
    """Return one sentence: the zero-shot mean by condition, the difference, and the spread."""
    study, scores = entry.study, entry.scores
    trained = join(scores.trained)
    if scores.zero_shot:
        mean, languages = ZERO_SHOT, scores.zero_shot
        names = join(languages) if len(languages) < 5 else f"{len(languages)} languages"
        without = f" (without {trained}, trained on)" if trained else ""
        subject = f"Zero-shot mean of {study.metric} over {names}{without}"
    elif scores.trained:
        mean = MEAN
        subject = f"Mean of {study.metric} over {trained}; no language was evaluated zero-shot"
    else:
        return "No set with a language of its own was evaluated: there is no mean over languages."
    columns = scores.mean_columns(study.metric)[mean]
    values = join(f"{name} {text}" for name, text in spreads(columns).items())
    undefined = " Undefined values are named below the table." if "undefined" in values else ""
    return f"{subject}: {values}. {spread_note(scores.seeds)}{undefined}"


def _score_table(
    scores: Scores, metric: str, caption: str, rows: Sequence[Row], notes: Sequence[str] = ()
) -> Table:
    """Return the scores of sets, followed by the means over languages, or the scores of domains."""
    by_domain = rows is scores.domain_rows
    means = {} if by_domain else scores.mean_columns(metric)
    records = [
        {"language": row.language, "set": row.set}
        | ({"domain": row.domain} if by_domain else {})
        | {"n": f"{row.n:,}"}
        | spreads(scores.row_columns(row, metric))
        for row in rows
    ]
    records += [
        {"language": name, "set": "", "n": ""} | spreads(columns) for name, columns in means.items()
    ]
    notes = [*scores.gaps(rows, metric), *notes]
    align = "lll" if by_domain else "ll"
    return Table(f"{caption} {spread_note(scores.seeds)}", records, align, notes, len(means))


def _mean_notes(scores: Scores) -> list[str]:
    """Return notes on what the means include."""
    trained, notes = join(scores.trained), []
    if scores.trained and scores.zero_shot:
        notes.append(f"The zero-shot mean is over {join(scores.zero_shot)}.")
        notes.append(
            f"The transfer gap is the score of {trained}, trained on, minus the zero-shot mean."
        )
    elif scores.zero_shot:
        notes.append("No language of training was evaluated: there is no transfer gap.")
    elif scores.trained:
        notes.append("No language was evaluated zero-shot: no zero-shot mean, no transfer gap.")
    languages = [row.language for row in scores.rows]
    if several := [name for name in scores.trained + scores.zero_shot if languages.count(name) > 1]:
        notes.append(f"Several sets count as one language, with their mean: {join(several)}.")
    if MIXED in languages:
        notes.append("Sets of mixed language are in no mean over languages.")
    return notes
