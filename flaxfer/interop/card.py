"""The model card of an exported stage, derived from the stage's records alone."""

from __future__ import annotations

import dataclasses
import re
import shlex
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCard, ModelCardData

from flaxfer.config import Lora
from flaxfer.evaluation.records import MIXED
from flaxfer.tasks import task_type
from flaxfer.training.record import StageRecord


@dataclasses.dataclass(frozen=True)
class Publication:
    """Contents of a model card that the records of the stage do not have.

    Attributes:
      license: id of a licence on the hub; empty for none.
      base_model: id of the pretrained model on the hub; empty for that of the config.
      pooling: how sentence-transformers embeds texts with the model; empty if it does not.
      own_tokens: whether transformers' tokenizer of the folder gives other tokens than flaxfer.
      adapter: whether the folder has the adapters alone, for peft.
    """

    license: str = ""
    base_model: str = ""
    pooling: str = ""
    own_tokens: bool = False
    adapter: bool = False


RECORDS_ALONE = Publication()
"""Nothing beside the records."""

TEMPLATE = Path(__file__).with_name("card.md.j2")


def model_card(
    stage: StageRecord, name: str, publication: Publication = RECORDS_ALONE
) -> ModelCard:
    """Return the card of a stage's export.

    Args:
      stage: a finished stage.
      name: name of the exported folder, or its id on the hub.
      publication: what else the card says.
    """
    task, versions = stage.task(), stage.origin()["versions"]
    form = task_type(task)
    return ModelCard.from_template(
        _metadata(stage, name, publication),
        template_path=str(TEMPLATE),
        escape=_escape,
        quote=shlex.quote,
        repr=repr,
        name=name,
        origin=_origin(stage, publication.base_model or base_name(stage)),
        task=task,
        output=form.describe(task),
        roles=[role for role in form.required_roles(()) if role != form.label_role],
        pooling=publication.pooling,
        base=publication.adapter and (publication.base_model or base_name(stage)),
        seed=stage.identity()["seed"],
        done=stage.done(),
        max_length=stage.train().max_length,
        embeds=form.embeds,
        auto_class=f"AutoModel{form.architecture.removeprefix('Model')}",
        limits=_limits(stage, publication),
        scores_table=_scores_table(stage),
        data_table=_data_table(stage),
        settings_table=_settings_table(stage),
        versions_table=versions and _table(["package", "version"], versions.items()),
    )


def base_name(stage: StageRecord) -> str:
    """Return the hub id of the pretrained model, or the name of its folder."""
    return stage.model_config().hub or Path(stage.origin()["model"]["folder"]).name


def _metadata(stage: StageRecord, name: str, publication: Publication) -> ModelCardData:
    """Return the front matter; the hub's model index has no place for undefined scores."""
    task, hub = stage.task(), stage.model_config().hub
    pipeline = task_type(task).pipeline_tag
    sources = {entry["split"]: ", ".join(entry["sources"]) for entry in _splits(stage)}
    results = [
        EvalResult(
            task_type=pipeline,
            task_name=task.name,
            dataset_type=sources.get(evaluation.set) or evaluation.set,
            dataset_name=f"{evaluation.set} ({evaluation.language})",
            dataset_config=evaluation.language,
            dataset_split=evaluation.set,
            metric_type=metric,
            metric_name=metric,
            metric_value=value,
        )
        for evaluation in stage.evaluations()
        for metric, value in evaluation.metrics.items()
        if value is not None
    ]
    return ModelCardData(
        language=_languages(stage),
        library_name="peft" if publication.adapter else "transformers",
        pipeline_tag=pipeline,
        tags=["flaxfer", task.type.replace("_", "-")],
        base_model=publication.base_model or hub or None,
        license=publication.license or None,
        datasets=_hub_data(stage) or None,
        metrics=list(task_type(task).metrics_of(task)),
        model_name=name if results else None,
        eval_results=results or None,
    )


def _origin(stage: StageRecord, base: str) -> str:
    version = stage.origin()["versions"].get("flaxfer", "")
    trained = f"{stage.task().name} with flaxfer {version}".strip()
    if stage.lineage()[0].identity()["start"] == "random":
        return (
            f"This model has the architecture and the tokenizer of {base}, was initialised with "
            f"random weights, and was trained on {trained}."
        )
    if parent := stage.parent():
        task = parent.task()
        type_name = task.type.replace("_", " ")
        trained = f"the intermediate task {task.name} ({type_name}) first, and then on {trained}"
    return f"This model is {base}, fine-tuned on {trained}."


def _hub_data(stage: StageRecord) -> list[str]:
    """Return the ids of the data sets of the hub that the model was trained on."""
    entries = [entry for each in stage.lineage() for entry in _splits(each, "train")]
    names = [name for entry in entries for name in entry["sources"]]
    return [name for name in dict.fromkeys(names) if "/" in name]  # Files have no folder here.


