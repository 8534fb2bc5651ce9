"""The stages of all studies: which begins with which, which are shared, what they cost."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from pathlib import Path

from flaxfer.evaluation.records import CONDITIONS, Run
from flaxfer.report.document import Block, Heading, Table, Text, Tree
from flaxfer.report.material import Entry, Material
from flaxfer.report.wording import amount, join, plural


@dataclasses.dataclass
class Node:
    """A stage of a condition, of all its seeds; of several studies if it is the same in them.

    Attributes:
      model: that it is trained with.
      condition, stage: of the study.
      task: that it is trained on.
      begins: the node that it begins with; None for pretrained or random weights.
      runs: by folder, the finished ones.
      failed: seeds that have diverged, or whose start has.
      seeds: of the study.
      studies: names.
    """

    model: str
    condition: str
    stage: str
    task: str
    begins: Node | None
    runs: dict[Path, Run]
    failed: list[int]
    seeds: list[int]
    studies: list[str]

    @property
    def bad(self) -> bool:
        """Whether not all of its seeds are finished."""
        return len(self.runs) < len(self.seeds)

    @property
    def text(self) -> str:
        """What it is and how far it has come."""
        what = self.task + ("" if self.stage == "intermediate" else f", {self.condition}")
        parts = [f"{len(self.runs)} of {plural(len(self.seeds), 'seed')} done"]
        if self.failed:
            parts.append(f"diverged: seed {join(map(str, self.failed))}")
        if len(self.studies) > 1:
            parts.append(f"shared by {len(self.studies)} studies")
        return f"{what}: {join(parts)}"


def nodes_of(material: Material) -> list[Node]:
    """The stages of all studies, each once, after those that they begin with."""
    found: dict[tuple[object, ...], Node] = {}
    for entry in material.entries:
        for condition in [
            condition for condition in CONDITIONS if condition in entry.study.conditions
        ]:
            begins = None
            for stage in ("intermediate", "target") if condition == "staged" else ("target",):
                node = _node(entry, condition, stage, begins)
                # Without a finished run nothing tells whether it is the same elsewhere.
                key = tuple(sorted(node.runs)) or (entry.name, condition, stage)
                begins = found.setdefault(key, node)
                if begins is not node:
                    begins.studies.append(entry.name)
    return list(found.values())


def _node(entry: Entry, condition: str, stage: str, begins: Node | None) -> Node:
    study = entry.study
    here = (condition, stage)
    return Node(
        model=entry.model,
        condition=condition,
        stage=stage,
        task=entry.target if stage == "target" else entry.intermediate or "intermediate task",
        begins=begins,
        runs={entry.folder(r): r for r in study.runs if (r.condition, r.stage) == here},
        failed=[fail.seed for fail in study.failed if (fail.condition, fail.stage) == here],
        seeds=study.seeds,
        studies=[entry.name],
    )


def graph_blocks(material: Material) -> list[Block]:
    """The stages as a tree for every model."""
    nodes = nodes_of(material)

    def branches(some: Iterable[Node]) -> list[Tree]:
        return [
            Tree(node.text, branches(n for n in nodes if n.begins is node), node.bad)
            for node in some
        ]

    blocks: list[Block] = [
        Heading("Stages"),
        Text("Each stage begins with what it stands under; a stage that studies share is there "
             "once. A line under one marks what is not finished."),
    ]  # fmt: skip
    for model in dict.fromkeys(node.model for node in nodes):
        own = [node for node in nodes if node.model == model and node.begins is None]
        starts = {
            f"{model}, pretrained": [node for node in own if node.condition != "scratch"],
            f"{model}, random weights": [node for node in own if node.condition == "scratch"],
        }
        blocks += [Tree(name, branches(some)) for name, some in starts.items() if some]
    if material.unfinished:
        names = join(material.link(folder).text for folder in material.unfinished)
        blocks.append(Text(f"Studies that are not finished, and not in this report: {names}."))
    return blocks


def cost_blocks(material: Material) -> list[Block]:
    """Time and speed by stage; a stage that studies share costs once."""
    nodes = [node for node in nodes_of(material) if node.runs]
    header = [
        "stage", "model", "condition", "runs", "seconds, all runs", "steps, all runs", "examples/s",
        "useful tokens/s", "padding share",
    ]  # fmt: skip
    rows, total = [], 0.0
    for node in nodes:
        runs = list(node.runs.values())
        seconds = _known(run.seconds for run in runs)
        seconds += [attempt.seconds for run in runs for attempt in run.restarts]
        total += sum(seconds)
        padding = _known(run.padding_share for run in runs)
        condition = node.condition if node.stage == "target" else node.stage
        after = f" after {node.begins.task}" if node.begins else ""
        rows.append([
            node.task, node.model, condition + after,
            str(len(runs)), amount(sum(seconds), 1) if seconds else "",
            amount(sum(run.steps for run in runs)),
            _mean([run.examples_per_s for run in runs], 1),
            _mean([run.useful_tokens_per_s for run in runs]),
            f"{sum(padding) / len(padding):.1%}" if padding else "",
        ])  # fmt: skip
    count = sum(len(node.runs) for node in nodes)
    rows.append(["all stages", "", "", str(count), amount(total, 1), "", "", "", ""])
    notes = [
        "Rates and padding are means over runs. Evaluation is not in the seconds, attempts "
        "that were given up are."
    ]
    table = Table("Training by stage, each stage once.", header, rows, "lllrrrrrr", notes, 1)
    return [Heading("Costs"), table]


def _known(values: Iterable[float | None]) -> list[float]:
    return [value for value in values if value is not None]


def _mean(values: Sequence[float | None], digits: int = 0) -> str:
    known = _known(values)
    return amount(sum(known) / len(known), digits) if known else ""
