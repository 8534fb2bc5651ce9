"""Export of a finished stage as a Hugging Face folder: config, weights, tokenizer, model card.

The weights are those of the whole model, or of its adapters alone (`flaxfer.interop.adapter`).
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import json
import shlex
from pathlib import Path
from typing import Any

import jax
import numpy as np
import safetensors.numpy

from flaxfer import __version__
from flaxfer.config import Model, Task
from flaxfer.data import tokenize
from flaxfer.data.families import FAMILIES
from flaxfer.data.json_files import read_json
from flaxfer.data.model_folder import read_config
from flaxfer.data.tokenizer import cls_is_last
from flaxfer.errors import CheckpointError, ConfigError, DataError
from flaxfer.evaluation.records import CONDITIONS, Run, read_study
from flaxfer.interop import adapter, card, upload
from flaxfer.interop.card import RECORDS_ALONE, Publication
from flaxfer.interop.embedding import UNLIMITED, check_pooling
from flaxfer.interop.folders import copy_tokenizer, new_folder
from flaxfer.interop.sentence import POOLINGS, read_sentence_settings, write_sentence_settings
from flaxfer.models import pretrained
from flaxfer.models.encoders import EncoderConfig
from flaxfer.models.pretrained import weights_fingerprint
from flaxfer.models.weights import WEIGHTS
from flaxfer.runtime import sharding
from flaxfer.runtime.trees import Params
from flaxfer.tasks import task_type
from flaxfer.tasks.models import model_spec
from flaxfer.training.record import DONE, IDENTITY, StageRecord, open_finished
from flaxfer.training.vocabulary import recover_rows, with_word_table, word_table

TRAIN_SETTINGS = ("max_length", "doc_stride", "row_length", "packing", "eval_rows")
"""Training settings that `flaxfer predict` needs to give the predictions of the evaluation."""

CROSS_ENCODER = "sentence_transformers"
"""Key of config.json that the CrossEncoder of sentence-transformers reads."""


def export(
    folder: str | Path,
    out: str | Path,
    overwrite: bool = False,
    model: str | Path | None = None,
    *,
    publication: Publication = RECORDS_ALONE,
    name: str = "",
) -> Path:
    """Write the best parameters of a stage to a folder that transformers loads.

    Args:
      folder: folder of a finished stage.
      out: a new or empty folder.
      overwrite: whether to replace an earlier export at `out`.
      model: folder of the pretrained model, if it has moved since training.
      publication: what the model card says beside the records, and whether the folder is also one
        of sentence-transformers, which embeds texts with the encoder, or one of peft, which has the
        adapters alone.
      name: name of the model in its card; empty for that of `out`.

    Raises:
      FlaxferError: the stage, the model or `out` cannot be used; nothing is left at `out`.
    """
    folder, out, model = Path(folder), Path(out), Path(model) if model else None
    stage = open_finished(folder)
    source = _model_folder(stage, model)
    settings = read_config(source)
    encoder = pretrained.load_encoder_config(source)
    _check_weights(stage, source, encoder)
    if publication.adapter:
        adapter.check(stage, encoder, publication.base_model)
    pooling = sentence_pooling(stage.task(), encoder.family, publication.pooling)
    publication = dataclasses.replace(publication, pooling=pooling)
    with new_folder(out, overwrite) as temporary:
        _write_json(temporary / "config.json", config_json(settings, stage))
        _copy_tokenizer(stage, source, temporary)
        params: Params = {}
        if publication.adapter:
            base = publication.base_model or stage.model_config().hub or str(source.absolute())
            adapter.write_adapter(temporary, stage, encoder, base)
        else:
            params = whole_params(stage, encoder, source)
            head = task_type(stage.task()).head_of(stage.task())
            arrays = pretrained.checkpoint_arrays(params, encoder, head)
            safetensors.numpy.save_file(arrays, temporary / WEIGHTS, metadata={"format": "pt"})
        if pooling:
            length, embeds = stage.train().max_length, task_type(stage.task()).embeds
            pooler = params["head"].get("pooler") if embeds else None
            write_sentence_settings(temporary, pooling, encoder.hidden_size, length, pooler)
            check_pooling(read_sentence_settings(temporary), None, encoder)
        # The pre-tokenizer that restores XLNet's own rules has no form in tokenizer.json.
        facts = dataclasses.replace(publication, own_tokens=encoder.family == "xlnet")
        card.model_card(stage, name or out.absolute().name, facts).save(temporary / "README.md")
    return out


def sentence_pooling(task: Task, family: str, wanted: str) -> str:
    """Return how sentence-transformers pools the tokens of a text; empty if it is not to.

    Args:
      task: task of the exported stage; embeddings of retrieval by the last layer are pooled as in
        training.
      family: family of the encoder.
      wanted: what the user names.

    Raises:
      ConfigError: a pooling is wanted of embeddings that were trained.
    """
    if not task_type(task).embeds or task.embedding_layer is not None:
        return wanted  # sentence-transformers pools the last layer.
    if wanted:
        what = f"the embeddings of {task.name} were trained with the pooling {task.pooling!r}"
        raise ConfigError(what, where="pooling", hint="leave it out: the export has that one.")
    if task.pooling == "mean":
        return "mean"
    return "lasttoken" if FAMILIES[family].cls_last else "cls"


def class_name(family: str, task: Task) -> str:
    """Return the name of transformers' class for a family and a task."""
    suffix = task_type(task).architecture
    # XLNetForQuestionAnswering is a beam search over spans; ours is the plain head.
    simple = "Simple" if (family, suffix) == ("xlnet", "ForQuestionAnswering") else ""
    return f"{FAMILIES[family].class_prefix}{suffix}{simple}"


