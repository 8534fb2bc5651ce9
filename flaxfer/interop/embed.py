"""Similarity and retrieval scores of a pretrained encoder's sentence embeddings."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from flaxfer.config import Source, Task
from flaxfer.data.checks import warn_of_sorted
from flaxfer.data.examples import Examples
from flaxfer.data.readers import read_lines
from flaxfer.data.sources import read_source
from flaxfer.errors import ConfigError, DataError
from flaxfer.evaluation.evaluator import finite
from flaxfer.evaluation.retrieval import retrieval_accuracy
from flaxfer.interop.embedding import Embedder, Layers, check_texts
from flaxfer.interop.sentence import POOLINGS
from flaxfer.tasks import metrics, task_type

SIMILARITY = Task("similarity", "regression", "pearson", score_range=(-1e30, 1e30))
"""Scores of any range, on which a correlation does not depend."""

STS = "correlate cosines with the scores of pairs"
RETRIEVAL = "find each translation among all texts"

Score = Callable[[Embedder], list[dict[str, Any]]]


def sts_scores(embedder: Embedder, pairs: Examples, layers: Layers = (-1,)) -> list[dict[str, Any]]:
    """Return correlations of cosines with the scores of pairs, a record for each layer.

    Raises:
      ConfigError, DataError: as `Embedder.embed`.
    """
    assert pairs.text_b is not None
    n = len(pairs)
    vector_LnD = embedder.embed([*pairs.text_a, *pairs.text_b], layers)
    records = []
    for layer, vector_nD in zip(embedder.layer_numbers(layers), vector_LnD, strict=True):
        cosine_nC = _cosines(vector_nD[:n], vector_nD[n:])[:, None]
        scores = metrics.evaluate_scores(cosine_nC, np.asarray(pairs.label))
        records.append({"layer": layer, **{k: scores[k] for k in ("pearson", "spearman")}})
    return records


def retrieval_scores(
    embedder: Embedder, source: Sequence[str], target: Sequence[str], layers: Layers = (-1,)
) -> list[dict[str, Any]]:
    """Return how often the nearest neighbour by cosine is the translation, for each layer.

    The translations of `source` are `target`, in the same order.

    Raises:
      ConfigError, DataError: as `Embedder.embed`, or the sides differ in length.
    """
    n = len(source)
    if len(target) != n:
        raise DataError(
            f"{n} and {len(target)} texts cannot be translations of each other one by one",
            where="source and target",
            hint="download the files again: one is truncated, or belongs to another pair.",
        )
    vector_LnD = embedder.embed([*source, *target], layers)
    return [
        {
            "layer": layer,
            "source_to_target": retrieval_accuracy(vector_nD[:n], vector_nD[n:]),
            "target_to_source": retrieval_accuracy(vector_nD[n:], vector_nD[:n]),
        }
        for layer, vector_nD in zip(embedder.layer_numbers(layers), vector_LnD, strict=True)
    ]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `flaxfer embed`."""
    subcommands = parser.add_subparsers(required=True, metavar="SUBCOMMAND")
    sts = subcommands.add_parser("sts", help=STS, description=f"{STS.capitalize()}.")
    sts.add_argument("--data", required=True, metavar="FILE", help="csv, tsv, jsonl, parquet")
    sts.add_argument(
        "--columns",
        type=_columns,
        default="0,1,2",
        metavar="A,B,SCORE",
        help="names, or numbers from 0 (default 0,1,2)",
    )
    sts.add_argument(
        "--header",
        action=argparse.BooleanOptionalAction,
        help="whether the first line names the columns; by default if --columns does",
    )
    retrieval = subcommands.add_parser(
        "retrieval", help=RETRIEVAL, description=f"{RETRIEVAL.capitalize()}."
    )
    retrieval.add_argument("--source", required=True, metavar="FILE", help="a text on each line")
    retrieval.add_argument("--target", required=True, metavar="FILE", help="their translations")
    for subcommand, read in ((sts, _read_sts), (retrieval, _read_retrieval)):
        subcommand.set_defaults(read=read)
        subcommand.add_argument("--model", required=True, metavar="FOLDER", help="as model.path")
        subcommand.add_argument(
            "--layers",
            type=_layers,
            default=(-1,),
            metavar="LIST",
            help="such as --layers=0,6,12 or all; 0 is the embeddings, -1 the last (default)",
        )
        subcommand.add_argument(
            "--pooling",
            metavar="NAMES",
            help=f"of {', '.join(POOLINGS)}, several joined by +; by default what the folder "
            "declares, or mean",
        )
        subcommand.add_argument(
            "--prefix", nargs="?", const="", help='before each text, as "query: "'
        )
        subcommand.add_argument("--prompt", metavar="NAME", help="of the folder's prompts")
        subcommand.add_argument(
            "--max-length", type=_count, default=0, help="tokens to which longer texts are cut"
        )
        subcommand.add_argument(
            "--plain", action="store_true", help="ignore the files of sentence-transformers"
        )
        subcommand.add_argument(
            "--similarity", choices=("cosine",), help="whatever the folder declares"
        )
        subcommand.add_argument("--json", action="store_true", help="print JSON, not a table")


