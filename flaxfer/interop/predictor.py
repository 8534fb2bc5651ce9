"""A fine-tuned model that predicts examples of its task."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import jax
import pydantic

from flaxfer.config import Model, Task, Train
from flaxfer.data import tokenize
from flaxfer.data.examples import Examples
from flaxfer.data.model_folder import read_config, read_labels
from flaxfer.errors import CheckpointError, ConfigError, DataError, DivergedError
from flaxfer.evaluation.evaluator import Evaluator, require_finite
from flaxfer.interop.inputs import from_items
from flaxfer.models import pretrained
from flaxfer.runtime import platform, sharding
from flaxfer.tasks import TASK_TYPES, Predictions, task_type
from flaxfer.tasks.models import model_spec

Record = TypeVar("Record")

MAX_LENGTH = 512
"""Most tokens of a text for a model whose config.json does not name the evaluation's length."""


class Predictor:
    """A fine-tuned model that predicts examples of its task.

    Attributes:
      task: its task.
      train: the settings to evaluate it with.
    """

    def __init__(
        self,
        folder: str | Path,
        *,
        single_texts: bool = False,
        mesh: jax.sharding.Mesh | None = None,
    ):
        """Load the weights, and place them on the devices.

        Args:
          folder: a Hugging Face model with a head for texts, tokens, answers or choices.
          single_texts: whether a model that was trained on pairs may predict single texts.
          mesh: devices over which rows are split; None for all devices.

        Raises:
          ConfigError, DataError, CheckpointError: the model cannot be used.
        """
        self._folder, self._single_texts = Path(folder), single_texts
        self._settings = read_config(self._folder)
        encoder = pretrained.load_encoder_config(self._folder)
        self.task = read_task(self._settings, str(folder))
        self._tokenizer = tokenize.load_tokenizer(Model(path=str(folder)))
        self.train = read_train(self._settings, self._tokenizer.model_max_length)
        model = model_spec(encoder, self.task)
        mesh = mesh or sharding.make_mesh()
        params = pretrained.load_pretrained(
            self._folder, encoder, head=model.head, outputs=model.num_outputs
        )
        self._params = jax.device_put(params, sharding.tree_shardings(params, mesh))
        dtype = platform.compute_dtype(self.train.compute_dtype)
        self._evaluator = Evaluator(model, self.task, self.train, dtype, mesh)

    def __call__(self, items: Iterable[Any]) -> list[dict[str, Any]]:
        """Predict examples.

        Args:
          items: texts, or pairs of texts; for tagging lists of words; for question answering
            (question, context); for multiple choice (text, choices). Or dicts by role, such as
            `{"text_a": "A text", "text_b": "Another"}`.

        Returns:
          A record for each, in their order: `prediction`; for classes and choices their
          `probabilities`; for answers `start` and `end` in the context, and the `n_best`.

        Raises:
          DataError: there are no texts, one is empty, or they are not of the task's form, such as
            single texts for a model of pairs.
          CheckpointError: the outputs of the model are not finite.
        """
        records = self.predict(from_items(items, self.task), "texts")
        return [{k: v for k, v in record.items() if k != "id"} for record in records]

    def predict(self, examples: Examples, name: str) -> Iterator[dict[str, Any]]:
        """Predict examples, whose labels are not read, and yield a record for each.

        Args:
          examples: the examples.
          name: where they come from, for errors.

        Raises:
          DataError, CheckpointError: as `__call__`.
        """
        if not self._single_texts:
            check_number_of_texts(self._settings, examples, name)
        length, stride = self.train.max_length, self.train.doc_stride
        data = tokenize.tokenize(examples, self._tokenizer, length, None, stride)
        outputs = self._evaluator.outputs(self._params, data)
        try:
            require_finite(name, data, outputs)
        except DivergedError as error:
            raise CheckpointError(
                error.what,
                where=str(self._folder),
                hint="the weights, or what is computed from them in this dtype, are out of range; "
                "export another checkpoint.",
            ) from error
        return _records(self._evaluator.predictions(data, outputs))


