"""The model card of an exported stage. Every statement in it follows from the stage's records."""

from __future__ import annotations

import dataclasses
import json
import shlex
from collections.abc import Iterator, Sequence
from typing import Any

from flaxfer.evaluation.records import MIXED
from flaxfer.report.document import Block, Code, Heading, Table, Text, to_markdown
from flaxfer.statistics.scores import number
from flaxfer.tasks import task_type
from flaxfer.training.finished import Finished


def model_card(done: Finished, name: str, class_name: str) -> str:
    """README.md of an export: front matter for the hub, then text and tables.

    Args:
      done: the stage.
      name: of the export.
      class_name: transformers' class of the model.
    """
    blocks = [
        Heading(name, 1),
        Text(_made_by(done)),
        Text(f"It predicts {task_type(done.task).describe(done.task)}."),
        Heading("Scores"),
        _score_table(done),
        Heading("Data"),
        _data_table(done),
        Heading("Use"),
        *_use(done, name, class_name),
        Heading("What was measured, and what was not"),
        Text(_measured(done)),
        Heading("Training"),
        *_training(done),
    ]
    return _front_matter(done, name) + to_markdown(blocks)


def base_name(done: Finished) -> str:
    """The hub id of the pretrained model, or the name of its folder."""
    return done.model.hub or done.model_folder.name


def _front_matter(done: Finished, name: str) -> str:
    """YAML, every value written as JSON, which YAML includes."""
    fields: dict[str, Any] = {
        "language": _languages(done),
        "library_name": "transformers",
        "pipeline_tag": task_type(done.task).pipeline_tag,
        "tags": ["flaxfer", done.task.type.replace("_", "-")],
    }
    if done.model.hub:
        fields["base_model"] = done.model.hub
    fields["metrics"] = list(task_type(done.task).metrics)
    results = _hub_results(done)
    if results:
        fields["model-index"] = [{"name": name, "results": results}]
    lines = [f"{key}: {json.dumps(value, ensure_ascii=False)}" for key, value in fields.items()]
    return "\n".join(["---", *lines, "---", "", ""])


def _hub_results(done: Finished) -> list[dict[str, Any]]:
    """The scores as the hub's model index has them; what is undefined has no place there."""
    return [
        {
            "task": {"type": task_type(done.task).pipeline_tag, "name": done.task.name},
            "dataset": {
                "type": _sources(done, evaluation.set),
                "name": f"{evaluation.set} ({evaluation.language})",
                "config": evaluation.language,
                "split": evaluation.set,
            },
            "metrics": [
                {"type": metric, "value": value, "name": metric}
                for metric, value in evaluation.metrics.items()
                if value is not None
            ],
        }
        for evaluation in done.evaluations
    ]


def _made_by(done: Finished) -> str:
    base, flaxfer = base_name(done), done.versions.get("flaxfer", "")
    by = f"with flaxfer {flaxfer}".strip()
    first, last = done.lineage[0], done.lineage[-1]
    if first.start == "random":
        return (
            f"This model has the architecture and the tokenizer of {base}, began with random "
            f"weights, and was trained on {last.task.name} {by}."
        )
    if first is last:
        return f"This model is {base}, fine-tuned on {last.task.name} {by}."
    before = " and ".join(
        f"{each.task.name} ({each.task.type.replace('_', ' ')})" for each in done.lineage[:-1]
    )
    return (
        f"This model is {base}, fine-tuned on the intermediate task {before} first, and then on "
        f"{last.task.name} {by}."
    )


def _score_table(done: Finished) -> Table:
    metrics = list(task_type(done.task).metrics)
    (dev,) = (entry for entry in done.data if entry["split"] == "dev")
    rows = [["dev", ", ".join(dev["languages"]), f"{dev['examples']:,}"]]
    rows[0] += [_score(done.done["dev"].get(metric)) for metric in metrics]
    for each in done.evaluations:
        scores = [_score(each.metrics.get(metric)) for metric in metrics]
        rows.append([each.set, each.language, f"{each.n:,}", *scores])
    steps = f"step {done.done['best_step']:,} of {done.done['total_steps']:,}"
    return Table(
        f"Scores of this very model: one run, seed {done.seed}.",
        ["set", "language", "examples", *metrics],
        rows,
        "llr" + "r" * len(metrics),
        [f"dev chose the checkpoint ({steps}, by {done.task.metric}), so its scores flatter."],
    )