def config_json(settings: dict[str, Any], stage: StageRecord) -> dict[str, Any]:
    """Return the config.json of an exported stage, based on its pretrained model's.

    Its key `flaxfer`, which transformers keeps and ignores, is for `flaxfer predict`.
    """
    task = stage.task()
    replaced = ("torch_dtype", "num_labels", "id2label", "label2id", "problem_type", CROSS_ENCODER)
    config = {key: value for key, value in settings.items() if key not in replaced}
    config |= {"architectures": [class_name(settings["model_type"], task)], "dtype": "float32"}
    if labels := task_type(task).exported_labels(task):
        config |= {
            "id2label": {str(i): label for i, label in enumerate(labels)},
            "label2id": {label: i for i, label in enumerate(labels)},
        }
    if problem := task_type(task).problem_type:
        config["problem_type"] = problem
    if len(labels) == 1:  # Otherwise a CrossEncoder squeezes scores between 0 and 1.
        config[CROSS_ENCODER] = {"activation_fn": "torch.nn.modules.linear.Identity"}
    train = {name: getattr(stage.train(), name) for name in TRAIN_SETTINGS}
    config["flaxfer"] = {
        "version": __version__,
        "stage": stage.folder.name,
        "task": dataclasses.asdict(task),
        "train": train | {"compute_dtype": stage.identity()["dtype"]},
        "texts": stage.origin().get("texts"),  # None if an older version trained it.
    }
    return config


def whole_params(stage: StageRecord, encoder: EncoderConfig, source: Path) -> Params:
    """Return the best parameters of a stage on the host, with all rows of the embedding."""
    mesh = sharding.make_mesh(devices=jax.devices()[:1])

    @functools.cache
    def params_of(record: StageRecord) -> Params:
        on_host: Params = jax.tree.map(np.asarray, record.best_params(encoder, mesh))
        return on_host

    def first_rows(ids: np.ndarray) -> np.ndarray:
        first = stage.lineage()[0]
        if first.identity()["start"] == "random":
            params = model_spec(encoder, first.task()).random_params(first.attempt_seed())
        else:
            params = pretrained.load_pretrained(source, encoder)
        return word_table(params)[ids]

    every_id = np.arange(encoder.vocab_size)
    table = recover_rows(every_id, stage.lineage(), first_rows, params_of)
    return with_word_table(params_of(stage), table)