def read_task(settings: dict[str, Any], where: str) -> Task:
    """Return the task of a model, from its config.json.

    Raises:
      ConfigError: it has no head of a task type, or its labels are not numbered.
    """
    if isinstance(export := settings.get("flaxfer"), dict):
        task = _validate(Task, export.get("task"), where)
        wanted = task_type(task).exported_labels(task)
        if wanted and (labels := read_labels(settings, where)) != wanted:
            what = f"id2label has other labels than the task of the export: {', '.join(labels)}"
            hint = "if the export was trained further, delete the key `flaxfer` of config.json."
            raise ConfigError(what, where=where, hint=hint)
        if task_type(task).embeds:
            what = f"the model embeds texts for {task.name}, and predicts nothing of one alone"
            hint = "embed texts with flaxfer.Embedder or sentence-transformers."
            raise ConfigError(what, where=where, hint=hint)
        return task
    architecture = str((settings.get("architectures") or ["none"])[0])
    forms = [
        form
        for form in TASK_TYPES.values()
        if not form.embeds and architecture.removesuffix("Simple").endswith(form.architecture)
    ]
    hint = "name a model that was exported from a stage, or one with a head for a task."
    if not forms:
        what = f"the model has no head for a task; its architecture is {architecture}"
        raise ConfigError(what, where=where, hint=hint)
    if len(forms) == 1:
        form, labels = forms[0], ()
        if "labels" in form.settings:
            labels = read_labels(settings, where)
        return Task(form.name, form.name, form.metrics[0], labels)
    labels = read_labels(settings, where)
    problem = settings.get("problem_type") or ("regression" if len(labels) == 1 else "single")
    if problem == "regression" and len(labels) == 1:
        return Task("score", "regression", TASK_TYPES["regression"].metrics[0])
    if not problem.startswith("single"):
        what = f"its problem_type is {problem}, for {len(labels)} label(s)"
        raise ConfigError(what, where=where, hint=hint)
    return Task("class", "classification", TASK_TYPES["classification"].metrics[0], labels)


def read_train(settings: dict[str, Any], longest: int) -> Train:
    """Return the settings to evaluate a model with, from its config.json.

    They are those of the evaluation for an export. For other models, texts are cut to `longest`
    tokens, or to `MAX_LENGTH` if that is less.
    """
    if isinstance(export := settings.get("flaxfer"), dict):
        return _validate(Train, export.get("train"), "config.json")
    length = min(longest, MAX_LENGTH)
    return Train(max_length=length, row_length=length)


def check_number_of_texts(settings: dict[str, Any], examples: Examples, where: str) -> None:
    """Check that an exported model gets single texts or pairs, as in its training."""
    export = settings.get("flaxfer")
    trained = export.get("texts") if isinstance(export, dict) else None
    texts = 1 if examples.text_b is None or examples.choices > 1 else 2
    if trained == 2 and texts == 1:
        raise DataError(
            "the model was trained on pairs, but there is no column 'text_b'",
            where=where,
            hint="add the column, or pass --single-texts (in Python, single_texts=True) to predict "
            "without second texts.",
        )
    if trained == 1 and texts == 2:
        raise DataError(
            "the model was trained on single texts, but there is a column 'text_b'",
            where=where,
            hint="remove the column, or pass --ignore-columns text_b.",
        )


def _validate(record_type: type[Record], value: Any, where: str) -> Record:
    try:
        return pydantic.TypeAdapter(record_type).validate_python(value)
    except pydantic.ValidationError as error:
        raise ConfigError(
            "the key `flaxfer` of config.json is not as an export writes it",
            where=where,
            hint="export the model again, or delete the key to use the defaults.",
            details=[f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors()],
        ) from error


def _records(predictions: Predictions) -> Iterator[dict[str, Any]]:
    """Yield records like those of an evaluation's predictions file, but without labels."""
    data, gold = predictions.data, task_type(predictions.task).gold_key
    for i, identity in enumerate(data.id):
        columns = {"id": identity, "language": data.language[i], "domain": data.domain[i]}
        record = {key: value for key, value in columns.items() if value} | predictions.record(i)
        del record[gold]
        yield record | predictions.places(i)