def _limits(stage: StageRecord, publication: Publication) -> str:
    trained = {language for each in stage.lineage() for language in _trained_on(each)}
    evaluated = {evaluation.language for evaluation in stage.evaluations()} - {MIXED}
    metrics = _join(task_type(stage.task()).metrics_of(stage.task()))
    sentences = [f"The measurements are {metrics} on the sets in the table of scores."]
    if unseen := sorted(evaluated - trained):
        sentences.append(
            f"The model was not trained on texts in {_join(unseen)}: those scores are zero-shot."
        )
    if publication.pooling and not task_type(stage.task()).embeds:
        sentences.append("Embeddings were neither trained nor measured.")
    if publication.own_tokens:
        sentences.append(
            "The scores are with tokens as in the pretraining, as flaxfer makes them; the fast "
            "tokenizer of transformers splits texts with punctuation or numbers in another way, so "
            "its predictions differ."
        )
    sentences.append(
        "Nothing else was measured: no other task, domain or language, no other seed of this "
        "model, and neither bias nor robustness. The pretrained model and the data have licences "
        "of their own."
    )
    return " ".join(sentences)


def _scores_table(stage: StageRecord) -> str:
    metrics = task_type(stage.task()).metrics_of(stage.task())
    (dev,) = _splits(stage, "dev")
    sets = [("dev", ", ".join(dev["languages"]), dev["examples"], stage.done()["dev"])]
    sets += [(each.set, each.language, each.n, each.metrics) for each in stage.evaluations()]
    rows = [
        [name, language, f"{n:,}"]
        + ["undefined" if (x := scores.get(metric)) is None else f"{x:.4f}" for metric in metrics]
        for name, language, n, scores in sets
    ]
    return _table(["set", "language", "examples", *metrics], rows, numbers=1 + len(metrics))


def _data_table(stage: StageRecord) -> str:
    rows = [
        [
            each.task().name,
            entry["split"],
            ", ".join(entry["sources"]) or "cut from train",
            ", ".join(f"{language} {n:,}" for language, n in entry["languages"].items()),
            *(f"{entry[count]:,}" for count in ("examples", "tokens", "truncated")),
        ]
        for each in stage.lineage()
        for entry in _splits(each)
    ]
    header = ["task", "split", "source", "examples by language", "examples", "tokens", "truncated"]
    return _table(header, rows, numbers=3)


def _settings_table(stage: StageRecord) -> str:
    adapted = any(each.lora() for each in stage.lineage())
    columns = [
        {
            "seed": each.identity()["seed"],
            "steps taken": each.done()["steps"],
            "best step": each.done()["best_step"],
            "dtype of matmuls": each.identity()["dtype"],
            **{f"optimizer.{k}": v for k, v in dataclasses.asdict(each.optimizer()).items()},
            **(_lora(each) if adapted else {}),
            **{f"train.{k}": v for k, v in dataclasses.asdict(each.train()).items()},
        }
        for each in stage.lineage()
    ]
    rows = [[key, *(_word(column[key]) for column in columns)] for key in columns[0]]
    return _table(["setting", *(each.task().name for each in stage.lineage())], rows)


def _lora(stage: StageRecord) -> dict[str, Any]:
    """Return the settings of a stage's adapters; `none` each if it has none."""
    settings = stage.lora()
    values = dataclasses.asdict(settings) if settings else {}
    return {f"lora.{f.name}": values.get(f.name, "none") for f in dataclasses.fields(Lora)}


def _languages(stage: StageRecord) -> list[str]:
    """Return all languages of the data, starting with the training data's."""
    languages = [language for each in stage.lineage() for language in _trained_on(each)]
    languages += [language for entry in _splits(stage) for language in entry["languages"]]
    return [language for language in dict.fromkeys(languages) if language != MIXED]


def _trained_on(stage: StageRecord) -> list[str]:
    return [language for entry in _splits(stage, "train") for language in entry["languages"]]


def _splits(stage: StageRecord, name: str = "") -> list[dict[str, Any]]:
    """Return the records of a stage's splits, or of those with a name."""
    return [entry for entry in stage.origin()["data"] if name in ("", entry["split"])]


def _join(parts: Sequence[str]) -> str:
    *first, last = parts
    return f"{', '.join(first)} and {last}" if first else last


def _word(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, tuple | list) else str(value)


def _table(header: Sequence[str], rows: Iterable[Sequence[str]], numbers: int = 0) -> str:
    """Return a Markdown table whose last columns, `numbers` many, are aligned right."""
    rule = ["---"] * (len(header) - numbers) + ["---:"] * numbers
    cells = [map(_escape, header), rule, *(map(_escape, row) for row in rows)]
    return "\n".join(f"| {' | '.join(row)} |" for row in cells)


def _escape(text: str) -> str:
    """Return a line of text in which no character is Markdown."""
    text = re.sub(r"([\\`*\[\]|<>~]|(?<!\w)_|_(?!\w)|&(?=#?\w+;))", r"\\\1", text)
    return " ".join(text.split())