def find_stage(
    run: Path,
    out: Path,
    condition: str | None = None,
    seed: int | None = None,
    stage: str | None = None,
) -> Path:
    """Return the folder of the stage that a command line selects.

    `run` is the folder of a stage, or the work directory of a study. Of a work directory, the stage
    with the given condition, seed and stage (by default the target) is chosen; `out` only appears
    in the commands that an error proposes.

    Raises:
      ConfigError: no stage matches, or several do.
      DataError: `run` is neither a stage nor a work directory.
    """
    if (run / IDENTITY).is_file():
        if (condition, seed, stage) != (None, None, None):
            raise ConfigError(
                "--condition, --seed and --stage select a stage of a work directory, but this is "
                "the folder of one stage",
                where=str(run),
                hint="leave them out, or name the work directory.",
            )
        return run
    if not (run / "study.json").is_file():
        raise DataError(
            "this is neither the folder of a stage nor the work directory of a finished study",
            where=str(run),
            hint="run the study to its end, or name one of its finished stages.",
            details=[str(file.parent) for file in sorted(run.glob(f"stages/*/{DONE}"))],
        )
    records = read_study(run).runs
    matches = [
        record
        for record in records
        if record.stage == (stage or "target")
        and condition in (None, record.condition)
        and seed in (None, record.seed)
    ]
    if len({record.id for record in matches}) == 1:
        return run / matches[0].dir
    raise ConfigError(
        "several stages match" if matches else "no stage of the study matches",
        where=str(run),
        hint="use one of these commands.",
        details=[_command(run, out, record) for record in matches or records],
    )


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `flaxfer export`."""
    parser.add_argument("run", type=Path, help="a stage folder, or the work directory of a study")
    parser.add_argument("out", type=Path, help="the new folder")
    parser.add_argument(
        "--condition", choices=CONDITIONS, help="condition of a run in a work directory"
    )
    parser.add_argument("--seed", type=int, help="seed of a run in a work directory")
    parser.add_argument(
        "--stage",
        choices=("intermediate", "target"),
        help="stage of a run in a work directory; target by default",
    )
    parser.add_argument("--model", type=Path, help="folder of the pretrained model, if it moved")
    parser.add_argument("--overwrite", action="store_true", help="replace an earlier export")
    parser.add_argument(
        "--pooling",
        choices=POOLINGS,
        metavar="NAME",
        help="let sentence-transformers embed texts with the encoder, and pool tokens by one of "
        f"{', '.join(POOLINGS)}",
    )
    parser.add_argument(
        "--adapter",
        action="store_true",
        help="write the adapters and the head alone, for peft, if the stage was trained with lora",
    )
    parser.add_argument("--license", help="licence in the model card, such as apache-2.0")
    parser.add_argument(
        "--base-model",
        metavar="ID",
        help="id of the pretrained model on the hub, for the model card; by default model.hub. "
        "With --adapter, id or folder of the model that the adapters belong to",
    )
    parser.add_argument("--push-to-hub", metavar="ID", help="upload the folder to the hub")
    parser.add_argument("--private", action="store_true", help="make the new repository private")


def run(args: argparse.Namespace) -> int:
    """Export a stage, print the path of its folder, and upload it if that is wanted."""
    if args.private and not args.push_to_hub:
        hint = "name the repository with --push-to-hub ID, or leave it out."
        raise ConfigError("nothing is uploaded", where="--private", hint=hint)
    if args.adapter and args.pooling:
        hint = "leave one of them out: sentence-transformers needs the whole model."
        raise ConfigError("a folder of adapters embeds no texts", where="--pooling", hint=hint)
    if args.base_model and not (args.adapter and Path(args.base_model).is_dir()):
        upload.check_id(args.base_model, "--base-model")
    folder = find_stage(args.run, args.out, args.condition, args.seed, args.stage)
    if repository := args.push_to_hub:
        upload.check(repository, private=args.private, overwrite=args.overwrite)
    publication = Publication(
        args.license or "", args.base_model or "", args.pooling or "", adapter=args.adapter
    )
    name = repository or ""
    print(export(folder, args.out, args.overwrite, args.model, publication=publication, name=name))
    if repository:
        print(upload.upload(args.out, repository, args.private))
    return 0


def _command(run: Path, out: Path, record: Run) -> str:
    words = [str(run), str(out), "--condition", record.condition, "--seed", str(record.seed)]
    if record.stage != "target":
        words += ["--stage", record.stage]
    return shlex.join(["flaxfer", "export", *words])


def _model_folder(stage: StageRecord, model: Path | None) -> Path:
    """Return the folder of the pretrained model, without asking the hub."""
    folder = model or Path(stage.origin()["model"]["folder"])
    if not folder.is_dir():
        raise DataError(
            f"the pretrained model of the stage, {card.base_name(stage)}, is missing",
            where=str(folder),
            hint="the export needs its config, its tokenizer and its embeddings of unused tokens: "
            "put it back, or name its folder with --model FOLDER.",
        )
    return folder


def _check_weights(stage: StageRecord, source: Path, encoder: EncoderConfig) -> None:
    trained = encoder.with_dropout(
        stage.model_config().dropout, stage.model_config().attention_dropout
    )
    if weights_fingerprint(source, trained) != stage.identity()["model"]:
        raise CheckpointError(
            "config.json or the weights are not those that the stage started from",
            where=str(source),
            hint="name the folder of the same model with --model FOLDER.",
        )


def _copy_tokenizer(stage: StageRecord, source: Path, target: Path) -> None:
    """Copy the tokenizer, and check that the copy tokenises as in training.

    Its config names the model's inputs and its padding side. Without them, transformers would
    give a BERT no token types, and an XLNet padding as its last token.
    """
    folder = Path(stage.model_config().tokenizer or source).expanduser()
    if not folder.is_dir():
        raise DataError(
            "the tokenizer of the stage is missing", where=str(folder), hint="put it back there."
        )
    copy_tokenizer(folder, target)
    tokenizer = tokenize.load_tokenizer(Model(path=str(target)))
    if tokenize.tokenizer_fingerprint(tokenizer) != stage.origin()["tokenizer"]:
        raise DataError(
            "the tokenizer is not the one that the stage was trained with",
            where=str(folder),
            hint="restore the files of that tokenizer.",
        )
    file = target / "tokenizer_config.json"
    settings = read_json(file, DataError) if file.exists() else {}
    settings["model_input_names"] = tokenizer.model_input_names
    settings["padding_side"] = "left" if cls_is_last(tokenizer) else "right"
    if tokenizer.model_max_length < UNLIMITED:
        settings["model_max_length"] = tokenizer.model_max_length
    _write_json(file, settings)


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
