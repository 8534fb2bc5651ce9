"""Every run with its folder, every split, and all that one needs to repeat the studies."""

from __future__ import annotations

import json
from collections.abc import Sequence

import numpy as np

from flaxfer.evaluation.records import Split
from flaxfer.report.document import Block, Cell, Code, Folded, Heading, Table, Text
from flaxfer.report.material import RECORD, Entry, Material
from flaxfer.report.wording import amount, join, spread
from flaxfer.statistics.scores import number


def provenance_blocks(material: Material) -> list[Block]:
    """Studies, runs, data, and how they were made."""
    blocks: list[Block] = [Heading("Runs")]
    if not material.single:
        blocks.append(_studies(material))
    blocks += material.by_study(lambda entry: [run_table(material, entry)])
    blocks += [Heading("Data"), *material.by_study(lambda entry: [data_table(entry.study.data)])]
    blocks += [Heading("How the studies were run")]
    return blocks + [_setup(material, entry) for entry in material.entries]


def _studies(material: Material) -> Table:
    rows: list[list[Cell]] = [
        [
            entry.name, entry.model, entry.intermediate, entry.target,
            material.link(entry.workdir / RECORD), entry.study.date, entry.study.git or "",
        ]
        for entry in material.entries
    ]  # fmt: skip
    header = ["study", "model", "intermediate task", "target", "record", "date", "git"]
    return Table("The studies of this report.", header, rows, "lllllll")


def run_table(material: Material, entry: Entry) -> Table:
    """Every stage that was run, in the order of the record."""
    header = [
        "condition", "seed", "stage", "dev metric", "steps", "best step", "stopped early",
        "seconds", "examples/s", "useful tokens/s", "padding share", "directory", "parent",
    ]  # fmt: skip
    rows: list[list[Cell]] = []
    for run in entry.study.runs:
        name = entry.metric_of(run.stage)
        dev = spread("", np.array([number(run.dev.get(name))]))
        early = "yes" if run.stopped_early else "no"
        padding = "" if run.padding_share is None else f"{run.padding_share:.1%}"
        rows.append([
            run.condition, str(run.seed), run.stage, f"{name} {dev}", amount(run.steps),
            amount(run.best_step), early, amount(run.seconds, 1), amount(run.examples_per_s, 1),
            amount(run.useful_tokens_per_s), padding, material.link(entry.folder(run)),
            run.parent or "",
        ])  # fmt: skip
    return Table("Stages, each with its directory.", header, rows, "llllrrrrrrrll")


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


def _setup(material: Material, entry: Entry) -> Folded:
    study = entry.study
    about: dict[str, Cell] = {
        "study": study.name,
        "record": material.link(entry.workdir / RECORD),
        "model": f"{study.model.source} ({study.model.family})",
        "parameters": f"{study.model.parameters:,}",
        "versions": join(f"{name} {version}" for name, version in study.versions.items()),
        **{f"machine: {name}": _words(value) for name, value in study.machine.items()},
        "date": study.date,
        "command": study.command,
        "git": study.git or "",
        "seconds": amount(study.seconds, 1),
    }
    rows = [[what, text] for what, text in about.items()]
    setup = Table("How this study was run.", ["what", "value"], rows, "ll")
    config = json.dumps(study.config, indent=2, ensure_ascii=False)
    summary = "Model, versions, machine and config"
    summary += "" if material.single else f": {entry.name}"
    return Folded(summary, [setup, Text("Resolved config:"), Code(config)])


def _words(value: object) -> str:
    """Any value of the record, a list with commas."""
    return join(map(str, value)) if isinstance(value, list) else str(value)
