"""The report of one or several studies as HTML, Markdown, csv and LaTeX."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from flaxfer.report.aggregates import aggregate_blocks
from flaxfer.report.benchmarks import benchmark_blocks
from flaxfer.report.csv_tex import comparisons_csv, results_csv, results_tex
from flaxfer.report.curves import curve_blocks
from flaxfer.report.data import Entry, ReportData, read_report_data
from flaxfer.report.descriptive import descriptive_blocks
from flaxfer.report.document import FIGURES, Block, Heading, Text, figures, to_html, to_markdown
from flaxfer.report.errors import error_blocks
from flaxfer.report.failures import failure_blocks
from flaxfer.report.forgetting import forgetting_blocks
from flaxfer.report.formatting import join, plural
from flaxfer.report.language_tex import languages_tex
from flaxfer.report.languages import language_blocks, mean_sentence
from flaxfer.report.overlap import overlap_blocks, size_blocks
from flaxfer.report.provenance import file_blocks, run_blocks, setup_blocks, split_blocks
from flaxfer.report.sequential import sequential_blocks
from flaxfer.report.stages import cost_blocks, graph_blocks
from flaxfer.report.starts import start_blocks
from flaxfer.report.verdicts import verdict_blocks
from flaxfer.runtime.files import write_atomically

SECTIONS: dict[str, Callable[[ReportData], Sequence[Block]]] = {
    "Looks and changes of the design": sequential_blocks,
    "Benchmarks": benchmark_blocks,
    "Descriptive statistics": descriptive_blocks,
    "Scores by language": language_blocks,
    "Means over languages and tasks": aggregate_blocks,
    "Learning curves": curve_blocks,
    "Stages": graph_blocks,
    "Choice of the intermediate task": start_blocks,
    "Errors and examples": error_blocks,
    "Forgetting": forgetting_blocks,
    "Overlap and leakage": overlap_blocks,
    "Sizes of the tasks": size_blocks,
    "Collapsed and diverged runs": failure_blocks,
    "Costs": cost_blocks,
    "Runs": run_blocks,
    "Data": split_blocks,
    "Files": file_blocks,
    "How the studies were run": setup_blocks,
}
"""The sections by title; those without blocks are left out."""

STARTS = {
    "direct": "from the pretrained encoder (direct)",
    "staged": "after the intermediate task (staged)",
    "scratch": "from random encoder weights (scratch)",
}


def write_report(
    *folders: str | Path,
    output: str | Path | None = None,
    descriptive: bool = False,
    examples: bool = True,
) -> tuple[Path, ...]:
    """Write the report of some studies; return the paths of its files and of its figures' folder.

    Args:
      folders: folders of studies or grids.
      output: folder of the report; defaults to the first of `folders`.
      descriptive: whether to add the statistics of `flaxfer.statistics.descriptive`.
      examples: whether to show single examples with their texts.

    Raises:
      DataError: a study.json, metrics.jsonl or predictions file is missing or invalid.
    """
    workdirs = [Path(folder) for folder in folders]
    output = workdirs[0] if output is None else Path(output)
    return write(read_report_data(workdirs, output, descriptive, examples))


def write(data: ReportData) -> tuple[Path, ...]:
    """Write a report; return the paths of its files and of its figures' folder.

    The files are report.html, report.md, results.csv (every score), comparisons.csv (every
    comparison), results.tex (the comparisons), languages.tex (the scores by language), and in the
    folder figures every plot as SVG and PDF. The same studies in the same places give the same
    bytes.

    Raises:
      DataError: a metrics.jsonl or predictions file is missing or invalid.
    """
    output = data.output
    blocks = _opening(data)
    for title, section in SECTIONS.items():
        if content := section(data):
            blocks += [Heading(title), *content]
    texts = {
        "report.html": to_html(blocks),
        "report.md": to_markdown(blocks),
        "results.csv": results_csv(data),
        "comparisons.csv": comparisons_csv(data),
        "results.tex": results_tex(data),
        "languages.tex": languages_tex(data),
    }
    (output / FIGURES).mkdir(parents=True, exist_ok=True)
    for figure in figures(blocks):
        for suffix, file in figure.files.items():
            write_atomically(output / FIGURES / f"{figure.name}{suffix}", file)
    for name, text in texts.items():
        write_atomically(output / name, text)
    return tuple(output / name for name in (*texts, FIGURES))


def _opening(data: ReportData) -> list[Block]:
    """Return the title, a description of the studies, and the verdicts."""
    if data.single:
        (entry,) = data.entries
        title, description = entry.study.name, _description(entry)
        means = [] if entry.headline else [Text(mean_sentence(entry), True)]
    else:
        targets, models = (
            len({getattr(entry, name) for entry in data.entries}) for name in ("target", "model")
        )
        counts = f"{plural(targets, 'target')}, {plural(models, 'model')}"
        title = f"Staged against direct: {counts}"
        description = f"{len(data.entries)} studies, each with its own record."
        means = []
    return [Heading(title, 1), Text(description), *means, *verdict_blocks(data)]


def _description(entry: Entry) -> str:
    study = entry.study
    tasks = f"Target task {study.task.name}"
    if study.intermediate_task:
        tasks = f"Intermediate task {study.intermediate_task.name} → target task {study.task.name}"
    model = f"{study.model.source} ({study.model.family}, {study.model.parameters:,} parameters)"
    starts = join(STARTS[condition] for condition in entry.scores.conditions)
    return f"{tasks} with {model}: the target trained {starts}."
