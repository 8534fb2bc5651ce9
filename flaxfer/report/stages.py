"""The stages of all studies: their dependencies, what studies share, and what they cost."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Iterable
from pathlib import Path

from flaxfer.evaluation.records import CONDITIONS, Run
from flaxfer.report.data import Entry, ReportData
from flaxfer.report.document import Block, Table, Text, Tree
from flaxfer.report.formatting import amount, join, plural


@dataclasses.dataclass
class Node:
    """A stage of a condition with all its seeds, in one study or shared by several.

    `runs` has the finished runs by folder, `failed` the seeds that diverged or whose parent did.
    Without a parent a stage starts from pretrained or random weights.
    """

    model: str
    condition: str
    stage: str
    task: str
    parent: Node | None
    runs: dict[Path, Run]
    failed: list[int]
    seeds: list[int]
    studies: int = 0

    @property
    def text(self) -> str:
        """The task, the condition and the progress."""
        title = self.task if self.stage == "intermediate" else f"{self.task}, {self.condition}"
        parts = [f"{len(self.runs)} of {plural(len(self.seeds), 'seed')} done"]
        if self.failed:
            parts.append(f"diverged: seed {join(map(str, self.failed))}")
        if self.studies > 1:
            parts.append(f"shared by {self.studies} studies")
        return f"{title}: {join(parts)}"


def stage_nodes(data: ReportData) -> list[Node]:
    """Return the stages of all studies, each once, parents first."""
    nodes: dict[tuple[object, ...], Node] = {}
    for entry in data.entries:
        for condition in (name for name in CONDITIONS if name in entry.study.conditions):
            parent = None
            for stage in ("intermediate", "target") if condition == "staged" else ("target",):
                node = _node(entry, condition, stage, parent)
                # Studies share a stage if its runs have the same folders.
                key = tuple(sorted(node.runs)) or (entry.name, condition, stage)
                parent = nodes.setdefault(key, node)
                parent.studies += 1
    return list(nodes.values())


def _node(entry: Entry, condition: str, stage: str, parent: Node | None) -> Node:
    study, place = entry.study, (condition, stage)
    task = entry.target if stage == "target" else entry.intermediate
    runs = {entry.folder(r): r for r in study.runs if (r.condition, r.stage) == place}
    failed = [fail.seed for fail in study.failed if (fail.condition, fail.stage) == place]
    return Node(entry.model, condition, stage, task, parent, runs, failed, study.seeds)


def graph_blocks(data: ReportData) -> list[Block]:
    """Return the stages as a tree for every model."""
    nodes = stage_nodes(data)

    def trees(some: Iterable[Node]) -> list[Tree]:
        return [
            Tree(
                node.text,
                trees(child for child in nodes if child.parent is node),
                bad=len(node.runs) < len(node.seeds),
            )
            for node in some
        ]

    blocks: list[Block] = [
        Text("Each stage starts from the one above it; a stage that studies share is listed once. "
             "Underlined stages are not finished."),
    ]  # fmt: skip
    for model in dict.fromkeys(node.model for node in nodes):
        roots = [node for node in nodes if node.model == model and node.parent is None]
        starts = {
            f"{model}, pretrained": [node for node in roots if node.condition != "scratch"],
            f"{model}, random weights": [node for node in roots if node.condition == "scratch"],
        }
        blocks += [Tree(start, trees(some)) for start, some in starts.items() if some]
    if data.unfinished:
        names = join(data.link(folder) for folder in data.unfinished)
        blocks.append(Text(f"Unfinished studies, not in this report: {names}."))
    return blocks


def cost_blocks(data: ReportData) -> list[Block]:
    """Return time and speed by stage; a stage that studies share is counted once."""
    nodes = [node for node in stage_nodes(data) if node.runs]
    every = {folder: run for node in nodes for folder, run in node.runs.items()}
    records = []
    for node in nodes:
        runs = list(node.runs.values())
        seconds = _seconds(runs)
        padding = _mean(run.padding_share for run in runs)
        condition = node.condition if node.stage == "target" else node.stage
        condition += f" after {node.parent.task}" if node.parent else ""
        records.append({
            "stage": node.task, "model": node.model, "condition": condition, "runs": len(runs),
            "seconds, all runs": amount(sum(seconds) if seconds else None, 1),
            "steps, all runs": sum(run.steps for run in runs),
            "examples/s": amount(_mean(run.examples_per_s for run in runs), 1),
            "useful tokens/s": amount(_mean(run.useful_tokens_per_s for run in runs)),
            "padding share": "" if padding is None else f"{padding:.1%}",
        })  # fmt: skip
    records.append({
        "stage": "all stages", "model": "", "condition": "",
        "runs": len(every), "seconds, all runs": amount(sum(_seconds(every.values())), 1),
        "steps, all runs": "", "examples/s": "", "useful tokens/s": "", "padding share": "",
    })  # fmt: skip
    notes = [
        "Rates and padding are means over runs. Seconds include attempts that were given up, but "
        "not evaluation."
    ]
    caption = "Training by stage, each stage once."
    return [Table(caption, records, "lll", notes, foot=1)]


def _seconds(runs: Collection[Run]) -> list[float]:
    """Return the known times of the runs and of their abandoned attempts."""
    attempts = [attempt.seconds for run in runs for attempt in run.restarts]
    return _known(run.seconds for run in runs) + attempts


def _known(values: Iterable[float | None]) -> list[float]:
    return [value for value in values if value is not None]


def _mean(values: Iterable[float | None]) -> float | None:
    known = _known(values)
    return sum(known) / len(known) if known else None
