"""Sentence embeddings of an encoder as it is: similarity and retrieval without any training."""

from __future__ import annotations

import argparse
import dataclasses
import json
import logging
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NoReturn

import jax
import numpy as np
from flax import nnx

from flaxfer.config import Model, Source, Task, Train
from flaxfer.data.examples import Examples
from flaxfer.data.loader import eval_batches, put_rows
from flaxfer.data.readers import read_lines
from flaxfer.data.sources import read_source
from flaxfer.data.tokenize import Tokenized, load_tokenizer, tokenize
from flaxfer.data.values import text_fault
from flaxfer.errors import ConfigError, DataError, FlaxferError
from flaxfer.evaluation.evaluator import finite
from flaxfer.evaluation.retrieval import retrieval_accuracy
from flaxfer.interop.embedding_step import Pooling, make_embed_step
from flaxfer.models import pretrained
from flaxfer.models.encoders import EncoderConfig
from flaxfer.models.families import FAMILIES
from flaxfer.runtime import sharding
from flaxfer.runtime.trees import Params
from flaxfer.tasks import metrics, task_type
from flaxfer.training.vocabulary import Vocabulary

logger = logging.getLogger("flaxfer.interop.embed")

Layers = Sequence[int] | Literal["all"]
"""Numbers of layers: 0 is the embeddings, N the last layer's output and so is -1."""

LONGEST = 512
"""Most tokens of a text unless the caller says otherwise."""

STEP_TOKENS = 4096
"""Token slots of a step, in rows that hold the longest text."""

SIMILARITY = Task("similarity", "regression", "pearson", score_range=(-1e30, 1e30))
"""A score of whatever range: a correlation does not depend on it."""


class Embedder:
    """A pretrained encoder that turns single texts into vectors.

    Attributes:
      config: of the encoder.
      truncated: texts cut to `max_length` so far, each counted once a call.
    """

    def __init__(
        self,
        model: str | Path | Model,
        *,
        pooling: Pooling = "mean",
        normalise: bool = False,
        prefix: str = "",
        max_length: int = 0,
        mesh: jax.sharding.Mesh | None = None,
    ):
        """Loads the weights and sends all but the word embeddings to the devices.

        Args:
          model: folder with config.json, *.safetensors and the tokenizer, or a `Model`.
          pooling: `mean` over all tokens of a text, special tokens included, as in
            sentence-transformers (Reimers & Gurevych 2019); `cls` for the CLS token's output.
          normalise: vectors of length 1.
          prefix: put before every text; E5 models were trained with "query: ".
          max_length: tokens of a text, special tokens included; longer ones are cut, and counted.
            0 for what the model takes, or 512 if it takes more.
          mesh: over which rows are split; None for all devices.

        Raises:
          DataError, ConfigError, CheckpointError: the model cannot be used as it is.
        """
        settings = model if isinstance(model, Model) else Model(path=str(model))
        folder = pretrained.resolve(settings)
        self.config = pretrained.load_encoder_config(folder)
        self.truncated = 0
        self._pooling, self._normalise, self._prefix = pooling, normalise, prefix
        self._tokenizer = load_tokenizer(settings)
        self._max_length = max_length or min(self._tokenizer.model_max_length, LONGEST)
        self._mesh = mesh or sharding.make_mesh()
        params = pretrained.load_encoder(folder, self.config)
        self._table = params["embeddings"]["word"].pop("embedding")
        self._rest = jax.device_put(params, sharding.tree_shardings(params, self._mesh))

    def embed(self, texts: Sequence[str], layers: Layers = (-1,)) -> np.ndarray:
        """Embeddings of texts, each distinct text computed once, all layers in one pass.

        Args:
          texts: at least one.
          layers: which, in the order of the result; `all` for the N + 1 from the embeddings on.

        Returns:
          float32 (L, n, D), in the order of `texts`.

        Raises:
          ConfigError: the model has no such layer.
          DataError: there are no texts, or one is empty.
        """
        numbers = layer_numbers(layers, self.config.num_layers)
        _check(texts)
        place = {text: i for i, text in enumerate(dict.fromkeys(texts))}
        data = self._tokenize(list(place))
        if data.truncated:
            self.truncated += data.truncated
            logger.warning("%d texts are cut to %d tokens", data.truncated, self._max_length)
        vocabulary = Vocabulary.used([data], self.config.vocab_size, self.config.pad_token_id)
        config, params = self._cut(vocabulary)
        vector_LnD = embed_tokenized(
            config, params, vocabulary.cut(data), numbers, self._pooling, self._mesh
        )
        if self._normalise:
            vector_LnD /= np.linalg.norm(vector_LnD, axis=-1, keepdims=True)
        return vector_LnD[:, [place[text] for text in texts]]

    def _tokenize(self, texts: Sequence[str]) -> Tokenized:
        n = len(texts)
        examples = Examples(
            task_type=task_type(SIMILARITY),
            text_a=tuple(self._prefix + text for text in texts),
            text_b=None,
            label=np.zeros(n, np.float32),
            id=tuple(map(str, range(n))),
            language=("",) * n,
            domain=("",) * n,
        )
        return tokenize(examples, self._tokenizer, self._max_length, None)

    def _cut(self, vocabulary: Vocabulary) -> tuple[EncoderConfig, Params]:
        """The encoder with the rows of `vocabulary` alone, on the devices.

        The table has a power of two of rows, so that calls with other texts share the program.
        """
        rows = min(1 << (len(vocabulary) - 1).bit_length(), len(self._table))
        table = np.zeros((rows, self._table.shape[1]), np.float32)
        table[: len(vocabulary)] = self._table[vocabulary.ids]
        embeddings = self._rest["embeddings"]
        params = {**self._rest, "embeddings": {**embeddings, "word": {"embedding": table}}}
        placed = jax.device_put(params, sharding.tree_shardings(params, self._mesh))
        return dataclasses.replace(self.config, vocab_size=rows), placed


