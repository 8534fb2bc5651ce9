"""The report of a study: report.html, report.md and results.csv, all from study.json.

python -m flaxfer.report WORKDIR
"""

from __future__ import annotations

import argparse
import csv
import io
import json
import math
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np

from flaxfer import plots
from flaxfer.document import (
    Block,
    Code,
    Figure,
    Folded,
    Heading,
    Table,
    Text,
    to_html,
    to_markdown,
)
from flaxfer.errors import FlaxferError
from flaxfer.files import write_atomically
from flaxfer.results import (
    DIFFERENCE,
    MEAN,
    MIXED,
    ZERO_SHOT,
    Row,
    Run,
    Scores,
    Split,
    Study,
    number,
    read_metrics,
    read_study,
    scored,
)

HOW = {
    "direct": "from the pretrained encoder (direct)",
    "staged": "after the intermediate task (staged)",
    "scratch": "from random encoder weights (scratch)",
}
CSV_COLUMNS = (
    "path", "seed", "stage", "set", "language", "domain", "n", "metric", "value", "stage_id",
)  # fmt: skip


def write_report(workdir: Path) -> tuple[Path, Path, Path]:
    """Writes report.html, report.md and results.csv into `workdir`, and returns their paths.

    The same files give the same bytes.

    Raises:
      DataError: study.json is missing or wrong, or a line of a metrics.jsonl is no record.
    """
    study = read_study(workdir)
    blocks = [
        *summary(study),
        *score_blocks(study),
        *curve_blocks(study, workdir),
        *record_blocks(study),
    ]
    texts = {
        "report.html": to_html(blocks),
        "report.md": to_markdown(blocks),
        "results.csv": results_csv(study),
    }
    for name, text in texts.items():
        write_atomically(workdir / name, text)
    html, markdown, table = (workdir / name for name in texts)
    return html, markdown, table


def summary(study: Study) -> list[Block]:
    """What was compared, and the means that the study is about."""
    scores = Scores(study)
    tasks = f"Target task {study.task.name}"
    if study.intermediate_task:
        tasks = f"Intermediate task {study.intermediate_task.name} → target task {study.task.name}"
    model = f"{study.model.source} ({study.model.family}, {study.model.parameters:,} parameters)"
    compared = f"{tasks} with {model}: the target trained {join([HOW[p] for p in scores.paths])}."
    blocks: list[Block] = [
        Heading(study.name, 1),
        Text(compared),
        Text(headline(scores, study), True),
    ]
    if missing := scores.missing_runs():
        text = (
            f"No finished run of the target: {join(missing)}; means over seeds are undefined there."
        )
        blocks.append(Text(text))
    return blocks


def headline(scores: Scores, study: Study) -> str:
    """One sentence: the zero-shot mean of the main metric by path, its difference, its spread."""
    trained = join(scores.trained)
    if scores.zero_shot:
        which, languages = ZERO_SHOT, scores.zero_shot
        names = join(languages) if len(languages) < 5 else f"{len(languages)} languages"
        beside = f" (without {trained}, trained on)" if trained else ""
        what = f"Zero-shot mean of {study.metric} over {names}{beside}"
    elif scores.trained:
        which = MEAN
        what = f"Mean of {study.metric} over {trained}; no language was evaluated zero-shot"
    else:
        return "No set with a language of its own was evaluated: there is no mean over languages."
    columns = scores.mean_columns(study.metric)[which]
    values = ", ".join(f"{name} {spread(name, of)}" for name, of in columns.items())
    named = " Undefined values are named below the table." if "undefined" in values else ""
    return f"{what}: {values}. {spread_note(scores.seeds)}{named}"


def spread_note(seeds: Sequence[int]) -> str:
    """How to read the numbers: whether they have a spread."""
    if len(seeds) == 1:
        return "One seed: no spread, no verdict."
    return f"Mean ± standard deviation over {len(seeds)} seeds."


def spread(column: str, values: np.ndarray) -> str:
    """Mean ± sample standard deviation over seeds; a difference carries its sign."""
    if not np.all(np.isfinite(values)):
        return "undefined"
    sign = "+" if column == DIFFERENCE else ""
    # The no-break space keeps a narrow column from leaving "±" alone at the end of a line.
    deviation = f" ±\N{NO-BREAK SPACE}{values.std(ddof=1):.3f}" if values.size > 1 else ""
    return f"{values.mean():{sign}.3f}{deviation}"


