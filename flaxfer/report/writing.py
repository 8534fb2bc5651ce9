"""The report of one or several studies: HTML, Markdown, CSV and LaTeX, all from what they left.

python -m flaxfer.report.writing DIR... [--output DIR]
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from flaxfer.errors import FlaxferError
from flaxfer.report.aggregates import aggregate_blocks
from flaxfer.report.checks import leakage_blocks, run_blocks
from flaxfer.report.curves import curve_blocks
from flaxfer.report.document import Block, Contents, Heading, Text, to_html, to_markdown
from flaxfer.report.files import comparisons_csv, results_csv, results_tex
from flaxfer.report.forgetting import forgetting_blocks
from flaxfer.report.languages import headline, language_blocks
from flaxfer.report.material import Entry, Material, gather
from flaxfer.report.provenance import provenance_blocks
from flaxfer.report.stages import cost_blocks, graph_blocks
from flaxfer.report.starts import start_blocks
from flaxfer.report.verdicts import target_blocks, verdict_blocks
from flaxfer.report.wording import join, plural
from flaxfer.runtime.files import write_atomically
from flaxfer.statistics.scores import Scores

SECTIONS = (
    target_blocks, language_blocks, aggregate_blocks, curve_blocks, graph_blocks, start_blocks,
    forgetting_blocks, leakage_blocks, run_blocks, cost_blocks, provenance_blocks,
)  # fmt: skip
HOW = {
    "direct": "from the pretrained encoder (direct)",
    "staged": "after the intermediate task (staged)",
    "scratch": "from random encoder weights (scratch)",
}


def write_report(*folders: Path, output: Path | None = None) -> tuple[Path, ...]:
    """Writes the report of some studies, and returns the paths of its files.

    They are report.html, report.md, results.csv (every score), comparisons.csv (every comparison)
    and results.tex, in this order. The same files in the same places give the same bytes.

    Args:
      folders: of studies, or of grids.
      output: folder of the report; the first of `folders` if it is None.

    Raises:
      DataError: a study.json is missing or wrong, or predictions or a metrics.jsonl are.
    """
    output = folders[0] if output is None else output
    material = gather(folders, output)
    blocks = [
        *_opening(material),
        Contents(),
        *(block for section in SECTIONS for block in section(material)),
    ]
    texts = {
        "report.html": to_html(blocks),
        "report.md": to_markdown(blocks),
        "results.csv": results_csv(material),
        "comparisons.csv": comparisons_csv(material),
        "results.tex": results_tex(material),
    }
    output.mkdir(parents=True, exist_ok=True)
    for name, text in texts.items():
        write_atomically(output / name, text)
    return tuple(output / name for name in texts)


def _opening(material: Material) -> list[Block]:
    """The title, what was compared, and the verdicts."""
    if material.single:
        (entry,) = material.entries
        return [Heading(entry.study.name, 1), Text(_compared(entry)), *_verdict(material, entry)]
    targets, models = (
        {getattr(entry, name) for entry in material.entries} for name in ("target", "model")
    )
    about = f"{plural(len(targets), 'target')}, {plural(len(models), 'model')}"
    return [
        Heading(f"Staged against direct: {about}", 1),
        Text(f"{len(material.entries)} studies, each with its own record."),
        *verdict_blocks(material),
    ]


def _verdict(material: Material, entry: Entry) -> list[Block]:
    """The verdict of a single study; without a comparison its means."""
    lead = [] if entry.headline else [Text(headline(Scores(entry.study), entry.study), True)]
    return [*lead, *verdict_blocks(material)]


def _compared(entry: Entry) -> str:
    study = entry.study
    tasks = f"Target task {study.task.name}"
    if study.intermediate_task:
        tasks = f"Intermediate task {study.intermediate_task.name} → target task {study.task.name}"
    model = f"{study.model.source} ({study.model.family}, {study.model.parameters:,} parameters)"
    how = join(HOW[path] for path in Scores(study).conditions)
    return f"{tasks} with {model}: the target trained {how}."


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line: rebuilds a report and prints the paths of its files."""
    parser = argparse.ArgumentParser(
        prog="python -m flaxfer.report.writing",
        description="Rebuild the report of a study, or make one of several.",
    )
    parser.add_argument(
        "folders", type=Path, nargs="+", metavar="DIR", help="of a study, with study.json; or grid"
    )
    parser.add_argument("--output", type=Path, help="folder of the report; DIR if there is one")
    given = parser.parse_args(arguments)
    if len(given.folders) > 1 and given.output is None:
        parser.error("a report of several folders needs --output=FOLDER")
    try:
        paths = write_report(*given.folders, output=given.output)
    except FlaxferError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    print(*paths, sep="\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
