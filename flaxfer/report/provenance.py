"""All runs with their folders, all splits, and everything needed to repeat the studies."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from flaxfer.report.data import RECORD, Entry, ReportData
from flaxfer.report.document import Block, Code, Folded, Link, Links, Table, Text
from flaxfer.report.formatting import amount, join, spread
from flaxfer.statistics.scores import number

FILES = {
    "report.md": "this report as Markdown",
    "results.csv": "every score of every run",
    "comparisons.csv": "every comparison, with all digits",
    "results.tex": "the comparisons that give the verdicts, for LaTeX",
    "languages.tex": "scores by language, model and condition, for LaTeX",
    "figures": "every plot as SVG and PDF",
}
"""Files of a report beside its page."""

RECORDS = {
    RECORD: "the record of the study",
    "config.json": "the resolved config",
    "origin.json": "the stages that the directory was made for",
}
"""Files of a study in its directory."""

OTHER = ("checkpoints", "restarts", "damaged")
"""Folders of a stage whose files are not listed."""


def run_blocks(data: ReportData) -> list[Block]:
    """Return the studies, if there are several, and the finished stages of each."""
    tables = data.by_study(lambda entry: [_run_table(data, entry)])
    if data.single:
        return tables
    records = [
        {
            "study": entry.name, "model": entry.model, "intermediate task": entry.intermediate,
            "target": entry.target, "record": data.link(entry.workdir / RECORD),
            "date": entry.study.date, "git": entry.study.git,
        }
        for entry in data.entries
    ]  # fmt: skip
    return [Table("The studies of this report.", records, "lllllll"), *tables]


def _run_table(data: ReportData, entry: Entry) -> Table:
    """Return the finished stages, in the order of the record."""
    records = []
    for run in entry.study.runs:
        metric = entry.metric_of(run.stage)
        dev = spread(np.array([number(run.dev.get(metric))]))
        records.append({
            "condition": run.condition, "seed": str(run.seed), "stage": run.stage,
            "dev metric": f"{metric} {dev}", "steps": run.steps, "best step": run.best_step,
            "stopped early": "yes" if run.stopped_early else "no",
            "seconds": amount(run.seconds, 1), "examples/s": amount(run.examples_per_s, 1),
            "useful tokens/s": amount(run.useful_tokens_per_s),
            "padding share": "" if run.padding_share is None else f"{run.padding_share:.1%}",
            "directory": data.link(entry.folder(run), "" if data.single else run.id),
            "parent": run.parent,
        })  # fmt: skip
    return Table("Stages, each with its directory.", records, "llllrrrrrrrll")


def split_blocks(data: ReportData) -> list[Block]:
    """Return what the seeds of every study train on, and the sizes of its splits."""
    return data.by_study(lambda entry: [Text(_draws(entry)), _split_table(entry)])


def _draws(entry: Entry) -> str:
    """Return whether seeds train on the same examples, and what verdicts are therefore about."""
    stages = dict.fromkeys(split.stage for split in entry.study.data)
    drawn = {split.stage for split in entry.study.data if split.seed is not None}
    fixed = join(stage for stage in stages if stage not in drawn)
    if not drawn:
        return (
            "All seeds train on the same examples, so verdicts are about these training data: "
            "another sample of examples may change them by more than the intervals say."
        )
    return (
        f"Each seed draws its own examples of the stage {join(sorted(drawn))}, so the differences "
        "between seeds include the choice of the examples, and verdicts are about training data of "
        "this size from these sources."
        + (f" All seeds have the same examples of the stage {fixed}." if fixed else "")
    )


def _split_table(entry: Entry) -> Table:
    records = [
        {
            "stage": split.stage,
            "split": split.split if split.seed is None else f"{split.split}, seed {split.seed}",
            "fingerprint": split.fingerprint[:12],
            "languages": join(f"{name} {count:,}" for name, count in split.languages.items()),
            "examples": split.examples, "tokens": split.tokens,
            "truncated examples": split.truncated,
        }
        for split in entry.study.data
    ]  # fmt: skip
    return Table("Examples and tokens by stage and split.", records, "llll")


def setup_blocks(data: ReportData) -> list[Block]:
    """Return the model, versions and machine of every study, and the config of a single one."""
    return [_setup(data, entry) for entry in data.entries]


def _setup(data: ReportData, entry: Entry) -> Folded:
    study = entry.study
    setup = {
        "study": study.name,
        "record": data.link(entry.workdir / RECORD),
        "model": f"{study.model.source} ({study.model.family})",
        "parameters": f"{study.model.parameters:,}",
        "versions": join(f"{name} {version}" for name, version in study.versions.items()),
        **{
            f"machine: {name}": join(map(str, value)) if isinstance(value, list) else str(value)
            for name, value in study.machine.items()
        },
        "metrics": study.scoring,
        "date": study.date,
        "command": study.command,
        "git": study.git or "",
        "seconds": amount(study.seconds, 1),
    }
    records = [{"what": name, "value": value} for name, value in setup.items()]
    table = Table("How this study was run.", records, "ll")
    if not data.single:  # The record has the config, which would make the page much larger.
        return Folded(f"Model, versions and machine: {entry.name}", [table])
    config = json.dumps(study.config, indent=2, ensure_ascii=False)
    summary = "Model, versions, machine and config"
    return Folded(summary, [table, Text("Resolved config:"), Code(config)])


def file_blocks(data: ReportData) -> list[Block]:
    """Return links to the files of the report, and to all files of the stages of a study."""
    records = [{"file": Link(name), "content": content} for name, content in FILES.items()]
    for entry in data.entries if data.single else ():
        for name, content in RECORDS.items():
            if (path := entry.workdir / name).exists():
                records.append({"file": data.link(path), "content": content})
    blocks: list[Block] = [Table("Files of this report.", records, "ll")]
    if data.single:
        blocks.append(Folded("Files of the stages", [_stage_files(data, data.entries[0])]))
    return blocks


def _stage_files(data: ReportData, entry: Entry) -> Table:
    """Return links to the files of every finished stage; of folders of others, to the folder."""
    records = []
    for run in entry.study.runs:
        folder = entry.folder(run)
        files = [path for path in _listed(folder) if path.is_file() or path.name in OTHER]
        by_kind = {name: _listed(folder / name) for name in ("evaluations", "predictions", "notes")}
        records.append(
            {"condition": run.condition, "seed": str(run.seed), "stage": run.stage}
            | {
                kind: Links(data.link(path, path.name) for path in paths) or None
                for kind, paths in {"files": files, **by_kind}.items()
            }
        )
    return Table("Files of the stages, in their directories.", records, "lllllll")


def _listed(folder: Path) -> list[Path]:
    """Return the files and folders in a folder, without hidden ones."""
    return sorted(path for path in folder.glob("*") if not path.name.startswith("."))