def _data_table(done: Finished) -> Table:
    rows = [
        [
            each.task.name,
            entry["split"],
            ", ".join(entry["sources"]) or "cut from train",
            _amounts(entry["languages"]),
            f"{entry['examples']:,}",
            f"{entry['tokens']:,}",
            f"{entry['truncated']:,}",
        ]
        for each in done.lineage
        for entry in each.data
    ]
    header = ["task", "split", "source", "examples by language", "examples", "tokens", "cut"]
    note = "cut: examples that were truncated to train.max_length tokens."
    return Table("What it was trained and evaluated on.", header, rows, "llllrrr", [note])


def _use(done: Finished, name: str, class_name: str) -> Iterator[Block]:
    auto = f"AutoModel{class_name[class_name.index('For') :].removesuffix('Simple')}"
    length = done.train.max_length
    yield Text(f"In transformers, with up to {length} tokens a text or pair, as it was trained:")
    yield Code(
        f"from transformers import {auto}, AutoTokenizer\n\n"
        f"model = {auto}.from_pretrained({name!r})\n"
        f"tokenizer = AutoTokenizer.from_pretrained({name!r}, model_max_length={length})"
    )
    yield Text("In flaxfer, as the pretrained model of a study:")
    yield Code(f"python -m flaxfer.main --config FILE {shlex.quote(f'--config.model.path={name}')}")
    if task_type(done.task).single_label:
        yield Text("In flaxfer, to predict as it was evaluated:")
        yield Code(f"python -m flaxfer.interop.predict {shlex.quote(name)} TEXTS.jsonl")


def _measured(done: Finished) -> str:
    trained = {language for each in done.lineage for language in _trained(each)}
    seen = {each.language for each in done.evaluations} - {MIXED}
    parts = [
        f"Measured were {_join(task_type(done.task).metrics)} on the sets of the table of scores."
    ]
    if new := sorted(seen - trained):
        parts.append(f"It was not trained on texts in {_join(new)}: those scores are zero-shot.")
    parts.append(
        "Nothing else was measured: no other task, domain or language, no other seed of this "
        "model, and neither bias nor robustness. The pretrained model and the data have licences "
        "of their own."
    )
    return " ".join(parts)


def _training(done: Finished) -> Iterator[Block]:
    columns = [
        {
            "seed": each.seed,
            "steps taken": each.done["steps"],
            "best step": each.done["best_step"],
            "dtype of matrix products": each.dtype,
            **{f"optimizer.{k}": v for k, v in dataclasses.asdict(each.optimizer).items()},
            **{f"train.{k}": v for k, v in dataclasses.asdict(each.train).items()},
        }
        for each in done.lineage
    ]
    rows = [[key, *(_word(column[key]) for column in columns)] for key in columns[0]]
    names = [each.task.name for each in done.lineage]
    yield Table("Settings by task.", ["setting", *names], rows, "l" * (1 + len(names)))
    if done.versions:
        rows = [[package, version] for package, version in done.versions.items()]
        yield Table("Versions.", ["package", "version"], rows, "ll")


def _languages(done: Finished) -> list[str]:
    """All languages of the data, those of the training data first."""
    found = [language for each in done.lineage for language in _trained(each)]
    found += [language for entry in done.data for language in entry["languages"]]
    return [language for language in dict.fromkeys(found) if language != MIXED]


def _trained(done: Finished) -> list[str]:
    return [code for entry in done.data if entry["split"] == "train" for code in entry["languages"]]


def _sources(done: Finished, split: str) -> str:
    names = [name for entry in done.data if entry["split"] == split for name in entry["sources"]]
    return ", ".join(names) or split


def _amounts(counts: dict[str, int]) -> str:
    return ", ".join(f"{name} {count:,}" for name, count in counts.items())


def _score(value: float | None) -> str:
    return "undefined" if value is None else f"{number(value):.4f}"


def _join(parts: Sequence[str]) -> str:
    *first, last = parts
    return f"{', '.join(first)} and {last}" if first else last


def _word(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, tuple | list) else str(value)
