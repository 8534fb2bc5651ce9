"""A finished stage as a Hugging Face folder: config, weights, tokenizer and model card.

python -m flaxfer.interop.export RUN OUT [--path PATH --seed N]
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import json
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
import safetensors.numpy

from flaxfer import __version__
from flaxfer.config import Model, Task
from flaxfer.data import tokenize
from flaxfer.data.tokenizer import cls_is_last
from flaxfer.errors import CheckpointError, ConfigError, DataError, FlaxferError
from flaxfer.evaluation import records
from flaxfer.interop import card
from flaxfer.interop.folders import copy_tokenizer, new_folder
from flaxfer.models import pretrained
from flaxfer.models.encoders import EncoderConfig
from flaxfer.models.pretrained import weights_fingerprint
from flaxfer.models.weights import WEIGHTS, read_json
from flaxfer.runtime.trees import Params
from flaxfer.tasks import task_type
from flaxfer.tasks.models import model_spec
from flaxfer.training import finished, rows, stage_run
from flaxfer.training.checkpoints import CheckpointStore, restore
from flaxfer.training.finished import Finished

CLASSES = {
    "bert": "Bert",
    "ernie": "Ernie",
    "roberta": "Roberta",
    "xlm-roberta": "XLMRoberta",
    "camembert": "Camembert",
    "data2vec-text": "Data2VecText",
    "xlnet": "XLNet",
}
"""What transformers' classes of a family begin with."""

LONGEST = 10**6
"""Tokens; a tokenizer that takes more than this has no limit, which transformers writes as 1e30."""


def export(folder: Path, out: Path, overwrite: bool = False, model: Path | None = None) -> Path:
    """Writes the best parameters of a stage as a folder that transformers loads.

    Args:
      folder: of a finished stage.
      out: a new or empty folder.
      overwrite: whether an earlier export at `out` is replaced.
      model: where the pretrained model lies now, if not where it was.

    Raises:
      FlaxferError: of the kind of what is wrong; nothing is left at `out` then.
    """
    done = finished.read(folder)
    source = _model_folder(done, model)
    settings = read_json(source / "config.json", DataError)
    whole = pretrained.load_encoder_config(source)
    _check_weights(done, source, whole)
    head = task_type(done.task).head
    with new_folder(out, overwrite) as temporary:
        _write_json(temporary / "config.json", config_json(settings, done))
        _copy_tokenizer(done, source, temporary)
        arrays = pretrained.checkpoint_arrays(whole_params(done, whole, source), whole, head)
        safetensors.numpy.save_file(arrays, temporary / WEIGHTS, metadata={"format": "pt"})
        text = card.model_card(done, out.absolute().name, class_name(whole.family, done.task))
        (temporary / "README.md").write_text(text, encoding="utf-8", newline="\n")
    return out


def class_name(family: str, task: Task) -> str:
    """The class of transformers for a family and a task type."""
    form = task_type(task)
    simple = "Simple" if (family, form.head) == ("xlnet", "span") else ""
    return f"{CLASSES[family]}{form.architecture}{simple}"


def config_json(settings: dict[str, Any], done: Finished) -> dict[str, Any]:
    """The pretrained model's config.json, made that of the exported one.

    What `flaxfer.interop.predict` needs to give the same predictions stands under `flaxfer`, which
    transformers keeps and does not read.
    """
    task = done.task
    replaced = ("torch_dtype", "num_labels", "id2label", "label2id", "problem_type")
    config = {key: value for key, value in settings.items() if key not in replaced}
    config |= {
        "architectures": [class_name(settings["model_type"], task)],
        "dtype": "float32",
    }
    if labels := task_type(task).exported_labels(task):
        config |= {
            "id2label": {str(i): label for i, label in enumerate(labels)},
            "label2id": {label: i for i, label in enumerate(labels)},
        }
    if problem_type := task_type(task).problem_type:
        config["problem_type"] = problem_type
    kept = ("max_length", "doc_stride", "row_length", "packing", "eval_rows")
    train = dataclasses.asdict(done.train)
    config["flaxfer"] = {
        "version": __version__,
        "stage": done.folder.name,
        "task": dataclasses.asdict(task),
        "train": {key: train[key] for key in kept} | {"compute_dtype": done.dtype},
    }
    return config


def whole_params(done: Finished, whole: EncoderConfig, source: Path) -> Params:
    """The best parameters of a stage, with the rows of the embedding that it had cut away."""
    params = _restored(done, whole)
    first = done.lineage[0]

    def start(ids: np.ndarray) -> np.ndarray:
        if first.start == "random":
            return rows.random_table(whole, first.task, first.attempt_seed)[ids]
        return rows.word_table(pretrained.load_pretrained(source, whole))[ids]

    stages = [
        rows.Trained(
            each.vocabulary,
            (lambda: params) if each is done else functools.partial(_restored, each, whole),
            each.optimizer,
            each.done["best_step"],
            each.done["total_steps"],
        )
        for each in done.lineage
    ]
    return rows.with_table(params, rows.rows_after(np.arange(whole.vocab_size), stages, start))


