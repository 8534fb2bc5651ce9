r"""Time the exact search for nearest neighbours, beside NumPy, PyTorch and FAISS.

python -m benchmarks.search > benchmarks/results/search.json

Needs the environment of `make bench-setup` for PyTorch and FAISS. Each search is a process of its
own, in turn, with the same random unit vectors; making them, importing and compiling are not timed.
FAISS is its flat index of inner products. NumPy and PyTorch multiply blocks and merge the best of
each, as one would write it. Rows are compared with flaxfer's: those differ whose dot products
float32 cannot tell apart.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import common, run, summary

SIDES = {"flaxfer": "jax", "numpy": "jax", "torch": "torch", "faiss": "torch"}
"""Interpreter of each search."""

PACKAGES = {"flaxfer": ("jax", "numpy"), "numpy": ("numpy",), "torch": ("torch",)}
PACKAGES["faiss"] = ("faiss-cpu",)
BLOCK = 1 << 15
"""Candidates that NumPy and PyTorch multiply at a time."""

Search = Callable[[np.ndarray], np.ndarray]
"""A function of queries that returns the rows of the best candidates, (n, k)."""


def main(arguments: Sequence[str] | None = None) -> None:
    options = _parser().parse_args(arguments)
    if options.side:
        common.print_line(timed(options))
        return
    from flaxfer.tasks.search import device_bytes  # Imports JAX, which some searches lack.

    python = {"jax": sys.executable, "torch": options.python_torch}
    sizes = (f"--{name}={getattr(options, name)}" for name in ("candidates", "width", "queries"))
    runs: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        words = [*sizes, f"--k={options.k}", f"--rows={folder}"]
        for number in range(options.rounds):
            for side, environment in SIDES.items():
                command = [python[environment], "-m", "benchmarks.search", "--side", side, *words]
                runs.append(run.measure(command) | {"round": number})
                print(f"{side}: {runs[-1]['seconds']:.2f} s", file=sys.stderr)
        rows = {side: np.load(Path(folder) / f"{side}.npy") for side in SIDES}
    same = {side: float((of == rows["flaxfer"]).mean()) for side, of in rows.items()}
    names = ("candidates", "width", "queries", "k")
    settings = {name: getattr(options, name) for name in names}
    stated = device_bytes(options.queries, options.candidates, options.width, options.k)
    versions = {k: v for one in runs for k, v in one["versions"].items() if k != "python"}
    seconds = {side: [one["seconds"] for one in runs if one["side"] == side] for side in SIDES}
    memory = {side: max(one["gib"] for one in runs if one["side"] == side) for side in SIDES}
    common.print_line(
        settings
        | {"seconds": seconds, "gib": memory, "device_bytes": stated}
        | {"same": same, "versions": common.versions() | versions, "machine": common.machine()}
    )


def section(record: Mapping[str, Any]) -> str:
    """Return the section of BENCHMARKS.md."""
    product = 2e-9 * record["queries"] * record["candidates"] * record["width"]
    ours = record["seconds"]["flaxfer"]
    rows = [
        [
            side,
            summary.spread(of, 2),
            "–" if side == "flaxfer" else summary.spread(list(map(_ratio, of, ours)), 2),
            f"{product / summary.median(of):.0f}",
            f"{record['gib'][side]:.1f}",
            f"{record['same'][side]:.4%}",
        ]
        for side, of in record["seconds"].items()
    ]
    columns = ["search", "seconds", "over flaxfer's", "GFLOP/s", "peak GiB", "rows as flaxfer's"]
    return (
        "## Exact search\n"
        f"The {record['k']} nearest of {record['candidates']:,} candidates of width "
        f"{record['width']} for each of {record['queries']:,} queries (random unit vectors), by "
        "benchmarks/search.py: medians of runs, and the ratio of times within a round. flaxfer's "
        "dot products are computed again in float64, so that its rows are exact; its memory on a "
        f"device was stated before as {record['device_bytes'] / 2**30:.2f} GiB. Peaks are of the "
        "whole process, with the candidates twice where they are copied. "
        f"{summary.machine([dict(record)])}\n\n{summary.table(columns, rows)}"
    )


def _ratio(theirs: float, ours: float) -> float:
    return theirs / ours


def _parser() -> argparse.ArgumentParser:
    options = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    options.add_argument("--candidates", type=common.count, default=1_000_000)
    options.add_argument("--width", type=common.count, default=384)
    options.add_argument("--queries", type=common.count, default=1000)
    options.add_argument("--k", type=common.count, default=20)
    options.add_argument("--rounds", type=common.count, default=5)
    torch = str(common.ROOT / ".venv-bench-torch" / "bin" / "python")
    options.add_argument("--python_torch", default=torch, help="interpreter with PyTorch and FAISS")
    options.add_argument("--side", choices=SIDES, help="time this search and end")
    options.add_argument("--rows", type=Path, help="folder for the rows that are found")
    return options


def timed(options: argparse.Namespace) -> dict[str, Any]:
    """Return the seconds of a search after one that is not timed, and write the rows it found."""
    rng = np.random.default_rng(0)
    query, candidate = (
        _unit(rng.standard_normal((n, options.width), np.float32))
        for n in (options.queries, options.candidates)
    )
    search = _SEARCHES[options.side](candidate, options.k)
    search(query)  # Compiles, and starts threads.
    began = time.monotonic()
    row_nk = search(query)
    seconds = time.monotonic() - began
    if options.rows:
        np.save(options.rows / f"{options.side}.npy", row_nk)
    return {
        **{"side": options.side, "seconds": seconds},
        "gib": common.peak_rss_bytes() / 2**30,
        "versions": common.versions(*PACKAGES[options.side]),
    }


def _unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def _flaxfer(candidate_mD: np.ndarray, k: int) -> Search:
    from flaxfer.tasks.search import top_k

    return lambda query_nD: top_k(query_nD, candidate_mD, k)[0]


def _numpy(candidate_mD: np.ndarray, k: int) -> Search:
    def search(query_nD: np.ndarray) -> np.ndarray:
        best_nk = np.full((len(query_nD), 0), -np.inf, np.float32)
        row_nk = np.zeros((len(query_nD), 0), np.int64)
        for begin in range(0, len(candidate_mD), BLOCK):
            score = query_nD @ candidate_mD[begin : begin + BLOCK].T
            place = np.argpartition(-score, min(k, score.shape[1]) - 1, axis=1)[:, :k]
            best_nk = np.concatenate([best_nk, np.take_along_axis(score, place, axis=1)], axis=1)
            row_nk = np.concatenate([row_nk, place + begin], axis=1)
            order = np.lexsort((row_nk, -best_nk))[:, :k]
            best_nk, row_nk = (np.take_along_axis(x, order, axis=1) for x in (best_nk, row_nk))
        return row_nk

    return search


def _torch(candidate_mD: np.ndarray, k: int) -> Search:
    import torch

    candidates = torch.from_numpy(candidate_mD)

    @torch.inference_mode()
    def search(query_nD: np.ndarray) -> np.ndarray:
        query, best, rows = torch.from_numpy(query_nD), [], []
        for begin in range(0, len(candidates), BLOCK):
            block = candidates[begin : begin + BLOCK]
            value, place = (query @ block.T).topk(min(k, len(block)))
            best.append(value)
            rows.append(place + begin)
        place = torch.cat(best, dim=1).topk(k).indices
        found: np.ndarray = torch.cat(rows, dim=1).gather(1, place).numpy()
        return found

    return search


def _faiss(candidate_mD: np.ndarray, k: int) -> Search:
    import faiss

    index = faiss.IndexFlatIP(candidate_mD.shape[1])
    index.add(candidate_mD)
    return lambda query_nD: index.search(query_nD, k)[1]


_SEARCHES = {"flaxfer": _flaxfer, "numpy": _numpy, "torch": _torch, "faiss": _faiss}


if __name__ == "__main__":
    common.guarded(main)