def score_blocks(study: Study) -> list[Block]:
    """Scores by language with their means, the plot, the other metrics, and scores by domain."""
    scores, metric = Scores(study), study.metric
    better = f"{'larger' if study.larger_is_better else 'smaller'} is better"
    blocks: list[Block] = [
        Heading("Scores by language"),
        language_table(scores, metric, f"{metric} by language, {better}.", mean_notes(scores)),
    ]
    if scores.rows and scores.paths:
        series = {
            path: np.array([scores.values(path, row, metric) for row in scores.rows])
            for path in scores.paths
        }
        svg = plots.bars("languages", row_names(scores.rows), series, metric)
        dots = "; a dot is one seed" if len(scores.seeds) > 1 else ""
        blocks.append(Figure(svg, f"{metric} by language{dots}."))
    if others := [name for name in study.metrics if name != metric]:
        tables = [language_table(scores, name, f"{name} by language.") for name in others]
        blocks.append(Folded(f"Other metrics: {join(others)}", tables))
    if scores.domain_rows:
        caption = f"{metric} by domain, for sets with more than one domain."
        blocks += [Heading("Scores by domain"), domain_table(scores, metric, caption)]
    return blocks


def language_table(
    scores: Scores, metric: str, caption: str, more_notes: Sequence[str] = ()
) -> Table:
    """Sets by language, then the means over languages."""
    means = scores.mean_columns(metric)
    lines = [
        ([row.language, row.set, f"{row.n:,}"], scores.row_columns(row, metric))
        for row in scores.rows
    ] + [([name, "", ""], columns) for name, columns in means.items()]
    header, align = ["language", "set", "n"], "llr"
    notes = [*scores.gaps(scores.rows, metric), *more_notes]
    return score_table(scores, caption, header, align, lines, notes, foot=len(means))


def domain_table(scores: Scores, metric: str, caption: str) -> Table:
    """Domains of the sets that have several."""
    lines = [
        ([row.language, row.set, row.domain, f"{row.n:,}"], scores.row_columns(row, metric))
        for row in scores.domain_rows
    ]
    header, align = ["language", "set", "domain", "n"], "lllr"
    notes = scores.gaps(scores.domain_rows, metric)
    return score_table(scores, caption, header, align, lines, notes)


def score_table(
    scores: Scores,
    caption: str,
    header: list[str],
    align: str,
    lines: Sequence[tuple[list[str], Mapping[str, np.ndarray]]],
    notes: list[str],
    foot: int = 0,
) -> Table:
    """A table of lines that begin with words and go on with one value a path."""
    rows = [first + [spread(*column) for column in columns.items()] for first, columns in lines]
    names = list(lines[0][1]) if lines else []
    caption = f"{caption} {spread_note(scores.seeds)}"
    return Table(caption, header + names, rows, align + "r" * len(names), notes, foot)


def mean_notes(scores: Scores) -> list[str]:
    """What the means hold, where that is not plain."""
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


def row_names(rows: Sequence[Row]) -> list[str]:
    """The language, and the set as well where the language alone would be ambiguous."""
    languages = [row.language for row in rows]
    return [
        row.language if languages.count(row.language) == 1 else f"{row.language} / {row.set}"
        for row in rows
    ]


def curve_blocks(study: Study, workdir: Path) -> list[Block]:
    """Train loss and dev metric by step, for the intermediate and the target stage."""
    blocks: list[Block] = [Heading("Learning curves")]
    metrics = {"target": study.metric}
    if study.intermediate_task:
        metrics = {"intermediate": study.intermediate_task.metric} | metrics
    for stage, metric in metrics.items():
        loss, dev, missing = [], [], []
        for run in (run for run in study.runs if run.stage == stage):
            path = workdir / run.dir / "metrics.jsonl"
            if not path.exists():
                missing.append(f"{run.path} seed {run.seed} ({run.dir})")
                continue
            records = read_metrics(path)
            train = [(r["step"], r.get("loss")) for r in records if r["kind"] == "train"]
            tests = [(r["step"], r["metrics"].get(metric)) for r in records if r["kind"] == "dev"]
            loss.append(curve(run, train))
            dev.append(curve(run, tests))
        for name, quantity, lines in (
            (f"{stage}-loss", "train loss", loss), (f"{stage}-dev", f"dev {metric}", dev),
        ):  # fmt: skip
            if any(line.steps.size for line in lines):
                title = f"{stage.capitalize()} stage: {quantity} by step, a line for every seed."
                blocks.append(Figure(plots.curves(name, lines, quantity), title))
        if missing:
            blocks.append(Text(f"No metrics.jsonl for the {stage} stage of {join(missing)}."))
    return blocks