def run(args: argparse.Namespace) -> int:
    """Score the embeddings of a model, and print the scores of each layer."""
    data, score = args.read(args)  # The data is checked before the model is loaded.
    options = ("pooling", "prefix", "prompt", "max_length", "plain")
    embedder = Embedder(args.model, **{key: getattr(args, key) for key in options})
    if embedder.declared.similarity != "cosine" and not args.similarity:
        raise ConfigError(
            f"the model declares the similarity {embedder.declared.similarity!r}, but texts are "
            "compared by cosine",
            where=args.model,
            hint="--similarity cosine compares them by cosine nevertheless.",
        )
    settings = {key: getattr(embedder, key) for key in ("pooling", "prefix", "max_length")}
    records = score(embedder)
    if args.json:
        result = {"model": args.model, **settings, **data, "truncated": embedder.truncated}
        result["scores"] = [finite(record) for record in records]
        print(json.dumps(result, ensure_ascii=False, allow_nan=False))
        return 0
    print("  ".join(f"{name:>16}" for name in records[0]))
    for record in records:
        cells = (f"{v:16d}" if isinstance(v, int) else f"{v:16.4f}" for v in record.values())
        print("  ".join(cells))
    return 0


def _layers(text: str) -> Layers:
    layers = tuple(map(int, text.split(","))) if text != "all" else ()
    if len({*layers}) < len(layers):
        raise argparse.ArgumentTypeError(f"{text!r} names a layer twice")
    return layers or "all"


def _count(text: str) -> int:
    if not text.isdecimal() or not int(text):
        raise argparse.ArgumentTypeError(f"{text!r} is not a positive whole number")
    return int(text)


def _columns(text: str) -> dict[str, str | int]:
    keys = [int(key) if key.isdecimal() else key for key in text.split(",")]
    return dict(zip(("text_a", "text_b", "label"), keys, strict=True))


def _read_sts(args: argparse.Namespace) -> tuple[dict[str, Any], Score]:
    header = args.header
    if header is not None and Source(path=args.data).file_format not in ("csv", "tsv"):
        raise ConfigError(
            "--header and --no-header have an effect on csv and tsv files only",
            where=args.data,
            hint="leave the option out.",
        )
    if header is None:
        header = any(isinstance(key, str) for key in args.columns.values())
    source = Source(path=args.data, columns=args.columns, header=header)
    pairs = read_source(source, SIMILARITY, task_type(SIMILARITY))
    facts = {"data": args.data, "n": len(pairs)}
    return facts, lambda embedder: sts_scores(embedder, pairs, args.layers)


def _read_retrieval(args: argparse.Namespace) -> tuple[dict[str, Any], Score]:
    source, target = (_read_texts(path) for path in (args.source, args.target))
    warn_of_sorted(source, target, f"{args.source}, {args.target}")
    facts = {"source": args.source, "target": args.target, "n": len(source)}
    return facts, lambda embedder: retrieval_scores(embedder, source, target, args.layers)


def _read_texts(path: str) -> tuple[str, ...]:
    texts = tuple(read_lines(Path(path), "utf-8", "path").values)
    check_texts(texts, path)
    return texts


def _cosines(a_nD: np.ndarray, b_nD: np.ndarray) -> np.ndarray:
    """Return the cosine of each pair of vectors, float64 (n,)."""
    a_nD, b_nD = (x.astype(np.float64) for x in (a_nD, b_nD))
    lengths = np.linalg.norm(a_nD, axis=-1) * np.linalg.norm(b_nD, axis=-1)
    return np.einsum("nD,nD->n", a_nD, b_nD) / lengths
