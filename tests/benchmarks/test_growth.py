"""The cost of growth: every part at tiny sizes, and the page from invented records."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks import growth, growth_data
from flaxfer.data.sources import read_source
from flaxfer.tasks import TASK_TYPES

STEPS = {
    "read": ["read", "hash"],
    "overlap": ["compare splits"],
    "tokenize": ["tokenize"],
    "batches": [
        "cut vocabulary", "plan batches", "batches of an epoch", "pack for evaluation",
        "batches of an evaluation", "evaluate",
    ],
    "languages": ["data of a study", "plan of a study", "report of a study"],
    "stages": ["plan of a study", "report of a grid"],
}  # fmt: skip
MACHINE = {"cpu": "Test CPU", "features": ["avx2"], "cores": 2, "memory_gib": 8.0}


@pytest.mark.parametrize(
    ("part", "size"),
    [
        *(("read", 50), ("overlap", 50), ("tokenize", 50), ("batches", 200)),
        *(("languages", 1), ("stages", 10)),
    ],
)
def test_every_part_adds_its_record(part: str, size: int, tmp_path: Path) -> None:
    records = tmp_path / "growth.json"
    earlier = {"part": part, "unit": growth.PARTS[part][0], "steps": [], **about()}
    records.write_text(json.dumps([earlier | {"size": each} for each in (size, size + 1)]))
    options = ["--records", str(records), "--plot", str(tmp_path / "docs/growth.png")]
    growth.main(["--part", part, "--size", str(size), *options])
    kept, record = json.loads(records.read_text(encoding="utf-8"))
    assert kept["size"] == size + 1, "an earlier record of the same size is replaced"
    assert (record["part"], record["size"]) == (part, size)
    assert [step["step"] for step in record["steps"]] == STEPS[part]
    assert all(step["seconds"] > 0 and step["peak_rss_bytes"] > 0 for step in record["steps"])
    assert (tmp_path / "docs/growth.png").stat().st_size > 1000


def about() -> dict[str, object]:
    return {
        "machine": MACHINE,
        "versions": {"numpy": "2.0"},
        "date": "2026-11-28T10:00:00+00:00",
        "git": "abc",
    }


def record_of(part: str, size: int, **seconds: float) -> growth.Record:
    steps = [
        {"step": step, "seconds": value, "peak_rss_bytes": 2**29} for step, value in seconds.items()
    ]
    return {"part": part, "unit": growth.PARTS[part][0], "size": size, "steps": steps, **about()}


def test_section_states_the_exponent_of_the_two_largest_sizes() -> None:
    records = [
        record_of("read", 10_000, read=5.0, hash=0.1),
        record_of("read", 1000, read=0.05),
        record_of("read", 100, read=0.04),
        record_of("languages", 10, report=1.0),
    ]
    text = growth.section(records)
    assert text.startswith("## Cost of growth\n")
    assert "Test CPU" in text and "Commit abc; 2026-11-28." in text
    assert text.endswith(
        """
| examples | 100 | 1,000 | 10,000 | exponent |
| --- | ---: | ---: | ---: | ---: |
| read | 0.04 s, 0.5 GiB | 0.05 s, 0.5 GiB | 5 s, 0.5 GiB | 2.00 |
| hash |  |  | 0.1 s, 0.5 GiB |  |

| languages | 10 | exponent |
| --- | ---: | ---: |
| report | 1 s, 0.5 GiB |  |
"""
    )


def test_a_file_holds_the_pairs_that_are_made_in_memory(tmp_path: Path) -> None:
    file = growth_data.write_pairs(tmp_path / "pairs.tsv", 60, seed=3)
    source, form = growth_data.source(file.name), TASK_TYPES["regression"]
    read = read_source(source, growth_data.TASK, form, str(tmp_path))
    made = growth_data.examples(60, seed=3)
    assert (read.text_a, read.text_b) == (made.text_a, made.text_b)
    assert len(set(made.text_a)) > 50
    assert 20 < growth_data.tokens(2000).lengths.mean() < 36, "as the pairs of STS-B"