def curve(run: Run, points: Sequence[tuple[int, float | None]]) -> plots.Curve:
    """A line of the plot; undefined values become holes."""
    steps = np.array([step for step, _ in points], dtype=np.int64)
    values = np.array([number(value) for _, value in points], dtype=np.float64)
    return plots.Curve(run.path, run.seed, steps, values)


def record_blocks(study: Study) -> list[Block]:
    """Every run, every split of the data, and all that one needs to repeat the study."""
    about = {
        "model": f"{study.model.source} ({study.model.family})",
        "parameters": f"{study.model.parameters:,}",
        "versions": join(f"{name} {version}" for name, version in study.versions.items()),
        **{f"machine: {name}": words(value) for name, value in study.machine.items()},
        "date": study.date,
        "command": study.command,
        "git": study.git or "",
        "seconds": amount(study.seconds, 1),
    }
    rows = [[what, text] for what, text in about.items()]
    setup = Table("How this study was run.", ["what", "value"], rows, "ll")
    config = json.dumps(study.config, indent=2, ensure_ascii=False)
    return [
        Heading("Runs"),
        run_table(study),
        Heading("Data"),
        data_table(study.data),
        Folded(
            "Model, versions, machine and config", [setup, Text("Resolved config:"), Code(config)]
        ),
    ]


def run_table(study: Study) -> Table:
    """Every stage that was run, in the order of the record."""
    metric = {"target": study.metric}
    if study.intermediate_task:
        metric["intermediate"] = study.intermediate_task.metric
    header = [
        "path", "seed", "stage", "dev metric", "steps", "best step", "stopped early", "seconds",
        "examples/s", "useful tokens/s", "padding share", "directory", "parent",
    ]  # fmt: skip
    rows = []
    for run in study.runs:
        name = metric.get(run.stage, study.metric)
        dev = spread("", np.array([number(run.dev.get(name))]))
        early = "yes" if run.stopped_early else "no"
        padding = "" if run.padding_share is None else f"{run.padding_share:.1%}"
        rows.append([
            run.path, str(run.seed), run.stage, f"{name} {dev}", amount(run.steps),
            amount(run.best_step), early, amount(run.seconds, 1), amount(run.examples_per_s, 1),
            amount(run.useful_tokens_per_s), padding, run.dir, run.parent or "",
        ])  # fmt: skip
    return Table("Stages, each with its directory in the workdir.", header, rows, "llllrrrrrrrll")


def data_table(splits: Sequence[Split]) -> Table:
    """What every split of every stage holds."""
    header = [
        "stage", "split", "fingerprint", "languages", "examples", "tokens", "truncated examples"
    ]  # fmt: skip
    rows = []
    for split in splits:
        languages = join(f"{name} {count:,}" for name, count in split.languages.items())
        counts = (split.examples, split.tokens, split.truncated)
        rows.append([split.stage, split.split, split.fingerprint[:12], languages])
        rows[-1] += [f"{count:,}" for count in counts]
    return Table("Examples and tokens by stage and split.", header, rows, "llllrrr")


def amount(value: float | None, digits: int = 0) -> str:
    """A count or a rate; empty if it was not measured."""
    return "" if value is None else f"{value:,.{digits}f}"


def words(value: object) -> str:
    """Any value of the record, a list with commas."""
    return join(map(str, value)) if isinstance(value, list) else str(value)


def join(parts: Iterable[str]) -> str:
    """The parts with commas."""
    return ", ".join(parts)


def results_csv(study: Study) -> str:
    """Every score of every run, one a line; empty where undefined, no domain for a whole set."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(CSV_COLUMNS)
    for run in study.runs:
        for evaluation in run.evaluations:
            for row, metrics in scored(evaluation):
                where = (run.path, run.seed, run.stage, row.set, row.language, row.domain, row.n)
                for metric, value in metrics.items():
                    defined = "" if value is None or math.isnan(value) else repr(value)
                    writer.writerow((*where, metric, defined, run.id))
    return buffer.getvalue()


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line: rebuilds the report of one workdir and prints the paths of its files."""
    parser = argparse.ArgumentParser(
        prog="python -m flaxfer.report", description="Rebuild a report."
    )
    parser.add_argument("workdir", type=Path, help="directory of a study, with study.json")
    try:
        paths = write_report(parser.parse_args(arguments).workdir)
    except FlaxferError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    print(*paths, sep="\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
