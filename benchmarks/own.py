"""flaxfer's side: the pieces of a stage, put together for one file as a study does it."""

from __future__ import annotations

import argparse
import dataclasses
from typing import Any

import jax
import numpy as np

from benchmarks import common
from flaxfer import config
from flaxfer.config import Source, Task, Train
from flaxfer.data import sources, tokenize
from flaxfer.data.tokenize import Tokenized
from flaxfer.evaluation.evaluator import Evaluator
from flaxfer.models import pretrained
from flaxfer.models.encoders import EncoderConfig
from flaxfer.runtime import platform, sharding
from flaxfer.runtime.trees import Params
from flaxfer.tasks import TASK_TYPES
from flaxfer.tasks.models import model_spec
from flaxfer.training.vocabulary import Vocabulary

PACKAGES = ("jax", "jaxlib", "flax", "optax", "transformers", "numpy")
EPOCHS = 3


@dataclasses.dataclass(frozen=True)
class Pieces:
    """What a stage needs: data and parameters with the vocabulary cut, and the evaluator."""

    encoder: EncoderConfig
    data: Tokenized
    params: Params
    evaluator: Evaluator


def parser(doc: str | None) -> argparse.ArgumentParser:
    """The options of flaxfer's scripts."""
    made = common.parser(doc)
    made.add_argument("--dtype", choices=("auto", "float32", "bfloat16"), default="auto")
    return made


def prepare(options: argparse.Namespace, most: int = 0) -> Pieces:
    """Reads data and weights; `most` is the number of examples to use, 0 for all.

    Raises:
      FlaxferError: of the kind of what is wrong.
    """
    platform.keep_memory()
    options.cache_state = common.cache_state(options.cache)
    if options.cache:
        platform.use_compilation_cache(options.cache)
    form = common.read(options.data, options.columns, options.task).form
    task_type = TASK_TYPES[form.kind]
    metric = next(iter(task_type.metrics))
    task = Task("benchmark", form.kind, metric, form.labels, form.score_range)
    source = Source(path=str(options.data.absolute()), header=form.header, columns=form.columns)
    # A row holds an example of full length, and is else as long as the config's default has it.
    row_length = max(Train().row_length, options.length)
    train = Train(
        batch_size=options.batch,
        epochs=EPOCHS,
        max_length=options.length,
        row_length=row_length,
        compute_dtype=options.dtype,
    )
    examples = sources.read_source(source, task, task_type)
    if most:
        examples = examples.take(np.arange(min(most, len(examples))))
    model = config.Model(path=options.model)
    folder, tokenizer = pretrained.resolve(model), tokenize.load_tokenizer(model)
    data = tokenize.tokenize(examples, tokenizer, train.max_length, None)
    whole = pretrained.load_encoder_config(folder)
    vocabulary = Vocabulary.used([data], whole.vocab_size, whole.pad_token_id)
    encoder = dataclasses.replace(whole, vocab_size=len(vocabulary))
    model_of_task = model_spec(encoder, task)
    evaluator = Evaluator(
        model=model_of_task,
        task=task,
        train=train,
        dtype=platform.compute_dtype(train.compute_dtype),
        mesh=sharding.make_mesh(),
    )
    options.dtype = str(evaluator.dtype)
    options.row_length = train.row_length
    loaded = pretrained.load_pretrained(folder, whole, head=model_of_task.head)
    word = loaded["encoder"]["embeddings"]["word"]
    word["embedding"] = word["embedding"][vocabulary.ids]
    fresh = model_of_task.random_params(options.seed)
    params = fresh | loaded | {"head": fresh["head"] | loaded.get("head", {})}
    return Pieces(
        encoder=encoder,
        data=vocabulary.cut(data),
        params=params,
        evaluator=evaluator,
    )


def devices() -> dict[str, Any]:
    """JAX's devices, for the JSON line."""
    return {"devices": f"{jax.device_count()} x {jax.devices()[0].device_kind}"}
