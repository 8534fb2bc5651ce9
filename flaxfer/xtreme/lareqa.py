"""The scores of an encoder on LAReQA, in the pools of its paper (Roy et al. 2020)."""

from __future__ import annotations

import argparse
import math
from collections.abc import Collection, Iterator
from pathlib import Path

from flaxfer.data.lareqa import read_pool
from flaxfer.evaluation.pools import PoolScores, pool_scores
from flaxfer.runtime.files import write_atomically

COLUMNS = ("pool", "query_language", "candidate_language", "map_at_20")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `flaxfer xtreme lareqa`."""
    parser.add_argument("model", help="folder of an encoder, such as an export of retrieval")
    parser.add_argument("xquad_r", type=Path, help="folder of XQuAD-R: ar.json, de.json, ...")
    parser.add_argument(
        "--max-length",
        type=int,
        default=0,
        metavar="TOKENS",
        help="to which questions and passages are cut (default: what the folder declares)",
    )
    parser.add_argument("--output", type=Path, metavar="FILE", help="write all scores as csv")


def run(args: argparse.Namespace) -> int:
    """Embed questions and candidates, print the scores of the pools, and write them."""
    from flaxfer.interop.embedding import Embedder  # Imports JAX.

    pool = read_pool(args.xquad_r)
    embedder = Embedder(args.model, normalise=True, max_length=args.max_length)
    vectors = embedder([*pool.questions, *pool.candidates])
    number = len(pool.questions)
    scores = pool_scores(
        vectors[:number],
        vectors[number:],
        pool.question_languages,
        pool.candidate_languages,
        pool.relevant,
    )
    print(
        f"{number:,} questions, {len(pool.candidates):,} candidates; mAP@20 in percent among the\n"
        "candidates of all languages, of the question's own, of each other one, and among the\n"
        "wrong ones of all languages with right ones of one language"
    )
    for line in table(scores):
        print(line)
    if args.output:
        args.output.parent.mkdir(parents=True, exist_ok=True)
        lines = [",".join(COLUMNS), *(",".join(map(str, row)) for row in rows(scores))]
        write_atomically(args.output, "\n".join(lines) + "\n")
        print(f"the scores by pairs of languages are in {args.output}")
    return 0


def table(scores: PoolScores) -> Iterator[str]:
    """Yield the lines of a table: the scores by language of the questions, and their means."""
    yield _row("questions", "all", "own", "other", "one right")
    for language, score in scores.all.items():
        pairs, one_target = (
            {other: score for (asked, other), score in pool.items() if asked == language}
            for pool in (scores.pairs, scores.one_target)
        )
        own = pairs.pop(language, math.nan)
        numbers = score, own, _mean(pairs.values()), _mean(one_target.values())
        yield _row(language, *map(_percent, numbers))
    means = (
        _mean(scores.all.values()),
        scores.monolingual(),
        scores.crosslingual(),
        _mean(scores.one_target.values()),
    )
    yield _row("mean", *map(_percent, means))


def rows(scores: PoolScores) -> Iterator[tuple[str, str, str, float]]:
    """Yield pool, language of the questions, language of the candidates, and score."""
    yield from (("all", language, "", score) for language, score in scores.all.items())
    yield from (("pair", *pair, score) for pair, score in scores.pairs.items())
    yield from (("one_target", *pair, score) for pair, score in scores.one_target.items())


def _row(name: str, *cells: str) -> str:
    return f"{name:<10}" + "".join(f"{cell:>11}" for cell in cells)


def _percent(score: float) -> str:
    return "-" if math.isnan(score) else f"{100 * score:.2f}"


def _mean(scores: Collection[float]) -> float:
    return sum(scores) / len(scores) if scores else math.nan