def find(run: Path, out: Path, path: str | None, seed: int | None, name: str | None) -> Path:
    """The stage folder that the command line means.

    Args:
      run: a stage folder, or the work directory of a study.
      out: for the commands that the error proposes.
      path: of the study.
      seed: of the study.
      name: `intermediate` or `target`; target if None.

    Raises:
      ConfigError: no stage fits, or several do.
      DataError: `run` is neither.
    """
    if (run / finished.IDENTITY).is_file():
        if path is not None or seed is not None or name is not None:
            raise ConfigError(
                "--path, --seed and --stage choose a stage of a work directory, and this is the "
                "folder of one stage",
                where=str(run),
                hint="leave them out, or name the work directory.",
            )
        return run
    if not (run / "study.json").is_file():
        raise DataError(
            "this is neither the folder of a stage nor the work directory of a finished study",
            where=str(run),
            hint="run the study to its end, or name one of its finished stages.",
            details=[str(done.parent) for done in sorted(run.glob(f"stages/*/{finished.DONE}"))],
        )
    runs = records.read_study(run).runs
    wanted = name or "target"
    fitting = [
        r
        for r in runs
        if r.stage == wanted and path in (None, r.condition) and seed in (None, r.seed)
    ]
    if len({r.id for r in fitting}) == 1:
        return run / fitting[0].dir
    shown = fitting or runs
    raise ConfigError(
        "several stages fit" if fitting else "no stage of the study fits",
        where=str(run),
        hint="use one of these commands.",
        details=[_command(run, out, r) for r in shown],
    )


def _command(run: Path, out: Path, record: records.Run) -> str:
    words = [str(run), str(out), "--path", record.condition, "--seed", str(record.seed)]
    if record.stage != "target":
        words += ["--stage", record.stage]
    return shlex.join(["python", "-m", "flaxfer.interop.export", *words])


def _model_folder(done: Finished, model: Path | None) -> Path:
    """Where the pretrained model lies. Nothing is asked of the hub."""
    folder = model or done.model_folder
    if not folder.is_dir():
        raise DataError(
            f"the pretrained model of the stage, {card.base_name(done)}, is not there",
            where=str(folder),
            hint="its config, its tokenizer and the rows of unused tokens are taken from it: put "
            "it back, or name the folder where it is with --model FOLDER.",
        )
    return folder


def _check_weights(done: Finished, source: Path, whole: EncoderConfig) -> None:
    encoder = whole.with_dropout(done.model.dropout, done.model.attention_dropout)
    if weights_fingerprint(source, encoder) != done.weights:
        raise CheckpointError(
            "config.json or the weights are not those that the stage began with",
            where=str(source),
            hint="name the folder of the same model with --model FOLDER.",
        )


def _copy_tokenizer(done: Finished, source: Path, target: Path) -> None:
    """Copies the tokenizer, and checks that in its new place it does what it did.

    Its config is made to name what the model reads: without token types in it, transformers would
    give a BERT none, and without the side of the padding an XLNet padding as its last token.
    """
    copy_tokenizer(Path(done.model.tokenizer or source).expanduser(), target)
    tokenizer = tokenize.load_tokenizer(Model(path=str(target)))
    if tokenize.tokenizer_fingerprint(tokenizer) != done.tokenizer:
        raise DataError(
            "the tokenizer is not the one that the stage was trained with",
            where=done.model.tokenizer or str(source),
            hint="put the files of that one back.",
        )
    file = target / "tokenizer_config.json"
    settings = read_json(file, DataError) if file.exists() else {}
    settings["model_input_names"] = tokenizer.model_input_names
    settings["padding_side"] = "left" if cls_is_last(tokenizer) else "right"
    if tokenizer.model_max_length < LONGEST:
        settings["model_max_length"] = tokenizer.model_max_length
    _write_json(file, settings)


def _restored(done: Finished, whole: EncoderConfig) -> Params:
    """The best parameters of a stage, on the host."""
    store = CheckpointStore(
        done.folder / "checkpoints", task_type(done.task).larger_is_better(done.task.metric)
    )
    best = store.best() or store.newest()
    if best is None or best.step != done.done["best_step"]:
        raise CheckpointError(
            "the stage is marked as finished, but its best checkpoint is gone",
            where=str(done.folder),
            hint="delete this folder and run the study again: it repeats this stage.",
        )
    one = np.array(jax.devices()[:1]).reshape(1, 1, 1)
    mesh = jax.sharding.Mesh(one, ("data", "fsdp", "tensor"))
    cut = dataclasses.replace(whole, vocab_size=len(done.vocabulary))
    shapes = model_spec(cut, done.task).param_shapes()
    params = restore(best, {"params": stage_run.placed(shapes, mesh)})["params"]
    on_host: Params = jax.tree.map(np.asarray, params)
    return on_host


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m flaxfer.interop.export",
        description="Write a finished stage as a folder that transformers and flaxfer load.",
    )
    parser.add_argument("run", type=Path, help="a stage folder, or the work directory of a study")
    parser.add_argument("out", type=Path, help="the new folder")
    parser.add_argument("--path", choices=records.CONDITIONS, help="of a work directory")
    parser.add_argument("--seed", type=int, help="of a work directory")
    parser.add_argument("--stage", choices=("intermediate", "target"), help="target by default")
    parser.add_argument("--model", type=Path, help="where the pretrained model lies now")
    parser.add_argument("--overwrite", action="store_true", help="replace an earlier export")
    words = parser.parse_args(arguments)
    try:
        folder = find(words.run, words.out, words.path, words.seed, words.stage)
        print(export(folder, words.out, words.overwrite, words.model))
    except FlaxferError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