def embed_tokenized(
    config: EncoderConfig,
    params: Params,
    data: Tokenized,
    layers: tuple[int, ...],
    pooling: Pooling,
    mesh: jax.sharding.Mesh,
) -> np.ndarray:
    """Embeddings of tokenised texts, float32 (L, n, D) in their order, computed on packed rows.

    Args:
      config: of the encoder.
      params: of the encoder, placed on `mesh`.
      data: ids are rows of the encoder's table.
      layers: counted from 0, the embeddings.
      pooling: as `Embedder`.
      mesh: over which rows are split.
    """
    encoder = nnx.eval_shape(lambda: FAMILIES[config.family].encoder(config, rngs=nnx.Rngs(0)))
    embed_step = make_embed_step(nnx.split(encoder, nnx.Param)[0], layers, pooling)
    row_length = max(128, 1 << (int(data.lengths.max()) - 1).bit_length())
    rows = min(max(STEP_TOKENS // row_length, 1), 1 << (len(data) - 1).bit_length())
    batching = Train(row_length=row_length, eval_rows=rows)
    vector_LnD = np.full((len(layers), len(data), config.hidden_size), np.nan, np.float32)
    pending: list[tuple[np.ndarray, jax.Array]] = []

    def fetch(index_BE: np.ndarray, vector_LBED: jax.Array) -> None:
        filled = index_BE >= 0
        vector_LnD[:, index_BE[filled]] = np.asarray(vector_LBED)[:, filled]

    for batch in eval_batches(data, batching, config.pad_token_id, sharding.row_shards(mesh)):
        pending.append((batch["index_BE"], embed_step(params, put_rows(batch, mesh))))
        if len(pending) > 1:  # One batch late: the device never waits for the host.
            fetch(*pending.pop(0))
    fetch(*pending.pop())
    return vector_LnD


def layer_numbers(layers: Layers, num_layers: int) -> tuple[int, ...]:
    """The layers counted from 0.

    Raises:
      ConfigError: the model has no such layer, or none is named.
    """
    if layers == "all":
        return tuple(range(num_layers + 1))
    wrong = [str(layer) for layer in layers if not -num_layers - 1 <= layer <= num_layers]
    if wrong or not layers:
        raise ConfigError(
            f"there is no layer {', '.join(wrong)}" if wrong else "no layer is named",
            where="layers",
            hint=f"the layers are 0 (the embeddings) to {num_layers}, or -1 (the last) and down.",
        )
    return tuple(int(layer) % (num_layers + 1) for layer in layers)


def cosines(a_nD: np.ndarray, b_nD: np.ndarray) -> np.ndarray:
    """The cosine of each pair of vectors, float64 (n,)."""
    a_nD, b_nD = (x.astype(np.float64) for x in (a_nD, b_nD))
    lengths = np.linalg.norm(a_nD, axis=-1) * np.linalg.norm(b_nD, axis=-1)
    return np.einsum("nD,nD->n", a_nD, b_nD) / lengths


def sts_scores(embedder: Embedder, pairs: Examples, layers: Layers = (-1,)) -> list[dict[str, Any]]:
    """Correlations of the cosine with the score of each pair, a record a layer.

    Raises:
      DataError: as `Embedder.embed`.
    """
    assert pairs.text_b is not None
    n = len(pairs)
    vector_LnD = embedder.embed([*pairs.text_a, *pairs.text_b], layers)
    records = []
    for layer, vector_nD in zip(_names(embedder, layers), vector_LnD, strict=True):
        cosine_nC = cosines(vector_nD[:n], vector_nD[n:])[:, None]
        scores = metrics.evaluate_scores(cosine_nC, np.asarray(pairs.label))
        records.append({"layer": layer, **{k: scores[k] for k in ("pearson", "spearman")}})
    return records


def retrieval_scores(
    embedder: Embedder, source: Sequence[str], target: Sequence[str], layers: Layers = (-1,)
) -> list[dict[str, Any]]:
    """Shares of texts whose nearest neighbour by cosine is their own translation, a record a layer.

    Args:
      embedder: of both sides.
      source: n texts.
      target: their translations, in the same order.
      layers: as `Embedder.embed`.

    Raises:
      DataError: as `Embedder.embed`, or there are more texts on one side.
    """
    n = len(source)
    if len(target) != n:
        raise DataError(
            f"{n} and {len(target)} texts cannot be translations of each other one by one",
            where="source and target",
            hint="fetch the files again: one of them is cut off, or belongs to another pair.",
        )
    vector_LnD = embedder.embed([*source, *target], layers)
    return [
        {
            "layer": layer,
            "source_to_target": retrieval_accuracy(vector_nD[:n], vector_nD[n:]),
            "target_to_source": retrieval_accuracy(vector_nD[n:], vector_nD[:n]),
        }
        for layer, vector_nD in zip(_names(embedder, layers), vector_LnD, strict=True)
    ]


def main(arguments: Sequence[str] | None = None) -> int:
    """Scores a model that is not trained; returns the exit code: 0, or that of the error."""
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
    try:
        options = _parser().parse_args(arguments)
        result = options.run(options)
    except FlaxferError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    records = result["scores"]
    if options.json:
        records = [finite(record) for record in records]
        print(json.dumps(result | {"scores": records}, ensure_ascii=False, allow_nan=False))
    else:
        print("  ".join(f"{name:>16}" for name in records[0]))
        for record in records:
            cells = (f"{v:16d}" if isinstance(v, int) else f"{v:16.4f}" for v in record.values())
            print("  ".join(cells))
    return 0


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise ConfigError(message, where="command line", hint="see --help.")


def _parser() -> argparse.ArgumentParser:
    shared = _Parser(add_help=False)
    shared.add_argument("--model", required=True, metavar="FOLDER", help="as model.path")
    shared.add_argument(
        "--layers",
        type=_layers,
        default=(-1,),
        metavar="LIST",
        help="such as --layers=0,6,12 or all; 0 is the embeddings, -1 the last layer (default)",
    )
    shared.add_argument("--pooling", choices=("mean", "cls"), default="mean")
    shared.add_argument("--prefix", default="", help='before every text, such as "query: "')
    shared.add_argument(
        "--max-length", type=int, default=0, help="tokens of a text; longer ones are cut"
    )
    shared.add_argument("--json", action="store_true", help="one line of JSON, not a table")
    parser = _Parser(prog="python -m flaxfer.interop.embed", description=main.__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    sts = commands.add_parser(
        "sts", parents=[shared], help="correlations of the cosine with the scores of pairs"
    )
    sts.add_argument("--data", required=True, metavar="FILE", help="csv, tsv, jsonl, parquet")
    sts.add_argument(
        "--columns",
        type=_columns,
        default=_columns("0,1,2"),
        metavar="A,B,SCORE",
        help="names, or numbers from 0 (default 0,1,2)",
    )
    sts.add_argument(
        "--header",
        action=argparse.BooleanOptionalAction,
        help="whether the first line names the columns; by default if --columns does",
    )
    sts.set_defaults(run=_run_sts)
    retrieval = commands.add_parser(
        "retrieval", parents=[shared], help="accuracy of finding translations among all"
    )
    retrieval.add_argument("--source", required=True, metavar="FILE", help="one text a line")
    retrieval.add_argument("--target", required=True, metavar="FILE", help="their translations")
    retrieval.set_defaults(run=_run_retrieval)
    return parser


def _layers(written: str) -> Layers:
    return "all" if written == "all" else tuple(map(int, written.split(",")))


def _columns(written: str) -> dict[str, str | int]:
    keys = [int(key) if key.isdecimal() else key for key in written.split(",")]
    return dict(zip(("text_a", "text_b", "label"), keys, strict=True))


def _run_sts(options: argparse.Namespace) -> dict[str, Any]:
    header = options.header
    if header is None:
        header = any(isinstance(key, str) for key in options.columns.values())
    source = Source(path=options.data, columns=options.columns, header=header)
    pairs = read_source(source, SIMILARITY, task_type(SIMILARITY))
    return _score(
        options,
        {"data": options.data, "n": len(pairs)},
        lambda embedder: sts_scores(embedder, pairs, options.layers),
    )


def _run_retrieval(options: argparse.Namespace) -> dict[str, Any]:
    source, target = (_read_lines(path) for path in (options.source, options.target))
    return _score(
        options,
        {"source": options.source, "target": options.target, "n": len(source)},
        lambda embedder: retrieval_scores(embedder, source, target, options.layers),
    )


def _read_lines(path: str) -> tuple[str, ...]:
    lines = tuple(read_lines(Path(path), "utf-8", "path").values)
    _check(lines, path)
    return lines


def _score(
    options: argparse.Namespace,
    data: Mapping[str, Any],
    score: Callable[[Embedder], list[dict[str, Any]]],
) -> dict[str, Any]:
    """Settings, `data` and scores; the model is loaded once the data is known to be right."""
    keys = ("pooling", "prefix", "max_length")
    settings = {key: getattr(options, key) for key in keys}
    embedder = Embedder(options.model, **settings)
    scores = score(embedder)
    return {
        "model": options.model,
        **settings,
        **data,
        "truncated": embedder.truncated,
        "scores": scores,
    }


def _names(embedder: Embedder, layers: Layers) -> tuple[int, ...]:
    return layer_numbers(layers, embedder.config.num_layers)


def _check(texts: Sequence[str], where: str = "texts") -> None:
    """Refuses what has no embedding."""
    if not texts or isinstance(texts, str):
        raise DataError(
            "there are no texts" if not texts else "is one text, not a sequence of texts",
            where=where,
            hint="give at least one text, in a list.",
        )
    faults = enumerate(map(text_fault, texts), start=1)
    problems = [f"text {number} {fault}" for number, fault in faults if fault]
    if problems:
        raise DataError(
            f"{len(problems)} of {len(texts)} texts cannot be embedded",
            where=where,
            hint="leave them out, with what belongs to them.",
            details=problems,
        )


if __name__ == "__main__":
    sys.exit(main())
