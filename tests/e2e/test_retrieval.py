"""A study of retrieval: an intermediate stage and a target of queries and passages."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from flaxfer.config import Config, Data, Model, Optimizer, Source, Stage, Task, Train
from flaxfer.study import runner
from flaxfer.tasks.rankings import METRICS
from tests.e2e.helpers import lines_of, runs_of, summary_of
from tests.helpers import WORDS, tiny_model

TASK = Task("find", "retrieval", "map_at_20", similarity_scale=20.0)
TRAIN = Train(
    batch_size=16, gradient_accumulation_steps=2, max_steps=60, eval_every=30, max_length=16
)


def write(folder: Path, name: str, rng: np.random.Generator, language: str = "en") -> Source:
    """Write queries of two words; a passage has both, in the other order, and a third one."""
    records = []
    for i in range(60):
        one, two, third, *others = rng.permutation(WORDS[1:]).tolist()
        records.append(
            {
                "query": f"{one} {two}",
                "passage": f"{two} {third} {one}",
                "negative": [f"{one} {others[0]}"] if i % 2 else None,
            }
        )
    lines = "".join(json.dumps(record) + "\n" for record in records)
    (folder / f"{name}.jsonl").write_text(lines, encoding="utf-8")
    columns: dict[str, str | int] = {role: role for role in ("query", "passage", "negative")}
    return Source(f"{name}.jsonl", columns=columns, language=language)


def with_candidates(folder: Path, other: Source) -> Source:
    """Write the passages and negatives of a set to a file of their own."""
    texts: dict[str, str] = {}
    queries = []
    for line in (folder / other.path).read_text(encoding="utf-8").splitlines():
        record = json.loads(line)
        right, *_ = (
            texts.setdefault(text, f"d{len(texts)}")
            for text in (record["passage"], *(record["negative"] or ()))
        )
        queries.append(f"{record['query']}\t{right}\n")
    candidates = "".join(f"{name}\t{text}\n" for text, name in texts.items())
    (folder / "candidates.tsv").write_text(f"id\tpassage\n{candidates}", encoding="utf-8")
    (folder / "named.tsv").write_text(f"query\tpassage\n{''.join(queries)}", encoding="utf-8")
    columns: dict[str, str | int] = {role: role for role in ("query", "passage")}
    return Source("named.tsv", columns=columns, language="de", candidates="candidates.tsv")


@pytest.mark.slow
def test_a_study_of_retrieval(tmp_path: Path) -> None:
    tiny_model(tmp_path / "model", "bert", layers=1)
    rng = np.random.default_rng(0)
    first, train, dev = (write(tmp_path, name, rng) for name in ("first", "train", "dev"))
    other = write(tmp_path, "other", rng, "de")
    sets = {"other": other, "named": with_candidates(tmp_path, other)}
    optimizer = Optimizer(learning_rate=3e-3, warmup=5)
    config = Config(
        name="retrieval",
        model=Model(path=str(tmp_path / "model"), dropout=0.0),
        target=Stage(TASK, Data((train,), (dev,)), sets, optimizer, TRAIN),
        intermediate=Stage(TASK, Data((first,), (dev,)), {}, optimizer, TRAIN),
        conditions=("direct", "staged"),
        seeds=(0,),
        workdir=str(tmp_path / "work"),
        data_dir=str(tmp_path),
        cache=str(tmp_path / "cache"),
    )
    report = runner.run(config, "command").read_text(encoding="utf-8")
    assert summary_of(config)["metrics"] == list(METRICS)
    for condition in ("direct", "staged"):
        run = runs_of(config)[f"{condition}/target"]
        entry, named = run["evaluations"]
        assert named["metrics"] == entry["metrics"]  # All passages are candidates.
        (file,) = (tmp_path / "work" / run["dir"]).glob("predictions/other-*.jsonl")
        lines = lines_of(file)
        assert len(lines) == entry["n"] == 60
        for name, score in METRICS.items():
            values = [score(line["passages"], line["prediction"]) for line in lines]
            assert np.mean(values) == pytest.approx(entry["metrics"][name])
            assert entry["metrics"][name] > 0.6, entry["metrics"]
        assert len({name for line in lines for name in line["prediction"]}) > 60
        for line in lines:
            assert line["cosines"] == sorted(line["cosines"], reverse=True)
            assert len(line["prediction"]) == 20 and max(line["cosines"]) <= 1 + 1e-6
    assert "Errors and examples" in report and "map_at_20" in report
